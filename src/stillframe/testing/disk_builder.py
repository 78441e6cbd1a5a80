"""Partition tables made byte by byte from the specifications, for disks in memory of any size and shape.

Answers: "what does a disk with partitions exactly here look like?" without starting a tool, so that a law can be tried
on hundreds of them. It shares nothing with ``stillframe.disk``. Disks that other tools make are in
``disks_partitioned`` and ``real_disks``.

Sources: UEFI Specification 2.10, sections 5.2.1 "Legacy MBR" and 5.3 "GUID Partition Table"; for logical partitions
Linux ``block/partitions/msdos.c``, ``parse_extended``.
"""

import random
import struct
import uuid
import zlib
from collections.abc import Sequence
from typing import Final

from stillframe.block import MemoryDisk
from stillframe.extents import Extent

LINUX: Final = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
GPT_ENTRIES: Final = 128
_ENTRY_SIZE: Final = 128
_TYPE_LINUX: Final = 0x83
_TYPE_EXTENDED: Final = 0x05
_TYPE_PROTECTIVE: Final = 0xEE


def gpt_overhead(sector_size: int) -> tuple[int, int]:
    """Sectors that a GPT takes at the beginning and at the end of a disk."""
    entries = GPT_ENTRIES * _ENTRY_SIZE // sector_size
    return 2 + entries, 1 + entries


def write_gpt(disk: MemoryDisk, partitions: Sequence[Extent], *, seed: int = 1) -> None:
    """Write both copies of a GPT; GUIDs follow from the seed."""
    step, chance = disk.sector_size, random.Random(seed)  # noqa: S311 - a test repeats it
    sectors = disk.size // step
    before, after = gpt_overhead(step)
    disk_guid = uuid.UUID(int=chance.getrandbits(128))
    entries = bytearray(GPT_ENTRIES * _ENTRY_SIZE)
    for number, extent in enumerate(partitions):
        guid = uuid.UUID(int=chance.getrandbits(128))
        name = f"part {number}".encode("utf-16-le")
        first, last = extent.start // step, extent.end // step - 1
        struct.pack_into(
            "<16s16sQQQ72s", entries, number * _ENTRY_SIZE, LINUX.bytes_le, guid.bytes_le, first, last, 0, name
        )
    _write_mbr_entries(disk, 0, [(0, _TYPE_PROTECTIVE, 1, min(sectors - 1, 0xFFFFFFFF))])
    for lba, other, entries_lba in ((1, sectors - 1, 2), (sectors - 1, 1, sectors - after)):
        header = bytearray(step)
        struct.pack_into(
            "<8sIIIIQQQQ16sQIII", header, 0, b"EFI PART", 0x10000, 92, 0, 0, lba, other, before,
            sectors - after - 1, disk_guid.bytes_le, entries_lba, GPT_ENTRIES, _ENTRY_SIZE, zlib.crc32(entries),
        )  # fmt: skip
        struct.pack_into("<I", header, 16, zlib.crc32(header[:92]))
        disk.write_at(lba * step, bytes(header))
        disk.write_at(entries_lba * step, bytes(entries))


def write_mbr(disk: MemoryDisk, primaries: Sequence[Extent], logicals: Sequence[Extent] = ()) -> None:
    """Write an MBR of up to four primaries, or three and logical partitions.

    The sector before each logical partition holds its own boot record.
    """
    step = disk.sector_size
    entries = [(n, _TYPE_LINUX, part.start // step, part.size // step) for n, part in enumerate(primaries)]
    if logicals:
        base, end = logicals[0].start // step - 1, logicals[-1].end // step
        entries.append((len(primaries), _TYPE_EXTENDED, base, end - base))
        for number, part in enumerate(logicals):
            record = part.start // step - 1
            chain = [(0, _TYPE_LINUX, 1, part.size // step)]
            if number + 1 < len(logicals):
                following = logicals[number + 1]
                start = following.start // step - 1
                chain.append((1, _TYPE_EXTENDED, start - base, following.end // step - start))
            _write_mbr_entries(disk, record * step, chain)
    _write_mbr_entries(disk, 0, entries)


def fill_with_noise(disk: MemoryDisk, extent: Extent, seed: int) -> None:
    """Bytes that follow from a seed."""
    disk.write_at(extent.start, random.Random(seed).randbytes(extent.size))  # noqa: S311 - a test repeats it


def _write_mbr_entries(disk: MemoryDisk, offset: int, entries: Sequence[tuple[int, int, int, int]]) -> None:
    """A boot record whose entries are (slot, type, first sector, sectors), keeping its boot code."""
    record = bytearray(disk.read_at(offset, 512))
    record[446:510] = bytes(64)
    record[510:512] = b"\x55\xaa"
    for slot, kind, first, count in entries:
        struct.pack_into("<B3sB3sII", record, 446 + 16 * slot, 0, b"\xfe\xff\xff", kind, b"\xfe\xff\xff", first, count)
    disk.write_at(offset, bytes(record))
