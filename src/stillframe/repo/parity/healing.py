"""Bringing the blocks of a damaged object back, in memory.

Answers: "what were the bytes of this object, by its parity?" Reads as much as can be read, block by block around what
cannot; changes nothing in the store. It never vouches for what it returns: whoever reads through it opens what it gives
as if it came from the store, and tags and digests tell whether it is right.
"""

import os
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillframe.errors import StorageError
from stillframe.repo.format import ObjectType, object_name
from stillframe.repo.parity.code import Bytes, Sums, solve
from stillframe.repo.parity.records import (
    BLOCK,
    CHECKSUM_SIZE,
    Covered,
    Geometry,
    Record,
    checksums,
    find_records,
    padded,
)
from stillframe.repo.parity.uses import Use, Uses
from stillframe.store import ObjectMissing, Store

_KEPT_SIZE: Final = 64 << 20
"""Bytes of blocks brought back that are kept, of all objects together."""
_SIDECAR_SIZE_MAX: Final = 16 << 20
"""More than a sidecar of the largest object has."""


class HealedObject:
    """A damaged object as its parity says it was. Reads as a store does, whatever the name.

    Attributes:
        size: Bytes of the object as it was.
        patches: The blocks that were brought back, by their numbers.
        lost: Numbers of blocks that are damaged and could not be brought back.
    """

    def __init__(self, store: Store, name: str, geometry: Geometry, found: "_Survey") -> None:
        self._store = store
        self._name = name
        self._length: Final = geometry.length
        self.patches: Final = found.patches
        self.lost: Final = tuple(found.lost)
        self._order = sorted(found.patches)

    def size(self, name: str) -> int:  # noqa: ARG002 - as a store's
        """Bytes of the object."""
        return self._length

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:  # noqa: ARG002 - as a store's
        """Bytes of the object; zeros, or whatever lies there, in the place of blocks that are lost.

        Raises:
            StorageError: The object ends before the range does.
        """
        end = max(offset, self._length) if length is None else offset + length
        if end > self._length:
            raise StorageError(f"{self._name} ends before the bytes asked for: expected [{offset}, {end})")
        raw, _ = read_what_is_there(self._store, self._name, offset, end - offset)
        first = bisect_left(self._order, offset // BLOCK)
        for block in self._order[first : bisect_left(self._order, -(-end // BLOCK))]:
            low, high = max(block * BLOCK, offset), min((block + 1) * BLOCK, end)
            raw[low - offset : high - offset] = self.patches[block][low - block * BLOCK : high - block * BLOCK]
        return bytes(raw)


class Healer:
    """Finds the parity of damaged objects. Safe for several threads.

    Attributes:
        uses: Objects that could be used only because parity brought blocks of them back.
    """

    def __init__(self, store: Store, repository_id: bytes) -> None:
        self._store = store
        self._repository_id = repository_id
        self.uses: Final = Uses()
        self._start_anew()

    def _start_anew(self) -> None:
        """Know nothing. A process that was forked may have got a lock that nobody will open."""
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, HealedObject | None] = OrderedDict()

    def open(self, kind: ObjectType, object_id: bytes) -> HealedObject | None:
        """An object as its parity says it was; ``None`` when there is no parity of it, or no object."""
        name = object_name(kind, object_id)
        if self._process != os.getpid():
            self._start_anew()
        with self._lock:
            if name not in self._kept:
                try:
                    self._kept[name] = self._heal(name, Covered(self._repository_id, kind, object_id))
                except StorageError:
                    return None  # the storage itself is gone: nothing is known
                self._bound()
            self._kept.move_to_end(name)
            return self._kept[name]

    def note_use(self, kind: ObjectType, object_id: bytes, healed: HealedObject) -> None:
        """Remember that an object was used with the help of parity."""
        self.uses.add(Use(kind, object_id, len(healed.patches)))

    def forget(self, kind: ObjectType, object_id: bytes) -> None:
        """An object, or its parity, is another one now."""
        with self._lock:
            self._kept.pop(object_name(kind, object_id), None)

    def _heal(self, name: str, covered: Covered) -> HealedObject | None:
        sidecar = object_name(ObjectType.PARITY, covered.object_id)
        try:
            size = min(self._store.size(sidecar), _SIDECAR_SIZE_MAX)
            raw, _ = read_what_is_there(self._store, sidecar, 0, size)
            self._store.size(name)
            records = _of_one_length(list(find_records(bytes(raw), covered)))
            if not records:
                return None
            geometry = Geometry(records[0].length)
            return HealedObject(self._store, name, geometry, _survey(self._store, name, geometry, records))
        except (ObjectMissing, _TooMuch):
            return None

    def _bound(self) -> None:
        while len(self._kept) > 1 and sum(_kept_size(healed) for healed in self._kept.values()) > _KEPT_SIZE:
            self._kept.popitem(last=False)


class _TooMuch(Exception):
    """More cannot be read than parity could bring back; it never leaves this module."""


@dataclass(slots=True)
class _Survey:
    """What is wrong with an object, and what it was."""

    patches: dict[int, bytes] = field(default_factory=dict)
    lost: list[int] = field(default_factory=list)


def read_what_is_there(
    store: Store, name: str, offset: int, length: int, *, bad_max: int | None = None
) -> tuple[bytearray, list[int]]:
    """Read a range, with zeros for what cannot be read and what lies behind the end.

    Args:
        store: Where.
        name: The object.
        offset: Of the first byte.
        length: Of the range.
        bad_max: Blocks that may be unreadable before it gives up.

    Returns:
        The bytes, and the numbers of the blocks (of the object) that could not be read: each was tried alone.

    Raises:
        ObjectMissing: There is no such object.
    """
    raw, bad = bytearray(length), list[int]()
    there = max(0, min(length, store.size(name) - offset))
    waiting = [(offset, offset + there)] if there else []
    while waiting:
        start, end = waiting.pop()
        try:
            raw[start - offset : end - offset] = store.read(name, start, end - start)
        except ObjectMissing:
            raise
        except StorageError:
            middle = max((start + end) // 2 // BLOCK * BLOCK, (start // BLOCK + 1) * BLOCK)
            if middle < end:
                waiting += [(middle, end), (start, middle)]
            else:
                bad.append(start // BLOCK)
                if bad_max is not None and len(bad) > bad_max:
                    raise _TooMuch from None
    return raw, bad


def _of_one_length(records: Sequence[Record]) -> list[Record]:
    """Those records that agree with most others on the length of the object."""
    lengths = [record.length for record in records]
    length = max(set(lengths), key=lengths.count, default=0)
    return [record for record in records if record.length == length]


def _survey(store: Store, name: str, geometry: Geometry, records: Sequence[Record]) -> _Survey:
    """Read an object once, find its damaged blocks, and work out what they were."""
    table = np.zeros((geometry.positions, geometry.stripes, CHECKSUM_SIZE), np.uint8)
    known = np.zeros(geometry.stripes, bool)
    parity: dict[int, dict[int, Bytes]] = {}
    for record in records:
        table[:, record.stripe] = record.checksums
        known[record.stripe] = True
        parity.setdefault(record.stripe, {})[record.row] = record.parity
    sums, bad = Sums(geometry.width), np.zeros((geometry.positions, geometry.stripes), bool)
    bad_left = geometry.rows * geometry.stripes
    for first, last in geometry.pieces():
        start, end = first * geometry.width, min(last * geometry.width, geometry.length)
        raw, unread = read_what_is_there(store, name, start, end - start, bad_max=bad_left)
        bad_left -= len(unread)
        data = padded(raw, geometry, last - first)
        bad[first:last] = _wrong(data, table[first:last]) & known  # what cannot be read is zeros here, and wrong
        bad.reshape(-1)[geometry.blocks :] = False
        data.reshape(-1, BLOCK)[bad[first:last].reshape(-1)] = 0
        sums.add(first, data)
    return _solve_all(geometry, bad, sums.rows(geometry.rows), parity, table)


def _wrong(data: Bytes, table: Bytes) -> NDArray[np.bool_]:
    """Which blocks have not the checksum that the table says; shape (positions, stripes)."""
    found = checksums(data.reshape(-1, BLOCK)).reshape(table.shape)
    wrong: NDArray[np.bool_] = (found != table).any(axis=2)
    return wrong


def _solve_all(
    geometry: Geometry, bad: NDArray[np.bool_], sums: Bytes, parity: dict[int, dict[int, Bytes]], table: Bytes
) -> _Survey:
    """Work out the bad blocks of each stripe that has any."""
    found = _Survey()
    for stripe in np.flatnonzero(bad.any(axis=0)).tolist():
        positions = np.flatnonzero(bad[:, stripe]).tolist()
        blocks = [position * geometry.stripes + stripe for position in positions]
        rows = sorted(parity.get(stripe, {}))[: len(positions)]
        if len(rows) < len(positions):
            found.lost += blocks
            continue
        place = slice(stripe * BLOCK, (stripe + 1) * BLOCK)
        differences = np.stack([parity[stripe][row] ^ sums[row, place] for row in rows])
        solved = solve(rows, positions, differences)
        right = (checksums(solved) == table[positions, stripe]).all()
        if right:
            found.patches.update(zip(blocks, (block.tobytes() for block in solved), strict=True))
        else:
            found.lost += blocks
    return found


def _kept_size(healed: HealedObject | None) -> int:
    return BLOCK * (1 + len(healed.patches)) if healed else BLOCK
