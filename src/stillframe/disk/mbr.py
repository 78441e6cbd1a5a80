"""Master boot records: four entries in sector 0, and the chain of extended boot records behind them.

Answers: "what does an MBR say?" and "is sector 0 one, or the boot sector of a file system that fills the disk?" Does
not judge whether partitions overlap: ``layout`` does. Cylinders, heads and tracks are ignored, as Linux does.

Sources: UEFI Specification 2.10, section 5.2 "LBA 0 Format" (record, entry, protective MBR); Linux
``block/partitions/msdos.c`` (status bytes, chain, numbering of logical partitions).
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from stillframe.block import BlockReader
from stillframe.errors import DiskFormatError
from stillframe.events import Notice
from stillframe.extents import Extent

RECORD_SIZE: Final = 512
"""The record is in the first 512 bytes of the sector, whatever the size of a sector is."""
TYPE_EMPTY: Final = 0x00
TYPE_PROTECTIVE: Final = 0xEE
"""UEFI Specification 2.10, section 5.2.3 "Protective MBR"."""
TYPES_EXTENDED: Final = frozenset({0x05, 0x0F, 0x85})
"""DOS, Windows and Linux extended. Source: ``is_extended_partition`` in Linux ``block/partitions/msdos.c``."""
RECORDS_MAX: Final = 256
"""Extended records that are followed: as many partitions as Linux gives numbers to (``DISK_MAX_PARTS``)."""

LBA_MAX: Final = 0xFFFFFFFF
"""The largest number of a sector that an entry can hold."""

_BOOT_SIGNATURE: Final = b"\x55\xaa"
_BOOT_SIGNATURE_OFFSET: Final = 510
_DISK_SIGNATURE_OFFSET: Final = 440
_TABLE_OFFSET: Final = 446
_ENTRY: Final = struct.Struct("<B3sB3sII")
"""Status, first CHS, type, last CHS, first LBA, number of sectors: UEFI Specification 2.10, table 5.2."""
_SIZE_OFFSET: Final = 12
_FAR: Final = (b"\xfe\xff\xff", b"\xfe\xff\xff")
"""Cylinders that are too far for three bytes: what sfdisk writes, so that everybody counts in sectors."""
_PROTECTIVE_CHS: Final = (b"\x00\x02\x00", b"\xff\xff\xff")  # UEFI Specification 2.10, table 5.4


@dataclass(frozen=True, slots=True, kw_only=True)
class MbrEntry:
    """One of the four entries of a record. ``first_lba`` counts from what the record says: the disk, or a chain."""

    index: int
    status: int
    type_code: int
    first_lba: int
    size_sectors: int

    @property
    def is_used(self) -> bool:
        """Whether it names any sectors. Linux asks for no more than that."""
        return self.size_sectors > 0

    @property
    def is_extended(self) -> bool:
        """Whether it names a container of logical partitions."""
        return self.is_used and self.type_code in TYPES_EXTENDED

    @property
    def end_lba(self) -> int:
        """The sector after the last."""
        return self.first_lba + self.size_sectors


@dataclass(frozen=True, slots=True, kw_only=True)
class BootRecord:
    """A sector that ends with 55 AA, read as a table."""

    disk_signature: int
    entries: tuple[MbrEntry, ...]

    @property
    def is_table(self) -> bool:
        """Whether every status byte is 00 or 80; otherwise this is code or text. The rule is that of Linux."""
        return all(entry.status in (0x00, 0x80) for entry in self.entries)

    @property
    def is_empty(self) -> bool:
        """Whether no entry names any sectors."""
        return not any(entry.is_used for entry in self.entries)

    @property
    def is_protective(self) -> bool:
        """Whether it announces a GPT, alone or beside other entries (a hybrid).

        Linux (``is_pmbr_valid``) wants the entry to begin at sector 1 and does not look at status bytes.
        """
        protective = [entry for entry in self.entries if entry.type_code == TYPE_PROTECTIVE]
        return any(self.is_table or entry.first_lba == 1 for entry in protective)

    @property
    def is_hybrid(self) -> bool:
        """Whether it announces a GPT and names partitions of its own."""
        return self.is_protective and any(
            entry.is_used and entry.type_code not in (TYPE_EMPTY, TYPE_PROTECTIVE) for entry in self.entries
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogicalPartition:
    """A partition inside a container, in sectors of the disk."""

    status: int
    type_code: int
    first_lba: int
    size_sectors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """What the extended boot records of one container say. ``record_lbas`` are the sectors they are in."""

    partitions: tuple[LogicalPartition, ...]
    record_lbas: tuple[int, ...]
    notices: tuple[Notice, ...]


def parse_boot_record(sector: bytes) -> BootRecord | None:
    """Parse sector 0, or an extended boot record.

    Args:
        sector: At least 512 bytes.

    Returns:
        The record; ``None`` when it does not end with 55 AA.
    """
    if sector[_BOOT_SIGNATURE_OFFSET:RECORD_SIZE] != _BOOT_SIGNATURE:
        return None
    entries = []
    for index in range(4):
        status, _, kind, _, first, size = _ENTRY.unpack_from(sector, _TABLE_OFFSET + index * _ENTRY.size)
        entries.append(MbrEntry(index=index, status=status, type_code=kind, first_lba=first, size_sectors=size))
    (signature,) = struct.unpack_from("<I", sector, _DISK_SIGNATURE_OFFSET)
    return BootRecord(disk_signature=signature, entries=tuple(entries))


def read_chain(reader: BlockReader, container: MbrEntry, *, sector_size: int) -> Chain:
    """Follow the extended boot records of a container.

    A record names a partition relative to itself, and the next record relative to the container.

    Raises:
        DiskFormatError: The chain leaves the disk, comes back to itself or does not end.

    Source: ``parse_extended`` in Linux ``block/partitions/msdos.c``.
    """
    count = reader.size // sector_size
    partitions: list[LogicalPartition] = []
    visited: list[int] = []
    notices: list[Notice] = []
    lba: int | None = container.first_lba
    while lba is not None:
        where = f"extended boot record in sector {lba} (entry {container.index + 1} of the MBR)"
        if not 0 < lba < count:
            raise DiskFormatError(f"{where}: expected it on the disk, which ends at sector {count}", hint=_REPAIR)
        if lba in visited:
            raise DiskFormatError(f"{where}: the chain comes back to it; expected that it ends", hint=_REPAIR)
        if len(visited) == RECORDS_MAX:
            raise DiskFormatError(f"{where}: expected at most {RECORDS_MAX} records, found more", hint=_REPAIR)
        record = parse_boot_record(reader.read_at(lba * sector_size, RECORD_SIZE))
        if record is None:
            notices.append(_chain_notice(lba))
            break
        visited.append(lba)
        partitions.extend(_logical_partitions(record, container, lba=lba))
        link = next((entry for entry in record.entries if entry.is_extended), None)
        lba = container.first_lba + link.first_lba if link else None
    return Chain(partitions=tuple(partitions), record_lbas=tuple(visited), notices=tuple(notices))


def name_boot_sector(sector: bytes) -> str:
    """Name the file system whose boot sector this is, as far as such sectors end with 55 AA; empty for none.

    A sector can look like one and be an MBR: stale parameters of a file system stay in front of the boot code when a
    disk is partitioned.

    Sources: Microsoft FAT specification (2005), section 3.1; Microsoft exFAT specification, section 3.1; Linux
    ``ntfs_init_from_boot`` (NTFS); libbde documentation, "BitLocker Drive Encryption (BDE) format" (BitLocker).
    """
    name = sector[3:11]
    if name == b"-FVE-FS-":
        return "BitLocker"
    if name == b"EXFAT   " and not any(sector[11:64]):
        return "exFAT"
    bytes_per_sector, cluster, reserved, fats, _, count_16, media, fat_16 = struct.unpack_from("<HBHBHHBH", sector, 11)
    if bytes_per_sector not in (512, 1024, 2048, 4096):
        return ""
    if name == b"NTFS    ":
        return "NTFS" if cluster and not reserved and not fats else ""
    count_32, fat_32 = struct.unpack_from("<II", sector, 32)
    is_fat = cluster and not cluster & (cluster - 1) and reserved and fats in (1, 2) and media in (0xF0, *_FIXED_MEDIA)
    return "FAT" if is_fat and (count_16 or count_32) and (fat_16 or fat_32) else ""


def build_boot_record(entries: Iterable[MbrEntry], *, signature: int) -> bytes:
    """A new sector 0 of 512 bytes, without boot code.

    Raises:
        DiskFormatError: A place cannot be written in 32 bits.
    """
    sector = bytearray(RECORD_SIZE)
    sector[_BOOT_SIGNATURE_OFFSET:] = _BOOT_SIGNATURE
    struct.pack_into("<I", sector, _DISK_SIGNATURE_OFFSET, signature)
    for entry in entries:
        first, last = _PROTECTIVE_CHS if entry.type_code == TYPE_PROTECTIVE else _FAR
        if max(entry.first_lba, entry.size_sectors) > LBA_MAX:
            raise DiskFormatError(
                f"partition {entry.index + 1}: its sectors {entry.first_lba} to {entry.end_lba - 1} lie behind what "
                f"an MBR can name, which ends at {LBA_MAX}"
            )
        where = _TABLE_OFFSET + entry.index * _ENTRY.size
        _ENTRY.pack_into(
            sector, where, entry.status, first, entry.type_code, last, entry.first_lba, entry.size_sectors
        )  # fmt: skip
    return bytes(sector)


def set_disk_signature(sector: bytes, signature: int) -> bytes:
    """Sector 0 with another disk signature."""
    changed = bytearray(sector)
    struct.pack_into("<I", changed, _DISK_SIGNATURE_OFFSET, signature)
    return bytes(changed)


def set_entry_size(sector: bytes, *, index: int, size_sectors: int) -> bytes:
    """Sector 0 with another number of sectors in one entry."""
    changed = bytearray(sector)
    struct.pack_into("<I", changed, _TABLE_OFFSET + index * _ENTRY.size + _SIZE_OFFSET, size_sectors)
    return bytes(changed)


def set_entry_place(sector: bytes, *, index: int, first_lba: int, size_sectors: int) -> bytes:
    """Sector 0 with one entry elsewhere, counted in sectors only.

    Raises:
        DiskFormatError: It cannot be written in 32 bits.
    """
    if max(first_lba, size_sectors) > LBA_MAX:
        raise DiskFormatError(f"partition {index + 1}: sector {first_lba} lies behind what an MBR can name")
    changed = bytearray(sector)
    place = _TABLE_OFFSET + index * _ENTRY.size
    status, _, kind, _, _, _ = _ENTRY.unpack_from(changed, place)
    _ENTRY.pack_into(changed, place, status, _FAR[0], kind, _FAR[1], first_lba, size_sectors)
    return bytes(changed)


def set_entry(sector: bytes, entry: MbrEntry) -> bytes:
    """Sector 0 with another entry, counted in sectors only."""
    changed = bytearray(sector)
    _ENTRY.pack_into(
        changed, _TABLE_OFFSET + entry.index * _ENTRY.size, entry.status, _FAR[0], entry.type_code, _FAR[1],
        entry.first_lba, entry.size_sectors,
    )  # fmt: skip
    return bytes(changed)


def clear_entry(sector: bytes, *, index: int) -> bytes:
    """Sector 0 without one entry."""
    changed = bytearray(sector)
    _ENTRY.pack_into(changed, _TABLE_OFFSET + index * _ENTRY.size, 0, bytes(3), 0, bytes(3), 0, 0)
    return bytes(changed)


_REPAIR: Final = "Look at the disk with `sfdisk --dump`; have the table repaired, or back up the disk as one piece."
_FIXED_MEDIA: Final = range(0xF8, 0x100)


def _logical_partitions(record: BootRecord, container: MbrEntry, *, lba: int) -> list[LogicalPartition]:
    found = []
    for entry in record.entries:
        if not entry.is_used or entry.is_extended:
            continue
        if entry.index >= 2 and not _is_inside(entry, container, lba=lba):
            continue  # DOS leaves garbage in the third and fourth entry; Linux drops it by the same rule
        found.append(
            LogicalPartition(
                status=entry.status,
                type_code=entry.type_code,
                first_lba=lba + entry.first_lba,
                size_sectors=entry.size_sectors,
            )
        )
    return found


def _is_inside(entry: MbrEntry, container: MbrEntry, *, lba: int) -> bool:
    inner = Extent(lba + entry.first_lba, lba + entry.end_lba)
    return inner.clipped(Extent(container.first_lba, container.end_lba)) == inner


def _chain_notice(lba: int) -> Notice:
    return Notice(
        code="mbr-chain-broken",
        message=f"The chain of logical partitions ends in sector {lba}, where an extended boot record was expected. "
        "What lies behind it is kept as bytes outside of partitions.",
        hint="If logical partitions are missing, have the table repaired before you back up.",
    )
