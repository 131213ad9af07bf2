"""What is simulated: devices, recipe, lengths and rates, each one number that can be set by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from scalerl.runlog import UserError

SECONDS = (
    "token_s",
    "slot_s",
    "start_s",
    "prefill_s",
    "train_token_s",
    "update_s",
    "completion_s",
    "sync_s",
    "reply_s",
)
LEAST = {
    "generators": 1,
    "learners": 1,
    "slots": 1,
    "batch_size": 1,
    "generations_per_prompt": 1,
    "off_policy_steps": 0,
    "updates": 1,
    "max_new_tokens": 1,
}
OPTIONS = {"off_policy": ("pipeline", "ppo"), "lead": ("full", "eager")}


def told(default: Any, what: str) -> Any:
    """Return a field with a default, and what it is."""
    return field(default=default, metadata={"what": what})


@dataclass(frozen=True)
class Setup:
    """Devices, recipe and rates of a run; times in seconds, lengths in tokens. The recipe's names are the trainer's.

    Examples
    --------
    >>> setup = Setup(generators=4, learners=2, slots=96, token_s=0.01, slot_s=0.0001)
    >>> setup.devices, round(setup.tokens_per_s)
    (6, 4898)
    """

    generators: int = told(1, "devices that decode")
    learners: int = told(1, "devices that train; two train twice as fast, if they have micro-batches enough")
    in_turn: bool = told(False, "the generators train, too, and decode nothing meanwhile (generator: inline)")
    feeding: bool = told(False, "completions may start while the learner trains; the trainer's own loop starts none")
    slots: int = told(768, "completions that one generator decodes at once")
    batch_size: int = told(768, "completions an update")
    generations_per_prompt: int = told(16, "completions a prompt")
    off_policy: str = told("pipeline", "scheme: pipeline or ppo")
    off_policy_steps: int = told(8, "k")
    lead: str = told("full", "when a pipeline update fires: full or eager")
    updates: int = told(100, "updates to the end")
    length_mean: float = told(8000.0, "tokens of a completion, the mean, before it is cut")
    length_sd: float = told(4000.0, "their standard deviation; lengths are lognormal, or those of --run")
    max_new_tokens: int = told(14336, "length at which a completion is cut")
    prompt_length: float = told(500.0, "tokens of a prompt, the mean")
    token_s: float = told(0.0, "seconds of a pass through the model on a generator, however little is in it")
    slot_s: float = told(0.0, "seconds that a completion in work adds to a pass, which gives it a token")
    start_s: float = told(0.0, "seconds of a pass that prompts start with, besides their tokens; 0: as token_s")
    prefill_s: float = told(0.0, "seconds that a token of a prompt adds to the pass that prompts start with")
    train_token_s: float = told(0.0, "seconds of a trained token, on one learner")
    micro_batch_tokens: float = told(
        0.0, "most tokens of a micro-batch, prompts too, which one learner computes; 0: no matter"
    )
    kept_share: float = told(1.0, "share of the tokens that are trained: what the zero-variance filter leaves")
    update_s: float = told(0.0, "seconds of an update besides its tokens")
    completion_s: float = told(0.0, "seconds of the learner that a completion takes: scoring, keeping")
    sync_s: float = told(0.0, "seconds of new weights on their way, in which learner and generators stand still")

    reply_s: float = told(0.0, "seconds from the end of a completion until another can start in its place; not in turn")

    @property
    def devices(self) -> int:
        """Devices that are held."""
        return self.generators + (0 if self.in_turn else self.learners)

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second of a generator whose slots are full."""
        full = self.token_s + self.slot_s * self.slots
        return self.slots / full if full else math.inf

    def busiest(self, tokens: Any, completions: Any, learners: int) -> Any:
        """Return which share of an update's trained tokens the learner has that has most; the others wait for it.

        Each computes whole micro-batches. These are made smaller by halves until there is one for every learner, or
        one of every completion, as in `scalerl.sharded`; completions are taken to be of one length. Tokens and
        completions may be arrays, of several updates.

        Examples
        --------
        A micro-batch has ten of 50 completions: on four learners they take as long as on three. For six learners it
        has five.

        >>> setup = Setup(micro_batch_tokens=1000, prompt_length=10)
        >>> [float(setup.busiest(4500, 50, n)) for n in (1, 3, 4, 5, 6, 10, 11, 99)]
        [1.0, 0.4, 0.4, 0.2, 0.2, 0.1, 0.12, 0.02]
        """
        if not self.micro_batch_tokens:
            return 1.0 / learners
        completions = np.maximum(np.asarray(completions, dtype=float), 1.0)
        row = np.asarray(tokens) / completions + self.prompt_length
        budget = np.full_like(row, self.micro_batch_tokens)
        while True:
            parts = np.ceil(completions / np.maximum(1.0, budget // row))
            few = parts < np.minimum(learners, completions)
            if not few.any():
                return np.ceil(parts / learners) / parts
            budget = np.where(few, budget // 2, budget)

    def check(self) -> None:
        """Look for fields that make no sense.

        Raises
        ------
        UserError
            With all of them.
        """
        wrong = [
            f"{name}: {getattr(self, name)} is not a whole number from {least}"
            for name, least in LEAST.items()
            if getattr(self, name) < least
        ]
        wrong += [
            f"{name}: {getattr(self, name)} is not a finite number from 0"
            for name in (*SECONDS, "length_sd", "prompt_length", "length_mean", "micro_batch_tokens", "kept_share")
            if not 0.0 <= getattr(self, name) < math.inf
        ]
        wrong += [
            f"{name}: {getattr(self, name)!r} is none of {', '.join(options)}"
            for name, options in OPTIONS.items()
            if getattr(self, name) not in options
        ]
        if 0.0 <= self.length_mean < 1.0:
            wrong.append(f"length_mean: {self.length_mean:g} is less than a token")
        if self.kept_share > 1.0:
            wrong.append(f"kept_share: {self.kept_share:g} is more than all")
        if self.generations_per_prompt > 0 and self.batch_size % self.generations_per_prompt:
            wrong.append(
                f"batch_size: {self.batch_size} completions are no whole number of prompts with "
                f"generations_per_prompt {self.generations_per_prompt}"
            )
        if self.off_policy == "ppo" and self.off_policy_steps == 0:
            wrong.append("off_policy_steps: 0: ppo generates at least one batch before it updates; set it to 1 or more")
        if self.token_s == self.slot_s == 0.0:
            wrong.append("token_s, slot_s: decoding takes no time; set one of them")
        if wrong:
            raise UserError("\n".join(wrong))


FIELDS = {one.name: one for one in fields(Setup)}
DERIVED = {
    "tokens_per_s": "tokens a second of a generator with full slots; sets slot_s to what token_s leaves",
    "length_p50": "median length; with length_p95 in place of length_mean and length_sd",
    "length_p95": "length that one completion of 20 is above",
}
P95 = 1.6448536269514722  # of the normal distribution


def changed(setup: Setup, values: Mapping[str, Any], where: str = "--set") -> Setup:
    """Return a setup with other values, given by name as text or as what they are; `check` looks at the result.

    Raises
    ------
    UserError
        With every name that is none, and every value that does not fit.

    Examples
    --------
    >>> setup = changed(Setup(), {"slots": "96", "token_s": "1e-2", "tokens_per_s": 4800})
    >>> setup.slots, setup.token_s, round(setup.slot_s, 9), round(setup.tokens_per_s)
    (96, 0.01, 0.000104167, 4800)
    >>> round(changed(Setup(), {"length_p50": 100, "length_p95": 200}).length_mean)
    109
    >>> changed(Setup(), {"slot": "96"})
    Traceback (most recent call last):
    scalerl.runlog.UserError: --set: slot: there is no such field; did you mean slots?
    """
    wrong, found = [], {}
    for name, value in values.items():
        try:
            found[name] = _value(name, value)
        except UserError as error:
            wrong.append(f"{where}: {name}: {error}")
    lengths = [found.pop(name) for name in ("length_p50", "length_p95") if name in found]
    rate = found.pop("tokens_per_s", None)
    if lengths and (len(lengths) == 1 or not 0.0 < lengths[0] <= lengths[1]):
        wrong.append(f"{where}: length_p50, length_p95: give both, the smaller one first")
    if rate is not None and not 0.0 < rate < math.inf:
        wrong.append(f"{where}: tokens_per_s: {rate:g} is not a finite number above 0")
    if wrong:
        raise UserError("\n".join(wrong))
    if lengths:
        sigma = math.log(lengths[1] / lengths[0]) / P95
        mean = lengths[0] * math.exp(0.5 * sigma**2)
        found |= {"length_mean": mean, "length_sd": mean * math.sqrt(math.expm1(sigma**2))}
    setup = replace(setup, **found)
    if rate is not None:
        left = 1.0 / rate - setup.token_s / max(1, setup.slots)
        if left < 0.0:
            raise UserError(f"{where}: tokens_per_s: {rate:g} is more than token_s {setup.token_s:g} leaves room for")
        setup = replace(setup, slot_s=left)
    return setup


def _value(name: str, value: Any) -> Any:
    """Return what a field is set to."""
    if name not in FIELDS and name not in DERIVED:
        import difflib

        near = difflib.get_close_matches(name, [*FIELDS, *DERIVED], n=1)
        hint = f"did you mean {near[0]}?" if near else "`scalerl simulate --fields` lists them"
        raise UserError(f"there is no such field; {hint}")
    kind = FIELDS[name].type if name in FIELDS else "float"
    text = str(value).strip()
    if kind == "str":
        return text
    if kind == "bool":
        if text.lower() not in ("true", "false"):
            raise UserError(f"{text!r} is neither true nor false")
        return text.lower() == "true"
    try:
        return int(text) if kind == "int" else float(text)
    except ValueError:
        raise UserError(f"{text[:80]!r} is not a {'whole number' if kind == 'int' else 'number'}") from None
