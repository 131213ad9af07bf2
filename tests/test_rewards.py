"""Rewards of one's own: found by name, judged beside the training, and a hostile one costs a completion its score."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scalerl.checkdata import check_data
from scalerl.checkpoint import read_checkpoint
from scalerl.config import ScaleRLConfig, load_config
from scalerl.describe import driven_by_time, reward_module
from scalerl.display import Display
from scalerl.rewards import Inline, after_thinking, as_score, make_scorer, system
from scalerl.rewards.hand import Spec
from scalerl.rewards.names import refuse_unknown
from scalerl.rewards.pool import Pool
from scalerl.runlog import TIME_FIELDS, UserError, read_log
from scalerl.start import resume, train
from scalerl.tasks import get_task, thinking_of

HOSTILE = """
import os, signal, subprocess, sys, threading, time

def score(item, completion):
    if completion == "python loop":
        while True: pass
    if completion == "sleep": time.sleep(1000)
    if completion == "c loop": sum(range(10**15))
    if completion == "raises": raise ValueError("bad\\nnews")
    if completion == "raises what cannot be shown":
        class Odd(Exception):
            def __str__(self): raise KeyError
        raise Odd
    if completion == "system exit": sys.exit(3)
    if completion == "os exit": os._exit(3)
    if completion == "crash":
        import ctypes
        ctypes.string_at(0)
    if completion == "none": return None
    if completion == "nan": return float("nan")
    if completion == "two": return 2
    if completion == "allocates":
        held = []
        while True: held.append(bytearray(10**8))
    if completion == "stops itself": os.kill(os.getpid(), signal.SIGSTOP); time.sleep(1000)
    if completion == "closes all": os.closerange(0, 1000)
    if completion == "floods stdout":
        for _ in range(1000): print("x" * 10000)
        return "not flooded"
    if completion == "floods all":
        for fd in range(100):
            try: os.write(fd, b"x" * 200000)
            except OSError: pass
    if completion == "leaves a child": subprocess.Popen(["sleep", "984"], start_new_session=True)
    if completion == "leaves a daemon" and os.fork() == 0:
        os.setsid()
        if os.fork() == 0: time.sleep(984)
        os._exit(0)
    if completion == "forks": os.fork()
    if completion == "fork bomb":
        while True: os.fork()
    if completion == "leaves a thread":
        threading.Thread(target=lambda: (time.sleep(.3), os._exit(1)), daemon=True).start()
        raise RuntimeError("now it comes")
    return completion == item["answer"]
"""
# What a completion does to the worker -> what is said of it.
DEEDS = {
    "python loop": "took longer than 1 s",
    "sleep": "took longer than 1 s",
    "c loop": "took longer than 1 s",
    "stops itself": "took longer than 1 s",
    "raises": "ValueError: bad",
    "raises what cannot be shown": "Odd",
    "system exit": "SystemExit: 3",
    "os exit": "ended itself (exit code 3)",
    "crash": "died (SIGSEGV)",
    "none": "returned None, which is no bool and no number from 0 to 1",
    "nan": "returned nan",
    "two": "returned 2",
    "closes all": "ended itself",
    "floods stdout": "returned 'not flooded'",
    "floods all": "wrote what was no answer",
    "leaves a child": "left processes behind",
    "leaves a daemon": "left processes behind",
    "fork bomb": "",
    "leaves a thread": "RuntimeError: now it comes",
}
HERE = {**os.environ, "PYTHONPATH": "."}
RIGHT = ({"answer": "7"}, "thinking</think>7")


def spec(folder: Path, reward: str = "hostile:score", **fields) -> Spec:
    given = {"task": "chain", "path": str(folder), "end_of_thinking": "</think>", "time_limit_s": 1.0}
    return Spec(**{"reward": reward, "memory_gb": 1.0, "allow_network": False, **given, **fields})


def processes(word: bytes) -> list[Path]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word in path.read_bytes():
                found.append(path)
        except OSError:
            pass
    return found


def workers_of(trainer: subprocess.Popen) -> list[Path]:
    """Folders in /proc of a trainer's workers and of what they run."""
    pids = system.family(trainer.pid, 5.0)[1:]
    assert len(pids) >= 2
    return [Path(f"/proc/{pid}") for pid in pids]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "hostile.py").write_text(HOSTILE)
    pool = Pool(spec(folder), workers=1)
    yield pool
    pool.close()


