"""Frames of TFRecord, the format of event files (https://www.tensorflow.org/tutorials/load_data/tfrecord).

Promises: a record is one whose length and content have the sums that stand beside them; the first that has not ends the
file, since lengths chain. All sums are worked out at once: the loader of the package tensorboard does it byte by byte
in Python, at 19 s for a million scalars.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

LARGE = 1 << 16  # bytes; records above are pictures and the like, of which only the length is checked


def records(data: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64], str | None]:
    """Return where the contents of sound records begin, how long each is, and what is wrong with the next one.

    Parameters
    ----------
    data : bytes
        A whole file.

    Returns
    -------
    at, size : arrays (records,)
        Byte at which each content begins, and its bytes.
    fault : str or None
        A clause with record and byte, where the file does not end with a sound record.
    """
    unpack = struct.Struct("<Q").unpack_from
    places: list[int] = []
    lengths: list[int] = []
    position, end, fault = 0, len(data), None
    while position < end:
        if position + 12 > end:
            fault = f"the file ends inside record {len(places) + 1} (byte {position})"
            break
        (length,) = unpack(data, position)
        if position + 16 + length > end:  # so does a length that is wrong
            fault = f"the file ends inside record {len(places) + 1} (byte {position})"
            break
        places.append(position + 12)
        lengths.append(length)
        position += 16 + length
    at, size = np.array(places, dtype=np.int64), np.array(lengths, dtype=np.int64)
    cut = fault is not None and position + 12 <= end
    headers = np.append(at - 12, [position] if cut else []).astype(np.int64)
    sound = _sound(data, headers, np.full(len(headers), 8))
    if not sound.all():  # a wrong length leads astray: nothing from there on is a record
        bad = int(np.argmin(sound))
        fault = f"record {bad + 1} (byte {headers[bad]}) is damaged"
        at, size = at[:bad], size[:bad]
    small = np.flatnonzero(size <= LARGE)
    sound = _sound(data, at[small], size[small])
    if not sound.all():
        bad = int(small[np.argmin(sound)])
        fault = f"record {bad + 1} (byte {at[bad] - 12}) is damaged"
        at, size = at[:bad], size[:bad]
    return at, size, fault


def _sound(data: bytes, at: NDArray[np.int64], size: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the `size` bytes at each place have the masked CRC-32C that stands behind them; all places at once."""
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import CRC_TABLE

    table, raw = np.array(CRC_TABLE, dtype=np.uint32), np.frombuffer(data, dtype=np.uint8)
    order = np.argsort(-size, kind="stable")  # the longest first, so that those not yet through are a slice
    places, longer = at[order], np.searchsorted(np.sort(size), np.arange(size.max(initial=0)), side="right")
    crc = np.full(len(at), 0xFFFFFFFF, dtype=np.uint32)
    for i, done in enumerate(longer.tolist()):
        n = len(at) - done
        crc[:n] = table[(crc[:n] ^ raw[places[:n] + i]) & 0xFF] ^ (crc[:n] >> np.uint32(8))
    crc = ~crc
    masked = ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(0xA282EAD8)
    stored = np.zeros(len(at), dtype=np.uint32)
    for i in range(4):
        stored |= raw[places + size[order] + i].astype(np.uint32) << np.uint32(8 * i)
    sound = np.empty(len(at), dtype=bool)
    sound[order] = masked == stored
    return sound
