"""Forecasts of learning curves that this project did not make: do the bands hold, and does averaging families help?

Run ``python -m benchmarks.lcdb lcdb-0.1.0.tar.gz [--half test|dev] [--curves 800]`` from the repository's root, with
the package of the Learning Curve Database (MIT, Mohr, Viering, Loog and van Rijn 2022) as ``pip download --no-deps
lcdb==0.1.0`` fetches it. A curve is the mean test accuracy of one learner on one data set over its splits, against the
number of training examples, which stands for compute; those with 12 sizes or more count. The data sets are split in
two by a hash of their number: on ``dev`` the constants of `analysis.predict.ahead` were chosen, ``test`` was not
looked at for that. Each curve is cut 2x and 4x before its last size and the last accuracy is forecast; 8 sizes at
least are left. Rows are kept in ``--work`` and not computed again.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import sys
import tarfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from analysis.curves.families import FAMILIES, Array
from analysis.fits.evaluations import Evaluations
from analysis.fits.reach import TOLERANCE
from analysis.predict.ahead import METHODS, calibrate, cut_at, fit_family
from analysis.predict.reaches import path_of, reach_of
from benchmarks.simulate import wilson

FACTORS = (2.0, 4.0)
LEAST_SIZES, LEAST_LEFT, LEAST_SPLITS = 12, 8, 5
RESAMPLES = 2000


def read_curves(archive: Path) -> list[dict[str, Any]]:
    """Mean accuracies from the package's source archive."""
    sums: dict[tuple[int, str, int], list[float]] = defaultdict(lambda: [0.0, 0.0])
    with tarfile.open(archive) as package:
        name = next(n for n in package.getnames() if n.endswith("database-accuracy.csv"))
        member = package.extractfile(name)
        if member is None:
            raise SystemExit(f"{archive}: no database-accuracy.csv inside")
        for row in csv.DictReader(io.TextIOWrapper(member, encoding="utf-8")):
            if row["score_test"]:
                cell = sums[int(row["openmlid"]), row["learner"], int(row["size_train"])]
                cell[0] += float(row["score_test"])
                cell[1] += 1.0
    by_curve: dict[tuple[int, str], list[tuple[int, float, float]]] = defaultdict(list)
    for (data, learner, size), (total, count) in sums.items():
        by_curve[data, learner].append((size, total / count, count))
    curves = []
    for (data, learner), points in sorted(by_curve.items()):
        most = max(count for *_, count in points)
        kept = sorted((size, rate) for size, rate, count in points if count >= 0.8 * most)
        if len(kept) >= LEAST_SIZES and most >= LEAST_SPLITS:
            curves.append(
                {"data": data, "learner": learner, "size": [s for s, _ in kept], "rate": [r for _, r in kept]}
            )
    return curves


def half_of(data: int) -> str:
    """Which half of the data sets one belongs to."""
    return "dev" if int(hashlib.sha256(str(data).encode()).hexdigest(), 16) % 2 == 0 else "test"


def cut_before(compute: Array, factor: float) -> int | None:
    """How many points lie so far before the last that it is `factor` ahead."""
    gone = np.log(compute[-1] / compute[:-1]) / np.log(factor)
    j = int(np.argmin(np.abs(np.log(gone))))
    return j + 1 if 0.8 < gone[j] < 1.25 and j + 1 >= LEAST_LEFT else None


def record(curve: dict[str, Any]) -> dict[str, Any]:
    """Everything that is said of one curve."""
    compute, rate = np.array(curve["size"], dtype=float), np.array(curve["rate"])
    row: dict[str, Any] = {"data": curve["data"], "learner": curve["learner"]}
    for factor in FACTORS:
        n = cut_before(compute, factor)
        if n is None:
            continue
        seen = Evaluations(compute[:n], rate[:n], compute[:n], None, ())
        cut = cut_at(seen)
        if cut is None:
            continue
        past, last = calibrate(seen), compute[-1:]
        errors = {"last_value": abs(float(rate[n - 1] - rate[-1]))}
        for name, family in FAMILIES.items():
            if not family.last_only:
                vector, _ = fit_family(family, np.log(compute[:n]), rate[:n])
                errors[name] = abs(float(np.clip(family.value(last, vector)[0], 0.0, 1.0) - rate[-1]))
        told: dict[str, Any] = {"n": n, "errors": errors}
        for method in METHODS:
            mid, sd = (float(v[0]) for v in cut.ahead(last, method))
            wide = past.widening(float(last[0] / cut.last), method)
            errors["posterior" if method == "sigmoid" else method] = abs(mid - float(rate[-1]))
            path = path_of(cut, past, 0.95, method)
            reach = reach_of(path, past, TOLERANCE, method).value
            reached = np.flatnonzero(compute <= reach * cut.last)
            j = int(reached[-1])
            held = None if j < n else abs(float(cut.ahead(compute[j : j + 1], method).mid[0] - rate[j]))
            told[method] = {
                "half": wide.times * float(np.hypot(sd, cut.sigma)),
                "origins": wide.origins,
                "reach": reach,
                "error_at_reach": held,
            }
        row[f"{factor:g}"] = told
    return row


