"""The schedule alone over random lengths, and its rules once more from what a real run logged and generated.

`walk` plays generator and trainer with sets and loops: it keeps its own account of what is in work, which batch a
completion is in, which batch is whole and what may start, and compares every answer of the schedule with that account.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scalerl.runlog import TIME_FIELDS, read_log
from scalerl.schedule import Schedule

UPDATES = 14


@dataclass
class Walk:
    """What happened: trained completions in order, the versions of every token, the tick of every update."""

    trained: list[int] = field(default_factory=list)
    versions: dict[int, list[int]] = field(default_factory=dict)
    fired: list[int] = field(default_factory=list)
    most: int = 0
    ended: bool = False
    batches: list[list[int]] = field(default_factory=list)
    """Completions of every batch that began."""
    sizes: list[int] = field(default_factory=list)
    """How many completions each of them wants: what was in force when its first one started."""

    def begin(self, number, size):
        if self.next_batch == len(self.batches):
            self.batches.append([])
            self.sizes.append(size)
        self.batches[-1].append(number)

    @property
    def next_batch(self):
        """The batch that the next completion is in."""
        room = self.batches and len(self.batches[-1]) < self.sizes[-1]
        return len(self.batches) - bool(room)


def may_start(batch, version, setting):
    if setting["scheme"] == "ppo":  # only the block that is generated with one policy
        return batch // setting["k"] <= version // setting["k"]
    return batch <= version + setting["k"]


def must_fire(setting, version, done, *, out, live, closed):
    """The rule in words: the batch is whole, and PPO waits for its block, a full lead until nothing may start."""

    def begun(batch):
        return batch < len(out.batches) and len(out.batches[batch]) == out.sizes[batch]

    def whole(batch):
        return begun(batch) and done.issuperset(out.batches[batch])

    if not whole(version):
        return False
    if setting["scheme"] == "ppo":
        block = range(version - version % setting["k"], version - version % setting["k"] + setting["k"])
        return all(whole(batch) for batch in block if batch >= version and (begun(batch) or not closed))
    stuck = len(live) < setting["slots"] and (closed or not may_start(out.next_batch, version, setting))
    return stuck or setting["lead"] == "eager"


def walk(setting, lengths, *, groups=None, cuts=(), resizes=()):
    """Tick until `UPDATES` updates are made or the prompts (`groups` of them) run out.

    At the ticks `cuts` begin anew from a state; `resizes` says after how many updates there are how many prompts.
    """
    schedule, out, resizes = Schedule(**setting), Walk(), dict(resizes)
    size = setting["prompts"] * setting["generations"]
    last = None if groups is None else groups * setting["generations"]
    version, next_number, closed, live, done, tick = 0, 0, False, {}, set(), 0
    while version < UPDATES and not schedule.over:
        tick += 1
        if tick in cuts:
            kept = json.loads(json.dumps(schedule.state()))
            schedule = Schedule(**setting)
            schedule.restore(kept)
        started = schedule.admit()
        assert started.start == next_number or not started, "completions start in the order of their numbers"
        if last is not None and started.stop > last:
            schedule.close(max(started.start, last))
            started, closed = range(started.start, max(started.start, last)), True
        for number in started:
            assert may_start(out.next_batch, version, setting), "too early"
            out.begin(number, size)
            live[number] = lengths[number % len(lengths)]
            next_number += 1
        assert len(live) <= setting["slots"] and schedule.in_flight == len(live)
        room = len(live) < setting["slots"] and not closed
        assert not (room and may_start(out.next_batch, version, setting)), "a slot is free and something may start"
        out.most, decoded = max(out.most, len(live)), bool(live)
        for number in live:
            out.versions.setdefault(number, []).append(version)
        finished = [number for number in live if len(out.versions[number]) == live[number]]
        for number in finished:
            del live[number]
            done.add(number)
        schedule.finished(finished)
        batch = schedule.next_batch()
        assert (batch is not None) == must_fire(setting, version, done, out=out, live=live, closed=closed)
        if batch is not None:
            assert list(batch) == out.batches[version] and len(batch) == out.sizes[version]
            out.trained.extend(batch)
            schedule.updated()
            version += 1
            if version in resizes:
                schedule.resize(resizes[version])
                size = resizes[version] * setting["generations"]
            out.fired.append(tick)
        assert decoded or batch is not None or schedule.over, f"nothing was done at tick {tick}: a deadlock"
    out.ended = schedule.over
    return out


SETTINGS = st.fixed_dictionaries(
    {
        "prompts": st.integers(1, 4),
        "generations": st.integers(1, 4),
        "slots": st.integers(1, 40),
        "k": st.integers(0, 5),
        "scheme": st.sampled_from(["pipeline", "ppo"]),
        "lead": st.sampled_from(["full", "eager"]),
    }
).map(lambda s: s | {"k": max(1, s["k"])} if s["scheme"] == "ppo" else s)
SHORT_BLOCK = {"prompts": 1, "generations": 1, "slots": 2, "k": 5, "lead": "full"}
LENGTHS = st.lists(st.one_of(st.integers(1, 6), st.integers(1, 60)), min_size=1, max_size=37)


@settings(max_examples=300, deadline=None)
@given(SETTINGS, LENGTHS)
def test_every_token_keeps_to_the_lag_and_every_completion_trains_once_in_order(setting, lengths):
    out = walk(setting, lengths)
    size = setting["prompts"] * setting["generations"]
    assert out.trained == list(range(UPDATES * size))
    assert out.most <= setting["slots"]
    for number in out.trained:
        lags = [number // size - version for version in out.versions[number]]
        assert lags == sorted(lags, reverse=True) and lags[-1] >= 0
        assert lags[0] < setting["k"] if setting["scheme"] == "ppo" else lags[0] <= setting["k"]
        assert len(lags) == lengths[number % len(lengths)]
        if setting["scheme"] == "pipeline" and setting["k"] == 0:
            assert set(lags) == {0}
        if setting["scheme"] == "ppo":  # one policy for the whole block
            assert set(out.versions[number]) == {number // size // setting["k"] * setting["k"]}


@settings(max_examples=200, deadline=None)
@given(SETTINGS, LENGTHS, st.integers(0, 40))
@example({**SHORT_BLOCK, "scheme": "ppo"}, [1, 60, 1, 1], 3)  # completion 1 of a block cut short is the slow one
def test_when_the_prompts_run_out_every_whole_batch_is_trained_and_the_rest_ends(setting, lengths, groups):
    out = walk(setting, lengths, groups=groups)
    batches = min(UPDATES, groups // setting["prompts"])
    assert out.trained == list(range(batches * setting["prompts"] * setting["generations"]))
    assert out.ended or batches == UPDATES
    if setting["scheme"] == "ppo":  # a last block that is shorter is generated with one policy, too
        assert all(len(set(out.versions[number])) == 1 for number in out.trained)


RESIZES = st.dictionaries(st.integers(1, UPDATES), st.integers(1, 6), max_size=6)
GROUPS = st.one_of(st.none(), st.integers(1, 40))


@settings(max_examples=200, deadline=None)
@given(SETTINGS, LENGTHS, GROUPS, st.sets(st.integers(1, 120), max_size=8), RESIZES)
def test_a_restored_schedule_goes_on_as_the_one_that_was_kept(setting, lengths, groups, cuts, resizes):
    out = walk(setting, lengths, groups=groups, cuts=cuts, resizes=resizes)
    assert out == walk(setting, lengths, groups=groups, resizes=resizes)


@settings(max_examples=300, deadline=None)
@given(SETTINGS, LENGTHS, GROUPS, RESIZES)
def test_batches_of_changing_size_keep_the_lag_and_lose_nothing(setting, lengths, groups, resizes):
    """What `walk` asserts at every tick holds, too: batches by number, each of the size it began with, no deadlock."""
    out = walk(setting, lengths, groups=groups, resizes=resizes)
    assert out.trained == list(range(len(out.trained)))
    updates = len(out.fired)
    assert sum(out.sizes[:updates]) == len(out.trained) and (out.ended or updates == UPDATES)
    left = [len(batch) for batch in out.batches[updates:]]
    assert not out.ended or not left or left[0] < out.sizes[updates], "a whole batch was not trained"
    assert set(out.sizes) <= {n * setting["generations"] for n in (setting["prompts"], *resizes.values())}
    for batch, numbers in enumerate(out.batches[:updates]):
        for lag in (batch - version for number in numbers for version in out.versions[number]):
            assert 0 <= lag <= (setting["k"] - 1 if setting["scheme"] == "ppo" else setting["k"])


@settings(max_examples=100, deadline=None)
@given(SETTINGS, LENGTHS, GROUPS)
def test_a_size_that_stays_is_the_schedule_with_batches_of_one_size(setting, lengths, groups):
    same = dict.fromkeys(range(1, UPDATES + 1), setting["prompts"])
    out = walk(setting, lengths, groups=groups, resizes=same)
    assert out == walk(setting, lengths, groups=groups)
    size = setting["prompts"] * setting["generations"]
    assert all(number // size == batch for batch, numbers in enumerate(out.batches) for number in numbers)


@settings(max_examples=100, deadline=None)
@given(SETTINGS, LENGTHS, st.integers(1, 60))
def test_a_state_from_before_sizes_could_change_is_taken(setting, lengths, cut):
    def old(schedule):
        kept = schedule.state()
        return {name: kept[name] for name in ("version", "admitted", "closed", "complete")}

    schedule = Schedule(**setting)
    for _ in range(cut):
        schedule.finished(schedule.admit())
        if schedule.next_batch() is not None:
            schedule.updated()
    restored = Schedule(**setting)
    restored.restore(old(schedule))
    assert restored == schedule


def test_a_new_size_waits_for_the_first_batch_that_has_not_begun():
    schedule = Schedule(prompts=2, generations=2, slots=6, k=1, lead="eager")
    assert list(schedule.admit()) == [0, 1, 2, 3, 4, 5]  # batch 1 has begun
    schedule.resize(3)
    schedule.finished(range(6))
    assert schedule.next_batch() == range(4)
    schedule.updated()
    assert schedule.admit() == range(6, 12) and schedule.limit == 14  # to the end of batch 1, then four of batch 2
    schedule.finished(range(6, 12))
    assert schedule.next_batch() == range(4, 8)
    schedule.updated()
    assert schedule.admit() == range(12, 18) and schedule.ends == [14, 20]


@settings(max_examples=100, deadline=None)
@given(SETTINGS, LENGTHS)
def test_a_state_is_a_copy(setting, lengths):
    schedule = Schedule(**setting)
    schedule.finished(schedule.admit())
    kept = schedule.state()
    before = json.dumps(kept)
    schedule.finished(schedule.admit())
    if schedule.next_batch() is not None:
        schedule.updated()
    assert json.dumps(kept) == before


def test_a_full_lead_makes_k_the_lag_and_an_eager_one_does_not():
    lengths = [20 + 7 * i % 13 for i in range(31)]
    shape = {"prompts": 4, "generations": 4, "slots": 16, "scheme": "pipeline"}

    def largest(k, lead):
        out = walk(shape | {"k": k, "lead": lead}, lengths)
        return [max(batch - min(out.versions[n]) for n in range(batch * 16, batch * 16 + 16)) for batch in range(14)]

    for k in (2, 4, 8):
        assert min(largest(k, "full")[k:]) >= k - 1 and max(largest(k, "full")) == k
    assert largest(4, "eager") == largest(8, "eager") and max(largest(8, "eager")) <= 2


# The same from a real run -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Run the demo's policy with k = 4, 8 and 12 and keep the step rows and every training completion."""
    import scalerl.generate
    from scalerl.completions import TRAIN_STREAM
    from scalerl.config import load_config
    from scalerl.data import prepare
    from scalerl.start import train

    folder = tmp_path_factory.mktemp("real")
    prepare("chain", str(folder), sizes=(1500, 8, 8))
    fields = {"batch_size": 64, "generations_per_prompt": 8, "eval_generations": 1, "eval_every": 99, "max_steps": 24}
    poll, runs = scalerl.generate.Generator.poll, {}

    def run(k):
        if k not in runs:
            seen = []

            def recorded(self, ticks=None):
                found = poll(self, ticks)
                if self.drafts.key[1] == TRAIN_STREAM:
                    seen.extend(found)
                return found

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(scalerl.generate.Generator, "poll", recorded)
                config = load_config(
                    ["scalerl", "demo"], [f"{n}={v}" for n, v in {**fields, "off_policy_steps": k}.items()]
                )
                out = train(config, str(folder / "train.json"), str(folder / "eval.json"), str(folder / f"k{k}"))
            rows = [row for row in read_log(out / "log.jsonl").rows if row["kind"] == "step"]
            runs[k] = rows, {c.number: c for c in seen}
        return runs[k]

    return run


