"""A run goes on as if it had never stopped, from the last good state or not at all; lost work is billed apart."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch

import scalerl.train
from scalerl.checkpoint import read_checkpoint
from scalerl.cli import main
from scalerl.config import CHANGEABLE
from scalerl.evalcsv import begin_csv, refuse_foreign_csv, write_csv
from scalerl.generate import Generator
from scalerl.meter import Meter
from scalerl.runlog import TIME_FIELDS, RunLog, UserError, lost, read_log
from scalerl.start import resume, train

CHAIN = Path(__file__).parent.parent / "data" / "checkpoints" / "chain"
SMALL = {"batch_size": 16, "eval_every": 2, "checkpoint_every": 2, "max_steps": 6}


def rows_of(folder: Path) -> list[dict]:
    """Rows of the curve without what two equal runs may differ in."""
    rows = [row for row in read_log(folder / "log.jsonl").rows if row["kind"] != "event"]
    return [{name: value for name, value in row.items() if name not in TIME_FIELDS | {"attempt"}} for row in rows]


def event_of(folder: Path, name: str) -> dict:
    return [row for row in read_log(folder / "log.jsonl").rows if row.get("event") == name][-1]


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    kept = read_checkpoint(folder)
    return {f"{file}.{name}": t for file in ("model", "optimizer") for name, t in kept.tensors[file].items()}


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def start(quick, prompts):
    def make(folder: Path, **fields) -> Path:
        return train(quick(**{**SMALL, **fields}), str(prompts / "train.json"), str(prompts / "eval.json"), str(folder))

    return make


@pytest.fixture(scope="module")
def finished(tmp_path_factory, prompts) -> Path:
    from scalerl.config import load_config

    config = load_config(
        ["scalerl", "demo"],
        [f"{name}={value}" for name, value in {**SMALL, "generations_per_prompt": 4, "eval_generations": 2}.items()],
    )
    folder = tmp_path_factory.mktemp("resume") / "run"
    return train(config, str(prompts / "train.json"), str(prompts / "eval.json"), str(folder))


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A finished run of its own for a test."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.mark.parametrize("in_flight", ["kv", "refresh"])
def test_a_longer_budget_gives_the_rows_of_a_run_that_had_it_from_the_start(start, tmp_path, in_flight):
    short, long = (start(tmp_path / str(n), max_steps=n, in_flight=in_flight) for n in (5, 8))
    resume(str(short), ["max_steps=8"], say=pytest.fail)
    assert rows_of(short) == rows_of(long)
    ours, theirs = tensors_of(short), tensors_of(long)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert event_of(short, "resume")["rows_lost"] == 1  # the evaluation off its turn that ended the shorter run
    assert event_of(short, "resume")["changed"] == {"max_steps": [5, 8]}


def test_rows_behind_the_checkpoint_move_to_lost_and_are_billed(run):
    kept = read_log(run / "log.jsonl").rows
    shutil.rmtree(run / "checkpoints" / "step-00000006")
    shutil.rmtree(run / "model")
    before = rows_of(run)
    resume(str(run), say=pytest.fail)
    assert rows_of(run) == before
    (path,) = (run / "lost").glob("attempt-*.jsonl")
    bill, *moved = read_log(path).rows
    assert [row.get("step") for row in moved if row["kind"] == "step"] == [5, 6]
    assert all(row in kept for row in moved)
    at_4 = max(row["gpu_hours"] for row in kept if row.get("step") == 4)
    at_6 = max(row["gpu_hours"] for row in kept if row.get("step") == 6)
    assert bill["gpu_hours_lost"] == pytest.approx(at_6 - at_4, rel=0.2)
    assert event_of(run, "resume")["gpu_hours_lost"] == bill["gpu_hours_lost"] > 0
    hours = [row["gpu_hours"] for row in read_log(run / "log.jsonl").rows if "gpu_hours" in row]
    assert hours == sorted(hours)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["learning_rate=1e-3"], "learning_rate: 0.0001 cannot become 0.001 on a resume"),
        (["off_policy_steps=4", "max_steps=9"], "off_policy_steps: 8 cannot become 4"),
        (["max_step=9"], "did you mean max_steps"),
        ([], "is finished, max_steps 6 reached at step 6; to go on raise it"),
    ],
)
def test_what_may_not_change_is_refused_by_name_and_nothing_is_touched(run, settings, message):
    before = files_of(run)
    with pytest.raises(UserError, match=message):
        resume(str(run), settings)
    assert files_of(run) == before


def test_the_docs_list_what_may_change():
    text = (CHAIN.parent.parent.parent / "docs" / "recipes.md").read_text().split("**Resume.**")[1]
    table = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`(\w+)`", " ".join(table))) == CHANGEABLE


def test_a_model_that_is_gone_is_told_before_anything_heavy_is_imported(run, prompts, tmp_path):
    """In a process of its own, with torch not to be found: importing it can take half a minute on a busy machine."""
    header = json.loads((run / "run.json").read_text())
    header["config"]["model_name"] = "data/checkpoints/gone"
    (run / "run.json").write_text(json.dumps(header))
    train_data, eval_data = str(prompts / "train.json"), str(prompts / "eval.json")
    data, out = ["--train-data", train_data, "--eval-data", eval_data], str(tmp_path / "o.json")
    new = ["train", "--config", "demo", "--output-dir", str(tmp_path / "new")]
    calls = [
        ([*new, *data, "--set=model_name=./gone"], "there is no directory ./gone"),
        ([*new, *data[:2], "--eval-data", "gone.json"], "gone.json: cannot be read"),
        (["train", "--resume", "--output-dir", str(run)], "gone is no folder here; resume from the folder"),
        (["check-data", "--data", train_data, "--model", "./gone"], "there is no directory ./gone"),
        (["check-data", "--data", "gone.json"], "gone.json: cannot be read"),
        (["warmup", "--model", "./gone", "--train-data", train_data, "--output", "w"], "there is no directory ./gone"),
        (["evaluate", "--model-path", "gone", "--eval-data", eval_data, "--output-file", out], "no directory gone"),
        (["evaluate", "--model-path", str(CHAIN), "--eval-data", "no.json", "--output-file", out], "no.json: cannot"),
    ]
    code = (
        "import json, sys\nsys.modules.update(torch=None, transformers=None)\nfrom scalerl.cli import main\n"
        "for call in json.loads(sys.argv[1]):\n    print(main(call), file=sys.stderr)\n"
    )
    argv = [sys.executable, "-c", code, json.dumps([call for call, _ in calls])]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stderr.splitlines()
    assert len(said) == 2 * len(calls) and set(said[1::2]) == {"2"}
    for line, (_, message) in zip(said[::2], calls, strict=True):
        assert message in line


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"run\.json"):
        resume(str(tmp_path))


def test_another_process_on_the_run_is_refused(run):
    with RunLog(run.with_name("other"), recipe="mine") as log, pytest.raises(UserError, match="another process works"):
        shutil.copy(run / "run.json", log.folder / "run.json")
        resume(str(log.folder))


def test_other_threads_go_on_with_a_word(run):
    said: list[str] = []
    resume(str(run), ["max_steps=7", "threads=2"], say=said.append)
    torch.set_num_threads(1)
    assert said == ["threads was 1 and is 2 now: the run goes on, but not bit for bit"]
    assert event_of(run, "resume")["differs"] == said


def test_another_device_and_other_transformers_are_told_and_logged(run, monkeypatch, caplog):
    for module in ("describe", "start"):
        monkeypatch.setattr(f"scalerl.{module}.device_kind", lambda _: "NVIDIA H200")
    monkeypatch.setattr("transformers.__version__", "9.9")
    before, said = json.loads((run / "run.json").read_text()), []
    resume(str(run), ["max_steps=7"], say=said.append)
    assert [line.split(" now")[0] for line in said] == [
        "device was 'cpu process' and is 'NVIDIA H200'",
        f"transformers was '{before['versions']['transformers']}' and is '9.9'",
    ]
    event = event_of(run, "resume")
    kinds = [{"kind": kind, "count": 1} for kind in ("cpu process", "NVIDIA H200")]
    assert event["differs"] == said and event["changed"] == {"max_steps": [6, 7], "devices": kinds}
    (told,) = (record.getMessage() for record in caplog.records)
    assert told.startswith(
        f"{run}: began on cpu process and goes on with NVIDIA H200; gpu_hours adds the hours of both"
    )
    resume(str(run), ["max_steps=8"], say=pytest.fail)  # devices are no field that a resume takes over


def test_what_saves_memory_changes_on_a_resume_and_the_update_stays_what_it_is(start, run, tmp_path):
    said: list[str] = []
    whole = start(tmp_path / "whole", max_steps=7)
    resume(str(run), ["max_steps=7", "micro_batch_tokens=64"], say=said.append)
    assert said == ["micro_batch_tokens was 4096 and is 64 now: the run goes on, but not bit for bit"]
    for mine, other in zip(rows_of(run)[-2:], rows_of(whole)[-2:], strict=True):
        assert mine.keys() == other.keys() and mine["step"] == 7
        figures = {name: value for name, value in other.items() if isinstance(value, (int, float))}
        assert mine["flops"] > figures.pop("flops")  # a prompt is run once a micro-batch
        assert {name: mine[name] for name in figures} == pytest.approx(figures, rel=1e-4)


@pytest.mark.parametrize("first", ["kv", "refresh"])
def test_a_cache_is_kept_or_made_anew_from_the_next_checkpoint_on(start, tmp_path, monkeypatch, first):
    """No completion is lost or generated twice, no lag grows, and a kill in between changes nothing."""
    then, said = {"kv": "refresh", "refresh": "kv"}[first], list[str]()
    run = start(tmp_path / "run", in_flight=first, max_steps=4)
    killed = Path(shutil.copytree(run, tmp_path / "killed"))
    resume(str(run), ["max_steps=8", f"in_flight={then}"], say=said.append)
    assert said == [f"in_flight was '{first}' and is '{then}' now: the run goes on, but not bit for bit"]
    resume(str(killed), ["max_steps=6", f"in_flight={then}"], say=said.append)
    resume(str(killed), ["max_steps=8"], say=pytest.fail)
    assert rows_of(killed) == rows_of(run)
    rows = [row for row in rows_of(run) if row["kind"] == "step"]
    other = [row for row in rows_of(start(tmp_path / "other", in_flight=first, max_steps=8)) if row["kind"] == "step"]
    same = ("step", "prompts", "reward_count", "lag_max", "epoch", "lag_min")
    assert [[row[name] for name in same] for row in rows] == [[row[name] for name in same] for row in other]
    with pytest.raises(UserError, match="checkpoint_every: 2 cannot become 4") if then == "refresh" else nullcontext():
        resume(str(run), ["max_steps=9", "checkpoint_every=4"], say=pytest.fail)


def test_what_belongs_to_saving_is_on_no_axis(start, tmp_path, monkeypatch):
    """The cache that is made anew, and the folder of the best policy that takes its place; a resume bills neither."""
    apart, seen = [], []
    leave_out, refresh, place = Meter.apart, Generator.refresh, scalerl.train.take_place

    @contextmanager
    def noted(meter, name):
        with leave_out(meter, name):
            apart.append(name)
            yield
            apart.pop()

    def told(what, does):
        return lambda *given: (seen.append((what, *apart)), does(*given))[1]

    monkeypatch.setattr(Meter, "apart", noted)
    monkeypatch.setattr(Generator, "refresh", told("refresh", refresh))
    monkeypatch.setattr("scalerl.train.take_place", told("place", place))
    run = start(tmp_path / "run", in_flight="refresh", keep_best="true", max_steps=4)
    assert set(seen) == {("refresh", "checkpoint"), ("place", "checkpoint")}
    resume(str(run), ["max_steps=5"], say=pytest.fail)
    assert ("refresh",) in seen  # before the meter starts


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_of_a_damaged_checkpoint_nothing_is_believed(run, damage):
    """200 cuts and 200 flipped bits, spread over all files: the checkpoint before is taken."""
    folder, drawn = run / "checkpoints" / "step-00000006", random.Random(5)  # noqa: S311
    good = {step: read_checkpoint(run) for step in (6,)}[6].state
    files = sorted(folder.iterdir())
    for turn in range(200):
        path = files[turn % len(files)]
        content = path.read_bytes()
        bad = bytearray(content)
        if damage == "cut":
            bad = bad[: drawn.randrange(len(content))]
        else:
            bad[drawn.randrange(len(content))] ^= 1 << drawn.randrange(8)
        path.write_bytes(bad)
        found = read_checkpoint(run)
        if found.state["step"] == 6:  # a bit of the manifest that carries nothing
            assert path.name == "manifest.json" and found.state == good
        else:
            assert found.state["step"] == 4 and len(found.damaged) == 1 and str(folder) in found.damaged[0]
        path.write_bytes(content)


def test_when_every_checkpoint_is_damaged_it_says_which_and_why(run):
    for folder in (run / "checkpoints").iterdir():
        (folder / "state.json").write_text("{}")
    with pytest.raises(UserError, match=r"no checkpoint is whole.*step-00000006.*step-00000004") as caught:
        resume(str(run))
    assert len(str(caught.value).splitlines()) == 1


def test_a_log_cut_at_any_byte_goes_on_from_a_checkpoint_that_fits_or_is_refused(run):
    """Each cut behind a checkpoint's mark takes that checkpoint; before the first one kept there is a clear word."""
    log = (run / "log.jsonl").read_bytes()
    marks = {step: json.loads((run / f"checkpoints/step-{step:08d}/state.json").read_text())["mark"] for step in (4, 6)}

    def check(state):
        lost.check_mark(run, state["mark"])

    ends = {step: mark["log_bytes"] for step, mark in marks.items()}
    cuts = [*range(0, len(log), 97), *(end + d for end in ends.values() for d in (-1, 0, 1)), len(log)]
    for cut in cuts:
        (run / "log.jsonl").write_bytes(log[:cut])
        if cut < ends[4]:
            with pytest.raises(UserError, match="not the log that the checkpoint was written with"):
                read_checkpoint(run, check)
        else:
            assert read_checkpoint(run, check).state["step"] == (6 if cut >= ends[6] else 4), cut


