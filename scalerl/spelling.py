"""Which tokens of a tokenizer steer the model, and how a text in which they stand is encoded as text.

The rule is that of docs/data.md: in prompts, which others wrote, no token is parsed that is special, ends a completion,
is named by the chat template, or begins or ends thinking. In completions thinking is written by its tokens. Other added
tokens, as runs of spaces or tags of HTML, are the way in which a tokenizer writes ordinary text, and stay.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from tokenizers import AddedToken, Tokenizer

from scalerl.chat import template_of

THINKING = frozenset({"<think>", "</think>"})


def control_ids(tokenizer: Any, end_ids: tuple[int, ...], *, prompt: bool) -> frozenset[int]:
    """Return the ids of the tokens that are never parsed out of a text, of a prompt or of a completion."""
    return _control_ids(tokenizer, end_ids, template_of(tokenizer), prompt)


@lru_cache(maxsize=16)
def _control_ids(tokenizer: Any, end_ids: tuple[int, ...], template: str, prompt: bool) -> frozenset[int]:
    listed = set(getattr(tokenizer, "chat_control_tokens", None) or ())

    def steers(number: int, token: AddedToken) -> bool:
        text = token.content
        if text in THINKING:
            return prompt
        named = text in listed or (text in template and any(not c.isalnum() and not c.isspace() for c in text))
        return token.special or number in end_ids or (prompt and named)

    return frozenset(number for number, token in tokenizer.added_tokens_decoder.items() if steers(number, token))


def spelt_out(tokenizer: Any, text: str, control: frozenset[int]) -> tuple[int, ...]:
    """Return the ids of a text in which these tokens are made of others, as far as the tokenizer can."""
    if getattr(tokenizer, "backend_tokenizer", None) is None:  # one in Python, which spells all of them
        return tuple(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])
    return tuple(_speller(tokenizer, control).encode(text, add_special_tokens=False).ids)


@lru_cache(maxsize=8)
def _speller(tokenizer: Any, control: frozenset[int]) -> Tokenizer:
    """Return a copy of a tokenizer to which these tokens are special and no others, and which parses no special one."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    for token in state["added_tokens"]:
        token["special"] = token["id"] in control
    speller = Tokenizer.from_str(json.dumps(state | {"truncation": None, "padding": None}))
    speller.encode_special_tokens = True
    return speller