def test_a_real_run_leads_by_8_and_never_by_more(real):
    rows, _ = real(8)
    later = [row["lag_max"] for row in rows[8:]]
    assert len(later) == 16 and max(row["lag_max"] for row in rows) == 8
    assert sum(lag >= 6 for lag in later) >= 0.9 * len(later)
    assert all(row["in_flight"] <= 63 for row in rows)  # an update needs a free slot of the 64


def test_half_of_a_real_runs_completions_carry_two_versions_or_more(real):
    rows, found = real(8)
    trained = [found[number] for number in range(24 * 64)]
    mixed = [len(set(completion.versions)) > 1 for completion in trained]
    assert sum(mixed) >= len(mixed) / 2
    for row, first in zip(rows, range(0, 24 * 64, 64), strict=True):
        assert row["mixed_share"] == sum(mixed[first : first + 64]) / 64


def test_the_logged_lag_is_that_of_the_completions(real):
    rows, found = real(8)
    for update, row in enumerate(rows):
        batch = [found[number] for number in range(update * 64, update * 64 + 64)]
        lags = [update - version for completion in batch for version in completion.versions]
        assert (row["lag_min"], row["lag_max"]) == (min(lags), max(lags)) and min(lags) >= 0
        assert row["lag_mean"] == pytest.approx(sum(lags) / len(lags), rel=1e-12)
        for completion in batch:
            assert list(completion.versions) == sorted(completion.versions)


def test_k_of_4_8_and_12_are_three_runs(real):
    rows = [[{n: v for n, v in row.items() if n not in TIME_FIELDS} for row in real(k)[0]] for k in (4, 8, 12)]
    assert rows[0][0]["reward_sum"] == rows[1][0]["reward_sum"] == rows[2][0]["reward_sum"]  # one start
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert all(a != b for a, b in zip(rows[one], rows[other], strict=True))
        assert [row["loss"] for row in rows[one][14:]] != [row["loss"] for row in rows[other][14:]]
    assert [max(row["lag_max"] for row in run) for run in rows] == [4, 8, 12]
