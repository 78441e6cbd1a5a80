"""A logical volume as bytes, from those of its physical volumes.

Answers: "what is in it?" and "which of its bytes are these bytes of a physical volume?"
"""

from collections.abc import Iterator, Mapping

import numpy as np

from stillframe.block import BlockReader, JoinedReader, StripedReader, WindowReader
from stillframe.disk.lvm.group import LogicalVolume, Segment
from stillframe.errors import DiskFormatError
from stillframe.extents import Extent, ExtentSet


def join_volume(volume: LogicalVolume, readers: Mapping[str, BlockReader]) -> BlockReader:
    """Read a linear or striped volume.

    Args:
        volume: By its group; it has segments.
        readers: The physical volumes that it lies on, by their UUIDs.

    Raises:
        DiskFormatError: A physical volume is smaller than the metadata says.
    """
    return JoinedReader([_join_segment(volume.name, segment, readers) for segment in volume.segments])


def _join_segment(name: str, segment: Segment, readers: Mapping[str, BlockReader]) -> BlockReader:
    windows = list[BlockReader]()
    for place, start in segment.stripes:
        reader, end = readers[place.uuid], start + segment.size // len(segment.stripes)
        if end > reader.size:
            raise DiskFormatError(
                f"LVM volume {name}: expected its bytes inside {place.name}, which has {reader.size}, found {end}",
                hint="Is this a copy that was cut short?",
            )
        windows.append(WindowReader(reader, Extent(start, end)))
    return windows[0] if len(windows) == 1 else StripedReader(windows, stripe_size=segment.stripe_size)


def lift_extents(volume: LogicalVolume, uuid: str, extents: ExtentSet) -> ExtentSet:
    """Which bytes of a volume some bytes of one of its physical volumes are."""
    found = ExtentSet.empty()
    for base, segment in _iter_segments(volume):
        each = segment.size // len(segment.stripes)
        for column, (place, start) in enumerate(segment.stripes):
            if place.uuid == uuid:
                inside = extents.clipped(Extent(start, start + each)).shifted(-start)
                found |= _spread(inside, segment, column).shifted(base)
    return found


def _iter_segments(volume: LogicalVolume) -> Iterator[tuple[int, Segment]]:
    """Each segment, and where in the volume it begins."""
    base = 0
    for segment in volume.segments:
        yield base, segment
        base += segment.size


def _spread(inside: ExtentSet, segment: Segment, column: int) -> ExtentSet:
    """Bytes of one stripe as bytes of the segment."""
    count, size = len(segment.stripes), segment.stripe_size
    if count == 1:
        return inside
    found = ExtentSet.empty()
    for extent in inside:
        rows = np.arange(extent.start // size, -(-extent.end // size), dtype=np.int64)
        shift = rows * (count - 1) * size + column * size  # from a byte of the stripe to one of the segment
        starts, ends = np.maximum(rows * size, extent.start), np.minimum((rows + 1) * size, extent.end)
        found |= ExtentSet.from_arrays(starts + shift, ends + shift)
    return found
