"""What a run will need, before it is started: memory by part, seconds a step, GPU-hours to the end. Writes nothing.

Memory is that of `scalerl.footprint`; docs/hardware.md has the peaks of real runs beside it, which
``python -m benchmarks.memory`` measures.

Seconds a step come from two updates that are really made, in a temporary folder, where the model is at hand and fits;
otherwise from the floating-point operations of completions of full length, at a rate that is stated.
"""

from __future__ import annotations

import math
import os
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scalerl.config import ScaleRLConfig
from scalerl.data import load_data
from scalerl.describe import multiplying_weights
from scalerl.footprint import Part, memory, peak
from scalerl.policy import device_of
from scalerl.ranks import world_size
from scalerl.raycluster import address
from scalerl.remote import Remote
from scalerl.runlog import LOG_FILE, UserError, read_log
from scalerl.start import _build
from scalerl.worker import skeleton

GIB = 2.0**30
PROBE_STEPS = 2
RATE = 4e14  # FLOP/s of an H100 in bfloat16 at 40 % of its peak
RATE_TEXT = "4e14 FLOP/s (assumed: 40 % of an H100 in bfloat16)"


@dataclass(frozen=True)
class Speed:
    """Seconds of an update, and where they are known from."""

    generate_s: float
    """Generating one batch."""
    train_s: float
    """Scoring, gradient and update, and all else."""
    devices: int
    together: bool
    """Whether a process of its own generates while the trainer trains."""
    source: str

    @property
    def step_s(self) -> float:
        """Wall seconds of an update once the schedule is filled."""
        return max(self.generate_s, self.train_s) if self.together else self.generate_s + self.train_s


@dataclass(frozen=True)
class Estimate:
    """What a run will need; `str` of it is what the command line prints."""

    memory: tuple[Part, ...]
    speed: Speed
    steps: int | None
    """Updates to the end; None if only GPU-hours are limited."""
    ahead: int
    """Batches generated before the first update, besides its own."""
    gpu_hours: float
    limit: str
    actors: int = 0
    """Ray actors that generate, each on a device of its own."""

    @property
    def total_bytes(self) -> int:
        """At most at one time, see `peak`."""
        return peak(self.memory)[0]

    @property
    def actor_bytes(self) -> int:
        """Of the total, what lies with each of the Ray actors: a copy of the weights, and its share of the slots."""
        held = {part.name: part.bytes for part in self.memory}
        share = (held["KV cache"] + held["slots"] + held["sampling"]) / self.actors
        return round((held["generator's weights"] / (1 + self.actors) + share) * 9 / 8)  # with the allocator's eighth

    def __str__(self) -> str:
        """Return the lines to print."""
        width = max(len(part.name) for part in self.memory)
        total, largest = peak(self.memory)
        lines = [f"{'memory':<{width}}  {'GiB':>9}"]
        for p in self.memory:
            beside = "" if p.phase in ("", largest) else f"; in the {p.phase} alone, so not in the total"
            lines.append(f"{p.name:<{width}}  {p.bytes / GIB:>9.4g}  {p.inputs}{beside}")
        lines.append(f"{'total':<{width}}  {total / GIB:>9.4g}  at most at one time, in the {largest}")
        if self.actors:
            each = self.actor_bytes
            lines.append(f"{'on each actor':<{width}}  {each / GIB:>9.4g}  of it, {self.actors} of them")
            lines.append(f"{'with the trainer':<{width}}  {(total - self.actors * each) / GIB:>9.4g}  the rest")
        lines.append("")
        speed = self.speed
        mode = "at the same time" if speed.together else "one after the other"
        lines.append(
            f"a step takes {speed.step_s:.3g} s: {speed.generate_s:.3g} s to generate and {speed.train_s:.3g} s to "
            f"train, {mode}"
        )
        lines.append(f"  from {speed.source}")
        steps = "" if self.steps is None else f"{self.steps} steps"
        ahead = f", {self.ahead} batches generated ahead" if self.ahead else ""
        devices = f"{speed.devices} device{'s' if speed.devices > 1 else ''}"
        lines.append(
            f"to the end {self.gpu_hours:.3g} GPU-hours: {', '.join(filter(None, (steps, self.limit)))}{ahead}, "
            f"{devices}; evaluations and checkpoints apart"
        )
        return "\n".join(lines)


