"""A learner over several processes (``torchrun ... -m scalerl train``): weights, gradients and moments are sharded.

The first process runs the loop of `scalerl.train` as a single one does: it alone draws prompts, scores, decides and
writes the log. The others wait for its orders, and where it updates, gathers weights or writes a checkpoint, all of
them do so together.

Parameters become DTensors by torch's own ``fully_shard``. A micro-batch gathers them whole, in the precision in which
they multiply, and the gradient of a gathered weight is summed over the processes, in that of the master weights, as it
is split again. So master weights, gradients and both moments of AdamW, 16 bytes a weight, are split over the processes,
and the copy that multiplies stands whole on each while it computes. Weights of tokens in the loss are computed over the
whole batch before it is split: an update does not depend on how many processes make it, rounding apart.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.func import functional_call

from scalerl.completions import Completion
from scalerl.config import ConfigError, ScaleRLConfig
from scalerl.forward import AnyWeights, head_weights
from scalerl.gather import gathered, local, refuse_other_models
from scalerl.kept import pack, unpack
from scalerl.learner import Batch, Learner, TrainingError, UpdateStatistics, micro_batches
from scalerl.orders import leave, meet, receive, saying, send
from scalerl.policy import device_of, load_policy
from scalerl.process import prepare_process
from scalerl.ranks import rank, world_size
from scalerl.shards import SharesError, check_shards, write_shards


class ShardedLearner(Learner):
    """Hold a share of the model and its optimizer; the interface is `scalerl.learner.Learner`.

    The first process calls its methods; the others run `serve`.

    Raises
    ------
    ConfigError
        If the configuration asks for what is not done over several processes.
    """

    def __init__(self, model: Any, config: ScaleRLConfig) -> None:
        _refuse(config)
        self._ordered = rank() > 0  # whether all processes are inside one order already
        self._cell = _Cell(model)
        super().__init__(model, config)

    def _place(self) -> None:
        """Split the parameters over all processes, which must have loaded the same."""
        refuse_other_models(self.model, self.config.model_name)
        # What is not cast before it multiplies is gathered as it is: the head, and with adapters all that they add to.
        wide = {id(w) for w in head_weights(self.model)} if self.config.use_fp32_lm_head else set()
        adapters = self.config.lora_rank is not None
        self._wide = {name for name, p in self.model.named_parameters() if adapters or id(p) in wide}
        device = self.forward.device.type
        self.mesh = init_device_mesh(device, (world_size(),))
        fully_shard(self.model, mesh=self.mesh)

    def weights(self) -> AnyWeights:
        """Return the current weights, whole; an order to all."""
        with self._together("weights"):
            narrow = self.forward.dtype
            whole = {
                f"model.{name}": gathered(p, p.dtype if name in self._wide else narrow)
                for name, p in self.model.named_parameters()
            }
            weights: AnyWeights = functional_call(self._cell, whole, (super().weights,))
            return weights

    def update(self, batch: Batch, step: int) -> dict[str, Any]:
        """Make an update together; see `Learner.update`."""
        if not batch.completions:
            return super().update(batch, step)
        tensors = {"advantages": batch.advantages, "weights": batch.weights, **pack(batch.completions)}
        with self._together("update", tensors, step=step, peak_rate=self.peak_rate):
            return super().update(batch, step)

    def write(self, folder: Path) -> None:
        """Write every process's share into a folder that all of them see."""
        with self._together("write", folder=str(folder)):
            groups = super().save()
            shares = {f"{group}.{name}": t for group, kept in groups.items() for name, t in kept.items()}
            write_shards(folder, shares)
            if rank() == 0:
                check_shards(folder, {name: t.shape for name, t in shares.items()})

    def save(self) -> dict[str, dict[str, Tensor]]:
        """Return nothing: `write` writes it."""
        return {}

    def load(self, kept: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Go on with what `Learner.save` returned, whole, in the first process."""
        with self._together("load"):
            names = ("step", "exp_avg", "exp_avg_sq")
            for name, p in self.trainable().items():
                shared = self._split(kept.get("model", {}).get(name), p)
                assert shared is not None  # noqa: S101 - what is trained is in every checkpoint
                with torch.no_grad():
                    p.copy_(shared)
                moments = {key: self._split(kept.get("optimizer", {}).get(f"{name}.{key}"), p) for key in names}
                self.optimizer.state[p] = {key: value for key, value in moments.items() if value is not None}

    def run_whole(self, action: Callable[[], None]) -> None:
        """Gather the model in the memory of the first process, and run something there while it is a plain one."""
        with self._together("run_whole"), torch.no_grad():
            whole: dict[str, Tensor] = {}
            for name, p in self.model.named_parameters():
                full = gathered(p)
                if rank() == 0:
                    whole[f"model.{name}"] = nn.Parameter(full.cpu(), requires_grad=p.requires_grad)
        if rank() == 0:  # outside the order: if it fails, the others wait for the next one
            functional_call(self._cell, whole, (action,))

    def serve(self) -> None:
        """Do what the first process orders, until it orders no more."""
        while (order := receive())["order"] != "end":
            with suppress(TrainingError, SharesError):  # the first process says it
                self._obey(**order)

    def close(self) -> None:
        """Let the other processes go; where one failed inside an order they see the connection close."""
        if not self._ordered and dist.is_initialized():
            with suppress(RuntimeError):  # one that is gone was told of, or nobody waits for it
                send("end")
        leave()

    def _obey(self, order: str, tensors: dict[str, Tensor], **content: Any) -> None:
        if order == "update":
            began = time.process_time()
            self.peak_rate = content["peak_rate"]
            advantages, weights = tensors.pop("advantages"), tensors.pop("weights")
            self.update(Batch(unpack(tensors), advantages, weights), content["step"])
            self.others_cpu_s += time.process_time() - began
        elif order == "write":
            self.write(Path(content["folder"]))
        elif order == "load":
            self.load({})
        elif order == "run_whole":
            self.run_whole(lambda: None)
        else:
            with torch.no_grad():
                self.weights()

    @contextmanager
    def _together(self, order: str, tensors: Mapping[str, Tensor] | None = None, **content: Any) -> Iterator[None]:
        """Give an order, unless this is part of one; what is entered is done by all."""
        if self._ordered:
            yield
            return
        self._ordered = True  # and it stays so if this fails: the others are no longer where an order finds them
        with saying("another process of this run is gone; go on from the latest checkpoint with --resume"):
            send(order, tensors, **content)
            try:
                yield
            except (TrainingError, SharesError):  # all have come to it, and wait for the next order
                self._ordered = False
                raise
        self._ordered = False

    def _shares(self, completions: Sequence[Completion]) -> Iterator[tuple[list[int], bool]]:
        """Yield this process's micro-batches, as many as every other has: what is only there for that counts for
        nothing."""
        budget = self.config.micro_batch_tokens
        chosen = list(micro_batches(completions, budget))
        while len(chosen) < min(world_size(), len(completions)):
            budget //= 2
            chosen = list(micro_batches(completions, budget))
        for first in range(0, len(chosen), world_size()):
            mine = first + rank()
            yield (chosen[mine], True) if mine < len(chosen) else (chosen[first], False)

    def _sum(self, statistics: UpdateStatistics) -> None:
        """Add up over the processes what each has counted in an update."""
        names = list(statistics.sums)
        own = [statistics.tokens, statistics.loss, statistics.clipped, *(statistics.sums[name] for name in names)]
        run = [self.prompt_tokens, self.micro_batches, self.others_cpu_s if rank() else 0.0]
        total = torch.tensor([*own, *run], dtype=torch.float64)
        most = torch.tensor([statistics.ratio_max, statistics.diff_max, *statistics.not_finite], dtype=torch.float64)
        dist.all_reduce(total, dist.ReduceOp.SUM)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        tokens, statistics.loss, clipped, *sums = total[: len(own)].tolist()
        statistics.tokens, statistics.clipped = int(tokens), int(clipped)
        statistics.sums = dict(zip(names, sums, strict=True))
        statistics.ratio_max, statistics.diff_max, *wrong = most.tolist()
        statistics.not_finite = wrong[0], wrong[1]
        if rank():
            self.prompt_tokens = self.micro_batches = 0
            self.others_cpu_s = 0.0
        else:
            prompt_tokens, passes, cpu_s = total[len(own) :].tolist()
            self.prompt_tokens, self.micro_batches = int(prompt_tokens), int(passes)
            self.others_cpu_s += cpu_s

    def _clip(self) -> float:
        """Clip the gradient by the norm over all shares."""
        norm = torch.nn.utils.clip_grad_norm_(self.trainable().values(), self.config.max_grad_norm)
        return float(gathered(norm))

    def _wrong(self) -> str | None:
        """Name the first parameter whose gradient is not finite, in any share."""
        named = [(name, p.grad) for name, p in self.trainable().items() if p.grad is not None]
        flags = torch.stack([(~torch.isfinite(local(grad))).any() for _, grad in named]).float().cpu()
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return next((name for (name, _), wrong in zip(named, flags.tolist(), strict=True) if wrong), None)

    def _split(self, whole: Tensor | None, like: Tensor) -> Tensor | None:
        """Return this process's share of what the first one has, as a parameter is split; a number is the same to all.

        None everywhere if the first process has None.
        """
        header = torch.zeros(2)
        if rank() == 0 and whole is not None:
            header = torch.tensor([1.0, float(whole.ndim == 0)])
        dist.broadcast(header, 0)
        there, number = header.tolist()
        if not there:
            return None
        if number:
            value = torch.zeros(()) if whole is None else whole.clone().float()
            dist.broadcast(value, 0)
            return value
        assert isinstance(like, DTensor)  # noqa: S101 - all parameters are
        full = torch.empty(like.shape, dtype=like.dtype, device=like.device)
        if whole is not None:
            full.copy_(whole)
        return distribute_tensor(full, self.mesh, like.placements)


def lead(model: Any, config: ScaleRLConfig) -> ShardedLearner:
    """Make the learner of the first process, and tell the others to make theirs.

    Raises
    ------
    UserError
        If another process ends meanwhile, as one that cannot load its model does.
    """
    _refuse(config)
    meet()
    with saying("another process of this run ended at its start; its own line says why"):
        send("begin", config=config.model_dump(mode="json"))
        return ShardedLearner(model, config)


def follow() -> None:
    """Run a process that is not the first: make a learner as it is told and do what it is ordered.

    Raises
    ------
    UserError
        If the first process is gone.
    """
    ends = (signal.SIGINT, signal.SIGTERM)
    for number in ends:  # until all have met there is nothing to finish, and Python's handlers do not run meanwhile
        signal.signal(number, signal.SIG_DFL)
    try:
        with saying(f"process {rank()}: the first process of this run, or another, is gone"):
            meet()
            for number in ends:  # sent to all of a run: the first process decides what is done before
                signal.signal(number, signal.SIG_IGN)
            config = ScaleRLConfig(**receive()["config"])
            prepare_process(config.threads)
            policy = load_policy(config.model_name, device=device_of(config.device), dtype=config.master_dtype)
            with suppress(ConfigError):  # the first process says it
                ShardedLearner(policy.model, config).serve()
    finally:
        leave()


def _refuse(config: ScaleRLConfig) -> None:
    """Raise `ConfigError` for what is not done over several processes."""
    if config.dtype == "float16":
        raise ConfigError("dtype: float16 is not trained over several processes; set it to bfloat16 or float32")
    if config.generator == "process" and device_of(config.device) == "cuda":
        raise ConfigError("generator: process would take a GPU of a learner of several processes; set it to ray")


class _Cell(nn.Module):
    """A model in a module that runs a function: called by `functional_call`, other weights stand in the model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, action: Callable[[], Any]) -> Any:
        """Run a function."""
        return action()
