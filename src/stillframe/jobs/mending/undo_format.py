"""The file that takes a boot repair back, as bytes.

Answers: "what do these bytes of the file say?" Normative: ``docs/format/undo.md``. No files are opened here.
"""

import hashlib
import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from stillframe.errors import DamagedError, UnsupportedFormat
from stillframe.extents import Extent, ExtentSet
from stillframe.repo.records import Ranges, Size, Small, Text, Time, Word, build_record, extents_of, parse_record

MAGIC: Final = b"SFUNDO\r\n"
VERSION: Final = 1
HEAD: Final = struct.Struct("<8sII16s")
SUM_SIZE: Final = 32
RECORD_SIZE_MAX: Final = 32 << 20
_HINT: Final = "Without a whole undo file nothing is put back. Is there another copy of it?"


@dataclass(frozen=True, slots=True, kw_only=True)
class UndoRecord:
    """What a file says of itself.

    Attributes:
        created: When.
        path: Where the disk was.
        model: As ``host.disks`` reads it; empty for a file.
        serial: Likewise.
        size: Bytes of the disk.
        sector_size: The smallest piece that a disk writes whole.
        ranges: Where the disk was changed, from byte to byte, in order.
        changes: What was done, in sentences.
    """

    created: Time
    path: Text
    model: Word
    serial: Word
    size: Size
    sector_size: Small
    ranges: Ranges
    changes: tuple[Text, ...] = ()

    @property
    def extents(self) -> ExtentSet:
        """Where the disk was changed."""
        return extents_of(self.ranges)


def build_head(record: UndoRecord) -> bytes:
    """The beginning of a file, up to the contents."""
    raw = build_record(record)
    return HEAD.pack(MAGIC, VERSION, len(raw), hashlib.blake2b(raw, digest_size=16).digest()) + raw


def parse_head(raw: bytes, *, thing: str) -> int:
    """The size of the record behind a head.

    Raises:
        DamagedError: It is no undo file.
        UnsupportedFormat: It is of another version.
    """
    if len(raw) < HEAD.size or not raw.startswith(MAGIC):
        raise DamagedError(
            f"{thing} is no undo file of 'boot-repair', or its beginning is damaged",
            hint="Name the file that the repair wrote; it said which.",
        )
    _, version, size, _ = HEAD.unpack_from(raw)
    if version != VERSION:
        raise UnsupportedFormat(
            f"{thing} is of version {version}; this program knows version {VERSION}",
            hint="Use the program that made it, or a newer one.",
        )
    if size > RECORD_SIZE_MAX:
        raise damaged(thing, "its record is too long")
    return int(size)


def parse_undo_record(head: bytes, raw: bytes, *, thing: str) -> UndoRecord:
    """The record of a file.

    Args:
        head: The head.
        raw: The record behind it.
        thing: The file, for errors.

    Raises:
        DamagedError: It is not what was written.
    """
    if hashlib.blake2b(raw, digest_size=16).digest() != HEAD.unpack_from(head)[3]:
        raise damaged(thing, "its record is not what was written")
    record = parse_record(raw, UndoRecord, thing=thing)
    extents = [Extent(start, end) for start, end in record.ranges if start < end]
    ordered = all(one.end <= other.start for one, other in pairwise(extents))
    if len(extents) != len(record.ranges) or not ordered or (extents and extents[-1].end > record.size):
        raise damaged(thing, "its ranges are not in order, or lead beyond the disk")
    return record


def damaged(thing: str, words: str) -> DamagedError:
    """The error for a file that is not what was written."""
    return DamagedError(f"{thing}: {words}", hint=_HINT)