@pytest.mark.parametrize("deed", DEEDS)
def test_a_hostile_reward_costs_one_completion_its_score_and_nothing_else(hostile, deed):
    began = time.monotonic()
    before, bad, *after = hostile.score([RIGHT, ({"answer": "7"}, deed), RIGHT, RIGHT])
    assert bad.value == 0 and not bad.right and bad.reward == -1 and DEEDS[deed] in bad.error
    assert before.right and all(score == (1.0, None) for score in after)
    assert time.monotonic() - began < 25
    assert not processes(b"sleep\x00984")


def test_a_reward_that_allocates_without_end_meets_its_limit(tmp_path):
    (tmp_path / "hostile.py").write_text(HOSTILE)
    pool = Pool(spec(tmp_path, memory_gb=0.4, time_limit_s=60.0), workers=1)
    bad, after = pool.score([({"answer": "7"}, "allocates"), RIGHT])
    pool.close()
    assert bad == (0.0, "MemoryError") and after.right


def test_a_fork_that_comes_back_answers_once(hostile):
    scores = hostile.score([RIGHT, ({"answer": "7"}, "forks"), RIGHT])
    assert scores[0].right and scores[2].right and not scores[1].right


def test_no_worker_outlives_its_trainer(tmp_path):
    """A trainer that is killed cannot clean up; its workers do, even one that hangs."""
    (tmp_path / "hostile.py").write_text(HOSTILE)
    program = (
        "import sys; from scalerl.rewards.hand import Spec; from scalerl.rewards.pool import Pool\n"
        f"pool = Pool(Spec('hostile:score', 'chain', {str(tmp_path)!r}, '</think>', 600.0, None, False), workers=1)\n"
        "pool.submit(1, {'answer': ''}, 'python loop'); print('begun', flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], env=HERE, **pipes) as trainer:
        assert trainer.stdout.readline() == b"begun\n"
        mine = workers_of(trainer)
        time.sleep(0.3)
        trainer.kill()
    until = time.monotonic() + 10
    while any(folder.exists() for folder in mine) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(folder.exists() for folder in mine)


def test_scores_come_by_number_whoever_is_first_and_evaluations_go_before(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import time\ndef score(item, text):\n    time.sleep(item['wait'])\n    return item['worth']\n"
    )
    pool = Pool(spec(tmp_path, "slow:score", time_limit_s=20.0), workers=2)
    try:
        for number, wait in enumerate([0.4, 0.0, 0.2, 0.0]):
            pool.submit(number, {"wait": wait, "worth": number / 4}, "")
        assert [score.value for score in pool.take([3, 0, 2, 1])] == [0.75, 0.0, 0.5, 0.25]
        with pool.apart():
            pool.submit(9, {"wait": 0, "worth": 1}, "")
            assert pool.score([({"wait": 0, "worth": 0.5}, "")]) == [(0.5, None)]
            time.sleep(0.2)
            assert 9 not in pool._scores  # it waits until the training is billed again
        assert pool.take([9])[0].right
    finally:
        pool.close()
    assert threading.active_count() < 20


@given(st.floats(allow_nan=True) | st.integers() | st.text() | st.none() | st.booleans() | st.lists(st.integers()))
def test_only_numbers_from_0_to_1_are_scores(value):
    score = as_score(value)
    fine = isinstance(value, bool | int | float) and 0 <= value <= 1
    assert (
        (score.error is None) == fine and score.value == (value if fine else 0) and score.right == (fine and value == 1)
    )
    assert score.reward == (2 * value - 1 if fine else -1)


def test_what_follows_the_last_end_of_thinking_is_judged():
    assert after_thinking("a</t>b</t>c", "</t>") == "c" and after_thinking("abc", "</t>") == "abc"
    config = load_config(["demo"], ["reward=exact", 'end_of_thinking="#"'])
    scorer = make_scorer(config)
    assert isinstance(scorer, Inline)
    assert [s.right for s in scorer.score([({"answer": "7"}, "8#7"), ({"answer": "7"}, "7#8")])] == [True, False]
    assert thinking_of(config).interruption.endswith("final answer #")
    assert isinstance(make_scorer(load_config(["demo"])), Inline)  # the demo's task stays where it was


MODULES = {
    "fine": "def score(item, text): return True\n"
    "class Mine:\n    end_of_thinking = '#'\n    def score(self, item, text): return text\n",
    "broken": "def score(item, text):\n    return (\n",
    "raising": "x = 1\nx / 0\n",
    "leaving": "raise SystemExit(0)\n",
    "needing": "import no_such_package_at_all\n",
    "dying": "import os\nos._exit(0)\n",
    "number": "score = 3\nclass Greedy:\n    def __init__(self, a): pass\n",
}  # fmt: skip


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (
            "maths",
            "reward: there is no reward 'maths'; there are math, exact, code, reasoning-gym:NAME, your own as my_m",
        ),
        (
            "absent:score",
            r"reward: there is no module absent: not in .*, not in the working directory, and not installed",
        ),
        ("fine:scores", "reward: fine has no scores; it has score"),
        ("broken:score", r"reward: broken cannot be imported: .*broken\.py:2: SyntaxError"),
        ("raising:score", r"reward: raising cannot be imported: .*raising\.py:2: ZeroDivisionError"),
        ("leaving:score", "reward: leaving cannot be imported: .*SystemExit"),
        ("needing:score", "reward: needing needs no_such_package_at_all, which is not installed"),
        ("dying:score", "reward: dying:score: its process ended itself"),
        ("number:score", "reward: number:score: is int, no function"),
        ("number:Greedy", "reward: number:Greedy: cannot be made without arguments: TypeError"),
        (
            "fine:Mine",
            "reward: fine:Mine ends its thinking with '#', and end_of_thinking is '</think>'; make them equal",
        ),
        ("reasoning-gym:chess", "no data set 'chess'|reasoning-gym is not installed"),
    ],
)
def test_a_reward_that_cannot_be_loaded_is_one_line_and_nothing_is_written(tmp_path, quick, prompts, reward, said):
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    config = quick(reward=reward, reward_path=tmp_path)
    with pytest.raises(UserError, match=said) as caught:
        train(config, str(prompts / "train.json"), str(prompts / "eval.json"), str(tmp_path / "run"))
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("reward", "file", "taken"),
    [
        ("json:score", "json.py", rf"the name json is taken by module json at {re.escape(json.__file__)}; rename"),
        ("json:dumps", "json.py", "the name json is taken by module json at "),  # it would score, and be another's
        ("time:score", "time.py", "the name time is taken by module time of Python itself; rename"),
        ("email.mine:score", "email/mine.py", "the name email is taken by module email at "),
    ],
)
def test_a_module_whose_name_is_taken_is_told_so(tmp_path, reward, file, taken):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text("def score(item, text): return True\n")
    with pytest.raises(UserError, match=rf"^reward: {re.escape(str(path))} cannot be imported: {taken}") as caught:
        Pool(spec(tmp_path, reward), workers=1)
    assert "\n" not in str(caught.value)


