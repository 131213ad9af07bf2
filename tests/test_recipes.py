"""The recipes: what each changes and nothing else, what the page says of them, and how much code the core is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from benchmarks.count_lines import LIMIT, NOT_CORE, code_lines, count
from scalerl.cli import main
from scalerl.config import RECIPES, ScaleRLConfig, load_config, recipes
from scalerl.runlog import STEP_FIELDS

SIZES = ("demo",)
PAGE = Path("docs/recipes.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### (\S+)\n(.*?)(?=^#)", PAGE, flags=re.MULTILINE | re.DOTALL))
AXES = re.search(r"^## Axes\n(.*?)(?=^## )", PAGE, flags=re.MULTILINE | re.DOTALL)
NAMES = [name for name in recipes() if name not in SIZES]

# What the paper's Figure 7 leaves out, in the words of the configuration.
LEAVE_ONE_OUT = {
    "scalerl-prompt-advantages": {"advantage_normalization": "prompt"},
    "scalerl-length-penalty": {"length_control": "penalty"},
    "scalerl-no-filter": {"zero_variance_filtering": False},
    "scalerl-ppo-off-policy-8": {"off_policy": "ppo"},
    "scalerl-no-fp32-head": {"use_fp32_lm_head": False},
    "scalerl-sample-average": {"aggregation": "sample"},
    "scalerl-uniform-sampling": {"no_positive_resampling": False},
    "scalerl-dapo-loss": {"loss": "clipped", "epsilon_high": 0.26},
}
# Figure 2, as far as the paper states it.
FIGURE_2 = {
    "scalerl": {
        "off_policy": "pipeline", "off_policy_steps": 8, "loss": "cispo", "aggregation": "prompt",
        "advantage_normalization": "batch", "zero_variance_filtering": True, "no_positive_resampling": True,
        "resampling_threshold": 0.9, "length_control": "interruption", "use_fp32_lm_head": True,
    },
    "grpo": {
        "off_policy": "ppo", "off_policy_steps": 8, "loss": "clipped", "epsilon_low": 0.2, "epsilon_high": 0.2,
        "aggregation": "sample",
    },
    "dapo": {
        "off_policy": "ppo", "off_policy_steps": 8, "loss": "clipped", "epsilon_low": 0.2, "epsilon_high": 0.26,
        "aggregation": "prompt",
    },
    "magistral": {
        "off_policy": "pipeline", "loss": "clipped", "epsilon_low": 0.2, "epsilon_high": 0.26, "aggregation": "prompt",
    },
    "minimax": {
        "off_policy": "ppo", "loss": "cispo", "aggregation": "prompt", "zero_variance_filtering": True,
        "use_fp32_lm_head": True,
    },
}  # fmt: skip


def written(name):
    """The fields that the file of a recipe holds."""
    return yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))


def differences(config, other):
    return {
        name: getattr(config, name)
        for name in ScaleRLConfig.model_fields
        if getattr(config, name) != getattr(other, name)
    }


def test_the_paper_has_these_recipes():
    assert set(NAMES) == set(FIGURE_2) | set(LEAVE_ONE_OUT)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_loads_alone_and_at_every_size_under_the_name_of_its_file(name):
    assert load_config([name]).recipe == name
    for size in SIZES:
        assert load_config([name, size]) == load_config([size, name])


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_sets_no_field_that_a_size_sets_and_none_to_what_it_is_anyway(name):
    fields = written(name)
    assert not set(fields) & {field for size in SIZES for field in written(size)}
    assert not set(fields) & {"batch_size", "max_length", "model_name", "task", "seed", "device", "dtype"}
    changed = differences(load_config([name]), ScaleRLConfig())
    assert set(changed) | {"recipe"} == set(fields)


@pytest.mark.parametrize(("name", "fields"), LEAVE_ONE_OUT.items())
def test_each_leave_one_out_recipe_differs_from_scalerl_in_its_axis_alone(name, fields):
    assert differences(load_config([name]), load_config(["scalerl"])) == {"recipe": name, **fields}


@pytest.mark.parametrize(("name", "fields"), FIGURE_2.items())
def test_the_recipes_of_figure_2_are_as_the_paper_states_them(name, fields):
    config = load_config([name])
    assert {field: getattr(config, field) for field in fields} == fields
    stated = set(fields)
    assumed = [field for field in written(name) if field not in stated | {"recipe"}]
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    for field in assumed:
        line = next(line for line in text.splitlines() if line.startswith(f"{field}:"))
        assert "(ours)" in line, f"{field} is not stated by the paper"


def test_magistral_is_dapo_with_pipelinerl():
    assert differences(load_config(["magistral"]), load_config(["dapo"])) == {
        "recipe": "magistral",
        "off_policy": "pipeline",
    }


def test_the_command_line_lists_every_recipe_with_its_first_comment(capsys):
    assert main(["recipes"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert set(lines) == set(NAMES) | set(SIZES)
    for name, about in lines.items():
        first = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
        assert first == f"# {about}" and len(about) > 20


# The page ----------------------------------------------------------------------------------------------------------


def test_the_page_has_a_section_for_every_recipe():
    assert set(SECTIONS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_section_says_what_the_file_changes_and_how_to_run_it(name):
    section = SECTIONS[name]
    (changes,) = re.findall(r"^Changes: (.*?)\.$", section, flags=re.MULTILINE)
    said = yaml.safe_load("\n".join(re.findall(r"`([^`]+)`", changes))) or {}
    assert {"recipe": name, **said} == written(name)
    assert re.search(r"The paper: A \.\d+.*B \d\.\d+", section), "what the paper found"
    assert re.search(r"\((Figure|Table) \d", section), "where it stands"
    demo, paper = (line for line in section.splitlines() if line.startswith("    scalerl train"))
    for command in (demo, paper):
        options = command.split()
        assert options[options.index("--config") + 1] == name and f"--output-dir runs/{name}" in command
        sources = [options[i + 1] for i, option in enumerate(options) if option == "--config"]
        settings = [options[i + 1] for i, option in enumerate(options) if option == "--set"]
        config = load_config(sources, settings)
        config.trainable()
        size = 512 if command is demo else {"dapo": 1280, "minimax": 1280}.get(name, 768)
        assert config.batch_size == size


def test_every_field_and_counter_of_the_table_exists_and_no_changed_field_is_missing():
    assert AXES is not None
    rows = [line.strip("|").split("|") for line in AXES[1].splitlines() if line.startswith("| ")][1:]
    fields = {field for row in rows for field in re.findall(r"`(\w+)`", row[1])}
    counters = {counter for row in rows for counter in re.findall(r"`(\w+)`", row[3])} - {"reinforce"}
    assert len(rows) >= 15
    assert fields <= set(ScaleRLConfig.model_fields)
    assert counters <= set(STEP_FIELDS)
    assert fields >= {field for name in NAMES for field in written(name)} - {"recipe"}
    for row in rows:  # values that are words are values the field takes
        (first, *_) = re.findall(r"`(\w+)`", row[1])
        choices = getattr(ScaleRLConfig.model_fields[first].annotation, "__args__", ())
        words = [choice for choice in choices if isinstance(choice, str)]
        if words:
            assert re.findall(r"`(\w+)`", row[2])[: len(words)] == words


def test_every_word_in_code_on_the_page_is_known():
    log = Path("docs/log-format.md").read_text(encoding="utf-8")
    known = set(ScaleRLConfig.model_fields) | set(STEP_FIELDS) | set(NAMES) | set(re.findall(r"`(\w+)`", log))
    for word in re.findall(r"`([a-z]+(?:_[a-z0-9]+)+)(?::[^`]*)?`", PAGE):
        assert word in known, word


# Small -------------------------------------------------------------------------------------------------------------


def test_lines_of_code_are_counted_without_blanks_comments_and_docstrings():
    docs = '"""Module.\n\nLong.\n"""\n\n'
    code = 'import os  # one\n\n\nclass A:\n    """Doc."""\n\n    x: int = 1\n    """Told."""\n\n    # why\n'
    more = "    def f(\n        self,\n    ):\n        '''Doc.'''\n        return \"\"\"a\n\nb\"\"\"\n"
    # import; class; x; def f( / self, / ):; return over three lines (its blank one is inside the string)
    assert code_lines(docs + code + more) == 1 + 1 + 1 + 3 + 3
    assert code_lines("") == 0 and code_lines("# nothing\n\n") == 0


def test_the_core_is_all_of_the_package_but_what_is_named():
    counts = count(Path("scalerl"))
    assert {"train.py", "schedule.py", "generate.py", "start.py"} <= set(counts)
    assert not {Path(name).parts[0] for name in counts} & NOT_CORE
    everything = {str(path.relative_to("scalerl")) for path in Path("scalerl").rglob("*.py")}
    assert {Path(name).parts[0] for name in everything - set(counts)} == NOT_CORE
    assert min(counts.values()) > 0 and LIMIT == 2500