def command(run: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "scalerl.cli", "train", "--output-dir", str(run), *options]


@pytest.mark.slow
def test_a_signal_ends_the_run_with_a_checkpoint_and_it_goes_on(prompts, tmp_path):
    run, options = tmp_path / "run", [f"--set={name}={value}" for name, value in SMALL.items()]
    data = ["--train-data", str(prompts / "train.json"), "--eval-data", str(prompts / "eval.json")]
    options += ["--config", "scalerl", "--config", "demo", "--set=max_steps=100000", "--set=checkpoint_every=100000"]
    process = subprocess.Popen(command(run, *options, *data), stderr=subprocess.PIPE, text=True)
    while not (run / "log.jsonl").exists() or (run / "log.jsonl").read_bytes().count(b'"step": 3,') == 0:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130 and "go on with: scalerl train --resume" in said
    steps = [row["step"] for row in rows_of(run) if "learning_rate" in row]
    assert event_of(run, "interrupted") and read_checkpoint(run).state["step"] == steps[-1]
    limit = f"--set=max_steps={steps[-1] + 2}"
    went_on = subprocess.run(
        command(run, "--resume", limit), check=False, env=os.environ, capture_output=True, text=True
    )
    assert went_on.returncode == 0 and went_on.stderr.count(f"going on from step {steps[-1]}\n") == 1
    resumed = event_of(run, "resume")
    assert (resumed["rows_lost"], resumed["gpu_hours_lost"]) == (0, 0)  # the checkpoint was the last thing done
    assert [row["step"] for row in rows_of(run) if "learning_rate" in row] == list(range(1, steps[-1] + 3))


