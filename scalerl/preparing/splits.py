"""Which prompt goes into which split: a function of the prompts alone, and near duplicates stay together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scalerl.preparing.readers import DataError

HELD_OUT_AT_MOST = 1000


def split_groups(
    ranks: Sequence[bytes],
    groups: NDArray[np.int64],
    *,
    sizes: tuple[int, int, int] | None = None,
    shares: tuple[float, float] | None = None,
) -> dict[str, list[int]]:
    """Return the prompts of each split, in the order of their ranks; those that no split takes are in none.

    Parameters
    ----------
    ranks : sequence of bytes
        A hash of each prompt. A group has the least rank of its prompts.
    groups : (N,) array
        The group of each prompt; a group is never divided.
    sizes : prompts of train, eval and test, optional
        Exact; 0 for train means all that is left. Without sizes and shares eval and test get a tenth of the prompts
        each, 1,000 at most.
    shares : shares of eval and test, optional
        Near these; a prompt stays in its split when others are added.

    Raises
    ------
    DataError
        If there are not so many prompts, or groups do not add up to such sizes.
    """
    members: dict[int, list[int]] = {}
    for prompt in sorted(range(len(ranks)), key=ranks.__getitem__):
        members.setdefault(int(groups[prompt]), []).append(prompt)
    in_order = list(members.values())  # by the least rank of each
    if shares is not None:
        splits = _by_share(in_order, ranks, shares)
    else:
        held_out = min(HELD_OUT_AT_MOST, len(ranks) // 10)
        splits = _by_size(in_order, len(ranks), sizes or (0, held_out, held_out))
    empty = [name for name, prompts in splits.items() if not prompts]
    if empty:
        raise DataError(
            f"{' and '.join(empty)} would be empty: {len(ranks)} prompts are left, in {len(in_order)} groups of near "
            f"duplicates, the largest of {max(map(len, in_order), default=0)}; set --sizes or --shares"
        )
    return {name: sorted(prompts, key=ranks.__getitem__) for name, prompts in splits.items()}


def _by_share(in_order: list[list[int]], ranks: Sequence[bytes], shares: tuple[float, float]) -> dict[str, list[int]]:
    splits: dict[str, list[int]] = {"train": [], "eval": [], "test": []}
    for members in in_order:
        place = int.from_bytes(ranks[members[0]][:8], "big") / 2**64
        name = "eval" if place < shares[0] else "test" if place < sum(shares) else "train"
        splits[name] += members
    return splits


def _by_size(in_order: list[list[int]], count: int, sizes: tuple[int, int, int]) -> dict[str, list[int]]:
    train, evaluation, test = sizes
    if train + evaluation + test > count:
        raise DataError(f"--sizes: {train} + {evaluation} + {test} prompts are asked for and {count} are left")
    splits: dict[str, list[int]] = {}
    rest = in_order
    for name, size in (("test", test), ("eval", evaluation), ("train", train or None)):
        taken: list[int] = []
        passed: list[list[int]] = []
        for members in rest:
            if size is None or len(taken) + len(members) <= size:
                taken += members
            else:
                passed.append(members)
        if size is not None and len(taken) < size:
            raise DataError(
                f"--sizes: {size} prompts for {name} cannot be had without dividing a group of near duplicates (the "
                f"largest has {max(map(len, in_order))}); ask for {len(taken)}, or look at near_groups by a higher "
                "--near-duplicates"
            )
        splits[name], rest = taken, passed
    return {name: splits[name] for name in ("train", "eval", "test")}
