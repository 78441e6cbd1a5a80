"""Tables that say where chunks rest, as bytes and as arrays: the payload of a pack's trailer and of an index run.

Answers: "which pack, which offset?" Normative: ``docs/format/v1-draft.md``, section 9. Everything here works on whole
arrays; a table of a million rows is one array.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillframe.errors import DamagedError
from stillframe.repo.format import CHECK_HINT, CHUNK_ID_SIZE, CHUNK_SIZE_MAX, HEADER_SIZE, ID_SIZE, TAG_SIZE

ROW: Final = np.dtype([("id", "<u8", (4,)), ("pack", "<u4"), ("offset", "<u4"), ("sealed", "<u4"), ("plain", "<u4")])
PACKS_MAX: Final = 65_536
ROWS_MAX: Final = 1_000_000
PACK_SIZE_MAX: Final = 134_217_728
_COUNTS: Final = struct.Struct("<II")
_PLAIN_MASK: Final = 0xFF_FFFF

Rows = NDArray[Any]
"""A structured array of ``ROW``."""
Ids = NDArray[np.uint64]
"""Chunk ids as an array of shape (n, 4), little-endian words."""


class EntryKind(IntEnum):
    """What a sealed entry of a pack is."""

    CHUNK = 0
    NODE = 1
    PATCH = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where one copy of a chunk rests."""

    chunk_id: bytes
    pack_id: bytes
    offset: int
    sealed_size: int
    plain_size: int
    kind: EntryKind
    compressed: bool


@dataclass(frozen=True, slots=True)
class Table:
    """Packs, and rows that refer to them by number."""

    packs: tuple[bytes, ...]
    rows: Rows

    def location(self, row: int) -> Location:
        """One row as a record."""
        return location_of(self.packs, self.rows[row])


def location_of(packs: tuple[bytes, ...], row: Any) -> Location:
    """One row of an array as a record."""
    plain, tail = int(row["plain"]) & _PLAIN_MASK, int(row["plain"]) >> 24
    return Location(
        chunk_id=row["id"].tobytes(),
        pack_id=packs[int(row["pack"])],
        offset=int(row["offset"]),
        sealed_size=int(row["sealed"]),
        plain_size=plain or CHUNK_SIZE_MAX,
        kind=EntryKind(tail >> 4),
        compressed=bool(tail & 0xF),
    )


def make_rows(entries: list[tuple[bytes, int, int, int, EntryKind, bool]]) -> Rows:
    """Rows of pack number 0 from ``(chunk id, offset, sealed size, plain size, kind, compressed)``."""
    rows = np.zeros(len(entries), ROW)
    if entries:
        ids, offsets, sealed, plain, kinds, compressed = zip(*entries, strict=True)
        rows["id"] = ids_array(b"".join(ids))
        rows["offset"], rows["sealed"] = offsets, sealed
        tails = np.array(kinds, np.uint32) << 4 | np.array(compressed, np.uint32)
        rows["plain"] = np.array(plain, np.uint32) % CHUNK_SIZE_MAX | tails << 24
    return rows


def ids_array(raw: bytes) -> Ids:
    """Joined chunk ids as an array of shape (n, 4)."""
    return np.frombuffer(raw, "<u8").reshape(-1, 4)


def search_keys(ids: Ids) -> NDArray[np.uint64]:
    """The first 8 bytes of each id as a number that sorts as the bytes do."""
    return ids[:, 0].byteswap()


def sort_rows(rows: Rows) -> Rows:
    """Rows in order of chunk id."""
    return rows[id_order(rows["id"])]


def id_order(ids: Ids) -> NDArray[np.intp]:
    """The order that sorts ids as bytes. Ids are hashes: their first words decide, unless an id stands twice."""
    keys = search_keys(ids)
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    if (sorted_keys[1:] == sorted_keys[:-1]).any():
        words = ids.byteswap()
        order = np.lexsort((words[:, 3], words[:, 2], words[:, 1], words[:, 0]))
    return order


def build_table(table: Table) -> bytes:
    """The payload of a pack's trailer or of an index run."""
    return _COUNTS.pack(len(table.packs), len(table.rows)) + b"".join(table.packs) + table.rows.tobytes()


def parse_table(raw: bytes, *, thing: str) -> Table:
    """Parse the payload of a pack's trailer or of an index run, and check every number in it.

    Raises:
        DamagedError: A count or a row is outside its limits. Authentic bytes can still be wrong: this is the net below.

    Source: docs/format/v1-draft.md, section 9.
    """
    if len(raw) < _COUNTS.size:
        raise DamagedError(f"{thing}: its table is cut short", hint=CHECK_HINT)
    pack_count, row_count = _COUNTS.unpack(raw[: _COUNTS.size])
    start = _COUNTS.size + pack_count * ID_SIZE
    if pack_count > PACKS_MAX or row_count > ROWS_MAX or len(raw) != start + row_count * ROW.itemsize:
        raise DamagedError(
            f"{thing}: its table says {pack_count} packs and {row_count} rows in {len(raw)} bytes", hint=CHECK_HINT
        )
    packs = tuple(raw[at : at + ID_SIZE] for at in range(_COUNTS.size, start, ID_SIZE))
    rows = np.frombuffer(raw, ROW, row_count, start)
    bad = bad_rows(rows, pack_count)
    if bad.any():
        raise DamagedError(
            f"{thing}: row {int(np.flatnonzero(bad)[0])} points outside its pack or is of an unknown kind",
            hint=CHECK_HINT,
        )
    return Table(packs, rows)


def bad_rows(rows: Rows, pack_count: int) -> NDArray[np.bool_]:
    """Which rows are outside the limits of the format."""
    offset, sealed = rows["offset"].astype(np.int64), rows["sealed"].astype(np.int64)
    plain, tail = rows["plain"] & _PLAIN_MASK, rows["plain"] >> 24
    sizes = np.where(plain == 0, CHUNK_SIZE_MAX, plain).astype(np.int64)
    outside = (offset < HEADER_SIZE) | (offset + sealed > PACK_SIZE_MAX) | (rows["pack"] >= pack_count)
    wrong_size = (plain >= CHUNK_SIZE_MAX) | (sealed <= TAG_SIZE) | (sealed > sizes + TAG_SIZE)
    stored_as_is = (tail & 0xF) == 0
    wrong_kind = (tail >> 4 > EntryKind.PATCH) | ((tail & 0xF) > 1) | (stored_as_is & (sealed != sizes + TAG_SIZE))
    bad: NDArray[np.bool_] = outside | wrong_size | wrong_kind
    return bad


def check_chunk_ids(raw: bytes) -> int:
    """Number of ids in joined ids; ``ValueError`` if they are not whole."""
    count, rest = divmod(len(raw), CHUNK_ID_SIZE)
    if rest:
        raise ValueError(f"{len(raw)} bytes are not whole chunk ids")
    return count
