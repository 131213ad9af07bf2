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
    assert NOTEBOOKS[0].name == "01_quickstart.ipynb"


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


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_ship_with_outputs_and_without_errors(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert not [o for cell in code for o in cell.outputs if o.output_type == "error" or o.get("name") == "stderr"]
