"""The errors of the tutorial code that this project started from, one by one, so that none comes back.

Each test names the error and fails if it is made here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import analysis
from scalerl.advantage import keep_prompts
from scalerl.completions import Completion, Request
from scalerl.config import ConfigError, load_config
from scalerl.evaluate import evaluate
from scalerl.forward import Forward, head_weights, logits
from scalerl.generate import Generator
from scalerl.learner import Learner
from scalerl.policy import load_policy, new_policy
from scalerl.runlog import read_log
from scalerl.start import train
from scalerl.tasks import get_task
from scalerl.train import make_batch

CHECKPOINT = "data/checkpoints/chain"


def generator_of(policy, *, slots: int, dtype: torch.dtype | None = None) -> Generator:
    forward = Forward(policy.model, 72, dtype)
    weights = forward.weights(fp32_head=True)
    return Generator(forward, weights, slots=slots, max_new_tokens=50, max_length=72, end_ids=policy.end_ids)


@pytest.fixture(scope="module")
def policy():
    return load_policy(CHECKPOINT, dtype="float64")


@pytest.fixture(scope="module")
def completions(policy):
    generator = generator_of(policy, slots=16)
    generator.submit(
        [Request(i * 4, 4, policy.encode(t)) for i, t in enumerate(["7+3*4-2=", "1+1+1+1=", "2*2*2*2-1="])]
    )
    return generator.poll()


REWARDS = torch.tensor([[1.0, -1, -1, 1], [1, -1, -1, -1], [-1, 1, 1, 1]], dtype=torch.float64)


def gradient(policy, quick, rewards=REWARDS, *, done, **fields) -> torch.Tensor:
    """Gradient of one update, without the optimizer's step."""
    learner = Learner(policy.model, quick(max_grad_norm="1e9", dtype="float64", **fields))
    learner.optimizer.step = lambda: None
    learner.update(make_batch(rewards, done, learner.config), step=1)
    return torch.cat([p.grad.flatten() for p in policy.model.parameters()])


def test_loss_computed_without_gradient(policy, completions, quick):
    assert gradient(policy, quick, done=completions).abs().max() > 1e-3


def test_importance_ratio_that_is_a_constant(policy, completions, quick):
    other = [Completion(**{**vars(c), "logprobs": tuple(p - 0.5 for p in c.logprobs)}) for c in completions]
    config = quick(dtype="float64")
    row = Learner(policy.model, config).update(make_batch(REWARDS, other, config), step=1)
    assert row["ratio_mean"] == pytest.approx(np.exp(0.5), rel=0.05)


def test_advantages_computed_and_unused(policy, completions, quick):
    plus, minus = (gradient(policy, quick, sign * REWARDS, done=completions) for sign in (1, -1))
    assert torch.allclose(plus, -minus, atol=1e-12) and plus.abs().max() > 1e-3


def test_wrong_answers_skipped(policy, completions, quick):
    """Moving one wrong completion's log-probabilities changes the gradient."""
    wrong = int((REWARDS.flatten() < 0).nonzero()[0])
    moved = list(completions)
    moved[wrong] = Completion(**{**vars(moved[wrong]), "logprobs": tuple(p - 0.3 for p in moved[wrong].logprobs)})
    difference = gradient(policy, quick, done=moved) - gradient(policy, quick, done=completions)
    assert difference.abs().max() > 1e-4


def test_no_shift_between_logits_and_tokens(policy, completions, quick):
    c = completions[0]
    ours = Learner(policy.model, quick(dtype="float64")).logprobs([c])
    with torch.no_grad():
        scores = policy.model(input_ids=torch.tensor([c.prompt + c.tokens])).logits[0].log_softmax(-1)
    shifted = [scores[len(c.prompt) - 1 + i, t].item() for i, t in enumerate(c.tokens)]
    unshifted = [scores[len(c.prompt) + i, t].item() for i, t in enumerate(c.tokens)]
    assert np.allclose(ours.tolist(), shifted, atol=1e-5) and not np.allclose(ours.tolist(), unshifted, atol=0.1)


