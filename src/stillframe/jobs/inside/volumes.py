"""The volumes inside the partitions of an image: logical volumes of LVM, and what a RAID 1 holds.

Answers: "what is ``3@root``, and how is it read?" A member of a RAID 1 is looked into by itself, when it is up to date;
there may be a physical volume of LVM in it. What a volume lies on must be in the image, else it is only named.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from stillframe.block import BlockReader, WindowReader
from stillframe.disk.lvm import LogicalVolume, join_volume, lift_extents
from stillframe.disk.md import ArrayMember, read_member
from stillframe.errors import DamagedError, DeviceError, DiskFormatError, MachineRefusal, UsageError
from stillframe.events import Notice
from stillframe.extents import ExtentSet
from stillframe.fs.base import Volume
from stillframe.fs.registry import identify
from stillframe.jobs.exposing import ExposedDisk, ExposedImage, ExposedPartition
from stillframe.jobs.inside.groups import Carrier, Group, gather_groups
from stillframe.repo.records import extents_of

NOT_INSIDE: Final = "volumes-not-read"
"""The code of a notice: what is inside a partition could not be read."""
_LVM: Final = "LVM2_member"
_RAID: Final = "linux_raid_member"
_MAY_HOLD: Final = frozenset({_LVM, _RAID, ""})
"""A file system in front of a superblock of RAID at the end looks like two things, and is stored without a name."""
_FAULTS: Final = (DiskFormatError, DeviceError, DamagedError)
_WHOLE_HINT: Final = "Restore it, and open it by the tools of Linux."

Found = TypeVar("Found")
Place = tuple[int, int]
"""The number of a disk, and of a partition on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InnerVolume:
    """A volume inside partitions.

    Attributes:
        name: Of the logical volume; empty for what a RAID 1 holds.
        group: Of LVM; empty for what a RAID 1 holds.
        places: The partitions by which it can be named; it is listed below the first.
        size: In bytes.
        part: As if it were a partition; ``None`` when it is not read.
        refusal: Why not.
    """

    name: str
    places: tuple[Place, ...]
    size: int
    part: ExposedPartition | None
    refusal: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Insides:
    """All volumes inside the partitions of an image, and what could not be read."""

    volumes: tuple[InnerVolume, ...]
    notices: tuple[Notice, ...]

    def below(self, disk: int, partition: int) -> tuple[InnerVolume, ...]:
        """The volumes that are listed below a partition."""
        return tuple(one for one in self.volumes if one.places[0] == (disk, partition))

    def find(self, disk: int, partition: int, name: str) -> ExposedPartition:
        """One volume by its name.

        Raises:
            UsageError: There is none of that name; those that are there are listed.
            MachineRefusal: It is not read, and why.
        """
        here = [one for one in self.volumes if (disk, partition) in one.places]
        found = next((one for one in here if one.name == name), None)
        if found is None:
            names = ", ".join(f"{partition}@{one.name}" for one in here) or "none"
            said = f" ({self.notices[0].message})" if self.notices and not here else ""
            raise UsageError(
                f"there is no volume {partition}@{name} in the image; inside partition {partition} are: {names}{said}",
                hint="'stillframe ls IMAGE' lists them.",
            )
        if found.part is None:
            raise MachineRefusal(f"volume {partition}@{name}: {found.refusal}", hint=_WHOLE_HINT)
        return replace(found.part, stored=replace(found.part.stored, number=partition))


def look_inside(image: ExposedImage) -> Insides:
    """Find the volumes inside all partitions of an image. What is broken becomes a notice."""
    return look_inside_disks(image.disks)


def look_inside_disks(disks: Iterable[ExposedDisk]) -> Insides:
    """The same for disks that are looked at together."""
    notices = list[Notice]()
    volumes, carriers = list[InnerVolume](), list[Carrier]()
    members = list[tuple[Carrier, ArrayMember]]()
    for carrier in _iter_partitions(disks):
        if carrier.part.stored.filesystem == _LVM:
            carriers.append(carrier)
            continue
        member = _try(carrier, notices, lambda one: read_member(one.reader))
        members += [(carrier, member)] if member is not None else []
    for carrier, member in members:
        refusal = _refuse_member(member, [other for _, other in members])
        inner = None if refusal else _inside_member(carrier, member)
        part = None if inner is None else _try(inner, notices, lambda one: _as_partition("", one.reader, [one]))
        if inner is not None and part is not None and part.stored.filesystem == _LVM:
            carriers.append(inner)
        elif refusal or part is not None:
            volumes.append(_array_volume(carrier, member, part, refusal))
    groups, said = gather_groups(carriers)
    notices += (Notice(code=NOT_INSIDE, message=one.message, hint=one.hint) for one in said)
    for group in groups:
        volumes += (_logical_volume(group, one) for one in group.group.logical if one.is_visible)
    return Insides(volumes=tuple(volumes), notices=tuple(notices))


