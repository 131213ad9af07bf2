"""A generator in a process of its own: it goes on decoding while the trainer trains (``generator: process``).

What it promises is in `scalerl.remote`; here is the way to it: a pipe for messages, and memory that both processes see
for the weights.

Compute is billed for both processes (`scalerl.meter.JointMeter`). The worker stands still whenever the meter does,
through evaluations and checkpoints: it can neither generate unbilled nor take the processor from what is not billed.

The worker ends with its trainer, however that ends: it sees the connection close.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch
import torch.multiprocessing

from scalerl.config import ScaleRLConfig
from scalerl.forward import AnyForward, AnyWeights
from scalerl.packed import Packed, finish, pack
from scalerl.peers import Ended
from scalerl.policy import Policy
from scalerl.remote import Remote
from scalerl.serve import Inbox, Setup, serve

CLOSE_S = 5.0


class GeneratorProcess(Remote):
    """Sample in a process beside this one.

    Parameters
    ----------
    config : ScaleRLConfig
    policy : Policy
        Tokenizer and end tokens.
    forward : AnyForward
        The model's arithmetic.
    weights : AnyWeights
        Those of version 0.
    slots : int
        Completions decoded at once.
    """

    def __init__(
        self, config: ScaleRLConfig, policy: Policy, forward: AnyForward, weights: AnyWeights, *, slots: int
    ) -> None:
        super().__init__("generator process", 1, slots=slots, replaces=False)
        packed = pack(weights)
        packed.memory.share_memory_()  # type: ignore[no-untyped-call]
        self._packed = packed
        there = device(packed.memory.device)
        self._setup = Setup(config, policy._replace(model=None), forward.bare(there), slots)

    @property
    def pid(self) -> int | None:
        """Number of the process; None before it starts."""
        return int(self._links[0].process.pid) if self._links else None  # type: ignore[attr-defined]

    def _connect(self, place: int) -> _PipeLink:  # noqa: ARG002 - there is one place
        return _PipeLink(self._inbox, _Start(self._setup, self._packed))

    def _publish(self, version: int, weights: AnyWeights) -> tuple[Any, ...]:
        self._packed.write(weights)
        return "load", version


class _Start(NamedTuple):
    """What the process is given to begin with."""

    setup: Setup
    packed: Packed


class _PipeLink:
    """A process, and the pipe to it."""

    def __init__(self, inbox: Inbox, start: _Start) -> None:
        context = torch.multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, start), name="generator", daemon=True)
        self.process.start()
        self.name = f"generator process {self.process.pid}"
        theirs.close()  # the one copy left is the worker's: when it dies the connection ends
        self._outbox: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        self._sender = threading.Thread(target=self._deliver, daemon=True)
        self._sender.start()
        threading.Thread(target=self._listen, args=(inbox,), daemon=True).start()

    def send(self, message: tuple[Any, ...]) -> None:
        self._outbox.put(message)

    def _deliver(self) -> None:
        """Send what is to be sent: a process that hangs takes nothing out of a pipe that is full."""
        with suppress(OSError):  # it died; its last words are on the way
            while (message := self._outbox.get()) is not None:
                self._pipe.send(message)

    def close(self) -> None:
        self._outbox.put(("end",))  # closing would not do: our own thread that reads holds the connection open
        self.process.join(CLOSE_S)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self._outbox.put(None)
        self._sender.join()
        self._pipe.close()

    def _listen(self, inbox: Inbox) -> None:
        """Pass on messages so that a sender never waits."""
        try:
            while True:
                inbox.put((self, self._pipe.recv()))
        except (EOFError, OSError):
            self.process.join(CLOSE_S)
            code = self.process.exitcode
            how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
            inbox.put((self, Ended(how)))


def device(trainers: torch.device) -> torch.device:
    """Return where the process computes: a second GPU where there is one, else where the trainer does."""
    other = trainers.type == "cuda" and torch.cuda.device_count() > 1
    return torch.device("cuda", 1 - (trainers.index or 0)) if other else trainers


def devices_held(config: ScaleRLConfig, trainers: torch.device) -> tuple[int, float]:
    """Return how many devices a run holds, and how many of them are the generators'.

    On a CPU one process counts as one device; a device that both use is half the one's and half the other's.
    """
    if config.generator == "inline":
        return 1, 0.0
    if config.generator == "process" and trainers.type == "cuda" and device(trainers) == trainers:
        return 1, 0.5
    return 1 + config.generators, float(config.generators)


def skeleton(config: Any, dtype: torch.dtype) -> Any:
    """Return a causal LM of an architecture without memory for its weights."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]


def _work(pipe: Connection, start: _Start) -> None:
    """Run the process: answer messages between two tokens until the trainer closes the connection."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # sent to a group of processes: the trainer decides what is done first
    inbox: Inbox = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(pipe, inbox), daemon=True).start()
    packed, where = start.packed, start.setup.forward.device

    def weights() -> AnyWeights:
        seen = packed.weights(where)
        finish(packed.memory.device)  # where it lies on another device, it was copied
        return seen

    if not serve(start.setup, inbox, pipe.send, weights, 0):
        sys.exit(1)


def _receive(pipe: Connection, inbox: Inbox) -> None:
    """Pass on messages so that the trainer never waits; when it is gone, end this process."""
    try:
        while True:
            inbox.put(pipe.recv())
    except (EOFError, OSError):
        os._exit(1)  # whatever the main thread is at: nobody is left to want it
