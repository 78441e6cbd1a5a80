"""The log of an XFS: was the volume unmounted?

Answers: "would the next mount replay anything?" The end of the log is found as the kernel finds it, because its answer
is what counts: every sector of the log begins with the number of the round in which it was written, and the log ends
where the number drops. When the last record is the one that unmounting writes, nothing is replayed, and the maps on the
disk are what the next mount sees. Records are not replayed here, and their checksums not computed: the kernel does not
check the one of an unmount record either.

Sources: Linux ``fs/xfs/libxfs/xfs_log_format.h`` (``xlog_rec_header``, ``xlog_op_header``, sizes),
``fs/xfs/xfs_log_recover.c`` (``xlog_find_head``, ``xlog_find_zeroed``, ``xlog_find_verify_log_record``,
``xlog_check_unmount_rec``); "XFS Algorithms & Data Structures", chapter "Journaling Log".
"""

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillframe.block import BlockReader
from stillframe.errors import DiskFormatError
from stillframe.fs.xfs.superblock import Superblock

UNMOUNT_HINT: Final = (
    "Mount the volume once and unmount it, then back up again for a small image. "
    "Or back it up while it is mounted, with a version that can."
)

_SECTOR: Final = 512  # BBSIZE: the log counts these, whatever the sector size is
_RECORD_MAGIC: Final = 0xFEEDBABE  # XLOG_HEADER_MAGIC_NUM
_BUFFERS_MAX: Final = 8  # XLOG_MAX_ICLOGS: as many records may be on their way to the disk at once
_RECORD_SIZE_MAX: Final = {False: 32 << 10, True: 256 << 10}  # XLOG_BIG_RECORD_BSIZE, XLOG_MAX_RECORD_BSIZE for v2
_HEADER_REACH: Final = 32 << 10  # XLOG_HEADER_CYCLE_SIZE: bytes of a record for which one sector of header is enough
_VERSION_2: Final = 2  # XLOG_VERSION_2
_UNMOUNT: Final = 0x20  # XLOG_UNMOUNT_TRANS in oh_flags
_FLAGS_OFFSET: Final = 9  # of oh_flags in xlog_op_header

Rounds = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogState:
    """How a log ends.

    Attributes:
        head: Where the next record would be written, in 512-byte sectors of the log.
        is_clean: Whether the record before it says that the volume was unmounted.
    """

    head: int
    is_clean: bool


