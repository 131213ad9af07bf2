"""`plot_health`: the figures of a run's updates on one page, with the limits of the checks.

Promises: a panel draws the logged figure, faint, and its moving mean (the check of the gradient looks at a moving
median, that of the ratio at single updates too); a panel without data says so; nothing is computed here but these
means. Does not draw evaluations: `plot_curves` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from analysis.checks import stepchecks as limits
from analysis.checks.health import BESIDE, Health, RunHealth
from analysis.checks.steps import moving_mean
from analysis.curves.solver import Array
from analysis.plots.output import new_figure
from analysis.readers.cleaning import printable
from scalerl.runlog import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOUR, LIMIT = "#0072B2", "#D55E00"
STATUS_COLOURS = {"ok": "#009E73", "warning": "#E69F00", "error": "#D55E00", "unknown": "#999999"}
WHOLE = 1.5  # a limit is drawn where it does not stretch its panel to more than this many times the data


def plot_health(result: RunHealth | Health, figure: Figure | None = None) -> Figure:
    """Draw entropy, truncation, gradient norm, ratio and clipping, the batch that is kept, and GPU-hours by phase.

    Parameters
    ----------
    result : RunHealth, or Health of one run
    figure : matplotlib Figure, optional
        Drawn on; by default a new one without a window.

    Returns
    -------
    matplotlib Figure
        With six axes, whose artists carry the names ``entropy``, ``truncation``, ``gradient``, ``ratio``, ``clipped``,
        ``kept``, each with ``-mean`` and ``-limit``, and ``phase-NAME``.

    Raises
    ------
    UserError
        If there is more than one run.

    Examples
    --------
    >>> import analysis as an
    >>> figure = plot_health(an.check(an.read("data/runs/grpo")))
    >>> [ax.get_title(loc="left") for ax in figure.axes][:3]
    ['entropy (nats)', 'truncated share', 'gradient norm']
    """
    if isinstance(result, Health):
        if len(result) != 1:
            raise UserError(
                f"plot_health: draws one run, and {len(result)} were given; name one: {', '.join(result.names)}"
            )
        result = result[0]
    figure = new_figure(10.0, 6.2) if figure is None else figure
    axes = figure.subplots(2, 3).ravel()
    steps = result.steps
    update = steps.columns.get("step", np.arange(1.0, len(steps) + 1.0))
    entropy = steps.column("entropy")
    first = None if entropy is None else limits.ENTROPY * float(moving_mean(entropy)[0][0])
    _panel(axes[0], "entropy (nats)", result, "entropy")
    _trace(axes[0], update, entropy, "entropy", first)
    _panel(axes[1], "truncated share", result, "truncation")
    _trace(axes[1], update, steps.column("truncation_rate"), "truncation", limits.TRUNCATION)
    _panel(axes[2], "gradient norm", result, "gradient")
    _trace(axes[2], update, steps.column("grad_norm"), "gradient", None, log=True)
    _panel(axes[3], "|mean ratio - 1| and clipped share", result, "ratio", "clipping", "mismatch", "lag")
    mean = steps.column("ratio_mean")
    _trace(axes[3], update, None if mean is None else np.abs(mean - 1.0), "ratio", limits.RATIO)
    if mean is not None:
        _trace(axes[3], update, steps.column("clipped_share"), "clipped", None, colour="#CC79A7")
    _panel(axes[4], "prompts that teach (share)", result, "batch", "prompts")
    same = steps.column("zero_variance_share")
    _trace(axes[4], update, None if same is None else 1.0 - same, "kept", limits.KEPT)
    _bars(axes[5], result)
    for ax in axes[:5]:
        ax.set_xlabel("updates")
    figure.suptitle(f"{printable(result.name)}: {result.status}".replace("$", r"\$"), fontsize=11)
    return figure


def _panel(ax: Axes, title: str, result: RunHealth, *names: str) -> None:
    """Title with the worst status of the checks of a panel, as colour and as word."""
    found = {result[name].status for name in names}
    status = next(s for s in ("error", "warning", "ok", "unknown") if s in found)
    ax.set_title(title, fontsize=9, loc="left")
    ax.set_title(status, fontsize=9, loc="right", color=STATUS_COLOURS[status], fontweight="bold")
    ax.tick_params(which="both", labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)


def _trace(
    ax: Axes,
    update: Array,
    values: Array | None,
    name: str,
    limit: float | None,
    *,
    log: bool = False,
    colour: str = COLOUR,
) -> None:
    if values is None:
        ax.text(
            0.5,
            0.5,
            "not in the log",
            transform=ax.transAxes,
            ha="center",
            va="center",
            color="0.5",
            gid=f"{name}-none",
        )
        return
    means, rows = moving_mean(values)
    ax.plot(update, values, "-", lw=0.8, alpha=0.4, color=colour, gid=name)
    ax.plot(update[rows], means, "-", lw=1.8, color=colour, gid=f"{name}-mean")
    if log:
        if np.nanmin(values) > 0.0:
            ax.set_yscale("log")
        return
    ax.set_ylim(bottom=min(0.0, float(np.nanmin(values))))
    top = float(np.nanmax(values))
    if limit is not None:
        ax.axhline(limit, color=LIMIT, lw=1.0, ls="--", gid=f"{name}-limit")
        ax.set_ylim(top=max(WHOLE * top, 1e-9) if limit > WHOLE * top else 1.05 * max(top, limit))


def _bars(ax: Axes, result: RunHealth) -> None:
    """GPU-hours by phase; those beside the run's GPU-hours are hatched."""
    _panel(ax, "GPU-hours by phase", result, "utilisation", "lost-compute")
    known: Sequence[tuple[str, float]] = [(k, v) for k, v in result.gpu_hours_by_phase.items() if v is not None]
    if not known:
        ax.text(
            0.5, 0.5, "not in the log", transform=ax.transAxes, ha="center", va="center", color="0.5", gid="phase-none"
        )
        return
    for place, (name, hours) in enumerate(known):
        hatch = "///" if name in BESIDE else None
        ax.barh([place], [hours], color=COLOUR, alpha=0.4 if hatch else 0.9, hatch=hatch, gid=f"phase-{name}")
        ax.patches[-1].set_gid(f"phase-{name}")
    ax.set_yticks(range(len(known)), [name for name, _ in known])
    ax.invert_yaxis()
    ax.set_xlabel("GPU-hours (hatched: beside the run's own)", fontsize=8)
