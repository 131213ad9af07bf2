"""A generator in a process of its own: it goes on decoding while the trainer trains (``generator: process``).

Messages arrive in the order they were sent. The trainer sends new weights before the requests that they allow, so no
token lags by more than `off_policy_steps`. Real time decides which version a token is sampled from: a run cannot be
repeated bit for bit, and what is in work when it is cut off is generated anew when it goes on.

Compute is billed for both processes (`JointMeter`). The worker stands still whenever the meter does, through
evaluations and checkpoints: it can neither generate unbilled nor take the processor from what is not billed.

The worker ends with its trainer, however that ends: it sees the connection close.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from typing import Any, NamedTuple

import torch
import torch.multiprocessing
from torch import Tensor

from scalerl.completions import Completion, Counts, GenerationError, Request
from scalerl.config import ScaleRLConfig
from scalerl.forward import AnyForward, AnyWeights
from scalerl.generate import Generator
from scalerl.meter import Meter
from scalerl.policy import Policy
from scalerl.process import prepare_process
from scalerl.runlog import UserError
from scalerl.sampler import make_generator
from scalerl.tasks import thinking_of

WAIT_S = 0.005  # how long a poll waits for something to arrive
REPORT_S = 0.05  # longest time between two words from a worker that works
CLOSE_S = 5.0
ALIGNMENT = 64  # bytes
Inbox = queue.SimpleQueue[Any]


class GeneratorProcess:
    """Sample in a process beside this one; the interface is `scalerl.completions.Generation`.

    The process starts with the first load or request, or when the meter starts, and is ready when that returns.

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

    Raises
    ------
    GenerationError
        From any method but `pause` and `close`, once the process failed or died.
    """

    def __init__(
        self, config: ScaleRLConfig, policy: Policy, forward: AnyForward, weights: AnyWeights, *, slots: int
    ) -> None:
        self._shared = share(weights)
        there = device(self._shared.memory.device)
        self._setup = _Setup(config, policy._replace(model=None), forward.bare(there), self._shared, slots)
        self._process: Any = None
        self._pipe: Connection | None = None
        self._close: Any = None
        self._inbox: Inbox = queue.SimpleQueue()
        self._error: GenerationError | None = None
        self._arrived: list[Completion] = []
        self._owed = 0  # completions asked for and not arrived
        self._counts = Counts()
        self._busy_s = self._cpu_s = 0.0
        self._waits = False  # whether a message is not answered yet
        self._still = False

    @property
    def pid(self) -> int | None:
        """Number of the process; None before it starts."""
        return None if self._process is None else int(self._process.pid)

    @property
    def cpu_s(self) -> float:
        """CPU-seconds of the process since it was ready, as it last told."""
        self._take()
        return self._cpu_s

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests; completions start in this order."""
        if requests:
            self._owed += sum(request.count for request in requests)
            self._send("submit", list(requests))

    def poll(self, ticks: int | None = None) -> list[Completion]:
        """Return what has arrived: all that was asked for, or with `ticks` what there is after a little while."""
        self._take()
        while self._owed > len(self._arrived) and self._error is None and (ticks is None or not self._arrived):
            self._take(WAIT_S)
            if ticks is not None:
                break
        if not self._arrived:
            self._check()
        arrived, self._arrived = self._arrived, []
        self._owed -= len(arrived)
        return sorted(arrived, key=lambda completion: completion.number)

    def load(self, version: int, weights: AnyWeights) -> None:
        """Hand over new weights; completions in work go on with them."""
        self.begin()  # its first answer is of the start
        self._answered()  # the memory that is shared may be written again
        self._shared.write(weights)
        self._waits = True
        self._send("load", version)

    def take_counts(self) -> Counts:
        """Return what was computed since the last call."""
        self._take()
        counts, self._counts = self._counts, Counts()
        return counts

    def take_busy_s(self) -> float:
        """Return the wall seconds that the process worked since the last call."""
        self._take()
        busy, self._busy_s = self._busy_s, 0.0
        return busy

    def state(self, *, cache: bool) -> None:
        """Return None: what is in work must be asked for again."""

    def restore(self, state: dict[str, Any]) -> None:
        """Refuse: there is no state to go on from."""
        raise ValueError(f"a generator in a process of its own keeps no state; was given {', '.join(state)}")

    def refresh(self) -> None:
        """Do nothing: caches are made anew only for what a state must repeat, and there is none."""

    def pause(self) -> None:
        """Let the process stand still, and return when it does; never fails."""
        if not self._still and self._process is not None and self._error is None:
            with suppress(GenerationError):  # whoever asks for completions next is told
                self._answered()
                self._waits = True
                self._send("pause")
                self._answered()
        self._still = True

    def go_on(self) -> None:
        """Let the process work again."""
        if self._still:
            self._still = False
            self._send("go on")

    def close(self) -> None:
        """End the process."""
        if self._close is not None:
            self._close()
        self._error = self._error or GenerationError("generator process: was closed")

    def begin(self) -> None:
        """Start the process, if it was not yet, and return when it is ready."""
        if self._process is not None:
            return
        context = torch.multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, self._setup), name="generator", daemon=True)
        self._process.start()
        theirs.close()  # the one copy left is the worker's: when it dies the connection ends
        threading.Thread(target=_receive, args=(self._pipe, self._inbox), daemon=True).start()
        self._close = Finalize(self, _end, args=(self._process, self._pipe), exitpriority=10)
        self._waits = True
        self._answered()
        if self._still:
            self._still = False
            self.pause()

    def _send(self, *message: Any) -> None:
        self.begin()
        self._check()
        assert self._pipe is not None  # noqa: S101 - started
        try:
            self._pipe.send(message)
        except OSError:  # it died a moment ago; its last words are on the way
            while self._error is None:
                self._take(None)
            self._check()

    def _answered(self) -> None:
        """Wait until the latest message that asks for an answer was answered."""
        while self._waits and self._error is None:
            self._take(None)
        self._check()

    def _take(self, wait_s: float | None = 0.0) -> None:
        """Take in all that has been said; where there is nothing, wait so long for something (None: for ever)."""
        try:
            while self._error is None:
                said = self._inbox.get(timeout=wait_s)
                wait_s = 0.0
                if said is None:
                    self._error = _death(self._process)
                elif isinstance(said, _Failure):
                    self._error = GenerationError(f"generator process: {said.message}")
                    self._error.add_note(said.trace)
                else:
                    self._arrived += said.completions
                    self._counts += said.counts
                    self._busy_s += said.busy_s
                    self._cpu_s = said.cpu_s
                    self._waits = self._waits and not said.answers
        except queue.Empty:
            pass

    def _check(self) -> None:
        if self._error is not None:
            raise self._error


