"""Start a run, or go on with one: check everything that can be checked before a byte is written."""

from __future__ import annotations

import datetime as dt
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from scalerl.architectures import beyond_positions, beyond_text
from scalerl.checkpoint import Checkpoint, drop_newer, read_checkpoint
from scalerl.completions import Generation
from scalerl.config import CHANGEABLE, LAST_BITS, ConfigError, ScaleRLConfig, change_config
from scalerl.controllers import Controllers
from scalerl.curriculum import PromptPool
from scalerl.data import check_apart, encode_prompts, hash_prompts, load_data
from scalerl.describe import clock_of, device_kind, header, machine, reward_module
from scalerl.evalcsv import begin_csv, refuse_foreign_csv, write_csv
from scalerl.learner import Learner
from scalerl.meter import JointMeter, Meter
from scalerl.modelcard import settle
from scalerl.outofmemory import memory_advice
from scalerl.places import DATA, gone_model, read_latest
from scalerl.policy import checkpoint_hash, device_of, load_policy
from scalerl.process import prepare_process
from scalerl.ranks import rank, world_size
from scalerl.remote import Remote
from scalerl.rewards import Scorer, make_scorer
from scalerl.runlog import (
    HEADER_FILE,
    LOG_FILE,
    LOST_FOLDER,
    Resume,
    RunLog,
    UserError,
    lost,
    read_header,
    refuse_if_held,
)
from scalerl.sampler import interruption, make_generator
from scalerl.schedule import Schedule
from scalerl.tasks import thinking_of
from scalerl.train import Progress, Trainer
from scalerl.worker import GeneratorProcess, devices_held


def train(
    config: ScaleRLConfig,
    train_data: str,
    eval_data: str,
    output_dir: str,
    *,
    log_file: str | None = None,
    report: Callable[[Progress], None] = lambda _: None,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
) -> Path:
    """Run a recipe from a starting checkpoint to the first limit reached, and return the run folder.

    Writes ``run.json``, ``log.jsonl``, ``samples.jsonl`` and ``checkpoints/`` (see docs/log-format.md) and the final
    policy as a Hugging Face directory ``model/``. `log_file` also keeps the evaluations as CSV. `say` is given a line
    where prompts are left out.

    Raises
    ------
    UserError
        If configuration, data, model or folder cannot be used; nothing was written then.
    TrainingError
        If a loss or gradient is not finite; the log ends with an event that says so.
    KeyboardInterrupt
        After SIGINT or SIGTERM, when the token in work and a checkpoint are done.
    """
    if rank():
        return _serve(output_dir)
    with memory_advice(config):
        trainer = _build(config, train_data, eval_data, output_dir, log_file=log_file, report=report)
    with closing(trainer.generator), closing(trainer.scorer), closing(trainer.learner):
        trainer.log.refuse_if_taken()
        if (made_for := beyond_positions(trainer.policy.model, config.max_length)) is not None:
            say(beyond_text(config.max_length, made_for))
        for data in (trainer.train_set, trainer.eval_set):
            if data.dropped:
                longest = f"prompt_tokens {config.prompt_tokens}"
                say(
                    f"{data.path}: {data.dropped} of {data.dropped + len(data.items)} prompts, over {longest}, left out"
                )
        if trainer.log_file is None:
            return _run(trainer)
        path = Path(trainer.log_file)
        begin_csv(trainer.log.folder, path)
        try:
            return _run(trainer)
        except UserError:
            if not (trainer.log.folder / LOG_FILE).exists():  # the run never began
                path.unlink(missing_ok=True)
            raise


