"""A partition table made from nothing, for a disk that was put together from its volumes.

Answers: "which sectors say that the partitions lie here?" What is written is what ``read_layout`` reads again. Which
partitions there are and where, the caller decides; placing a table that exists is for ``placement``.
"""

import uuid
from collections.abc import Iterator, Sequence
from typing import Final

from stillframe.disk import gpt, mbr
from stillframe.disk.layout import Layout, Partition
from stillframe.disk.mbr_chain import build_chain
from stillframe.disk.placement import Patch
from stillframe.errors import DiskFormatError
from stillframe.units import MIB

_TYPE_CONTAINER: Final = 0x0F
"""Extended, counted in sectors: as Windows makes it. Source: Andries Brouwer, "Partition types"."""


def build_table(layout: Layout) -> tuple[Patch, ...]:
    """The sectors of a new table; all others of the table's area are zeros.

    Args:
        layout: The disk as it is to be read: scheme, id, size, sector size and partitions count. An MBR has no boot
            code. Logical partitions need a free sector before each of them, and nothing else between them.

    Returns:
        Whole sectors, none of which is in a partition.

    Raises:
        DiskFormatError: A partition lies where the table belongs, or where it cannot say so.
    """
    if layout.scheme == "none":
        return ()
    patches = tuple(_gpt_patches(layout) if layout.scheme == "gpt" else _mbr_patches(layout))
    for partition in layout.partitions:
        if any(patch.extent.clipped(partition.extent) for patch in patches) or partition.extent.end > layout.size:
            raise DiskFormatError(
                f"partition {partition.number} (bytes {partition.extent.start} to {partition.extent.end}) lies where "
                f"the partition table of a disk of {layout.size} bytes belongs"
            )
    return patches


def gpt_sectors(sector_size: int) -> tuple[int, int]:
    """Sectors that a new GPT takes at the beginning, and at the end of a disk."""
    entries = gpt.new_copy((), disk_guid=uuid.UUID(int=0), sector_size=sector_size).header.entries_sectors
    return gpt.PRIMARY_LBA + 1 + entries, entries + 1


def _gpt_patches(layout: Layout) -> Iterator[Patch]:
    step, count = layout.sector_size, layout.size // layout.sector_size
    entries = [
        gpt.GptEntry(
            index=part.index, type_guid=uuid.UUID(part.type), guid=uuid.UUID(part.guid),
            first_lba=part.extent.start // step, last_lba=part.extent.end // step - 1, attributes=part.attributes,
            name=part.name,
        )
        for part in layout.partitions
    ]  # fmt: skip
    copy = gpt.new_copy(entries, disk_guid=uuid.UUID(layout.disk_id), sector_size=step)
    sectors, backup_lba = copy.header.entries_sectors, count - 1
    protective = mbr.MbrEntry(
        index=0, status=0, type_code=mbr.TYPE_PROTECTIVE, first_lba=1, size_sectors=min(count - 1, mbr.LBA_MAX)
    )
    yield Patch(offset=0, data=mbr.build_boot_record([protective], signature=0).ljust(step, b"\0"))
    first, second = gpt.PRIMARY_LBA + 1, backup_lba - sectors
    for lba, other, entries_lba in ((gpt.PRIMARY_LBA, backup_lba, first), (backup_lba, gpt.PRIMARY_LBA, second)):
        header = gpt.build_header(
            copy.header, lba=lba, alternate_lba=other, last_usable_lba=second - 1, entries_lba=entries_lba, copy=copy
        )
        yield Patch(offset=lba * step, data=header)
        yield Patch(offset=entries_lba * step, data=copy.entries.ljust(sectors * step, b"\0"))


def _mbr_patches(layout: Layout) -> Iterator[Patch]:
    step = layout.sector_size
    entries = [
        mbr.MbrEntry(
            index=part.index, status=part.attributes, type_code=int(part.type, 16),
            first_lba=part.extent.start // step, size_sectors=part.extent.size // step,
        )
        for part in layout.partitions
        if not part.logical
    ]  # fmt: skip
    logical = [part for part in layout.partitions if part.logical]
    if logical:
        container = _container(entries, logical, step)
        entries.append(container)
        inner = [
            mbr.LogicalPartition(
                status=part.attributes, type_code=int(part.type, 16), first_lba=part.extent.start // step,
                size_sectors=part.extent.size // step,
            )
            for part in logical
        ]  # fmt: skip
        for place, record in build_chain(b"", container, inner).items():
            yield Patch(offset=place * step, data=record.ljust(step, b"\0"))
    record = mbr.build_boot_record(entries, signature=int(layout.disk_id, 16))
    yield Patch(offset=0, data=record.ljust(step, b"\0"))


def _container(primaries: Sequence[mbr.MbrEntry], logical: Sequence[Partition], step: int) -> mbr.MbrEntry:
    """The extended partition around logical ones, which are in order; it begins with the record of the first.

    Raises:
        DiskFormatError: There is no room or no slot for it.
    """
    first, end = logical[0].extent.start // step, logical[-1].extent.end // step
    before = max([1, *(entry.end_lba for entry in primaries if entry.end_lba <= first)])
    start = max(before, first - MIB // step)
    inside = [entry for entry in primaries if start < entry.end_lba and entry.first_lba < end]
    free = sorted({0, 1, 2, 3} - {entry.index for entry in primaries})
    if start >= first or inside or not free:
        raise DiskFormatError(f"there is no room for an extended partition around sectors {first} to {end - 1}")
    return mbr.MbrEntry(
        index=free[0], status=0, type_code=_TYPE_CONTAINER, first_lba=start, size_sectors=end - start
    )  # fmt: skip
