"""Partition tables on another disk: what must be written so that a layout is right where it is put.

Answers: "which bytes differ when this disk is put on one of another size, or gets an identity of its own?" Reads the
source only, writes nothing: a restore applies the patches. Which partitions move is decided in ``fitting``. Does not
convert between sector sizes.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from stillframe.block import BlockReader, ReadFault
from stillframe.disk import gpt, gpt_copies, mbr
from stillframe.disk.layout import Layout
from stillframe.disk.logical import chain_sectors, move_chain
from stillframe.errors import DiskFormatError, TargetError
from stillframe.extents import Extent, ExtentSet
from stillframe.units import format_size

_LBA_COUNT_MAX: Final = 0xFFFFFFFF
"""What the protective entry says of a disk that is larger: UEFI Specification 2.10, table 5.4."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """Bytes to write at an offset of the target, in whole sectors."""

    offset: int
    data: bytes

    @property
    def extent(self) -> Extent:
        """The bytes of the target that it covers."""
        return Extent(self.offset, self.offset + len(self.data))


@dataclass(frozen=True, slots=True, kw_only=True)
class NewIdentity:
    """A layout with an identity of its own, and what became of the old one.

    Attributes:
        patches: Everything to write; they include what ``fit_table`` gives.
        disk_id: The new disk GUID or disk signature, spelt as in ``Layout.disk_id``.
        guids: Old and new GUID of every partition; empty for MBR, where Linux derives them from the disk signature.
    """

    patches: tuple[Patch, ...]
    disk_id: str
    guids: tuple[tuple[str, str], ...]


def moved_layout(layout: Layout, places: Mapping[int, Extent]) -> Layout:
    """The layout with partitions elsewhere, by their numbers; those without a place are not in it.

    Raises:
        ValueError: A logical partition would get another number: a bug of the caller.
        DiskFormatError: The chain of logical partitions cannot lie so.
    """
    parts = tuple(replace(part, extent=places[part.number]) for part in layout.partitions if part.number in places)
    logical = [part.number for part in parts if part.logical]
    if logical != list(range(5, 5 + len(logical))):
        raise ValueError("logical partitions would get other numbers")
    moved = replace(layout, partitions=parts)
    return layout if parts == layout.partitions else replace(moved, table=layout.table | chain_sectors(moved))


def room_for_partitions(layout: Layout, reader: BlockReader, target_size: int) -> Extent:
    """Where partitions may lie on a target: from where the first one begins to where the table's second copy does.

    Raises:
        DiskFormatError: No copy of the table is good.
    """
    step = layout.sector_size
    first = min(layout.partitions, key=lambda part: part.extent.start, default=None)
    start = first.extent.start if first else step
    if first is not None and first.logical:  # behind the record that opens its chain
        start = min((extent.start for extent in layout.table if 0 < extent.start < start), default=step)
    if layout.scheme != "gpt":
        return Extent(start, max(start, min(target_size // step, mbr.LBA_MAX) * step))
    header = gpt_copies.read_table(reader, sector_size=step).chosen.header
    return Extent(start, max(start, (target_size // step - 1 - header.entries_sectors) * step))


def fit_table(
    layout: Layout, reader: BlockReader, target_size: int, *, moved: Layout | None = None
) -> tuple[Patch, ...]:
    """Say what to write after the source's own bytes so that its table is right on the target.

    The backup copy of a GPT goes to the end of the target, the place where it was is cleared; disk GUID, entries and
    unknown bytes stay as they are. A broken copy is made anew. An MBR needs no change. A table that is whole needs none
    on a target of the same size.

    Args:
        layout: Of the source.
        reader: The source, or its stored image: as large as the source, right in all bytes of ``layout.outside``.
        target_size: Bytes of the target, whose sectors are as large as those of the source.
        moved: By ``moved_layout``, where partitions go elsewhere.

    Returns:
        Patches in order of offset that neither overlap each other nor touch a partition.

    Raises:
        TargetError: The partitions and the table do not fit.
        DiskFormatError: No copy of the table is good.
    """
    if layout.scheme != "gpt":
        _check_fits(_size_needed(layout, reader) if moved is None else _last_end(moved), target_size)
        return _mbr_patches(layout, reader, moved, target_size)
    table = gpt_copies.read_table(reader, sector_size=layout.sector_size)
    if target_size == layout.size and table.is_whole and moved in (None, layout):
        return ()
    return place_gpt(moved or layout, reader, _moved_table(layout, table, moved), target_size)


def new_identity(
    layout: Layout, reader: BlockReader, target_size: int, *, next_uuid: Callable[[], UUID],
    moved: Layout | None = None,
) -> NewIdentity:  # fmt: skip
    """Say what to write so that the target is not taken for the source: fresh GUIDs, or a fresh disk signature.

    Args:
        layout: As for ``fit_table``.
        reader: As for ``fit_table``.
        target_size: As for ``fit_table``.
        next_uuid: Gives random UUIDs, such as ``uuid.uuid4``. Called for the disk first, then for each partition in
            order of number.
        moved: As for ``fit_table``.

    Raises:
        TargetError: The partitions and the table do not fit.
        DiskFormatError: No copy of the table is good.
    """
    if layout.scheme == "none":
        _check_fits(layout.size, target_size)
        return NewIdentity(patches=(), disk_id="", guids=())
    if layout.scheme == "mbr":
        _check_fits(_size_needed(layout, reader) if moved is None else _last_end(moved), target_size)
        signature = next_uuid().int & 0xFFFFFFFF or 1
        placed = _mbr_patches(layout, reader, moved, target_size)
        sector = next((patch.data for patch in placed if not patch.offset), reader.read_at(0, layout.sector_size))
        first = Patch(offset=0, data=mbr.set_disk_signature(sector, signature))
        others = tuple(patch for patch in placed if patch.offset)
        return NewIdentity(patches=(first, *others), disk_id=f"{signature:08X}", guids=())
    table = gpt_copies.read_table(reader, sector_size=layout.sector_size)
    disk_guid = next_uuid()
    partitions = (moved or layout).partitions
    fresh = {partition.index: next_uuid() for partition in partitions}
    renamed = gpt_copies.rename(_moved_table(layout, table, moved), disk_guid=disk_guid, guids=fresh)
    return NewIdentity(
        patches=place_gpt(moved or layout, reader, renamed, target_size),
        disk_id=str(disk_guid).upper(),
        guids=tuple((partition.guid, str(fresh[partition.index]).upper()) for partition in partitions),
    )


def renamed_layout(layout: Layout, identity: NewIdentity) -> Layout:
    """The layout under a new identity, as it will be read from the target."""
    fresh = dict(identity.guids)
    parts = tuple(replace(part, guid=fresh.get(part.guid, part.guid)) for part in layout.partitions)
    return replace(layout, disk_id=identity.disk_id or layout.disk_id, partitions=parts)


def clear_table_patches(layout: Layout, *, target_size: int | None = None) -> ExtentSet:
    """The extents to zero so that no table is valid while a restore is under way.

    They are the sectors of the layout's table, sector 0, and both places of a GPT header at either sector size, so
    they also serve for a target whose own table could not be read.

    Args:
        layout: Of the target; or of what will be restored, when the target has none that can be read.
        target_size: Bytes of the target, when it is not as large as ``layout``.
    """
    size = layout.size if target_size is None else target_size
    extents = [Extent(0, max(gpt_copies.SECTOR_SIZES) * 2)]
    for sector_size in gpt_copies.SECTOR_SIZES:
        end = size // sector_size * sector_size
        extents.append(Extent(max(0, end - sector_size), end))
    return (ExtentSet.from_extents(extents) | layout.table).clipped(Extent(0, size))


def _changed(layout: Layout, moved: Layout | None) -> Iterator[tuple[int, int, int]]:
    """Of partitions with a slot of the table that go elsewhere: slot, first sector, last sector (inclusive)."""
    step = layout.sector_size
    after = {part.number: part.extent for part in (moved or layout).partitions}
    for part in layout.partitions:
        place = after.get(part.number)
        if place is not None and place != part.extent and not part.logical:
            yield part.index, place.start // step, place.end // step - 1


def _gone(layout: Layout, moved: Layout | None) -> tuple[int, ...]:
    """The slots of partitions that are not to be there any more."""
    stay = {part.number for part in (moved or layout).partitions}
    return tuple(part.index for part in layout.partitions if part.number not in stay and not part.logical)


def _moved_table(layout: Layout, table: gpt_copies.GptTable, moved: Layout | None) -> gpt_copies.GptTable:
    changed = gpt_copies.move(table, {index: (first, last) for index, first, last in _changed(layout, moved)})
    return gpt_copies.drop(changed, _gone(layout, moved))


def _mbr_patches(layout: Layout, reader: BlockReader, moved: Layout | None, target_size: int) -> tuple[Patch, ...]:
    """Sector 0 with the entries that change, and the chain of logical partitions; nothing when none does."""
    is_same = moved is None or moved.partitions == layout.partitions
    if moved is None or layout.scheme != "mbr" or (is_same and _size_needed(layout, reader) <= target_size):
        return ()
    step = layout.sector_size
    sector = reader.read_at(0, step)
    for index, first, last in _changed(layout, moved):
        sector = mbr.set_entry_place(sector, index=index, first_lba=first, size_sectors=last - first + 1)
    for index in _gone(layout, moved):
        sector = mbr.clear_entry(sector, index=index)
    chain = move_chain(layout, reader, moved)
    if chain is not None and chain.container is None:
        sector = mbr.clear_entry(sector, index=chain.index)
    elif chain is not None and (place := chain.container) is not None:
        sector = mbr.set_entry_place(
            sector, index=chain.index, first_lba=place.start // step, size_sectors=place.size // step
        )
    records = [Patch(offset=at, data=data.ljust(step, b"\0")) for at, data in (chain.records if chain else ())]
    patches = [Patch(offset=0, data=sector), *records]
    # Old records that lie in no partition now would be taken for those of a chain by who looks for lost ones.
    patches += _stale_patches(replace(moved, table=layout.table), patches, target_size)
    return tuple(sorted(patches, key=lambda patch: patch.offset))


def _last_end(layout: Layout) -> int:
    return max((part.extent.end for part in layout.partitions), default=layout.sector_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Places:
    """Where the parts of a GPT go, in sectors. ``last_usable_lba`` is inclusive."""

    entries_lba: int
    last_usable_lba: int
    backup_entries_lba: int
    backup_lba: int


def _choose_places(layout: Layout, reader: BlockReader, table: gpt_copies.GptTable, target_size: int) -> _Places:
    """Keep every place of a whole table on a target of the same size; else put the backup copy at the end."""
    header, sector_size = table.chosen.header, layout.sector_size
    entries_lba = header.entries_lba if table.primary else _lost_entries_lba(layout, reader, table.chosen)
    if target_size == layout.size and table.is_whole and table.backup is not None:
        return _Places(
            entries_lba=entries_lba,
            last_usable_lba=header.last_usable_lba,
            backup_entries_lba=table.backup.header.entries_lba,
            backup_lba=table.backup.header.lba,
        )
    ends = [partition.extent.end // sector_size for partition in layout.partitions]
    first_free = max(0, *ends, header.first_usable_lba + 1, entries_lba + header.entries_sectors)
    _check_fits((first_free + header.entries_sectors + 1) * sector_size, target_size)
    backup_lba = target_size // sector_size - 1
    backup_entries_lba = backup_lba - header.entries_sectors
    return _Places(
        entries_lba=entries_lba,
        last_usable_lba=backup_entries_lba - 1,
        backup_entries_lba=backup_entries_lba,
        backup_lba=backup_lba,
    )


def _lost_entries_lba(layout: Layout, reader: BlockReader, backup: gpt.GptCopy) -> int:
    """Where to make the array of a broken primary copy anew."""
    lba = gpt_copies.locate_primary_entries(reader, backup)
    extent = Extent(lba * layout.sector_size, (lba + backup.header.entries_sectors) * layout.sector_size)
    for partition in layout.partitions:
        if partition.extent.clipped(extent):
            raise DiskFormatError(
                f"partition {partition.number}: expected it behind the partition table, which ends at byte "
                f"{extent.end}, found that it begins at byte {partition.extent.start}",
                hint="Have the table repaired, with gdisk for example.",
            )
    return lba


def place_gpt(layout: Layout, reader: BlockReader, table: gpt_copies.GptTable, target_size: int) -> tuple[Patch, ...]:
    """The patches that put a table on a target. ``table`` may differ from what the reader holds: it is written."""
    copy, sector_size = table.chosen, layout.sector_size
    places = _choose_places(layout, reader, table, target_size)
    primary = gpt.build_header(
        table.primary.header if table.primary else copy.header,
        lba=gpt.PRIMARY_LBA,
        alternate_lba=places.backup_lba,
        last_usable_lba=places.last_usable_lba,
        entries_lba=places.entries_lba,
        copy=copy,
    )
    backup = gpt.build_header(
        table.backup.header if table.backup else copy.header,
        lba=places.backup_lba,
        alternate_lba=gpt.PRIMARY_LBA,
        last_usable_lba=places.last_usable_lba,
        entries_lba=places.backup_entries_lba,
        copy=copy,
    )
    entries = copy.entries.ljust(copy.header.entries_sectors * sector_size, b"\0")
    patches = [
        *_protective_patches(layout, reader, target_size),
        Patch(offset=gpt.PRIMARY_LBA * sector_size, data=primary),
        Patch(offset=places.entries_lba * sector_size, data=entries),
        Patch(offset=places.backup_entries_lba * sector_size, data=entries),
        Patch(offset=places.backup_lba * sector_size, data=backup),
    ]
    patches += _stale_patches(layout, patches, target_size)
    _check_clear_of_partitions(layout, patches)
    return tuple(sorted((patch for patch in patches if _changes(patch, reader)), key=lambda patch: patch.offset))


def _check_clear_of_partitions(layout: Layout, patches: list[Patch]) -> None:
    """Refuse a table over a partition: possible when only one copy was good, and it lists one where the other belongs.

    Raises:
        DiskFormatError: With the partition.
    """
    for partition in layout.partitions:
        found = next((patch for patch in patches if patch.extent.clipped(partition.extent)), None)
        if found is not None:
            raise DiskFormatError(
                f"partition {partition.number} (bytes {partition.extent.start} to {partition.extent.end}) lies where "
                f"the partition table belongs (byte {found.offset})",
                hint="Have the table repaired, with gdisk for example.",
            )


def _protective_patches(layout: Layout, reader: BlockReader, target_size: int) -> Iterator[Patch]:
    """Sector 0 with the target's size in the protective entry; a hybrid, or "as much as there is", stays as it is."""
    sector = reader.read_at(0, layout.sector_size)
    record = mbr.parse_boot_record(sector)
    used = [entry for entry in record.entries if entry.is_used] if record else []
    if len(used) == 1 and used[0].type_code == mbr.TYPE_PROTECTIVE and used[0].size_sectors != _LBA_COUNT_MAX:
        size_sectors = min(target_size // layout.sector_size - 1, _LBA_COUNT_MAX)
        yield Patch(offset=0, data=mbr.set_entry_size(sector, index=used[0].index, size_sectors=size_sectors))


def _stale_patches(layout: Layout, patches: list[Patch], target_size: int) -> list[Patch]:
    """Zeros over every sector of the source's table that neither the target's table nor a partition uses now."""
    kept = ExtentSet.from_extents([Extent(0, layout.sector_size), *(patch.extent for patch in patches)])
    stale = ((layout.table & layout.outside) - kept).clipped(Extent(0, target_size))
    return [Patch(offset=extent.start, data=bytes(extent.size)) for extent in stale]


def _changes(patch: Patch, reader: BlockReader) -> bool:
    """Whether the source's own bytes there are other than the patch, or cannot be read."""
    try:
        return patch.extent.end > reader.size or reader.read_at(patch.offset, len(patch.data)) != patch.data
    except ReadFault:
        return True


def _size_needed(layout: Layout, reader: BlockReader) -> int:
    """Bytes up to the end of the last partition, extended ones among them; all bytes of a disk without a table."""
    if layout.scheme == "none":
        return layout.size
    ends = [partition.extent.end for partition in layout.partitions] + layout.table.ends.tolist()
    record = mbr.parse_boot_record(reader.read_at(0, mbr.RECORD_SIZE))
    containers = [entry.end_lba * layout.sector_size for entry in record.entries if entry.is_extended] if record else []
    return int(max(ends + [end for end in containers if end <= layout.size]))


def _check_fits(size_needed: int, target_size: int) -> None:
    if size_needed > target_size:
        raise TargetError(
            f"the partitions and their table need {size_needed} bytes ({format_size(size_needed)}), the target has "
            f"{target_size}: {format_size(size_needed - target_size)} too few",
            hint="Choose a larger disk; '--fit' makes partitions smaller where that is possible.",
        )
