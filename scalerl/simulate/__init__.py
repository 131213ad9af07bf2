"""The cluster before you rent it: what a run would take on devices that are not there yet. No torch."""

from __future__ import annotations

from scalerl.simulate.engine import Update, follow
from scalerl.simulate.outcome import Outcome, simulate
from scalerl.simulate.setup import Setup

__all__ = ["Outcome", "Setup", "Update", "follow", "simulate"]
