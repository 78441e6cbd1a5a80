"""The files of a volume: three questions that a backup and a repair ask of them.

Answers: "what do the temporary files cost?", "which bytes belong to the files that a pattern names?" and "whose bytes
are these?" What cannot be read on the way is a notice beside the answer, never a silent gap.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from stillframe.block import BlockReader
from stillframe.errors import StillframeError
from stillframe.extents import Extent, ExtentSet
from stillframe.fs.base import LeftOutFile, Volume
from stillframe.fs.files.names import CASE_FREE
from stillframe.fs.files.patterns import Pattern, Trail
from stillframe.fs.files.reserved import read_reserved
from stillframe.fs.files.sleuthkit import DATA_TYPES, Entry, SleuthVolume, Stream, open_volume
from stillframe.fs.files.support import is_read_rightly
from stillframe.fs.files.temporary import TemporaryPlace, list_temporary
from stillframe.fs.files.walk import Folder, Found, Limits, Walk

LOST_FILES_MAX: Final = 1000
_TEMPORARY_LIMITS: Final = Limits(entry_count=1_000_000, depth=64)
_LIMITS: Final = Limits()
_OWNERS_PROVEN: Final = frozenset({"ntfs"})
"""Whose used map is proven only when no two files have a cluster in common: ``fs/ntfs/scan.py``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TemporaryFolder:
    """A folder of temporary files that is not empty.

    Attributes:
        path: From the root of the volume; with ``/`` behind it, a pattern for everything below.
        size: Bytes of the volume that the contents of the files below take. What lies inside the file system's own
            records, and room that was reserved and never written, does not count.
        files_count: Files below.
    """

    path: str
    size: int
    files_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LostFile:
    """A file or folder that had bytes in a lost range.

    Attributes:
        path: From the root of the volume; of a file with several names, the first that was found. ``/`` is the root.
        size: Bytes of its main contents.
        bytes_lost: Bytes of its streams, and of what lists their blocks, in the ranges; all of ``size`` when that list
            cannot be read, and 0 when not even its record can, so that nothing is known of it.
        is_folder: Whether names of other files were lost.
    """

    path: str
    size: int
    bytes_lost: int
    is_folder: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A file of which at least one name is in a pattern.

    Attributes:
        path: The first name that was found.
        size: Bytes of its main contents.
        extents: The contents that may be left out.
        others: What else it has: the lists of its blocks, compressed streams, what lies behind its end.
        found_count, names_count: How many of its names patterns name, of how many.
    """

    path: str
    size: int
    extents: ExtentSet
    others: tuple[Extent, ...]
    found_count: int
    names_count: int

    @property
    def is_left_out(self) -> bool:
        """Whether all of its names are named, and something can be left out."""
        return self.found_count == self.names_count and len(self.extents) > 0


class FileTree:
    """The files of one volume, for one thread. ``open_files`` makes it."""

    def __init__(self, sleuth: SleuthVolume, reader: BlockReader, volume: Volume) -> None:
        self._sleuth = sleuth
        self._reader = reader
        self._volume = volume
        self._ignores_case = volume.filesystem in CASE_FREE

    def price_temporary(self) -> Found[TemporaryFolder]:
        """What the files in known temporary folders take. Only those folders, and the way to them, are read.

        Ask it only of a volume whose used map is proven.
        """
        walk = Walk(self._sleuth)
        names = frozenset(entry.name for entry in walk.iter_folder(walk.root))
        folders: dict[str, TemporaryFolder] = {}
        for place in list_temporary(self._volume.filesystem, names):
            for folder in self._find_folders(walk, place):
                priced = _price(walk, folder)
                if priced.files_count:
                    folders[folder.path] = priced
        return walk.answer(folders.values())

    def find_excluded(self, patterns: Iterable[Pattern]) -> Found[LeftOutFile]:
        """The contents of files that patterns name, as bytes of the partition that need not be kept.

        Contents of regular files in blocks of their own, alternate streams among them; whole blocks, the last one
        too. Never compressed streams, system files, or anything that describes files. A file with several names
        counts only when all of them are named; one that cannot be read whole does not.

        Nothing is left out where one of these bytes is also something else's: the volume is damaged, and which of
        the two is right nobody knows. NTFS's proven map rules that out; elsewhere a map proves only what is in use,
        so all other files and folders are read, and what the file system keeps for itself. Not seen are values of
        extended attributes, files without a name, and what cannot be read, which is noted.

        Ask it only of a volume whose used map is proven: an entry of a stale folder may name bytes of another file.
        """
        walk = Walk(self._sleuth)
        candidates: dict[int, _Candidate] = {}
        trail = Trail.start(patterns, ignore_case=self._ignores_case)
        for folder, entry in walk.follow(trail, _LIMITS):
            known = candidates.get(entry.number)
            if known is not None:
                candidates[entry.number] = replace(known, found_count=known.found_count + 1)
            elif entry.is_file:
                candidates[entry.number] = self._read_candidate(walk, f"{folder.path}/{entry.name}", entry)
        doubt = self._find_doubt(walk, candidates)
        if doubt:
            walk.note_first(f"{doubt}, so nothing is left out")
            return walk.answer(())
        files = (
            LeftOutFile(path=one.path, size=one.size, extents=one.extents, kind="excluded")
            for one in candidates.values()
            if one.is_left_out
        )
        return walk.answer(sorted(files, key=lambda file: file.path))

    def name_lost(self, lost: ExtentSet, *, count_max: int = LOST_FILES_MAX) -> Found[LostFile]:
        """The files and folders that have bytes in some ranges, those of the file system itself among them.

        Args:
            lost: In bytes of the partition.
            count_max: Names wanted; with more the answer is not complete.
        """
        walk = Walk(self._sleuth)
        files: list[LostFile] = []
        for path, entry in self._iter_all(walk) if len(lost) else ():
            file = _lose(walk, path, entry, lost)
            if file is not None and len(files) == count_max:
                walk.note(f"more than {count_max} files have lost bytes; the others are not named")
                break
            if file is not None:
                files.append(file)
        return walk.answer(files)

    def _find_folders(self, walk: Walk, place: TemporaryPlace) -> Iterator[Folder]:
        trail = Trail.start([place.pattern], ignore_case=self._ignores_case)
        for parent, entry in walk.follow(trail, _TEMPORARY_LIMITS):
            if not entry.is_folder:
                continue
            if place.beside and not any(other.name in place.beside for other in walk.iter_folder(parent)):
                continue
            yield Folder(path=f"{parent.path}/{entry.name}", number=entry.number)

    def _read_candidate(self, walk: Walk, path: str, entry: Entry) -> _Candidate:
        """A file that a pattern names; one that cannot be read whole has no extents."""
        contents, others, count = list[Extent](), list[Extent](), 0
        try:
            count = self._sleuth.count_names(entry)
            contents, others = self._divide(self._sleuth.read_streams(entry))
        except StillframeError as error:
            walk.note(f"{path} is kept: {error.message}", error.hint)
        return _Candidate(
            path=path, size=entry.size, extents=ExtentSet.from_extents(contents), others=tuple(others), found_count=1,
            names_count=count,
        )  # fmt: skip

    def _divide(self, streams: tuple[Stream, ...]) -> tuple[list[Extent], list[Extent]]:
        """The blocks that hold what a program reads from the file, and all others."""
        unit = max(self._volume.block_size, 1)
        contents: list[Extent] = []
        others: list[Extent] = []
        for stream in streams:
            is_content = stream.type in DATA_TYPES and not stream.is_compressed
            # Behind the end may lie what is no contents, as fs-verity's.
            end = -(-stream.size // unit) * unit if is_content else 0
            for run in stream.runs:
                cut = min(run.size, max(0, end - run.offset))
                if cut:
                    contents.append(Extent(run.start, run.start + cut))
                if cut < run.size:
                    others.append(Extent(run.start + cut, run.start + run.size))
        return contents, others

    def _find_doubt(self, walk: Walk, candidates: dict[int, _Candidate]) -> str:
        """Why what is to be left out may belong to something else; empty when nothing says so."""
        chosen = [one for one in candidates.values() if one.is_left_out]
        out = ExtentSet.from_extents(piece for one in chosen for piece in one.extents)
        if out.size < sum(one.extents.size for one in chosen):
            return "two files that patterns name share blocks, the volume is damaged"
        if not chosen or self._volume.filesystem in _OWNERS_PROVEN:
            return ""
        for one in candidates.values():
            if any(_touches(out, piece) for piece in (*one.others, *(() if one.is_left_out else one.extents))):
                return f"{one.path} shares blocks with a file that patterns name, the volume is damaged"
        try:
            reserved = read_reserved(self._reader, self._volume)
            pieces = [*reserved.extents, *(piece for number in reserved.numbers for piece in self._read_number(number))]
        except StillframeError as error:
            return f"what belongs to the file system itself cannot be read ({error.message})"
        if any(_touches(out, piece) for piece in pieces):
            return "a file that patterns name has blocks of the file system itself, the volume is damaged"
        strangers = ((path, entry) for path, entry in self._iter_all(walk) if entry.number not in candidates)
        for path, entry in strangers:
            if any(_touches(out, piece) for piece in _pieces(walk, path, entry) or ()):
                return f"{path} shares blocks with a file that patterns name, the volume is damaged"
        return ""

    def _read_number(self, number: int) -> list[Extent]:
        """The blocks of what has a number and no name."""
        entry = self._sleuth.open_number(number)
        streams = () if entry is None else self._sleuth.read_streams(entry)
        return [Extent(run.start, run.start + run.size) for stream in streams for run in stream.runs]

    def _iter_all(self, walk: Walk) -> Iterator[tuple[str, Entry]]:
        """Every file and folder once, the root first."""
        root = self._sleuth.open_root()
        if root is not None:
            yield "/", root
        seen = {walk.root.number}
        for path, entry in walk.descend(walk.root, _LIMITS, with_system=True):
            if entry.links > 1 or entry.is_folder:
                if entry.number in seen:
                    continue
                seen.add(entry.number)
            yield path, entry


def _price(walk: Walk, folder: Folder) -> TemporaryFolder:
    """Add up the files below a folder, each once however many names it has."""
    size, seen = 0, set[int]()
    for path, entry in walk.descend(folder, _TEMPORARY_LIMITS):
        if entry.is_file and not entry.is_system and entry.number not in seen:
            seen.add(entry.number)
            streams = walk.read_streams(path, entry) or ()
            size += sum(run.size for stream in streams if stream.type in DATA_TYPES for run in stream.runs)
    return TemporaryFolder(path=folder.path, size=size, files_count=len(seen))


def _lose(walk: Walk, path: str, entry: Entry, lost: ExtentSet) -> LostFile | None:
    """What of a file or folder lies in lost ranges; ``None`` when nothing does."""
    size = 0
    if entry.fault is None or entry.is_file or entry.is_folder:
        pieces = _pieces(walk, path, entry)
        if pieces is not None:
            if not any(_touches(lost, piece) for piece in pieces):
                return None
            size = (ExtentSet.from_extents(pieces) & lost).size
        else:
            size = entry.size
    return LostFile(path=path, size=entry.size, bytes_lost=size, is_folder=entry.is_folder)


def _pieces(walk: Walk, path: str, entry: Entry) -> list[Extent] | None:
    """All blocks of a file or folder, those that list its blocks too; ``None`` when they cannot be read."""
    streams = walk.read_streams(path, entry)
    if streams is None:
        return None
    return [Extent(run.start, run.start + run.size) for stream in streams for run in stream.runs]


def _touches(lost: ExtentSet, piece: Extent) -> bool:
    index = int(np.searchsorted(lost.ends, piece.start, side="right"))
    return index < len(lost) and int(lost.starts[index]) < piece.end


def open_files(reader: BlockReader, volume: Volume) -> FileTree | None:
    """Open the files of a volume; ``None`` for file systems, and features of them, that are not read here.

    The Sleuth Kit is C code that follows what the volume says. A damaged or hostile volume could make it fail in ways
    that Python cannot catch. So ask what decides about a backup only of volumes whose used map was proven, and the
    rest only where a crash loses nothing.

    Args:
        reader: The partition. It must hold still, and outlive the tree.
        volume: What ``registry.identify`` said of it.

    Raises:
        DiskFormatError: The volume is broken.
        ReadFault: The device failed.
    """
    if not is_read_rightly(reader, volume):
        return None
    return FileTree(open_volume(reader, volume), reader, volume)
