"""Where the blocks of a VHDX file are.

Answers: "which byte of the file is this byte of the disk?"

Source: [MS-VHDX] 2.5 "Block allocation table": entries of blocks, and after each ``chunk_ratio`` of them that of the
bitmap of their sectors.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from stillframe.block.base import BlockReader
from stillframe.block.formats.mapped import Run, RunKind, TableCache, broken, read_exactly
from stillframe.block.formats.sectors import Bits, sector_runs
from stillframe.extents import Extent

_SECTORS_PER_BITMAP: Final = 1 << 23  # 2.5.1: a bitmap block is 1 MiB, a bit for each sector
_NOT_PRESENT, _FULL, _PARTIAL = 0, 6, 7  # 2.5.1.1; 1 to 3 are undefined, zero and unmapped
_STATES: Final = frozenset({0, 1, 2, 3, _FULL, _PARTIAL})
_TABLES_KEPT: Final = 64
_BITMAPS_KEPT: Final = 256
_PLACE_SHIFT: Final = 20  # an entry's place is in MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class VhdxShape:
    """Sizes in bytes, as the metadata says them."""

    size: int
    block_size: int
    sector_size: int
    has_parent: bool

    @property
    def chunk_ratio(self) -> int:
        """Blocks whose sectors one bitmap describes."""
        return _SECTORS_PER_BITMAP * self.sector_size // self.block_size


class VhdxMap:
    """A ``DiskMap``.

    Args:
        file: With its log replayed.
        shape: As the metadata says.
        table: Where the table of blocks is.
        path: For messages.

    Raises:
        DiskFormatError: The table is too small for the disk.
    """

    def __init__(self, file: BlockReader, shape: VhdxShape, *, table: Extent, path: str) -> None:
        self._file = file
        self._shape = shape
        self._table = table
        self._path = path
        self._block_count = -(-shape.size // shape.block_size)
        bitmaps = (self._block_count - 1) // shape.chunk_ratio
        if (self._block_count + bitmaps) * 8 > table.size:
            expected = f"{self._block_count + bitmaps} entries"
            raise broken(path, table.start, "the table of blocks", expected=expected, found=f"{table.size} bytes")
        self._entries = TableCache(self._load_entries, kept_max=_TABLES_KEPT)
        self._bitmaps = TableCache(self._load_bitmap, kept_max=_BITMAPS_KEPT)

    def runs(self, within: Extent) -> Iterator[Run]:
        """Runs of blocks, or of sectors of those that are here in part."""
        reach = self._shape.chunk_ratio * self._shape.block_size
        for chunk in range(within.start // reach, -(-within.end // reach)):
            here = Extent(chunk * reach, (chunk + 1) * reach).clipped(within)
            if here is not None:
                yield from self._runs_of_chunk(here, chunk)

    def unpack(self, block: int) -> bytes:
        """Nothing is packed in this format."""
        raise AssertionError(block)

    def _load_entries(self, chunk: int) -> npt.NDArray[np.uint64]:
        """The entries of one chunk, the last of them that of its bitmap, where it is there."""
        ratio = self._shape.chunk_ratio
        start = self._table.start + chunk * (ratio + 1) * 8
        blocks = min(ratio, self._block_count - chunk * ratio)
        count = ratio + 1 if blocks == ratio or self._shape.has_parent else blocks
        end = min(start + count * 8, self._table.end)
        raw = read_exactly(self._file, self._path, start, end - start, what="the table of blocks")
        return np.frombuffer(raw[: len(raw) // 8 * 8], "<u8").astype(np.uint64)

    def _load_bitmap(self, block: int) -> Bits:
        """The sectors of a block that are in this file. The first sector is the lowest bit of the first byte."""
        shape = self._shape
        chunk, number = divmod(block, shape.chunk_ratio)
        entries = self._entries.get(chunk)
        entry = int(entries[shape.chunk_ratio]) if len(entries) > shape.chunk_ratio else 0
        if entry & 7 != _FULL:
            found = f"state {entry & 7}"
            raise broken(self._path, self._table.start, f"the bitmap of block {block}", expected="one", found=found)
        size = shape.block_size // shape.sector_size // 8
        place = (entry >> _PLACE_SHIFT << _PLACE_SHIFT) + number * size
        raw = read_exactly(self._file, self._path, place, size, what=f"the bitmap of block {block}")
        return np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")

    def _runs_of_chunk(self, within: Extent, chunk: int) -> Iterator[Run]:
        """Neighbours of one kind, and of one place after the other, are one run."""
        size = self._shape.block_size
        base = chunk * self._shape.chunk_ratio
        first, last = within.start // size, -(-within.end // size)
        entries = self._entries.get(chunk)[first - base : last - base]
        states = (entries & np.uint64(7)).astype(np.int64)
        places = (entries >> np.uint64(_PLACE_SHIFT) << np.uint64(_PLACE_SHIFT)).astype(np.int64)
        joined = (states[1:] == states[:-1]) & (states[1:] != _PARTIAL)
        joined &= (states[1:] != _FULL) | (np.diff(places) == size)
        edges = [0, *(np.flatnonzero(~joined) + 1).tolist(), len(entries)]
        for start, end in pairwise(edges):
            extent = Extent((first + start) * size, (first + end) * size).clipped(within)
            if extent is not None:
                yield from self._run(extent, first + start, int(states[start]), int(places[start]))

    def _run(self, extent: Extent, block: int, state: int, place: int) -> Iterator[Run]:
        shape = self._shape
        missing = RunKind.BELOW if shape.has_parent else RunKind.ZERO
        if state not in _STATES or (state == _PARTIAL and not shape.has_parent):
            expected = "one of 0, 1, 2, 3, 6, or 7 of a disk that rests on another"
            raise broken(self._path, self._table.start, f"the state of block {block}", expected=expected, found=state)
        if state < _FULL:
            yield Run(extent, missing if state == _NOT_PRESENT else RunKind.ZERO)
            return
        start = block * shape.block_size
        whole = Extent(start, start + shape.block_size)
        parts = [(extent, True)]
        if state == _PARTIAL:
            parts = list(sector_runs(self._bitmaps.get(block), whole, extent, shape.sector_size))
        for part, is_here in parts:
            at = place + part.start - start
            if not is_here:
                yield Run(part, missing)
                continue
            if at < 1 << _PLACE_SHIFT or at + part.size > self._file.size:
                expected = f"{part.size} bytes behind the first MiB"
                found = f"a file of {self._file.size} bytes"
                raise broken(self._path, at, f"the data of block {block}", expected=expected, found=found)
            yield Run(part, RunKind.STORED, place=at, source=self._file)
