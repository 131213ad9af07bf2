"""What comes next: forecasts, and how wrong such forecasts were before."""
