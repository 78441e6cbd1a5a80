"""An overlay: changed blocks laid over a reader that itself stays as it is.

A file system's journal is replayed into one of these, so that its maps can be read as they will be after the next
mount, while the source is never written.
"""

from collections.abc import Iterator, Mapping

from stillframe.block.base import BlockReader, Buffer, ExtentKind, KnownExtent, WrappedReader, check_range
from stillframe.extents import Extent


class OverlayReader(WrappedReader):
    """``inner`` with some whole blocks replaced.

    Args:
        inner: What shows through.
        block_size: Bytes of a block.
        blocks: New contents by block number, each exactly ``block_size`` bytes.
    """

    def __init__(self, inner: BlockReader, *, block_size: int, blocks: Mapping[int, bytes]) -> None:
        super().__init__(inner)
        self._block_size = block_size
        self._blocks = blocks

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill ``buffer`` from the inner reader, then lay the changed blocks over it."""
        self._inner.read_into(offset, buffer)
        step, end = self._block_size, offset + len(buffer)
        for number in self._touched(offset, end):
            start = number * step
            first, last = max(start, offset), min(start + step, end)
            buffer[first - offset : last - offset] = self._blocks[number][first - start : last - start]

    def known_extents(self, within: Extent) -> Iterator[KnownExtent]:
        """Everything is data: an overlay is small and short-lived, and does not look into what shows through."""
        check_range(self.size, within.start, within.size)
        if within.size:
            yield KnownExtent(within, ExtentKind.DATA)

    def _touched(self, start: int, end: int) -> list[int]:
        if start >= end:
            return []
        first, last = start // self._block_size, (end - 1) // self._block_size
        if last - first < len(self._blocks):
            return [number for number in range(first, last + 1) if number in self._blocks]
        return [number for number in self._blocks if first <= number <= last]
