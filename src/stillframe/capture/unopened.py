"""Logical volumes on a disk that nobody uses, so that only what their file systems use is kept.

Answers: "which bytes of these physical volumes belong to which volume, and which to none?" What is said here decides
what is not saved, so a group counts only when nothing at all about it is in doubt: every one of its physical volumes
is on this disk, all hold the same metadata, whole and settled, and it consists of linear and striped volumes only.
(Through a snapshot or a thin pool, a block that one file system calls free may be another's.) All else is kept whole.

Source: LVM2 ``lib/format_text/flags.c`` (the names of flags).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from stillframe.block import BlockReader, ReadFault, WindowReader
from stillframe.capture.stacking import StackedVolume
from stillframe.disk.layout import Layout, Partition, read_layout
from stillframe.disk.lvm import (
    LogicalVolume,
    PhysicalVolume,
    VolumeGroup,
    join_volume,
    parse_group,
    read_physical_volume,
)
from stillframe.errors import DiskFormatError
from stillframe.extents import Extent, ExtentSet, Offsets
from stillframe.fs.registry import identify
from stillframe.host.live.bytemap import PIECES_MAX, ByteMap

_LVM: Final = "LVM2_member"
GROUP_FLAGS: Final = frozenset({"RESIZEABLE", "READ", "WRITE", "EXPORTED"})
PLACE_FLAGS: Final = frozenset({"ALLOCATABLE", "EXPORTED"})
VOLUME_FLAGS: Final = frozenset({"READ", "WRITE", "VISIBLE", "FIXED_MINOR"})
"""Others tell of things that move, are mirrored, locked or lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unopened:
    """Logical volumes, and the bytes of the disk that their groups have given to none."""

    volumes: tuple[StackedVolume, ...] = ()
    free: ExtentSet


@dataclass(frozen=True, slots=True, kw_only=True)
class _Physical:
    """A physical volume and where on the disk it is."""

    place: Extent
    reader: BlockReader
    volume: PhysicalVolume
    group: VolumeGroup


def find_unopened(disk: BlockReader, layout: Layout) -> Unopened:
    """Look for groups of LVM of which nothing is in doubt."""
    found, doubtful = list[_Physical](), set[str]()
    for partition in layout.partitions:
        physical = _read(disk, partition)
        if isinstance(physical, str):
            doubtful.add(physical)
        elif physical is not None:
            found.append(physical)
    volumes, free = list[StackedVolume](), ExtentSet.empty()
    by_group = {one.group.uuid: [other for other in found if other.group.uuid == one.group.uuid] for one in found}
    for members in by_group.values():
        if _is_certain(members, doubtful):
            here, rest = _take_apart(members)
            volumes += here
            free |= rest
    return Unopened(volumes=tuple(volumes), free=free)


def _read(disk: BlockReader, partition: Partition) -> _Physical | str | None:
    """A physical volume; its UUID alone when it is not certain what is in it; ``None`` when it is none."""
    reader = WindowReader(disk, partition.extent)
    try:
        if identify(reader).volume.filesystem != _LVM:
            return None
        volume = read_physical_volume(reader)
        if volume is None:
            return None
        groups = [parse_group(text) for text in volume.texts]
    except (DiskFormatError, ReadFault):
        return None
    is_whole = volume.fault is None and volume.is_settled and 0 < volume.size <= reader.size
    if not is_whole or not groups or any(one != groups[0] for one in groups):
        return volume.uuid
    return _Physical(place=partition.extent, reader=reader, volume=volume, group=groups[0])


def _is_certain(members: Sequence[_Physical], doubtful: set[str]) -> bool:
    group = members[0].group
    here = Counter(one.volume.uuid for one in members)
    volumes_are_plain = all(
        one.segments and one.is_visible and one.flags <= VOLUME_FLAGS and one.type in ("linear", "striped")
        for one in group.logical
    )
    places_are_plain = all(one.flags <= PLACE_FLAGS for one in group.physical)
    by_uuid = {one.volume.uuid: one for one in members}
    return (
        all(one.group == group for one in members)
        and here == Counter(one.uuid for one in group.physical)
        and not doubtful & set(here)
        and group.flags <= GROUP_FLAGS
        and places_are_plain
        and volumes_are_plain
        and all(place.start + place.size <= by_uuid[place.uuid].volume.size for place in group.physical)
        and all(place.start >= head_of(by_uuid[place.uuid].volume) for place in group.physical)
    )


def head_of(volume: PhysicalVolume) -> int:
    """Where the label and the metadata in front of the first extent end."""
    first = min((area.start for area in volume.areas), default=0)
    return max((area.end for area in volume.areas if area.start == first), default=4096)


def _take_apart(members: Sequence[_Physical]) -> tuple[list[StackedVolume], ExtentSet]:
    """The volumes of a group, and what it gave to none; nothing when two volumes claim the same bytes."""
    group, places = members[0].group, {one.volume.uuid: one.place for one in members}
    readers = {one.volume.uuid: one.reader for one in members}
    volumes, taken, size = list[StackedVolume](), ExtentSet.empty(), 0
    for one in group.logical:
        pieces = _map_volume(one, places)
        if pieces is None:
            return [], ExtentSet.empty()
        taken |= pieces.down(pieces.covered)
        size += one.size
        reader = join_volume(one, readers)
        if is_one_volume(reader):
            volumes.append(StackedVolume(reader=reader, pieces=(pieces,), is_held=False))
    if taken.size != size:
        return [], ExtentSet.empty()
    return volumes, ExtentSet.from_extents(_iter_extents(members)) - taken


def is_one_volume(reader: BlockReader) -> bool:
    """Whether there is no partition table in it: the disk of a virtual machine may still look like a file system."""
    try:
        layout = read_layout(reader)
    except (DiskFormatError, ReadFault):
        return False
    return layout.scheme == "none" and not layout.notices


def _iter_extents(members: Sequence[_Physical]) -> Iterator[Extent]:
    """Where on the disk the extents of each physical volume lie."""
    by_uuid = {one.volume.uuid: one for one in members}
    for place in members[0].group.physical:
        here = by_uuid[place.uuid]
        everything = ExtentSet.of(Extent(place.start, place.start + place.size))
        yield from (everything - ExtentSet.from_extents(here.volume.areas)).shifted(here.place.start)


def _map_volume(volume: LogicalVolume, places: Mapping[str, Extent]) -> ByteMap | None:
    """Which bytes of the disk are those of a volume; ``None`` when there are too many pieces."""
    uppers, lowers, sizes = list[Offsets](), list[Offsets](), list[Offsets]()
    base, count = 0, 0
    for segment in volume.segments:
        columns = len(segment.stripes)
        rows = segment.size // columns // segment.stripe_size
        count += rows * columns
        if count > PIECES_MAX:
            return None
        for column, (place, start) in enumerate(segment.stripes):
            numbers = np.arange(rows, dtype=np.int64) * segment.stripe_size
            uppers.append(base + numbers * columns + column * segment.stripe_size)
            lowers.append(places[place.uuid].start + start + numbers)
            sizes.append(np.full(rows, segment.stripe_size, np.int64))
        base += segment.size
    order = np.argsort(np.concatenate(uppers), kind="stable")
    return ByteMap(*(np.concatenate(arrays)[order] for arrays in (uppers, lowers, sizes)))
