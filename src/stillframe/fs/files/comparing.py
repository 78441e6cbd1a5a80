"""Two states of one volume, file by file.

Answers: "which files were added, changed, removed?" A file has changed when its contents have: its bytes, its streams,
what a link names. Other times, rights and owners alone are ``touched``.

Where the same blocks of both states are known to hold the same bytes, a file that lies in them on both sides is not
read; only what is left is compared byte by byte.
"""

import bisect
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from stillframe.block import BlockReader
from stillframe.errors import DiskFormatError, StillframeError, UsageError
from stillframe.extents import Extent, ExtentSet
from stillframe.fs.base import Volume
from stillframe.fs.files.lookup import FileLookup
from stillframe.fs.files.names import CASE_FREE
from stillframe.fs.files.sleuthkit import (
    DATA_TYPES,
    LINK,
    MADE_UP,
    Entry,
    Facts,
    Run,
    SleuthVolume,
    Stream,
    open_volume,
    read_facts,
)
from stillframe.fs.files.support import is_read_rightly
from stillframe.fs.files.walk import Folder, Found, Limits, Walk

Kind = Literal["added", "changed", "removed", "touched"]
_REPARSE: Final = 192  # tsk_fs.h, TSK_FS_ATTR_TYPE_NTFS_REPARSE: where a link of Windows leads
_PIECE: Final = 1 << 20
_LINK_MAX: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A volume at one time.

    Attributes:
        reader: Its bytes; zeros where some were never kept.
        volume: What it is.
        skipped: Paths of files whose contents were never kept.
        lost: Bytes that were never kept. The library reads more than it is asked for, so they are no faults of
            ``reader``; a file that has some is not compared.
    """

    reader: BlockReader
    volume: Volume
    skipped: frozenset[str] = frozenset()
    lost: ExtentSet = field(default_factory=ExtentSet.empty)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One file or folder that is not the same. ``size`` is the newer one's; of what was removed, the older one's."""

    kind: Kind
    path: str
    size: int
    is_folder: bool


class _Listed(NamedTuple):
    """A file as it was listed: everything that tells whether it must be read."""

    number: int
    size: int
    is_folder: bool
    facts: Facts
    target: bytes
    streams: tuple[Stream, ...]


def compare_trees(
    older: State, newer: State, *, differing: ExtentSet | None, below: str = ""
) -> Found[Difference] | None:
    """What is not the same in two states of one volume; ``None`` when the files of one of them are not read here.

    Args:
        older: What was.
        newer: What is now.
        differing: Where bytes of the volume may differ; ``None`` when nothing is known.
        below: One folder or file, from the root of the volume; everything by default.

    Raises:
        UsageError: Neither state has what ``below`` names.
        StillframeError: A volume cannot be opened.
    """
    if not all(is_read_rightly(state.reader, state.volume) for state in (older, newer)):
        return None
    sides = _Side(older, below), _Side(newer, below)
    if not any(side.is_there for side in sides):
        raise UsageError(f"neither image has {below}", hint="A path begins at the root of its partition.")
    comparison = _Comparison(sides[0], sides[1], differing)
    records = sorted(comparison.run(), key=lambda one: one.path)
    answers: list[Found[Difference]] = [side.walk.answer(()) for side in sides]
    return Found(
        records=tuple(records), is_complete=all(one.is_complete for one in answers),
        notices=tuple(dict.fromkeys(notice for one in answers for notice in one.notices)),
    )  # fmt: skip


class _Side:
    """One state, opened."""

    def __init__(self, state: State, below: str) -> None:
        self.state = state
        self.sleuth: Final[SleuthVolume] = open_volume(state.reader, state.volume)
        self.walk: Final = Walk(self.sleuth)
        self._below = below.strip("/")
        lookup = FileLookup(self.sleuth, ignores_case=state.volume.filesystem in CASE_FREE)
        self._top = lookup.find(self._below) if self._below else None
        self.is_there: Final = self._top is not None or not self._below

    def iter_listed(self) -> Iterator[tuple[str, _Listed]]:
        """Everything that is compared, with its path. What cannot be read is noted, and is not here."""
        if self._top is not None:
            yield from self._list(f"/{self._below}", self._top)
        top = self.walk.root
        if self._top is not None:
            top = Folder(path=f"/{self._below}", number=self._top.number)
        if self.is_there and (self._top is None or self._top.is_folder):
            for path, entry in self.walk.descend(top, Limits()):
                if not entry.is_system:
                    yield from self._list(path, entry)

    def _list(self, path: str, entry: Entry) -> Iterator[tuple[str, _Listed]]:
        try:
            if entry.fault is not None:
                raise entry.fault
            facts = read_facts(entry)
            if facts.kind in MADE_UP:
                return
            yield (
                path,
                _Listed(
                    entry.number, entry.size, entry.is_folder, facts, self._target(entry, facts), self._streams(entry)
                ),
            )
        except StillframeError as error:
            self.walk.note(f"{path} was not compared: {error.message}", error.hint)

    def _target(self, entry: Entry, facts: Facts) -> bytes:
        if facts.kind != LINK:
            return b""
        return facts.link or self.sleuth.read_bytes(entry, 0, _LINK_MAX)

    def _streams(self, entry: Entry) -> tuple[Stream, ...]:
        """What a program could read: not for folders of Linux, whose contents are their names."""
        is_ntfs = self.state.volume.filesystem == "ntfs"
        if not entry.is_file and not (is_ntfs and entry.is_folder):
            return ()
        streams = self.sleuth.read_streams(entry, with_inside=True)
        found = [one for one in streams if one.type in DATA_TYPES or (is_ntfs and one.type == _REPARSE)]
        return tuple(sorted(found, key=lambda one: (one.type, one.name)))


