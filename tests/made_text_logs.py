"""Text logs as tests read them."""

from __future__ import annotations

from hypothesis import strategies as st

from analysis.readers import formats
from benchmarks.fuzz_text import SAMPLES

TEXT = tuple(SAMPLES)
RAY = "\x1b[36m(TaskRunner pid=3125)\x1b[0m "  # what Ray puts before a line of an actor


def read(path, name):
    assert formats.recognise(path) == name
    (found,) = formats.read_as(name, path)
    assert found.format == name
    assert all(len(cells) == len(found.table.lines) for cells in found.table.columns.values())
    return found


def rows(found):
    """The rows of a table without their empty cells."""
    table = found.table
    return [
        {name: cells[i] for name, cells in table.columns.items() if cells[i] is not None}
        for i in range(len(table.lines))
    ]


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    return path


numbers = st.floats(allow_nan=False) | st.integers(-(10**14), 10**14) | st.none()
names = st.text("abcz_/@ -.", min_size=1, max_size=12).map(lambda name: f"m{name}")
