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

    Attributes:
        held: Sectors of tables, which are written last.
        outside_without_table: What else lies outside partitions.
    """

    def __init__(self, target: BlockWriter, layout: Layout, source: BlockReader, patches: tuple[Patch, ...]) -> None:
        self._target = target
        self._layout = layout
        self._source = source
        self._patches = patches
        if layout.scheme == "none":
            self.held = ExtentSet.empty()
        else:
            self.held = clear_table_patches(layout, target_size=target.size) & layout.outside
        whole = ExtentSet.of(Extent(0, min(target.size, layout.size)))
        self.outside_without_table: Final = (layout.outside & whole) - self.held
        self._loaded: list[tuple[int, bytes]] | None = None

    def clear(self) -> None:
        """Make whatever table is on the target invalid, and what will become one too."""
        places = self.held
        try:
            places |= clear_table_patches(read_layout(self._target))
        except (DiskFormatError, DeviceError):
            places |= clear_table_patches(self._layout, target_size=self._target.size)
        for extent in places:
            self._target.zero(extent)
        self._target.flush()

    def load(self) -> None:
        """Read the source's table now, of a source that may change before it is written."""
        held = self.held.clipped(Extent(0, min(self._target.size, self._layout.size)))
        places = held | ExtentSet.from_extents(patch.extent for patch in self._patches)
        self._loaded = [(extent.start, self._contents(extent)) for extent in places]

    def lay(self, onto: BlockWriter) -> None:
        """Write the table onto a view of the target, whose changes are not yet made there."""
        if self._loaded is None:
            self.load()
        for offset, data in self._loaded or ():
            onto.write_at(offset, data)

    def take(self, changed: BlockReader) -> None:
        """From now on the table is what such a view holds: tools have worked on it, boot code lies in its sectors."""
        self._loaded = [(offset, changed.read_at(offset, len(data))) for offset, data in self._loaded or ()]

    def write(self) -> int:
        """Write the table, the first sector of the disk at the very end; returns the bytes written."""
        if self._loaded is None:
            self.load()
        pieces = list(self._loaded or ())
        first = b""
        if pieces and pieces[0][0] == 0:
            step = self._layout.sector_size
            first, rest = pieces[0][1][:step], pieces[0][1][step:]
            pieces[0] = (step, rest)
        for offset, data in pieces:
            self._target.write_at(offset, data)
        self._target.flush()
        self._target.write_at(0, first)
        return len(first) + sum(len(data) for _, data in pieces)

    def _contents(self, extent: Extent) -> bytes:
        """What a range of table sectors is to hold: the source's bytes, and the patches over them."""
        known = extent.clipped(Extent(0, self._source.size))
        contents = bytearray(self._source.read_at(known.start, known.size) if known else b"").ljust(extent.size, b"\0")
        for patch in self._patches:
            if patch.extent.clipped(extent):
                contents[patch.offset - extent.start : patch.extent.end - extent.start] = patch.data
        return bytes(contents)
