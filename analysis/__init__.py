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
    from analysis.backtest_plots import plot_backtest
    from analysis.backtesting import backtest
    from analysis.backtests import Backtest
    from analysis.checking import check
    from analysis.compared import Compared
    from analysis.compared_plots import plot_forest, plot_leave_one_out, plot_straight
    from analysis.comparing import compare
    from analysis.comparison import compare_at_equal_compute
    from analysis.curve import R, compute_to, gradient, slope
    from analysis.draws import Draws
    from analysis.findings import Finding
    from analysis.fitting import fit
    from analysis.forecast_plots import plot_forecast, plot_reach
    from analysis.forecasting import forecast
    from analysis.forecasts import Forecast, Forecasts
    from analysis.frames import read_frame
    from analysis.group_plots import plot_groups, plot_line
    from analysis.grouped import GroupFits
    from analysis.groups import difficulty_buckets, fit_groups
    from analysis.health import Check, Health, RunHealth
    from analysis.healthplot import plot_health
    from analysis.inflation import measure_inflation
    from analysis.joint import fit_shared, nested
    from analysis.logs import read
    from analysis.plan_plots import plot_plan
    from analysis.planning import plan
    from analysis.plans import Plan, Plans
    from analysis.plotting import plot_curves, plot_training_curves
    from analysis.pooling import pool_shapes
    from analysis.priors import Priors
    from analysis.recipes import RecipeFit, RecipeFits
    from analysis.reporting import write_report
    from analysis.results import Fit, Fits, Param
    from analysis.schema import Comparison, Event, Run, Runs
    from analysis.seeds import pool_seeds
    from analysis.shared import Nested, SharedFit
    from analysis.starts import share_R0
    from analysis.straight import same_ceiling
    from analysis.windows import WindowStudy, plot_windows, window_study
    from scalerl.runlog import UserError

_HOME = {
    "R": "curve",
    "compute_to": "curve",
    "gradient": "curve",
    "slope": "curve",
    "read": "logs",
    "check": "checking",
    "plot_health": "healthplot",
    "Check": "health",
    "Health": "health",
    "RunHealth": "health",
    "read_frame": "frames",
    "fit": "fitting",
    "backtest": "backtesting",
    "Backtest": "backtests",
    "forecast": "forecasting",
    "measure_inflation": "inflation",
    "Forecast": "forecasts",
    "Forecasts": "forecasts",
    "GroupFits": "grouped",
    "difficulty_buckets": "groups",
    "fit_groups": "groups",
    "fit_shared": "joint",
    "nested": "joint",
    "share_R0": "starts",
    "pool_seeds": "seeds",
    "pool_shapes": "pooling",
    "compare": "comparing",
    "same_ceiling": "straight",
    "plot_forest": "compared_plots",
    "plot_straight": "compared_plots",
    "plot_leave_one_out": "compared_plots",
    "compare_at_equal_compute": "comparison",
    "plan": "planning",
    "Plan": "plans",
    "Plans": "plans",
    "plot_forecast": "forecast_plots",
    "plot_reach": "forecast_plots",
    "plot_plan": "plan_plots",
    "plot_groups": "group_plots",
    "plot_line": "group_plots",
    "plot_backtest": "backtest_plots",
    "plot_curves": "plotting",
    "plot_training_curves": "plotting",
    "write_report": "reporting",
    "WindowStudy": "windows",
    "window_study": "windows",
    "plot_windows": "windows",
    "Compared": "compared",
    "Comparison": "schema",
    "Draws": "draws",
    "Event": "schema",
    "Finding": "findings",
    "Fit": "results",
    "Fits": "results",
    "Param": "results",
    "Priors": "priors",
    "Nested": "shared",
    "RecipeFit": "recipes",
    "RecipeFits": "recipes",
    "Run": "schema",
    "Runs": "schema",
    "SharedFit": "shared",
    "UserError": "results",  # scalerl.runlog defines it
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
    "WindowStudy",
    "backtest",
    "check",
    "compare",
    "compare_at_equal_compute",
    "compute_to",
    "difficulty_buckets",
    "fit",
    "fit_groups",
    "fit_shared",
    "forecast",
    "gradient",
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
