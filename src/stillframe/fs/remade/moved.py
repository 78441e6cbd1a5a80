"""A volume that was made anew and whose files still lie in the old one.

Answers: "what is at this byte of the new volume?" Its tables and folders were written to a file; the contents of its
files show through from where they are in the old volume, so that no room is needed for a second copy of them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stillframe.block.base import BlockReader, ExtentKind, KnownExtent, WrappedReader, check_range
from stillframe.block.formats.mapped import MappedDisk, Run, RunKind
from stillframe.errors import DiskFormatError
from stillframe.extents import Extent

Piece = tuple[int, int]
"""Bytes of the old volume: where they begin, and how many."""


class Node(NamedTuple):
    """A file or folder with contents, and the entry that names it. A tuple, because there may be a million of them.

    Attributes:
        folder: Index of the folder that it is in.
        offset: Where its entry, or the part of it that names clusters, is in what that folder holds.
        size: Bytes of its contents; of a folder, of its entries.
        pieces: Where the contents lie now, in their order; none for a folder, whose entries are written anew.
        child: Index of the folder that it is; -1 for a file.
    """

    folder: int
    offset: int
    size: int
    pieces: tuple[Piece, ...]
    child: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A folder of the old volume.

    Attributes:
        path: From the root, for messages; empty for the root.
        parent: Index of the folder that it is in; its own for the root.
        entries: Its entries that are in use, as they were.
    """

    path: str
    parent: int
    entries: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """Everything that must be in the new volume. Folder 0 is the root; ``nodes`` are in the order of their folders."""

    folders: tuple[Folder, ...]
    nodes: tuple[Node, ...]

    def clusters(self, cluster_size: int) -> NDArray[np.int64]:
        """How many clusters of a size each node takes."""
        sizes = np.array([node.size for node in self.nodes], np.int64)
        return -(-sizes // cluster_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """Pieces of contents in the order of their new places: arrays of bytes, each as long as the others.

    Attributes:
        starts: Where they are shown.
        sizes: How long they are.
        sources: Where they lie in the old volume.
        end: Behind the last cluster that is in use in the new one.
    """

    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    sources: NDArray[np.int64]
    end: int

    @staticmethod
    def of(places: Iterable[tuple[int, Node]], *, end: int) -> "Moved":
        """The pieces of nodes that begin at places, in their order."""
        starts, sizes, sources = list[int](), list[int](), list[int]()
        for start, node in places:
            place = start
            for source, size in node.pieces:
                starts.append(place)
                sizes.append(size)
                sources.append(source)
                place += size
        return Moved(
            starts=np.array(starts, np.int64),
            sizes=np.array(sizes, np.int64),
            sources=np.array(sources, np.int64),
            end=end,
        )


class MovedMap:
    """A ``DiskMap``: contents from the old volume, all else from the file that was written.

    Args:
        old: The old volume.
        written: What was written, as large as the new volume.
        moved: Where contents come from.
    """

    def __init__(self, old: BlockReader, written: BlockReader, moved: Moved) -> None:
        self._old = old
        self._written = written
        self._moved = moved
        self._ends = moved.starts + moved.sizes

    def runs(self, within: Extent) -> Iterator[Run]:
        """A range, cut where contents begin and end."""
        position = within.start
        index = int(np.searchsorted(self._ends, position, side="right"))
        while position < within.end:
            start = int(self._moved.starts[index]) if index < len(self._ends) else within.end
            if position < start:
                end = min(start, within.end)
                yield Run(Extent(position, end), RunKind.STORED, position, source=self._written)
            else:
                end = min(int(self._ends[index]), within.end)
                place = int(self._moved.sources[index]) + position - start
                yield Run(Extent(position, end), RunKind.STORED, place, source=self._old)
                index += 1
            position = end

    def unpack(self, block: int) -> bytes:
        """Nothing is packed."""
        raise AssertionError(block)


class _Shown(WrappedReader):
    """The new volume: everything up to the last cluster in use is data, all behind it is nowhere."""

    def __init__(self, inner: BlockReader, end: int) -> None:
        super().__init__(inner)
        self._end = end

    def known_extents(self, within: Extent) -> Iterator[KnownExtent]:
        """In whole clusters: the ends of files are none of a disk's."""
        check_range(self.size, within.start, within.size)
        middle = min(max(self._end, within.start), within.end)
        for start, end, kind in (
            (within.start, middle, ExtentKind.DATA), (middle, within.end, ExtentKind.HOLE),
        ):  # fmt: skip
            if start < end:
                yield KnownExtent(Extent(start, end), kind)


def show_moved(old: BlockReader, written: BlockReader, moved: Moved, *, sector_size: int) -> BlockReader:
    """The new volume."""
    disk = MappedDisk(MovedMap(old, written, moved), size=written.size, sector_size=sector_size)
    return _Shown(disk, min(moved.end, written.size))


def require_apart(nodes: Iterable[tuple[int, int]], what: str, hint: str) -> None:
    """Refuse pieces that overlap: two files in one place.

    Args:
        nodes: Where each piece begins and how long it is.
        what: The volume, for the error.
        hint: The next step.

    Raises:
        DiskFormatError: Some do.
    """
    pieces = np.array([piece for piece in nodes if piece[1]], np.int64).reshape(-1, 2)
    order = np.argsort(pieces[:, 0], kind="stable")
    starts, ends = pieces[order, 0], pieces[order, 0] + pieces[order, 1]
    wrong = np.flatnonzero(starts[1:] < ends[:-1])
    if len(wrong):
        raise DiskFormatError(f"{what}: two files lie at byte {int(starts[wrong[0] + 1])}", hint=hint)
