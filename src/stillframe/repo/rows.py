"""Tables that say where chunks rest, as bytes and as arrays: the payload of a pack's trailer and of an index run.

Answers: "which pack, which offset?" Normative: ``docs/format/v1.md``, section 9. Everything here works on whole
arrays; a table of a million rows is one array.
"""

import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final, Self

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
_KIND_SHIFT: Final = 28

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
    """Where one copy of a chunk rests. ``base`` is the id of the chunk that a patch is made against, else empty."""

    chunk_id: bytes
    pack_id: bytes
    offset: int
    sealed_size: int
    plain_size: int
    kind: EntryKind
    compressed: bool
    base: bytes = b""


def _no_ids() -> Ids:
    return np.empty((0, 4), "<u8")


def _no_numbers() -> NDArray[np.uint32]:
    return np.empty(0, np.uint32)


@dataclass(frozen=True, slots=True)
class Table:
    """Packs, rows that refer to them by number, and what the patches among the rows are made against.

    Where there may be patches it is made by ``of``.

    Attributes:
        packs: Their ids.
        rows: Where chunks rest.
        bases: For each patch the id of its base, in the order of the rows.
        patches: Numbers of the rows that are patches, ascending.
    """

    packs: tuple[bytes, ...]
    rows: Rows
    bases: Ids = field(default_factory=_no_ids)
    patches: NDArray[np.uint32] = field(default_factory=_no_numbers)

    @classmethod
    def of(cls, packs: tuple[bytes, ...], rows: Rows, bases: Ids) -> Self:
        """A table from rows and the bases of their patches.

        Raises:
            ValueError: There are not as many bases as patches.
        """
        patches = np.flatnonzero(are_patches(rows)).astype(np.uint32)
        if len(patches) != len(bases):
            raise ValueError(f"{len(bases)} bases for {len(patches)} patches")
        return cls(packs, rows, bases, patches)

    def take(self, which: NDArray[Any]) -> "Table":
        """The same table with some of its rows, by their numbers in any order, or by a mask."""
        numbers = np.flatnonzero(which) if which.dtype == np.bool_ else which
        rows = self.rows[numbers]
        if not len(self.patches):
            return Table(self.packs, rows)
        return Table.of(self.packs, rows, self.bases_at(numbers[are_patches(rows)]))

    def bases_at(self, numbers: NDArray[Any]) -> Ids:
        """The bases of rows that are patches."""
        return self.bases[np.searchsorted(self.patches, numbers)]

    def location(self, row: int) -> Location:
        """One row as a record."""
        found = self.rows[row]
        is_patch = len(self.patches) > 0 and int(found["plain"]) >> _KIND_SHIFT == EntryKind.PATCH
        return _location(self.packs, found, self.bases_at(np.array([row]))[0].tobytes() if is_patch else b"")


def are_patches(rows: Rows) -> NDArray[np.bool_]:
    """Which rows are patches."""
    found: NDArray[np.bool_] = rows["plain"] >> _KIND_SHIFT == EntryKind.PATCH
    return found


def _location(packs: tuple[bytes, ...], row: Any, base: bytes) -> Location:
    plain, tail = int(row["plain"]) & _PLAIN_MASK, int(row["plain"]) >> 24
    return Location(
        chunk_id=row["id"].tobytes(),
        pack_id=packs[int(row["pack"])],
        offset=int(row["offset"]),
        sealed_size=int(row["sealed"]),
        plain_size=plain or CHUNK_SIZE_MAX,
        kind=EntryKind(tail >> 4),
        compressed=bool(tail & 0xF),
        base=base,
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


def sort_rows(table: Table) -> Table:
    """The same table with its rows in order of chunk id."""
    return table.take(id_order(table.rows["id"]))


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
    head = _COUNTS.pack(len(table.packs), len(table.rows))
    return head + b"".join(table.packs) + table.rows.tobytes() + table.bases.tobytes()


def parse_table(raw: bytes, *, thing: str) -> Table:
    """Parse the payload of a pack's trailer or of an index run, and check every number in it.

    Raises:
        DamagedError: A count or a row is outside its limits. Authentic bytes can still be wrong: this is the net below.

    Source: docs/format/v1.md, section 9.
    """
    if len(raw) < _COUNTS.size:
        raise DamagedError(f"{thing}: its table is cut short", hint=CHECK_HINT)
    pack_count, row_count = _COUNTS.unpack(raw[: _COUNTS.size])
    start = _COUNTS.size + pack_count * ID_SIZE
    end = start + row_count * ROW.itemsize
    if pack_count > PACKS_MAX or row_count > ROWS_MAX or len(raw) < end:
        raise _wrong_size(raw, thing)
    packs = tuple(raw[at : at + ID_SIZE] for at in range(_COUNTS.size, start, ID_SIZE))
    rows = np.frombuffer(raw, ROW, row_count, start)
    bad = bad_rows(rows, pack_count)
    if bad.any():
        raise DamagedError(
            f"{thing}: row {int(np.flatnonzero(bad)[0])} points outside its pack or is of an unknown kind",
            hint=CHECK_HINT,
        )
    if len(raw) != end + int(are_patches(rows).sum()) * CHUNK_ID_SIZE:
        raise _wrong_size(raw, thing)
    table = Table.of(packs, rows, ids_array(raw[end:]))
    own = (rows["id"][table.patches] == table.bases).all(axis=1)
    if own.any():
        number = int(table.patches[own][0])
        raise DamagedError(f"{thing}: row {number} is a patch of the chunk that it stands for", hint=CHECK_HINT)
    return table


def _wrong_size(raw: bytes, thing: str) -> DamagedError:
    pack_count, row_count = _COUNTS.unpack(raw[: _COUNTS.size])
    return DamagedError(
        f"{thing}: its table says {pack_count} packs and {row_count} rows in {len(raw)} bytes", hint=CHECK_HINT
    )


def bad_rows(rows: Rows, pack_count: int) -> NDArray[np.bool_]:
    """Which rows are outside the limits of the format."""
    offset, sealed = rows["offset"].astype(np.int64), rows["sealed"].astype(np.int64)
    plain, tail = rows["plain"] & _PLAIN_MASK, rows["plain"] >> 24
    sizes = np.where(plain == 0, CHUNK_SIZE_MAX, plain).astype(np.int64)
    outside = (offset < HEADER_SIZE) | (offset + sealed > PACK_SIZE_MAX) | (rows["pack"] >= pack_count)
    wrong_size = (plain >= CHUNK_SIZE_MAX) | (sealed <= TAG_SIZE) | (sealed > sizes + TAG_SIZE)
    stored_as_is = (tail & 0xF) == 0
    wrong_kind = (tail >> 4 > EntryKind.PATCH) | ((tail & 0xF) > 1) | (stored_as_is & (sealed != sizes + TAG_SIZE))
    bad: NDArray[np.bool_] = outside | wrong_size | wrong_kind | (are_patches(rows) & stored_as_is)
    return bad


def check_chunk_ids(raw: bytes) -> int:
    """Number of ids in joined ids; ``ValueError`` if they are not whole."""
    count, rest = divmod(len(raw), CHUNK_ID_SIZE)
    if rest:
        raise ValueError(f"{len(raw)} bytes are not whole chunk ids")
    return count
