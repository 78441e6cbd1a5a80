"""The NTFS master file table: its records by number, and their attributes as streams.

Answers: "what does file number N hold, and where?" It knows no file by its path.

Source: Linux-NTFS documentation, "$MFT", "$ATTRIBUTE_LIST"; ntfs-3g include/ntfs-3g/layout.h.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from stillframe.block import BlockReader
from stillframe.errors import DiskFormatError
from stillframe.fs.ntfs.boot import NtfsBoot
from stillframe.fs.ntfs.record import HINT, Attribute, AttributeType, Record, Reference, parse_record
from stillframe.fs.ntfs.stream import Stream, join_stream

# Numbers of the system files: layout.h ``NTFS_SYSTEM_FILES``.
MFT_INDEX: Final = 0
LOG_INDEX: Final = 2
VOLUME_INDEX: Final = 3
ROOT_INDEX: Final = 5
BITMAP_INDEX: Final = 6
# An attribute list has at most 256 KiB (ntfs-3g: "attribute list exceeds 0x40000 bytes").
_LIST_SIZE_MAX: Final = 0x40000
_LIST_ENTRY_SIZE: Final = 26
# Each part is a record full of runs, a hundred or more: a table in 50,000 pieces is past anything seen.
_MFT_PART_COUNT_MAX: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterFileTable:
    """An opened table.

    Attributes:
        boot: The boot sector it was found through.
        stream: The table itself, as the contents of record 0.
        from_mirror: Whether record 0 was broken and its copy in ``$MFTMirr`` was taken.
    """

    boot: NtfsBoot
    stream: Stream
    from_mirror: bool

    @property
    def record_count(self) -> int:
        """Records that were ever written."""
        return min(self.stream.size, self.stream.initialised_size) // self.boot.record_size

    @property
    def mapped_size(self) -> int:
        """Bytes of the table whose place is known."""
        return int(self.stream.run_sizes.sum())

    def read_record(self, reader: BlockReader, index: int) -> Record:
        """Read one record.

        Raises:
            DiskFormatError: There is none of that number, or it is broken.
        """
        if not 0 <= index < self.record_count:
            raise DiskFormatError(f"NTFS MFT record {index}: the table has only {self.record_count}", hint=HINT)
        size = self.boot.record_size
        return parse_record(self.stream.read_at(reader, index * size, size), index=index)

    def read_file(self, reader: BlockReader, reference: Reference) -> Record:
        """Read the first record of a file that an index or a list names.

        Raises:
            DiskFormatError: The record is broken, not in use, or has become another file's.
        """
        record = self.read_record(reader, reference.record_index)
        if not record.in_use or record.sequence != reference.sequence:
            raise DiskFormatError(
                f"NTFS MFT record {record.index}: sequence {record.sequence}, in use {record.in_use}, "
                f"expected sequence {reference.sequence}, in use",
                hint=HINT,
            )
        return record

    def open_stream(self, reader: BlockReader, record: Record, type_: AttributeType, name: str = "") -> Stream | None:
        """Put one attribute of a file together; ``None`` when the file has none of that type and name."""
        what = f"file {record.index}, attribute {type_.name}"
        attribute_list = record.find(AttributeType.ATTRIBUTE_LIST)
        if attribute_list is None:
            part = record.find(type_, name)
            return None if part is None else join_stream(self.boot, [part], what=what)
        entries = read_attribute_list(reader, self.boot, attribute_list, record.index)
        parts = [self._find_part(reader, record, e) for e in entries if e.type == type_ and e.name == name]
        return join_stream(self.boot, parts, what=what) if parts else None

    def _find_part(self, reader: BlockReader, base: Record, entry: "ListEntry") -> Attribute:
        place = entry.reference.record_index
        holder = base if place == base.index else self.read_file(reader, entry.reference)
        return find_part(base, holder, entry)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListEntry:
    """One line of an attribute list: which part of an attribute lies in which record."""

    type: int
    name: str
    first_vcn: int
    reference: Reference


def open_mft(reader: BlockReader, boot: NtfsBoot) -> MasterFileTable:
    """Find all parts of the table. Its own record may need an attribute list, whose records lie in earlier parts.

    Raises:
        DiskFormatError: Neither record 0 nor its copy is good, or a part is missing.
    """
    record, from_mirror = _read_first_record(reader, boot)
    head = record.find(AttributeType.DATA)
    if head is None or head.value is not None or head.first_vcn or not head.is_plain:
        raise DiskFormatError("NTFS $MFT: record 0 does not say where the table begins", hint=HINT)
    parts = [head]
    table = MasterFileTable(boot=boot, stream=join_stream(boot, parts, what="$MFT"), from_mirror=from_mirror)
    attribute_list = record.find(AttributeType.ATTRIBUTE_LIST)
    entries = () if attribute_list is None else read_attribute_list(reader, boot, attribute_list, MFT_INDEX)
    for entry in entries:
        if entry.type != AttributeType.DATA or entry.name or not entry.first_vcn:
            continue
        if (entry.reference.record_index + 1) * boot.record_size > table.mapped_size:
            table = replace(table, stream=join_stream(boot, parts, what="$MFT"))
        parts.append(find_part(record, table.read_file(reader, entry.reference), entry))
        if len(parts) > _MFT_PART_COUNT_MAX:
            raise DiskFormatError(f"NTFS $MFT: more than {_MFT_PART_COUNT_MAX} parts", hint=HINT)
    table = replace(table, stream=join_stream(boot, parts, what="$MFT"))
    if (table.stream.disk_starts < 0).any():
        raise DiskFormatError("NTFS $MFT: it has a hole", hint=HINT)
    if table.stream.size > table.mapped_size or table.record_count <= BITMAP_INDEX:
        raise DiskFormatError(f"NTFS $MFT: {table.mapped_size} bytes are mapped of {table.stream.size}", hint=HINT)
    return table


def _read_first_record(reader: BlockReader, boot: NtfsBoot) -> tuple[Record, bool]:
    try:
        return _read_record_at(reader, boot, boot.mft_cluster), False
    except DiskFormatError as broken:
        try:
            return _read_record_at(reader, boot, boot.mirror_cluster), True
        except DiskFormatError:
            raise broken from None


def _read_record_at(reader: BlockReader, boot: NtfsBoot, cluster: int) -> Record:
    offset = cluster * boot.cluster_size
    if offset + boot.record_size > min(boot.size, reader.size):
        raise DiskFormatError(f"NTFS $MFT: cluster {cluster} lies outside the volume", hint=HINT)
    record = parse_record(reader.read_at(offset, boot.record_size), index=MFT_INDEX)
    if not record.in_use or record.base.record_index:
        raise DiskFormatError("NTFS $MFT: record 0 is not in use", hint=HINT)
    return record


def find_part(base: Record, holder: Record, entry: ListEntry) -> Attribute:
    """The attribute that a list entry of ``base`` says lies in ``holder``.

    Raises:
        DiskFormatError: It is not there, or the record belongs to another file.
    """
    wanted = (entry.type, entry.name, entry.first_vcn)
    if base.index in (holder.index, holder.base.record_index):
        for attribute in holder.attributes:
            if (attribute.type, attribute.name, attribute.first_vcn) == wanted:
                return attribute
    raise DiskFormatError(
        f"NTFS file {base.index}: attribute {entry.type:#x} from cluster {entry.first_vcn} is not in record "
        f"{holder.index} of file {holder.base.record_index}",
        hint=HINT,
    )


def read_attribute_list(reader: BlockReader, boot: NtfsBoot, attribute: Attribute, index: int) -> tuple[ListEntry, ...]:
    """Read the list that says in which records the attributes of file ``index`` lie.

    Raises:
        DiskFormatError: It is too long, or an entry leaves it.
    """
    what = f"file {index}, attribute list"
    stream = join_stream(boot, [attribute], what=what)
    if stream.size > _LIST_SIZE_MAX:
        raise DiskFormatError(f"NTFS {what}: {stream.size} bytes, expected at most {_LIST_SIZE_MAX}", hint=HINT)
    return tuple(_iter_entries(stream.read_at(reader, 0, stream.size), what))


def _iter_entries(raw: bytes, what: str) -> Iterator[ListEntry]:
    offset = 0
    while offset + _LIST_ENTRY_SIZE <= len(raw):
        type_, size, name_count, name_offset, vcn, reference = struct.unpack_from("<IHBBqQ", raw, offset)
        if size < _LIST_ENTRY_SIZE or size % 8 or name_offset + 2 * name_count > size or offset + size > len(raw):
            raise DiskFormatError(f"NTFS {what}: entry at {offset} of {size} bytes leaves it", hint=HINT)
        name = raw[offset + name_offset : offset + name_offset + 2 * name_count].decode("utf-16-le", "replace")
        yield ListEntry(type=type_, name=name, first_vcn=vcn, reference=Reference.parse(reference))
        offset += size
