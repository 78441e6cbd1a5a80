"""The tracked freeze: an exact copy of file systems that stay in use.

Answers: "which bytes must be read again, and what do the volumes look like at one moment?" The kernel's own record of
completed writes is followed while a disk is copied; what changed meanwhile is copied again; the last of it is read
into memory while the file systems are frozen, for a fraction of a second, together with their maps. The image is the
state of that moment, as if the file systems had been unmounted then.

What makes it sound, each a test: a granule is cleared before it is read; marks are set when a write completes; the
number of sectors that were traced must reach the disk's own counters; what is used under the freeze and was never read
is read then; nothing may have been written between the freeze and the last byte that was read, but to swap and to the
headers of LVM, RAID and encryption, which are read again, and afterwards all must be arranged as it was before.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np

from stillframe.block.file import aligned_buffer
from stillframe.capture.live.followed import FollowedSource, follow
from stillframe.capture.live.source import LiveSource
from stillframe.capture.repeating import repeating
from stillframe.capture.source import CapturedDisk, Selection
from stillframe.errors import Disturbed, Unseen
from stillframe.extents import ExtentSet
from stillframe.hanging import Underway, pool, prepare, read_limit, result
from stillframe.host.live.freezing import MountedFilesystem, frozen, open_mounted, settle
from stillframe.host.live.watchdog import LIMIT_S, Watchdog

HELD_BYTES_MAX: Final = 256 << 20
"""Bytes that may be read into memory under the freeze; with more, another round of copying comes first."""
_ROOM_MIN: Final = 16 << 20
_DRAIN_S: Final = 0.02
"""The kernel's buffer is emptied many times a second, so that it does not overflow."""
_READERS: Final = 4
_CALM_ROUNDS_MAX: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Bytes of a range that were read under the freeze; of two that overlap the later one counts."""

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


class Watch:
    """Follows the writes to some sources. ``watch`` makes it; all its methods are for one thread."""

    def __init__(
        self, followed: Sequence[FollowedSource], mounted: Sequence[MountedFilesystem], watchdog: Watchdog,
        readers: ThreadPoolExecutor,
    ) -> None:  # fmt: skip
        self._followed = tuple(followed)
        self._mounted = tuple(mounted)
        self._watchdog = watchdog
        self._readers = readers
        self._lock = threading.Lock()
        self.read_together = 1
        """Bytes that are read together under the freeze, from the start of each range: whole chunks, for who cannot
        read what is stored of a chunk and lay the rest over it."""
        self.on_hold: Callable[[], None] | None = None
        """For tests: called while everything is frozen, after the last byte was read."""

    def drain(self) -> None:
        """Take what the kernel has recorded."""
        with self._lock:
            for one in self._followed:
                one.drain()

    def begin(self, selection: Selection) -> tuple[CapturedDisk, ...]:
        """Begin to follow: from now on every write is marked. Freezes for a moment, to see that it can be done.

        Returns:
            The sources as they were under that first freeze: what is worth reading.

        Raises:
            MachineRefusal: Something cannot be frozen.
        """
        with self._lock:
            for one in self._followed:
                one.begin_again()
        settle(self._mounted)
        prepare()
        with frozen(self._freezable, self._watchdog):
            return tuple(one.source.capture(selection) for one in self._followed)

    def changed(self) -> tuple[ExtentSet, ...]:
        """For each source what has changed since it was last taken, in bytes of the source."""
        self.drain()
        with self._lock:
            return tuple(one.changed() for one in self._followed)

    def written(self) -> tuple[ExtentSet, ...]:
        """For each source what was written since the last call, to the sector."""
        self.drain()
        with self._lock:
            return tuple(one.note_anew() for one in self._followed)

    def clear(self, number: int, extents: ExtentSet) -> None:
        """Bytes of a source are about to be read (again): forget that they have changed."""
        with self._lock:
            self._followed[number].clear(extents)

    def hold(self, selection: Selection, already: Sequence[Sequence[ExtentSet]]) -> Held | None:
        """Freeze, read the maps and what is missing, and thaw.

        Args:
            selection: Which bytes the person wants.
            already: For each source and each of its ranges what was read since it was last cleared.

        Returns:
            The state at that moment; ``None`` when too much was missing to be read under a freeze.

        Raises:
            Unseen: It is not proven that every write was seen: everything must be read again.
            Disturbed: Something was written meanwhile, or volumes were changed.
            ThawedEarly: Somebody else thawed, or the watchdog did.
            MachineRefusal: It cannot be frozen.
        """
        settle(self._mounted)
        prepare()
        room = _Room(self._expected_size())
        taken: tuple[ExtentSet, ...] = ()
        good = False
        try:
            with frozen(self._freezable, self._watchdog) as stillness:
                taken = self._take_changed()
                held = _HeldReading(self, selection, room).read(already, taken)
            if held is None:
                return None
            self._require_proof()
            good = True
        finally:
            with self._lock:
                for one in self._followed:
                    one.stop_noting()
            if not good:  # what was read is discarded, whatever failed: it counts as changed again
                self._unclear(taken)
        return Held(disks=held[0], pieces=held[1], seconds=stillness.seconds)

    @property
    def sources(self) -> tuple[LiveSource, ...]:
        """What is followed."""
        return tuple(one.source for one in self._followed)

    @property
    def readers(self) -> ThreadPoolExecutor:
        """Threads that exist already, to read with under the freeze."""
        return self._readers

    @property
    def _freezable(self) -> tuple[MountedFilesystem, ...]:
        ways = {volume.where: volume.way for source in self.sources for volume in source.volumes}
        return tuple(one for one in self._mounted if ways[one.where] == "frozen")

    def _take_changed(self) -> tuple[ExtentSet, ...]:
        """What has changed, which is cleared because it is about to be read. From here on every write is noted."""
        self.written()
        changed = self.changed()
        for number, extents in enumerate(changed):
            self.clear(number, extents)
        return changed

    def _require_proof(self) -> None:
        """Every write must have been seen, and all must be arranged as when it began."""
        with self._lock:
            reasons = [reason for one in self._followed for reason in one.shortfalls()]
        if reasons:
            raise Unseen(f"not every write was seen: {reasons[0]}", hint="Run it again, or use the rescue medium.")
        for source in self.sources:
            source.require_unchanged()

    def _expected_size(self) -> int:
        """Room that the freeze will most likely need, twice over."""
        changed = sum(_together(extents, self.read_together).size for extents in self.changed())
        return min(HELD_BYTES_MAX, max(_ROOM_MIN, 2 * changed))

    def _unclear(self, taken: Sequence[ExtentSet]) -> None:
        with self._lock:
            for one, extents in zip(self._followed, taken, strict=bool(taken)):
                one.mark(extents)


class _Room:
    """Memory that was made and touched before the freeze: under it none may have to be found."""

    def __init__(self, size: int) -> None:
        self.size: Final = size
        self._buffer = aligned_buffer(size)
        np.frombuffer(self._buffer, np.uint8)[::4096] = 0
        self._filled = 0

    @property
    def left(self) -> int:
        """Bytes that are not taken."""
        return self.size - self._filled

    def take(self, size: int) -> memoryview:
        """The next ``size`` bytes; the caller has seen that they are there."""
        start, self._filled = self._filled, self._filled + size
        return self._buffer[start : self._filled]


_Pieces = tuple[tuple[tuple[Piece, ...], ...], ...]


class _HeldReading:
    """What happens between the freeze and the thaw. It opens nothing, logs nothing, imports nothing."""

    def __init__(self, watching: Watch, selection: Selection, room: _Room) -> None:
        self._watching = watching
        self._selection = selection
        self._room = room

    def read(
        self, already: Sequence[Sequence[ExtentSet]], changed: Sequence[ExtentSet]
    ) -> tuple[tuple[CapturedDisk, ...], _Pieces] | None:
        """Maps and missing bytes; ``None`` when they do not fit into the room."""
        disks = tuple(source.capture(self._selection) for source in self._watching.sources)
        missing = [
            [self._missing(disk, number, change, read) for number, read in enumerate(reads)]
            for disk, change, reads in zip(disks, changed, already, strict=True)
        ]
        pieces = self._read_all(disks, missing)
        for _ in range(_CALM_ROUNDS_MAX):
            late = self._written_meanwhile(disks) if pieces is not None else []
            if not any(len(extents) for extents in late):
                break
            again = [
                [self._missing(disk, number, change, _kept(disk, number)) for number in range(1 + len(disk.volumes))]
                for disk, change in zip(disks, late, strict=True)
            ]
            more = self._read_all(disks, again)
            pieces = _joined(pieces, more) if pieces is not None and more is not None else None
        else:
            raise Disturbed("headers of volumes were written again and again", hint="Run the backup again.")
        if pieces is not None and self._watching.on_hold is not None:
            self._watching.on_hold()
        return (disks, pieces) if pieces is not None else None

    def _missing(self, disk: CapturedDisk, number: int, changed: ExtentSet, read: ExtentSet) -> ExtentSet:
        """What must be read now of one range: used, and changed since it was read or never read."""
        kept = _kept(disk, number)
        if number > 0:
            place = disk.volumes[number - 1].partition.extent
            changed = changed.clipped(place).shifted(-place.start)
        wanted, size = (changed & kept) | (kept - read), self._watching.read_together
        if size > 1:  # the pieces in which something is that nobody uses any more are made anew as well
            wanted = _together(wanted | (read - kept), size) & kept
        return wanted

    def _read_all(self, disks: Sequence[CapturedDisk], wanted: Sequence[Sequence[ExtentSet]]) -> _Pieces | None:
        if sum(extents.size for ranges in wanted for extents in ranges) > self._room.left:
            return None
        return tuple(
            tuple(self._read_pieces(disk, number, extents) for number, extents in enumerate(ranges))
            for disk, ranges in zip(disks, wanted, strict=True)
        )

    def _read_pieces(self, disk: CapturedDisk, number: int, extents: ExtentSet) -> tuple[Piece, ...]:
        reader = disk.reader if number == 0 else disk.volumes[number - 1].reader
        pieces = [Piece(offset=extent.start, data=self._room.take(extent.size)) for extent in extents]
        readers, limit_s = self._watching.readers, read_limit()
        reads = [readers.submit(reader.read_into, piece.offset, piece.data) for piece in pieces]
        for read, piece in zip(reads, pieces, strict=True):  # Ctrl-C must thaw, whatever hangs
            result(read, Underway("reading what was held still", "a source", piece.offset, limit_s))
        return tuple(pieces)

    def _written_meanwhile(self, disks: Sequence[CapturedDisk]) -> list[ExtentSet]:
        """What was written since the freeze, for each source: only headers of containers may be; cleared here.

        Raises:
            Disturbed: Something else was.
        """
        found = []
        for number, written in enumerate(self._watching.written()):
            source, disk = self._watching.sources[number], disks[number]
            late = (written & _all_kept(disk)) - source.swap  # discards of what is free go on under a freeze
            containers = ExtentSet.from_extents(volume.partition.extent for volume in source.containers(disk))
            wrong = late - (containers - source.guarded)
            if wrong.size:
                raise Disturbed(
                    f"{source.facts.path} was written at byte {next(iter(wrong)).start} although its file systems were "
                    "frozen",
                    hint="A boot loader, a partitioning tool or a repair of a RAID may be at work. Run the backup "
                    "again when it has ended.",
                )
            self._watching.clear(number, late)
            found.append(late)
        return found


@contextmanager
def watch(sources: Sequence[LiveSource], *, limit_s: float = LIMIT_S) -> Iterator[Watch]:
    """Follow some sources, until the block ends. Enter it while this process has one thread.

    Raises:
        MachineRefusal: The kernel's trace cannot be used, or a mount point has gone.
    """
    with ExitStack() as stack:
        volumes = sorted((v for source in sources for v in source.volumes if v.way != "swap"), key=lambda v: -v.depth)
        mounted = [open_mounted(where) for where in dict.fromkeys(volume.where for volume in volumes)]
        for one in mounted:
            stack.callback(os.close, one.descriptor)
        watchdog = stack.enter_context(Watchdog([one.descriptor for one in mounted], limit_s=limit_s))
        followed = [stack.enter_context(follow(source)) for source in sources]
        readers = stack.enter_context(pool(_READERS))
        together = threading.Barrier(_READERS)  # all its threads must be there before anything is frozen
        list(readers.map(lambda _: together.wait(), range(_READERS)))
        watching = Watch(followed, mounted, watchdog, readers)
        stack.enter_context(repeating(watching.drain, _DRAIN_S))
        yield watching


def _together(extents: ExtentSet, size: int) -> ExtentSet:
    """Pieces of ``size`` bytes that these ranges touch."""
    return (
        extents if size == 1 else ExtentSet.from_arrays(extents.starts // size * size, -(-extents.ends // size) * size)
    )


def _kept(disk: CapturedDisk, number: int) -> ExtentSet:
    return disk.outside if number == 0 else disk.volumes[number - 1].kept


def _all_kept(disk: CapturedDisk) -> ExtentSet:
    found = disk.outside
    for volume in disk.volumes:
        found |= volume.kept.shifted(volume.partition.extent.start)
    return found


def _joined(pieces: _Pieces, more: _Pieces) -> _Pieces:
    return tuple(
        tuple(first + second for first, second in zip(ranges, again, strict=True))
        for ranges, again in zip(pieces, more, strict=True)
    )
