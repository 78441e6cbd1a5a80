"""A volume group of LVM whose volumes may be changed, as far as nothing about it is in doubt.

Answers: "may this group's volumes be written without LVM?" Stricter than reading (``groups``): all of its physical
volumes are on the disk, every copy of its metadata is whole, settled and says the same, and it has no snapshot, for
what is written to an origin belongs into its snapshot first. A volume of another type is left alone, and named.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stillframe.block import BlockWriter
from stillframe.block.edits import Edit
from stillframe.capture.unopened import GROUP_FLAGS, PLACE_FLAGS, VOLUME_FLAGS, head_of
from stillframe.disk.lvm import (
    LogicalVolume,
    PhysicalVolume,
    VolumeGroup,
    join_volume_for_writing,
    parse_group,
    read_physical_volume,
    rename_physical,
)
from stillframe.errors import DiskFormatError
from stillframe.extents import Extent, ExtentSet

Home = tuple[BlockWriter, PhysicalVolume]
"""A physical volume, and what its label says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeGroup:
    """A group that is all there.

    Attributes:
        group: By its metadata.
        homes: Its physical volumes.
    """

    group: VolumeGroup
    homes: tuple[Home, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        """Its UUID, and those of its physical volumes in order of the metadata; without hyphens."""
        return (self.group.uuid, *(place.uuid for place in self.group.physical))

    def refuse(self, volume: LogicalVolume) -> str:
        """Why a volume is not opened; empty when it is."""
        if not volume.segments:
            return f"a logical volume of type {volume.type}"
        strange = sorted(volume.flags - VOLUME_FLAGS)
        return f"LVM notes {', '.join(strange)} of it" if strange else ""

    def open(self, volume: LogicalVolume) -> BlockWriter:
        """The bytes of a volume that is not refused.

        Raises:
            DiskFormatError: A physical volume is smaller than the metadata says.
        """
        return join_volume_for_writing(volume, {physical.uuid: writer for writer, physical in self.homes})

    def renamed(self, new: dict[str, str]) -> Iterator[tuple[BlockWriter, tuple[Edit, ...]]]:
        """What to write into each physical volume, so that all ids are others."""
        for writer, physical in self.homes:
            yield writer, rename_physical(writer, physical, new)


def read_home(writer: BlockWriter) -> Home:
    """Read a physical volume.

    Raises:
        DiskFormatError: It is broken, or something in it is being changed.
    """
    volume = read_physical_volume(writer)
    if volume is None:
        raise DiskFormatError("expected a label of LVM, found none")
    if volume.fault is not None:
        raise volume.fault
    if not volume.is_settled:
        raise DiskFormatError("an area of LVM's metadata is out of use, or a change was begun in it")
    return writer, volume


def gather_whole(homes: Sequence[Home]) -> tuple[WholeGroup, ...]:
    """Put groups together.

    Raises:
        DiskFormatError: Something is missing, differs, or is in doubt; then none of them is opened.
    """
    known = {uuid: count for uuid, count in Counter(one.uuid for _, one in homes).items() if count > 1}
    if known:
        raise DiskFormatError(f"physical volume {next(iter(known))} is there twice")
    texts = dict.fromkeys(text for _, volume in homes for text in volume.texts)
    parsed = [parse_group(text) for text in texts]
    groups = {group.uuid: group for group in parsed}
    if any(groups[one.uuid] != one for one in parsed):
        raise DiskFormatError("copies of LVM's metadata differ")
    if len({group.name for group in groups.values()}) < len(groups):
        raise DiskFormatError("two groups of LVM have one name")
    found = []
    for group in groups.values():
        mine = tuple(home for home in homes if home[1].uuid in {place.uuid for place in group.physical})
        whole = WholeGroup(group=group, homes=mine)
        doubt = _doubt(whole)
        if doubt:
            raise DiskFormatError(f"LVM group {group.name}: {doubt}")
        found.append(whole)
    return tuple(found)


def _doubt(whole: WholeGroup) -> str:
    """What is in doubt about a group; empty when nothing is."""
    group = whole.group
    here = {volume.uuid: volume for _, volume in whole.homes}
    missing = [place.name for place in group.physical if place.uuid not in here]
    if missing:
        return f"{', '.join(missing)} of it is not on this disk"
    if group.flags - GROUP_FLAGS or any(place.flags - PLACE_FLAGS for place in group.physical):
        return "LVM notes of it what is not known here"
    if any(volume.type == "snapshot" for volume in group.logical):
        return "there is a snapshot in it"
    for place in group.physical:
        volume = here[place.uuid]
        if place.start < head_of(volume) or not 0 < place.start + place.size <= volume.size:
            return f"{place.name} lies over its own metadata, or beyond its end"
    return _overlap(group)


def _overlap(group: VolumeGroup) -> str:
    """Whether two volumes claim the same bytes; empty when none do."""
    pieces = [
        (place.uuid, start, start + segment.size // len(segment.stripes))
        for volume in group.logical
        for segment in volume.segments
        for place, start in segment.stripes
    ]
    for uuid in {place.uuid for place in group.physical}:
        mine = [Extent(start, end) for one, start, end in pieces if one == uuid]
        if ExtentSet.from_extents(mine).size != sum(extent.size for extent in mine):
            return "two of its volumes lie over each other"
    return ""
