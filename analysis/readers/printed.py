"""What programs print on consoles: values, names with numbers behind them, colours, and the marks of Ray's workers.

Promises: nothing is evaluated; a value that is no number stays the text that it is. `Alike` gives what the careful way
of a reader gives, quicker.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path

from analysis.readers.columns import Columns, Dropped, rates_of
from analysis.readers.found import Found
from analysis.readers.labels import label_of_path
from analysis.readers.textfile import TextFile, text_of
from scalerl.runlog import UserError

_LONGEST_NUMBER = 400  # characters
_ESCAPES = re.compile(r"\x1b\[[0-?]*+[ -/]*+[@-~]|\x1b\][^\x07\x1b]*+(?:\x07|\x1b\\)?|\x1b[@-Z\\^_]")
_WORKER = re.compile(r"\((?:[\w.:<>-]{1,80} )?pid=\d{1,9}(?:, ip=[^)\s]{1,80})?\)")  # Ray names the process
NUMBER = re.compile(
    r"[-+]?+(?:\d{1,400}+(?:\.\d{0,400}+)?|\.\d{1,400}+)(?:[eE][-+]?\d{1,9}+)?|[-+]?(?:nan|inf)(?![a-z])", re.I
)
NAME = re.compile(r"[A-Za-z_][\w./@%()-]*+")
_FIGURE_HERE = r"(-?[0-9]{1,30}+(?:\.[0-9]{0,30}+)?+(?:e[-+][0-9]{1,3}+)?+|nan)"
_FIGURE = re.compile(rf"(?<=[:=' /]){_FIGURE_HERE}(?=[ ',}}\]/:|\r\n]|$)")
_WHOLE_HERE = "([0-9]{1,15})"
_WHOLE = frozenset({"step", "total_steps"})  # a line whose step is no whole number is no row
_TRIES = 64  # to learn a kind of line: there are those of training steps, of evaluations and a few more
_LONGEST_ALIKE = 1 << 14  # characters
_WRAPPED = re.compile(r"(?:np|numpy|torch|jnp)?\.?(?:float|int|bool|array|tensor|bfloat)\d{0,3}_?\((.{1,60})\)")


def console_text(path: Path, head: bytes, most: int) -> str:
    """Return the first `most` bytes of what may be a console log; nothing of JSON and of what cannot be read."""
    if not head or head.lstrip()[:2] in (b'{"', b"{\n"):
        return ""
    try:
        with path.open("rb") as file:
            return text_of(file.read(most))
    except OSError:
        return ""


def plain(line: str) -> str:
    """Return a line without terminal escapes and without its end."""
    return (_ESCAPES.sub("", line) if "\x1b" in line else line).strip("\r\n")


def by_worker(line: str) -> list[str]:
    """Return what each process printed on a line: Ray marks its output, and at times glues it to another's.

    Examples
    --------
    >>> by_worker("(TaskRunner pid=12) step:3 - a:0.5(WorkerDict pid=13) saved")
    ['step:3 - a:0.5', 'saved']
    """
    if "pid=" not in line:
        return [line]
    return [part.removeprefix(" ").rstrip() for part in _WORKER.split(line) if part.strip()]


def cell(text: str) -> object:
    """Return a printed value as a number where it is one, unwrapped from what numpy and torch print around it.

    Examples
    --------
    >>> cell("np.float64(0.494)"), cell("'0.125'"), cell("tensor(3)"), cell("None"), cell("warm-up"), cell("1e999")
    (0.494, 0.125, 3, None, 'warm-up', inf)
    """
    if text[-1:].isdigit() and len(text) <= _LONGEST_NUMBER and "_" not in text:
        try:
            return int(text) if len(text) < 16 and text.isdigit() else float(text)
        except ValueError:
            pass
    text = text.strip()
    if text[:1] in "'\"" and len(text) > 1 and text[-1] == text[0]:
        text = text[1:-1].strip()
    elif text.endswith(")") and (wrapped := _WRAPPED.fullmatch(text)):
        text = wrapped[1].split(",", 1)[0].strip()
    if NUMBER.fullmatch(text):
        return int(text) if len(text) < 16 and text.isdigit() else float(text)
    return None if text in {"", "None", "null"} else text


Figures = tuple[tuple[str, ...], tuple[str, ...]]  # names, and the number of each as it was printed


class Alike:
    """Texts of rows that differ from one that was read in nothing but their numbers, as nearly all of a log do.

    Parameters
    ----------
    careful : callable
        Returns the cells of a text in the order in which they stand there; nothing or None where it is no row.

    Examples
    --------
    >>> careful = lambda text: {field[0]: cell(field[2:]) for field in text.split()}
    >>> rows = Alike(careful)
    >>> for text in ("a=1.5 b=2", "a=2.5 b=3"):
    ...     rows.learn(text, careful(text))
    >>> rows.match("a=0.5 b=nan"), rows.match("a=0.5 b=1-2")
    ((('a', 'b'), ('0.5', 'nan')), None)
    """

    def __init__(self, careful: Callable[[str], Mapping[str, object] | None]) -> None:
        self._careful = careful
        self._known: list[tuple[re.Pattern[str], tuple[str, ...]]] = []
        self._before: tuple[str, ...] = ()
        self._tries = _TRIES

    def match(self, text: str) -> Figures | None:
        """Return names and printed numbers of a text that is like one before."""
        for pattern, names in self._known:
            if found := pattern.fullmatch(text):
                return names, found.groups()
        return None

    def learn(self, text: str, row: Mapping[str, object]) -> None:
        """Look at a row that was read the careful way: a second one of the same names shows what stands between them.

        A text with other numbers in their places must be read as these numbers.
        """
        names = tuple(row)
        if names == self._before and self._tries and len(text) < _LONGEST_ALIKE and all(map(str.isprintable, names)):
            self._tries -= 1
            between = _FIGURE.split(text)[::2]
            others = [f"{9000 + i}" if name in _WHOLE else f"{i}.25" for i, name in enumerate(names)]
            if len(between) == len(names) + 1:
                other = "".join(chain.from_iterable(zip(between, [*others, ""], strict=True)))
                if list((self._careful(other) or {}).items()) == list(zip(names, map(cell, others), strict=True)):
                    groups = [_WHOLE_HERE if name in _WHOLE else _FIGURE_HERE for name in names]
                    parts = chain.from_iterable(zip(map(re.escape, between), [*groups, ""], strict=True))
                    self._known.append((re.compile("".join(parts)), names))
        self._before = names


def found_on_console(
    file: TextFile, columns: Columns, dropped: Dropped, *, known_as: str, rates: Sequence[re.Pattern[str]], like: str
) -> Found:
    """Return the run of a console that was read to its end.

    Raises
    ------
    UserError
        If there is no row in it; the message says that none is `like`.
    """
    if file.too_long:
        dropped.count["too long"] += file.too_long
    table = columns.table(str(file.path))
    if not table.lines:
        raise UserError(f"{file.path}:1: no line such as {like}")
    return Found(
        label=label_of_path(file.path),
        table=table,
        path=file.path,
        sha256=file.sha256,
        format=known_as,
        step="step" if "step" in table.columns else None,
        rates=rates_of(table.columns, rates),
        findings=columns.findings(),
        dropped=dict(dropped.count),
    )
