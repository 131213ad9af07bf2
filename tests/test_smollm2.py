"""A real pretrained model, asked for by SCALERL_SMOLLM2=1: three steps on a CPU, sampler and trainer agree.

The wheels that carry and read it are named in benchmarks/smollm2.py. It takes a few minutes of one core.
"""

from __future__ import annotations

import math
import os

import numpy as np
import pytest

from benchmarks.smollm2 import convert, three_steps
from scalerl.completions import Request
from scalerl.config import load_config
from scalerl.learner import Learner
from scalerl.policy import load_policy
from scalerl.sampler import make_generator
from scalerl.tasks import get_task

pytestmark = [
    pytest.mark.skipif(os.environ.get("SCALERL_SMOLLM2") != "1", reason="SCALERL_SMOLLM2 is not 1"),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return convert(tmp_path_factory.mktemp("smollm2") / "model")


def test_three_steps_have_finite_figures_and_the_trainer_agrees_with_the_sampler(model):
    rows = [row for row in three_steps(model.parent) if row["kind"] == "step"]
    assert len(rows) == 3 and max(row["lag_max"] for row in rows) == 2
    assert not all(row["skipped"] for row in rows)
    for row in rows:
        assert all(math.isfinite(value) for value in row.values() if isinstance(value, float))
        if not row["skipped"] and row["lag_max"] == 0:
            assert row["logprob_diff_max"] < 1e-2 and row["logprob_diff_mean"] < 1e-4


@pytest.mark.parametrize(("dtype", "mean"), [("float32", 1e-5), ("bfloat16", 0.05)])
def test_log_probabilities_agree(model, dtype, mean):
    config = load_config(["scalerl"], ["length_control=none", "max_length=96", "prompt_tokens=70", "thinking_tokens=8",
                                       "solution_tokens=10", f"dtype={dtype}"])  # fmt: skip
    policy = load_policy(str(model), prompt_format="auto", system_prompt="Be brief.")
    assert policy.chat and policy.render("a").startswith("<|im_start|>system\nBe brief.<|im_end|>")
    learner = Learner(policy.model, config)
    generator = make_generator(
        config, policy, get_task("addition"), learner.forward, learner.weights(), slots=4, seed=0
    )
    generator.submit(
        [Request(0, 2, policy.encode_prompt("What is 2+3?")), Request(2, 2, policy.encode_prompt("Hello"))]
    )
    done = generator.poll()
    old = np.concatenate([c.logprobs for c in done])
    assert np.abs(old - learner.logprobs(done).detach().numpy()).mean() < mean
