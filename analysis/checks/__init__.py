"""Is a run healthy enough to be fitted? One function a check."""
