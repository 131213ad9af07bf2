"""Programs by their tests: the last fenced Python block of a completion, run where it can do no harm.

The item's ``tests`` are pairs of standard input and output, ``[{"input": "2 3\\n", "output": "5\\n"}, ...]``, or Python
text with assertions that is run behind the program. All must pass. Output is compared line by line, without white space
at the ends of lines and at the end. A program that is too slow, too large or that fails is wrong; that is no error.

Assertions run in the program's own process, so a program can lie to them (an object that equals everything); pairs of
input and output cannot be lied to. See `scalerl.rewards.sandbox` for what a program may do.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from scalerl.rewards import sandbox
from scalerl.runlog import UserError

BLOCK = re.compile(r"^[ \t]*```([^\n`]*)\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)
PYTHON = re.compile(r"\s*\{?\.?(?:python3?|py)(?!\w)", re.IGNORECASE)
SHARE = 0.8  # of the time limit of a score; the rest is for starting and comparing

_settings = {"isolate": True, "wall_s": 8.0}


def prepare(*, allow_network: bool = False, time_limit_s: float = 10.0) -> None:
    """Find out whether programs can be shut in, before the first one is run.

    Raises
    ------
    UserError
        If they cannot, and `allow_network` does not say to run them all the same.
    """
    _settings["wall_s"] = SHARE * time_limit_s
    ran = sandbox.run("print(1)", b"", wall_s=60.0)
    refused = ran.refused or ("" if ran.finished and ran.output == b"1\n" else "Python does not start there")
    _settings["isolate"] = not refused
    if refused and not allow_network:
        raise UserError(
            f"reward: code: this system does not let programs be cut off from network and files ({refused}); "
            "allow user namespaces, or set reward_allow_network: true to run them with other limits only"
        )


def score(item: Mapping[str, Any], completion: str) -> bool:
    """Return whether the completion's program passes all tests of the item.

    Raises
    ------
    ValueError
        If the item has no tests that can be read.
    """
    tests = read_tests(item.get("tests"))
    program = last_block(completion)
    if program is None:
        return False
    until = time.monotonic() + float(_settings["wall_s"])
    if isinstance(tests, str):
        token = secrets.token_hex(16)
        ran = _run(f"{program}\n\n{tests}\n\nprint('{token}')\n", "", until)
        return ran.finished and ran.output.decode(errors="replace").rstrip().endswith(token)
    for given, wanted in tests:
        ran = _run(program, given, until)
        if not ran.finished or _lines(ran.output.decode(errors="replace")) != _lines(wanted):
            return False
    return True


def read_tests(tests: Any) -> str | list[tuple[str, str]]:
    """Return tests as Python text, or as pairs of input and output.

    Raises
    ------
    ValueError
        If they are neither.

    Examples
    --------
    >>> read_tests([{"input": "2", "output": "4"}]), read_tests("assert double(2) == 4")
    ([('2', '4')], 'assert double(2) == 4')
    """
    if isinstance(tests, str) and tests.lstrip().startswith("["):
        with suppress(ValueError):  # Python that begins with a list
            tests = json.loads(tests)
    if isinstance(tests, str) and tests.strip():
        return tests
    if isinstance(tests, list) and tests and all(isinstance(test, Mapping) for test in tests):
        pairs = [(test.get("input"), test.get("output")) for test in tests]
        if all(isinstance(given, str) and isinstance(wanted, str) for given, wanted in pairs):
            return [(str(given), str(wanted)) for given, wanted in pairs]
    raise ValueError('the item has no tests: a list of {"input": text, "output": text}, or assertions as text')


def last_block(completion: str) -> str | None:
    """Return the last fenced block marked as Python; where none is, the last without a mark, then the last of any.

    Examples
    --------
    >>> last_block("So:\\n```python\\nprint(1)\\n```\\nIt prints\\n```\\n1\\n```\\n")
    'print(1)\\n'
    """
    found = BLOCK.findall(completion)
    python = [text for mark, text in found if PYTHON.match(mark)]
    bare = [text for mark, text in found if not mark.strip()]
    return next((texts[-1] for texts in (python, bare, [text for _, text in found]) if texts), None)


def _run(program: str, given: str, until: float) -> sandbox.Ran:
    left = until - time.monotonic()
    if left <= 0:
        return sandbox.Ran(False, b"")
    ran = sandbox.run(program, given.encode(errors="replace"), wall_s=left, isolate=bool(_settings["isolate"]))
    if ran.refused:
        raise RuntimeError(f"the program could not be run: {ran.refused}")
    return ran


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]
