"""The two copies of a GUID partition table on a disk, and which of them is good.

Answers: "can this table be believed, and what is wrong with the other copy?" and "how large is a sector, by this
table?" Knows nothing of the MBR in sector 0; what the bytes of a copy say is read by ``gpt``.

Source: UEFI Specification 2.10, section 5.3.2 "GPT Header": software must look at both copies.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from stillframe.block import BlockReader, ReadFault
from stillframe.disk.gpt import (
    PRIMARY_LBA,
    SIGNATURE,
    GptCopy,
    GptEntry,
    build_entry,
    parse_header,
    replace_guids,
    replace_places,
)
from stillframe.errors import DiskFormatError
from stillframe.events import Notice

SECTOR_SIZES: Final = (512, 4096)

_ALTERNATE_LBA_OFFSET: Final = 32
_ENTRIES_LBA_OFFSET: Final = 72
"""Fields that are worth a look even in a header whose checksum is wrong: UEFI 2.10, table 5.5."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GptTable:
    """Both copies, as far as they are good; at least one is."""

    primary: GptCopy | None
    backup: GptCopy | None
    notices: tuple[Notice, ...]

    @property
    def chosen(self) -> GptCopy:
        """The copy that is believed: the primary, if it is good."""
        copy = self.primary or self.backup
        assert copy is not None
        return copy

    @property
    def is_whole(self) -> bool:
        """Whether both copies are good and say the same."""
        if self.primary is None or self.backup is None:
            return False
        return _is_same(self.primary, self.backup)


def read_copy(reader: BlockReader, *, lba: int, sector_size: int) -> GptCopy:
    """Read the header in one sector and the array it names.

    Raises:
        DiskFormatError: The copy is missing, lies outside the disk or is damaged.
        ReadFault: The device failed.
    """
    count = reader.size // sector_size
    if not 0 < lba < count:
        raise DiskFormatError(f"GPT header in sector {lba}: expected it on the disk, which ends at sector {count}")
    header = parse_header(reader.read_at(lba * sector_size, sector_size), lba=lba)
    if header is None:
        raise DiskFormatError(f"GPT header in sector {lba}: expected the signature 'EFI PART', found something else")
    start, end = header.entries_lba, header.entries_lba + header.entries_sectors
    where = f"GPT entries in sectors {start} to {end - 1}"
    if start <= PRIMARY_LBA or end > count or start <= lba < end:
        raise DiskFormatError(f"{where}: expected them between sectors 2 and {count - 1} and beside the header {lba}")
    entries = reader.read_at(start * sector_size, header.entries_size)
    if (crc := zlib.crc32(entries)) != header.entries_crc:
        raise DiskFormatError(f"{where}: expected checksum {header.entries_crc:08X} (CRC-32), found {crc:08X}")
    return GptCopy(header=header, entries=entries)


def read_table(reader: BlockReader, *, sector_size: int) -> GptTable:
    """Read both copies, and say what is wrong with the one that is not good.

    Raises:
        DiskFormatError: Neither copy is good.
    """
    last_lba = reader.size // sector_size - 1
    primary = _attempt(reader, lba=PRIMARY_LBA, sector_size=sector_size)
    if isinstance(primary, GptCopy):
        notices = list(_size_notices(primary.header.alternate_lba, last_lba))
        backup = _attempt_backup(reader, primary)
        if isinstance(backup, GptCopy):
            if not _is_same(primary, backup):
                notices.append(_DIFFERENT)
            return GptTable(primary=primary, backup=backup, notices=tuple(notices))
        if primary.header.alternate_lba <= last_lba:
            notices.append(_broken_notice("backup", backup))
        return GptTable(primary=primary, backup=None, notices=tuple(notices))
    reasons = [primary]
    for lba in _backup_places(reader, last_lba=last_lba, sector_size=sector_size):
        backup = _attempt(reader, lba=lba, sector_size=sector_size)
        if isinstance(backup, GptCopy):
            notices = [_broken_notice("primary", primary), *_size_notices(lba, last_lba)]
            return GptTable(primary=None, backup=backup, notices=tuple(notices))
        reasons.append(backup)
    raise DiskFormatError(
        f"no copy of the GUID partition table is good: {'; '.join(reasons)}",
        hint="Have the table repaired, with gdisk for example, or back up the disk as one piece.",
    )


