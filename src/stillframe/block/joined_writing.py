"""Writers put together as readers are in ``joined``: one behind the other, in stripes, or all with the same bytes.

Answers: "where do these bytes go, when a volume's bytes lie in several places?" A logical volume of LVM is written like
it is read; what is written to a RAID 1 goes to every member, or they would differ from then on.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from stillframe.block.base import BlockWriter, Buffer, WrappedReader, check_range
from stillframe.block.joined import JoinedReader, StripedReader
from stillframe.extents import Extent


class _PiecedWriter(WrappedReader):
    """Reads as a joined reader over the same writers, and writes each piece where that reads it."""

    def __init__(self, reader: JoinedReader | StripedReader, writers: Sequence[BlockWriter]) -> None:
        super().__init__(reader)
        self._joined: Final = reader
        self._writers: Final = {id(writer): writer for writer in writers}

    def write_at(self, offset: int, data: bytes | Buffer) -> None:
        """Write all of ``data``, each piece where it belongs."""
        view = memoryview(data).cast("B")
        check_range(self.size, offset, len(view))
        for here, writer, start in self._pieces(Extent(offset, offset + len(view))):
            writer.write_at(start, view[here.start - offset : here.end - offset])

    def zero(self, extent: Extent) -> None:
        """Make a range read as zeros."""
        check_range(self.size, extent.start, extent.size)
        for here, writer, start in self._pieces(extent):
            writer.zero(Extent(start, start + here.size))

    def flush(self) -> None:
        """Return when what was written would survive a power cut."""
        for writer in self._writers.values():
            writer.flush()

    def _pieces(self, within: Extent) -> Iterator[tuple[Extent, BlockWriter, int]]:
        for here, reader, start in self._joined.pieces(within):
            yield here, self._writers[id(reader)], start


class JoinedWriter(_PiecedWriter):
    """Writers one behind the other; errors as ``JoinedReader``."""

    def __init__(self, writers: Sequence[BlockWriter]) -> None:
        super().__init__(JoinedReader(writers), writers)


class StripedWriter(_PiecedWriter):
    """Writers of equal size, ``stripe_size`` bytes of each in turn; errors as ``StripedReader``."""

    def __init__(self, writers: Sequence[BlockWriter], *, stripe_size: int) -> None:
        super().__init__(StripedReader(writers, stripe_size=stripe_size), writers)


class MirroredWriter(WrappedReader):
    """Writers of equal size that hold the same bytes: the first is read, all are written.

    Raises:
        ValueError: There is none, or they are not of equal size: a bug of the caller.
    """

    def __init__(self, writers: Sequence[BlockWriter]) -> None:
        if len({writer.size for writer in writers}) != 1:
            raise ValueError("mirrors need writers of equal size")
        super().__init__(writers[0])
        self._writers: Final = tuple(writers)

    @property
    def sector_size(self) -> int:
        """Bytes of a logical sector: the largest of its parts'."""
        return max(writer.sector_size for writer in self._writers)

    def write_at(self, offset: int, data: bytes | Buffer) -> None:
        """Write all of ``data`` to every one."""
        for writer in self._writers:
            writer.write_at(offset, data)

    def zero(self, extent: Extent) -> None:
        """Make a range of every one read as zeros."""
        for writer in self._writers:
            writer.zero(extent)

    def flush(self) -> None:
        """Return when what was written would survive a power cut."""
        for writer in self._writers:
            writer.flush()
