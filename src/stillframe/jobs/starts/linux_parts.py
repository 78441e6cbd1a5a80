"""The volumes of a restored disk, and the names that a Linux has for them.

Answers: "which volume does this line of an ``fstab`` mean?" Partitions, and what lies inside of them when that was
opened. A volume is known by the ids it has now and by those it had.

Sources: fstab(5), crypttab(5), mdadm.conf(5) (``ARRAY``).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from stillframe.block import BlockReader
from stillframe.block.window import WindowReader
from stillframe.disk import Layout
from stillframe.disk.layout import Partition
from stillframe.fs.base import Volume
from stillframe.fs.ext import EXT_NAMES
from stillframe.fs.registry import identify
from stillframe.host.root_files import RootFiles
from stillframe.jobs.starts.volume_stack import LuksLayer, NestedVolume, VolumeStack
from stillframe.jobs.starts.workbench import Workbench
from stillframe.systems.fstab import parse_crypttab
from stillframe.systems.names import partition_names, partition_number

ROOT_FILE_SYSTEMS: Final = EXT_NAMES | {"xfs", "btrfs"}
ESP_TYPES: Final = ("C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "EF")
"""UEFI Specification 2.10, table 5.7; for MBR section 5.2.2."""
_MAPPED: Final = "/dev/mapper/"
_ARRAYS: Final = ("/etc/mdadm/mdadm.conf", "/etc/mdadm.conf")
_ARRAY: Final = re.compile(r"(?mi)^ARRAY\s+(/dev/\S+).*?\bUUID=([0-9a-f:]{35})")
_TEXT_MAX: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskPart:
    """A volume of the restored disk.

    Attributes:
        volume: What is in it.
        names: By which an ``fstab`` may call it: those it has, and those it had on the source.
        partition: Where it is; ``None`` for one inside of partitions.
        nested: What it lies in; ``None`` for a partition.
    """

    volume: Volume
    names: frozenset[str]
    partition: Partition | None = None
    nested: NestedVolume | None = None

    @property
    def number(self) -> int:
        """As the table counts; 0 for what lies inside of partitions."""
        return self.partition.number if self.partition is not None else 0

    @property
    def key(self) -> str:
        """What tells it from all others on this disk."""
        return self.nested.key if self.nested is not None else f"partition{self.number}"

    @property
    def word(self) -> str:
        """Where it is, for people."""
        return self.nested.word if self.nested is not None else f"partition {self.number}"

    @property
    def layers(self) -> tuple[str, ...]:
        """What it lies in, the lowest first: ``raid``, ``luks``, ``lvm``."""
        return self.nested.layers if self.nested is not None else ()

    @property
    def is_esp(self) -> bool:
        """Whether it is an EFI system partition by its type."""
        typed = self.partition is not None and self.partition.type in ESP_TYPES
        return typed and self.volume.filesystem == "vfat"


def read_parts(bench: Workbench, before: Layout, numbers: Sequence[int]) -> tuple[DiskPart, ...]:
    """What is in the partitions that were written, and inside of them, as they are on the workbench now.

    Args:
        bench: The workbench.
        before: The layout of the source, whose ids may still be written somewhere.
        numbers: Of the partitions that came from the image.
    """
    found = []
    for part in read_disk_parts(bench.view, before, bench.layout, numbers):
        kind = bench.stack.carriers.get(part.number)
        found.append(part if kind is None else replace(part, volume=replace(part.volume, filesystem=kind)))
    for nested in bench.stack.volumes:
        volume = identify(nested.writer).volume
        found.append(DiskPart(volume=volume, names=nested.names | _tags(volume), nested=nested))
    return tuple(found)


def read_disk_parts(disk: BlockReader, before: Layout, after: Layout, numbers: Sequence[int]) -> tuple[DiskPart, ...]:
    """What is in the partitions that were written; ``after`` is the layout of the disk, else as ``read_parts``."""
    found = []
    for part in after.partitions:
        if part.number in numbers:
            volume = identify(WindowReader(disk, part.extent)).volume
            names = partition_names(after, part.number) | partition_names(before, part.number)
            found.append(DiskPart(partition=part, volume=volume, names=names | _tags(volume)))
    return tuple(found)


def find_part(what: str, parts: Sequence[DiskPart]) -> DiskPart | None:
    """The volume that a name in a table of a Linux means; ``None`` when it is none of this disk, or of several."""
    number = partition_number(what)
    if number:
        found = [part for part in parts if part.number == number]
    else:
        wanted = what.casefold()
        found = [part for part in parts if what in part.names]
        found = found or [part for part in parts if wanted in {name.casefold() for name in part.names}]
    return found[0] if len(found) == 1 else None


def with_old_names(parts: Sequence[DiskPart], old: Sequence[DiskPart]) -> tuple[DiskPart, ...]:
    """The same volumes, also by the names that they had before something was changed in them."""
    names = {part.key: part.names for part in old}
    return tuple(replace(part, names=part.names | names.get(part.key, frozenset())) for part in parts)


def with_noted_names(files: RootFiles, stack: VolumeStack, parts: Sequence[DiskPart]) -> tuple[DiskPart, ...]:
    """The same volumes, also by the names that a Linux gives to what it opens: ``crypttab``, ``mdadm.conf``."""
    noted = dict[str, set[str]]()
    for name, lock in noted_locks(files, stack).items():
        for part in parts:
            if part.nested is not None and part.layers[-1] == "luks" and part.nested.locks[-1] is lock:
                noted.setdefault(part.key, set()).add(f"{_MAPPED}{name}")
    for path in _ARRAYS:
        for name, uuid in _ARRAY.findall(_text(files, path)):
            noted.setdefault(f"md-{uuid.replace(':', '').lower()}", set()).add(name)
    return tuple(replace(part, names=part.names | noted.get(part.key, set())) for part in parts)


def noted_locks(files: RootFiles, stack: VolumeStack) -> dict[str, LuksLayer]:
    """The encrypted volumes that are open and in the ``crypttab`` of a Linux, by the names that it gives them."""
    found = dict[str, LuksLayer]()
    for name, what in parse_crypttab(_text(files, "/etc/crypttab")):
        number, wanted = partition_number(what), what.casefold()
        for lock in stack.locks:
            is_named = lock.number == number if number else wanted in {one.casefold() for one in lock.names}
            if is_named:
                found.setdefault(name, lock)
    return found


def unopened_parts(parts: Sequence[DiskPart]) -> tuple[str, ...]:
    """What may hold a Linux and lies inside of partitions, in words, before anything is opened."""
    return tuple(
        f"{part.word} ({part.volume.filesystem})"
        for part in parts
        if part.volume.filesystem in {"crypto_LUKS", "LVM2_member", "linux_raid_member", "bcache", "zfs_member"}
    )


def is_possible(parts: Sequence[DiskPart]) -> bool:
    """Whether there is anything that a Linux may lie on."""
    return any(part.volume.filesystem in ROOT_FILE_SYSTEMS for part in parts) or bool(unopened_parts(parts))


def _tags(volume: Volume) -> frozenset[str]:
    tags = {"UUID": volume.uuid, "LABEL": volume.label}
    return frozenset(f"{tag}={value}" for tag, value in tags.items() if value)


def _text(files: RootFiles, path: str) -> str:
    return (files.read_file(path, 0, _TEXT_MAX) or b"").decode(errors="replace")
