"""One copy of a GUID partition table: its header and its entry array, from bytes and to bytes.

Answers: "what do these bytes say, and is their checksum right?" Does not read the disk and does not choose between the
two copies (``gpt_copies``), and does not judge whether partitions overlap (``layout``).

Source of every number: UEFI Specification 2.10, section 5.3 "GUID Partition Table (GPT) Disk Layout".
"""

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import numpy as np

from stillframe.errors import DiskFormatError
from stillframe.extents import Extent

SIGNATURE: Final = b"EFI PART"
PRIMARY_LBA: Final = 1

ENTRY_SIZE_MIN: Final = 128
ENTRY_SIZE_MAX: Final = 4096
"""The specification allows 128 times any power of two; no tool makes more than 128."""
ENTRIES_SIZE_MAX: Final = 4 << 20
"""Bytes of an entry array that are believed: 32,768 entries. Linux (``is_gpt_valid``) stops at ``KMALLOC_MAX_SIZE``."""

_HEADER: Final = struct.Struct("<8sIIIIQQQQ16sQIII")
"""Table 5.5: signature, revision, header size, header CRC, reserved, MyLBA, AlternateLBA, FirstUsableLBA,
LastUsableLBA, DiskGUID, PartitionEntryLBA, NumberOfPartitionEntries, SizeOfPartitionEntry, array CRC."""
_HEADER_CRC_OFFSET: Final = 16
_ENTRIES_USUAL: Final = 128
"""Entries of a new array: with 128 bytes each they take the 16,384 bytes that section 5.3 asks for at least."""
_REVISION: Final = 0x00010000

