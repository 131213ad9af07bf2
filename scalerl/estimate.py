"""What a run will need, before it is started: memory by part, seconds a step, GPU-hours to the end. Writes nothing.

Memory is counted on a model without memory (torch's meta device) that goes through the trainer's own classes, so it
is known for any size on any machine. Parts that are held all the time are added up, and to them the largest of what
comes in turn: an update, its optimizer call, an evaluation, a checkpoint. docs/hardware.md has the formulas, and the
peaks of real runs beside them; ``python -m benchmarks.memory`` measures those.

Seconds a step come from two updates that are really made, in a temporary folder, where the model is at hand and fits;
otherwise from the floating-point operations of completions of full length, at a rate that is stated.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from scalerl.config import ScaleRLConfig
from scalerl.data import load_data
from scalerl.describe import multiplying_weights
from scalerl.evaluate import SLOTS
from scalerl.forward import AnyForward, AnyWeights, Cache, Forward, Prefix, logits
from scalerl.generic import make_forward
from scalerl.lora import add_adapters
from scalerl.runlog import LOG_FILE, UserError, read_log
from scalerl.start import _build
from scalerl.worker import GeneratorProcess, skeleton

GIB = 2.0**30
PROBE_STEPS = 2
RATE = 4e14  # FLOP/s of an H100 in bfloat16 at 40 % of its peak
RATE_TEXT = "4e14 FLOP/s (assumed: 40 % of an H100 in bfloat16)"


class Part(NamedTuple):
    """One use of memory."""

    name: str
    bytes: int
    inputs: str
    """What the figure is the product or sum of."""
    phase: str = ""
    """When it is needed, where it is not held all the time."""


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

    @property
    def total_bytes(self) -> int:
        """At most at one time, see `peak`."""
        return peak(self.memory)[0]

    def __str__(self) -> str:
        """Return the lines to print."""
        width = max(len(part.name) for part in self.memory)
        total, largest = peak(self.memory)
        lines = [f"{'memory':<{width}}  {'GiB':>9}"]
        for p in self.memory:
            beside = "" if p.phase in ("", largest) else f"; in the {p.phase} alone, so not in the total"
            lines.append(f"{p.name:<{width}}  {p.bytes / GIB:>9.4g}  {p.inputs}{beside}")
        lines += [f"{'total':<{width}}  {total / GIB:>9.4g}  at most at one time, in the {largest}", ""]
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
    parts = memory(config, model, eval_prompts=eval_prompts)
    why_not = _cannot_probe(config, peak(parts)[0])
    speed = _by_flops(config, model, why_not) if why_not else probe(config, train_data, eval_data)
    ahead = _ahead(config)
    steps, hours, limit = _to_the_end(config, speed, prompts, ahead)
    return Estimate(tuple(parts), speed, steps, ahead, hours, limit)


def peak(parts: Sequence[Part]) -> tuple[int, str]:
    """Return the bytes needed at most at one time, and when: what is held, and the largest phase.

    Examples
    --------
    >>> peak([Part("weights", 4, ""), Part("activations", 3, "", "update"), Part("cache", 2, "", "evaluation")])
    (7, 'update')
    """
    phases: dict[str, int] = {}
    for part in parts:
        if part.phase:
            phases[part.phase] = phases.get(part.phase, 0) + part.bytes
    largest = max(phases, key=phases.__getitem__, default="")
    return sum(part.bytes for part in parts if not part.phase) + phases.get(largest, 0), largest


def memory(config: ScaleRLConfig, model: Any, *, eval_prompts: int | None = None) -> list[Part]:
    """Return the parts of memory of a run.

    Parameters
    ----------
    config : ScaleRLConfig
    model : transformers.PreTrainedModel
        Its architecture and precision are read.
    eval_prompts : int, optional
        Prompts of an evaluation; not known, an evaluation is taken to fill all slots that it may have.
    """
    model = skeleton(model.config, next(model.parameters()).dtype)
    forward = make_forward(model, config.max_length, getattr(torch, config.dtype))
    if config.lora_rank is not None:
        add_adapters(model, rank=config.lora_rank, alpha=config.lora_scale, targets=config.lora_targets, seed=0)
    weights = forward.weights(fp32_head=config.use_fp32_lm_head)
    slots = config.slots or config.batch_size
    parameters = list(model.parameters())
    count, size = sum(p.numel() for p in parameters), parameters[0].itemsize
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    cache = Cache(forward, slots, config.max_length)
    layers, item, cached = len(cache.keys), forward.dtype.itemsize, forward.cache_shapes[0]
    generators = _bytes(weights)
    masters = {id(p) for p in parameters}
    working = sum(w.nbytes for w in weights.tensors() if w is not None and id(w) not in masters)
    vocabulary = weights.head.shape[0]
    head = f"{forward.dtype}, head in {weights.head.dtype}".replace("torch.", "")
    copies = 2 if config.generator == "process" else 1
    parts = [
        Part("master weights", count * size, f"{count:,} weights x {size} B"),
        Part("gradients", trained * size, f"{trained:,} weights x {size} B"),
        Part("AdamW moments", 2 * trained * size, f"2 x {trained:,} weights x {size} B"),
        Part("trainer's working copy", working, f"weights that are cast or put side by side, {head}"),
        Part(
            "generator's weights",
            copies * generators,
            f"{copies} cop{'ies, one to hand over' if copies > 1 else 'y'} in {head}, a tied head apart",
        ),
        Part(
            "KV cache",
            sum(t.nbytes for t in (*cache.keys, *cache.values)),
            f"2 x {layers} layers x {slots} slots x {cached[0]} heads x {config.max_length} tokens x "
            f"{cached[1]} x {item} B",
        ),
        Part(
            "slots",
            slots * config.max_new_tokens * 32,
            f"{slots} slots x {config.max_new_tokens} tokens x 32 B: token, version, log-probability, noise",
        ),
        Part("sampling", slots * vocabulary * 28, f"{slots} slots x {vocabulary:,} words x 28 B of scores"),
    ]
    if isinstance(forward, Forward):
        parts += _activations(config, model, forward, weights)
    else:
        parts.append(_counted_activations(config, model, forward, weights))
    looking = min(SLOTS, config.slots or SLOTS)
    if eval_prompts is not None:
        looking = min(looking, eval_prompts * config.eval_generations)
    look = Cache(forward, looking, config.max_length)
    parts += [
        Part(
            "optimizer's copy",
            trained * size,
            f"{trained:,} weights x {size} B: square roots of the moments",
            "optimizer call",
        ),
        Part("new weights", generators, "a copy for the generator before the old one goes", "optimizer call"),
        Part(
            "evaluation",
            generators + sum(t.nbytes for t in (*look.keys, *look.values)) + looking * vocabulary * 28,
            f"weights, cache of {looking} slots and scores of its own",
            "evaluation",
        ),
    ]
    # Beside what is in use stand holes of what was freed: 2 to 24 % of it in the runs of docs/hardware.md.
    return [
        *parts,
        Part("allocator", peak(parts)[0] // 8, "an eighth of the rest: freed memory that fits nothing else"),
    ]


def _counted_activations(config: ScaleRLConfig, model: Any, forward: AnyForward, weights: AnyWeights) -> Part:
    """Return what the gradient of a micro-batch as in `_activations` keeps, from a pass without memory."""
    rows = max(1, min(config.micro_batch_tokens // config.max_length, config.batch_size))
    prompts = min(rows, config.prompts_per_update)  # completions of one prompt share it
    alive: list[torch.Tensor] = []
    kept: dict[int, int] = {}
    given = {w.untyped_storage()._cdata for w in (*model.parameters(), *weights.tensors()) if w is not None}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)  # so that no storage's number is used twice
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    before, after = config.prompt_tokens, config.max_new_tokens

    def ids(count: int, length: int) -> torch.Tensor:
        return torch.zeros((count, length), dtype=torch.long, device="meta")

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), _FusedAttention():
        run = forward.hidden(ids(prompts, before), weights)
        source = torch.zeros(rows, dtype=torch.long, device="meta")
        lengths = torch.full((prompts,), before, device="meta")
        rest = forward.hidden(ids(rows, after - 1), weights, Prefix(run.keys, run.values, lengths, source))
        states = torch.cat([run.states[source, -1:], rest.states], dim=1)
        logits(states.flatten(0, 1), weights).log_softmax(-1)
    bytes_kept = sum(size for storage, size in kept.items() if storage not in given)
    return Part(
        "activations, logits",
        bytes_kept,
        f"micro-batch of {rows} x {after} tokens and {prompts} x {before} of prompts, counted without memory",
        "update",
    )


class _FusedAttention(TorchFunctionMode):
    """Let attention keep for its gradient what the fused kernels keep.

    Without memory torch takes the plain kernel, which keeps every matrix of attention weights.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))

        def of(query: Any, key: Any, value: Any, attn_mask: Any = None, *_: Any, **__: Any) -> Any:
            return _Fused.apply(query, key, value, attn_mask)  # type: ignore[no-untyped-call]

        return of(*args, **(kwargs or {}))


