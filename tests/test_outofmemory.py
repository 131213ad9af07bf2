"""Out of memory for real, under a limit on the address space: one line that names phase and knob, and a whole log."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch

from scalerl.config import CHANGEABLE, ScaleRLConfig
from scalerl.outofmemory import KNOBS, PLACES, OutOfMemoryError, advice, is_out_of_memory, memory_advice
from scalerl.runlog import read_log

# The limit leaves so much address space beside what the process has when everything is imported.
LIMITED = """
import resource, sys
import scalerl.start, scalerl.results, scalerl.saved, scalerl.outofmemory, transformers.models.qwen3.modeling_qwen3
import torch
torch.set_num_threads(1)
from scalerl.cli import main
room = int(sys.argv[1]) << 20
has = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (has + room, has + room))
sys.exit(main(sys.argv[2:]))
"""


def limited(room_mib, *argv):
    command = [sys.executable, "-c", LIMITED, str(room_mib), *map(str, argv)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    said = [line for line in done.stderr.splitlines() if line.startswith("scalerl: ")]
    said = [line for line in said if "the model was made for" not in line]  # it is asked for more, and that is told
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 2, done.stderr
    assert len(said) == 1, done.stderr
    return said[0]


@pytest.fixture
def train(prompts, tmp_path):
    def command(*settings):
        fixed = ["batch_size=64", "eval_prompts=4", "eval_generations=1", "off_policy_steps=0", "max_steps=2"]
        fixed += ["zero_variance_filtering=false", "no_positive_resampling=false"]
        argv = ["train", "--config", "demo", "--train-data", prompts / "train.json", "--eval-data"]
        argv += [prompts / "eval.json", "--output-dir", tmp_path / "run"]
        return [*argv, *(part for setting in (*fixed, *settings) for part in ("--set", setting))]

    return command


def test_a_cache_that_does_not_fit_names_the_slots_before_anything_is_written(train, tmp_path):
    said = limited(300, *train("slots=200000"))
    assert "out of memory in the generation: lower slots (200000) first" in said
    assert "max_length (72)" in said and "bfloat16" in said
    assert not (tmp_path / "run").exists()


def test_an_update_that_does_not_fit_names_the_micro_batch_and_the_log_is_whole(train, tmp_path):
    said = limited(280, *train("batch_size=1024", "generations_per_prompt=64", "micro_batch_tokens=1000000"))
    assert "out of memory in the update: go on by --resume and lower micro_batch_tokens (1000000)" in said
    assert "in a new run lower max_length (72)" in said
    rows = read_log(tmp_path / "run" / "log.jsonl").rows
    assert rows[-1]["event"] == "failed"
    assert "micro_batch_tokens" in rows[-1]["error"]


def test_an_evaluation_that_does_not_fit_names_the_slots(prompts, tmp_path, chain_model):
    argv = ["evaluate", "--model-path", chain_model, "--eval-data", prompts / "eval.json", "--config", "demo"]
    argv += ["--k", 4000, "--set", "max_length=20000", "--output-file", tmp_path / "r.json"]
    said = limited(300, *argv)
    assert "out of memory in the evaluation: lower slots (512) first" in said
    assert not (tmp_path / "r.json").exists()


def test_a_run_with_a_checkpoint_is_told_what_a_resume_takes(tmp_path):
    for phase in KNOBS:
        said = advice(phase, ScaleRLConfig(dtype="float32"), begun=True)
        now, _, new = said.partition("; in a new run ")
        assert all(name in now for name in {"micro_batch_tokens", "in_flight"} & set(KNOBS[phase]))
        named = {name for name in ScaleRLConfig.model_fields if re.search(rf"\b{name}\b", now)}
        assert named <= CHANGEABLE - {"model_name"}
        assert set(KNOBS[phase]) - {"micro_batch_tokens", "in_flight"} <= set(re.findall(r"\w+", new))
    nothing = "go on by --resume where there is more memory; in a new run"
    assert nothing in advice("loading", ScaleRLConfig(), begun=True)
    (tmp_path / "checkpoints" / "step-00000000.part").mkdir(parents=True)
    for folder, said in (("step-00000000.part", "lower slots"), ("step-00000000", "go on by --resume")):
        (tmp_path / "checkpoints" / folder).mkdir(exist_ok=True)
        with pytest.raises(OutOfMemoryError, match=f"set-up: {said}"), memory_advice(ScaleRLConfig(), tmp_path):
            raise MemoryError


def test_every_phase_has_knobs_that_are_fields_and_every_place_exists():
    assert set(PLACES.values()) <= set(KNOBS)
    for phase, names in KNOBS.items():
        assert set(names) <= set(ScaleRLConfig.model_fields)
        assert all(name in advice(phase, ScaleRLConfig(dtype="float32")) for name in names)
    import importlib
    import inspect

    for file, function in PLACES:
        source = inspect.getsource(importlib.import_module(f"scalerl.{file.removesuffix('.py')}"))
        assert f"def {function}(" in source, (file, function)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] data. DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_what_says_that_memory_ran_out_is_told(error):
    assert is_out_of_memory(error)
    with (
        pytest.raises(OutOfMemoryError, match="out of memory in the set-up: lower slots"),
        memory_advice(ScaleRLConfig()),
    ):
        raise error


def test_other_errors_pass_through():
    for error in (RuntimeError("shapes do not fit"), ValueError("out of memory of what was said")):
        with pytest.raises(type(error), match=str(error)), memory_advice(ScaleRLConfig()):
            raise error
