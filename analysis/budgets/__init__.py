"""Is more compute worth it: futures of a run drawn from its own posterior, and what they would tell."""
