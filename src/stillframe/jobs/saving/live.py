"""Storing sources that stay in use: copy, copy again what changed, and take the rest from one frozen moment.

Answers: "give me the maps of these disks as they were at one moment, though they never stood still." A chunk that was
stored and then changed in a few places is not read again as a whole: what the freeze has read is laid over its stored
bytes. A put-only machine cannot read those: the freeze reads whole chunks for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillframe.capture import CapturedDisk, OpenSource, Selection
from stillframe.capture.live import Held, LiveSource, Piece, watch
from stillframe.capture.windows import WindowsSource
from stillframe.errors import SourceInUse, Unseen
from stillframe.events import Notice
from stillframe.extents import Extent, ExtentSet
from stillframe.host.places import lies_on
from stillframe.jobs.context import JobContext
from stillframe.jobs.saving.chunking import Leaf, kept_ranges, touched
from stillframe.jobs.saving.hooks import Hooks
from stillframe.jobs.saving.rounds import Following, Ranges, Rounds
from stillframe.jobs.saving.storing import StoredRange, Tally, map_builders, store_leaves
from stillframe.repo.blockmap import FANOUT, Kind, MapBuilder, chunk_count
from stillframe.repo.records import StoredHold
from stillframe.repo.repository import Repository
from stillframe.repo.writing import ImageWriter


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLive:
    """Sources that were stored while in use.

    Attributes:
        disks: As they were under the freeze.
        ranges: For each disk its ranges, outside first.
        bytes_read: Bytes read, what was read again among them.
        held: How long they were frozen, and what that cost.
        notices: What a person should know of it.
    """

    disks: tuple[CapturedDisk, ...]
    ranges: tuple[StoredRange, ...]
    bytes_read: int
    held: StoredHold
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

    def stale(self, kept: ExtentSet, read: ExtentSet) -> set[int]:
        """Chunks that hold data, are in use, and may hold bytes beside it that were in use only when they were read."""
        is_stale = touched(read - kept, 0, self.chunk_size, self.count) & touched(kept, 0, self.chunk_size, self.count)
        return set(np.flatnonzero(is_stale & (self.kinds == Kind.DATA)).tolist())

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

    def __init__(self, repository: Repository, writer: ImageWriter, following: Following, context: JobContext) -> None:
        self._repository = repository
        self._writer = writer
        self._context = context
        self._chunk_size = following.chunk_size
        self._rounds = Rounds(following, context)
        self._bytes_read = 0
        self._lost: list[ExtentSet] = []

    def store(self) -> StoredLive:
        """Copy, follow, freeze, finish; everything once more when some writes were not seen."""
        try:
            return self._store()
        except Unseen as error:
            self._context.events.emit(Notice(code=error.code, message=f"{error.message}: everything is read again"))
        return self._store()

    def _store(self) -> StoredLive:
        sources = self._rounds.begin()
        maps = [_LiveMap(one.reader.size, self._chunk_size) for ranges in sources for one in ranges]
        self._lost = [ExtentSet.empty() for _ in maps]
        held = self._rounds.hold(lambda ranges: self._copy(ranges, maps))
        self._writer.flush()
        self._finish(held, maps)
        with map_builders([one.size for one in maps], self._writer, self._chunk_size) as builders:
            for one, builder in zip(maps, builders, strict=True):
                one.build(builder)
            roots = [builder.finish() for builder in builders]
        return StoredLive(
            disks=held.disks, bytes_read=self._bytes_read, notices=tuple(self._rounds.notices),
            ranges=tuple(StoredRange(root=root, unreadable=bad) for root, bad in zip(roots, self._lost, strict=True)),
            held=StoredHold(
                milliseconds=round(held.seconds * 1000), rounds=self._rounds.count, bytes_again=self._rounds.bytes_again
            ),
        )  # fmt: skip

    def _copy(self, parts: Ranges, maps: Sequence[_LiveMap]) -> None:
        def take(number: int, leaf: Leaf) -> None:
            maps[number].take(leaf)

        flat, tally = [one for ranges in parts for one in ranges], Tally()
        store_leaves(flat, self._writer, tally, take, chunk_size=self._chunk_size, context=self._context)
        self._bytes_read += tally.bytes_read
        for number, one in enumerate(flat):
            self._lost[number] = (self._lost[number] - one.kept) | tally.unreadable(one)

    def _finish(self, held: Held, maps: Sequence[_LiveMap]) -> None:
        """Lay what was read under the freeze over what is stored, and zeros over what nobody uses any more."""
        ranges = [one for disk in held.disks for one in kept_ranges(disk)]
        pieces = [parts for disk in held.pieces for parts in disk]
        already = [read for reads in self._rounds.already for read in reads]
        chunks = self._repository.reader(self._writer.index)
        lane = self._writer.lane()
        try:
            for index, (one, live, parts) in enumerate(zip(ranges, maps, pieces, strict=True)):
                self._lost[index] = (self._lost[index] & one.kept) - _places(parts)
                patches = _by_chunk(parts, self._chunk_size)
                # Under a put key nothing can be read again: the freeze has read such chunks as a whole.
                stale = live.stale(one.kept, already[index]) if self._repository.put is None else set[int]()
                for number in sorted(patches.keys() | stale):
                    self._context.cancel.check()
                    start = number * self._chunk_size
                    extent = Extent(start, min(start + self._chunk_size, live.size))
                    stored = live.kinds[number] == Kind.DATA and self._repository.put is None
                    base = chunks.read(live.ids[number].tobytes()) if stored else bytes(extent.size)
                    data = _patched(base, extent, patches.get(number, []), one.kept)
                    if not any(data):
                        is_lost = len(self._lost[index].clipped(extent))
                        live.kinds[number] = Kind.UNREADABLE if is_lost else Kind.ZERO
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


def require_elsewhere(repository_folder: str, sources: Sequence[OpenSource]) -> None:
    """Refuse to hold still what the repository lies on.

    Nothing can be written there under a freeze, and what is written there would fill a snapshot.

    Raises:
        SourceInUse: It lies on one of the sources, or nobody can say.
    """
    for source in sources:
        if isinstance(source, WindowsSource):
            source.require_elsewhere(repository_folder)
        elif source.announcement is not None and lies_on(repository_folder, source.facts.path) is not False:
            raise SourceInUse(
                f"{source.facts.path} is in use, and the repository {repository_folder} lies on it: a file system that "
                "is held still cannot take the image of itself",
                hint="Use a repository on another disk, such as an external one.",
            )


def store_live(
    repository: Repository, sources: Sequence[LiveSource], writer: ImageWriter, *, selection: Selection,
    hooks: Hooks, context: JobContext,
) -> StoredLive:  # fmt: skip
    """Store sources that are in use, as they were at one moment.

    Raises:
        MachineRefusal: They cannot be followed or frozen, or were disturbed again and again.
        StillframeError: Of reading or of storage.
    """
    with watch(sources) as watching:
        size = repository.identity.chunk_size
        if repository.put is not None:
            watching.read_together = size
        following = Following(watching=watching, selection=selection, chunk_size=size, hooks=hooks)
        return _LiveStore(repository, writer, following, context).store()


def _places(pieces: Sequence[Piece]) -> ExtentSet:
    return ExtentSet.from_extents(Extent(piece.offset, piece.offset + len(piece.data)) for piece in pieces)


def _by_chunk(pieces: Sequence[Piece], chunk_size: int) -> dict[int, list[tuple[int, memoryview]]]:
    """Pieces cut at chunk borders: for each chunk the offsets in it and the bytes."""
    found: dict[int, list[tuple[int, memoryview]]] = {}
    for piece in pieces:
        done = 0
        while done < len(piece.data):
            number, inside = divmod(piece.offset + done, chunk_size)
            size = min(chunk_size - inside, len(piece.data) - done)
            found.setdefault(number, []).append((inside, piece.data[done : done + size]))
            done += size
    return found


def _patched(base: bytes, extent: Extent, patches: Sequence[tuple[int, memoryview]], kept: ExtentSet) -> bytes:
    """A chunk with patches laid over it, and zeros where nobody uses it."""
    data = bytearray(base)
    for inside, part in patches:
        data[inside : inside + len(part)] = part
    for gap in kept.complement(extent):
        data[gap.start - extent.start : gap.end - extent.start] = bytes(gap.size)
    return bytes(data)
