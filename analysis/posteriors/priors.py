"""What the posterior assumes before the data. All of it stands in the report of a fit, and can be set."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any

from scalerl.runlog import UserError

R0_SD = 0.2  # of the prior of R0 around the first evaluations


@dataclass(frozen=True)
class Priors:
    """What is assumed before the data; all of it stands in the report of a fit.

    Attributes
    ----------
    log_B : (mean, sd)
        ln B is normal.
    C_mid : (low, high)
        ln C_mid is uniform from `low` x the first positive compute to `high` x the last compute.
    rho : (low, high)
        Correlation of neighbouring evaluations, uniform.
    ceiling : float
        A is uniform on [0, ceiling].
    R0 : (mean, sd) or None
        R0 is normal, inside [0, 1]; None takes the evaluations at the lowest compute as mean and `R0_SD` as sd.
    least_sigma : float
        The noise has p(sigma) ~ 1 / sigma, cut off smoothly below this: no evaluation is more exact, and points that a
        curve goes through exactly would otherwise claim to know it without error. Used where sigma is unknown, that is
        without the counts of each prompt.

    Raises
    ------
    UserError
        If a field is not finite numbers in the order and range that its prior takes.

    Notes
    -----
    Where sigma is unknown the prior of R0 is in its units: `R0`'s sd times sigma over the size that the least squares
    curve leaves under that noise. With a prior that is level in sigma, noise that is large and nearly constant (rho
    near 1) holds so much mass that at 5 C_mid, 60 points and rho .7 the limits of A are 2.4 times as far apart as the
    Cramer-Rao bound instead of 1.6, for a coverage of .96 instead of .95. With 1 / sigma^2 they are 1.4 times as far,
    but at 20 points and rho .7 hold A in 88 % only (200 to 300 simulated curves each; `benchmarks.coverage` for 1 /
    sigma).
    """

    log_B: tuple[float, float] = (math.log(1.5), 0.7)  # noqa: N815
    C_mid: tuple[float, float] = (math.exp(-2.0), 20.0)
    rho: tuple[float, float] = (0.0, 1.0)
    ceiling: float = 1.0
    R0: tuple[float, float] | None = None
    least_sigma: float = 1e-4

    def __post_init__(self) -> None:
        _check("log_B", self.log_B, 2, "(mean, sd) with sd > 0", lambda v: v[1] > 0.0)
        _check("C_mid", self.C_mid, 2, "(low, high) with 0 < low < high", lambda v: 0.0 < v[0] < v[1])
        _check("rho", self.rho, 2, "(low, high) with 0 <= low <= high <= 1", lambda v: 0.0 <= v[0] <= v[1] <= 1.0)
        _check("ceiling", self.ceiling, 1, "above 0 and at most 1", lambda v: 0.0 < v[0] <= 1.0)
        if self.R0 is not None:
            _check("R0", self.R0, 2, "None or (mean, sd) with sd > 0", lambda v: v[1] > 0.0)
        _check("least_sigma", self.least_sigma, 1, "above 0", lambda v: v[0] > 0.0)

    def to_dict(self) -> dict[str, object]:
        """Return the fields as plain values."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}


def in_words(priors: Mapping[str, Any]) -> str:
    """Say what `Priors.to_dict` holds; what else stands there as it is.

    Examples
    --------
    >>> in_words({"rho": [0.0, 1.0], "R0": None})
    'rho uniform on 0 to 1; R0 normal around the evaluations at the lowest compute, sd 0.2'
    """
    said = []
    for name, value in priors.items():
        if name == "log_B":
            said.append(f"ln B normal, mean {value[0]:.3g}, sd {value[1]:.3g}")
        elif name == "C_mid":
            said.append(f"ln C_mid uniform, {value[0]:.3g} x the first positive compute to {value[1]:.3g} x the last")
        elif name == "rho":
            said.append(f"rho uniform on {value[0]:.3g} to {value[1]:.3g}")
        elif name == "ceiling":
            said.append(f"A uniform on 0 to {value:.6g}")
        elif name == "R0" and value is None:
            said.append(f"R0 normal around the evaluations at the lowest compute, sd {R0_SD:g}")
        elif name == "R0":
            said.append(f"R0 normal, mean {value[0]:.3g}, sd {value[1]:.3g}")
        elif name == "least_sigma":
            said.append(f"p(sigma) ~ 1 / sigma, cut off below {value:.3g}")
        else:
            said.append(f"{name} {value}")
    return "; ".join(said)


def _check(name: str, given: Any, count: int, wanted: str, holds: Callable[[tuple[float, ...]], bool]) -> None:
    """Refuse what is not `count` finite numbers (one stands alone, two in a tuple) of which `holds` is true."""
    values: tuple[Any, ...] = tuple(given) if count > 1 and isinstance(given, (tuple, list)) else (given,)
    numbers = all(not isinstance(v, bool) and isinstance(v, Real) and math.isfinite(v) for v in values)
    if len(values) != count or not numbers or not holds(values):
        shown = " ".join(repr(given).split())
        raise UserError(f"priors: {name} is {wanted}; {shown[:40]}{'...' * (len(shown) > 40)} is not")
