"""Writing stored ranges onto a target, in several threads.

Answers: "put this block map at that offset." What may be left as it is, is: UNUSED, what already reads as zeros, and,
with ``delta``, what already is right. Everything else that is not data becomes zeros.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from stillframe.block import BlockReader, BlockWriter, ExtentKind, ReadFault
from stillframe.block.file import aligned_buffer
from stillframe.errors import DamagedError
from stillframe.events import BytesMoved
from stillframe.extents import Extent, ExtentSet
from stillframe.jobs.context import JobContext
from stillframe.jobs.pipeline import Workers
from stillframe.repo.blockmap import Kind, MapRoot, Span, iter_spans
from stillframe.repo.packs import Fetch
from stillframe.repo.reading import Chunks, missing_chunk
from stillframe.repo.writing import ChunkNamer

_ZERO_STEP: Final = 64 << 20
_VIEW_STEP: Final = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedMap:
    """A stored range and where it goes.

    Attributes:
        root: Its block map.
        offset: Where its first byte goes on the target.
        allowed: Bytes of the *target* that may be written for it; ``None`` for all of the range.
    """

    root: MapRoot
    offset: int
    allowed: ExtentSet | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacingOptions:
    """How to write.

    Attributes:
        delta: Read the target first and write only what differs.
        wipe: Make UNUSED zeros too.
        is_zero: The target was just made and reads as zeros.
        salvage: What cannot be had of the image becomes zeros and is noted; else it ends the run.
    """

    delta: bool = False
    wipe: bool = False
    is_zero: bool = False
    salvage: bool = False


class Written:
    """What was written and what was left; for several threads."""

    def __init__(self) -> None:
        self.bytes_written = 0
        self.bytes_skipped = 0
        self._lock = threading.Lock()

    def add(self, *, written: int = 0, skipped: int = 0) -> None:
        """Count bytes."""
        with self._lock:
            self.bytes_written += written
            self.bytes_skipped += skipped


@dataclass(frozen=True, slots=True)
class _Reading:
    """A read of packs, and where each of its chunks goes on the target."""

    fetch: Fetch
    places: dict[bytes, list[int]]
    placed: PlacedMap


@dataclass(frozen=True, slots=True)
class _Comparing:
    """Chunks that belong next to each other on the target, which may have them already: where the first begins."""

    offset: int
    chunk_ids: list[bytes]
    placed: PlacedMap


_Task = _Reading | _Comparing


class Placer:
    """Writes maps onto one target.

    Args:
        target: Where to.
        chunks: What is written.
        namer: Tells whether a chunk is the one that its id names; ``None`` where ids say nothing of contents, and then
            there is no ``delta``.
        chunk_size: Bytes of a chunk.
        options: How to write.
        context: Of the job.
    """

    def __init__(
        self, target: BlockWriter, chunks: Chunks, namer: ChunkNamer | None, *, chunk_size: int,
        options: PlacingOptions, context: JobContext,
    ) -> None:  # fmt: skip
        self.target = target
        self.written = Written()
        self._chunks = chunks
        self._namer = namer
        self._chunk_size = chunk_size
        self._options = options
        self._context = context
        self._lost: list[Extent] = []
        self._reasons: list[str] = []

    @property
    def lost(self) -> ExtentSet:
        """Bytes of the target that are zeros because the image could not be read there."""
        return ExtentSet.from_extents(self._lost)

    @property
    def first_reason(self) -> str:
        """Why something was lost; empty when nothing was."""
        return self._reasons[0] if self._reasons else ""

    def place(self, maps: list[PlacedMap]) -> None:
        """Write all maps.

        Raises:
            DamagedError: A chunk cannot be had and ``salvage`` is off; the message names where it belongs.
            TargetError, DeviceError: The target failed.
        """
        buffer_size = max(_VIEW_STEP, self._chunk_size)  # memory that nobody touches costs nothing
        with Workers(lambda: _PlacingWorker(self, buffer_size), cancel=self._context.cancel) as workers:
            for placed in maps:
                for span in self._spans(placed):
                    self._context.cancel.check()
                    self._fill_gaps(placed, span)
                    for task in self._tasks(placed, span):
                        workers.put(task)

    def place_view(self, view: BlockReader, offset: int) -> None:
        """Write all of a volume that is shown by a reader. What it does not have becomes zeros, whoever left it out.

        Raises:
            DamagedError: A chunk below it cannot be had.
            TargetError, DeviceError: The target failed.
        """
        for known in view.known_extents(Extent(0, view.size)):
            start, end = known.extent.start, known.extent.end
            if known.kind is not ExtentKind.DATA:
                if self._options.is_zero:
                    self.written.add(skipped=end - start)
                else:
                    self.clear(Extent(offset + start, offset + end))
                continue
            for here in range(start, end, _VIEW_STEP):
                self._context.cancel.check()
                self._write_there(view.read_at(here, min(_VIEW_STEP, end - here)), offset + here)

    def _write_there(self, data: bytes, offset: int) -> None:
        if self._options.delta and self._has(offset, data):
            self.written.add(skipped=len(data))
        else:
            self.target.write_at(offset, data)
            self.written.add(written=len(data))
        self._context.events.emit(BytesMoved(size=len(data)))

    def write_chunk(self, data: bytes, offset: int, placed: PlacedMap) -> None:
        """Write one chunk where that is allowed."""
        extent = Extent(offset, offset + len(data))
        is_zeros = self._options.is_zero and not np.frombuffer(data, np.uint8).any()
        compares = self._options.delta and self._namer is None  # else its name told before it was read
        for part in _allowed(extent, placed):
            if is_zeros:  # a disk that stands for its image does not know which chunks are zeros
                self.written.add(skipped=part.size)
                continue
            piece = memoryview(data)[part.start - offset : part.end - offset]
            if compares and self._has(part.start, piece):
                self.written.add(skipped=part.size)
                continue
            self.target.write_at(part.start, piece)
            self.written.add(written=part.size)
        self._context.events.emit(BytesMoved(size=len(data)))

    def clear(self, extent: Extent) -> None:
        """Make a range of the target zeros."""
        for start in range(extent.start, extent.end, _ZERO_STEP):
            self._context.cancel.check()
            self._zero(Extent(start, min(start + _ZERO_STEP, extent.end)))

    def run(self, task: _Reading) -> None:
        """Read, check and write the chunks of one read."""
        for place, data in self._chunks.fetch(task.fetch):
            offsets = task.places[place.chunk_id]
            if isinstance(data, DamagedError):
                self._give_up(data, offsets, task.placed)
            elif self._namer is not None and self._namer.name(data) != place.chunk_id:
                wrong = DamagedError(f"chunk {place.chunk_id.hex()[:16]} is not what it is named for")
                self._give_up(wrong, offsets, task.placed)
            else:
                for offset in offsets:
                    self.write_chunk(data, offset, task.placed)

    def _spans(self, placed: PlacedMap) -> Iterator[Span]:
        """The spans of a map; what lies below a damaged node is lost, or ends the run."""

        def lose(error: DamagedError, first: int, count: int) -> None:
            extent = self._extent(placed, first, count)
            self._reasons.append(error.message)
            self._lost.extend(_allowed(extent, placed))  # it becomes zeros with the other gaps

        on_damage = lose if self._options.salvage else None
        return iter_spans(placed.root, self._chunk_size, self._chunks.read_node, on_damage=on_damage)

    def _extent(self, placed: PlacedMap, first: int, count: int) -> Extent:
        """Where chunks of a map go on the target; the last chunk of a map may be short."""
        start = placed.offset + first * self._chunk_size
        return Extent(start, min(start + count * self._chunk_size, self._end(placed)))

    @staticmethod
    def _end(placed: PlacedMap) -> int:
        return placed.offset + placed.root.size

    def _tasks(self, placed: PlacedMap, span: Span) -> Iterator[_Task]:
        """The reads that bring the data of a leaf; for a delta, what is to be looked at first."""
        if span.leaf is None:
            return
        entries = [
            (placed.offset + (span.first + number) * self._chunk_size, chunk_id)
            for number, chunk_id in enumerate(span.leaf.entry_ids())
            if chunk_id
        ]
        if self._options.delta and self._namer is not None:
            yield from self._comparisons(placed, entries)
        else:
            yield from self._readings(placed, entries)

    def _comparisons(self, placed: PlacedMap, entries: list[tuple[int, bytes]]) -> Iterator[_Comparing]:
        """Chunks by which the target is read in large pieces."""
        offset, chunk_ids = 0, list[bytes]()
        most = max(1, _VIEW_STEP // self._chunk_size)
        for place, chunk_id in entries:
            if chunk_ids and (place != offset + len(chunk_ids) * self._chunk_size or len(chunk_ids) == most):
                yield _Comparing(offset, chunk_ids, placed)
                chunk_ids = []
            if not chunk_ids:
                offset = place
            chunk_ids.append(chunk_id)
        if chunk_ids:
            yield _Comparing(offset, chunk_ids, placed)

    def _readings(self, placed: PlacedMap, entries: list[tuple[int, bytes]]) -> Iterator[_Reading]:
        places: dict[bytes, list[int]] = {}
        for offset, chunk_id in entries:
            places.setdefault(chunk_id, []).append(offset)
        fetches, missing = self._chunks.plan(list(places))
        for chunk_id in missing:
            self._give_up(missing_chunk(chunk_id), places[chunk_id], placed)
        for fetch in fetches:
            yield _Reading(fetch, places, placed)

    def compare(self, task: _Comparing, buffer: memoryview) -> None:
        """Write those chunks that the target does not have where they belong.

        Args:
            task: Which chunks.
            buffer: Of this thread, as large as all of them.
        """
        differing = []
        whole = Extent(task.offset, min(task.offset + len(task.chunk_ids) * self._chunk_size, self._end(task.placed)))
        view = buffer[: whole.size]
        is_read = self._read_target(whole.start, view)
        for number, chunk_id in enumerate(task.chunk_ids):
            begin = number * self._chunk_size
            here = view[begin : begin + self._chunk_size]
            extent = Extent(task.offset + begin, task.offset + begin + len(here))
            if is_read and _is_all_allowed(extent, task.placed) and self._name(here) == chunk_id:
                self.written.add(skipped=len(here))
                self._context.events.emit(BytesMoved(size=len(here)))
            else:
                differing.append((extent.start, chunk_id))
        for reading in self._readings(task.placed, differing):
            self.run(reading)

    def _has(self, offset: int, data: bytes | memoryview) -> bool:
        """Whether the target reads so."""
        found = bytearray(len(data))
        return self._read_target(offset, memoryview(found)) and memoryview(found) == data

    def _has_zeros(self, extent: Extent) -> bool:
        found = aligned_buffer(extent.size)
        return self._read_target(extent.start, found) and not np.frombuffer(found, np.uint8).any()

    def _read_target(self, offset: int, buffer: memoryview) -> bool:
        """Whether the target could be read there: a bad sector may be one that heals when it is written."""
        try:
            self.target.read_into(offset, buffer)
        except ReadFault:
            return False
        return True

    def _name(self, data: memoryview) -> bytes:
        if self._namer is None:
            raise ValueError("ids say nothing of contents")
        return self._namer.name(data)

    def _give_up(self, error: DamagedError, offsets: list[int], placed: PlacedMap) -> None:
        """A chunk cannot be had: end the run, or make its places zeros and note them."""
        if not self._options.salvage:
            raise DamagedError(
                f"{error.message}; it belongs at byte {offsets[0]} of the target",
                hint="Restore another image: 'stillframe verify' tells which are whole. "
                "'--salvage' restores what can be had of this one.",
            )
        self._reasons.append(error.message)
        for offset in offsets:
            extent = self._extent(placed, (offset - placed.offset) // self._chunk_size, 1)
            for part in _allowed(extent, placed):
                self._lost.append(part)
                if not self._options.is_zero:
                    self.clear(part)
            self._context.events.emit(BytesMoved(size=extent.size))

    def _fill_gaps(self, placed: PlacedMap, span: Span) -> None:
        """Deal with what is not data: zeros where the format says so, nothing where nobody uses it."""
        for first, count, kind in _runs(span):
            if kind is Kind.DATA:
                continue
            for part in _allowed(self._extent(placed, first, count), placed):
                if self._options.is_zero or (kind is Kind.UNUSED and not self._options.wipe):
                    self.written.add(skipped=part.size)
                else:
                    self.clear(part)

    def _zero(self, extent: Extent) -> None:
        """Make at most ``_ZERO_STEP`` bytes zeros; with ``delta`` only where they are not."""
        if self._options.delta and self._has_zeros(extent):
            self.written.add(skipped=extent.size)
        else:
            self.target.zero(extent)
            self.written.add(written=extent.size)


def _allowed(extent: Extent, placed: PlacedMap) -> list[Extent]:
    """The parts of a range of the target that may be written for a map."""
    return [extent] if placed.allowed is None else list(placed.allowed.clipped(extent))


def _is_all_allowed(extent: Extent, placed: PlacedMap) -> bool:
    return placed.allowed is None or placed.allowed.contains(extent)


class _PlacingWorker:
    """One thread's work: a ``pipeline.Worker``."""

    def __init__(self, placer: Placer, buffer_size: int) -> None:
        self._placer = placer
        self._buffer = aligned_buffer(buffer_size)

    def work(self, item: _Task) -> None:
        if isinstance(item, _Comparing):
            self._placer.compare(item, self._buffer)
        else:
            self._placer.run(item)

    def finish(self) -> None:
        """Nothing is left to do."""

    def abandon(self) -> None:
        """Nothing is held."""


def _runs(span: Span) -> Iterator[tuple[int, int, Kind]]:
    """Neighbouring chunks of one kind: first chunk, number of chunks, kind."""
    if span.leaf is None:
        yield span.first, span.count, span.kind
        return
    kinds = span.leaf.kinds
    edges = np.flatnonzero(np.diff(kinds)) + 1
    starts = [0, *edges.tolist()]
    for start, end in zip(starts, [*edges.tolist(), len(kinds)], strict=True):
        yield span.first + start, end - start, Kind(int(kinds[start]))
