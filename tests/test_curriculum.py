"""Drawing prompts: epochs without replacement, and solved prompts that never come back."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalerl.curriculum import PromptPool

VISITS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 16)), max_size=60)


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(0, 5), st.integers(1, 4))
def test_every_epoch_visits_every_prompt_once_in_an_order_of_its_own(size, seed, epochs):
    pool = PromptPool(size, seed)
    passes = [[pool.draw() for _ in range(size)] for _ in range(epochs)]
    assert all(sorted(visited) == list(range(size)) for visited in passes)
    assert pool.epoch == epochs
    again = PromptPool(size, seed)
    assert [again.draw() for _ in range(size * epochs)] == [index for visited in passes for index in visited]


def test_orders_differ_between_epochs_and_seeds():
    orders = []
    for seed in (0, 1):
        pool = PromptPool(100, seed)
        orders += [[pool.draw() for _ in range(100)] for _ in range(2)]
    assert len({tuple(order) for order in orders}) == 4


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 12), VISITS, st.sampled_from([0.25, 0.5, 0.9, 1.0]))
def test_a_prompt_is_drawn_until_one_visit_reaches_the_threshold(size, visits, threshold):
    """The pool beside a plain account: an ordinary walk over the permutations that leaves out what was solved."""
    pool, plain, solved = PromptPool(size, 3, threshold), PromptPool(size, 3), set()
    for _, correct in visits:
        drawn = pool.draw()
        if len(solved) == size:
            assert drawn is None
            continue
        expected = plain.draw()
        while expected in solved:
            expected = plain.draw()
        assert drawn == expected
        pool.record(drawn, correct=correct, count=16)
        if correct / 16 >= threshold:
            solved.add(drawn)
    assert pool.retired == solved


def test_15_of_16_are_solved_and_14_are_not_and_uniform_sampling_retires_none():
    for threshold, correct, retired in ((0.9, 15, True), (0.9, 14, False), (None, 16, False)):
        pool = PromptPool(2, 0, threshold)
        pool.record(1, correct=correct, count=16)
        assert (1 in pool.retired) == retired, (threshold, correct)


def test_visits_do_not_add_up_to_a_solved_prompt():
    pool = PromptPool(2, 0, 0.9)
    for _ in range(20):
        pool.record(0, correct=14, count=16)
    assert not pool.retired and pool.history == {0: [(14, 16)] * 20}


def test_a_prompt_retired_while_in_work_may_be_recorded_again():
    pool = PromptPool(2, 0, 0.9)
    pool.record(0, correct=16, count=16)
    pool.record(0, correct=0, count=16)  # drawn before it was solved, finished after
    assert pool.retired == {0} and len(pool.history[0]) == 2


def test_nothing_is_left_when_all_are_solved():
    pool = PromptPool(3, 0, 0.9)
    for index in range(3):
        assert pool.draw() is not None
        pool.record(index, correct=1, count=1)
    assert pool.draw() is None and pool.draw() is None


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 12), VISITS, st.one_of(st.none(), st.just(0.5)), st.integers(0, 60))
def test_a_restored_pool_goes_on_as_the_one_that_was_kept(size, visits, threshold, cut):
    def walk(cut):
        pool, drawn = PromptPool(size, 7, threshold), []
        for number, (_, correct) in enumerate(visits):
            if number == cut:
                kept = json.loads(json.dumps(pool.state()))
                pool = PromptPool(size, 7, threshold)
                pool.restore(kept)
            drawn.append(pool.draw())
            if drawn[-1] is not None:
                pool.record(drawn[-1], correct=correct, count=16)
        return drawn, pool.history, pool.retired, pool.place

    assert walk(cut) == walk(None)


def test_a_state_is_a_copy():
    pool = PromptPool(3, 0, 0.9)
    pool.record(0, correct=3, count=4)
    kept = pool.state()
    before = copy.deepcopy(kept)
    pool.draw()
    pool.record(0, correct=4, count=4)
    assert kept == before


def test_history_and_retirement_survive_a_checkpoint_of_a_real_run(quick, prompts, tmp_path):
    from scalerl.checkpoint import read_checkpoint
    from scalerl.runlog import read_log
    from scalerl.start import resume, train

    fields = {"resampling_threshold": 0.25, "off_policy_steps": 0, "max_steps": 2, "eval_every": 9}
    folder = train(quick(**fields), str(prompts / "train.json"), str(prompts / "eval.json"), str(tmp_path / "run"))
    kept = read_checkpoint(folder)
    assert kept is not None
    history = kept.state["pool"]["history"]
    solved = {index for index, visits in history.items() if any(c / n >= 0.25 for c, n in visits)}
    rows = [row for row in read_log(folder / "log.jsonl").rows if row["kind"] == "step"]
    assert sum(len(visits) for visits in history.values()) == 16 and rows[-1]["retired"] == len(solved) > 0
    resume(str(folder), ["max_steps=3"])
    rows = [row for row in read_log(folder / "log.jsonl").rows if row["kind"] == "step"]
    assert [row["step"] for row in rows] == [1, 2, 3] and rows[2]["retired"] >= len(solved)
    later = read_checkpoint(folder)
    assert later is not None
    assert all(later.state["pool"]["history"][index] == history[index] for index in solved)  # never visited again


@pytest.mark.parametrize("scheme", ["pipeline", "ppo"])
def test_a_run_whose_prompts_are_all_solved_ends_and_says_so(quick, prompts, tmp_path, scheme):
    from scalerl.checkpoint import read_checkpoint
    from scalerl.runlog import UserError, read_log
    from scalerl.start import resume, train
    from scalerl.tasks import get_task

    easy = [item for item, _ in zip(get_task("chain").prompts("train", 0), range(400), strict=False)]
    easy = [{"prompt": item["prompt"], "answer": item["answer"]} for item in easy if len(item["answer"]) == 4][:12]
    data = tmp_path / "easy.json"
    data.write_text(json.dumps(easy))
    # One right completion of four solves a prompt; nothing is learned, and a prompt comes back until it is solved.
    fields = {"resampling_threshold": 1e-9, "max_steps": 40, "eval_every": 99, "learning_rate": "1e-30"}
    fields |= {"off_policy": scheme, "off_policy_steps": 2}
    folder = train(quick(**fields), str(data), str(prompts / "eval.json"), str(tmp_path / "run"))
    rows = read_log(folder / "log.jsonl").rows
    events = [row["event"] for row in rows if row["kind"] == "event" and row["event"] != "guard"]
    assert events == ["start", "prompts_low", "prompts_exhausted", "end"]
    (low,) = (row for row in rows if row.get("event") == "prompts_low")
    before = rows[rows.index(low) - 1]  # the row of the first update that left too few
    assert (low["active"], low["needed"], low["step"]) == (12 - before["retired"], 8, before["step"])
    assert low["active"] < 8 and all(row["retired"] <= 4 for row in rows[: rows.index(before)] if "retired" in row)
    steps = [row for row in rows if row["kind"] == "step"]
    assert steps[-1]["retired"] == 12 and steps[-1]["step"] < 40
    kept = read_checkpoint(folder)
    assert kept is not None and kept.state["schedule"]["closed"] and kept.state["step"] == steps[-1]["step"]
    with pytest.raises(UserError, match="no prompt is left"):
        resume(str(folder), ["max_steps=50"])


def test_updates_that_teach_nothing_are_told_once_and_a_resume_counts_on(quick, prompts, tmp_path):
    import analysis
    from scalerl.runlog import read_log
    from scalerl.start import resume, train

    data = tmp_path / "hard.json"  # answers that no completion has: every reward is the same
    items = json.loads((prompts / "train.json").read_text())[:6]
    data.write_text(json.dumps([{**item, "answer": "x"} for item in items]))
    notes: list[str] = []
    fields = {"max_steps": 4, "eval_every": 2, "eval_generations": 1}
    where = str(data), str(prompts / "eval.json"), str(tmp_path / "run")
    folder = train(quick(**fields), *where, report=lambda progress: notes.append(progress.note))
    for steps in (11, 13):
        resume(str(folder), [f"max_steps={steps}"], report=lambda progress: notes.append(progress.note))
    rows = read_log(folder / "log.jsonl").rows
    assert all(row["skipped"] for row in rows if row["kind"] == "step")
    told = [row for row in rows if row.get("event") in ("prompts_low", "updates_skipped")]
    assert [{name: row[name] for name in row if name not in ("kind", "attempt", "time")} for row in told] == [
        {"event": "prompts_low", "step": 1, "active": 6, "needed": 8},
        {"event": "updates_skipped", "step": 10, "updates": 10},
    ]
    warnings = [note for note in notes if note.startswith("warning")]
    assert len(warnings) == 2 and "6 active prompts are left at step 1" in warnings[0]
    assert "the last 10 updates up to step 10 were skipped" in warnings[1]
    (run,) = analysis.read(folder)
    assert {"prompts_low", "updates_skipped"} <= {event.kind for event in run.events}
    fit = analysis.fit(run)
    assert "regime" not in {finding.code for finding in fit.findings}
