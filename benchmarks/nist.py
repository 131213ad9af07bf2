"""The solver against the 27 certified results of NIST's Statistical Reference Datasets, from both starts of each.

Run ``python -m benchmarks.nist`` from the repository's root. Digits are correct significant digits (log relative
error) of the worst parameter and of the worst standard error from J'J; NIST certifies 11. Jacobians are exact to
rounding (complex step). Both starts of a set are two problems of one batch.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from analysis.curves.solver import Array, Dense, Index, minimise

FOLDER = Path(__file__).parent.parent / "data" / "nist"
CERTIFIED_DIGITS = 11


def _gauss(x: Array, b: Array) -> Array:
    peaks = b[2] * np.exp(-((x - b[3]) ** 2) / b[4] ** 2) + b[5] * np.exp(-((x - b[6]) ** 2) / b[7] ** 2)
    return b[0] * np.exp(-b[1] * x) + peaks


def _lanczos(x: Array, b: Array) -> Array:
    return b[0] * np.exp(-b[1] * x) + b[2] * np.exp(-b[3] * x) + b[4] * np.exp(-b[5] * x)


def _cubic_ratio(x: Array, b: Array) -> Array:
    return (b[0] + b[1] * x + b[2] * x**2 + b[3] * x**3) / (1 + b[4] * x + b[5] * x**2 + b[6] * x**3)


def _chwirut(x: Array, b: Array) -> Array:
    return np.exp(-b[0] * x) / (b[1] + b[2] * x)


def _enso(x: Array, b: Array) -> Array:
    waves = [(12, b[1], b[2]), (b[3], b[4], b[5]), (b[6], b[7], b[8])]
    return b[0] + sum(c * np.cos(2 * np.pi * x / t) + s * np.sin(2 * np.pi * x / t) for t, c, s in waves)


MODELS: dict[str, Callable[[Array, Array], Array]] = {
    "Bennett5": lambda x, b: b[0] * (b[1] + x) ** (-1 / b[2]),
    "BoxBOD": lambda x, b: b[0] * (1 - np.exp(-b[1] * x)),
    "Chwirut1": _chwirut,
    "Chwirut2": _chwirut,
    "DanWood": lambda x, b: b[0] * x ** b[1],
    "ENSO": _enso,
    "Eckerle4": lambda x, b: (b[0] / b[1]) * np.exp(-0.5 * ((x - b[2]) / b[1]) ** 2),
    "Gauss1": _gauss,
    "Gauss2": _gauss,
    "Gauss3": _gauss,
    "Hahn1": _cubic_ratio,
    "Kirby2": lambda x, b: (b[0] + b[1] * x + b[2] * x**2) / (1 + b[3] * x + b[4] * x**2),
    "Lanczos1": _lanczos,
    "Lanczos2": _lanczos,
    "Lanczos3": _lanczos,
    "MGH09": lambda x, b: b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3]),
    "MGH10": lambda x, b: b[0] * np.exp(b[1] / (x + b[2])),
    "MGH17": lambda x, b: b[0] + b[1] * np.exp(-x * b[3]) + b[2] * np.exp(-x * b[4]),
    "Misra1a": lambda x, b: b[0] * (1 - np.exp(-b[1] * x)),
    "Misra1b": lambda x, b: b[0] * (1 - (1 + b[1] * x / 2) ** -2),
    "Misra1c": lambda x, b: b[0] * (1 - (1 + 2 * b[1] * x) ** -0.5),
    "Misra1d": lambda x, b: b[0] * b[1] * x / (1 + b[1] * x),
    "Nelson": lambda x, b: b[0] - b[1] * x[0] * np.exp(-b[2] * x[1]),
    "Rat42": lambda x, b: b[0] / (1 + np.exp(b[1] - b[2] * x)),
    "Rat43": lambda x, b: b[0] / (1 + np.exp(b[1] - b[2] * x)) ** (1 / b[3]),
    "Roszman1": lambda x, b: b[0] - b[1] * x - np.arctan(b[2] / (x - b[3])) / np.pi,
    "Thurber": _cubic_ratio,
}


class Reference(NamedTuple):
    """One set: predictors, response, both starts (2, p), certified parameters and standard deviations (p,)."""

    x: Array
    y: Array
    starts: Array
    theta: Array
    standard_error: Array


class Digits(NamedTuple):
    """Correct digits from each start, (2,)."""

    theta: Array
    standard_error: Array


def load(name: str) -> Reference:
    """Read a set."""
    lines = (FOLDER / f"{name}.dat").read_text(encoding="ascii").splitlines()
    rows = [line.split("=")[1].split() for line in lines if re.match(r"\s*b\d+\s*=", line)]
    start1, start2, theta, error = np.array(rows, dtype=float).T
    first = max(number for number, line in enumerate(lines) if line.startswith("Data:")) + 1
    data = np.array([line.split() for line in lines[first:] if line.strip()], dtype=float)
    y, x = data[:, 0], data[:, 1:].T
    if name == "Nelson":  # its model is of log y
        y = np.log(y)
    return Reference(x[0] if len(x) == 1 else x, y, np.stack([start1, start2]), theta, error)


def solve(name: str, iterations: int = 2000) -> Digits:
    """Fit a set from both starts and count correct digits."""
    reference, formula = load(name), MODELS[name]

    def model(theta: Array, _: Index) -> Dense:
        residual = np.stack([formula(reference.x, b) - reference.y for b in theta])
        jacobian = np.empty((*residual.shape, theta.shape[1]))
        for k in range(theta.shape[1]):
            moved = theta.astype(complex)
            moved[:, k] += 1e-30j
            jacobian[..., k] = np.stack([formula(reference.x, b).imag for b in moved]) / 1e-30
        return Dense(residual, jacobian)

    found = minimise(model, reference.starts, iterations=iterations)
    n, p = len(reference.y), reference.starts.shape[1]
    errors = []
    for theta, sse in zip(found.theta, found.sse, strict=True):
        triangle = np.linalg.qr(model(theta[None], np.zeros(1, np.intp)).jacobian[0], mode="r")
        errors.append(np.sqrt((np.linalg.pinv(triangle) ** 2).sum(axis=1) * sse / (n - p)))
    return Digits(_digits(found.theta, reference.theta), _digits(np.stack(errors), reference.standard_error))


def _digits(value: Array, certified: Array) -> Array:
    with np.errstate(divide="ignore"):
        digits = -np.log10(np.abs(value - certified) / np.abs(certified))
    return np.clip(digits, 0, CERTIFIED_DIGITS).min(axis=1)


def main() -> None:
    """Print the table and what was missed."""
    print(f"{'set':<10} {'digits from start 1, 2':<24} digits of standard errors")
    missed = []
    for name in sorted(MODELS):
        digits = solve(name)
        print(f"{name:<10} {digits.theta[0]:<11.1f} {digits.theta[1]:<12.1f} "
              f"{digits.standard_error[0]:<6.1f} {digits.standard_error[1]:.1f}")  # fmt: skip
        missed += [f"{name} from start {start + 1}" for start in (0, 1) if digits.theta[start] < 6]
    print(f"fewer than 6 digits: {', '.join(missed) or 'none'}")


if __name__ == "__main__":
    main()
