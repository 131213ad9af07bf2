"""The policy: a causal LM and its tokenizer, as Hugging Face writes them to a directory.

`load_policy` takes any such directory; `new_policy` makes a small one with a character tokenizer, so that a task can
be learnt on a CPU.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging

from scalerl.chat import CLOCK, render_chat, template_of
from scalerl.lora import has_adapters, save_merged
from scalerl.places import refuse_no_model
from scalerl.runlog import UserError
from scalerl.spelling import control_ids, spelt_out

logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # a bar for each 30 tensors would drown ours
PAD, END, UNKNOWN = "<pad>", "<end>", "<unknown>"
PROBE = "How much is 12 + 30? Answer with a number, in one line."  # what a template is tried on
SYSTEM_PROBE = "You are asked for a sum; be brief."
HASHED = (  # files by which a model is another one: those that `load_policy` may read
    *("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "adapter_config.json"),
    *("tokenizer*", "vocab*", "merges*", "*.model", "tekken.json", "special_tokens*", "added_tokens*"),
    *("*.jinja", "chat_template.json"),
)


class Policy(NamedTuple):
    """A model, its tokenizer, the ids that end a completion, and how prompts are rendered."""

    model: Any
    tokenizer: Any
    end_ids: tuple[int, ...]
    chat: bool = False
    """Whether a prompt is a user's turn, rendered by the tokenizer's chat template."""
    system_prompt: str | None = None
    clock: dt.datetime | None = None
    """What a chat template that asks for the time is told; the time there is where it is None."""

    @property
    def reads_clock(self) -> bool:
        """Whether prompts are rendered by a template that asks for the time."""
        return self.chat and CLOCK in template_of(self.tokenizer)

    def formatted(self, prompt_format: str, system_prompt: str | None = None) -> Policy:
        """Return the same policy with prompts rendered as a configuration says.

        Raises
        ------
        UserError
            If a chat is asked for and the tokenizer has no template, or one that cannot be used.
        """
        template = bool(getattr(self.tokenizer, "chat_template", None))
        name = self.tokenizer.name_or_path or "this policy"
        if prompt_format == "chat" and not template:
            raise UserError(f"prompt_format: the tokenizer of {name} has no chat template; set prompt_format to plain")
        chat = template and prompt_format != "plain"
        if system_prompt is not None and not chat:
            raise UserError(f"system_prompt: the tokenizer of {name} has no chat template, so there is no system turn")
        policy = self._replace(chat=chat, system_prompt=system_prompt)
        policy.render(PROBE)  # a template that cannot be used, or cuts the prompt, is told here
        return policy

    @property
    def unknown_id(self) -> int | None:
        """Id of what the tokenizer does not know; None where that token also has another use, as an end or a start."""
        tokenizer = self.tokenizer
        used = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
        unknown: int | None = tokenizer.unk_token_id
        return None if unknown in used else unknown

    def render(self, prompt: str, system_prompt: str | None = None) -> str:
        """Return the text that the policy is given for a prompt: the prompt itself, or the turns of a chat.

        Parameters
        ----------
        prompt : str
        system_prompt : str, optional
            Of this prompt alone, in place of the one for all.

        Raises
        ------
        UserError
            If the chat template cannot be used or leaves out text that it is given, or there is none and the prompt has
            a system turn of its own.
        """
        if not self.chat:
            if system_prompt:
                raise UserError(
                    f"the prompt {prompt[:40]!r} has a `system` text of its own, and plain prompts have no system "
                    "turn; set prompt_format to chat, or take the column out"
                )
            return prompt
        system_prompt = system_prompt or self.system_prompt
        system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
        turns = [*system, {"role": "user", "content": prompt}]
        try:
            text = render_chat(self.tokenizer, turns, self.clock)
        except Exception as error:  # a template is a program of its own and can raise anything
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            what = "system_prompt" if system else "prompt_format"
            raise UserError(f"{what}: the chat template of this tokenizer cannot be used: {reason}") from error
        for turn in turns:
            if turn["content"].strip() not in text:  # templates may trim it
                what = "system_prompt" if turn["role"] == "system" else "prompt_format"
                raise UserError(
                    f"{what}: the chat template of this tokenizer leaves out or changes text of the {turn['role']}: "
                    f"{turn['content'][:60]!r} becomes {text[:200]!r}"
                )
        return text

    def encode_item(self, item: Mapping[str, Any]) -> tuple[int, ...]:
        """Return the token ids of an item's prompt, behind the ``system`` text that the item may have."""
        return self.encode_prompt(item["prompt"], item.get("system"))

    def encode_prompt(self, prompt: str, system_prompt: str | None = None) -> tuple[int, ...]:
        """Return the token ids of a rendered prompt, begun as this tokenizer begins a text; see `render`.

        Both arguments are text: what in them looks like a control token is spelt out and opens no turn and ends none.

        Raises
        ------
        UserError
            If the chat template cannot be used, or the tokenizer has no way to spell a control token out.
        """
        rendered = self.render(prompt, system_prompt)
        if not self.chat:
            ids = self.encode_text(rendered, prompt=True)
        elif self._control(prompt, prompt=True) or self._control(system_prompt or "", prompt=True):
            ids = self._encode_around(rendered, prompt, system_prompt)
        else:
            ids = self.encode(rendered)
        start = self.tokenizer.bos_token_id
        begun = self.chat or start is None or ids[:1] == (start,)  # a chat template writes the start itself
        begins = begun or self.tokenizer("a")["input_ids"][:1] == [start]
        return ids if begun or not begins else (start, *ids)

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a text as it stands, with nothing added."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode_text(self, text: str, *, prompt: bool = False) -> tuple[int, ...]:
        """Return the token ids of a text that others wrote: control tokens in it are spelt out, never parsed.

        Parameters
        ----------
        text : str
            Of a completion, in which thinking begins and ends with tokens where the tokenizer has such.
        prompt : bool
            It is one of a prompt, in which no token that the chat template names stands; see `scalerl.spelling`.

        Raises
        ------
        UserError
            If the tokenizer cannot do that.

        Examples
        --------
        >>> policy = new_policy("12<end>", max_length=16)
        >>> policy.encode("1<end>2"), policy.encode_text("1<end>2")
        ((3, 1, 4), (3, 5, 6, 7, 8, 9, 4))
        """
        if not self._control(text, prompt=prompt):
            return self.encode(text)
        control = self._control_ids(prompt=prompt)
        ids = spelt_out(self.tokenizer, text, control)
        if left := control & set(ids):
            token = self.tokenizer.convert_ids_to_tokens(min(left))
            raise UserError(f"{text[:60]!r} holds the control token {token}, which this tokenizer cannot spell out")
        return ids

    def _control_ids(self, *, prompt: bool) -> frozenset[int]:
        return control_ids(self.tokenizer, self.end_ids, prompt=prompt) - {self.unknown_id}

    def _control(self, text: str, *, prompt: bool) -> bool:
        """Return whether the tokenizer finds control tokens in a text."""
        return not self._control_ids(prompt=prompt).isdisjoint(self.encode(text))

    def _encode_around(self, rendered: str, prompt: str, system_prompt: str | None) -> tuple[int, ...]:
        """Encode a chat whose texts hold control tokens: the template's own parts with them, the texts without."""
        form = self.render(PROBE, SYSTEM_PROBE if system_prompt else None)
        parts = re.split(f"({re.escape(PROBE)}|{re.escape(SYSTEM_PROBE)})", form)
        given = {PROBE: prompt, SYSTEM_PROBE: system_prompt or ""}
        for texts in (given, {probe: text.strip() for probe, text in given.items()}):
            if "".join(texts.get(part, part) for part in parts) == rendered:
                encoded = (
                    self.encode_text(texts[part], prompt=True) if part in texts else self.encode(part) for part in parts
                )
                return tuple(number for ids in encoded for number in ids)
        raise UserError(
            f"prompt_format: {prompt[:60]!r} holds a control token, and the chat template does not keep it as it stands"
        )

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of sampled tokens without the end token; any other special token stays visible."""
        ids = list(tokens)
        if ids and ids[-1] in self.end_ids:
            ids.pop()
        return str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write a directory that `AutoModelForCausalLM` and `AutoTokenizer` load, adapters merged and kept beside it.

        Raises
        ------
        UserError
            If it cannot be written.
        """
        try:
            if has_adapters(self.model):
                save_merged(self.model, Path(folder))
            else:
                self.model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{folder}: the model cannot be written: {error}") from error