def resume(
    output_dir: str,
    settings: Sequence[str] = (),
    *,
    config: ScaleRLConfig | None = None,
    train_data: str | None = None,
    eval_data: str | None = None,
    log_file: str | None = None,
    report: Callable[[Progress], None] = lambda _: None,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
) -> Path:
    """Go on with a run from its latest whole checkpoint, as if it had never stopped, and return its folder.

    Rows that were logged after the checkpoint move to ``lost/``; what they cost is billed apart.

    Parameters
    ----------
    settings : sequence of str
        ``key=value`` of fields to change: those of `CHANGEABLE` only.
    config : ScaleRLConfig, optional
        Instead of `settings`: the whole configuration, which may differ in those fields only.
    train_data, eval_data : str, optional
        Where the same data lie now; by default where they were.
    log_file : str, optional
        The same as before, or none.
    say : callable
        Is given a line where the result may differ in its last bits, or a checkpoint was damaged.

    Raises
    ------
    UserError
        If there is no run, another process works on it, it is finished, or a field may not change; nothing was
        written then.
    """
    if rank():
        return _serve(output_dir)
    folder = Path(output_dir)
    run = _header(folder)
    stamp = refuse_if_held(folder)
    kept = read_checkpoint(folder, check=lambda state: lost.check_mark(folder, state["mark"]))
    if kept is None and any(row.get("kind") == "step" for row in lost.rows_of(folder)):
        raise UserError(f"{folder}: has made updates, but all of its checkpoints are gone; train in another folder")
    before = kept.state["config"] if kept else run["config"]
    latest = read_latest(folder)  # what a resume changed since that checkpoint stays changed
    config = config or change_config(latest["config"], settings)
    changed = _changed(change_config(before, ()), config)
    csv_path = run.get("log_file")
    if log_file is not None and str(Path(log_file).resolve()) != csv_path:
        raise UserError(f"--log-file: was {csv_path or 'none'} and cannot become {log_file} on a resume")
    found = checkpoint_hash(config.model_name)
    if found is None:
        raise gone_model(config.model_name)
    if found != run["checkpoint"]["sha256"]:
        raise UserError(f"model_name: {config.model_name} is not what the run in {folder} began with; its hash differs")
    damaged = list(kept.damaged) if kept else []
    if gone := lost.missing_bill(folder):
        damaged.append(f"{folder / LOST_FOLDER}: files are gone; the {gone:.3g} GPU-hours in them stay on the bill")
    differs = [*(_differs(kept, config) if kept else []), *_other_reward(run, config)]
    data = {"train": train_data or latest["data"]["train"]["file"], "eval": eval_data or latest["data"]["eval"]["file"]}
    lay = (kept.state.get("data") if kept else None) or {name: run["data"][name]["file"] for name in data}
    changed |= {name: [lay[key], data[key]] for name, key in DATA.items() if lay[key] != data[key]}
    at = Resume(
        step=kept.state["step"] if kept else 0,
        mark=kept.state["mark"] if kept else None,
        stamp=stamp,
        fields={"changed": changed, "differs": differs, "damaged": damaged},
    )
    if csv_path is not None:
        refuse_foreign_csv(folder, Path(csv_path))
    with memory_advice(config, folder):
        about: dict[str, Any] = {"log_file": csv_path, "report": report, "resume": at, "clock": clock_of(run)}
        trainer = _build(config, data["train"], data["eval"], output_dir, **about)
    with closing(trainer.generator), closing(trainer.scorer), closing(trainer.learner):
        for name, found_set in (("train", trainer.train_set), ("eval", trainer.eval_set)):
            if found_set.sha256 != run["data"][name]["sha256"]:
                raise UserError(f"{found_set.path}: is not what the run in {folder} was trained with; its hash differs")
        _refuse_other_prompts(run, trainer)
        if kept is not None:
            trainer.restore(kept.tensors, kept.state)
            _refuse_finished(trainer)
        for line in (*damaged, *differs):
            say(line)
        return _run(trainer)


def _serve(output_dir: str) -> Path:
    """Train with the first process of a run, which alone writes."""
    from scalerl.sharded import follow

    follow()
    return Path(output_dir)


def _header(folder: Path) -> dict[str, Any]:
    """Return the header of a run that can be gone on with."""
    run = read_header(folder)
    parts = ("config", "checkpoint", "data")
    whole = all(isinstance(run.get(name), dict) for name in parts)
    files = [run["checkpoint"], *(run["data"].get(name) for name in ("train", "eval"))] if whole else []
    names = [("sha256",), ("sha256", "file"), ("sha256", "file")]
    if not whole or not all(
        isinstance(file, dict) and all(isinstance(file.get(key), str) for key in keys)
        for file, keys in zip(files, names, strict=True)
    ):
        raise UserError(f"{folder / HEADER_FILE}: was not written by scalerl train; only its runs can be gone on with")
    return run


