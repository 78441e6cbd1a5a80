"""Storing ranges: read, find zeros, name chunks, store what is new, and build the block map.

Answers: "put these bytes into the repository and give me their map." One thread feeds units and builds the maps; the
others each own a buffer and a pack.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np

from stillframe.block.file import aligned_buffer
from stillframe.errors import DeviceError
from stillframe.events import BytesMoved, EventSink
from stillframe.extents import ExtentSet
from stillframe.jobs.context import JobContext
from stillframe.jobs.pipeline import Workers
from stillframe.jobs.saving.chunking import UNIT_SIZE, KeptRange, Leaf, Unit, fill, iter_leaves, nonzero_chunks, touched
from stillframe.repo.blockmap import Kind, MapBuilder, MapRoot
from stillframe.repo.rows import EntryKind
from stillframe.repo.writing import ImageWriter, Lane
from stillframe.units import format_size

TakeLeaf = Callable[[int, Leaf], None]
"""Gets the number of a range and a leaf of it that is stored, leaf after leaf, range after range."""

_UNITS_WAITING: Final = 64
"""As many as a leaf of the block map has: threads work on one while the next is made. A unit holds no data."""
GIVE_UP_SIZE: Final = 64 << 20
"""Bytes in a row that fail before a backup is given up: an image of zeros helps nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRange:
    """A range that is stored: its map, and the bytes of it that could not be read."""

    root: MapRoot
    unreadable: ExtentSet


class Storer:
    """One thread's work on units: a ``pipeline.Worker``."""

    def __init__(self, writer: ImageWriter, chunk_size: int, events: EventSink, tally: "Tally") -> None:
        self._writer = writer
        self._lane: Final[Lane] = writer.lane()
        self._chunk_size = chunk_size
        self._events = events
        self._tally = tally
        self._buffer = aligned_buffer(max(UNIT_SIZE, chunk_size))

    def work(self, item: Unit) -> None:
        """Read a unit, store what is new of it, and note the kinds in its leaf."""
        bad = fill(item, self._buffer)
        count, size, leaf = item.last - item.first, self._chunk_size, item.leaf
        base = item.first - leaf.first
        self._tally.add(item, bad)
        if len(bad):
            broken = touched(bad, item.extent.start, size, count)
            leaf.kinds[base : base + count][broken] = Kind.UNREADABLE
        numbers = np.flatnonzero(nonzero_chunks(self._buffer, count, size)).tolist()
        filled = self._buffer[: item.extent.size]
        views = [filled[n * size : (n + 1) * size] for n in numbers]
        ids = [self._writer.namer.name(view) for view in views]
        if ids:
            known = self._writer.known(ids).tolist()
            new = {item.first + n: one for n, one, is_known in zip(numbers, ids, known, strict=True) if not is_known}
            bases = self._writer.bases(item.source.place, new) if new else {}
            for number, view, chunk_id in zip(numbers, views, ids, strict=True):
                if item.first + number in new:
                    self._lane.add(chunk_id, view, base=bases.get(item.first + number))
                leaf.kinds[base + number] = Kind.DATA
                leaf.ids[base + number] = chunk_id
        self._events.emit(BytesMoved(size=item.to_read.size))
        leaf.unit_done()

    def finish(self) -> None:
        """Finish this thread's pack."""
        self._lane.close()

    def abandon(self) -> None:
        """Give this thread's pack up."""
        self._lane.abandon()


class Tally:
    """What was read, and what could not be, of several ranges; for several threads."""

    def __init__(self) -> None:
        self.bytes_read = 0
        self._bad: list[tuple[int, ExtentSet]] = []
        self._bad_run = 0

    def add(self, unit: Unit, bad: ExtentSet) -> None:
        """Count a unit. Lists and numbers of CPython take this from several threads.

        Raises:
            DeviceError: Nothing at all could be read for so long that the device is most likely gone.
        """
        self.bytes_read += unit.to_read.size
        self._bad_run = self._bad_run + bad.size if bad.size == unit.to_read.size else 0
        if len(bad):
            self._bad.append((id(unit.source), bad))
        if self._bad_run >= GIVE_UP_SIZE:
            raise DeviceError(
                f"{format_size(self._bad_run)} in a row could not be read: the disk does not answer any more",
                hint="Check its cable and power. What was stored stays; run the backup again to go on.",
            )

    def unreadable(self, source: KeptRange) -> ExtentSet:
        """What could not be read of a range."""
        parts = [bad for owner, bad in self._bad if owner == id(source)]
        return ExtentSet.from_extents(extent for part in parts for extent in part)


def store_ranges(
    ranges: Iterable[KeptRange], writer: ImageWriter, *, chunk_size: int, context: JobContext
) -> tuple[list[StoredRange], int]:
    """Store ranges.

    Returns:
        One ``StoredRange`` per range, and the number of bytes read.

    Raises:
        StillframeError: Of reading, of storage, or ``Cancelled``. What was stored stays for the next run.
    """
    sources, tally = list(ranges), Tally()
    with map_builders([source.reader.size for source in sources], writer, chunk_size) as builders:

        def take(number: int, leaf: Leaf) -> None:
            builders[number].add_leaf(leaf.kinds, leaf.joined_ids())

        store_leaves(sources, writer, tally, take, chunk_size=chunk_size, context=context)
        roots = [builder.finish() for builder in builders]
    pairs = zip(roots, sources, strict=True)
    return [StoredRange(root=root, unreadable=tally.unreadable(source)) for root, source in pairs], tally.bytes_read


@contextmanager
def map_builders(sizes: Sequence[int], writer: ImageWriter, chunk_size: int) -> Iterator[list[MapBuilder]]:
    """Builders of the maps of some ranges, whose nodes are stored when the block ends well."""
    nodes = writer.lane()

    def store_node(raw: bytes) -> bytes:
        node_id = writer.namer.name(raw)
        if not writer.known([node_id])[0]:
            nodes.add(node_id, raw, EntryKind.NODE)
        return node_id

    try:
        yield [MapBuilder(size, chunk_size, store_node) for size in sizes]
        nodes.close()
    except BaseException:
        nodes.abandon()
        raise


def store_leaves(
    sources: Sequence[KeptRange], writer: ImageWriter, tally: Tally, take: TakeLeaf, *, chunk_size: int,
    context: JobContext,
) -> None:  # fmt: skip
    """Store the chunks of some ranges, in several threads, and hand every leaf over in order once it is stored."""
    waiting: deque[tuple[int, Leaf]] = deque()

    def take_done() -> None:
        while waiting and waiting[0][1].is_done:
            take(*waiting.popleft())

    def make() -> Storer:
        return Storer(writer, chunk_size, context.events, tally)

    with Workers(make, waiting=_UNITS_WAITING, cancel=context.cancel) as workers:
        for number, source in enumerate(sources):
            for leaf, units in iter_leaves(source, chunk_size):
                for unit in units:
                    workers.put(unit)
                waiting.append((number, leaf))
                take_done()
    take_done()
