"""Are recipes measured alike? Prompts, checker, task and devices of the runs that a comparison puts side by side.

Promises: same prompts cancel; other prompts add what their choice is worth, where the log has the counts of each
prompt, and are not tested where it has not; another task or checker is not tested; another kind of device is flagged.
What a log does not say is taken to be the same, with a note.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.curves.solver import Array
from analysis.findings import Finding, finding
from analysis.fits.results import Fit
from analysis.pooled.seeds import prompt_sd
from analysis.schema import Run

ONE_SEED = "one seed, and no seed sd was stated"
WALL = {"gpu_hours": "a GPU-hour", "cpu_s": "a CPU-second"}  # axes that depend on the device


@dataclass(frozen=True)
class Likeness:
    """What speaks against comparing recipes.

    Attributes
    ----------
    prompts : mapping of recipe to the hashes of its evaluation prompts, None where the log does not say
    sds : mapping of recipe to float or None
        What another sample of prompts would move the pass rate by.
    apart : mapping of recipe to str
        Recipes that are not compared with any other, and why.
    """

    prompts: Mapping[str, frozenset[str] | None]
    sds: Mapping[str, float | None]
    apart: Mapping[str, str]
    findings: tuple[Finding, ...]

    def prompt_covariance(self, names: Sequence[str]) -> Array:
        """What the choice of prompts adds to recipes together, (R, R): recipes on the same prompts share it whole.

        0 where all of them have the same prompts. A recipe whose log does not say its prompts is taken to have those
        of most others.
        """
        said = Counter(p for name in names if (p := self.prompts[name]) is not None)
        if len(said) < 2:
            return np.zeros((len(names), len(names)))
        usual = said.most_common(1)[0][0]
        sets = [self.prompts[name] or usual for name in names]
        return np.array([[self._variance(p) if p == q else 0.0 for q in sets] for p in sets])

    def prompt_shifts(self, names: Sequence[str], M: int) -> Array:
        """Draws of what the choice of prompts adds to each recipe, (R, M): one normal deviate for each set of them."""
        covariance = self.prompt_covariance(names)
        if not covariance.any():
            return np.zeros((len(names), M))
        values, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        return np.asarray(root @ np.random.default_rng(13).normal(size=(len(names), M)))

    def prompt_variance(self, first: str, second: str) -> float:
        """Variance that the choice of prompts gives to the difference of two recipes; 0 on the same prompts."""
        covariance = self.prompt_covariance([first, second])
        return float(covariance[0, 0] + covariance[1, 1] - 2.0 * covariance[0, 1])

    def _variance(self, prompts: frozenset[str]) -> float:
        """Mean over the recipes on these prompts whose logs have the counts; 0 where none has."""
        known = [sd**2 for name, sd in self.sds.items() if sd is not None and self.prompts[name] == prompts]
        return float(np.mean(known)) if known else 0.0

    def why(self, first: str, second: str) -> str:
        """Why the difference of two recipes cannot be tested; empty if it can."""
        if self._differ(first, second) and (self.sds[first] is None or self.sds[second] is None):
            return "other evaluation prompts, and the log has no counts of each prompt"
        return ""

    def untested(self, seeds: Mapping[str, int], seed_sd: float | None) -> dict[str, str]:
        """Recipes, given with their numbers of seeds, that are tested against no other, and why."""
        found = dict(self.apart)
        if seed_sd is None:
            found |= {name: ONE_SEED for name, count in seeds.items() if count < 2}
        for name in seeds:  # one that can be tested against nobody is no candidate for the best, either
            why = [self.why(name, other) for other in seeds if other != name]
            if all(why):
                found.setdefault(name, why[0])
        return found

    def _differ(self, first: str, second: str) -> bool:
        a, b = self.prompts[first], self.prompts[second]
        return a is not None and b is not None and a != b


def of_recipes(groups: Mapping[str, Sequence[Fit]], x: str) -> Likeness:
    """Look at how the runs of recipes were measured."""
    prompts = {name: _prompts([f.run for f in fits]) for name, fits in groups.items()}
    sds = {name: prompt_sd(fits) for name, fits in groups.items()}
    found: list[Finding] = []
    apart: dict[str, str] = {}
    known = {p for p in prompts.values() if p is not None}
    if len(known) > 1:
        what = "the recipes were evaluated on different prompts; what their choice is worth is added to differences"
        if any(sds[name] is None for name in groups):
            what += ", and where the log has no counts of each prompt differences are not tested"
        found.append(finding("prompt-sets-differ", what))
    if None in prompts.values():
        without = ", ".join(name for name, p in prompts.items() if p is None)
        which = "logs" if all(p is None for p in prompts.values()) else f"logs of {without}"
        what = f"the {which} do not say which prompts were evaluated; they are taken to be the same"
        found.append(finding("prompts-unknown", what))
    tasks = {name: {t for f in fits if (t := _task(f.run))} for name, fits in groups.items()}
    if len(set().union(*tasks.values())) > 1:
        said = ", ".join(f"{name}: {' and '.join(sorted(t))}" for name, t in tasks.items() if t)
        found.append(finding("checkers-differ", f"task or checker differs ({said}): differences are not tested"))
        apart = dict.fromkeys(groups, "another task or checker")
    devices = {d for fits in groups.values() for f in fits if (d := _device(f.run))}
    if x in WALL and len(devices) > 1:
        what = f"runs on different devices ({', '.join(sorted(devices))}): {WALL[x]} is not the same on each"
        found.append(finding("devices-differ", f"{what}; compare by tokens or FLOPs"))
    return Likeness(prompts, sds, apart, tuple(found))


def _prompts(runs: Sequence[Run]) -> frozenset[str] | None:
    sets = [frozenset(map(str, run.data["prompt_set"])) for run in runs if "prompt_set" in run.data]
    return frozenset().union(*sets) if sets else None


def _within(header: Any, *keys: str) -> Any:
    for key in keys:
        header = header.get(key) if isinstance(header, Mapping) else None
    return header


def _task(run: Run) -> str:
    parts = [_within(run.header, "config", name) or _within(run.header, name) for name in ("task", "checker")]
    return " ".join(str(p) for p in parts if p)


def _device(run: Run) -> str:
    kind = _within(run.header, "devices", "kind")
    return str(kind) if kind else ""
