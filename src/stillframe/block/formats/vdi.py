"""VDI, the format of VirtualBox: dynamic and fixed.

Answers: "where in the file is this byte of the disk?" A table says for each block where it is. Differencing files name
their parent by an id that only VirtualBox can find; they are refused.

Source: QEMU block/vdi.c, ``VdiHeader`` and the comment above it.
"""

import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import numpy as np

from stillframe.block.base import BlockReader
from stillframe.block.file import FileReader
from stillframe.block.formats.chain import Chain
from stillframe.block.formats.mapped import DiskFile, MappedDisk, Run, RunKind, broken, read_exactly, unsupported
from stillframe.extents import Extent

_SIGNATURE: Final = 0xBEDA107F
_HEADER_SIZE: Final = 0x1C8
_VERSION: Final = 0x0001_0001
_DYNAMIC, _FIXED = 1, 2
_NOWHERE: Final = 0xFFFF_FFFE  # and above: discarded, never written
_BLOCK_MAX: Final = 256 << 20
_TABLE_MAX: Final = 256 << 20


def open_vdi(file: FileReader, chain: Chain) -> DiskFile | None:  # noqa: ARG001 it rests on no other
    """The disk in a VDI file; ``None`` for other files.

    Raises:
        DiskFormatError: It is broken, or holds only what changed since another one.
    """
    if file.size < 68 or struct.unpack("<I", file.read_at(64, 4))[0] != _SIGNATURE:
        return None
    path = file.path
    raw = read_exactly(file, path, 0, _HEADER_SIZE, what="the header")
    version, _, kind = struct.unpack_from("<III", raw, 0x44)
    table_at, data_at = struct.unpack_from("<II", raw, 0x154)
    sector_size, _, size, block_size, extra, count = struct.unpack_from("<IIQIII", raw, 0x168)
    if version != _VERSION or sector_size != 512 or extra:
        raise unsupported(
            path, f"it is VDI version {version >> 16}.{version & 0xFFFF}, or its sectors are not 512", _CLONE
        )
    if kind not in (_DYNAMIC, _FIXED) or any(raw[0x1B8:0x1C8]):
        raise unsupported(path, "it holds only what changed since another file (a snapshot)", _CLONE)
    if not 512 <= block_size <= _BLOCK_MAX or block_size % 512:
        raise broken(path, 0x178, "the size of a block", expected=f"512 to {_BLOCK_MAX}", found=block_size)
    needed = -(-size // block_size)
    if not size or count < needed or needed * 4 > _TABLE_MAX:
        raise broken(path, 0x180, "the number of blocks", expected=f"at least {needed}", found=count)
    vdi_map = VdiMap(file, path, table=Extent(table_at, table_at + needed * 4), data=data_at, block_size=block_size)
    return DiskFile(MappedDisk(vdi_map, size=size), format_name="VDI", files=[(path, file)])


_CLONE: Final = "Make a file of its own with 'VBoxManage clonemedium disk FILE NEW.vdi'."


class VdiMap:
    """A ``DiskMap``. ``table`` in bytes of the file; blocks are counted from ``data`` on."""

    def __init__(self, file: BlockReader, path: str, *, table: Extent, data: int, block_size: int) -> None:
        self._file = file
        self._path = path
        self._data = data
        self._size = block_size
        raw = read_exactly(file, path, table.start, table.size, what="the table of blocks")
        self._blocks = np.frombuffer(raw, "<u4").astype(np.int64)

    def runs(self, within: Extent) -> Iterator[Run]:
        """Neighbours that are nowhere, or one after the other, are one run."""
        size = self._size
        first, last = within.start // size, -(-within.end // size)
        blocks = self._blocks[first:last]
        is_here = blocks < _NOWHERE
        joined = (is_here[1:] == is_here[:-1]) & (~is_here[1:] | (np.diff(blocks) == 1))
        edges = [0, *(np.flatnonzero(~joined) + 1).tolist(), len(blocks)]
        for start, end in pairwise(edges):
            extent = Extent((first + start) * size, (first + end) * size).clipped(within)
            if extent is None:
                continue
            if not is_here[start]:
                yield Run(extent, RunKind.ZERO)
                continue
            place = self._data + int(blocks[start]) * size + extent.start - (first + start) * size
            if place + extent.size > self._file.size:
                what = f"block {first + start}"
                raise broken(self._path, place, what, expected=f"{extent.size} bytes", found="the end of the file")
            yield Run(extent, RunKind.STORED, place=place, source=self._file)

    def unpack(self, block: int) -> bytes:
        """Nothing is packed in this format."""
        raise AssertionError(block)
