"""The root directory of an NTFS volume: a few files by name.

Answers: "which file has this name in the root directory?" Every block in use is looked through, in whatever order it
lies: the names looked for are plain ASCII, so no collation table is needed, and a broken tree cannot make a loop.

Source: Linux-NTFS documentation, "$INDEX_ROOT", "$INDEX_ALLOCATION", "$FILE_NAME"; ntfs-3g layout.h ``INDEX_ENTRY``.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from stillframe.block import BlockReader
from stillframe.errors import DiskFormatError
from stillframe.fs.ntfs.boot import RECORD_SIZE_MAX
from stillframe.fs.ntfs.mft import ROOT_INDEX, MasterFileTable
from stillframe.fs.ntfs.record import HINT, AttributeType, Reference, unprotect
from stillframe.fs.ntfs.stream import Stream

_NAME: Final = "$I30"
# INDEX_ROOT has 16 bytes before its INDEX_HEADER, an INDX block 24; offsets of entries count from that header.
_ROOT_HEADER: Final = 16
_BLOCK_HEADER: Final = 24
_LAST_ENTRY: Final = 0x02
# $FILE_NAME inside an entry: 16 bytes of entry header, then the name's length at 0x40 and the name at 0x42.
_NAME_COUNT, _NAME_START = 16 + 0x40, 16 + 0x42
# Two million names: a root directory beyond is not a Windows installation's.
_INDEX_SIZE_MAX: Final = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RootFile:
    """A file of the root directory, with its name as it is written there."""

    name: str
    reference: Reference


def find_in_root(reader: BlockReader, table: MasterFileTable, names: frozenset[str]) -> dict[str, RootFile]:
    """Find files of the root directory, whatever the case of their names.

    Args:
        reader: The partition.
        table: Its master file table.
        names: Lower-case ASCII names.

    Returns:
        The file of each name that exists.

    Raises:
        DiskFormatError: The directory cannot be read.
    """
    found: dict[str, RootFile] = {}
    for entries in _iter_entry_areas(reader, table):
        for name, reference in _iter_names(entries):
            lowered = name.lower()
            if lowered in names:
                found[lowered] = RootFile(name=name, reference=reference)
    return found


def _iter_entry_areas(reader: BlockReader, table: MasterFileTable) -> Iterator[bytes]:
    record = table.read_record(reader, ROOT_INDEX)
    root = table.open_stream(reader, record, AttributeType.INDEX_ROOT, _NAME)
    if not record.in_use or root is None or root.value is None:
        raise DiskFormatError("NTFS root directory: its index is missing", hint=HINT)
    yield _entry_area(root.value, _ROOT_HEADER, "root of the index")
    blocks = table.open_stream(reader, record, AttributeType.INDEX_ALLOCATION, _NAME)
    if blocks is None:
        return
    if blocks.size > _INDEX_SIZE_MAX:
        raise DiskFormatError(f"NTFS root directory: an index of {blocks.size} bytes cannot be", hint=HINT)
    size = int(struct.unpack_from("<I", root.value, 8)[0])
    if not 512 <= size <= RECORD_SIZE_MAX or size & (size - 1):
        raise DiskFormatError(f"NTFS root directory: index blocks of {size} bytes cannot be", hint=HINT)
    bits = _read_bits(reader, table.open_stream(reader, record, AttributeType.BITMAP, _NAME), blocks, size)
    for index in range(blocks.size // size):
        if bits[index // 8] >> index % 8 & 1:
            what = f"root directory, index block {index}"
            block = unprotect(blocks.read_at(reader, index * size, size), magic=b"INDX", what=what)
            yield _entry_area(block, _BLOCK_HEADER, what)


def _read_bits(reader: BlockReader, bitmap: Stream | None, blocks: Stream, size: int) -> bytes:
    """One bit for each index block that is in use."""
    needed = (blocks.size // size + 7) // 8
    if bitmap is None or bitmap.size < needed:
        raise DiskFormatError("NTFS root directory: no bitmap says which index blocks are in use", hint=HINT)
    return bitmap.read_at(reader, 0, needed)


def _entry_area(block: bytes, header: int, what: str) -> bytes:
    if header + 16 > len(block):
        raise DiskFormatError(f"NTFS {what}: {len(block)} bytes are too few", hint=HINT)
    first, used = struct.unpack_from("<II", block, header)
    if not 16 <= first <= used <= len(block) - header:
        raise DiskFormatError(f"NTFS {what}: entries from {first} to {used} leave {len(block)} bytes", hint=HINT)
    return block[header + first : header + used]


def _iter_names(entries: bytes) -> Iterator[tuple[str, Reference]]:
    offset = 0
    while True:
        if offset + 16 > len(entries):
            raise DiskFormatError("NTFS root directory: an index block has no last entry", hint=HINT)
        reference, size, _key_size, flags = struct.unpack_from("<QHHH", entries, offset)
        if size < 16 or size % 8 or offset + size > len(entries):
            raise DiskFormatError(f"NTFS root directory: entry of {size} bytes at {offset} cannot be", hint=HINT)
        if flags & _LAST_ENTRY:
            return
        if size >= _NAME_START:
            name_end = offset + _NAME_START + 2 * entries[offset + _NAME_COUNT]
            if name_end > offset + size:
                raise DiskFormatError(f"NTFS root directory: name of the entry at {offset} leaves it", hint=HINT)
            yield entries[offset + _NAME_START : name_end].decode("utf-16-le", "replace"), Reference.parse(reference)
        offset += size
