"""Values that a loop hands to the log: made plain, checked, or refused in one line.

Promises: what comes out is JSON; numbers of numpy, torch and their like become Python's through their own
``tolist()``, ``item()`` or ``float()``; nothing is turned into text that was none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from scalerl.runlog.files import RunLogError

KINDS = "a row holds numbers, text, true, false, null, and lists and mappings of these"
Counts = Iterable[Any]


def plain(value: Any, name: str, not_finite: dict[str, str]) -> Any:
    """Return a value as JSON has it; a number that is not finite becomes None and is named in `not_finite`.

    Raises
    ------
    RunLogError
        If the value is of another kind.

    Examples
    --------
    >>> said = {}
    >>> plain({"lr": 1e-5, "norms": (1, float("inf"))}, "step", said), said
    ({'lr': 1e-05, 'norms': [1, None]}, {'step.norms': 'inf'})
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        not_finite[name] = str(float(value))
        return None
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise RunLogError(f"{name} has a key {key!r:.40}, which is no text; {KINDS}")
        return {str(key): plain(inner, f"{name}.{key}", not_finite) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner, name, not_finite) for inner in value]
    return plain(_converted(value, name), name, not_finite)


def _converted(value: Any, name: str) -> Any:
    """Return what numpy, torch, JAX and others make of their own numbers and arrays, or of what is a number to them."""
    for method in ("tolist", "item", "__float__"):
        convert = getattr(value, method, None)
        if callable(convert):
            try:
                made = convert()
            except Exception as error:  # whatever a foreign type raises: it is no number
                raise RunLogError(f"{name} is a {type(value).__name__} that gives no number: {error}") from error
            if isinstance(made, (bool, int, float, list)):
                return made
    raise RunLogError(f"{name} is a {type(value).__name__}; {KINDS}")


def whole(value: Any, name: str, least: int = 0) -> int:
    """Return a whole number that is not below `least`.

    Raises
    ------
    RunLogError
        If it is none.
    """
    made = plain(value, name, {})
    if isinstance(made, float) and made.is_integer():
        made = int(made)
    if type(made) is not int or made < least:
        raise RunLogError(f"{name} is {value!r:.60}; it must be a whole number, {least} or more")
    return made


def rate(value: Any, name: str) -> float:
    """Return a fraction from 0 to 1.

    Raises
    ------
    RunLogError
        If it is none, with a hint where it looks like percent.
    """
    made = plain(value, name, {})
    if type(made) not in (int, float) or not 0 <= made <= 1:
        hint = "; divide percent by 100" if type(made) in (int, float) and 1 < made <= 100 else ""
        raise RunLogError(f"{name} is {value!r:.60}; it must be a fraction from 0 to 1{hint}")
    return float(made)


def measured(correct: Counts | None, k: Any, pass_rate: Any, n_prompts: Any) -> dict[str, float | int | list[int]]:
    """Return pass rate, prompts, completions a prompt, and counts of an evaluation, as far as they are known.

    Parameters
    ----------
    correct : iterable of int, optional
        Correct completions of each prompt.
    k : int, optional
        Completions a prompt.
    pass_rate : float, optional
        Mean over prompts and completions, where the counts are not known.
    n_prompts : int, optional

    Raises
    ------
    RunLogError
        If a count is not between 0 and `k`, the pass rate is no fraction, or the two do not agree.
    """
    row: dict[str, Any] = {}
    if k is not None:
        row["k"] = whole(k, "k", 1)
    if n_prompts is not None:
        row["n_prompts"] = whole(n_prompts, "n_prompts", 1)
    if correct is None:
        if pass_rate is None:
            raise RunLogError("an evaluation needs correct=[...] and k=..., or pass_rate=...")
        return {"pass_rate": rate(pass_rate, "pass_rate"), **row}
    if k is None:
        raise RunLogError("correct needs k, the number of completions a prompt")
    counts = [whole(count, "correct") for count in _listed(correct, "correct")]
    if not counts or max(counts) > row["k"]:
        raise RunLogError(f"correct must hold at least one count, each between 0 and k={row['k']}")
    if row.setdefault("n_prompts", len(counts)) != len(counts):
        raise RunLogError(f"n_prompts is {row['n_prompts']}, and correct holds {len(counts)} counts")
    found = sum(counts) / (row["k"] * len(counts))
    if pass_rate is not None and not math.isclose(rate(pass_rate, "pass_rate"), found, abs_tol=1e-6):
        raise RunLogError(f"pass_rate is {pass_rate!r:.60}, and correct gives {found:.6g}; give one of them")
    return {"pass_rate": found, "n_prompts": len(counts), "k": row["k"], "correct": counts}


def summed(rewards: Counts) -> dict[str, float | int]:
    """Return sum, count and population variance of rewards, as step rows keep them.

    Examples
    --------
    >>> summed([1, -1, 1, 1])
    {'reward_sum': 2.0, 'reward_count': 4, 'reward_var': 0.75}
    """
    not_finite: dict[str, str] = {}
    values = _flat(plain(_listed(rewards, "rewards"), "rewards", not_finite))
    if not_finite or not values or not all(type(v) in (int, float) for v in values):
        raise RunLogError("rewards must hold at least one number, and only finite ones")
    total = math.fsum(values)
    mean = total / len(values)
    variance = math.fsum((v - mean) ** 2 for v in values) / len(values)
    return {"reward_sum": total, "reward_count": len(values), "reward_var": variance}


def _listed(values: Counts, name: str) -> list[Any]:
    listed = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(listed, (str, bytes, Mapping)) or not isinstance(listed, Iterable):
        raise RunLogError(f"{name} is {values!r:.60}; it must be a list of numbers")
    return list(listed)


def _flat(value: Any) -> list[Any]:
    return [one for inner in value for one in _flat(inner)] if isinstance(value, list) else [value]