def test_prompt_and_padding_in_the_loss(policy, completions, quick):
    """One log-probability a completion token, whatever else is in the micro-batch to be padded to."""
    learner = Learner(policy.model, quick(dtype="float64"))
    together = learner.logprobs(completions)
    assert len(together) == sum(len(c.tokens) for c in completions)
    assert len({len(c.prompt) + len(c.tokens) for c in completions}) > 1
    alone = torch.cat([learner.logprobs([c]) for c in completions])
    assert (together - alone).abs().max() < 1e-12


def test_thinking_located_by_absolute_position():
    task = get_task("chain")
    for prompt, thinking, answer in (("7+3*4-2=", "+30*40-28", "008"), ("1+1+1+1+1=", "+12+13+14+15", "2345")):
        item = {"prompt": prompt, "answer": answer}
        assert task.score(item, f"{thinking}#{answer}")
        assert task.score(item, f"{thinking}{thinking}{task.end_of_thinking}{answer}")  # thinking of any length


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory, prompts):
    folder = tmp_path_factory.mktemp("runs") / "run"
    config = load_config(["scalerl", "demo"], ["batch_size=64", "max_steps=8", "eval_every=4", "learning_rate=1e-3"])
    return train(config, str(prompts / "train.json"), str(prompts / "eval.json"), str(folder))


def test_no_generation_at_all(finished_run):
    rows = [row for row in read_log(finished_run / "log.jsonl").rows if row["kind"] == "step"]
    assert all(row["tokens_generated"] > 0 and row["generate_s"] > 0 for row in rows)
    assert len({row["length_mean"] for row in rows}) > 4 and len({row["entropy"] for row in rows}) == 8


def test_evaluation_that_ignores_the_model(policy, prompts, quick):
    """A model that knows nothing gets 0; the shipped one does not; a reward column in the data changes nothing."""
    from scalerl.data import DataSet, load_data

    data, task, config = load_data(prompts / "eval.json"), get_task("chain"), quick(eval_generations=8)
    knows_nothing = new_policy(task.characters, max_length=72)
    assert evaluate(Learner(knows_nothing.model, config), knows_nothing, task, data, 0).pass_rate == 0
    learner = Learner(policy.model, config)
    result = evaluate(learner, policy, task, data, 0)
    assert 0 < result.pass_rate < 0.5
    recorded = DataSet(data.path, [{**item, "reward": "1"} for item in data.items], data.sha256)
    assert evaluate(learner, policy, task, recorded, 0).row["correct"] == result.row["correct"]


def test_whole_model_in_fp32_instead_of_the_head(quick):
    """A BF16 policy samples and learns in BF16, with the head's product in FP32 on both sides."""
    policy = load_policy(CHECKPOINT)
    learner = Learner(policy.model, quick(dtype="bfloat16"))
    generator = generator_of(policy, slots=4, dtype=torch.bfloat16)
    generator.submit([Request(0, 4, policy.encode("7+3*4-2="))])
    done = generator.poll()
    weights = learner.weights()
    backbone = [weights.embedding, weights.norm, *(w for layer in weights.layers for w in layer if w is not None)]
    assert {w.dtype for w in backbone} == {torch.bfloat16}
    assert learner.forward.hidden(torch.tensor([done[0].tokens]), weights).states.dtype == torch.bfloat16
    assert weights.head.dtype == torch.float32
    assert learner.logprobs(done).dtype == torch.float32
    assert any(p != torch.tensor(p).bfloat16().item() for c in done for p in c.logprobs)  # finer than BF16 can be
    hidden = torch.randn(3, 64).bfloat16()
    assert torch.equal(logits(hidden, weights), hidden.float() @ policy.model.lm_head.weight.T)