class _Comparison:
    """Both states, and what is known of their blocks."""

    def __init__(self, older: _Side, newer: _Side, differing: ExtentSet | None) -> None:
        self._older = older
        self._newer = newer
        self._differing = differing
        self._starts: list[int] = [] if differing is None else differing.starts.tolist()
        self._ends: list[int] = [] if differing is None else differing.ends.tolist()
        self._is_ntfs = "ntfs" in (older.state.volume.filesystem, newer.state.volume.filesystem)
        self._skipped = older.state.skipped | newer.state.skipped

    def run(self) -> Iterator[Difference]:
        """Everything that is not the same."""
        before = dict(self._older.iter_listed())
        for path, now in self._newer.iter_listed():
            was = before.pop(path, None)
            kind = "added" if was is None else self._judge(path, was, now)
            if kind is not None:
                yield Difference(kind=kind, path=path, size=now.size, is_folder=now.is_folder)
        for path, was in before.items():
            yield Difference(kind="removed", path=path, size=was.size, is_folder=was.is_folder)

    def _judge(self, path: str, was: _Listed, now: _Listed) -> Kind | None:
        try:
            if not self._is_same(path, was, now):
                return "changed"
        except StillframeError as error:
            self._newer.walk.note(f"{path} was not compared: {error.message}", error.hint)
            return None
        return None if was.facts == now.facts else "touched"

    def _is_same(self, path: str, was: _Listed, now: _Listed) -> bool:
        if (was.facts.kind, was.target) != (now.facts.kind, now.target):
            return False
        if not was.is_folder and was.size != now.size:
            return False
        pairs = list(zip(was.streams, now.streams, strict=False))
        if len(was.streams) != len(now.streams) or not all(_is_like(one, other) for one, other in pairs):
            return False
        if path in self._skipped:
            return True
        # NTFS keeps in the record how far a file was ever written: equal blocks are equal contents only with it.
        blocks_tell = not self._is_ntfs or was.facts == now.facts
        return all(self._is_stream_same(was, one, now, other, blocks_tell=blocks_tell) for one, other in pairs)

    def _is_stream_same(self, was: _Listed, one: Stream, now: _Listed, other: Stream, *, blocks_tell: bool) -> bool:
        unknown = self._unknown(one, other, blocks_tell=blocks_tell)
        if len(unknown):
            _require_kept(self._older, one)
            _require_kept(self._newer, other)
        for extent in unknown:
            for start in range(extent.start, extent.end, _PIECE):
                size = min(_PIECE, extent.end - start)
                if _read(self._older, was, one, start, size) != _read(self._newer, now, other, start, size):
                    return False
        return True

    def _unknown(self, one: Stream, other: Stream, *, blocks_tell: bool) -> ExtentSet:
        """The bytes of a stream that the blocks do not tell: all that is neither a hole in both nor in equal blocks."""
        whole = Extent(0, one.size)
        if not one.size:
            return ExtentSet.empty()
        if self._differing is None or not blocks_tell or one.is_inside or other.is_inside:
            return ExtentSet.of(whole)
        compressed = one.is_compressed, other.is_compressed
        if one.runs == other.runs and compressed[0] == compressed[1] and not any(map(self._may_differ, one.runs)):
            return ExtentSet.empty()
        if any(compressed):
            return ExtentSet.of(whole)
        held = ExtentSet.from_extents(Extent(run.offset, run.offset + run.size) for run in (*one.runs, *other.runs))
        equal = list[Extent]()
        for run in set(one.runs) & set(other.runs):
            place = ExtentSet.of(Extent(run.start, run.start + run.size))
            move = run.offset - run.start
            equal += [Extent(piece.start + move, piece.end + move) for piece in place - self._differing]
        return (held - ExtentSet.from_extents(equal)).clipped(whole)

    def _may_differ(self, run: Run) -> bool:
        """Whether bytes of a piece may differ. Asked for every piece of every file: so without arrays."""
        index = bisect.bisect_right(self._ends, run.start)
        return index < len(self._ends) and self._starts[index] < run.start + run.size


def _is_like(one: Stream, other: Stream) -> bool:
    """Whether two streams may hold the same: how they are kept apart."""
    return (one.type, one.name, one.size) == (other.type, other.name, other.size)


def _require_kept(side: _Side, stream: Stream) -> None:
    """Refuse to compare zeros that stand for what was never kept."""
    lost = side.state.lost
    if len(lost) and any(len(lost.clipped(Extent(run.start, run.start + run.size))) for run in stream.runs):
        raise DiskFormatError(
            "its contents were left out of an image", hint="'stillframe show' lists what was left out."
        )


def _read(side: _Side, listed: _Listed, stream: Stream, start: int, size: int) -> bytes:
    entry = side.sleuth.open_number(listed.number)
    if entry is None:
        raise AssertionError(f"file {listed.number} was listed and is gone")
    return side.sleuth.read_bytes(entry, start, size, stream=(stream.type, stream.number))
