"""Generators as Ray actors, on any nodes of a cluster (``generator: ray``, ``generators: N``).

What they promise is in `scalerl.remote`; here is the way to them. Weights of a version are put into Ray's object store
once; a node fetches them once for all its actors, and an actor takes them over between two tokens, while others are
fetched it goes on decoding. An actor that dies (killed, its node lost, its link cut for longer than Ray waits) is
replaced by one anywhere in the cluster. Actors end with the trainer: they belong to its job and are not detached.

The cluster is the one that the variable RAY_ADDRESS names. Without it one is started on this machine, on the loopback
address alone and behind a token of its own, and ends with the run.

Whoever reaches the ports of a cluster, and has its token where there is one, can run code on all of its nodes: Ray
sends functions and data as pickles. See docs/cluster.md.
"""

from __future__ import annotations

import logging
import os
import queue
import re
import secrets
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch

from scalerl.completions import GenerationError
from scalerl.config import ScaleRLConfig
from scalerl.forward import AnyForward, AnyWeights
from scalerl.packed import Packed, pack
from scalerl.peers import Ended
from scalerl.policy import Policy
from scalerl.remote import Remote
from scalerl.runlog import UserError
from scalerl.serve import Failure, Inbox, Said, Setup, serve

CLOSE_S = 5.0
LEAST_STORE_BYTES, STORED_VERSIONS = 1 << 27, 4  # of the object store of a cluster that is started here
REASON = re.compile(r"\b(is dead|died) because")
WORDS = 200  # characters of what Ray says of a death
# Ray's own lines would drown ours; read when ray is imported.
QUIET = {"RAY_DEDUP_LOGS_SKIP_REGEX": ".", "RAY_IGNORE_UNHANDLED_ERRORS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
# No other machine joins, on any system: the one way to make Ray listen on the loopback address alone.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
EVEN = {"RAY_worker_niceness": "0"}  # with Ray's own 15 generators get what all else leaves of a core


class RayGenerators(Remote):
    """Sample in Ray actors.

    Parameters
    ----------
    config : ScaleRLConfig
        `generators` says how many.
    policy : Policy
        Tokenizer and end tokens.
    forward : AnyForward
        The model's arithmetic.
    weights : AnyWeights
        Those of version 0.
    slots : int
        Completions decoded at once by all together.

    Raises
    ------
    UserError
        If ray is not installed, or there is no cluster at RAY_ADDRESS or one without room.
    """

    def __init__(
        self, config: ScaleRLConfig, policy: Policy, forward: AnyForward, weights: AnyWeights, *, slots: int
    ) -> None:
        super().__init__("generators", config.generators, slots=-(-slots // config.generators), replaces=True)
        self._ray = _import()
        packed = pack(weights, torch.device("cpu"))
        self._options: dict[str, Any] = {"num_cpus": config.threads, "scheduling_strategy": "SPREAD"}
        if forward.device.type == "cuda":
            self._options["num_gpus"] = 1
        self._ours = _join(self._ray, config, forward.device, packed.memory.nbytes)
        self._packed, self._latest = packed, (0, self._ray.put(packed.memory.numpy()))
        setup = Setup(config, policy._replace(model=None), forward.bare(torch.device("cpu")), self.slots)
        layout = packed._replace(memory=torch.empty(0, dtype=torch.uint8))
        self._begin = self._ray.put((setup, layout, forward.device.type))

    @property
    def pids(self) -> list[int | None]:
        """Numbers of the actors' processes, each on its own node; None for one that is not ready."""
        return [link.pid for link in self._links]  # type: ignore[attr-defined]

    def close(self) -> None:
        """End the generators, leave the cluster, and end that, too, if it was started for them."""
        super().close()
        if self._ours and self._ray.is_initialized():
            self._ray.shutdown()
        self._ours = False

    def _connect(self, place: int) -> _RayLink:
        return _RayLink(self._inbox, place, self._options, (self._begin, *self._latest))

    def _publish(self, version: int, weights: AnyWeights) -> tuple[Any, ...]:
        self._packed.write(weights)
        try:
            self._latest = version, self._ray.put(self._packed.memory.numpy())
        except self._ray.exceptions.RayError as error:
            raise GenerationError(
                f"generators: Ray's object store does not take new weights: {_words(error)}"
            ) from error
        return "load", version, [self._latest[1]]  # in a list Ray leaves it to the actor when to fetch it

    def _why_not(self) -> str:
        return f"; the cluster has {_room(self._ray)} for {self.count} generators"


class _RayLink:
    """An actor, and the way to it."""

    def __init__(self, inbox: Inbox, place: int, options: dict[str, Any], begin: tuple[Any, ...]) -> None:
        self.name = f"generator {place}"
        self.pid: int | None = None
        self._ray = _import()
        # One thread carries out what it is told, in order, and one waits for news.
        made = self._ray.remote(concurrency_groups={"told": 1, "heard": 1})(Actor)
        self._actor = made.options(**options).remote(*begin)
        self._listener = threading.Thread(target=self._listen, args=(inbox,), daemon=True)
        self._listener.start()

    def send(self, message: tuple[Any, ...]) -> None:
        self._actor.tell.options(concurrency_group="told").remote(message)

    def close(self) -> None:
        if self._ray.is_initialized():
            with suppress(self._ray.exceptions.RayError):
                self._ray.kill(self._actor)
            self._listener.join(CLOSE_S)

    def _listen(self, inbox: Inbox) -> None:
        """Pass on what the actor says until it is lost."""
        try:
            self.pid, node = self._ray.get(self._actor.about.remote())
            self.name += f" (process {self.pid} on {node})"
            while True:
                for said in self._ray.get(self._actor.hear.options(concurrency_group="heard").remote()):
                    inbox.put((self, said))
        except Exception as error:  # whatever it is, nothing more is heard
            inbox.put((self, Ended(_words(error))))


class Actor:
    """The other end: decode in a thread of its own, and take and give messages in two others.

    Parameters
    ----------
    begin : (Setup, Packed without memory, kind of device)
    version : int
    weights : uint8 array
        What the memory of the packed weights of that version holds.
    """

    def __init__(self, begin: tuple[Setup, Packed, str], version: int, weights: np.ndarray) -> None:
        # Arrays in the object store are read-only; weights are copied before anything is done to them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        self._inbox: Inbox = queue.SimpleQueue()
        self._said: list[Said | Failure] = []
        self._news = threading.Condition()
        threading.Thread(target=self._work, args=(*begin, version, weights), daemon=True).start()

    def about(self) -> tuple[int, str]:
        """Return the number of this process and the address of its node."""
        return os.getpid(), str(_import().util.get_node_ip_address())

    def tell(self, message: tuple[Any, ...]) -> None:
        """Take a message; weights are fetched here, while the generator goes on."""
        if message[0] == "load":
            kind, version, (stored,) = message
            try:
                message = (kind, version, _import().get(stored))
            except BaseException:  # without them it would fall behind: another one takes its place
                os._exit(1)
        self._inbox.put(message)

    def hear(self) -> list[Said | Failure]:
        """Wait until there is something to say, and return it."""
        with self._news:
            self._news.wait_for(lambda: self._said)
            said, self._said = self._said, []
        return said

    def _work(self, setup: Setup, layout: Packed, kind: str, version: int, stored: np.ndarray) -> None:
        where = torch.device(kind)

        def say(message: Said | Failure) -> None:
            with self._news:
                self._said.append(message)
                self._news.notify()

        def weights(stored: np.ndarray) -> AnyWeights:
            return layout._replace(memory=torch.from_numpy(stored)).weights(where)

        serve(setup._replace(forward=setup.forward.bare(where)), self._inbox, say, weights, version, stored)


def _import() -> Any:
    """Return the module ray, which keeps its lines to itself if nobody imported it before."""
    for name, value in (*QUIET.items(), *(() if "RAY_ADDRESS" in os.environ else LOOPBACK.items())):
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise UserError(
            "generator: ray is not installed: pip install 'scalerl[ray]', or set generator to process"
        ) from error
    return ray


def _join(ray: Any, config: ScaleRLConfig, trainers: torch.device, weights_bytes: int) -> bool:
    """Join the cluster that is there, or start one; return whether it is to be left again, or ended."""
    address = os.environ.get("RAY_ADDRESS")
    ours = not ray.is_initialized()  # else by whoever called us
    about: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address and "://" in address:
        raise UserError(f"RAY_ADDRESS: {address} is for clients; run the trainer on a node and name HOST:PORT")
    if ours and address and address != "local":
        try:
            with _signals_kept():
                ray.init(address=address, **about)
        except Exception as error:  # ray raises many kinds
            raise UserError(f"RAY_ADDRESS: no Ray cluster can be joined at {address}: {_words(error)}") from error
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
                raise UserError(f"generator: no Ray cluster could be started here: {_words(error)}") from error
    there = ray.cluster_resources()
    kind, each = ("GPU", 1) if trainers.type == "cuda" else ("CPU", config.threads)
    if there.get(kind, 0) < config.generators * each:
        room = _room(ray)
        if ours:
            ray.shutdown()
        raise UserError(
            f"generators: {config.generators} of {each} {kind} each beside the trainer, but there is {room}; "
            "lower generators, or add nodes"
        )
    return ours


def _room(ray: Any) -> str:
    there = ray.cluster_resources()
    return f"{there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs on {len(ray.nodes())} nodes"


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Take back what ray does to the handling of SIGTERM: the trainer ends its runs itself."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _without_device(trainers: torch.device) -> Iterator[int]:
    """Let a cluster that is started meanwhile see all GPUs but the trainer's; yield their number."""
    name = "CUDA_VISIBLE_DEVICES"
    before = os.environ.get(name)
    if trainers.type != "cuda":
        yield 0
        return
    visible = before.split(",") if before else [str(i) for i in range(torch.cuda.device_count())]
    del visible[trainers.index or 0]
    os.environ[name] = ",".join(visible)
    try:
        yield len(visible)
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _words(error: BaseException) -> str:
    """Return the one line in what ray says that tells what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = lines[-1] if "creation task" in lines[0] else next((li for li in lines if REASON.search(li)), lines[0])
    text = text.rpartition("Worker exit detail: ")[2]
    for more in ("Some common causes", "There are some potential"):
        text = text.partition(more)[0]
    return text.strip().rstrip(".")[:WORDS]
