"""A run becomes a `Fit`: points, method, values, limits, and every doubt."""
