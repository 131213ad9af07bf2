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

import os
import queue
import threading
import warnings
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from scalerl.completions import GenerationError
from scalerl.config import ScaleRLConfig
from scalerl.forward import AnyForward, AnyWeights
from scalerl.packed import Packed, pack
from scalerl.peers import Ended
from scalerl.policy import Policy
from scalerl.raycluster import LastWords, import_ray, join, room, words
from scalerl.remote import Remote
from scalerl.serve import Failure, Inbox, Said, Setup, serve

CLOSE_S = 5.0


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
        self._ray = import_ray()
        packed = pack(weights, torch.device("cpu"))
        self._options: dict[str, Any] = {"num_cpus": config.threads, "scheduling_strategy": "SPREAD"}
        if forward.device.type == "cuda":
            self._options["num_gpus"] = 1
        self._ours = join(self._ray, config, forward.device, packed.memory.nbytes)
        self._last_words = LastWords()
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
        self._last_words.close()

    def _connect(self, place: int) -> _RayLink:
        return _RayLink(self._inbox, place, self._options, (self._begin, *self._latest))

    def _publish(self, version: int, weights: AnyWeights) -> tuple[Any, ...]:
        self._packed.write(weights)
        try:
            self._latest = version, self._ray.put(self._packed.memory.numpy())
        except self._ray.exceptions.RayError as error:
            raise GenerationError(
                f"generators: Ray's object store does not take new weights: {words(error)}"
            ) from error
        return "load", version, [self._latest[1]]  # in a list Ray leaves it to the actor when to fetch it

    def _why_not(self) -> str:
        return f"; the cluster has {room(self._ray)} for {self.count} generators"


class _RayLink:
    """An actor, and the way to it."""

    def __init__(self, inbox: Inbox, place: int, options: dict[str, Any], begin: tuple[Any, ...]) -> None:
        self.name = f"generator {place}"
        self.pid: int | None = None
        self._ray = import_ray()
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
            inbox.put((self, Ended(words(error))))


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
        stored = [weights]
        del weights
        threading.Thread(target=self._work, args=(*begin, version, stored), daemon=True).start()

    def about(self) -> tuple[int, str]:
        """Return the number of this process and the address of its node."""
        return os.getpid(), str(import_ray().util.get_node_ip_address())

    def tell(self, message: tuple[Any, ...]) -> None:
        """Take a message; weights are fetched here, while the generator goes on."""
        if message[0] == "load":
            kind, version, (stored,) = message
            try:
                message = (kind, version, [import_ray().get(stored)])
            except BaseException:  # without them it would fall behind: another one takes its place
                os._exit(1)
        self._inbox.put(message)

    def hear(self) -> list[Said | Failure]:
        """Wait until there is something to say, and return it."""
        with self._news:
            self._news.wait_for(lambda: self._said)
            said, self._said = self._said, []
        return said

    def _work(self, setup: Setup, layout: Packed, kind: str, version: int, stored: list[np.ndarray]) -> None:
        where = torch.device(kind)

        def say(message: Said | Failure) -> None:
            with self._news:
                self._said.append(message)
                self._news.notify()

        def weights(stored: list[np.ndarray]) -> AnyWeights:
            # Taken out of the list, so that the object store may free them once the generator has copied them.
            return layout._replace(memory=torch.from_numpy(stored.pop())).weights(where)

        serve(setup, self._inbox, say, weights, version, stored, where=where)
