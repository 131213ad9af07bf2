"""Whether models and files that were named are there, told before anything heavy is imported; and where a run has them.

A resume may name another place of the same model, data or reward. ``run.json`` is never rewritten: what a run says last
is there and in the events of its resumes, and `read_latest` puts them together.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scalerl.runlog import UserError, lost, read_header

DATA = {"train_data": "train", "eval_data": "eval"}  # what a resume's event and run.json call a data set


def refuse_no_model(name: str) -> None:
    """Raise `UserError` if a name is no model directory here, and none that the hub could have.

    Examples
    --------
    >>> refuse_no_model("some/model")  # maybe on the hub
    >>> refuse_no_model("./nowhere")
    Traceback (most recent call last):
    scalerl.runlog.UserError: model_name: there is no directory ./nowhere
    """
    path = Path(name)
    if path.exists() and not (path / "config.json").is_file():
        raise UserError(f"model_name: {name} is no model directory: it has no config.json")
    if path.is_dir() and not [*path.glob("tokenizer*"), *path.glob("vocab*")]:
        raise UserError(f"model_name: {name} has no tokenizer: no tokenizer.json, no vocabulary")
    if not path.exists() and not _may_be_on_hub(name):
        raise UserError(f"model_name: there is no directory {name}")


def find_shipped(name: str) -> str:
    """Return where a checkpoint that a shipped size names lies: here as in a clone, else in the package or beside it.

    Examples
    --------
    >>> find_shipped("nowhere")
    'nowhere'
    """
    package = Path(__file__).parent
    return next((str(at / name) for at in (Path(), package, package.parent) if (at / name).is_dir()), name)


def read_latest(run: Path) -> dict[str, Any]:
    """Return the header of a run as its resumes have changed it: ``config``, and the ``file`` of its ``data``.

    Raises
    ------
    RunLogError
        As `read_header`.
    """
    header = read_header(run)
    for row in lost.rows_of(run):
        changed = row.get("changed") if row.get("event") == "resume" else None
        for name, pair in changed.items() if isinstance(changed, dict) else ():
            if name == "devices":  # what is held now, no field
                continue
            place = header.get("data" if name in DATA else "config")
            if name in DATA:
                place = place.get(DATA[name]) if isinstance(place, dict) else None
            if isinstance(place, dict) and isinstance(pair, list) and len(pair) == 2:
                place["file" if name in DATA else name] = pair[1]
    return header


def refuse_gone_model(name: str) -> None:
    """Raise `UserError` if the starting checkpoint of a run to go on with is not here, and cannot be the hub's."""
    if not Path(name).is_dir() and not _may_be_on_hub(name):
        raise gone_model(name)


def gone_model(name: str) -> UserError:
    """Return what is said of a run to go on with whose starting checkpoint is not here."""
    return UserError(
        f"model_name: {name} is no folder here; resume from the folder that the run was started in, "
        "or name the same checkpoint by --set model_name=DIR"
    )


def _may_be_on_hub(name: str) -> bool:
    return not Path(name).is_absolute() and not name.startswith(".") and name.count("/") == 1


def refuse_no_file(*names: str | None) -> None:
    """Raise `UserError` for the first file or folder that is not there; None stands for one that was not named."""
    for name in names:
        try:
            if name is not None:
                Path(name).stat()
        except (OSError, ValueError) as error:  # ValueError: a null byte in the name
            raise UserError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
