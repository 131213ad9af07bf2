"""Our forward pass against the model's own in transformers, whole, continued and token by token."""

from __future__ import annotations

import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from scalerl.forward import Cache, Forward, Prefix, head_weights, logits, own
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
def test_token_by_token_in_a_used_cache_equals_the_whole(model, first_prompt, joins_at):
    """A second sequence, with a longer or shorter prompt, joins when the first is some tokens further on.

    The cache is full of what others left there; the two slots are read up to the longer of the two.
    """
    forward = Forward(model, 64)
    rows = torch.randint(0, 23, (2, 16), generator=torch.Generator().manual_seed(2))
    done = [first_prompt, 7]
    seen: list[list[torch.Tensor]] = [[], []]
    with torch.no_grad():
        weights = forward.weights()
        cache = used_cache(forward, slots=3, length=17)
        for tick in range(30):
            for slot, at in enumerate((0, joins_at)):
                if tick == at:
                    ids = torch.cat([rows[slot, : done[slot]], torch.tensor([9, 9])])[None]  # padded, as in a group
                    run = forward.hidden(ids, weights)
                    cache.put(Prefix(run.keys, run.values, torch.tensor([done[slot]]), torch.tensor([0])), slot)
            live = 1 if tick < joins_at else 2
            position = torch.tensor([min(d, 15) for d in done[:live]])
            ids = rows[torch.arange(live), position]
            out = forward.step(ids, position, weights, cache, extent=int(position.max()) + 1)
            for slot in range(live):
                if done[slot] < 16:
                    seen[slot].append(out[slot])
                    done[slot] += 1
        for slot, start in enumerate((first_prompt, 7)):
            whole = forward.hidden(rows[slot : slot + 1], weights).states[0, start:]
            assert (torch.stack(seen[slot]) - whole).abs().max() < 1e-12


def used_cache(forward: Forward, slots: int, length: int) -> Cache:
    cache = Cache(forward, slots, length)
    for layer in (*cache.keys, *cache.values):
        layer.normal_(std=10)
    return cache


def test_a_sequence_goes_on_in_the_slot_it_was_moved_to(model):
    forward = Forward(model, 64)
    rows = torch.randint(0, 23, (3, 12), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        weights = forward.weights()
        cache = used_cache(forward, slots=3, length=12)
        run = forward.hidden(rows[:, :8], weights)
        cache.put(Prefix(run.keys, run.values, torch.tensor([8, 8, 8]), torch.tensor([0, 1, 2])), 0)
        cache.move(torch.tensor([2]), torch.tensor([0]), extent=8)
        for place in range(8, 12):
            out = forward.step(rows[[2, 1], place], torch.tensor([place] * 2), weights, cache, extent=place + 1)
            whole = forward.hidden(rows[[2, 1], : place + 1], weights).states[:, -1]
            assert (out - whole).abs().max() < 1e-12


HEADS = {(tied, bias): f"{'tied' if tied else 'untied'}, {'bias' if bias else 'no bias'}" for tied in (True, False)
         for bias in (True, False)}  # fmt: skip


@pytest.fixture(params=HEADS, ids=HEADS.values())
def with_head(request):
    """An FP32 model whose head is tied to the embedding or not, with a bias or without."""
    tied, bias = request.param
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(**SIZE, num_key_value_heads=4, head_dim=6, tie_word_embeddings=tied)).eval()
    with torch.no_grad():
        model.lm_head.weight.normal_(std=0.5)
    if bias:
        model.lm_head.bias = torch.nn.Parameter(torch.randn(23))
    return model


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_fp32_head_is_the_wide_product_and_only_the_head_is_wide(with_head, dtype):
    forward = Forward(with_head, 64, dtype)
    weights = forward.weights(fp32_head=True)
    hidden = torch.randn(50, 24).to(dtype)
    master, bias = head_weights(with_head)
    expected = hidden.float() @ master.float().T + (0 if bias is None else bias.float())
    wide = logits(hidden, weights)
    assert wide.dtype == torch.float32 and (wide - expected).abs().max() < 1e-6
    narrow = logits(hidden, forward.weights(fp32_head=False))
    assert narrow.dtype == torch.float32 and (narrow - expected).abs().max() > 1e-3
    backbone = [weights.embedding, weights.norm, *(w for layer in weights.layers for w in layer if w is not None)]
    assert {w.dtype for w in backbone} == {dtype} and weights.head.dtype == torch.float32
    assert {p.dtype for p in with_head.parameters()} == {torch.float32}
    assert forward.hidden(torch.tensor([[1, 2, 3]]), weights).states.dtype == dtype


def test_a_head_bias_is_used_where_there_is_one_and_missed_nowhere(with_head):
    forward, ids = Forward(with_head, 64), torch.randint(0, 23, (2, 9))
    weights = forward.weights()
    assert (weights.head_bias is None) == (with_head.lm_head.bias is None)
    ours = logits(forward.hidden(ids, weights).states, weights)
    assert (ours - with_head(input_ids=ids).logits).abs().max() < 1e-4


def test_gradients_reach_the_master_weights_through_narrow_copies_and_a_tied_head_gets_both_of_its_own(with_head):
    forward, ids = Forward(with_head, 64, torch.bfloat16), torch.randint(0, 23, (2, 9))
    weights = forward.weights()
    logits(forward.hidden(ids, weights).states, weights).logsumexp(-1).sum().backward()
    ours = {name: p.grad.clone() for name, p in with_head.named_parameters()}
    with_head.zero_grad()
    with_head(input_ids=ids).logits.logsumexp(-1).sum().backward()
    assert {grad.dtype for grad in ours.values()} == {torch.float32}
    whole = torch.cat([p.grad.flatten() for p in with_head.parameters()])
    error = torch.cat([ours[name].flatten() for name, _ in with_head.named_parameters()]) - whole
    assert error.norm() < 0.02 * whole.norm()  # a BF16 number has 8 bits
    head = head_weights(with_head)[0]
    (mine,) = (ours[name] for name, p in with_head.named_parameters() if p is head)
    assert (mine - head.grad).norm() < 0.02 * head.grad.norm()


def test_weights_that_are_owned_do_not_follow_the_model_and_gathered_ones_do(with_head):
    forward = Forward(with_head, 64)
    kept = own(forward.weights())
    flat = [w.clone() for w in (kept.embedding, kept.norm, kept.head, *kept.layers[0][:2])]
    with torch.no_grad():
        for parameter in with_head.parameters():
            parameter.mul_(3)
    for was, now in zip(flat, (kept.embedding, kept.norm, kept.head, *kept.layers[0][:2]), strict=True):
        assert (was == now).all()
    assert torch.allclose(forward.weights().head, 3 * kept.head)


def test_other_architectures_are_refused_by_name():
    model = GPTNeoXForCausalLM(
        GPTNeoXConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    )
    with pytest.raises(UserError, match=r"'gpt_neox' model.*families: llama, qwen3"):
        Forward(model, 8)
