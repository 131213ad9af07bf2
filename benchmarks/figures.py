"""The pictures of README and docs, from the data that ship.

Run ``make figures`` or ``python -m benchmarks.figures`` from the repository's root; writes ``docs/study.png``: the
study's base stage, curves and the ceilings beside the best.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt

import analysis as an

DOCS = Path("docs")
DPI = 110


def study() -> None:
    """Five recipes over three seeds: curves to 4x the compute that was trained, and differences of the ceiling."""
    fits = an.fit(an.read("data/study/base"), x="flops", r0="shared")
    figure, (left, right) = plt.subplots(1, 2, figsize=(11.5, 4.2), width_ratios=[1.25, 1], layout="constrained")
    an.plot_curves(fits, left)
    told = left.get_legend()
    if told is not None:
        told.remove()  # the recipes have their colours on the right
    an.plot_forest(an.compare(fits), right)
    right.set_title("their ceilings, to the best", fontsize="medium")
    left.set_title("five recipes, three seeds each", fontsize="medium")
    figure.savefig(DOCS / "study.png", dpi=DPI)


def main() -> int:
    """Draw them."""
    mpl.use("Agg")
    study()
    return 0


if __name__ == "__main__":
    sys.exit(main())