@pytest.mark.parametrize("in_flight", ["kv", "refresh"])
@pytest.mark.parametrize("version", [0, 2, 3])
def test_a_signal_in_the_middle_of_a_batch_loses_nothing_of_any_axis(start, tmp_path, monkeypatch, in_flight, version):
    fields = {"in_flight": in_flight, "off_policy_steps": 1}
    whole = start(tmp_path / "whole", **fields)
    polled, poll = 0, Generator.poll

    def signalled(self, ticks=None):
        nonlocal polled
        done = poll(self, ticks)
        polled += ticks == 1 and self.version == version
        if polled == 3:
            polled += 1
            signal.raise_signal(signal.SIGINT)
        return done

    monkeypatch.setattr(Generator, "poll", signalled)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "cut", **fields)
    monkeypatch.undo()
    assert polled == 4 and read_checkpoint(tmp_path / "cut").state["step"] == version
    resume(str(tmp_path / "cut"), say=pytest.fail)
    assert rows_of(tmp_path / "cut") == rows_of(whole)
    # a step that has its checkpoint already gets no second one: what went into the next batch is billed as lost
    assert (event_of(tmp_path / "cut", "resume")["gpu_hours_lost"] == 0) == (version == 3)


def test_the_csv_is_the_log_and_no_other_file_is_overwritten(quick, prompts, tmp_path, monkeypatch):
    files = [str(prompts / "train.json"), str(prompts / "eval.json")]
    monkeypatch.chdir(tmp_path)
    train(quick(**SMALL, model_name=str(CHAIN)), *files, "run", log_file="e.csv")
    path = tmp_path / "e.csv"
    first = path.read_text()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    resume("../run", ["max_steps=8"], say=pytest.fail)
    assert not list((tmp_path / "elsewhere").iterdir()) and path.read_text().splitlines()[-1].startswith("8,")
    assert path.read_text().startswith(first[: first.index("\n4,")])
    path.write_text("mine\n")
    before = files_of(tmp_path)
    with pytest.raises(UserError, match=r"e\.csv: holds other lines than the evaluations of"):
        resume("../run", ["max_steps=10"], say=pytest.fail)
    with pytest.raises(UserError, match=r"--log-file: was .*e\.csv and cannot become other\.csv"):
        resume("../run", ["max_steps=10"], log_file="other.csv", say=pytest.fail)
    assert files_of(tmp_path) == before