def test_a_module_of_ones_own_may_have_a_name_that_nothing_has_imported(tmp_path):
    (tmp_path / "antigravity.py").write_text(MODULES["fine"])
    pool = Pool(spec(tmp_path, "antigravity:score"), workers=1)
    assert [score.right for score in pool.score([({}, "a")])] == [True]
    pool.close()


def test_a_task_class_judges_the_whole_completion(tmp_path):
    (tmp_path / "fine.py").write_text(MODULES["fine"].replace("return text", "return text == 'a#b'"))
    pool = Pool(spec(tmp_path, "fine:Mine", end_of_thinking="#"), workers=1)
    assert [score.right for score in pool.score([({}, "a#b"), ({}, "b")])] == [True, False]
    pool.close()


def test_tasks_of_installed_packages_are_found_by_entry_point(tmp_path, monkeypatch):
    (tmp_path / "parity.py").write_text(
        "class Parity:\n    name = 'parity'; characters = '01'; end_of_thinking = interruption = '#'\n"
        "    def score(self, item, text): return text.endswith(item['answer'])\n"
    )
    info = tmp_path / "parity-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: parity\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[scalerl.tasks]\nparity = parity:Parity\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert get_task("parity").characters == "01"
    refuse_unknown("parity")
    for settings in (["task=parity"], ["reward=parity", 'end_of_thinking="#"']):
        config = load_config(["demo"], settings)
        scorer = make_scorer(config)
        assert scorer.score([({"answer": "1"}, "0#1")])[0].right
        assert driven_by_time(config) == ["reward_time_limit_s"]
        scorer.close()