@dataclass(frozen=True, slots=True)
class _Record:
    """The header of a record, and the sector of the log it lies in."""

    place: int
    length: int
    header_sectors: int
    operations: int

    @property
    def sectors(self) -> int:
        return self.header_sectors + -(-self.length // _SECTOR)


class _Log:
    """The sectors of a log, and how far back an unfinished write can reach."""

    def __init__(self, reader: BlockReader, superblock: Superblock) -> None:
        group, first = superblock.place_of(superblock.log_start)
        self._reader = reader
        self._start = (group * superblock.group_blocks + first) * superblock.block_size
        self._uuid = superblock.uuid
        self._is_v2 = superblock.has_log_v2
        self.sectors = superblock.log_blocks * superblock.block_size // _SECTOR
        self.record_window = min(self.sectors, _RECORD_SIZE_MAX[self._is_v2] // _SECTOR)
        self.buffers_window = min(self.sectors, _BUFFERS_MAX * _RECORD_SIZE_MAX[self._is_v2] // _SECTOR)

    def read(self, sector: int) -> bytes:
        """One sector."""
        return self._reader.read_at(self._start + sector * _SECTOR, _SECTOR)

    def rounds(self, first: int, end: int) -> tuple[Rounds, NDArray[np.bool_]]:
        """The number of the round of each sector, and whether it is the header of a record."""
        raw = self._reader.read_at(self._start + first * _SECTOR, (end - first) * _SECTOR)
        words = np.frombuffer(raw, ">u4").reshape(-1, _SECTOR // 4)[:, :2].astype(np.int64)
        is_header = words[:, 0] == _RECORD_MAGIC
        return np.where(is_header, words[:, 1], words[:, 0]), is_header

    def round(self, sector: int) -> int:
        """The number of the round of one sector."""
        return int(self.rounds(sector, sector + 1)[0][0])

    def first_of_round(self, first: int, end: int, number: int) -> int | None:
        """The first sector of ``[first, end)`` written in a round; ``None`` when there is none."""
        found = np.flatnonzero(self.rounds(first, end)[0] == number)
        return first + int(found[0]) if len(found) else None

    def last_header(self, first: int, end: int) -> _Record | None:
        """The last record that begins in ``[first, end)``.

        Raises:
            DiskFormatError: It belongs to another volume.
        """
        found = np.flatnonzero(self.rounds(first, end)[1])
        if not len(found):
            return None
        place = first + int(found[-1])
        header = self.read(place)
        version, length = struct.unpack_from(">II", header, 8)
        operations, size = int.from_bytes(header[40:44], "big"), int.from_bytes(header[320:324], "big")
        if header[304:320] != self._uuid:
            raise _broken(f"the record at sector {place} carries the UUID {header[304:320].hex()}")
        is_long = self._is_v2 and version & _VERSION_2 and size > _HEADER_REACH
        return _Record(place, length, -(-size // _HEADER_REACH) if is_long else 1, operations)


def read_log_state(reader: BlockReader, superblock: Superblock) -> LogState:
    """Find the end of the log and what was written last.

    Args:
        reader: The volume.
        superblock: With its geometry checked.

    Raises:
        DiskFormatError: It is no log, or not this volume's.
    """
    log = _Log(reader, superblock)
    head = _find_head(log)
    last = log.last_header(max(head - log.record_window, 0), head) if head else None
    if last is None:  # it begins before the end of the log and ends behind its start
        last = log.last_header(max(log.sectors - log.record_window, head), log.sectors)
    if last is None:
        raise _broken(f"no record begins before its end at sector {head}")
    is_clean = False
    if (last.place + last.sectors) % log.sectors == head and last.operations == 1:
        operation = log.read((last.place + last.header_sectors) % log.sectors)
        is_clean = bool(operation[_FLAGS_OFFSET] & _UNMOUNT)
    return LogState(head=head, is_clean=is_clean)


def _find_head(log: _Log) -> int:
    """The sector after the last record that was written completely. Source: ``xlog_find_head``."""
    first, last = log.round(0), log.round(log.sectors - 1)
    if first == 0 or (last == 0 and first != 1):
        raise _broken(f"it begins with round {first} and ends with round {last}")
    if last == 0:
        return _find_head_of_new_log(log)
    window = log.buffers_window
    if first == last:
        # All is of one round, but for holes where a later write overtook an earlier one.
        head, stop = log.sectors, last - 1
    else:
        head, stop = _find_drop(log, last), last
    if head >= window:
        hole = log.first_of_round(head - window, head, stop)
    else:  # what may have been overtaken reaches back over the start of the log
        hole = log.first_of_round(log.sectors - (window - head), log.sectors, stop - 1)
        if hole is None:
            hole = log.first_of_round(0, head, stop)
    return _skip_partial_record(log, head if hole is None else hole) % log.sectors


def _find_head_of_new_log(log: _Log) -> int:
    """The end of a log that was never written to its end. Source: ``xlog_find_zeroed``."""
    head = _find_drop(log, 0)
    first = max(head - log.buffers_window, 0)
    hole = log.first_of_round(first, head, 0)
    head = head if hole is None else hole
    last = log.last_header(first, head) if head > first else None
    if last is None:
        raise _broken(f"no record begins before sector {head}")
    return head if head - last.place == last.sectors else last.place


def _find_drop(log: _Log, number: int) -> int:
    """Where a round begins that reaches to the end of the log, by bisection: holes are looked for afterwards."""
    first, last = 0, log.sectors - 1
    while last - first > 1:
        middle = (first + last) // 2
        if log.round(middle) == number:
            last = middle
        else:
            first = middle
    return last


def _skip_partial_record(log: _Log, head: int) -> int:
    """``head``, or the start of the record before it when that was not written to its end.

    Source: ``xlog_find_verify_log_record``, and what ``xlog_find_head`` does around it.
    """
    window = log.record_window
    first = max(head - window, 0)
    last = log.last_header(first, head) if head > first else None
    if last is not None:
        return head if head - last.place == last.sectors else last.place
    if head >= window:
        raise _broken(f"no record begins before sector {head}")
    last = log.last_header(log.sectors - (window - head), log.sectors)
    if last is None:
        raise _broken(f"no record begins before sector {head}")
    return head if log.sectors - last.place + head == last.sectors else last.place


def _broken(what: str) -> DiskFormatError:
    return DiskFormatError(f"XFS log: {what}", hint=UNMOUNT_HINT)
