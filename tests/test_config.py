"""The configuration: the paper's size by default, and every mistake named with its place and the nearest name."""

from __future__ import annotations

import pytest

from scalerl.config import ConfigError, ScaleRLConfig, load_config, recipes

PAPER = {
    "max_length": 16384,
    "batch_size": 768,
    "generations_per_prompt": 16,
    "learning_rate": 5e-7,
    "epsilon_max": 4.0,
    "off_policy_steps": 8,
    "thinking_tokens": 12288,
    "solution_tokens": 2048,
    "prompt_tokens": 2048,
    "use_fp32_lm_head": True,
    "zero_variance_filtering": True,
    "no_positive_resampling": True,
}


def test_the_default_is_the_paper(tmp_path):
    config = ScaleRLConfig()
    assert {name: getattr(config, name) for name in PAPER} == PAPER
    path = tmp_path / "config.yaml"
    path.write_text("model_name: some/model\n" + "".join(f"{k}: {str(v).lower()}\n" for k, v in PAPER.items()))
    assert load_config([path]) == config.model_copy(update={"model_name": "some/model"})


def test_every_problem_is_listed_with_source_key_and_nearest_name(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("batch_sise: 512\nlearning_rate: fast\nepsilon_max: -1\n")
    with pytest.raises(ConfigError) as caught:
        load_config([path], ["max_steps=9O", "nonsense", "temperature=0"])
    lines = str(caught.value).splitlines()
    assert len(lines) == 6
    text = "\n".join(lines)
    assert f"{path}: batch_sise: there is no such field; did you mean batch_size?" in text
    assert f"{path}: learning_rate: 'fast': " in text
    assert f"{path}: epsilon_max: -1: input should be greater than 0" in text
    assert "--set: max_steps: '9O': " in text
    assert "--set: temperature: 0: input should be greater than or equal to 0.001" in text
    assert "--set: 'nonsense' is not key=value" in text


def test_a_problem_inside_a_list_names_the_source_of_the_list(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("lora_rank: 2\nlora_targets: [q_proj, 3]\n")
    with pytest.raises(ConfigError) as caught:
        load_config([path], ["report_to=[foo]"])
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"{path}: lora_targets.1: 3: ") and lines[1].startswith("--set: report_to.0: 'foo': ")


PENALTY = ["length_control=penalty", "thinking_tokens=100", "solution_tokens=50"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["penalty_max_tokens=151"], "penalty_max_tokens: 151 is more than the longest completion, .* is 150"),
        (["penalty_max_tokens=90", "penalty_cache_tokens=91"], "penalty_cache_tokens: 91 is more than .* is 90"),
        (["penalty_max_tokens=49"], "penalty_cache_tokens: 50 is more than .* is 49"),
        (["penalty_cache_tokens=151"], "penalty_cache_tokens: 151 is more than .* is 150"),
    ],
)
def test_a_length_penalty_fits_the_completions(settings, message):
    with pytest.raises(ConfigError, match=message):
        load_config([], PENALTY + settings)
    assert load_config([], [*PENALTY, *settings, "length_control=none"]).length_control == "none"
    assert load_config([], [*PENALTY, "penalty_max_tokens=150", "penalty_cache_tokens=150"]).penalty_range == (150, 150)
    assert load_config([], [*PENALTY, "penalty_max_tokens=50"]).penalty_range == (50, 50)


@pytest.mark.parametrize(
    "name", ["slots", "batch_size", "generations_per_prompt", "eval_generations", "micro_batch_tokens", "lora_rank"]
)
def test_counts_that_no_memory_holds_are_refused(name):
    with pytest.raises(
        ConfigError, match=rf"--set: {name}: {2**31}: input should be less than or equal to {2**31 - 1}"
    ):
        load_config([], [f"{name}={2**31}"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("off_policy_steps=-1", "off_policy_steps: -1"),
        ("off_policy=grpo", "off_policy: 'grpo'"),
        ("lead=half", "lead: 'half'"),
        ("slots=0", "slots: 0"),
        ("length_control=true", "length_control: True"),
        ("interruption_tokens=12289", "interruption_tokens: 12289 is more than thinking_tokens, which is 12288"),
        ("thinking_tokens=1", "interruption_tokens: 2 is more than thinking_tokens, which is 1"),
        ("resampling_threshold=1.1", "resampling_threshold: 1.1"),
        ("gspo_epsilon=1.0", "gspo_epsilon: 1.0"),
        ("dtype=fp16", "dtype: 'fp16'"),
        ("keep_checkpoints=0", "keep_checkpoints: 0"),
        ("in_flight=drop", "in_flight: 'drop'"),
        ("batch_size=100", "no whole number of prompts"),
        ("max_length=100", "is less than prompt_tokens"),
        ("batch_size=512.5", "batch_size: 512.5"),
        ("batch_size=512.0", "batch_size: 512.0"),
        ("batch_size=true", "batch_size: True"),
        ("seed=-1", "seed: -1"),
        ("loss=dapo", "loss: 'dapo'"),
        ("learning_rate=.inf", "learning_rate"),
        ("learning_rate=.nan", "learning_rate"),
    ],
)
def test_impossible_values_are_refused(setting, message):
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        load_config([], [setting])


