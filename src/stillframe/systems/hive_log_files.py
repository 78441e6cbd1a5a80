r"""The transaction logs of a file of the Windows registry: what they hold, without what it means for the hive.

Answers: "which pages wait in this log, and is it whole?" Every number is bounded before it is used. Of the new format
(Windows 8.1 and later) the entries up to the first that is not whole are given, because what is behind it is left from
earlier. The old format has no sums: such a log is all there, or it is refused.

Source: "Windows registry file format specification", github.com/msuhanov/regf, section "Format of transaction log
files". Marvin32: Niels Ferguson's hash as in .NET, ``System/Marvin.cs``.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from stillframe.errors import DiskFormatError
from stillframe.systems.hive_cells import HIVE_SIZE_MAX, seal_base, u32
from stillframe.units import align_up

LOG_SIZE_MAX: Final = 128 << 20
"""Bytes of a log that is looked at; those of the largest known hives have some ten million."""
SECTOR_SIZE: Final = 512
"""Of a log, whatever the disk has."""
PAGE_STEP: Final = 4096
SIGNATURE: Final = b"regf"
KIND_AT, ROOT_AT, BINS_SIZE_AT, CLUSTER_AT, FLAGS_AT = 28, 36, 40, 44, 144
KIND_ENTRIES: Final = 6
"""A log of the new format."""
_KINDS_OLD: Final = (1, 2)  # 2: Windows 2000 and before
_ENTRY: Final = struct.Struct("<4sIIIIIQQ")  # signature, size, flags, sequence, bins' size, pages, hash 1, hash 2
_ENTRY_SIGNATURE: Final = b"HvLE"
_DIRTY_SIGNATURE: Final = b"DIRT"
_DIRTY_PAGE_SIZE: Final = 512
_SEED: Final = 0x82EF4D887A4E55C5
_WORD: Final = 0xFFFFFFFF
_HINT: Final = "Start that Windows once and shut it down; it repairs its registry itself."


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPage:
    """Bytes that wait to be written to a hive.

    Attributes:
        at: Where in the file of the hive they belong.
        data: The bytes.
    """

    at: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """What belongs together: all of it is applied, or nothing.

    Attributes:
        sequence: Its number.
        flags: Of the base block, as far as they are kept here; ``None`` when they are not.
        bins_size: Bytes of the hive behind its base block, once it is applied.
        pages: In the order in which they are written.
    """

    sequence: int
    flags: int | None
    bins_size: int
    pages: tuple[LogPage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFile:
    """One log.

    Attributes:
        base: Its first sector: most of the base block of the hive, as it was in memory.
        is_new: Whether it is of the new format.
        sequence: The number in its base block; that of its first entry.
        entries: Those that are whole, in order; exactly one for the old format.
    """

    base: bytes
    is_new: bool
    sequence: int
    entries: tuple[LogEntry, ...]

    @property
    def written(self) -> int:
        """When the hive was last written, by its base block, in units of 100 ns since 1601."""
        return int.from_bytes(self.base[12:20], "little")


def parse_log(raw: bytes) -> LogFile | None:
    """One log; ``None`` for one that Windows has not used yet.

    Raises:
        DiskFormatError: It is not whole, or of a kind that is not known here.
    """
    if not any(raw[: 2 * SECTOR_SIZE]):
        return None
    base = raw[:SECTOR_SIZE]
    if len(raw) > LOG_SIZE_MAX or len(base) < SECTOR_SIZE or base[:4] != SIGNATURE or not is_sealed(base):
        raise refuse("a log of it begins with no base block that is whole")
    kind, sequence = u32(base, KIND_AT), u32(base, 4)
    if sequence != u32(base, 8):
        raise refuse("a log of it was being written itself")
    if kind == KIND_ENTRIES:
        return LogFile(base=base, is_new=True, sequence=sequence, entries=tuple(_iter_entries(raw, sequence)))
    if kind not in _KINDS_OLD or u32(base, CLUSTER_AT) != 1:
        raise refuse(f"a log of it is of kind {kind}, in sectors of {u32(base, CLUSTER_AT)} times 512 bytes")
    return LogFile(base=base, is_new=False, sequence=sequence, entries=(_parse_dirty_pages(raw, sequence),))


def iter_sequences(raw: bytes) -> Iterator[int]:
    """Every sequence number that a log has, in its base block and in entries, also in those left from earlier."""
    if raw[:4] == SIGNATURE and len(raw) >= SECTOR_SIZE:
        yield u32(raw, 4)
        yield u32(raw, 8)
    at = raw.find(_ENTRY_SIGNATURE, SECTOR_SIZE, LOG_SIZE_MAX)
    while at >= 0:
        head = raw[at : at + _ENTRY.size]
        if at % SECTOR_SIZE == 0 and _is_head(head):
            yield u32(head, 12)
        at = raw.find(_ENTRY_SIGNATURE, at + 1, LOG_SIZE_MAX)


def is_sealed(base: bytes) -> bool:
    """Whether the checksum of a base block is right."""
    return bytes(seal_base(bytearray(base[:SECTOR_SIZE]))) == base[:SECTOR_SIZE]


def marvin32(data: bytes, seed: int = _SEED) -> int:
    """The hash that Windows keeps of an entry, 64 bits."""
    low, high = seed & _WORD, seed >> 32
    padded = data + b"\x80" + bytes(3 - len(data) % 4)
    for (word,) in (*struct.iter_unpack("<I", padded), (0,)):
        low = (low + word) & _WORD
        high ^= low
        low = ((low << 20 | low >> 12) + high) & _WORD
        high = (high << 9 | high >> 23) & _WORD ^ low
        low = ((low << 27 | low >> 5) + high) & _WORD
        high = (high << 19 | high >> 13) & _WORD
    return high << 32 | low


def refuse(what: str) -> DiskFormatError:
    """A hive whose logs are not applied."""
    return DiskFormatError(f"Windows registry: it was not closed, and {what}", hint=_HINT)


def _iter_entries(raw: bytes, sequence: int) -> Iterator[LogEntry]:
    """Source: as above, "Log entries", notes 7 and 8: what is not whole ends it."""
    at = SECTOR_SIZE
    while True:
        head = raw[at : at + _ENTRY.size]
        if not _is_head(head):
            return
        _, size, flags, number, bins_size, count, hash_1, _ = _ENTRY.unpack(head)
        is_placed = size and size % SECTOR_SIZE == 0 and size <= len(raw) - at
        if not is_placed or number != sequence or not bins_size or bins_size % PAGE_STEP:
            return
        rest = raw[at + _ENTRY.size : at + size]
        if marvin32(rest) != hash_1:
            return
        pages = tuple(_iter_pages(rest, count, bins_size))
        yield LogEntry(sequence=number, flags=flags, bins_size=bins_size, pages=pages)
        at, sequence = at + size, (sequence + 1) & _WORD


def _is_head(head: bytes) -> bool:
    """Whether these are the first 40 bytes of an entry, unchanged."""
    return len(head) == _ENTRY.size and head[:4] == _ENTRY_SIGNATURE and marvin32(head[:32]) == _ENTRY.unpack(head)[7]


def _iter_pages(rest: bytes, count: int, bins_size: int) -> Iterator[LogPage]:
    """The pages of an entry whose hashes are right; what does not fit then is no accident of writing, and refused."""
    if not 0 < count <= len(rest) // 8 or bins_size > HIVE_SIZE_MAX - PAGE_STEP:
        raise refuse(f"an entry of its log says {count} pages of {bins_size} bytes")
    start = 8 * count
    for index in range(count):
        offset, size = u32(rest, 8 * index), u32(rest, 8 * index + 4)
        if not size or size > len(rest) - start or offset > bins_size - size:
            raise refuse(f"an entry of its log has {size} bytes for {offset:#x}, where they do not fit")
        yield LogPage(at=PAGE_STEP + offset, data=rest[start : start + size])
        start += size


def _parse_dirty_pages(raw: bytes, sequence: int) -> LogEntry:
    """Source: as above, "Dirty vector" and "Dirty pages"."""
    bins_size = u32(raw, BINS_SIZE_AT)
    start, bits = SECTOR_SIZE + len(_DIRTY_SIGNATURE), bins_size // _DIRTY_PAGE_SIZE
    if not bins_size or bins_size % PAGE_STEP or bins_size > HIVE_SIZE_MAX - PAGE_STEP or start + bits // 8 > len(raw):
        raise refuse(f"its log says that it has {bins_size} bytes")
    if raw[SECTOR_SIZE:start] != _DIRTY_SIGNATURE:
        raise refuse("its log does not say which pages wait in it")
    marks = raw[start : start + bits // 8]
    marked = [8 * index + bit for index, mark in enumerate(marks) if mark for bit in range(8) if mark >> bit & 1]
    pages_at = align_up(start + bits // 8, SECTOR_SIZE)
    if not marked or pages_at + len(marked) * _DIRTY_PAGE_SIZE > len(raw):
        raise refuse(f"its log has {len(raw)} bytes, too few for the {len(marked)} pages that it marks")
    places = [(PAGE_STEP + page * _DIRTY_PAGE_SIZE, pages_at + n * _DIRTY_PAGE_SIZE) for n, page in enumerate(marked)]
    pages = tuple(LogPage(at=to, data=raw[at : at + _DIRTY_PAGE_SIZE]) for to, at in places)
    return LogEntry(sequence=sequence, flags=None, bins_size=bins_size, pages=pages)
