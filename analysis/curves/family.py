"""One interface for every family of curves: R = P0 (1 - s) + P1 s, with a rise s(C) of its own.

Promises: value, gradient, slope, limit and inverse, stable for C up to 1e30 and, where a family is defined there, from
C = 0. Given the shape a family is linear in its two linear parameters, P0 = R0 and P1 = A for most, which is what
every fit here uses. `analysis.curves.families` holds the registry, `analysis.curves.rises` the equations and their
sources.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scalerl.runlog import UserError

Array = NDArray[np.float64]
Rise = Callable[[Array, Array], tuple[Array, Array]]
"""Of ln C, (n,) or (m, n), and the worked shape (m, p): the rise s (m, n) and its derivatives (m, p, n)."""
Inverse = Callable[[Array, Array, Array], Array]
"""Of the share of the gain (k,), the rest (k,) = 1 - share, and a worked shape (p,): ln C, (k,)."""


@dataclass(frozen=True)
class Family:
    """A family of curves.

    A vector of `parameters` holds the two linear ones and then the natural shape. Parameters that are computes begin
    with ``C_`` and have the unit of compute; all shape parameters are above 0.

    Attributes
    ----------
    name : str
    shape : tuple of str
        Names of the shape parameters; `theta` holds their logarithms.
    rise : callable
    grid : callable
        Of the unique finite ln C, (k,): one array of starting values for each shape parameter.
    bounds : callable
        Of the same: lower and upper bounds of the worked shape, (p,) each; equal where the parameter is in `fixed`.
    inverse : callable, optional
        ln C at a share of the gain; None where the curve is constant.
    equation : str
        For reports.
    linear : tuple of str
        Names of P0 and P1.
    bounded : tuple of bool
        Whether P0 and P1 are pass rates that the data's window or a limit shows, and so inside [0, 1].
    fixed : tuple of str
        Parameters that are read off the data and not estimated.
    asymptote : bool
        Whether P1 is the limit of the curve.
    at_zero : bool
        Whether the curve is finite at C = 0, where it then is P0. Otherwise leave that evaluation out of a fit.
    last_only : bool
        Whether only the last evaluation is used.

    Examples
    --------
    >>> from analysis.curves.families import SIGMOID, get_family
    >>> SIGMOID.value([0.0, 2.0, 1e30], [0.1, 0.7, 1.5, 2.0]).round(12).tolist()
    [0.1, 0.4, 0.7]
    >>> get_family("gompertz").parameters
    ('R0', 'A', 'B', 'C_mid')
    """

    name: str
    shape: tuple[str, ...]
    rise: Rise = field(repr=False)
    grid: Callable[[Array], list[Array]] = field(repr=False)
    bounds: Callable[[Array], tuple[Array, Array]] = field(repr=False)
    inverse: Inverse | None = field(repr=False)
    equation: str
    linear: tuple[str, str] = ("R0", "A")
    bounded: tuple[bool, bool] = (True, True)
    fixed: tuple[str, ...] = ()
    asymptote: bool = True
    at_zero: bool = True
    last_only: bool = False

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of all parameters: linear, then shape."""
        return self.linear + self.shape

    @property
    def free(self) -> tuple[str, ...]:
        """Names of the parameters that a fit estimates."""
        return tuple(name for name in self.parameters if name not in self.fixed)

    def vector(self, params: ArrayLike | Mapping[str, float]) -> Array:
        """Return the parameters as an array (..., 2 + p), from one or from a mapping by name.

        Raises
        ------
        UserError
            A parameter is missing, unknown or, of the shape, not above 0.
        """
        if isinstance(params, Mapping):
            if set(params) != set(self.parameters):
                raise UserError(f"{self.name} takes {', '.join(self.parameters)}, got {', '.join(params) or 'nothing'}")
            params = [params[name] for name in self.parameters]
        vector = np.asarray(params, dtype=float)
        if vector.ndim == 0 or vector.shape[-1] != len(self.parameters):
            raise UserError(f"{self.name} takes {', '.join(self.parameters)}, got an array of shape {vector.shape}")
        if not (vector[..., 2:] > 0.0).all():
            raise UserError(f"{self.name}: {', '.join(self.shape)} must be above 0")
        return vector

    def value(self, C: ArrayLike, params: ArrayLike | Mapping[str, float]) -> Any:
        """Return the pass rate at compute `C`, exact at C = 0 and in the limit.

        Parameters
        ----------
        C : array-like
            Compute, at least 0, in the unit of the parameters.
        params : (2 + p,) or (m, 2 + p) array-like, or mapping
            In the order of `parameters`; m rows need a `C` of shape (n,).

        Returns
        -------
        array or float
            In the shape of `C`, or (m, n). Infinite at C = 0 where `at_zero` is False.
        """
        vector = self.vector(params)
        s, _ = self._rise(C, vector)
        P0, P1 = vector[..., :1].reshape(-1, 1), vector[..., 1:2].reshape(-1, 1)
        with np.errstate(invalid="ignore"):  # some families are infinite at C = 0, where P1 s and P0 s cancel to NaN
            out = P0 * (1.0 - s) + P1 * s
            out = np.where(np.isfinite(s), out, np.where(P1 == P0, P0, (P1 - P0) * s))
        return out if vector.ndim > 1 else out.reshape(np.shape(C))[()]

    def gradient(self, C: ArrayLike, params: ArrayLike | Mapping[str, float]) -> Array:
        """Return dR/d(parameters), natural ones, at each `C`: shape ``C.shape + (2 + p,)``.

        Raises
        ------
        UserError
            A compute is 0 and `at_zero` is False.

        Examples
        --------
        >>> from analysis.curves.families import SIGMOID
        >>> SIGMOID.gradient(2.0, [0.1, 0.7, 2.0, 2.0]).round(12).tolist()
        [0.5, 0.5, 0.0, -0.15]
        """
        vector = self._one(params)
        s, derivatives = self._rise(C, vector, inside=True)
        shape = (vector[1] - vector[0]) * derivatives[0].T / vector[2:]
        out = np.concatenate([1.0 - s.T, s.T, shape], axis=1)
        return np.asarray(out.reshape(*np.shape(C), len(vector)))

    def slope_in_log_c(self, log_c: Array, theta: Array) -> Array:
        """Return ds / d ln C, (m, n), of ln C, (n,) or (m, n), and the worked shape (m, p)."""
        _, derivatives = self.rise(log_c, theta)
        return np.asarray(-derivatives[:, [name.startswith("C_") for name in self.shape]].sum(axis=1))

    def slope(self, C: ArrayLike, params: ArrayLike | Mapping[str, float]) -> Any:
        """Return dR / d ln C, the pass rate gained for an e-fold of compute, in the shape of `C`.

        Raises
        ------
        UserError
            A compute is 0 and `at_zero` is False.

        Examples
        --------
        >>> from analysis.curves.families import SIGMOID
        >>> float(SIGMOID.slope(2.0, [0.1, 0.7, 2.0, 2.0]).round(12))   # (A - R0) B / 4 at C_mid
        0.3
        """
        vector = self._one(params)
        log_c = self._log(C, inside=True)
        rate = self.slope_in_log_c(log_c.ravel(), np.log(vector[None, 2:]))
        return ((vector[1] - vector[0]) * rate).reshape(log_c.shape)[()]

    def limit(self, params: ArrayLike | Mapping[str, float]) -> float | None:
        """Return where the curve ends as compute grows; None where the family has no asymptote."""
        return float(self._one(params)[1]) if self.asymptote else None

    def compute_to(self, target: ArrayLike, params: ArrayLike | Mapping[str, float]) -> Any:
        """Return the compute at which the curve reaches `target`; infinity means never.

        0 where the curve starts there or beyond. A falling curve (P1 < P0) is read downwards.

        Raises
        ------
        UserError
            A target is NaN.

        Examples
        --------
        >>> from analysis.curves.families import SIGMOID
        >>> SIGMOID.compute_to([0.05, 0.4, 0.7], [0.1, 0.7, 1.5, 2.0]).round(12).tolist()
        [0.0, 2.0, inf]
        """
        vector = self._one(params)
        target = np.asarray(target, dtype=float)
        if np.isnan(target).any():
            raise UserError("a target is not a number")
        gain = vector[1] - vector[0]
        if self.inverse is None or gain == 0.0:
            return np.where(target <= vector[1], 0.0, np.inf)[()]
        share, rest = (target - vector[0]) / gain, (vector[1] - target) / gain
        never = rest <= 0.0 if self.asymptote else np.zeros_like(rest, dtype=bool)
        compute = np.where(never, np.inf, 0.0)
        between = ~never & (share > 0.0) if self.at_zero else ~never
        with np.errstate(over="ignore"):  # a compute too large for a float is infinity, which is the right answer
            compute[between] = np.exp(self.inverse(share[between], rest[between], np.log(vector[2:])))
        return compute[()]

    def _one(self, params: ArrayLike | Mapping[str, float]) -> Array:
        vector = self.vector(params)
        if vector.ndim != 1:
            raise UserError(f"{self.name}: one vector of parameters is wanted, got an array of shape {vector.shape}")
        return vector

    def _log(self, C: ArrayLike, *, inside: bool = False) -> Array:
        C = np.asarray(C, dtype=float)
        if not (np.isfinite(C) & (C >= 0.0)).all():
            raise UserError("compute must be a number of at least 0 and below infinity; `limit` is where a curve ends")
        if inside and not self.at_zero and (C == 0.0).any():
            raise UserError(f"{self.name} has no derivative at C = 0: leave that point out")
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(C))

    def _rise(self, C: ArrayLike, vector: Array, *, inside: bool = False) -> tuple[Array, Array]:
        return self.rise(self._log(C, inside=inside).ravel(), np.log(np.atleast_2d(vector)[:, 2:]))
