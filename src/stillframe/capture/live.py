"""The tracked freeze: an exact copy of file systems that stay in use.

Answers: "which bytes must be read again, and what do the volumes look like at one moment?" The kernel's own record of
completed writes is followed while a disk is copied; what changed meanwhile is copied again; the last of it is read
into memory while the file systems are frozen, for a fraction of a second, together with their maps. The image is the
state of that moment, as if the file systems had been unmounted then.

What makes it sound, each a test: a granule is cleared before it is read; marks are set when a write completes; the
number of sectors that were traced must reach the disk's own counters; what is used under the freeze and was never read
is read then; and nothing may have been written between the freeze and the last byte that was read.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np

from stillframe.block.file import aligned_buffer, open_file_reader
from stillframe.capture.offline import OpenSource
from stillframe.capture.source import CapturedDisk, Selection, capture_disk
from stillframe.errors import Disturbed
from stillframe.events import Notice
from stillframe.extents import Extent, ExtentSet
from stillframe.host.blocks import BlockNode
from stillframe.host.disks import DiskFacts
from stillframe.host.live.freezing import MountedFilesystem, frozen, open_mounted, settle
from stillframe.host.live.leaves import LeafRange, find_leaf
from stillframe.host.live.trace import WriteTrace, open_trace
from stillframe.host.live.volumes import UsedVolume, find_used_volumes
from stillframe.host.live.watchdog import LIMIT_S, Watchdog
from stillframe.host.mounts import Users

_State = tuple[tuple[CapturedDisk, ...], tuple[tuple[tuple["Piece", ...], ...], ...]]
HELD_BYTES_MAX: Final = 256 << 20
"""Bytes that may be read into memory under the freeze; with more, another round of copying comes first."""
_ROOM_MIN: Final = 16 << 20
_DRAIN_S: Final = 0.02
_READERS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSource(OpenSource):
    """A disk or partition that is in use, and can be held still.

    Attributes:
        volumes: What of it is in use.
        leaf: The disk that the kernel's trace names.
        disk_size: Size of that whole disk, in bytes.
    """

    volumes: tuple[UsedVolume, ...]
    leaf: LeafRange
    disk_size: int

    def capture(self, selection: Selection) -> CapturedDisk:
        """What the source looks like at this moment: proven only while it is frozen, else an estimate."""
        places = frozenset(volume.place for volume in self.volumes if volume.way != "swap")
        wanted = Selection(
            all_sectors=selection.all_sectors, include_paging=selection.include_paging, exclude=selection.exclude,
            held=places,
        )  # fmt: skip
        return capture_disk(self.reader, self.facts, wanted)

    @property
    def announcement(self) -> Notice:
        """How it is going to be held still, for the plan."""
        held = ", ".join(dict.fromkeys(volume.where for volume in self.volumes if volume.way != "swap"))
        return Notice(
            code="in-use",
            message=f"{self.facts.path} is in use: {held or 'swap'} is held still for a moment at the end",
        )  # fmt: skip

    def stayed_still(self) -> bool:
        """It did not, and was followed instead: ``Watch`` has proven what the image is."""
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Bytes of a range that were read under the freeze."""

    offset: int
    data: memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The state of the sources at one moment.

    Attributes:
        disks: Maps and layout as they were under the freeze.
        pieces: For each disk and each of its ranges (outside first, then the volumes) what was read then.
        seconds: How long the file systems were frozen.
    """

    disks: tuple[CapturedDisk, ...]
    pieces: tuple[tuple[tuple[Piece, ...], ...], ...]
    seconds: float


def open_live_source(facts: DiskFacts, users: Users, node: BlockNode) -> LiveSource:
    """Open a source in use.

    Raises:
        SourceInUse: Something on it cannot be held still.
        MachineRefusal: The kernel's trace cannot follow its writes.
    """
    volumes = find_used_volumes(users, node)
    leaf = find_leaf(users.tree, node.number)
    whole = users.tree.disk_of(node)
    return LiveSource(
        facts=facts, reader=open_file_reader(facts.path), consistency="frozen", notices=(), stamp=None,
        volumes=volumes, leaf=leaf, disk_size=whole.size,
    )  # fmt: skip


class Watch:
    """Follows the writes to some sources. ``watch`` makes it; all its methods are for one thread."""

    def __init__(
        self, sources: Sequence[LiveSource], mounted: Sequence[MountedFilesystem], traces: Sequence[WriteTrace],
        watchdog: Watchdog, readers: ThreadPoolExecutor,
    ) -> None:  # fmt: skip
        self._sources = tuple(sources)
        self._mounted = tuple(mounted)
        self._traces = tuple(traces)
        self._watchdog = watchdog
        self._readers = readers
        self._lock = threading.Lock()
        self.on_hold: Callable[[], None] | None = None
        """For tests: called while everything is frozen, after the last byte was read."""

    def drain(self) -> None:
        """Take what the kernel has recorded."""
        with self._lock:
            for trace in self._traces:
                trace.drain()

    def begin(self, selection: Selection) -> tuple[CapturedDisk, ...]:
        """Begin to follow: from now on every write is marked. Freezes for a moment, to see that it can be done.

        Returns:
            The sources as they were under that first freeze: what is worth reading.

        Raises:
            MachineRefusal: Something cannot be frozen.
        """
        with self._lock:
            for trace in self._traces:
                trace.begin_again()
                trace.changed.clear(ExtentSet.of(Extent(0, trace.changed.size)))
        settle(self._mounted)
        with frozen(self._freezable, self._watchdog):
            return tuple(source.capture(selection) for source in self._sources)

    def changed(self) -> tuple[ExtentSet, ...]:
        """For each source what has changed since it was last taken, in bytes of the source."""
        self.drain()
        return tuple(self._changed_of(number) for number in range(len(self._sources)))

    def clear(self, number: int, extents: ExtentSet) -> None:
        """Bytes of a source are about to be read (again): forget that they have changed."""
        start = self._sources[number].leaf.place.start
        with self._lock:
            self._traces[number].changed.clear(ExtentSet(extents.starts + start, extents.ends + start))

    def hold(self, selection: Selection, already: Sequence[Sequence[ExtentSet]]) -> Held | None:
        """Freeze, read the maps and what is missing, and thaw.

        Args:
            selection: Which bytes the person wants.
            already: For each source and each of its ranges what was read since it was last cleared.

        Returns:
            The state at that moment; ``None`` when too much was missing to be read under a freeze.

        Raises:
            Disturbed: Something was written meanwhile, or it is not proven that every write was seen.
            ThawedEarly: Somebody else thawed, or the watchdog did.
            MachineRefusal: It cannot be frozen.
        """
        settle(self._mounted)
        room = _Room(self._expected_size())
        taken: tuple[ExtentSet, ...] = ()
        good = False
        try:
            with frozen(self._freezable, self._watchdog) as stillness:
                taken = self._take_changed()
                held = self._read_held(selection, already, taken, room)
            if held is None:
                return None
            self._require_proof()
            good = True
        finally:
            if not good and taken:  # what was read is discarded, whatever failed: it counts as changed again
                self._unclear(taken)
        return Held(disks=held[0], pieces=held[1], seconds=stillness.seconds)

    @property
    def _freezable(self) -> tuple[MountedFilesystem, ...]:
        ways = {volume.where: volume.way for source in self._sources for volume in source.volumes}
        return tuple(one for one in self._mounted if ways[one.where] == "frozen")

    def _read_held(
        self, selection: Selection, already: Sequence[Sequence[ExtentSet]], changed: tuple[ExtentSet, ...],
        room: "_Room",
    ) -> _State | None:  # fmt: skip
        """Maps and missing bytes, while everything is frozen; ``None`` when they do not fit into the room."""
        disks = tuple(source.capture(selection) for source in self._sources)
        missing = [
            [_missing(disk, number, change, read) for number, read in enumerate(reads)]
            for disk, change, reads in zip(disks, changed, already, strict=True)
        ]
        if sum(extents.size for ranges in missing for extents in ranges) > room.size:
            return None
        pieces = tuple(
            tuple(self._read_pieces(disk, number, extents, room) for number, extents in enumerate(ranges))
            for disk, ranges in zip(disks, missing, strict=True)
        )
        self._require_quiet(disks)
        if self.on_hold is not None:
            self.on_hold()
        return disks, pieces

    def _take_changed(self) -> tuple[ExtentSet, ...]:
        """What has changed, which is cleared because it is about to be read."""
        changed = self.changed()
        for number, extents in enumerate(changed):
            self.clear(number, extents)
        return changed

    def _require_proof(self) -> None:
        """Every write must have been seen."""
        with self._lock:
            reasons = [trace.shortfall() for trace in self._traces]
        for reason in filter(None, reasons):
            raise Disturbed(f"not every write was seen: {reason}", hint="Run it again, or use the rescue medium.")

    def _expected_size(self) -> int:
        """Room that the freeze will most likely need, twice over."""
        changed = sum(extents.size for extents in self.changed())
        return min(HELD_BYTES_MAX, max(_ROOM_MIN, 2 * changed))

    def _read_pieces(self, disk: CapturedDisk, number: int, extents: ExtentSet, room: "_Room") -> tuple[Piece, ...]:
        reader = disk.reader if number == 0 else disk.volumes[number - 1].reader
        pieces = [Piece(offset=extent.start, data=room.take(extent.size)) for extent in extents]
        list(self._readers.map(lambda piece: reader.read_into(piece.offset, piece.data), pieces))
        return tuple(pieces)

    def _require_quiet(self, disks: Sequence[CapturedDisk]) -> None:
        """Nothing may have been written since the freeze, but to swap."""
        for source, disk, changed in zip(self._sources, disks, self.changed(), strict=True):
            allowed = ExtentSet.of(*(volume.place for volume in source.volumes if volume.way == "swap"))
            for volume in disk.volumes:
                start = volume.partition.extent.start
                allowed |= ExtentSet(volume.excluded.starts + start, volume.excluded.ends + start)
            wrong = changed.clipped(Extent(0, source.facts.size)) - allowed
            if wrong.size:
                raise Disturbed(
                    f"{source.facts.path} was written at byte {next(iter(wrong)).start} although its file systems were "
                    "frozen",
                    hint="A boot loader or a partitioning tool may be at work. Run the backup again when it has ended.",
                )

    def _changed_of(self, number: int) -> ExtentSet:
        place = self._sources[number].leaf.place
        inside = self._traces[number].changed.changed().clipped(place)
        return ExtentSet(inside.starts - place.start, inside.ends - place.start)

    def _unclear(self, changed: Sequence[ExtentSet]) -> None:
        """What was cleared and then not read counts as changed again."""
        with self._lock:
            for source, trace, extents in zip(self._sources, self._traces, changed, strict=True):
                for extent in extents:
                    trace.changed.mark(extent.shifted(source.leaf.place.start))


class _Room:
    """Memory that was made and touched before the freeze: under it none may have to be found."""

    def __init__(self, size: int) -> None:
        self.size: Final = size
        self._buffer = aligned_buffer(size)
        np.frombuffer(self._buffer, np.uint8)[::4096] = 0
        self._filled = 0

    def take(self, size: int) -> memoryview:
        """The next ``size`` bytes; the caller has seen that they are there."""
        start, self._filled = self._filled, self._filled + size
        return self._buffer[start : self._filled]


@contextmanager
def watch(sources: Sequence[LiveSource], *, limit_s: float = LIMIT_S) -> Iterator[Watch]:
    """Follow some sources, until the block ends. Enter it while this process has one thread.

    Raises:
        MachineRefusal: The kernel's trace cannot be used, or a mount point has gone.
    """
    with ExitStack() as stack:
        wheres = dict.fromkeys(v.where for source in sources for v in source.volumes if v.way != "swap")
        mounted = [open_mounted(where) for where in wheres]
        for one in mounted:
            stack.callback(os.close, one.descriptor)
        watchdog = stack.enter_context(Watchdog([one.descriptor for one in mounted], limit_s=limit_s))
        traces = [stack.enter_context(open_trace(source.leaf, size=source.disk_size)) for source in sources]
        readers = stack.enter_context(ThreadPoolExecutor(_READERS))
        list(readers.map(lambda _: None, range(_READERS)))  # its threads must be there before anything is frozen
        watching = Watch(sources, mounted, traces, watchdog, readers)
        stack.enter_context(_draining(watching))
        yield watching


@contextmanager
def _draining(watching: Watch) -> Iterator[None]:
    """Drain the kernel's buffer many times a second, so that it does not overflow."""
    stop = threading.Event()

    def drain() -> None:
        while not stop.wait(_DRAIN_S):
            watching.drain()

    thread = threading.Thread(target=drain, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _missing(disk: CapturedDisk, number: int, changed: ExtentSet, read: ExtentSet) -> ExtentSet:
    """What must be read now of one range: used, and changed since it was read or never read."""
    if number == 0:
        return (changed & disk.outside) | (disk.outside - read)
    volume = disk.volumes[number - 1]
    place = volume.partition.extent
    inside = changed.clipped(place)
    here = ExtentSet(inside.starts - place.start, inside.ends - place.start)
    return (here & volume.kept) | (volume.kept - read)
