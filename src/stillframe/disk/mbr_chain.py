"""The chain of extended boot records, built anew for logical partitions whose places are known.

Answers: "which sectors lead to these logical partitions?" Needed where only the first record was kept, as in the
folders of Clonezilla. Reading a chain is for ``mbr``.
"""

import struct
from collections.abc import Sequence
from typing import Final

from stillframe.disk.mbr import LogicalPartition, MbrEntry, parse_boot_record
from stillframe.errors import DiskFormatError

_ENTRY: Final = struct.Struct("<B3sB3sII")  # UEFI Specification 2.10, table 5.2
_TABLE_OFFSET: Final = 446
_FAR: Final = b"\xfe\xff\xff"
"""A cylinder that is too far for three bytes; what sfdisk writes, and Linux does not read it."""
_LINK_TYPE: Final = 0x05
_USUAL_GAP: Final = 2048  # sectors that sfdisk leaves between a record and its partition


def build_chain(first: bytes, container: MbrEntry, partitions: Sequence[LogicalPartition]) -> dict[int, bytes]:
    """The records of all logical partitions of a container.

    Args:
        first: The first record as it was, 512 bytes, kept bit for bit; empty when it is not known.
        container: The entry of the extended partition in sector 0.
        partitions: In the order of their numbers; ``first_lba`` counts from the start of the disk.

    Returns:
        A record of 512 bytes for each sector, by its number on the disk.

    Raises:
        DiskFormatError: There is no room for a record, or ``first`` names other partitions.
    """
    if not partitions:
        return {container.first_lba: first} if first else {}
    places = [container.first_lba]
    link = _link(first, container)
    for number, partition in enumerate(partitions[1:], 1):
        known = link if number == 1 else None
        places.append(known if known is not None else _free_place(partition, container, partitions))
    records = {}
    for number, (place, partition) in enumerate(zip(places, partitions, strict=True)):
        following = (places[number + 1], partitions[number + 1]) if number + 1 < len(places) else None
        records[place] = _record(place, partition, container, following)
    if len(records) != len(partitions):
        raise DiskFormatError("two extended boot records would be in one sector")
    if first:
        _require_same(first, records[container.first_lba], container)
        records[container.first_lba] = first
    return records


def _link(first: bytes, container: MbrEntry) -> int | None:
    """Where the first record says that the second is."""
    record = parse_boot_record(first) if first else None
    link = next((entry for entry in record.entries if entry.is_extended), None) if record else None
    return container.first_lba + link.first_lba if link else None


def _free_place(
    partition: LogicalPartition, container: MbrEntry, partitions: Sequence[LogicalPartition]
) -> int:  # fmt: skip
    """A sector before a partition that nothing uses."""
    ends = [other.first_lba + other.size_sectors for other in partitions]
    before = max([container.first_lba + 1, *(end for end in ends if end <= partition.first_lba)])
    place = max(before, partition.first_lba - _USUAL_GAP)
    if place >= partition.first_lba:
        raise DiskFormatError(
            f"no sector is free for the extended boot record of the logical partition at sector {partition.first_lba}"
        )
    return place


def _record(
    place: int, partition: LogicalPartition, container: MbrEntry, following: tuple[int, LogicalPartition] | None
) -> bytes:
    sector = bytearray(512)
    start = partition.first_lba - place
    if start <= 0:
        raise DiskFormatError(f"the extended boot record in sector {place} lies behind its partition")
    _ENTRY.pack_into(
        sector, _TABLE_OFFSET, partition.status, _FAR, partition.type_code, _FAR, start, partition.size_sectors
    )
    if following is not None:
        there, other = following
        size = other.first_lba + other.size_sectors - there
        relative = there - container.first_lba
        _ENTRY.pack_into(sector, _TABLE_OFFSET + _ENTRY.size, 0, _FAR, _LINK_TYPE, _FAR, relative, size)
    sector[510:] = b"\x55\xaa"
    return bytes(sector)


def _require_same(first: bytes, built: bytes, container: MbrEntry) -> None:
    """Refuse when the record that was kept and the table speak of different partitions."""
    found, wanted = parse_boot_record(first), parse_boot_record(built)
    if found is None or wanted is None or _named(found.entries) != _named(wanted.entries):
        raise DiskFormatError(
            f"the extended boot record of sector {container.first_lba} names other partitions than the table"
        )


def _named(entries: Sequence[MbrEntry]) -> list[tuple[int, int | None]]:
    """Where the used entries lead, and how far for partitions: the length of a link is written in different ways."""
    return [(entry.first_lba, None if entry.is_extended else entry.size_sectors) for entry in entries if entry.is_used]
