"""Watch a run for the signs that come before a collapse, and say so once, as an event in the log.

A truncation rate of 10 to 15 % came before every collapse that the paper saw (arXiv 2510.13786, section 6); the other
thresholds are ours. A guard speaks when its figure crosses the threshold and again when it is back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TRUNCATION_RATE = 0.10
ENTROPY_SHARE = 0.1
RATIO_DEVIATION = 0.5
REWARD_SHARE = 0.5
REWARD_ERROR_SHARE = 1.0
SKIPPED = 10  # updates in a row that were skipped
MEMORY = 10  # updates over which rewards and entropy are smoothed: weight 1 / 10 on the newest


@dataclass
class Guards:
    """Turn step rows into events.

    - ``truncation``: more than 10 % of the completions were cut at their limit.
    - ``entropy``: the smoothed entropy is under a tenth of its first value.
    - ``ratio``: the mean importance ratio left .5 to 1.5.
    - ``reward_errors``: not one completion of the batch got a score; the reward is broken, or its limits are too tight.
    - ``reward``: the smoothed share of the largest reward gain was lost again: less than half of the best gain over
      the first rows is left, where that gain was at least .1.

    Examples
    --------
    >>> guards = Guards()
    >>> guards.watch({"truncation_rate": 0.2, "reward_sum": 0.0, "reward_count": 4})
    [{'guard': 'truncation', 'raised': True, 'figure': 0.2, 'threshold': 0.1}]
    >>> guards.watch({"truncation_rate": 0.2, "reward_sum": 0.0, "reward_count": 4})
    []
    """

    raised: set[str] = field(default_factory=set)
    memory: dict[str, float] = field(default_factory=dict)

    def watch(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the fields of the events that a step row gives rise to."""
        events = []
        for name, (figure, threshold, bad) in self._figures(row).items():
            if bad != (name in self.raised):
                (self.raised.add if bad else self.raised.discard)(name)
                events.append({"guard": name, "raised": bad, "figure": figure, "threshold": threshold})
        return events

    def first(self, name: str) -> bool:
        """Return whether this is the first time in the run that a name is asked for."""
        new = name not in self.raised
        self.raised.add(name)
        return new

    def skipped(self, skipped: bool) -> bool:
        """Note whether an update was skipped; return whether so many in a row were for the first time in the run."""
        row = self.memory["skipped"] = self.memory.get("skipped", 0.0) + 1 if skipped else 0.0
        return row >= SKIPPED and self.first("updates_skipped")

    def _figures(self, row: Mapping[str, Any]) -> dict[str, tuple[float, float, bool]]:
        found: dict[str, tuple[float, float, bool]] = {}
        truncated = row.get("truncation_rate")
        if truncated is not None:
            found["truncation"] = truncated, TRUNCATION_RATE, truncated > TRUNCATION_RATE
        if row.get("entropy") is not None:
            entropy = self._smooth("entropy", row["entropy"])
            least = ENTROPY_SHARE * self.memory.setdefault("entropy_first", entropy)
            found["entropy"] = entropy, least, entropy < least
        ratio = row.get("ratio_mean")
        if ratio is not None:
            nearer = 1 + math.copysign(RATIO_DEVIATION, ratio - 1)
            found["ratio"] = ratio, nearer, abs(ratio - 1) > RATIO_DEVIATION
        if row.get("reward_count") and row.get("reward_errors") is not None:
            share = row["reward_errors"] / row["reward_count"]
            found["reward_errors"] = share, REWARD_ERROR_SHARE, share >= REWARD_ERROR_SHARE
        if row.get("reward_count"):
            reward = self._smooth("reward", row["reward_sum"] / row["reward_count"])
            first = self.memory.setdefault("reward_first", reward)
            best = self.memory["reward_best"] = max(reward, self.memory.get("reward_best", reward))
            least = first + REWARD_SHARE * (best - first)
            found["reward"] = reward, least, best - first >= 0.1 and reward < least
        return found

    def _smooth(self, name: str, value: float) -> float:
        """Return the exponentially smoothed figure."""
        before = self.memory.get(name, value)
        self.memory[name] = before + (value - before) / MEMORY
        return self.memory[name]

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must keep."""
        return {"raised": sorted(self.raised), "memory": dict(self.memory)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a kept state."""
        self.raised, self.memory = set(state["raised"]), dict(state["memory"])
