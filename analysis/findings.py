"""The doubts that a run, a fit or a comparison can carry: one table of codes, and what carries one.

Promises: every code has one usual severity and one meaning, here and nowhere else; importing this loads nothing heavy.
Does not say when a doubt is raised: that stands where the figures are, in `analysis.fits.doubts` and its neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

SEVERITIES = ("note", "warning", "error")

# Every doubt that a run, a fit or a comparison can carry: code -> (severity, what it means).
CODES: dict[str, tuple[str, str]] = {
    # reading
    "log-cut": ("warning", "the last line of the log is cut; the whole rows before it are used"),
    "no-header": ("note", "a log without run.json: recipe and seed are unknown"),
    "axis-chosen": ("note", "a table has several columns that could be compute; the first known one was taken"),
    "log-damaged": ("warning", "a record of a store is damaged; those before it are used"),
    "sampled": ("note", "the file holds a sample of what was logged, or averages over buckets of it"),
    "refused-rows": ("note", "a history of W&B has a pause; after a resume it keeps the rows of the attempt that died"),
    "files-merged": ("note", "event files that share no tag were written side by side and are one attempt"),
    "no-steps": ("note", "the store holds no training steps; rows are in the order of their times"),
    "columns-left-out": ("note", "columns of a table that hold no numbers, or that share a name, are left out"),
    "step-derived": ("note", "a console log shows no steps; they are read from the progress bars beside its rows"),
    "rows-empty": ("note", "rows without a pass rate are left out, as logs of sparse evaluations have them"),
    "rows-dropped": ("warning", "rows with text, NaN, infinity or a negative compute are left out"),
    "percent": ("note", "the pass rate was in percent and is divided by 100"),
    "scaled": ("note", "the pass rate is multiplied by the factor that was asked for"),
    "compute-restarts": ("warning", "compute falls back inside the file: runs joined end to end, or a restart"),
    "compute-unordered": ("note", "rows are not in order of compute; they are sorted"),
    "compute-repeated": ("note", "several evaluations stand at one compute; each counts as a point"),
    "resumed": ("note", "the run was interrupted and resumed; every evaluation is kept"),
    "attempts": ("note", "the log holds several attempts; the branch that the last one went on from is the curve"),
    "work-lost": ("note", "work of earlier attempts that was taken back: in the bill, not in the curve"),
    "runs-split": ("note", "a file holds several runs one after the other; each is a run of its own"),
    "split-apart": (
        "note",
        "rows of training and of evaluations stand in one table; their figures have names of their own",
    ),
    "step-chosen": ("note", "the training step is another column than the one called so, which starts again"),
    "steps-repeated": ("note", "a step was logged more than once; the last value counts"),
    "axis-derived": ("note", "the compute axis is not in the log, it was made from what is"),
    "axis-steps": ("note", "compute is training steps: the log holds neither time nor tokens"),
    "log-begins-late": ("warning", "the log begins in the middle of a run: what was spent before is not in it"),
    "metric-chosen": ("note", "the pass rate is a column that the format is known to hold evaluations in"),
    "metric-training": ("warning", "the pass rate is of training completions, not of an evaluation on fixed prompts"),
    "busy-machine": ("warning", "wall time is far above CPU time on a CPU: the machine was busy with other work"),
    "prompt-set-changed": ("warning", "the evaluation prompts change inside the run"),
    # fitting
    "no-fit": ("error", "fewer points than free parameters: nothing can be fitted"),
    "no-interval": ("warning", "as many points as free parameters: no interval exists"),
    "few-points": ("warning", "too few points for an interval to mean much"),
    "exact-data": ("note", "residuals are at the level of rounding: no interval can come from them"),
    "flat-curve": ("warning", "the pass rate does not change measurably: A, B and C_mid mean nothing"),
    "falling-curve": ("warning", "the pass rate falls: A is a floor that the curve falls to, not a ceiling"),
    "decay": ("warning", "the pass rate peaks and then falls: a curve that only rises is the wrong law here"),
    "dip": ("warning", "evaluations inside the run lie far below those on both sides; the curve is drawn down by them"),
    "at-bound": ("warning", "the best value of a parameter lies on the edge of its allowed range"),
    "open-interval": ("warning", "the data do not close an interval inside the allowed range"),
    "not-past-midpoint": ("warning", "the run ends before twice C_mid: the ceiling is a guess"),
    "independent-noise": ("note", "the interval assumes independent noise; successive evaluations are not"),
    "correlated-residuals": ("warning", "residuals are correlated: the interval is too narrow"),
    "r0-pinned": ("note", "R0 is not fitted; the intervals do not hold its error"),
    "window": ("note", "points outside the window are left out of the fit"),
    "misfit": ("warning", "the residuals have a shape that the law and correlated noise do not explain"),
    "noise-grows": ("warning", "the residuals spread wider along the run"),
    "outliers": ("warning", "evaluations so far off the curve that none is expected among so many"),
    "rows-duplicated": ("warning", "an evaluation stands in the log more than once, and counts more than once"),
    "concatenated": ("warning", "the whole table stands in the file more than once"),
    "regime": ("warning", "the run changes inside the fitted window: its points are not of one curve"),
    "prompts-spent": ("warning", "the train prompts run out inside the fitted window: the run may stop below A"),
    "guards": ("note", "the trainer saw figures past a threshold inside the fitted window; nothing was changed"),
    "window-sensitive": ("warning", "A depends on where the fit begins by more than its own intervals allow"),
    "spent-fit": ("note", "fitted up to where the train prompts run out, on request; a run with more might go on"),
    "peak-fit": ("note", "fitted up to the peak, on request; nothing is claimed past it"),
    # intervals and what they rest on
    "refitted": ("note", "a fit of another method, fitted again by the posterior for what rests on draws"),
    "grade": ("note", "P(C_max > 2 C_mid), from which it follows whether A can be used"),
    "one-seed": ("note", "one seed: the interval holds no variance between seeds"),
    "seed-repeated": ("warning", "one seed counts as two, so the spread between seeds comes out too small"),
    "prompts-fixed": ("note", "the interval holds for these evaluation prompts; on new ones it is wider"),
    "undercover": ("warning", "the method's intervals hold the truth less often than they say"),
    "method-failed": ("warning", "the method gives no limits here"),
    "posterior-grid": ("warning", "the posterior's check of itself failed"),
    "r0-shared": ("note", "R0 rests on the evaluations of other runs from the same checkpoint too"),
    "r0-disagrees": ("warning", "the runs from one checkpoint do not agree on R0: the law is wrong near the start"),
    "pooled": ("note", "ln B and ln C_mid lean on the other seeds of the recipe"),
    "pooled-thin": ("warning", "too few draws are left after pooling, or its chains disagree"),
    "prior-bound": ("warning", "an interval leans on the prior more than on the data"),
    # forecasting
    "no-forecast": ("warning", "nothing is claimed past the data"),
    "not-backtested": ("warning", "no origin of the run has an evaluation that far ahead"),
    "inside-data": ("note", "a compute that was asked for lies inside the data"),
    "misfit-ahead": ("warning", "earlier forecasts by the sigmoid missed by far more than its own band allows"),
    # the health of a run
    "unhealthy": ("warning", "a figure of the run's health is past its limit"),
    "not-checked": ("note", "the log does not hold what a check needs"),
    # groups
    "shared-noise": ("note", "groups of one run share noise: a test of their difference is cautious"),
    "second-stage": ("note", "a line over sizes: missing, or an extrapolation of extrapolations"),
    # comparing
    "not-tested": ("note", "one seed a recipe: differences are not tested"),
    "axis-missing": ("note", "a run does not log this compute axis and is left out there"),
    "not-covered": ("warning", "a run has no curve at the common compute and is left out there"),
    "run-noise": ("note", "a test between runs that knows the noise inside them only, not what seeds differ by"),
    "settings-differ": ("warning", "runs of one recipe were made with other settings than its other runs"),
    "prompt-sets-differ": ("warning", "the runs were evaluated on different prompts"),
    "prompts-unknown": ("note", "a log does not say which prompts were evaluated; they are taken to be the same"),
    "checkers-differ": ("warning", "task or checker differs: pass rates are not of one thing"),
    "devices-differ": ("warning", "wall time on different devices: a GPU-hour is not the same on each"),
    "seed-sd-stated": ("note", "how much seeds differ was stated, not estimated"),
    "seed-sd-common": ("note", "seeds of all compared recipes are taken to differ by the same standard deviation"),
}


@dataclass(frozen=True)
class Finding:
    """One doubt: a code of `CODES`, how severe it is, one sentence, and the figure behind it if there is one."""

    code: str
    severity: str
    message: str
    figure: float | None = None

    def to_dict(self) -> dict[str, str]:
        """Return the three fields that the JSON output holds."""
        return {"code": self.code, "severity": self.severity, "message": self.message}


def finding(code: str, message: str, figure: float | None = None, severity: str | None = None) -> Finding:
    """Make the finding `code`; its usual severity stands in `CODES`, and `severity` replaces it where it differs.

    Examples
    --------
    >>> finding("percent", "eval_acc is in percent").severity
    'note'
    """
    return Finding(code, CODES[code][0] if severity is None else severity, message, figure)
