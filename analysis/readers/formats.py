"""The formats that are read, in the order in which a file or folder is tried; each is known by its content.

A reader is a module of `analysis.readers` with two functions: ``recognise(path, head) -> bool``, cheap and without
a package that is not installed with the analysis (`head` is the first 64 KiB of a file, empty for a folder), and
``read(path) -> list[Found]``, which raises `UserError` with path and line for what it cannot read.
"""

from __future__ import annotations

import importlib
import os
import stat
from pathlib import Path
from typing import Any, NamedTuple

from analysis.readers.found import Found
from scalerl.runlog import UserError

HEAD = 1 << 16


class Format(NamedTuple):
    """How a format is called, what it is, the module that reads it, and the extra of this package that it needs."""

    what: str
    module: str
    extra: str | None = None


FORMATS: dict[str, Format] = {
    "scalerl": Format("run folder or log.jsonl of scalerl, or of its writer RunLog", "own"),
    "trainer-state": Format(
        "trainer_state.json of Hugging Face's Trainer and TRL, or their output folder", "huggingface"
    ),
    "tensorboard": Format(
        "event files of TensorBoard, or the CSV that its page downloads", "tensorboard", "tensorboard"
    ),
    "wandb": Format("offline runs, histories and CSV exports of Weights & Biases", "wandb_files", "wandb"),
    "mlflow": Format("database or mlruns folder of MLflow", "mlflow_store"),
    "trackio": Format("database of trackio", "trackio_store"),
    "parquet": Format("Parquet table", "parquet_table", "data"),
    "verl-file": Format("JSON lines of verl's file logger", "verlfile"),
    "prime-rl": Format(
        "metrics.jsonl of prime-rl, or the folder that trainer and orchestrator wrote theirs to", "primerl"
    ),
    "jsonl": Format("JSON lines with a step or a compute column", "jsonlines"),
    "verl-console": Format("console log of verl", "verlconsole"),
    "trl-console": Format("console log of TRL and Hugging Face's Trainer", "trlconsole"),
    "console": Format("console log with a step and names with numbers a line (OpenRLHF, SkyRL, own loops)", "console"),
    "table": Format("CSV or TSV with a header", "csvfile"),
}


def head_of(path: Path) -> bytes:
    """Return the beginning of a regular file; nothing of a folder, a pipe, a device or what cannot be opened."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return b""
        with path.open("rb") as file:
            return file.read(HEAD)
    except (OSError, ValueError):
        return b""


def recognise(path: Path) -> str | None:
    """Return the format of a file or folder, or None where it is like none of them."""
    head = head_of(path)
    for name, known in FORMATS.items():
        if _module(known).recognise(path, head):
            return name
    return None


def read_as(name: str, path: Path) -> list[Found]:
    """Read a path in one format.

    Raises
    ------
    UserError
        If there is no such format, its package is not installed, or it cannot be read.
    """
    if name not in FORMATS:
        raise UserError(f"--format {name}: there is no such format; there are {', '.join(FORMATS)}")
    known = FORMATS[name]
    try:
        found: list[Found] = _module(known).read(path)
    except OSError as error:  # no permission inside a folder, no room for a copy, gone while it was read
        raise UserError(f"{os.fspath(path)}: cannot be read: {error.strerror or error}") from error
    except ModuleNotFoundError as error:
        if known.extra is None:
            raise
        what = f"{known.what} needs the package {str(error.name).split('.')[0]}"
        raise UserError(f"{os.fspath(path)}: {what}: pip install 'scalerl[{known.extra}]'") from error
    return found


def _module(known: Format) -> Any:
    return importlib.import_module(f"analysis.readers.{known.module}")
