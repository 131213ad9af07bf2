"""Weighted draws of a curve's parameters, and what is read off them.

Promises: a quantile is that of the weighted draws, and infinite where it touches draws that never arrive; importing
this loads nothing heavy. Does not promise that the draws are good: what made them checks itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from scalerl.runlog import UserError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

DRAWN = ("R0", "A", "B", "C_mid", "rho", "sigma", "weight")


@dataclass(frozen=True, eq=False)
class Draws:
    """Weighted draws of the posterior or of a bootstrap, shape (M,) each.

    Attributes
    ----------
    R0, A, B, C_mid : array
        In natural units; C_mid in the unit of the fit's compute axis.
    rho, sigma : array
        Correlation of neighbouring residuals and standard deviation of the noise; 0 and the fit's own sigma where a
        method does not vary them.
    weight : array
        At least 0, summing to 1.

    Raises
    ------
    UserError
        If lengths differ, or the weights are not weights.
    """

    R0: NDArray[Any]
    A: NDArray[Any]
    B: NDArray[Any]
    C_mid: NDArray[Any]
    rho: NDArray[Any]
    sigma: NDArray[Any]
    weight: NDArray[Any]

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in DRAWN}
        if len(set(lengths.values())) != 1 or not lengths["weight"]:
            raise UserError(f"draws: lengths differ or are 0 ({', '.join(f'{k} {v}' for k, v in lengths.items())})")
        # NaN fails both comparisons; 1e-6 leaves room for sums of many weights
        if not (self.weight.min() >= 0.0 and abs(float(self.weight.sum()) - 1.0) <= 1e-6):
            raise UserError("draws: weights must be at least 0 and sum to 1")

    def __len__(self) -> int:
        return len(self.weight)

    def __repr__(self) -> str:
        return f"Draws({len(self)}, effective {self.effective:.0f})"

    @property
    def effective(self) -> float:
        """Number of equally weighted draws that would say as much: 1 / sum of squared weights."""
        return 1.0 / float(self.weight @ self.weight)

    def moments(self, values: NDArray[Any]) -> tuple[float, float]:
        """Return mean and variance of a function (M,) of the draws.

        Examples
        --------
        >>> import numpy as np
        >>> one = np.ones(4)
        >>> Draws(one, one, one, one, one, one, weight=one / 4).moments(np.array([1.0, 1.0, 3.0, 3.0]))
        (2.0, 1.0)
        """
        mean = float(self.weight @ values)
        return mean, float(self.weight @ (values - mean) ** 2)

    def quantile(self, values: ArrayLike, q: ArrayLike) -> NDArray[Any]:
        """Return weighted quantiles `q` of a function of the draws.

        Parameters
        ----------
        values : array-like, shape (M,) or (M, K)
            One row a draw; infinity stands for never.
        q : array-like, shape (Q,)
            Levels between 0 and 1.

        Returns
        -------
        array, shape (Q,) or (Q, K)
            Linear between draws at the middle of their weights; infinite where the quantile touches infinity.

        Examples
        --------
        >>> import numpy as np
        >>> one = np.ones(4)
        >>> draws = Draws(one, one, one, one, one, one, weight=one / 4)
        >>> draws.quantile([4.0, 1.0, 3.0, 2.0], [0.125, 0.5, 1.0]).tolist()
        [1.0, 2.5, 4.0]
        """
        import numpy as np

        used = self.weight > 0.0
        weights = self.weight[used]
        columns = np.ascontiguousarray(np.asarray(values, dtype=float)[used].reshape(len(weights), -1).T)
        levels = np.atleast_1d(np.asarray(q, dtype=float))
        found = np.empty((len(levels), len(columns)))
        for k, column in enumerate(columns):
            order = np.argsort(column)
            column, weight = column[order], weights[order]  # noqa: PLW2901
            middle = np.cumsum(weight) - 0.5 * weight
            n = int(np.searchsorted(column, np.inf))  # infinities sort last
            found[:, k] = np.interp(levels, middle[:n], column[:n]) if n else np.inf
            if n < len(column):
                found[levels > (middle[n - 1] if n else -1.0), k] = np.inf
        return found[:, 0] if np.ndim(values) == 1 else found


class Band(NamedTuple):
    """Limits and middle of the curve, each in the shape of the compute that was asked for."""

    lo: Any
    mid: Any
    hi: Any


@dataclass(frozen=True)
class Reached:
    """Compute at which a curve reaches `target`; infinity means never, None unknown."""

    target: float
    value: float
    lo: float | None
    hi: float | None
    level: float
    x: str

    def __repr__(self) -> str:
        from analysis.fits.tables import reached_text

        return reached_text(self)


def tail(level: float) -> float:
    """Return the share that an interval of `level` leaves out on either side."""
    if not 0.0 < level < 1.0:
        raise UserError(f"level: {level:g} does not lie between 0 and 1")
    return 0.5 * (1.0 - level)