def estimate(config: ScaleRLConfig, train_data: str, eval_data: str) -> Estimate:
    """Estimate a run that `scalerl.start.train` would make of these arguments.

    Raises
    ------
    UserError
        If the data cannot be used, no limit is set, or the architecture of the model is not on this machine.
    """
    config.trainable()
    prompts = len(load_data(train_data).items)
    eval_prompts = len(load_data(eval_data, limit=config.eval_prompts).items)
    model = skeleton(_architecture(config.model_name), torch.float64 if config.dtype == "float64" else torch.float32)
    parts = memory(config, model, eval_prompts=eval_prompts, processes=world_size())
    probed = _probed(config)
    needed = peak(parts if probed is config else memory(probed, model, eval_prompts=eval_prompts))[0]
    why_not = _cannot_probe(config, needed)
    speed = _by_flops(config, model, why_not) if why_not else probe(config, train_data, eval_data)
    ahead = _ahead(config)
    steps, hours, limit = _to_the_end(config, speed, prompts, ahead)
    actors = config.generators if config.generator == "ray" else 0
    return Estimate(tuple(parts), speed, steps, ahead, hours, limit, actors)


def probe(config: ScaleRLConfig, train_data: str, eval_data: str) -> Speed:
    """Make two updates in a temporary folder and return what they took.

    Before the first update the schedule may want several batches; generation is therefore counted by the token.
    Ray actors are started where there is a cluster to join. Else one is measured, as a process with its share of the
    slots: a cluster of this machine is not that of the run, and many actors on few cores tell nothing.
    """
    asked, config = config, _probed(config)
    alone = config is not asked
    actors, overlaps = asked.generators if alone else 1, asked.off_policy_steps > 0
    with tempfile.TemporaryDirectory() as folder:
        run = str(Path(folder) / "run")
        trainer = _build(config, train_data, eval_data, run, log_file=None, report=lambda _: None)
        with closing(trainer.generator), closing(trainer.scorer), trainer.log:
            trainer.log.meter.start()
            while trainer.step < PROBE_STEPS and not trainer.schedule.over:
                trainer._generate()
                batch = trainer.schedule.next_batch()
                if batch is not None:
                    trainer._update(batch)
        rows = [row for row in read_log(Path(run) / LOG_FILE).rows if row["kind"] == "step"]
        beside = isinstance(trainer.generator, Remote)
        devices = trainer.log.meter.devices
    if not rows:
        raise UserError(f"{train_data}: holds too few prompts for one update of {config.prompts_per_update}")
    told = f", of one generator; {actors} are taken to be {actors} times as fast" if actors > 1 else ""
    wall = rows[-1]["gpu_hours"] * 3600 / devices
    waited = sum(row["generate_s"] for row in rows)
    busy = sum(row["generator_busy_s"] for row in rows) if beside else waited
    tokens_a_batch = sum(row["length_mean"] * row["reward_count"] for row in rows) / len(rows)
    return Speed(
        generate_s=busy * tokens_a_batch / rows[-1]["tokens_generated"] / actors,
        train_s=(wall - waited) / len(rows),
        devices=1 + actors if alone else devices,
        together=beside and overlaps,
        source=f"{len(rows)} probe steps of {tokens_a_batch:.0f} tokens{told}",
    )


