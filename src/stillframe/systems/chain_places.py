"""Files and volumes as the links of a boot chain name them.

Answers: "which volume is ``UUID=...`` or ``(hd0,gpt2)``, and is this file on it?" What cannot be looked at is neither
there nor missing.

Sources: GNU GRUB manual 2.06, "Device syntax"; crypttab(5); btrfs-subvolume(8) (a mounted subvolume shows its files
without its own name).
"""

import re
from collections.abc import Sequence
from typing import Final

from stillframe.errors import StillframeError
from stillframe.systems.boot_ini import ArcPath
from stillframe.systems.chain_records import BootPart
from stillframe.systems.fstab import parse_name
from stillframe.systems.linux import NamedTraces, join_linux
from stillframe.systems.names import find_arc, find_parts, find_recorded
from stillframe.systems.records import InstalledSystem
from stillframe.systems.windows_disks import PartitionRecord

CONTAINERS: Final = {
    "crypto_LUKS": "encrypted by LUKS", "LVM2_member": "a physical volume of LVM",
    "linux_raid_member": "a member of a RAID", "BitLocker": "encrypted by BitLocker", "bcache": "a part of bcache",
    "zfs_member": "a part of ZFS",
}  # fmt: skip
_FS_WORDS: Final = {"btrfs": "Btrfs", "xfs": "XFS", "f2fs": "F2FS", "vfat": "FAT", "ntfs": "NTFS", "exfat": "exFAT"}
_GRUB_DEVICE: Final = re.compile(r"\((?:hd\d{1,3})?,(?:gpt|msdos|part)?(\d{1,3})\)")
_GRUB_LVM: Final = re.compile(r"\(lvm/([^)]{1,200})\)")
FILE_MAX: Final = 256 << 10


class Places:
    """All volumes of the disks that are looked at together."""

    def __init__(self, parts: Sequence[BootPart]) -> None:
        self.parts: Final = tuple(parts)
        self._evidence = [part.evidence for part in parts]
        self._real = [one for one in self._evidence if not one.inner]
        self._named = [
            NamedTraces(names=one.names, traces=one.files.linux) for one in self._evidence if one.files is not None
        ]

    def find(self, name: str, at: BootPart) -> tuple[BootPart, ...]:
        """The volumes that a name means; an empty one is where it was read.

        Args:
            name: ``UUID=...`` and the like, ``FILE=/path``, ``(hd0,gpt2)``, or a path below ``/dev``.
            at: Where it was read: a number is one of its disk's.
        """
        if not name:
            return (at,)
        if name.startswith("FILE="):
            return tuple(part for part in self.parts if self.has_file(part, name[5:]))
        device, volume = _GRUB_DEVICE.fullmatch(name), _GRUB_LVM.fullmatch(name)
        if device is not None:
            numbers = (part for part in self.parts if not part.evidence.inner and part.key[0] == at.key[0])
            return tuple(part for part in numbers if part.key[1] == int(device[1]))
        wanted = f"/dev/mapper/{volume[1]}" if volume is not None else parse_name(name)
        return self._parts_of(find_parts(wanted, at.evidence, self._evidence))

    def find_recorded(self, record: PartitionRecord) -> BootPart | None:
        """The partition that a record of Windows means."""
        found = find_recorded(record, self._real)
        return self._part_of(found) if found is not None else None

    def find_arc(self, place: ArcPath, at: BootPart) -> BootPart | None:
        """The partition that ``boot.ini`` means."""
        found = find_arc(place, at.evidence, self._real)
        return self._part_of(found) if found is not None else None

    def has_file(self, part: BootPart, path: str) -> bool | None:
        """Whether there is a file or a link of this path; ``None`` when nobody can tell."""
        folder, _, name = f"/{path.lstrip('/')}".rpartition("/")
        names = self.names(part, folder or "/")
        if names is None:
            return None
        ignores_case = part.evidence.volume.filesystem in ("vfat", "ntfs", "exfat")
        is_there = name.lower() in {one.lower() for one in names} if ignores_case else name in names
        if is_there or part.evidence.volume.filesystem != "btrfs":
            return is_there
        below = path.lstrip("/").partition("/")[2]  # the name of a subvolume may come first
        return True if below and below != path and self.has_file(part, below) else None

    def names(self, part: BootPart, folder: str) -> tuple[str, ...] | None:
        """The names in a folder; ``None`` when nobody can tell."""
        try:
            return part.files.list_names(folder) if part.files is not None else None
        except StillframeError:
            return None

    def read(self, part: BootPart, path: str, offset: int = 0, size: int = FILE_MAX) -> bytes:
        """Bytes of a file; none when it cannot be read."""
        try:
            return (part.files.read_file(path, offset, size) if part.files is not None else None) or b""
        except StillframeError:
            return b""

    def text(self, part: BootPart, path: str) -> str:
        """A file as text."""
        return self.read(part, path).decode(errors="replace")

    def written(self, part: BootPart, path: str) -> str:
        """A path in the letters in which it is written on a volume for which large and small ones are the same."""
        found = ""
        for name in path.strip("/").split("/"):
            names = self.names(part, found or "/") or ()
            found += "/" + next((one for one in names if one.lower() == name.lower()), name)
        return found

    def system(self, part: BootPart) -> InstalledSystem | None:
        """The system on a volume."""
        files = part.evidence.files
        return (files.windows or join_linux(files.linux, self._named)) if files is not None else None

    def closed(self) -> str:
        """The volumes in which something may be that nobody sees, in words; empty when there are none."""
        opened = {key for part in self.parts for key in part.evidence.beneath}
        found = [
            f"partition {part.key[1]} ({part.evidence.volume.filesystem})"
            for part in self.parts
            if part.evidence.volume.filesystem in CONTAINERS and part.key[:2] not in opened
        ]
        return ", ".join(found)

    def _part_of(self, evidence: object) -> BootPart | None:
        return next((part for part in self.parts if part.evidence is evidence), None)

    def _parts_of(self, found: Sequence[object]) -> tuple[BootPart, ...]:
        return tuple(part for part in self.parts if any(part.evidence is one for one in found))


def unread(part: BootPart) -> str:
    """Why nobody sees what is on a volume."""
    kind = part.evidence.volume.filesystem
    if kind in CONTAINERS:
        return f"cannot be followed further: it is {CONTAINERS[kind]}"
    name = _FS_WORDS.get(kind, kind)
    return f"cannot be followed further: {name} is not read here" if name else "cannot be followed further: not known"
