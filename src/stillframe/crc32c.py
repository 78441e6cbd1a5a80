"""The cyclic redundancy checks of ext4, jbd2, XFS, Btrfs and VHDX, for many equally long rows at once.

Answers: "what is the checksum of these bytes?" A byte of a row changes the result by a value that depends only on the
byte and on how many bytes follow it, so whole matrices are looked up and folded by numpy. It does not judge a checksum.

Sources: CRC-32C (Castagnoli), RFC 3720 appendix B.4; CRC-16 and CRC-32 as in Linux ``lib/crc16.c`` and
``lib/crc32.c``, ``crc32_be``. As in Linux, and unlike zlib, neither the seed nor the result is inverted.
"""

import functools
import zlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint32]

CRC32C: Final = 0x82F63B78
"""The Castagnoli polynomial, bits reversed. Source: RFC 3720 section 12.1."""
CRC16: Final = 0xA001
"""x^16 + x^15 + x^2 + 1, bits reversed. Source: Linux ``lib/crc16.c``."""

_SPAN: Final = 1024
_ROWS_AT_ONCE: Final = 256
_BITS_REVERSED: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@functools.cache
def _tables(polynomial: int) -> Words:
    """What each byte adds to the result, by the number of bytes that follow it inside a span (``_SPAN`` x 256)."""
    state = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        state = np.where(state & 1, (state >> 1) ^ np.uint32(polynomial), state >> 1).astype(np.uint32)
    tables = np.empty((_SPAN, 256), np.uint32)
    tables[0] = state
    for distance in range(1, _SPAN):
        before = tables[distance - 1]
        tables[distance] = (before >> 8) ^ state[before & 0xFF]
    return tables


def crc_rows(rows: Bytes, *, seeds: Words, polynomial: int) -> Words:
    """The check of every row of a matrix.

    Args:
        rows: One message a row.
        seeds: The state each row starts from, one a row.
        polynomial: ``CRC32C`` or ``CRC16``.
    """
    parts = [
        _crc_few_rows(rows[first : first + _ROWS_AT_ONCE], seeds[first : first + _ROWS_AT_ONCE], polynomial)
        for first in range(0, len(rows), _ROWS_AT_ONCE)
    ]
    return np.concatenate(parts) if parts else np.empty(0, np.uint32)


def _crc_few_rows(rows: Bytes, seeds: Words, polynomial: int) -> Words:
    tables = _tables(polynomial).reshape(-1)
    state = seeds.astype(np.uint32)
    for start in range(0, rows.shape[1], _SPAN):
        span = rows[:, start : start + _SPAN].copy()
        width = span.shape[1]
        head = min(4, width)
        span[:, :head] ^= state.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :head]
        pushed_out = state >> np.uint32(8 * width) if width < 4 else np.zeros_like(state)
        following = np.arange(width - 1, -1, -1, dtype=np.int64) * 256
        state = np.bitwise_xor.reduce(tables.take(span + following), axis=1) ^ pushed_out
    return state


def crc32c(message: bytes, *, seed: int = 0xFFFFFFFF) -> int:
    """CRC-32C of one message, going on from ``seed``."""
    return _crc_one(message, seed, CRC32C)


def crc16(message: bytes, *, seed: int = 0xFFFF) -> int:
    """CRC-16 of one message, going on from ``seed``."""
    return _crc_one(message, seed, CRC16)


def _crc_one(message: bytes, seed: int, polynomial: int) -> int:
    row = np.frombuffer(message, np.uint8).reshape(1, -1)
    return int(crc_rows(row, seeds=np.array([seed], np.uint32), polynomial=polynomial)[0])


def crc32_be(message: bytes, *, seed: int = 0xFFFFFFFF) -> int:
    """The CRC-32 that takes the highest bit first, going on from ``seed``: zlib's with every bit order turned round."""
    started = _reversed_word(seed) ^ 0xFFFFFFFF
    return _reversed_word(zlib.crc32(message.translate(_BITS_REVERSED), started) ^ 0xFFFFFFFF)


def _reversed_word(word: int) -> int:
    return int.from_bytes(word.to_bytes(4, "little").translate(_BITS_REVERSED), "big")