def device_of(wanted: str) -> str:
    """Return the device that "auto", "cpu" or "cuda" stands for here."""
    return wanted if wanted != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def load_policy(
    name: str,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    prompt_format: str = "plain",
    system_prompt: str | None = None,
) -> Policy:
    """Load a policy from a model directory or hub name.

    Parameters
    ----------
    prompt_format : {"plain", "chat", "auto"}
        See `scalerl.config.ScaleRLConfig.prompt_format`.
    system_prompt : str, optional

    Raises
    ------
    UserError
        If there is no causal LM with a tokenizer under that name, or no chat template for a chat.
    """
    refuse_no_model(name)
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device: cuda: this torch finds no CUDA device; set device to cpu or auto")
    try:
        model, info = _load_model(name, dtype)
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # a broken directory can fail anywhere inside transformers and safetensors
        reason = str(error).strip().splitlines() or [type(error).__name__]
        if not Path(name).exists() and local_folder(name) is None:
            reason = [f"it is no directory here, and the hub does not give it ({reason[0]})"]
        raise UserError(f"model_name: {name} cannot be loaded: {reason[0]}") from error
    absent = sorted({*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])})
    if absent:
        raise UserError(
            f"model_name: {name}: {len(absent)} weights are missing or of another shape, the first is {absent[0]}; "
            "training would start from random ones"
        )
    if len(tokenizer) > (rows := model.get_input_embeddings().num_embeddings):
        used = max(tokenizer.get_vocab().values(), default=-1) + 1  # a gap or two in the numbers is no harm
        if used > rows:
            raise UserError(
                f"model_name: {name}: its tokenizer numbers {used} tokens and its model knows {rows} of them"
            )
    model = model.to(device)
    ends = model.generation_config.eos_token_id
    ends = [ends] if isinstance(ends, int) else list(ends or [])
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in ends:
        ends.append(tokenizer.eos_token_id)
    if not ends:
        raise UserError(f"model_name: {name} names no end-of-sequence token, so completions could not end")
    return Policy(model.eval(), tokenizer, tuple(ends)).formatted(prompt_format, system_prompt)


