"""Storing sources that stay in use: copy, copy again what changed, and take the rest from one frozen moment.

Answers: "give me the maps of these disks as they were at one moment, though they never stood still." A chunk that was
stored and then changed in a few places is not read again as a whole: what the freeze has read is laid over its stored
bytes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillframe.capture import CapturedDisk, OpenSource, Selection
from stillframe.capture.live import Held, LiveSource, Piece, Watch, watch
from stillframe.capture.windows import WindowsSource
from stillframe.errors import Disturbed, SourceInUse, Unseen
from stillframe.events import Notice, PhaseStarted
from stillframe.extents import Extent, ExtentSet
from stillframe.host.places import lies_on
from stillframe.jobs.chunking import KeptRange, Leaf, kept_ranges, touched
from stillframe.jobs.context import JobContext
from stillframe.jobs.storing import StoredRange, Tally, map_builders, store_leaves
from stillframe.repo.blockmap import FANOUT, Kind, MapBuilder, chunk_count
from stillframe.repo.repository import Repository
from stillframe.repo.writing import ImageWriter
from stillframe.units import format_size

_ROUNDS_MAX: Final = 8
_TRIES_MAX: Final = 5
_CALM_BYTES: Final = 32 << 20
"""So much may be left to read under the freeze without another round before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLive:
    """Sources that were stored while in use.

    Attributes:
        disks: As they were under the freeze.
        ranges: For each disk its ranges, outside first.
        bytes_read: Bytes read, what was read again among them.
        notices: How long they were frozen, and what that cost.
    """

    disks: tuple[CapturedDisk, ...]
    ranges: tuple[StoredRange, ...]
    bytes_read: int
    notices: tuple[Notice, ...]


class _LiveMap:
    """Kinds and ids of all chunks of one range, which may be stored several times before they are final."""

    def __init__(self, size: int, chunk_size: int) -> None:
        self.size = size
        self.chunk_size = chunk_size
        self.count = chunk_count(size, chunk_size)
        self.kinds: NDArray[np.uint8] = np.full(self.count, Kind.UNUSED, np.uint8)
        self.ids: NDArray[np.uint8] = np.zeros((self.count, 32), np.uint8)

    def take(self, leaf: Leaf) -> None:
        """A leaf was stored; entries that it says nothing of stay."""
        said = leaf.kinds != Kind.UNUSED
        here = slice(leaf.first, leaf.first + len(leaf.kinds))
        self.kinds[here][said] = leaf.kinds[said]
        for number in np.flatnonzero(leaf.kinds == Kind.DATA).tolist():
            self.set_id(leaf.first + number, leaf.ids[number])

    def set_id(self, number: int, chunk_id: bytes) -> None:
        """A chunk holds data."""
        self.kinds[number] = Kind.DATA
        self.ids[number] = np.frombuffer(chunk_id, np.uint8)

    def settle(self, kept: ExtentSet, excluded: ExtentSet) -> None:
        """Make the kinds those of the frozen moment: chunks that nobody uses any more are unused."""
        is_kept = touched(kept, 0, self.chunk_size, self.count)
        is_excluded = touched(excluded, 0, self.chunk_size, self.count)
        assert not (is_kept & (self.kinds == Kind.UNUSED)).any(), "a chunk in use was never stored"
        self.kinds[~is_kept] = np.where(is_excluded[~is_kept], Kind.EXCLUDED, Kind.UNUSED)

    def build(self, builder: MapBuilder) -> None:
        """Hand the entries over, a leaf at a time."""
        for first in range(0, self.count, FANOUT):
            kinds = self.kinds[first : first + FANOUT]
            builder.add_leaf(kinds, self.ids[first : first + FANOUT][kinds == Kind.DATA].tobytes())


