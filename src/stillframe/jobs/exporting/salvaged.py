"""A stored disk of which some bytes cannot be had, as a disk with zeros there.

Answers: "what can be had of this image, and what is lost of it?" For a person who asked for exactly that: everybody
else gets an error where a byte is not the one that was saved.
"""

import threading
from collections.abc import Iterator

from stillframe.block import AssembledReader, BlockReader, Piece
from stillframe.block.base import Buffer, ExtentKind, KnownExtent, WrappedReader, check_range
from stillframe.errors import DamagedError
from stillframe.extents import Extent, ExtentSet
from stillframe.repo.losses import LostPart
from stillframe.repo.map_reader import MapReader
from stillframe.repo.reading import ChunkReader
from stillframe.repo.records import Manifest, StoredDisk, StoredMap, StoredPartition, extents_of
from stillframe.units import align_down


class Losses:
    """Bytes that could not be had, as bytes of the disk; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lost: list[Extent] = []

    def add(self, extent: Extent) -> None:
        """Note a range."""
        with self._lock:
            self._lost.append(extent)

    @property
    def lost(self) -> ExtentSet:
        """All of them."""
        with self._lock:
            return ExtentSet.from_extents(self._lost)


class SalvagedMap(WrappedReader):
    """A stored range; a chunk that cannot be had is zeros, and noted.

    Args:
        inner: The range.
        chunk_size: Bytes of a chunk.
        losses: Where it is noted.
        start: Where the range begins on the disk.
    """

    def __init__(self, inner: MapReader, *, chunk_size: int, losses: Losses, start: int) -> None:
        super().__init__(inner)
        self._chunk_size = chunk_size
        self._losses = losses
        self._start = start

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill ``buffer``; zeros where a chunk cannot be had."""
        view = memoryview(buffer).cast("B")
        check_range(self.size, offset, len(view))
        for here in self._chunks(Extent(offset, offset + len(view))):
            part = view[here.start - offset : here.end - offset]
            try:
                self._inner.read_into(here.start, part)
            except DamagedError:
                part[:] = bytes(len(part))
                self._losses.add(here.shifted(self._start))

    def known_extents(self, within: Extent) -> Iterator[KnownExtent]:
        """As the range knows it; what cannot be told must be read."""
        for here in self._chunks(within):
            try:
                yield from list(self._inner.known_extents(here))
            except DamagedError:
                yield KnownExtent(here, ExtentKind.DATA)

    def _chunks(self, within: Extent) -> Iterator[Extent]:
        for start in range(align_down(within.start, self._chunk_size), within.end, self._chunk_size):
            here = Extent(start, start + self._chunk_size).clipped(within)
            if here is not None:
                yield here


def salvage(
    chunks: ChunkReader, manifest: Manifest, disk: StoredDisk, part: StoredPartition | None, losses: Losses
) -> BlockReader:
    """A disk, or one partition of it, with zeros where something cannot be had."""

    def read(stored: StoredMap, start: int) -> SalvagedMap:
        inner = MapReader(stored.root(), chunks, chunk_size=manifest.chunk_size, sector_size=disk.sector_size)
        return SalvagedMap(inner, chunk_size=manifest.chunk_size, losses=losses, start=start)

    if part is not None:
        return read(part.blocks, part.start)
    pieces = [Piece(start=found.start, reader=read(found.blocks, found.start)) for found in disk.partitions]
    return AssembledReader(read(disk.outside, 0), pieces)


def lost_parts(disk: StoredDisk, part: StoredPartition | None, lost: ExtentSet) -> Iterator[LostPart]:
    """What is lost, by the partition it belongs to, with what the source could not give when the image was made.

    Args:
        disk: The disk.
        part: The only partition that is asked of, if so.
        lost: Bytes of the disk.
    """
    for found in disk.partitions if part is None else (part,):
        here = lost.clipped(Extent(found.start, found.start + found.size))
        lost -= here
        inside = ExtentSet(here.starts - found.start, here.ends - found.start)
        inside |= extents_of(found.unreadable)
        if len(inside):
            yield LostPart(
                disk_number=disk.number, partition_number=found.number, place=f"partition {found.number}", lost=inside
            )
    if part is None:
        lost |= extents_of(disk.unreadable)
        if len(lost):
            yield LostPart(disk_number=disk.number, partition_number=None, place="outside all partitions", lost=lost)
