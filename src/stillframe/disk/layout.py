"""The layout of a disk: its partition table and its partitions.

Answers: "where on this disk is which partition, and which bytes are outside of all of them?" Does not look into the
partitions: ``fs`` does. The numbers of partitions are those that Linux and ``sfdisk`` show.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from stillframe.block import BlockReader
from stillframe.disk import gpt, gpt_copies, mbr
from stillframe.disk.types import name_type
from stillframe.errors import DiskFormatError
from stillframe.events import Notice
from stillframe.extents import Extent, ExtentSet

Scheme = Literal["gpt", "mbr", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """One partition of a table.

    Attributes:
        number: As Linux counts: the slot plus 1 for GPT; 1 to 4, and logical partitions from 5 on, for MBR.
        extent: Where it is on the disk, in bytes.
        type: The GUID of its type for GPT, two hex digits such as ``07`` for MBR; in upper case.
        type_name: What the type is for, in words: ``EFI system``, ``Windows data``; ``unknown`` when not known.
        name: The name in the GPT; empty for MBR.
        guid: Its own GUID in upper case; empty for MBR.
        attributes: The 64 attribute bits for GPT, the status byte (``0x80`` is active) for MBR.
        index: Its slot, from 0; for a logical partition ``number - 1``.
        logical: Whether it is inside an extended partition.
    """

    number: int
    extent: Extent
    type: str
    type_name: str
    name: str
    guid: str
    attributes: int
    index: int
    logical: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A disk as its partition table describes it. Partitions are disjoint and inside the disk.

    Attributes:
        scheme: ``none`` when there is no table: an empty disk, or one that is a single volume.
        disk_id: The disk GUID in upper case for GPT, the disk signature as 8 upper-case hex digits for MBR; else empty.
        size: Bytes of the disk.
        sector_size: Bytes of a sector of the table, which for a file may be another than its reader says.
        partitions: In order of their numbers, which need not be their order on the disk.
        notices: What a person should know about the table.
        table: The sectors that hold tables: sector 0, the good copies of GPT headers and arrays, extended records.
    """

    scheme: Scheme
    disk_id: str
    size: int
    sector_size: int
    partitions: tuple[Partition, ...]
    notices: tuple[Notice, ...]
    table: ExtentSet

    @property
    def outside(self) -> ExtentSet:
        """The bytes of the disk that are in no partition: tables, boot code, gaps."""
        return ExtentSet.from_extents(partition.extent for partition in self.partitions).complement(
            Extent(0, self.size)
        )


def read_layout(reader: BlockReader) -> Layout:
    """Read the partition table of a whole disk.

    A GPT counts when sector 0 announces it, as for UEFI, Windows and Linux; in a hybrid the GPT is read. A boot sector
    of a file system that fills the disk is not a table, unless there are partitions in it that fit the disk.

    Raises:
        DiskFormatError: There is a table, and it is broken in both copies, or its partitions overlap, cover the table
            or lie outside the disk, or a chain of logical partitions has no end.
        ReadFault: The device failed.
    """
    if reader.size < mbr.RECORD_SIZE:
        return _without_table(reader)
    sector = reader.read_at(0, mbr.RECORD_SIZE)
    record = mbr.parse_boot_record(sector)
    if record is not None and record.is_protective:
        return _gpt_layout(reader, record)
    notices = tuple(_ignored_gpt_notices(reader))
    if record is None:
        return _without_table(reader, *notices)
    filesystem = mbr.name_boot_sector(sector)
    if filesystem and (record.is_empty or not record.is_table):
        return _without_table(reader, *notices)
    if not record.is_table:
        return _without_table(reader, *notices, _NOT_A_TABLE)
    if filesystem:
        notices = (*notices, _stale_notice(filesystem))
    return _mbr_layout(reader, record, notices)


def _without_table(reader: BlockReader, *notices: Notice) -> Layout:
    return Layout(
        scheme="none",
        disk_id="",
        size=reader.size,
        sector_size=reader.sector_size,
        partitions=(),
        notices=notices,
        table=ExtentSet.empty(),
    )


def _gpt_layout(reader: BlockReader, record: mbr.BootRecord) -> Layout:
    sector_size = gpt_copies.detect_sector_size(reader) or reader.sector_size
    table = gpt_copies.read_table(reader, sector_size=sector_size)
    copies = [copy for copy in (table.primary, table.backup) if copy is not None]
    extents = [Extent(0, sector_size)]
    for copy in copies:
        extents.extend(copy.extents)
    notices = list(table.notices)
    if record.is_hybrid:
        notices.append(_HYBRID)
    if sector_size != reader.sector_size:
        notices.append(_sector_size_notice(sector_size, reader.sector_size))
    count = reader.size // sector_size
    layout = Layout(
        scheme="gpt",
        disk_id=str(table.chosen.header.disk_guid).upper(),
        size=reader.size,
        sector_size=sector_size,
        partitions=tuple(
            _gpt_partition(entry, sector_size=sector_size, count=count) for entry in gpt.parse_entries(table.chosen)
        ),
        notices=tuple(notices),
        table=ExtentSet.from_extents(extents),
    )
    _check_disjoint(layout)
    return layout


