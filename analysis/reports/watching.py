"""Follow growing logs: what each run would say now, one frame of text at a time.

Promises: a run is fitted again only when its log has new evaluations; a log that is being written, is not there yet or
was replaced is waited for, never an error; a column that the log in hand can never have is one. Nothing is written.
Does not promise to see a run that ended: a log that no longer grows looks like one that waits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from textwrap import fill, wrap
from typing import Any

import numpy as np

from analysis.fits.tables import unit
from analysis.predict.forecasting import forecast
from analysis.predict.forecasts import Forecast, Row, reach_text
from analysis.readers.csvfile import ColumnError
from analysis.readers.logs import read
from analysis.schema import Run, Runs
from scalerl.runlog import UserError

WIDTH, HEIGHT = 78, 12
KEPT = 4  # forecasts whose narrowing is shown


@dataclass
class Watched:
    """A run that is followed: its last forecast and how wide the ones before it were."""

    run: Run
    told: Forecast
    until: float
    widths: list[float] = field(default_factory=list)

    @property
    def row(self) -> Row:
        """The forecast at `until`."""
        return self.told.rows[0]

    def to_dict(self) -> dict[str, Any]:
        """Return one JSON line."""
        return {
            "schema": "watch/1",
            "run": self.run.name,
            "evaluations": len(self.run),
            "x": self.told.fit.x,
            "compute": self.told.last,
            "pass_rate": float(self.run.data["pass_rate"][-1]),
            "forecast": self.row.to_dict(),
            "half_widths": list(self.widths),
            "reach": self.told.reach,
            "hours_left": hours_left(self.run, self.told.fit.x, self.until),
            "findings": [f.to_dict() for f in self.told.findings],
        }


class Watch:
    """Followed runs.

    Parameters
    ----------
    paths : sequence of str
        As `analysis.read` takes them; they need not exist yet.
    x : str, optional
        Compute axis.
    until : float, optional
        Compute to forecast, by default the budget in the run's configuration, or twice what the run has, and twice
        again once it is there.
    **reading
        Further arguments of `analysis.read`: `y`, `scale`, `y_range`, `format`, `devices`.
    """

    def __init__(
        self,
        paths: Sequence[str],
        *,
        x: str | None = None,
        until: float | None = None,
        **reading: Any,
    ) -> None:
        self.paths, self.x, self.until, self.reading = list(paths), x, until, reading
        self.seen: dict[str, Watched] = {}
        self.waiting = ""

    def look(self) -> list[Watched]:
        """Read the logs, fit those that changed; returns the runs with something new."""
        runs, self.waiting = self._read()
        new = []
        for run in runs:
            known = self.seen.get(run.name)
            if known is not None and _same(run, known.run):
                if run.end_time != known.run.end_time:  # the end is news, and the forecast is what it was
                    new.append(replace(known, run=run))
                    self.seen[run.name] = new[-1]
                continue
            try:
                new.append(self._followed(run, known))
            except UserError as error:
                self.waiting = str(error)
                continue
            self.seen[run.name] = new[-1]
        if not self.waiting:  # a run that is no longer there was moved or renamed
            self.seen = {name: self.seen[name] for name in runs.names if name in self.seen}
        return new

    def _read(self) -> tuple[Runs, str]:
        """The runs of all paths that can be read, and what the others wait for.

        Raises
        ------
        ColumnError
            If nothing can be followed, and a log that has evaluations lacks a column that was named: none will come.
        """
        try:
            return self._runs(self.paths), ""
        except UserError as error:
            said = str(error)
        why = {path: self._unreadable(path) for path in self.paths}
        good = [path for path in self.paths if why[path] is None]
        never = next((error for error in why.values() if isinstance(error, ColumnError)), None)
        if never is not None and not good and not self.seen:
            raise never
        waits = "; ".join(str(error) for error in why.values() if error is not None)
        try:
            return (self._runs(good) if good else Runs([])), waits or said
        except UserError as error:
            return Runs([]), str(error)

    def _runs(self, paths: Sequence[str]) -> Runs:
        return read(paths, x=self.x, **self.reading)

    def _unreadable(self, path: str) -> UserError | None:
        """Why a path cannot be read yet; None if it can."""
        try:
            self._runs([path])
        except UserError as error:
            return error
        return None

    def _followed(self, run: Run, known: Watched | None) -> Watched:
        axis = self.x if self.x is not None else run.axes[0]
        if axis not in run.axes:
            raise UserError(f"{run.name}: no compute axis {axis!r}; it has {', '.join(run.axes)}")
        last = float(np.max(run.data[axis]))
        before = known if known is not None and _continues(run, known.run) else None  # not another run of that name
        ahead = before.until if before is not None and 0.0 < before.told.last <= last < before.until else None
        until = self.until or ahead or budget(run, axis) or 2.0 * last
        until = until if until > 0.0 else 1.0
        told = forecast(run, until, x=axis)
        widths = before.widths if before is not None and before.until == until else []
        row = told.rows[0]
        if row.mean_hi is not None and row.mean_lo is not None:
            widths = [*widths, 0.5 * (row.mean_hi - row.mean_lo)][-KEPT:]
        return Watched(run, told, until, widths)


def _same(run: Run, known: Run) -> bool:
    return len(run) == len(known) and _continues(run, known)


def _continues(run: Run, known: Run) -> bool:
    """Whether a run begins with the evaluations of another."""
    n = len(known)
    columns = ("pass_rate", *(axis for axis in known.axes if axis in run.data))
    return len(run) >= n and all(np.array_equal(run.data[c][:n], known.data[c]) for c in columns)


def budget(run: Run, axis: str) -> float | None:
    """Compute at which the run's own configuration ends it; None where it does not say.

    Examples
    --------
    >>> from analysis.readers.logs import read
    >>> run = read("data/runs/grpo")[0]
    >>> budget(run, "step")
    110.0
    """
    config = run.header.get("config")
    config = config if isinstance(config, dict) else {}
    limit, steps = config.get("max_gpu_hours"), config.get("max_steps")
    if axis == "gpu_hours" and isinstance(limit, (int, float)) and limit > 0.0:
        return float(limit)
    if isinstance(steps, (int, float)) and steps > 0 and "step" in run.axes:
        done = float(np.max(run.data["step"]))
        if done > 0.0:
            return float(np.max(run.data[axis])) * max(float(steps) / done, 1.0)
    return None


def hours_left(run: Run, axis: str, until: float) -> float | None:
    """Wall-clock hours until that compute on the run's devices; None where the log does not tell.

    Examples
    --------
    >>> from analysis.readers.logs import read
    >>> run = read("data/runs/grpo")[0]
    >>> round(hours_left(run, "gpu_hours", 1.0), 2)
    0.97
    """
    devices = run.header.get("devices")
    count = devices.get("count") if isinstance(devices, dict) else None
    if "gpu_hours" not in run.axes or not isinstance(count, (int, float)) or not count > 0:
        return None
    hours, done = float(np.max(run.data["gpu_hours"])), float(np.max(run.data[axis]))
    if not done > 0.0:
        return None
    return max(until / done - 1.0, 0.0) * hours / float(count)


def frame(watch: Watch, *, plain: bool = False, height: int = HEIGHT, width: int = WIDTH) -> str:
    """Return everything that is known as text of at most `width` columns."""
    if not watch.seen:
        return fill(f"waiting: {watch.waiting or 'no evaluation yet'}", width)
    lines: list[str] = []
    for one in watch.seen.values():
        lines += [line[:width] for line in _one(one, plain, height, width)]
    if watch.waiting:
        lines.append(fill(f"waiting: {watch.waiting}", width))
    return "\n".join(lines)


def _one(one: Watched, plain: bool, height: int, width: int) -> list[str]:
    told, row, x = one.told, one.row, unit(one.told.fit.x)
    now = f"{told.last:.4g} {x}, pass rate {one.run.data['pass_rate'][-1]:.3f}"
    lines = [f"{one.run.name}   {len(one.run)} evaluations, {now}"]
    lines += picture(one, plain=plain, height=height, width=width)
    if row.pass_rate is None or row.mean_lo is None or row.mean_hi is None:
        lines.append(f"no forecast at {row.at:.4g} {x} yet")
    else:
        sure = f"calibrated on {row.origins}" if row.calibrated else "not calibrated"
        lines.append(f"at {row.at:.4g} {x}: {row.pass_rate:.3f} ({row.mean_lo:.3f} to {row.mean_hi:.3f}), {sure}")
        arrow = " > " if plain else " → "
        if len(one.widths) > 1:
            lines.append(f"half-width {arrow.join(f'{w:.3f}' for w in one.widths)}")
        lines.append(reach_text(told))
    left = hours_left(one.run, told.fit.x, one.until)
    if left is not None and not one.run.end_time:
        lines.append(f"time left to {one.until:.4g} {x}: {_duration(left)}")
    if one.run.end_time:
        lines.append(f"the run ended {one.run.end_time}")
    doubts = [f"{f.severity:<8} {f.message}" for f in told.findings if f.severity != "note"][:3]
    # Only the picture stands as it is: a sentence that is cut may say the opposite.
    drawn, said = lines[: height + 2], [*lines[height + 2 :], *doubts]
    return [*drawn, *(part for text in said for part in wrap(text, width, subsequent_indent=" " * 9))]


def _duration(hours: float) -> str:
    if hours < 1.0:
        return f"{60.0 * hours:.0f} minutes"
    return f"{hours:.1f} hours" if hours < 48.0 else f"{hours / 24.0:.1f} days"


def picture(one: Watched, *, plain: bool = False, height: int = HEIGHT, width: int = WIDTH) -> list[str]:
    """Draw evaluations, forecast and band over compute, linear, in characters.

    Returns
    -------
    list of str, `height` + 1 lines
        The last line is the axis.
    """
    point, curve, band = ("o", "-", ":") if plain else ("●", "─", "░")
    fit, path = one.told.fit, one.told.paths.get(one.told.method)
    columns = width - 7
    end = max(one.until, one.told.last) or 1.0
    C = np.linspace(0.0, end, columns)
    ahead = one.told.last < C
    rates = [fit.pass_rate]
    if path is not None and one.told.last > 0.0:
        h = np.log(np.maximum(C[ahead] / one.told.last, 1.0))
        mid, half = (np.interp(h, np.log(path.multiples), v) for v in (path.mid, path.half))
        lo, hi = np.clip(mid - half, 0.0, 1.0), np.clip(mid + half, 0.0, 1.0)
        rates += [lo, hi]
    values = np.concatenate(rates) if rates else np.zeros(1)
    low, high = float(values.min()), float(values.max())
    if high - low < 0.02:
        low, high = low - 0.01, high + 0.01

    def line(rate: Any) -> Any:
        return np.clip(np.round((high - rate) / (high - low) * (height - 1)), 0, height - 1).astype(int)

    cells = [[" "] * columns for _ in range(height)]
    if path is not None and one.told.last > 0.0:
        for j, top, bottom, middle in zip(np.flatnonzero(ahead), line(hi), line(lo), line(mid), strict=True):
            for i in range(top, bottom + 1):
                cells[i][j] = band
            cells[middle][j] = curve
    places = np.clip(np.round(fit.compute / end * (columns - 1)), 0, columns - 1).astype(int)
    for i, j in zip(line(fit.pass_rate), places, strict=True):
        cells[i][j] = point
    edge = "|" if plain else "│"
    drawn = []
    for i, row in enumerate(cells):
        label = f"{high - (high - low) * i / (height - 1):.3f}" if i in {0, height // 2, height - 1} else ""
        drawn.append(f"{label:>5} {edge}{''.join(row)}".rstrip())
    text = f"0{'':>{max(columns - 2 - len(f'{end:.4g}'), 1)}}{end:.4g}"
    return [*drawn, f"{'':>7}{text}"[:width]]


def next_look(every: float, spent: float) -> float:
    """Seconds to wait so that looks begin `every` seconds apart, at least a tenth of one.

    Examples
    --------
    >>> next_look(10.0, 4.0), next_look(1.0, 4.0)
    (6.0, 0.1)
    """
    return max(every - spent, min(0.1, every)) if math.isfinite(every) else 0.1
