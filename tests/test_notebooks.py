"""The notebooks run from top to bottom, as they ship, and show what they promise."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted(Path("notebooks").glob("*.ipynb"))


def executed(path: Path, source=lambda text: text):
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.source = source(cell.source)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": "notebooks"}}
    ).execute()
    return notebook


def outputs(notebook) -> str:
    return "\n".join(str(cell.get("outputs", "")) for cell in notebook.cells)


def test_there_are_notebooks():
    assert [path.name for path in NOTEBOOKS] == [
        "01_quickstart.ipynb",
        "02_fit_and_doubt.ipynb",
        "03_the_paper_redone.ipynb",
        "04_decide.ipynb",
        "05_your_own_logs.ipynb",
    ]


@pytest.mark.filterwarnings("default")  # the kernel's client, not ours, warns about event loops
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path):
    text = outputs(executed(path))
    assert "image/png" in text
    assert "'output_type': 'error'" not in text


@pytest.mark.filterwarnings("default")
def test_the_quickstart_shows_two_fitted_runs_and_does_not_test_one_seed():
    text = outputs(executed(NOTEBOOKS[0]))
    for promised in ("scalerl", "grpo", "C_mid", "not tested"):
        assert promised in text


@pytest.mark.filterwarnings("default")
def test_the_second_notebook_doubts_an_early_ceiling_and_believes_a_late_one():
    notebook = executed(NOTEBOOKS[1])
    text = outputs(notebook)
    for promised in (
        "not identified: the run may end before 2 C_mid",
        "one seed: the interval holds no variance between seeds",
        "the data do not tell their ceilings apart",
        "A by the start of the window",
        "never",
        "free parameters",
    ):
        assert promised in text
    usable = "".join(
        next(o for c in notebook.cells for o in c.get("outputs", []) if "usable" in str(o))["data"]["text/html"]
    )
    assert [usable.count(f"<td>{word}</td>") for word in ("no", "yes")] == [3, 3]
    assert "same limits: True" in text and "same band:   True" in text
    assert text.count("image/png") >= 4


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_ship_without_paths_of_a_machine(path):
    shown = outputs(nbformat.read(path, as_version=4))
    assert not [word for word in (str(Path.cwd()), str(Path.home()) + "/", "/tmp/", "site-packages") if word in shown]  # noqa: S108


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_ship_with_outputs_and_without_errors(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert not [o for cell in code for o in cell.outputs if o.output_type == "error" or o.get("name") == "stderr"]


@pytest.mark.filterwarnings("default")
def test_the_fifth_notebook_compares_three_programs_and_shows_no_path_of_a_machine():
    shipped = outputs(nbformat.read(NOTEBOOKS[4], as_version=4))
    for promised in ("trainer-state", "verl-console", "wandb", "work were taken back", "as the log says", "--devices"):
        assert promised in shipped
    assert "/home/" not in shipped and str(Path.cwd()) not in shipped
