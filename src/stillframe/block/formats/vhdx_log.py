"""The log of a VHDX file, replayed in memory.

Answers: "what would the tables of this file be, had it been closed properly?" A program that was stopped leaves changes
of its tables in the log. They are laid over the file here; the file itself stays as it is.

Source: [MS-VHDX] 2.3 "Log", with its algorithm for finding the active sequence (2.3.2) and replaying it (2.3.3).
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from stillframe.block.base import BlockReader, Buffer, ExtentKind, KnownExtent, WrappedReader, check_range
from stillframe.block.formats.mapped import broken
from stillframe.crc32c import crc32c
from stillframe.extents import Extent

LOG_SIZE_MAX: Final = 64 << 20
SECTOR: Final = 4096
_HEADER_SIZE: Final = 64
_DESCRIPTOR_SIZE: Final = 32
_PLACE_MAX: Final = 1 << 62
_CLAIMED_MAX: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """One entry that is whole. ``place`` and ``tail`` in bytes of the log; ``raw`` has its wrapping undone."""

    place: int
    sequence: int
    tail: int
    flushed_size: int
    last_size: int
    descriptor_count: int
    raw: bytes


@dataclass(frozen=True, slots=True)
class Change:
    """A range of the file that the log changes; ``data`` is ``None`` for zeros."""

    extent: Extent
    data: bytes | None


class ReplayedFile(WrappedReader):
    """A file with the changes of its log laid over it: a ``BlockReader``. It may be longer than the file.

    Args:
        inner: The file.
        changes: In the order in which they were made: later ones win.
        size: Bytes that the file would have.
    """

    def __init__(self, inner: BlockReader, changes: Sequence[Change], size: int) -> None:
        super().__init__(inner)
        self._changes = tuple(changes)
        self._starts = np.array([change.extent.start for change in changes], np.int64)
        self._ends = np.array([change.extent.end for change in changes], np.int64)
        self._size = size

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self._size

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill ``buffer`` from the file, then lay the changes over it; zeros behind the file's end."""
        view = memoryview(buffer).cast("B")
        check_range(self.size, offset, len(view))
        there = max(0, min(offset + len(view), self._inner.size) - offset)
        if there:
            self._inner.read_into(offset, view[:there])
        view[there:] = bytes(len(view) - there)
        asked = Extent(offset, offset + len(view))
        for number in np.flatnonzero((self._starts < asked.end) & (self._ends > asked.start)).tolist():
            change = self._changes[number]
            part = change.extent.clipped(asked)
            if part is None:
                continue
            start = part.start - change.extent.start
            new = bytes(part.size) if change.data is None else change.data[start : start + part.size]
            view[part.start - offset : part.end - offset] = new

    def known_extents(self, within: Extent) -> Iterator[KnownExtent]:
        """Everything is data: what the log changes is not worth a look."""
        check_range(self.size, within.start, within.size)
        if within.size:
            yield KnownExtent(within, ExtentKind.DATA)


def replay(file: BlockReader, path: str, place: Extent, guid: bytes) -> ReplayedFile:
    """Lay the log over a file.

    Args:
        file: The whole file.
        path: For messages.
        place: Where the log is in it; a multiple of 4096 bytes long.
        guid: Which entries are of this log.

    Raises:
        DiskFormatError: The log says that there is something to replay, and nothing of it is whole; or the file is
            shorter than the log says that it was.
    """
    log = file.read_at(place.start, place.size)
    claimed = sum(_claimed_sizes(log, guid))
    if claimed > _CLAIMED_MAX * len(log):  # all of it would be checked again and again
        raise broken(
            path, place.start, "the log", expected="entries that fit into it", found=f"{claimed} bytes of them"
        )
    sequence = find_active(log, guid)
    if not sequence:
        raise broken(path, place.start, "the log", expected="entries to replay", found="none that is whole")
    head = sequence[-1]
    if file.size < head.flushed_size:
        expected = f"a file of at least {head.flushed_size} bytes"
        raise broken(path, place.start + head.place, "the log", expected=expected, found=f"one of {file.size}")
    changes = [change for entry in sequence for change in _changes_of(entry, path, place.start)]
    return ReplayedFile(file, changes, max([file.size, head.last_size, *(change.extent.end for change in changes)]))


