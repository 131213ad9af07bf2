"""What a run decides by itself, in real runs and over kills.

In runs a pass rate is sampled from 8 prompts, so that at a learning rate of next to nothing it goes up and down.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import analysis as an
from scalerl import controllers
from scalerl.checkpoint import read_checkpoint
from scalerl.commands.train import curve_text
from scalerl.config import load_config
from scalerl.generate import Generator
from scalerl.policy import Policy, load_policy
from scalerl.runlog import TIME_FIELDS, UserError, read_header, read_log
from scalerl.saved import step_of
from scalerl.start import resume, train
from scalerl.train import Trainer
from tests.made import as_run
from tests.made_rates import STILL, torch_rates

# ---- in runs


SMALL = {"batch_size": 16, "generations_per_prompt": 4, "eval_generations": 2, "eval_every": 1, "checkpoint_every": 3}
SMALL |= {"max_steps": 6}


def begin(folder: Path, prompts: Path, report=lambda _: None, **fields) -> Path:
    config = load_config(["scalerl", "demo"], [f"{name}={value}" for name, value in {**SMALL, **fields}.items()])
    return train(config, str(prompts / "train.json"), str(prompts / "eval.json"), str(folder), report=report)


@pytest.fixture
def start(prompts, tmp_path):
    return lambda name="run", **fields: begin(tmp_path / name, prompts, **fields)


@pytest.fixture(scope="module")
def once(prompts, tmp_path_factory):
    """Runs that several tests compare with: each is made once."""
    made: dict[str, Path] = {}

    def make(**fields) -> Path:
        key = json.dumps(fields)
        if key not in made:
            made[key] = begin(tmp_path_factory.mktemp("once") / "run", prompts, **fields)
        return made[key]

    return make


DECISIONS = ("learning_rate", "batch_size", "best", "early_stop")
TIMED = TIME_FIELDS | {"attempt", "efficiency", "flops_per_s", "reason"}


def rows_of(folder: Path) -> list[dict]:
    """Rows of the curve and decisions, without what two equal runs may differ in."""
    rows = [r for r in read_log(folder / "log.jsonl").rows if r["kind"] != "event" or r["event"] in DECISIONS]
    return [{name: value for name, value in row.items() if name not in TIMED} for row in rows]


def events_of(folder: Path, name: str) -> list[dict]:
    return [row for row in read_log(folder / "log.jsonl").rows if row.get("event") == name]


def column(folder: Path, kind: str, name: str) -> list:
    return [row[name] for row in read_log(folder / "log.jsonl").rows if row["kind"] == kind]


def test_a_run_lowers_its_learning_rate_as_torch_would_and_the_analysis_says_so(start):
    folder = start(**STILL, lr_schedule="plateau", plateau_patience=1, max_steps=9)
    config = load_config(
        [], [f"{k}={v}" for k, v in {**STILL, "lr_schedule": "plateau", "plateau_patience": 1}.items()]
    )
    expected = torch_rates(config, column(folder, "eval", "pass_rate"))
    assert column(folder, "step", "learning_rate") == expected[:-1] and len(set(expected)) > 2
    events = events_of(folder, "learning_rate")
    changes = [(step, a, b) for step, (a, b) in enumerate(pairwise(expected), 1) if a != b]
    assert [(event["step"], event["old"], event["new"]) for event in events] == changes
    found = an.read(folder)[0].events
    assert [(event.kind, event.at["step"]) for event in found] == [("learning_rate", step) for step, _, _ in changes]
    assert found[0].what == f"learning rate from {changes[0][1]:.4g} to {changes[0][2]:.4g}"
    fit = an.fit(an.read(folder)[0], x="step")
    assert "regime" in [f.code for f in fit.findings]


def test_a_constant_run_decides_nothing(start):
    folder = start(keep_best="true", early_stopping_patience=99)
    assert not events_of(folder, "learning_rate") and not events_of(folder, "batch_size")
    assert an.read(folder)[0].events == ()
    assert "regime" not in [f.code for f in an.fit(an.read(folder)[0], x="step").findings]
    assert read_header(folder)["not_reproducible"] == []


SIZES = {16: 24, 24: 12, 12: 16}


@pytest.fixture
def scripted(monkeypatch):
    """Sizes that follow one another whatever the clock says, so that runs can be compared."""
    monkeypatch.setattr(controllers, "next_batch_size", lambda size, *_, **__: SIZES[size])


DYNAMIC = {"dynamic_batch_size": "true", "batch_size_min": 4, "batch_size_max": 64, "batch_size_every": 2}


@pytest.mark.parametrize("scheme", [{"off_policy_steps": 2}, {"off_policy": "ppo", "off_policy_steps": 2}])
def test_a_dynamic_batch_is_trained_at_its_size_with_its_lag_and_marked_as_not_reproducible(start, scripted, scheme):
    folder = start(**DYNAMIC, **scheme, max_steps=14, max_gpu_hours=100)
    sizes, events = column(folder, "step", "reward_count"), events_of(folder, "batch_size")
    assert set(sizes) == {16, 24, 12} and [size // 4 for size in sizes] == column(folder, "step", "prompts")
    assert max(column(folder, "step", "lag_max")) <= 2 and max(column(folder, "step", "lag_max")) > 0
    for event, after in zip(events, [*events[1:], {"step": 15}], strict=True):
        assert sizes[event["step"] - 1] == event["old"] and type(event["new"]) is int
        between = sizes[event["step"] : after["step"]]
        assert set(between[:3]) <= {event["old"], event["new"]} and between[3:] == [event["new"]] * len(between[3:])
    assert read_header(folder)["not_reproducible"] == ["dynamic_batch_size", "max_gpu_hours"]
    found = an.read(folder)[0].events
    assert [(e.kind, e.what) for e in found] == [
        ("batch", f"batch size from {event['old']} to {event['new']}") for event in events
    ]


@pytest.mark.parametrize("in_flight", ["kv", "refresh"])
@pytest.mark.parametrize("cut", [3, 5, 6])
def test_a_run_that_is_cut_off_around_decisions_makes_the_same_ones(start, once, scripted, in_flight, cut):
    fields = {**STILL, **DYNAMIC, "lr_schedule": "plateau", "plateau_patience": 2, "keep_best": "true"}
    fields |= {"in_flight": in_flight, "early_stopping_patience": 30, "off_policy_steps": 1, "eval_every": 2}
    whole, short = once(**fields, max_steps=8), start("short", **fields, max_steps=cut)
    resume(str(short), ["max_steps=8"], say=pytest.fail)
    assert rows_of(short) == rows_of(whole)
    for name in ("learning_rate", "batch_size", "best"):
        assert len(events_of(whole, name)) >= 1, name
    assert_equal_policies(short / "model", whole / "model")
    assert_equal_policies(short / "best", whole / "best")


def assert_equal_policies(one: Path, other: Path) -> None:
    states = [load_policy(str(folder)).model.state_dict() for folder in (one, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_generator_that_keeps_nothing_goes_on_with_batches_of_other_sizes(start, scripted, monkeypatch):
    """As the one in a process of its own: what is in work is asked for anew, from the first batch not trained."""
    monkeypatch.setattr(Generator, "state", lambda *_, **__: None)
    folder = start(**DYNAMIC, off_policy_steps=1, max_steps=5)
    assert column(folder, "step", "reward_count") == [16, 16, 16, 24, 24]
    resume(str(folder), ["max_steps=7"], say=pytest.fail)
    assert max(column(folder, "step", "lag_max")) <= 1
    assert column(folder, "step", "step") == list(range(1, 8))


# ---- early stopping


def test_a_run_without_a_gain_stops_is_finished_and_goes_on_with_more_patience(start):
    fields = {**STILL, "max_steps": 40, "early_stopping_min_gain": 0.9}
    folder = start("short", **fields, early_stopping_patience=3)
    rates = column(folder, "eval", "pass_rate")
    (event,) = events_of(folder, "early_stop")
    assert column(folder, "eval", "step") == [0, 1, 2, 3] and (folder / "model" / "config.json").is_file()
    assert (event["step"], event["old"], event["new"]) == (3, rates[0], rates[-1])
    assert event["reason"] == f"3 evaluations did not beat the pass rate of {rates[0]:.4g} at step 0 by more than 0.9"
    assert read_log(folder / "log.jsonl").rows[-1]["event"] == "end"
    assert an.read(folder)[0].events == ()
    with pytest.raises(UserError, match=r"is finished, early_stopping_patience 3 reached at step 3.*--set early_s"):
        resume(str(folder), ["max_steps=50"])
    with pytest.raises(UserError, match=r"early_stopping_min_gain: 0\.9 cannot become 0.1 on a resume"):
        resume(str(folder), ["early_stopping_min_gain=0.1"])
    resume(str(folder), ["early_stopping_patience=5"], say=pytest.fail)
    assert rows_of(folder) == rows_of(start("long", **fields, early_stopping_patience=5))


def test_a_run_that_was_killed_before_it_could_say_that_it_stops_says_so_when_it_goes_on(start, monkeypatch):
    fields = {**STILL, "max_steps": 40, "early_stopping_min_gain": 0.9, "early_stopping_patience": 2}
    whole = start("whole", **fields)

    def killed(self, folder):
        raise ZeroDivisionError

    monkeypatch.setattr(Policy, "save", killed)
    with pytest.raises(ZeroDivisionError):
        start("cut", **fields)
    monkeypatch.undo()
    cut = whole.with_name("cut")
    resume(str(cut), say=pytest.fail)
    assert rows_of(cut) == rows_of(whole) and (cut / "model" / "README.md").is_file()


def test_what_a_run_decides_is_told_as_it_happens(start):
    told = []
    fields = {
        "learning_rate": "1e-3",
        "warmup_steps": 0,
        "lr_schedule": "plateau",
        "plateau_patience": 1,
        "max_steps": 40,
    }
    fields |= {"early_stopping_patience": 6, "plateau_min_gain": 0.9, "keep_best": "true"}
    folder = start(**fields, report=lambda progress: told.append(progress.note))
    notes = [note for note in told if note]
    (stop,) = events_of(folder, "early_stop")
    assert notes[-1] == f"stopped at step {stop['step']}: {stop['reason']}; best/ holds the best policy"
    for name, words in (("learning_rate", "learning rate from"), ("best", "new best at step")):
        events = [event for event in events_of(folder, name) if event["old"] is not None]
        assert events and len([note for note in notes if note.startswith(words)]) == len(events)


# ---- the best policy


def best_of(folder: Path) -> tuple[int, float]:
    rows = [row for row in read_log(folder / "log.jsonl").rows if row["kind"] == "eval"]
    best = max(rows, key=lambda row: (row["pass_rate"], -row["step"]))
    return best["step"], best["pass_rate"]


def test_the_best_policy_is_kept_with_a_card_and_nothing_else_changes(start):
    fields = {"learning_rate": "1e-3", "eval_every": 2, "batch_size": 32, "off_policy_steps": 0}
    plain, folder = start("plain", **fields), start("kept", **fields, keep_best="true")
    assert [r for r in rows_of(folder) if r["kind"] != "event"] == rows_of(plain)
    assert not (plain / "best").exists()
    step, rate = best_of(folder)
    known = json.loads((folder / "best" / "policy.json").read_text())
    row = next(r for r in read_log(folder / "log.jsonl").rows if r["kind"] == "eval" and r["step"] == step)
    assert known["compute"] == {a: row[a] for a in known["compute"]} and known["pass_rate"] == rate
    shares = np.array(row["correct"]) / row["k"]
    assert known["pass_rate_se"] == pytest.approx(shares.std(ddof=1) / np.sqrt(len(shares)))
    assert not list(folder.glob("best.*"))
    card = (folder / "best" / "README.md").read_text()
    header = read_header(folder)
    for text in (f"| step | {step} |", f"{rate:.4f}", "| recipe | scalerl |", "| seed | 0 |", row["prompt_set"]):
        assert text in card
    for data in header["data"].values():
        assert data["sha256"] in card
    assert header["checkpoint"]["sha256"] in card and "No curve has been fitted yet" in card
    last = json.loads((folder / "model" / "policy.json").read_text())
    assert last["compute"]["step"] == 6 and f"| step | {step} |" in card
    warmed = header["config"]["warmup_steps"]
    assert "| reward | task chain |" in card and f"| learning rate | 0.001 after {warmed} steps of warm-up |" in card
    # Evaluations at 0, 2, 4, 6, those after the best one included: the maximum of four is too high on average.
    assert (
        known["highest_of"] == 4 and "It is the highest of 4 evaluations, and so on average a little too high." in card
    )
    assert last["highest_of"] is None and "was not chosen" in (folder / "model" / "README.md").read_text()
    events = events_of(folder, "best")
    assert [e["new"] for e in events] == sorted({e["new"] for e in events}) and events[-1]["step"] == step
    # the weights are those of that step: a run that ends there leaves the same
    assert_equal_policies(folder / "best", start("there", **fields, max_steps=max(step, 1)) / "model")


def test_the_best_of_equal_pass_rates_is_the_first(start):
    folder = start(**STILL, keep_best="true", max_steps=3, interruption_tokens=2, thinking_tokens=3, solution_tokens=1)
    assert set(column(folder, "eval", "pass_rate")) == {0.0}, "nobody answers in four tokens"
    assert [e["step"] for e in events_of(folder, "best")] == [0]
    assert json.loads((folder / "best" / "policy.json").read_text())["compute"]["step"] == 0


def test_the_best_policy_is_that_of_the_log_when_a_run_goes_on(start, monkeypatch):
    """The evaluation that ends a run off its turn is the best of all: it is cut off when the run goes on."""
    monkeypatch.setattr("scalerl.train.Trainer._evaluate", _rated(Trainer._evaluate, {0: 0.1, 2: 0.2, 3: 0.9}))
    fields = {**STILL, "eval_every": 2, "keep_best": "true"}
    folder = start("cut", **fields, max_steps=3)
    assert [event["step"] for event in events_of(folder, "best")] == [0, 2] and best_step(folder) == 2
    assert json.loads((folder / "model" / "policy.json").read_text())["compute"]["step"] == 3
    resume(str(folder), ["max_steps=6"], say=pytest.fail)
    whole = start("whole", **fields, max_steps=6)
    assert rows_of(folder) == rows_of(whole)
    assert_equal_policies(folder / "best", whole / "best")
    rows = read_log(folder / "log.jsonl").rows
    kept = step_of(str(folder / "best"), folder, None, rows)
    assert kept == events_of(folder, "best")[-1]["step"] == best_step(folder)
    facts = folder / "best" / "policy.json"  # it is believed before the log
    facts.write_text(facts.read_text().replace(f'"step": {kept}', '"step": 1'))
    assert step_of(str(folder / "best"), folder, None, rows) == 1
    facts.write_text("[]")
    assert step_of(str(folder / "best"), folder, None, rows) is None


def best_step(folder: Path) -> int:
    return json.loads((folder / "best" / "policy.json").read_text())["compute"]["step"]


def _rated(real, rates):
    """Let evaluations at these steps be told to the controllers as so good, at others as worthless."""

    def evaluate(self):
        real(self)
        self.pass_rate = rates.get(self.step, 0.0)

    return evaluate


KILLED = """
import os, signal, sys
import scalerl.modelcard, scalerl.train
from pathlib import Path
from scalerl.config import load_config
from scalerl.start import train
train_data, eval_data, folder, *fields = sys.argv[1:]
real_write, real_place, real_replace = scalerl.modelcard.write_best, scalerl.modelcard.take_place, Path.replace
bests = 0
def die_at(place):
    def die(now):
        if bests == 2 and now == place:
            os.kill(os.getpid(), signal.SIGKILL)
    def write_best(*given):
        global bests
        bests += 1
        real_write(*given)
        die("written")
    def take_place(run):
        die("checkpoint")
        real_place(run)
    def replace(self, target):
        real_replace(self, target)
        if self.name == "best":
            die("renames")
    scalerl.train.write_best, scalerl.train.take_place, Path.replace = write_best, take_place, replace
