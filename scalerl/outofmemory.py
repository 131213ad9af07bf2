"""Out of memory: one line that says in which phase, and which fields to turn, in place of a traceback."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from scalerl.config import CHANGEABLE, ScaleRLConfig
from scalerl.runlog import CHECKPOINT_FOLDER, UserError

SLOTS = 512  # most that an evaluation takes, as in scalerl.evaluate
SAID = ("not enough memory", "can't allocate", "cannot allocate memory", "out of memory", "unable to mmap")
# File and function of the frames of a traceback, outermost first, and what the process was at there.
PLACES = {
    ("evaluate.py", "sample"): "evaluation",
    ("train.py", "_generate"): "generation",
    ("generate.py", "__init__"): "generation",
    ("vllmengine.py", "__init__"): "generation",
    ("train.py", "save"): "checkpoint",
    ("learner.py", "update"): "update",
    ("policy.py", "load_policy"): "loading",
}
# What each phase takes most of its memory for, the strongest knob first.
KNOBS = {
    "generation": ("slots", "batch_size", "max_length", "dtype"),
    "evaluation": ("slots", "max_length", "dtype"),
    "update": ("micro_batch_tokens", "max_length", "dtype"),
    "checkpoint": ("slots", "max_length", "in_flight"),
    "loading": ("model_name", "dtype"),
    "set-up": ("slots", "max_length", "micro_batch_tokens", "dtype"),
}


class OutOfMemoryError(UserError):
    """The memory did not suffice."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, of the processor or of a device.

    Examples
    --------
    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"))
    True
    >>> is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
    False
    """
    said = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, (RuntimeError, OSError)) and any(s in said for s in SAID)
    )


def phase_of(error: BaseException) -> str:
    """Return in which phase of a run an error was raised, from its traceback."""
    for frame in traceback.extract_tb(error.__traceback__):
        phase = PLACES.get((Path(frame.filename).name, frame.name))
        if phase is not None and Path(frame.filename).parent == Path(__file__).parent:
            return phase
    return "set-up"


def advice(phase: str, config: ScaleRLConfig, *, begun: bool = False) -> str:
    """Return the line: the phase, and the fields to turn with their values.

    Parameters
    ----------
    begun : bool
        Whether there is a checkpoint to go on from: then it is said what a resume may turn, and what a new run alone.

    Examples
    --------
    >>> print(advice("update", ScaleRLConfig()))
    out of memory in the update: lower micro_batch_tokens (32768) first, then max_length (16384); scalerl train ...
    """
    if not begun:
        said = _turn(KNOBS[phase], phase, config)
    else:
        now = _turn([name for name in KNOBS[phase] if name in CHANGEABLE - {"model_name"}], phase, config)
        new = _turn([name for name in KNOBS[phase] if name not in CHANGEABLE - {"model_name"}], phase, config)
        said = f"go on by --resume {f'and {now}' if now else 'where there is more memory'}"
        said += f"; in a new run {new}" if new else ""
    return f"out of memory in the {phase}: {said}; scalerl train --dry-run says what a run needs"


def _turn(names: Sequence[str], phase: str, config: ScaleRLConfig) -> str:
    """Return which way to turn fields, the strongest first; nothing where none can be turned further."""
    slots = config.slots or (SLOTS if phase == "evaluation" else config.batch_size)
    values = {"slots": min(slots, SLOTS) if phase == "evaluation" else slots}
    numbers = [name for name in names if name not in ("dtype", "in_flight", "model_name")]
    told = [f"{name} ({values.get(name, getattr(config, name))})" for name in numbers]
    wide = "dtype" in names and config.dtype in ("float32", "float64")
    more = [f"set dtype to bfloat16 (it is {config.dtype})"] if wide else []
    if "in_flight" in names and config.in_flight == "kv":
        more.append("set in_flight to refresh (it is kv)")
    if "model_name" in names:
        more.insert(0, f"take a smaller model_name ({config.model_name})")
    lower = [f"lower {told[0]} first, then {', '.join(told[1:])}" if told[1:] else f"lower {told[0]}"] if told else []
    return ", or ".join([*lower, *more])


@contextmanager
def memory_advice(config: ScaleRLConfig, run: Path | None = None) -> Iterator[None]:
    """While entered, turn an error that says that memory ran out into `OutOfMemoryError`.

    Parameters
    ----------
    run : path, optional
        The run folder: if it holds a checkpoint by then, the advice is what a resume may turn.

    Raises
    ------
    OutOfMemoryError
    """

    def said(phase: str) -> str:
        return advice(phase, config, begun=run is not None and any((run / CHECKPOINT_FOLDER).glob("step-*[0-9]")))

    try:
        yield
    except UserError as error:
        cause = error.__cause__
        if cause is None or not is_out_of_memory(cause):
            raise
        raise OutOfMemoryError(said("loading" if phase_of(error) == "set-up" else phase_of(error))) from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(said(phase_of(error))) from error
