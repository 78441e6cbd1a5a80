"""From a range of bytes that is kept to chunks: which to read, which are zeros, which nobody uses.

Answers: "what has to be read for these 1,024 chunks, and into which pieces?" Decisions are made on whole arrays, a leaf
of the block map at a time; only what is kept is ever read.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillframe.block import BlockReader, ExtentKind
from stillframe.capture import CapturedDisk
from stillframe.extents import Extent, ExtentSet
from stillframe.jobs.saving.careful import read_carefully
from stillframe.repo.blockmap import FANOUT, Kind, chunk_count
from stillframe.repo.patching import RangePlace

UNIT_SIZE: Final = 4 << 20
"""Bytes that a thread reads, hashes and stores at a time. Measured: 2 MiB makes an unchanged backup 15 % slower."""
_GAP_READ_OVER: Final = 32 << 10
_STRIDES: Final = (8192, 512)
"""Most chunks that are not zeros show it in one of their words 64 KiB apart, nearly all in those 4 KiB apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRange:
    """A range that gets a block map: a partition, or what lies outside all partitions.

    Attributes:
        reader: The bytes, from 0.
        kept: Bytes that go into the image.
        excluded: Bytes that are in use and left out.
        start: Where it begins in its disk.
        place: Which range of which disk it is, where an earlier image may have one of the same.
    """

    reader: BlockReader
    kept: ExtentSet
    excluded: ExtentSet
    start: int = 0
    place: RangePlace | None = None


def kept_ranges(disk: CapturedDisk) -> Iterator[KeptRange]:
    """The ranges of a disk that get a block map: outside first, then each volume in order."""
    path = disk.facts.path
    yield KeptRange(reader=disk.reader, kept=disk.outside, excluded=ExtentSet.empty(), place=(path, None))
    for volume in disk.volumes:
        start, place = volume.partition.extent.start, (path, volume.partition.number)
        yield KeptRange(reader=volume.reader, kept=volume.kept, excluded=volume.excluded, start=start, place=place)


