"""The log of a run: the one contract between training and analysis. Standard library only.

A run is a folder::

    run.json        what was run, written once before the first row (schema, recipe, seed, configuration, devices)
    log.jsonl       append-only; one JSON object a line, flushed to disk row by row; kinds: step, eval, event,
                    and downstream, which is written after the fact
    samples.jsonl   a few prompts, completions and rewards of every evaluation, to read
    model/          the final policy, where the trainer leaves one
    best/           the policy with the highest evaluation pass rate, where it is kept
    checkpoints/    where a run that was cut off can go on
    lost/           rows that a resume cut off, with their bill

Promises: a row is on disk before the call that wrote it returns; an existing log is never written over; the
compute axes (`COMPUTE_AXES`) are cumulative over the whole run and stand in every step and eval row; no row holds
NaN or infinity. `docs/log-format.md` describes every field; `docs/your-own-loop.md` shows how any loop writes one.
"""

from __future__ import annotations

from scalerl.runlog.downstream import append_downstream
from scalerl.runlog.files import (
    RunLogError,
    UserError,
    lock,
    now,
    read_regular,
    refuse_if_held,
    stamp,
    write_json,
)
from scalerl.runlog.reading import PACKED, LogContent, log_in, read_header, read_log
from scalerl.runlog.resuming import Resume
from scalerl.runlog.schema import (
    BEST_FOLDER,
    CHECKPOINT_FOLDER,
    COMPUTE_AXES,
    DOWNSTREAM_FIELDS,
    EVAL_FIELDS,
    HEADER_FILE,
    LOG_FILE,
    LOST_FOLDER,
    MODEL_FOLDER,
    SAMPLES_FILE,
    SCHEMA_VERSION,
    STEP_FIELDS,
    TIME_FIELDS,
)
from scalerl.runlog.writer import RunLog

__all__ = [
    "BEST_FOLDER",
    "CHECKPOINT_FOLDER",
    "COMPUTE_AXES",
    "DOWNSTREAM_FIELDS",
    "EVAL_FIELDS",
    "HEADER_FILE",
    "LOG_FILE",
    "LOST_FOLDER",
    "MODEL_FOLDER",
    "PACKED",
    "SAMPLES_FILE",
    "SCHEMA_VERSION",
    "STEP_FIELDS",
    "TIME_FIELDS",
    "LogContent",
    "Resume",
    "RunLog",
    "RunLogError",
    "UserError",
    "append_downstream",
    "lock",
    "log_in",
    "now",
    "read_header",
    "read_log",
    "read_regular",
    "refuse_if_held",
    "stamp",
    "write_json",
]