def test_head_bias_that_is_not_there(policy):
    assert head_weights(policy.model)[1] is None
    weights = Forward(policy.model, 72).weights()
    assert weights.head_bias is None
    assert logits(torch.randn(2, 64, dtype=torch.float64), weights).shape == (2, 18)


def test_ties_broken(completions, quick):
    tied = new_policy(get_task("chain").characters, max_length=72, tie_word_embeddings=True)
    learner = Learner(tied.model, quick())
    learner.update(make_batch(REWARDS, completions, learner.config), step=1)
    assert tied.model.lm_head.weight is tied.model.model.embed_tokens.weight
    assert len(learner.optimizer.param_groups[0]["params"]) == len(list(tied.model.parameters()))


def test_batch_size_turning_into_a_float():
    with pytest.raises(ConfigError, match=r"batch_size: 614\.4"):
        load_config([], ["batch_size=614.4"])
    assert type(load_config([], ["batch_size=512"]).prompts_per_update) is int


def test_plateau_test_inverted(finished_run):
    """Nothing lowers the learning rate while the pass rate rises: after the warm-up it is constant."""
    rows = [row for row in read_log(finished_run / "log.jsonl").rows if row["kind"] == "step"]
    assert [row["learning_rate"] for row in rows] == pytest.approx([1e-3 * step / 10 for step in range(1, 9)])


def test_zero_variance_mask_taken_over_the_batch():
    rewards = torch.tensor([[1.0, 1, 1, 1], [-1, -1, -1, -1]])  # the batch varies, no prompt does
    assert keep_prompts(rewards, filter_zero_variance=True).tolist() == [False, False]


def test_no_log_ever_written(finished_run):
    assert {"run.json", "log.jsonl", "samples.jsonl", "model", "checkpoints"} == {
        p.name for p in finished_run.iterdir()
    }
    assert len(read_log(finished_run / "log.jsonl").rows) == 2 + 3 + 8


def truth(compute: np.ndarray) -> np.ndarray:
    """R0 .1, A .7, C_mid .02, B 1.7, with compute 0 as a point."""
    with np.errstate(divide="ignore"):
        return 0.1 + 0.6 / (1 + (0.02 / compute) ** 1.7)


@pytest.fixture
def csv_log(tmp_path) -> Path:
    compute = np.linspace(0, 0.1, 25)
    rows = [f"{c},{r}" for c, r in zip(compute, truth(compute), strict=True)]
    path = tmp_path / "training_log.csv"
    path.write_text("gpu_hours,accuracy\n" + "\n".join(rows) + "\n")
    return path


def test_curve_fit_called_with_the_wrong_signature_no_r0_and_division_by_zero_compute(csv_log):
    curve = analysis.plot_training_curves(str(csv_log))
    assert np.allclose([curve.A, curve.B, curve.C_mid], [0.7, 1.7, 0.02], rtol=1e-4)
    fit = analysis.fit(analysis.read(str(csv_log))[0])
    assert fit.params["R0"].value == pytest.approx(0.1, rel=1e-4)


def test_a_window_opened_on_a_headless_machine(csv_log, tmp_path):
    """No display, and a backend that would need one: the picture is written and no window asked for."""
    code = (
        "import sys, matplotlib.pyplot as plt\n"
        "plt.show = lambda *a, **k: sys.exit('a window was opened')\n"
        "import analysis\n"
        f"analysis.plot_training_curves({str(csv_log)!r}, output={str(tmp_path / 'p.png')!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    command = [sys.executable, "-m", "scalerl.cli", "plot", str(csv_log), "-o", str(tmp_path / "q.png")]
    env = {"PATH": "", "HOME": str(tmp_path), "MPLBACKEND": "TkAgg"}
    subprocess.run(command, env=env, capture_output=True, check=True)
    assert json.dumps(sorted(p.name for p in tmp_path.glob("*.png"))) == '["p.png", "q.png"]'