def test_a_csv_of_one_unfinished_line_or_a_part_beside_it_is_not_overwritten(run, tmp_path):
    path, part = tmp_path / "e.csv", tmp_path / "e.csv.part"
    part.write_text("my notes")
    with pytest.raises(UserError, match=r"e\.csv\.part: exists already"):
        begin_csv(run, path)
    part.unlink()
    begin_csv(run, path)
    write_csv(run, path)
    whole = path.read_bytes()
    for file, notes in itertools.product((path, part), (b"my notes", whole + b"my notes", b"my notes\r" + whole)):
        file.write_bytes(notes)
        for call in (refuse_foreign_csv, write_csv):
            with pytest.raises(UserError, match=re.escape(f"{file}: holds other lines than the evaluations of")):
                call(run, path)
        assert file.read_bytes() == notes
        file.write_bytes(whole)
    for left in (b"", whole[:3], whole[:-1], whole[:-4]):  # what a kill may leave
        path.write_bytes(left)
        part.write_bytes(left)
        refuse_foreign_csv(run, path)
        write_csv(run, path)
        assert path.read_bytes() == whole and not part.exists()
    notes = tmp_path / "notes"
    part.symlink_to(notes)
    write_csv(run, path)
    assert path.read_bytes() == whole and not path.is_symlink() and not notes.exists()