@pytest.mark.parametrize("settings", [[], ["task=addition"], ["reward=exact"], ["reward=math"], ["reward=mine:score"]])
def test_the_time_limit_is_named_as_not_reproducible_wherever_it_ends_scores(tmp_path, monkeypatch, settings):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("def score(item, completion): return True\n")
    config = load_config(["demo"], settings)
    scorer = make_scorer(config)
    assert driven_by_time(config) == (["reward_time_limit_s"] if isinstance(scorer, Pool) else [])
    scorer.close()


def test_the_module_is_looked_for_beside_the_configuration_that_names_it(tmp_path, monkeypatch):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "mine.yaml").write_text("reward: beside:score\n")
    config = load_config(["demo", str(tmp_path / "conf" / "mine.yaml")])
    assert config.reward_path == str(tmp_path / "conf")
    assert load_config(["demo"], ["reward=beside:score"]).reward_path is None  # the working directory
    monkeypatch.chdir(tmp_path)
    for folder, worth in (tmp_path, 0.25), (tmp_path / "conf", 0.5):  # the file's folder goes first
        (folder / "beside.py").write_text(f"def score(item, text): return {worth}\n")
        scorer = make_scorer(config)
        assert scorer.score([({}, "")])[0].value == worth
        scorer.close()


def test_a_folder_that_a_file_names_for_the_module_stays_named_and_stands_whole(tmp_path, monkeypatch):
    for name, text in {
        "place": "reward_path: elsewhere\n",
        "a/mine": "reward: beside:score\n",
        "b/other": "reward: other:score\n",
        "c/built": "reward: math\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    for files, path in (
        (["a/mine"], str(tmp_path / "a")),  # a resume finds it from another folder, too
        (["a/mine", "b/other"], str(tmp_path / "b")),
        (["place", "a/mine"], "elsewhere"),
        (["a/mine", "place"], "elsewhere"),
        (["place", "a/mine", "b/other"], "elsewhere"),
        (["c/built"], None),
    ):
        assert load_config(["demo", *(f"{name}.yaml" for name in files)]).reward_path == path


REWARD = '''
import json, os, time

def score(item, completion):
    """Share of the digits that are right; some completions break it."""
    if len(completion) % 5 == 3: raise ValueError("seven")
    same = sum(a == b for a, b in zip(completion, item["answer"]))
    return same / max(len(completion), len(item["answer"]))

def broken(item, completion):
    raise ValueError("never")
'''
OWN = {"reward": "own:score", "end_of_thinking": '"#"', "eval_every": 2, "checkpoint_every": 2, "max_steps": 5}


@pytest.fixture
def own(tmp_path, quick, prompts):
    (tmp_path / "own.py").write_text(REWARD)

    def make(name: str, report=lambda _: None, **fields) -> Path:
        config = quick(**{**OWN, "reward_path": tmp_path, "interruption_phrase": '"#"', **fields})
        data = str(prompts / "train.json"), str(prompts / "eval.json")
        return train(config, *data, str(tmp_path / name), report=report)

    return make


