"""The whole way from raw rows to train.json, eval.json, test.json and report.json.

Promises: every row that was read is in a split or in the report with its place and the reason; the splits do not
depend on the order of the rows; the same call writes the same bytes; nothing is written over, and the output folder
appears whole or not at all. Rows wait in a file beside the output, so that long solutions take no memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scalerl.data import for_reward, hash_items
from scalerl.preparing.budgets import CHARACTERS_A_TOKEN, over_budget, token_counter
from scalerl.preparing.columns import Columns, RowError, prompt_of, to_item
from scalerl.preparing.contamination import find_hits
from scalerl.preparing.duplicates import Shingles, components, near_pairs
from scalerl.preparing.readers import DataError, Source, find_sources, read_rows
from scalerl.preparing.report import Report
from scalerl.preparing.splits import split_groups
from scalerl.preparing.text import digest, normalise, tokenise
from scalerl.tasks import Item

_COUNTED_AT_ONCE = 1000


class Options(NamedTuple):
    """What `prepare_rows` is asked for; the command line has a flag for each."""

    inputs: tuple[str, ...]
    seed: int = 0
    split: str | None = None
    columns: Columns = Columns()
    model: str | None = None
    prompt_tokens: int = 2048
    sizes: tuple[int, int, int] | None = None
    shares: tuple[float, float] | None = None
    near: float | None = 0.8
    """Jaccard similarity from which prompts are near duplicates; None: not looked for."""
    decontaminate: tuple[str, ...] = ()


@dataclass(slots=True)
class Kept:
    """A usable row: where it came from, where its JSON waits, and what it is compared by."""

    place: str
    offset: int
    length: int
    prompt: str
    """Normalised."""
    answer: str
    """Without spaces, dollar signs, boxes and case."""
    fields: int
    content: bytes
    """Hash of the whole item."""


def prepare_rows(options: Options, output: str) -> Report:
    """Write train.json, eval.json, test.json and report.json into a new folder.

    Raises
    ------
    UserError
        If the output exists, a file cannot be read, an option makes no sense, or too few rows are usable.
    """
    _check(options)
    folder = Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: exists already; choose another --output or move it away")
    sources, passed_over = find_sources(options.inputs, options.split)
    tests = [find_sources([file], None)[0] for file in options.decontaminate]
    report = Report(_told(options), passed_over)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as name:
            part = Path(name) / "whole"
            part.mkdir()
            with (Path(name) / "rows").open("w+b") as spool:
                rows = _read(sources, options, spool, report)
                rows = _without_duplicates(rows, report)
                splits = _splits(rows, tests, options, report)
                for split, chosen in splits.items():
                    _write(part / f"{split}.json", chosen, spool, report)
            report.write(part / "report.json")
            if folder.exists():
                folder.rmdir()  # empty, see above
            part.rename(folder)
    except OSError as error:
        raise DataError(f"{error.filename or folder}: cannot be written: {error.strerror}") from error
    return report


def _check(options: Options) -> None:
    problems = []
    if options.prompt_tokens < 1:
        problems.append(f"--prompt-tokens {options.prompt_tokens}: at least 1")
    if options.sizes and (options.sizes[0] < 0 or min(options.sizes[1:]) < 1):
        problems.append(f"--sizes {' '.join(map(str, options.sizes))}: eval and test start at 1, train at 0 (the rest)")
    if options.sizes and options.shares:
        problems.append("--sizes and --shares: one of them")
    if options.shares and not (min(options.shares) > 0 and sum(options.shares) < 1):
        problems.append(f"--shares {' '.join(map(str, options.shares))}: each above 0, their sum below 1")
    if options.near is not None and not 0.7 <= options.near <= 1:
        problems.append(f"--near-duplicates {options.near}: between .7 and 1, or off")
    if options.seed >= 2**64:
        problems.append(f"--seed {options.seed}: at most {2**64 - 1}")
    if problems:
        raise DataError("\n".join(problems))


def _told(options: Options) -> dict[str, Any]:
    told = {key: value for key, value in options._asdict().items() if value not in (None, ())}
    return {**told, "columns": {key: value for key, value in options.columns._asdict().items() if value}}


def _read(sources: Sequence[Source], options: Options, spool: BinaryIO, report: Report) -> list[Kept]:
    """Read all rows; clean ones go to `spool` as JSON."""
    kept: list[Kept] = []
    count = token_counter(options.model) if options.model else None
    waiting: list[tuple[str, dict[str, Any]]] = []

    def pass_on() -> None:
        prompts = [item["prompt"] for _, item in waiting]
        if count:
            over = over_budget(prompts, options.prompt_tokens, count)
        else:
            most = options.prompt_tokens * CHARACTERS_A_TOKEN
            over = {index: len(prompt) for index, prompt in enumerate(prompts) if len(prompt) > most}
        for index, (place, item) in enumerate(waiting):
            if index in over:
                report.reject(place, "over_budget", detail=f"{over[index]} {'tokens' if count else 'characters'}")
            else:
                kept.append(_spooled(place, item, spool))
        waiting.clear()

    for source in sources:
        read = 0
        for row in read_rows(source):
            read += 1
            place = f"{source.path}:{row.number}"
            try:
                if row.problem:
                    raise RowError(row.problem)
                report.see(row.value)
                waiting.append((place, to_item(row.value, options.columns, report.columns_left_out)))
            except RowError as reason:
                report.reject(place, str(reason))
            if len(waiting) >= _COUNTED_AT_ONCE:
                pass_on()
        report.files[str(source.path)] = read
    pass_on()
    if not kept:
        raise DataError(f"{', '.join(options.inputs)}: no row is usable{report.reasons_and_columns()}")
    return kept


def _spooled(place: str, item: dict[str, Any], spool: BinaryIO) -> Kept:
    content = json.dumps(item, ensure_ascii=False, allow_nan=False).encode()
    offset = spool.tell()
    spool.write(content)
    return Kept(
        place,
        offset,
        len(content),
        normalise(item["prompt"]),
        plain_answer(item["answer"]),
        len(item),
        hashlib.blake2b(content, digest_size=16).digest(),
    )


def plain_answer(answer: str) -> str:
    """Return an answer as it is compared among rows with one prompt; which answers are equal is the reward's matter.

    Examples
    --------
    >>> plain_answer(" $\\\\boxed{ 1/2 }$. ")
    '1/2'
    """
    plain = "".join(normalise(answer).split()).replace("$", "").rstrip(".")
    while plain.startswith("\\boxed{") and plain.endswith("}"):
        plain = plain[len("\\boxed{") : -1]
    return plain


def _without_duplicates(rows: list[Kept], report: Report) -> list[Kept]:
    """Return one row for each prompt, in the order of the prompts' hashes; none where the answers differ."""
    groups: dict[str, list[Kept]] = {}
    for row in rows:
        groups.setdefault(row.prompt, []).append(row)
    kept: list[tuple[bytes, Kept]] = []
    for prompt, group in groups.items():
        if len({row.answer for row in group}) > 1:
            for row, other in zip(group, group[1:] + group[:1], strict=True):
                report.reject(row.place, "conflicting_answers", of=other.place)
            continue
        best = min(group, key=_preference)
        kept.append((digest(prompt), best))
        for row in group:
            if row is not best:
                report.reject(row.place, "duplicate", of=best.place)
    return [row for _, row in sorted(kept, key=lambda pair: pair[0])]


