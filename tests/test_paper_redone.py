"""The paper redone: published fits as stated, the notebook's numbers, the page that repeats them, the figures."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import subprocess
import sys
import warnings
from pathlib import Path

import matplotlib as mpl
import nbformat
import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar

from benchmarks import notebooks

NOTEBOOK = Path("notebooks/06_the_paper_redone.ipynb")
PAGE = Path("docs/paper.md").read_text(encoding="utf-8")
FITS = pd.read_csv("data/paper/fits.csv")
GRIDS = ((100, 4_000), (0, 12_000), (100, 40_000))  # of C_mid: two that the values lie on, and that of the text
CUTS = ("12k", "16k", "20k", "30k", "50k")


def cells():
    return notebooks.code_cells(nbformat.read(NOTEBOOK, as_version=4))


def shown(source: str, names: dict) -> list[str]:
    """Run a cell and return what a notebook shows of it: what is printed, the last value, and a word for a figure."""
    import matplotlib.pyplot as plt

    tree, last, before = ast.parse(source), None, plt.get_fignums()
    printed, texts = io.StringIO(), []

    def display(value) -> None:
        if printed.getvalue():
            texts.append(printed.getvalue())
            printed.truncate(printed.seek(0))
        if value is not None:
            texts.append(value._repr_html_() if hasattr(value, "_repr_html_") else repr(value))

    names["display"] = display
    if isinstance(tree.body[-1], ast.Expr) and not source.rstrip().endswith(";"):
        last = ast.Expression(tree.body.pop().value)
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "cell", "exec"), names)  # noqa: S102
        display(None if last is None else eval(compile(last, "cell", "eval"), names))  # noqa: S307
    return texts + ["figure"] * (len(plt.get_fignums()) - len(before))


def ships(cell) -> list[str]:
    """What a cell ships with, in the same words."""
    found = []
    for output in cell.outputs:
        data = output.get("data", {})
        found.append(output["text"] if "text" in output else "figure" if "image/png" in data else data.get("text/html"))
    return found


@pytest.fixture(scope="module")
def made():
    """The notebook's names after it ran, its figures in order, and what each cell showed."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    plt.close("all")
    names: dict = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = [shown(cell.source, names) for cell in cells()]
    names["figures"] = [plt.figure(number) for number in plt.get_fignums()]
    names["shown"] = told
    yield names
    plt.close("all")


def test_the_notebook_ships_with_what_it_shows(made):
    for cell, now in zip(cells(), made["shown"], strict=True):
        before = ships(cell)
        how = f"cell {cell.execution_count} is stale: {notebooks.REFRESH} 06"
        assert len(now) == len(before), how
        assert not [told for pair in zip(before, now, strict=True) if (told := notebooks.texts_differ(*pair))], how


def artist(ax, gid):
    (found,) = [a for a in ax.get_children() if a.get_gid() == gid]
    return found


def rows_below(heading: str) -> dict[str, list[str]]:
    """The first table below a heading of the page: first cell to the others."""
    lines = PAGE.split(f"## {heading}", 1)[1].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|---"))
    table = {}
    for line in lines[start + 1 :]:
        if not line.startswith("|"):
            break
        first, *others = [cell.strip() for cell in line.strip("|").split("|")]
        table[first] = others
    return table


def published(figure: str, run: str) -> pd.Series:
    (row,) = [r for _, r in FITS.iterrows() if r.figure.startswith(figure) and r.run == run]
    return row


def test_published_fits_keep_their_place_and_their_blanks():
    assert len(FITS) == 98 and not FITS[["figure", "run", "origin"]].isna().any().any()
    assert set(FITS.origin) == {"table", "text", "caption", "figure image", "not obtained"}
    assert FITS[FITS.origin == "not obtained"][["A", "B", "C_mid"]].isna().all().all()
    held = FITS[FITS.figure.str.contains("fixed-A")]
    assert len(held) == 9 and (held.A == 0.605).all() and held.C_mid.isna().all()
    assert (FITS[FITS.figure == "Fig 2"].C_mid.isna()).all()
    A = FITS.A.dropna() / 0.005  # every ceiling lies on the paper's grid
    assert np.allclose(A, A.round())


