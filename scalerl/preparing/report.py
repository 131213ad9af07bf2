"""What became of every row: counted by reason, listed by place, and told in a short table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scalerl.preparing.columns import REASONS
from scalerl.preparing.contamination import Hit

_COLUMNS_TOLD = 12


class Report:
    """Filled by the pipeline; written as report.json, without times, so that the same call writes the same bytes."""

    def __init__(self, options: dict[str, Any], passed_over: list[str]) -> None:
        self.options = options
        self.passed_over = passed_over
        self.files: dict[str, int] = {}
        """Rows read from each file."""
        self.splits: dict[str, dict[str, Any]] = {}
        self.columns: dict[str, int] = {}
        """Rows that have each column."""
        self.columns_left_out: dict[str, int] = {}
        """Cells that were left out: of a kind that JSON has not, under a taken name, or a difficulty in words."""
        self.rejected: dict[str, list[dict[str, str]]] = {}
        self.contamination: list[dict[str, Any]] = []
        self.unread_tests: list[dict[str, str]] = []
        self.near_groups = {"groups": 0, "prompts": 0, "largest": 0}

    def see(self, value: Any) -> None:
        """Count the columns of a row."""
        if isinstance(value, dict):
            for name in value:
                self.columns[name] = self.columns.get(name, 0) + 1

    def reject(self, place: str, reason: str, **more: str) -> None:
        """List a row that is in no split; `of` is the place of the row that it equals or overlaps with."""
        entry = {"row": place, **{key: text for key, text in more.items() if text}}
        self.rejected.setdefault(reason, []).append(entry)

    def tested(self, name: str, prompts: int, hits: Sequence[Hit], ignored: Sequence[tuple[str, int]]) -> None:
        """Add what one test file showed."""
        kinds = {kind: sum(hit.kind == kind for hit in hits) for kind in ("same", "near", "words", "whole")}
        ignored_runs = [{"words": words, "rows": rows} for words, rows in ignored]
        self.contamination.append(
            {"file": name, "prompts": prompts, "rows_hit": len(hits), "by": kinds, "ignored": ignored_runs}
        )

    def groups(self, sizes: NDArray[np.int64]) -> None:
        """Count groups of near duplicates from the number of prompts in each group."""
        near = sizes[sizes > 1]
        self.near_groups = {"groups": len(near), "prompts": int(near.sum()), "largest": int(near.max(initial=0))}

    def counts(self) -> dict[str, int]:
        """Return the number of rejected rows by reason, in the order of `REASONS`."""
        return {reason: len(self.rejected[reason]) for reason in REASONS if reason in self.rejected}

    def content(self) -> dict[str, Any]:
        """Return what report.json holds."""
        rejected = {reason: {"count": count, "rows": self.rejected[reason]} for reason, count in self.counts().items()}
        return {
            "options": self.options,
            "files": self.files,
            "passed_over": self.passed_over,
            "rows_read": sum(self.files.values()),
            "splits": self.splits,
            "columns": dict(sorted(self.columns.items())),
            "columns_left_out": dict(sorted(self.columns_left_out.items())),
            "near_groups": self.near_groups,
            "contamination": self.contamination,
            "unread_tests": self.unread_tests,
            "reasons": {reason: REASONS[reason] for reason in rejected},
            "rejected": rejected,
        }

    def write(self, path: Path) -> None:
        """Write report.json; half characters, which names of columns and files can hold, are written as escapes."""
        text = json.dumps(self.content(), indent=1, ensure_ascii=False, allow_nan=False)
        path.write_bytes(text.encode(errors="backslashreplace") + b"\n")

    def reasons_and_columns(self) -> str:
        """Return why no row was usable, in one line."""
        told = [
            f"{count} {reason} (first {self.rejected[reason][0]['row']})" for reason, count in self.counts().items()
        ]
        seen = ", ".join(sorted(self.columns)[:_COLUMNS_TOLD])
        hint = f"; columns: {seen}; --prompt-column and --answer-column name others" if seen else ""
        return (": " + ", ".join(told) if told else ": there are no rows") + hint

    def table(self) -> str:
        """Return a short table for the terminal."""
        lines = [f"{sum(self.files.values()):>9,} rows read from {len(self.files)} file{'s'[: len(self.files) != 1]}"]
        lines += [f"{count:>9,} {reason:<20} {REASONS[reason]}" for reason, count in self.counts().items()]
        lines += [f"{split['prompts']:>9,} {name}.json" for name, split in self.splits.items()]
        for test in self.contamination:
            lines.append(f"  {test['file']}: {test['rows_hit']:,} rows overlap with its {test['prompts']:,} prompts")
        if self.near_groups["groups"]:
            near = self.near_groups
            told = f"{near['prompts']:,} prompts in {near['groups']:,} groups, the largest of {near['largest']:,}"
            lines.append(f"  near duplicates that stay, each group in one split: {told}")
        if self.columns_left_out:
            counts = [f"{name} ({count:,})" for name, count in sorted(self.columns_left_out.items())]
            lines.append(f"  columns left out in some rows: {', '.join(counts)}")
        if self.passed_over:
            lines.append(f"  not read: {', '.join(self.passed_over)}")
        if self.unread_tests:
            first = f"the first {self.unread_tests[0]['row']}: {self.unread_tests[0]['reason']}"
            lines.append(f"  {len(self.unread_tests):,} test prompts not read, {first}")
        return "\n".join(lines)