def volumes_of(
    image: ExposedImage, disk: ExposedDisk, number: int | None
) -> tuple[list[ExposedPartition], list[Notice]]:
    """All that may hold files on a disk, or in one of its partitions, in order; and what is not read, and why.

    Raises:
        UsageError: There is no partition of that number.
    """
    kept = tuple(part for part in disk.partitions if not part.stored.is_left_out)
    chosen = kept if number is None else (disk.partition(number),)
    if not any(part.stored.filesystem in _MAY_HOLD for part in chosen):
        return list(chosen), []
    insides, parts, notices = look_inside(image), list[ExposedPartition](), list[Notice]()
    for part in chosen:
        place = disk.stored.number, part.stored.number
        found = [
            one for one in insides.volumes if one.places[0] == place or (number is not None and place in one.places)
        ]
        parts += [replace(one.part, stored=replace(one.part.stored, number=place[1])) for one in found if one.part]
        notices += [_not_searched(place[1], one) for one in found if one.part is None]
        is_opened = any(place in one.places for one in insides.volumes)
        parts += [] if is_opened else [part]
    return parts, [*notices, *insides.notices]


def _not_searched(number: int, volume: InnerVolume) -> Notice:
    message = f"Not searched: volume {number}@{volume.name}: {volume.refusal}"
    return Notice(code="partition-not-searched", message=message, hint=_WHOLE_HINT)


def _iter_partitions(disks: Iterable[ExposedDisk]) -> Iterator[Carrier]:
    for disk in disks:
        for part in disk.partitions:
            if part.stored.filesystem in _MAY_HOLD:
                excluded = extents_of(part.stored.excluded)
                yield Carrier(disk=disk.stored.number, part=part, reader=part.reader, excluded=excluded)


def _try(carrier: Carrier, notices: list[Notice], look: Callable[[Carrier], Found | None]) -> Found | None:
    try:
        return look(carrier)
    except _FAULTS as error:
        message = f"partition {carrier.part.word}: {error.message}"
        notices.append(Notice(code=NOT_INSIDE, message=message, hint=error.hint))
        return None


def _refuse_member(member: ArrayMember, members: Iterable[ArrayMember]) -> str:
    """Why a member is not looked into; empty when it is."""
    if member.level != 1:
        return f"arrays of level {member.level} are not read in this version"
    newest = max(other.events for other in members if other.array == member.array)
    if member.events < newest:
        return "it is behind: another member of the same RAID 1, which is in the image too, is newer"
    return member.refusal


def _inside_member(carrier: Carrier, member: ArrayMember) -> Carrier:
    content = member.content
    excluded = carrier.excluded.clipped(content).shifted(-content.start)
    return replace(carrier, reader=WindowReader(carrier.part.reader, content), excluded=excluded, array=member.array)


def _array_volume(carrier: Carrier, member: ArrayMember, part: ExposedPartition | None, refusal: str) -> InnerVolume:
    place = carrier.disk, carrier.part.stored.number
    return InnerVolume(name="", places=(place,), size=member.content.size, part=part, refusal=refusal)


def _logical_volume(group: Group, volume: LogicalVolume) -> InnerVolume:
    """A volume of a group, named by each partition that has a part of the group, its own first."""
    below = [place.uuid for segment in volume.segments for place, _ in segment.stripes]
    carriers = sorted(group.carriers, key=lambda one: one.uuid not in below[:1])
    places = dict.fromkeys((one.disk, one.part.stored.number) for one in carriers)
    refusal = group.refuse(volume)
    part = None
    if not refusal:
        excluded = ExtentSet.empty()
        for uuid, one in group.by_uuid.items():
            excluded |= lift_extents(volume, uuid, one.excluded)
        try:
            readers = {uuid: one.reader for uuid, one in group.by_uuid.items()}
            part = _as_partition(volume.name, join_volume(volume, readers), carriers, excluded)
        except _FAULTS as error:
            refusal = error.message
    return InnerVolume(
        name=volume.name, places=tuple(places), size=volume.size, part=part, refusal=refusal, group=group.group.name
    )  # fmt: skip


def _as_partition(
    name: str, reader: BlockReader, beneath: Sequence[Carrier], excluded: ExtentSet | None = None
) -> ExposedPartition:
    found: Volume = identify(reader).volume
    excluded = beneath[0].excluded if excluded is None else excluded
    # Which of them were left out is known by their bytes: the names in the image do not say of which volume they are.
    stored = replace(
        beneath[0].part.stored, size=reader.size, filesystem=found.filesystem, label=found.label, uuid=found.uuid,
        block_size=found.block_size, excluded=tuple((one.start, one.end) for one in excluded), left_out=(),
        installed=None, catalogue=None, system=None, notices=(), unreadable=(), name="", guid="",
    )  # fmt: skip
    return ExposedPartition(
        stored=stored, reader=reader, volume=name, beneath=tuple(one.part.stored for one in beneath)
    )
