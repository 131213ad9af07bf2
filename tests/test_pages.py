"""The pages on hardware and trouble: their figures come from the estimate, their names exist."""

from __future__ import annotations

import re
from pathlib import Path

import analysis as an
from analysis.findings import CODES
from benchmarks.hardware import tables
from scalerl.config import ScaleRLConfig
from scalerl.footprint import memory
from scalerl.outofmemory import KNOBS
from scalerl.policy import new_policy
from scalerl.runlog import COMPUTE_AXES, DOWNSTREAM_FIELDS, EVAL_FIELDS, SAMPLES_FILE, STEP_FIELDS

DOCS = Path(__file__).parent.parent / "docs"
EVENTS = {"guard", "failed", "learning_rate", "batch_size", "resume"}


def test_every_name_of_the_troubleshooting_page_is_a_field_a_figure_or_a_row_of_check():
    page = (DOCS / "troubleshooting.md").read_text()
    rows = {check.name for check in an.check(an.read("data/runs/scalerl"))[0].checks}
    figures = {*STEP_FIELDS, *EVAL_FIELDS, *COMPUTE_AXES, *DOWNSTREAM_FIELDS}
    known = {*rows, *figures, *ScaleRLConfig.model_fields, *EVENTS, *CODES, SAMPLES_FILE, "check"}
    quoted = [name for name in re.findall(r"`([^`]+)`", page) if not name.startswith("scalerl ")]
    settings = [name for name in quoted if ": " in name]
    assert {name for name in quoted if ": " not in name} - known - {"field: value"} == set()
    for setting in settings:
        if setting != "field: value":
            field, _, value = setting.partition(": ")
            kept = getattr(ScaleRLConfig(**{field: _plain(value)}), field)
            assert str(kept).lower() == value
    headings = re.findall(r"^## (.+)$", page, re.MULTILINE)
    named = re.findall(r"^\|.+\| ([A-Z][^|]+) \|$", page, re.MULTILINE)
    assert sorted(named) == sorted(headings)
    for part in page.split("\n## ")[1:]:
        assert all(mark in part for mark in ("Seen in:", "Usual remedy:", "ScaleRL's:")), part.splitlines()[0]
    table = page[: page.index("\n## ")]
    assert set(re.findall(r"`([a-z-]+)`", table.split("| row of `check` |")[1])) == rows


def _plain(value):
    return {"true": True, "false": False}.get(value, int(value) if value.isdecimal() else value)


def test_what_fits_where_is_what_the_estimate_says():
    page = (DOCS / "hardware.md").read_text().splitlines()
    for settings, *lines in tables().values():
        at = page.index(f"    {settings}") + 2  # a table stands whole, under its settings
        assert page[at : at + len(lines) + 1] == [*lines, ""]


def test_the_page_names_every_part_of_the_estimate_and_every_knob():
    page = (DOCS / "hardware.md").read_text()
    parts = memory(ScaleRLConfig(), new_policy("01", max_length=32, width=16, heads=2).model)
    assert [part.name for part in parts if part.name not in page] == []
    for phase, names in KNOBS.items():
        if phase != "set-up":
            line = next(line for line in page.splitlines() if line.startswith(f"| {phase} | `"))
            assert [name for name in names if f"`{name}" not in line] == []


def test_the_measured_table_is_within_15_percent():
    rows = re.findall(r"^\| (?:small|middle|large) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| ([\d.]+) \|$",
                      (DOCS / "hardware.md").read_text(), re.MULTILINE)  # fmt: skip
    assert len(rows) == 3
    for _, measured, estimated, ratio in rows:
        found = int(estimated.replace(",", "")) / int(measured.replace(",", ""))
        assert abs(found - float(ratio)) < 0.01
        assert 0.85 < found < 1.15
