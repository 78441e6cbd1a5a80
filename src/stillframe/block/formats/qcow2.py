"""QCOW2, the format of QEMU: versions 2 and 3.

Answers: "where in the file is this byte of the disk?" Two levels of tables lead to clusters. Compressed clusters (zlib
and zstd), backing files, zero clusters and external data files are read; so are files that were not closed properly:
only their reference counts may be wrong, which are not read. Snapshots inside the file and bitmaps are passed over.

Source: QEMU docs/interop/qcow2.txt.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt
import zstandard

from stillframe.block.base import BlockReader
from stillframe.block.file import FileReader, open_file_reader
from stillframe.block.formats.chain import Chain
from stillframe.block.formats.mapped import (
    Closeable,
    DiskFile,
    MappedDisk,
    Run,
    RunKind,
    TableCache,
    broken,
    read_exactly,
    unsupported,
)
from stillframe.block.formats.sectors import iter_present
from stillframe.errors import DiskFormatError
from stillframe.extents import Extent

MAGIC: Final = b"QFI\xfb"
_CLUSTER_BITS: Final = range(9, 22)  # "cluster_bits must not be less than 9"; QEMU takes 21 at most
_L1_BYTES_MAX: Final = 32 << 20  # QEMU block/qcow2.h, QCOW_MAX_L1_SIZE
_SIZE_MAX: Final = 1 << 60
_NAME_MAX: Final = 1023  # "backing_file_size must not be longer than 1023 bytes"

_DIRTY, _CORRUPT, _EXTERNAL, _COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))
_EXTERNAL_NAME: Final = 0x44415441
_BACKING_FORMAT: Final = 0xE2792ACA
_EXTENSIONS_MAX: Final = 256
_OFFSET: Final = 0x00FF_FFFF_FFFF_FE00  # bits 9 to 55
_PACKED: Final = 1 << 62
_ALL_ZERO: Final = 1
_TABLES_KEPT: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Qcow2Header:
    """What the header says. Sizes and offsets in bytes; ``l1_size`` in entries."""

    version: int
    cluster_size: int
    size: int
    l1_offset: int
    l1_size: int
    backing: str
    backing_format: str
    data_file: str
    has_data_file: bool
    is_zstd: bool

    @property
    def l2_reach(self) -> int:
        """Bytes of the disk that one second-level table describes."""
        return self.cluster_size * (self.cluster_size // 8)


def open_qcow2(file: FileReader, chain: Chain) -> DiskFile | None:
    """The disk in a QCOW2 file; ``None`` for other files.

    Raises:
        DiskFormatError: It is broken, encrypted, marked as corrupt, or uses what is not read.
    """
    if file.read_at(0, min(4, file.size)) != MAGIC:
        return None
    header = parse_header(file, file.path)
    opened: list[tuple[str, Closeable]] = [(file.path, file)]
    try:
        data = _open_data_file(header, chain, opened) if header.has_data_file else file
        below = _open_backing(header, chain, opened) if header.backing else None
        qcow2_map = Qcow2Map(file, header, data=data, path=file.path)
    except BaseException:
        for _, other in opened[1:]:
            other.close()
        raise
    return DiskFile(MappedDisk(qcow2_map, size=header.size, below=below), format_name="QCOW2", files=opened)


def parse_header(file: BlockReader, path: str) -> Qcow2Header:
    """Parse the header and its extensions.

    Raises:
        DiskFormatError: With what is wrong, or not read.
    """
    raw = read_exactly(file, path, 0, 72, what="the header")
    version, backing_offset, backing_size, cluster_bits, size, crypt, l1_size, l1_offset = struct.unpack_from(
        ">IQIIQIIQ", raw, 4
    )
    if version not in (2, 3):
        raise unsupported(path, f"it is QCOW version {version}", _CONVERT.format(path=path))
    if cluster_bits not in _CLUSTER_BITS:
        raise broken(path, 20, "the size of a cluster", expected="2^9 to 2^21 bytes", found=f"2^{cluster_bits}")
    if crypt:
        raise unsupported(path, "it is encrypted", _CONVERT.format(path=path))
    incompatible, header_length, packing = _version_3(file, path) if version == 3 else (0, 72, 0)
    _check_features(path, incompatible)
    if packing not in (0, 1):
        raise unsupported(path, f"its clusters are compressed by method {packing}", _CONVERT.format(path=path))
    cluster_size = 1 << cluster_bits
    needed = -(-size // (cluster_size * (cluster_size // 8)))
    if not 0 < size <= _SIZE_MAX:
        raise broken(path, 24, "the size of the disk", expected=f"1 to {_SIZE_MAX} bytes", found=size)
    if l1_size < needed or l1_size * 8 > _L1_BYTES_MAX or l1_offset % cluster_size:
        expected = f"at least {needed} entries of at most {_L1_BYTES_MAX} bytes, at the start of a cluster"
        raise broken(path, 36, "the first table", expected=expected, found=f"{l1_size} entries at byte {l1_offset}")
    extensions = _extensions(file, path, (header_length, backing_offset or cluster_size))
    return Qcow2Header(
        version=version, cluster_size=cluster_size, size=size, l1_offset=l1_offset, l1_size=needed,
        backing=_backing_name(file, path, backing_offset, backing_size),
        backing_format=os.fsdecode(extensions.get(_BACKING_FORMAT, b"")),
        data_file=os.fsdecode(extensions.get(_EXTERNAL_NAME, b"")), has_data_file=bool(incompatible & _EXTERNAL),
        is_zstd=packing == 1,
    )  # fmt: skip


_CONVERT: Final = "Make a raw file of it with 'qemu-img convert -O raw {path} disk.raw'."


def _version_3(file: BlockReader, path: str) -> tuple[int, int, int]:
    """Incompatible features, length of the header, and how clusters are compressed."""
    raw = read_exactly(file, path, 72, 32, what="the header of version 3")
    incompatible, length = struct.unpack_from(">Q", raw)[0], struct.unpack_from(">I", raw, 28)[0]
    if length < 104 or length % 8 or length > 4096:
        raise broken(path, 100, "the length of the header", expected="104 to 4096, in eights", found=length)
    packing = read_exactly(file, path, 104, 1, what="the compression type")[0] if length > 104 else 0
    if bool(incompatible & _COMPRESSION) != bool(packing):
        raise broken(path, 104, "the compression type", expected="one that agrees with the features", found=packing)
    return incompatible, length, packing


def _check_features(path: str, incompatible: int) -> None:
    if incompatible & _CORRUPT:
        raise DiskFormatError(
            f"{path}: QEMU marked this file as corrupt when it was last used",
            hint="Copy it, then repair the copy with 'qemu-img check -r all', and look at what it says is lost.",
        )
    unknown = incompatible & ~(_DIRTY | _EXTERNAL | _COMPRESSION)
    if unknown & _EXTENDED_L2:
        raise unsupported(path, "it has clusters in parts (extended_l2)", _CONVERT.format(path=path))
    if unknown:
        raise unsupported(path, f"it needs the features {unknown:#x}", _CONVERT.format(path=path))


def _extensions(file: BlockReader, path: str, area: tuple[int, int]) -> dict[int, bytes]:
    """Header extensions by their number; the long ones are of no use here."""
    found: dict[int, bytes] = {}
    place, end = area
    for _ in range(_EXTENSIONS_MAX):
        if place + 8 > min(file.size, end):
            break
        kind, size = struct.unpack(">II", file.read_at(place, 8))
        if kind == 0:
            break
        if size > 1 << 20:
            raise broken(path, place + 4, "the length of a header extension", expected="at most 1 MiB", found=size)
        if kind in (_BACKING_FORMAT, _EXTERNAL_NAME):
            found[kind] = read_exactly(file, path, place + 8, min(size, _NAME_MAX), what="a header extension")
        place += 8 + -(-size // 8) * 8
    return found


def _backing_name(file: BlockReader, path: str, offset: int, size: int) -> str:
    if not offset:
        return ""
    if size > _NAME_MAX:
        raise broken(path, 16, "the length of the backing file's name", expected=f"at most {_NAME_MAX}", found=size)
    return os.fsdecode(read_exactly(file, path, offset, size, what="the name of the backing file"))


def _open_data_file(header: Qcow2Header, chain: Chain, opened: list[tuple[str, Closeable]]) -> FileReader:
    """The raw file that holds the clusters of this one."""
    path = chain.beside(header.data_file)
    if not header.data_file or not os.path.isfile(path):
        raise DiskFormatError(
            f"{opened[0][0]} keeps its data in {header.data_file or 'a file without a name'}, and there is no file "
            f"{path}",
            hint="Put that file beside it.",
        )
    data = open_file_reader(path)
    opened.append((path, data))
    return data


def _open_backing(header: Qcow2Header, chain: Chain, opened: list[tuple[str, Closeable]]) -> BlockReader:
    """The file that shows through. It says its own format: what is written here may be wrong, except ``raw``."""
    name = header.backing
    if name.startswith("json:") or ("://" in name and not name.startswith("file:")):
        raise unsupported(opened[0][0], f"its backing file is {name}", _CONVERT.format(path=opened[0][0]))
    path = chain.beside(name.removeprefix("file:"))
    is_raw = header.backing_format == "raw"
    below = chain.below_raw(path, named=name) if is_raw else chain.below(path, named=name)
    opened += below.files
    return below


class Qcow2Map:
    """Where the clusters are: a ``DiskMap``.

    Args:
        file: The tables.
        header: As it was parsed.
        data: The clusters: mostly the same file.
        path: For messages.
    """

    def __init__(self, file: BlockReader, header: Qcow2Header, *, data: BlockReader, path: str) -> None:
        self._file = file
        self._header = header
        self._data = data
        self._path = path
        raw = read_exactly(file, path, header.l1_offset, header.l1_size * 8, what="the first table")
        self._l1: npt.NDArray[np.uint64] = np.frombuffer(raw, ">u8").astype(np.uint64)
        self._is_missing = (self._l1 & np.uint64(_OFFSET)) == 0
        self._tables = TableCache(self._load_table, kept_max=_TABLES_KEPT)

    def runs(self, within: Extent) -> Iterator[Run]:
        """Runs of clusters, table by table."""
        for number, _, here in iter_present(self._is_missing, self._header.l2_reach, within):
            if number is None:
                yield Run(here, RunKind.BELOW)
            else:
                yield from self._runs_of_table(here, number)

    def unpack(self, block: int) -> bytes:
        """Expand a cluster; ``block`` is its number on the disk."""
        header = self._header
        per_table = header.cluster_size // 8
        entry = int(self._tables.get(block // per_table)[block % per_table])
        bits = 62 - (header.cluster_size.bit_length() - 1 - 8)
        place = entry & ((1 << bits) - 1)
        sectors = (entry & (_PACKED - 1)) >> bits
        size = (sectors + 1) * 512 - place % 512
        size = min(size, self._file.size - place)  # the last sector need not be there in full
        if size <= 0:
            raise broken(self._path, place, f"compressed cluster {block}", expected="data", found="the file's end")
        packed = self._file.read_at(place, size)
        data = _expand(packed, header.cluster_size, is_zstd=header.is_zstd)
        if data is None or len(data) != header.cluster_size:
            found = "bytes that cannot be expanded" if data is None else f"{len(data)} bytes"
            expected = f"{header.cluster_size} bytes when expanded"
            raise broken(self._path, place, f"compressed cluster {block}", expected=expected, found=found)
        return data

    def _load_table(self, number: int) -> npt.NDArray[np.uint64]:
        place = int(self._l1[number]) & _OFFSET
        if place % self._header.cluster_size:
            raise broken(
                self._path, self._header.l1_offset + number * 8, "the place of a table",
                expected=f"a multiple of {self._header.cluster_size}", found=place,
            )  # fmt: skip
        raw = read_exactly(self._file, self._path, place, self._header.cluster_size, what="a table of clusters")
        return np.frombuffer(raw, ">u8").astype(np.uint64)

    def _runs_of_table(self, within: Extent, number: int) -> Iterator[Run]:
        """Runs in one table's reach: neighbours of one kind, and of one place after the other, are one run."""
        size = self._header.cluster_size
        base = number * (size // 8)
        first, last = within.start // size, -(-within.end // size)
        entries = self._tables.get(number)[first - base : last - base]
        kinds, places = self._judge(entries)
        steps = np.diff(places.astype(np.int64))
        joined = (kinds[1:] == kinds[:-1]) & ((kinds[1:] != _STORED) | (steps == size)) & (kinds[1:] != _PACK)
        starts = [0, *(np.flatnonzero(~joined) + 1).tolist(), len(entries)]
        for start, end in pairwise(starts):
            extent = Extent((first + start) * size, (first + end) * size).clipped(within)
            if extent is not None:
                yield self._run(extent, int(kinds[start]), first + start, int(places[start]))

    def _judge(self, entries: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint64]]:
        """Kind and place of each entry."""
        places = entries & np.uint64(_OFFSET)
        is_packed = (entries & np.uint64(_PACKED)) != 0
        is_zero = ((entries & np.uint64(_ALL_ZERO)) != 0) & ~is_packed & (self._header.version >= 3)
        # In a raw external data file a cluster may stand at byte 0; elsewhere 0 means that there is none.
        is_stored = (places != 0) | (self._header.has_data_file & ((entries >> np.uint64(63)) != 0))
        kinds = np.where(is_packed, _PACK, np.where(is_zero, _ZERO, np.where(is_stored, _STORED, _BELOW)))
        return kinds.astype(np.uint8), places

    def _run(self, extent: Extent, kind: int, cluster: int, place: int) -> Run:
        if kind in (_BELOW, _ZERO):
            return Run(extent, RunKind.BELOW if kind == _BELOW else RunKind.ZERO)
        skip = extent.start - cluster * self._header.cluster_size
        if kind == _PACK:
            if self._header.has_data_file:
                raise broken(self._path, 0, f"cluster {cluster}", expected="no compression", found="a compressed one")
            return Run(extent, RunKind.PACKED, place=cluster, skip=skip)
        if place % self._header.cluster_size or place + skip + extent.size > self._data.size:
            expected = f"the start of a cluster inside the file of {self._data.size} bytes"
            raise broken(self._path, place, f"the data of cluster {cluster}", expected=expected, found=place)
        return Run(extent, RunKind.STORED, place=place + skip, source=self._data)


_BELOW, _ZERO, _STORED, _PACK = range(4)


def _expand(packed: bytes, size: int, *, is_zstd: bool) -> bytes | None:
    """The bytes of a compressed cluster, never more than ``size``; what lies behind it is ignored."""
    try:
        if is_zstd:
            reader: BinaryIO = zstandard.ZstdDecompressor().stream_reader(packed)
            return reader.read(size)
        return zlib.decompressobj(-12).decompress(packed, size)
    except (zlib.error, zstandard.ZstdError):
        return None
