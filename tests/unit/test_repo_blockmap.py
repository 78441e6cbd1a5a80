"""Nodes of block maps, byte by byte from the format page, section 8, and maps at the edges of their levels."""

import struct

import numpy as np
import pytest

from stillframe.errors import DamagedError
from stillframe.repo.blockmap import (
    Entry,
    Kind,
    MapBuilder,
    MapRoot,
    Node,
    build_node,
    chunk_count,
    iter_spans,
    parse_node,
    root_level,
)

CHUNK = 65_536
ID = bytes(range(32))


def node_bytes(kinds: bytes, ids: bytes = b"", *, level: int = 0, count: int | None = None, version: int = 1) -> bytes:
    return b"SFMN" + struct.pack("<BBH", version, level, len(kinds) if count is None else count) + kinds + ids


def test_a_node_is_the_table_of_the_page() -> None:
    raw = node_bytes(bytes([0, 1, 2, 3, 4, 2]), ID + ID[::-1], level=3)
    node = parse_node(raw, level=3, count=6)
    assert node.kinds.tolist() == [0, 1, 2, 3, 4, 2]
    assert node.entry_ids() == [b"", b"", ID, b"", b"", ID[::-1]]
    assert build_node(node) == raw
    assert (Kind.UNUSED, Kind.ZERO, Kind.DATA, Kind.EXCLUDED, Kind.UNREADABLE) == (0, 1, 2, 3, 4)


def test_the_largest_node_is_read() -> None:
    raw = node_bytes(b"\x02" * 1024, ID * 1024, level=5)
    assert len(parse_node(raw, level=5, count=1024).entry_ids()) == 1024


GOOD = node_bytes(bytes([2, 1]), ID)
BAD = {
    "no bytes": b"",
    "cut header": GOOD[:7],
    "no entries": node_bytes(b""),
    "magic": b"SFMM" + GOOD[4:],
    "version": node_bytes(bytes([2, 1]), ID, version=2),
    "level": node_bytes(bytes([2, 1]), ID, level=1),
    "one entry more": node_bytes(bytes([2, 1, 1]), ID),
    "one entry fewer": node_bytes(bytes([2]), ID),
    "count lies": node_bytes(bytes([2, 1]), ID, count=0xFFFF),
    "kind 5": node_bytes(bytes([2, 5]), ID),
    "kind 255": node_bytes(bytes([2, 255]), ID),
    "no id": node_bytes(bytes([2, 1])),
    "an id too many": node_bytes(bytes([1, 1]), ID),
    "a byte more": GOOD + b"\0",
}


@pytest.mark.parametrize("name", BAD)
def test_a_node_that_is_not_of_its_place_is_damage(name: str) -> None:
    with pytest.raises(DamagedError, match="level 0 with 2 entries"):
        parse_node(BAD[name], level=0, count=2)


def test_a_node_cut_short_anywhere_is_damage() -> None:
    for size in range(len(GOOD)):
        with pytest.raises(DamagedError):
            parse_node(GOOD[:size], level=0, count=2)


@pytest.mark.parametrize("level", range(6))
def test_levels_change_at_powers_of_1024(level: int) -> None:
    assert root_level(1024 ** (level + 1)) == level
    if level < 5:
        assert root_level(1024 ** (level + 1) + 1) == level + 1
    else:
        with pytest.raises(ValueError, match="more than a map can hold"):
            root_level(1024**6 + 1)
    assert root_level(1024**level) == max(0, level - 1)


@pytest.mark.parametrize(("size", "count"), [(0, 0), (1, 1), (CHUNK, 1), (CHUNK + 1, 2), ((1 << 63) - 1, 1 << 47)])
def test_count_is_size_by_chunk_size_rounded_up(size: int, count: int) -> None:
    assert chunk_count(size, CHUNK) == count


def never(_: bytes) -> bytes:
    raise AssertionError("no node was expected")


@pytest.mark.parametrize("kind", [Kind.UNUSED, Kind.ZERO, Kind.EXCLUDED, Kind.UNREADABLE])
@pytest.mark.parametrize("count", [1, 1023, 1024, 1025, 2048, 1024**2 - 1, 1024**2, 1024**2 + 1])
def test_a_uniform_map_costs_no_node(kind: Kind, count: int) -> None:
    builder = MapBuilder(count * CHUNK, CHUNK, never)
    builder.add_uniform(kind, -(-count // 1024))
    root = builder.finish()
    assert root == MapRoot(count * CHUNK, Entry(kind))
    (span,) = iter_spans(root, CHUNK, never)
    assert (span.first, span.count, span.kind, span.leaf) == (0, count, kind, None)


def test_a_map_of_nothing_is_unused() -> None:
    assert MapBuilder(0, CHUNK, never).finish() == MapRoot(0, Entry(Kind.UNUSED))
    assert list(iter_spans(MapRoot(0, Entry(Kind.UNUSED)), CHUNK, never)) == []


def test_the_largest_map_of_a_manifest_is_one_span() -> None:
    size = (1 << 63) - 1
    (span,) = iter_spans(MapRoot(size, Entry(Kind.ZERO)), CHUNK, never)
    assert span.count == 1 << 47


def test_entries_missing_or_misplaced_are_an_error_of_the_caller() -> None:
    builder = MapBuilder(2000 * CHUNK, CHUNK, lambda _: ID)
    with pytest.raises(ValueError, match="0 of 2000"):
        builder.finish()
    for wrong in (0, 1025):
        with pytest.raises(ValueError, match="not the next leaf"):
            builder.add_leaf(np.zeros(wrong, np.uint8), b"")
    builder.add_leaf(np.zeros(1000, np.uint8), b"")
    with pytest.raises(ValueError, match="not the next leaf"):
        builder.add_leaf(np.zeros(1000, np.uint8), b"")


def test_a_node_of_another_level_in_the_tree_is_damage() -> None:
    leaf = build_node(Node(0, np.ones(1024, np.uint8), b""))
    with pytest.raises(DamagedError, match="level 1 with 2 entries"):
        list(iter_spans(MapRoot(2048 * CHUNK, Entry(Kind.DATA, ID)), CHUNK, lambda _: leaf))


def test_a_node_that_names_itself_is_damage_and_no_loop() -> None:
    itself = node_bytes(b"\x02" * 1024, ID * 1024, level=1)
    with pytest.raises(DamagedError, match="level 0"):
        list(iter_spans(MapRoot(1024**2 * CHUNK, Entry(Kind.DATA, ID)), CHUNK, lambda _: itself))
