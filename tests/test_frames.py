"""A table in memory is a run like the same table in a file, and a cell that is no number is never read as one."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest

import analysis as an


def test_a_table_in_memory_is_read_like_the_same_table_in_a_file(tmp_path):
    frame = pd.DataFrame(
        {"gpu_hours": [0.0, 1.0, 2.0, 3.0], "step": [0, 10, 20, 30], "accuracy": [0.1, None, 0.3, 0.4]}
    )
    frame.to_csv(tmp_path / "mine.csv", index=False)
    from_file = an.read(tmp_path / "mine.csv")[0]
    for table in (frame, frame.convert_dtypes(), frame.to_dict("list"), {k: v.to_numpy() for k, v in frame.items()}):
        run = an.read_frame(table, "mine")
        assert run.axes == from_file.axes == ("gpu_hours", "step")
        assert all((run.data[k] == from_file.data[k]).all() for k in from_file.data)
        assert [(f.code, f.message) for f in run.findings] == [(f.code, f.message) for f in from_file.findings]
    assert an.read_frame(frame, "mine", x="step", recipe="best", seed=3).recipe == "best"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({}, "no column"),
        ({"gpu_hours": [1, 2], "accuracy": [0.1]}, "gpu_hours 2, accuracy 1"),
        ({"gpu_hours": 3, "accuracy": 0.4}, "at least one row"),
        ({"hours": [1], "accuracy": [0.4]}, "did you mean --x hours"),
        ({"gpu_hours": ["a"], "accuracy": [0.4]}, "none of the 1 rows"),
    ],
)
def test_a_table_in_memory_that_holds_no_run_is_refused(table, said):
    with pytest.raises(an.UserError, match=re.escape(said)):
        an.read_frame(table, "mine")


def test_cells_of_a_table_in_memory_are_numbers_or_missing():
    c = list(range(6))
    rates = [Fraction(1, 10), Decimal("0.2"), np.float32(0.25), np.int64(0), float("nan"), 0.5]
    assert an.read_frame({"gpu_hours": (i for i in c), "accuracy": rates}).data["pass_rate"][-1] == 0.5
    masked = np.ma.masked_array([0.99, 0.2, 0.3, 0.4, 0.5, 0.6], mask=[1, 0, 0, 0, 0, 0])
    assert an.read_frame({"gpu_hours": c, "accuracy": masked}).data["pass_rate"].max() == 0.6
    with pytest.raises(an.UserError, match="holds times"):
        an.read_frame({"gpu_hours": np.arange(6).astype("M8[ns]"), "accuracy": rates})
    twice = pd.DataFrame(np.arange(12.0).reshape(4, 3) / 20, columns=["gpu_hours", "accuracy", "accuracy"])
    with pytest.raises(an.UserError, match="no pass-rate column"):
        an.read_frame(twice)
    with pytest.raises(an.UserError, match="is no table"):
        an.read_frame("mine.csv")
    assert type(an.read_frame({"gpu_hours": c, "accuracy": masked}, seed=np.int64(3)).seed) is int


@pytest.mark.parametrize(("x", "y"), [("accuracy", "accuracy"), ("pass_rate", "accuracy")])
def test_one_column_is_not_both_compute_and_pass_rate(x, y):
    table = {"pass_rate": [0.0, 1.0, 2.0], "accuracy": [0.1, 0.2, 0.3], "step": [0, 1, 2]}
    with pytest.raises(an.UserError, match=r"pass rate; choose two|cannot be called pass_rate"):
        an.read_frame(table, x=x, y=y)
    assert an.read_frame(table, y="step", x="accuracy", scale=0.5).axes == ("accuracy",)
