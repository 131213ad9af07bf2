"""The guide in docs/deciding.md runs: its commands, the lines that it tells to read, and its links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import analysis as an
from scalerl.cli import main

DOCS = Path(__file__).parent.parent / "docs"
GUIDE = (DOCS / "deciding.md").read_text()
SHOWN = {
    lines[0].removeprefix("    $ scalerl "): lines[1:]
    for block in re.findall(r"(?:^    .*\n)+", GUIDE, flags=re.MULTILINE)
    if (lines := block.splitlines())[0].startswith("    $ scalerl ")
}


def test_every_verb_of_the_three_questions_is_shown():
    assert {command.split()[0] for command in SHOWN} == {"check", "compare", "forecast", "backtest", "plan", "fit"}


@pytest.mark.parametrize("command", [c for c in SHOWN if c.split()[0] not in {"plan", "backtest"}])
def test_a_command_prints_the_lines_that_the_guide_shows(command, capsys, monkeypatch):
    monkeypatch.chdir(DOCS.parent)
    assert main(command.split()) == 0
    out = capsys.readouterr().out
    said = re.sub(r"[\d.+>< -]+", " ", out)  # the words; figures may move in their last digit from machine to machine
    for line in SHOWN[command]:
        if not line.strip().endswith("..."):
            assert re.sub(r"[\d.+>< -]+", " ", line.strip()).strip() in said, line


def test_the_functions_that_it_names_are_there():
    for name in set(re.findall(r"`?an\.(\w+)", GUIDE)):
        assert hasattr(an, name), name


@pytest.mark.parametrize("page", ["deciding.md", "evidence.md", "methods.md", "six/README.md"])
def test_links_of_the_docs_lead_somewhere(page):
    file = DOCS / page
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", file.read_text()):
        assert "://" in link or (file.parent / link).exists(), link
