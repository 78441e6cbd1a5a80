"""A window: a range of a reader that looks like a reader of its own. A partition is a window of its disk."""

from collections.abc import Iterator

from stillframe.block.base import BlockReader, BlockWriter, Buffer, KnownExtent, ReadFault, check_range
from stillframe.extents import Extent


class WindowReader:
    """The bytes of ``inner`` inside ``extent``, numbered from 0."""

    def __init__(self, inner: BlockReader, extent: Extent) -> None:
        check_range(inner.size, extent.start, extent.size)
        self._inner = inner
        self.extent = extent

    @property
    def size(self) -> int:
        """Number of bytes of the window."""
        return self.extent.size

    @property
    def sector_size(self) -> int:
        """Bytes of a logical sector of the disk."""
        return self._inner.sector_size

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes; a fault names the range inside the window."""
        check_range(self.size, offset, length)
        try:
            return self._inner.read_at(self.extent.start + offset, length)
        except ReadFault as fault:
            raise self._moved(fault) from fault

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill ``buffer``; a fault names the range inside the window."""
        check_range(self.size, offset, len(buffer))
        try:
            self._inner.read_into(self.extent.start + offset, buffer)
        except ReadFault as fault:
            raise self._moved(fault) from fault

    def known_extents(self, within: Extent) -> Iterator[KnownExtent]:
        """What the inner reader knows, moved."""
        check_range(self.size, within.start, within.size)
        for known in self._inner.known_extents(within.shifted(self.extent.start)):
            yield KnownExtent(known.extent.shifted(-self.extent.start), known.kind)

    def _moved(self, fault: ReadFault) -> ReadFault:
        return ReadFault(fault.message, extent=fault.extent.shifted(-self.extent.start), hint=fault.hint)


class WindowWriter(WindowReader):
    """A window that can be written through."""

    def __init__(self, inner: BlockWriter, extent: Extent) -> None:
        super().__init__(inner, extent)
        self._writer = inner

    def write_at(self, offset: int, data: bytes | Buffer) -> None:
        """Write all of ``data`` inside the window."""
        check_range(self.size, offset, len(data))
        self._writer.write_at(self.extent.start + offset, data)

    def zero(self, extent: Extent) -> None:
        """Make a range of the window read as zeros."""
        check_range(self.size, extent.start, extent.size)
        self._writer.zero(extent.shifted(self.extent.start))

    def flush(self) -> None:
        """Return when what was written would survive a power cut."""
        self._writer.flush()
