"""Checks of the updates of a run: signs of a collapse, of stale data and of a shrinking batch.

Promises: each check reads one or two logged figures, takes means over `analysis.checks.steps.WINDOW` updates where a
single one is noise, and names the place of the worst; without the figure it is ``unknown``. Does not promise the
cause: a field is the first to look at. Every limit stands here with its reason; "ours" means that no source gives it,
and `docs/evidence.md` says how often each fires on runs that were healthy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.checks.health import Check
from analysis.checks.steps import Steps, moving_mean
from analysis.curves.solver import Array
from analysis.readers.regimes import SPENT

Config = Mapping[str, Any]

# A truncation rate of 10 to 15 % came before the paper's collapses (arXiv 2510.13786, section 6); its own recipe stays
# under 5 %. The guards of `scalerl.guards` warn at the first; over the second at the end it is an error.
TRUNCATION, TRUNCATION_LAST = 0.10, 0.15
# Share of the first entropy that is left. Healthy runs of the demo fall to .1 (`data/runs`), where the
# trainer's guard speaks; at a hundredth every completion of a prompt is the same one. Both ours.
ENTROPY, ENTROPY_GONE = 0.05, 0.01
ENTROPY_RISE = 3.0  # times the first: the policy drifts to noise (ours; at most 1.1 in healthy runs of the demo)
RATIO = 0.5  # distance of the mean ratio from 1, as in `scalerl.guards`; its expectation is 1 under any lag
MISMATCH = 0.3  # nats a token between trainer and generator (ours): the usual ratio is off by a third
CLIPPED = 0.5  # share of clipped tokens: most carry no gradient, or a cut one (ours; GSPO clips whole completions)
GRADIENT = 10.0  # times the first norm (ours; healthy runs of the demo grow up to sixfold)
GRADIENT_FIRST, GRADIENT_WINDOW = 20, 20  # updates whose median norm is the first; and of the moving median
NOT_FINITE = 0.1  # share of updates left out since their gradient overflowed
# Of the prompts of an update, this share teaches: at a quarter the standard error of the gradient has doubled; with
# half of the updates empty, half of the generation is for nothing.
KEPT, EMPTY = 0.25, 0.5
# Share of the train prompts that are never drawn again, as in `analysis.readers.regimes`. A run of the study with 70 %
# retired found nothing more to learn from.
RETIRED = SPENT
# From this share of retired prompts on the rest is harder, and its reward may fall in a healthy run (ours).
RETIRED_FEW = 0.1
REWARD_LEFT, REWARD_GAIN = 0.5, 0.1  # as in `scalerl.guards`: share of the best gain that is left, and smallest gain


def of_steps(steps: Steps, config: Config, items: int | None, x: str) -> list[Check]:
    """Return the checks of the updates, in a fixed order.

    Parameters
    ----------
    steps : Steps
    config : mapping
        The run's configuration; empty where it is unknown.
    items : int or None
        Train prompts.
    x : str
        Compute axis of the places.
    """
    return [
        truncation(steps, x),
        entropy(steps, x),
        ratio(steps, config, x),
        clipping(steps, config, x),
        mismatch(steps, x),
        gradient(steps, x),
        batch(steps, x),
        prompts(steps, items, x),
        reward(steps, items, x),
        lag(steps, config, x),
    ]


def unknown(name: str, steps: Steps, fields: str, why: str = "") -> Check:
    """Return a check that could not be made, with the reason."""
    return Check(name, "unknown", why or steps.missing or f"the log has no {fields}")


def truncation(steps: Steps, x: str) -> Check:
    """Completions cut at their limit."""
    values = steps.column("truncation_rate")
    if values is None:
        return unknown("truncation", steps, "truncation_rate")
    means, rows = moving_mean(values)
    worst = _worst(means)
    figure, last = float(means[worst]), float(means[-1])
    if figure <= TRUNCATION:
        return Check(
            "truncation",
            "ok",
            f"at most {figure:.1%} of the completions are cut",
            figure,
            TRUNCATION,
            steps.at(rows[worst], x),
        )
    now = "and still so at the end" if last > TRUNCATION else f"and {last:.1%} at the end"
    what = (
        f"{figure:.0%} of the completions are cut at their limit {now}; over {TRUNCATION:.0%} came before collapses: "
        "give them more room, or end their thinking earlier"
    )
    status = "error" if last > TRUNCATION_LAST else "warning"
    fields = "max_length, thinking_tokens, length_control"
    return Check("truncation", status, what, figure, TRUNCATION, steps.at(rows[worst], x), fields)


def entropy(steps: Steps, x: str) -> Check:
    """Entropy of the sampled distributions, as a share of the run's first."""
    values = steps.column("entropy")
    if values is None:
        return unknown("entropy", steps, "entropy")
    means, rows = moving_mean(values)
    first = float(means[np.isfinite(means)][0]) if np.isfinite(means).any() else 0.0
    if first <= 0.0:
        return unknown("entropy", steps, "", "the first entropy is 0, so there is none to lose")
    share = means / first
    low, high = _worst(-share), _worst(share)
    rise = ""
    if share[high] >= ENTROPY_RISE:
        figure = float(share[high])
        rise = f"the entropy rises to {figure:.3g} x its first {first:.3g} nats: the policy drifts to noise"
        if share[low] >= ENTROPY:
            return Check("entropy", "warning", rise, figure, ENTROPY_RISE, steps.at(rows[high], x), "learning_rate")
    figure = float(share[low])
    if figure >= ENTROPY:
        return Check(
            "entropy",
            "ok",
            f"at least {figure:.2g} of the first {first:.3g} nats are left",
            figure,
            ENTROPY,
            steps.at(rows[low], x),
        )
    what = (
        f"the entropy falls to {figure:.2g} of its first {first:.3g} nats: completions of a prompt become the same one "
        "and nothing new is tried; lower the learning rate or clip less from above"
    )
    what = f"{what}; {rise}" if rise else what  # the collapse is the worse of the two
    status = "error" if figure < ENTROPY_GONE else "warning"
    return Check("entropy", status, what, figure, ENTROPY, steps.at(rows[low], x), "learning_rate, epsilon_high")


