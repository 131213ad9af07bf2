"""What the trainer holds of generators that run elsewhere: they go on decoding while it trains.

`Remote` is all but the way there. `scalerl.worker` makes one process beside the trainer of it, `scalerl.raygenerators`
any number of Ray actors; what runs at the other end is `scalerl.serve`.

**No token lags by more than `off_policy_steps`, whatever the timing.** Messages reach a generator in the order in which
they were sent, and it carries out all that have come before the next token. A completion of batch u is asked for when
u - k updates were made at least, and the weights of every update are sent to every generator before anything is asked
for that they allow. So a completion starts with version u - k at least, and later tokens of it only lag less. A
generator that takes a lost one's place starts with the latest weights.

**Every completion is delivered once.** What each generator owes is kept by number. What arrives is delivered if the one
that sent it owes it, and is struck off; else it is dropped. When a generator is lost, nothing more of it is heard, and
what it owed is asked for again, with the same noise and the weights that there are now.

Does not promise: that a run can be repeated bit for bit. Real time decides which version a token is sampled from, and
what is in work when a run is cut off is generated anew when it goes on. Each generator starts what it is given in the
order of the requests; two generators are in no order.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from multiprocessing.util import Finalize
from typing import Any

from scalerl.completions import Completion, Counts, GenerationError, Request
from scalerl.peers import Ended, Link, Peer, requests_of, share_out
from scalerl.serve import Failure, Inbox, Said

WAIT_S = 0.005  # how long a poll waits for something to arrive
START_S = 300.0  # in which one that takes a lost one's place must be ready
SILENT_S = 600.0  # without a word from one that works, which speaks between any two tokens: it hangs
HEARD_S = 1.0  # longest wait in one go; more of a wait than that went by while nobody listened
DEATHS = 5  # in a row, without a completion in between, that are too many


class Remote:
    """Sample with generators that run elsewhere; the interface is `scalerl.completions.Generation`.

    They start with the first load or request, or when the meter starts, and are ready when that returns.

    Parameters
    ----------
    name : str
        For messages.
    count : int
        Generators.
    slots : int
        Completions decoded at once by each.
    replaces : bool
        Whether another takes the place of one that is lost; otherwise that ends the run.

    Raises
    ------
    GenerationError
        From any method but `pause` and `close`, once a generator failed, or one is lost and cannot be replaced.
    """

    def __init__(self, name: str, count: int, *, slots: int, replaces: bool) -> None:
        self.name, self.count, self.slots, self.replaces = name, count, slots, replaces
        self.on_replaced: Callable[[dict[str, Any]], None] | None = None
        """Is told, within `poll`, of each generator that was replaced."""
        self._peers: list[Peer] = []
        self._links: list[Link] = []
        self._close: Finalize | None = None
        self._inbox: Inbox = queue.SimpleQueue()
        self._error: GenerationError | None = None
        self._arrived: list[Completion] = []
        self._untold: list[dict[str, Any]] = []
        self._counts = Counts()
        self._busy_s = self._sync_s = self._load_s = self._ended_cpu_s = 0.0
        self._still = False

    def _connect(self, place: int) -> Link:
        """Start a generator with the latest weights, without waiting for it."""
        raise NotImplementedError

    def _publish(self, version: int, weights: Any) -> tuple[Any, ...]:
        """Put new weights where all generators can take them, and return the message that says so."""
        raise NotImplementedError

    @property
    def cpu_s(self) -> float:
        """CPU-seconds of all generators since they were ready, as they last told."""
        self._take()
        return self._ended_cpu_s + sum(peer.cpu_s for peer in self._peers)

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests; each generator starts what it is given in this order."""
        if requests:
            self.begin()
            self._check()
            self._ask(requests)

    def poll(self, ticks: int | None = None) -> list[Completion]:
        """Return what has arrived: all that was asked for, or with `ticks` what there is after a little while."""
        self._take()
        self._mend()
        while not (ticks is not None and self._arrived) and self._owes():
            self._take(WAIT_S)
            self._mend()
            if ticks is not None:
                break
        if not self._arrived:
            self._check()
        while self._untold and self.on_replaced is not None:
            self.on_replaced(self._untold.pop(0))
        arrived, self._arrived = self._arrived, []
        return sorted(arrived, key=lambda completion: completion.number)

    def load(self, version: int, weights: Any) -> None:
        """Hand over new weights; completions in work go on with them."""
        self.begin()
        began = time.perf_counter()
        self._answered()  # of no more than two versions there are weights in memory, and the first may be overwritten
        message = self._publish(version, weights)
        for peer in self._peers:
            self._send(peer, message, asks=True)
        self._check()
        self._load_s += time.perf_counter() - began

    def take_counts(self) -> Counts:
        """Return what was computed since the last call; what a lost generator had not told is not in it."""
        self._take()
        counts, self._counts = self._counts, Counts()
        return counts

    def take_seconds(self) -> dict[str, float]:
        """Return wall seconds since the last call.

        ``generator_busy``: in which the generators worked, ``generator_sync``: of these, in which they took over
        weights, both the mean over the generators; ``weight_sync``: in which the trainer handed weights over.
        """
        self._take()
        seconds = {
            "generator_busy": self._busy_s / self.count,
            "generator_sync": self._sync_s / self.count,
            "weight_sync": self._load_s,
        }
        self._busy_s = self._sync_s = self._load_s = 0.0
        return seconds

    def state(self, *, cache: bool) -> None:
        """Return None: what is in work must be asked for again."""

    def restore(self, state: dict[str, Any]) -> None:
        """Refuse: there is no state to go on from."""
        raise ValueError(f"a generator that runs elsewhere keeps no state; was given {', '.join(state)}")

    def refresh(self) -> None:
        """Do nothing: caches are made anew only for what a state must repeat, and there is none."""

    def pause(self) -> None:
        """Let the generators stand still, and return when they do; never fails."""
        if not self._still and self._close is not None and self._error is None:
            self._still = True  # before the wait: where a signal ends that, whoever cleans up does not wait again
            with suppress(GenerationError):  # whoever asks for completions next is told
                for peer in self._peers:
                    self._send(peer, ("pause",), asks=True)
                self._answered()
        self._still = True

    def go_on(self) -> None:
        """Let the generators work again."""
        if self._still:
            self._still = False
            self.begin()
            for peer in self._peers:
                self._send(peer, ("go on",))
            self._check()

    def close(self) -> None:
        """End the generators."""
        if self._close is not None:
            self._close()
        self._error = self._error or GenerationError(f"{self.name}: was closed")

    def begin(self) -> None:
        """Start the generators, if they were not yet, and return when all are ready."""
        if self._close is not None:
            return
        self._check()
        self._close = Finalize(self, _end, args=(self._links,), exitpriority=10)
        for place in range(self.count):
            self._peers.append(Peer(place, self._link(place)))
        while self._error is None and not all(peer.ready for peer in self._peers):
            self._take(0.1)
            self._mend()
        self._check()
        if self._still:
            self._still = False
            self.pause()

    def _link(self, place: int) -> Link:
        link = self._connect(place)
        self._links.append(link)
        return link

    def _ask(self, requests: Iterable[Request]) -> None:
        """Ask the generators that are ready, if there are any; see `share_out`."""
        there = [peer for peer in self._peers if peer.ended is None]
        able = [peer for peer in there if peer.ready] or there or self._peers
        for place, given in share_out(requests, [peer.owed for peer in able], self.slots).items():
            self._send(able[place], ("submit", given))
        self._check()

    def _send(self, peer: Peer, message: tuple[Any, ...], *, asks: bool = False) -> None:
        """Send to a generator, unless it is lost: whoever takes its place is told what is owed."""
        if peer.ended is not None or self._error is not None:
            return
        peer.waits += asks
        try:
            peer.link.send(message)
        except OSError:  # it died a moment ago; its last words are on the way
            while peer.ended is None and self._error is None:
                self._take(HEARD_S)

    def _answered(self) -> None:
        """Wait until every message that asks for an answer was answered; one that only starts has nothing in work."""
        while self._error is None and any(peer.waits and peer.ready and peer.ended is None for peer in self._peers):
            self._take(HEARD_S)
        self._check()

    def _owes(self) -> bool:
        return self._error is None and any(peer.owed for peer in self._peers)

    def _take(self, wait_s: float = 0.0) -> None:
        """Take in all that has been said; where there is nothing, wait so long for something."""
        began = time.monotonic()
        with suppress(queue.Empty):
            while self._error is None:
                link, said = self._inbox.get(timeout=wait_s)
                wait_s = 0.0
                for peer in self._peers:
                    if peer.link is link:  # one that was given up is not listened to
                        self._hear(peer, said)
        self._give_up(min(time.monotonic() - began, HEARD_S))

    def _give_up(self, listened_s: float) -> None:
        """Take a generator that has something to do and says nothing for too long for lost: it hangs."""
        for peer in self._peers:
            works = peer.ready and peer.ended is None and (peer.waits or (peer.owed and not self._still))
            peer.silent_s = peer.silent_s + listened_s if works else 0.0
            if peer.silent_s > SILENT_S:
                peer.silent_s, peer.ended = 0.0, f"it said nothing for {SILENT_S:g} s"
                if not self.replaces:
                    self._error = GenerationError(
                        f"{peer.link.name}: hangs: {peer.ended}; go on from the latest checkpoint with --resume"
                    )

    def _hear(self, peer: Peer, said: Said | Failure | Ended) -> None:
        if isinstance(said, Ended):
            peer.ended = said.how
            if not self.replaces:
                self._error = GenerationError(
                    f"{peer.link.name}: died in the middle of its work ({said.how}); "
                    "go on from the latest checkpoint with --resume"
                )
        elif isinstance(said, Failure):
            self._error = GenerationError(f"{self.name}: {said.message}")
            self._error.add_note(said.trace)
        else:
            for completion in said.completions:
                if peer.owed.pop(completion.number, None) is not None:
                    self._arrived.append(completion)
                    peer.deaths = 0
            peer.ready, peer.silent_s = True, 0.0
            peer.waits -= said.answers
            peer.cpu_s = said.cpu_s
            self._counts += said.counts
            self._busy_s += said.busy_s
            self._sync_s += said.sync_s

    def _mend(self) -> None:
        """Put another in the place of each generator that is lost, and ask anew for what it owed."""
        for peer in self._peers if self.replaces else ():
            if peer.ended is not None and self._error is None:
                self._replace(peer, peer.ended)
            elif not peer.ready and time.monotonic() - peer.since > START_S:
                self._error = GenerationError(
                    f"{peer.link.name}: did not start within {START_S:g} s{self._why_not()}; go on from the latest "
                    "checkpoint with --resume"
                )

    def _replace(self, peer: Peer, how: str) -> None:
        lost = peer.link
        peer.deaths += 1
        if peer.deaths >= DEATHS:
            self._error = GenerationError(
                f"{lost.name}: was lost {DEATHS} times in a row before it finished a completion, at last: {how}; "
                "go on from the latest checkpoint with --resume"
            )
            return
        lost.close()
        self._links.remove(lost)
        self._ended_cpu_s, peer.cpu_s = self._ended_cpu_s + peer.cpu_s, 0.0
        if peer.ready:
            peer.since = time.monotonic()
        owed, peer.owed = peer.owed, {}
        peer.ready, peer.waits, peer.ended, peer.link = False, 1, None, self._link(peer.place)
        if self._still:
            self._send(peer, ("pause",), asks=True)
        self._ask(requests_of(owed))
        self._untold.append({"generator": peer.place, "name": lost.name, "how": how, "asked_again": len(owed)})

    def _why_not(self) -> str:
        """Return more about why a generator did not start, to go behind the words that say so."""
        return ""

    def _check(self) -> None:
        if self._error is not None:
            raise self._error


def _end(links: list[Link]) -> None:
    for link in links:
        link.close()
