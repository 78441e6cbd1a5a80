"""The NTFS journal ``$LogFile``: was the volume closed, or may it hold changes that are not yet in place?

Answers: "is the journal proven to hold nothing?" It replays nothing: a journal that is not proven clean makes the
used map worthless, because the allocation of a file may be in the journal only.

A volume is closed when both restart pages, at byte 0 and one page further on, say so: no client has the journal open,
or the flag "volume is clean" is set. Windows writes the two in turn, so one clean page beside another is no proof.
Version 2.0 is what Windows 8 and later write while the volume is in use; they go back to 1.1 when they close it. A
journal of 0xFF throughout was emptied by mkntfs or ntfsfix.

Source: ntfs-3g include/ntfs-3g/logfile.h ``RESTART_PAGE_HEADER``, ``RESTART_AREA`` and the comments there.
"""

import struct
from typing import Final

import numpy as np

from stillframe.block import BlockReader
from stillframe.errors import DiskFormatError
from stillframe.fs.ntfs.record import HINT, unprotect
from stillframe.fs.ntfs.stream import Stream

_PAGE_HEADER_SIZE: Final = 32
_AREA_SIZE: Final = 48
# Real system pages are 4 KiB; 64 KiB is the largest page of any Windows.
_PAGE_SIZE_MAX: Final = 64 << 10
# logfile.h: MaxLogFileSize; two restart pages and MinLogRecordPages of 4 KiB.
_LOG_SIZE_MIN: Final = 50 * 4096
_LOG_SIZE_MAX: Final = 1 << 32
_NO_CLIENT: Final = 0xFFFF
# RESTART_AREA.flags, bit 1: RESTART_VOLUME_IS_CLEAN.
_VOLUME_IS_CLEAN: Final = 0x0002
_CLEAN_VERSION: Final = (1, 1)
_READ_SIZE: Final = 1 << 20


def explain_unclean_log(reader: BlockReader, log: Stream) -> str | None:
    """Say why the journal is not proven to hold nothing; ``None`` when it is proven.

    Args:
        reader: The partition.
        log: The contents of ``$LogFile``.

    Raises:
        DiskFormatError: The journal has no clusters, or is no journal.
    """
    if not _LOG_SIZE_MIN <= log.size <= _LOG_SIZE_MAX:
        return f"a size of {log.size} bytes cannot be"
    head = log.read_at(reader, 0, _PAGE_HEADER_SIZE)
    if head == b"\xff" * len(head):
        return None if _is_emptied(reader, log) else "its restart pages are empty and its log pages are not"
    page_size = int(struct.unpack_from("<I", head, 16)[0])
    if page_size < 512 or page_size > _PAGE_SIZE_MAX or page_size & (page_size - 1):
        return f"its page size of {page_size} bytes cannot be"
    for index in range(2):
        page = log.read_at(reader, index * page_size, page_size)
        try:
            reason = _explain_unclean_page(page, index)
        except DiskFormatError as error:
            return error.message
        if reason is not None:
            return f"restart page {index}: {reason}"
    return None


def _is_emptied(reader: BlockReader, log: Stream) -> bool:
    """Whether every byte is 0xFF."""
    for offset in range(0, log.size, _READ_SIZE):
        piece = log.read_at(reader, offset, min(_READ_SIZE, log.size - offset))
        if not bool((np.frombuffer(piece, np.uint8) == 0xFF).all()):
            return False
    return True


def _explain_unclean_page(page: bytes, index: int) -> str | None:
    magic = page[:4]
    if magic not in (b"RSTR", b"CHKD"):
        return f"begins with {magic!r}"
    # chkdsk writes its pages without protection (logfile.c: "may not be protected by an update sequence array").
    bare = magic == b"CHKD" and page[6:8] == b"\0\0"
    fixed = page if bare else unprotect(page, magic=magic, what=f"$LogFile restart page {index}")
    area_offset, minor, major = struct.unpack_from("<Hhh", fixed, 24)
    if (major, minor) != _CLEAN_VERSION:
        return f"version {major}.{minor} is written while a volume is in use"
    if area_offset % 8 or not _PAGE_HEADER_SIZE <= area_offset <= len(fixed) - _AREA_SIZE:
        raise DiskFormatError(f"NTFS $LogFile restart page {index}: its area at {area_offset} leaves it", hint=HINT)
    clients, _free, in_use, flags = struct.unpack_from("<HHHH", fixed, area_offset + 8)
    if in_use != _NO_CLIENT and in_use >= clients:
        return f"client {in_use} of {clients} has it open"
    if in_use != _NO_CLIENT and not flags & _VOLUME_IS_CLEAN:
        return "the volume was in use and was not closed"
    return None