def test_ppo_on_policy_is_refused_and_pipeline_on_policy_is_not():
    with pytest.raises(ConfigError, match="off_policy_steps: 0: ppo generates at least one batch"):
        load_config(["grpo"], ["off_policy_steps=0"])
    assert load_config(["scalerl"], ["off_policy_steps=0"]).off_policy_steps == 0


def test_ranges_that_follow_from_other_fields():
    assert ScaleRLConfig().interruption_range == (10240, 12288)  # the paper's 10k to 12k
    assert ScaleRLConfig(interruption_tokens=12000).interruption_range == (12000, 12288)
    for control in ("penalty", "none"):
        assert ScaleRLConfig(length_control=control).interruption_range is None
    assert ScaleRLConfig().penalty_range == (14336, 2048)
    assert ScaleRLConfig(penalty_max_tokens=9000, penalty_cache_tokens=500).penalty_range == (9000, 500)


def test_scientific_notation_is_a_number():
    assert load_config([], ["learning_rate=5e-7"]).learning_rate == 5e-7
    assert load_config([], ["learning_rate=1E-4"]).learning_rate == 1e-4


def test_later_layers_win():
    assert load_config(["scalerl", "demo"], ["batch_size=64"]).batch_size == 64
    assert load_config(["scalerl", "demo"]).batch_size == 512
    assert load_config(["demo", "grpo"]).recipe == "grpo"


SIZES = {"demo"}


def test_recipes_differ_in_no_size_and_all_of_them_load():
    size = set(load_config(["demo"]).model_dump().items() ^ ScaleRLConfig().model_dump().items())
    size = {key for key, _ in size}
    assert set(recipes()) >= {*SIZES, "grpo", "scalerl"}
    for name in set(recipes()) - SIZES:
        changed = {k for k, v in load_config([name]).model_dump().items() if v != getattr(ScaleRLConfig(), k)}
        assert not changed & size, (name, changed & size)
        assert load_config([name]).recipe == name
        assert load_config([name, "demo"]) == load_config(["demo", name])


def test_bad_files_are_one_clear_line(tmp_path):
    with pytest.raises(
        ConfigError, match=rf"nowhere\.yaml: cannot be read: No such file.*one of: {', '.join(recipes())}"
    ):
        load_config(["nowhere.yaml"])
    path = tmp_path / "broken.yaml"
    for text, message in (
        ("a: [1,", "not YAML"),
        ("- 1\n- 2", "key: value"),
        ("!!python/object/apply:os.system [id]", "not YAML"),
        ("a: &x 1\nb: *x", "aliases"),
        ("seed: 1\nseed: 2", "twice"),
        ("seed: " + "9" * 5000, "not YAML"),
        ("recipe: 2020-13-45", "not YAML"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            load_config([path])


def test_a_run_without_an_end_is_refused():
    with pytest.raises(ConfigError, match="max_steps, max_epochs, max_gpu_hours: set at least one"):
        ScaleRLConfig().trainable()
    for limit in ("max_steps=3", "max_epochs=0.5", "max_gpu_hours=1.0"):
        load_config([], [limit]).trainable()
    load_config(["scalerl", "demo"]).trainable()


@pytest.mark.parametrize("text", ['!!bool "x"', '!!int ""', '!!timestamp "x"', "[" * 3000])
def test_a_value_that_does_not_fit_its_tag_or_is_too_deep_is_one_line(text, tmp_path):
    path = tmp_path / "odd.yaml"
    path.write_text(f"max_steps: {text}\n")
    with pytest.raises(ConfigError, match=r"odd\.yaml: not YAML"):
        load_config([path])
    with pytest.raises(ConfigError, match="--set: max_steps"):
        load_config([], [f"max_steps={text}"])


def test_a_mistyped_recipe_is_named():
    with pytest.raises(ConfigError, match=r"did you mean grpo\? give a YAML file or one of"):
        load_config(["GRPO"])