def _refuse_other_prompts(run: Mapping[str, Any], trainer: Trainer) -> None:
    """Raise `UserError` if the policy would be given other prompts than before; older runs do not say what it was."""
    before = run.get("prompt")
    now = hash_prompts(trainer.prompts, trainer.eval_prompts)
    if isinstance(before, dict) and before.get("sha256") not in (None, now):
        raise UserError(
            f"{trainer.log.folder}: the policy would be given other prompts than before, for its chat template or "
            f"tokenizer makes others of the same data; go on with the versions that {HEADER_FILE} names, or train in "
            "another folder (with a template that is not random)"
        )


def _refuse_finished(trainer: Trainer) -> None:
    """Raise `UserError` if the run came to its end and would do so again at once."""
    rows = [row for row in lost.rows_of(trainer.log.folder) if row.get("kind") != "downstream"]
    if not rows or rows[-1].get("event") != "end":
        return
    limits = [name for name, share in trainer.limits().items() if share >= 1]
    limits += ["early_stopping_patience"] if trainer.controllers.stopping.stopped else []
    reached = [f"{name} {getattr(trainer.config, name)}" for name in limits]
    if reached:
        raise UserError(
            f"{trainer.log.folder}: is finished, {' and '.join(reached)} reached at step {trainer.step}; "
            f"to go on raise it, as in --set {reached[0].split()[0]}=..."
        )
    if trainer.schedule.over:
        raise UserError(f"{trainer.log.folder}: is finished at step {trainer.step}: no prompt is left to train on")


def _run(trainer: Trainer) -> Path:
    folder = trainer.log.folder
    with trainer.log:
        if trainer.log.attempt > 1:
            drop_newer(folder, -1 if trainer.saved is None else trainer.saved)
            if trainer.config.keep_best:
                best = trainer.controllers.best.rise
                settle(folder, None if best.best is None else best.step)
            if trainer.log_file is not None:
                write_csv(folder, Path(trainer.log_file))
        longest, made_for = trainer.config.max_length, beyond_positions(trainer.policy.model, trainer.config.max_length)
        if trainer.saved is None and made_for is not None:
            trainer.log.event("beyond_positions", max_length=longest, positions=made_for)
        with memory_advice(trainer.config, folder):
            trainer.run()
    return folder


def _build(
    config: ScaleRLConfig,
    train_data: str,
    eval_data: str,
    output_dir: str,
    *,
    log_file: str | None,
    report: Callable[[Progress], None],
    resume: Resume | None = None,
    clock: dt.datetime | None = None,
) -> Trainer:
    """Load and check all parts of a run."""
    config.trainable()
    scorer = make_scorer(config)
    about: dict[str, Any] = {"log_file": log_file, "report": report, "at": resume, "clock": clock or dt.datetime.now()}
    try:
        return _assemble(config, scorer, train_data, eval_data, output_dir, **about)
    except BaseException:
        scorer.close()
        raise


def _assemble(
    config: ScaleRLConfig,
    scorer: Scorer,
    train_data: str,
    eval_data: str,
    output_dir: str,
    *,
    log_file: str | None,
    report: Callable[[Progress], None],
    at: Resume | None,
    clock: dt.datetime,
) -> Trainer:
    prepare_process(config.threads)
    device = device_of(config.device)
    task = thinking_of(config)
    train_set, eval_set = load_data(train_data), load_data(eval_data, limit=config.eval_prompts)
    policy = load_policy(
        config.model_name,
        device=device,
        dtype=config.master_dtype,
        prompt_format=config.prompt_format,
        system_prompt=config.system_prompt,
    )._replace(clock=clock)
    check_apart(train_set, eval_set)
    unknown = policy.unknown_id
    train_set, prompts = encode_prompts(
        train_set, policy.encode_item, prompt_tokens=config.prompt_tokens, unknown_id=unknown
    )
    eval_set, eval_prompts = encode_prompts(
        eval_set, policy.encode_item, prompt_tokens=config.prompt_tokens, unknown_id=unknown
    )
    interruption(config, policy, task)  # says what is wrong with the phrase
    learner = _learner(policy, config)
    with ExitStack() as failed:
        failed.callback(learner.close)
        slots = config.slots or config.batch_size
        generator = _generator(config, policy, task, learner, slots)
        failed.callback(generator.close)
        csv_path = None if log_file is None else str(Path(log_file).resolve())
        given = hash_prompts(prompts, eval_prompts)
        about = header(config, policy, train_set, eval_set, prompts_sha256=given, device=device)
        devices, generators_hold = devices_held(config, learner.forward.device)
        log = RunLog(
            output_dir,
            recipe=config.recipe,
            seed=config.seed,
            devices=world_size() - 1 + devices,
            device_kind=device_kind(device),
            header={**about, "log_file": csv_path},
            start_meter=False,
            resume=at,
            report_to=config.report_to,
        )

        def cpu_s() -> float:
            return time.process_time() + learner.others_cpu_s

        if isinstance(generator, Remote):
            log.meter = JointMeter(generator, log.meter.devices, generators_hold, cpu=cpu_s)
        elif world_size() > 1:
            log.meter = Meter(log.meter.devices, cpu=cpu_s)
        trainer = Trainer(
            config=config,
            policy=policy,
            task=task,
            scorer=scorer,
            train_set=train_set,
            eval_set=eval_set,
            prompts=prompts,
            eval_prompts=eval_prompts,
            log=log,
            generator=generator,
            schedule=Schedule(
                prompts=config.prompts_per_update,
                generations=config.generations_per_prompt,
                slots=slots,
                k=config.off_policy_steps,
                scheme=config.off_policy,
                lead=config.lead,
            ),
            pool=PromptPool(
                len(prompts), config.seed, config.resampling_threshold if config.no_positive_resampling else None
            ),
            learner=learner,
            controllers=Controllers(config),
            log_file=csv_path,
            report=report,
        )
        failed.pop_all()
    if isinstance(generator, Remote):
        generator.on_replaced = trainer.note_replaced
    return trainer


