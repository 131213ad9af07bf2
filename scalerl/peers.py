"""One generator of several that run elsewhere: what the trainer knows of it, and what a way to it must do."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple, Protocol

from scalerl.completions import Request


class Ended(NamedTuple):
    """The last that is heard of a generator."""

    how: str


class Link(Protocol):
    """A generator, and the way to it. It puts what it hears into an inbox, as (itself, message)."""

    name: str

    def send(self, message: tuple[Any, ...]) -> None:
        """Send without waiting for an answer; an `OSError` says that it is dead, and that `Ended` is on the way."""

    def close(self) -> None:
        """End the generator."""


@dataclass
class Peer:
    """One of the generators, whichever holds its place just now."""

    place: int
    link: Link
    owed: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """Number and prompt of the completions that it was asked for, and that have not arrived."""
    waits: int = 1
    """Messages that are not answered yet; starting is the first."""
    ready: bool = False
    ended: str | None = None
    """How it was lost; None while it is not known to be."""
    since: float = field(default_factory=time.monotonic)
    """When its place was to be taken; a second death before it is ready changes nothing."""
    deaths: int = 0
    """In a row, without a completion in between."""
    silent_s: float = 0.0
    """How long it was listened to in vain, while it had something to do."""
    cpu_s: float = 0.0


def requests_of(owed: Mapping[int, tuple[int, ...]]) -> Iterator[Request]:
    """Yield requests for these numbers and prompts; what follows one another under one prompt is asked for at once.

    Examples
    --------
    >>> [(request.first, request.count) for request in requests_of({4: (1,), 6: (1,), 5: (1,), 7: (2,)})]
    [(4, 3), (7, 1)]
    """
    numbers = sorted(owed)
    for _, same in groupby(range(len(numbers)), key=lambda i: (numbers[i] - i, owed[numbers[i]])):
        stretch = [numbers[i] for i in same]
        yield Request(stretch[0], len(stretch), owed[stretch[0]])


def share_out(
    requests: Iterable[Request], owed: Sequence[dict[int, tuple[int, ...]]], slots: int
) -> dict[int, list[Request]]:
    """Give each request to the generator that owes least, and no more of it than it has slots free.

    Parameters
    ----------
    requests : iterable of Request
    owed : sequence of mapping of number to prompt
        What each generator owes; what it is given is added.
    slots : int
        Of each. Where none is free, a whole request goes to the one that owes least.

    Returns
    -------
    mapping of place in `owed` to list of Request

    Examples
    --------
    >>> owed = [{0: (7,), 1: (7,)}, {}]
    >>> given = share_out([Request(2, 6, (8,))], owed, slots=4)
    >>> {place: [(request.first, request.count) for request in found] for place, found in given.items()}
    {1: [(2, 4)], 0: [(6, 2)]}
    """
    given: dict[int, list[Request]] = {}
    for request in requests:
        first, left = request.first, request.count
        while left:
            place = min(range(len(owed)), key=lambda i: len(owed[i]))
            free = slots - len(owed[place])
            count = min(left, free) if free > 0 else left
            owed[place].update(dict.fromkeys(range(first, first + count), request.prompt))
            given.setdefault(place, []).append(Request(first, count, request.prompt))
            first, left = first + count, left - count
    return given
