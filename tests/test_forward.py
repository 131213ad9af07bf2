"""Our forward pass against the model's own in transformers, whole, continued and token by token."""

from __future__ import annotations

import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from scalerl.forward import Forward, Prefix, Ring, head_weights, logits
from scalerl.runlog import UserError

SIZE = {
    "vocab_size": 23,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
MODELS = {
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZE, num_key_value_heads=4, head_dim=6)),
    "qwen3 grouped, tied": lambda: Qwen3ForCausalLM(
        Qwen3Config(**SIZE, num_key_value_heads=2, head_dim=8, tie_word_embeddings=True)
    ),
    "llama grouped": lambda: LlamaForCausalLM(LlamaConfig(**SIZE, num_key_value_heads=2)),
    "llama biased, scaled rope": lambda: LlamaForCausalLM(
        LlamaConfig(
            **SIZE,
            num_key_value_heads=1,
            attention_bias=True,
            mlp_bias=True,
            rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0},
        )
    ),
}


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    model = MODELS[request.param]().double().eval()
    with torch.no_grad():  # norms and biases that do something
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def test_whole_sequences_agree_with_transformers_whatever_the_padding(model):
    """transformers computes its norms in FP32, hence 1e-6 in FP64."""
    forward = Forward(model, 64)
    ids = torch.randint(0, 23, (3, 17))
    lengths = [17, 5, 11]
    ours = forward.hidden(ids, forward.weights()).states
    for row, length in enumerate(lengths):
        theirs = model.model(input_ids=ids[row : row + 1, :length]).last_hidden_state[0]
        assert (ours[row, :length] - theirs).abs().max() < 2e-6


def test_gradients_agree_with_transformers(model):
    forward = Forward(model, 64)
    ids = torch.randint(0, 23, (3, 12))
    probe = torch.randn(3, 12, 24, dtype=torch.float64)
    (forward.hidden(ids, forward.weights()).states * probe).sum().backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    (model.model(input_ids=ids).last_hidden_state * probe).sum().backward()
    theirs = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert ours.keys() == theirs.keys() and len(ours) > 10
    for name, grad in theirs.items():
        assert (ours[name] - grad).abs().max() < 1e-5 * max(1, grad.abs().max()), name


def continued(forward: Forward, rows: list[list[int]], cuts: list[int], source: list[int]):
    """Hidden states of `rows` beyond their cut, run as continuations of the distinct prompts."""
    prompts = {s: rows[i][: cuts[i]] for i, s in enumerate(source)}
    width = max(map(len, prompts.values()))
    ids = torch.tensor([prompts[s] + [9] * (width - len(prompts[s])) for s in sorted(prompts)])
    weights = forward.weights()
    run = forward.hidden(ids, weights)
    lengths = torch.tensor([len(prompts[s]) for s in sorted(prompts)])
    prefix = Prefix(run.keys, run.values, lengths, torch.tensor(source))
    tails = [row[cut:] for row, cut in zip(rows, cuts, strict=True)]
    longest = max(map(len, tails))
    fed = torch.tensor([tail + [7] * (longest - len(tail)) for tail in tails])
    return forward.hidden(fed, weights, prefix).states, [len(tail) for tail in tails]


def test_continuations_equal_the_whole(model):
    forward = Forward(model, 64)
    generator = torch.Generator().manual_seed(1)
    first, second = (torch.randint(0, 23, (n,), generator=generator).tolist() for n in (4, 9))
    tails = [torch.randint(0, 23, (n,), generator=generator).tolist() for n in (6, 3, 8, 1)]
    rows = [first + tails[0], second + tails[1], first + tails[2], second + tails[3]]
    cuts, source = [4, 9, 4, 9], [0, 1, 0, 1]
    states, lengths = continued(forward, rows, cuts, source)
    for row, (ids, cut, length) in enumerate(zip(rows, cuts, lengths, strict=True)):
        whole = forward.hidden(torch.tensor([ids]), forward.weights()).states[0, cut:]
        assert (states[row, :length] - whole).abs().max() < 1e-12


@pytest.mark.parametrize(("first_prompt", "joins_at"), [(3, 9), (2, 1), (12, 0)])
def test_token_by_token_in_a_ring_equals_the_whole_also_round_the_corner(model, first_prompt, joins_at):
    """A second sequence, with a longer or shorter prompt, joins when the first is some tokens further on."""
    forward = Forward(model, 64)
    rows = torch.randint(0, 23, (2, 16), generator=torch.Generator().manual_seed(2))
    done = [first_prompt, 7]
    seen: list[list[torch.Tensor]] = [[], []]
    with torch.no_grad():
        weights = forward.weights()
        ring = Ring(forward, 2, 17)
        for tick in range(30):
            for slot, at in enumerate((0, joins_at)):
                if tick == at:
                    run = forward.hidden(rows[slot : slot + 1, : done[slot]], weights)
                    ring.put(Prefix(run.keys, run.values, torch.tensor([done[slot]]), torch.tensor([0])), slot)
            live = 1 if tick < joins_at else 2
            position = torch.tensor([min(d, 15) for d in done[:live]])
            out = forward.step(rows[torch.arange(live), position], position, weights, ring)
            for slot in range(live):
                if done[slot] < 16:
                    seen[slot].append(out[slot])
                    done[slot] += 1
        for slot, start in enumerate((first_prompt, 7)):
            whole = forward.hidden(rows[slot : slot + 1], weights).states[0, start:]
            assert (torch.stack(seen[slot]) - whole).abs().max() < 1e-12


def test_fp32_head_on_a_bf16_model_is_the_wide_product_and_only_the_head_is_wide(model):
    model = model.bfloat16()
    weight, bias = head_weights(model)
    hidden = torch.randn(50, 24).bfloat16()
    wide = logits(hidden, weight, bias, fp32=True)
    assert wide.dtype == torch.float32
    assert (wide - hidden.float() @ weight.float().T).abs().max() < 1e-6
    narrow = logits(hidden, weight, bias, fp32=False)
    assert (narrow - wide).abs().max() > 1e-4
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_a_head_bias_is_used_where_there_is_one_and_missed_nowhere():
    hidden, weight, bias = torch.randn(4, 8), torch.randn(5, 8), torch.randn(5)
    assert torch.allclose(logits(hidden, weight, bias, fp32=True), hidden @ weight.T + bias, atol=1e-6)
    assert torch.allclose(logits(hidden, weight, None, fp32=True), hidden @ weight.T, atol=1e-6)


def test_other_architectures_are_refused_by_name():
    model = GPTNeoXForCausalLM(
        GPTNeoXConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    )
    with pytest.raises(UserError, match=r"'gpt_neox' model.*families: llama, qwen3"):
        Forward(model, 8)