class JointMeter(Meter):
    """Meter a trainer and its generator process as one; the process works only while the meter runs.

    Parameters
    ----------
    generator : GeneratorProcess
    devices : int
        Devices that both hold.
    """

    def __init__(self, generator: GeneratorProcess, devices: int) -> None:
        super().__init__(devices, cpu=lambda: time.process_time() + generator.cpu_s)
        self._generator = generator
        generator.pause()

    def start(self) -> None:
        """Begin the metered interval, and let the process work."""
        self._generator.begin()  # starting is not billed
        super().start()
        self._generator.go_on()  # behind the clock: what wakes up first may be the other process

    def stop(self) -> None:
        """Let the process stand still, and end the metered interval."""
        self._generator.pause()
        super().stop()

    def take_phases(self) -> dict[str, float]:
        """Return the seconds by phase, and those in which the process worked."""
        return {**super().take_phases(), "generator_busy": self._generator.take_busy_s()}


class Shared(NamedTuple):
    """Weights in one stretch of memory that two processes see."""

    memory: Tensor  # (bytes,), on the trainer's device
    places: tuple[tuple[int, tuple[int, ...], torch.dtype] | None, ...]  # first byte, shape, dtype of each weight
    form: Callable[[Sequence[Tensor | None]], AnyWeights]

    @torch.no_grad()
    def write(self, weights: AnyWeights) -> None:
        """Copy weights into the memory."""
        for view, weight in zip(self._views(), weights.tensors(), strict=True):
            if view is not None and weight is not None:
                view.copy_(weight)
        _finish(self.memory.device)

    def weights(self, where: torch.device) -> AnyWeights:
        """Return the weights as they are seen from a device; on the memory's own they are views of it."""
        return self.form([None if view is None else view.to(where) for view in self._views()])

    def _views(self) -> Iterator[Tensor | None]:
        for place in self.places:
            if place is None:
                yield None
            else:
                first, shape, dtype = place
                size = torch.Size(shape).numel() * dtype.itemsize
                yield self.memory[first : first + size].view(dtype).view(shape)


