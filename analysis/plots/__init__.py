"""Figures. They take a result and an axis, draw, and return the axis; none computes."""
