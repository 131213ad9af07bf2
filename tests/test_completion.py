"""Completion: what real shells offer, once they have read what `scalerl completion` prints."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from scalerl.cli import main, make_parser
from scalerl.commands.completion import FILES, FOLDERS, SHELLS, TASKS, _actions
from scalerl.config import recipes
from scalerl.runlog import UserError
from scalerl.tasks import get_task

# What bash does when a tab is pressed behind a line: the function of the command, asked for the last word.
BASH = """source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
offer=$(complete -p scalerl | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
$offer scalerl "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
LINES = [
    ("scalerl fore", {"forecast"}),
    ("scalerl fit --meth", {"--method"}),
    ("scalerl fit --method b", {"bootstrap"}),
    ("scalerl train --config mag", {"magistral"}),
    ("scalerl train --config LIC", {"LICENSE"}),
    ("scalerl prepare --task ", set(TASKS)),
    ("scalerl fit data/ru", {"data/runs"}),
    ("scalerl train --output-dir noteb", {"notebooks"}),
    ("scalerl train --output-dir LIC", set()),
]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """A file for each shell, as a person would keep it."""
    folder = tmp_path_factory.mktemp("completion")
    with pytest.MonkeyPatch.context() as patch:
        for shell in SHELLS:
            with (folder / shell).open("w") as file:
                patch.setattr("sys.stdout", file)
                assert main(["completion", shell]) == 0
    return folder


@pytest.mark.parametrize(("line", "offered"), LINES)
def test_bash_offers(line, offered, scripts):
    command = ["bash", "--noprofile", "--norc", "-c", BASH, "bash", str(scripts / "bash"), *line.split(" ")]
    assert set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()) == offered


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
@pytest.mark.parametrize(("line", "offered"), LINES)
def test_fish_offers(line, offered, scripts):
    command = ["fish", "--no-config", "-c", f'source {scripts / "fish"}; complete -C "{line}"']
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    found = {row.split("\t")[0].rstrip("/") for row in told}
    assert found == offered or (not offered and all(Path(name).is_dir() for name in found))  # fish guesses on


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_takes_it(scripts):
    script = f'autoload -Uz compinit; compinit -D -u; eval "$(cat {scripts / "zsh"})"; print $_comps[scalerl]'
    done = subprocess.run(["zsh", "-f", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "_shtab_scalerl" and done.stderr == ""
    text = (scripts / "zsh").read_text()
    assert all(name in text for name in ("--up-to-peak", "magistral", ":_files -/", f"({' '.join(TASKS)})"))


def test_what_is_offered_is_what_there_is(scripts):
    for task in TASKS:
        assert get_task(task).name == task
    with pytest.raises(UserError) as told:
        get_task("nowhere")
    assert set(TASKS) <= {name.strip() for name in str(told.value).partition("there are")[2].split(",")}
    for shell in SHELLS:
        assert all(name in (scripts / shell).read_text() for name in recipes())


def test_every_path_is_completed_as_one():
    paths = {action.metavar for action in _actions(make_parser()) if action.type is Path}
    assert paths and paths <= FILES | FOLDERS


def test_another_shell_is_refused_with_those_there_are(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["completion", "tcsh"])
    told = capsys.readouterr().err
    assert all(shell in told for shell in SHELLS)
