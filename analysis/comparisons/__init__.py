"""Which recipe: differences with limits, orders of merit, one ceiling, equal compute."""