_ENTRY: Final = struct.Struct("<16s16sQQQ72s")
"""Table 5.6: type GUID, unique GUID, StartingLBA, EndingLBA (inclusive), attributes, name in UTF-16LE."""
_PLACE_OFFSET: Final = 32
_ENTRY_GUID_OFFSET: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class GptHeader:
    """One copy of the header. ``last_usable_lba`` is inclusive, as in the specification; ``raw`` is the sector."""

    raw: bytes
    lba: int
    alternate_lba: int
    first_usable_lba: int
    last_usable_lba: int
    disk_guid: UUID
    entries_lba: int
    entry_count: int
    entry_size: int
    entries_crc: int

    @property
    def entries_size(self) -> int:
        """Bytes of the entry array, at most ``ENTRIES_SIZE_MAX``."""
        return self.entry_count * self.entry_size

    @property
    def entries_sectors(self) -> int:
        """Whole sectors that hold the entry array."""
        return -(-self.entries_size // len(self.raw))


@dataclass(frozen=True, slots=True, kw_only=True)
class GptEntry:
    """One used slot of the array. ``last_lba`` is inclusive, as in the specification; ``index`` counts from 0."""

    index: int
    type_guid: UUID
    guid: UUID
    first_lba: int
    last_lba: int
    attributes: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GptCopy:
    """A header and its entry array, both with the right checksum."""

    header: GptHeader
    entries: bytes

    @property
    def extents(self) -> tuple[Extent, Extent]:
        """The sectors of the header and the sectors of the array, in bytes."""
        sector_size = len(self.header.raw)
        header, entries = self.header.lba * sector_size, self.header.entries_lba * sector_size
        return (
            Extent(header, header + sector_size),
            Extent(entries, entries + self.header.entries_sectors * sector_size),
        )


def parse_header(sector: bytes, *, lba: int) -> GptHeader | None:
    """Parse one GPT header.

    Args:
        sector: One logical sector, 512 to 4096 bytes, exactly as read.
        lba: Where it was read, in logical sectors.

    Returns:
        The header; ``None`` when the signature is not there.

    Raises:
        DiskFormatError: A checksum, the revision, a size or an address is wrong.

    Source: UEFI Specification 2.10, section 5.3.2 "GPT Header".
    """
    if sector[:8] != SIGNATURE:
        return None
    _, revision, size, crc, _, my_lba, alternate, first, last, guid, entries_lba, count, entry_size, entries_crc = (
        _HEADER.unpack_from(sector)
    )
    where = f"GPT header in sector {lba}"
    if not _HEADER.size <= size <= len(sector):
        raise DiskFormatError(f"{where}: expected a size of {_HEADER.size} to {len(sector)} bytes, found {size}")
    found_crc = _header_crc(sector[:size])
    if found_crc != crc:
        raise DiskFormatError(f"{where}: expected checksum {crc:08X} (CRC-32), found {found_crc:08X}")
    if revision != _REVISION:
        raise DiskFormatError(f"{where}: expected revision {_REVISION:08X}, found {revision:08X}")
    if my_lba != lba:
        raise DiskFormatError(f"{where}: expected the header of sector {lba}, found that of sector {my_lba}")
    if not ENTRY_SIZE_MIN <= entry_size <= ENTRY_SIZE_MAX or entry_size & (entry_size - 1):
        raise DiskFormatError(f"{where}: expected entries of 128, 256, ... 4096 bytes, found {entry_size}")
    if not 0 < count * entry_size <= ENTRIES_SIZE_MAX:
        most = ENTRIES_SIZE_MAX // entry_size
        raise DiskFormatError(f"{where}: expected 1 to {most} entries, found {count}")
    if last < first:
        raise DiskFormatError(f"{where}: expected usable sectors from {first} on, found that they end at {last}")
    return GptHeader(
        raw=sector,
        lba=lba,
        alternate_lba=alternate,
        first_usable_lba=first,
        last_usable_lba=last,
        disk_guid=UUID(bytes_le=guid),
        entries_lba=entries_lba,
        entry_count=count,
        entry_size=entry_size,
        entries_crc=entries_crc,
    )


def parse_entries(copy: GptCopy) -> Iterator[GptEntry]:
    """The used entries of an array, in order of their slots.

    Source: UEFI Specification 2.10, section 5.3.3 "GPT Partition Entry Array".
    """
    size = copy.header.entry_size
    for index in _used_slots(copy):
        kind, guid, first, last, attributes, name = _ENTRY.unpack_from(copy.entries, index * size)
        yield GptEntry(
            index=index,
            type_guid=UUID(bytes_le=kind),
            guid=UUID(bytes_le=guid),
            first_lba=first,
            last_lba=last,
            attributes=attributes,
            name=name.decode("utf-16-le", "replace").partition("\0")[0],
        )


def build_header(
    template: GptHeader, *, lba: int, alternate_lba: int, last_usable_lba: int, entries_lba: int, copy: GptCopy
) -> bytes:
    """Build a header sector for another place, with everything kept that is not about the place.

    Args:
        template: The header whose revision, usable start and unknown tail are kept.
        lba: The sector it will be in.
        alternate_lba: The sector of the other copy.
        last_usable_lba: Inclusive.
        entries_lba: First sector of the array that this copy uses.
        copy: Whose disk GUID, entry count and size, and array the header describes.
    """
    fields = list(_HEADER.unpack_from(template.raw))
    size = fields[2]
    fields[3] = 0
    fields[5:7] = lba, alternate_lba
    fields[8] = last_usable_lba
    fields[9] = copy.header.disk_guid.bytes_le
    fields[10:] = entries_lba, copy.header.entry_count, copy.header.entry_size, zlib.crc32(copy.entries)
    sector = bytearray(template.raw)
    _HEADER.pack_into(sector, 0, *fields)
    struct.pack_into("<I", sector, _HEADER_CRC_OFFSET, zlib.crc32(sector[:size]))
    return bytes(sector)


def build_entry(entry: GptEntry) -> bytes:
    """One slot of an array, 128 bytes."""
    return _ENTRY.pack(
        entry.type_guid.bytes_le, entry.guid.bytes_le, entry.first_lba, entry.last_lba, entry.attributes,
        entry.name.encode("utf-16-le"),
    )  # fmt: skip


def new_copy(entries: Iterable[GptEntry], *, disk_guid: UUID, sector_size: int) -> GptCopy:
    """The array of a new table, and a header that is only a template for ``build_header``: it has no place yet."""
    array = bytearray(_ENTRIES_USUAL * _ENTRY.size)
    for entry in entries:
        array[entry.index * _ENTRY.size : (entry.index + 1) * _ENTRY.size] = build_entry(entry)
    first_usable_lba = PRIMARY_LBA + 1 + -(-len(array) // sector_size)
    raw = _HEADER.pack(SIGNATURE, _REVISION, _HEADER.size, 0, 0, 0, 0, first_usable_lba, 0, bytes(16), 0, 0, 0, 0)
    header = GptHeader(
        raw=raw.ljust(sector_size, b"\0"), lba=0, alternate_lba=0, first_usable_lba=first_usable_lba,
        last_usable_lba=0, disk_guid=disk_guid, entries_lba=0, entry_count=_ENTRIES_USUAL, entry_size=_ENTRY.size,
        entries_crc=zlib.crc32(array),
    )  # fmt: skip
    return GptCopy(header=header, entries=bytes(array))


def replace_guids(entries: bytes, *, entry_size: int, guids: Mapping[int, UUID]) -> bytes:
    """The array with the unique GUID of some slots replaced, everything else bit for bit."""
    array = bytearray(entries)
    for index, guid in guids.items():
        start = index * entry_size + _ENTRY_GUID_OFFSET
        array[start : start + 16] = guid.bytes_le
    return bytes(array)


def replace_places(entries: bytes, *, entry_size: int, places: Mapping[int, tuple[int, int]]) -> bytes:
    """The array with the first and last sector of some slots replaced, everything else bit for bit."""
    array = bytearray(entries)
    for index, place in places.items():
        struct.pack_into("<QQ", array, index * entry_size + _PLACE_OFFSET, *place)
    return bytes(array)


def _header_crc(header: bytes) -> int:
    """CRC-32 of the header with its own checksum field as zeros."""
    before, after = header[:_HEADER_CRC_OFFSET], header[_HEADER_CRC_OFFSET + 4 :]
    return zlib.crc32(after, zlib.crc32(bytes(4), zlib.crc32(before)))


def _used_slots(copy: GptCopy) -> list[int]:
    """Slots whose type GUID is not all zeros: UEFI 2.10, table 5.7 "Unused Entry"."""
    rows = np.frombuffer(copy.entries, np.uint8).reshape(copy.header.entry_count, copy.header.entry_size)
    return [int(index) for index in np.flatnonzero(rows[:, :16].any(axis=1))]
