"""From the names that tables and boot menus use to partitions.

Answers: "which partition does this name mean?" What it means cannot always be told: a logical volume has no partition
of its own.

Sources: Microsoft, KB 102873 (how ``boot.ini`` counts); fstab(5); Linux ``block/partitions/core.c`` (a ``p`` before the
number where the disk's name ends in a digit).
"""

import re
from collections.abc import Sequence
from typing import Final

from stillframe.disk.layout import Layout
from stillframe.systems.boot_ini import ArcPath
from stillframe.systems.evidence import PartEvidence
from stillframe.systems.windows_disks import PartitionRecord

_BY_NUMBER: Final = re.compile(r"/dev/(?:(?:[hsv]|xv)d[a-z]{1,3}|(?:nvme\d+n\d+|mmcblk\d+)p)(\d{1,3})")
_MAPPED: Final = "/dev/mapper/"
_TAGS: Final = ("UUID=", "PARTUUID=", "LABEL=", "PARTLABEL=")


def is_volume_name(what: str) -> bool:
    """Whether a name in an ``fstab`` means a volume on a disk, and not memory or another computer."""
    return what.startswith(_TAGS) or (what.startswith("/dev/") and not what.startswith("/dev/sr"))


def partition_names(layout: Layout, number: int) -> frozenset[str]:
    """The names that the table of a disk gives a partition: ``PARTUUID=...`` and ``PARTLABEL=...``.

    Source: Linux ``block/partitions/msdos.c`` (an MBR has the disk signature, and the number in two hex digits).
    """
    found = [part for part in layout.partitions if part.number == number]
    names = [f"PARTLABEL={part.name}" for part in found if part.name]
    if layout.scheme == "mbr":
        names += [f"PARTUUID={layout.disk_id.lower()}-{number:02x}" for _ in found]
    return frozenset([*names, *(f"PARTUUID={part.guid.lower()}" for part in found if part.guid)])


def partition_number(what: str) -> int:
    """The number in a name such as ``/dev/sda2``; 0 when it is no such name."""
    found = _BY_NUMBER.fullmatch(what)
    return int(found[1]) if found else 0


def find_parts(what: str, root: PartEvidence, parts: Sequence[PartEvidence]) -> tuple[PartEvidence, ...]:
    """The partitions that a name in the tables of a Linux means; none where that cannot be told.

    Args:
        what: Such as ``UUID=...``, ``/dev/sda2`` or ``/dev/mapper/home``.
        root: Where that Linux is: a number is one of its disk's, as the names of disks come and go.
        parts: All that there are.
    """
    opened = tuple(part for part in parts if what in part.names)
    if opened:
        return opened
    if what.startswith(_MAPPED) and root.files is not None:
        below = dict(root.files.linux.crypttab).get(what.removeprefix(_MAPPED), "")
        return find_parts(below, root, parts) if below and not below.startswith(_MAPPED) else ()
    by_number = _BY_NUMBER.fullmatch(what)
    if by_number:
        return tuple(p for p in parts if p.disk == root.disk and p.partition.number == int(by_number[1]))
    wanted = what.casefold()
    return tuple(part for part in parts if any(name.casefold() == wanted for name in part.names))


def find_recorded(record: PartitionRecord, parts: Sequence[PartEvidence]) -> PartEvidence | None:
    """The partition that a record of Windows means; ``None`` when it is on no disk that is known."""
    for part in parts:
        if record.scheme == part.scheme == "gpt" and record.guid == part.partition.guid:
            return part
        is_there = record.start == part.partition.extent.start and record.disk == part.disk_id
        if record.scheme == part.scheme == "mbr" and is_there:
            return part
    return None


def find_arc(place: ArcPath, start: PartEvidence, parts: Sequence[PartEvidence]) -> PartEvidence | None:
    """The partition that a place in ``boot.ini`` means; ``None`` when it is on no disk that is known.

    Disks are counted as the firmware shows them, the one that starts first; of several others nobody knows the order.
    Partitions are counted in the order of the table, those that are logical last; extended ones are not counted.

    Args:
        place: What is written.
        start: Where the ``boot.ini`` is.
        parts: All that there are.
    """
    others = sorted({part.disk for part in parts} - {start.disk})
    if place.signature:
        disk = next((part.disk for part in parts if part.scheme == "mbr" and part.disk_id == place.signature), None)
    elif place.disk:
        disk = others[0] if len(others) == 1 and place.disk == 1 else None
    else:
        disk = start.disk
    on_disk = sorted((p for p in parts if p.disk == disk and p.scheme == "mbr"), key=lambda p: p.partition.number)
    return on_disk[place.partition - 1] if 0 < place.partition <= len(on_disk) else None