def _preference(row: Kept) -> tuple[int, bytes, str]:
    """Order rows of one problem: the fullest first, then by content; the place decides between equal rows only."""
    return -row.fields, row.content, row.place


def _splits(
    rows: list[Kept], tests: Sequence[Sequence[Source]], options: Options, report: Report
) -> dict[str, list[Kept]]:
    """Take out what is contaminated and nearly there twice, and split the rest."""
    tokens = tokenise(row.prompt for row in rows)
    pairs = np.empty((0, 2), np.int64)
    near = None
    if options.near is not None:
        shingles = Shingles(tokens)
        near = shingles, shingles.signatures(), options.near
        pairs = near_pairs(*near)
    out = np.zeros(len(rows), bool)
    for sources in tests:
        places, prompts = _test_prompts(sources, options, report)
        hits, ignored = find_hits([row.prompt for row in rows], tokens, near, prompts)
        for hit in hits:
            if not out[hit.row]:
                report.reject(rows[hit.row].place, "contaminated", of=places[hit.test], how=hit.kind, detail=hit.detail)
            out[hit.row] = True
        name = str(sources[0].path) if len(sources) == 1 else str(sources[0].path.parent)
        report.tested(name, len(prompts), hits, ignored)
    for index, best in _near_twins(rows, pairs[~out[pairs].any(axis=1)]):
        report.reject(rows[index].place, "near_duplicate", of=rows[best].place)
        out[index] = True
    groups = components(len(rows), pairs)  # those that were taken out still hold their neighbours together
    left = np.flatnonzero(~out)
    report.groups(np.bincount(groups[left]) if len(left) else np.zeros(0, np.int64))
    ranks = [digest(rows[index].prompt, options.seed) for index in left]
    splits = split_groups(ranks, groups[left], sizes=options.sizes, shares=options.shares)
    chosen = {name: [rows[left[index]] for index in indices] for name, indices in splits.items()}
    drawn = {row.place for split in chosen.values() for row in split}
    for index in left.tolist():
        if rows[index].place not in drawn:
            report.reject(rows[index].place, "not_drawn")
    return chosen


