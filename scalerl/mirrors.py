"""Mirror the rows of a run to TensorBoard, Weights & Biases, trackio and MLflow, each through its own package.

Promises: the log comes first, so that a mirror can lose nothing of it; one that fails is said once on stderr and left
out from there, and the run goes on. Every attempt is a run of its own there, ``NAME`` or ``NAME-attempt2``, in one
group: these tools refuse or mix up steps that a resumed run writes again, and only the run folder has the curve that
survived.

Figures of step rows are ``train/NAME``, those of eval rows ``eval/NAME``; the compute axes and the attempt keep their
names. TensorBoard files go to ``tensorboard/`` in the run folder, those of Weights & Biases, offline unless
``WANDB_MODE`` says otherwise, to ``wandb/`` there or in ``WANDB_DIR``; trackio and MLflow keep them where their own
settings say. The project is ``scalerl`` unless ``WANDB_PROJECT``, ``TRACKIO_PROJECT`` or ``MLFLOW_EXPERIMENT_NAME``
say otherwise.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from scalerl.runlog.files import UserError
from scalerl.runlog.schema import COMPUTE_AXES

PROJECT = "scalerl"
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio", "mlflow": "mlflow"}
_SENT = {"step": "train", "eval": "eval"}

_say = logging.getLogger("scalerl.mirrors")


class About(NamedTuple):
    """What a mirror is told of a run."""

    folder: Path
    group: str
    name: str
    config: Mapping[str, Any]


class Mirror(Protocol):
    """One tool."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Hand over figures of a step."""

    def close(self) -> None:
        """Bring to its place what was handed over."""


def check_names(names: Sequence[str]) -> None:
    """Raise `UserError` if a name is not known, stands there twice, or its package is not installed."""
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise UserError(f"report_to: {names!r:.60} is no list of names; there are {', '.join(PACKAGES)}")
    for name in names:
        if name not in PACKAGES:
            raise UserError(f"report_to: there is no {name!r:.40}; there are {', '.join(PACKAGES)}")
        if names.count(name) > 1:
            raise UserError(f"report_to: {name} stands there twice")
        spec = importlib.util.find_spec(PACKAGES[name])
        if spec is None or spec.origin is None:  # without an origin it is a folder of that name, as these tools make
            raise UserError(f"report_to: {name} is not installed; pip install 'scalerl[{name}]', or leave it out")


def figures(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a row under the names that mirrors have them by.

    Examples
    --------
    >>> figures({"kind": "eval", "step": 3, "attempt": 1, "gpu_hours": 0.5, "pass_rate": 0.25, "correct": [1, 0]})
    {'attempt': 1, 'gpu_hours': 0.5, 'eval/pass_rate': 0.25}
    """
    numbers = {name: float(v) if isinstance(v, bool) else v for name, v in row.items() if isinstance(v, (int, float))}
    own = {*COMPUTE_AXES, "attempt"}
    return {n if n in own else f"{_SENT[row['kind']]}/{n}": v for n, v in numbers.items() if n != "step"}


class Mirrors:
    """The tools that a run is mirrored to; none of them can stop it.

    Parameters
    ----------
    names : sequence of str
        Of `PACKAGES`.
    folder : path
        The run folder.
    header : mapping
        What ``run.json`` says.
    attempt : int
    """

    def __init__(self, names: Sequence[str], folder: Path, header: Mapping[str, Any], attempt: int) -> None:
        recipe, place = str(header.get("recipe")), folder.resolve().name
        group = place if recipe in place else f"{recipe}-{place}"
        name = group if attempt == 1 else f"{group}-attempt{attempt}"
        about = About(folder, group, name, {**header, "attempt": attempt})
        self._open: dict[str, Mirror] = {}
        for name in names:
            with self._guard(name):
                self._open[name] = _MAKERS[name](about)

    def row(self, row: Mapping[str, Any]) -> None:
        """Hand over a step or eval row."""
        sent = figures(row)
        for name, mirror in list(self._open.items()):
            with self._guard(name):
                mirror.log(row["step"], sent)

    def close(self) -> None:
        """End the run in every tool."""
        for name, mirror in list(self._open.items()):
            with self._guard(name):
                mirror.close()
        self._open.clear()

    @contextmanager
    def _guard(self, name: str) -> Iterator[None]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except Exception as error:  # whatever a tool, its disk or its network raises
            self._open.pop(name, None)
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            _say.warning("report_to: %s failed and is left out from here; the log has everything: %s", name, reason)


class _TensorBoard:
    """Event files, written by TensorBoard's own writer; it needs no torch."""

    def __init__(self, about: About) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(about.folder / "tensorboard" / f"attempt-{about.config['attempt']}"))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in figures.items()]
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """A run of its own, whatever other run the process has open."""

    def __init__(self, about: About) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=about.name,
            group=about.group[:128],
            dir=os.environ.get("WANDB_DIR", str(about.folder)),
            mode=os.environ.get("WANDB_MODE", "offline"),  # type: ignore[arg-type]
            config=dict(about.config),
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        self._run.finish()


class _Trackio:
    """What it prints goes to stderr, beside the progress of the run."""

    def __init__(self, about: About) -> None:
        import trackio

        with redirect_stdout(sys.stderr):
            self._run = trackio.init(
                project=os.environ.get("TRACKIO_PROJECT", PROJECT),
                name=about.name,
                group=about.group,
                config=dict(about.config),
                embed=False,
            )

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            self._run.finish()


class _MLflow:
    """A run of an experiment, by the client, so that an active run of the process is left alone."""

    def __init__(self, about: About) -> None:
        from mlflow.entities import Metric
        from mlflow.tracking import MlflowClient

        self._client, self._metric = MlflowClient(), Metric
        wanted = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(wanted)
        experiment = self._client.create_experiment(wanted) if found is None else found.experiment_id
        tags = {"group": about.group, "attempt": str(about.config["attempt"])}
        run = self._client.create_run(experiment, run_name=about.name, tags=tags)
        self._run = run.info.run_id

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        at = int(time.time() * 1000)
        named = {re.sub(r"[^\w\-. /:]", "_", name): value for name, value in figures.items()}
        self._client.log_batch(self._run, [self._metric(name, value, at, step) for name, value in named.items()])

    def close(self) -> None:
        self._client.set_terminated(self._run)


_MAKERS: dict[str, Callable[[About], Mirror]] = {
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
    "trackio": _Trackio,
    "mlflow": _MLflow,
}
