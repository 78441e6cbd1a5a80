"""A stored range as a ``BlockReader``: random access through its block map.

Answers: "which bytes are at this offset of the image?" Nothing is written to disk on the way.
"""

from collections.abc import Iterator

from stillframe.block.base import Buffer, ExtentKind, KnownExtent, check_range
from stillframe.extents import Extent
from stillframe.repo.blockmap import FANOUT, Entry, Kind, MapRoot, chunk_count, parse_node, root_level
from stillframe.repo.reading import ChunkReader


class MapReader:
    """The bytes of one block map. What is not ``DATA`` reads as zeros."""

    def __init__(self, root: MapRoot, chunks: ChunkReader, *, chunk_size: int, sector_size: int = 512) -> None:
        self._root = root
        self._chunks = chunks
        self._chunk_size = chunk_size
        self._sector_size = sector_size

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self._root.size

    @property
    def sector_size(self) -> int:
        """Bytes of a logical sector of the disk it came from."""
        return self._sector_size

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes. Raises ``DamagedError`` where a chunk cannot be had."""
        buffer = bytearray(length)
        self.read_into(offset, buffer)
        return bytes(buffer)

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill ``buffer``; errors as ``read_at``."""
        check_range(self.size, offset, len(buffer))
        wanted = Extent(offset, offset + len(buffer))
        for number in range(offset // self._chunk_size, chunk_count(wanted.end, self._chunk_size)):
            start = number * self._chunk_size
            part = Extent(start, start + self._chunk_size).clipped(wanted)
            if part is None:
                continue
            entry = self.entry(number)
            data = self._chunks.read_node(entry.id) if entry.kind is Kind.DATA else bytes(self._chunk_size)
            buffer[part.start - offset : part.end - offset] = data[part.start - start : part.end - start]

    def known_extents(self, within: Extent) -> Iterator[KnownExtent]:
        """Chunks that are not ``DATA`` are holes."""
        check_range(self.size, within.start, within.size)
        for number in range(within.start // self._chunk_size, chunk_count(within.end, self._chunk_size)):
            start = number * self._chunk_size
            part = Extent(start, start + self._chunk_size).clipped(within)
            if part is not None:
                is_data = self.entry(number).kind is Kind.DATA
                yield KnownExtent(part, ExtentKind.DATA if is_data else ExtentKind.HOLE)

    def entry(self, number: int) -> Entry:
        """The entry of chunk ``number``."""
        count = chunk_count(self.size, self._chunk_size)
        entry, first = self._root.root, 0
        for level in reversed(range(root_level(count) + 1)):
            if entry.kind is not Kind.DATA:
                return entry
            below = FANOUT**level
            held = min(below * FANOUT, count - first)
            node = parse_node(self._chunks.read_node(entry.id), level=level, count=-(-held // below))
            place = (number - first) // below
            entry = Entry(Kind(int(node.kinds[place])), node.entry_ids()[place])
            first += place * below
        return entry
