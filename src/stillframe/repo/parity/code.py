"""The erasure code: up to 8 parity blocks for up to 248 data blocks, any of which can be lost.

Answers: "what is the parity of these blocks?" and "which blocks were these, by the parity of all?" Reed-Solomon over
bytes with a Cauchy matrix: every square part of it can be inverted, so as many lost blocks come back as parity blocks
are left. It does not find out which blocks are lost; checksums do (``records``).

Source: J. Bloemer et al., "An XOR-Based Erasure-Resilient Coding Scheme", ICSI TR-95-048, section 3 (the matrix).
"""

import functools
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

ROWS_MAX: Final = 8
POSITIONS_MAX: Final = 248
"""With the rows 256: as many as there are bytes, and the matrix needs a different one for each."""
_POLYNOMIAL: Final = 0x11D
_SLICE: Final = 65_536
"""Bytes whose sums are worked on at a time: they stay in the processor's cache. Measured: half as fast with 8 KiB."""

Bytes = NDArray[np.uint8]
_Words = NDArray[Any]


@functools.cache
def products() -> Bytes:
    """The product of every two bytes, shape (256, 256): as polynomials over GF(2) modulo x^8 + x^4 + x^3 + x^2 + 1."""
    table = np.zeros((256, 256), np.uint8)
    numbers = np.arange(256)
    power = numbers.copy()
    for bit in range(8):
        table[numbers >> bit & 1 == 1] ^= power.astype(np.uint8)
        power = (power << 1) ^ (power >> 7) * _POLYNOMIAL
    return table


@functools.cache
def _inverses() -> Bytes:
    """The inverse of every byte; that of 0, which has none, is 0."""
    inverses: Bytes = (products() == 1).argmax(axis=1).astype(np.uint8)
    return inverses


@functools.cache
def matrix() -> Bytes:
    """Shape (8, 248): how much of the data block at each position goes into each parity block."""
    rows, positions = np.arange(ROWS_MAX)[:, None], np.arange(POSITIONS_MAX)[None, :]
    weights: Bytes = _inverses()[rows ^ (ROWS_MAX + positions)]
    return weights


@functools.cache
def _tables() -> _Words:
    """For each position and each value of a byte there, what it adds to all 8 parity bytes: one word of 8 bytes."""
    columns = products()[matrix()]  # (8, 248, 256)
    words: _Words = np.ascontiguousarray(columns.transpose(1, 2, 0)).view("<u8")[..., 0]
    return words


class Sums:
    """The parity of many stripes that lie side by side, taken position by position.

    Args:
        width: Bytes of one position: the stripes' blocks one after the other.
    """

    def __init__(self, width: int) -> None:
        self._sums = np.zeros(width, "<u8")
        self._scratch = np.empty(min(width, _SLICE), "<u8")

    def add(self, first: int, data: Bytes) -> None:
        """Take the blocks of positions ``first``, ``first + 1``, ...; ``data`` has the shape (positions, width)."""
        tables = _tables()
        for start in range(0, len(self._sums), _SLICE):
            sums = self._sums[start : start + _SLICE]
            scratch = self._scratch[: len(sums)]
            for number, row in enumerate(data, first):
                np.take(tables[number], row[start : start + _SLICE], out=scratch, mode="wrap")
                np.bitwise_xor(sums, scratch, out=sums)

    def rows(self, count: int) -> Bytes:
        """The first ``count`` parity rows, shape (count, width)."""
        return np.ascontiguousarray(self._sums.view(np.uint8).reshape(-1, ROWS_MAX)[:, :count].T)


def solve(rows: Sequence[int], positions: Sequence[int], differences: Bytes) -> Bytes:
    """The data blocks at some positions.

    Args:
        rows: As many parity rows as there are positions.
        positions: Where blocks are lost.
        differences: For each of the rows, its parity block and the parity of all blocks that are there (with zeros in
            the place of the lost ones), added: shape (rows, block size).

    Returns:
        The lost blocks, in the order of ``positions``.
    """
    times, inverse = products(), _inverses()
    left, right = matrix()[np.ix_(list(rows), list(positions))].copy(), differences.copy()
    for pivot in range(len(left)):  # no rows are exchanged: every part of the matrix can be inverted
        factor = inverse[left[pivot, pivot]]
        left[pivot], right[pivot] = times[factor][left[pivot]], times[factor][right[pivot]]
        for other in range(len(left)):
            if other != pivot and left[other, pivot]:
                factor = left[other, pivot]
                left[other] ^= times[factor][left[pivot]]
                right[other] ^= times[factor][right[pivot]]
    return right
