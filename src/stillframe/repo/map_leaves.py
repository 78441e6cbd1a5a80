"""The leaves of a block map, found by the number of a chunk, and where their chunks rest.

Answers: "what are this chunk and its neighbours, and where do they lie?" A leaf is looked up in the index as a whole,
once, the first time that one of its chunks is read.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillframe.errors import DamagedError
from stillframe.repo.blockmap import FANOUT, Kind, MapRoot, chunk_count, parse_node, root_level
from stillframe.repo.format import CHECK_HINT, CHUNK_ID_SIZE
from stillframe.repo.reading import Chunks, missing_chunk
from stillframe.repo.rows import Location, ids_array

_LEAVES_CACHED: Final = 64


@dataclass(frozen=True, slots=True)
class Leaf:
    """Entries ``first`` to ``end`` of level 0: a leaf, or a whole subtree of one kind.

    Attributes:
        first: Number of its first chunk.
        end: Number after its last one.
        kind: Of every entry, unless ``kinds`` is there.
        kinds: Of each entry of a leaf.
        ids: Of the entries of kind ``DATA``, joined.
    """

    first: int
    end: int
    kind: Kind
    kinds: NDArray[np.uint8] | None = None
    ids: bytes = b""


class MapLeaves:
    """The leaves of one map; safe for several threads.

    Args:
        root: The map.
        chunks: Reads nodes.
        chunk_size: Bytes of a chunk.
    """

    def __init__(self, root: MapRoot, chunks: Chunks, *, chunk_size: int) -> None:
        self._root = root.root
        self._chunks = chunks
        self._size = root.size
        self._chunk_size = chunk_size
        self._count = chunk_count(root.size, chunk_size)
        self._level = root_level(self._count)
        self._leaves: OrderedDict[int, Leaf] = OrderedDict()
        self._places: dict[int, list[Location | None]] = {}
        self._lock = threading.Lock()

    def leaf(self, number: int) -> Leaf:
        """The leaf, or subtree, of chunk ``number``.

        Raises:
            DamagedError: A node cannot be had.
        """
        key = number // FANOUT
        with self._lock:
            found = self._leaves.get(key)
            if found is not None:
                self._leaves.move_to_end(key)
                return found
        found = self._find(number)
        with self._lock:
            self._leaves[key] = found
            if len(self._leaves) > _LEAVES_CACHED:
                dropped, _ = self._leaves.popitem(last=False)
                self._places.pop(dropped, None)
        return found

    def is_data(self, number: int) -> bool:
        """Whether chunk ``number`` is ``DATA``; errors as ``leaf``."""
        leaf = self.leaf(number)
        kind = leaf.kind if leaf.kinds is None else leaf.kinds[number - leaf.first]
        return bool(kind == Kind.DATA)

    def chunk_id(self, number: int) -> bytes:
        """The id of chunk ``number``; empty when it is not ``DATA``. Errors as ``leaf``."""
        return _id_in(self.leaf(number), number)

    def places(self, first: int, end: int) -> list[Location | None]:
        """Where chunks ``first`` to ``end`` rest; ``None`` for those that are not ``DATA``.

        Raises:
            DamagedError: A node cannot be had, a chunk is in no index run, or it is not as long as its place.
        """
        found = self.located(first, end)
        for number, place in enumerate(found, start=first):
            size = min(self._chunk_size, self._size - number * self._chunk_size)
            if place is None:
                _check_none(self.leaf(number), number)
            elif place.plain_size != size:
                raise DamagedError(
                    f"chunk {place.chunk_id.hex()[:16]} has {place.plain_size} bytes, and {size} belong there",
                    hint=CHECK_HINT,
                )
        return found

    def located(self, first: int, end: int) -> list[Location | None]:
        """As ``places``, with ``None`` also for chunks that are in no index run. Raises ``DamagedError`` for a node."""
        found: list[Location | None] = []
        while first < end:
            leaf = self.leaf(first)
            stop = min(end, leaf.end)
            if leaf.kinds is None:
                found += [None] * (stop - first)
            else:
                found += self._located(leaf)[first - leaf.first : stop - leaf.first]
            first = stop
        return found

    def _find(self, number: int) -> Leaf:
        """Go down from the root."""
        entry_id, kind, first, end = self._root.id, self._root.kind, 0, self._count
        for level in reversed(range(self._level + 1)):
            if kind is not Kind.DATA:
                break
            below = FANOUT**level
            raw = self._chunks.read_node(entry_id)
            node = parse_node(raw, level=level, count=-(-(end - first) // below))
            if level == 0:
                return Leaf(first, end, kind, node.kinds, node.ids)
            place = (number - first) // below
            kind = Kind(int(node.kinds[place]))
            at = int(np.count_nonzero(node.kinds[:place] == Kind.DATA)) * CHUNK_ID_SIZE
            entry_id = node.ids[at : at + CHUNK_ID_SIZE]
            first += place * below
            end = min(end, first + below)
        return Leaf(first, end, kind)

    def _located(self, leaf: Leaf) -> list[Location | None]:
        """Where each chunk of a leaf rests; ``None`` also for one that no run knows."""
        key = leaf.first // FANOUT
        known = self._places.get(key)
        if known is not None or leaf.kinds is None:
            return known or []
        found = iter(self._chunks.locate(ids_array(leaf.ids)))
        places = [next(found) if kind == Kind.DATA else None for kind in leaf.kinds.tolist()]
        with self._lock:
            if key in self._leaves:
                self._places[key] = places
        return places


def _check_none(leaf: Leaf, number: int) -> None:
    chunk_id = _id_in(leaf, number)
    if chunk_id:
        raise missing_chunk(chunk_id)


def _id_in(leaf: Leaf, number: int) -> bytes:
    if leaf.kinds is None or leaf.kinds[number - leaf.first] != Kind.DATA:
        return b""
    at = int(np.count_nonzero(leaf.kinds[: number - leaf.first] == Kind.DATA)) * CHUNK_ID_SIZE
    return leaf.ids[at : at + CHUNK_ID_SIZE]
