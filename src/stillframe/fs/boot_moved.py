"""Boot sectors of a volume that begins elsewhere on its disk than it says.

Answers: "which bytes of the volume name the place where it begins, and what must they say?" A BIOS starts Windows
through the number in the boot sector; one that was right before the move must be right after it. One that was not
right before is left as it is: nobody knows what it stands for.

Sources: as ``boot_place``; Microsoft FAT specification (2005), section 3.3 (BPB_BkBootSec, BPB_RsvdSecCnt); Microsoft
exFAT specification, sections 3.1.5 (PartitionOffset) and 3.4 (Boot Checksum). That NTFS keeps its copy in the sector
behind those it counts, on the disks of Windows the last of the partition: as ``fs.ntfs.boot``.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from stillframe.block import BlockReader
from stillframe.block.edits import Edit
from stillframe.events import Notice
from stillframe.fs.boot_place import SECTOR_SIZES
from stillframe.fs.exfat import compute_boot_checksum

_BOOT_SIZE: Final = 512
_SIGNATURE: Final = b"\x55\xaa"
_HIDDEN_AT: Final = 0x1C
_HIDDEN_MAX: Final = 0xFFFFFFFF
_NTFS_OEM: Final = b"NTFS    "
_EXFAT_OEM: Final = b"EXFAT   "
_EXFAT_OFFSET_AT: Final = 64
_EXFAT_SECTORS: Final = 12
_SAME: Final = (slice(0x0B, _HIDDEN_AT), slice(0x20, 0x50))
"""What a copy of a boot sector has in common with it: all that describes the volume."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootMove:
    """What must be written into a volume, in bytes of it, and what is left as it is."""

    edits: tuple[Edit, ...] = ()
    notices: tuple[Notice, ...] = ()


def move_boot_sectors(reader: BlockReader, filesystem: str, *, old_start: int, new_start: int) -> BootMove:
    """Say how the boot sectors of a volume follow it. No edit for other file systems, and for one that did not move.

    Args:
        reader: The volume, where it is now.
        filesystem: What ``registry.identify`` called it.
        old_start: Where on the disk the volume began, in bytes.
        new_start: Where it begins now.

    Raises:
        ReadFault: The device failed.
    """
    if old_start == new_start or reader.size < max(SECTOR_SIZES):
        return BootMove()
    match filesystem:
        case "ntfs" | "vfat":
            return _move_hidden_sectors(reader, filesystem, old_start, new_start)
        case "exfat":
            return _move_exfat(reader, old_start, new_start)
        case _:
            return BootMove()


def _move_hidden_sectors(reader: BlockReader, filesystem: str, old_start: int, new_start: int) -> BootMove:
    main = reader.read_at(0, _BOOT_SIZE)
    (sector_size,) = struct.unpack_from("<H", main, 0x0B)
    (said,) = struct.unpack_from("<I", main, _HIDDEN_AT)
    if not _is_boot_sector(main, filesystem) or sector_size not in SECTOR_SIZES:
        return BootMove(notices=(_not_moved("its first sector is broken"),))
    if said * sector_size != old_start:
        return BootMove(notices=(_was_wrong(said),) if said else ())
    if new_start % sector_size or new_start // sector_size > _HIDDEN_MAX:
        return BootMove(notices=(_not_moved(f"byte {new_start} cannot be written there"),))
    places = [0, *_copies(reader, filesystem, main, sector_size)]
    old, new = (struct.pack("<I", start // sector_size) for start in (old_start, new_start))
    found = [place + _HIDDEN_AT for place in places if reader.read_at(place + _HIDDEN_AT, 4) == old]
    return BootMove(edits=tuple(Edit(offset=place, old=old, new=new) for place in sorted(found)))


def _copies(reader: BlockReader, filesystem: str, main: bytes, sector_size: int) -> set[int]:
    """Where the volume keeps its boot sector a second time."""
    if filesystem == "ntfs":
        places = {struct.unpack_from("<Q", main, 0x28)[0] * sector_size, reader.size - sector_size}
    elif struct.unpack_from("<H", main, 0x16)[0]:  # BPB_FATSz16: FAT12 and FAT16 have no copy
        return set()
    else:
        number, reserved = struct.unpack_from("<H", main, 0x32)[0], struct.unpack_from("<H", main, 0x0E)[0]
        places = {number * sector_size} if 0 < number < reserved else set()
    return {
        place
        for place in places
        if _BOOT_SIZE <= place <= reader.size - _BOOT_SIZE
        and _is_copy(reader.read_at(place, _BOOT_SIZE), main, filesystem)
    }


def _is_copy(sector: bytes, main: bytes, filesystem: str) -> bool:
    return _is_boot_sector(sector, filesystem) and all(sector[part] == main[part] for part in _SAME)


def _is_boot_sector(sector: bytes, filesystem: str) -> bool:
    return sector[510:] == _SIGNATURE and (filesystem != "ntfs" or sector[3:11] == _NTFS_OEM)


def _move_exfat(reader: BlockReader, old_start: int, new_start: int) -> BootMove:
    main = reader.read_at(0, _BOOT_SIZE)
    sector_size = 1 << min(main[108], 63)
    size = _EXFAT_SECTORS * sector_size
    if main[3:11] != _EXFAT_OEM or sector_size not in SECTOR_SIZES or reader.size < 2 * size:
        return BootMove(notices=(_not_moved("its first sector is broken"),))
    edits = list[Edit]()
    for place in (0, size):
        region = reader.read_at(place, size)
        if region[3:11] != _EXFAT_OEM or region[size - sector_size :] != _checksum_sector(region, sector_size):
            return BootMove(notices=(_not_moved(f"its boot region at byte {place} is broken"),))
        (said,) = struct.unpack_from("<Q", region, _EXFAT_OFFSET_AT)
        if said * sector_size != old_start:
            return BootMove(notices=(_was_wrong(said),) if said else ())
        if new_start % sector_size:
            return BootMove(notices=(_not_moved(f"byte {new_start} cannot be written there"),))
        edits += _exfat_edits(region, place, sector_size, new_start)
    return BootMove(edits=tuple(edits))


def _exfat_edits(region: bytes, place: int, sector_size: int, new_start: int) -> Iterator[Edit]:
    changed = bytearray(region)
    struct.pack_into("<Q", changed, _EXFAT_OFFSET_AT, new_start // sector_size)
    changed[-sector_size:] = _checksum_sector(changed, sector_size)
    for part in (slice(_EXFAT_OFFSET_AT, _EXFAT_OFFSET_AT + 8), slice(len(region) - sector_size, len(region))):
        yield Edit(offset=place + part.start, old=region[part], new=bytes(changed[part]))


def _checksum_sector(region: bytes | bytearray, sector_size: int) -> bytes:
    return compute_boot_checksum(bytes(region[:-sector_size])).to_bytes(4, "little") * (sector_size // 4)


def _was_wrong(said: int) -> Notice:
    return Notice(
        code="boot-place-unknown",
        message=f"its boot sector says that it begins at sector {said}, which was not so before either; it is left",
    )


def _not_moved(why: str) -> Notice:
    return Notice(
        code="boot-place-not-moved",
        message=f"its boot sector does not learn where it begins now: {why}",
        hint="Have the volume checked by chkdsk in Windows.",
    )