def _probed(config: ScaleRLConfig) -> ScaleRLConfig:
    """Return what is run to measure; another one where it is one process in the place of Ray actors."""
    if config.generator != "ray" or address() is not None:
        return config
    share = -(-(config.slots or config.batch_size) // config.generators)
    one = {"generator": "process", "generators": 1, "slots": share, "off_policy": "pipeline", "off_policy_steps": 0}
    return config.model_copy(update=one)


def _by_flops(config: ScaleRLConfig, model: Any, why: str) -> Speed:
    """Return what completions of full length take: 2 N a token forward, 6 N forward and backward, and attention."""
    backbone, head = multiplying_weights(model)
    architecture = model.config
    heads = architecture.num_attention_heads
    d = getattr(architecture, "head_dim", None) or architecture.hidden_size // heads
    before, after = config.prompt_tokens, config.max_new_tokens
    full = before + after
    # A token attends to all before it: scores and their product with the values, 2 FLOP each a token and width.
    attention = 2.0 * architecture.num_hidden_layers * heads * d
    passed = config.batch_size * after * backbone + config.prompts_per_update * before * backbone
    once = 2.0 * (passed + config.batch_size * after * head)
    once += attention * (config.batch_size * (full**2 - before**2) + config.prompts_per_update * before**2)
    work = f"{once:.3g} + {3 * once:.3g} FLOP for {config.batch_size} x {after} tokens and their prompts, the most"
    return Speed(
        generate_s=once / RATE / config.generators,
        train_s=3 * once / RATE / world_size(),
        devices=world_size() + (0 if config.generator == "inline" else config.generators),
        together=config.generator != "inline" and config.off_policy_steps > 0,
        source=f"{work}, at {RATE_TEXT}, which decoding seldom reaches: no probe, for {why}",
    )


def _cannot_probe(config: ScaleRLConfig, needed: int) -> str:
    """Return why no probe steps can be made here, or nothing."""
    if world_size() > 1:
        return f"the learner is {world_size()} processes; without torchrun a dry run measures one on this machine"
    if not any(Path(config.model_name).glob("*.safetensors")):
        return f"the weights of {config.model_name} are not here"
    cuda = device_of(config.device) == "cuda"
    if cuda and not torch.cuda.is_available():
        return "there is no CUDA device here"
    free = torch.cuda.mem_get_info()[0] if cuda else _free_memory()
    if needed > free:
        return f"{needed / GIB:.3g} GiB do not fit into the {free / GIB:.3g} GiB that are free here"
    return ""


def _free_memory() -> int:
    information = Path("/proc/meminfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _architecture(name: str) -> Any:
    """Return the configuration of a model directory, or of a hub name whose files were fetched before."""
    from transformers import AutoConfig

    advice = "give a directory that holds the model's config.json at least (--set model_name=DIR)"
    if Path(name).exists() and not (Path(name) / "config.json").is_file():
        raise UserError(f"model_name: {name} is no model directory: it has no config.json")
    try:
        return AutoConfig.from_pretrained(name, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a broken file can fail anywhere inside transformers
        if not Path(name).exists():
            raise UserError(f"model_name: {name} is not on this machine; {advice}") from error
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"model_name: {name}/config.json cannot be used: {reason}") from error


def _ahead(config: ScaleRLConfig) -> int:
    """Return how many batches the schedule generates that are still in work, or wait, when the last update is made."""
    return config.off_policy_steps if config.off_policy == "pipeline" and config.lead == "full" else 0


def _to_the_end(config: ScaleRLConfig, speed: Speed, prompts: int, ahead: int) -> tuple[int | None, float, str]:
    """Return updates and GPU-hours to the first limit, and which limit that is."""
    limits: dict[str, int] = {}
    if config.max_steps is not None:
        limits[f"max_steps {config.max_steps}"] = config.max_steps
    if config.max_epochs is not None:
        steps = math.ceil(config.max_epochs * prompts / config.prompts_per_update)
        limits[f"max_epochs {config.max_epochs:g} of {prompts} prompts"] = steps
    seconds = speed.devices / 3600
    reached = [(n * speed.step_s + ahead * speed.generate_s, n, name) for name, n in limits.items()]
    hours, steps_left, limit = min(((s * seconds, n, name) for s, n, name in reached), default=(math.inf, None, ""))
    if config.max_gpu_hours is not None and config.max_gpu_hours <= hours:
        before = ahead * speed.generate_s * seconds
        done = max(1, math.ceil((config.max_gpu_hours - before) / (speed.step_s * seconds)))
        return done, config.max_gpu_hours, f"max_gpu_hours {config.max_gpu_hours:g}"
    return steps_left, hours, limit
