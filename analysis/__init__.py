"""Fit, doubt, compare and draw scaling curves of reinforcement learning runs.

    import analysis as an
    runs = an.read("runs")
    fits = an.fit(runs)
    an.plot_curves(fits)

Names are loaded on first use, so that ``import analysis`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.budgets.planning import plan
    from analysis.budgets.plans import Plan, Plans
    from analysis.checks.checking import check
    from analysis.checks.health import Check, Health, RunHealth
    from analysis.comparisons.compared import Compared
    from analysis.comparisons.comparing import compare
    from analysis.comparisons.comparison import compare_at_equal_compute
    from analysis.comparisons.standings import Comparison
    from analysis.comparisons.straight import same_ceiling
    from analysis.curves.curve import R, compute_to, gradient, slope
    from analysis.findings import Finding
    from analysis.fits.fitting import fit
    from analysis.fits.results import Fit, Fits, Param
    from analysis.fits.starts import share_R0
    from analysis.fits.windows import WindowStudy, window_study
    from analysis.plots.backtest_plots import plot_backtest
    from analysis.plots.compared_plots import plot_forest, plot_leave_one_out, plot_straight
    from analysis.plots.explore import WindowExplorer, explore_window
    from analysis.plots.forecast_plots import plot_forecast, plot_reach
    from analysis.plots.group_plots import plot_groups, plot_line
    from analysis.plots.health_plots import plot_health
    from analysis.plots.plan_plots import plot_plan
    from analysis.plots.plotting import plot_curves, plot_training_curves
    from analysis.plots.window_plots import plot_windows
    from analysis.pooled.grouped import GroupFits
    from analysis.pooled.groups import difficulty_buckets, fit_groups
    from analysis.pooled.joint import fit_shared, nested
    from analysis.pooled.pooling import pool_shapes
    from analysis.pooled.recipes import RecipeFit, RecipeFits
    from analysis.pooled.seeds import pool_seeds
    from analysis.pooled.shared import Nested, SharedFit
    from analysis.posteriors.draws import Draws
    from analysis.posteriors.priors import Priors
    from analysis.predict.backtesting import backtest
    from analysis.predict.backtests import Backtest
    from analysis.predict.forecasting import forecast
    from analysis.predict.forecasts import Forecast, Forecasts
    from analysis.predict.inflation import measure_inflation
    from analysis.readers.frames import read_frame
    from analysis.readers.listing import Listing, list_logs
    from analysis.readers.logs import read
    from analysis.reports.reporting import write_report
    from analysis.schema import Event, Run, Runs
    from scalerl.runlog import UserError

_HOME = {
    "R": "curves.curve",
    "compute_to": "curves.curve",
    "gradient": "curves.curve",
    "slope": "curves.curve",
    "list_logs": "readers.listing",
    "Listing": "readers.listing",
    "read": "readers.logs",
    "check": "checks.checking",
    "plot_health": "plots.health_plots",
    "Check": "checks.health",
    "Health": "checks.health",
    "RunHealth": "checks.health",
    "read_frame": "readers.frames",
    "fit": "fits.fitting",
    "backtest": "predict.backtesting",
    "Backtest": "predict.backtests",
    "forecast": "predict.forecasting",
    "measure_inflation": "predict.inflation",
    "Forecast": "predict.forecasts",
    "Forecasts": "predict.forecasts",
    "GroupFits": "pooled.grouped",
    "difficulty_buckets": "pooled.groups",
    "fit_groups": "pooled.groups",
    "fit_shared": "pooled.joint",
    "nested": "pooled.joint",
    "share_R0": "fits.starts",
    "pool_seeds": "pooled.seeds",
    "pool_shapes": "pooled.pooling",
    "compare": "comparisons.comparing",
    "same_ceiling": "comparisons.straight",
    "plot_forest": "plots.compared_plots",
    "plot_straight": "plots.compared_plots",
    "plot_leave_one_out": "plots.compared_plots",
    "compare_at_equal_compute": "comparisons.comparison",
    "plan": "budgets.planning",
    "Plan": "budgets.plans",
    "Plans": "budgets.plans",
    "plot_forecast": "plots.forecast_plots",
    "plot_reach": "plots.forecast_plots",
    "plot_plan": "plots.plan_plots",
    "plot_groups": "plots.group_plots",
    "plot_line": "plots.group_plots",
    "plot_backtest": "plots.backtest_plots",
    "plot_curves": "plots.plotting",
    "plot_training_curves": "plots.plotting",
    "write_report": "reports.reporting",
    "WindowStudy": "fits.windows",
    "window_study": "fits.windows",
    "plot_windows": "plots.window_plots",
    "WindowExplorer": "plots.explore",
    "explore_window": "plots.explore",
    "Compared": "comparisons.compared",
    "Comparison": "comparisons.standings",
    "Draws": "posteriors.draws",
    "Event": "schema",
    "Finding": "findings",
    "Fit": "fits.results",
    "Fits": "fits.results",
    "Param": "fits.results",
    "Priors": "posteriors.priors",
    "Nested": "pooled.shared",
    "RecipeFit": "pooled.recipes",
    "RecipeFits": "pooled.recipes",
    "Run": "schema",
    "Runs": "schema",
    "SharedFit": "pooled.shared",
    "UserError": "fits.results",  # scalerl.runlog defines it
}

__all__ = [
    "Backtest",
    "Check",
    "Compared",
    "Comparison",
    "Draws",
    "Event",
    "Finding",
    "Fit",
    "Fits",
    "Forecast",
    "Forecasts",
    "GroupFits",
    "Health",
    "Listing",
    "Nested",
    "Param",
    "Plan",
    "Plans",
    "Priors",
    "R",
    "RecipeFit",
    "RecipeFits",
    "Run",
    "RunHealth",
    "Runs",
    "SharedFit",
    "UserError",
    "WindowExplorer",
    "WindowStudy",
    "backtest",
    "check",
    "compare",
    "compare_at_equal_compute",
    "compute_to",
    "difficulty_buckets",
    "explore_window",
    "fit",
    "fit_groups",
    "fit_shared",
    "forecast",
    "gradient",
    "list_logs",
    "measure_inflation",
    "nested",
    "plan",
    "plot_backtest",
    "plot_curves",
    "plot_forecast",
    "plot_forest",
    "plot_groups",
    "plot_health",
    "plot_leave_one_out",
    "plot_line",
    "plot_plan",
    "plot_reach",
    "plot_straight",
    "plot_training_curves",
    "plot_windows",
    "pool_seeds",
    "pool_shapes",
    "read",
    "read_frame",
    "same_ceiling",
    "share_R0",
    "slope",
    "window_study",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'analysis' has no attribute {name!r}")
    value = getattr(import_module(f"analysis.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
