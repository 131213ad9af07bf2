"""Checkpoints: written beside and renamed, believed only where every byte is as it was written, never a pickle.

A checkpoint is a folder ``checkpoints/step-00000100/`` of tensor files (safetensors), one ``state.json`` of plain
values, and a ``manifest.json`` with the size and SHA-256 of each, written last. Where several processes train, what the
learner holds lies in ``learner/``, a share of each (`scalerl.shards`). A folder without a whole manifest, or
with a byte that differs, is no checkpoint; the one before it is taken then. A folder ``step-00000100.part`` is one
that is being written or removed: nobody reads it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from scalerl.runlog import CHECKPOINT_FOLDER, UserError, read_regular, write_json

FORMAT = 1
STATE_FILE, MANIFEST_FILE = "state.json", "manifest.json"
SHARES_FOLDER = "learner"

Tensors = Mapping[str, Tensor]


class CheckpointError(UserError):
    """A checkpoint that cannot be written, or none that can be read."""


class Checkpoint(NamedTuple):
    """A checkpoint that was read: tensors by file, plain values, and what newer ones were passed over, and why."""

    folder: Path
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]
    damaged: tuple[str, ...]


def write_checkpoint(
    run: Path,
    step: int,
    tensors: Mapping[str, Tensors],
    state: Mapping[str, Any],
    keep: int,
    *,
    shares: Callable[[Path], None] = lambda _: None,
) -> Path:
    """Write the checkpoint of a step, then remove all but the `keep` latest ones.

    Parameters
    ----------
    shares : callable
        Writes what several processes hold into the folder that it is given.

    Raises
    ------
    CheckpointError
        If it cannot be written; what was there stays.
    """
    parent = run / CHECKPOINT_FOLDER
    final = parent / f"step-{step:08d}"
    beside = _beside(final)
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        for name, group in tensors.items():
            save_file({key: value.contiguous() for key, value in group.items()}, beside / f"{name}.safetensors")
        shares(beside / SHARES_FOLDER)
        write_json(beside / STATE_FILE, state)
        paths = sorted(path for path in beside.rglob("*") if path.is_file())
        files = {path.relative_to(beside).as_posix(): _fingerprint(path) for path in paths}
        write_json(beside / MANIFEST_FILE, {"format": FORMAT, "step": step, "files": files})
        _sync(beside)
        beside.replace(final)
        _sync(parent)
        for old in _folders(run)[keep:]:
            _remove(old)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(beside, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"{final}: the checkpoint cannot be written: {reason}; what was there is kept: make room or give the right "
            "to write, then go on by --resume"
        ) from error
    return final


def read_checkpoint(run: Path, check: Callable[[dict[str, Any]], None] = lambda _: None) -> Checkpoint | None:
    """Read the latest checkpoint that is whole, or return None if there was never one.

    Parameters
    ----------
    check : callable
        Is given the plain values; raises `UserError` if one cannot go on from there, and an older one is looked at.

    Raises
    ------
    CheckpointError
        If there are checkpoints and every one is damaged; the message names the damage of each.
    """
    damaged: list[str] = []
    for folder in _folders(run):
        try:
            found = _read(folder, tuple(damaged))
            check(found.state)
        except UserError as error:
            damaged.append(str(error))
        else:
            return found
    if damaged:
        raise CheckpointError(
            "; ".join([f"{run}: cannot be resumed, for no checkpoint is whole", *dict.fromkeys(damaged)])
        )
    return None


def read_folder(folder: Path) -> Checkpoint:
    """Read one checkpoint.

    Raises
    ------
    CheckpointError
        If it is damaged.
    """
    return _read(folder, ())


def drop_newer(run: Path, step: int) -> None:
    """Remove checkpoints and unfinished ones that are newer than a step: a resumed run writes them again."""
    for folder in _folders(run):
        if int(folder.name.removeprefix("step-")) > step:
            _remove(folder)
    for beside in (run / CHECKPOINT_FOLDER).glob("step-*.part"):
        shutil.rmtree(beside)


def _read(folder: Path, damaged: tuple[str, ...]) -> Checkpoint:
    manifest = _json(folder / MANIFEST_FILE)
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"{folder / MANIFEST_FILE}: format is {manifest.get('format')!r}, not {FORMAT}")
    if not isinstance(manifest.get("files"), dict):
        raise CheckpointError(f"{folder / MANIFEST_FILE}: lists no files; it is damaged")
    tensors = {}
    state: dict[str, Any] | None = None
    for name, expected in manifest["files"].items():
        shared = Path(name).parent.name == SHARES_FOLDER
        path = (folder / SHARES_FOLDER if shared else folder) / Path(name).name
        content = _content(path)
        if {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} != expected:
            raise CheckpointError(f"{path}: differs from what was written ({len(content)} bytes); it is damaged")
        if name == STATE_FILE:
            state = json.loads(content)
        elif not shared:
            tensors[path.stem] = load(content)
    if (folder / SHARES_FOLDER).is_dir():
        from scalerl.shards import read_shards

        tensors |= read_shards(folder / SHARES_FOLDER)
    if state is None or not manifest.get("step") == state["step"] == int(folder.name.removeprefix("step-")):
        raise CheckpointError(f"{folder / MANIFEST_FILE}: does not belong to this checkpoint")
    return Checkpoint(folder, tensors, state, damaged)


def _content(path: Path) -> bytes:
    try:
        return read_regular(path)
    except UserError as error:
        raise CheckpointError(str(error)) from error


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_content(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON; it is damaged") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: not a JSON object; it is damaged")
    return value


def _folders(run: Path) -> list[Path]:
    """Return the checkpoints of a run, the latest first, whole or not."""
    found = (run / CHECKPOINT_FOLDER).glob("step-" + "[0-9]" * 8)
    return sorted((path for path in found if path.is_dir()), reverse=True)


def _fingerprint(path: Path) -> dict[str, Any]:
    """Bring a file to the disk and return its size and hash."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
        content = file.read()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _remove(folder: Path) -> None:
    """Remove a checkpoint; under another name first, so that half a removal is not taken for a damaged one."""
    beside = _beside(folder)
    shutil.rmtree(beside, ignore_errors=True)
    folder.replace(beside)
    shutil.rmtree(beside)


def _beside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.part")


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
