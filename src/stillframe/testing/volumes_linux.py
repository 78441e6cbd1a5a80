"""Small volumes built from the specifications of Linux formats, for tests that another tool judges.

Answers: "what does the smallest volume look like that ``blkid`` takes for one of these?" Volumes with a real file
system in them are made by that file system's own tool inside the tests.
"""

import struct
import uuid
import zlib
from typing import Final

IDENTITY: Final = uuid.UUID("12345678-9abc-4def-8123-456789abcdef")
SIZE: Final = 2 << 20

_RAID_MAGIC: Final = 0xA92B4EFC
_LVM_CRC_SEED: Final = 0xF597A6CF  # INITIAL_CRC, LVM2 lib/misc/crc.h


def build_swap(
    *, page_size: int = 4096, pages: int = 64, label: bytes = b"", signature: bytes = b"SWAPSPACE2", order: str = "<"
) -> bytes:
    """A swap area of version 1, in the byte order of the machine that made it."""
    area = bytearray(page_size * pages)
    struct.pack_into(f"{order}III16s16s", area, 1024, 1, pages - 1, 0, IDENTITY.bytes, label)
    area[page_size - 10 : page_size] = signature.ljust(10, b"\0")
    area[page_size:] = b"\xa5" * (len(area) - page_size)
    return bytes(area)


def build_luks(version: int, *, label: bytes = b"") -> bytes:
    """The first header of LUKS 1 or 2."""
    volume = _zeros()
    volume[0:8] = b"LUKS\xba\xbe" + version.to_bytes(2, "big")
    if version == 2:
        volume[8:16] = (16384).to_bytes(8, "big")
        volume[24 : 24 + len(label)] = label
    volume[168 : 168 + 36] = str(IDENTITY).encode()
    return bytes(volume)


def build_lvm2() -> bytes:
    """An LVM2 physical volume without metadata, its label in the second sector."""
    volume = _zeros()
    label = bytearray(512)
    label[0:8] = b"LABELONE"
    label[8:16] = (1).to_bytes(8, "little")
    label[20:24] = (32).to_bytes(4, "little")
    label[24:32] = b"LVM2 001"
    label[32:64] = b"abcdefghijklmnopqrstuvwxyzABCDEF"
    check = zlib.crc32(label[20:], _LVM_CRC_SEED ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
    label[16:20] = check.to_bytes(4, "little")
    volume[512:1024] = label
    return bytes(volume)


def build_raid(version: str) -> bytes:
    """A member of an md array; ``version`` is 0.90, 1.0, 1.1 or 1.2."""
    volume = _zeros()
    if version == "0.90":
        words = struct.unpack(">4I", IDENTITY.bytes)
        place = SIZE - 65536
        struct.pack_into("<5I", volume, place, _RAID_MAGIC, 0, 90, 0, 0)
        struct.pack_into("<I", volume, place + 20, words[0])
        struct.pack_into("<3I", volume, place + 52, *words[1:])
        return bytes(volume)
    place = {"1.0": (SIZE // 512 - 16) // 8 * 8 * 512, "1.1": 0, "1.2": 4096}[version]
    block = bytearray(256)
    struct.pack_into("<4I16s32s", block, 0, _RAID_MAGIC, 1, 0, 0, IDENTITY.bytes, b"host:array")
    struct.pack_into("<Q", block, 144, place // 512)
    total = sum(struct.unpack("<64I", block))
    struct.pack_into("<I", block, 216, (total & 0xFFFFFFFF) + (total >> 32))
    volume[place : place + 256] = block
    return bytes(volume)


def build_signature(volume_type: str) -> bytes:
    """The fewest fields of one of the simpler types; ``KeyError`` for any other."""
    volume = bytearray(_SIZES.get(volume_type, SIZE))
    for offset, contents in _FIELDS[volume_type]:
        volume[offset : offset + len(contents)] = contents
    return bytes(volume)


def _zeros() -> bytearray:
    return bytearray(SIZE)


def _crc64(message: bytes) -> int:
    """Source: Linux ``lib/crc64.c``, ``crc64_be``, inverted before and after as bcache does."""
    state = (1 << 64) - 1
    for byte in message:
        state ^= byte << 56
        for _ in range(8):
            state = (state << 1 ^ (0x42F0E1EBA9EA3693 if state >> 63 else 0)) & (1 << 64) - 1
    return state ^ (1 << 64) - 1


def _bcache() -> bytes:
    block = struct.pack("<QQ16s16s16s32s", 8, 1, bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81"), IDENTITY.bytes,
                        bytes(range(16)), b"cache label").ljust(200, b"\0")  # fmt: skip
    return _crc64(block).to_bytes(8, "little") + block


_FIELDS: Final[dict[str, tuple[tuple[int, bytes], ...]]] = {
    "BitLocker": ((0, b"\xeb\x52\x90-FVE-FS-"), (510, b"\x55\xaa")),
    "BitLocker-7": ((0, b"\xeb\x58\x90-FVE-FS-"), (176, (8192).to_bytes(8, "little")), (8192, b"-FVE-FS-")),
    "BitLocker-to-go": (
        (0, b"\xeb\x58\x90MSWIN4.1"),
        (424, bytes.fromhex("3bd66749292ed84a8399f6a339e3d001") + (8192).to_bytes(8, "little")),
        (8192, b"-FVE-FS-"),
    ),
    "bcache": ((4096, _bcache()),),
    "ReFS": ((0, b"\0\0\0ReFS\0"),),
    "apfs": ((24, struct.pack("<HHHH4sI", 1, 0, 0, 0, b"NXSB", 4096)), (72, IDENTITY.bytes)),
    "f2fs": (
        (1024, struct.pack("<IHHI", 0xF2F52010, 1, 15, 9)),
        (1024 + 108, IDENTITY.bytes + "flash label".encode("utf-16-le")),
    ),
    "squashfs": ((0, b"hsqs"), (28, struct.pack("<HH", 4, 0))),
    "erofs": ((1024, bytes.fromhex("e2e1f5e0")), (1036, b"\x0c"), (1072, IDENTITY.bytes + b"read-only")),
    "jfs": (
        (32768, b"JFS1" + struct.pack("<IQIHHIH", 1, 64, 4096, 12, 3, 512, 9)),
        (32768 + 136, IDENTITY.bytes + b"jfs label"),
    ),
    "reiserfs": (
        (65536, struct.pack("<IIII", 512, 0, 0, 18)),
        (65536 + 44, struct.pack("<HHHH", 4096, 0, 0, 0) + b"ReIsEr2Fs"),
        (65536 + 84, IDENTITY.bytes + b"reiser label"),
    ),
    "hfsplus": ((1024, b"H+\0\4"), (1024 + 40, (4096).to_bytes(4, "big")), (1024 + 104, b"\1\2\3\4\5\6\7\x08")),
    "iso9660": (
        (16 * 2048, b"\1CD001\1"),
        (16 * 2048 + 40, b"DISC LABEL".ljust(32)),
        (16 * 2048 + 813, b"2024031507305900\0" * 2),
        (17 * 2048, b"\xffCD001\1"),
    ),
    "zfs_member": tuple((128 * 1024 + number * 1024, struct.pack("<QQ", 0x00BAB10C, 5000)) for number in range(8)),
}

_SIZES: Final = {"jfs": 16 << 20, "zfs_member": 64 << 20}
"""blkid takes nothing smaller for one of these."""

SIGNATURE_TYPES: Final = tuple(_FIELDS)
