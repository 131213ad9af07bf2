"""The pictures of README and docs, from the data that ship.

Run ``make figures`` or ``python -m benchmarks.figures`` from the repository's root; writes ``docs/study.png``: the
study's base stage, curves and the ceilings beside the best.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

import analysis as an
from analysis.plots.looks import colour_of, marker_of, recipe_ranks

DOCS = Path("docs")
DPI = 110


def study() -> None:
    """Five recipes over three seeds: curves to 4x the compute that was trained, what came there, and the ceilings."""
    fits = an.fit(an.read("data/study/base"), x="flops", r0="shared")
    last = max(float(fit.compute[-1]) for fit in fits)
    figure, (left, right) = plt.subplots(1, 2, figsize=(12.5, 4.4), width_ratios=[1.3, 1], layout="constrained")
    an.plot_curves(fits, left)
    ranks = recipe_ranks(fit.run.recipe for fit in fits)
    handles = [Line2D([], [], color=colour_of(rank), lw=2.0, label=recipe) for recipe, rank in ranks.items()]
    for recipe in ("scalerl", "grpo"):
        look = {"marker": marker_of(ranks[recipe]), "color": colour_of(ranks[recipe]), "mfc": "white", "ms": 4, "lw": 0}
        for run in an.read(f"data/study/long/{recipe}_s*"):
            later = run.frame[run.frame["flops"] > last]
            left.plot(later["flops"], later["pass_rate"], zorder=5, **look)
        handles.append(Line2D([], [], **look, label=f"longer runs of {recipe}, not fitted"))
    left.legend(handles=handles, frameon=False, loc="lower right", fontsize="small")
    an.plot_forest(an.compare(fits), right)
    right.set_title("their ceilings, to the best, by the short runs", fontsize="medium")
    left.set_title("five recipes, three seeds each", fontsize="medium")
    figure.savefig(DOCS / "study.png", dpi=DPI)


def main() -> int:
    """Draw them."""
    mpl.use("Agg")
    study()
    return 0


if __name__ == "__main__":
    sys.exit(main())