def _gpt_partition(entry: gpt.GptEntry, *, sector_size: int, count: int) -> Partition:
    number = entry.index + 1
    if entry.last_lba < entry.first_lba:
        raise DiskFormatError(
            f"partition {number}: expected an end at or after its first sector {entry.first_lba}, "
            f"found {entry.last_lba}",
            hint=_REPAIR,
        )
    end_lba = entry.last_lba + 1
    _check_inside(number, first_lba=entry.first_lba, end_lba=end_lba, count=count)
    kind = str(entry.type_guid).upper()
    return Partition(
        number=number,
        extent=Extent(entry.first_lba * sector_size, end_lba * sector_size),
        type=kind,
        type_name=name_type(kind),
        name=entry.name,
        guid=str(entry.guid).upper(),
        attributes=entry.attributes,
        index=entry.index,
        logical=False,
    )


def _mbr_layout(reader: BlockReader, record: mbr.BootRecord, notices: tuple[Notice, ...]) -> Layout:
    sector_size = reader.sector_size
    chains = [mbr.read_chain(reader, entry, sector_size=sector_size) for entry in record.entries if entry.is_extended]
    record_lbas = [0, *(lba for chain in chains for lba in chain.record_lbas)]
    logicals = [partition for chain in chains for partition in chain.partitions]
    count = reader.size // sector_size
    partitions = [
        _mbr_partition(entry, number=entry.index + 1, sector_size=sector_size, count=count)
        for entry in record.entries
        if entry.is_used and not entry.is_extended
    ]
    partitions += [
        _mbr_partition(logical, number=number, sector_size=sector_size, count=count)
        for number, logical in enumerate(logicals, 5)
    ]
    layout = Layout(
        scheme="mbr",
        disk_id=f"{record.disk_signature:08X}",
        size=reader.size,
        sector_size=sector_size,
        partitions=tuple(partitions),
        notices=(*notices, *(notice for chain in chains for notice in chain.notices)),
        table=ExtentSet.from_extents(Extent(lba * sector_size, (lba + 1) * sector_size) for lba in record_lbas),
    )
    _check_disjoint(layout)
    return layout


def _mbr_partition(
    entry: mbr.MbrEntry | mbr.LogicalPartition, *, number: int, sector_size: int, count: int
) -> Partition:
    end_lba = entry.first_lba + entry.size_sectors
    _check_inside(number, first_lba=entry.first_lba, end_lba=end_lba, count=count)
    kind = f"{entry.type_code:02X}"
    return Partition(
        number=number,
        extent=Extent(entry.first_lba * sector_size, end_lba * sector_size),
        type=kind,
        type_name=name_type(kind),
        name="",
        guid="",
        attributes=entry.status,
        index=number - 1,
        logical=number > 4,
    )


def _check_inside(number: int, *, first_lba: int, end_lba: int, count: int) -> None:
    if end_lba > count:
        raise DiskFormatError(
            f"partition {number}: expected it inside the disk of {count} sectors, "
            f"found sectors {first_lba} to {end_lba - 1}",
            hint="Is this a copy that was cut short? Otherwise have the table repaired.",
        )


def _check_disjoint(layout: Layout) -> None:
    """Raise unless partitions overlap neither each other nor the sectors of the table."""
    ranges = [(partition.extent, f"partition {partition.number}") for partition in layout.partitions]
    ranges += [(extent, "the partition table") for extent in layout.table]
    ranges.sort()
    for (before, before_name), (after, after_name) in pairwise(ranges):
        if after.start < before.end:
            raise DiskFormatError(
                f"{after_name}: expected it behind {before_name}, which ends at byte {before.end}, "
                f"found that it begins at byte {after.start}",
                hint=_REPAIR,
            )


def _ignored_gpt_notices(reader: BlockReader) -> Iterator[Notice]:
    if gpt_copies.detect_sector_size(reader) is not None:
        yield Notice(
            code="gpt-ignored",
            message="There is a GUID partition table that sector 0 does not announce. Like Windows and Linux, "
            "Stillframe ignores it.",
            hint="If partitions are missing, have the protective MBR restored, with gdisk for example.",
        )


def _stale_notice(filesystem: str) -> Notice:
    return Notice(
        code="mbr-over-boot-sector",
        message=f"Sector 0 looks like the boot sector of {filesystem} and holds a table with partitions. "
        "The table is believed.",
    )


def _sector_size_notice(found: int, expected: int) -> Notice:
    return Notice(
        code="sector-size-differs",
        message=f"The partition table was made for sectors of {found} bytes, this disk or file says {expected}.",
        hint="Restore it to a disk with the sectors of the table; on others its partitions are not found.",
    )


_REPAIR = "Look at the disk with `sfdisk --dump`; have the table repaired, or back up the disk as one piece."
_HYBRID = Notice(
    code="mbr-hybrid",
    message="The disk has a hybrid MBR: some partitions are in the MBR and in the GPT. The GPT is read.",
)
_NOT_A_TABLE = Notice(
    code="mbr-unreadable",
    message="Sector 0 ends like a boot record and holds no partition table that can be read. "
    "The disk is taken as one piece.",
    hint="If partitions are missing, have the table repaired before you back up.",
)