def _load_model(name: str, dtype: str) -> tuple[Any, dict[str, Any]]:
    """Load a model and what was missing; never code from the directory, never a pickle."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # what its load report says is an error of ours
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name,
            dtype=getattr(torch, dtype),
            output_loading_info=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are listed, and refused below with the missing ones
            trust_remote_code=False,
        )
    finally:
        logging.set_verbosity(before)
    model, info = loaded
    return model, info


def new_policy(
    characters: str,
    *,
    max_length: int,
    layers: int = 2,
    width: int = 64,
    heads: int = 4,
    tie_word_embeddings: bool = False,
    seed: int = 0,
) -> Policy:
    """Make a small Qwen3 causal LM with random weights and one token a character.

    Parameters
    ----------
    characters : str
        The alphabet; each must occur once.
    max_length : int
        Longest sequence, in tokens.

    Examples
    --------
    >>> policy = new_policy("0123456789+=", max_length=16)
    >>> policy.decode([*policy.encode("1+2=3"), policy.end_ids[0]])
    '1+2=3'
    """
    tokenizer = character_tokenizer(characters)
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=width // heads,
        max_position_embeddings=max_length,
        tie_word_embeddings=tie_word_embeddings,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    model: Any = Qwen3ForCausalLM(config)
    return Policy(model.eval(), tokenizer, (tokenizer.eos_token_id,))


def character_tokenizer(characters: str) -> Any:
    """Return a tokenizer in Hugging Face format with one token a character."""
    from tokenizers import Regex, Tokenizer, decoders
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split

    vocabulary = {token: index for index, token in enumerate([PAD, END, UNKNOWN, *characters])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = Split(Regex("."), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    fast: Any = PreTrainedTokenizerFast
    return fast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN)


def local_folder(name: str | os.PathLike[str]) -> Path | None:
    """Return the directory of a model: the one of that name, or where the files of a hub name lie; None if nowhere."""
    from transformers.utils.hub import cached_file

    folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or str(name).count("/") != 1:
        return None
    try:
        found = cached_file(str(name), "config.json", local_files_only=True)
    except (OSError, ValueError):
        return None
    return None if found is None else Path(found).parent


def checkpoint_hash(name: str | os.PathLike[str]) -> str | None:
    """Return the sha256 over names and contents of a model's weights and tokenizer, or None if they are not here.

    What else lies in the folder (`policy.json`, the card, states of a trainer) is no part of the model; see `HASHED`.
    """
    folder = local_folder(name)
    if folder is None:
        return None
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if any(fnmatchcase(file.name, pattern) for pattern in HASHED) and file.is_file():
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
