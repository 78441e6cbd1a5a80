"""Partition tables on a target: cleared first, written last.

Answers: "in which order do table sectors change, so that a half-written disk is never taken for a whole one?"
"""

from typing import Final

from stillframe.block import BlockReader, BlockWriter
from stillframe.disk import Layout, Patch, clear_table_patches, read_layout
from stillframe.errors import DeviceError, DiskFormatError
from stillframe.extents import Extent, ExtentSet

_STEP: Final = 1 << 20


class TableWriter:
    """The table of one restore.

    Args:
        target: Where to.
        layout: Of what is restored.
        source: Bytes of the source outside its partitions.
        patches: What is different on the target, by ``disk.placement``.
    """

    def __init__(self, target: BlockWriter, layout: Layout, source: BlockReader, patches: tuple[Patch, ...]) -> None:
        self._target = target
        self._layout = layout
        self._source = source
        self._patches = patches
        if layout.scheme == "none":
            self._held = ExtentSet.empty()
        else:
            self._held = clear_table_patches(layout, target_size=target.size) & layout.outside
        whole = ExtentSet.of(Extent(0, min(target.size, layout.size)))
        self.outside_without_table: Final = (layout.outside & whole) - self._held

    def clear(self) -> None:
        """Make whatever table is on the target invalid, and what will become one too."""
        places = self._held
        try:
            places |= clear_table_patches(read_layout(self._target))
        except (DiskFormatError, DeviceError):
            places |= clear_table_patches(self._layout, target_size=self._target.size)
        for extent in places:
            self._target.zero(extent)
        self._target.flush()

    def write(self) -> int:
        """Write the table, the first sectors of the disk at the very end; returns the bytes written."""
        held = self._held.clipped(Extent(0, min(self._target.size, self._layout.size)))
        pieces = [(extent.start, self._source.read_at(extent.start, extent.size)) for extent in held]
        pieces += [(patch.offset, patch.data) for patch in self._patches]
        last = [piece for piece in pieces if piece[0] == 0]
        for offset, data in [piece for piece in pieces if piece[0] != 0]:
            self._target.write_at(offset, data)
        self._target.flush()
        for offset, data in last:
            self._target.write_at(offset, data)
        return sum(len(data) for _, data in pieces)