def share(weights: AnyWeights) -> Shared:
    """Put a copy of weights where another process can see it."""
    places: list[tuple[int, tuple[int, ...], torch.dtype] | None] = []
    size = 0
    for weight in weights.tensors():
        places.append(None if weight is None else (size, tuple(weight.shape), weight.dtype))
        if weight is not None:
            size += -(-weight.numel() * weight.dtype.itemsize // ALIGNMENT) * ALIGNMENT
    memory = torch.empty(size, dtype=torch.uint8, device=weights.head.device)
    memory.share_memory_()  # type: ignore[no-untyped-call]
    shared = Shared(memory, tuple(places), weights.form())
    shared.write(weights)
    return shared


def device(trainers: torch.device) -> torch.device:
    """Return where the process computes: a second GPU where there is one, else where the trainer does."""
    other = trainers.type == "cuda" and torch.cuda.device_count() > 1
    return torch.device("cuda", 1 - (trainers.index or 0)) if other else trainers


def devices_held(trainers: torch.device) -> int:
    """Return how many devices trainer and generator process hold; on a CPU one process counts as one."""
    return 2 if trainers.type == "cpu" or device(trainers) != trainers else 1


def skeleton(config: Any, dtype: torch.dtype) -> Any:
    """Return a causal LM of an architecture without memory for its weights."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]


class _Setup(NamedTuple):
    """All that the process needs to begin."""

    config: ScaleRLConfig
    policy: Policy
    forward: AnyForward
    shared: Shared
    slots: int


@dataclass(frozen=True)
class _Said:
    """A message from the process: what is finished, and what was spent since the last one."""

    answers: bool
    """Whether a message was carried out that asks for an answer; starting is one, too."""
    completions: list[Completion]
    counts: Counts
    busy_s: float
    cpu_s: float
    """In all since the process was ready."""


class _Failure(NamedTuple):
    """What went wrong in the process."""

    message: str
    trace: str


def _work(pipe: Connection, setup: _Setup) -> None:
    """Run the process: answer messages between two tokens until the trainer closes the connection."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # sent to a group of processes: the trainer decides what is done first
    inbox: Inbox = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(pipe, inbox, True), daemon=True).start()
    try:
        _serve(pipe, inbox, setup)
    except BaseException as error:
        message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        pipe.send(_Failure(message, traceback.format_exc()))
        sys.exit(1)


def _serve(pipe: Connection, inbox: Inbox, setup: _Setup) -> None:
    generator = _generator(setup)
    began, busy_s, still = time.process_time(), 0.0, False

    def say(completions: Sequence[Completion] = (), *, answers: bool = False) -> None:
        nonlocal busy_s
        pipe.send(_Said(answers, list(completions), generator.take_counts(), busy_s, time.process_time() - began))
        busy_s = 0.0

    say(answers=True)
    told = time.perf_counter()
    while True:
        while still or not generator.in_flight or not inbox.empty():
            kind, *content = inbox.get()
            entered = time.perf_counter()
            if kind == "submit":
                generator.submit(content[0])
            elif kind == "load":
                generator.load(content[0], setup.shared.weights(setup.forward.device))
                for place in {setup.forward.device, setup.shared.memory.device}:
                    _finish(place)  # before the trainer may write there again
                busy_s += time.perf_counter() - entered
                say(answers=True)
            elif kind == "end":
                return
            else:
                still = kind == "pause"
                if still:
                    say(answers=True)
        entered = time.perf_counter()
        done = generator.poll(ticks=1)
        left = time.perf_counter()
        busy_s += left - entered
        if done or left - told > REPORT_S:
            say(done)
            told = left


def _generator(setup: _Setup) -> Generator:
    config, forward = setup.config, setup.forward
    prepare_process(config.threads)
    thinking, weights = thinking_of(config), setup.shared.weights(forward.device)
    return make_generator(config, setup.policy, thinking, forward, weights, slots=setup.slots, seed=config.seed)


def _receive(pipe: Connection, inbox: Inbox, ends: bool = False) -> None:
    """Pass on messages so that a sender never waits; at the end of the connection say None, or end this process."""
    try:
        while True:
            inbox.put(pipe.recv())
    except (EOFError, OSError):
        if ends:
            os._exit(1)  # whatever the main thread is at: nobody is left to want it
        inbox.put(None)


def _end(process: Any, pipe: Connection) -> None:
    with suppress(OSError):  # dead already
        pipe.send(("end",))  # closing would not do: our own thread that reads holds the connection open
    process.join(CLOSE_S)
    if process.is_alive():
        process.kill()
        process.join()
    pipe.close()


def _death(process: Any) -> GenerationError:
    process.join(CLOSE_S)
    code = process.exitcode
    how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
    return GenerationError(
        f"generator process {process.pid}: died in the middle of its work ({how}); "
        "go on from the latest checkpoint with --resume"
    )


def _finish(where: torch.device) -> None:
    """Wait for what a device was told to do."""
    if where.type == "cuda":
        torch.cuda.synchronize(where)