def find_active(log: bytes, guid: bytes) -> list[LogEntry]:
    """The entries to replay, in order; empty when there are none. Source: [MS-VHDX] 2.3.2."""
    best: list[LogEntry] = []
    tail = 0
    while True:
        sequence = list(_sequence_from(log, guid, tail))
        is_newer = sequence and (not best or sequence[-1].sequence > best[-1].sequence)
        if is_newer and _is_complete(sequence):
            best = sequence
        step = sum(len(entry.raw) for entry in sequence) or SECTOR
        following = (tail + step) % len(log)
        if following <= tail:
            break
        tail = following
    wanted = [entry.place for entry in best]
    return best[wanted.index(best[-1].tail) :] if best else []


def _claimed_sizes(log: bytes, guid: bytes) -> Iterator[int]:
    """What everything that looks like an entry says of its own size; some may be left over and overwritten in part."""
    for place in range(0, len(log), SECTOR):
        if log[place : place + 4] == b"loge" and log[place + 32 : place + 48] == guid:
            yield min(int.from_bytes(log[place + 8 : place + 12], "little"), len(log))


def _sequence_from(log: bytes, guid: bytes, place: int) -> Iterator[LogEntry]:
    """Entries that follow each other from a place on, each with the number after that of the one before."""
    wanted, passed = None, 0
    while passed < len(log):
        entry = parse_entry(log, place, guid)
        if entry is None or (wanted is not None and entry.sequence != wanted):
            return
        yield entry
        passed += len(entry.raw)
        place, wanted = (place + len(entry.raw)) % len(log), entry.sequence + 1


def _is_complete(sequence: Sequence[LogEntry]) -> bool:
    """Whether the first entry that must be replayed, by the last one, is there too."""
    return sequence[-1].tail in {entry.place for entry in sequence}


def parse_entry(log: bytes, place: int, guid: bytes) -> LogEntry | None:
    """One entry; ``None`` when there is none that is whole."""
    header = log[place : place + _HEADER_SIZE]
    if header[:4] != b"loge" or header[32:48] != guid:
        return None
    checksum, size, tail, sequence, count, _ = struct.unpack_from("<IIIQII", header, 4)
    flushed_size, last_size = struct.unpack_from("<QQ", header, 48)
    fits = SECTOR <= size <= len(log) and size % SECTOR == 0 and tail < len(log) and tail % SECTOR == 0
    if not fits or sequence == 0 or _HEADER_SIZE + count * _DESCRIPTOR_SIZE > size:
        return None
    raw = log[place : place + size]
    raw += log[: size - len(raw)]
    if crc32c(raw[:4] + bytes(4) + raw[8:]) ^ 0xFFFF_FFFF != checksum:
        return None
    if max(flushed_size, last_size) > _PLACE_MAX:
        return None
    return LogEntry(
        place=place, sequence=sequence, tail=tail, flushed_size=flushed_size, last_size=last_size,
        descriptor_count=count, raw=raw,
    )  # fmt: skip


def _changes_of(entry: LogEntry, path: str, base: int) -> Iterator[Change]:
    """What one entry changes. Source: [MS-VHDX] 2.3.1.2 to 2.3.1.4."""
    data_at = -(-(_HEADER_SIZE + entry.descriptor_count * _DESCRIPTOR_SIZE) // SECTOR) * SECTOR
    for number in range(entry.descriptor_count):
        at = _HEADER_SIZE + number * _DESCRIPTOR_SIZE
        kind, first, second, place, sequence = struct.unpack_from("<4s4s8sQQ", entry.raw, at)
        where = base + entry.place + at
        if sequence != entry.sequence or place % SECTOR or place > _PLACE_MAX:
            raise broken(path, where, "a descriptor of the log", expected=f"number {entry.sequence}", found=sequence)
        if kind == b"zero":
            size = int.from_bytes(second, "little")
            if size % SECTOR or size > _PLACE_MAX:
                raise broken(path, where, "a descriptor of zeros", expected="a multiple of 4096", found=size)
            yield Change(Extent(place, place + size), None)
        elif kind == b"desc":
            sector = entry.raw[data_at : data_at + SECTOR]
            data_at += SECTOR
            if not _is_of(sector, entry.sequence):
                expected = f"number {entry.sequence}"
                raise broken(path, where, "a sector of the log", expected=expected, found="another, or none")
            yield Change(Extent(place, place + SECTOR), second + sector[8:4092] + first)
        else:
            raise broken(path, where, "a descriptor of the log", expected="'zero' or 'desc'", found=kind)


def _is_of(sector: bytes, sequence: int) -> bool:
    """Whether a sector of data is whole and of the entry with this number."""
    number = sequence.to_bytes(8, "little")
    return len(sector) == SECTOR and sector[:4] == b"data" and sector[4092:] + sector[4:8] == number
