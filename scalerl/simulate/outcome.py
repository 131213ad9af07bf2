"""What a setup comes to: its updates simulated, the rest told from them, and sums made of both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scalerl.runlog import UserError
from scalerl.simulate.engine import Simulation
from scalerl.simulate.setup import Setup

COMPLETIONS = 60_000
LONG = 4  # times of filling the schedule after which a run goes on as it does
FEWEST = 256  # completions an update of a slice
DRAWN = 4096  # lengths drawn at once
MOST = 4_000_000  # completions that are simulated, some minutes of them


@dataclass(frozen=True)
class Outcome:
    """What a run would take, and what it would be like; see `simulate`."""

    setup: Setup
    simulated: int
    """Updates that were simulated; the others are taken to go on as the later half of these."""
    share: float
    """Share of generators and prompts that were simulated, see `sliced`."""
    wall_s: float
    updates_per_hour: float
    """Once the schedule is filled."""
    tokens: float
    """Of the completions trained."""
    truncation_rate: float
    lag_mean: float
    """Mean over those tokens."""
    lag_max: int
    generator_idle_share: float
    """Share of the wall time in which a generator does nothing, the mean; of devices in turn, in which they train."""
    learner_idle_share: float
    """The same of the learner; of devices in turn, in which they decode."""

    @property
    def gpu_hours(self) -> float:
        """Wall time x devices held, in hours: idle or not."""
        return self.wall_s * self.setup.devices / 3600.0

    @property
    def generator_gpu_hours(self) -> float:
        """Those of the generators; of devices in turn, those in which they do not train."""
        of = self.learner_idle_share * self.setup.devices if self.setup.in_turn else self.setup.generators
        return self.wall_s * of / 3600.0

    @property
    def learner_gpu_hours(self) -> float:
        """The rest."""
        return self.gpu_hours - self.generator_gpu_hours

    def to_dict(self) -> dict[str, Any]:
        """Return the figures by name, for JSON."""
        setup = self.setup
        return {
            "generators": setup.generators,
            "learners": None if setup.in_turn else setup.learners,
            "in_turn": setup.in_turn,
            "k": setup.off_policy_steps,
            "updates": setup.updates,
            "simulated": self.simulated,
            "simulated_share": self.share,
            "wall_hours": self.wall_s / 3600.0,
            "gpu_hours": self.gpu_hours,
            "generator_gpu_hours": self.generator_gpu_hours,
            "learner_gpu_hours": self.learner_gpu_hours,
            "updates_per_hour": self.updates_per_hour,
            "tokens": self.tokens,
            "truncation_rate": self.truncation_rate,
            "lag_mean": self.lag_mean,
            "lag_max": self.lag_max,
            "generator_idle_share": self.generator_idle_share,
            "learner_idle_share": self.learner_idle_share,
        }


class Drawn:
    """Lengths by number, drawn when they are asked for: from those given, or lognormal.

    Examples
    --------
    >>> drawn = Drawn(Setup(length_mean=10, length_sd=0, max_new_tokens=8), None, 0)
    >>> drawn[5000], drawn[0]
    (8, 8)
    """

    def __init__(self, setup: Setup, lengths: Sequence[int] | None, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._longest = setup.max_new_tokens
        self._given = None if lengths is None else np.asarray(lengths, dtype=float)
        self._sigma = float(np.sqrt(np.log1p((setup.length_sd / setup.length_mean) ** 2)))
        self._mu = float(np.log(setup.length_mean)) - 0.5 * self._sigma**2
        self._numbers: list[int] = []

    def __getitem__(self, number: int, /) -> int:
        """Return the length of a completion."""
        while number >= len(self._numbers):
            if self._given is None:
                drawn = self._rng.lognormal(self._mu, self._sigma, DRAWN)
            else:
                drawn = self._rng.choice(self._given, DRAWN)
            self._numbers += np.clip(np.rint(drawn), 1, self._longest).astype(int).tolist()
        return self._numbers[number]


def cut_mean(setup: Setup) -> float:
    """Return the mean of lognormal lengths that are cut at `max_new_tokens`.

    Examples
    --------
    >>> cut_mean(Setup(length_mean=10, length_sd=0, max_new_tokens=8)), cut_mean(Setup(length_mean=10, length_sd=0))
    (8.0, 10.0)
    """
    variance = math.log1p((setup.length_sd / setup.length_mean) ** 2)
    if not variance:
        return float(min(setup.length_mean, setup.max_new_tokens))
    sigma = math.sqrt(variance)
    z = (math.log(setup.max_new_tokens / setup.length_mean) + 0.5 * variance) / sigma
    below = setup.length_mean * 0.5 * math.erfc((sigma - z) / math.sqrt(2.0))
    return below + setup.max_new_tokens * 0.5 * math.erfc(z / math.sqrt(2.0))


def simulate(
    setup: Setup, *, lengths: Sequence[int] | None = None, seed: int = 0, completions: int = COMPLETIONS
) -> Outcome:
    """Run a setup to its last update, or so far that the rest can be told; of a large cluster, a slice.

    Parameters
    ----------
    setup : Setup
    lengths : sequence of int, optional
        Lengths to draw from in place of the lognormal distribution, in tokens, end token included.
    seed : int
        Of the draws.
    completions : int
        About how many to simulate at most.

    Raises
    ------
    UserError
        If the setup makes no sense, or takes too long to simulate.

    Examples
    --------
    Two completions of ten tokens, half a second each, then an update of one second, in turn:

    >>> setup = Setup(in_turn=True, slots=2, batch_size=2, generations_per_prompt=2, off_policy_steps=0, updates=3,
    ...               length_mean=10, length_sd=0, token_s=0.5, update_s=1)
    >>> simulate(setup).wall_s
    18.0
    """
    setup.check()
    k = setup.off_policy_steps
    block, filled = (k, k) if setup.off_policy == "ppo" else (1, k + 2)  # what repeats itself, and from when on
    enough = min(setup.updates, LONG * filled)
    part = sliced(setup, enough * setup.batch_size / completions)
    blocks = -(-max(completions // part.batch_size, enough) // block)
    count = min(setup.updates, blocks * block)
    if (ahead := (k + count) * part.batch_size) > MOST:  # k batches are written before the first update
        raise UserError(
            f"{ahead:,} completions would have to be simulated, and {MOST:,} are the most; lower off_policy_steps "
            f"({k}) or batch_size ({setup.batch_size})"
        )
    prompts = setup.batch_size // setup.generations_per_prompt
    rows = Simulation(part, Drawn(setup, lengths, seed), seed=seed, prompts=prompts).run(count)
    before = count - max(block, (count - max(filled, count // 2)) // block * block)
    if before > 0 and rows[-1].at_s <= rows[before - 1].at_s:
        before = 0  # updates that are made at one instant have no rate of their own
    total, rate = {}, {}
    for name in ("at_s", "generating_s", "training_s", "tokens", "lags", "cut"):
        begin = getattr(rows[before - 1], name) if before > 0 else 0.0
        rate[name] = (getattr(rows[-1], name) - begin) / (count - max(0, before))
        total[name] = getattr(rows[-1], name) + (setup.updates - count) * rate[name]
    wall, times = total["at_s"], setup.batch_size // part.batch_size
    return Outcome(
        setup=setup,
        simulated=count,
        share=1 / times,
        wall_s=wall,
        updates_per_hour=3600.0 / rate["at_s"],
        tokens=total["tokens"] * times,
        truncation_rate=total["cut"] / (setup.updates * part.batch_size),
        lag_mean=total["lags"] / total["tokens"],
        lag_max=max(row.lag_max for row in rows),
        generator_idle_share=max(0.0, 1.0 - total["generating_s"] / (wall * part.generators)),
        learner_idle_share=max(0.0, 1.0 - total["training_s"] / wall),
    )


def sliced(setup: Setup, times: float) -> Setup:
    """Return every m-th generator with every m-th prompt, and a learner that takes as long for them as for all.

    The smallest m that is `times` at least is taken, or the largest there is: it divides generators and prompts.

    Examples
    --------
    >>> thin = sliced(Setup(generators=800, learners=200, batch_size=8192, train_token_s=0.001), 10)
    >>> thin.generators, thin.learners, thin.batch_size, thin.train_token_s
    (50, 200, 512, 0.016)
    """
    whole = math.gcd(setup.generators, setup.batch_size // setup.generations_per_prompt)
    if setup.in_turn or times <= 1:
        return setup
    fit = [m for m in range(1, whole + 1) if whole % m == 0 and setup.batch_size // m >= FEWEST] or [1]
    m = next((m for m in fit if m >= times), fit[-1])
    return replace(
        setup,
        generators=setup.generators // m,
        batch_size=setup.batch_size // m,
        train_token_s=setup.train_token_s * m,
        completion_s=setup.completion_s * m,
    )
