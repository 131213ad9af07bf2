"""The notebooks run from top to bottom, show what they promise, and ship with what they show.

Each is executed once, by one test; notebook 06 by `tests/test_paper_redone.py`, which looks into its figures, too.
"""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from benchmarks import notebooks

pytestmark = pytest.mark.slow
NOTEBOOKS = {path.stem: path for path in sorted(Path("notebooks").glob("*.ipynb"))}
PROMISED = {
    "01_quickstart": ("scalerl", "grpo", "C_mid", "not tested"),
    "02_what_can_the_data_say": (
        "not identified: the run may end before 2 C_mid",
        "one seed: the interval holds no variance between seeds",
        "the data do not tell their ceilings apart",
        "A by the start of the window",
        "A by the end of the window",
        "never",
        "free parameters",
        "same limits: True",
        "same band:   True",
    ),
    "03_which_recipe": ("ahead for good", "P(best)", "calibrated: no", "% of the prompts of an update teach"),
    "04_decide": ("calibrated", "reach", "the next doubling gains", "P(best)"),
    "05_your_own_logs": (
        "trainer-state",
        "verl-console",
        "wandb",
        "work were taken back",
        "as the log says",
        "--devices",
    ),
    "07_inside_the_trainer": ("'k = 8': 40, 'k = 0': 40", "lag_max", "interrupted_share", "evaluate_s", "truncation"),
}
PICTURES = {
    "01_quickstart": 1,
    "02_what_can_the_data_say": 3,
    "03_which_recipe": 3,
    "04_decide": 5,
    "05_your_own_logs": 2,
}


def shown(notebook) -> str:
    return "\n".join(text for cell in notebooks.code_cells(notebook) for _, text in notebooks.outputs(cell))


def test_the_set_is_whole_and_numbered():
    names = [*PROMISED, "06_the_paper_redone"]
    assert list(NOTEBOOKS) == sorted(names)


@pytest.mark.parametrize("name", PROMISED)
def test_a_notebook_runs_and_shows_what_it_promises_and_what_it_ships(name):
    path = NOTEBOOKS[name]
    fresh = notebooks.executed(path)
    stale = list(notebooks.differences(nbformat.read(path, as_version=4), fresh))
    how = f"{path} ships other outputs than it gives; look at them, then: {notebooks.REFRESH} {name[:2]}"
    assert not stale, "\n".join([how, *stale])
    text = shown(fresh)
    assert not [words for words in PROMISED[name] if words not in text]
    kinds = [kind for cell in notebooks.code_cells(fresh) for kind, _ in notebooks.outputs(cell)]
    assert not {"error", "stderr"} & set(kinds) and kinds.count("image/png") >= PICTURES.get(name, 8)


@pytest.mark.parametrize("path", NOTEBOOKS.values(), ids=NOTEBOOKS)
def test_a_notebook_ships_whole_and_without_paths_of_a_machine(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = notebooks.code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [o for cell in cells for o in cell.outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert not [cell for cell in cells if "execution" in cell.metadata] and "widgets" not in notebook.metadata
    text = shown(notebook)
    assert not [word for word in (str(Path.cwd()), str(Path.home()) + "/", "/tmp/", "site-packages") if word in text]  # noqa: S108
    title, *_ = notebook.cells[0].source.splitlines()
    assert title.startswith(f"# {path.stem[:2]} ") and title.endswith("?")


def cell(source="1", *outputs, live=False):
    made = nbformat.v4.new_code_cell(source, execution_count=1, metadata={"tags": ["live"]} if live else {})
    made.outputs = [nbformat.v4.new_output("stream", text=text) for text in outputs]
    return made


def told(one, other, **options):
    before, after = (nbformat.v4.new_notebook(cells=[cell("x", text, **options)]) for text in (one, other))
    return list(notebooks.differences(before, after))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("A 0.647 (0.640 - 0.654)", "A  0.648 (0.640 - 0.654)", True),  # one unit of the last digit, another blank
        ("A 0.647", "A 0.655", False),
        ("C_mid 10357", "C_mid 10440", True),  # within 1 %
        ("C_mid 10357", "C_mid 10500", False),
        ("33 evaluations", "32 evaluations", False),
        ("+0.0043", "-0.0043", False),
        ("1.06e+04", "1.07e+04", True),
        ("A identified", "A not identified", False),
        ("python 3.11.7, numpy 2.4.6", "python 3.12.1, numpy 2.5.0", True),
    ],
)
def test_which_texts_are_the_same(one, other, same):
    assert (not told(one, other)) is same
    assert not told(one, other, live=True)


def test_kinds_of_output_count_even_where_text_does_not():
    before = nbformat.v4.new_notebook(cells=[cell("x", "text", live=True)])
    after = nbformat.v4.new_notebook(cells=[cell("x", live=True)])
    assert notebooks.differences(before, after).__next__() == "cell 1 (x): shows [], ships ['stdout']"


def test_which_pictures_are_the_same():
    import base64

    from analysis.plots.output import new_axes

    def picture(end, width=4.0):
        import io

        file, ax = io.BytesIO(), new_axes(width, 3.0)
        ax.bar([0, 1], [1.0, end])
        ax.figure.savefig(file)
        return base64.b64encode(file.getvalue()).decode()

    assert not notebooks.pictures_differ(picture(0.5), picture(0.502))
    assert "another one" in notebooks.pictures_differ(picture(0.5), picture(0.9))
    assert "pixels" in notebooks.pictures_differ(picture(0.5), picture(0.5, width=5.0))