def rows_of(folder: Path, *kinds: str) -> list[dict]:
    rows = [row for row in read_log(folder / "log.jsonl").rows if row["kind"] in kinds]
    return [{name: value for name, value in row.items() if name not in TIME_FIELDS | {"attempt"}} for row in rows]


def test_a_run_with_a_reward_of_ones_own_logs_partial_rewards_and_errors(own):
    folder = own("run", reward_workers=2)
    steps, evals = rows_of(folder, "step"), rows_of(folder, "eval")
    assert all("reward_errors" in row for row in steps + evals)
    assert any(0 < row["reward_errors"] < 32 for row in steps)
    means = [row["reward_sum"] / row["reward_count"] for row in steps]
    assert all(-1 < mean < 1 for mean in means)
    # With rewards of +-1 only, the variance would be 1 - mean^2.
    assert any(row["reward_var"] < 0.99 * (1 - mean**2) for row, mean in zip(steps, means, strict=True))
    events = [row for row in read_log(folder / "log.jsonl").rows if row.get("event") == "reward_errors"]
    assert sorted(event["data"] for event in events) == ["eval", "train"]
    assert all(event["messages"] == ["ValueError: seven"] and 0 < event["errors"] < event["scores"] for event in events)
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert all(-1 <= sample["reward"] <= 1 for sample in samples)


def test_the_same_log_for_any_number_of_workers(own):
    assert rows_of(own("one"), "step", "eval") == rows_of(own("two", reward_workers=2), "step", "eval")


