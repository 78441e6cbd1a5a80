"""A stored range as a ``BlockReader``: random access through its block map.

Answers: "which bytes are at this offset of the image?" Nothing is written to disk on the way. Whoever reads on from
where a read ended gets the next chunks expanded in advance.
"""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

import numpy as np

from stillframe.block.base import Buffer, ExtentKind, KnownExtent, check_range
from stillframe.errors import DamagedError
from stillframe.extents import Extent
from stillframe.repo.blockmap import Kind, MapRoot
from stillframe.repo.chunk_cache import GROUP, ChunkCache
from stillframe.repo.map_leaves import Leaf, MapLeaves
from stillframe.repo.reading import Chunks

_OWN_CACHE_SIZE: Final = 16 << 20
_AHEAD: Final = 4 * GROUP
"""Chunks that are expanded in advance of a sequential reader."""
_STREAMS_MAX: Final = 16
"""So many sequential readers of one map are recognised at a time."""

_Piece = bytes | memoryview


class MapReader:
    """The bytes of one block map. What is not ``DATA`` reads as zeros.

    Args:
        root: The map.
        chunks: Reads nodes and chunks.
        chunk_size: Bytes of a chunk.
        sector_size: Bytes of a logical sector of the disk it came from.
        cache: Expanded chunks that it shares with others; by default a small one of its own, without threads.
    """

    def __init__(
        self, root: MapRoot, chunks: Chunks, *, chunk_size: int, sector_size: int = 512,
        cache: ChunkCache | None = None,
    ) -> None:  # fmt: skip
        self._size = root.size
        self._chunk_size = chunk_size
        self._sector_size = sector_size
        self._leaves = MapLeaves(root, chunks, chunk_size=chunk_size)
        self._cache = cache or ChunkCache(chunks, size_max=_OWN_CACHE_SIZE)
        self._streams = _Streams()

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self._size

    @property
    def sector_size(self) -> int:
        """Bytes of a logical sector of the disk it came from."""
        return self._sector_size

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes. Raises ``DamagedError`` where a chunk cannot be had."""
        check_range(self._size, offset, length)
        pieces = self._pieces(offset, length)
        if len(pieces) == 1 and isinstance(pieces[0], bytes):
            return pieces[0]
        return b"".join(pieces)

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill ``buffer``; errors as ``read_at``."""
        view = memoryview(buffer).cast("B")
        check_range(self._size, offset, len(view))
        done = 0
        for piece in self._pieces(offset, len(view)):
            view[done : done + len(piece)] = piece
            done += len(piece)

    def known_extents(self, within: Extent) -> Iterator[KnownExtent]:
        """Chunks that are not ``DATA`` are holes; neighbours of one kind are one extent. Reads nodes, never chunks."""
        check_range(self._size, within.start, within.size)
        only = within.start // self._chunk_size
        if within.size and within.end <= (only + 1) * self._chunk_size:  # most reads: worth being quick
            yield KnownExtent(within, ExtentKind.DATA if self._leaves.is_data(only) else ExtentKind.HOLE)
            return
        start, kind = within.start, ExtentKind.DATA
        for number, is_data in self._changes(within):
            position = max(number * self._chunk_size, within.start)
            if start < position:
                yield KnownExtent(Extent(start, position), kind)
                start = position
            kind = ExtentKind.DATA if is_data else ExtentKind.HOLE
        if start < within.end:
            yield KnownExtent(Extent(start, within.end), kind)

    def _changes(self, within: Extent) -> Iterator[tuple[int, bool]]:
        """The numbers of chunks at which data begin or end, with whether they begin; the first always."""
        number, last, before = within.start // self._chunk_size, -(-within.end // self._chunk_size), None
        while number < last and within.size:
            leaf = self._leaves.leaf(number)
            for start, is_data in _runs(leaf, number, last):
                if is_data != before:
                    yield start, is_data
                before = is_data
            number = leaf.end

    def _pieces(self, offset: int, length: int) -> list[_Piece]:
        """The bytes of a range in pieces, in order."""
        if not length:
            return []
        size, end = self._chunk_size, offset + length
        first, last = offset // size, -(-end // size)
        found = self._leaves.places(first, last)
        contents = iter(self._cache.read([place for place in found if place is not None]))
        pieces: list[_Piece] = []
        for number, place in enumerate(found, start=first):
            start, stop = max(offset - number * size, 0), min(end - number * size, size)
            if place is None:
                pieces.append(bytes(stop - start))
                continue
            data = next(contents)
            pieces.append(data if stop - start == len(data) else memoryview(data)[start:stop])
        if self._cache.threads:
            self._read_ahead(first, last)
        return pieces

    def _read_ahead(self, first: int, last: int) -> None:
        begin, end = self._streams.follow(first, last)
        end = min(end, -(-self._size // self._chunk_size))
        if begin < end:
            with contextlib.suppress(DamagedError):  # whoever reads there is told
                self._cache.ahead([place for place in self._leaves.located(begin, end) if place is not None])


def _runs(leaf: Leaf, number: int, last: int) -> Iterator[tuple[int, bool]]:
    """Where runs of data and of no data begin in a leaf, from a chunk on."""
    if leaf.kinds is None:
        yield number, leaf.kind is Kind.DATA
        return
    mask = leaf.kinds[number - leaf.first : last - leaf.first] == Kind.DATA
    yield number, bool(mask[0])
    for edge in (np.flatnonzero(mask[1:] != mask[:-1]) + 1).tolist():
        yield number + edge, bool(mask[edge])


class _Streams:
    """Recognises who reads on from where a read ended; safe for several threads."""

    def __init__(self) -> None:
        self._ends: OrderedDict[int, int] = OrderedDict()  # chunk at which a stream goes on -> what was read ahead
        self._lock = threading.Lock()

    def follow(self, first: int, last: int) -> tuple[int, int]:
        """Note a read of chunks ``first`` to ``last``; the chunks to read ahead, none for the first of a stream."""
        with self._lock:
            key = first if first in self._ends else first + 1  # it may go on inside the chunk where it ended
            ahead = self._ends.pop(key, None)
            begin = end = last if ahead is None else max(ahead, last)
            if ahead is not None and key < last and last + _AHEAD - begin >= _AHEAD // 2:
                end = last + _AHEAD
            self._ends[last] = end
            if len(self._ends) > _STREAMS_MAX:
                self._ends.popitem(last=False)
        return begin, end
