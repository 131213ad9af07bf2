"""From a raw row to an item: which column is the prompt, which the answer, and what makes a row unusable."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from scalerl.preparing.readers import MOST_ROW_BYTES

PROMPT_COLUMNS = ("prompt", "problem", "question", "instruction")
ANSWER_COLUMNS = ("answer", "final_answer", "ground_truth")
SIGN = re.compile(r"\\.|[{}]", re.DOTALL)  # a brace behind a backslash is printed, and holds nothing
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
OWN = ("prompt", "answer", "system", "thinking", "solution", "difficulty")
"""The columns that the trainer knows; whatever else a row has is kept beside them under its own name."""

MOST_DEPTH = 100  # of lists and objects in each other; whoever reads the files must be able to, too

REASONS: dict[str, str] = {
    "not_json": "no JSON, or nested too deeply",
    "name_twice": "an object with two columns of one name",
    "not_an_object": "JSON, but no object with columns",
    "encoding": "bytes that are no UTF-8, or a time that cannot be held",
    "too_long": f"more than {MOST_ROW_BYTES // 2**20} MiB in one row",
    "missing_prompt": "no prompt column, or null in it",
    "empty_prompt": "blank prompt",
    "prompt_not_text": "prompt is neither text nor a list of chat messages of text",
    "conversation": "chat messages other than system ones and one of a user",
    "missing_answer": "no answer column, null in it, and no final answer in a solution",
    "empty_answer": "blank answer",
    "answer_not_text": "answer is neither text nor a number",
    "half_character": "a lone surrogate, which no file in UTF-8 can hold",
    "nul": "a NUL character",
    "over_budget": "prompt over its budget of tokens or characters",
    "conflicting_answers": "one prompt, several answers: none is taken",
    "duplicate": "the same prompt and answer as another row",
    "contaminated": "overlaps with a prompt of --decontaminate",
    "near_duplicate": "nearly the prompt of another row, with the same numbers and the same answer",
    "not_drawn": "usable, but --sizes asks for fewer",
}


class RowError(Exception):
    """A row that is left out, with its reason."""


class Columns(NamedTuple):
    """Columns named by the user, where the usual names do not do."""

    prompt: str | None = None
    answer: str | None = None


def to_item(value: Any, columns: Columns, left_out: dict[str, int]) -> dict[str, Any]:
    """Return the item of a raw row; count in `left_out` the columns that no JSON file can hold.

    Raises
    ------
    RowError
        If the row is of no use; the argument is a key of `REASONS`.

    Examples
    --------
    >>> to_item({"problem": "1 + 1?", "solution": "It is \\\\boxed{2}.", "reward": "3/8"}, Columns(), {})
    {'prompt': '1 + 1?', 'answer': '2', 'solution': 'It is \\\\boxed{2}.', 'difficulty': '3/8'}
    """
    if not isinstance(value, Mapping):
        raise RowError("not_an_object")
    row = _plain_columns(value, left_out)
    system, prompt, prompt_column = _prompt(row, columns.prompt)
    answer, answer_column, worked = _answer(row, columns.answer)
    item: dict[str, Any] = {"prompt": prompt, "answer": answer, "system": system or row.get("system")}
    item["thinking"] = row.get("thinking")
    item["solution"] = row.get("solution", worked)
    recorded = row.get("reward")  # a pass rate that somebody measured, never a reward of ours
    item["difficulty"] = row.get("difficulty", recorded)
    for name in ("system", "thinking", "solution"):
        if not isinstance(item[name], str) or item[name] == "":
            del item[name]
    if not _is_number(item["difficulty"]):
        if "difficulty" not in row and recorded not in (None, ""):
            left_out["reward"] = left_out.get("reward", 0) + 1
        del item["difficulty"]
    taken = {prompt_column, answer_column if answer_column in ANSWER_COLUMNS else None, *OWN, "reward"}
    for name in sorted(set(row) - taken):
        item[name] = row[name]
    if recorded is not None and "difficulty" in row:
        item["recorded_reward"] = recorded
    used = {"prompt": prompt_column, "answer": answer_column}
    for name in OWN:
        if row.get(name, "") != "" and (name not in item or used.get(name, name) != name):
            left_out[name] = left_out.get(name, 0) + 1
    return item


def prompt_of(value: Any, columns: Columns) -> str:
    """Return the prompt of a row whose answer does not matter; the usual names do if the named column is not there.

    Raises
    ------
    RowError
        If there is none.
    """
    if not isinstance(value, Mapping):
        raise RowError("not_an_object")
    row = _plain_columns(value, {})
    return _prompt(row, columns.prompt if columns.prompt in row else None)[1]


def _plain_columns(value: Mapping[Any, Any], left_out: dict[str, int]) -> dict[str, Any]:
    row, size = {}, 0
    for name, cell in value.items():
        try:
            size += _check_text(str(name))
            plain, cell_size = _plain(cell)
        except _NoJsonError:
            left_out[str(name)] = left_out.get(str(name), 0) + 1
            continue
        size += cell_size
        if plain is not None:
            row[str(name)] = plain
    if size > MOST_ROW_BYTES:
        raise RowError("too_long")
    return row


class _NoJsonError(Exception):
    """A value of a kind that JSON has not."""


def _plain(value: Any, depth: int = 0) -> tuple[Any, int]:
    """Return a value as JSON can hold it, and about how many bytes it is; NaN and infinities become None."""
    if depth > MOST_DEPTH:
        raise RowError("not_json")
    if isinstance(value, str):
        return value, _check_text(value)
    if value is None or isinstance(value, (bool, int)):
        return value, 8
    if isinstance(value, float):
        return (value if math.isfinite(value) else None), 8
    if isinstance(value, Mapping):
        pairs = {str(key): _plain(cell, depth + 1) for key, cell in value.items()}
        size = sum(_check_text(key) + cell[1] for key, cell in pairs.items())
        return {key: cell[0] for key, cell in pairs.items()}, size
    if isinstance(value, (list, tuple)):
        cells = [_plain(cell, depth + 1) for cell in value]
        return [cell[0] for cell in cells], sum(cell[1] for cell in cells)
    raise _NoJsonError


def _check_text(text: str) -> int:
    if "\0" in text:
        raise RowError("nul")
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise RowError("half_character") from error


def _prompt(row: Mapping[str, Any], named: str | None) -> tuple[str | None, str, str]:
    """Return system text, prompt, and the column it came from."""
    names = (named,) if named else PROMPT_COLUMNS
    column = next((name for name in names if row.get(name) is not None), None)
    if column is None:
        raise RowError("missing_prompt")
    value = row[column]
    system, text = _messages(value) if isinstance(value, list) else (None, value)
    if not isinstance(text, str):
        raise RowError("prompt_not_text")
    if not text.strip():
        raise RowError("empty_prompt")
    return system, text.strip(), column


def _messages(messages: list[Any]) -> tuple[str | None, str]:
    texts: dict[str, list[str]] = {"system": [], "user": []}
    for message in messages:
        if not isinstance(message, dict):
            raise RowError("prompt_not_text")
        content, role = message.get("content"), message.get("role")
        if isinstance(content, list):  # parts, as models that also read pictures take them
            parts = [part.get("text") if isinstance(part, dict) else None for part in content]
            content = "".join(parts) if parts and all(isinstance(part, str) for part in parts) else None  # type: ignore[arg-type]
        if not isinstance(content, str):
            raise RowError("prompt_not_text")
        if not isinstance(role, str) or role not in texts:
            raise RowError("conversation")
        texts[role].append(content)
    if len(texts["user"]) != 1:
        raise RowError("conversation")
    return "\n\n".join(texts["system"]) or None, texts["user"][0]


def _answer(row: Mapping[str, Any], named: str | None) -> tuple[str, str | None, str | None]:
    """Return the answer, its column, and a worked solution that stood in front of it."""
    if named:
        value = row.get(named)
        if value is None:
            raise RowError("missing_answer")
        if isinstance(value, (dict, list)) and len(value) != 1:  # tests of code, for instance
            value = json.dumps(value, ensure_ascii=False)
        return _answer_text(value), named, None
    for name in ANSWER_COLUMNS:
        if row.get(name) is not None:
            text = _answer_text(row[name])
            worked, mark, final = text.rpartition("\n####")  # GSM8K: the solution, then #### and the answer
            return (final.strip(), name, worked.strip()) if mark and final.strip() else (text, name, None)
    model = row.get("reward_model")  # as verl writes it
    if isinstance(model, dict) and model.get("ground_truth") is not None:
        return _answer_text(model["ground_truth"]), None, None
    solution = row.get("solution")
    if isinstance(solution, str) and (boxed := final_answer(solution)):
        return boxed, None, None
    raise RowError("missing_answer")


def _is_number(value: Any) -> bool:
    """Whether a recorded difficulty is a number or a share of two, as ``3/8``; text that is none tells no order."""
    if isinstance(value, str):
        above, sign, below = value.strip().removesuffix("%").partition("/")
        return all(NUMBER.fullmatch(part.strip()) is not None for part in ((above, below) if sign else (above,)))
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _answer_text(value: Any) -> str:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise RowError("answer_not_text")
    text = str(value).strip()
    if not text:
        raise RowError("empty_answer")
    return text


def final_answer(solution: str) -> str | None:
    """Return what stands in the last box of a solution, or behind its last ``####``.

    Examples
    --------
    >>> final_answer("So \\\\boxed{\\\\frac{1}{2}}."), final_answer("2 + 2 = 4\\n#### 4"), final_answer("4")
    ('\\\\frac{1}{2}', '4', None)
    """
    start = solution.rfind("\\boxed{")
    if start >= 0:
        start += len("\\boxed{")
        depth = 1
        for sign in SIGN.finditer(solution, start):
            depth += {"{": 1, "}": -1}.get(sign[0], 0)
            if depth == 0:
                return solution[start : sign.start()].strip() or None
    _, mark, final = solution.rpartition("####")
    return final.strip() or None if mark else None
