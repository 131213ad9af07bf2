"""Run the notebooks as they ship and say whether what they show is still what the code gives; or refresh them.

    python -m benchmarks.notebooks             run all of them and write their outputs
    python -m benchmarks.notebooks 02 07       only these
    python -m benchmarks.notebooks --check     write nothing, list the cells whose outputs are stale

Compared are, cell by cell, the kinds of output, the text of each (words equal; numbers to 1 % or one unit of the last
printed digit; versions left out), and pictures (size to 5 %, brightness on a coarse grid to 2 % on average). A cell
with the tag `live` trains or times something: it must run and show the same kinds of output, and its text is its own.
Shipped notebooks hold no execution times and no widgets, which only a running kernel can move.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import re
import resource
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import matplotlib.image
import nbformat
import numpy as np
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path("notebooks")
REFRESH = "python -m benchmarks.notebooks"
TEXT = ("text/plain", "text/html", "text/markdown")
WIDGET = "application/vnd.jupyter.widget-view+json"
RELATIVE, UNITS = 0.01, 1.01  # a number may differ by this share, or by this many units of its last printed digit
SIZE, BRIGHTNESS, GRID = 0.05, 0.02, 32  # of pictures
VERSION = re.compile(r"\d+(\.\d+){2,}\S*")
NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+(?:,\d{3})*(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?")
CELL_TIMEOUT_S = 1800  # a minute where the machine is idle
SHOWN = 60  # characters of each text that a message quotes


def executed(path: Path) -> NotebookNode:
    """Return the notebook with the outputs of a run in a fresh kernel, as it would ship."""
    notebook = nbformat.read(path, as_version=4)
    with warnings.catch_warnings():  # the kernel's client warns about event loops
        warnings.simplefilter("ignore")
        NotebookClient(
            notebook,
            timeout=CELL_TIMEOUT_S,
            kernel_name="python3",
            record_timing=False,
            store_widget_state=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(path.parent)}},
        ).execute(env=os.environ | {"PYTHONPATH": str(FOLDER.parent.resolve())})  # this checkout, whatever is installed
    return shipped(notebook)


def shipped(notebook: NotebookNode) -> NotebookNode:
    """Take out what differs from run to run and what needs a kernel; number the cells from 1."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    language = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python", "pygments_lexer": "ipython3"}
    notebook.metadata = NotebookNode(kernelspec=NotebookNode(kernel), language_info=NotebookNode(language))
    for cell in code_cells(notebook):
        cell.metadata.pop("execution", None)
        for output in cell.outputs:
            output.get("data", {}).pop(WIDGET, None)
    return notebook


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def is_live(cell: NotebookNode) -> bool:
    return "live" in cell.metadata.get("tags", [])


def differences(before: NotebookNode, after: NotebookNode) -> Iterator[str]:
    """Yield in words where the outputs of two runs of one notebook differ."""
    for old, new in zip(code_cells(before), code_cells(after), strict=True):
        where = f"cell {new.execution_count} ({new.source.splitlines()[-1][:SHOWN] if new.source else ''})"
        kinds, found = outputs(old), outputs(new)
        if [kind for kind, _ in kinds] != [kind for kind, _ in found]:
            yield f"{where}: shows {[k for k, _ in found]}, ships {[k for k, _ in kinds]}"
            continue
        for (kind, one), (_, other) in zip(kinds, found, strict=True):
            if is_live(new):
                continue
            told = pictures_differ(one, other) if kind == "image/png" else texts_differ(one, other)
            if told:
                yield f"{where}: {told}"


def outputs(cell: NotebookNode) -> list[tuple[str, str]]:
    """Return kind and content of what a cell shows, in order; pieces of one stream are one."""
    found: list[tuple[str, str]] = []
    for output in cell.outputs:
        if output.output_type == "stream":
            if found and found[-1][0] == output.name:
                found[-1] = (output.name, found[-1][1] + output.text)
            else:
                found.append((output.name, output.text))
        elif output.output_type == "error":
            found.append(("error", output.evalue))
        else:
            found += [(kind, output.data[kind]) for kind in (*TEXT, "image/png") if kind in output.data]
    return found


def texts_differ(one: str, other: str) -> str:
    """Return where two texts differ by more than the tolerance, or nothing."""
    one, other = (VERSION.sub("VERSION", text) for text in (one, other))
    if re.sub(r"\s+", " ", NUMBER.sub("#", one)) != re.sub(r"\s+", " ", NUMBER.sub("#", other)):
        lines = zip(one.splitlines(), other.splitlines(), strict=False)
        first, second = next(((a, b) for a, b in lines if NUMBER.sub("#", a) != NUMBER.sub("#", b)), (one, other))
        return f"ships {first.strip()[:SHOWN]!r}, gives {second.strip()[:SHOWN]!r}"
    for a, b in zip(NUMBER.findall(one), NUMBER.findall(other), strict=True):
        if not close(a, b):
            return f"ships {a}, gives {b}"
    return ""


def close(one: str, other: str) -> bool:
    """Whether two printed numbers are the same but for rounding, here or on another machine."""
    a, b = (float(text.replace(",", "")) for text in (one, other))
    unit = max(last_unit(one), last_unit(other))
    return abs(a - b) <= max(RELATIVE * abs(b), UNITS * unit)


def last_unit(text: str) -> float:
    """What one step of the last printed digit is worth; of a number without a point, such as a count, nothing."""
    digits, _, exponent = text.replace(",", "").partition("e")
    decimals = len(digits.partition(".")[2])
    return 10.0 ** (int(exponent or 0) - decimals) if decimals or exponent else 0.0


def pictures_differ(one: str, other: str) -> str:
    """Return how two pictures differ by more than the tolerance, or nothing."""
    a, b = (matplotlib.image.imread(io.BytesIO(base64.b64decode(text)))[..., :3].mean(axis=2) for text in (one, other))
    if max(abs(m - n) / n for m, n in zip(a.shape, b.shape, strict=True)) > SIZE:
        return f"ships a picture of {a.shape[::-1]} pixels, gives {b.shape[::-1]}"
    off = float(np.abs(coarse(a) - coarse(b)).mean())
    return f"the picture is another one ({off:.3f} of the brightness away)" if off > BRIGHTNESS else ""


def coarse(picture: np.ndarray) -> np.ndarray:
    """Mean brightness of the fields of a grid."""
    rows = np.array_split(picture, GRID, axis=0)
    return np.array([[field.mean() for field in np.array_split(row, GRID, axis=1)] for row in rows])


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=REFRESH, description="run the notebooks and write or check their outputs")
    parser.add_argument("names", nargs="*", help="beginnings of file names, such as 02; all without one")
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 if outputs are stale")
    args = parser.parse_args(argv)
    paths = sorted(FOLDER.glob("*.ipynb"))
    for name in args.names:
        if not any(path.name.startswith(name) for path in paths):
            print(f"{FOLDER}: no notebook begins with {name!r}; there are {', '.join(p.name for p in paths)}")
            return 2
    stale = False
    for path in [p for p in paths if not args.names or p.name.startswith(tuple(args.names))]:
        begun, spent = time.perf_counter(), cpu_s()
        fresh = executed(path)
        print(f"{path.name}: {time.perf_counter() - begun:.1f} s, {cpu_s() - spent:.1f} CPU-seconds", flush=True)
        found = list(differences(nbformat.read(path, as_version=4), fresh))
        stale |= bool(found)
        for line in found:
            print(f"  {line}")
        if not args.check:
            nbformat.write(fresh, path)
    return 1 if args.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
