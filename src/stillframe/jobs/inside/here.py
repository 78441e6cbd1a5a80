"""A disk as it is now, in the form in which ``volumes`` looks at the disks of images.

Answers: "how does one look for volumes inside the partitions of this disk?" No map of such a disk is ever read: it has
none.
"""

from collections.abc import Iterable

from stillframe.block import BlockReader, WindowReader
from stillframe.disk.layout import Layout, Partition, read_layout
from stillframe.fs.registry import identify
from stillframe.jobs.exposing import ExposedDisk, ExposedPartition
from stillframe.repo.blockmap import Kind
from stillframe.repo.records import StoredDisk, StoredMap, StoredPartition

PlacedPartition = tuple[Partition, BlockReader, str]
"""A partition, its bytes, and the name of the file system in it."""


def expose_here(
    number: int, reader: BlockReader, layout: Layout, partitions: Iterable[PlacedPartition]
) -> ExposedDisk:  # fmt: skip
    """A disk of this computer.

    Args:
        number: What its volumes are to call it.
        reader: Its bytes.
        layout: Its table.
        partitions: Those of it that may hold something.
    """
    parts = tuple(
        ExposedPartition(
            stored=StoredPartition(
                number=part.number, index=part.index, start=part.extent.start, size=inside.size,
                blocks=_no_map(inside.size), filesystem=filesystem,
            ),
            reader=inside,
        )
        for part, inside, filesystem in partitions
    )  # fmt: skip
    stored = StoredDisk(
        number=number, path="", size=reader.size, sector_size=layout.sector_size, scheme=layout.scheme,
        outside=_no_map(reader.size), partitions=tuple(part.stored for part in parts),
    )  # fmt: skip
    return ExposedDisk(stored=stored, reader=reader, partitions=parts)


def read_here(reader: BlockReader) -> ExposedDisk:
    """A disk of this computer by its bytes alone.

    Raises:
        DiskFormatError, ReadFault: Its table is broken, or it cannot be read.
    """
    layout = read_layout(reader)
    windows = [(part, WindowReader(reader, part.extent)) for part in layout.partitions]
    found = [(part, window, identify(window).volume.filesystem) for part, window in windows]
    return expose_here(0, reader, layout, found)


def _no_map(size: int) -> StoredMap:
    return StoredMap(size=size, kind=int(Kind.UNUSED))
