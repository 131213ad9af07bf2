"""Look at a data file before anything is trained: prompts as the model sees them, their lengths, and the scores.

Every reference answer is scored as a completion would be, and so is a wrong one: a reward that does not know its own
answers, or that takes any, is found before the first GPU-hour.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np

from scalerl.config import ScaleRLConfig
from scalerl.data import load_data
from scalerl.policy import Policy
from scalerl.rewards import make_scorer
from scalerl.scoring import scored_by
from scalerl.tasks import Item

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
    """Items whose reference answer is not scored as right."""
    taken: list[int]
    """Items for which the answer of another item is scored as right, too."""
    prompt_tokens: int

    @property
    def usable(self) -> bool:
        """Whether every reference answer is right, no wrong one is, and some prompts fit."""
        return not self.unscored and not self.taken and not self.unread and self.over < self.items

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON shape."""
        return {"schema": "check-data/1", "usable": self.usable, **self._asdict()}

    def __str__(self) -> str:
        """Return the lines to print."""
        lines = [f"{self.file}: {self.items} items, sha256 {self.sha256[:12]}", f"scored by       {self.scored_by}"]
        for one in self.rendered:
            lines.append(f"  item {one['item']}" + (f", {one['tokens']} tokens" if one["tokens"] is not None else ""))
            lines += [f"    | {line}" for line in one["prompt"].splitlines() or [""]]
            lines.append(f"    reference {one['reference']!r}: {'right' if one['right'] else 'NOT RIGHT'}")
        if self.tokens is None:
            lines.append("prompt tokens   not known without --model")
        else:
            told = ", ".join(f"{name} {count}" for name, count in self.tokens.items())
            lines.append(f"prompt tokens   {told}; {self.over} over prompt_tokens {self.prompt_tokens}")
            lines.append(
                f"unread          {self.unread} prompts are empty or hold text that the tokenizer does not know"
            )
        lines.append(f"reference       {self.items - len(self.unscored)} of {self.items} right{_which(self.unscored)}")
        lines.append(f"wrong answers   {len(self.taken)} of {self.items} taken for right{_which(self.taken)}")
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
    encoded = None if policy is None else [policy.encode_prompt(item["prompt"]) for item in data.items]
    references = [reference(item) for item in data.items]
    with closing(make_scorer(config)) as scorer:
        right, wrong = (
            [score.right for score in scorer.score(list(zip(data.items, texts, strict=True)))]
            for texts in (references, _wrong(data.items, references))
        )
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
        unscored=[index for index, good in enumerate(right) if not good],
        taken=[index for index, good in enumerate(wrong) if good],
        prompt_tokens=config.prompt_tokens,
    )


def reference(item: Mapping[str, Any]) -> str:
    """Return a completion that must be right: thinking and solution where the item has them, else the answer."""
    solution = item.get("solution")
    if isinstance(solution, str) and solution:
        thinking = item.get("thinking")
        return (thinking if isinstance(thinking, str) else "") + solution
    return str(item["answer"])


def _wrong(items: Sequence[Item], references: Sequence[str]) -> Iterator[str]:
    """Yield, for each item, the reference of the next one with another answer; with one answer for all, nothing."""
    count = len(items)
    for index, item in enumerate(items):
        others = ((index + further) % count for further in range(1, count))
        yield next((references[other] for other in others if items[other]["answer"] != item["answer"]), "")


def _quantiles(lengths: Sequence[int]) -> dict[str, int]:
    names = ("least", "median", "90 %", "99 %", "most")
    found = np.quantile(lengths, QUANTILES, method="higher")
    return {name: int(value) for name, value in zip(names, found, strict=True)}


def _which(indices: Sequence[int]) -> str:
    if not indices:
        return ""
    more = ", ..." if len(indices) > FIRST_NAMED else ""
    return f": item {', '.join(map(str, indices[:FIRST_NAMED]))}{more}"