def ratio(steps: Steps, config: Config, x: str) -> Check:
    """Mean importance ratio of an update, as its distance from 1."""
    values = steps.column("ratio_mean")
    if values is None:
        return unknown("ratio", steps, "ratio_mean")
    off = np.abs(values - 1.0)
    worst = _worst(off)
    figure = float(off[worst])
    means, rows = moving_mean(off)
    lasting = _worst(means)
    if figure <= RATIO:
        return Check("ratio", "ok", f"the mean ratio stays within {figure:.2g} of 1", figure, RATIO, steps.at(worst, x))
    times = int((off > RATIO).sum())
    what = (
        f"the mean importance ratio of {times} updates is not within {RATIO:g} of 1 (it is {values[worst]:.3g}): "
        "trainer and generator are different policies; lower the learning rate or the lag"
    )
    status = "error" if means[lasting] > RATIO else "warning"
    where = steps.at(int(rows[lasting]) if status == "error" else worst, x)
    return Check(
        "ratio", status, what, figure, RATIO, where, _fields("learning_rate, off_policy_steps", _clip_field(config))
    )


def clipping(steps: Steps, config: Config, x: str) -> Check:
    """Tokens whose ratio is clipped."""
    values = steps.column("clipped_share")
    if values is None:
        return unknown("clipping", steps, "clipped_share")
    if config.get("loss") == "gspo":
        return unknown("clipping", steps, "", "GSPO clips whole completions by design")
    means, rows = moving_mean(values)
    worst = _worst(means)
    figure = float(means[worst])
    if figure <= CLIPPED:
        return Check(
            "clipping",
            "ok",
            f"at most {figure:.2g} of the tokens are clipped",
            figure,
            CLIPPED,
            steps.at(rows[worst], x),
        )
    what = f"{figure:.0%} of the tokens are clipped, so most teach little or nothing; lower the lag or widen the clip"
    where = steps.at(rows[worst], x)
    return Check("clipping", "warning", what, figure, CLIPPED, where, _fields(_clip_field(config), "off_policy_steps"))


