"""Set up a process that computes on a CPU."""

from __future__ import annotations

import ctypes
import sys

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
KEPT_BYTES = 1 << 30  # freed memory beyond this goes back to the system
LARGEST_MMAP_THRESHOLD_BYTES = 1 << 25  # as large as glibc takes it


def prepare_process(threads: int) -> None:
    """Give torch so many threads, and let this process keep freed memory for its next tensors.

    By default glibc hands large blocks back to the system when they are freed and asks for them again a moment
    later, and every page comes back empty: a tenth of a small model's step goes into that. Where there is no glibc
    nothing is changed.

    Parameters
    ----------
    threads : int

    Examples
    --------
    >>> prepare_process(1)
    >>> torch.get_num_threads()
    1
    """
    torch.set_num_threads(threads)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
