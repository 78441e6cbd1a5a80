r"""What the first sectors of a disk and of a volume start, by their code.

Answers: "whose code is this, and what does it start?" GRUB's core image is found through the sectors that its boot code
names, expanded, and asked for what was built into it.

Sources: GNU GRUB 2.06 ``grub-core/boot/i386/pc/boot.S`` ("GRUB " in it; ``kernel_sector`` at 0x5C), ``diskboot.S`` (the
list of sectors at the end of the first one, backwards), ``startup_raw.S`` and ``include/grub/offsets.h`` (sizes at 8
and 12), ``util/mkimage.c`` (LZMA with lc 3, lp 0, pb 2, 64 KiB; modules behind the kernel); the messages of Windows'
boot sectors; libfsntfs, "Volume header" (``NTLDR`` and ``BOOTMGR`` in the code of NTFS); syslinux 6.03 ``mbr/mbr.S``,
``gptmbr.S``, ``core/diskboot.inc``; LILO ``first.S``.
"""

import lzma
import struct
from collections.abc import Iterator
from typing import Final, Literal

from stillframe.block import BlockReader
from stillframe.errors import StillframeError
from stillframe.systems.programs import GrubParts, read_modules

Code = Literal["none", "grub", "windows", "syslinux", "lilo", "other"]

_SECTOR: Final = 512
_CODE_SIZE: Final = 440
_VOLUME_CODE_SIZE: Final = 16 * _SECTOR  # the boot area of NTFS; FAT's code is in its first sectors
_SYSLINUX_START: Final = b"\x33\xc0\xfa\x8e\xd8\x8e\xd0\xbc\x00\x7c"
_WINDOWS_STARTS: Final = (
    b"\x33\xc0\x8e\xd0\xbc\x00\x7c\xfb\x50\x07",  # Windows 2000 to 2003
    b"\x33\xc0\x8e\xd0\xbc\x00\x7c\x8e\xc0\x8e",  # Windows Vista and later
)
_GRUB_KERNEL_AT: Final = 0x5C
_LIST_AT: Final = _SECTOR - 12
_CORE_SECTORS_MAX: Final = 4096
_EXPANDED_MAX: Final = 16 << 20
_STARTS_MAX: Final = 16 << 10
_MAGIC: Final = b"mimg"
_MAGICS_MAX: Final = 64
_FILTERS: Final = [{"id": lzma.FILTER_LZMA1, "lc": 3, "lp": 0, "pb": 2, "dict_size": 1 << 16}]


def name_disk_code(sector: bytes) -> Code:
    """Whose code is in the first sector of a disk."""
    code = sector[:_CODE_SIZE]
    if len(sector) < _SECTOR or sector[510:512] != b"\x55\xaa" or not any(code):
        return "none"
    if b"GRUB " in code:
        return "grub"
    if code.startswith(_SYSLINUX_START):
        return "syslinux"
    if code.startswith(_WINDOWS_STARTS) or b"Error loading operating system" in code:
        return "windows"
    return "lilo" if b"LILO" in code[:16] else "other"


def name_volume_code(head: bytes) -> tuple[Code, str]:
    """Whose code is in the first sectors of a volume, and which file it loads; empty when that cannot be told.

    Args:
        head: Its first 8 KiB, fewer at its end.
    """
    if len(head) < _SECTOR or head[510:512] != b"\x55\xaa":
        return "none", ""
    area = head[:_VOLUME_CODE_SIZE]
    if area[3:11] in (b"SYSLINUX", b"EXTLINUX"):
        return "syslinux", ""
    for name in ("BOOTMGR", "NTLDR"):
        in_wide, in_short = name.encode("utf-16-le"), name.encode().ljust(11)
        if in_wide in area or in_short in area or f"{name} is missing".encode() in area:
            return "windows", name.lower()
    if b"GRUB " in area[:_SECTOR]:
        return "grub", ""
    return "lilo" if b"LILO" in area[:16] else "other", ""


def read_grub_core(disk: BlockReader, sector: bytes) -> tuple[int, GrubParts | None]:
    """Where the core image of the GRUB in a sector begins, and what was built into it.

    Args:
        disk: The disk; the list of GRUB counts its sectors of 512 bytes.
        sector: With GRUB's boot code.

    Returns:
        The first byte of the core image, and ``None`` for what cannot be read or is not there.
    """
    start = struct.unpack_from("<Q", sector, _GRUB_KERNEL_AT)[0] * _SECTOR
    if not 0 < start <= disk.size - _SECTOR:
        return start, None
    try:
        raw = _read_core(disk, disk.read_at(start, _SECTOR))
    except StillframeError:
        return start, None
    return start, _parse_core(raw)


def _read_core(disk: BlockReader, first: bytes) -> bytes:
    """The rest of a core image, by the list in its first sector."""
    pieces, room = list[bytes](), _CORE_SECTORS_MAX
    for at in range(_LIST_AT, _SECTOR // 2, -12):
        place, count = struct.unpack_from("<QH", first, at)
        if not count or not room:
            break
        count = min(count, room)
        begin, end = place * _SECTOR, min((place + count) * _SECTOR, disk.size)
        if not 0 < begin < end:
            break
        pieces.append(disk.read_at(begin, end - begin))
        room -= count
    return b"".join(pieces)


def _parse_core(raw: bytes) -> GrubParts | None:
    if len(raw) < 0x20:
        return None
    packed, expanded = struct.unpack_from("<II", raw, 8)
    if not 0 < packed < len(raw) or not 0 < expanded <= _EXPANDED_MAX:
        return None
    # Where the packed part begins is written nowhere; it ends in the last sector, and its first byte is 0 (LZMA).
    for at in range(max(0, len(raw) - packed - _SECTOR), min(len(raw) - packed, _STARTS_MAX) + 1):
        if raw[at] == 0:
            kernel = _expand(raw[at : at + packed], expanded)
            found = next(_iter_modules(kernel), None) if kernel else None
            if found is not None:
                return found
    return None


def _expand(packed: bytes, size: int) -> bytes:
    expander = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=_FILTERS)
    try:
        kernel = expander.decompress(packed, max_length=size)
    except lzma.LZMAError:
        return b""
    return kernel if len(kernel) == size else b""


def _iter_modules(kernel: bytes) -> Iterator[GrubParts]:
    """What the modules say. Their head is behind the kernel, which holds the magic in its code too."""
    at = kernel.find(_MAGIC)
    for _ in range(_MAGICS_MAX):
        if at < 0 or at + 12 > len(kernel):
            return
        first, size = struct.unpack_from("<II", kernel, at + 4)
        if first == 12 and 12 < size <= len(kernel) - at:
            found = read_modules(lambda place, length, at=at: kernel[at + place : at + place + length], first, size)  # type: ignore[misc]
            if found is not None and (found.prefix or found.config):
                yield found
        at = kernel.find(_MAGIC, at + 1)
