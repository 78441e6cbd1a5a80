"""The volume groups of LVM that lie in an image, put together from their physical volumes.

Answers: "which copy of a group's metadata counts, and is all there that a logical volume needs?" The newest copy
counts, as for LVM. Two that are equally new and differ, and two partitions that claim to be the same physical volume,
are not guessed about.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from stillframe.block import BlockReader
from stillframe.disk.lvm import LogicalVolume, VolumeGroup, hyphenated, parse_group, read_physical_volume
from stillframe.errors import DamagedError, DeviceError, DiskFormatError
from stillframe.extents import ExtentSet
from stillframe.jobs.exposing import ExposedPartition

_FAULTS: Final = (DiskFormatError, DeviceError, DamagedError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Carrier:
    """A partition of an image that holds a physical volume or a member of an array.

    Attributes:
        disk: The number of its disk.
        part: The partition.
        reader: The bytes inside, in which offsets of metadata count.
        excluded: Those of them that the image left out.
        array: The array that it is a member of; its members show the same bytes.
        uuid: Of its physical volume.
    """

    disk: int
    part: ExposedPartition
    reader: BlockReader
    excluded: ExtentSet
    array: str = ""
    uuid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A volume group and the carriers of it that are in the image."""

    group: VolumeGroup
    carriers: tuple[Carrier, ...]

    @property
    def by_uuid(self) -> dict[str, Carrier]:
        """The carrier of each physical volume; of several members of one array the first."""
        return {one.uuid: one for one in reversed(self.carriers)}

    def refuse(self, volume: LogicalVolume) -> str:
        """Why a volume is not read; empty when it is."""
        if not volume.segments:
            return f"logical volumes of type {volume.type} are not read in this version"
        for segment in volume.segments:
            for place, _ in segment.stripes:
                if place.is_missing:
                    return f"it needs the physical volume {hyphenated(place.uuid)}, which LVM itself notes as lost"
                if place.uuid not in self.by_uuid:
                    return f"it needs the physical volume {hyphenated(place.uuid)}, which is not in the image"
        return ""


def gather_groups(carriers: Iterable[Carrier]) -> tuple[list[Group], list[DiskFormatError]]:
    """Put volume groups together.

    Returns:
        The groups, and what is wrong with some carriers or groups, which are then not among them.
    """
    copies, faults = dict[str, list[VolumeGroup]](), list[DiskFormatError]()
    homes = list[tuple[Carrier, str | None]]()
    for carrier in carriers:
        where = f"partition {carrier.part.word}"
        try:
            physical = read_physical_volume(carrier.reader)
            if physical is None:
                continue
            if physical.fault is not None and not physical.texts:
                raise physical.fault
            groups = [parse_group(text) for text in physical.texts]
        except _FAULTS as error:
            faults.append(DiskFormatError(f"{where}: {error.message}", hint=error.hint))
            continue
        for group in groups:
            copies.setdefault(group.uuid, []).append(group)
        homes.append((replace(carrier, uuid=physical.uuid), groups[0].uuid if groups else None))
    found = list[Group]()
    for uuid, versions in copies.items():
        try:
            newest = _choose(versions)
            mine = [one for one, home in homes if home in (uuid, None) and _is_in(one, newest)]
            _check_unique(newest.name, mine)
        except DiskFormatError as error:
            faults.append(error)
            continue
        found.append(Group(group=newest, carriers=tuple(mine)))
    return found, faults


def _choose(versions: Sequence[VolumeGroup]) -> VolumeGroup:
    newest = max(versions, key=lambda one: one.seqno)
    if any(one != newest for one in versions if one.seqno == newest.seqno):
        raise DiskFormatError(
            f"LVM group {newest.name}: two copies of its metadata are equally new (number {newest.seqno}) and differ",
            hint="'vgck' and 'vgcfgrestore' of LVM repair it, on a restored copy.",
        )
    return newest


def _is_in(carrier: Carrier, group: VolumeGroup) -> bool:
    return any(place.uuid == carrier.uuid for place in group.physical)


def _check_unique(name: str, carriers: Sequence[Carrier]) -> None:
    seen = dict[str, Carrier]()
    for one in carriers:
        other = seen.setdefault(one.uuid, one)
        if other is not one and not (one.array and one.array == other.array):
            raise DiskFormatError(
                f"LVM group {name}: partition {other.part.word} of disk {other.disk} and partition {one.part.word} of "
                f"disk {one.disk} claim to be the same physical volume",
                hint="One is a copy of the other; restore only one of the disks and look there.",
            )
