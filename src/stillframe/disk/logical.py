"""Logical partitions in other places: their extended partition, and the chain of records in it, made anew.

Answers: "where do the extended partition and its records lie when logical partitions were moved?" The extended
partition spans its logical ones and the record before the first; each record lies before its partition. The numbers,
from 5 on in the order of the chain, stay. Where partitions go is decided in ``fitting``; a chain is built in
``mbr_chain``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from stillframe.block import BlockReader
from stillframe.disk import mbr
from stillframe.disk.layout import Layout, Partition
from stillframe.disk.mbr_chain import build_chain
from stillframe.errors import DiskFormatError
from stillframe.extents import Extent, ExtentSet
from stillframe.units import MIB

CODE_SIZE: Final = 446
"""What may be boot code in a record: UEFI Specification 2.10, table 5.1."""
_HINT: Final = "Restore the disk at its own size, or single partitions with '--partition N:M --fit'."


@dataclass(frozen=True, slots=True, kw_only=True)
class MovedChain:
    """The extended partition of a disk whose partitions were moved.

    Attributes:
        index: Its slot in sector 0, from 0.
        container: Its place in bytes; ``None`` when no logical partition is left, and it goes.
        records: Where each record begins, in bytes, and its first 512 bytes.
    """

    index: int
    container: Extent | None
    records: tuple[tuple[int, bytes], ...]


def record_gap(partitions: Sequence[Partition], part: Partition, sector_size: int) -> int:
    """Bytes that must be free before a partition for records of the chain."""
    if not part.logical:
        return 0
    logical = [other for other in partitions if other.logical]
    lowest = min(logical, key=lambda other: other.extent.start)
    first = min(logical, key=lambda other: other.number)
    # The first record of the chain opens the extended partition, wherever its partition lies.
    return 2 * sector_size if part is lowest and part is not first else sector_size


def chain_sectors(layout: Layout) -> ExtentSet:
    """The sectors that the records of a layout with logical partitions take."""
    logical = [part for part in layout.partitions if part.logical]
    if not logical:
        return ExtentSet.empty()
    step = layout.sector_size
    places = _build(layout, _container(layout, logical))
    return ExtentSet.from_extents(Extent(place * step, (place + 1) * step) for place in places)


def move_chain(layout: Layout, reader: BlockReader, moved: Layout) -> MovedChain | None:
    """The chain of a layout whose partitions were moved; ``None`` for a disk without an extended partition.

    Args:
        layout: Of the source.
        reader: The source's bytes outside of partitions. The boot code of the first record is kept.
        moved: The layout with its partitions elsewhere; some may be gone.

    Raises:
        DiskFormatError: There are two extended partitions, no room for a record, or a primary partition among logical
            ones.
    """
    step = layout.sector_size
    record = mbr.parse_boot_record(reader.read_at(0, mbr.RECORD_SIZE))
    old = [entry for entry in record.entries if entry.is_extended] if record else []
    if not old:
        return None
    if len(old) > 1:
        raise DiskFormatError("there are two extended partitions: their chains are not made anew", hint=_HINT)
    logical = [part for part in moved.partitions if part.logical]
    if not logical:
        return MovedChain(index=old[0].index, container=None, records=())
    container = _container(moved, logical)
    records = _build(moved, container)
    code = reader.read_at(old[0].first_lba * step, CODE_SIZE)
    first = container.start // step
    records[first] = code + records[first][CODE_SIZE:]
    return MovedChain(
        index=old[0].index, container=container,
        records=tuple((place * step, data) for place, data in sorted(records.items())),
    )  # fmt: skip


def _build(layout: Layout, container: Extent) -> dict[int, bytes]:
    step = layout.sector_size
    entry = mbr.MbrEntry(
        index=0, status=0, type_code=0x0F, first_lba=container.start // step, size_sectors=container.size // step
    )
    inner = [
        mbr.LogicalPartition(
            status=part.attributes, type_code=int(part.type, 16), first_lba=part.extent.start // step,
            size_sectors=part.extent.size // step,
        )
        for part in sorted(layout.partitions, key=lambda part: part.number)
        if part.logical
    ]  # fmt: skip
    return build_chain(b"", entry, inner)


def _container(layout: Layout, logical: Sequence[Partition]) -> Extent:
    """The place of the extended partition: from the first record to the end of the last logical partition."""
    start = min(part.extent.start for part in logical)
    end = max(part.extent.end for part in logical)
    primary = [part.extent for part in layout.partitions if not part.logical]
    before = max([layout.sector_size, *(place.end for place in primary if place.end <= start)])
    found = Extent(max(before, start - MIB), end)
    among = next((part.number for part in layout.partitions if not part.logical and part.extent.clipped(found)), None)
    if among is not None:
        raise DiskFormatError(f"the primary partition {among} lies among the logical ones", hint=_HINT)
    if found.start >= start:
        raise DiskFormatError(f"no sector is free for the extended boot record before byte {start}", hint=_HINT)
    return found
