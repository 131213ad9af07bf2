"""The Ray cluster that a run joins, or starts for itself; `scalerl.raygenerators` says how far it is to be trusted."""

from __future__ import annotations

import atexit
import logging
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from scalerl.config import ScaleRLConfig
from scalerl.ranks import local_world_size
from scalerl.runlog import UserError

LEAST_STORE_BYTES, STORED_VERSIONS = 1 << 27, 4  # of the object store of a cluster that is started here
KNOCK_S = 10.0  # until a node that answers at all has answered
REASON = re.compile(r"\b(is dead|died) because")
WORDS = 200  # characters of what Ray says of a death
# Ray's own lines would drown ours; read when ray is imported.
QUIET = {"RAY_DEDUP_LOGS_SKIP_REGEX": ".", "RAY_IGNORE_UNHANDLED_ERRORS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
# No other machine joins, on any system: the one way to make Ray listen on the loopback address alone.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
ASKED_ONCE = {"RAY_gcs_server_port_wait_time_s": "1"}  # 40 s; Ray's own 20 times that look like a run that hangs
EVEN = {"RAY_worker_niceness": "0"}  # with Ray's own 15 generators get what all else leaves of a core


class LastWords:
    """Have a line said should this process end without a word of its own: Ray's C++ ends one that it cannot serve.

    Such an end runs nothing of Python, so a shell beside it waits for what it is told by `close`, or for the end.
    """

    LINE = (
        "scalerl: this process was ended from outside: killed, or by Ray, which ends a trainer when the raylet of its "
        "node or the head node is gone; go on from the latest checkpoint with --resume"
    )

    def __init__(self) -> None:
        command = ["sh", "-c", 'read -r bye || echo "$0" >&2', self.LINE]
        self._shell = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )
        atexit.register(self.close)

    def close(self) -> None:
        """Let the shell go: this process ends, or goes on, by itself."""
        atexit.unregister(self.close)
        if self._shell.poll() is None:
            with suppress(OSError):  # somebody killed it
                self._shell.communicate(b"bye\n")


def import_ray() -> Any:
    """Return the module ray, which keeps its lines to itself if nobody imported it before."""
    wanted = dict(QUIET)
    if address() is None:
        wanted |= LOOPBACK
        if "ray" not in sys.modules:  # Ray reads when it is imported whether there is a token, and its parts must agree
            wanted |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise UserError(
            "generator: ray is not installed: pip install 'scalerl[ray]', or set generator to process"
        ) from error
    return ray


def address() -> str | None:
    """Return where the cluster is that a run joins; None if it starts its own."""
    told = os.environ.get("RAY_ADDRESS")
    return None if told in (None, "", "local") else told


def join(ray: Any, config: ScaleRLConfig, trainers: torch.device, weights_bytes: int) -> bool:
    """Join the cluster that is there, or start one; return whether it is to be left again, or ended."""
    there_is = address()
    ours = not ray.is_initialized()  # else by whoever called us
    about: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if there_is and "://" in there_is:
        raise UserError(f"RAY_ADDRESS: {there_is} is for clients; run the trainer on a node and name HOST:PORT")
    if ours and there_is:
        listens = _knock(there_is)
        for name, value in ASKED_ONCE.items():
            os.environ.setdefault(name, value)
        try:
            with _signals_kept():
                ray.init(address=there_is, **about)
        except Exception as error:  # ray raises many kinds
            advice = (
                ", where something listens: {}; RAY_AUTH_MODE, the token and Ray's version must be those that it was "
                "started with"
                if listens
                else ": {}; start one by ray start --head, or name its HOST:PORT"
            )
            raise UserError(
                f"RAY_ADDRESS: no Ray cluster can be joined at {there_is}{advice.format(words(error))}"
            ) from error
    elif ours:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else Ray keeps one in the home folder
        for name, value in EVEN.items():
            os.environ.setdefault(name, value)
        about |= {"num_cpus": config.generators * config.threads, "num_gpus": 0, "include_dashboard": False}
        about |= {"object_store_memory": max(LEAST_STORE_BYTES, STORED_VERSIONS * weights_bytes)}
        with _signals_kept(), _without_device(trainers) as others:
            if trainers.type == "cuda":
                about["num_gpus"] = others
            try:
                ray.init(address="local", **about)
            except Exception as error:
                ray.shutdown()
                raise UserError(f"generator: no Ray cluster could be started here: {words(error)}") from error
    there = ray.cluster_resources()
    kind, each = ("GPU", 1) if trainers.type == "cuda" else ("CPU", config.threads)
    if there.get(kind, 0) < config.generators * each:
        found = room(ray)
        if ours:
            ray.shutdown()
        raise UserError(
            f"generators: {config.generators} of {each} {kind} each beside the trainer, but the cluster has {found}; "
            "lower generators, or add nodes"
        )
    return ours


def room(ray: Any) -> str:
    """Return what the cluster has, lost nodes left out."""
    there = ray.cluster_resources()
    nodes = sum(node["Alive"] for node in ray.nodes())
    return f"{_of(there.get('CPU', 0), 'CPU')} and {_of(there.get('GPU', 0), 'GPU')} on {_of(nodes, 'node')}"


def _of(count: float, thing: str) -> str:
    return f"{count:g} {thing}{'' if count == 1 else 's'}"


def _knock(place: str) -> bool:
    """Return whether somebody listens, if the place says where; raise `UserError` where nobody does.

    Ray itself waits for minutes, and cannot be interrupted meanwhile.
    """
    host, _, port = place.rpartition(":")
    if not port.isdecimal():
        return False  # ``auto`` and what else Ray knows
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise UserError(
            f"RAY_ADDRESS: nothing listens at {place} ({str(error) or type(error).__name__}); start the cluster by "
            "ray start --head, or name the HOST:PORT that it printed"
        ) from error
    return True


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Take back what ray does to the handling of SIGTERM: the trainer ends its runs itself, as interrupted ones."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if main else None
    try:
        yield
    except SystemExit as error:  # ray's own answer to a SIGTERM meanwhile
        raise KeyboardInterrupt from error
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _without_device(trainers: torch.device) -> Iterator[int]:
    """Let a cluster that is started meanwhile see all GPUs but those that train; yield their number."""
    name = "CUDA_VISIBLE_DEVICES"
    before = os.environ.get(name)
    if trainers.type != "cuda":
        yield 0
        return
    visible = before.split(",") if before else [str(i) for i in range(torch.cuda.device_count())]
    for place in sorted(training_gpus(trainers), reverse=True):
        del visible[place]
    os.environ[name] = ",".join(visible)
    try:
        yield len(visible)
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def training_gpus(trainers: torch.device) -> set[int]:
    """Return the numbers of the GPUs of this machine that train: a learner's processes have one each."""
    beside = local_world_size()
    return {trainers.index or 0} if beside == 1 else set(range(beside))


def words(error: BaseException) -> str:
    """Return the one line in what ray says that tells what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = lines[-1] if "creation task" in lines[0] else next((li for li in lines if REASON.search(li)), lines[0])
    text = text.rpartition("Worker exit detail: ")[2]
    for more in ("Some common causes", "There are some potential"):
        text = text.partition(more)[0]
    return text.strip().rstrip(".")[:WORDS]
