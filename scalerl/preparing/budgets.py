"""How long a prompt may be: in tokens of a model's tokenizer, or in characters where no model is named."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scalerl.runlog import UserError

CHARACTERS_A_TOKEN = 4
"""Of English text, roughly: the budget in characters where no tokenizer is there to count."""


def over_budget(prompts: Sequence[str], budget: int, count: Callable[[Sequence[str]], list[int]]) -> dict[int, int]:
    """Return the lengths in tokens of those prompts that are over a budget, by index.

    An ASCII text has at most a token a character, so a short one need not be counted: most are.
    """
    unsure = [index for index, text in enumerate(prompts) if len(text) > budget or not text.isascii()]
    lengths = count([prompts[index] for index in unsure]) if unsure else []
    return {index: length for index, length in zip(unsure, lengths, strict=True) if length > budget}


def token_counter(model: str) -> Callable[[Sequence[str]], list[int]]:
    """Return a function that counts the tokens of texts as they stand, by the tokenizer in a model directory.

    Raises
    ------
    UserError
        If there is no tokenizer that can be read.
    """
    if not Path(model).exists() and (Path(model).is_absolute() or model.startswith(".") or model.count("/") != 1):
        raise UserError(f"--model: there is no directory {model}")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    file = Path(model) / "tokenizer.json"
    try:
        if file.is_file():  # the same file that transformers reads, without the seconds that its import takes
            from tokenizers import Tokenizer

            fast: Any = Tokenizer.from_file(str(file))
            fast.no_truncation()
            fast.no_padding()
            return lambda texts: [len(e.ids) for e in fast.encode_batch_fast(list(texts), add_special_tokens=False)]
        from transformers import AutoTokenizer

        slow = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    except ModuleNotFoundError as error:
        raise UserError(f"--model needs {error.name}, which is missing: pip install 'scalerl[train]'") from error
    except Exception as error:  # a broken file can fail anywhere inside the two libraries
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"--model {model}: no tokenizer can be read: {reason[0][:200]}") from error
    return lambda texts: [len(ids) for ids in slow(list(texts), add_special_tokens=False)["input_ids"]]
