"""A policy that a run leaves behind: its model card, and ``best/``, which is never half there.

The card says where the policy comes from, from the facts that lie beside it (``policy.json``); the same facts and the
same curve give the same card. The curve is fitted by the analysis, which the trainer does not know: a card is written
without one, and whoever knows both adds it (`add_curve`).

``best/`` is written as ``best.part/``, with ``policy.json`` last, and takes its name after the checkpoint that knows of
it is on disk (`take_place`). A run that was killed between the two finishes or forgets it when it goes on (`settle`).
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scalerl.runlog import BEST_FOLDER, UserError, read_regular, write_json

FACTS_FILE, CARD_FILE = "policy.json", "README.md"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
NO_CURVE = "No curve has been fitted yet: `scalerl fit` on the run folder makes one."


def facts(header: Mapping[str, Any], evaluation: Mapping[str, Any], highest_of: int | None = None) -> dict[str, Any]:
    """Return where a policy comes from.

    Parameters
    ----------
    header : mapping
        ``run.json`` of the run.
    evaluation : mapping
        The eval row of the policy.
    highest_of : int, optional
        Of how many evaluations its pass rate is the highest, where the policy was chosen for that.
    """
    axes = ("step", "gpu_hours", "cpu_s", "tokens_generated", "tokens_trained", "flops")
    return {
        "recipe": header["recipe"],
        "seed": header["seed"],
        "base_model": {**header["checkpoint"], "hub": on_hub(header["checkpoint"]["name"])},
        "data": {name: {key: data[key] for key in ("items", "sha256")} for name, data in header["data"].items()},
        "devices": header["devices"],
        "versions": header["versions"],
        "compute": {axis: evaluation[axis] for axis in axes},
        "pass_rate": evaluation["pass_rate"],
        "pass_rate_se": standard_error(evaluation["correct"], evaluation["k"]),
        "highest_of": highest_of,
        "evaluation": {key: evaluation[key] for key in ("n_prompts", "k", "temperature", "prompt_set")},
        "config": header["config"],  # so that the policy is asked and scored as it was, wherever it is taken to
    }


def on_hub(name: str) -> bool:
    """Return whether a name is one of the hub's, and no folder's that is here."""
    return HUB_NAME.fullmatch(name) is not None and not Path(name).exists()


def standard_error(correct: Sequence[int], k: int) -> float | None:
    """Return the standard error of a pass rate over prompts: their spread / sqrt(n); None for a single prompt.

    It holds both what sampling k completions and what drawing these prompts adds.

    Examples
    --------
    >>> standard_error([0, 4], k=4)
    0.5
    """
    n = len(correct)
    if n < 2:
        return None
    rates = [c / k for c in correct]
    mean = sum(rates) / n
    return math.sqrt(sum((rate - mean) ** 2 for rate in rates) / (n - 1) / n)


def card(known: Mapping[str, Any], curve: str | None = None) -> str:
    """Return the text of a model card.

    Parameters
    ----------
    known : mapping
        What `facts` returned.
    curve : str, optional
        What a fit says of the run's curve, as it prints; or why there is none.
    """
    base, data, evaluation = known["base_model"], known["data"], known["evaluation"]
    compute, se = known["compute"], known["pass_rate_se"]
    error = "unknown, of a single prompt" if se is None else f"{se:.3g}"
    meta = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    if base.get("hub"):
        meta["base_model"] = base["name"]
    devices = f"{known['devices']['count']} x {known['devices']['kind']}"
    rows = {
        "recipe": known["recipe"],
        "seed": known["seed"],
        "base model": f"{base['name']} (sha256 {base['sha256'] or 'not known'})",
        "step": compute["step"],
        "compute": f"{compute['gpu_hours']:.4g} GPU-hours on {devices}, {compute['cpu_s']:.4g} CPU-seconds, "
        f"{compute['tokens_generated']} tokens generated, {compute['tokens_trained']} trained, "
        f"{compute['flops']:.4g} FLOPs",
        **_training(known.get("config")),
        "pass rate": f"{known['pass_rate']:.4f}, standard error over prompts {error}",
        "evaluation": f"mean@{evaluation['k']} on {evaluation['n_prompts']} held-out prompts at temperature "
        f"{evaluation['temperature']:g} (prompts and answers: sha256 {evaluation['prompt_set']})",
        **{f"{part} data": f"{found['items']} items, sha256 {found['sha256']}" for part, found in data.items()},
        "versions": ", ".join(f"{key} {value}" for key, value in known["versions"].items()),
    }
    lines = [
        *("---", *(f"{key}: {json.dumps(value)}" for key, value in meta.items()), "---", ""),
        *(f"# {_plain(known['recipe'])}, step {compute['step']}", ""),
        *("A policy trained by reinforcement learning on rewards that a program checks.", ""),
        *("| | |", "|---|---|", *(f"| {key} | {_plain(value)} |" for key, value in rows.items()), ""),
        f"The pass rate holds for this task and prompts like these. {_chosen(known)}",
        "",
        "## The run's scaling curve",
        "",
    ]
    lines += [NO_CURVE] if curve is None else [f"    {line}".rstrip() for line in curve.splitlines()]
    return "\n".join(lines) + "\n"


def _training(config: Any) -> dict[str, str]:
    """Return what a configuration says of reward and learning rate; nothing where there is none."""
    if not isinstance(config, Mapping):
        return {}
    reward = f"task {config.get('task')}" if config.get("reward") is None else str(config["reward"])
    rate = f"{config.get('learning_rate'):g} after {config.get('warmup_steps')} steps of warm-up"
    if config.get("lr_schedule") == "plateau":  # a field that configurations of older versions have not
        rate += f", x {config.get('plateau_factor'):g} on a plateau of the pass rate"
    return {"reward": reward, "learning rate": rate}


def _chosen(known: Mapping[str, Any]) -> str:
    """Return whether a pass rate was chosen for being high, and so is too high on average."""
    count = known.get("highest_of", 0)
    if count is None:
        return "It is of the run's last policy and was not chosen."
    if count == 1:
        return "It is of the only evaluation so far and was not chosen."
    many = count or "many"  # facts of older versions do not say how many, nor whether it was chosen
    text = f"the highest of {many} evaluations, and so on average a little too high."
    return f"It is {text}" if count else f"Where the policy lies in {BEST_FOLDER}/, it is {text}"


def write_card(folder: Path, known: Mapping[str, Any]) -> None:
    """Write card and facts of the policy in a folder, the facts last.

    Raises
    ------
    UserError
        If they cannot be written.
    """
    try:
        _put_card(folder, card(known))
        write_json(folder / FACTS_FILE, known)
    except OSError as error:
        raise UserError(f"{folder}: the model card cannot be written: {error.strerror}") from error


def add_curve(folder: Path, curve: str) -> bool:
    """Write the card of a policy once more, with its run's curve; return False where no facts lie in the folder."""
    known = read_facts(folder)
    if known is None:
        return False
    try:
        _put_card(folder, card(known, curve))
    except OSError as error:
        raise UserError(f"{folder / CARD_FILE}: cannot be written: {error.strerror}") from error
    return True


