"""A learner over two processes: the same updates as one makes, whole models, shares that any number reads again."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from scalerl.completions import Completion
from scalerl.config import ConfigError, load_config
from scalerl.learner import Batch, Learner
from scalerl.policy import Policy, character_tokenizer, load_policy, new_policy
from scalerl.ranks import rank, world_size
from scalerl.shards import SharesError, read_shards
from scalerl.tasks import get_task

pytestmark = pytest.mark.slow
ALPHABET = get_task("chain").characters
STEPS = 3
# Fields against the demo's; what a difference may be, in a double and in a single.
CASES = {
    "untied": ({"dtype": "float64"}, 1e-12),
    "tied": ({"dtype": "float64"}, 1e-12),
    "fp32 head": ({"dtype": "bfloat16"}, 1e-5),
    "adapters": ({"dtype": "float64", "lora_rank": "2"}, 1e-12),
    "gpt2": ({"dtype": "float64"}, 1e-12),
    "one micro-batch": ({"dtype": "float64", "micro_batch_tokens": "100000"}, 1e-12),
}


def make_model(case: str, folder: Path) -> None:
    """Write the model of a case."""
    if case == "gpt2":
        tokenizer = character_tokenizer(ALPHABET)
        torch.manual_seed(1)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_positions=72, n_embd=16, n_layer=2, n_head=2))
        model.generation_config.eos_token_id = tokenizer.eos_token_id
        policy = Policy(model.eval(), tokenizer, (tokenizer.eos_token_id,))
    else:
        policy = new_policy(ALPHABET, max_length=72, width=16, heads=2, seed=1, tie_word_embeddings=case == "tied")
    policy.save(folder)


def make_config(case: str, folder: Path):
    """Return the configuration of a case."""
    fields = {"micro_batch_tokens": 400, **CASES[case][0], "model_name": folder / case.replace(" ", "-")}
    return load_config(["scalerl", "demo"], [f"{name}={value}" for name, value in fields.items()])


def make_updates(learner: Learner, folder: Path, policy: Policy) -> dict:
    """Make a few updates on random completions, an odd number of micro-batches, and keep all that comes of it."""
    rng = np.random.default_rng(0)
    rows = []
    for step in range(1, STEPS + 1):
        completions = []
        for number in range(30):
            prompt = tuple(map(int, rng.integers(3, 14, 5 + number // 4)))
            tokens = tuple(map(int, rng.integers(3, 14, int(rng.integers(1, 20)))))
            logprobs = tuple(map(float, -2 * rng.random(len(tokens))))
            completions.append(Completion(number, prompt, tokens, logprobs, (0,) * len(tokens), 0.0, truncated=False))
        advantages, weights = torch.tensor(rng.standard_normal(30)), torch.tensor(rng.random(30)) / 300
        rows.append(learner.update(Batch(completions, advantages, weights), step))
    rows.append(learner.update(Batch([], torch.empty(0), torch.empty(0)), STEPS + 1))
    with torch.no_grad():
        kept = [None if weight is None else weight.clone() for weight in learner.weights().tensors()]
    learner.run_whole(lambda: policy.save(folder))
    return {"rows": rows, "weights": kept, "prompt_tokens": learner.prompt_tokens}


def first_process(folder: Path) -> None:
    """Run every case as the first of two processes, and go on from what one process has kept."""
    from scalerl.sharded import lead

    for case in CASES:
        config = make_config(case, folder)
        policy = load_policy(config.model_name, dtype="float64" if config.dtype == "float64" else "float32")
        learner = lead(policy.model, config)
        there = folder / f"two-{case.replace(' ', '-')}"
        found = make_updates(learner, there, policy)
        learner.write(there / "shares")
        failed = [refused(learner, folder) for folder in blocked(there)]
        one = torch.load(folder / f"one-{case.replace(' ', '-')}.pt", weights_only=True)
        learner.load(one)
        learner.write(there / "loaded")
        torch.save({**found, "failed": failed, "cpu_s": learner.others_cpu_s}, folder / f"{there.name}.pt")
        learner.close()
        os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1)


def blocked(there: Path) -> list[Path]:
    """Make folders for shares in which the first process, and the second alone, cannot write."""
    nowhere = there / "a file"
    nowhere.write_text("")
    second = there / "second"
    for share in (there / "shares").glob("*00002*.safetensors"):
        (second / share.name).mkdir(parents=True)
    return [nowhere / "shares", second]


def refused(learner: Learner, folder: Path) -> str:
    """What is said where shares cannot be written."""
    try:
        learner.write(folder)
    except SharesError as error:
        return str(error)
    return "written"


def other_process() -> None:
    """Serve the cases one after the other."""
    from scalerl.sharded import follow

    for _ in CASES:
        follow()
        os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1)


def both_processes(folder: Path) -> None:
    """Ask both, without orders: is the model the same, and which gradient is not finite, in the second share alone?"""
    from scalerl.gather import refuse_other_models
    from scalerl.orders import leave, meet
    from scalerl.sharded import ShardedLearner

    meet()
    told = {}
    for name, seed, width in (("same", 0, 3), ("weights", rank(), 3), ("size", 0, 3 + rank())):
        torch.manual_seed(seed)
        try:
            refuse_other_models(torch.nn.Linear(width, 2), "m")
        except ConfigError as error:
            told[name] = str(error)
    config = make_config("untied", folder)
    learner = ShardedLearner(load_policy(config.model_name, dtype="float64").model, config)
    parameters = learner.trainable()
    for p in parameters.values():
        p.grad = torch.zeros_like(p)
    told["finite"] = str(learner._wrong())
    wrong = list(parameters)[3]
    if rank() == 1:
        parameters[wrong].grad.to_local().view(-1)[0] = torch.inf
    told["wrong"], told["expected"] = str(learner._wrong()), wrong
    (folder / f"told-{rank()}.json").write_text(json.dumps(told))
    leave()


def free_ports(count: int) -> int:
    """Return the first of so many ports in a row that nobody listens at."""
    for port in range(20000 + 16 * os.getpid() % 9000, 60000, count):  # tests beside these have pids beside this one
        held = [socket.socket() for _ in range(count)]
        try:
            for offset, each in enumerate(held):
                each.bind(("", port + offset))  # at any address: torch's store listens at all of them
        except OSError:
            continue
        else:
            return port
        finally:
            for each in held:
                each.close()
    raise AssertionError("no ports")


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a process beside this one."""
    return {**os.environ, "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **more}


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Path:
    """A folder with what one process and two make of every case."""
    folder = tmp_path_factory.mktemp("sharded")
    for case in CASES:
        config = make_config(case, folder)
        make_model(case, Path(config.model_name))
        policy = load_policy(config.model_name, dtype="float64" if config.dtype == "float64" else "float32")
        learner = Learner(policy.model, config)
        found = make_updates(learner, folder / f"one-{case.replace(' ', '-')}", policy)
        torch.save({**found, **learner.save()}, folder / f"one-{case.replace(' ', '-')}.pt")
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_ports(len(CASES)))}
    command = [sys.executable, "-m", "tests.test_sharded", str(folder)]
    processes = [
        subprocess.Popen(command, env=environment(RANK=str(number), LOCAL_RANK=str(number), **shared))
        for number in range(2)
    ]
    until = time.monotonic() + 300
    while any(process.poll() is None for process in processes) and not any(process.poll() for process in processes):
        assert time.monotonic() < until
        time.sleep(0.05)
    for process in processes:
        process.kill()  # who waits for one that failed
    assert [process.wait() for process in processes] == [0, 0]
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_processes_make_the_updates_of_one(both, case):
    name, tolerance = case.replace(" ", "-"), CASES[case][1]
    one, two = (torch.load(both / f"{which}-{name}.pt", weights_only=True) for which in ("one", "two"))
    for row, expected in zip(two["rows"], one["rows"], strict=True):
        assert row.keys() == expected.keys()
        for key, value in expected.items():
            if isinstance(value, float):
                assert row[key] == pytest.approx(value, rel=100 * tolerance, abs=tolerance), key
            else:
                assert row[key] == value, key
    for ours, theirs in zip(two["weights"], one["weights"], strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or (ours - theirs).abs().max() <= tolerance * 10
    assert two["prompt_tokens"] >= one["prompt_tokens"] > 0  # a prompt that both had is run twice
    assert two["cpu_s"] > 0
    ours, theirs = (load_policy(str(both / f"{which}-{name}")).model.state_dict() for which in ("two", "one"))
    assert ours.keys() == theirs.keys()
    assert all((ours[key] - theirs[key]).abs().max() <= max(tolerance * 10, 1e-7) for key in ours)


@pytest.mark.parametrize("case", CASES)
def test_shares_are_read_whole_again_and_what_one_process_kept_is_split(both, case):
    name, tolerance = case.replace(" ", "-"), CASES[case][1]
    one = torch.load(both / f"one-{name}.pt", weights_only=True)
    shares, loaded = (read_shards(both / f"two-{name}" / which) for which in ("shares", "loaded"))
    for group in ("model", "optimizer"):
        expected = {key: value for key, value in one[group].items() if not key.startswith("scaler.")}
        assert shares[group].keys() == loaded[group].keys() == expected.keys()
        for key, value in expected.items():
            assert torch.equal(loaded[group][key], value), key
            assert (shares[group][key] - value).abs().max() <= tolerance * 10, key
    assert len(list((both / f"two-{name}" / "shares").iterdir())) == 2


def test_shares_that_one_process_cannot_write_are_told_by_all_and_the_learner_goes_on(both):
    """It went on to load and to write after the refusals: the other tests look at that."""
    failed = torch.load(both / "two-untied.pt", weights_only=True)["failed"]
    assert failed == ["process 0: Not a directory", "process 1: Is a directory"]


def test_all_processes_must_have_loaded_the_same_model(both):
    for number in range(2):
        told = json.loads((both / f"told-{number}.json").read_text())
        assert told.keys() == {"weights", "size", "finite", "wrong", "expected"}
        assert told["weights"] == "model_name: m holds another model for process 1 than for the first one"
        assert told["size"] == told["weights"]


def test_a_gradient_that_is_not_finite_in_one_share_is_named_by_all(both):
    for number in range(2):
        told = json.loads((both / f"told-{number}.json").read_text())
        assert told["finite"] == "None" and told["wrong"] == told["expected"]


MISSING = """
import sys
from scalerl.config import load_config
from scalerl.policy import load_policy
from scalerl.ranks import rank
from scalerl.runlog import UserError
from scalerl.sharded import follow, lead
config = load_config(["scalerl", "demo"])
try:
    follow() if rank() else lead(load_policy(config.model_name).model, config.model_copy(update={"model_name": "./no"}))
except UserError as error:
    print(error)
"""


def test_where_a_process_cannot_load_its_model_the_first_one_says_a_line(tmp_path):
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_ports(1))}
    said = [
        subprocess.Popen(
            [sys.executable, "-c", MISSING],
            env=environment(RANK=str(number), LOCAL_RANK=str(number), **shared),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    (first, errors), (other, _) = [process.communicate(timeout=120) for process in said]
    assert first == "another process of this run ended at its start; its own line says why\n", errors
    assert "./no" in other and "Traceback" not in errors


if __name__ == "__main__":
    torch.set_num_threads(1)
    other_process() if rank() else first_process(Path(sys.argv[1]))
    both_processes(Path(sys.argv[1]))
    assert world_size() == 2
