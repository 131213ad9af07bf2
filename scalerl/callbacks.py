"""Log a run of Hugging Face's Trainer, or of TRL's GRPOTrainer and its like, as a run folder that outlives kills.

    log = ScaleRLCallback("runs/mine", recipe="mine", pass_rate="eval_rewards/right/mean")
    trainer = GRPOTrainer(..., callbacks=[log])
    trainer.train(resume_from_checkpoint=...)

Promises: every figure that the trainer logs is in a step row, every evaluation is an eval row, with GPU-hours beside it
that count wall time x devices from the start of training and leave out evaluations and checkpoints. A run that was
killed and goes on from the trainer's own checkpoint has its axis where it was; rows behind the checkpoint move to
``lost/`` and are billed. ``trainer_state.json`` has seconds of evaluations (``eval_runtime``) and with TRL of
steps (``step_time``): no total, no time of saves or between steps, and nothing of the branch that was given up.

Does not promise: the seconds between the trainer's last log of a step and a kill; nothing saw them.
"""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from scalerl.runlog import COMPUTE_AXES, RunLog, UserError
from scalerl.runlog.folder import RESERVED

# What TRL calls figures that step rows have (docs/log-format.md); others keep their names.
NAMES = {
    "completions/mean_length": "length_mean",
    "completions/clipped_ratio": "truncation_rate",
    "frac_reward_zero_std": "zero_variance_share",
    "clip_ratio/region_mean": "clipped_share",
    "sampling/importance_sampling_ratio/mean": "ratio_mean",
    "sampling/importance_sampling_ratio/max": "ratio_max",
    "sampling/sampling_logp_difference/mean": "logprob_diff_mean",
    "sampling/sampling_logp_difference/max": "logprob_diff_max",
}
TAKEN = RESERVED | COMPUTE_AXES.keys() | {"rewards"}  # names of figures that the log's own fields have
_say = logging.getLogger("scalerl.callbacks")
PassRate = str | Callable[[Mapping[str, Any]], float | Mapping[str, Any] | None]


