"""Block maps: what every chunk of a range is, as a tree of nodes that images share.

Answers: "what is at this offset?" Normative: ``docs/format/v1.md``, section 8. A map of a huge empty disk is one
entry; an image that changed little stores only the nodes above what changed.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillframe.errors import DamagedError
from stillframe.repo.format import CHECK_HINT, CHUNK_ID_SIZE

FANOUT: Final = 1024
LEVEL_MAX: Final = 5
_HEADER: Final = struct.Struct("<4sBBH")
_MAGIC: Final = b"SFMN"

ReadNode = Callable[[bytes], bytes]
"""Gives the plaintext of the node with this id."""
OnDamage = Callable[[DamagedError, int, int], None]
"""Is told why a node cannot be had, the first of the chunks below it, and how many they are."""
StoreNode = Callable[[bytes], bytes]
"""Stores the plaintext of a node and gives its id."""


class Kind(IntEnum):
    """What an entry of a map is."""

    UNUSED = 0
    ZERO = 1
    DATA = 2
    EXCLUDED = 3
    UNREADABLE = 4


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: a kind and, for ``DATA``, the id of a chunk or node; else ``id`` is empty."""

    kind: Kind
    id: bytes = b""


UNUSED: Final = Entry(Kind.UNUSED)


@dataclass(frozen=True, slots=True)
class Node:
    """A node: kinds of all entries, and the ids of those of kind ``DATA``, in order."""

    level: int
    kinds: NDArray[np.uint8]
    ids: bytes

    def entry_ids(self) -> list[bytes]:
        """The id of every entry, empty where it has none."""
        found = iter(range(0, len(self.ids), CHUNK_ID_SIZE))
        return [
            self.ids[at : at + CHUNK_ID_SIZE] if kind == Kind.DATA and (at := next(found)) >= 0 else b""
            for kind in self.kinds.tolist()
        ]


@dataclass(frozen=True, slots=True)
class MapRoot:
    """A whole map: the bytes it covers, and its root as one entry."""

    size: int
    root: Entry


