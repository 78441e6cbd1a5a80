"""A disk in memory: the twin of every other reader and writer, for tests and small things."""

from collections.abc import Iterator

from stillframe.block.base import Buffer, ExtentKind, KnownExtent, check_range
from stillframe.extents import Extent


class MemoryDisk:
    """A ``BlockWriter`` over a ``bytearray``."""

    def __init__(self, contents: bytes | bytearray, *, sector_size: int = 512) -> None:
        self.contents = bytearray(contents)
        self._sector_size = sector_size

    @property
    def size(self) -> int:
        """Number of bytes."""
        return len(self.contents)

    @property
    def sector_size(self) -> int:
        """Bytes of a logical sector."""
        return self._sector_size

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes."""
        check_range(self.size, offset, length)
        return bytes(memoryview(self.contents)[offset : offset + length])

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill ``buffer``."""
        check_range(self.size, offset, len(buffer))
        buffer[:] = memoryview(self.contents)[offset : offset + len(buffer)]

    def known_extents(self, within: Extent) -> Iterator[KnownExtent]:
        """Everything is data."""
        check_range(self.size, within.start, within.size)
        if within.size:
            yield KnownExtent(within, ExtentKind.DATA)

    def write_at(self, offset: int, data: bytes | Buffer) -> None:
        """Write all of ``data``."""
        check_range(self.size, offset, len(data))
        self.contents[offset : offset + len(data)] = data

    def zero(self, extent: Extent) -> None:
        """Make a range read as zeros."""
        self.write_at(extent.start, bytes(extent.size))

    def flush(self) -> None:
        """Memory survives nothing; there is nothing to do."""
