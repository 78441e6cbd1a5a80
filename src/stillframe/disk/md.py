"""The superblock of a member of a Linux md array.

Answers: "which array is this a part of, which part, and which bytes of it are the array's?" For RAID 1 each member that
is up to date holds the whole volume. Nothing is assembled here.

Source: Linux ``include/uapi/linux/raid/md_p.h`` (``struct mdp_superblock_1``, ``mdp_superblock_s``,
``mdp_disk_s``, ``MD_FEATURE_*``), ``drivers/md/md.c`` (``super_1_load``, ``calc_sb_1_csum``, ``super_90_load``,
``calc_sb_csum``, ``calc_dev_sboffset``). Of version 0.90, which has the byte order of its machine, little-endian only.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from stillframe.block import BlockReader
from stillframe.block.edits import Edit
from stillframe.errors import DiskFormatError
from stillframe.extents import Extent

_SECTOR: Final = 512
_MAGIC: Final = 0xA92B4EFC  # MD_SB_MAGIC
_FIXED: Final = 256
_ROLES_MAX: Final = (4096 - _FIXED) // 2  # super_1_load: max_dev > (4096 - 256) / 2 is refused
_CHECKSUM_AT: Final = 216
_ROLE_MAX: Final = 0xFF00  # MD_DISK_ROLE_MAX: above are spare, faulty and journal
_OLD_SIZE: Final = 4096  # MD_SB_BYTES
_OLD_RESERVED: Final = 65536  # MD_RESERVED_BYTES
_OLD_CHECKSUM_AT: Final = 38 * 4  # sb_csum, the 7th word behind MD_SB_GENERIC_STATE_WORDS
_OLD_THIS_DISK_AT: Final = 992 * 4  # MD_SB_DESCRIPTOR_OFFSET: number, major, minor, raid_disk, state
_OLD_IN_SYNC: Final = 0b110  # MD_DISK_ACTIVE and MD_DISK_SYNC, without MD_DISK_FAULTY
_OLD_STATE_BITS: Final = 0b1111
_OLD_STATE_AT: Final = 33 * 4  # state; MD_SB_BITMAP_PRESENT is its bit 8
_OLD_DISKS_AT: Final = 128  # MD_SB_DISKS_OFFSET, in words
_OLD_DISK_WORDS: Final = 32  # MD_SB_DESCRIPTOR_WORDS
_HAS_BITMAP: Final = 1  # MD_FEATURE_BITMAP_OFFSET
_BITMAP_SIZE: Final = 256  # sizeof(bitmap_super_t)
_BITMAP_MAGIC: Final = b"bitm"  # BITMAP_MAGIC, 0x6d746962
_LEVEL_MAX: Final = 1 << 31
_MIRRORED: Final = 1
_FEATURES: Final = {
    2: "it is being rebuilt",  # MD_FEATURE_RECOVERY_OFFSET
    4: "the array is being reshaped",  # MD_FEATURE_RESHAPE_ACTIVE
    8: "it has bad blocks",  # MD_FEATURE_BAD_BLOCKS
    16: "it is a replacement that is being filled",  # MD_FEATURE_REPLACEMENT
    64: "the array is being reshaped",  # MD_FEATURE_NEW_OFFSET
    128: "it is being rebuilt",  # MD_FEATURE_RECOVERY_BITMAP
}
_KNOWN: Final = 1 | 2 | 4 | 8 | 16 | 32 | 64 | 128 | 256 | 512 | 1024 | 2048 | 4096
"""MD_FEATURE_ALL."""
_HINT: Final = "'mdadm --examine' tells more, on a restored copy."


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayMember:
    """A member of an array.

    Attributes:
        version: ``0.90``, ``1.0``, ``1.1`` or ``1.2``.
        array: The array's UUID as 32 hex digits.
        name: The array's name, such as ``host:0``; empty for 0.90.
        level: 1 for RAID 1; negative for linear and others.
        role: Its slot in the array, from 0; ``None`` for a spare or one that failed.
        events: Counts what happened to the array; a member with fewer than another is behind.
        content: The bytes of the member that are the array's; for RAID 1 only.
        refusal: Why its bytes are not, or may not be, those of the array; empty when they are.
        active: The slots of the array that some member fills, as this one knows.
        place: Where in the member its superblock begins.
    """

    version: str
    array: str
    name: str
    level: int
    role: int | None
    events: int
    content: Extent
    refusal: str = ""
    active: frozenset[int] = frozenset()
    place: int = 0


def read_member(reader: BlockReader) -> ArrayMember | None:
    """Read a partition or a disk as a member of an array.

    Returns:
        ``None`` when it has no superblock of md.

    Raises:
        DiskFormatError: It has one that is broken.
        ReadFault: The device failed.
    """
    end = (reader.size // _SECTOR - 16) // 8 * 8 * _SECTOR
    for version, place in (("1.2", 4096), ("1.1", 0), ("1.0", end)):
        if not 0 <= place <= reader.size - 4096:
            continue
        block = reader.read_at(place, 4096)
        magic, major = struct.unpack_from("<II", block)
        if magic == _MAGIC and major == 1 and int.from_bytes(block[144:152], "little") * _SECTOR == place:
            return _parse_new(block, version=version, place=place, size=reader.size)
    place = reader.size // _OLD_RESERVED * _OLD_RESERVED - _OLD_RESERVED
    if place < 0:
        return None
    block = reader.read_at(place, _OLD_SIZE)
    magic, major, minor = struct.unpack_from("<III", block)
    return _parse_old(block, place=place) if (magic, major) == (_MAGIC, 0) and minor in (90, 91) else None


def _parse_new(block: bytes, *, version: str, place: int, size: int) -> ArrayMember:
    """Version 1: offsets as in ``struct mdp_superblock_1``."""
    (features,) = struct.unpack_from("<I", block, 8)
    level, _layout, sectors = struct.unpack_from("<iIQ", block, 72)
    data_start, data_sectors = struct.unpack_from("<QQ", block, 128)
    (number,) = struct.unpack_from("<I", block, 160)
    (events,) = struct.unpack_from("<Q", block, 200)
    checksum, roles_count = struct.unpack_from("<II", block, _CHECKSUM_AT)
    where = f"md superblock {version}"
    if roles_count > _ROLES_MAX:
        raise DiskFormatError(f"{where}: expected at most {_ROLES_MAX} roles, found {roles_count}", hint=_HINT)
    if _checksum(block[: _FIXED + 2 * roles_count], _CHECKSUM_AT) != checksum:
        raise DiskFormatError(f"{where}: its checksum is wrong", hint=_HINT)
    start, end = data_start * _SECTOR, (data_start + sectors) * _SECTOR
    if level != _MIRRORED:
        start = end = 0
    elif sectors > data_sectors or not 0 <= start < end <= size:
        raise DiskFormatError(
            f"{where}: expected the array's bytes inside the {size} of the member, found {start} to {end}", hint=_HINT
        )
    roles = struct.unpack_from(f"<{roles_count}H", block, _FIXED)
    role = roles[number] if number < roles_count else 0xFFFF
    refusal = "it is a spare, or failed" if role >= _ROLE_MAX else ""
    refusal = refusal or next((words for bit, words in _FEATURES.items() if features & bit), "")
    return ArrayMember(
        version=version, array=block[16:32].hex(), name=block[32:64].split(b"\0")[0].decode("utf-8", "replace"),
        level=level, role=role if role < _ROLE_MAX else None, events=events, content=Extent(start, end),
        refusal=refusal or ("it has features that are not known" if features & ~_KNOWN else ""),
        active=frozenset(one for one in roles if one < _ROLE_MAX), place=place,
    )  # fmt: skip


def _parse_old(block: bytes, *, place: int) -> ArrayMember:
    """Version 0.90: words as in ``struct mdp_superblock_s``; its bytes begin at 0."""
    words = struct.unpack("<1024I", block)
    if _checksum(block, _OLD_CHECKSUM_AT) != words[_OLD_CHECKSUM_AT // 4]:
        raise DiskFormatError("md superblock 0.90: its checksum is wrong", hint=_HINT)
    size = words[8] * 1024
    if words[7] != _MIRRORED:
        size = 0
    elif not 0 < size <= place:
        raise DiskFormatError(
            f"md superblock 0.90: expected the array's bytes in front of byte {place}, found {size}", hint=_HINT
        )
    _number, _major, _minor, role, state = struct.unpack_from("<5I", block, _OLD_THIS_DISK_AT)
    is_active = state & _OLD_STATE_BITS == _OLD_IN_SYNC
    refusal = "" if is_active else "it is a spare, failed, or is being rebuilt"
    return ArrayMember(
        version="0.90", array=b"".join(words[at].to_bytes(4, "big") for at in (5, 13, 14, 15)).hex(), name="",
        level=words[7] if words[7] < _LEVEL_MAX else words[7] - (1 << 32), role=role if is_active else None,
        events=words[40] << 32 | words[39], content=Extent(0, size),
        refusal=refusal or ("the array is being reshaped" if words[2] == 91 else ""),
        active=frozenset(_old_roles(words)), place=place,
    )  # fmt: skip


def _old_roles(words: tuple[int, ...]) -> Iterator[int]:
    """The slots that are filled: ``disks[MD_SB_DISKS]`` of ``struct mdp_superblock_s``, 32 words each."""
    for at in range(_OLD_DISKS_AT, _OLD_THIS_DISK_AT // 4, _OLD_DISK_WORDS):
        if words[at + 4] & _OLD_STATE_BITS == _OLD_IN_SYNC:
            yield words[at + 3]


def rename_array(reader: BlockReader, member: ArrayMember, new: str) -> tuple[Edit, ...]:
    """What to write into a member so that it is one of another array.

    Args:
        reader: The member.
        member: What ``read_member`` says of it.
        new: The new UUID as 32 hex digits.

    Raises:
        DiskFormatError: Its bitmap is not where the superblock says.
        ReadFault: The device failed.

    Source: as above; ``drivers/md/md-bitmap.h`` (``bitmap_super_t``: its UUID is that of the array, without checksum).
    """
    old, fresh = reader.read_at(member.place, 4096), bytes.fromhex(new)
    block = bytearray(old)
    if member.version == "0.90":
        for at, start in zip((5, 13, 14, 15), range(0, 16, 4), strict=True):
            block[4 * at : 4 * at + 4] = fresh[start : start + 4][::-1]
        checksum_at, size = _OLD_CHECKSUM_AT, _OLD_SIZE
        bitmap = member.place + _OLD_SIZE if block[_OLD_STATE_AT + 1] & 1 else None
    else:
        block[16:32] = fresh
        checksum_at, size = _CHECKSUM_AT, _FIXED + 2 * int.from_bytes(block[220:224], "little")
        offset = int.from_bytes(block[96:100], "little", signed=True) * _SECTOR
        bitmap = member.place + offset if block[8] & _HAS_BITMAP else None
    checksum = _checksum(bytes(block[:size]), checksum_at)
    block[checksum_at : checksum_at + 4] = checksum.to_bytes(4, "little")
    edits = [Edit(offset=member.place, old=old, new=bytes(block))]
    return (*edits, _rename_bitmap(reader, bitmap, fresh, member)) if bitmap is not None else tuple(edits)


def _rename_bitmap(reader: BlockReader, place: int, fresh: bytes, member: ArrayMember) -> Edit:
    is_inside = 0 <= place <= reader.size - _BITMAP_SIZE
    old = reader.read_at(place, _BITMAP_SIZE) if is_inside else b""
    if not old.startswith(_BITMAP_MAGIC):
        raise DiskFormatError(
            f"md superblock {member.version}: expected a bitmap at byte {place}, found none", hint=_HINT
        )
    return Edit(
        offset=place, old=old, new=old[:8] + (_swapped(fresh) if member.version == "0.90" else fresh) + old[24:]
    )


def _swapped(raw: bytes) -> bytes:
    """Each word in the byte order of a little-endian machine, as 0.90 keeps them."""
    return b"".join(raw[start : start + 4][::-1] for start in range(0, len(raw), 4))


def _checksum(block: bytes, at: int) -> int:
    """The sum of all words, with the checksum taken as 0; a half word at the end counts too."""
    whole = len(block) // 4 * 4
    total = int(np.frombuffer(block, "<u4", whole // 4).astype(np.uint64).sum())
    total += int.from_bytes(block[whole:], "little") - int.from_bytes(block[at : at + 4], "little")
    return (total & 0xFFFFFFFF) + (total >> 32) & 0xFFFFFFFF
