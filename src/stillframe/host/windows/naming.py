r"""Which disk or volume of a Windows machine is meant by a name, and what is known of it.

Answers: "what is ``C:``, ``0`` or ``\\.\PhysicalDrive1`` here?" Pure: it looks at nothing, ``volumes`` has looked.
"""

import re
from dataclasses import dataclass
from typing import Final

from stillframe.errors import SourceInUse, UsageError
from stillframe.extents import Extent
from stillframe.host.disks import DiskFacts
from stillframe.host.windows.volumes import DiskSeen, DisksSeen, PartitionSeen, VolumeSeen

_DISK: Final = re.compile(r"(?:\\\\[.?]\\PhysicalDrive)?([0-9]{1,4})", re.IGNORECASE)
_LETTER: Final = re.compile(r"(?:\\\\[.?]\\)?([A-Za-z]:)\\?")
_HINT: Final = r"Name a disk such as \\.\PhysicalDrive0, a drive such as C:, or a volume as `mountvol` shows it."


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedSource:
    """A disk, or one partition of it.

    Attributes:
        disk: The whole disk.
        partition: The partition that was meant; ``None`` for the whole disk.
    """

    disk: DiskSeen
    partition: PartitionSeen | None = None

    @property
    def place(self) -> Extent:
        """Where it lies on the disk."""
        return self.partition.entry.extent if self.partition is not None else Extent(0, self.disk.size)

    @property
    def partitions(self) -> tuple[PartitionSeen, ...]:
        """The partitions in it."""
        return self.disk.partitions if self.partition is None else (self.partition,)

    @property
    def path(self) -> str:
        r"""What it is called: ``\\.\PhysicalDriveN``, ``C:``, a folder, or the name of the volume."""
        volume = self.partition.volume if self.partition is not None else None
        if volume is None:
            return self.disk.path
        return volume.paths[0].removesuffix("\\") if volume.paths else volume.device

    @property
    def facts(self) -> DiskFacts:
        """What is known of it without reading it. A partition has model and serial number of its disk."""
        whole = self.partition is None
        return DiskFacts(
            path=self.path, kind="disk" if whole else "partition", size=self.place.size,
            sector_size=self.disk.sector_size, physical_sector_size=self.disk.sector_size, model=self.disk.model,
            serial=self.disk.serial, removable=self.disk.removable, parent="" if whole else self.disk.path,
        )  # fmt: skip


def find_named(seen: DisksSeen, name: str) -> NamedSource:
    r"""Find what a name means.

    Args:
        seen: The disks and volumes of the machine.
        name: A number of a disk, ``\\.\PhysicalDriveN``, a drive letter, a folder where a volume is mounted, or
            ``\\?\Volume{GUID}\``; any of them with or without a backslash at its end.

    Raises:
        UsageError: There is no such disk or volume.
        SourceInUse: The volume is no single partition: it is spanned, mirrored, or lies on no disk that was seen.
    """
    number = _DISK.fullmatch(name)
    if number is not None:
        for disk in seen.disks:
            if disk.number == int(number[1]):
                return NamedSource(disk=disk)
        reasons = [notice.message for notice in seen.notices if f"disk {int(number[1])} " in notice.message]
        raise UsageError(f"there is no disk {int(number[1])}{''.join(f': {reason}' for reason in reasons)}", hint=_HINT)
    letter = _LETTER.fullmatch(name)
    wanted = (f"{letter[1]}\\" if letter is not None else f"{name.rstrip(chr(92))}\\").lower()
    for disk in seen.disks:
        for partition in disk.partitions:
            if partition.volume is not None and is_called(partition.volume, wanted):
                return NamedSource(disk=disk, partition=partition)
    if any(is_called(volume, wanted) for volume in seen.elsewhere):
        raise SourceInUse(
            f"{name} is not one partition of a disk that can be seen: it is spanned or mirrored, or no disk at all",
            hint="The Linux rescue system can save the disks it lies on.",
        )
    raise UsageError(f"there is no disk or volume {name}", hint=_HINT)


def is_called(volume: VolumeSeen, name: str) -> bool:
    """Whether a volume has a name, which ends with a backslash and is in small letters."""
    return name in (volume.name.lower(), *(path.lower() for path in volume.paths))


def volume_of_folder(seen: DisksSeen, folder: str) -> VolumeSeen | None:
    """The volume whose mount point is the nearest one above a folder; ``None`` for a share and the like.

    Args:
        seen: The disks and volumes of the machine.
        folder: An absolute path without links.
    """
    inside = f"{folder.rstrip(chr(92))}\\".lower()
    volumes = [*seen.elsewhere, *(p.volume for disk in seen.disks for p in disk.partitions if p.volume is not None)]
    found = [
        (len(path), number)
        for number, volume in enumerate(volumes)
        for path in volume.paths
        if inside.startswith(path.lower())
    ]
    return volumes[max(found)[1]] if found else None
