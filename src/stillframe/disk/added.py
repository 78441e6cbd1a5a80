"""New partitions in the table of a disk that is in use already: nothing of what is there changes.

Answers: "where on this disk is room for another partition, under which number, and which sectors say so?" Only a table
that is whole is added to. Pure: it reads, and gives patches.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final
from uuid import UUID

from stillframe.block import BlockReader
from stillframe.disk import gpt, gpt_copies, mbr
from stillframe.disk.layout import Layout, Partition
from stillframe.disk.placement import Patch, place_gpt
from stillframe.errors import TargetError
from stillframe.extents import Extent, ExtentSet
from stillframe.units import MIB

_HINT: Final = "Have the table repaired first, with gdisk for example; or restore the whole disk."


def find_room(layout: Layout, reader: BlockReader) -> ExtentSet:
    """The bytes of a disk where a new partition may lie: in no partition and no table, behind the first MiB.

    Args:
        layout: Of the disk, by ``read_layout``.
        reader: The disk.

    Raises:
        TargetError: There is no table, or one that must not be added to.
    """
    step = layout.sector_size
    if layout.scheme == "none":
        raise TargetError(
            "the target has no partition table to which a partition could be added",
            hint="Restore without ':new', or make a table there first.",
        )
    if layout.notices:
        raise TargetError(f"the partition table of the target is not whole: {layout.notices[0].message}", hint=_HINT)
    if layout.scheme == "gpt":
        header = gpt_copies.read_table(reader, sector_size=step).chosen.header
        room = Extent(header.first_usable_lba * step, (header.last_usable_lba + 1) * step)
        taken = layout.table
    else:
        room = Extent(step, min(layout.size // step, mbr.LBA_MAX) * step)
        containers = [entry for entry in _entries(reader, step) if entry.is_extended]
        taken = layout.table | ExtentSet.from_extents(
            Extent(entry.first_lba * step, entry.end_lba * step) for entry in containers
        )
    # In the first MiB lies what starts the disk, in no partition.
    room = Extent(max(MIB, room.start), max(MIB, room.start, room.end))
    return (layout.outside - taken).clipped(room)


def free_number(layout: Layout, reader: BlockReader, wanted: int, taken: Sequence[int] = ()) -> int:
    """The number of a new partition: the wanted one when it is free, else the lowest.

    Raises:
        TargetError: All are in use.
    """
    if layout.scheme == "gpt":
        count = gpt_copies.read_table(reader, sector_size=layout.sector_size).chosen.header.entry_count
        used = {part.number for part in layout.partitions}
    else:
        count = 4
        used = {entry.index + 1 for entry in _entries(reader, layout.sector_size) if entry.is_used}
    free = [number for number in range(1, count + 1) if number not in used and number not in taken]
    if not free:
        raise TargetError(
            f"all {count} numbers of the partition table are in use: another partition cannot be added",
            hint="Restore into a partition that is there: '--partition N:M'.",
        )
    return wanted if wanted in free else free[0]


def add_partitions(layout: Layout, reader: BlockReader, added: Sequence[Partition]) -> tuple[Patch, ...]:
    """The sectors to write so that new partitions are in the table.

    Args:
        layout: Of the disk, by ``read_layout``.
        reader: The disk.
        added: The new ones; their places are free, by ``find_room``, and their numbers, by ``free_number``.

    Returns:
        In the order in which they must be written, so that one copy of the table is good at any time: of a GPT the
        second copy first. Flush after each.

    Raises:
        TargetError: They are not.
    """
    room, step = find_room(layout, reader), layout.sector_size
    for part in added:
        if not room.contains(part.extent) or free_number(layout, reader, part.number) != part.number:
            raise TargetError(f"there is no room for the new partition {part.number} any more", hint="Run it again.")
    if layout.scheme == "gpt":
        table = gpt_copies.read_table(reader, sector_size=step)
        entries = [_gpt_entry(part, step) for part in added]
        larger = replace(layout, partitions=(*layout.partitions, *added))
        patches = place_gpt(larger, reader, gpt_copies.insert(table, entries), layout.size)
        return tuple(sorted(patches, key=lambda patch: patch.offset, reverse=True))
    sector = reader.read_at(0, step)
    for part in added:
        entry = mbr.MbrEntry(
            index=part.number - 1, status=0, type_code=int(part.type, 16), first_lba=part.extent.start // step,
            size_sectors=part.extent.size // step,
        )  # fmt: skip
        sector = mbr.set_entry(sector, entry)
    return (Patch(offset=0, data=sector),)


def _gpt_entry(part: Partition, step: int) -> gpt.GptEntry:
    return gpt.GptEntry(
        index=part.number - 1, type_guid=UUID(part.type), guid=UUID(part.guid), first_lba=part.extent.start // step,
        last_lba=part.extent.end // step - 1, attributes=part.attributes, name=part.name,
    )  # fmt: skip


def _entries(reader: BlockReader, step: int) -> tuple[mbr.MbrEntry, ...]:
    record = mbr.parse_boot_record(reader.read_at(0, step))
    return record.entries if record else ()
