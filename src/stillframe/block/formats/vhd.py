"""VHD, the format of Virtual PC and the older Hyper-V: fixed, dynamic and differencing.

Answers: "where in the file is this byte of the disk?" A footer stands at the end, and a copy of it at the beginning
of the two kinds that grow; either will do. The size is the one that the footer says, not that of the geometry beside
it, which may be smaller.

Source: Virtual Hard Disk Image Format Specification 1.0 (Microsoft, 2006).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from stillframe.block.base import BlockReader
from stillframe.block.file import FileReader
from stillframe.block.formats.chain import Chain
from stillframe.block.formats.mapped import DiskFile, MappedDisk, Run, RunKind, TableCache, broken, read_exactly
from stillframe.block.formats.parents import ParentHint, find_parent, require_parent
from stillframe.block.formats.sectors import Bits, iter_present, sector_runs
from stillframe.block.window import WindowReader
from stillframe.extents import Extent

COOKIE: Final = b"conectix"
_SPARSE_COOKIE: Final = b"cxsparse"
_FOOTER_SIZE: Final = 512
_OLD_FOOTER_SIZE: Final = (
    511  # "Versions previous to Microsoft Virtual PC 2004 create disk images with a 511-byte footer"
)
_HEADER_SIZE: Final = 1024
_SECTOR: Final = 512
_KINDS: Final[dict[int, Literal["fixed", "dynamic", "differencing"]]] = {2: "fixed", 3: "dynamic", 4: "differencing"}
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)  # "seconds since January 1, 2000 12:00:00 AM in UTC"
_UNUSED: Final = 0xFFFF_FFFF
_SIZE_MAX: Final = 1 << 52
_BLOCK_SIZE_MAX: Final = 1 << 30
_TABLE_MAX: Final = 64 << 20
_NAME_MAX: Final = 1 << 16
_BITMAPS_KEPT: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class VhdFooter:
    """The footer. ``size`` in bytes of the disk; ``header_offset`` in bytes of the file."""

    kind: Literal["fixed", "dynamic", "differencing"]
    size: int
    header_offset: int
    made: datetime | None
    uuid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VhdHeader:
    """The header of the kinds that grow."""

    table_offset: int
    block_count: int
    block_size: int
    parent_uuid: str
    parents: tuple[ParentHint, ...]


def open_vhd(file: FileReader, chain: Chain) -> DiskFile | None:
    """The disk in a VHD file; ``None`` for other files.

    Raises:
        DiskFormatError: It is broken, or the file that it rests on is not there or is another one.
    """
    footer = read_footer(file, file.path)
    if footer is None:
        return None
    files = [(file.path, file)]
    if footer.kind == "fixed":
        disk = WindowReader(file, Extent(0, footer.size))
        return DiskFile(disk, format_name="VHD", files=files, made=footer.made, identity=footer.uuid)
    header = parse_header(file, file.path, footer)
    vhd_map = VhdMap(file, footer, header, path=file.path)
    if footer.kind == "dynamic":
        mapped = MappedDisk(vhd_map, size=footer.size)
        return DiskFile(mapped, format_name="VHD", files=files, made=footer.made, identity=footer.uuid)
    below = find_parent(chain, header.parents)
    with require_parent(below, [header.parent_uuid], path=file.path):
        mapped = MappedDisk(vhd_map, size=footer.size, below=below)
    return DiskFile(
        mapped, format_name="VHD", files=[*files, *below.files], made=footer.made, identity=footer.uuid
    )  # fmt: skip


def read_footer(file: BlockReader, path: str) -> VhdFooter | None:
    """The footer, or its copy where it is damaged; ``None`` when neither is there.

    Raises:
        DiskFormatError: Both are damaged, or a fixed disk is longer than its file.
    """
    places = [place for place in (file.size - _FOOTER_SIZE, file.size - _OLD_FOOTER_SIZE, 0) if place >= 0]
    found = [(place, file.read_at(place, min(_FOOTER_SIZE, file.size - place))) for place in places]
    found = [(place, raw) for place, raw in found if raw.startswith(COOKIE)]
    if not found:
        return None
    footers = [footer for place, raw in found if (footer := _parse_footer(raw, path, place)) is not None]
    if not footers:
        raise broken(path, found[0][0], "the footer", expected="bytes that agree with their checksum", found="others")
    footer = footers[0]
    if footer.kind == "fixed" and footer.size > file.size - _OLD_FOOTER_SIZE:
        expected = f"a disk of at most {file.size - _OLD_FOOTER_SIZE} bytes before it"
        raise broken(path, found[0][0], "the footer", expected=expected, found=f"one of {footer.size}")
    return footer


def _parse_footer(raw: bytes, path: str, place: int) -> VhdFooter | None:
    """One footer; ``None`` when its checksum is wrong."""
    if len(raw) < _OLD_FOOTER_SIZE or not _is_sound(raw, 64):
        return None
    header_offset, seconds = struct.unpack_from(">QI", raw, 16)
    size, kind = struct.unpack_from(">Q", raw, 48)[0], struct.unpack_from(">I", raw, 60)[0]
    if kind not in _KINDS:
        raise broken(path, place + 60, "the kind of disk", expected="2, 3 or 4", found=kind)
    if not 0 < size <= _SIZE_MAX:
        raise broken(path, place + 48, "the size of the disk", expected=f"1 to {_SIZE_MAX}", found=size)
    made = _EPOCH + timedelta(seconds=seconds) if seconds else None
    return VhdFooter(kind=_KINDS[kind], size=size, header_offset=header_offset, made=made, uuid=raw[68:84].hex())


def _is_sound(raw: bytes, place: int) -> bool:
    """Whether the checksum at a place is right: the ones' complement of the sum of all other bytes."""
    wanted: int = struct.unpack_from(">I", raw, place)[0]
    total = sum(raw) - sum(raw[place : place + 4])
    return ~total & 0xFFFF_FFFF == wanted


