"""Render a chat by the template of a tokenizer, which is a program that came with the model.

It runs in the sandbox of transformers: no files, no imports, no range of more than 100,000 numbers. It may still loop
in loops, so that its CPU time is limited here, and ask for the time, which it is told once for all prompts of a run.
How much memory it takes is not bounded.
"""

from __future__ import annotations

import datetime as dt
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from transformers.utils import chat_template_utils

CLOCK = "strftime_now"  # the function that tells a template the date and the time
LIMIT_S = 10.0  # CPU-seconds of one rendering
AGAIN_S = 0.1  # after these again, for what computes constants of a template takes any error for no constant


def template_of(tokenizer: Any) -> str:
    """Return the chat template of a tokenizer; nothing if it has none."""
    return str(tokenizer.get_chat_template()) if getattr(tokenizer, "chat_template", None) else ""


def render_chat(tokenizer: Any, turns: Sequence[Mapping[str, str]], clock: dt.datetime | None = None) -> str:
    """Return the text of a chat up to where the model goes on.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
    turns : sequence of mappings with ``role`` and ``content``
    clock : datetime, optional
        What a template that asks for the time is told; the time there is if not given.

    Raises
    ------
    Exception
        Whatever the template raises; `TimeoutError` where it does not end. Outside of the main thread no limit holds.
    """
    with _limited(LIMIT_S), _told(tokenizer, clock):
        return str(tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=True))


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` in what is inside once it has used so much CPU time; a busy machine takes none of it."""
    if threading.current_thread() is not threading.main_thread():  # signals reach that one alone
        yield
        return

    def stop(*_: Any) -> None:
        raise TimeoutError(f"it does not end within {seconds:g} CPU-seconds")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, AGAIN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        signal.signal(signal.SIGVTALRM, before)


@contextmanager
def _told(tokenizer: Any, clock: dt.datetime | None) -> Iterator[None]:
    """Let a template that asks for the time get this one.

    Transformers has no public way, for it takes no functions among the variables of a template. A version whose
    compiled templates go by another name tells the real time, and a resume with other prompts is refused by their hash.
    """
    compiled: Callable[[str], Any] | None = getattr(chat_template_utils, "_compile_jinja_template", None)
    if clock is None or compiled is None or CLOCK not in template_of(tokenizer):
        yield
        return
    functions = compiled(template_of(tokenizer)).environment.globals
    real, functions[CLOCK] = functions[CLOCK], clock.strftime
    try:
        yield
    finally:
        functions[CLOCK] = real
