"""Partitions that an image does not hold, and what happens in their places when it is restored.

Answers: "what lies there on the target, and will it be touched?" Nothing in the image leans on those bytes, and they
may be the only copy of somebody's data: the disk of a computer that does not start any more is restored onto itself,
and its data partition never left it. So such a place is left as it is. Only ``--wipe`` clears it, and not even that
when the volume that was left out is still there.

It is found by its own id and not by the table of the target, which a restore that was killed has cleared.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from stillframe.block import BlockReader, ReadFault, WindowReader
from stillframe.block.file import open_file_reader
from stillframe.disk import read_layout
from stillframe.errors import DiskFormatError, TargetError
from stillframe.extents import Extent
from stillframe.fs.registry import identify
from stillframe.repo.records import StoredDisk, StoredPartition
from stillframe.units import format_size


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftPlace:
    """The place of a partition that the image does not hold.

    Attributes:
        partition: What was left out.
        is_same: The volume that was left out lies there on the target.
        is_new: The target is a file that will be made.
        there: What lies there, in words; empty for nothing that is known.
        stays: Whether nothing is written there.
    """

    partition: StoredPartition
    is_same: bool
    there: str
    stays: bool
    is_new: bool = False

    @property
    def extent(self) -> Extent:
        """Where it is."""
        return Extent(self.partition.start, self.partition.start + self.partition.size)

    @property
    def step(self) -> str:
        """What happens there, in words."""
        part = self.partition
        name = f"partition {part.number}, which is not in the image"
        if self.is_new:
            return f"leave the place of {name}, empty"
        if not self.stays:
            return f"clear {name}{f': {self.there} there is lost' if self.there else ''}"
        if self.is_same:
            return f"leave {name}, as it is: {self.there} is still there"
        was = f"{part.filesystem or part.type_name or 'unknown'}{f' {part.label!r}' if part.label else ''}"
        found = f"{self.there} is there now" if self.there else "nothing that is known is there now"
        return f"leave the place of {name}, as it is: it was {was}, and {found}; '--wipe' clears it"


def find_left_places(disk: StoredDisk, target_path: str | None, *, wipe: bool) -> tuple[LeftPlace, ...]:
    """Look at the places on the target of the partitions that were left out of an image.

    Args:
        disk: As it is in the image.
        target_path: The target; ``None`` for a file that will be made.
        wipe: Clear what nobody uses.

    Raises:
        TargetError: Such a partition is on the target at another place or with another size: the table that comes back
            would cut it off.
        StillframeError: The target cannot be opened.
    """
    gone = [part for part in disk.partitions if part.is_left_out]
    if not gone or target_path is None:
        return tuple(LeftPlace(partition=part, is_same=False, there="", stays=True, is_new=True) for part in gone)
    with open_file_reader(target_path) as reader:
        _refuse_cut(gone, reader)
        return tuple(_look(part, WindowReader(reader, place), wipe=wipe) if place else _beyond(part)
                     for part in gone for place in [_place(part, reader.size)])  # fmt: skip


def staying(places: Sequence[LeftPlace]) -> tuple[Extent, ...]:
    """The places on the target where nothing is written."""
    return tuple(place.extent for place in places if place.stays)


def _refuse_cut(gone: Sequence[StoredPartition], target: BlockReader) -> None:
    """Refuse a target whose owner has moved or resized the partition since."""
    try:
        layout = read_layout(target)
    except (DiskFormatError, ReadFault):
        return
    there = [(found, identify(WindowReader(target, found.extent)).volume) for found in layout.partitions]
    for part in gone:
        place, wanted = Extent(part.start, part.start + part.size), (part.filesystem, part.uuid)
        same = [found for found, volume in there if part.uuid and (volume.filesystem, volume.uuid) == wanted]
        if any(found.extent == place for found in same):  # a copy elsewhere is another
            continue
        for found in same:
            raise TargetError(
                f"partition {part.number} is not in the image, and on the target it lies elsewhere or has another size "
                f"(partition {found.number}, {format_size(found.extent.size)}; in the image {format_size(part.size)}): "
                "the partition table of the image would cut it off",
                hint="Restore the others one by one, such as '--partition 1:1'. Or save it, and remove it from the "
                "target first.",
            )


def _place(part: StoredPartition, size: int) -> Extent | None:
    end = part.start + part.size
    return Extent(part.start, end) if end <= size else None


def _beyond(part: StoredPartition) -> LeftPlace:
    """The target ends before: the table does not fit, which another check refuses."""
    return LeftPlace(partition=part, is_same=False, there="", stays=True)


def _look(part: StoredPartition, window: WindowReader, *, wipe: bool) -> LeftPlace:
    try:
        volume = identify(window).volume
    except (DiskFormatError, ReadFault):
        return LeftPlace(partition=part, is_same=False, there="something that cannot be read", stays=True)
    name = f"{volume.filesystem}{f' {volume.label!r}' if volume.label else ''}, {format_size(part.size)},"
    is_same = bool(part.uuid) and (volume.filesystem, volume.uuid) == (part.filesystem, part.uuid)
    # Of a volume without an id nobody can say whether it is another.
    stays = not wipe or is_same or not part.uuid
    return LeftPlace(partition=part, is_same=is_same, there=name if volume.filesystem else "", stays=stays)