class _Fused(torch.autograd.Function):
    """Attention without values: queries, keys, values, mask, output, and the log of the sum of every row are kept."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any, mask: Any) -> torch.Tensor:
        out: torch.Tensor = query.new_empty((*query.shape[:-1], value.shape[-1]))
        rows = query.new_empty(query.shape[:-1], dtype=torch.promote_types(query.dtype, torch.float32))
        ctx.save_for_backward(query, key, value, mask, out, rows)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError("only what is kept is counted")


def _activations(config: ScaleRLConfig, model: Any, forward: Forward, weights: Any) -> list[Part]:
    """Return what the gradient of one micro-batch of longest completions keeps, each with a prompt of its own."""
    rows = max(1, min(config.micro_batch_tokens // config.max_length, config.batch_size))
    prompts = min(rows, config.prompts_per_update)  # completions of one prompt share it
    before, after = config.prompt_tokens, config.max_new_tokens
    fed = after - 1  # the last token is predicted and not fed
    hidden, inner = model.config.hidden_size, model.config.intermediate_size
    layers, d, item = len(weights.layers), forward.head_dim, forward.dtype.itemsize
    n, m = forward.heads, forward.kv_heads
    wide = 4 if forward.dtype.itemsize < 4 else item
    normed = weights.layers[0].qk_norm is not None
    # A token, in every layer: both norms and what they feed, the attention's output, four of the MLP; queries and keys
    # turned and, where they are, normed.
    token = 4 * hidden + n * d + 4 * inner + (n + m) * d * (2 if normed else 1)
    statistics = (2 + (n + m if normed else 0)) * wide
    read, written = prompts * before, rows * fed  # tokens that are run
    kept = read * (token + (n + 2 * m) * d) + written * token + rows * 2 * m * d * (before + fed)
    body = layers * (kept * item + (read + written) * statistics)
    masks = rows * fed * (before + fed) * item
    ends = (read + written) * (hidden * item + wide) + rows * after * hidden * weights.head.dtype.itemsize
    scores = rows * after * weights.head.shape[0] * max(4, weights.head.dtype.itemsize)
    shape = f"{rows} x {after} tokens and {prompts} x {before} of prompts"
    return [
        Part(
            "activations",
            body + ends,
            f"micro-batch of {shape}, {layers} layers, width {hidden}, MLP {inner}, {n} + {m} heads of {d}, x {item} B",
            "update",
        ),
        Part(
            "attention mask", masks, f"{rows} x {fed} x {before + fed} tokens x {item} B, one for all layers", "update"
        ),
        Part(
            "logits",
            3 * scores,
            f"3 x {rows} x {after} tokens x {weights.head.shape[0]:,} words, kept and differentiated",
            "update",
        ),
        Part(
            "passing",
            written * (3 * inner + 3 * hidden) * item,
            f"{rows} x {fed} tokens x 3 x ({inner} + {hidden}) x {item} B: gradients within one layer",
            "update",
        ),
    ]


def probe(config: ScaleRLConfig, train_data: str, eval_data: str) -> Speed:
    """Make two updates in a temporary folder and return what they took.

    Before the first update the schedule may want several batches; generation is therefore counted by the token.
    """
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
        beside = isinstance(trainer.generator, GeneratorProcess)
        devices = trainer.log.meter.devices
    if not rows:
        raise UserError(f"{train_data}: holds too few prompts for one update of {config.prompts_per_update}")
    wall = rows[-1]["gpu_hours"] * 3600 / devices
    waited = sum(row["generate_s"] for row in rows)
    busy = sum(row["generator_busy_s"] for row in rows) if beside else waited
    tokens_a_batch = sum(row["length_mean"] * row["reward_count"] for row in rows) / len(rows)
    return Speed(
        generate_s=busy * tokens_a_batch / rows[-1]["tokens_generated"],
        train_s=(wall - waited) / len(rows),
        devices=devices,
        together=beside and config.off_policy_steps > 0,
        source=f"{len(rows)} probe steps of {tokens_a_batch:.0f} tokens",
    )


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
        generate_s=once / RATE,
        train_s=3 * once / RATE,
        devices=2 if config.generator == "process" else 1,
        together=config.generator == "process" and config.off_policy_steps > 0,
        source=f"{work}, at {RATE_TEXT}, which decoding seldom reaches: no probe, for {why}",
    )


def _cannot_probe(config: ScaleRLConfig, needed: int) -> str:
    """Return why no probe steps can be made here, or nothing."""
    if not any(Path(config.model_name).glob("*.safetensors")):
        return f"the weights of {config.model_name} are not here"
    cuda = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
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


def _bytes(weights: AnyWeights) -> int:
    return sum(w.nbytes for w in weights.tensors() if w is not None)
