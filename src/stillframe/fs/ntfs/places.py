"""Where the contents of one NTFS file lie on its volume, byte by byte.

Answers: "which bytes of the volume must be written so that these bytes of the file change?" for a file in clusters of
its own, and for a small one inside its record. There the last two bytes of every 512 stand elsewhere in the record, so
writing each byte at its own place keeps the record's protection right: its update sequence number stays as it is.

Source: Linux-NTFS documentation, "FILE record", "Fixup"; ntfs-3g include/ntfs-3g/layout.h ``ATTR_TYPES``.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from stillframe.block import BlockReader
from stillframe.errors import DiskFormatError
from stillframe.fs.ntfs.boot import find_boot
from stillframe.fs.ntfs.mft import MasterFileTable, open_mft
from stillframe.fs.ntfs.record import HINT, STRIDE, AttributeType
from stillframe.fs.ntfs.stream import Stream

_REPARSE_POINT: Final = 0xC0  # layout.h AT_REPARSE_POINT: links, and files that Windows keeps compressed elsewhere
_PROTECTED_SIZE: Final = 2


class Piece(NamedTuple):
    """A piece of a file, in bytes: where in the file, where on the volume, how long."""

    offset: int
    start: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePlaces:
    """Where a file lies.

    Attributes:
        pieces: In the order of the file, without gaps from byte 0 on.
        flaw: Why it cannot be changed in place; empty when it can, and then all of it is in ``pieces``.
    """

    pieces: tuple[Piece, ...] = ()
    flaw: str = ""


def locate_contents(reader: BlockReader, number: int) -> FilePlaces:
    """Say where the main contents of a file lie.

    Args:
        reader: The partition.
        number: Of the file's first record.

    Raises:
        DiskFormatError: The volume, the record or what it says of clusters is broken.
        ReadFault: The device failed.
    """
    boot = find_boot(reader)
    if boot is None or boot.from_backup:
        raise DiskFormatError("NTFS boot sector: not found, or broken", hint=HINT)
    table = open_mft(reader, boot)
    record = table.read_record(reader, number)
    if not record.in_use or record.base.record_index:
        raise DiskFormatError(f"NTFS MFT record {number}: it is not the first one of a file", hint=HINT)
    stream = table.open_stream(reader, record, AttributeType.DATA)
    if stream is None:
        return FilePlaces(flaw="it has no contents")
    if not stream.is_plain or any(one.type == _REPARSE_POINT for one in record.attributes):
        return FilePlaces(flaw="it is compressed, encrypted or sparse")
    if stream.value is not None:
        own = record.find(AttributeType.DATA)
        if own is None or record.find(AttributeType.ATTRIBUTE_LIST) is not None:
            return FilePlaces(flaw="its contents are in a record of records")
        return FilePlaces(pieces=tuple(_inside_record(reader, table, number, own.value_at, stream.size)))
    if stream.initialised_size < stream.size:
        return FilePlaces(flaw="it was never written to its end")
    return FilePlaces(pieces=tuple(_map(stream, 0, stream.size)))


def _inside_record(
    reader: BlockReader, table: MasterFileTable, number: int, value_at: int, size: int
) -> Iterator[Piece]:
    """Pieces of a value inside record ``number``, which was parsed: its protection is right."""
    base = number * table.boot.record_size
    (array_at,) = struct.unpack("<H", table.stream.read_at(reader, base + 4, 2))
    position, end = value_at, value_at + size
    while position < end:
        sector, inside = divmod(position, STRIDE)
        plain_end = sector * STRIDE + STRIDE - _PROTECTED_SIZE
        if position < plain_end:
            stop, place = min(end, plain_end), position
        else:
            stop = min(end, plain_end + _PROTECTED_SIZE)
            place = array_at + _PROTECTED_SIZE * (sector + 1) + inside - (STRIDE - _PROTECTED_SIZE)
        for piece in _map(table.stream, base + place, stop - position):
            yield piece._replace(offset=position - value_at + piece.offset)
        position = stop


def _map(stream: Stream, offset: int, size: int) -> Iterator[Piece]:
    """Pieces of a range of a stream, counted from the beginning of the range.

    Raises:
        DiskFormatError: A part of it has no clusters.
    """
    position, end = offset, offset + size
    for start, place, length in zip(
        stream.starts.tolist(), stream.disk_starts.tolist(), stream.run_sizes.tolist(), strict=True
    ):
        stop = min(start + length, end)
        if position < stop and start <= position:
            if place < 0:
                break
            yield Piece(position - offset, place + position - start, stop - position)
            position = stop
    if position < end:
        raise DiskFormatError(f"NTFS {stream.what}: no cluster holds its byte {position}", hint=HINT)
