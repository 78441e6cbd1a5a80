"""Sets of chunk ids that may be larger than memory should be.

Answers: "is this chunk one of those?", for as many chunks as a repository has. A set is one sorted array. While a large
one is gathered, sorted pieces of it lie in temporary files, and so does the result, mapped: its pages are the system's
to take away (figures: ADR 0046). Where such a file cannot be written the set is in memory.
"""

import tempfile
from collections.abc import Iterator, Sequence
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from stillframe.repo.rows import Ids, id_order, ids_array, search_keys

_PIECE: Final = 1_000_000
"""Ids sorted at a time: 32 MB, and twice as much while they are sorted."""
_SLICE: Final = 500_000
"""Ids merged at a time, nearly: ids are hashes, so equal shares of all keys hold equally many of them."""
_WASTE: Final = 16 * _PIECE
"""Pieces are merged when they hold so many more ids than twice what is known to be distinct."""


class IdSet:
    """A set of chunk ids as one sorted array. Immutable."""

    __slots__ = ("ids", "keys")

    def __init__(self, ids: Ids, keys: NDArray[np.uint64] | None = None) -> None:
        """Use ``of``: this one trusts its ids to be sorted as bytes and distinct."""
        self.ids: Final = ids
        self.keys: Final = search_keys(ids) if keys is None else keys

    @classmethod
    def of(cls, ids: Ids) -> Self:
        """The distinct ids of an array in any order."""
        return cls(_distinct(ids))

    def __len__(self) -> int:
        return len(self.ids)

    def __or__(self, other: "IdSet") -> "IdSet":
        both = IdGathering()
        for one in (self, other):
            for first in range(0, len(one), _PIECE):
                both.add(one.ids[first : first + _PIECE])
        return both.finish()

    def contains(self, asked: Ids) -> NDArray[np.bool_]:
        """Which of these ids are in the set."""
        return self.places(asked) >= 0

    def without(self, other: "IdSet") -> "IdSet":
        """Those that are not in another set."""
        left = IdGathering()
        for first in range(0, len(self), _PIECE):
            part = self.ids[first : first + _PIECE]
            left.add(part[~other.contains(part)])
        return left.finish()

    def places(self, asked: Ids) -> NDArray[np.int64]:
        """Where in ``ids`` each of these stands; -1 for one that is not in the set."""
        keys, found = search_keys(asked), np.full(len(asked), -1, np.int64)
        places = np.searchsorted(self.keys, keys, "left")
        open_ids = np.flatnonzero(places < len(self.keys))
        while len(open_ids):
            open_ids = open_ids[self.keys[places[open_ids]] == keys[open_ids]]
            hit = (self.ids[places[open_ids]] == asked[open_ids]).all(axis=1)
            found[open_ids[hit]] = places[open_ids[hit]]
            open_ids = open_ids[~hit]
            places[open_ids] += 1
            open_ids = open_ids[places[open_ids] < len(self.keys)]
        return found


class IdGathering:
    """Takes ids in any order, the same ones again and again, and makes a set of them."""

    def __init__(self) -> None:
        self._waiting: list[Ids] = []
        self._count = 0
        self._pieces: list[IdSet] = []
        self._distinct = 0

    def add(self, ids: Ids) -> None:
        """Take some more."""
        self._waiting.append(ids)
        self._count += len(ids)
        if self._count >= _PIECE:
            self._settle()

    def finish(self) -> IdSet:
        """All that were taken."""
        last = self._sort()
        return _spilled([*self._pieces, last]) if self._pieces else last

    def _sort(self) -> IdSet:
        """What waits, sorted; nothing waits then."""
        waiting, self._waiting, self._count = self._waiting, [], 0
        return IdSet.of(np.concatenate([ids_array(b""), *waiting]))

    def _settle(self) -> None:
        self._pieces.append(_spilled([self._sort()]))
        if sum(len(piece) for piece in self._pieces) > 2 * self._distinct + _WASTE:
            self._pieces = [_spilled(self._pieces)]
            self._distinct = len(self._pieces[0])


def _spilled(pieces: Sequence[IdSet]) -> IdSet:
    """The ids of all these sets, in temporary files, mapped."""
    try:
        with tempfile.TemporaryFile() as ids_file, tempfile.TemporaryFile() as keys_file:
            for part in _slices(pieces):
                ids_file.write(part.ids.data)
                keys_file.write(part.keys.data)
            ids_file.flush()
            keys_file.flush()
            if not ids_file.tell():
                return IdSet(ids_array(b""))
            ids = np.asarray(np.memmap(ids_file, "<u8", "r")).reshape(-1, 4)
            return IdSet(ids, np.asarray(np.memmap(keys_file, np.uint64, "r")))
    except OSError:
        return IdSet.of(np.concatenate([piece.ids for piece in pieces]))


def _slices(pieces: Sequence[IdSet]) -> Iterator[IdSet]:
    """The distinct ids of all sets in order, a share of all keys at a time."""
    total = sum(len(piece) for piece in pieces)
    if len(pieces) == 1 or total <= _SLICE:
        yield IdSet.of(np.concatenate([piece.ids for piece in pieces]))
        return
    count = -(-total // _SLICE)
    limits = np.array([number * ((1 << 64) // count) for number in range(1, count)], np.uint64)
    cuts = [[0, *np.searchsorted(piece.keys, limits, "left").tolist(), len(piece)] for piece in pieces]
    for number in range(count):
        parts = [piece.ids[cut[number] : cut[number + 1]] for piece, cut in zip(pieces, cuts, strict=True)]
        yield IdSet.of(np.concatenate(parts))


def _distinct(ids: Ids) -> Ids:
    """Sorted as bytes, each once."""
    if len(ids) < 2:
        return ids
    ordered = ids[id_order(ids)]
    first = np.concatenate(([True], (ordered[1:] != ordered[:-1]).any(axis=1)))
    return ordered if first.all() else ordered[first]
