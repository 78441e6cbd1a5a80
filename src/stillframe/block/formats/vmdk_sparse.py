"""A sparse file of VMware: a directory leads to tables, and these to grains, which may be compressed.

Answers: "where in the file is this byte of its part of the disk?"

Source: VMware Virtual Disks, Virtual Disk Format 5.0, "Hosted Sparse Extents" and "Stream-Optimized Compressed Sparse
Extents"; QEMU block/vmdk.c for grains that are marked as zeros.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from stillframe.block.base import BlockReader
from stillframe.block.formats.mapped import Run, RunKind, TableCache, broken, read_exactly, unsupported
from stillframe.block.formats.sectors import iter_present
from stillframe.errors import DiskFormatError
from stillframe.extents import Extent

MAGIC: Final = b"KDMV"
_HEADER_SIZE: Final = 512
_SECTOR: Final = 512
_NEWLINES: Final = b"\n \r\n"
_HAS_NEWLINES, _HAS_ZERO_GRAINS, _IS_PACKED, _HAS_MARKERS = 1, 1 << 2, 1 << 16, 1 << 17
_AT_END: Final = (1 << 64) - 1  # GD_AT_END: the directory is known at the end of the stream only
_DEFLATE: Final = 1
_ENTRIES_MAX: Final = 512  # QEMU takes no more either
_GRAIN_MAX: Final = 64 << 20
_DIRECTORY_MAX: Final = 64 << 20
_SECTORS_MAX: Final = 1 << 50
_DESCRIPTOR_MAX: Final = 1 << 20
_TABLES_KEPT: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseHeader:
    """The header. Sizes and offsets in bytes; ``entries`` of a table."""

    size: int
    grain_size: int
    entries: int
    directory_offset: int
    descriptor: Extent
    has_zero_grains: bool
    is_packed: bool
    has_markers: bool

    @property
    def table_reach(self) -> int:
        """Bytes of the disk that one table describes."""
        return self.grain_size * self.entries

    @property
    def table_count(self) -> int:
        """Tables of the whole."""
        return -(-self.size // self.table_reach)


def parse_sparse_header(file: BlockReader, path: str) -> SparseHeader:
    """Parse the header, or that at the end of a stream.

    Raises:
        DiskFormatError: With what is wrong, or not read.
    """
    header = _parse_header(file, path, 0)
    if header.directory_offset != _AT_END * _SECTOR:
        return header
    # The last three sectors: the footer's marker, the footer, and the marker of the end.
    footer = _parse_header(file, path, file.size - 2 * _SECTOR)
    if footer.directory_offset == _AT_END * _SECTOR or replace(footer, directory_offset=0) != replace(
        header, directory_offset=0
    ):
        raise broken(path, file.size - 2 * _SECTOR, "the footer", expected="a copy of the header", found="another one")
    return footer


def _parse_header(file: BlockReader, path: str, place: int) -> SparseHeader:
    raw = read_exactly(file, path, place, _HEADER_SIZE, what="the header")
    magic, version, flags, capacity, grain, text_at, text_size, entries, _, directory = struct.unpack_from(
        "<4sIIQQQQIQQ", raw
    )
    if magic != MAGIC:
        raise broken(path, place, "the header of a sparse file", expected=MAGIC, found=magic)
    if version not in (1, 2, 3):
        raise unsupported(
            path, f"it is VMDK version {version}", "Convert it with 'qemu-img convert', or export it again."
        )
    if flags & _HAS_NEWLINES and raw[73:77] != _NEWLINES:
        raise DiskFormatError(
            f"{path}: its line ends were changed, as a transfer as text does",
            hint="Copy it again in binary mode: it is damaged in many places.",
        )
    packing = int.from_bytes(raw[77:79], "little")
    is_packed = bool(flags & _IS_PACKED)
    if is_packed and packing != _DEFLATE:
        raise broken(path, place + 77, "the method of compression", expected=_DEFLATE, found=packing)
    grain_size = grain * _SECTOR
    if not _SECTOR <= grain_size <= _GRAIN_MAX or not 0 < entries <= _ENTRIES_MAX:
        expected = f"1 to {_ENTRIES_MAX} grains of at most {_GRAIN_MAX} bytes"
        raise broken(path, place + 20, "the size of a table", expected=expected, found=f"{entries} of {grain_size}")
    if not 0 < capacity <= _SECTORS_MAX or -(-capacity // (grain * entries)) * 4 > _DIRECTORY_MAX:
        raise broken(path, place + 12, "the size of the disk", expected="at most 2^50 sectors", found=capacity)
    if text_size * _SECTOR > _DESCRIPTOR_MAX:
        raise broken(path, place + 36, "the descriptor", expected=f"at most {_DESCRIPTOR_MAX} bytes", found=text_size)
    return SparseHeader(
        size=capacity * _SECTOR, grain_size=grain_size, entries=entries, directory_offset=directory * _SECTOR,
        descriptor=Extent(text_at * _SECTOR, (text_at + text_size) * _SECTOR),
        has_zero_grains=bool(flags & _HAS_ZERO_GRAINS), is_packed=is_packed, has_markers=bool(flags & _HAS_MARKERS),
    )  # fmt: skip


def read_embedded(file: BlockReader, path: str, header: SparseHeader) -> bytes:
    """The descriptor inside of a sparse file.

    Raises:
        DiskFormatError: There is none: it is a part of a disk in several files.
    """
    place = header.descriptor
    raw = read_exactly(file, path, place.start, place.size, what="the descriptor") if place.start else b""
    if not raw.strip(b"\0 \r\n"):
        raise DiskFormatError(
            f"{path} is one part of a disk in several files",
            hint="Name the small VMDK file beside it that is plain text and lists the parts.",
        )
    return raw


class SparseMap:
    """A ``DiskMap``.

    Args:
        file: The sparse file.
        header: As it was parsed.
        path: For messages.
        has_parent: What is not here shows through from below.
    """

    def __init__(self, file: BlockReader, header: SparseHeader, *, path: str, has_parent: bool) -> None:
        self._file = file
        self._header = header
        self._path = path
        self._missing = RunKind.BELOW if has_parent else RunKind.ZERO
        size = header.table_count * 4
        raw = read_exactly(file, path, header.directory_offset, size, what="the directory")
        self._directory = np.frombuffer(raw, "<u4").astype(np.int64)
        self._is_missing = self._directory == 0
        self._tables = TableCache(self._load_table, kept_max=_TABLES_KEPT)

    def runs(self, within: Extent) -> Iterator[Run]:
        """Runs of grains, table by table."""
        for number, _, here in iter_present(self._is_missing, self._header.table_reach, within):
            if number is None:
                yield Run(here, self._missing)
            else:
                yield from self._runs_of_table(here, number)

    def unpack(self, block: int) -> bytes:
        """Expand a grain; ``block`` is its number."""
        header = self._header
        table, number = divmod(block, header.entries)
        place = int(self._tables.get(table)[number]) * _SECTOR
        size = min(2 * header.grain_size, self._file.size - place)
        if header.has_markers:
            marker = read_exactly(self._file, self._path, place, 12, what=f"the marker of grain {block}")
            lba, size = struct.unpack("<QI", marker)
            if lba * _SECTOR != block * header.grain_size or size > 2 * header.grain_size:
                expected = f"sector {block * header.grain_size // _SECTOR}"
                found = f"sector {lba}, {size} bytes"
                raise broken(self._path, place, f"the marker of grain {block}", expected=expected, found=found)
            place += 12
        packed = read_exactly(self._file, self._path, place, max(size, 0), what=f"grain {block}")
        try:
            data = zlib.decompressobj().decompress(packed, header.grain_size)
        except zlib.error as error:
            raise broken(self._path, place, f"grain {block}", expected="deflated bytes", found=error) from error
        wanted = min(header.grain_size, header.size - block * header.grain_size)
        if len(data) < wanted:
            raise broken(self._path, place, f"grain {block}", expected=f"{wanted} bytes", found=len(data))
        return data

    def _load_table(self, number: int) -> npt.NDArray[np.int64]:
        place = int(self._directory[number]) * _SECTOR
        raw = read_exactly(self._file, self._path, place, self._header.entries * 4, what=f"table {number}")
        return np.frombuffer(raw, "<u4").astype(np.int64)

    def _runs_of_table(self, within: Extent, number: int) -> Iterator[Run]:
        """Neighbours of one kind, and of one place after the other, are one run."""
        header = self._header
        size, base = header.grain_size, number * header.entries
        first, last = within.start // size, -(-within.end // size)
        entries = self._tables.get(number)[first - base : last - base]
        is_zero = (entries == 1) & header.has_zero_grains
        kinds = np.where(entries == 0, _MISSING, np.where(is_zero, _ZERO, _HERE))
        joined = (kinds[1:] == kinds[:-1]) & ((kinds[1:] != _HERE) | (np.diff(entries) * _SECTOR == size))
        if header.is_packed:
            joined &= kinds[1:] != _HERE
        edges = [0, *(np.flatnonzero(~joined) + 1).tolist(), len(entries)]
        for start, end in pairwise(edges):
            extent = Extent((first + start) * size, (first + end) * size).clipped(within)
            if extent is not None:
                yield self._run(extent, int(kinds[start]), first + start, int(entries[start]) * _SECTOR)

    def _run(self, extent: Extent, kind: int, grain: int, place: int) -> Run:
        if kind != _HERE:
            return Run(extent, self._missing if kind == _MISSING else RunKind.ZERO)
        skip = extent.start - grain * self._header.grain_size
        if self._header.is_packed:
            return Run(extent, RunKind.PACKED, place=grain, skip=skip)
        if place + skip + extent.size > self._file.size:
            expected = f"{extent.size} bytes"
            raise broken(self._path, place + skip, f"grain {grain}", expected=expected, found="the end of the file")
        return Run(extent, RunKind.STORED, place=place + skip, source=self._file)


_MISSING, _ZERO, _HERE = range(3)
