"""The configuration of a run: every axis of the recipe is one field, checked in one place.

`ScaleRLConfig()` is ScaleRL at the paper's size. A recipe or a size is a YAML file that changes some fields; files
are laid over one another in the order given, and ``--set key=value`` comes last.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from scalerl.places import find_shipped
from scalerl.runlog import RunLogError, UserError, read_regular

RECIPES = Path(__file__).parent / "recipes"
MOST = 2**31 - 1  # of what is held in memory at once; more is a slip of the hand

# What changes the last bits of a run that goes on with it, and is named for it, but neither the update nor its batches.
LAST_BITS = frozenset({"threads", "micro_batch_tokens", "in_flight"})
# What may change when a run goes on: how long it runs, what it leaves behind, where the same checkpoint lies, the last
# bits; and how many processes score, or actors generate.
CHANGEABLE = LAST_BITS | {
    *("max_steps", "max_epochs", "max_gpu_hours", "early_stopping_patience"),
    *("keep_checkpoints", "checkpoint_every", "model_name"),
    *("reward_path", "reward_workers", "report_to", "generators"),
}


class ConfigError(UserError):
    """One or more fields of a configuration are wrong; the message lists all of them."""


class ScaleRLConfig(BaseModel):
    """ScaleRL's recipe at the paper's size; "ours" marks what the paper (arXiv 2510.13786) does not state.

    Examples
    --------
    >>> config = ScaleRLConfig()
    >>> config.batch_size, config.prompts_per_update
    (768, 48)
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    recipe: str = Field("scalerl", min_length=1)
    """Name under which runs are compared."""
    model_name: str = "Qwen/Qwen3-8B"
    """Model directory or hub name of a causal LM (ours; the paper's dense model has 8B parameters)."""
    task: str = "chain"
    """Task that scores the completions."""
    reward: str | None = Field(None, min_length=1)
    """What scores the completions in place of the task: math, exact, code, reasoning-gym:NAME, or a function of your
    own as my_module:score; the task's own score if not set."""
    reward_path: str | None = Field(None, min_length=1)
    """Folder where the reward's module is looked for first; if no file sets it, that of the file which names the
    reward."""
    end_of_thinking: str = Field("</think>", min_length=1)
    """With a reward: text that ends the thinking; what follows the last one is scored, all where there is none."""
    reward_workers: int = Field(1, ge=1, le=256)
    """Processes that score, for all but the cheapest rewards."""
    reward_time_limit_s: float = Field(10.0, gt=0, le=86400)
    """Wall seconds that the score of one completion may take; over it the completion counts as wrong."""
    reward_memory_gb: float | None = Field(4.0, gt=0, le=1e6)
    """Address space of a scoring process, in 10^9 bytes; null for no limit."""
    reward_allow_network: bool = False
    """Let reward code run programs where the kernel does not allow to cut them off from the network."""

    prompt_format: Literal["auto", "plain", "chat"] = "auto"
    """``chat`` renders a prompt as a user's turn by the tokenizer's chat template, ``plain`` gives it as it stands;
    ``auto`` is chat where the tokenizer has a template."""
    system_prompt: str | None = Field(None, min_length=1)
    """System turn before every prompt that brings no ``system`` text of its own; chat only."""
    lora_rank: int | None = Field(None, ge=1, le=MOST)
    """Train low-rank adapters of this rank (LoRA) instead of all weights; needs peft."""
    lora_alpha: float | None = Field(None, gt=0)
    """Adapters are multiplied by lora_alpha / lora_rank; 2 x lora_rank if not set."""
    lora_targets: list[str] | None = Field(None, min_length=1)
    """Modules that get an adapter, as ``[q_proj, v_proj]``; every linear layer but the head if not set."""

    max_length: int = Field(16384, ge=2, le=MOST)
    """Longest prompt plus completion, in tokens."""
    prompt_tokens: int = Field(2048, ge=1, le=MOST)
    """Longest prompt, in tokens."""
    thinking_tokens: int = Field(12288, ge=0, le=MOST)
    """Budget of the thinking part, in tokens."""
    solution_tokens: int = Field(2048, ge=1, le=MOST)
    """Budget of the answer, in tokens, end token included. It binds behind a forced phrase alone: any
    other completion may fill thinking_tokens + solution_tokens as it likes."""

    batch_size: int = Field(768, ge=1, le=MOST)
    """Completions an update."""
    generations_per_prompt: int = Field(16, ge=1, le=MOST)
    """Completions a prompt."""
    off_policy: Literal["pipeline", "ppo"] = "pipeline"
    """``pipeline`` streams, and new weights enter half-written completions; ``ppo`` generates k batches, then updates
    k times."""
    off_policy_steps: int = Field(8, ge=0, le=MOST)
    """k of PipelineRL-k or PPO-off-policy-k; 0 is on-policy."""
    lead: Literal["full", "eager"] = "full"
    """PipelineRL: update as late as k allows, so that k is the lag, or as soon as a batch is complete (ours)."""
    slots: int | None = Field(None, ge=1, le=MOST)
    """Completions decoded at once; batch_size if not set."""
    dynamic_batch_size: bool = False
    """Let measured speed change the batch from batch_size on; real time drives it, so the run cannot be repeated."""
    batch_size_min: int = Field(256, ge=1, le=MOST)
    """Smallest dynamic batch, in completions."""
    batch_size_max: int = Field(2048, ge=1, le=MOST)
    """Largest dynamic batch, in completions."""
    efficiency_target: float = Field(0.8, gt=0, le=0.9)
    """FLOPs per metered second, as a share of the fastest seen, below which a dynamic batch grows; above 1.1 times
    this it shrinks."""
    batch_size_every: int = Field(20, ge=1)
    """Updates at one batch size from which its speed is measured, and after which it may change."""
    generator: Literal["inline", "process", "ray"] = "inline"
    """Generate in this process, or in one of its own beside it, which keeps the lag bound but no reproducibility, or in
    Ray actors, the same way; needs ray."""
    generators: int = Field(1, ge=1, le=65536)
    """Ray actors that generate; they share the slots."""
    engine: Literal["own", "vllm"] = "own"
    """What decodes the training completions there: this package, or vLLM, on one device; needs vllm. Evaluations are
    always decoded by this package."""

    zero_variance_filtering: bool = True
    """Leave prompts whose completions all got one reward out of the update and of every denominator."""
    no_positive_resampling: bool = True
    """Never draw a prompt again once its pass rate reached resampling_threshold; else sample uniformly."""
    resampling_threshold: float = Field(0.9, gt=0, le=1)
    """Pass rate of one visit (generations_per_prompt completions) from which on a prompt is retired."""

    length_control: Literal["interruption", "penalty", "none"] = "interruption"
    """``interruption`` ends the thinking with a forced phrase; ``penalty`` lowers the reward of long right answers."""
    interruption_tokens: int | None = Field(None, ge=2, le=MOST)
    """Each completion's thinking budget is drawn between this and thinking_tokens, phrase included; 5/6 of
    thinking_tokens if not set."""
    interruption_phrase: str | None = Field(None, min_length=1)
    """Text that is forced; it must end the thinking. The task's own if not set."""
    penalty_max_tokens: int | None = Field(None, ge=1, le=MOST)
    """L_max of the penalty clip((L_max - length) / L_cache - 1, -1, 0); the longest completion if not set."""
    penalty_cache_tokens: int | None = Field(None, ge=1, le=MOST)
    """L_cache of the penalty; solution_tokens if not set."""

    loss: Literal["cispo", "clipped", "gspo", "reinforce"] = "cispo"
    """``cispo``, the ``clipped`` surrogate of PPO, GRPO and DAPO, ``gspo`` with a ratio a sequence, or ``reinforce``
    without a ratio."""
    epsilon_max: float = Field(4.0, gt=0)
    """CISPO: largest weight of a token, an absolute bound on the importance ratio."""
    gspo_epsilon: float = Field(4e-3, gt=0, lt=1)
    """GSPO: the sequence ratio is clipped at 1 -+ gspo_epsilon."""
    epsilon_low: float = Field(0.2, gt=0, lt=1)
    """Clipped surrogate: the ratio is clipped below at 1 - epsilon_low."""
    epsilon_high: float = Field(0.2, gt=0)
    """Clipped surrogate: the ratio is clipped above at 1 + epsilon_high."""
    aggregation: Literal["prompt", "sample", "token"] = "prompt"
    """What weighs the same in the loss: every prompt, every completion, or every token."""
    advantage_normalization: Literal["batch", "prompt", "none"] = "batch"
    """Whose standard deviation divides the centred rewards."""

    learning_rate: float = Field(5e-7, gt=0, le=10)
    warmup_steps: int = Field(100, ge=0)
    """Updates over which the learning rate rises linearly."""
    lr_schedule: Literal["constant", "plateau"] = "constant"
    """After the warm-up: ``constant``, or ``plateau``, lowered when the evaluation pass rate no longer rises."""
    plateau_patience: int = Field(5, ge=1)
    """Evaluations in a row without a gain after which the learning rate is lowered."""
    plateau_factor: float = Field(0.5, gt=0, lt=1)
    """What the learning rate is multiplied by."""
    plateau_floor: float = Field(1e-8, gt=0)
    """Lowest learning rate."""
    plateau_min_gain: float = Field(0.0, ge=0, lt=1)
    """A pass rate is a gain if it is above the best one by more than this."""
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    """(ours)"""
    adam_beta2: float = Field(0.95, ge=0, lt=1)
    """(ours)"""
    adam_epsilon: float = Field(1e-15, gt=0)
    weight_decay: float = Field(0.01, ge=0, le=10)
    max_grad_norm: float = Field(1.0, gt=0)
    """Norm that a larger gradient is scaled down to (ours)."""
    micro_batch_tokens: int = Field(32768, ge=1, le=MOST)
    """Padded tokens in one forward pass of training; changes memory and speed, not the update."""

    temperature: float = Field(1.0, ge=1e-3, le=1e3)
    """Sampling temperature in training and evaluation (ours)."""
    use_fp32_lm_head: bool = True
    """Compute the logits in FP32, on the generator and on the trainer."""
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "bfloat16"
    """Precision of activations and of the weights that multiply them; below FP32 the optimizer keeps FP32 weights."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(1, ge=1, le=1024)
    """CPU threads of this process; small models are fastest with one."""

    eval_every: int = Field(100, ge=1)
    """Updates between two evaluations; there is one more before the first update and one at the end."""
    eval_generations: int = Field(16, ge=1, le=MOST)
    """k of mean@k."""
    eval_prompts: int | None = Field(None, ge=1, le=MOST)
    """Use the first so many evaluation prompts; all if not set."""
    eval_seed: int = Field(0, ge=0, lt=2**63)
    """Seed of the sampling noise of evaluations; the same for every run that is to be compared."""

    checkpoint_every: int = Field(100, ge=1)
    """Updates between two checkpoints; there is one more at the end."""
    keep_checkpoints: int = Field(2, ge=1)
    """Checkpoints kept, the latest ones."""
    in_flight: Literal["kv", "refresh"] = "kv"
    """How half-written completions get over a checkpoint: their cache is kept, or it is made anew with the current
    weights at every checkpoint, in the run that goes on as in one that is resumed."""

    early_stopping_patience: int | None = Field(None, ge=1)
    """Stop after so many evaluations in a row without a gain in pass rate; 10 is usual, never if not set."""
    early_stopping_min_gain: float = Field(0.0, ge=0, lt=1)
    """A pass rate is a gain if it is above the best one by more than this."""
    keep_best: bool = False
    """Keep the policy with the highest evaluation pass rate as ``best/`` in the run folder."""

    max_steps: int | None = Field(None, ge=1)
    """Stop after so many updates."""
    max_epochs: float | None = Field(None, gt=0)
    """Stop after so many passes over the train prompts."""
    max_gpu_hours: float | None = Field(None, gt=0)
    """Stop at the first update that reaches so many GPU-hours."""
    report_to: list[Literal["tensorboard", "wandb", "trackio", "mlflow"]] = Field(default_factory=list)
    """Tools that the rows of the log are mirrored to, each in a run of its own for every attempt."""
    seed: int = Field(0, ge=0, lt=2**63)

    @property
    def prompts_per_update(self) -> int:
        """Prompts an update: completions divided by completions a prompt."""
        return self.batch_size // self.generations_per_prompt

    @property
    def lora_scale(self) -> float:
        """lora_alpha, or its default."""
        return self.lora_alpha or 2.0 * (self.lora_rank or 0)

    @property
    def max_new_tokens(self) -> int:
        """Length limit of a completion, in tokens."""
        return self.thinking_tokens + self.solution_tokens

    @property
    def interruption_range(self) -> tuple[int, int] | None:
        """Smallest and largest thinking budget, phrase included, in tokens; None without interruption."""
        if self.length_control != "interruption":
            return None
        low = self.interruption_tokens or max(2, self.thinking_tokens * 5 // 6)
        return low, self.thinking_tokens

    @property
    def penalty_range(self) -> tuple[int, int]:
        """L_max and L_cache of the length penalty, in tokens."""
        return self.penalty_max_tokens or self.max_new_tokens, self.penalty_cache_tokens or self.solution_tokens

    @property
    def master_dtype(self) -> Literal["float32", "float64"]:
        """Precision of the weights that the optimizer changes."""
        return "float64" if self.dtype == "float64" else "float32"

    @model_validator(mode="after")
    def _sums_and_multiples(self) -> Self:
        wrong = []
        if self.batch_size % self.generations_per_prompt:
            wrong.append(
                f"batch_size: {self.batch_size} completions are no whole number of prompts with "
                f"generations_per_prompt {self.generations_per_prompt}"
            )
        total = self.prompt_tokens + self.max_new_tokens
        if total > self.max_length:
            wrong.append(
                f"max_length: {self.max_length} is less than prompt_tokens + thinking_tokens + solution_tokens, "
                f"which is {total}"
            )
        if self.interruption_range and self.interruption_range[0] > self.interruption_range[1]:
            wrong.append(
                f"interruption_tokens: {self.interruption_range[0]} is more than thinking_tokens, which is "
                f"{self.thinking_tokens}; lower it, or set length_control to none"
            )
        longest, cache = self.penalty_range
        if self.length_control == "penalty" and longest > self.max_new_tokens:
            wrong.append(
                f"penalty_max_tokens: {longest} is more than the longest completion, thinking_tokens + "
                f"solution_tokens, which is {self.max_new_tokens}"
            )
        if self.length_control == "penalty" and cache > longest:
            wrong.append(
                f"penalty_cache_tokens: {cache} is more than penalty_max_tokens, which is {longest}: every right "
                "completion would be penalised"
            )
        if self.lr_schedule == "plateau" and self.plateau_floor > self.learning_rate:
            wrong.append(
                f"plateau_floor: {self.plateau_floor} is more than learning_rate, which is {self.learning_rate}"
            )
        if self.dynamic_batch_size and not self.batch_size_min <= self.batch_size <= self.batch_size_max:
            wrong.append(
                f"batch_size: {self.batch_size} lies outside batch_size_min and batch_size_max, which are "
                f"{self.batch_size_min} and {self.batch_size_max}; with dynamic_batch_size it must not"
            )
        if self.off_policy == "ppo" and not self.off_policy_steps:
            wrong.append("off_policy_steps: 0: ppo generates at least one batch before it updates; set it to 1 or more")
        if self.generators > 1 and self.generator != "ray":
            wrong.append(f"generators: {self.generators}: generator {self.generator} has one; set that to ray")
        if self.engine == "vllm" and self.dtype == "float64":
            wrong.append("dtype: float64: vLLM does not compute in it; set dtype to float32 or less, or engine to own")
        if self.lora_rank is None:
            wrong += [
                f"{name}: has no meaning without lora_rank"
                for name in ("lora_alpha", "lora_targets")
                if getattr(self, name) is not None
            ]
        if self.system_prompt is not None and self.prompt_format == "plain":
            wrong.append("system_prompt: plain prompts have no system turn; set prompt_format to chat or auto")
        if wrong:
            raise ValueError("\n".join(wrong))
        return self

    def trainable(self) -> None:
        """Check what only matters to a run, not to a configuration.

        Raises
        ------
        ConfigError
            If no limit is set.
        """
        if self.max_steps is None and self.max_epochs is None and self.max_gpu_hours is None:
            raise ConfigError("max_steps, max_epochs, max_gpu_hours: set at least one, or the run would never end")


def load_config(sources: Sequence[str | os.PathLike[str]] = (), settings: Sequence[str] = ()) -> ScaleRLConfig:
    """Lay YAML files, recipes by name, and ``key=value`` settings over the defaults and check the result.

    Raises
    ------
    ConfigError
        With every problem, each with its source, key, and the nearest valid name.

    Examples
    --------
    >>> load_config(["demo"], ["seed=7"]).seed
    7
    >>> load_config([], ["learning_rat=1"])
    Traceback (most recent call last):
    scalerl.config.ConfigError: --set: learning_rat: there is no such field; did you mean learning_rate?
    """
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    placed = False  # whether a file says where the reward's module lies
    for source in sources:
        layer = _read_yaml(source)
        values |= layer
        origin |= dict.fromkeys(layer, str(source))
        placed = placed or "reward_path" in layer
        if not placed and ":" in str(layer.get("reward")):
            values["reward_path"] = str(Path(source).parent.resolve())  # a resume may begin in another folder
    return _check(values, origin, settings)


def change_config(values: Mapping[str, Any], settings: Sequence[str]) -> ScaleRLConfig:
    """Lay ``key=value`` settings over the values of a configuration that was kept, and check the result.

    Raises
    ------
    ConfigError
        As `load_config`.
    """
    return _check(dict(values), dict.fromkeys(values, "the run's configuration"), settings)


def recipes() -> dict[str, str]:
    """Return what ships: name -> first comment line of its file."""
    found = {}
    for path in sorted(RECIPES.glob("*.yaml")):
        first = path.read_text(encoding="utf-8").splitlines()[0]
        found[path.stem] = first.removeprefix("#").strip()
    return found


def _check(values: dict[str, Any], origin: dict[str, str], settings: Sequence[str]) -> ScaleRLConfig:
    problems = []
    for setting in settings:
        key, mark, text = setting.partition("=")
        if not mark or not key:
            problems.append(f"--set: {setting!r} is not key=value")
            continue
        try:
            values[key.strip()] = _yaml(text)
        except (yaml.YAMLError, ValueError):
            values[key.strip()] = text
        origin[key.strip()] = "--set"
    try:
        config = ScaleRLConfig(**values)
    except ValidationError as error:
        for item in error.errors():
            key = ".".join(map(str, item["loc"]))
            where = f"{origin.get(str(item['loc'][0]) if item['loc'] else '', 'defaults')}: "
            if item["type"] == "extra_forbidden":
                near = difflib.get_close_matches(key, ScaleRLConfig.model_fields, n=1)
                hint = f"; did you mean {near[0]}?" if near else "; `scalerl recipes --fields` lists them"
                problems.append(f"{where}{key}: there is no such field{hint}")
            elif not key:
                problems.extend(str(item["ctx"]["error"]).splitlines())
            else:
                said = item["msg"][0].lower() + item["msg"][1:]
                problems.append(f"{where}{key}: {repr(item['input'])[:80]}: {said}")
        raise ConfigError("\n".join(problems)) from None
    if problems:
        raise ConfigError("\n".join(problems))
    return config


def _read_yaml(source: str | os.PathLike[str]) -> dict[str, Any]:
    path = Path(source)
    if str(source) in recipes() and not path.is_file():
        path = RECIPES / f"{source}.yaml"
    try:
        values = _yaml(read_regular(path).decode("utf-8"))
    except RunLogError as error:
        near = difflib.get_close_matches(str(source).lower(), recipes(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(f"{error}; {hint}give a YAML file or one of: {', '.join(recipes())}") from error
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{source}{line}: not YAML: {getattr(error, 'problem', None) or error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{source}: a configuration is a list of `key: value` lines")
    if path.parent == RECIPES and "model_name" in values:
        values["model_name"] = find_shipped(values["model_name"])
    return values


class _Loader(yaml.SafeLoader):
    """Safe YAML without aliases and repeated keys, in which 5e-7 is a number, as it is to all but YAML 1.1."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases have no use here")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"{key} stands there twice")
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*)(?:\.[\d_]*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


def _yaml(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - _Loader is a SafeLoader
    except (KeyError, IndexError, AttributeError, TypeError, RecursionError) as error:  # PyYAML lets them through
        raise yaml.YAMLError("a value does not fit its tag, or is nested too deep") from error
