"""Short forms of the simulations and comparisons in benchmarks: fewer curves, the same bars.

A share fails only if its 99.9 % Wilson interval lies wholly beyond the bar. Speed is asked for .3 of each bar: small
batches, and a machine that does other work, cost that much.
"""

from __future__ import annotations

import csv

import numpy as np
import pytest

from benchmarks import awkward, coverage, evaluation_noise, long_run, recovery, speed
from benchmarks.simulate import CELLS, NOISE, Cell, ar1_noise, cramer_rao, median, simulate, wilson


def test_a_curve_does_not_depend_on_what_else_is_drawn():
    one, again, other = simulate(CELLS[5], 3), simulate(CELLS[5], 3), simulate(CELLS[6], 3)
    assert (one.pass_rate == again.pass_rate).all() and (one.params == again.params).all()
    assert one.params[3] != other.params[3]
    assert len({cell.number for cell in CELLS}) == len(CELLS) == 36


def test_noise_has_the_variance_and_the_correlation_it_says():
    noise = np.concatenate([ar1_noise(np.random.default_rng(i), 200, 0.7) for i in range(200)])
    assert abs(noise.std() / NOISE - 1.0) < 0.03
    assert abs(np.corrcoef(noise[1:], noise[:-1])[0, 1] - 0.7) < 0.02


def test_the_least_width_is_that_of_least_squares_where_the_curve_is_well_seen():
    from analysis.curves.projection import fit_many

    compute, params = np.linspace(0.1, 10.0, 200), np.array([0.1, 0.6, 1.5, 1.0])
    mean = 0.1 + 0.5 / (1.0 + compute**-1.5)
    noise = np.random.default_rng(0).normal(0.0, NOISE, (1000, 200))
    spread = fit_many(np.log(compute), mean + noise).linear[:, 1].std()
    assert spread == pytest.approx(cramer_rao(params, compute, 0.0), rel=0.1)


def test_wilson_and_the_interval_of_a_median():
    assert wilson(0, 10).low == 0.0 and wilson(10, 10).high == 1.0
    assert wilson(1900, 2000).low == pytest.approx(0.9317, abs=1e-3)
    found = median(np.arange(1001.0))
    assert found.value == 500.0 and found.low < 450.0 and found.high > 550.0


@pytest.mark.parametrize(
    "cell", [Cell(5.0, 60, 0.7), Cell(2.0, 60, 0.3), Cell(1.0, 20, 0.7), Cell(0.5, 20, 0.0)], ids=lambda cell: cell.name
)
def test_intervals_hold_the_truth(cell):
    rows, beside = coverage.ours(cell, 0, 16), coverage.theirs(cell, 0, 1)
    assert rows.shape == (16, len(coverage.COLUMNS))
    failed = [f"{v.name}: {v.text}" for v in coverage.verdicts(cell, rows, beside) if v.ok is False]
    assert not failed


def test_a_simulation_goes_on_where_it_stopped(tmp_path, capsys):
    name = "k5-n20-rho0"
    work, output = tmp_path / "work", tmp_path / "coverage.csv"
    options = [f"--work={work}", f"--output={output}", "--processes=1", "--cells", name]
    assert coverage.main(["--curves=3", "--peers=1", *options]) == 0
    chunks = sorted(work.iterdir())
    assert len(chunks) == 2
    made = [chunk.stat().st_mtime_ns for chunk in chunks]
    assert coverage.main(["--curves=3", "--peers=1", *options]) == 0
    assert [chunk.stat().st_mtime_ns for chunk in chunks] == made
    with output.open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert {row["figure"] for row in table} >= {"A held", "width / CR", "at 4x", "wald", "sieve"}
    assert name in capsys.readouterr().out


@pytest.mark.parametrize("design", [evaluation_noise.Design(5.0, 0.004), evaluation_noise.Design(2.0, 0.01)], ids=str)
def test_intervals_hold_the_truth_with_evaluation_noise(design):
    rows = [evaluation_noise.row(design, i, draws=1000) for i in range(10)]
    for result in evaluation_noise.results(design, rows):
        assert result.ok, result


def test_a_fixed_set_of_prompts_has_a_sigmoid_and_the_population_has_the_curve():
    design = evaluation_noise.DESIGNS[0]
    runs = [evaluation_noise.simulate(design, i) for i in range(300)]
    offset = np.array([run.A_set - run.A for run in runs])
    assert abs(offset.mean()) < 4.0 * offset.std() / np.sqrt(len(runs))
    assert 0.01 < offset.std() < 0.04
    last = np.array([run.correct[-1].mean() / evaluation_noise.COMPLETIONS for run in runs])
    assert (np.abs(last - [run.A_set for run in runs]) < 0.25).all()


def test_the_long_run_is_held_from_every_part_of_it():
    assert long_run.misses(long_run.rows(), float(long_run.fitted()[1])) == []


@pytest.mark.parametrize("kind", [kind for kind in awkward.KINDS if kind != "1,000 points and more"])
@pytest.mark.parametrize("through", list(awkward.THROUGH))
def test_awkward_runs_are_fitted_or_doubted(through, kind):
    assert not awkward.THROUGH[through](awkward.make(kind, 0))


def test_no_search_from_many_starts_finds_a_deeper_valley():
    found = recovery.measure(curves=12, scipy_curves=2, starts=60)
    assert found.ok, found


def test_fits_are_faster_than_those_of_other_tools():
    lines = [*speed.fits(repetitions=2, curves=1500, peers=2), speed.bootstraps(repetitions=1, refits=10)]
    assert all(line.bar is None or line.ratio >= 0.5 * line.bar for line in lines), "\n".join(map(str, lines))


def test_a_fit_finds_what_the_papers_grid_finds_and_sooner():
    found = speed.paper_grid(curves=1, grid=speed.Grid(A=(0.45, 0.8, 15), C_mid=(0.02, 0.8, 20)))
    assert found.worse == found.other_cell == 0
    assert found.line.ratio * 7100 / 300 >= speed.BARS["paper's grid"]


def test_a_whole_report_is_quick():
    assert speed.full_report(repetitions=4) <= 2.0 * speed.REPORT_BAR