def test_completions_whose_scores_were_not_taken_are_scored_again_after_a_resume(own):
    whole, cut = own("whole", max_steps=6), own("cut", max_steps=4)
    kept = read_checkpoint(cut)
    assert kept.tensors["completions"]  # finished, and waiting for their batch
    resume(str(cut), ["max_steps=6", "reward_workers=2"], say=pytest.fail)
    assert rows_of(cut, "step", "eval") == rows_of(whole, "step", "eval")
    ours, theirs = read_checkpoint(cut).tensors["model"], read_checkpoint(whole).tensors["model"]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_reward_that_has_changed_is_told_by_every_resume(own, tmp_path):
    folder = own("run", max_steps=2)
    known = json.loads((folder / "run.json").read_text())["reward_module"]
    file = tmp_path / "own.py"
    assert known == {"file": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    file.write_text(f"{REWARD}# and more\n")
    line = f"reward: {file} has changed since the run began: from here on the new one scores"
    for steps in (3, 4):
        said: list[str] = []
        resume(str(folder), [f"max_steps={steps}"], say=said.append)
        assert said == [line]
        told = [row["differs"] for row in read_log(folder / "log.jsonl").rows if row.get("event") == "resume"]
        assert told[-1] == [line]
    file.write_text(REWARD)
    resume(str(folder), ["max_steps=5"], say=pytest.fail)
    assert reward_module(ScaleRLConfig()) is reward_module(ScaleRLConfig(reward="reasoning-gym:chain_sum")) is None
    assert reward_module(ScaleRLConfig(reward="json:loads")) is None  # installed


def test_where_every_score_fails_a_guard_says_so_once(own):
    stream = io.StringIO()
    with Display(stream) as display:
        folder = own("broken", report=display, reward="own:broken")
    told = [line for line in stream.getvalue().splitlines() if not line.startswith("step ")]
    said = "scores failed and count as wrong, the first: ValueError: never"
    assert told == [
        f"warning: eval rewards at step 0: 16 of 16 {said}",
        f"warning: train rewards at step 1: 32 of 32 {said}",
    ]
    rows = read_log(folder / "log.jsonl").rows
    guards = [row for row in rows if row.get("guard") == "reward_errors"]
    assert [(row["raised"], row["figure"]) for row in guards] == [(True, 1.0)]
    assert all(row["reward_errors"] == 32 and row["skipped"] for row in rows if row["kind"] == "step")


BLIND = """
def score(item, completion):
    if set(item) != {"prompt", "answer", "level"}: raise KeyError(sorted(item))
    return 1
"""


def test_a_reward_is_given_no_column_that_the_hash_leaves_out(tmp_path, quick, prompts):
    """So that a resume on data with other such columns, which is accepted, is the same run."""
    (tmp_path / "blind.py").write_text(BLIND)
    for split in ("train", "eval"):
        items = [
            {**item, "difficulty": 0.5, "level": 1} for item in json.loads((prompts / f"{split}.json").read_text())
        ]
        assert all({"thinking", "solution"} < item.keys() for item in items)
        (tmp_path / f"{split}.json").write_text(json.dumps(items))
    more = {"reward": "blind:score", "reward_path": tmp_path, "interruption_phrase": '"#"', "batch_size": 16}
    config = quick(**{**OWN, **more, "max_steps": 2})
    folder = train(config, str(tmp_path / "train.json"), str(tmp_path / "eval.json"), str(tmp_path / "run"))
    assert [row["pass_rate"] for row in rows_of(folder, "eval")] == [1, 1]
    assert all(row["reward_sum"] == row["reward_count"] == 16 for row in rows_of(folder, "step"))
    checked = check_data(str(tmp_path / "train.json"), config, None)
    assert checked.failed.errors == checked.failed_wrong.errors == 0


LATE = """
calls = 0
def score(item, completion):
    global calls
    calls += 1
    if calls == 20 or calls > 100: raise OSError("the service is gone")
    return calls % 2
"""


def test_a_reward_that_breaks_later_is_told_again_when_no_score_is_left(own, tmp_path):
    (tmp_path / "late.py").write_text(LATE)
    notes = []
    fields = {"reward_workers": 1, "eval_every": 100, "max_steps": 5, "off_policy_steps": 0}
    folder = own("late", report=lambda p: notes.append(p.note), reward="late:score", **fields)
    told = [note for note in notes if note]
    steps = {row["step"]: row["reward_errors"] for row in rows_of(folder, "step")}
    assert (steps[1], next(step for step in steps if steps[step] == 32)) == (1, 4)
    assert [note.split(":", 2)[1] for note in told[:2]] == [" train rewards at step 1", " train rewards at step 4"]
    assert "32 of 32 scores failed" in told[1] and "OSError: the service is gone" in told[1]


def test_an_interrupted_run_leaves_no_worker(tmp_path, prompts):
    (tmp_path / "slow.py").write_text("import time\ndef score(item, text):\n    time.sleep(0.05)\n    return 0.5\n")
    command = [sys.executable, "-m", "scalerl.cli", "train", "--config", "scalerl", "--config", "demo"]
    command += ["--train-data", str(prompts / "train.json"), "--eval-data", str(prompts / "eval.json")]
    command += ["--output-dir", str(tmp_path / "run"), "--set", "reward=slow:score", "--set", 'end_of_thinking="#"']
    command += ["--set", f"reward_path={tmp_path}", "--set", "batch_size=32", "--set", 'interruption_phrase="#"']
    command += ["--set", "eval_generations=1", "--set", "generations_per_prompt=4"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=HERE)
    log = tmp_path / "run" / "log.jsonl"
    while process.poll() is None and not (log.exists() and '"kind": "step"' in log.read_text()):
        time.sleep(0.1)
    workers = workers_of(process)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130, process.stderr.read()
    process.stderr.close()
    assert read_log(log).rows[-1]["event"] == "interrupted"
    assert not any(folder.exists() for folder in workers)


def test_workers_import_nothing_heavy():
    heavy = ("torch", "numpy", "transformers", "pydantic", "sympy")
    imports = "import scalerl.rewards.worker, scalerl.rewards.pool, scalerl.rewards.code, sys"
    probe = f"{imports}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, env=HERE)
    assert done.stdout.strip() == "[]"
