"""GRUB for a BIOS, as it lies on a disk: boot code, and the core image that it loads.

Answers: "does this GRUB name a file system by its id, and what must be written so that it names another?" The core
image is compressed; it is taken apart, changed, and packed again into the room that it has. All else of it stays.

Sources: GRUB 2.06 ``include/grub/i386/pc/boot.h``, ``include/grub/offsets.h``
(``GRUB_DECOMPRESSOR_I386_PC_COMPRESSED_SIZE`` and the words behind it), ``grub-core/boot/i386/pc/diskboot.S``
(block list), ``grub-core/boot/i386/pc/startup_raw.S`` (decompressor), ``util/mkimage.c`` (LZMA with lc 3, lp 0, pb 2).
"""

import lzma
import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from stillframe.block import BlockReader
from stillframe.block.edits import Edit
from stillframe.errors import DiskFormatError
from stillframe.systems.linux_ids import IdPattern

_SECTOR: Final = 512
_CODE_SIZE: Final = 440
_KERNEL_SECTOR: Final = 0x5C
_NAME: Final = b"GRUB \0"
_LIST_END: Final = _SECTOR
_LIST_ENTRY: Final = struct.Struct("<QHH")
_LIST_MAX: Final = 8
_WORDS: Final = struct.Struct("<III")
"""Compressed size, size, and how much was added for error correction."""
_WORDS_AT: Final = 0x08
_CORE_MAX: Final = 4 << 20
_KERNEL_MAX: Final = 16 << 20
_PACKED_FROM: Final = range(0x400, 0x1800, 4)
"""Where behind the decompressor the packed kernel may begin."""
_MODULES_MAGIC: Final = b"mimg"  # GRUB_MODULE_MAGIC
_FILTERS: Final = [{"id": lzma.FILTER_LZMA1, "dict_size": 1 << 24, "lc": 3, "lp": 0, "pb": 2, "preset": 9}]
_HINT: Final = "Install GRUB anew: 'grub-install' of the restored system."


@dataclass(frozen=True, slots=True, kw_only=True)
class GrubCore:
    """The core image of a GRUB for a BIOS.

    Attributes:
        offset: Where on the disk it begins behind its first sector, in bytes.
        room: All bytes that are loaded from there.
        packed_at: Where in them the packed kernel begins.
        packed_size: Its bytes.
        kernel: It, unpacked, with its modules and its first commands.
    """

    offset: int
    room: bytes
    packed_at: int
    packed_size: int
    kernel: bytes


def has_grub(sector: bytes) -> bool:
    """Whether a boot sector is one of GRUB."""
    return _NAME in sector[:_CODE_SIZE]


def read_core(disk: BlockReader) -> GrubCore | None:
    """The core image that the boot code of a disk loads; ``None`` when that is not GRUB's.

    Raises:
        DiskFormatError: It is GRUB's, and what it loads is not understood.
    """
    if disk.size < _SECTOR:
        return None
    code = disk.read_at(0, _CODE_SIZE)
    if not has_grub(code):
        return None
    first = int.from_bytes(code[_KERNEL_SECTOR : _KERNEL_SECTOR + 8], "little")
    if not 0 < first * _SECTOR < disk.size - _SECTOR:
        raise _unknown("its first sector is not on the disk")
    start, length = _read_list(disk.read_at(first * _SECTOR, _SECTOR), disk.size)
    return _unpack(start, disk.read_at(start, length))


def replace_in_core(core: GrubCore, ids: IdPattern) -> Edit | None:
    """What to write so that it names the new ids; ``None`` when it names none of the old ones.

    Raises:
        DiskFormatError: It does not fit into its room any more.
    """
    if not ids.count(core.kernel):
        return None
    packed = lzma.compress(ids.replace(core.kernel), format=lzma.FORMAT_RAW, filters=_FILTERS)
    if core.packed_at + len(packed) > len(core.room):
        raise _unknown("what it holds does not fit into its room any more")
    changed = bytearray(core.room[: core.packed_at] + packed).ljust(len(core.room), b"\0")
    _WORDS.pack_into(changed, _WORDS_AT, len(packed), len(core.kernel), 0)
    return Edit(offset=core.offset, old=core.room, new=bytes(changed))


def _read_list(sector: bytes, disk_size: int) -> tuple[int, int]:
    """First byte and length of what the first sector loads, which must lie in one piece."""
    pieces = []
    for rank in range(1, _LIST_MAX + 1):
        start, count, _ = _LIST_ENTRY.unpack_from(sector, _LIST_END - rank * _LIST_ENTRY.size)
        if not count:
            break
        pieces.append((start, count))
    total = sum(count for _, count in pieces) * _SECTOR
    first = pieces[0][0] * _SECTOR if pieces else 0
    follow = all(one[0] + one[1] == other[0] for one, other in pairwise(pieces))
    if not pieces or not follow or total > _CORE_MAX or first + total > disk_size:
        raise _unknown("it does not lie in one piece")
    return first, total


def _unpack(offset: int, room: bytes) -> GrubCore:
    packed_size, size, _ = _WORDS.unpack_from(room, _WORDS_AT)
    if not 0 < packed_size < len(room) or not 0 < size < _KERNEL_MAX:
        raise _unknown("its sizes are not possible")
    for at in _PACKED_FROM:
        try:
            unpacking = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=_FILTERS)
            kernel = unpacking.decompress(room[at : at + packed_size], max_length=size)
        except lzma.LZMAError:
            continue
        if len(kernel) == size and _MODULES_MAGIC in kernel:
            return GrubCore(offset=offset, room=room, packed_at=at, packed_size=packed_size, kernel=kernel)
    raise _unknown("what is packed in it is not found")


def _unknown(why: str) -> DiskFormatError:
    return DiskFormatError(f"the core image of GRUB is not understood: {why}", hint=_HINT)