def test_the_notebook_needs_no_trainer():
    imports = cells()[0].source.split("ROOT =")[0]
    code = f"{imports}\nan.fit\nimport sys; print([m for m in ('torch', 'scalerl.train') if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_from_20k_the_forecast_is_wide_and_says_so_and_from_30k_it_is_calibrated(made):
    rows = {name: made["ours"][name].rows[0] for name in CUTS}
    assert [rows[name].calibrated for name in CUTS] == [False, False, False, True, True]
    for row in rows.values():
        assert row.mean_lo < 0.640 < row.mean_hi and row.mean_lo < made["happened"] < row.mean_hi
    assert rows["20k"].mean_hi - rows["20k"].mean_lo <= 0.30
    assert made["happened"] == pytest.approx((0.6414 + 0.6432 + 0.6317) / 3)


@pytest.mark.parametrize("cut", CUTS)
def test_no_cell_around_that_of_the_papers_grid_fits_better(made, cut):
    C, rate, R0 = (made[name] for name in ("C", "rate", "R0"))
    found, use = made["paper"][cut], (C >= 1_500) & (made["CUTS"][cut] >= C)
    mids = np.linspace(100.0, 40_000.0, 100)
    k = int(np.argmin(np.abs(mids - found["C_mid"])))
    assert mids[k] == pytest.approx(found["C_mid"], rel=1e-9)

    def sse(A, C_mid):
        def loss(B):
            return float(((R0 + (A - R0) / (1.0 + (C_mid / C[use]) ** B) - rate[use]) ** 2).sum())

        return minimize_scalar(loss, bounds=(0.2, 8.0), method="bounded", options={"xatol": 1e-9}).fun

    around = {
        (i, j): sse(found["A"] + 0.005 * i, mids[k + j]) for i in range(-3, 4) for j in (-2, -1, 0, 1, 2) if k + j >= 0
    }
    assert min(around, key=around.get) == (0, 0)


def test_the_page_repeats_the_forecasts(made):
    table = rows_below("The 100k-GPU-hour run, stopped early")
    assert tuple(table) == CUTS
    for cut, (paper, other, ours, band, width, calibrated, origins, reach) in table.items():
        row = made["ours"][cut].rows[0]
        lo, hi = (float(v) for v in band.split(" - "))
        curves = [float(made["an"].R(100e3, **made[which][cut])) for which in ("paper", "printed")]
        found = [*curves, row.pass_rate, row.mean_lo, row.mean_hi, row.mean_hi - row.mean_lo]
        assert [float(paper), float(other), float(ours), lo, hi, float(width)] == pytest.approx(found, abs=0.0011)
        assert (calibrated == "yes", int(origins)) == (row.calibrated, row.origins)
        assert float(reach.rstrip("x")) == pytest.approx(made["ours"][cut].reach, abs=0.011)
    inner = [float(made["an"].R(100e3, **made["paper_fit"](1_500, cut, R0=0.4213))) for cut in (16e3, 20e3)]
    assert inner == pytest.approx([0.590, 0.590], abs=6e-4) and "it gives .590 at 16k and 20k" in PAGE


def test_the_page_repeats_the_windows(made):
    table = rows_below("Windows")
    for cells, window in zip(table.values(), made["WINDOWS"], strict=True):
        row = made["window_row"](window)
        stated = f"{row['published A']:.3f} / {row['published B']:.2f}", f"{row['its grid, A']} / {row['its grid, B']}"
        assert tuple(cells[:2]) == tuple(text.replace("0.", ".", 1) for text in stated)
        assert cells[2] == row["ours, A"].replace("0.", ".")
        assert cells[3:] == [row[f"power law, {what}"].replace("0.", ".") for what in ("published A", "A")]