def parse_header(file: BlockReader, path: str, footer: VhdFooter) -> VhdHeader:
    """Parse the header of a disk that grows.

    Raises:
        DiskFormatError: With what is wrong.
    """
    place = footer.header_offset
    raw = read_exactly(file, path, place, _HEADER_SIZE, what="the header of a disk that grows")
    if not raw.startswith(_SPARSE_COOKIE) or not _is_sound(raw, 36):
        raise broken(path, place, "the header", expected="'cxsparse' and the right checksum", found=raw[:8])
    table_offset, _, count, block_size = struct.unpack_from(">QIII", raw, 16)
    if block_size < _SECTOR or block_size > _BLOCK_SIZE_MAX or block_size & (block_size - 1):
        raise broken(path, place + 32, "the size of a block", expected="a power of two to 1 GiB", found=block_size)
    needed = -(-footer.size // block_size)
    if count < needed or needed * 4 > _TABLE_MAX:
        raise broken(path, place + 28, "the number of blocks", expected=f"at least {needed}", found=count)
    return VhdHeader(
        table_offset=table_offset, block_count=needed, block_size=block_size, parent_uuid=raw[40:56].hex(),
        parents=tuple(_parents(file, path, raw)) if footer.kind == "differencing" else (),
    )  # fmt: skip


def _parents(file: BlockReader, path: str, raw: bytes) -> Iterator[ParentHint]:
    """Where the file below may be, the best guess first: relative, absolute, then its bare name."""
    locators = {}
    for number in range(8):
        code, _, size, _, offset = struct.unpack_from(">4sIIIQ", raw, 576 + 24 * number)
        if code in (b"W2ru", b"W2ku") and 0 < size <= _NAME_MAX:
            locators[code] = read_exactly(file, path, offset, size, what="where its parent is")
    for code in (b"W2ru", b"W2ku"):
        if code in locators:
            name = locators[code].decode("utf-16-le", "replace").rstrip("\0")
            yield ParentHint(name=name, is_relative=code == b"W2ru")
    name = raw[64:576].decode("utf-16-be", "replace").partition("\0")[0]
    if name:
        yield ParentHint(name=name, is_relative=False)


class VhdMap:
    """Where the blocks are: a ``DiskMap``. A block is a bitmap of its sectors, then its bytes."""

    def __init__(self, file: BlockReader, footer: VhdFooter, header: VhdHeader, *, path: str) -> None:
        self._file = file
        self._header = header
        self._path = path
        self._missing = RunKind.BELOW if footer.kind == "differencing" else RunKind.ZERO
        size = header.block_count * 4
        raw = read_exactly(file, path, header.table_offset, size, what="the table of blocks")
        self._table: npt.NDArray[np.uint32] = np.frombuffer(raw, ">u4").astype(np.uint32)
        self._is_missing = self._table == _UNUSED
        self._bitmap_size = -(-(header.block_size // _SECTOR // 8 or 1) // _SECTOR) * _SECTOR
        self._bitmaps = TableCache(self._load_bitmap, kept_max=_BITMAPS_KEPT)

    def runs(self, within: Extent) -> Iterator[Run]:
        """Runs of sectors, block by block."""
        for number, block, part in iter_present(self._is_missing, self._header.block_size, within):
            if number is None:
                yield Run(part, self._missing)
                continue
            data = int(self._table[number]) * _SECTOR + self._bitmap_size
            for run, is_here in sector_runs(self._bitmaps.get(number), block, part, _SECTOR):
                if not is_here:
                    yield Run(run, self._missing)
                    continue
                place = data + run.start - block.start
                if place + run.size > self._file.size:
                    expected = f"{run.size} bytes"
                    raise broken(self._path, place, f"block {number}", expected=expected, found="the file's end")
                yield Run(run, RunKind.STORED, place=place, source=self._file)

    def unpack(self, block: int) -> bytes:
        """Nothing is packed in this format."""
        raise AssertionError(block)

    def _load_bitmap(self, number: int) -> Bits:
        """The sectors of a block that are in this file. The first sector is the highest bit of the first byte."""
        place, size = int(self._table[number]) * _SECTOR, self._bitmap_size
        raw = read_exactly(self._file, self._path, place, size, what=f"the bitmap of block {number}")
        return np.unpackbits(np.frombuffer(raw, np.uint8))
