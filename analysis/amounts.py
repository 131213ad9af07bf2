"""Numbers as people write them. Importing this loads nothing."""

from __future__ import annotations

import math


def short(value: float, digits: int = 3) -> str:
    """Return a number with so many digits, and an exponent only where it would be long without.

    Examples
    --------
    >>> [short(v) for v in (1000.0, 2784.3, 331.2, 0.01234, 1.23e8, 2e-7, float("inf"))]
    ['1000', '2780', '331', '0.0123', '1.23e+08', '2e-07', 'inf']
    """
    if not math.isfinite(value):
        return f"{value:g}"
    text = f"{value:.{digits}g}"
    return f"{float(text):.0f}" if "e+" in text and abs(value) < 1e6 else text
