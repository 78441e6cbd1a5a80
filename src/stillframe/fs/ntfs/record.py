"""One record of the NTFS master file table, or one index block: its protection, and its attributes.

Answers: "what does this record hold?" It reads nothing and follows no reference.

Source: Linux-NTFS documentation, "FILE record", "Attributes", "Fixup"; ntfs-3g include/ntfs-3g/layout.h
``MFT_RECORD``, ``ATTR_RECORD``, ``ATTR_LIST_ENTRY``.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from stillframe.errors import DiskFormatError
from stillframe.fs.ntfs.runs import Run, decode_runs

# The update sequence protects every 512 bytes, whatever the sector size is: ntfs-3g NTFS_BLOCK_SIZE.
STRIDE: Final = 512
HINT: Final = "Run chkdsk on the volume in Windows."
# MFT_RECORD.flags, offset 0x16: MFT_RECORD_IN_USE.
_IN_USE: Final = 0x0001
# ATTR_RECORD.flags, offset 0x0C: compressed (low byte), encrypted, sparse.
_COMPRESSED, _ENCRYPTED, _SPARSE = 0x00FF, 0x4000, 0x8000
_REFERENCE_MASK: Final = (1 << 48) - 1


class AttributeType(IntEnum):
    """The attribute types this program reads (layout.h ``ATTR_TYPES``)."""

    ATTRIBUTE_LIST = 0x20
    FILE_NAME = 0x30
    VOLUME_NAME = 0x60
    VOLUME_FACTS = 0x70
    DATA = 0x80
    INDEX_ROOT = 0x90
    INDEX_ALLOCATION = 0xA0
    BITMAP = 0xB0
    END = 0xFFFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A file reference: the number of a record and the sequence number that it must have."""

    record_index: int
    sequence: int

    @classmethod
    def parse(cls, value: int) -> "Reference":
        """Split the 64-bit form."""
        return cls(record_index=value & _REFERENCE_MASK, sequence=value >> 48)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """One attribute, or the part of one that lies in this record.

    Attributes:
        type: Its type code.
        name: Its name; empty for the main one.
        value: Its contents when they lie in the record, else ``None``.
        runs: Where they lie otherwise, in clusters, in order.
        first_vcn: Number of the first cluster of ``runs`` inside the attribute; 0 unless a part.
        size, initialised_size: Bytes of the whole attribute, and how many of them were ever written.
        is_plain: Neither compressed nor encrypted nor sparse.
        value_at: Where in its record ``value`` begins; 0 when it lies elsewhere.
    """

    type: int
    name: str
    value: bytes | None
    runs: tuple[Run, ...]
    first_vcn: int
    size: int
    initialised_size: int
    is_plain: bool
    value_at: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record of the table. ``base`` has record index 0 and sequence 0 in a file's first record."""

    index: int
    sequence: int
    in_use: bool
    base: Reference
    attributes: tuple[Attribute, ...]

    def find(self, type_: AttributeType, name: str = "") -> Attribute | None:
        """The first attribute of that type and name."""
        return next((a for a in self.attributes if a.type == type_ and a.name == name), None)


def unprotect(block: bytes, *, magic: bytes, what: str) -> bytes:
    """Put the last two bytes of each 512 back in place, after checking that the block was written whole.

    Args:
        block: A FILE record, an INDX block or a log page.
        magic: Its first four bytes.
        what: What it is, for the message.

    Raises:
        DiskFormatError: It is not that kind of block, or was torn while it was written.
    """
    if len(block) < STRIDE or len(block) % STRIDE:
        raise DiskFormatError(f"NTFS {what}: {len(block)} bytes are not whole protected sectors", hint=HINT)
    array_offset, array_count = struct.unpack_from("<HH", block, 4)
    if block[:4] != magic:
        raise DiskFormatError(f"NTFS {what}: begins with {block[:4]!r}, expected {magic!r}", hint=HINT)
    array_end = array_offset + 2 * array_count
    if array_count != len(block) // STRIDE + 1 or array_offset < 8 or array_end > STRIDE - 2:
        raise DiskFormatError(
            f"NTFS {what}: update sequence of {array_count} at {array_offset} does not fit {len(block)} bytes",
            hint=HINT,
        )
    fixed = bytearray(block)
    number = block[array_offset : array_offset + 2]
    for index in range(1, array_count):
        end = index * STRIDE
        if block[end - 2 : end] != number:
            raise DiskFormatError(f"NTFS {what}: sector {index - 1} of it was not written with the others", hint=HINT)
        fixed[end - 2 : end] = block[array_offset + 2 * index : array_offset + 2 * index + 2]
    return bytes(fixed)


