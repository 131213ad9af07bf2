"""Measurements against named peers and reference results; each prints its table."""