def test_a_checkpoint_that_moved_is_named_anew(run, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(CHAIN, moved)
    with pytest.raises(UserError, match="model_name: nowhere is no folder here; resume from"):
        resume(str(run), ["model_name=nowhere", "max_steps=7"], say=pytest.fail)
    resume(str(run), [f"model_name={moved}", "max_steps=7"], say=pytest.fail)
    resume(str(run), ["max_steps=8"], say=pytest.fail)
    assert rows_of(run)[-1]["step"] == 8


def test_what_moved_once_is_found_by_every_call_after_that(quick, prompts, tmp_path, monkeypatch, capsys):
    for name in ("model", "data"):
        shutil.copytree({"model": CHAIN, "data": prompts}[name], tmp_path / name)
    config = quick(**{**SMALL, "max_steps": 2, "model_name": tmp_path / "model"})
    run = train(config, *(str(tmp_path / "data" / f"{name}.json") for name in ("train", "eval")), str(tmp_path / "run"))
    moved = tmp_path / "moved"
    for name in ("model", "data"):
        shutil.move(tmp_path / name, moved / name)
    go = ["train", "--resume", "--output-dir", str(run)]
    data = [part for name in ("train", "eval") for part in (f"--{name}-data", str(moved / "data" / f"{name}.json"))]
    with monkeypatch.context() as cut:  # killed before its first checkpoint: what it was told is not forgotten
        cut.setattr("scalerl.train.Trainer._update", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main([*go, *data, "--set", f"model_name={moved / 'model'}", "--set", "max_steps=3"]) == 130
    assert main(go) == 0
    changed = event_of(run, "resume")["changed"]
    assert changed["max_steps"] == [2, 3] and changed["model_name"][1] == str(moved / "model")
    assert changed["eval_data"] == [str(tmp_path / "data" / "eval.json"), str(moved / "data" / "eval.json")]
    assert main([*go, "--set", "max_steps=4"]) == 0
    assert event_of(run, "resume")["changed"] == {"max_steps": [3, 4]}
    capsys.readouterr()
    saved = ["--model-path", str(run / "checkpoints" / "step-00000004"), "--output-file", str(tmp_path / "r.json")]
    assert main(["evaluate", *saved, *data[2:], "--run", str(run), "--k", "1"]) == 0
    assert capsys.readouterr().err == ""  # the train data are where the run has them now


def test_what_somebody_wrote_into_a_run_folder_is_passed_over_or_refused_in_a_line(run):
    resume(str(run), ["max_steps=7"], say=pytest.fail)
    (run / "lost" / "attempt-1 (copy).jsonl").write_bytes((run / "lost" / "attempt-1.jsonl").read_bytes())
    with (run / "log.jsonl").open("a") as file:
        file.write('{"kind":"event","attempt":"x","gpu_hours_lost":null}\n')
    resume(str(run), ["max_steps=8"], say=pytest.fail)
    header = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**header, "checkpoint": {}}))
    with pytest.raises(UserError, match="was not written by scalerl train"):
        resume(str(run), ["max_steps=9"], say=pytest.fail)