def _learner(policy: Any, config: ScaleRLConfig) -> Learner:
    """Return the learner of a run; where several processes were started for it, each holds a share."""
    if world_size() == 1:
        return Learner(policy.model, config)
    from scalerl.sharded import lead

    return lead(policy.model, config)


def _generator(config: ScaleRLConfig, policy: Any, task: Any, learner: Learner, slots: int) -> Generation:
    if config.engine == "vllm":
        from scalerl.vllmstart import refuse_no_vllm

        refuse_no_vllm()
    if config.generator == "ray":
        from scalerl.raygenerators import RayGenerators

        return RayGenerators(config, policy, learner.forward, learner.weights(), slots=slots)
    if config.generator == "process":
        return GeneratorProcess(config, policy, learner.forward, learner.weights(), slots=slots)
    return make_generator(config, policy, task, learner.forward, learner.weights(), slots=slots, seed=config.seed)


def _changed(old: ScaleRLConfig, new: ScaleRLConfig) -> dict[str, list[Any]]:
    """Return the fields that changed, with both values.

    Raises
    ------
    ConfigError
        If one of them may not.
    """
    changed = {
        name: [getattr(old, name), getattr(new, name)]
        for name in ScaleRLConfig.model_fields
        if getattr(old, name) != getattr(new, name)
    }
    allowed = CHANGEABLE - ({"checkpoint_every"} if old.in_flight == new.in_flight == "refresh" else set())
    wrong = [name for name in changed if name not in allowed]
    if wrong:
        lines = [f"{name}: {changed[name][0]!r} cannot become {changed[name][1]!r} on a resume" for name in wrong]
        raise ConfigError("\n".join([*lines, f"what may change: {', '.join(sorted(allowed))}"]))
    return changed


def _differs(kept: Checkpoint, config: ScaleRLConfig) -> list[str]:
    """Return what keeps the run from going on bit for bit."""
    then = {**kept.state["machine"], **{name: kept.state["config"].get(name) for name in LAST_BITS}}
    now = {**machine(config), **config.model_dump(include=set(LAST_BITS))}
    return [
        f"{name} was {before!r} and is {now.get(name)!r} now: the run goes on, but not bit for bit"
        for name, before in then.items()
        if name != "cores" and before != now.get(name)
    ]


def _other_reward(run: Mapping[str, Any], config: ScaleRLConfig) -> list[str]:
    """Return the line that says that the reward's module is another file than the run began with; older runs have none.

    It is no reason to refuse: a comment changes the hash, too.
    """
    before, now = run.get("reward_module"), reward_module(config)
    if not isinstance(before, dict) or now is None or before.get("sha256") == now["sha256"]:
        return []
    return [f"reward: {now['file']} has changed since the run began: from here on the new one scores"]
