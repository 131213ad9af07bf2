"""Mathematical answers by math-verify: numbers, fractions, sets, intervals, tuples, equations, matrices; LaTeX or text.

The last boxed expression counts and no other; a box that is not closed is no answer. Where there is no box, what looks
most like an answer does ("the answer is ...", then the last formula or number). math-verify's own time limits are off:
they work by signals, and this runs in a process that has a limit of its own.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from scalerl.runlog import UserError

INSTALL = "reward: math-verify is not installed: pip install 'scalerl[rewards]'"
# What math-verify reads otherwise: 3\,000 as 3 x 0, and 1e3 as 3 e.
THIN_SPACE = re.compile(r"(?<=\d)(?:\\[,;:! ]|~)(?=\d{3}(?!\d))")
BLANK = re.compile(r"(?<=\d) (?=\d{3}(?!\d))")  # in references and boxes; in prose it stands between two numbers
EXPONENT = re.compile(r"(?<![\w.\\])(\d+(?:\.\d+)?)[eE]([+-]?\d+)(?!\w)")
LONGEST_BARE = 300  # characters of a completion without any mark that is taken for an answer as a whole


@cache
def package() -> Any:
    """Return the package, made quiet.

    Raises
    ------
    UserError
        If it is not installed.
    """
    try:
        import math_verify
    except ModuleNotFoundError as error:
        raise UserError(INSTALL) from error
    for name in ("math_verify", "latex2sympy2_extended"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return math_verify


def score(item: Mapping[str, Any], completion: str) -> bool:
    r"""Return whether the completion's answer equals the item's.

    Raises
    ------
    ValueError
        If the item's answer cannot be read: that is no fault of the completion.

    Examples
    --------
    >>> score({"answer": "1/2"}, r"So it is \boxed{0.5}.")
    True
    >>> score({"answer": "(1, 2)"}, r"\boxed{(2, 1)}")
    False
    """
    gold = read_reference(str(item["answer"]))
    if not gold:
        raise ValueError(f"the reference answer {str(item['answer'])[:60]!r} cannot be read")
    found = read(completion)
    return bool(found) and bool(package().verify(gold, found, allow_set_relation_comp=True, timeout_seconds=None))


def read_reference(answer: str) -> list[Any]:
    """Return what a reference answer says; it is all answer, whether it is marked or not."""
    answer = BLANK.sub("", answer)
    marked = "\\boxed" in answer or "$" in answer or "\\(" in answer or "\\[" in answer
    return _parse(answer if marked else f"\\boxed{{{answer}}}")


def read(completion: str) -> list[Any]:
    """Return what a completion answers."""
    if "\\boxed" in completion:
        box = BLANK.sub("", last_box(completion))
        return _parse(f"\\boxed{{{box}}}") if box.strip() else []
    found = _parse(completion)
    bare = completion.strip()
    if not found and bare and len(bare) <= LONGEST_BARE and "\n" not in bare:
        return _parse(f"\\boxed{{{bare}}}")
    return found


def last_box(text: str) -> str:
    r"""Return what stands in the last ``\boxed{}``; nothing if it is not closed.

    Examples
    --------
    >>> last_box(r"\boxed{1}, or rather \boxed{\frac{1}{2}}."), last_box(r"\boxed{\frac{1}{2}")
    ('\\frac{1}{2}', '')
    """
    behind = text.rpartition("\\boxed")[2].lstrip()
    if not behind.startswith("{"):
        return behind.split(maxsplit=1)[0] if behind else ""
    depth = 0
    for place, character in enumerate(behind):
        depth += (character == "{") - (character == "}")
        if character in "{}" and behind[place - 1] == "\\" and place:  # an escaped brace counts for nothing
            depth -= (character == "{") - (character == "}")
        if depth == 0:
            return behind[1:place]
    return ""


def _parse(text: str) -> list[Any]:
    text = EXPONENT.sub(r"\1 \\times 10^{\2}", THIN_SPACE.sub("", text))
    package_ = package()
    config = [package_.LatexExtractionConfig(boxed_match_priority=0), package_.ExprExtractionConfig()]
    found: list[Any] = package_.parse(text, extraction_config=config, parsing_timeout=None)
    return found
