"""The file of a kept overlay, as bytes.

Answers: "what do these bytes of the file say?" Normative: ``docs/format/overlay.md``. No files are opened here.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from stillframe.errors import DamagedError, UnsupportedFormat

PAGE_SIZE: Final = 4096
BLOCK_SIZE: Final = 64 << 10
BLOCK_PAGES: Final = BLOCK_SIZE // PAGE_SIZE
MARK_PAGES: Final = (1, 2)
FIRST_RECORD_PAGE: Final = 3
NO_PAGE: Final = 0
"""As the place of a block: it reads as zeros and takes no room."""
PAGES_MAX: Final = 1 << 40
SIZE_MAX: Final = 1 << 62

HEADER_MAGIC: Final = b"SFOVERLY"
MARK_MAGIC: Final = b"SFOVMARK"
RECORD_MAGIC: Final = b"SFOVRECD"
VERSION: Final = 1

_HEADER: Final = struct.Struct("<8sI16s16sIIQI")
_MARK: Final = struct.Struct("<8s16sQ")
_RECORD: Final = struct.Struct("<8s16sQQII")
_ENTRY: Final = struct.Struct("<QQ16s")
SUM_SIZE: Final = 16
ENTRIES_MAX: Final = (PAGE_SIZE - _RECORD.size - SUM_SIZE) // _ENTRY.size
_HINT: Final = "The image itself is whole. Use another file for '--keep', or bring back a copy of this one."


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What an overlay lies over.

    Attributes:
        image: The image's id, 16 bytes.
        disk: Number of the disk in it.
        partition: Number of the partition; 0 is the whole disk.
        size: Bytes.
    """

    image: bytes
    disk: int
    partition: int
    size: int

    @property
    def words(self) -> str:
        """As people say it."""
        part = f", partition {self.partition}" if self.partition else ""
        return f"image {self.image.hex()[:8]}, disk {self.disk}{part} ({self.size} bytes)"


@dataclass(frozen=True, slots=True)
class Entry:
    """A block of the disk, the page where its contents begin, and their checksum."""

    block: int
    page: int
    checksum: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Changes in the order in which they were kept.

    Attributes:
        sequence: Number of the record, from 1.
        next_page: Where the next record will be.
        is_last: Whether it ends what one flush kept.
        entries: What changed.
    """

    sequence: int
    next_page: int
    is_last: bool
    entries: Sequence[Entry]


def checksum(raw: bytes | bytearray | memoryview) -> bytes:
    """16 bytes of BLAKE2b. It finds damage, not forgery: whoever can write the file can write its checksums."""
    return hashlib.blake2b(raw, digest_size=SUM_SIZE).digest()


def build_header(overlay_id: bytes, subject: Subject) -> bytes:
    """The first page."""
    return _sealed(
        _HEADER.pack(
            HEADER_MAGIC, VERSION, overlay_id, subject.image, subject.disk, subject.partition, subject.size, BLOCK_SIZE
        )
    )


def parse_header(page: bytes, *, thing: str) -> tuple[bytes, Subject]:
    """The overlay's own id, and what it lies over.

    Raises:
        DamagedError: It is no overlay, or not what was written.
        UnsupportedFormat: It is of another version.
    """
    if page[: len(HEADER_MAGIC)] != HEADER_MAGIC:
        raise DamagedError(f"{thing} is no file of kept changes, or its beginning is damaged", hint=_HINT)
    magic, version, overlay_id, image, disk, partition, size, block_size = _HEADER.unpack_from(page)
    if not _is_whole(page) or magic != HEADER_MAGIC:
        raise damage(thing, "its beginning is not what was written")
    if version != VERSION or block_size != BLOCK_SIZE:
        raise UnsupportedFormat(
            f"{thing} is of version {version} with blocks of {block_size} bytes; this program knows version {VERSION} "
            f"with {BLOCK_SIZE}",
            hint="Use the program that made it, or a newer one.",
        )
    if size > SIZE_MAX:
        raise damage(thing, f"it speaks of a disk of {size} bytes")
    return overlay_id, Subject(image=image, disk=disk, partition=partition, size=size)


def build_mark(overlay_id: bytes, sequence: int) -> bytes:
    """A page that says how many records were kept."""
    return _sealed(_MARK.pack(MARK_MAGIC, overlay_id, sequence))


def parse_mark(page: bytes, overlay_id: bytes) -> int | None:
    """How many records were kept; ``None`` when the page is not whole."""
    if len(page) != PAGE_SIZE or not _is_whole(page):
        return None
    magic, found_id, sequence = _MARK.unpack_from(page)
    return int(sequence) if (magic, found_id) == (MARK_MAGIC, overlay_id) else None


def build_record(overlay_id: bytes, record: Record) -> bytes:
    """A page of entries, at most ``ENTRIES_MAX``."""
    head = _RECORD.pack(
        RECORD_MAGIC, overlay_id, record.sequence, record.next_page, len(record.entries), int(record.is_last)
    )
    return _sealed(head + b"".join(_ENTRY.pack(entry.block, entry.page, entry.checksum) for entry in record.entries))


def parse_record(page: bytes, overlay_id: bytes, *, sequence: int, thing: str) -> Record | None:
    """The record of a known number; ``None`` when the page is not that record, or not whole.

    Raises:
        DamagedError: It is whole, and says what cannot be.
    """
    if len(page) != PAGE_SIZE or not _is_whole(page):
        return None
    magic, found_id, number, next_page, count, is_last = _RECORD.unpack_from(page)
    if (magic, found_id, number) != (RECORD_MAGIC, overlay_id, sequence):
        return None
    if count > ENTRIES_MAX or is_last > 1 or not FIRST_RECORD_PAGE < next_page < PAGES_MAX:
        raise damage(thing, f"its record {sequence} says what cannot be")
    start, end = _RECORD.size, _RECORD.size + count * _ENTRY.size
    entries = tuple(Entry(*fields) for fields in _ENTRY.iter_unpack(page[start:end]))
    return Record(sequence=number, next_page=next_page, is_last=bool(is_last), entries=entries)


def damage(thing: str, words: str) -> DamagedError:
    """The error for a file that is not what was written."""
    return DamagedError(f"{thing}: {words}", hint=_HINT)


def _sealed(contents: bytes) -> bytes:
    padded = contents.ljust(PAGE_SIZE - SUM_SIZE, b"\0")
    return padded + checksum(padded)


def _is_whole(page: bytes) -> bool:
    return len(page) == PAGE_SIZE and checksum(page[:-SUM_SIZE]) == page[-SUM_SIZE:]
