"""Setups to look at without a run of one's own: the paper's devices, and a thousand of them.

What is known of the paper (arXiv 2510.13786): 48 prompts x 16 completions an update, of at most 12,288 + 2,048
tokens, PipelineRL-8, 64 devices that generate beside 16 that train. It states no speeds and no lengths. The first
evaluations of its run of 2,048 completions an update, digitised, lie 1,330 GPU-hours apart; taken as the 100 updates
that the text says lie between two evaluations, an update takes 13.3 GPU-hours, ten minutes on 80 devices. The rates
here are assumed so that this comes out with both roles busy; so are the lengths.
"""

from __future__ import annotations

from scalerl.simulate.setup import Setup

PAPER = Setup(
    generators=64,
    learners=16,
    feeding=True,
    slots=96,
    updates=1000,
    length_mean=8000,
    length_sd=3500,
    max_new_tokens=14336,
    prompt_length=500,
    token_s=0.05,
    slot_s=0.0018,
    prefill_s=0.00018,
    train_token_s=0.00054,
    update_s=5.0,
    completion_s=0.001,
    kept_share=1.0,
    sync_s=5.0,
)
THOUSAND = Setup(**{**PAPER.__dict__, "generators": 800, "learners": 200, "batch_size": 8192})
EXAMPLES = {"paper": PAPER, "thousand": THOUSAND}
ASSUMED = (
    "assumed: lengths 8,000 +- 3,500 tokens, 96 slots, and speeds such that an update of 2,048 completions takes about "
    "ten minutes on 80 devices, as the paper's evaluations lie apart; it states no speeds"
)
