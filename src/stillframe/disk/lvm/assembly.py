"""A logical volume as bytes, from those of its physical volumes.

Answers: "what is in it?" and "which of its bytes are these bytes of a physical volume?"
"""

from collections.abc import Iterator, Mapping

import numpy as np

from stillframe.block import (
    BlockReader,
    BlockWriter,
    JoinedReader,
    JoinedWriter,
    StripedReader,
    StripedWriter,
    WindowReader,
    WindowWriter,
)
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


def join_volume_for_writing(volume: LogicalVolume, writers: Mapping[str, BlockWriter]) -> BlockWriter:
    """The same with writers: what is written goes where LVM would write it. Errors as ``join_volume``."""
    segments = list[BlockWriter]()
    for segment in volume.segments:
        windows = [WindowWriter(writers[uuid], extent) for uuid, extent in _places(volume.name, segment, writers)]
        is_plain = len(windows) == 1
        segments.append(windows[0] if is_plain else StripedWriter(windows, stripe_size=segment.stripe_size))
    return JoinedWriter(segments)


def _join_segment(name: str, segment: Segment, readers: Mapping[str, BlockReader]) -> BlockReader:
    windows = [WindowReader(readers[uuid], extent) for uuid, extent in _places(name, segment, readers)]
    return windows[0] if len(windows) == 1 else StripedReader(windows, stripe_size=segment.stripe_size)


def _places(name: str, segment: Segment, readers: Mapping[str, BlockReader]) -> Iterator[tuple[str, Extent]]:
    """For each stripe the UUID of its physical volume, and its bytes there."""
    for place, start in segment.stripes:
        reader, end = readers[place.uuid], start + segment.size // len(segment.stripes)
        if end > reader.size:
            raise DiskFormatError(
                f"LVM volume {name}: expected its bytes inside {place.name}, which has {reader.size}, found {end}",
                hint="Is this a copy that was cut short?",
            )
        yield place.uuid, Extent(start, end)


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
