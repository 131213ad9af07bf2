"""Step rows of a run that streams: each figure worked out again from what the generator gave back and from disk."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file

import scalerl.generate
from scalerl.policy import load_policy
from scalerl.runlog import read_header, read_log
from scalerl.start import train
from scalerl.tasks import get_task

K, BATCH, COUNT, THRESHOLD = 3, 16, 4, 0.25
FIELDS = {
    "batch_size": BATCH, "generations_per_prompt": COUNT, "off_policy_steps": K, "slots": 24, "max_steps": 12,
    "thinking_tokens": 24, "interruption_tokens": 16, "solution_tokens": 12, "resampling_threshold": THRESHOLD,
    "penalty_max_tokens": 24, "penalty_cache_tokens": 12, "checkpoint_every": 1, "keep_checkpoints": 100,
    "eval_every": 100, "eval_generations": 1,
}  # fmt: skip


@pytest.fixture(scope="module", params=["interruption", "penalty"])
def streamed(request, tmp_path_factory, prompts):
    """The folder of a run and its completions by number."""
    from scalerl.config import load_config

    given = {}
    poll = scalerl.generate.Generator.poll

    def recorded(self, ticks=None):
        done = poll(self, ticks)
        given.update({c.number: c for c in done if self.drafts.key[1] == 0})
        return done

    folder = tmp_path_factory.mktemp("runs") / "run"
    values = {**FIELDS, "length_control": request.param}
    config = load_config(["scalerl", "demo"], [f"{k}={v}" for k, v in values.items()])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scalerl.generate.Generator, "poll", recorded)
        train(config, str(prompts / "train.json"), str(prompts / "eval.json"), str(folder))
    steps = [row for row in read_log(folder / "log.jsonl").rows if row["kind"] == "step"]
    return request.param, folder, steps, given


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def right_of(done) -> list[bool]:
    task, policy = get_task("chain"), load_policy("data/checkpoints/chain")
    texts = [(policy.decode(c.prompt), policy.decode(c.tokens)) for c in done]
    return [task.score({"prompt": p, "answer": task.work_out(p)[1]}, text) for p, text in texts]


def batches(steps, given):
    return [(row, [given[n] for n in range(u * BATCH, (u + 1) * BATCH)], u) for u, row in enumerate(steps)]


def test_lags_and_versions_are_those_of_the_tokens(streamed):
    *_, steps, given = streamed
    for row, done, update in batches(steps, given):
        lags = [update - version for c in done for version in c.versions]
        assert (row["lag_min"], row["lag_max"]) == (min(lags), max(lags)) and max(lags) <= K
        assert row["lag_mean"] == pytest.approx(mean(lags))
        counts = [len(set(c.versions)) for c in done]
        assert row["versions_mean"] == mean(counts) and row["versions_max"] == max(counts)
        assert row["mixed_share"] == mean(n > 1 for n in counts)
    assert max(row["mixed_share"] for row in steps) > 0.4 and steps[-1]["lag_max"] == K


def test_lengths_and_forced_tokens_are_those_of_the_completions(streamed):
    control, _, steps, given = streamed
    for row, done, _ in batches(steps, given):
        tokens = sum(len(c.tokens) for c in done)
        assert row["length_mean"] == tokens / BATCH
        assert row["entropy"] == pytest.approx(sum(c.entropy for c in done) / tokens, rel=1e-12)
        assert row["truncation_rate"] == mean(c.truncated for c in done)
        assert row["interrupted_share"] == mean(c.forced[1] > 0 for c in done)
        assert row["forced_tokens"] == sum(c.forced[1] - c.forced[0] for c in done)
    assert (sum(row["forced_tokens"] for row in steps) > 0) == (control == "interruption")


def test_rewards_penalties_and_the_filter_follow_from_the_texts(streamed):
    control, _, steps, given = streamed
    trained, penalties = 0, 0.0
    for row, done, _ in batches(steps, given):
        rewards, penalty = [], []
        for c, right in zip(done, right_of(done), strict=True):
            over = min(max((24 - len(c.tokens)) / 12 - 1, -1), 0) if right and control == "penalty" else 0
            penalty.append(over)
            rewards.append((1 if right else -1) + over)
        groups = [rewards[i : i + COUNT] for i in range(0, BATCH, COUNT)]
        same = [len(set(group)) == 1 for group in groups]
        assert row["reward_count"] == BATCH and row["reward_sum"] == pytest.approx(sum(rewards))
        assert row["reward_var"] == pytest.approx(mean(r * r for r in rewards) - mean(rewards) ** 2)
        assert row["penalty_mean"] == pytest.approx(mean(penalty))
        assert row["zero_variance_share"] == row["filtered_share"] == mean(same)
        assert row["skipped"] == all(same)
        kept = [c for i, c in enumerate(done) if not same[i // COUNT]]
        trained += sum(len(c.tokens) - (c.forced[1] - c.forced[0]) for c in kept)
        assert row["tokens_trained"] == trained
        penalties += sum(penalty)
    assert trained > 0 and (penalties < 0) == (control == "penalty")


def test_solved_prompts_are_retired_and_counted(streamed):
    *_, steps, given = streamed
    solved = set()
    for row, done, _ in batches(steps, given):
        right = right_of(done)
        for first in range(0, BATCH, COUNT):
            if mean(right[first : first + COUNT]) >= THRESHOLD:
                solved.add(done[first].prompt)
        assert row["retired"] == len(solved)
    assert len(solved) > 3


def test_no_token_is_lost_and_what_is_in_flight_is_in_the_checkpoint(streamed):
    """Tokens generated so far = those of the trained batches + those that wait + those that are half written."""
    _, folder, steps, given = streamed
    for row, *_ in batches(steps, given):
        checkpoint = folder / "checkpoints" / f"step-{row['step']:08d}"
        working = load_file(checkpoint / "generator.safetensors")
        waiting = load_file(checkpoint / "completions.safetensors")
        trained = sum(len(given[n].tokens) for n in range(row["step"] * BATCH))
        assert row["tokens_generated"] == trained + int(waiting["length"].sum()) + int(working["length"].sum())
        assert row["in_flight"] == len(working["numbers"])
    assert max(row["in_flight"] for row in steps) > 0


def test_prompts_over_the_budget_are_dropped_and_counted_in_the_header(quick, prompts, tmp_path):
    import json

    items = {name: json.loads((prompts / f"{name}.json").read_text()) for name in ("train", "eval")}
    config = quick(prompt_tokens=14, max_steps=1, max_length=72)
    folder = train(config, str(prompts / "train.json"), str(prompts / "eval.json"), str(tmp_path / "run"))
    for name, entry in read_header(folder)["data"].items():
        short = [item for item in items[name] if len(item["prompt"]) <= 14]
        assert 0 < entry["dropped"] == len(items[name]) - len(short) and entry["items"] == len(short) > 0
    rows = read_log(folder / "log.jsonl").rows
    assert {row["n_prompts"] for row in rows if row["kind"] == "eval"} == {read_header(folder)["data"]["eval"]["items"]}
