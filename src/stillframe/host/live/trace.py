"""Which bytes of a disk were written since when, from the kernel's own record of completed requests.

Answers: "which granules changed since I cleared them, and is it proven that I saw every write?" A granule is marked
when a request that is neither a read nor a flush *completes*, with an error or without: a mark at its issue could be
cleared, the old bytes read, and the write land afterwards. Whoever reads a granule clears it first.

Seeing nothing is no proof of a quiet disk: the sectors that were traced must reach what the disk's own counters say.

Source: Linux Documentation/trace/{ftrace,events}.rst; Documentation/block/stat.rst (fields 7 and 14);
block/blk-mq.c (blk_update_request traces a completion, then counts it).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillframe.errors import MachineRefusal
from stillframe.extents import Extent, ExtentSet
from stillframe.host.blocks import SYSFS_SECTOR, read_text
from stillframe.host.linux import open_for_reading, require_linux
from stillframe.host.live.leaves import LeafDisk
from stillframe.host.live.ring import Completed, EventLayout, parse_layout, parse_page
from stillframe.host.live.tracefs import HINT, find_tracefs, trace_instance, write_setting

_EVENT: Final = "events/block/block_rq_complete"
_BUFFER_KIB: Final = 8192
"""For each processor: at 64 bytes an event, 130,000 writes between two drains."""
_PAGE_SIZE_MAX: Final = 64 << 10
_GRANULES_MAX: Final = 16 << 20
GRANULE_SIZE_MIN: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteCount:
    """Sectors of 512 bytes that a disk has written and discarded."""

    written: int
    discarded: int

    def since(self, before: "WriteCount") -> "WriteCount":
        """How many came after ``before``."""
        return WriteCount(written=self.written - before.written, discarded=self.discarded - before.discarded)


def granule_size_for(size: int) -> int:
    """Bytes of a granule for a disk of ``size`` bytes: as small as memory allows."""
    granule = GRANULE_SIZE_MIN
    while size > granule * _GRANULES_MAX:
        granule *= 2
    return granule


class ChangedGranules:
    """One mark for each granule of a disk."""

    def __init__(self, size: int) -> None:
        self.size: Final = size
        self.granule_size: Final = granule_size_for(size)
        self._marks = np.zeros(-(-size // self.granule_size), np.bool_)

    def mark(self, extent: Extent) -> None:
        """Bytes have changed; a range may be a terabyte long."""
        first = max(extent.start, 0) // self.granule_size
        self._marks[first : -(-min(extent.end, self.size) // self.granule_size)] = True

    def clear(self, extents: ExtentSet) -> None:
        """Forget granules that lie wholly inside these ranges: they are about to be read."""
        for extent in extents:
            first = -(-extent.start // self.granule_size)
            last = extent.end // self.granule_size if extent.end < self.size else len(self._marks)
            self._marks[first:last] = False

    def changed(self) -> ExtentSet:
        """What was marked, in whole granules."""
        edges = np.diff(np.concatenate(([0], self._marks.view(np.int8), [0])))
        starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
        unit = self.granule_size
        return ExtentSet(starts * unit, np.minimum(ends * unit, self.size))

    @property
    def marks(self) -> NDArray[np.bool_]:
        """A copy of the marks."""
        return self._marks.copy()


class WriteTrace:
    """The kernel's record of one leaf disk, and what it has shown so far. ``open_trace`` makes it; for one thread."""

    def __init__(self, folder: str, leaf: LeafDisk, layout: EventLayout) -> None:
        self._folder = folder
        self._leaf = leaf
        self._layout = layout
        self._pipes = [
            open_for_reading(f"{folder}/per_cpu/{name}/trace_pipe_raw", waits=False)
            for name in sorted(os.listdir(f"{folder}/per_cpu"))
        ]
        self.changed: Final = ChangedGranules(leaf.size)
        self._written = self._discarded = 0
        self._unplaced = 0
        self._lost = False
        self._missed_before = 0
        self._begin = read_count(leaf)

    def drain(self) -> None:
        """Take everything that the kernel has recorded until now.

        Raises:
            MachineRefusal: The buffer is not of the form that is known.
        """
        for pipe in self._pipes:
            while page := _read_page(pipe):
                self._take(page)

    def shortfall(self) -> str:
        """Why it is not proven that every write was seen; empty when it is. Drain first."""
        if self._lost or self._overrun():
            return "the kernel's buffer overflowed, so some writes were not seen"
        counted = read_count(self._leaf).since(self._begin)
        self.drain()  # what completed before it was counted is in the buffer by now
        missing = max(counted.written - self._written, 0) + max(counted.discarded - self._discarded, 0)
        if missing:
            return f"{missing} sectors were written that the trace does not show"
        if self._unplaced:
            return f"{self._unplaced} commands were sent past the kernel's block layer"
        return ""

    def begin_again(self) -> None:
        """Count anew: a new round of copying begins, and what was not proven before no longer matters."""
        self.drain()
        self._written = self._discarded = self._unplaced = 0
        self._lost = False
        self._begin = read_count(self._leaf)
        self._missed_before = self._missed()

    def close(self) -> None:
        """Stop recording."""
        for pipe in self._pipes:
            os.close(pipe)
        self._pipes = []

    def _take(self, page: bytes) -> None:
        found = parse_page(page, self._layout)
        self._lost |= found.lost
        for done in found.completed:
            if not done.is_read:
                self._count(done)

    def _count(self, done: Completed) -> None:
        """Mark what a request changed. A write of no sectors is the end of one that was traced with its sectors."""
        if not done.count:
            self._unplaced += b"N" in done.operation  # passthrough: nobody knows where it wrote
            return
        if b"D" in done.operation:
            self._discarded += done.count
        else:
            self._written += done.count
        start = done.sector * SYSFS_SECTOR
        self.changed.mark(Extent(start, start + done.count * SYSFS_SECTOR))

    def _overrun(self) -> bool:
        return self._missed() > self._missed_before

    def _missed(self) -> int:
        """Events that the buffers had no room for."""
        total = 0
        for name in os.listdir(f"{self._folder}/per_cpu"):
            for line in read_text(f"{self._folder}/per_cpu/{name}/stats").splitlines():
                key, _, value = line.partition(":")
                if key in ("overrun", "commit overrun", "dropped events") and value.strip().isdecimal():
                    total += int(value)
        return total


