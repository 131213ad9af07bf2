"""Ray actors that generate: the lag bound in the log of a run, deaths on either side, what is said where it fails."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from scalerl import raycluster, remote
from scalerl.completions import GenerationError, Request
from scalerl.config import ConfigError, load_config
from scalerl.forward import Forward
from scalerl.policy import load_policy
from scalerl.raygenerators import RayGenerators
from scalerl.runlog import UserError, read_header, read_log
from scalerl.start import resume, train
from tests.test_worker import PROMPTS, alive, steps_of, wait_until

if find_spec("ray") is None:
    pytest.skip("needs ray", allow_module_level=True)
UPDATES, BATCH, LAG = 12, 64, 2


def configuration(**fields):
    small = {
        "generator": "ray", "generators": 2, "batch_size": BATCH, "eval_generations": 1, "eval_every": 50,
        "max_steps": UPDATES, "checkpoint_every": 4, "off_policy_steps": LAG, "no_positive_resampling": "false",
        **fields,
    }  # fmt: skip
    return load_config(["scalerl", "demo"], [f"{key}={value}" for key, value in small.items()])


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> tuple[str, str]:
    from scalerl.data import prepare

    folder = tmp_path_factory.mktemp("data")
    prepare("chain", str(folder), sizes=(120, 8, 8))
    return str(folder / "train.json"), str(folder / "eval.json")


@pytest.fixture(scope="module")
def cluster():
    """A cluster that every run in this process joins: starting one takes longer than all else."""
    ray = raycluster.import_ray()
    raycluster.join(ray, configuration(), torch.device("cpu"), 0)
    yield ray
    ray.shutdown()


class Watched(RayGenerators):
    """Ray generators that keep the numbers which they delivered, and kill one of them when it has been given work."""

    latest: Watched

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self.delivered: list[int] = []
        self.doomed: int | None = None
        Watched.latest = self

    def submit(self, requests) -> None:
        super().submit(requests)
        if self.doomed is not None and self._peers[self.doomed].owed:
            os.kill(self._peers[self.doomed].link.pid, signal.SIGKILL)
            self.doomed = None

    def poll(self, ticks: int | None = None):
        came = super().poll(ticks)
        self.delivered += [c.number for c in came]
        return came


@pytest.mark.slow
def test_what_a_killed_actor_owed_comes_once_and_one_that_finds_no_place_ends_the_run_with_one_line(
    cluster, monkeypatch
):
    config = configuration()
    policy = load_policy(config.model_name)
    forward = Forward(policy.model, config.max_length, torch.float32)
    generation, events = RayGenerators(config, policy, forward, forward.weights(), slots=16), []
    generation.on_replaced = events.append
    requests = [Request(8 * group, 8, policy.encode(PROMPTS[group % 4])) for group in range(12)]
    numbers: list[int] = []
    try:
        generation.submit(requests)
        before = generation.pids
        os.kill(before[0], signal.SIGKILL)
        while len(numbers) < 96 or not events:
            numbers += [c.number for c in generation.poll(ticks=1)]
        assert sorted(numbers) == list(range(96)) and generation.poll() == []
        (event,) = events
        assert event["generator"] == 0 and str(before[0]) in event["name"] and 0 < event["asked_again"] <= 48
        assert "unexpectedly" in event["how"] and "\n" not in event["how"] and len(event["how"]) <= 200
        wait_until(lambda: generation.poll(ticks=1) == [] and generation._peers[0].ready)
        assert generation.pids[1] not in (None, before[0]) and before[1] in generation.pids
        monkeypatch.setattr(remote, "START_S", 1.0)
        generation._options["num_cpus"] = 99
        generation.submit([Request(96, 8, requests[0].prompt)])
        os.kill(generation._peers[1].link.pid, signal.SIGKILL)
        with pytest.raises(GenerationError) as failure:
            wait_until(lambda: generation.poll(ticks=1) and False)
        assert str(failure.value) == (
            "generator 1: did not start within 1 s; the cluster has 2 CPUs and 0 GPUs on 1 node for 2 generators; "
            "go on from the latest checkpoint with --resume"
        )
    finally:
        generation.close()
    assert cluster.is_initialized(), "a cluster that others started is theirs to end"


@pytest.mark.slow
def test_two_actors_keep_the_lag_bound_and_no_row_is_lost_or_doubled_when_one_is_killed(
    cluster, data, tmp_path, monkeypatch
):
    monkeypatch.setattr("scalerl.raygenerators.RayGenerators", Watched)
    notes: list[str] = []

    def watch(progress) -> None:
        notes.append(progress.note)
        if progress.step == 4 and not progress.note and not progress.evaluated:
            Watched.latest.doomed = 1

    train(configuration(), *data, str(tmp_path / "run"), report=watch)
    rows = read_log(tmp_path / "run/log.jsonl").rows
    steps = [row for row in rows if row["kind"] == "step"]
    assert [row["step"] for row in steps] == list(range(1, UPDATES + 1))
    assert all(0 <= row["lag_min"] <= row["lag_max"] <= LAG for row in steps) and steps[-1]["lag_max"] == LAG
    assert {row["reward_count"] for row in steps} == {BATCH}
    # Without resampling the prompts of batch u are those behind the prompts of batch u - 1, in every run.
    assert [row["epoch"] for row in steps] == pytest.approx([4 * row["step"] / 120 for row in steps], abs=1e-9)
    delivered = Watched.latest.delivered
    assert len(delivered) == len(set(delivered)) and set(range(UPDATES * BATCH)) <= set(delivered)
    (event,) = [row for row in rows if row.get("event") == "generator_replaced"]
    assert event["generator"] == 1 and event["step"] >= 4 and event["asked_again"] > 0
    assert any(note.startswith("generator 1 ") and "is replaced" in note for note in notes)
    assert read_header(tmp_path / "run")["devices"] == {"kind": "cpu process", "count": 3}
    for row in steps:
        assert row["generator_gpu_hours"] == pytest.approx(2 * row["learner_gpu_hours"])
        assert row["generator_gpu_hours"] + row["learner_gpu_hours"] == pytest.approx(row["gpu_hours"], rel=1e-2)
        assert 0 <= row["generator_idle_share"] <= 1 and 0 <= row["learner_idle_share"] <= 1
        assert 0 < row["weight_sync_s"] <= row["train_s"]
    assert 0 < sum(row["generator_sync_s"] for row in steps) <= sum(row["generator_busy_s"] for row in steps)


def below(pid: int) -> set[int]:
    """All processes that descend from one."""
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found |= {child} | below(child)
    return found


@pytest.mark.slow
def test_a_trainer_that_is_killed_takes_its_actors_with_it_and_the_run_goes_on(cluster, data, tmp_path):
    folder = tmp_path / "run"
    fields = configuration(generators=1, max_steps=500).model_dump(exclude_defaults=True)
    options = [part for name, value in fields.items() for part in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "scalerl.cli", "train", *options]
    command += ["--train-data", data[0], "--eval-data", data[1], "--output-dir", str(folder)]
    joins = {**os.environ, "RAY_ADDRESS": cluster.get_runtime_context().gcs_address}
    raylet = cluster.get(cluster.remote(num_cpus=0)(lambda: os.getppid()).remote())  # noqa: PLW0108 - a builtin is none to Ray
    trainer = subprocess.Popen(command, env=joins, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_until(lambda: trainer.poll() is not None or steps_of(folder) >= 5, 180)
    held = [pid for pid in below(raylet) if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::Actor")]
    assert len(held) == 1
    trainer.kill()
    told = trainer.communicate()[0]
    *before, last = told.strip().splitlines()
    assert "ray" not in "".join(before).lower(), "its lines would drown ours"
    assert last == raycluster.LastWords.LINE
    wait_until(lambda: not alive(held[0]), 60)
    reached = steps_of(folder)
    resume(str(folder), [f"max_steps={reached + 3}"])
    rows = read_log(folder / "log.jsonl").rows
    steps = [row for row in rows if row["kind"] == "step"]
    assert [row["step"] for row in steps] == list(range(1, reached + 4)) and {row["attempt"] for row in steps} == {1, 2}
    assert all(row["lag_max"] <= LAG and row["reward_count"] == BATCH for row in steps)
    assert [row["epoch"] for row in steps] == pytest.approx([4 * row["step"] / 120 for row in steps], abs=1e-9)


def test_where_ray_is_missing_one_line_names_the_extra_and_nothing_is_written(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError) as failure:
        train(configuration(), *data, str(tmp_path / "run"))
    assert str(failure.value) == (
        "generator: ray is not installed: pip install 'scalerl[ray]', or set generator to process"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_cluster_without_room_and_an_address_of_another_kind_are_refused_before_anything_is_written(
    cluster, data, tmp_path, monkeypatch
):
    with pytest.raises(
        UserError, match="8 of 1 CPU each beside the trainer, but the cluster has 2 CPUs and 0 GPUs on 1 node; lower"
    ):
        train(configuration(generators=8), *data, str(tmp_path / "run"))
    monkeypatch.setenv("RAY_ADDRESS", "ray://10.0.0.1:10001")
    with pytest.raises(
        UserError, match=r"^RAY_ADDRESS: ray://10.0.0.1:10001 is for clients; run the trainer on a node"
    ):
        train(configuration(), *data, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_an_address_where_nothing_listens_is_refused_before_ray_waits_for_it(monkeypatch):
    """And where something listens that lets nobody in, the line names what must be the same."""
    unused = SimpleNamespace(is_initialized=lambda: False)  # its init, which is not there, fails as one that is refused
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", place)
        (once,) = raycluster.ASKED_ONCE
        monkeypatch.setenv(once, "")  # so that it is taken back
        monkeypatch.delenv(once)
        with pytest.raises(UserError, match=f"joined at {place}, where something listens: .*; RAY_AUTH_MODE"):
            raycluster.join(unused, configuration(), torch.device("cpu"), 0)
    assert os.environ[once] == "1"  # else Ray asks for a quarter of an hour
    with pytest.raises(UserError, match=f"^RAY_ADDRESS: nothing listens at {place} .*; start the cluster by ray start"):
        raycluster.join(unused, configuration(), torch.device("cpu"), 0)


def test_what_a_cluster_has_leaves_out_nodes_that_were_lost():
    nodes = [{"Alive": True}, {"Alive": False}]
    lost = SimpleNamespace(cluster_resources=lambda: {"CPU": 3.0}, nodes=lambda: nodes)
    assert raycluster.room(lost) == "3 CPUs and 0 GPUs on 1 node"


def test_a_sigterm_while_ray_starts_ends_a_run_as_any_other_interruption_does():
    """Ray sets a handler of its own before it is up, which exits with 15 and says nothing."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), raycluster._signals_kept():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))
        os.kill(os.getpid(), signal.SIGTERM)
        signal.sigtimedwait([], 5)  # let the handler run
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_end_without_a_word_gets_a_line_and_an_end_of_our_own_none():
    """As Ray ends a process whose raylet is gone: no code of Python runs any more."""
    code = "import os, sys; from scalerl.raycluster import LastWords as W; W().close(); W(); {}"
    for end, said in (("os._exit(1)", f"{raycluster.LastWords.LINE}\n"), ("sys.exit(1)", "")):
        ended = subprocess.run([sys.executable, "-c", code.format(end)], stderr=subprocess.PIPE, text=True, check=False)
        assert (ended.returncode, ended.stderr) == (1, said)


def test_more_than_one_generator_needs_ray():
    with pytest.raises(ConfigError, match="generators: 2: generator process has one; set that to ray"):
        configuration(generator="process")


def test_ray_is_not_imported_by_a_run_that_does_not_use_it():
    code = "import sys, scalerl.start; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_ray_says_of_a_death_becomes_one_short_line():
    killed = (
        "The actor died unexpectedly before finishing this task.\n\tpid: 7528\nThe actor is dead because its worker "
        "process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker unexpectedly exits with a "
        "connection error code 2. End of file. Some common causes include: (1) the OOM killer, (2) ray stop --force."
    )
    made = "The actor died because of an error raised in its creation task, ray::A()\n  File x\nModuleNotFoundError: no"
    for said, words in (
        (killed, "Worker unexpectedly exits with a connection error code 2. End of file"),
        (made, "ModuleNotFoundError: no"),
        ("", "RuntimeError"),
    ):
        assert raycluster.words(RuntimeError(said)) == words
    assert len(raycluster.words(RuntimeError("long " * 100))) <= 200