class _LiveStore:
    """One run."""

    def __init__(
        self, repository: Repository, writer: ImageWriter, watching: Watch, selection: Selection, context: JobContext
    ) -> None:
        self._repository = repository
        self._writer = writer
        self._watching = watching
        self._selection = selection
        self._context = context
        self._chunk_size = repository.identity.chunk_size
        self._tally = Tally()
        self._already: list[list[ExtentSet]] = []
        self.rounds = 0
        self.bytes_again = 0

    def store(self) -> StoredLive:
        """Copy, follow, freeze, finish; everything once more when some writes were not seen."""
        try:
            return self._store()
        except Unseen as error:
            self._context.events.emit(Notice(code=error.code, message=f"{error.message}: everything is read again"))
        return self._store()

    def _store(self) -> StoredLive:
        self.rounds = 0
        disks = self._watching.begin(self._selection)
        sources = [list(kept_ranges(disk)) for disk in disks]
        maps = [[_LiveMap(one.reader.size, self._chunk_size) for one in ranges] for ranges in sources]
        self._copy(sources, maps)
        self._already = [[one.kept for one in ranges] for ranges in sources]
        held = self._hold(sources, maps)
        flat = [one for ranges in maps for one in ranges]
        self._writer.flush()
        self._finish(held, flat)
        with map_builders([one.size for one in flat], self._writer, self._chunk_size) as builders:
            for one, builder in zip(flat, builders, strict=True):
                one.build(builder)
            roots = [builder.finish() for builder in builders]
        lost = [self._tally.unreadable(one) for ranges in sources for one in ranges]
        return StoredLive(
            disks=held.disks, bytes_read=self._tally.bytes_read, notices=(self._notice(held),),
            ranges=tuple(StoredRange(root=root, unreadable=bad) for root, bad in zip(roots, lost, strict=True)),
        )  # fmt: skip

    def _copy(self, sources: Sequence[Sequence[KeptRange]], maps: Sequence[Sequence[_LiveMap]]) -> None:
        flat = [one for ranges in maps for one in ranges]

        def take(number: int, leaf: Leaf) -> None:
            flat[number].take(leaf)

        store_leaves(
            [one for ranges in sources for one in ranges], self._writer, self._tally, take,
            chunk_size=self._chunk_size, context=self._context,
        )  # fmt: skip

    def _hold(self, sources: Sequence[Sequence[KeptRange]], maps: Sequence[Sequence[_LiveMap]]) -> Held:
        """Rounds of copying until little changes, then the freeze; again when it was disturbed."""
        failure: Disturbed | None = None
        for _ in range(_TRIES_MAX):
            self._copy_changes(sources, maps)
            self._context.events.emit(PhaseStarted(name="freezing for a moment"))
            try:
                held = self._watching.hold(self._selection, self._already)
            except Unseen:
                raise
            except Disturbed as error:
                failure = error
                continue
            if held is not None:
                return held
        raise failure or Disturbed(
            "the source is written faster than it can be copied",
            hint="Back up at a quieter time, or from the rescue medium.",
        )

    def _copy_changes(self, sources: Sequence[Sequence[KeptRange]], maps: Sequence[Sequence[_LiveMap]]) -> None:
        """Read again what changed, as long as that makes less of it."""
        before: int | None = None
        while self.rounds < _ROUNDS_MAX:
            parts = [
                [self._changed_part(one, change, is_outside=index == 0) for index, one in enumerate(ranges)]
                for ranges, change in zip(sources, self._watching.changed(), strict=True)
            ]
            size = sum(one.kept.size for ranges in parts for one in ranges)
            if size <= _CALM_BYTES or (before is not None and size > before * 3 // 4):
                return
            before = size
            self.rounds += 1
            self.bytes_again += size
            self._context.events.emit(PhaseStarted(name="reading again what changed", bytes_total=size))
            for number, ranges in enumerate(parts):
                for index, one in enumerate(ranges):
                    self._watching.clear(number, ExtentSet(one.kept.starts + one.start, one.kept.ends + one.start))
                    self._already[number][index] |= one.kept
            self._copy(parts, maps)

    def _changed_part(self, one: KeptRange, changed: ExtentSet, *, is_outside: bool) -> KeptRange:
        """The whole chunks of a range that changed. In a volume also what was free: it may be a new file by now."""
        here, size = changed.clipped(Extent(one.start, one.start + one.reader.size)), self._chunk_size
        starts = (here.starts - one.start) // size * size
        ends = np.minimum(-(-(here.ends - one.start) // size) * size, one.reader.size)
        chunks = ExtentSet.from_arrays(starts, ends)
        kept = one.kept & chunks if is_outside else chunks - one.excluded
        return replace(one, kept=kept, excluded=ExtentSet.empty())

    def _finish(self, held: Held, maps: Sequence[_LiveMap]) -> None:
        """Lay what was read under the freeze over what is stored."""
        ranges = [one for disk in held.disks for one in kept_ranges(disk)]
        pieces = [parts for disk in held.pieces for parts in disk]
        chunks = self._repository.reader(self._writer.index)
        lane = self._writer.lane()
        try:
            for one, live, parts in zip(ranges, maps, pieces, strict=True):
                self.bytes_again += sum(len(part.data) for part in parts)
                for number, patches in _by_chunk(parts, self._chunk_size):
                    self._context.cancel.check()
                    start = number * self._chunk_size
                    extent = Extent(start, min(start + self._chunk_size, live.size))
                    stored = live.kinds[number] == Kind.DATA
                    base = chunks.read(live.ids[number].tobytes()) if stored else bytes(extent.size)
                    data = _patched(base, extent, patches, one.kept)
                    if not any(data):
                        live.kinds[number] = Kind.ZERO
                        continue
                    chunk_id = self._writer.namer.name(data)
                    if not self._writer.known([chunk_id])[0]:
                        lane.add(chunk_id, data)
                    live.set_id(number, chunk_id)
                live.settle(one.kept, one.excluded)
            lane.close()
        except BaseException:
            lane.abandon()
            raise

    def _notice(self, held: Held) -> Notice:
        return Notice(
            code="frozen",
            message=f"copied while in use, and held still for {held.seconds:.2f} s; {format_size(self.bytes_again)} "
            "changed meanwhile and were read again",
        )


def require_elsewhere(repository_folder: str, sources: Sequence[OpenSource]) -> None:
    """Refuse to freeze the disk that the repository lies on: nothing could be written there meanwhile.

    Raises:
        SourceInUse: It lies on one of the sources, or nobody can say.
    """
    for source in sources:
        if isinstance(source, WindowsSource):
            source.require_elsewhere(repository_folder)
        if isinstance(source, LiveSource) and lies_on(repository_folder, source.facts.path) is not False:
            raise SourceInUse(
                f"{source.facts.path} is in use, and the repository {repository_folder} lies on it: a file system that "
                "is held still cannot take the image of itself",
                hint="Use a repository on another disk, such as an external one.",
            )


def store_live(
    repository: Repository, sources: Sequence[LiveSource], writer: ImageWriter, selection: Selection,
    context: JobContext,
) -> StoredLive:  # fmt: skip
    """Store sources that are in use, as they were at one moment.

    Raises:
        MachineRefusal: They cannot be followed or frozen, or were disturbed again and again.
        StillframeError: Of reading or of storage.
    """
    with watch(sources) as watching:
        return _LiveStore(repository, writer, watching, selection, context).store()


def _by_chunk(pieces: Sequence[Piece], chunk_size: int) -> Iterator[tuple[int, list[tuple[int, memoryview]]]]:
    """Pieces cut at chunk borders: for each chunk the offsets in it and the bytes."""
    found: dict[int, list[tuple[int, memoryview]]] = {}
    for piece in pieces:
        done = 0
        while done < len(piece.data):
            number, inside = divmod(piece.offset + done, chunk_size)
            size = min(chunk_size - inside, len(piece.data) - done)
            found.setdefault(number, []).append((inside, piece.data[done : done + size]))
            done += size
    yield from sorted(found.items())


def _patched(base: bytes, extent: Extent, patches: Sequence[tuple[int, memoryview]], kept: ExtentSet) -> bytes:
    """A chunk with patches laid over it, and zeros where nobody uses it."""
    data = bytearray(base)
    for inside, part in patches:
        data[inside : inside + len(part)] = part
    for gap in kept.complement(extent):
        data[gap.start - extent.start : gap.end - extent.start] = bytes(gap.size)
    return bytes(data)