@contextmanager
def open_trace(leaf: LeafDisk) -> Iterator[WriteTrace]:
    """Record what a leaf disk completes, in a trace instance of our own that disturbs nobody else's.

    Raises:
        MachineRefusal: The kernel has no trace of requests, or this user may not use it.
    """
    require_linux("following writes")
    root = find_tracefs(event=_EVENT)
    with trace_instance(root) as folder:
        layout = parse_layout(read_text(f"{root}/{_EVENT}/format"))
        device = leaf.number.major << 20 | leaf.number.minor
        for name, value in (
            ("buffer_size_kb", str(_BUFFER_KIB)), (f"{_EVENT}/filter", f"dev == {device}"), (f"{_EVENT}/enable", "1"),
            ("tracing_on", "1"),
        ):  # fmt: skip
            write_setting(f"{folder}/{name}", value)
        trace = WriteTrace(folder, leaf, layout)
        try:
            yield trace
        finally:
            trace.close()


def read_count(leaf: LeafDisk) -> WriteCount:
    """What the disk's own counters say.

    Raises:
        MachineRefusal: There are no such counters.
    """
    fields = read_text(f"{leaf.folder}/stat").split()
    if len(fields) < 14 or not all(field.isdecimal() for field in fields):
        raise MachineRefusal(f"{leaf.folder}/stat does not count discards: this kernel is too old", hint=HINT)
    return WriteCount(written=int(fields[6]), discarded=int(fields[13]))


def _read_page(pipe: int) -> bytes:
    try:
        return os.read(pipe, _PAGE_SIZE_MAX)
    except BlockingIOError:
        return b""
