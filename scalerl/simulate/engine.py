"""A run on devices that are not there yet: the trainer's own `Schedule`, driven by rates instead of a model.

Promises: which completion starts when, which batch is trained and when an update fires is decided by
`scalerl.schedule.Schedule`, not by a copy of its rules, so that the bound of the lag holds here because it holds there.
A run that generates and trains in turn on one device (``generator: inline``) is followed token by token: of the same
lengths, lags, versions and completions in flight are those of the real run, exactly.

A device decodes one token of every completion in work in ``token_s + slot_s x completions`` seconds, and runs prompts
that start together in ``start_s + prefill_s x tokens``; the first token comes with that. Between two events of it (a
completion ends or starts, weights arrive) nothing is looked at, so a thousand devices take seconds.

Does not promise what means do not know: attention that grows with a completion, prompts of which all completions are
long, a network that others use, too. No device fails, and evaluations and checkpoints cost nothing, as in a log.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Sequence
from typing import NamedTuple

from scalerl.schedule import Schedule
from scalerl.simulate.device import Device, Lengths
from scalerl.simulate.setup import Setup

STUCK = "nothing is in work and no update fires"  # a mistake here or in the schedule, never in the input


class Update(NamedTuple):
    """What an update left behind; sums are from the start of the run to the end of the update."""

    at_s: float
    """Wall seconds."""
    generating_s: float
    """Seconds in which generators worked, the sum over them."""
    training_s: float
    """Seconds in which the learner worked."""
    tokens: int
    """Tokens of the batches so far."""
    lags: int
    """Sum of their lags."""
    cut: int
    """Completions of them that reached the longest length."""
    ticks: int
    """Times that a generator decoded one token of all that it had in work, the sum over generators."""
    passes: int
    """Those, and the times that it ran prompts."""
    decoded: int
    """Tokens that came so."""
    prefilled: float
    """Tokens of prompts that were run."""
    batch_tokens: int
    """Tokens of this batch."""
    lag_mean: float
    """Mean lag of them."""
    lag_max: int
    versions_mean: float
    """Mean number of versions that a completion of this batch was sampled from."""
    in_flight: int
    """Completions begun and not finished when it was made."""


class Simulation:
    """One run, update by update.

    Parameters
    ----------
    setup : Setup
        Checked.
    lengths : Lengths
    seed : int
        Of the prompts that the filter leaves.
    prompts : int, optional
        Prompts of an update that it chooses among; those of the setup, which may be a slice of more.
    """

    def __init__(self, setup: Setup, lengths: Lengths, *, seed: int = 0, prompts: int | None = None) -> None:
        self.setup, self.lengths = setup, lengths
        self.schedule = Schedule(
            prompts=setup.batch_size // setup.generations_per_prompt,
            generations=setup.generations_per_prompt,
            slots=setup.slots * setup.generators,
            k=setup.off_policy_steps,
            scheme=setup.off_policy,
            lead=setup.lead,
        )
        self.generators = [Device(i) for i in range(setup.generators)]
        self.rows: list[Update] = []
        self._random = random.Random(seed).random  # noqa: S311 - no secret
        self._prompts = prompts or self.schedule.prompts
        self._roomy = [(0, i) for i in range(setup.generators)]  # by completions in work, a heap; old entries are void
        self._events: list[tuple[float, int, int]] = []  # when a completion ends, on which device, its stamp
        self._began: dict[int, tuple[int, int]] = {}  # of completions in work: first version, sum of versions before
        self._ended: dict[int, tuple[int, int, int]] = {}  # of those that wait: first version, last, sum
        self._training_s = 0.0
        self._tokens = self._lags = self._cut = 0
        self._passes = 0  # with prompts
        self._prefilled = 0.0

    def run(self, updates: int) -> list[Update]:
        """Go on until so many updates are made, and return what each left behind."""
        (self._in_turn if self.setup.in_turn else self._side_by_side)(updates)
        return self.rows

    def _side_by_side(self, updates: int) -> None:
        """Generators go on while the learner trains.

        As the trainer's loop: admit, note what has arrived, ask the schedule, maybe train. What ends while it trains is
        noted behind the next admission; with `feeding` it is noted, and its slot filled, at once.
        """
        schedule, setup = self.schedule, self.setup
        now, arrived = 0.0, list[int]()
        while schedule.version < updates:
            changed = self._admit(now) or bool(arrived)
            schedule.finished(arrived)
            arrived = []
            batch = schedule.next_batch()
            if batch is None:
                if not changed:  # so nothing can before the next completion ends
                    now, arrived = self._reply()
                continue
            cost = self._training(batch)
            if setup.feeding:
                self._admit(now)
            while self._next_end() < now + cost:
                at, done = self._end()
                if setup.feeding:
                    schedule.finished(done)
                    self._admit(at + setup.reply_s)
                else:
                    arrived += done
            now += cost + setup.sync_s
            self._update(batch, now, cost)

    def _reply(self) -> tuple[float, list[int]]:
        """Wait for the next completion that ends, and return when the learner knows, and which ended until then."""
        if self._next_end() == math.inf:
            raise RuntimeError(STUCK)
        now, done = self._end()
        now += self.setup.reply_s
        while self._next_end() < now:
            done += self._end()[1]
        return now, done

    def _in_turn(self, updates: int) -> None:
        """Nothing is decoded while the learner trains: it is on the same devices.

        As the trainer's loop: after what was admitted, or an update, one token is decoded before the schedule is asked
        again; after that its answer can only change when a completion ends.
        """
        schedule = self.schedule
        now, asked_at = 0.0, 0.0
        while schedule.version < updates:
            if self._admit(now):
                asked_at = now
            if asked_at < math.inf:
                asked_at = max((g.time + g.ticking for g in self.generators if g.ends), default=now)
            end = self._next_end()
            if end <= asked_at * (1.0 + 1e-12) and end < math.inf:
                now, done = self._end()
                schedule.finished(done)
                if now >= asked_at * (1.0 - 1e-12):
                    asked_at = math.inf
            elif asked_at == math.inf:
                raise RuntimeError(STUCK)
            else:
                now, asked_at = asked_at, math.inf
            batch = schedule.next_batch()
            if batch is not None:
                for generator in self.generators:
                    generator.align(now)
                cost = self._training(batch)
                now = max(now, *(g.time for g in self.generators)) + cost + self.setup.sync_s
                self._update(batch, now, cost)
                asked_at = now

    def _admit(self, now: float) -> bool:
        """Start what may start, each stretch of a prompt's completions where most room is; return whether any was."""
        setup, count = self.setup, self.setup.generations_per_prompt
        admitted = self.schedule.admit()
        first = admitted.start
        touched: dict[int, Device] = {}
        while first < admitted.stop:
            generator = self._roomiest()
            generator.align(now)
            room = setup.slots - len(generator.ends)
            end = min(admitted.stop, (first // count + 1) * count, first + room)
            seconds = setup.prompt_length * setup.prefill_s
            if generator.number not in touched:  # what starts together is run together
                seconds += setup.start_s or setup.token_s
                self._passes += 1
            generator.time += seconds
            generator.busy_s += seconds
            self._prefilled += setup.prompt_length
            for number in range(first, end):
                self._began[number] = generator.version, generator.versions
                # The first token comes with the prompt; a completion of one token is over at the next boundary, too.
                heapq.heappush(generator.ends, (generator.tick + max(1, self.lengths[number] - 1), number))
            heapq.heappush(self._roomy, (len(generator.ends), generator.number))
            touched[generator.number] = generator
            first = end
        for generator in touched.values():
            self._expect(generator)
        return bool(touched)

    def _roomiest(self) -> Device:
        """Return the device with the fewest completions in work."""
        while True:
            live, i = heapq.heappop(self._roomy)
            if live == len(self.generators[i].ends):
                return self.generators[i]

    def _expect(self, generator: Device) -> None:
        """Note when the next completion of a device ends."""
        generator.stamp += 1
        live = len(generator.ends)
        if live:
            generator.ticking = self.setup.token_s + self.setup.slot_s * live
            at = generator.time + (generator.ends[0][0] - generator.tick) * generator.ticking
            heapq.heappush(self._events, (at, generator.number, generator.stamp))

    def _next_end(self) -> float:
        """Return when the next completion ends; infinity if none is in work."""
        events = self._events
        while events and events[0][2] != self.generators[events[0][1]].stamp:
            heapq.heappop(events)
        return events[0][0] if events else math.inf

    def _end(self) -> tuple[float, list[int]]:
        """End the completions that end next on one device, and return when and which."""
        now, i, _ = heapq.heappop(self._events)
        generator = self.generators[i]
        generator.forward(generator.ends[0][0] - generator.tick)
        done = []
        while generator.ends and generator.ends[0][0] == generator.tick:
            number = heapq.heappop(generator.ends)[1]
            first, before = self._began.pop(number)
            length = self.lengths[number]
            later = generator.versions - before if length > 1 else 0
            self._ended[number] = first, generator.version, first + later
            done.append(number)
        heapq.heappush(self._roomy, (len(generator.ends), i))
        self._expect(generator)
        return now, done

    def _training(self, batch: range) -> float:
        """Return the seconds that the learner takes for a batch."""
        setup = self.setup
        tokens = sum(self.lengths[number] for number in batch)
        learners = setup.generators if setup.in_turn else setup.learners
        # The filter leaves whole prompts, by chance: a small batch takes now less time, now more.
        kept = sum(self._random() < setup.kept_share for _ in range(self._prompts)) / self._prompts
        whole = kept * self._prompts / self.schedule.prompts  # of which this may be a slice
        share = float(setup.busiest(whole * tokens, whole * len(batch), learners))
        trained = kept * tokens * share * setup.train_token_s
        return setup.update_s + len(batch) * setup.completion_s + trained

    def _update(self, batch: range, now: float, cost: float) -> None:
        """Make an update that took `cost` seconds and ends now, weights handed over, and keep its row."""
        setup, version = self.setup, self.schedule.version
        in_flight = self.schedule.in_flight
        self.schedule.updated()
        for generator in self.generators:
            if setup.in_turn:
                generator.time = now
            else:
                generator.align(now - setup.sync_s)
                generator.time += setup.sync_s
            generator.version = self.schedule.version
            self._expect(generator)
        told = [self._ended.pop(number) for number in batch]
        lengths = [self.lengths[number] for number in batch]
        tokens = sum(lengths)
        lags = version * tokens - sum(total for _, _, total in told)
        self._training_s += cost + setup.sync_s
        self._tokens += tokens
        self._lags += lags
        self._cut += sum(length >= setup.max_new_tokens for length in lengths)
        row = Update(
            at_s=now,
            generating_s=sum(g.busy_s for g in self.generators),
            training_s=self._training_s,
            tokens=self._tokens,
            lags=self._lags,
            cut=self._cut,
            ticks=sum(g.tick for g in self.generators),
            passes=self._passes + sum(g.tick for g in self.generators),
            decoded=sum(g.decoded for g in self.generators),
            prefilled=self._prefilled,
            batch_tokens=tokens,
            lag_mean=lags / tokens,
            lag_max=version - min(first for first, _, _ in told),
            versions_mean=sum(last - first + 1 for first, last, _ in told) / len(told),
            in_flight=in_flight,
        )
        self.rows.append(row)


def follow(setup: Setup, lengths: Sequence[int]) -> list[Update]:
    """Return the updates of a run whose completions have these lengths, in the order of their numbers.

    Raises
    ------
    UserError
        If the setup makes no sense.
    """
    setup.check()
    return Simulation(setup, lengths).run(setup.updates)
