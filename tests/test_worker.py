"""A generator in a process of its own: the lag bound, both at work at once, and no death that hangs or is left over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from scalerl.completions import Counts, GenerationError, Request
from scalerl.config import load_config
from scalerl.forward import Forward
from scalerl.generate import Generator
from scalerl.meter import JointMeter
from scalerl.packed import pack
from scalerl.policy import load_policy
from scalerl.runlog import read_header, read_log
from scalerl.sampler import interruption
from scalerl.start import resume, train
from scalerl.tasks import get_task
from scalerl.worker import GeneratorProcess

pytestmark = pytest.mark.slow
PROMPTS = ("7+3*4-2=", "1+1=", "9*9*9=", "2-5+8=")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    from scalerl.data import prepare

    folder = tmp_path_factory.mktemp("data")
    prepare("chain", str(folder), sizes=(120, 8, 8))
    return folder


def settings(**fields) -> list[str]:
    small = {
        "generator": "process", "batch_size": 128, "eval_generations": 1, "eval_every": 6, "max_steps": 24,
        "checkpoint_every": 4, "off_policy_steps": 2, **fields,
    }  # fmt: skip
    return [f"{key}={value}" for key, value in small.items()]


def train_process(data: Path, folder: Path, **fields) -> list[dict]:
    config = load_config(["scalerl", "demo"], settings(**fields))
    train(config, str(data / "train.json"), str(data / "eval.json"), str(folder))
    return read_log(folder / "log.jsonl").rows


def start(data: Path, folder: Path, **fields) -> subprocess.Popen:
    options = [part for one in settings(**fields) for part in ("--set", one)]
    command = [sys.executable, "-m", "scalerl.cli", "train", "--config", "scalerl", "--config", "demo", *options]
    command += ["--train-data", str(data / "train.json"), "--eval-data", str(data / "eval.json")]
    return subprocess.Popen([*command, "--output-dir", str(folder)], stderr=subprocess.PIPE, text=True)


def wait_until(met, seconds: float = 90.0):
    """Return the first true value of a function."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := met():
            return found
        time.sleep(0.02)
    raise AssertionError("waited in vain")


def steps_of(folder: Path) -> int:
    path = folder / "log.jsonl"
    return path.read_text().count('"kind": "step"') if path.exists() else 0