class ScaleRLCallback(TrainerCallback):
    """Write a run folder while a Trainer trains, and go on with it where the Trainer goes on.

    Parameters
    ----------
    folder : path
        The run folder; best inside or beside the trainer's ``output_dir``, and one for each run.
    recipe : str
        Name under which runs are compared.
    pass_rate : str or callable
        Which metric of an evaluation is the pass rate, a fraction, such as ``"eval_rewards/right/mean"`` for a reward
        function ``right`` that gives 0 or 1; or a function of all metrics of an evaluation that returns the pass rate,
        a mapping of arguments of `RunLog.evaluate` (``correct`` and ``k`` say more), or None for no row. Of several
        evaluation data sets the first that has it is the curve, one row a step: name one by its metric
        (``"eval_NAME_hits"``). TRL's rewards have no name of a data set in theirs, so there it is the first.
    seed : int, optional
        That of the trainer's arguments if not given.
    devices : int, optional
        Devices held for the run; processes x GPUs of each, by the trainer's arguments, if not given. Say it where other
        devices generate, such as a vLLM server's.
    n_prompts, k : int, optional
        Held-out prompts, and completions of each; those of the trainer's evaluation set and arguments if not given.
    report_to : sequence of str
        Mirrors, as for `RunLog`; the trainer has its own ``report_to`` beside it.

    Raises
    ------
    UserError
        In training: if the folder holds another run, or no evaluation of the first ones has such a metric.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        recipe: str,
        pass_rate: PassRate,
        seed: int | None = None,
        devices: int | None = None,
        n_prompts: int | None = None,
        k: int | None = None,
        report_to: Sequence[str] = (),
    ) -> None:
        self.folder, self.recipe, self.pass_rate = folder, recipe, pass_rate
        self.seed, self.devices, self.report_to = seed, devices, tuple(report_to)
        self.n_prompts, self.k = n_prompts, k
        self.log: RunLog | None = None
        self._extra: dict[str, Any] = {}
        self._metrics: dict[str, Any] = {}
        self._evaluated: int | None = None  # step of the last eval row
        self._seen: set[str] = set()  # metrics of evaluations before the first row

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin the log, or go on with it from the step of the trainer's checkpoint."""
        if not state.is_world_process_zero:
            return
        if self.log is not None:  # an error ended a training before, in this process
            self.log.close()
        log = RunLog(
            self.folder,
            recipe=self.recipe,
            seed=args.seed if self.seed is None else self.seed,
            devices=self.devices or max(1, args.n_gpu) * args.world_size,
            device_kind=_kind(args),
            header={"config": args.to_sanitized_dict(), "versions": _versions()},
            resume_step=state.global_step,
            start_meter=not args.eval_on_start,  # the first step starts it
            report_to=self.report_to,
        )
        self.log = log.__enter__()
        self._extra, self._metrics, self._evaluated, self._seen = {}, {}, None, set()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count time from here; it stood still if there was an evaluation or a checkpoint."""
        if self.log is not None:
            if self._seen:  # all data sets had their turn
                raise UserError(self._missing())
            self.log.meter.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Let the time stand still where an evaluation or a checkpoint comes."""
        if self.log is not None and (control.should_evaluate or control.should_save):
            self.log.meter.stop()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """As at the end of a step."""
        self.on_step_end(args, state, control, **kwargs)

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let the time stand still in an evaluation that nobody announced."""
        if self.log is not None:
            self.log.meter.stop()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write a step row; keep what is not of one: metrics of an evaluation, which come before `on_evaluate`."""
        if self.log is None or not logs or "train_runtime" in logs:  # the last one is of the whole training
            return
        figures = {NAMES.get(name, f"logged_{name}" if name in TAKEN else name): v for name, v in logs.items()}
        if any(name.startswith("eval_") for name in logs):
            self._metrics |= logs
        elif "loss" not in logs or state.global_step <= self.log.last_step:  # of somebody's own `trainer.log`
            self._extra |= figures
        else:
            self.log.step(state.global_step, **{**self._extra, **figures})
            self._extra = {}

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write an eval row; of several data sets, each with a call of its own, the first that has the pass rate."""
        if self.log is None:
            return
        found, self._metrics = {**self._metrics, **(metrics or {})}, {}
        told = None if self._evaluated == state.global_step else self._told(found)
        if told is None:
            return
        counts: dict[str, Any] = {}
        if "correct" not in told:
            k = self.k or getattr(args, "num_generations_eval", None) or getattr(args, "num_generations", None)
            counts = {"n_prompts": self.n_prompts or _prompts(kwargs.get("eval_dataloader"))}
            counts |= {} if k is None else {"k": k}
        runtime = [value for name, value in found.items() if name.startswith("eval_") and name.endswith("_runtime")]
        seconds = {"evaluate_s": runtime[0]} if runtime else {}
        self.log.evaluate(**{**counts, **seconds, "step": state.global_step, **told})
        self._evaluated, self._seen = state.global_step, set()

    def _told(self, found: Mapping[str, Any]) -> Mapping[str, Any] | None:
        if callable(self.pass_rate):
            told = self.pass_rate(found)
            return told if told is None or isinstance(told, Mapping) else {"pass_rate": told}
        if self.pass_rate in found:
            return {"pass_rate": found[self.pass_rate]}
        if self._evaluated is None:
            self._seen |= found.keys()
        return None

    def _missing(self) -> str:
        return f"pass_rate: an evaluation has no metric {self.pass_rate!r:.80}; it has {', '.join(sorted(self._seen))}"

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Note what was spent by this checkpoint."""
        if self.log is not None:
            self.log.saved(state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End the log."""
        if self.log is not None:
            self.log.__exit__(None, None, None)
            self.log = None
            if self._seen:  # too late to refuse: the training is done
                _say.warning("%s: %s", self.folder, self._missing())


def _prompts(loader: Any) -> int | None:
    data = getattr(loader, "dataset", None)
    return None if data is None or not hasattr(data, "__len__") else len(data)


def _kind(args: TrainingArguments) -> str:
    if args.device.type == "cuda":
        import torch

        return str(torch.cuda.get_device_name(args.device))
    return f"{args.device.type} process"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("scalerl", "torch", "transformers", "trl", "accelerate"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