def mismatch(steps: Steps, x: str) -> Check:
    """Mean |log pi_train - log pi_generate| a token."""
    values = steps.column("logprob_diff_mean")
    if values is None:
        return unknown("mismatch", steps, "logprob_diff_mean")
    means, rows = moving_mean(values)
    worst = _worst(means)
    figure = float(means[worst])
    if figure <= MISMATCH:
        return Check(
            "mismatch",
            "ok",
            f"log-probabilities differ by at most {figure:.2g} nats a token",
            figure,
            MISMATCH,
            steps.at(rows[worst], x),
        )
    what = (
        f"trainer and generator differ by {figure:.2g} nats a token: the data are stale, or the two compute in "
        "different precision"
    )
    fields = "off_policy_steps, learning_rate, use_fp32_lm_head"
    return Check("mismatch", "warning", what, figure, MISMATCH, steps.at(rows[worst], x), fields)


def gradient(steps: Steps, x: str) -> Check:
    """Norm of the gradient: its moving median over the first one, and updates that overflowed."""
    values = steps.column("grad_norm")
    if values is None:
        return unknown("gradient", steps, "grad_norm")
    skipped, filtered = steps.column("skipped"), steps.column("filtered_share")
    if skipped is not None:
        empty = np.zeros(len(values), dtype=bool) if filtered is None else filtered >= 1.0
        lost = (skipped > 0.0) & ~empty
        share = float(lost.mean())
        if filtered is not None and share > NOT_FINITE:
            what = f"{int(lost.sum())} of {len(lost)} gradients overflowed; train in bfloat16"
            return Check(
                "gradient",
                "error",
                what,
                share,
                NOT_FINITE,
                steps.at(np.flatnonzero(lost)[-1], x),
                "dtype, learning_rate",
            )
    place = np.flatnonzero(np.isfinite(values) & (values > 0.0))
    norms = values[place]
    if len(norms) < 2 * GRADIENT_WINDOW:
        return unknown("gradient", steps, "", f"{len(norms)} updates with a gradient are too few to see a trend")
    first = float(np.median(norms[:GRADIENT_FIRST]))
    medians = np.median(np.lib.stride_tricks.sliding_window_view(norms, GRADIENT_WINDOW), axis=1)
    worst = int(np.argmax(medians))
    figure, row = float(medians[worst]) / first, int(place[worst + GRADIENT_WINDOW - 1])
    if figure <= GRADIENT:
        return Check(
            "gradient", "ok", f"the usual norm grows to {figure:.3g} x its first", figure, GRADIENT, steps.at(row, x)
        )
    what = f"the usual gradient norm grows to {figure:.3g} x its first, {first:.3g}; lower the learning rate"
    return Check("gradient", "warning", what, figure, GRADIENT, steps.at(row, x), "learning_rate, max_grad_norm")


def batch(steps: Steps, x: str) -> Check:
    """Share of an update's prompts that teach: those whose completions did not all get one reward."""
    same = steps.column("zero_variance_share")
    if same is None:
        return unknown("batch", steps, "zero_variance_share")
    kept, rows = moving_mean(1.0 - same)
    worst = _worst(-kept)
    figure = float(kept[worst])
    if figure >= KEPT:
        return Check(
            "batch",
            "ok",
            f"at least {figure:.0%} of the prompts of an update teach",
            figure,
            KEPT,
            steps.at(rows[worst], x),
        )
    empty, _ = moving_mean((same >= 1.0).astype(float))
    none = float(np.nanmax(empty))
    what = (
        f"only {figure:.0%} of the prompts of an update teach, the others' completions all got one reward"
        + (f", and {none:.0%} of {min(len(same), 10)} updates in a row were empty" if none > 0.0 else "")
        + ": take prompts of middling difficulty, or a larger batch"
    )
    status = "error" if none > EMPTY else "warning"
    fields = "batch_size, generations_per_prompt, resampling_threshold"
    return Check("batch", status, what, figure, KEPT, steps.at(rows[worst], x), fields)


