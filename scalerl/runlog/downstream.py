"""Add scores of saved policies to the log of a run that has ended, or stands still."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scalerl.runlog.files import RunLogError, append_whole, lock, now, read_regular
from scalerl.runlog.reading import read_log
from scalerl.runlog.schema import LOG_FILE


def append_downstream(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append scores of a saved policy to the log of a run that no process works on, all of them or none.

    Parameters
    ----------
    folder : path
    rows : sequence of mapping
        The compute axes of the policy, and the fields of `DOWNSTREAM_FIELDS` and of eval rows.

    Raises
    ------
    RunLogError
        If the run is held, its log is damaged, or it cannot be written.
    """
    path = folder / LOG_FILE
    whole = [{"kind": "downstream", **row, "time": now()} for row in rows]
    try:
        fd = os.open(path, os.O_RDWR | os.O_APPEND)
    except OSError as error:
        raise RunLogError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        lock(fd, folder)
        if read_log(path).cut:
            raise RunLogError(f"{path}: its last line is cut; go on with the run by --resume first, which mends it")
        ends = read_regular(path).endswith(b"\n")
        lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in whole)
        append_whole(fd, path, (lines if ends else "\n" + lines).encode())
    finally:
        os.close(fd)