def parse_record(block: bytes, *, index: int) -> Record:
    """Parse one record of the table, as read from disk.

    Raises:
        DiskFormatError: It is no record, was torn, or an attribute leaves it.
    """
    what = f"MFT record {index}"
    fixed = unprotect(block, magic=b"FILE", what=what)
    sequence, _links, first, flags, used_size = struct.unpack_from("<HHHHI", fixed, 0x10)
    (base,) = struct.unpack_from("<Q", fixed, 0x20)
    if used_size > len(fixed) or first % 8 or not 0x28 <= first <= used_size:
        raise DiskFormatError(f"NTFS {what}: {used_size} bytes in use from {first} do not fit it", hint=HINT)
    return Record(
        index=index,
        sequence=sequence,
        in_use=bool(flags & _IN_USE),
        base=Reference.parse(base),
        attributes=tuple(_iter_attributes(fixed[:used_size], first, what)),
    )


def _iter_attributes(record: bytes, offset: int, what: str) -> Iterator[Attribute]:
    while True:
        if offset + 4 > len(record):
            raise DiskFormatError(f"NTFS {what}: attributes have no end", hint=HINT)
        (type_,) = struct.unpack_from("<I", record, offset)
        if type_ == AttributeType.END:
            return
        size = struct.unpack_from("<I", record, offset + 4)[0] if offset + 24 <= len(record) else 0
        if size < 24 or size % 8 or offset + size > len(record):
            raise DiskFormatError(f"NTFS {what}: attribute at {offset} of {size} bytes leaves it", hint=HINT)
        yield _parse_attribute(record[offset : offset + size], f"{what}, attribute at {offset}", place=offset)
        offset += size


def _parse_attribute(attribute: bytes, what: str, *, place: int) -> Attribute:
    type_, _size, non_resident, name_count, name_offset, flags = struct.unpack_from("<IIBBHH", attribute)
    name_end = name_offset + 2 * name_count
    if name_end > len(attribute):
        raise DiskFormatError(f"NTFS {what}: its name leaves it", hint=HINT)
    name = attribute[name_offset:name_end].decode("utf-16-le", "replace")
    # Only data is ever encoded; on an index these flags are what new files in that folder get.
    is_plain = type_ != AttributeType.DATA or not flags & (_COMPRESSED | _ENCRYPTED | _SPARSE)
    if not non_resident:
        value_size, value_offset = struct.unpack_from("<IH", attribute, 0x10)
        if value_offset + value_size > len(attribute):
            raise DiskFormatError(f"NTFS {what}: its value of {value_size} bytes leaves it", hint=HINT)
        value = attribute[value_offset : value_offset + value_size]
        return Attribute(
            type=type_, name=name, value=value, runs=(), first_vcn=0, size=value_size,
            initialised_size=value_size, is_plain=is_plain, value_at=place + value_offset,
        )  # fmt: skip
    if len(attribute) < 0x40:
        raise DiskFormatError(f"NTFS {what}: {len(attribute)} bytes are too few for a mapped one", hint=HINT)
    first_vcn, last_vcn, runs_offset = struct.unpack_from("<qqH", attribute, 0x10)
    size, initialised_size = struct.unpack_from("<qq", attribute, 0x30)
    if not 0x40 <= runs_offset <= len(attribute) or not 0 <= first_vcn <= last_vcn + 1:
        raise DiskFormatError(f"NTFS {what}: clusters {first_vcn} to {last_vcn} mapped at {runs_offset}", hint=HINT)
    if first_vcn == 0 and not 0 <= initialised_size <= size:
        raise DiskFormatError(f"NTFS {what}: size {size}, of it written {initialised_size}", hint=HINT)
    runs = decode_runs(attribute[runs_offset:], cluster_count=last_vcn + 1 - first_vcn, what=what)
    return Attribute(
        type=type_, name=name, value=None, runs=runs, first_vcn=first_vcn, size=size,
        initialised_size=initialised_size, is_plain=is_plain,
    )  # fmt: skip
