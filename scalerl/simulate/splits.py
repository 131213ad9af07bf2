"""How to split devices between generators and a learner, and what k costs: setups side by side.

A split of many devices is looked for among those that can be fast enough: what a split takes at the least follows from
its rates alone, and splits are simulated in that order until none that is left can win.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from scalerl.runlog import UserError
from scalerl.simulate.outcome import Outcome, cut_mean, simulate
from scalerl.simulate.setup import Setup

KS = (0, 1, 2, 4, 8, 12)
LOOK = 25_000  # completions simulated of each split that is looked at
NEARLY = 1.02  # of the shortest time
TRIED = 3  # splits of a smaller number of devices
SPLITS = 24  # splits of one number of devices that are told apart, at least where there are as many


def propose(
    setup: Setup, devices: int, *, lengths: Sequence[int] | None = None, cheapest: bool = False
) -> list[Outcome]:
    """Return what the best split of so many devices comes to, and then what the splits beside it do.

    Parameters
    ----------
    setup : Setup
        Rates and recipe; its devices are not read.
    devices : int
        To be shared out between generators and the learner; one alone is used in turn.
    lengths : sequence of int, optional
        See `simulate`.
    cheapest : bool
        Look for the fewest GPU-hours on up to so many devices, not for the shortest time on all of them.

    Raises
    ------
    UserError
        If the setup makes no sense, or there are no devices.

    Examples
    --------
    Where a token takes as long to train as to generate, half of the devices train:

    >>> even = Setup(slots=64, batch_size=64, off_policy_steps=2, updates=40, length_mean=100, length_sd=0, token_s=0,
    ...              slot_s=0.001, train_token_s=0.001, feeding=True)
    >>> best = propose(even, 4)[0].setup
    >>> best.generators, best.learners
    (2, 2)
    """
    if devices < 1:
        raise UserError(f"--devices: {devices} is not a number of devices from 1")
    setup.check()

    def cost(one: Outcome) -> float:
        return one.gpu_hours if cheapest else one.wall_s

    def least(one: Setup) -> float:
        return least_s(one) * one.updates * (one.devices / 3600.0 if cheapest else 1.0)

    def look(one: Setup) -> Outcome | None:
        try:
            return simulate(one, lengths=lengths, completions=LOOK)
        except UserError:  # one that takes too long to simulate; others may not
            return None

    tried = [one for count in (_counts(devices) if cheapest else [devices]) for one in _splits(setup, count)]
    tried.sort(key=least)
    best: Outcome | None = None
    for one in tried:
        if best is not None and least(one) >= cost(best):
            break
        found = look(one)
        if found is not None and (best is None or cost(found) < cost(best)):
            best = found
    if best is None:
        return [simulate(tried[0], lengths=lengths)]  # says why not
    # Slices have errors of their own: the neighbours decide, with more of each.
    known: dict[Setup, Outcome] = {}
    at = best.setup
    while True:
        for one in (at, *_beside(at)):
            if one not in known:
                with suppress(UserError):  # as above; `at` itself was simulated
                    known[one] = simulate(one, lengths=lengths)
        near = [one for one in (at, *_beside(at)) if one in known]
        nearest = min(near, key=lambda one: cost(known[one]))
        if nearest == at:
            return [known[one] for one in near]
        at = nearest


def over_k(setup: Setup, ks: Sequence[int] = KS, *, lengths: Sequence[int] | None = None) -> list[Outcome]:
    """Return what the setup comes to with every k; PPO has none of 0.

    A k that takes too long to simulate is left out.
    """
    found = []
    for k in ks:
        if k or setup.off_policy != "ppo":
            with suppress(UserError):
                found.append(simulate(replace(setup, off_policy_steps=k), lengths=lengths))
    return found


def fewer(best: Outcome, *, lengths: Sequence[int] | None = None) -> Outcome | None:
    """Return the fewest devices, split, that take at most `NEARLY` times as long; None if there are none fewer.

    Examples
    --------
    An update takes a second for what nobody can share; more learners do not pay:

    >>> alone = Setup(slots=64, batch_size=64, off_policy_steps=2, updates=40, length_mean=100, length_sd=0,
    ...               slot_s=0.0001, train_token_s=0.000001, update_s=1, feeding=True)
    >>> found = fewer(propose(alone, 64)[0])
    >>> found.setup.generators, found.setup.learners
    (2, 1)
    """
    enough = NEARLY * best.wall_s
    for count in _counts(best.setup.devices)[:-1]:
        able = [one for one in _splits(best.setup, count) if least_s(one) * one.updates <= enough]
        for one in sorted(able, key=least_s)[:TRIED]:
            with suppress(UserError):
                found = simulate(one, lengths=lengths)
                if found.wall_s <= enough:
                    return found
    return None


def least_s(setup: Setup) -> float:
    """Return the seconds that an update takes at the least, once the schedule is filled: its work, evenly shared."""
    tokens = setup.batch_size * cut_mean(setup)
    learners = setup.generators if setup.in_turn else setup.learners
    train = setup.update_s + setup.batch_size * setup.completion_s + setup.sync_s
    train += setup.kept_share * tokens * setup.train_token_s / learners
    batches = setup.off_policy_steps + (setup.off_policy == "pipeline")
    live = min(float(setup.slots), batches * setup.batch_size / setup.generators)
    generate = tokens * (setup.token_s / live + setup.slot_s) / setup.generators
    one_by_one = setup.in_turn or setup.off_policy == "ppo" or setup.off_policy_steps == 0
    return generate + train if one_by_one else max(generate, train)


def _splits(setup: Setup, devices: int) -> list[Setup]:
    """Splits of a number of devices: all of a few, of many those in steps of a power of 2; one device works in turn.

    More generators than completions may be in flight are never of use.
    """
    if devices == 1:
        return [replace(setup, generators=1, learners=1, in_turn=True)]
    end = min(devices, (setup.off_policy_steps + 1) * setup.batch_size + 1)
    step = 1
    while end // (2 * step) >= SPLITS:
        step *= 2
    return [replace(setup, generators=n, learners=devices - n, in_turn=False) for n in range(step, end, step)]


def _counts(devices: int) -> list[int]:
    """Numbers of devices up to one, about a third apart."""
    found = {devices}
    count = 1.0
    while count < devices:
        found.add(round(count))
        count = max(count + 1.0, count * 1.33)
    return sorted(found)


def _beside(setup: Setup) -> list[Setup]:
    """The splits of the same devices on both sides of one."""
    near = _splits(setup, setup.devices)
    at = near.index(setup) if setup in near else 0
    return [*near[max(0, at - 1) : at], *near[at + 1 : at + 2]]