@dataclass(slots=True, kw_only=True)
class Leaf:
    """Up to 1,024 chunks while their kinds are being found out."""

    first: int
    kinds: NDArray[np.uint8]
    ids: list[bytes]
    units: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def is_done(self) -> bool:
        """Whether no unit of it is still at work."""
        return self.units == 0

    def unit_done(self) -> None:
        """One unit less."""
        with self._lock:
            self.units -= 1

    def joined_ids(self) -> bytes:
        """Ids of the chunks that are ``DATA``, in order."""
        return b"".join(self.ids[n] for n in np.flatnonzero(self.kinds == Kind.DATA).tolist())


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Chunks ``first`` to ``last`` (exclusive) of one range that one thread reads in one go."""

    source: KeptRange
    leaf: Leaf
    first: int
    last: int
    to_read: ExtentSet
    chunk_size: int

    @property
    def extent(self) -> Extent:
        """The bytes of the chunks; the last chunk of a range may be short."""
        end = min(self.last * self.chunk_size, self.source.reader.size)
        return Extent(self.first * self.chunk_size, end)


def iter_leaves(source: KeptRange, chunk_size: int) -> Iterator[tuple[Leaf, list[Unit]]]:
    """All leaves of a range in order, each with the units that must be read for it."""
    count = chunk_count(source.reader.size, chunk_size)
    for first in range(0, count, FANOUT):
        yield make_leaf(source, first, min(FANOUT, count - first), chunk_size)


def make_leaf(source: KeptRange, first: int, count: int, chunk_size: int) -> tuple[Leaf, list[Unit]]:
    """The leaf of ``count`` chunks from ``first`` on, with the units that must be read for it.

    What is to be read counts as ``ZERO`` in it: whoever reads it knows more.
    """
    window = Extent(first * chunk_size, min((first + count) * chunk_size, source.reader.size))
    leaf = Leaf(first=first, kinds=np.zeros(count, np.uint8), ids=[b""] * count)
    kept, excluded = source.kept.clipped(window), source.excluded.clipped(window)
    leaf.kinds[touched(excluded, window.start, chunk_size, count)] = Kind.EXCLUDED
    if not len(kept):
        return leaf, []
    to_read = kept - _holes(source.reader, window)
    leaf.kinds[touched(kept, window.start, chunk_size, count)] = Kind.ZERO
    reads = touched(to_read, window.start, chunk_size, count)
    step = max(1, UNIT_SIZE // chunk_size)
    units = []
    for start in range(0, count, step):
        wanted = np.flatnonzero(reads[start : start + step])
        if len(wanted):
            low, high = first + start + int(wanted[0]), first + start + int(wanted[-1]) + 1
            extent = Extent(low * chunk_size, min(high * chunk_size, window.end))
            units.append(
                Unit(source=source, leaf=leaf, first=low, last=high, to_read=to_read.clipped(extent),
                     chunk_size=chunk_size)
            )  # fmt: skip
    leaf.units = len(units)
    return leaf, units


def touched(extents: ExtentSet, start: int, chunk_size: int, count: int) -> NDArray[np.bool_]:
    """Which of ``count`` chunks from byte ``start`` on hold at least one byte of ``extents``."""
    edges = np.zeros(count + 1, np.int64)
    np.add.at(edges, (extents.starts - start) // chunk_size, 1)
    np.add.at(edges, (extents.ends - 1 - start) // chunk_size + 1, -1)
    touched: NDArray[np.bool_] = np.greater(np.cumsum(edges[:count]), 0)
    return touched


def _holes(reader: BlockReader, window: Extent) -> ExtentSet:
    known = reader.known_extents(window)
    return ExtentSet.from_extents(part.extent for part in known if part.kind is not ExtentKind.DATA)


def fill(unit: Unit, buffer: memoryview) -> ExtentSet:
    """Read what is kept of a unit; every other byte of ``buffer`` becomes zero.

    Args:
        unit: What to read.
        buffer: At least as large as the unit's chunks at full size.

    Returns:
        Bytes that could not be read, in bytes of the range; they are zeros in the buffer.
    """
    extent, parts = unit.extent, unit.to_read
    array = np.frombuffer(buffer, np.uint8)
    array[extent.size : (unit.last - unit.first) * unit.chunk_size] = 0
    if len(parts) == 1 and parts.size == extent.size:
        return read_carefully(unit.source.reader, extent.start, buffer[: extent.size])
    bad = ExtentSet.empty()
    for start, end in _merged(parts):
        bad |= read_carefully(unit.source.reader, start, buffer[start - extent.start : end - extent.start])
    for gap in parts.complement(extent):
        array[gap.start - extent.start : gap.end - extent.start] = 0
    return bad & parts


def _merged(parts: ExtentSet) -> Iterator[tuple[int, int]]:
    """Extents to read in one call each: small gaps are read over, which is quicker than another call."""
    far = parts.starts[1:] - parts.ends[:-1] > _GAP_READ_OVER
    starts = parts.starts[np.concatenate(([True], far))]
    ends = parts.ends[np.concatenate((far, [True]))]
    return zip(starts.tolist(), ends.tolist(), strict=True)


def nonzero_chunks(buffer: memoryview, count: int, chunk_size: int) -> NDArray[np.bool_]:
    """Which of the first ``count`` chunks of a buffer hold a byte that is not zero."""
    words = np.frombuffer(buffer, np.uint64, count * chunk_size // 8).reshape(count, -1)
    found = np.zeros(count, np.bool_)
    for stride in _STRIDES:
        unsure = np.flatnonzero(~found)
        found[unsure] = words[unsure, ::stride].any(axis=1)
    for number in np.flatnonzero(~found).tolist():
        found[number] = words[number].any()
    return found