def worker_of(pid: int) -> int:
    """The child of a trainer that runs the generator, from the system's list of processes."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
    raise AssertionError("the trainer has no generator process")


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.fixture
def both():
    """Build a generator process and an inline generator of one policy and configuration."""
    made = []

    def make(**fields):
        config = load_config(["scalerl", "demo"], settings(**fields))
        policy = load_policy(config.model_name)
        forward = Forward(policy.model, config.max_length, getattr(torch, config.dtype))
        process = GeneratorProcess(config, policy, forward, forward.weights(), slots=16)
        made.append(process)
        inline = Generator(
            forward, forward.weights(), slots=16, max_new_tokens=config.max_new_tokens, max_length=config.max_length,
            end_ids=policy.end_ids, seed=config.seed, interruption=interruption(config, policy, get_task("chain")),
        )  # fmt: skip
        requests = [Request(8 * i, 8, policy.encode(prompt)) for i, prompt in enumerate(PROMPTS)]
        return process, inline, policy.model, forward, requests

    yield make
    for process in made:
        process.close()


def test_what_comes_back_is_what_an_inline_generator_writes_and_follows_the_weights_that_were_sent(both):
    process, inline, model, forward, requests = both(interruption_tokens=12, thinking_tokens=14)
    written = []
    for version in (0, 1):
        if version:
            with torch.no_grad():
                for weight in model.parameters():
                    weight.mul_(1.05)
        for generator in (process, inline):
            if version:
                generator.load(version, forward.weights())
            generator.submit(requests)
        came, expected = process.poll(), inline.poll()
        assert came == expected and {v for c in came for v in c.versions} == {version}
        assert any(c.forced != (0, 0) for c in came)
        written.append([c.tokens for c in came])
        assert process.take_counts()[:3] == inline.take_counts()[:3]
    assert written[0] != written[1]


def test_packed_weights_are_all_there_bit_for_bit(chain_model):
    policy = load_policy(str(chain_model))
    for dtype in (torch.float32, torch.bfloat16):
        weights = Forward(policy.model, 72, dtype).weights()
        seen = pack(weights).weights(torch.device("cpu"))
        assert [len(seen.layers), seen.head_bias] == [len(weights.layers), None] and seen.head.dtype == torch.float32
        pairs = [(seen.embedding, weights.embedding), (seen.norm, weights.norm), (seen.head, weights.head)]
        pairs += [p for a, b in zip(seen.layers, weights.layers, strict=True) for p in zip(a, b, strict=True)]
        assert all(a is b is None or (a.dtype == b.dtype and torch.equal(a, b)) for a, b in pairs)


def test_a_poll_without_news_waits_a_little_and_does_not_spin(both):
    process, *_, requests = both()
    process.submit(requests)
    process.pause()
    before = time.process_time(), time.perf_counter()
    while process.poll(ticks=1):
        pass  # what it had finished before it stood still
    assert [process.poll(ticks=1) for _ in range(50)] == [[]] * 50
    cpu, wall = time.process_time() - before[0], time.perf_counter() - before[1]
    assert wall > 50 * 0.004 and cpu < 0.3 * wall


def test_it_stands_still_while_the_meter_does_and_its_cpu_seconds_are_billed(both):
    process, _, _, _, requests = both()
    meter = JointMeter(process, devices=2, generators_hold=1)
    process.submit(requests)  # starts, and stands still: nothing is metered yet
    spent, numbers = Path(f"/proc/{process.pid}/stat"), []
    for _ in range(2):
        ticks = [int(n) for n in spent.read_text().rpartition(")")[2].split()[11:13]]
        time.sleep(0.3)
        assert process.poll(ticks=1) == [] and process.take_counts() == Counts()
        assert sum(int(n) for n in spent.read_text().rpartition(")")[2].split()[11:13]) - sum(ticks) <= 2
    ours, apart = time.process_time(), 0.0
    meter.start()
    while len(numbers) < 32:
        numbers += [c.number for c in process.poll(ticks=1)]
        asked = time.process_time()
        with meter.apart("evaluate"):
            held = process.take_counts()
            time.sleep(0.05)
            assert process.take_counts() == Counts()
        apart += time.process_time() - asked
        process._counts += held
    meter.stop()
    ours = time.process_time() - ours - apart
    assert sorted(numbers) == list(range(32))
    assert process.cpu_s > 0.01 and meter.cpu_s == pytest.approx(ours + process.cpu_s, abs=0.05)
    assert meter.apart_s["evaluate"] > 0.05 and 0 < meter.take_phases()["generator_busy"] <= meter.wall_s


@pytest.mark.parametrize(("k", "lead"), [(2, "eager"), (8, "full")])
def test_no_token_lags_by_more_than_k_and_both_processes_work_at_once(data, tmp_path, k, lead):
    rows = train_process(data, tmp_path / "run", off_policy_steps=k, lead=lead, slots=256)
    steps = [row for row in rows if row["kind"] == "step"]
    assert [row["step"] for row in steps] == list(range(1, 25))
    assert all(0 <= row["lag_min"] <= row["lag_max"] <= k for row in steps)
    if lead == "full":
        assert max(row["lag_max"] for row in steps) == k
    assert {row["reward_count"] for row in steps} == {128} and any(row["versions_max"] > 1 for row in steps)
    header = read_header(tmp_path / "run")
    assert header["devices"] == {"kind": "cpu process", "count": 2}
    # Seconds that do not fit side by side into the wall time were spent at the same time.
    wall = steps[-1]["gpu_hours"] * 3600 / 2
    busy = sum(row["generator_busy_s"] for row in steps)
    alone = sum(row["train_s"] + row["score_s"] for row in steps)
    assert 0 < sum(row["prefill_s"] for row in steps) < busy
    assert busy <= wall < busy + alone - 0.25 * min(busy, alone)
    ours = [row["generate_s"] + row["train_s"] + row["score_s"] for row in steps]
    assert sum(ours) <= wall * 1.01


def test_a_worker_that_is_killed_ends_the_run_with_one_clear_line_and_the_run_goes_on(data, tmp_path):
    folder = tmp_path / "run"
    trainer = start(data, folder, max_steps=500)
    wait_until(lambda: steps_of(folder) >= 6)
    worker = worker_of(trainer.pid)
    os.kill(worker, signal.SIGKILL)
    told = trainer.communicate(timeout=60)[1]
    assert trainer.returncode == 2 and "Traceback" not in told
    last = told.strip().splitlines()[-1]
    assert last.startswith(f"scalerl: generator process {worker}: died") and "SIGKILL" in last and "--resume" in last
    assert read_log(folder / "log.jsonl").rows[-1]["event"] == "failed"
    reached = steps_of(folder)
    resume(str(folder), [f"max_steps={reached + 6}"])
    rows = read_log(folder / "log.jsonl").rows
    steps = [row for row in rows if row["kind"] == "step"]
    assert [row["step"] for row in steps] == list(range(1, reached + 7))
    assert all(row["lag_max"] <= 2 for row in steps) and {row["attempt"] for row in steps} == {1, 2}
    hours = [row["gpu_hours"] for row in steps]
    assert hours == sorted(hours) and all(row["cpu_s"] > 0 for row in steps)


def test_a_trainer_that_is_killed_leaves_no_worker_behind(data, tmp_path):
    trainer = start(data, tmp_path / "run", max_steps=500)
    wait_until(lambda: steps_of(tmp_path / "run") >= 2)
    worker = worker_of(trainer.pid)
    assert alive(worker)
    trainer.kill()
    trainer.communicate()
    wait_until(lambda: not alive(worker), 10)


def test_a_worker_that_has_nothing_to_do_and_nothing_to_say_notices_as_well():
    code = """
