"""Logs of other programs: which rows are of one run and survived, and what compute follows from them."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.readers.axes import derive
from analysis.readers.found import Found, table_of_rows
from analysis.readers.labels import Label
from analysis.readers.lineage import lineages


def found(rows, **fields):
    table = table_of_rows("log", rows)
    return Found(Label("log"), table, Path("log"), "", "made", **{"step": "step"} | fields)


def column(run, name):
    return list(run.table.columns[name])


def stepped(*steps, name="acc"):
    return [{"step": s, name: i / 100} for i, s in enumerate(steps)]


# ---- runs, attempts, branches


def test_steps_that_only_rise_are_one_run_as_it_stands():
    rows = stepped(0, 5, 10)
    (run,) = lineages(found(rows))
    assert run == found(rows)


def test_a_start_from_the_first_step_is_another_run():
    runs = lineages(found(stepped(1, 2, 3, 1, 2, 3, 4)))
    assert [column(run, "step") for run in runs] == [[1, 2, 3], [1, 2, 3, 4]]
    assert [run.label.name for run in runs] == ["log #1", "log #2"]
    assert [[f.code for f in run.findings] for run in runs] == [["runs-split"]] * 2


def test_a_start_from_a_later_step_takes_back_what_came_after_it():
    (run,) = lineages(found(stepped(1, 2, 3, 4, 5, 3, 4, 5, 6)))
    assert column(run, "step") == [1, 2, 3, 4, 5, 6]
    assert column(run, "acc") == [0.00, 0.01, 0.05, 0.06, 0.07, 0.08]
    assert [list(lost.columns["acc"]) for lost in run.lost] == [[0.02, 0.03, 0.04]]
    assert run.starts == (2,)
    assert [f.code for f in run.findings] == ["attempts"]
    assert "3 rows" in run.findings[0].message


def test_a_later_attempt_may_take_back_two_earlier_ones():
    (run,) = lineages(found(stepped(1, 2, 3, 4, 3, 4, 5, 2, 3)))
    assert column(run, "acc") == [0.00, 0.07, 0.08]
    assert [list(lost.columns["step"]) for lost in run.lost] == [[2, 3, 4], [3, 4, 5]]


def test_an_attempt_that_the_files_tell_apart_needs_no_step_to_fall():
    (run,) = lineages(found(stepped(1, 2, 3, 4), starts=(2,)))
    assert run.starts == (2,) and run.lost == ()
    (run,) = lineages(found(stepped(1, 2, 4, 3, 4), starts=(3,)))
    assert column(run, "acc") == [0.00, 0.01, 0.03, 0.04]


def test_train_and_validation_of_one_step_are_one_row_even_if_one_comes_late():
    rows = [{"step": 1, "loss": 3.0}, {"step": 1, "val": 0.1}, {"step": 2, "loss": 2.0}, {"step": 3, "loss": 1.0}]
    rows += [{"step": 2, "val": 0.2}, {"step": 4, "loss": 0.5}]
    (run,) = lineages(found(rows))
    assert column(run, "step") == [1, 2, 3, 4]
    assert column(run, "loss") == [3.0, 2.0, 1.0, 0.5]
    assert column(run, "val") == [0.1, 0.2, None, None]
    assert run.findings == () and run.lost == ()


def test_a_late_evaluation_of_a_step_that_was_not_logged_is_no_restart():
    rows = [{"step": 10, "loss": 3.0}, {"step": 20, "loss": 2.0}, {"step": 15, "val": 0.2}, {"step": 30, "loss": 1.0}]
    (run,) = lineages(found(rows))
    assert column(run, "step") == [10, 15, 20, 30] and run.lost == ()


def test_late_evaluations_of_steps_that_training_did_not_log_are_no_restart():
    rows = [{"step": s, "loss": 1.0} for s in (10, 20, 30)] + [{"step": s, "val": s / 100} for s in (20, 30, 15, 25)]
    (run,) = lineages(found([*rows, {"step": 40, "loss": 1.0}]))
    assert column(run, "step") == [10, 15, 20, 25, 30, 40] and run.lost == ()
    assert column(run, "val") == [None, 0.15, 0.2, 0.25, 0.3, None]


def test_an_evaluation_that_repeats_what_was_spent_is_late_and_no_restart():
    rows = [{"step": i, "gpu_hours": i, "loss": 1.0} for i in range(1, 30)]
    rows.insert(12, {"step": 10, "gpu_hours": 10, "pass_rate": 0.3})
    (run,) = lineages(found(rows))
    assert column(run, "step") == list(range(1, 30)) and column(run, "pass_rate")[9] == 0.3
    assert run.lost == () and run.findings == ()


def test_rows_of_two_data_sets_a_step_are_a_warning():
    rows = [{"step": i, "dataset": d, "acc": 0.1} for i in range(5) for d in ("math", "aime")]
    (run,) = lineages(found(rows))
    assert [(f.code, f.severity) for f in run.findings] == [("steps-repeated", "warning")]


def test_a_step_that_is_logged_twice_counts_once_and_is_said():
    (run,) = lineages(found(stepped(1, 2, 2, 3)))
    assert column(run, "acc") == [0.00, 0.02, 0.03]
    assert [f.code for f in run.findings] == ["steps-repeated"]


def test_a_log_out_of_order_is_sorted_and_not_cut():
    (run,) = lineages(found(stepped(9, 2, 7, 4, 5, 6, 3, 8, 1)))
    assert column(run, "step") == list(range(1, 10))
    assert [f.code for f in run.findings] == ["compute-unordered"]


def test_rows_without_a_step_stay_where_they_are():
    rows = [{"step": 1, "a": 1}, {"step": None, "a": 2}, {"step": 2, "a": 3}]
    (run,) = lineages(found(rows))
    assert column(run, "a") == [1, 2, 3]
    assert lineages(found([{"step": "x", "a": 1}, {"step": "", "a": 2}]))[0].table.columns["a"] == [1, 2]


@given(st.lists(st.integers(2, 30), min_size=0, max_size=6), st.integers(2, 6))
def test_of_any_attempts_the_surviving_branch_is_what_a_plain_loop_keeps(lengths, back):
    """Attempts from 1: each goes on `back` steps before the end of the one before, never from the first step."""
    rows, kept, gone, last = [], {}, 0, 0
    serial = itertools.count()
    for length in [5, *lengths]:
        first = max(last - back + 1, 2) if last else 1
        gone += len([s for s in kept if s >= first])
        kept = {s: v for s, v in kept.items() if s < first}
        for step in range(first, first + length):
            value = next(serial)
            rows.append({"step": step, "acc": value})
            kept[step] = value
        last = first + length - 1
    (run,) = lineages(found(rows))
    assert dict(zip(column(run, "step"), column(run, "acc"), strict=True)) == kept
    assert sum(len(lost.lines) for lost in run.lost) == gone


# ---- compute


def test_seconds_a_step_become_gpu_hours_only_with_devices():
    rows = [{"step": i, "timing_s/step": 360.0} for i in range(1, 5)]
    made = derive(found(rows, devices=8))
    assert made.table.columns["gpu_hours"] == pytest.approx([0.8, 1.6, 2.4, 3.2])
    assert "x 8 devices, as the log says" in made.said["gpu_hours"][0].message
    made = derive(found(rows))
    assert "gpu_hours" not in made.table.columns
    assert made.table.columns["wall_hours"] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert "--devices" in made.said["wall_hours"][0].message
    made = derive(found(rows, devices=8), devices=16)
    assert made.table.columns["gpu_hours"][-1] == pytest.approx(6.4) and "as asked" in made.said["gpu_hours"][0].message


def test_a_time_that_is_logged_every_fifth_step_stands_for_five():
    made = derive(found([{"step": 5 * i, "step_time": 3600.0} for i in range(1, 4)], devices=1))
    assert made.table.columns["gpu_hours"] == [5.0, 10.0, 15.0]


def test_rows_without_a_time_of_their_own_stand_where_their_step_lies():
    rows = [{"step": 0, "val": 0.1}, {"step": 1, "step_time": 3600.0}, {"step": 2, "step_time": 3600.0}]
    rows += [{"step": 2.5, "val": 0.2}, {"step": 3, "step_time": 3600.0}]
    assert derive(found(rows, devices=2)).table.columns["gpu_hours"] == [0.0, 2.0, 4.0, 5.0, 6.0]


def test_the_axis_goes_on_from_the_checkpoint_and_the_lost_work_is_in_the_bill():
    rows = [{"step": s, "step_time": 3600.0, "acc": 0.1} for s in (1, 2, 3, 4, 3, 4, 5)]
    (run,) = lineages(found(rows, devices=1))
    made = derive(run)
    assert made.table.columns["gpu_hours"] == [1.0, 2.0, 3.0, 4.0, 5.0]
    lost = next(f for f in made.said["gpu_hours"] if f.code == "work-lost")
    assert lost.figure == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("second", "why"),
    [([1.0, 2.0], "counts again from 0"), ([3.0, 4.0], "goes on from the checkpoint"), ([5.0, 6.0], "ran through")],
)
def test_a_running_total_goes_on_whatever_its_program_did_at_the_resume(second, why):
    hours = [1.0, 2.0, 3.0, 4.0, *second]
    rows = [{"step": s, "_runtime": 3600 * h, "a": 1} for s, h in zip((1, 2, 3, 4, 3, 4), hours, strict=True)]
    (run,) = lineages(found(rows, devices=1))
    assert derive(run).table.columns["gpu_hours"] == pytest.approx([1.0, 2.0, 3.0, 4.0]), why


def test_a_clock_counts_the_time_between_rows_and_not_the_night_between_attempts():
    clock = [1.7e9 + 3600 * h for h in (0, 1, 2, 50, 51)]
    rows = [{"step": s, "wall_time": t, "a": 1} for s, t in zip((1, 2, 3, 4, 5), clock, strict=True)]
    (run,) = lineages(found(rows, devices=1, starts=(3,)))
    assert derive(run).table.columns["gpu_hours"] == pytest.approx([1.0, 2.0, 3.0, 4.0, 5.0])
    assert "wall_hours" not in derive(found([{"step": 1, "wall_time": 5.0}])).table.columns  # no clock, something else


def test_a_clock_leaves_out_a_night_in_which_nothing_ran_even_if_no_step_was_lost():
    clock = [1.7e9 + t for t in (0, 60, 120, 120 + 43200, 180 + 43200)]
    rows = [{"step": i, "wall_time": t, "a": 1} for i, t in enumerate(clock, start=1)]
    (run,) = lineages(found(rows, devices=60))
    made = derive(run)
    assert made.table.columns["gpu_hours"] == pytest.approx([1.0, 2.0, 3.0, 4.0, 5.0])
    assert "1 pauses of the clock" in made.said["gpu_hours"][0].message


def test_the_clock_of_a_late_evaluation_moves_nothing():
    rows = [{"step": i, "wall_time": 1.7e9 + 100 * i, "loss": 1} for i in range(1, 21)]
    rows += [{"step": i, "wall_time": 1.7e9 + 90000 + 1000 * i, "eval_acc": i / 40} for i in (5, 10, 12.5, 20)]
    (run,) = lineages(found(rows, devices=36))
    hours = derive(run).table.columns["gpu_hours"]
    at = [hours[i] for i, v in enumerate(column(run, "eval_acc")) if v is not None]
    assert at == pytest.approx([5.0, 10.0, 12.0, 20.0]) and hours[-1] == pytest.approx(20.0)


@pytest.mark.parametrize(
    ("second", "why"),
    [
        ([110, 210, 310], "begins again"),
        ([200, 300, 400], "goes on"),
        ([400, 500, 600], "ran through"),
    ],
)
def test_which_of_three_things_a_total_did_is_read_from_its_first_step(second, why):
    rows = [{"step": i, "_runtime": 100.0 * i, "a": 1} for i in (1, 2, 3)]
    rows += [{"step": i, "_runtime": float(v), "a": 1} for i, v in zip((2, 3, 4), second, strict=True)]
    (run,) = lineages(found(rows, devices=36))
    expected = [1.0, 2.1, 3.1, 4.1] if second[0] == 110 else [1.0, 2.0, 3.0, 4.0]
    assert derive(run).table.columns["gpu_hours"] == pytest.approx(expected), why


def test_totals_that_begin_again_without_a_lost_step_go_on():
    rows = [
        {"step": i, "_runtime": 3600.0 * ((i - 1) % 3 + 1), "num_tokens": 10.0 * ((i - 1) % 3 + 1)} for i in range(1, 7)
    ]
    made = derive(lineages(found(rows, devices=1))[0])
    assert made.table.columns["gpu_hours"] == pytest.approx([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert made.table.columns["tokens"] == pytest.approx([10.0, 20.0, 30.0, 40.0, 50.0, 60.0])


def test_logged_gpu_hours_that_begin_again_at_a_resume_go_on_and_it_is_said():
    rows = [
        {"step": s, "gpu_hours": h, "acc": 0.1} for s, h in zip((1, 2, 3, 2, 3, 4), (1, 2, 3, 1, 2, 3), strict=True)
    ]
    made = derive(lineages(found(rows))[0])
    assert made.table.columns["gpu_hours"] == pytest.approx([1.0, 2.0, 3.0, 4.0])
    assert "begins again" in made.said["gpu_hours"][0].message


@pytest.mark.parametrize("name", ["gpu_hours", "tokens", "wall_hours"])
def test_a_logged_total_that_ran_on_through_lost_work_leaves_it_out_as_a_derived_one_does(name):
    steps = [*range(16), *range(8, 40)]
    (run,) = lineages(found([{"step": s, name: float(t), "acc": 0.1} for t, s in enumerate(steps)]))
    made = derive(run)
    assert made.table.columns[name] == pytest.approx(range(40))
    assert [f.code for f in made.said[name]] == ["axis-derived", "work-lost"]
    assert "ran on" in made.said[name][0].message and made.said[name][1].figure == pytest.approx(8.0)


def test_a_logged_total_that_went_back_with_the_weights_is_taken_as_it_stands():
    steps = [*range(16), *range(8, 40), *range(30, 50)]
    (run,) = lineages(found([{"step": s, "gpu_hours": 2.0 * s, "acc": 0.1} for s in steps]))
    made = derive(run)
    assert made.table.columns["gpu_hours"] == [2.0 * s for s in range(50)]
    assert [(f.code, f.figure) for f in made.said["gpu_hours"]] == [("work-lost", 36.0)]


def test_hours_of_single_steps_are_added_up_across_a_resume():
    steps = [*range(1, 17), *range(9, 41)]
    rows = [{"step": s, "gpu_hours": 1.0 + 0.2 * (i % 2), "acc": 0.1} for i, s in enumerate(steps)]
    (run,) = lineages(found(rows))
    made = derive(run)
    assert made.table.columns["gpu_hours"][-1] == pytest.approx(44.0)
    assert "falls from row to row" in made.said["gpu_hours"][0].message


def test_a_logged_total_knows_what_was_spent_before_the_log_begins():
    steps = [*range(100, 110), *range(105, 120)]
    (run,) = lineages(found([{"step": s, "gpu_hours": float(t), "acc": 0.1} for t, s in enumerate(steps, start=100)]))
    assert "log-begins-late" not in [f.code for f in derive(run).said["gpu_hours"]]


def test_a_log_that_begins_in_the_middle_of_a_run_says_so():
    made = derive(found([{"step": s, "step_time": 3600.0} for s in range(101, 110)], devices=1))
    assert "log-begins-late" in [f.code for f in made.said["gpu_hours"]]
    made = derive(found([{"step": s, "step_time": 3600.0} for s in range(10, 100, 10)], devices=1))
    assert "log-begins-late" not in [f.code for f in made.said["gpu_hours"]]


def test_hours_that_the_log_has_are_kept_and_make_gpu_hours():
    rows = [{"step": i, "wall_hours": 2.0 * i, "_runtime": 5.0 * i} for i in (1, 2)]
    assert derive(found(rows)).table.columns["wall_hours"] == [2.0, 4.0]
    assert derive(found(rows), devices=8).table.columns["gpu_hours"] == [16.0, 32.0]


def test_seconds_a_step_without_steps_make_no_hours():
    made = derive(found([{"epoch": 0.1 * i, "step_time": 36.0} for i in range(5)], step=None))
    assert made.said == {}


def test_tokens_so_far_and_tokens_a_step_are_told_apart():
    so_far = found([{"step": i, "train/num_tokens": 100.0 * i} for i in (1, 2, 3)])
    assert derive(so_far).table.columns["tokens"] == [100.0, 200.0, 300.0]
    a_step = found([{"step": i, "perf/total_num_tokens": 100.0} for i in (1, 2, 3)])
    assert derive(a_step).table.columns["tokens"] == [100.0, 200.0, 300.0]
    none = found([{"step": i, "num_tokens": 0} for i in (1, 2)])
    assert "tokens" not in derive(none).table.columns


@pytest.mark.parametrize("name", ["step_time", "_runtime", "wall_time", "wall_hours"])
@given(
    st.lists(st.tuples(st.integers(0, 50), st.floats(0, 1e5) | st.none()), min_size=1, max_size=40),
    st.sets(st.integers(1, 39), max_size=3),
)
def test_whatever_the_steps_an_axis_never_falls(name, pairs, starts):
    base = 1.7e9 if name == "wall_time" else 0.0
    rows = [{"step": s, name: None if t is None else base + t, "acc": 0.5} for s, t in pairs]
    begins = tuple(sorted(i for i in starts if i < len(rows)))
    for run in lineages(found(rows, devices=4, starts=begins)):
        hours = derive(run).table.columns.get("gpu_hours", [])
        known = [h for h in hours if not math.isnan(h)]
        assert all(a <= b + 1e-9 * abs(b) for a, b in itertools.pairwise(known)) and all(map(math.isfinite, known))
