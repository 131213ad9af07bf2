"""Rewards: what a completion is worth, by whom it is judged, and where.

A score is a number from 0 to 1. 1 is *right* and counts for the pass rate; the training reward is 2 s - 1. Where the
configuration names no `reward` the task scores; otherwise a built-in (`math`, `exact`, `code`, `reasoning-gym`) or a
function of the user's own does, on the prompts of any data file. `make_scorer` gives what judges for a configuration.

Promises: a judge that hangs, raises, returns nonsense, or takes its process with it costs that completion its score and
nothing else. Does not promise: that a judge is deterministic; time limits are wall time and so are not reproducible.
Importing this costs the standard library only.
"""

from __future__ import annotations

from scalerl.rewards.scorers import Inline, make_scorer
from scalerl.rewards.scores import Failed, Score, Scorer, after_thinking, as_score

__all__ = ["Failed", "Inline", "Score", "Scorer", "after_thinking", "as_score", "make_scorer"]
