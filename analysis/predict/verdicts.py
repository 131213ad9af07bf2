"""What a back-test comes to, in one sentence. Formats figures of the result; estimates nothing."""

from __future__ import annotations

from analysis.fits.tables import in_percent
from analysis.predict.backtests import Backtest, Score

SHORT = ("average", "sigmoid", "last_value", "log_linear")  # methods of the short table, beside the best of the others


def verdict_text(test: Backtest) -> str:
    """Return how far forecasts were off, beside the last value, and how often their bands held.

    Examples
    --------
    >>> import analysis as an
    >>> verdict_text(an.backtest(an.read("data/paper/scalerl_8b_bs2048_100k.csv"), 2))
    'forecasts 2x ahead from 16 earlier cut-offs missed by .016 on average, the last value by .041; the calibrated 95%
    band held 10 of 10, the own band 14 of 16'
    """
    score = _middle(test)
    if score is None:
        return "no forecast can be tested: too few evaluations behind the first cut-offs"
    same = [s for s in test.scores if s.horizon == score.horizon]
    last = next((s for s in same if s.method == "last_value"), None)
    count = f"{score.forecasts} earlier cut-off{'s' * (score.forecasts > 1)}"
    text = f"forecasts {score.horizon:g}x ahead from {count} missed by {_error(score.mean_error)} on average"
    if last is not None:
        text += f", the last value by {_error(last.mean_error)}"
    held = []
    if score.calibrated and score.calibrated_coverage is not None:
        count = f"{round(score.calibrated_coverage * score.calibrated)} of {score.calibrated}"
        held.append(f"the calibrated {in_percent(test.level)} band held {count}")
    if score.own_coverage is not None:
        held.append(
            f"the own band {'' if held else 'held '}{round(score.own_coverage * score.forecasts)} of {score.forecasts}"
        )
    return f"{text}; {', '.join(held)}" if held else text


def short_methods(test: Backtest) -> tuple[str, ...]:
    """Return the methods of the short table: ours, the two baselines, and the best of the others at the middle."""
    score = _middle(test)
    others = [s for s in test.scores if score and s.horizon == score.horizon and s.method not in SHORT]
    best = min(others, key=lambda s: (-s.forecasts, s.mean_error), default=None)
    return SHORT if best is None else (*SHORT, best.method)


def _middle(test: Backtest) -> Score | None:
    mine = [s for s in test.scores if s.method == "average"]
    wanted = test.horizons[len(test.horizons) // 2]
    return min(mine, key=lambda s: abs(s.horizon - wanted), default=None)


def _error(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1)
