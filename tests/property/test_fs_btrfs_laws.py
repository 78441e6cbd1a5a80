"""Btrfs changed block by block: a contradiction is never believed, and whatever is on the disk, there is an answer."""

import functools
import os
import random
import struct
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stillframe.block import BlockReader, MemoryDisk, OverlayReader, ReadFault
from stillframe.errors import DiskFormatError, StillframeError
from stillframe.extents import Extent, ExtentSet
from stillframe.fs.base import UsedMap
from stillframe.fs.btrfs import BtrfsFilesystem, read_frozen_map
from stillframe.fs.btrfs.checksums import ChecksumType, are_checksums_good
from stillframe.fs.btrfs.chunks import Chunk, ChunkMap, ChunkType
from stillframe.fs.btrfs.superblock import DeviceItem
from stillframe.testing import volumes_btrfs as volumes
from stillframe.testing.volumes_btrfs import Change, Key, set_field

MIB = 1 << 20
NODE = 4096
BTRFS = BtrfsFilesystem()
SHAPES = {
    "single": (48 * MIB, "-m single"),
    "dup": (112 * MIB, "-m dup"),
    "mixed-old": (24 * MIB, "-M -m single -d single -R ^free-space-tree -O ^skinny-metadata"),
}
TREES = {"root": 1, "extent": 2, "chunk": 3, "dev": 4, "10": 10}
LOG_TREE = (1 << 64) - 6
EXTENT_ITEM, METADATA_ITEM, BLOCK_GROUP_ITEM, DEVICE_EXTENT, CHUNK_ITEM, ROOT_ITEM = 168, 169, 192, 204, 228, 132
EXTENT_DATA = 108
Items = list[tuple[Key, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A volume of mkfs, and where dump-tree says that the blocks of its trees lie (copies of each, the root first)."""

    contents: bytes
    disk: MemoryDisk
    chunks: list[volumes.ListedChunk]
    trees: dict[str, list[list[int]]]

    @property
    def generation(self) -> int:
        return int.from_bytes(self.contents[volumes.SUPERBLOCK + 0x48 : volumes.SUPERBLOCK + 0x50], "little")

    def block(self, place: int) -> bytes:
        return self.contents[place : place + NODE]

    def leaf(self, tree: str, kind: int) -> list[int]:
        """The copies of the first leaf of a tree with an item of this type."""
        leaves = [places for places in self.trees[tree] if not self.block(places[0])[100]]
        return next(p for p in leaves if any(key[1] == kind for key, _ in volumes.items_of(self.block(p[0]))))


@functools.cache
def sample(shape: str) -> Sample:
    size, options = SHAPES[shape]
    with tempfile.TemporaryDirectory() as name:
        folder, image = Path(name) / "folder", Path(name) / "image"
        folder.mkdir()
        for number in range(150):
            (folder / f"file{number}").write_bytes(random.Random(number).randbytes(100 * (number % 60)))
        volumes.make_btrfs(image, "-n", str(NODE), *options.split(), size=size, folder=folder)
        # mkfs cuts the image to what it needs.
        os.truncate(image, size)
        chunks = volumes.list_chunks(image)
        trees = {
            tree: [volumes.places_of(chunks, address) for address in volumes.list_blocks(image, tree)]
            for tree in TREES
            if tree != "10" or "free-space-tree" not in options
        }
        contents = image.read_bytes()
        return Sample(contents=contents, disk=MemoryDisk(contents), chunks=chunks, trees=trees)


def with_blocks(base: Sample, blocks: dict[int, bytes | bytearray]) -> BlockReader:
    """A volume with some blocks of 4 KiB replaced, by where they lie."""
    placed = {place // NODE: bytes(block) for place, block in blocks.items()}
    return OverlayReader(base.disk, block_size=NODE, blocks=placed)


def changed(base: Sample, changes: Iterable[tuple[list[int], Change]], *, signed: bool = True) -> BlockReader:
    """A volume with blocks changed in all their copies, with good checksums unless told otherwise."""
    blocks: dict[int, bytes | bytearray] = {}
    for places, change in changes:
        block = bytearray(blocks.get(places[0], base.block(places[0])))
        change(block)
        if signed:
            volumes.rewrite(block, [0], NODE, lambda _: None)
        blocks |= dict.fromkeys(places, block)
    return with_blocks(base, blocks)


def codes(used: UsedMap) -> list[str]:
    return [notice.code for notice in used.notices]


def change_items(how: Callable[[Items], Items]) -> Change:
    def change(block: bytearray) -> None:
        volumes.put_items(block, how(volumes.items_of(block)))

    return change


def without(kind: int, *, which: int = 0) -> Change:
    def how(items: Items) -> Items:
        found = [item for item in items if item[0][1] == kind][which]
        return [item for item in items if item != found]

    return change_items(how)


def with_data(kind: int, offset: int, distance: int) -> Change:
    """The first item of a type with one of its numbers moved."""

    def how(items: Items) -> Items:
        index = next(number for number, (key, _) in enumerate(items) if key[1] == kind)
        key, data = items[index]
        (number,) = struct.unpack_from("<Q", data, offset)
        moved = data[:offset] + ((number + distance) % (1 << 64)).to_bytes(8, "little") + data[offset + 8 :]
        return [*items[:index], (key, moved), *items[index + 1 :]]

    return change_items(how)


def with_key(kind: int, *, type_: int | None = None, add: tuple[int, int] = (0, 0), which: int = 0) -> Change:
    """One item of a type with another key."""

    def how(items: Items) -> Items:
        index = [number for number, (key, _) in enumerate(items) if key[1] == kind][which]
        (objectid, _, offset), data = items[index]
        key = (objectid + add[0], kind if type_ is None else type_, offset + add[1])
        return [*items[:index], (key, data), *items[index + 1 :]]

    return change_items(how)


def turn_round(items: Items) -> Items:
    return [items[0], *items[2:0:-1], *items[3:]]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_volumes_to_be_changed_are_read_as_they_are(shape: str) -> None:
    used = BTRFS.used_map(sample(shape).disk)
    assert (used.kind, used.notices) == ("used", ())
    assert read_frozen_map(sample(shape).disk) == used
    assert len(sample(shape).trees["extent"]) > 2
    assert len(sample(shape).trees["extent"][0]) == (2 if shape == "dup" else 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_one_flipped_bit_in_any_block_that_is_read_is_noticed(shape: str) -> None:
    base, chance = sample(shape), random.Random(shape)
    whole = BTRFS.used_map(base.disk)
    for places in [places for tree in base.trees.values() for places in tree]:
        place, bit = chance.randrange(NODE), 1 << chance.randrange(8)

        def flip(block: bytearray, place: int = place, bit: int = bit) -> None:
            block[place] ^= bit

        assert codes(BTRFS.used_map(changed(base, [(places, flip)], signed=False))) == ["btrfs-contradiction"]
        if len(places) == 2:
            used = BTRFS.used_map(changed(base, [(places[:1], flip)], signed=False))
            assert (used.extents, used.kind, codes(used)) == (whole.extents, "used", ["btrfs-second-copy"])
            assert BTRFS.used_map(changed(base, [(places[1:], flip)], signed=False)) == whole


def test_one_flipped_bit_in_the_superblock_is_noticed() -> None:
    base = sample("single")
    for place in (0, 3, 0x20, 0x48, 0x78, 0xC9, 0x12B, 0x32B, 0xB2B, 4095):
        reader = changed(base, [([volumes.SUPERBLOCK], set_field(place, base.block(volumes.SUPERBLOCK)[place] ^ 4, 1))],
                         signed=False)  # fmt: skip
        assert codes(BTRFS.used_map(reader)) == ["btrfs-checksum"], place


@pytest.mark.parametrize(
    ("offset", "value", "size", "code"),
    [
        (0xBC, 1 << 17 | 1, 8, "btrfs-unknown-feature"),
        (0xBC, 1 << 63 | 1, 8, "btrfs-unknown-feature"),
        (0xB4, 1 << 4, 8, "btrfs-unknown-feature"),
        (0xBC, 1 << 12 | 1, 8, "btrfs-unsupported-feature"),
        (0xBC, 1 << 13 | 1, 8, "btrfs-unsupported-feature"),
        (0xBC, 1 << 14 | 1, 8, "btrfs-unsupported-feature"),
        (0xBC, 1 << 16 | 1, 8, "btrfs-unsupported-feature"),
        (0xBC, 0, 8, "btrfs-unsupported-feature"),
        (0x38, 1 << 2 | 1, 8, "btrfs-state"),
        (0x38, 1 << 32 | 1, 8, "btrfs-state"),
        (0x38, 1 << 35 | 1, 8, "btrfs-state"),
        (0x38, 1 << 60 | 1, 8, "btrfs-state"),
        (0x88, 2, 8, "btrfs-several-devices"),
        (0xC9, 0, 8, "btrfs-several-devices"),
        (0xC9, 2, 8, "btrfs-contradiction"),
        (0xD1, 1 << 40, 8, "btrfs-truncated"),
        (0xD1, 1 << 63, 8, "btrfs-contradiction"),
        (0xC4, 1, 2, "btrfs-checksum-type"),
        (0xC4, 9, 2, "btrfs-checksum-type"),
        (0xC4, 2, 2, "btrfs-checksum"),
        (0x30, 4096, 8, "btrfs-contradiction"),
        (0x94, 8192, 4, "btrfs-contradiction"),
        (0x94, 4095, 4, "btrfs-contradiction"),
        (0x94, 1 << 31, 4, "btrfs-contradiction"),
        (0x90, 0, 4, "btrfs-contradiction"),
        (0xA0, 0, 4, "btrfs-contradiction"),
        (0xA0, 5, 4, "btrfs-contradiction"),
        (0xA0, 1 << 31, 4, "btrfs-contradiction"),
        (0xC6, 8, 1, "btrfs-contradiction"),
        (0xC6, 7, 1, "btrfs-contradiction"),
        (0x48, 5000, 8, "btrfs-contradiction"),
        (0x50, 1 << 20, 8, "btrfs-contradiction"),
        (0x58, 1 << 61, 8, "btrfs-contradiction"),
        (0x78, 4096, 8, "btrfs-contradiction"),
        (0x60, 1 << 20, 8, "btrfs-log"),
    ],
)
def test_what_the_superblock_says_is_not_believed(offset: int, value: int, size: int, code: str) -> None:
    base = sample("single")
    reader = changed(base, [([volumes.SUPERBLOCK], set_field(offset, value, size))])
    used = BTRFS.used_map(reader)
    assert (used.kind, codes(used)) == ("raw", [code])
    assert used.extents == ExtentSet.of(Extent(0, reader.size))
    assert used.notices[0].message
    assert used.notices[0].hint


HEADERS = {"fsid": (32, 1), "address": (48, 4096), "generation": (80, 1), "owner": (88, 1), "level": (100, 1)}


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("field", HEADERS)
def test_a_block_that_is_another_one_is_not_believed(tree: str, field: str) -> None:
    base, (offset, distance) = sample("single"), HEADERS[field]

    def change(block: bytearray) -> None:
        block[offset : offset + 2] = (int.from_bytes(block[offset : offset + 2], "little") + distance).to_bytes(
            2, "little"
        )

    for places in (base.trees[tree][0], base.trees[tree][-1]):
        assert codes(BTRFS.used_map(changed(base, [(places, change)]))) == ["btrfs-contradiction"]


CONTRADICTIONS: dict[str, tuple[str, int, Change, str]] = {
    "block group's use": ("extent", BLOCK_GROUP_ITEM, with_data(BLOCK_GROUP_ITEM, 0, 4096), "its extents are"),
    "block group's contents": ("extent", BLOCK_GROUP_ITEM, with_data(BLOCK_GROUP_ITEM, 16, 1), "block groups are not"),
    "block group's size": ("extent", BLOCK_GROUP_ITEM, with_key(BLOCK_GROUP_ITEM, add=(0, 4096), which=-1), "are not"),
    "no block group": ("extent", BLOCK_GROUP_ITEM, without(BLOCK_GROUP_ITEM, which=-1), "are not"),
    "no extent": ("extent", EXTENT_ITEM, without(EXTENT_ITEM, which=1), "its extents are"),
    "longer extent": ("extent", EXTENT_ITEM, with_key(EXTENT_ITEM, add=(0, 1 << 20), which=1), "overlap at"),
    "huge extent": ("extent", EXTENT_ITEM, with_key(EXTENT_ITEM, add=(0, 1 << 61), which=1), "not inside one chunk"),
    "endless extent": ("extent", EXTENT_ITEM, with_key(EXTENT_ITEM, add=(0, 1 << 63), which=1), "beyond any address"),
    "strange extent": ("extent", EXTENT_ITEM, with_key(EXTENT_ITEM, type_=170, which=1), "unknown type 170"),
    "turned keys": ("extent", EXTENT_ITEM, change_items(turn_round), "keys do not rise"),
    "other device extent": ("dev", DEVICE_EXTENT, with_key(DEVICE_EXTENT, add=(0, 4096)), "device tree"),
    "no device extent": ("dev", DEVICE_EXTENT, without(DEVICE_EXTENT), "device tree"),
    "shorter device extent": ("dev", DEVICE_EXTENT, with_data(DEVICE_EXTENT, 24, -4096), "device tree"),
    "huge device extent": ("dev", DEVICE_EXTENT, with_data(DEVICE_EXTENT, 24, 1 << 63), "has the number"),
    "no chunk": ("chunk", CHUNK_ITEM, without(CHUNK_ITEM), "Btrfs"),
    "chunk elsewhere": ("chunk", CHUNK_ITEM, with_data(CHUNK_ITEM, 56, 1 << 50), "of a device of"),
    "chunk over another": ("chunk", CHUNK_ITEM, with_data(CHUNK_ITEM, 56, 4096), "Btrfs"),
    "chunk of another device": ("chunk", CHUNK_ITEM, with_data(CHUNK_ITEM, 48, 1), "lies on device"),
    "chunk without end": ("chunk", CHUNK_ITEM, with_data(CHUNK_ITEM, 0, 1 << 63), "its size is"),
    "empty chunk item": ("chunk", CHUNK_ITEM, with_data(CHUNK_ITEM, 44, 9), "stripes in"),
    "no device": ("chunk", CHUNK_ITEM, without(216), "names devices []"),
    "other device size": ("chunk", 216, with_data(216, 8, 4096), "names devices [1]"),
    "no extent tree": ("root", ROOT_ITEM, without(ROOT_ITEM), "does not name tree 2"),
    "other level": ("root", ROOT_ITEM, with_data(ROOT_ITEM, 238, 9), "Btrfs tree"),
    "root nowhere": ("root", ROOT_ITEM, with_data(ROOT_ITEM, 176, 1 << 63), "it begins at"),
    "less free space": ("10", 199, without(199, which=-1), "bytes are free"),
    "more free space": ("10", 199, with_key(199, add=(0, -4096)), "bytes are free"),
    "strange free space": ("10", 199, with_key(199, type_=201, which=-1), "another kind"),
    "endless free space": ("10", 199, with_key(199, add=(0, 1 << 63), which=-1), "beyond any address"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_contradiction_is_named_and_nothing_is_believed(name: str) -> None:
    base, (tree, kind, change, message) = sample("single"), CONTRADICTIONS[name]
    used = BTRFS.used_map(changed(base, [(base.leaf(tree, kind), change)]))
    assert (used.kind, codes(used)) == ("raw", ["btrfs-contradiction"])
    assert message in used.notices[0].message


def test_stripes_are_named() -> None:
    base = sample("single")
    leaf = base.leaf("chunk", CHUNK_ITEM)
    for bit, name in ((1 << 3, "RAID0"), (1 << 4, "RAID1"), (1 << 10, "RAID1C4"), (1 << 20, "0x100000")):
        used = BTRFS.used_map(changed(base, [(leaf, with_data(CHUNK_ITEM, 24, bit))]))
        assert (used.kind, codes(used)) == ("raw", ["btrfs-profile"])
        assert name in used.notices[0].message


def test_sums_that_agree_do_not_hide_that_a_tree_calls_itself_free() -> None:
    """The root block of the extent tree is dropped from it, and from both sums; there is no free space tree."""
    base = sample("mixed-old")
    address = int.from_bytes(base.block(base.trees["extent"][0][0])[48:56], "little")
    owner = next(
        places
        for places in base.trees["extent"]
        if any(key[0] == address and key[1] == EXTENT_ITEM for key, _ in volumes.items_of(base.block(places[0])))
        and not base.block(places[0])[100]
    )
    chunk = next(c for c in base.chunks if c.start <= address < c.start + c.size)

    def forget(items: Items) -> Items:
        return [item for item in items if item[0][:2] != (address, EXTENT_ITEM)]

    def use_less(items: Items) -> Items:
        return [
            (key, (int.from_bytes(data[:8], "little") - NODE).to_bytes(8, "little") + data[8:])
            if key == (chunk.start, BLOCK_GROUP_ITEM, chunk.size)
            else (key, data)
            for key, data in items
        ]

    group = next(
        places
        for places in base.trees["extent"]
        if not base.block(places[0])[100]
        and any(key == (chunk.start, 192, chunk.size) for key, _ in volumes.items_of(base.block(places[0])))
    )
    total = int.from_bytes(base.block(volumes.SUPERBLOCK)[0x78:0x80], "little")
    lowered = ([volumes.SUPERBLOCK], set_field(0x78, total - NODE))
    changes = [(owner, change_items(forget)), (group, change_items(use_less)), lowered]
    used = BTRFS.used_map(changed(base, changes))
    assert (used.kind, codes(used)) == ("raw", ["btrfs-contradiction"])
    assert "calls blocks of its own trees free" in used.notices[0].message


def test_a_node_that_names_a_child_twice_or_itself_is_not_believed() -> None:
    base = sample("single")
    places = base.trees["extent"][0]
    assert base.block(places[0])[100] == 1
    own = int.from_bytes(base.block(places[0])[48:56], "little")

    def twice(block: bytearray) -> None:
        block[101 + 33 + 17 : 101 + 33 + 25] = block[101 + 17 : 101 + 25]

    def itself(block: bytearray) -> None:
        block[101 + 17 : 101 + 25] = own.to_bytes(8, "little")

    def crowd(block: bytearray) -> None:
        block[96:100] = (4000).to_bytes(4, "little")

    for change in (twice, itself, crowd, set_field(96, 0, 4), set_field(101 + 17, 1 << 63)):
        assert codes(BTRFS.used_map(changed(base, [(places, change)]))) == ["btrfs-contradiction"]


def test_a_node_whose_key_is_not_its_childs_is_not_believed() -> None:
    """Nothing else is wrong: the keys of the node still rise."""
    base = sample("single")
    places = base.trees["extent"][0]
    key = int.from_bytes(base.block(places[0])[101 + 33 : 101 + 41], "little")
    used = BTRFS.used_map(changed(base, [(places, set_field(101 + 33, key - 1))]))
    assert codes(used) == ["btrfs-contradiction"]
    assert "begin with the key" in used.notices[0].message


@pytest.mark.parametrize(("field", "value"), [(17, 1 << 31), (17, 0), (17, 4000), (21, 1 << 31), (21, 0), (21, 34)])
def test_items_that_overlap_or_leave_their_leaf_are_not_believed(field: int, value: int) -> None:
    base = sample("single")
    for tree, kind in (("extent", BLOCK_GROUP_ITEM), ("chunk", CHUNK_ITEM), ("root", ROOT_ITEM)):
        leaf = base.leaf(tree, kind)
        used = BTRFS.used_map(changed(base, [(leaf, set_field(101 + 25 + field, value, 4))]))
        assert codes(used) == ["btrfs-contradiction"]
        assert "overlap" in used.notices[0].message


def logged(base: Sample, extents: list[tuple[int, int, int]], changes: dict[int, Change] | None = None) -> BlockReader:
    """A volume with a log of one file, built by hand in free places; ``changes`` by block (0 the top, 1 the tree)."""
    chunk = next(c for c in reversed(base.chunks) if base.trees["extent"][0][0] - c.places[0] in range(c.size))
    top, tree = chunk.start + chunk.size - NODE, chunk.start + chunk.size - 2 * NODE
    like, generation = base.block(base.trees["root"][0][0]), base.generation + 1
    root_item = bytearray(439)
    struct.pack_into("<Q8xQ", root_item, 160, generation, tree)
    files: Items = [
        (
            (257, EXTENT_DATA, number * NODE),
            struct.pack("<QQBBHBQQQQ", generation, size, 0, 0, 0, kind, at, size, 0, size),
        )
        for number, (kind, at, size) in enumerate(extents)
    ]
    inline = ((258, EXTENT_DATA, 0), struct.pack("<QQBBHB", generation, 3, 0, 0, 0, 0) + b"abc")
    blocks: dict[int, bytes | bytearray] = {}
    contents: list[tuple[int, Items]] = [
        (top, [((LOG_TREE, ROOT_ITEM, 5), bytes(root_item))]),
        (tree, [*files, inline]),
    ]
    for number, (address, items) in enumerate(contents):
        block = volumes.build_block(like, address=address, owner=LOG_TREE, generation=generation)
        volumes.put_items(block, items)
        if changes and number in changes:
            changes[number](block)
        volumes.rewrite(block, [0], NODE, lambda _: None)
        blocks |= dict.fromkeys(volumes.places_of(base.chunks, address), block)
    superblock = bytearray(base.block(volumes.SUPERBLOCK))
    volumes.rewrite(superblock, [0], NODE, set_field(0x60, top))
    return with_blocks(base, blocks | {volumes.SUPERBLOCK: superblock})


@pytest.mark.parametrize("shape", SHAPES)
def test_blocks_and_extents_of_a_log_are_kept(shape: str) -> None:
    base = sample(shape)
    chunk = base.chunks[0]
    extents = [
        (1, chunk.start + chunk.size - 40 * NODE, 3 * NODE),
        (2, chunk.start + chunk.size - 20 * NODE, NODE),
        (1, 0, 0),
    ]
    reader = logged(base, extents)
    used = BTRFS.used_map(reader)
    assert (used.kind, codes(used)) == ("used", ["btrfs-log-kept"])
    last = next(c for c in reversed(base.chunks) if base.trees["extent"][0][0] - c.places[0] in range(c.size))
    added = [(at, size) for _, at, size in extents if at] + [(last.start + last.size - 2 * NODE, 2 * NODE)]
    before = BTRFS.used_map(base.disk).extents
    assert used.extents == before | ExtentSet.of(*volumes.to_places(base.chunks, added))
    assert (used.extents - before).size
    assert codes(read_frozen_map(reader)) == ["btrfs-not-frozen"]


BAD_LOGS: dict[str, tuple[list[tuple[int, int, int]], dict[int, Change]]] = {
    "extent beyond": ([(1, 1 << 63, NODE)], {}),
    "extent nowhere": ([(1, 1 << 40, NODE)], {}),
    "extent without size": ([(1, MIB, 0)], {}),
    "unknown kind": ([(3, 0, 0)], {}),
    "other owner": ([], {1: set_field(88, 5)}),
    "other generation": ([], {0: set_field(80, 1)}),
    "a tree in a tree": ([], {0: with_key(ROOT_ITEM, type_=EXTENT_DATA)}),
    "of another tree": ([], {0: with_key(ROOT_ITEM, add=(1, 0))}),
    "tree nowhere": ([], {0: with_data(ROOT_ITEM, 176, 1 << 62)}),
    "short file": ([], {1: change_items(lambda items: [(items[0][0], b"short")])}),
}


@pytest.mark.parametrize("name", BAD_LOGS)
def test_a_log_that_cannot_be_is_not_believed(name: str) -> None:
    used = BTRFS.used_map(logged(sample("single"), *BAD_LOGS[name]))
    assert (used.kind, codes(used)) == ("raw", ["btrfs-log"])


def test_a_volume_that_changes_while_it_is_read_is_raw() -> None:
    base = sample("single")

    class Changing(MemoryDisk):
        reads_count = 0

        def read_at(self, offset: int, length: int) -> bytes:
            self.reads_count += offset == volumes.SUPERBLOCK
            if self.reads_count == 2:
                volumes.rewrite_superblock(self.contents, set_field(0x48, base.generation + 1))
            return super().read_at(offset, length)

    used = BTRFS.used_map(Changing(base.contents))
    assert (used.kind, codes(used)) == ("raw", ["btrfs-changed"])


def test_a_place_that_cannot_be_read_is_read_in_its_second_copy() -> None:
    base = sample("dup")
    first, second = base.trees["extent"][0]

    class Failing(MemoryDisk):
        bad = frozenset({first})

        def read_at(self, offset: int, length: int) -> bytes:
            if offset in self.bad:
                raise ReadFault("the disk failed", extent=Extent(offset, offset + length))
            return super().read_at(offset, length)

    disk = Failing(base.contents)
    used = BTRFS.used_map(disk)
    assert (used.kind, codes(used)) == ("used", ["btrfs-second-copy"])
    disk.bad = frozenset({first, second})
    used = BTRFS.used_map(disk)
    assert (used.kind, codes(used)) == ("raw", ["btrfs-unreadable"])


@pytest.mark.parametrize("kind", [ChecksumType.CRC32C, ChecksumType.SHA256, ChecksumType.BLAKE2B])
def test_a_checksum_is_only_of_its_own_block(kind: ChecksumType) -> None:
    blocks = np.zeros((3, NODE), np.uint8)
    assert not are_checksums_good(blocks, kind).any()
    assert are_checksums_good(np.empty((0, NODE), np.uint8), kind).shape == (0,)


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    doubled=st.lists(st.booleans(), min_size=12, max_size=12),
    seed=st.integers(0, 1 << 30),
    ranges=st.lists(st.tuples(st.integers(0, 39), st.integers(1, 40)), min_size=1, max_size=20),
)
def test_every_copy_of_a_range_has_its_size_and_its_distance(
    sizes: list[int], doubled: list[bool], seed: int, ranges: list[tuple[int, int]]
) -> None:
    """Chunks at shuffled places; ranges inside them go where a plain loop says, others are refused."""
    chance, unit = random.Random(seed), 4096
    slots = list(range(2 * len(sizes)))
    chance.shuffle(slots)
    device = DeviceItem(number=1, size=2 * len(sizes) * 40 * unit, uuid=b"u" * 16)
    chunks = [
        Chunk(
            start=(1000 * number + 7) * unit,
            size=size * unit,
            type=ChunkType.DATA | (ChunkType.DUP if doubled[number] else ChunkType(0)),
            stripes=tuple((1, b"u" * 16, slots.pop() * 40 * unit) for _ in range(1 + doubled[number])),
        )
        for number, size in enumerate(sizes)
    ]
    made = ChunkMap.of(chance.sample(chunks, len(chunks)), device, sector_size=unit)
    for number, (first, count) in enumerate(ranges):
        chunk = chunks[number % len(chunks)]
        starts, lengths = np.array([chunk.start + first * unit]), np.array([count * unit])
        if (first + count) * unit > chunk.size:
            with pytest.raises(DiskFormatError):
                made.to_device(starts, lengths)
        else:
            places = [place + first * unit for _, _, place in chunk.stripes]
            expected = ExtentSet.of(*(Extent(place, place + count * unit) for place in places))
            assert made.to_device(starts, lengths) == expected


def examine(reader: BlockReader) -> None:
    """The whole contract of a file system, on a volume that may be anything."""
    try:
        if BTRFS.identify(reader) is None:
            return
        used = BTRFS.used_map(reader)
    except StillframeError:
        return
    whole = Extent(0, reader.size)
    assert used.extents.clipped(whole) == used.extents
    assert used.kind == "used" or used.extents.contains(whole)
    assert used.kind == "used" or used.notices
    assert used.extents.contains(Extent(0, min(MIB, reader.size)))


def fuzz_btrfs(data: bytes) -> None:
    """Entry for a fuzzer: ``data`` is changes to tree blocks and the superblock of a volume.

    Byte 0 chooses the volume; then each seven bytes, of 40 changes at most, are a block (two), a place in it (two), and
    what to write there (two, one of width). Every block that was changed gets a good checksum.
    """
    examine(MemoryDisk(data))
    base = sample(list(SHAPES)[data[0] % len(SHAPES)] if data else "single")
    blocks: dict[int, bytes | bytearray] = {}
    listed = [[volumes.SUPERBLOCK], *(places for tree in base.trees.values() for places in tree)]
    for at in range(1, min(len(data) - 6, 40 * 7), 7):
        number, place, value, width = struct.unpack_from("<HHHB", data, at)
        places = listed[number % len(listed)]
        block = bytearray(blocks.get(places[0], base.block(places[0])))
        # Three changes of four go where the header, the keys and the first fields are.
        place = 32 + place % (NODE - 40 if width & 0xC0 == 0 else 300)
        field = (value * 0x1000100010001).to_bytes(8, "big" if width & 1 else "little")[: 1 + width % 8]
        block[place : place + len(field)] = field
        volumes.rewrite(block, [0], NODE, lambda _: None)
        blocks |= dict.fromkeys(places[: 1 if width & 0x20 else 2], block)
    examine(with_blocks(base, blocks))


@settings(max_examples=200, deadline=4000, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(min_size=8, max_size=60))
def test_changed_btrfs_volumes(data: bytes) -> None:
    fuzz_btrfs(data)


@settings(max_examples=150, deadline=4000, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.integers(0, 255),
    place=st.integers(32, 700),
    value=st.sampled_from([0, 1, 7, 0xFF, 0xFFFF, 0xFFFFFFFF, (1 << 62), (1 << 63), (1 << 64) - 1]),
    size=st.sampled_from([1, 2, 4, 8]),
    block=st.integers(0, 1),
)
def test_changed_logs(kind: int, place: int, value: int, size: int, block: int) -> None:
    base = sample("single")
    extents = [(kind % 4, base.chunks[0].start, 3 * NODE), (1, base.chunks[0].start + 10 * NODE, NODE)]
    examine(logged(base, extents, {block: set_field(place, value & (1 << 8 * size) - 1, size)}))