for place in ("written", "checkpoint", "renames"):
    if not os.fork():
        die_at(place)
        train(load_config(["scalerl", "demo"], fields), train_data, eval_data, folder + place)
        os._exit(1)
    assert os.wait()[1] == signal.SIGKILL, place
"""


@pytest.mark.slow
def test_a_best_policy_is_whole_whenever_the_run_is_killed(once, prompts, tmp_path):
    """SIGKILL when the second best policy is written, when its checkpoint is, and between the two renames."""
    fields = {**STILL, "keep_best": "true"}
    whole = once(**fields)
    assert len(events_of(whole, "best")) > 1
    settings = [f"{name}={value}" for name, value in {**SMALL, **fields}.items()]
    paths = [str(prompts / "train.json"), str(prompts / "eval.json"), str(tmp_path / "at ")]
    subprocess.run([sys.executable, "-c", KILLED, *paths, *settings], check=True)
    for place in ("written", "checkpoint", "renames"):
        folder = tmp_path / f"at {place}"
        there = [path for path in folder.glob("best*") if (path / "policy.json").is_file()]
        assert len(there) == 2 and all(load_policy(str(path)) for path in there)
        assert (folder / "best").exists() == (place != "renames")
        second = events_of(whole, "best")[1]["step"]
        assert second % SMALL["checkpoint_every"], "a step that has no checkpoint but for its policy"
        assert (read_checkpoint(folder).state["step"] == second) == (place != "written")
        resume(str(folder), say=pytest.fail)
        assert rows_of(folder) == rows_of(whole)
        assert [path.name for path in folder.glob("best*")] == ["best"]
        assert_equal_policies(folder / "best", whole / "best")


def test_a_best_policy_that_cannot_be_written_leaves_the_old_one(start, monkeypatch):
    real, calls = Policy.save, []

    def full(self, folder):
        calls.append(folder)
        if len(calls) == 2:
            Path(folder).mkdir()
            (Path(folder) / "model.safetensors").write_bytes(b"half")
            raise UserError(f"{folder}: the model cannot be written: no space left on device")
        real(self, folder)

    monkeypatch.setattr(Policy, "save", full)
    with pytest.raises(UserError, match="no space left"):
        start("run", **STILL, keep_best="true")
    folder = Path(calls[0]).parent
    assert [path.name for path in folder.glob("best*")] == ["best"]
    assert json.loads((folder / "best" / "policy.json").read_text())["compute"]["step"] == 0
    assert load_policy(str(folder / "best"))


def test_a_folder_with_a_best_policy_is_taken(start, tmp_path):
    (tmp_path / "run" / "best").mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds a run already \(best\)"):
        start("run")


# ---- cards

CARD = {
    "recipe": "mine",
    "seed": 0,
    "base_model": {"name": "some/model", "sha256": "c", "hub": True},
    "data": {"train": {"items": 2, "sha256": "a"}},
    "devices": {"kind": "gpu", "count": 2},
    "versions": {"torch": "2"},
    "compute": dict.fromkeys(("step", "gpu_hours", "cpu_s", "tokens_generated", "tokens_trained", "flops"), 1),
    "pass_rate": 0.5,
    "pass_rate_se": None,
    "evaluation": {"n_prompts": 1, "k": 1, "temperature": 1.0, "prompt_set": "b"},
}


def test_the_command_adds_what_the_fit_says_to_both_cards(prompts, tmp_path):
    from scalerl.cli import main

    options = [f"--set={name}={value}" for name, value in {**SMALL, "keep_best": "true"}.items()]
    data = ["--train-data", str(prompts / "train.json"), "--eval-data", str(prompts / "eval.json")]
    folder = tmp_path / "run"
    assert main(["train", "--config", "scalerl", "--config", "demo", "--output-dir", str(folder), *data, *options]) == 0
    said = curve_text(an.fit(an.read(folder))[0])
    assert "identified" in said and "warning" in said
    for name in ("best", "model"):
        card = (folder / name / "README.md").read_text()
        section = card.split("## The run's scaling curve\n\n")[1]
        assert [line.removeprefix("    ") for line in section.splitlines()] == said.splitlines()


def test_a_card_gives_no_figure_for_what_the_fit_does_not_identify():
    compute, noise = np.linspace(0.0, 10.0, 15), np.random.default_rng(0).normal(0.0, 0.01, 15)

    def said(pass_rate):
        fit = an.fit(as_run(compute, pass_rate + noise))
        return fit, curve_text(fit)

    fit, text = said(np.full(15, 0.3))
    assert fit.params["A"].value is not None and "mean nothing" in text
    rows = [line.split() for line in text.splitlines() if "not identified" in line]
    assert [row[:2] for row in rows] == [[name, "unknown"] for name in ("A", "B", "C_mid", "R0")]
    fit, text = said(an.R(compute, 0.1, 0.7, 1.5, 3.0))
    assert text == repr(fit) and "unknown" not in text
    fit, text = said(an.R(compute, 0.1, 0.7, 1.5, 30.0))  # too early: where it began is known, where it ends is not
    assert fit.params["R0"].identified and f"R0     {fit.params['R0'].value:.3f}" in text
    assert text.count("unknown") == 3 and "train to about" in text


def test_a_card_says_how_its_pass_rate_was_chosen_and_what_was_trained():
    from scalerl.modelcard import card

    def said(**fields):
        return card({**CARD, **fields})

    assert "highest of 12 evaluations, and so" in said(highest_of=12)
    assert "of the only evaluation so far" in said(highest_of=1)
    assert "the run's last policy and was not chosen" in said(highest_of=None)
    assert "Where the policy lies in best/, it is the highest of many" in said()  # facts of older versions
    assert "| reward |" not in said()
    config = {
        "reward": "own:score",
        "task": "chain",
        "learning_rate": 5e-7,
        "warmup_steps": 3,
        "lr_schedule": "plateau",
    }
    text = said(config={**config, "plateau_factor": 0.5})
    assert "| reward | own:score |" in text
    assert "| learning rate | 5e-07 after 3 steps of warm-up, x 0.5 on a plateau of the pass rate |" in text


def test_a_run_without_a_curve_says_why(prompts, tmp_path, start):
    from scalerl.commands.train import add_curves

    folder = start(max_steps=1, eval_every=9)
    shutil.rmtree(folder / "checkpoints")
    (folder / "log.jsonl").write_text('{"kind": "event", "event": "start"}\n')
    add_curves(folder)
    assert "    There is none: " in (folder / "model" / "README.md").read_text()


def test_a_card_takes_no_orders_from_a_name():
    from scalerl.modelcard import card, on_hub

    known = {**CARD, "recipe": "x\n# not a head | `ing` <script>"}
    text = card(known)
    assert text == card(known) and r"x # not a head \| \`ing\` \<script\>" in text
    assert 'base_model: "some/model"' in text and "unknown, of a single prompt" in text
    assert on_hub("some/model") and not on_hub("tests/test_controllers.py") and not on_hub("/some/model")
    known["base_model"] = {"name": "../model: [", "sha256": "c", "hub": False}
    assert "base_model:" not in card(known).split("\n---\n")[0]
