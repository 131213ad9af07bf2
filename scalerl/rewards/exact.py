"""Exact match: the answer itself, give or take case and white space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def score(item: Mapping[str, Any], completion: str) -> bool:
    """Return whether the completion is the answer: both stripped, case folded, runs of white space made one blank.

    Nothing else is forgiven: "42." is not "42". The item may list several answers under ``answers`` instead.

    Examples
    --------
    >>> score({"answer": "New York"}, "  new   york ")
    True
    >>> score({"answer": "42"}, "42.")
    False
    """
    wanted = item["answers"] if isinstance(item.get("answers"), list) else [item["answer"]]
    return _plain(completion) in {_plain(answer) for answer in wanted}


def _plain(text: Any) -> str:
    return " ".join(str(text).split()).casefold()
