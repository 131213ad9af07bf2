"""The loop of a generator that runs apart from its trainer: it answers messages between two tokens.

How messages come and go is not known here: `scalerl.worker` brings them through a pipe, `scalerl.raygenerators`
through Ray. They are tuples: ``("submit", requests)``, ``("load", version, ...)``, ``("pause",)``, ``("go on",)`` and
``("end",)``. All that have arrived are carried out, in their order, before the next token. Starting, a load and a pause
are answered.
"""

from __future__ import annotations

import queue
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from scalerl.completions import Completion, Counts, Engine
from scalerl.config import ScaleRLConfig
from scalerl.forward import AnyForward, AnyWeights
from scalerl.packed import finish
from scalerl.policy import Policy
from scalerl.process import prepare_process
from scalerl.runlog import UserError
from scalerl.sampler import make_generator
from scalerl.tasks import thinking_of

REPORT_S = 0.05  # longest time between two words from a generator that works
Inbox = queue.SimpleQueue[Any]


class Setup(NamedTuple):
    """All that a generator needs to begin, but for the weights."""

    config: ScaleRLConfig
    policy: Policy
    forward: AnyForward
    slots: int


@dataclass(frozen=True)
class Said:
    """A message from a generator: what is finished, and what was spent since the last one."""

    answers: bool
    """Whether a message was carried out that asks for an answer; starting is one, too."""
    completions: list[Completion]
    counts: Counts
    busy_s: float
    """Wall seconds decoding and taking over weights."""
    sync_s: float
    """Those of them taking over weights."""
    cpu_s: float
    """In all since the generator was ready."""


class Failure(NamedTuple):
    """What went wrong in a generator: no other one in its place would do better."""

    message: str
    trace: str


def serve(
    setup: Setup,
    inbox: Inbox,
    say: Callable[[Said | Failure], None],
    weights: Callable[..., AnyWeights],
    *begin: Any,
    where: torch.device | None = None,
) -> bool:
    """Run a generator until it is told to end; return whether all went well, or a `Failure` was said.

    Parameters
    ----------
    setup : Setup
    inbox : queue of messages
    say : callable
        Sends a message; it may wait, but not for an answer.
    weights : callable
        Makes weights of what a load brings besides the version; the generator copies them.
    begin : version and what else a load would bring
        The weights to begin with.
    where : torch.device, optional
        Where to compute, if that is not known where the setup was made.
    """
    try:
        if where is not None:
            setup = setup._replace(forward=setup.forward.bare(where))
        _serve(setup, inbox, say, weights, *begin)
    except BaseException as error:
        message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        say(Failure(message, traceback.format_exc()))
        return False
    return True


def _serve(
    setup: Setup,
    inbox: Inbox,
    send: Callable[[Said | Failure], None],
    weights: Callable[..., AnyWeights],
    version: int,
    *begin: Any,
) -> None:
    generator = _generator(setup, weights(*begin))
    generator.version = version
    began, busy_s, sync_s, still = time.process_time(), 0.0, 0.0, False

    def say(completions: Sequence[Completion] = (), *, answers: bool = False) -> None:
        nonlocal busy_s, sync_s
        cpu_s = time.process_time() - began
        send(Said(answers, list(completions), generator.take_counts(), busy_s, sync_s, cpu_s))
        busy_s = sync_s = 0.0

    say(answers=True)
    told = time.perf_counter()
    while True:
        while still or not generator.in_flight or not inbox.empty():
            kind, *content = inbox.get()
            entered = time.perf_counter()
            if kind == "submit":
                generator.submit(content[0])
            elif kind == "load":
                generator.load(content[0], weights(*content[1:]))
                finish(setup.forward.device)  # before the trainer may write where the weights were
                took = time.perf_counter() - entered
                busy_s, sync_s = busy_s + took, sync_s + took
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


def _generator(setup: Setup, weights: AnyWeights) -> Engine:
    config = setup.config
    prepare_process(config.threads)
    thinking = thinking_of(config)
    return make_generator(config, setup.policy, thinking, setup.forward, weights, slots=setup.slots, seed=config.seed)
