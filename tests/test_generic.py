"""The forward of any causal LM: generator, learner and the model's own forward agree; what does not fit is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

import scalerl.generic
from scalerl.completions import Completion, Request
from scalerl.config import load_config
from scalerl.describe import multiplying_weights
from scalerl.forward import Forward, Prefix, logits
from scalerl.generate import Generator
from scalerl.generic import GenericForward, make_forward
from scalerl.kept import unpack
from scalerl.learner import Batch, Learner, UpdateStatistics
from scalerl.policy import Policy, character_tokenizer, load_policy
from scalerl.runlog import TIME_FIELDS, UserError, read_log
from scalerl.start import resume, train
from scalerl.tasks import get_task
from scalerl.tasks.chain import Chain
from scalerl.worker import GeneratorProcess

SIZE = {"vocab_size": 18, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 72, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}  # fmt: skip
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
KINDS = {
    "llama": {**SIZE, **GROUPED},
    "qwen3": {**SIZE, **GROUPED, "tie_word_embeddings": True},
    "gemma": {**SIZE, **GROUPED, "num_key_value_heads": 1},
    "gemma2": {**SIZE, **GROUPED, "query_pre_attn_scalar": 8, "sliding_window": 72, "final_logit_softcapping": 3.0},
    "gemma3_text": {**SIZE, **GROUPED, "query_pre_attn_scalar": 8, "sliding_window": 72},
    "gpt_neox": SIZE,
    "gpt2": {"vocab_size": 18, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 72, "bos_token_id": None,
             "eos_token_id": 1},
    "gpt_neo": {"vocab_size": 18, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 400,
                "attention_types": [[["global", "local"], 1]], "window_size": 256, "bos_token_id": None,
                "eos_token_id": 1},
    "granite": {**SIZE, "num_key_value_heads": 2, "logits_scaling": 0.5},
}  # fmt: skip
WRITTEN_OUT = ("llama", "qwen3")
TEXTS = ("7+3*4-2=", "1+1+1+1=", "9*9*9-3+4-5=", "0-5-4-5+5*0+6-9*7*3=")


def made(kind: str, **fields):
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**KINDS[kind], **fields})).eval()
    with torch.no_grad():  # norms and biases that do something, and scores that differ
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.ndim == 1 else 0.1))
    return model


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """A model directory of every architecture, with the tokenizer of chain arithmetic."""
    found = {}

    def folder(kind: str) -> str:
        if kind not in found:
            found[kind] = tmp_path_factory.mktemp(kind)
            Policy(made(kind), character_tokenizer(get_task("chain").characters), (1,)).save(found[kind])
        return str(found[kind])

    return folder


@pytest.fixture(autouse=True)
def _generic(monkeypatch):
    """Let the generic forward take the architectures, too, that are written out, and random policies score."""
    monkeypatch.setattr(Forward, "covers", staticmethod(lambda _: False))
    monkeypatch.setattr(Chain, "score", lambda _, __, completion: len(completion) % 2 == 0)


def sampled(policy, learner, *, slots: int = 7, **options):
    generator = Generator(
        learner.forward, learner.weights(), slots=slots, max_new_tokens=20, max_length=72, end_ids=policy.end_ids,
        **options,
    )  # fmt: skip
    generator.submit([Request(4 * i, 4, policy.encode_prompt(text)) for i, text in enumerate(TEXTS)])
    return generator.poll()


def learner_of(policy, **fields) -> Learner:
    fields = {"dtype": str(policy.model.dtype).removeprefix("torch."), **fields}
    return Learner(policy.model, load_config(["scalerl", "demo"], [f"{k}={v}" for k, v in fields.items()]))


@pytest.mark.parametrize(("dtype", "mean", "largest"), [("float32", 1e-6, 1e-4), ("float64", 1e-10, 1e-10)])
@pytest.mark.parametrize("kind", KINDS)
def test_sampler_trainer_and_the_models_own_forward_agree(folders, kind, dtype, mean, largest):
    policy = load_policy(folders(kind), dtype=dtype)
    learner = learner_of(policy)
    assert isinstance(learner.forward, GenericForward)
    done = sampled(policy, learner)
    old = np.concatenate([c.logprobs for c in done])
    new = learner.logprobs(done).detach().double().numpy()
    assert len(old) > 100 and max(len(c.tokens) for c in done) > 8
    assert np.abs(old - new).mean() <= mean and np.abs(old - new).max() <= largest
    for c in done[::3]:  # one sequence at a time, shift by one; in FP32 at least where modules round to it
        with torch.no_grad():
            scores = policy.model(torch.tensor([c.prompt + c.tokens])).logits[0, len(c.prompt) - 1 : -1]
        theirs = scores.log_softmax(-1).gather(-1, torch.tensor(c.tokens)[:, None])[:, 0]
        assert theirs.tolist() == pytest.approx(c.logprobs, abs=1e-4 if dtype == "float32" else 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_a_plain_loss(folders, kind):
    policy = load_policy(folders(kind), dtype="float64")
    learner = learner_of(policy)
    done = sampled(policy, learner)[:6]
    weight = torch.randn(sum(len(c.tokens) for c in done), dtype=torch.float64)
    (weight * learner.logprobs(done)).sum().backward()
    ours = {name: p.grad.clone() for name, p in policy.model.named_parameters()}
    policy.model.zero_grad()
    whole = [policy.model(torch.tensor([c.prompt + c.tokens])).logits[0, len(c.prompt) - 1 : -1] for c in done]
    picked = [s.log_softmax(-1)[torch.arange(len(c.tokens)), list(c.tokens)] for s, c in zip(whole, done, strict=True)]
    (weight * torch.cat(picked)).sum().backward()
    for name, p in policy.model.named_parameters():
        assert (ours[name] - p.grad).abs().max() < 2e-5 * max(1, p.grad.abs().max()), name


@pytest.mark.parametrize("kind", WRITTEN_OUT)
def test_the_written_out_forward_and_the_generic_one_agree(kind):
    model = made(kind).double()
    ids = torch.randint(0, 18, (3, 12), generator=torch.Generator().manual_seed(2))
    found = []
    for forward in (GenericForward(model, 72), _own(model)):
        weights = forward.weights()
        run = forward.hidden(ids[:, :6], weights)
        prefix = Prefix(run.keys, run.values, torch.tensor([6, 4, 5]), torch.tensor([2, 0, 1, 0]))
        rest = forward.hidden(ids[[0, 1, 2, 2], 6:], weights, prefix)
        scores = logits(rest.states, weights)
        model.zero_grad()
        scores.logsumexp(-1).sum().backward()
        found.append((scores.detach(), [p.grad.clone() for p in model.parameters()], run.keys, rest.values))
    (ours, grads, *kept), (own, own_grads, *own_kept) = found
    assert (ours - own).abs().max() < 1e-5
    pairs = [*zip(grads, own_grads, strict=True)]
    pairs += [pair for a, b in zip(kept, own_kept, strict=True) for pair in zip(a, b, strict=True)]
    assert all((a - b).abs().max() < 1e-5 * max(1, b.abs().max()) for a, b in pairs)


def _own(model) -> Forward:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Forward, "covers", staticmethod(lambda _: True))
        return Forward(model, 72)


def test_the_written_out_forward_is_taken_where_it_covers_the_architecture(monkeypatch):
    monkeypatch.undo()
    assert isinstance(make_forward(made("llama"), 72), Forward)
    assert isinstance(make_forward(made("gemma"), 72), GenericForward)


@pytest.mark.parametrize("kind", ["gpt_neox", "gemma2"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_arithmetic_has_fp32_masters_and_an_fp32_head(folders, kind, dtype):
    policy = load_policy(folders(kind))
    learner = learner_of(policy, dtype=dtype)
    weights, narrow = learner.weights(), getattr(torch, dtype)
    assert {w.dtype for w in weights.body.values()} == {narrow} and weights.head.dtype == torch.float32
    done = sampled(policy, learner)
    new = learner.logprobs(done)
    difference = np.abs(np.concatenate([c.logprobs for c in done]) - new.detach().numpy())
    assert new.dtype == torch.float32 and difference.mean() < 0.03
    new.sum().backward()
    assert {p.grad.dtype for p in policy.model.parameters()} == {torch.float32}
    wide = learner_of(load_policy(folders(kind))).logprobs(done).detach()
    assert 0 < (wide - new.detach()).abs().mean() < 0.05


SMALL = {"batch_size": 16, "generations_per_prompt": 4, "eval_generations": 1, "eval_every": 3, "checkpoint_every": 2,
         "max_steps": 2, "off_policy_steps": 1, "zero_variance_filtering": "false", "learning_rate": "1e-3",
         "warmup_steps": 0, "slots": 24}  # fmt: skip


def run_of(model: str, prompts: Path, folder: Path, **fields) -> Path:
    config = load_config(["scalerl", "demo"], [f"{k}={v}" for k, v in {**SMALL, "model_name": model, **fields}.items()])
    return train(config, str(prompts / "train.json"), str(prompts / "eval.json"), str(folder))


def rows_of(folder: Path) -> list[dict]:
    rows = [row for row in read_log(folder / "log.jsonl").rows if row["kind"] != "event"]
    return [{name: value for name, value in row.items() if name not in TIME_FIELDS | {"attempt"}} for row in rows]


@pytest.mark.parametrize("kind", KINDS)
def test_two_updates_from_a_directory_to_a_directory(folders, prompts, tmp_path, kind):
    folder = run_of(folders(kind), prompts, tmp_path / "run")
    steps = [row for row in rows_of(folder) if row["kind"] == "step"]
    assert len(steps) == 2 and all(row["grad_norm"] > 0 and row["flops"] > 0 for row in steps)
    assert steps[0]["logprob_diff_max"] < 1e-4
    before = AutoModelForCausalLM.from_pretrained(folders(kind)).state_dict()
    after = AutoModelForCausalLM.from_pretrained(folder / "model").state_dict()
    assert before.keys() == after.keys()
    assert all((before[name] != after[name]).any() for name in before)


@pytest.mark.parametrize("in_flight", ["kv", "refresh"])
@pytest.mark.parametrize("kind", ["gpt_neox", "gemma2"])
def test_a_run_that_goes_on_has_the_rows_of_one_that_never_stopped(folders, prompts, tmp_path, kind, in_flight):
    short, long = (run_of(folders(kind), prompts, tmp_path / str(n), max_steps=n, in_flight=in_flight) for n in (3, 5))
    resume(str(short), ["max_steps=5"], say=pytest.fail)
    assert rows_of(short) == rows_of(long)
    ours, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (short, long))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("kind", ["gpt_neox", "gemma3_text"])
def test_completions_of_several_versions_replay_with_the_weights_of_each(folders, prompts, tmp_path, kind):
    folder = run_of(
        folders(kind), prompts, tmp_path / "run", max_steps=6, checkpoint_every=1, keep_checkpoints=100, slots=48,
        off_policy_steps=4,
    )  # fmt: skip
    places = sorted((folder / "checkpoints").iterdir())
    models = {}
    for place in places:
        models[int(place.name[5:])] = model = AutoModelForCausalLM.from_pretrained(folders(kind)).eval()
        model.load_state_dict(load_file(place / "model.safetensors"), strict=False)
        model.tie_weights()
    waiting = {c.number: c for place in places for c in unpack(load_file(place / "completions.safetensors"))}
    mixed = [c for c in waiting.values() if len(set(c.versions)) > 1]
    first = {**models, **dict.fromkeys(models, models[0])}
    assert len(mixed) > 10 and replayed(mixed[0], first) != pytest.approx(mixed[0].logprobs, abs=1e-3)
    for c in mixed[:12]:
        assert replayed(c, models) == pytest.approx(c.logprobs, abs=1e-4)


@torch.no_grad()
def replayed(completion, models) -> list[float]:
    """Log-probabilities from the plain models, with a cache that every version filled while it was the policy."""
    cache, out = DynamicCache(), []
    first = models[completion.versions[0]]
    scores = first(input_ids=torch.tensor([completion.prompt]), past_key_values=cache, use_cache=True).logits
    for place, token in enumerate(completion.tokens):
        if place:
            model, before = models[completion.versions[place]], completion.tokens[place - 1]
            scores = model(input_ids=torch.tensor([[before]]), past_key_values=cache, use_cache=True).logits
        out.append(scores[0, -1].log_softmax(-1)[token].item())
    return out


def test_a_generator_process_writes_what_the_inline_one_writes(folders):
    policy = load_policy(folders("gpt_neox"))
    learner = learner_of(policy, length_control="none", thinking_tokens=12, solution_tokens=8)
    process = GeneratorProcess(learner.config, policy, learner.forward, learner.weights(), slots=7)
    try:
        for version in (0, 1):
            if version:
                with torch.no_grad():
                    for p in policy.model.parameters():
                        p.mul_(1.1)
                process.load(1, learner.weights())
            process.submit([Request(4 * i, 4, policy.encode_prompt(text)) for i, text in enumerate(TEXTS)])
            came, expected = process.poll(), sampled(policy, learner)
            assert [(c.tokens, c.logprobs) for c in came] == [(c.tokens, c.logprobs) for c in expected]
            assert {v for c in came for v in c.versions} == {version}
    finally:
        process.close()


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("gemma2", {"sliding_window": 32}, "'gemma2' model attends to the last 32 tokens only: set max_length to"),
        ("gpt_neo", {"window_size": 16}, "'gpt_neo' model attends to the last 16 tokens only: set max_length"),
        ("gpt2", {"n_positions": 48}, "'gpt2' model has positions for 48 tokens: set max_length to that or less"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
                   "max_position_embeddings": 32}, "turns its angles otherwise beyond 32 tokens"),
    ],
)  # fmt: skip
def test_what_this_path_would_run_wrongly_is_refused_by_name(kind, fields, message):
    with pytest.raises(UserError, match=message):
        GenericForward(made(kind, **fields), 72)


def test_models_without_keys_and_values_are_refused_by_name():
    torch.manual_seed(0)
    size = {"vocab_size": 18, "hidden_size": 16, "num_hidden_layers": 1}
    with pytest.raises(UserError, match="'mamba' model cannot be trained: it keeps a state instead of keys and values"):
        make_forward(AutoModelForCausalLM.from_config(AutoConfig.for_model("mamba", **size)), 32)
    bloom = AutoConfig.for_model("bloom", vocab_size=18, hidden_size=16, n_layer=1, n_head=2)
    with pytest.raises(UserError, match="model_name: a 'bloom' model cannot be trained: ") as refusal:
        make_forward(AutoModelForCausalLM.from_config(bloom), 32)
    assert "\n" not in str(refusal.value)


def test_a_window_that_nobody_names_is_found_by_the_check(monkeypatch):
    """A layer that looks back so many columns, where columns are not positions: only long sequences show it."""
    model = made("gpt_neo", window_size=150)
    monkeypatch.setattr("scalerl.generic.refuse_unfit", lambda *_: None)
    GenericForward(model, 150)
    with pytest.raises(UserError, match=r"'gpt_neo' model cannot be trained: logits differ .* on sequences of 300 tok"):
        GenericForward(model, 400)


@pytest.mark.parametrize("kind", ["mixtral", "granitemoe", "deepseek_v3"])
def test_of_routed_experts_the_share_counts_that_a_token_is_sent_to(monkeypatch, kind):
    """By hand: three matrices an expert, whatever the modules call them."""
    counts = {"num_local_experts": 8, "n_routed_experts": 8, "num_experts_per_tok": 2}
    deep = {"moe_intermediate_size": 24, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 0, "q_lora_rank": 8,
            "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}  # fmt: skip
    size = {**SIZE, **(deep if kind == "deepseek_v3" else {"num_key_value_heads": 2}), "intermediate_size": 24}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **size, **counts))
    everything = sum(p.numel() for p in model.parameters())
    tables = 18 * 32 * (1 if model.config.tie_word_embeddings else 2)
    idle = 2 * (8 - 2) * 3 * 32 * 24
    backbone, head = multiplying_weights(model)
    assert (backbone, head) == (everything - tables - idle, 18 * 32)
    monkeypatch.setattr("scalerl.describe.EXPERTS", ("experts_by_another_name",))
    with pytest.raises(UserError, match=rf"a '{kind}' model has experts .* its FLOPs cannot be counted"):
        multiplying_weights(model)


def test_no_mode_watches_the_modules_unless_they_run_in_fp64(monkeypatch):
    model = made("gpt_neox")
    entered, real = [], scalerl.generic._StayWide.__enter__
    monkeypatch.setattr(scalerl.generic._StayWide, "__enter__", lambda mode: entered.append(1) or real(mode))
    for dtype, modes in ((torch.float32, 0), (torch.bfloat16, 0), (torch.float64, 1)):
        forward = GenericForward(model, 72, dtype)
        entered.clear()
        forward.hidden(torch.zeros((1, 4), dtype=torch.long), forward.weights())
        assert len(entered) == modes


def _doubled_logits(model, patch):
    real = type(model).forward

    def forward(self, *args, **kwargs):
        out = real(self, *args, **kwargs)
        out.logits = out.logits * 2
        return out

    patch.setattr(type(model), "forward", forward)


def _other_positions(model, patch):
    """A backbone that counts positions itself: right from the start, wrong for what continues something."""
    body = type(model.base_model)
    real = body.forward

    def forward(self, input_ids, *args, position_ids=None, **kwargs):
        return real(self, input_ids, *args, position_ids=torch.arange(input_ids.shape[1])[None], **kwargs)

    patch.setattr(body, "forward", forward)


@pytest.mark.parametrize("difference", [_doubled_logits, _other_positions])
@pytest.mark.parametrize("kind", ["gpt_neox", "gemma"])
def test_a_model_that_this_path_does_not_run_as_its_own_forward_does_is_refused(monkeypatch, kind, difference):
    model = made(kind)
    GenericForward(model, 72)
    difference(model, monkeypatch)
    with pytest.raises(UserError, match=rf"a '{kind}' model cannot be trained: logits differ from the model's own by"):
        GenericForward(model, 72)


@pytest.mark.parametrize("kind", ["qwen3", "gpt_neox"])
def test_rotary_positions_beyond_what_a_model_was_made_for_are_told_and_logged(prompts, tmp_path, kind, monkeypatch):
    monkeypatch.undo()  # the written out forward, too
    monkeypatch.setattr(Chain, "score", lambda _, __, completion: len(completion) % 2 == 0)
    Policy(made(kind, max_position_embeddings=40), character_tokenizer(Chain().characters), (1,)).save(tmp_path / kind)
    fields = {**SMALL, "model_name": str(tmp_path / kind), "max_steps": 1}
    config, said = load_config(["scalerl", "demo"], [f"{k}={v}" for k, v in fields.items()]), []
    files = [str(prompts / "train.json"), str(prompts / "eval.json")]
    folder = train(config, *files, str(tmp_path / "run"), say=said.append)
    assert len(said) == 1 and "max_length 72: the model was made for 40 positions (max_position_embeddings)" in said[0]
    resume(str(folder), ["max_steps=2"], say=pytest.fail)
    events = [row for row in read_log(folder / "log.jsonl").rows if row.get("event") == "beyond_positions"]
    assert [(row["max_length"], row["positions"]) for row in events] == [(72, 40)]
    again = load_config(["scalerl", "demo"], [f"{k}={v}" for k, v in {**fields, "max_length": 40, **SHORT}.items()])
    train(again, *files, str(tmp_path / "short"), say=said.append)
    assert not any("positions" in line for line in said[1:])


SHORT = {"prompt_tokens": 22, "thinking_tokens": 10, "solution_tokens": 8, "length_control": "none"}


@pytest.mark.parametrize("kind", ["gpt2", "opt"])
def test_a_table_of_positions_is_refused_one_token_beyond_its_places(kind):
    fields = {"vocab_size": 18, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
              "max_position_embeddings": 72, "word_embed_proj_dim": 32}  # fmt: skip
    of = fields if kind == "opt" else KINDS[kind]
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **of)).eval()
    GenericForward(model, 72)
    with pytest.raises(
        UserError, match=rf"a '{kind}' model has positions for 72 tokens: set max_length to that or less"
    ):
        GenericForward(model, 73)  # two rows of OPT's table stand for no place


@pytest.mark.parametrize("kind", ["qwen2", "gpt_neox"])
def test_activations_of_long_completions_are_what_a_real_backward_pass_keeps(quick, kind):
    """At 1,500 tokens a kernel that kept the matrices of attention weights would keep several times as much."""
    from scalerl.footprint import memory

    lengths = {"prompt_tokens": 600, "thinking_tokens": 880, "solution_tokens": 20, "max_length": 1500}
    config = quick(**lengths, micro_batch_tokens=3000, batch_size=8)
    torch.manual_seed(0)
    of = {**SIZE, "max_position_embeddings": 1500, **({"num_key_value_heads": 2} if kind == "qwen2" else {})}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **of))
    one = {"versions": (0,) * 900, "logprobs": (-1.0,) * 900, "entropy": 0.0, "truncated": True}
    completions = [Completion(i, tuple((i + j) % 18 for j in range(600)), (3,) * 900, **one) for i in range(2)]
    learner = Learner(model, config)
    alive, kept = [], {}

    def note(tensor):
        alive.append(tensor)
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        learner._backward(Batch(completions, torch.ones(2), torch.ones(2)), range(2), UpdateStatistics())
    masters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found = sum(size for place, size in kept.items() if place not in masters)
    told = {part.name: part.bytes for part in memory(config, model)}["activations, logits"]
    assert told == pytest.approx(found, rel=0.05)


@pytest.mark.parametrize("kind", ["gpt_neox", "gemma2", "llama"])
def test_memory_is_estimated_for_any_architecture_and_of_adapters_only_they_are_trained(quick, kind):
    from scalerl.footprint import memory

    model = made(kind)
    told, lora = (
        {part.name: part.bytes for part in memory(quick(**fields), model)} for fields in ({}, {"lora_rank": 2})
    )
    assert told["activations, logits"] > 1e5
    assert told["AdamW moments"] == 8 * sum(p.numel() for p in model.parameters())
    assert 0 < lora["AdamW moments"] < told["AdamW moments"] / 3 and lora["KV cache"] == told["KV cache"]
