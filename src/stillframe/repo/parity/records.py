"""Parity records: one parity block with all that is needed to use it, so that any one of them that is whole helps.

Answers: "what are the parity records of this object?" and "which of these bytes are whole records, and what do they
say?" Normative: ``docs/format/v1.md``, section 16. Knows no store and no keys.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from blake3 import blake3

from stillframe.repo.format import FOOTER_SIZE, HEADER_SIZE, OBJECT_SIZE_MAX, PAYLOAD, TAG_SIZE, ObjectType
from stillframe.repo.parity.code import POSITIONS_MAX, ROWS_MAX, Bytes, Sums

BLOCK: Final = 4096
MAGIC: Final = b"SFPARITY"
CHECKSUM_SIZE: Final = 4
_HEAD: Final = struct.Struct("<8sQIBBH16sB7x16s")
_DIGEST_AT: Final = 48
PAYLOAD_SIZE: Final = 16
_PIECE: Final = 2 << 20
"""Bytes that are read at a time, about."""

Read = Callable[[int, int], bytes]
"""Reads ``(offset, length)`` of an object."""


@dataclass(frozen=True, slots=True)
class Covered:
    """The object that a sidecar belongs to."""

    repository_id: bytes
    kind: ObjectType
    object_id: bytes


@dataclass(frozen=True, slots=True)
class Geometry:
    """How the blocks of an object of ``length`` bytes are dealt to stripes; everything follows from the length."""

    length: int

    @property
    def blocks(self) -> int:
        """Blocks of 4 KiB; zeros are thought behind the end."""
        return -(-self.length // BLOCK)

    @property
    def stripes(self) -> int:
        """Stripes; block ``b`` is at position ``b // stripes`` of stripe ``b % stripes``."""
        return -(-self.blocks // POSITIONS_MAX)

    @property
    def positions(self) -> int:
        """Most data blocks of a stripe; others have one less."""
        return -(-self.blocks // self.stripes)

    @property
    def rows(self) -> int:
        """Parity blocks of each stripe."""
        return min(ROWS_MAX, self.positions + 1)

    @property
    def width(self) -> int:
        """Bytes of one position of all stripes: they lie one after the other in the object."""
        return self.stripes * BLOCK

    @property
    def record_size(self) -> int:
        """Bytes of one record."""
        return _HEAD.size + CHECKSUM_SIZE * self.positions + BLOCK

    @property
    def sidecar_size(self) -> int:
        """Bytes of the whole sidecar object."""
        trailer = PAYLOAD.size + PAYLOAD_SIZE + TAG_SIZE
        return HEADER_SIZE + self.rows * self.stripes * self.record_size + trailer + FOOTER_SIZE

    def pieces(self) -> Iterator[tuple[int, int]]:
        """The object from front to back as positions ``[first, last)`` that are dealt with in one go."""
        step = max(1, _PIECE // self.width)
        for first in range(0, self.positions, step):
            yield first, min(first + step, self.positions)


@dataclass(frozen=True, slots=True)
class Record:
    """One whole parity record: the checksums of its stripe's blocks, shape (positions, 4), and a parity block."""

    length: int
    stripe: int
    row: int
    checksums: Bytes
    parity: Bytes


def checksums(blocks: Bytes) -> Bytes:
    """The checksum of each block; shape (n, 4) for blocks of shape (n, 4096).

    One call per block: the hash itself is the work, 1.8 GB/s this way.
    """
    raw = memoryview(blocks.reshape(-1).data)
    joined = b"".join([blake3(raw[at : at + BLOCK]).digest(CHECKSUM_SIZE) for at in range(0, len(raw), BLOCK)])
    return np.frombuffer(joined, np.uint8).reshape(-1, CHECKSUM_SIZE)


def padded(raw: bytes | bytearray, geometry: Geometry, positions: int) -> Bytes:
    """Bytes of some positions as an array of shape (positions, width); zeros behind the end. Copied only if short."""
    if len(raw) == positions * geometry.width:
        return np.frombuffer(raw, np.uint8).reshape(positions, geometry.width)
    data = np.zeros(positions * geometry.width, np.uint8)
    data[: len(raw)] = np.frombuffer(raw, np.uint8)
    return data.reshape(positions, geometry.width)


def make_records(read: Read, covered: Covered, geometry: Geometry) -> bytes:
    """All parity records of an object, in order: the first row of every stripe, then the second.

    Reads it once, in pieces; a few MiB are in memory.

    Raises:
        StorageError: It cannot be read.
    """
    sums, tables = Sums(geometry.width), []
    for first, last in geometry.pieces():
        start, end = first * geometry.width, min(last * geometry.width, geometry.length)
        data = padded(read(start, end - start), geometry, last - first)
        tables.append(checksums(data).reshape(last - first, geometry.stripes, CHECKSUM_SIZE))
        sums.add(first, data)
    table = np.concatenate(tables)
    table.reshape(-1, CHECKSUM_SIZE)[geometry.blocks :] = 0
    parity = sums.rows(geometry.rows).reshape(geometry.rows, geometry.stripes, BLOCK)
    return b"".join(
        _build(covered, geometry, (stripe, row), table[:, stripe].tobytes() + parity[row, stripe].tobytes())
        for row in range(geometry.rows)
        for stripe in range(geometry.stripes)
    )


def find_records(raw: bytes, covered: Covered) -> Iterator[Record]:
    """Every record of this object that is whole, wherever it lies: what is around it may be broken or gone."""
    at = raw.find(MAGIC)
    while at >= 0:
        record = _parse(raw, at, covered)
        if record is not None:
            yield record
        at = raw.find(MAGIC, at + (1 if record is None else Geometry(record.length).record_size))


def _build(covered: Covered, geometry: Geometry, place: tuple[int, int], contents: bytes) -> bytes:
    head = _head(covered, geometry, *place)
    return head + _digest(covered, head, contents) + contents


def _parse(raw: bytes, at: int, covered: Covered) -> Record | None:
    """The record at this place; ``None`` unless every byte of it is right."""
    if len(raw) - at < _HEAD.size:
        return None
    _, length, stripe, row, _, _, _, _, digest = _HEAD.unpack_from(raw, at)
    geometry = Geometry(length)
    if not 0 < length <= OBJECT_SIZE_MAX or stripe >= geometry.stripes or row >= geometry.rows:
        return None
    head, contents = raw[at : at + _DIGEST_AT], raw[at + _HEAD.size : at + geometry.record_size]
    if len(contents) != geometry.record_size - _HEAD.size or head != _head(covered, geometry, stripe, row):
        return None
    if digest != _digest(covered, head, contents):
        return None
    table = np.frombuffer(contents, np.uint8, CHECKSUM_SIZE * geometry.positions).reshape(-1, CHECKSUM_SIZE)
    return Record(length, stripe, row, table, np.frombuffer(contents, np.uint8)[-BLOCK:])


def _head(covered: Covered, geometry: Geometry, stripe: int, row: int) -> bytes:
    """What a record begins with, up to its digest."""
    fields = (MAGIC, geometry.length, stripe, row, geometry.rows, geometry.positions, covered.object_id, covered.kind)
    return _HEAD.pack(*fields, bytes(16))[:_DIGEST_AT]


def _digest(covered: Covered, head: bytes, contents: bytes) -> bytes:
    return blake3(covered.repository_id).update(head).update(contents).digest(16)
