"""What a figure of fitted curves says in words: legend, caption, what a band is. Draws nothing.

Promises: only what is true of the fits that are drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from analysis.fits.results import LEVEL, Fit
from analysis.fits.tables import figures, unit

NAME_LENGTH = 40  # a longer name is cut in the middle, so that its seed at the end can be read


def caption(fits: Iterable[Fit]) -> str:
    """Return a caption that says what `plot_curves` draws of these fits, with the unit of compute.

    Examples
    --------
    >>> import analysis as an
    >>> caption([an.fit(an.read("data/paper/scalerl_8b_bs2048_100k.csv")[0], method="lsq")])
    'Points: evaluations. Solid: fitted curve (least squares). Dashed: extrapolation. Bars above A: its interval, where
    the data identify it. Compute in gpu_hours on a log scale.'
    """
    fits = list(fits)
    said = ["Points: evaluations, hollow where left out of the fit." if _any_left_out(fits) else "Points: evaluations."]
    fitted = [fit for fit in fits if fit.fitted]
    if fitted:
        ways = " or ".join(dict.fromkeys(map(curve_of, fitted)))
        said += [f"Solid: fitted curve ({ways}).", "Dashed: extrapolation."]
        shaded = [fit for fit in fitted if has_band(fit)]
        if shaded:
            some = "" if len(shaded) == len(fitted) else ", where the fit has one"
            said.append(f"Shaded: {band_name(shaded)}{some}; single evaluations scatter more widely.")
        said.append("Bars above A: its interval, where the data identify it.")
    zero = any(np.any(np.r_[fit.compute, fit.left_out[:, 0]] == 0.0) for fit in fits)
    said.append(f"Compute in {unit(fits[0].x)} on a log scale{', 0 left of the break' if zero else ''}.")
    return " ".join(said)


def curve_of(fit: Fit) -> str:
    """Return in two words how the curve of a fit was found."""
    if fit.method == "paper" and fit.report.get("method") != "least squares":  # what runs without noise fall back on
        return "published grid"
    return "posterior medians" if fit.method == "posterior" and fit.draws is not None else "least squares"


def _any_left_out(fits: Iterable[Fit]) -> bool:
    return any(len(fit.left_out) for fit in fits)


def label(fit: Fit) -> str:
    """Return what the legend says of a fit: its name, A with limits where identified, and how many warnings."""
    A = fit.params["A"]
    if not fit.fitted:
        text = "not fitted"
    elif A.identified:
        text = "A = {} ({})".format(*figures(A))
    else:
        text = "A not identified"
    doubts = sum(f.severity != "note" for f in fit.findings)
    warned = f", {doubts} warning{'s' if doubts > 1 else ''}" if doubts else ""
    return f" {short_name(fit.name)}: {text}{warned}"  # the leading space keeps a name that starts with _ in the legend


def recipe_label(recipe: str, fits: Sequence[Fit]) -> str:
    """Return what the legend says of the runs of a recipe: A of each where identified, and how many are doubted."""
    if len(fits) == 1:
        return label(fits[0])
    known = [figures(fit.params["A"])[0] if fit.params["A"].identified else "?" for fit in fits]
    text = "A not identified" if set(known) == {"?"} else f"A = {', '.join(known)}"
    doubted = sum(any(f.severity != "note" for f in fit.findings) for fit in fits)
    return f" {short_name(recipe)}, {len(fits)} runs: {text}{f', {doubted} with warnings' if doubted else ''}"


def short_name(name: str) -> str:
    """Return a name, cut in the middle where it is long.

    Examples
    --------
    >>> short_name("a-recipe-with-a-long-name-and-many-words/seed0")
    'a-recipe-with-a-lo ... d-many-words/seed0'
    """
    half = NAME_LENGTH // 2 - 2
    return name if len(name) <= NAME_LENGTH else f"{name[:half]} ... {name[-half:]}"


def has_band(fit: Fit) -> bool:
    """Return whether a band is drawn: there is a curve, and draws that passed their check."""
    return fit.fitted and fit.trusted_draws is not None


def band_level(fit: Fit) -> float:
    """Return the level of the band that is drawn."""
    return LEVEL if fit.level is None else fit.level


def band_name(fits: Iterable[Fit]) -> str:
    """What the shaded areas of these fits are; their level is said where it is one."""
    levels = {f"{100.0 * band_level(fit):g} % " for fit in fits}
    return f"{levels.pop() if len(levels) == 1 else ''}band of the mean curve"