def detect_sector_size(reader: BlockReader) -> int | None:
    """Bytes of a sector of the disk, told by where its GPT header is.

    A file that holds a disk of 4096-byte sectors does not say so; its table does. Good headers count before broken
    ones, the reader's own sector size before the other.

    Returns:
        512 or 4096; ``None`` when there is no GPT header.
    """
    sizes = sorted(SECTOR_SIZES, key=lambda size: size != reader.sector_size)
    for size in sizes:
        for lba in (PRIMARY_LBA, reader.size // size - 1):
            if _has_good_header(reader, lba=lba, sector_size=size):
                return size
    for size in sizes:
        if _read_sector(reader, lba=PRIMARY_LBA, sector_size=size)[:8] == SIGNATURE:
            return size
    return None


def rename(table: GptTable, *, disk_guid: UUID, guids: Mapping[int, UUID]) -> GptTable:
    """The table with another disk GUID and other partition GUIDs by slot, everything else bit for bit.

    The headers' ``raw`` bytes stay as they were read: ``build_header`` makes the new ones.
    """
    entries = replace_guids(table.chosen.entries, entry_size=table.chosen.header.entry_size, guids=guids)

    def renamed(copy: GptCopy | None) -> GptCopy | None:
        return copy and GptCopy(header=replace(copy.header, disk_guid=disk_guid), entries=entries)

    return replace(table, primary=renamed(table.primary), backup=renamed(table.backup))


def move(table: GptTable, places: Mapping[int, tuple[int, int]]) -> GptTable:
    """The table with other first and last sectors by slot, everything else bit for bit; headers as by ``rename``."""
    return _with_entries(
        table, replace_places(table.chosen.entries, entry_size=table.chosen.header.entry_size, places=places)
    )


def drop(table: GptTable, slots: Iterable[int]) -> GptTable:
    """The table with some slots empty, everything else bit for bit; headers as by ``rename``."""
    size, array = table.chosen.header.entry_size, bytearray(table.chosen.entries)
    for index in slots:
        array[index * size : (index + 1) * size] = bytes(size)
    return _with_entries(table, bytes(array))


def insert(table: GptTable, added: Iterable[GptEntry]) -> GptTable:
    """The table with more slots in use, everything else bit for bit; headers as by ``rename``."""
    size, array = table.chosen.header.entry_size, bytearray(table.chosen.entries)
    for entry in added:
        array[entry.index * size : (entry.index + 1) * size] = build_entry(entry).ljust(size, b"\0")
    return _with_entries(table, bytes(array))


def _with_entries(table: GptTable, entries: bytes) -> GptTable:
    def changed(copy: GptCopy | None) -> GptCopy | None:
        return copy and GptCopy(header=copy.header, entries=entries)

    return replace(table, primary=changed(table.primary), backup=changed(table.backup))


def locate_primary_entries(reader: BlockReader, backup: GptCopy) -> int:
    """Where the array of a broken primary copy belongs, in sectors.

    Boards that boot from the first sectors have it further on (``sgdisk --move-main-table``), so what the broken
    header says counts when its checksum is right, or when the array is where it says; otherwise it is sector 2.

    Raises:
        DiskFormatError: There is no room for it in front of the first usable sector.
    """
    sector_size, sectors = len(backup.header.raw), backup.header.entries_sectors
    last = backup.header.first_usable_lba - sectors
    if last <= PRIMARY_LBA or (last + sectors) * sector_size > reader.size:
        raise DiskFormatError(
            f"GPT header in sector {backup.header.lba}: expected {sectors} sectors for entries in front of the first "
            f"usable sector, found that this is sector {backup.header.first_usable_lba}"
        )
    sector = _read_sector(reader, lba=PRIMARY_LBA, sector_size=sector_size)
    (named,) = struct.unpack_from("<Q", sector, _ENTRIES_LBA_OFFSET) if sector else (0,)
    if PRIMARY_LBA < named <= last:
        is_good = _has_good_header(reader, lba=PRIMARY_LBA, sector_size=sector_size)
        if is_good or _holds(reader, backup.entries, offset=named * sector_size):
            return int(named)
    return PRIMARY_LBA + 1


_DIFFERENT: Final = Notice(
    code="gpt-copies-differ",
    message="The two copies of the partition table are both good but not the same. The first one is used.",
    hint="If partitions are missing, have the table repaired with gdisk before you back up.",
)


def _broken_notice(name: str, reason: str) -> Notice:
    other = "backup" if name == "primary" else "primary"
    return Notice(
        code=f"gpt-{name}-broken",
        message=f"The {name} copy of the partition table is broken; the {other} copy is used. {reason}.",
        hint="Back up first, then have the table repaired, with gdisk for example.",
    )


def _size_notices(backup_lba: int, last_lba: int) -> Iterator[Notice]:
    if backup_lba < last_lba:
        yield Notice(
            code="gpt-ends-early",
            message=f"The partition table ends at sector {backup_lba}, the disk at sector {last_lba}: "
            "the disk has grown since the table was made.",
        )
    elif backup_lba > last_lba:
        yield Notice(
            code="gpt-disk-too-small",
            message=f"The partition table was made for a disk that ends at sector {backup_lba}, "
            f"this one ends at sector {last_lba}.",
            hint="Is it a copy that was cut short?",
        )


def _attempt(reader: BlockReader, *, lba: int, sector_size: int) -> GptCopy | str:
    try:
        return read_copy(reader, lba=lba, sector_size=sector_size)
    except (DiskFormatError, ReadFault) as error:
        return error.message


def _attempt_backup(reader: BlockReader, primary: GptCopy) -> GptCopy | str:
    """The backup that the primary names, if it is good and really another copy."""
    lba, sector_size = primary.header.alternate_lba, len(primary.header.raw)
    backup = _attempt(reader, lba=lba, sector_size=sector_size)
    if isinstance(backup, GptCopy) and any(
        ours.clipped(theirs) for ours in primary.extents for theirs in backup.extents
    ):
        return f"GPT header in sector {lba}: expected a copy of its own, found that it shares sectors with the primary"
    return backup


def _is_same(primary: GptCopy, backup: GptCopy) -> bool:
    """Whether the copies agree in all that is not about their own place. Source: UEFI 2.10, section 5.3.2."""
    ours, theirs = primary.header, backup.header
    return (
        (ours.disk_guid, ours.first_usable_lba, ours.last_usable_lba, ours.entry_size, ours.entries_crc)
        == (theirs.disk_guid, theirs.first_usable_lba, theirs.last_usable_lba, theirs.entry_size, theirs.entries_crc)
        and primary.entries == backup.entries
        and theirs.alternate_lba == ours.lba
    )


def _backup_places(reader: BlockReader, *, last_lba: int, sector_size: int) -> list[int]:
    """Where the backup header may be when the primary is broken: the last sector, or where the primary says."""
    sector = _read_sector(reader, lba=PRIMARY_LBA, sector_size=sector_size)
    places = [last_lba]
    if len(sector) == sector_size:
        (named,) = struct.unpack_from("<Q", sector, _ALTERNATE_LBA_OFFSET)
        if PRIMARY_LBA < named < last_lba:
            places.append(named)
    return places


def _read_sector(reader: BlockReader, *, lba: int, sector_size: int) -> bytes:
    """One sector; nothing when the disk does not have it or cannot read it."""
    if not 0 <= lba < reader.size // sector_size:
        return b""
    try:
        return reader.read_at(lba * sector_size, sector_size)
    except ReadFault:
        return b""


def _holds(reader: BlockReader, expected: bytes, *, offset: int) -> bool:
    try:
        return reader.read_at(offset, len(expected)) == expected
    except ReadFault:
        return False


def _has_good_header(reader: BlockReader, *, lba: int, sector_size: int) -> bool:
    try:
        return parse_header(_read_sector(reader, lba=lba, sector_size=sector_size), lba=lba) is not None
    except DiskFormatError:
        return False
