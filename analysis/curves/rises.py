"""The rise s(C) of every family, its derivatives and its inverse, in logarithms.

A family is R = P0 (1 - s) + P1 s with two linear parameters P0 and P1; here are the shapes s alone. Every rise takes
ln C, (n,) or (m, n), -inf at C = 0, and theta (m, p), the logarithms of the shape parameters, and returns s (m, n)
with ds/dtheta (m, p, n). Every inverse takes the share of the gain, the rest (1 - share, exact also where a share is
close to 1) and one theta (p,), and returns ln C.

Promises: monotone; finite for every C > 0 whose rise is a number, and at C = 0 where the family is defined there; no
warning in either case. Compute enters as C over a compute-like parameter only, so ds/d ln C is minus the sum of the
derivatives with respect to those: no family needs a slope of its own, and none depends on the unit of compute.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DEEP = -1e300  # stands for ln(C / C_s) B at C = 0: its products with a rise of 0 are 0, those of -inf are not
STEEP = 700.0  # e^700 is finite, and a rise is 0 or 1 to all digits long before


def sigmoid(log_c: Array, theta: Array) -> tuple[Array, Array]:
    """s = 1 / (1 + (C_mid / C)^B); theta is ln B, ln C_mid.

    Half of the gain is reached at C_mid. Source: arXiv 2510.13786, equation 1; drc's LL.4 (Ritz, Baty, Streibig and
    Gerhard 2015, PLoS ONE 10(12) e0146021).
    """
    B = np.exp(theta[:, :1])
    down = np.minimum(-B * (log_c - theta[:, 1:2]), STEEP)
    e = np.exp(down)
    s = 1.0 / (1.0 + e)
    bend = s * (e * s)
    untrained = np.isneginf(log_c)
    if untrained.any():
        s = np.where(untrained, 0.0, s)
    derivatives = np.empty((len(theta), 2, bend.shape[1]))
    np.multiply(bend, -down, out=derivatives[:, 0])
    np.multiply(bend, -B, out=derivatives[:, 1])
    return s, derivatives


def to_sigmoid(share: Array, rest: Array, theta: Array) -> Array:
    """Invert `sigmoid`."""
    return np.asarray(theta[1] + (np.log(share) - np.log(rest)) * np.exp(-theta[0]))


def power_law(log_c: Array, theta: Array) -> tuple[Array, Array]:
    """s = 1 - (C / C_first)^-B; theta is ln B, ln C_first.

    R = A - D C^-B with D = (A - R_first) C_first^B, where C_first is no free parameter but the first compute above 0:
    the linear parameters are then levels inside the data, whatever the unit. Minus infinity at C = 0. Source: the
    power law with offset of Hestness et al. 2017, arXiv 1712.00409.
    """
    B = np.exp(theta[:, :1])
    t = B * (log_c - theta[:, 1:2])
    with np.errstate(over="ignore"):
        left = np.exp(-t)
        return -np.expm1(-t), np.stack([left * t, -B * left], axis=1)


def to_power_law(_: Array, rest: Array, theta: Array) -> Array:
    """Invert `power_law`."""
    return np.asarray(theta[1] - np.log(rest) * np.exp(-theta[0]))


def shifted_power_law(log_c: Array, theta: Array) -> tuple[Array, Array]:
    """s = 1 - (1 + C / C_s)^-B; theta is ln B, ln C_s.

    A power law that starts at C = 0 instead of -infinity. Source: the Pareto type II distribution (Lomax 1954, J. Am.
    Stat. Assoc. 49, 847-852), whose distribution function s is.
    """
    B = np.exp(theta[:, :1])
    log_sum, share = _softplus(log_c - theta[:, 1:2])
    left = np.exp(-B * log_sum)
    return -np.expm1(-B * log_sum), np.stack([left * B * log_sum, -left * B * share], axis=1)


def to_shifted_power_law(_: Array, rest: Array, theta: Array) -> Array:
    """Invert `shifted_power_law`."""
    return np.asarray(theta[1] + _log_expm1(-np.log(rest) * np.exp(-theta[0])))


def gompertz(log_c: Array, theta: Array) -> tuple[Array, Array]:
    """s = 2^-((C_mid / C)^B), a Gompertz curve in ln C; theta is ln B, ln C_mid.

    The base is 2 and not e so that half of the gain is reached at C_mid, as in the sigmoid; it leaves the start
    faster than it nears the limit. Source: Winsor 1932, PNAS 18, 1-8; in ln C it is the Weibull type 1 curve of drc
    (W1.4 with b = -B and e = C_mid (ln 2)^(1/B); Ritz et al. 2015).
    """
    B = np.exp(theta[:, :1])
    z = np.maximum(B * (log_c - theta[:, 1:2]), DEEP)
    w = math.log(2.0) * np.exp(np.minimum(-z, STEEP))
    s = np.exp(-w)
    bend = s * w
    return s, np.stack([bend * z, -B * bend], axis=1)


def to_gompertz(share: Array, rest: Array, theta: Array) -> Array:
    """Invert `gompertz`."""
    return np.asarray(theta[1] - np.log(_minus_log(share, rest) / math.log(2.0)) * np.exp(-theta[0]))


def ll5(log_c: Array, theta: Array) -> tuple[Array, Array]:
    """s = (1 + (C_s / C)^B)^-g, the asymmetric log-logistic; theta is ln B, ln C_s, ln g.

    The sigmoid at g = 1. C_s is where the slope turns from one tail to the other, not where half of the gain is
    reached. Source: Finney 1979, Int. Stat. Rev. 47, 1-12; drc's LL.5 with b = -B, e = C_s, f = g (Ritz et al. 2015).
    drc writes a falling curve with b > 0, which mirrors it; at g = 1 both are the same.
    """
    B, g = np.exp(theta[:, :1]), np.exp(theta[:, 2:3])
    z = np.maximum(B * (log_c - theta[:, 1:2]), DEEP)
    log_sum, missing = _softplus(-z)
    s = np.exp(-g * log_sum)
    bend = g * (s * missing)
    return s, np.stack([bend * z, -B * bend, -g * (s * log_sum)], axis=1)


def to_ll5(share: Array, rest: Array, theta: Array) -> Array:
    """Invert `ll5`."""
    return np.asarray(theta[1] - _log_expm1(_minus_log(share, rest) * np.exp(-theta[2])) * np.exp(-theta[0]))


def stretched_exponential(log_c: Array, theta: Array) -> tuple[Array, Array]:
    """s = 1 - exp(-(C / C_s)^B); theta is ln B, ln C_s.

    At C_s a share of 1 - 1/e is reached. Source: Weibull 1951, J. Appl. Mech. 18, 293-297; drc's W2.4 (Ritz et al.
    2015).
    """
    B = np.exp(theta[:, :1])
    z = np.maximum(B * (log_c - theta[:, 1:2]), DEEP)
    t = np.exp(np.minimum(z, STEEP))
    bend = t * np.exp(-t)
    return -np.expm1(-t), np.stack([bend * z, -B * bend], axis=1)


def to_stretched_exponential(_: Array, rest: Array, theta: Array) -> Array:
    """Invert `stretched_exponential`."""
    return np.asarray(theta[1] + np.log(-np.log(rest)) * np.exp(-theta[0]))


def saturating_exponential(log_c: Array, theta: Array) -> tuple[Array, Array]:
    """s = 1 - exp(-C / C_s); theta is ln C_s.

    The stretched exponential with B = 1: what is missing shrinks at a constant rate. Source: Mitscherlich 1909,
    Landw. Jahrb. 38, 537-552; drc's AR.3 (Ritz et al. 2015).
    """
    s, derivatives = stretched_exponential(log_c, np.concatenate([np.zeros_like(theta), theta], axis=1))
    return s, derivatives[:, 1:]


def to_saturating_exponential(_: Array, rest: Array, theta: Array) -> Array:
    """Invert `saturating_exponential`."""
    return np.asarray(theta[0] + np.log(-np.log(rest)))


def broken_power_law(log_c: Array, theta: Array) -> tuple[Array, Array]:
    """1 - s = (C / C_first)^-B1 [(1 + (C / C_break)^(1/f)) / (1 + (C_first / C_break)^(1/f))]^(-(B2 - B1) f).

    theta is ln B1, ln B2, ln C_break, ln f, ln C_first. What is missing falls as C^-B1 before the break and as C^-B2
    after it; f is the width of the break in e-folds. C_first is the first compute above 0, as in `power_law`. Minus
    infinity at C = 0. Source: Caballero, Gupta, Rish and Krueger 2023, arXiv 2210.14891, equation 1 with n = 1 break:
    c0 = B1, c1 = B2 - B1, d1 = C_break, f1 = f, a = A.
    """
    exponent, derivatives = _broken_exponent(log_c, theta)
    with np.errstate(over="ignore", invalid="ignore"):
        left = np.exp(-exponent)
        return -np.expm1(-exponent), left[:, None] * derivatives


def to_broken_power_law(_: Array, rest: Array, theta: Array) -> Array:
    """Invert `broken_power_law`: the logarithm of what is missing, bisected between its two exponents."""
    wanted = -np.log(np.atleast_1d(rest))
    ends = wanted[:, None] * np.exp(-theta[:2]) + theta[4]  # as if one exponent held throughout
    low, high = ends.min(axis=1), ends.max(axis=1)
    for _step in range(80):  # 2^-80 of the bracket is below rounding
        middle = 0.5 * (low + high)
        short = _broken_exponent(middle, theta[None])[0][0] < wanted
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    return np.asarray((0.5 * (low + high)).reshape(np.shape(rest)))


def _broken_exponent(log_c: Array, theta: Array) -> tuple[Array, Array]:
    """-ln(1 - s) of the broken power law, (m, n), and its derivatives (m, 5, n)."""
    B1, B2, f = np.exp(theta[:, :1]), np.exp(theta[:, 1:2]), np.exp(theta[:, 3:4])
    log_break, log_first = theta[:, 2:3], theta[:, 4:5]
    v, v0 = np.maximum((log_c - log_break) / f, DEEP), (log_first - log_break) / f
    (log_sum, past), (log_sum0, past0) = _softplus(v), _softplus(v0)
    far, beyond, change = log_c - log_first, f * (log_sum - log_sum0), B2 - B1
    derivatives = np.stack(
        [
            B1 * (far - beyond),
            B2 * beyond,
            -change * (past - past0),
            change * (beyond - f * (v * past - v0 * past0)),
            np.broadcast_to(-(B1 + change * past0), v.shape),
        ],
        axis=1,
    )
    return B1 * far + change * beyond, derivatives


def log_linear(log_c: Array, theta: Array) -> tuple[Array, Array]:
    """s = ln(C / C_first) / ln(C_last / C_first); theta is ln C_first, ln C_last.

    R = a + b ln C written with its levels at the first and the last compute above 0, which are no free parameters:
    b = (R_last - R_first) / ln(C_last / C_first). It has no limit, and is minus infinity at C = 0. Source: a straight
    line; the rule of thumb "so many points for each doubling of compute".
    """
    span = theta[:, 1:2] - theta[:, :1]
    s = (log_c - theta[:, :1]) / span
    return s, np.stack([(s - 1.0) / span, -s / span], axis=1)


def to_log_linear(share: Array, _: Array, theta: Array) -> Array:
    """Invert `log_linear`."""
    return np.asarray(theta[0] + share * (theta[1] - theta[0]))


def last_value(log_c: Array, theta: Array) -> tuple[Array, Array]:
    """s = 1 everywhere: the last evaluation is the forecast. Source: the baseline that every forecast has to beat."""
    m, n = len(theta), log_c.shape[-1]
    return np.ones((m, n)), np.empty((m, 0, n))


def _softplus(v: Array) -> tuple[Array, Array]:
    """ln(1 + e^v) and its derivative 1 / (1 + e^-v), without overflow."""
    e = np.exp(-np.abs(v))
    return np.maximum(v, 0.0) + np.log1p(e), np.where(v >= 0.0, 1.0, e) / (1.0 + e)


def _log_expm1(w: Array) -> Array:
    """ln(e^w - 1), w > 0, for any size of w."""
    return np.asarray(w + np.log(-np.expm1(-w)))


def _minus_log(share: Array, rest: Array) -> Array:
    """-ln(share), from whichever of both is small."""
    return np.asarray(np.where(share < 0.5, -np.log(share), -np.log1p(-np.minimum(rest, 0.5))))