def prompts(steps: Steps, items: int | None, x: str) -> Check:
    """Train prompts that are never drawn again."""
    retired = steps.column("retired")
    if retired is None or not items:
        return unknown(
            "prompts", steps, "", "" if steps.missing else "the log has no retired, or not how many prompts there are"
        )
    share = retired / items
    exhausted = any(row.get("event") == "prompts_exhausted" for row in steps.events)
    place = _worst(share)
    figure = float(share[place])
    if figure <= RETIRED and not exhausted:
        return Check(
            "prompts", "ok", f"{figure:.0%} of {items} train prompts are retired", figure, RETIRED, steps.at(place, x)
        )
    over = np.flatnonzero(share > RETIRED)
    where = steps.at(int(over[0]) if len(over) else place, x)
    ended = ", and the run ended with them" if exhausted else ""
    past = f", {RETIRED:.0%} from there on" if len(over) else ""
    what = f"{figure:.0%} of {items} train prompts are retired in the end{past}{ended}: few are left; add prompts"
    return Check("prompts", "warning", what, figure, RETIRED, where, "resampling_threshold, no_positive_resampling")


def reward(steps: Steps, items: int | None, x: str) -> Check:
    """Share of the best gain of the training reward that is left at the end."""
    total, count = steps.column("reward_sum"), steps.column("reward_count")
    if total is None or count is None:
        return unknown("reward", steps, "reward_sum and reward_count")
    with np.errstate(divide="ignore", invalid="ignore"):
        means, rows = moving_mean(np.where(count > 0.0, total / count, np.nan))
    if len(means) < 2 or not np.isfinite(means).all():
        return unknown("reward", steps, "", "too few updates with a reward")
    best = int(np.argmax(means))
    gain, left = float(means[best] - means[0]), float(means[-1] - means[0])
    drop = float(means[0] - means.min())
    if gain < REWARD_GAIN:
        if left < -REWARD_GAIN:
            what = f"the mean training reward never rises and falls by {-left:.2g}; lower the learning rate"
            return Check("reward", "error", what, left, -REWARD_GAIN, steps.at(rows[-1], x), "learning_rate")
        return Check(
            "reward",
            "ok",
            f"the mean training reward moves by {max(gain, drop):.2g} at most",
            left,
            -REWARD_GAIN,
            steps.at(rows[-1], x),
        )
    figure = left / gain
    if figure >= REWARD_LEFT:
        return Check(
            "reward",
            "ok",
            f"{figure:.0%} of the best gain of the training reward is left",
            figure,
            REWARD_LEFT,
            steps.at(rows[-1], x),
        )
    retired = steps.column("retired")
    if retired is not None and np.nanmax(retired) > RETIRED_FEW * (items or 0.0):
        why = f"{figure:.0%} of its best gain is left, but the prompts it was gained on are retired"
        return unknown("reward", steps, "", why)
    what = (
        f"of the gain of the training reward ({gain:.2g} at its best) {max(figure, 0.0):.0%} is left: the policy "
        "came apart; go back to a checkpoint before that and lower the learning rate"
    )
    return Check(
        "reward", "error", what, figure, REWARD_LEFT, steps.at(rows[best], x), "learning_rate, off_policy_steps"
    )


def lag(steps: Steps, config: Config, x: str) -> Check:
    """Largest lag against the one that the configuration allows."""
    values = steps.column("lag_max")
    allowed = config.get("off_policy_steps")
    if values is None or type(allowed) is not int:
        return unknown("lag", steps, "lag_max" if values is None else "off_policy_steps in its configuration")
    limit = allowed - 1 if config.get("off_policy") == "ppo" else allowed
    over = np.flatnonzero(values > limit)
    figure = float(np.nanmax(values))
    if not len(over):
        return Check(
            "lag",
            "ok",
            f"tokens are at most {figure:g} updates old, of {limit} allowed",
            figure,
            float(limit),
            steps.at(_worst(values), x),
        )
    what = f"tokens are up to {figure:g} updates old, and {limit} are allowed: the run is not the recipe it says"
    return Check("lag", "error", what, figure, float(limit), steps.at(over[0], x), "off_policy_steps, lead")


def _worst(values: Array) -> int:
    """Place of the largest known value."""
    return int(np.argmax(np.where(np.isfinite(values), values, -np.inf)))


def _fields(*names: str) -> str:
    return ", ".join(name for name in names if name)


def _clip_field(config: Config) -> str:
    fields = {"cispo": "epsilon_max", "clipped": "epsilon_high", "gspo": "gspo_epsilon", "reinforce": ""}
    return fields.get(str(config.get("loss")), "epsilon_max")