def clustered(values: Array, groups: Array, rng: np.random.Generator) -> tuple[float, float, float]:
    """Mean and its 95 % interval, data sets drawn with replacement."""
    kinds, index = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(index, values), np.bincount(index)
    picks = rng.integers(0, len(kinds), (RESAMPLES, len(kinds)))
    means = sums[picks].sum(axis=1) / counts[picks].sum(axis=1)
    return float(values.mean()), *(float(q) for q in np.quantile(means, [0.025, 0.975]))


def report(rows: list[dict[str, Any]]) -> bool:
    """Print every figure beside its bar; says whether all were met."""
    fine = True
    for factor, widest in zip(FACTORS, (0.035, 0.045), strict=True):
        told = [(row["data"], row[f"{factor:g}"]) for row in rows if f"{factor:g}" in row]
        data = np.array([d for d, _ in told])
        print(f"\n{factor:g}x ahead: {len(told)} curves of {len(set(data))} data sets")
        errors = {name: np.array([t["errors"][name] for _, t in told]) for name in told[0][1]["errors"]}
        for name, found in sorted(errors.items(), key=lambda item: item[1].mean()):
            mean, lo, hi = clustered(errors["average"] - found, data, np.random.default_rng(0))
            beaten = "" if name == "average" else f"   average less this {mean:+.4f} [{lo:+.4f}, {hi:+.4f}]"
            print(f"  {name:<24} mean |error| {found.mean():.4f}  median {np.median(found):.4f}{beaten}")
        best = min(found.mean() for name, found in errors.items() if name != "average")
        fine &= bool(errors["average"].mean() < best)
        for method in METHODS:
            own = errors["posterior" if method == "sigmoid" else method]
            half = np.array([t[method]["half"] for _, t in told])
            known = np.array([t[method]["origins"] for _, t in told]) >= 3
            for what, which in (("calibrated", known), ("not calibrated", ~known), ("all", known | ~known)):
                if which.any():
                    share = wilson(int((own <= half)[which].sum()), int(which.sum()))
                    print(f"  {method:<8} {what:<15} holds {share}  median half-width {np.median(half[which]):.4f}")
                    if method == "average" and what == "calibrated":
                        fine &= share.high >= 0.91 and share.low <= 0.98 and bool(np.median(half[which]) <= widest)
            reached = [t[method] for _, t in told if t[method]["error_at_reach"] is not None]
            if reached:
                good = wilson(sum(t["error_at_reach"] <= TOLERANCE for t in reached), len(reached))
                quartiles = np.percentile([t[method]["reach"] for _, t in told], [25, 50, 75])
                print(
                    f"  {method:<8} reach over 1 in {len(reached) / len(told):.3f}; error at the reach at most "
                    f"{TOLERANCE:g} in {good}; quartiles {', '.join(f'{q:.2f}' for q in quartiles)}"
                )
                fine &= method != "average" or good.high >= 0.93
    return fine


def main() -> None:
    """Compute what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--half", choices=("test", "dev"), default="test")
    parser.add_argument("--curves", type=int, default=800)
    parser.add_argument("--work", type=Path, default=Path("outputs/lcdb"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    store = args.work / "curves.json"
    if not store.exists():
        store.write_text(json.dumps(read_curves(args.archive)))
    mine = [c for c in json.loads(store.read_text()) if half_of(c["data"]) == args.half]
    chosen = np.sort(np.random.default_rng(0).permutation(len(mine))[: args.curves])
    done_file = args.work / f"{args.half}.jsonl"
    lines = done_file.read_text().splitlines() if done_file.exists() else []
    done = {(row["data"], row["learner"]): row for row in map(json.loads, lines)}
    with done_file.open("a") as out:
        for count, i in enumerate(chosen):
            key = mine[i]["data"], mine[i]["learner"]
            if key not in done:
                done[key] = record(mine[i])
                out.write(json.dumps(done[key]) + "\n")
                out.flush()
            if count % 100 == 0:
                print(f"{count} of {len(chosen)}", file=sys.stderr, flush=True)
    print(f"{args.half} half: {len(chosen)} of {len(mine)} curves")
    rows = [done[mine[i]["data"], mine[i]["learner"]] for i in chosen]
    fine = report(rows)
    print("\nevery bar met" if fine else "\nMISSED: see above")
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
