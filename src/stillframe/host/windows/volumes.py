r"""The disks of a Windows machine, their partitions, and which volume lies in which partition.

Answers: "what is there to save, and by which name is it opened?" Many partitions have no drive letter, and some no
volume at all (the Microsoft reserved partition, foreign file systems): those are read from the disk. A volume is
matched to its partition by where it lies, never by its name or by its place in a list.
"""

import ctypes
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from stillframe.errors import DeviceError, DiskFormatError, StillframeError
from stillframe.events import Notice
from stillframe.host.windows import answers, codes, structures
from stillframe.host.windows.answers import DiskExtent, DriveLayout, PartitionEntry, Scheme
from stillframe.host.windows.asking import ask, ask_length, device_failure, open_failure, opened
from stillframe.host.windows.calls import DeviceCalls, Win32Failure, WindowsCalls

_PHYSICAL: Final = re.compile(r"PhysicalDrive([0-9]{1,4})", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeSeen:
    r"""A volume.

    Attributes:
        name: ``\\?\Volume{GUID}\`` with the backslash at its end, as VSS wants it.
        paths: Where it is mounted, such as ``C:\``; often nowhere.
        places: Where it lies; more than one place when it spans disks, none when that cannot be told.
    """

    name: str
    paths: tuple[str, ...]
    places: tuple[DiskExtent, ...]

    @property
    def device(self) -> str:
        r"""The name that opens the volume itself: with a backslash at its end it would be the root folder."""
        return self.name.removesuffix("\\")


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionSeen:
    r"""A partition.

    Attributes:
        entry: What the table says of it.
        device: ``\\?\GLOBALROOT\Device\HarddiskX\PartitionY``: opens it where there is no volume.
        volume: The volume that fills it, when there is one.
    """

    entry: PartitionEntry
    device: str
    volume: VolumeSeen | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSeen:
    r"""A whole disk.

    Attributes:
        number: Windows' number, from 0; it changes between starts.
        path: ``\\.\PhysicalDriveN``.
        size: Bytes.
        sector_size: Logical sector, bytes.
        model: What it says on the box.
        serial: Serial number.
        bus: How it is connected, such as ``nvme``.
        removable: The medium can be taken out.
        scheme: Kind of table.
        disk_id: GUID, or eight hexadecimal digits for MBR.
        partitions: By place on the disk; containers of logical partitions are none.
    """

    number: int
    path: str
    size: int
    sector_size: int
    model: str
    serial: str
    bus: str
    removable: bool
    scheme: Scheme
    disk_id: str
    partitions: tuple[PartitionSeen, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DisksSeen:
    """All of it. ``elsewhere`` are volumes that fill no partition: spanned, mirrored, or not on these disks."""

    disks: tuple[DiskSeen, ...]
    elsewhere: tuple[VolumeSeen, ...]
    notices: tuple[Notice, ...]


def look_at_disks(calls: WindowsCalls) -> DisksSeen:
    """Look at every disk and every volume. Nothing is written, nothing stays open.

    A disk that fails is left out, with a notice; one without a medium is left out silently.

    Raises:
        MachineRefusal: This user may not look at disks.
        DeviceError: Windows does not list its disks or volumes.
    """
    try:
        names, volume_names = calls.device_names(), calls.find_volumes()
    except Win32Failure as failure:
        raise device_failure("Windows", "listing disks and volumes", failure) from failure
    numbers = sorted({int(match[1]) for match in map(_PHYSICAL.fullmatch, names) if match})
    disks: list[DiskSeen] = []
    notices: list[Notice] = []
    for number in numbers:
        try:
            disk = _look_at_disk(calls, number)
        except (DiskFormatError, DeviceError, Win32Failure) as error:
            notices.append(_left_out(number, error))
            continue
        if disk is not None:
            disks.append(disk)
    volumes = tuple(_look_at_volume(calls, name) for name in volume_names)
    return match_volumes(tuple(disks), volumes, notices=tuple(notices))


def disk_of(calls: DeviceCalls, volume: VolumeSeen) -> int | None:
    """The number of the disk of a volume that does not say where it lies; -1: of no disk (an optical drive).

    Returns:
        ``None`` when it does not say that either.
    """
    size = ctypes.sizeof(structures.StorageDeviceNumberStructure)
    try:
        with opened(calls, volume.device) as handle:
            answer = calls.device_io_control(handle, codes.IOCTL_STORAGE_GET_DEVICE_NUMBER, b"", size)
        found = answers.parse_device_number(answer)
    except (Win32Failure, StillframeError):
        return None
    return found.disk if found.kind == codes.FILE_DEVICE_DISK else -1


def match_volumes(
    disks: Iterable[DiskSeen], volumes: Iterable[VolumeSeen], *, notices: tuple[Notice, ...] = ()
) -> DisksSeen:
    """Put each volume into the partition that begins where it begins. Pure.

    A volume may be shorter than its partition (a file system that was not grown), so only the beginning is compared,
    and that it does not reach beyond. One that lies in several places fills no partition by itself.
    """
    simple = {(v.places[0].disk, v.places[0].extent.start): v for v in volumes if len(v.places) == 1}
    placed: set[str] = set()
    found = []
    for disk in disks:
        partitions = []
        for partition in disk.partitions:
            volume = simple.get((disk.number, partition.entry.extent.start))
            if volume is not None and volume.places[0].extent.end <= partition.entry.extent.end:
                placed.add(volume.name)
                partitions.append(replace(partition, volume=volume))
            else:
                partitions.append(partition)
        found.append(replace(disk, partitions=tuple(partitions)))
    elsewhere = tuple(volume for volume in volumes if volume.name not in placed)
    return DisksSeen(disks=tuple(found), elsewhere=elsewhere, notices=notices)


def partitions_of(layout: DriveLayout, *, number: int, size: int) -> tuple[PartitionSeen, ...]:
    r"""The partitions of a layout by place; containers and empty entries are none. Pure.

    The device is named by ``PartitionNumber``. The place in the table plus one is another number as soon as an extended
    partition or an empty entry stands before it.

    Raises:
        DiskFormatError: A partition reaches beyond the disk, or two have one number.
    """
    entries = sorted((e for e in layout.entries if e.is_partition), key=lambda entry: entry.extent.start)
    numbers = [entry.number for entry in entries]
    if len(set(numbers)) != len(numbers):
        raise _contradiction(number, f"two partitions have one number: {sorted(numbers)}")
    for entry in entries:
        if entry.extent.end > size:
            raise _contradiction(
                number, f"partition {entry.number} ends at byte {entry.extent.end} of a disk of {size}"
            )
    prefix = rf"\\?\GLOBALROOT\Device\Harddisk{number}\Partition"
    return tuple(PartitionSeen(entry=entry, device=f"{prefix}{entry.number}") for entry in entries)


def _look_at_disk(calls: WindowsCalls, number: int) -> DiskSeen | None:
    """One disk; ``None`` when no medium is in it, or it went away."""
    path = rf"\\.\PhysicalDrive{number}"
    try:
        handle = calls.open_handle(path, unbuffered=False)
    except Win32Failure as failure:
        if failure.code in codes.NO_MEDIUM | codes.NOT_THERE:
            return None
        if failure.code == codes.ERROR_ACCESS_DENIED:
            raise open_failure(path, failure) from failure
        raise
    try:
        return _describe_disk(calls, handle, number, path)
    except Win32Failure as failure:
        if failure.code in codes.NO_MEDIUM:
            return None
        raise
    finally:
        calls.close_handle(handle)


def _describe_disk(calls: WindowsCalls, handle: int, number: int, path: str) -> DiskSeen:
    geometry = answers.parse_geometry(ask(calls, handle, codes.IOCTL_DISK_GET_DRIVE_GEOMETRY_EX))
    size = ask_length(calls, handle, path)
    query = structures.StoragePropertyQuery(
        PropertyId=codes.STORAGE_DEVICE_PROPERTY, QueryType=codes.PROPERTY_STANDARD_QUERY
    )
    description = answers.parse_device_description(
        ask(calls, handle, codes.IOCTL_STORAGE_QUERY_PROPERTY, given=bytes(query))
    )
    layout = answers.parse_drive_layout(ask(calls, handle, codes.IOCTL_DISK_GET_DRIVE_LAYOUT_EX))
    return DiskSeen(
        number=number,
        path=path,
        size=size,
        sector_size=geometry.sector_size,
        model=" ".join(word for word in (description.vendor, description.model) if word),
        serial=description.serial,
        bus=description.bus,
        removable=description.removable,
        scheme=layout.scheme,
        disk_id=layout.disk_id,
        partitions=partitions_of(layout, number=number, size=size),
    )


def _look_at_volume(calls: WindowsCalls, name: str) -> VolumeSeen:
    """One volume. Where it lies cannot be told of optical drives, empty readers and volumes that went away."""
    try:
        paths = calls.volume_path_names(name)
    except Win32Failure:
        paths = ()
    volume = VolumeSeen(name=name, paths=paths, places=())
    try:
        with opened(calls, volume.device) as handle:
            places = answers.parse_disk_extents(ask(calls, handle, codes.IOCTL_VOLUME_GET_VOLUME_DISK_EXTENTS))
    except (Win32Failure, StillframeError):
        return volume
    return replace(volume, places=places)


def _left_out(number: int, error: Exception) -> Notice:
    return Notice(
        code="disk-not-seen",
        message=f"disk {number} was left out: {error}",
        hint="Look at it in Windows' Disk Management; the Linux rescue system can save it.",
    )


def _contradiction(number: int, found: str) -> DiskFormatError:
    return DiskFormatError(
        f"the partition table of disk {number} contradicts itself: {found}",
        hint="The Linux rescue system saves such a disk whole, byte for byte.",
    )