def test_what_the_margin_of_A_carries_in_the_leave_one_out_runs(made):
    table = rows_below("Leave one out")
    steps = []
    for name, cells in table.items():
        run = "ScaleRL" if "ScaleRL" in name else f"LOO-{name}"
        free, held = (published(f"arXiv Fig 7 (submission Fig 4) {kind}", run) for kind in ("free", "fixed"))
        A, B, C_mid, B_held, below, hours = (float(cell) for cell in cells)
        assert (A, B, C_mid, B_held) == (free.A, free.B, free.C_mid, held.B)
        assert below == pytest.approx(2.01 - held.B, abs=1e-9)
        gain = (0.55 - 0.40) / (A - 0.40)
        assert hours == pytest.approx(C_mid * (gain / (1.0 - gain)) ** (1.0 / B), abs=5.1)
        steps.append((held.A - A, held.B - B))
    dA, dB = np.array(steps).T
    slope = float(np.linalg.lstsq(dA[:, None], dB, rcond=None)[0][0])
    assert made["slope"] == pytest.approx(slope) and slope == pytest.approx(-17.0, abs=0.5)
    below = [float(cells[4]) for cells in table.values()]
    assert sum(value > 0.02 * abs(slope) for value in below) == 1 and below == sorted(below)
    on_run = {A: made["paper_fit"](1_500, 2e5, A=(A, A, 1))["B"] for A in (0.635, 0.655)}
    assert (on_run[0.655] - on_run[0.635]) / 0.02 == pytest.approx(slope, rel=0.15)


@pytest.mark.parametrize("R0", [0.39, 0.40, 0.41])
def test_the_order_by_compute_holds_at_its_ends_for_any_R0_that_curves_start_from(made, R0):
    free = made["free"]
    gain = (0.55 - R0) / (free.A - R0)
    order = list((free.C_mid * (gain / (1.0 - gain)) ** (1.0 / free.B)).sort_values().index)
    assert (order[0], order[-2:]) == ("ScaleRL", ["LOO-dapo", "LOO-PPO-off-policy-8"])


def test_where_the_page_says_the_paper_disagrees_it_does(made):
    table = {what: " | ".join(cells) for what, cells in rows_below("Where the paper disagrees with itself").items()}
    told = {
        "batch 2048": [
            ("arXiv Table 1", "ScaleRL-bs2048 (the 100k-GPU-hour 8B run)"),
            ("arXiv Fig 10a", "ScaleRL-bs2048"),
        ],
        "longer generation": [("arXiv Table 1", "ScaleRL-32k"), ("arXiv Fig 9", "ScaleRL-34k")],
        "PPO-off-policy-8 left out": [
            ("arXiv Fig 7 (submission Fig 4) free", "LOO-PPO-off-policy-8"),
            ("arXiv Fig 15", "loo_8op"),
        ],
    }
    for what, places in told.items():
        pairs = [f"{row.A:.3f} / {row.B:.2f}".lstrip("0") for row in (published(*place) for place in places)]
        assert pairs[0] != pairs[1] and all(pair in table[what] for pair in pairs)
    average = [published("arXiv Fig 14a", f"{what} avg").A for what in ("prompt", "sample", "token")]
    assert max(average) == average[2]
    assert re.findall(r"\.5\d+", table["aggregation"]) == [f"{A:.3f}"[1:] for A in average]
    assert {published("arXiv Fig 4a", run).A for run in FITS[FITS.figure.str.startswith("arXiv Fig 4a")].run} == {0.52}
    B = [published("arXiv Table 1", "ScaleRL (bs768, 16gen, 14k)").B, published("arXiv Fig 17a", "ScaleRL-16gen").B]
    B += [published("Fig 2", "ScaleRL").B, published("arXiv Fig 7 (submission Fig 4) fixed", "ScaleRL").B]
    assert [f"{b:.2f}" for b in B] == re.findall(r"\d\.\d\d", table["B of ScaleRL at A = .61"])
    assert made["reach16"] == pytest.approx([0.690, 0.671], abs=6e-4)
    assert "at 16k .690 against .671" in table["Scout 17Bx16"]
    mids = FITS.C_mid.dropna().unique()
    near = {ends: [np.abs(np.linspace(*ends, 100) - mid).min() <= 1.0 for mid in mids] for ends in GRIDS}
    assert np.logical_or(near[100, 4_000], near[0, 12_000]).all() and not any(near[100, 40_000])
    assert f"all {len(mids)} values" in table["grid of C_mid"]


