"""Where two block maps differ.

Answers: "which bytes of this volume may have changed between two images?" Equal parts of the two trees have equal ids,
so they are never read: the cost follows what differs.
"""

from collections.abc import Iterator

import numpy as np

from stillframe.extents import Extent, ExtentSet
from stillframe.repo.blockmap import FANOUT, Entry, Kind, MapRoot, Node, chunk_count, parse_node, root_level
from stillframe.repo.reading import ChunkReader

_ID_SIZE = 32


def differing_bytes(first: MapRoot, second: MapRoot, chunks: ChunkReader, *, chunk_size: int) -> ExtentSet:
    """The bytes of the chunks that are not the same in both maps, which cover equally many bytes.

    Raises:
        DamagedError: A node cannot be had.
    """
    assert first.size == second.size, "maps of two sizes cannot be compared"
    count = chunk_count(first.size, chunk_size)
    if not count:
        return ExtentSet.empty()
    found = _iter_differing(chunks, (first.root, second.root), level=root_level(count), first=0, count=count)
    limit = Extent(0, first.size)
    places = (Extent(one.start * chunk_size, one.end * chunk_size).clipped(limit) for one in found)
    return ExtentSet.from_extents(place for place in places if place is not None)


def _iter_differing(
    chunks: ChunkReader, pair: tuple[Entry, Entry], *, level: int, first: int, count: int
) -> Iterator[Extent]:
    """Chunk numbers below two entries that name nodes of a level."""
    if pair[0] == pair[1]:
        return
    if all(entry.kind is not Kind.DATA for entry in pair):
        yield Extent(first, first + count)
        return
    below = FANOUT**level
    width = -(-count // below)
    nodes = [_read_node(chunks, entry, level=level, width=width) for entry in pair]
    if level == 0:
        rows = [_ids(node) for node in nodes]
        differs = (nodes[0].kinds != nodes[1].kinds) | (rows[0] != rows[1]).any(axis=1)
        yield from (Extent(first + place, first + place + 1) for place in np.flatnonzero(differs).tolist())
        return
    ids = [node.entry_ids() for node in nodes]
    for place in range(width):
        entries = [Entry(Kind(int(nodes[side].kinds[place])), ids[side][place]) for side in range(2)]
        start = first + place * below
        held = min(below, first + count - start)
        yield from _iter_differing(chunks, (entries[0], entries[1]), level=level - 1, first=start, count=held)


def _read_node(chunks: ChunkReader, entry: Entry, *, level: int, width: int) -> Node:
    """The node of an entry; for one that holds nothing, a node all of whose entries are of its kind."""
    if entry.kind is Kind.DATA:
        return parse_node(chunks.read_node(entry.id), level=level, count=width)
    return Node(level, np.full(width, entry.kind, np.uint8), b"")


def _ids(node: Node) -> np.ndarray:
    """The ids of all entries, a row each; zeros where there is none."""
    rows = np.zeros((len(node.kinds), _ID_SIZE), np.uint8)
    rows[node.kinds == Kind.DATA] = np.frombuffer(node.ids, np.uint8).reshape(-1, _ID_SIZE)
    return rows