def _test_prompts(sources: Sequence[Source], options: Options, report: Report) -> tuple[list[str], list[str]]:
    """Return places and prompts of test files; their answers are not needed."""
    places, prompts = [], []
    for source in sources:
        for row in read_rows(source):
            place = f"{source.path}:{row.number}"
            try:
                if row.problem:
                    raise RowError(row.problem)
                prompt = prompt_of(row.value, options.columns)
            except RowError as reason:
                report.unread_tests.append({"row": place, "reason": str(reason)})
                continue
            places.append(place)
            prompts.append(prompt)
    if not prompts:
        raise DataError(f"{', '.join(str(s.path) for s in sources)}: --decontaminate finds no prompt in it")
    return places, prompts


def _write(path: Path, rows: Sequence[Kept], spool: BinaryIO, report: Report) -> None:
    """Write a JSON list with one item a line."""
    hashed: list[Item] = []  # without demonstrations, which are long and do not count
    with path.open("wb") as file:
        for number, row in enumerate(rows):
            spool.seek(row.offset)
            content = spool.read(row.length)
            hashed.append(for_reward(json.loads(content)))
            file.write((b",\n" if number else b"[\n") + content)
        file.write(b"\n]\n")
        file.flush()
        os.fsync(file.fileno())
    report.splits[path.stem] = {"prompts": len(rows), "sha256": hash_items(hashed)}


def _near_twins(rows: list[Kept], pairs: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield (row, the row that stays) for near duplicates with the same numbers and the same answer.

    With other numbers it is another problem, however alike the words: it stays, and in the same split.
    """
    same = [rows[i].answer == rows[j].answer and _numbers(rows[i]) == _numbers(rows[j]) for i, j in pairs.tolist()]
    groups = components(len(rows), pairs[np.array(same, bool)])
    members: dict[int, list[int]] = {}
    for index in np.flatnonzero(np.bincount(groups)[groups] > 1).tolist():
        members.setdefault(int(groups[index]), []).append(index)
    for group in members.values():
        best = min(group, key=lambda index: _preference(rows[index]))
        yield from ((index, best) for index in group if index != best)


def _numbers(row: Kept) -> list[str]:
    return re.findall(r"\d+", row.prompt)
