"""The guards: each speaks once when its figure crosses, once when it is back, and remembers across a checkpoint."""

from __future__ import annotations

import copy
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalerl.guards import Guards

CALM = {"truncation_rate": 0.02, "entropy": 1.0, "ratio_mean": 1.0, "reward_sum": 0.0, "reward_count": 16}


def rewards(*means):
    return [{"reward_sum": 16 * mean, "reward_count": 16} for mean in means]


CASES = {
    # guard: rows that raise it, rows that take it back
    "truncation": ([{"truncation_rate": 0.11}], [{"truncation_rate": 0.1}]),
    "entropy": ([{"entropy": 0.0}] * 30, [{"entropy": 1.0}] * 30),
    "ratio": ([{"ratio_mean": 1.6}], [{"ratio_mean": 1.5}]),
    "reward": (rewards(*[1.0] * 30, *[-1.0] * 30), rewards(*[1.0] * 30)),
}


def spoken(guards, rows):
    return [event for row in rows for event in guards.watch(CALM | row)]


@pytest.mark.parametrize("name", CASES)
def test_each_guard_speaks_once_when_raised_and_once_when_taken_back(name):
    guards = Guards()
    assert spoken(guards, [{}] * 5) == []
    raising, calming = CASES[name]
    raised = spoken(guards, [*raising, raising[-1]])
    assert [(event["guard"], event["raised"]) for event in raised] == [(name, True)]
    back = spoken(guards, [*calming, calming[-1]])
    assert [(event["guard"], event["raised"]) for event in back] == [(name, False)]
    assert guards.raised == set()


@pytest.mark.parametrize("name", CASES)
def test_each_guard_survives_a_checkpoint_anywhere(name):
    rows = [{}, *CASES[name][0], *CASES[name][1]]
    whole = spoken(Guards(), rows)
    assert len(whole) == 2
    for cut in range(len(rows)):
        before, after = Guards(), Guards()
        events = spoken(before, rows[:cut])
        after.restore(json.loads(json.dumps(before.state())))
        assert events + spoken(after, rows[cut:]) == whole, cut


@pytest.mark.parametrize(
    ("name", "row", "bad"),
    [
        ("truncation", {"truncation_rate": 0.1}, False),
        ("truncation", {"truncation_rate": 0.1001}, True),
        ("ratio", {"ratio_mean": 1.5}, False),
        ("ratio", {"ratio_mean": 1.51}, True),
        ("ratio", {"ratio_mean": 0.49}, True),
        ("ratio", {"ratio_mean": 0.5}, False),
    ],
)
def test_thresholds_are_where_they_are_said_to_be(name, row, bad):
    events = spoken(Guards(), [row])
    assert [event["guard"] for event in events] == ([name] if bad else [])
    for event in events:  # figure and threshold can be read beside one another
        beyond = event["figure"] > event["threshold"] > 0.05
        assert beyond or (event["figure"] < event["threshold"] == 0.5)


def test_entropy_is_smoothed_over_ten_updates_and_compared_with_the_first():
    """A tenth of the weight on the newest: .9 ^ n of the first value is left after n rows of 0, under .1 at n = 22."""
    guards, rows = Guards(), 0
    guards.watch({"entropy": 2.0})
    while not guards.raised:
        guards.watch({"entropy": 0.0})
        rows += 1
    assert rows == math.floor(math.log(0.1) / math.log(0.9)) + 1 == 22


def test_a_small_gain_that_is_lost_again_is_no_collapse():
    assert spoken(Guards(), rewards(-0.8, *[-0.72] * 60, *[-0.95] * 60)) == []
    loud = spoken(Guards(), rewards(-0.8, *[-0.6] * 60, *[-0.95] * 60))
    assert [event["guard"] for event in loud] == ["reward"]
    assert loud[0]["figure"] < loud[0]["threshold"] < -0.6


def test_rows_without_a_figure_say_nothing():
    guards = Guards()
    assert guards.watch({"ratio_mean": None, "entropy": None, "truncation_rate": None, "reward_count": 0}) == []
    guards.watch({"ratio_mean": 3.0})
    assert guards.watch({"ratio_mean": None}) == [] and guards.raised == {"ratio"}  # a skipped update calms nothing


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_events_of_a_guard_alternate(rates):
    guards = Guards()
    events = [event["raised"] for rate in rates for event in guards.watch({"truncation_rate": rate})]
    assert events == [place % 2 == 0 for place in range(len(events))]


def test_a_state_is_a_copy():
    guards = Guards()
    guards.watch(CALM)
    kept = guards.state()
    before = copy.deepcopy(kept)
    guards.watch(CALM | {"entropy": 0.2, "truncation_rate": 0.9})
    assert kept == before


def test_a_real_run_raises_an_event_once_and_a_resumed_one_does_not_repeat_it(quick, prompts, tmp_path):
    from scalerl.runlog import read_log
    from scalerl.start import resume, train

    fields = {"length_control": "none", "thinking_tokens": 4, "solution_tokens": 4, "off_policy_steps": 0}
    fields |= {"max_steps": 2, "eval_every": 9}
    folder = train(quick(**fields), str(prompts / "train.json"), str(prompts / "eval.json"), str(tmp_path / "run"))
    resume(str(folder), ["max_steps=4"])
    rows = read_log(folder / "log.jsonl").rows
    assert [row["truncation_rate"] for row in rows if row["kind"] == "step"] == [1.0] * 4
    found = [row for row in rows if row["kind"] == "event" and row["event"] == "guard"]
    assert [(row["step"], row["guard"], row["raised"], row["figure"]) for row in found] == [
        (1, "truncation", True, 1.0)
    ]
