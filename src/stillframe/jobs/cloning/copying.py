"""The bytes of a clone: from ranges of a source onto a target, by several threads.

Answers: "what is written, and what need not be?" What is zeros is made zeros; with ``delta`` the target is read, and
only what differs is written.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from stillframe.block import BlockWriter
from stillframe.block.file import aligned_buffer
from stillframe.errors import DeviceError
from stillframe.events import BytesMoved, EventSink
from stillframe.extents import Extent, ExtentSet
from stillframe.jobs.context import JobContext
from stillframe.jobs.pipeline import Workers
from stillframe.jobs.restoring.placing import Written
from stillframe.jobs.restoring.tables import TableWriter
from stillframe.jobs.saving.chunking import UNIT_SIZE, KeptRange, Unit, fill, iter_leaves, nonzero_chunks
from stillframe.jobs.saving.rounds import Ranges

CHUNK_SIZE: Final = 256 << 10
ZERO_STEP: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class _Task:
    unit: Unit
    base: int


class Copier:
    """Copies ranges onto one target.

    Args:
        table: Of the target.
        target: Where to.
        context: Of the job.
        is_zero: The target was just made and reads as zeros.
        delta: Read the target, and write only what differs.
    """

    def __init__(
        self, table: TableWriter, target: BlockWriter, context: JobContext, *, is_zero: bool, delta: bool
    ) -> None:  # fmt: skip
        self.written = Written()
        self.table = table
        self._target = target
        self._is_zero = is_zero
        self._delta = delta and not is_zero
        self._context = context
        self._events: EventSink = context.events

    def copy_ranges(self, sources: Ranges, *, wipe: bool) -> None:
        """Copy the ranges of one disk: outside first in the list, last on the target."""
        ((outside, *volumes),) = sources
        without = outside.kept & self.table.outside_without_table
        outside = KeptRange(reader=outside.reader, kept=without, excluded=ExtentSet.empty())
        with Workers(lambda: _CopyingWorker(self), cancel=self._context.cancel) as workers:
            for one in volumes:
                self.feed(one, one.start, workers, wipe=wipe)
            self.feed(outside, 0, workers, wipe=False)  # what it does not keep are the partitions

    def has_old_bytes(self) -> None:
        """From now on nothing on the target reads as zeros by itself."""
        self._is_zero = False

    def write(self, offset: int, data: memoryview) -> None:
        """Write bytes that were read already."""
        for start in range(0, len(data), CHUNK_SIZE) if self._delta else ():
            self._write_differing(offset + start, data[start : start + CHUNK_SIZE])
        if not self._delta:
            self._target.write_at(offset, data)
            self.written.add(written=len(data))

    def _write_differing(self, offset: int, data: memoryview) -> None:
        if self._target.read_at(offset, len(data)) == data:
            self.written.add(skipped=len(data))
        else:
            self._target.write_at(offset, data)
            self.written.add(written=len(data))

    def feed(self, source: KeptRange, base: int, workers: Workers[_Task], *, wipe: bool) -> None:
        """Hand a range over; what is not read becomes zeros here, or stays when nobody uses it and ``wipe`` is off."""
        for leaf, units in iter_leaves(source, CHUNK_SIZE):
            start = leaf.first * CHUNK_SIZE
            window = Extent(start, min(start + len(leaf.kinds) * CHUNK_SIZE, source.reader.size))
            read = ExtentSet.from_extents(extent for unit in units for extent in unit.to_read)
            rest = ((source.kept | source.excluded).clipped(window)) - read
            unused = ExtentSet.of(window) - rest - read
            self.zero(rest | unused if wipe else rest, base)
            for unit in units:
                workers.put(_Task(unit, base))

    def copy(self, task: _Task, buffer: memoryview) -> None:
        """Read a unit and write what is kept of it."""
        unit = task.unit
        bad = fill(unit, buffer)
        if len(bad):
            first = next(iter(bad))
            raise DeviceError(
                f"the source cannot be read at byte {task.base + first.start}",
                hint="Make an image with 'stillframe backup': it keeps what can be read and notes what cannot.",
            )
        start = unit.extent.start
        full = nonzero_chunks(buffer, unit.last - unit.first, unit.chunk_size)
        for part in unit.to_read:
            data = buffer[part.start - start : part.end - start]
            low, high = (part.start - start) // unit.chunk_size, (part.end - 1 - start) // unit.chunk_size
            if np.any(full[low : high + 1]):
                self.write(task.base + part.start, data)
            else:
                self.zero(ExtentSet.of(part), task.base)
        self._events.emit(BytesMoved(size=unit.to_read.size))

    def zero(self, extents: ExtentSet, base: int) -> None:
        """Make ranges zeros, unless the target was just made and reads as zeros."""
        for extent in extents:
            if self._is_zero:
                self.written.add(skipped=extent.size)
                continue
            place = extent.shifted(base)
            for start in range(place.start, place.end, ZERO_STEP) if self._delta else (place.start,):
                self._zero(Extent(start, min(start + ZERO_STEP, place.end)) if self._delta else place)

    def _zero(self, place: Extent) -> None:
        if self._delta and not np.frombuffer(self._target.read_at(place.start, place.size), np.uint8).any():
            self.written.add(skipped=place.size)
        else:
            self._target.zero(place)
            self.written.add(written=place.size)


class _CopyingWorker:
    """One thread's work: a ``pipeline.Worker``."""

    def __init__(self, copier: Copier) -> None:
        self._copier = copier
        self._buffer = aligned_buffer(UNIT_SIZE)

    def work(self, item: _Task) -> None:
        self._copier.copy(item, self._buffer)

    def finish(self) -> None:
        """Nothing is left to do."""

    def abandon(self) -> None:
        """Nothing is held."""