def chunk_count(size: int, chunk_size: int) -> int:
    """Number of chunks of a range of ``size`` bytes."""
    return -(-size // chunk_size)


def root_level(count: int) -> int:
    """Level of the root node of a map of ``count`` chunks.

    Raises:
        ValueError: More chunks than a map can hold.
    """
    level = 0
    while FANOUT ** (level + 1) < count:
        level += 1
    if level > LEVEL_MAX:
        raise ValueError(f"{count} chunks are more than a map can hold")
    return level


def build_node(node: Node) -> bytes:
    """The bytes of a node."""
    return _HEADER.pack(_MAGIC, 1, node.level, len(node.kinds)) + node.kinds.tobytes() + node.ids


def parse_node(raw: bytes, *, level: int, count: int) -> Node:
    """Parse a node of a known place in its tree.

    Raises:
        DamagedError: It is no node, or one of another place.
    """
    if len(raw) >= _HEADER.size:
        magic, version, found_level, found_count = _HEADER.unpack(raw[: _HEADER.size])
        start = _HEADER.size + found_count
        kinds = np.frombuffer(raw[_HEADER.size : start], np.uint8)
        data = int((kinds == Kind.DATA).sum())
        right = (magic, version, found_level, found_count) == (_MAGIC, 1, level, count) and len(kinds) == count
        if right and len(raw) == start + data * CHUNK_ID_SIZE and int(kinds.max(initial=0)) <= Kind.UNREADABLE:
            return Node(level, kinds, raw[start:])
    raise DamagedError(f"a node of a block map is not one of level {level} with {count} entries", hint=CHECK_HINT)


def combine(kinds: NDArray[np.uint8], ids: bytes, *, level: int, store: StoreNode) -> Entry:
    """One entry that stands for these entries of the level below: their common kind, or a stored node."""
    first = int(kinds[0])
    if first != Kind.DATA and not (kinds != first).any():
        return Entry(Kind(first))
    return Entry(Kind.DATA, store(build_node(Node(level, kinds, ids))))


class MapBuilder:
    """Builds a map from its leaves, given in order; keeps one unfinished node per level."""

    def __init__(self, size: int, chunk_size: int, store: StoreNode) -> None:
        self.size = size
        self._count = chunk_count(size, chunk_size)
        self._root_level = root_level(self._count)
        self._store = store
        self._levels: list[list[Entry]] = [[] for _ in range(self._root_level + 1)]
        self._seen = 0

    def add_leaf(self, kinds: NDArray[np.uint8], ids: bytes) -> None:
        """Add the next 1,024 entries of level 0, fewer only at the end."""
        if self._seen % FANOUT or not 0 < len(kinds) <= FANOUT:
            raise ValueError(f"{len(kinds)} entries after {self._seen} are not the next leaf")
        self._seen += len(kinds)
        self._push(1, combine(kinds, ids, level=0, store=self._store))

    def add_uniform(self, kind: Kind, leaves: int) -> None:
        """Add ``leaves`` whole leaves of one kind without touching each entry; the last may be the short one."""
        for _ in range(leaves):
            self._seen = min(self._count, self._seen + FANOUT)
            self._push(1, Entry(kind))

    def finish(self) -> MapRoot:
        """The root. Every entry must have been added."""
        if self._seen != self._count:
            raise ValueError(f"{self._seen} of {self._count} entries were added")
        if self._count == 0:
            return MapRoot(self.size, UNUSED)
        for level in range(1, self._root_level + 1):
            if self._levels[level]:
                self._close(level)
        return MapRoot(self.size, self._levels[0][0])

    def _push(self, level: int, entry: Entry) -> None:
        if level > self._root_level:
            self._levels[0].append(entry)
            return
        self._levels[level].append(entry)
        if len(self._levels[level]) == FANOUT:
            self._close(level)

    def _close(self, level: int) -> None:
        entries, self._levels[level] = self._levels[level], []
        kinds = np.array([entry.kind for entry in entries], np.uint8)
        self._push(level + 1, combine(kinds, b"".join(e.id for e in entries), level=level, store=self._store))


@dataclass(frozen=True, slots=True)
class Span:
    """Entries ``first`` to ``first + count`` of level 0: either one kind for all, or a leaf."""

    first: int
    count: int
    kind: Kind
    leaf: Node | None = None
    node_id: bytes = b""


def iter_spans(root: MapRoot, chunk_size: int, read: ReadNode, *, on_damage: OnDamage | None = None) -> Iterator[Span]:
    """All entries of a map in order, a leaf or a uniform subtree at a time.

    Args:
        root: The map.
        chunk_size: Bytes of a chunk.
        read: Reads a node by its id.
        on_damage: Told of a node that is damaged; what lies below it is then one span of kind ``UNREADABLE``.

    Raises:
        DamagedError: A node is damaged and nobody wants to be told; ``read`` may raise its own errors.
    """
    count = chunk_count(root.size, chunk_size)
    if count:
        yield from _descend(root.root, root_level(count), 0, count, _NodeSource(read, on_damage))


@dataclass(frozen=True, slots=True)
class _NodeSource:
    read: ReadNode
    on_damage: OnDamage | None

    def node(self, node_id: bytes, *, level: int, first: int, count: int) -> Node | None:
        """A node; ``None`` for a damaged one whose damage was told."""
        try:
            return parse_node(self.read(node_id), level=level, count=-(-count // FANOUT**level))
        except DamagedError as error:
            if self.on_damage is None:
                raise
            self.on_damage(error, first, count)
            return None


def _descend(entry: Entry, level: int, first: int, count: int, source: _NodeSource) -> Iterator[Span]:
    if entry.kind is not Kind.DATA:
        yield Span(first, count, entry.kind)
        return
    below = FANOUT**level
    node = source.node(entry.id, level=level, first=first, count=count)
    if node is None:
        yield Span(first, count, Kind.UNREADABLE)
        return
    if level == 0:
        yield Span(first, count, Kind.DATA, node, entry.id)
        return
    ids = node.entry_ids()
    for number, kind in enumerate(node.kinds.tolist()):
        start = number * below
        yield from _descend(Entry(Kind(kind), ids[number]), level - 1, first + start, min(below, count - start), source)
