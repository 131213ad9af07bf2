"""Groups: what is split how, what the test and the line say, what is refused."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import analysis as an
from analysis.plots.group_plots import plot_groups, plot_line
from analysis.pooled.secondstage import fit_line
from analysis.posteriors.draws import Draws
from benchmarks.groups import held_by_line
from scalerl.cli import main
from tests.made import ar1, as_run, counted

C = np.arange(30.0) / 4


def table(curves, by="size", sd=0.005):
    rng = np.random.default_rng(0)
    frames = [
        pd.DataFrame({"gpu_hours": C, "accuracy": an.R(C, 0.1, A, 1.5, mid) + rng.normal(0, sd, 30), by: value})
        for value, A, mid in curves
    ]
    return pd.concat(frames, ignore_index=True)


SIZES = [(1, 0.5, 1.0), (2, 0.57, 1.2), (4, 0.63, 1.4), (8, 0.69, 1.6)]


def test_each_group_is_the_fit_of_its_rows():
    frame = table(SIZES)
    told = an.fit(frame, by="size")
    for unread in ({"seed": 5}, {"tolerance": 0.1}, {"resample": "block"}, {"correlated": False}, {"level": None}):
        with pytest.raises(an.UserError, match=f"^by: .*{next(iter(unread))}.* is not read there$"):
            an.fit(frame, by="size", **unread)
    alone = an.fit(an.read_frame(frame[frame["size"] == 4].drop(columns="size"), "size=4"))
    assert [f.name for f in told.fits] == ["size=1", "size=2", "size=4", "size=8"]
    assert told.fits["size=4"].params["A"] == alone.params["A"]
    assert dict(told.sizes) == {"size=1": 1.0, "size=2": 2.0, "size=4": 4.0, "size=8": 8.0}
    shuffled = an.fit(frame.sample(frac=1.0, random_state=1), by="size")
    assert shuffled.frame.equals(told.frame)


def test_the_shared_test_is_that_of_fit_shared_and_sees_what_differs():
    told = an.fit(table([("math", 0.7, 1.0), ("code", 0.5, 1.0)], by="set"), by="set")
    assert told.shared.differ is False
    assert told.shared.p == an.fit_shared([f.run for f in told.fits], ("B", "C_mid")).p
    assert told.sizes is None
    assert "shared-noise" in {f.code for f in told.findings}
    apart = an.fit(table([("math", 0.7, 1.0), ("code", 0.5, 3.0)], by="set"), by="set", share="C_mid")
    assert apart.shared.share == ("C_mid",)
    assert apart.shared.differ is True


def test_the_line_is_ordinary_least_squares_with_its_prediction_interval():
    told = an.fit(table(SIZES), by="size", following=16)
    u = np.log([1.0, 2.0, 4.0, 8.0])
    v = []
    for f in told.fits:
        d = f.draws
        v.append(float(d.quantile(np.log(d.C_mid), [0.5])[0]))
    slope, intercept, *_ = stats.linregress(u, v)
    residual = v - intercept - slope * u
    s = np.sqrt((residual**2).sum() / 2)
    h = 1 / 4 + (np.log(16) - u.mean()) ** 2 / ((u - u.mean()) ** 2).sum()
    half = stats.t.ppf(0.975, 2) * s * np.sqrt(1 + h)
    found = told.line.predicted["C_mid"]
    assert (found.slope, found.intercept) == (pytest.approx(slope), pytest.approx(intercept))
    assert found.value == pytest.approx(np.exp(intercept + slope * np.log(16)))
    assert found.half >= half * (1 - 1e-9)
    assert told.line.at == 16
    assert 0.0 < told.line.predicted["A"].lo < 0.75 < told.line.predicted["A"].hi < 1.0
    assert "second-stage" in {f.code for f in told.findings if f.severity == "warning"}
    assert an.fit(table(SIZES), by="size").line.at == pytest.approx(16.0)
    assert an.fit(table(SIZES[:2]), by="size").line is None


def test_the_interval_of_the_line_holds_the_next_size():
    """The short form of the benchmark: 30 repetitions; 24 or more of 30 hold at 95 % in all but 1 of 500 cases."""
    assert sum(held_by_line(4, i) for i in range(30)) >= 24


def test_difficulty_splits_the_prompts_and_keeps_their_mean():
    ends = np.linspace(0.05, 0.95, 30)
    rate = 0.02 + (ends - 0.02) * an.R(np.linspace(0, 6, 20), 0.0, 1.0, 1.5, 1.0)[:, None]
    run = counted(rate, k=16)
    buckets = an.difficulty_buckets(run)
    assert [b.name.split(" ")[0] for b in buckets] == ["hard", "middle", "easy"]
    rates = np.mean([b.data["pass_rate"] for b in buckets], axis=0)
    assert rates == pytest.approx(run.data["pass_rate"], abs=5 * np.sqrt(0.25 / (8 * 30)))  # of half the completions
    assert [set(b.data["k"]) for b in buckets] == [{8}] * 3
    for i in range(len(run)):
        shown = sum(sum(b.data["correct"][i]) for b in buckets)
        assert 0 <= shown <= sum(run.data["correct"][i])
    again = an.difficulty_buckets(run)
    assert all(np.array_equal(a.data["pass_rate"], b.data["pass_rate"]) for a, b in zip(buckets, again, strict=True))
    assert [len(b.data["correct"][0]) for b in buckets] == [10, 10, 10]
    finals = [b.data["pass_rate"][-1] for b in buckets]
    assert finals == sorted(finals)


def test_luck_does_not_bend_the_curve_of_a_bucket():
    """Prompts that are all alike: every bucket must show the same rise, however they were chosen."""
    rate = np.tile(an.R(np.linspace(0, 6, 24), 0.1, 0.6, 1.5, 1.0)[:, None], 90)
    gaps = []
    for i in range(200):
        hard, _, easy = an.difficulty_buckets(counted(rate, k=4, seed=i))
        gap = easy.data["pass_rate"] - hard.data["pass_rate"]
        gaps.append([gap[:6].mean(), gap[-6:].mean()])
    # a gap of one evaluation has sd sqrt(2 x .24 / (2 x 30)) = .09, the mean of six .037, that of 200 such .0026
    assert np.mean(gaps, axis=0) == pytest.approx([0.0, 0.0], abs=4 * 0.0026)


def test_seeds_of_a_size_are_no_sizes_of_their_own():
    u = np.log(np.repeat([1.0, 2.0, 4.0, 8.0], 3))
    rng = np.random.default_rng(0)
    medians = 0.2 + 0.3 * u + np.repeat(rng.normal(0, 0.1, 4), 3) + rng.normal(0, 0.01, 12)
    one, wide = np.ones(3), np.array([-1e-6, 0.0, 1e-6])
    draws = [Draws(0.1 * one, 0.6 * one, np.exp(m + wide), one, 0 * one, 0 * one, one / 3) for m in medians]
    told = fit_line("B", np.exp(u), draws, 16.0, 0.95)
    four, own = np.log([1.0, 2.0, 4.0, 8.0]), medians.reshape(4, 3).mean(axis=1)
    slope, intercept, *_ = stats.linregress(four, own)
    s = np.sqrt(((own - intercept - slope * four) ** 2).sum() / 2)
    h = 1 / 4 + (np.log(16) - four.mean()) ** 2 / ((four - four.mean()) ** 2).sum()
    assert told.half == pytest.approx(stats.t.ppf(0.975, 2) * s * np.sqrt(1 + h))
    runs = [as_run(C, an.R(C, 0.1, A, 1.5, 1.0) + ar1(30, 0.004, seed=i), f"r{i}") for i, A in
            enumerate((0.5, 0.5, 0.55, 0.55, 0.6, 0.6))]  # fmt: skip
    sizes = {f"r{i}": float(2 ** (i // 2)) for i in range(6)}
    assert an.fit(runs, by=sizes).line.at == pytest.approx(8.0)


def test_runs_take_their_size_from_the_configuration_or_a_mapping():
    runs = [as_run(C, an.R(C, 0.1, A, 1.5, 1.0) + ar1(30, 0.004, seed=i), f"r{i}") for i, A in enumerate((0.5, 0.6))]
    told = an.fit(runs, by={"r0": 32.0, "r1": 8.0})
    assert [f.name for f in told.fits] == ["r1", "r0"]
    real = an.fit(an.read("data/runs"), by="learning_rate")
    assert set(real.sizes.values()) == {0.0002}
    with pytest.raises(an.UserError, match="r1: the mapping"):
        an.fit(runs, by={"r0": 1.0})


def blank(frame, row, cell=" "):
    """The table as a file gives it, text in each cell of its column, one of them empty."""
    cells = [str(v) for v in frame["size"]]
    cells[row] = cell
    return frame.assign(size=cells)


def test_percent_is_one_for_the_whole_table():
    easy = table([("easy", 0.6, 1.0)]).assign(accuracy=lambda t: np.maximum(100.0 * t.accuracy, 1.5))
    below_one = easy.assign(size="hard", accuracy=np.linspace(0.1, 0.9, 30))
    with pytest.raises(an.UserError, match="neither fractions nor clearly percent"):
        an.fit(pd.concat([easy, below_one]), by="size")
    near_one = easy.assign(size="hard", accuracy=np.linspace(1.1, 1.9, 30))  # alone neither the one nor the other
    told = an.fit(pd.concat([easy, near_one]), by="size")
    for fit, column in zip(told.fits, (easy.accuracy, near_one.accuracy), strict=True):
        assert fit.run.data["pass_rate"].tolist() == pytest.approx((column / 100.0).tolist())
        assert [f.code for f in fit.run.findings] == ["percent"]


def test_sizes_in_text_are_sizes_and_sizes_alike_in_six_digits_stay_apart():
    text = table(SIZES).assign(size=[f"{v:g}.0" for v in table(SIZES)["size"]])
    assert an.fit(text, by="size").sizes == an.fit(table(SIZES), by="size").sizes
    near = table([(1000000.0, 0.5, 1.0), (1000000.5, 0.6, 1.0)])
    assert list(an.fit(near, by="size").sizes) == ["size=1000000.0", "size=1000000.5"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: an.fit(table(SIZES), by="nothing"), "no column 'nothing'"),
        (lambda: an.fit(table(SIZES[:1]), by="size"), "two or more"),
        (lambda: an.fit(table([(0, 0.5, 1.0), *SIZES]), by="size"), "above 0"),
        (lambda: an.fit(table(SIZES).assign(size=None), by="size"), "empty"),
        (lambda: an.fit(blank(table(SIZES), 3), by="size"), r"'size' is empty in 1 rows \(row 4\)"),
        (lambda: an.fit(blank(table(SIZES).assign(size="a"), 3), by="size"), r"'size' is empty in 1 rows \(row 4\)"),
        (lambda: an.fit(table(SIZES).assign(size=list("ab") * 60), by="size", following=3.0), "no sizes"),
        (lambda: an.fit(counted(np.full((8, 9), 0.5)), by="difficulty", following=3.0), "no sizes"),
        (lambda: an.fit(table(SIZES), by="size", share="D"), "'D'"),
        (lambda: an.fit(table(SIZES), by="size", following=-1.0), "--next"),
        (lambda: an.fit(as_run(C, C / 10), by="difficulty"), "counts"),
        (lambda: an.fit(as_run(C, C / 10), by="batch_size"), "no number called 'batch_size'"),
        (lambda: an.fit(table(SIZES), by="size", method="lsq"), "method is not read"),
        (lambda: an.fit(as_run(C, C / 10), share="A"), "`by` alone"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(call, words):
    with pytest.raises(an.UserError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


def test_the_figures_show_the_numbers():
    told = an.fit(table(SIZES), by="size")
    assert {line.get_gid() for line in plot_groups(told).lines} >= {"points-0", "fit-3"}
    lines = {line.get_gid(): line for line in plot_line(told).lines}
    found = told.line.predicted["A"]
    assert lines["predicted"].get_xydata().tolist() == [[told.line.at, found.value]]
    assert lines["predicted-limits"].get_ydata().tolist() == [found.lo, found.hi]
    assert lines["value-2"].get_ydata().tolist() == [told.fits["size=4"].params["A"].value]
    assert lines["line"].get_ydata()[-1] == pytest.approx(found.value)


def test_the_command(tmp_path, capsys):
    file, out = tmp_path / "sizes.csv", tmp_path / "groups.png"
    table(SIZES).to_csv(file, index=False)
    assert main(["fit", str(file), "--by", "size", "--share", "B", "--next", "32", "-o", str(out)]) == 0
    assert "two extrapolations away" in capsys.readouterr().out
    assert out.exists()
    assert main(["fit", str(file), "--by", "size", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == "groups/1"
    assert [g["size"] for g in told["groups"]] == [1.0, 2.0, 4.0, 8.0]
    assert set(told["next"]) == {"size", "A", "B", "C_mid"}
    assert main(["fit", "data/runs/grpo", "--by", "difficulty"]) == 0
    capsys.readouterr()
    assert main(["fit", str(file), "--share", "B"]) == 2
    assert "--by" in capsys.readouterr().err