import time
from scalerl.config import load_config
from scalerl.forward import Forward
from scalerl.meter import JointMeter
from scalerl.packed import pack
from scalerl.policy import load_policy
from scalerl.worker import GeneratorProcess
config = load_config(["scalerl", "demo"])
policy = load_policy(config.model_name)
forward = Forward(policy.model, config.max_length)
process = GeneratorProcess(config, policy, forward, forward.weights(), slots=16)
process.begin()
print(process.pid, flush=True)
time.sleep(100)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        worker = int(trainer.stdout.readline())
        assert alive(worker)
        trainer.kill()
    wait_until(lambda: not alive(worker), 10)


def test_a_run_that_is_interrupted_lets_the_update_in_work_finish_and_takes_the_worker_with_it(data, tmp_path):
    trainer = start(data, tmp_path / "run", max_steps=500)
    wait_until(lambda: steps_of(tmp_path / "run") >= 2)
    worker = worker_of(trainer.pid)
    for pid in (trainer.pid, worker):  # as a terminal does
        os.kill(pid, signal.SIGINT)
    told = trainer.communicate(timeout=60)[1]
    assert trainer.returncode == 130 and "interrupted" in told and not alive(worker)


def test_what_fails_in_the_process_is_said_here_and_every_later_call_says_it_again(both):
    process, *_, requests = both()
    process.submit([Request(0, 1, (10**6,))])  # no such token
    with pytest.raises(GenerationError, match="generator process: IndexError: index out of range") as failure:
        process.poll()
    assert "Traceback" in failure.value.__notes__[0]
    process.pause()  # never fails
    for call in (process.poll, lambda: process.submit(requests)):
        with pytest.raises(GenerationError, match="index out of range"):
            call()
    with pytest.raises(ValueError, match="keeps no state"):
        process.restore({})


def test_a_process_that_hangs_is_given_up_and_a_signal_ends_the_wait_for_it(both, monkeypatch):
    process, *_, requests = both()
    process.submit(requests)
    os.kill(process.pid, signal.SIGSTOP)

    def interrupt(*_) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            process.pause()  # it does not answer
        signal.setitimer(signal.ITIMER_REAL, 10)
        process.pause()  # as whoever cleans up does
        signal.setitimer(signal.ITIMER_REAL, 0)
        monkeypatch.setattr("scalerl.remote.SILENT_S", 0.5)
        signal.setitimer(signal.ITIMER_REAL, 20)
        process.go_on()
        line = rf"^generator process {process.pid}: hangs: it said nothing for 0.5 s; go on from the latest .*--resume$"
        with pytest.raises(GenerationError, match=line):
            process.poll()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_closing_ends_the_process_and_a_process_that_never_started_is_closed_as_well(both):
    process, *_, requests = both()
    process.submit(requests)
    pid = process.pid
    assert pid is not None and alive(pid)
    began = time.monotonic()
    process.close()
    assert not alive(pid) and time.monotonic() - began < 4, "it had to be killed"
    with pytest.raises(GenerationError, match="closed"):
        process.poll()
    idle, *_ = both()
    idle.close()
    assert idle.pid is None


def test_whoever_writes_to_a_process_that_hangs_does_not_hang(both):
    """A pipe holds some 64 KiB; a batch of long prompts is more."""
    process, *_, requests = both()
    process.submit(requests)
    process.poll()
    os.kill(pid := process.pid, signal.SIGSTOP)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 30)
    try:
        process.submit([Request(1000 + i, 1, (5,) * 4000) for i in range(200)])
        process.close()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not Path(f"/proc/{pid}").exists()