def test_the_figures_draw_what_the_results_hold(made):
    an, ours = made["an"], made["ours"]
    told, ahead, clouds, fits, loo, lines = made["figures"]
    (ax,) = told.axes
    for cut in CUTS:
        row = ours[cut].rows[0]
        assert artist(ax, f"mean-{cut}").get_ydata() == pytest.approx([row.mean_lo, row.mean_hi])
        assert artist(ax, f"new-{cut}").get_ydata() == pytest.approx([row.lo, row.hi])
        assert artist(ax, f"ours-{cut}").get_ydata() == pytest.approx([row.pass_rate])
        assert (artist(ax, f"ours-{cut}").get_markerfacecolor() == "white") is not row.calibrated
        for which in ("paper", "printed"):
            assert artist(ax, f"{which}-{cut}").get_ydata() == pytest.approx([an.R(100e3, **made[which][cut])])
    assert artist(ax, "happened").get_ydata() == pytest.approx([made["happened"]] * 2)
    for ax, cut in zip(ahead.axes, ("12k", "20k", "30k"), strict=True):
        curve, later = artist(ax, "paper"), artist(ax, "later")
        assert curve.get_ydata() == pytest.approx(an.R(curve.get_xdata(), **made["paper"][cut]))
        assert len(later.get_xdata()) == 33 - ours[cut].fit.n
    shown = artist(clouds.axes[0], "published").get_xydata()
    assert shown.tolist() == FITS[FITS.figure == "arXiv A.7"][["A", "B"]].to_numpy().tolist()
    curves, cloud = fits.axes
    drawn = {line.get_gid(): line for line in curves.lines}
    long = drawn["curve-ScaleRL-bs2048 (the 100k-GPU-hour 8B run)"]
    assert long.get_ydata() == pytest.approx(an.R(long.get_xdata(), R0=0.402, A=0.645, B=1.7, C_mid=10909))
    styles = {gid: line.get_linestyle() for gid, line in drawn.items()}
    assert len(drawn) == 10 and list(styles.values()).count("-") == 5 and styles["curve-Scout-printed"] == ":"
    every = np.concatenate([line.get_xydata() for line in cloud.lines])
    stated = FITS[["A", "B"]].dropna().drop_duplicates().to_numpy()
    assert [len(line.get_xydata()) for line in cloud.lines] == [15, 7, 5, 9, 9]  # Table 1 without the code curve
    assert {tuple(point) for point in every} <= {tuple(point) for point in stated}
    layout, ridge = loo.axes
    assert artist(layout, "held").get_xdata()[-1] == 2.01
    assert artist(layout, "carried").get_width() == pytest.approx(0.02 * abs(made["slope"]))
    assert artist(ridge, "steps").get_xdata() == pytest.approx(0.605 - made["free"].A.to_numpy())
    for A, (B, dropped) in made["lines"].items():
        line, points = artist(lines.axes[0], f"line-{A}"), artist(lines.axes[0], f"points-{A}")
        assert np.polyfit(np.log(line.get_xdata()), line.get_ydata(), 1)[0] == pytest.approx(-B)
        assert len(points.get_xdata()) == 32 - dropped == int((made["rate"][1:] < A).sum())


def test_the_page_and_the_notebook_name_their_source_and_no_machine():
    for text in (PAGE, NOTEBOOK.read_text(encoding="utf-8"), Path("data/paper/README.md").read_text(encoding="utf-8")):
        assert "2510.13786" in text and "CC BY 4.0" in text and "/work/" not in text and "/tmp/" not in text  # noqa: S108
