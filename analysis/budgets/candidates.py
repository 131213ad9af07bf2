"""Which of several recipes should get the next budget: how likely each is the best at a compute ahead.

Promises: a recipe of one seed has no probability unless what seeds differ by is stated; recipes of several seeds say it
together, by the rule of `analysis.comparisons.contrasts`. Recipes that were not measured alike have none, as
`analysis.compare` tests no difference of theirs, and nobody has one while a recipe without stands higher. A run whose
few evaluations carry no forecast that far is no candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from analysis.budgets.plans import Candidate
from analysis.comparisons import contrasts
from analysis.comparisons.likeness import of_recipes
from analysis.curves.solver import Array
from analysis.findings import Finding
from analysis.fits.results import Fit
from analysis.posteriors.draws import tail
from analysis.predict.ahead import Calibration, Cut
from analysis.predict.reaches import NEXT, carried

METHOD = "average"
DRAWS = 20_000
Known = tuple[Cut, Calibration] | None  # a run as it stands, and its earlier cuts; None where nothing is claimed ahead


class Ranking(NamedTuple):
    """Recipes, the one to go on with first, and what speaks against ranking them."""

    candidates: tuple[Candidate, ...]
    findings: tuple[Finding, ...]


class _Seed(NamedTuple):
    """A forecast of one seed: middle, standard deviation, and the freedom of its t."""

    run: str
    mid: float
    sd: float
    dof: float


def rank(
    fits: Sequence[Fit], known: Sequence[Known], horizon: float, *, level: float, seed_sd: float | None, seed: int
) -> Ranking:
    """Return recipes, the one to go on with first; none where fewer than two can be forecast.

    Seeds of a recipe are averaged; what seeds differ by widens that, as it is stated, or as the seeds of all recipes
    that have several say it; what another sample of prompts would do is added where prompts differ. By probability
    where every recipe has one, otherwise by pass rate.
    """
    recipes: dict[str, list[_Seed]] = {}
    groups: dict[str, list[Fit]] = {}
    for f, k in zip(fits, known, strict=True):
        if k is not None and carried(k[0].n, horizon / k[0].last):
            recipes.setdefault(f.run.recipe, []).append(_ahead(f, *k, horizon, level))
            groups.setdefault(f.run.recipe, []).append(f)
    if len(recipes) < 2:
        return Ranking((), ())
    like = of_recipes(groups, fits[0].x)
    rng = np.random.default_rng([seed, 3])
    spread = [name for name, seeds in recipes.items() if seed_sd is not None or len(seeds) > 1]
    tau = _tau([recipes[name] for name in spread], seed_sd, rng) if spread else np.zeros(DRAWS)
    draws = {name: _drawn(seeds, tau if name in spread else np.zeros(DRAWS), rng) for name, seeds in recipes.items()}
    limits = {name: np.quantile(of, [0.5, tail(level), 1.0 - tail(level)]) for name, of in draws.items()}
    why = like.untested({name: len(seeds) for name, seeds in recipes.items()}, seed_sd)
    tested = [name for name in recipes if name not in why]
    highest = max(recipes, key=lambda name: float(limits[name][0]))
    p_best: dict[str, float] = {}
    if len(tested) < 2:
        why |= dict.fromkeys(tested, "no other recipe is tested")
    elif highest in why:
        why |= dict.fromkeys(tested, f"{highest}, which is not tested, stands higher")
    else:
        drawn = np.stack([draws[name] for name in tested]) + like.prompt_shifts(tested, DRAWS)
        p_best = dict(
            zip(tested, (np.bincount(drawn.argmax(axis=0), minlength=len(tested)) / DRAWS).tolist(), strict=True)
        )
    found = []
    for name, seeds in recipes.items():
        mid, lo, hi = (float(q) for q in limits[name])
        runs = tuple(s.run for s in seeds)
        found.append(Candidate(name, runs, mid, lo, hi, p_best.get(name), why.get(name, "")))
    all_known = len(p_best) == len(found)
    ordered = sorted(found, key=lambda c: -(c.p_best or 0.0) if all_known else -c.pass_rate)
    return Ranking(tuple(ordered), like.findings)


def _ahead(fitted: Fit, cut: Cut, past: Calibration, horizon: float, level: float) -> _Seed:
    ahead = cut.ahead(np.array([horizon]), METHOD)
    wide = past.widening(max(horizon / cut.last, NEXT), METHOD, level)
    return _Seed(fitted.name, float(ahead.mid[0]), wide.inflation * float(ahead.sd[0]), wide.dof)


def _tau(recipes: Sequence[Sequence[_Seed]], seed_sd: float | None, rng: np.random.Generator) -> Array:
    """Draws of the standard deviation between seeds, (M,)."""
    values = [np.array([s.mid for s in seeds]) for seeds in recipes]
    own = [np.array([s.sd**2 for s in seeds]) for seeds in recipes]
    return contrasts.spread(values, own, seed_sd=seed_sd).quantile(rng.uniform(size=DRAWS))


def _drawn(seeds: Sequence[_Seed], tau: Array, rng: np.random.Generator) -> Array:
    """Draws of the recipe's pass rate, (M,)."""
    each = [s.mid + np.hypot(s.sd, tau) * rng.standard_t(s.dof, DRAWS) for s in seeds]
    return np.asarray(np.mean(np.clip(each, 0.0, 1.0), axis=0))
