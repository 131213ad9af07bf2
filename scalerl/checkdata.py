"""Look at a data file before anything is trained: prompts as the model sees them, their lengths, and the scores.

Every reference answer is scored as a completion would be, and so is a wrong one: a reward that does not know its own
answers, or that takes any, is found before the first GPU-hour.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np

from scalerl.config import ScaleRLConfig
from scalerl.data import for_reward, load_data
from scalerl.policy import Policy
from scalerl.rewards import Failed, code, make_scorer
from scalerl.scoring import scored_by
from scalerl.tasks import Item, completion_of, thinking_of

QUANTILES = (0.0, 0.5, 0.9, 0.99, 1.0)
FIRST_NAMED = 3


class Checked(NamedTuple):
    """What was found in a data file; `to_dict` is the JSON shape."""

    file: str
    scored_by: str
    """What scored the answers, in words."""
    items: int
    sha256: str
    rendered: list[dict[str, Any]]
    """Of the first prompts: text, tokens, what stands for the reference answer, and its score."""
    tokens: dict[str, int] | None
    """Quantiles of the prompts' lengths; None without a model."""
    over: int
    """Prompts over `prompt_tokens`."""
    unread: int
    """Prompts with text that the tokenizer does not know, or empty ones."""
    unscored: list[int]
    """Items whose reference answer is not scored as right, or of code without a program whose tests cannot be read."""
    without_program: int
    """Items of code whose tests were read and not run, for they bring no program that must pass."""
    taken: list[int]
    """Items for which the answer of another item is scored as right, too."""
    failed: Failed
    """Scores of reference answers that failed: an error of the reward, a limit, no number."""
    failed_wrong: Failed
    """The same of wrong answers."""
    prompt_tokens: int

    @property
    def usable(self) -> bool:
        """Whether every reference answer is right, no wrong one is, and some prompts fit."""
        return not self.unscored and not self.taken and not self.unread and self.over < self.items

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON shape."""
        found = self._asdict()
        failed, failed_wrong = found.pop("failed"), found.pop("failed_wrong")
        errors = {"reward_errors": failed.errors, "reward_errors_wrong": failed_wrong.errors}
        first = failed.first or failed_wrong.first
        return {"schema": "check-data/1", "usable": self.usable, **found, **errors, "reward_error": first}

    def __str__(self) -> str:
        """Return the lines to print."""
        lines = [f"{self.file}: {self.items} items, sha256 {self.sha256[:12]}", f"scored by       {self.scored_by}"]
        for one in self.rendered:
            lines.append(f"  item {one['item']}" + (f", {one['tokens']} tokens" if one["tokens"] is not None else ""))
            lines += [f"    | {line}" for line in one["prompt"].splitlines() or [""]]
            if one["reference"] is None:
                lines.append(f"    no reference program: tests {'can' if one['right'] else 'CANNOT'} be read")
            else:
                lines.append(f"    reference {one['reference']!r}: {'right' if one['right'] else 'NOT RIGHT'}")
        if self.tokens is None:
            lines.append("prompt tokens   not known without --model")
        else:
            told = ", ".join(f"{name} {count}" for name, count in self.tokens.items())
            lines.append(f"prompt tokens   {told}; {self.over} over prompt_tokens {self.prompt_tokens}")
            lines.append(
                f"unread          {self.unread} prompts are empty or hold text that the tokenizer does not know"
            )
        read = f", {self.without_program} by tests that can be read, not run" if self.without_program else ""
        right = self.items - len(self.unscored)
        lines.append(f"reference       {right} of {self.items} right{read}{_which(self.unscored)}")
        lines.append(f"wrong answers   {len(self.taken)} of {self.items} taken for right{_which(self.taken)}")
        if self.failed.errors or self.failed_wrong.errors:
            name, failed = ("reference", self.failed) if self.failed.errors else ("wrong", self.failed_wrong)
            lines.append(f"reward          of the {name} answers {failed}")
        return "\n".join(lines)


def check_data(path: str, config: ScaleRLConfig, policy: Policy | None, *, show: int = 5) -> Checked:
    """Check a data file with the reward of a configuration, and with a tokenizer if there is one.

    Raises
    ------
    UserError
        If the file cannot be read or the task is not known.
    """
    data = load_data(path)
    policy = None if policy is None else policy.formatted(config.prompt_format, config.system_prompt)
    encoded = None if policy is None else [policy.encode_item(item) for item in data.items]
    mark = thinking_of(config).end_of_thinking
    references = [reference(item, config, mark) for item in data.items]
    with closing(make_scorer(config)) as scorer:
        items = [for_reward(item) for item in data.items]
        pairs = [(item, text) for item, text in zip(items, references, strict=True) if text is not None]
        scores = scorer.score(pairs)
        wrong = scorer.score(list(zip(items, _wrong(data.items, references), strict=True)))
    scored = iter(scores)
    right = [
        _has_tests(item) if text is None else next(scored).right
        for item, text in zip(data.items, references, strict=True)
    ]
    rendered = [
        {
            "item": index,
            "prompt": item["prompt"] if policy is None or encoded is None else policy.decode(encoded[index]),
            "tokens": None if encoded is None else len(encoded[index]),
            "reference": references[index],
            "right": right[index],
        }
        for index, item in enumerate(data.items[:show])
    ]
    lengths = [] if encoded is None else [len(tokens) for tokens in encoded]
    unknown = None if policy is None else policy.unknown_id
    return Checked(
        file=path,
        scored_by=scored_by(config),
        items=len(data.items),
        sha256=data.sha256,
        rendered=rendered,
        tokens=_quantiles(lengths) if lengths else None,
        over=sum(length > config.prompt_tokens for length in lengths),
        unread=sum(not ids or (unknown is not None and unknown in ids) for ids in encoded or []),
        without_program=sum(text is None for text in references),
        unscored=[index for index, good in enumerate(right) if not good],
        taken=[index for index, score in enumerate(wrong) if score.right],
        failed=Failed.among(scores),
        failed_wrong=Failed.among(wrong),
        prompt_tokens=config.prompt_tokens,
    )


def reference(item: Item, config: ScaleRLConfig, mark: str) -> str | None:
    """Return a completion that must be right: thinking and solution where the item has them, else the answer.

    Of code it must hold a program; None where neither does.
    """
    found = [text for text in (completion_of(item, mark), str(item["answer"])) if text is not None]
    if config.reward == "code":
        found = [text for text in found if code.last_block(text) is not None]
    return found[0] if found else None


def _has_tests(item: Item) -> bool:
    try:
        code.read_tests(item.get("tests"))
    except ValueError:
        return False
    return True


def _wrong(items: Sequence[Item], references: Sequence[str | None]) -> list[str]:
    """Return, for each item, the reference of the next one with another answer; with one answer for all, nothing."""
    count = len(items)
    other: list[int | None] = [None] * (count + 1)
    for index in reversed(range(2 * count)):  # round twice: the first one's neighbour may stand before it
        here, after = index % count, (index + 1) % count
        other[here] = after if items[after]["answer"] != items[here]["answer"] else other[after]
    return ["" if after is None else references[after] or "" for after in other[:count]]


def _quantiles(lengths: Sequence[int]) -> dict[str, int]:
    names = ("least", "median", "90 %", "99 %", "most")
    found = np.quantile(lengths, QUANTILES, method="higher")
    return {name: int(value) for name, value in zip(names, found, strict=True)}


def _which(indices: Sequence[int]) -> str:
    if not indices:
        return ""
    more = ", ..." if len(indices) > FIRST_NAMED else ""
    return f": item {', '.join(map(str, indices[:FIRST_NAMED]))}{more}"