def count_evaluations(run: Path, count: int) -> None:
    """Say in ``best/`` of how many evaluations it is the highest, where there is one; those after it count, too."""
    known = read_facts(run / BEST_FOLDER)
    if known is not None:
        write_card(run / BEST_FOLDER, {**known, "highest_of": count})


def _put_card(folder: Path, text: str) -> None:
    beside = folder / f"{CARD_FILE}.part"
    beside.write_text(text, encoding="utf-8")
    beside.replace(folder / CARD_FILE)


def read_facts(folder: Path) -> dict[str, Any] | None:
    """Return the facts that lie beside a policy; None where there are none, so that it is not known to be whole."""
    try:
        found = json.loads(read_regular(folder / FACTS_FILE))
    except (UserError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def write_best(run: Path, save: Callable[[Path], None], known: Mapping[str, Any]) -> None:
    """Write a policy as ``best.part/`` and bring it to the disk; ``best/`` stays what it is until `take_place`.

    Parameters
    ----------
    save : callable
        Writes model and tokenizer into a folder.

    Raises
    ------
    UserError
        If it cannot be written.
    """
    beside = run / f"{BEST_FOLDER}.part"
    shutil.rmtree(beside, ignore_errors=True)
    try:
        save(beside)
        (beside / CARD_FILE).write_text(card(known), encoding="utf-8")
        for path in (*beside.iterdir(), beside):
            _sync(path)
        write_json(beside / FACTS_FILE, known)
    except (OSError, UserError) as error:
        shutil.rmtree(beside, ignore_errors=True)
        if isinstance(error, UserError):
            raise
        raise UserError(f"{run / BEST_FOLDER}: the best policy cannot be written: {error.strerror}") from error


def take_place(run: Path) -> None:
    """Let ``best.part/`` take the place of ``best/``; the old one is there until the new one is."""
    best, beside, old = (run / f"{BEST_FOLDER}{suffix}" for suffix in ("", ".part", ".old"))
    if best.exists():
        shutil.rmtree(old, ignore_errors=True)
        best.replace(old)
    beside.replace(best)
    _sync(run)
    shutil.rmtree(old, ignore_errors=True)


def settle(run: Path, step: int | None) -> None:
    """Put in order what a kill left: a whole ``best.part/`` of the step that a checkpoint calls best takes its place.

    Any other one is of an evaluation that is made again.

    Parameters
    ----------
    step : int or None
        Of the best evaluation at the checkpoint; None where there was none.
    """
    best, beside, old = (run / f"{BEST_FOLDER}{suffix}" for suffix in ("", ".part", ".old"))
    known = read_facts(beside)
    if known is not None and step is not None and known.get("compute", {}).get("step") == step:
        take_place(run)
    elif old.exists() and not best.exists():
        old.replace(best)
    for leftover in (beside, old):
        shutil.rmtree(leftover, ignore_errors=True)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _plain(value: object) -> str:
    """Return text on one line that Markdown and HTML take as it stands."""
    text = " ".join(str(value).split())
    return "".join(f"\\{c}" if c in "\\`*|<>[]" else c for c in text if c.isprintable())
