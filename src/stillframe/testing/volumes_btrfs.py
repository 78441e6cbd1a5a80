"""Btrfs volumes for tests: made, filled, mounted and listed by btrfs-progs and the kernel, and changed block by block.

Answers: "where does a test get a Btrfs volume, and what does another tool say of it?" Every function works on image
files only. What is changed by hand gets good checksums again, so that only the contents are wrong.
"""

import random
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stillframe.crc32c import crc32c
from stillframe.extents import Extent, ExtentSet
from stillframe.testing.loops import attach_loop, detach_loop
from stillframe.testing.tools import run_tool, unmount

SUPERBLOCK: Final = 64 << 10
_MIRROR: Final = 64 << 20
_HEADER_SIZE: Final = 101
_ITEM_SIZE: Final = 25
_BLOCK_GROUP_TREE, _UUID_TREE = 11, 9
_ROOT_ITEM, _METADATA_ITEM, _BLOCK_GROUP_ITEM = 132, 169, 192

Key = tuple[int, int, int]
Change = Callable[[bytearray], None]


def make_btrfs(image: Path, *options: str, size: int, folder: Path | None = None) -> None:
    """Format a new image with mkfs.btrfs; with the files of a folder in it, which needs no mount."""
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(size)
    contents = ("--rootdir", str(folder)) if folder is not None else ()
    run_tool("mkfs.btrfs", "-q", "-f", *options, *contents, str(image))


@contextmanager
def mounted_btrfs(image: Path, place: Path, options: str = "rw") -> Iterator[Path]:
    """Mount an image by a loop device; afterwards the kernel has forgotten it, so that a copy can be mounted."""
    place.mkdir(exist_ok=True)
    loop = attach_loop(image)
    try:
        run_tool("mount", "-t", "btrfs", "-o", options, loop, str(place))
        try:
            yield place
        finally:
            unmount(place)
            # It has nothing to forget when the kernel did so by itself.
            run_tool("btrfs", "device", "scan", "--forget", loop, accept=(0, 1))
    finally:
        detach_loop(loop)


def fill_btrfs(root: Path, *, seed: int, size: int) -> None:
    """Write subvolumes, snapshots, reflinks, holes, reserved, compressed, tiny and deleted files."""
    source = random.Random(seed)  # noqa: S311 a repeatable test, not a secret
    first = root / "first"
    run_tool("btrfs", "subvolume", "create", str(first))
    (first / "empty").touch()
    number, written = 0, 0
    while written < size:
        length = source.choice((30, 1500, 5000, 9000, source.randrange(1, size // 20)))
        (first / f"file {number}").write_bytes(source.randbytes(length))
        (first / f"plain {number}").write_bytes(b"compress me " * (length // 12))
        written += length
        number += 1
    run_tool("sync")
    run_tool("btrfs", "subvolume", "snapshot", "-r", str(first), str(root / "before"))
    for victim in range(0, number, 3):
        (first / f"file {victim}").unlink()
    run_tool("cp", "--reflink=always", str(first / "file 1"), str(first / "shared"))
    with (first / "file 2").open("r+b") as file:
        file.seek(1000)
        file.write(source.randbytes(7000))
    with (first / "holes").open("wb") as file:
        file.truncate(size)
        file.seek(size // 2)
        file.write(source.randbytes(10_000))
    run_tool("fallocate", "--length", "300000", str(first / "reserved"))
    run_tool("btrfs", "subvolume", "snapshot", str(first), str(root / "gone"))
    run_tool("sync")
    run_tool("btrfs", "subvolume", "delete", "--commit-after", str(root / "gone"))
    (root / "last").write_bytes(source.randbytes(50_000))


def tree_listing(image: Path, tree: str) -> str:
    """What ``btrfs inspect-internal dump-tree`` prints of one tree, by its name or number."""
    return run_tool("btrfs", "inspect-internal", "dump-tree", "-t", tree, str(image))


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedChunk:
    """A chunk as dump-tree lists it: logical start, size, and where its copies lie."""

    start: int
    size: int
    places: tuple[int, ...]


def list_chunks(image: Path) -> list[ListedChunk]:
    """All chunks, by dump-tree."""
    found = []
    parts = re.split(r"CHUNK_ITEM (\d+)\)", tree_listing(image, "chunk"))[1:]
    for start, text in zip(parts[::2], parts[1::2], strict=True):
        (size,) = re.findall(r"length (\d+) owner", text)
        places = tuple(int(place) for place in re.findall(r"stripe \d+ devid 1 offset (\d+)", text))
        found.append(ListedChunk(start=int(start), size=int(size), places=places))
    return found


def list_extents(image: Path, *, node_size: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Logical address and size of what has an EXTENT_ITEM, and of what has a METADATA_ITEM, by dump-tree."""
    text = tree_listing(image, "extent")
    # An item of a tree block also prints the first key of that block, which may look like an extent and be out of date.
    extents = [(int(at), int(size)) for at, size in re.findall(r"item \d+ key \((\d+) EXTENT_ITEM (\d+)\)", text)]
    return extents, [(int(at), node_size) for at in re.findall(r"item \d+ key \((\d+) METADATA_ITEM \d+\)", text)]


def list_used(image: Path, *, node_size: int) -> ExtentSet:
    """Every copy of every extent, by dump-tree."""
    extents, blocks = list_extents(image, node_size=node_size)
    return ExtentSet.of(*to_places(list_chunks(image), extents + blocks))


def to_places(chunks: list[ListedChunk], extents: list[tuple[int, int]]) -> list[Extent]:
    """Where logical ranges lie on the device, all copies."""
    found = []
    for at, size in extents:
        (chunk,) = [chunk for chunk in chunks if chunk.start <= at < chunk.start + chunk.size]
        places = [at - chunk.start + place for place in chunk.places]
        found += [Extent(place, place + size) for place in places]
    return found


def places_of(chunks: list[ListedChunk], address: int) -> list[int]:
    """Where the copies of one block begin."""
    return [extent.start for extent in to_places(chunks, [(address, 1)])]


def list_blocks(image: Path, tree: str) -> list[int]:
    """The logical addresses of a tree's blocks, the root first, by dump-tree."""
    return [
        int(at) for at in re.findall(r"^(?:leaf|node) (\d+) (?:items|level)", tree_listing(image, tree), re.MULTILINE)
    ]


def rewrite(contents: bytearray, places: list[int], size: int, change: Change) -> None:
    """Change a block in all its copies, and give it a good CRC-32C."""
    block = contents[places[0] : places[0] + size]
    change(block)
    block[:4] = (crc32c(bytes(block[32:])) ^ 0xFFFFFFFF).to_bytes(4, "little")
    for place in places:
        contents[place : place + size] = block


def rewrite_superblock(contents: bytearray, change: Change) -> None:
    """Change the superblock, and give it a good CRC-32C."""
    rewrite(contents, [SUPERBLOCK], 4096, change)


def set_field(offset: int, value: int, size: int = 8) -> Change:
    """A change of one number."""

    def change(block: bytearray) -> None:
        block[offset : offset + size] = value.to_bytes(size, "little")

    return change


def items_of(block: bytes | bytearray) -> list[tuple[Key, bytes]]:
    """The items of a leaf."""
    (count,) = struct.unpack_from("<I", block, 96)
    found = []
    for number in range(count):
        *key, at, size = struct.unpack_from("<QBQII", block, _HEADER_SIZE + number * _ITEM_SIZE)
        found.append((tuple(key), bytes(block[_HEADER_SIZE + at : _HEADER_SIZE + at + size])))
    return found


def put_items(block: bytearray, items: list[tuple[Key, bytes]]) -> None:
    """Fill a leaf with items."""
    block[_HEADER_SIZE:] = bytes(len(block) - _HEADER_SIZE)
    struct.pack_into("<I", block, 96, len(items))
    end = len(block) - _HEADER_SIZE
    for number, (key, contents) in enumerate(items):
        end -= len(contents)
        struct.pack_into("<QBQII", block, _HEADER_SIZE + number * _ITEM_SIZE, *key, end, len(contents))
        block[_HEADER_SIZE + end : _HEADER_SIZE + end + len(contents)] = contents


def build_block(like: bytes, *, address: int, owner: int, generation: int, level: int = 0) -> bytearray:
    """An empty tree block of the same file system as another one; its checksum is yet to be made."""
    block = bytearray(len(like))
    block[32:_HEADER_SIZE] = like[32:_HEADER_SIZE]
    struct.pack_into("<Q", block, 48, address)
    struct.pack_into("<QQIB", block, 80, generation, owner, 0, level)
    return block


def move_block_groups(image: Path, *, node_size: int = 16384) -> None:
    """Give a volume fresh from mkfs the feature block-group-tree, which this version of mkfs does not know.

    The empty UUID tree becomes the tree of block groups; the kernel makes another UUID tree when it is mounted.
    """
    chunks, contents = list_chunks(image), bytearray(image.read_bytes())
    blocks = {tree: list_blocks(image, tree)[0] for tree in ("root", "extent", "uuid")}
    groups: list[tuple[Key, bytes]] = []

    def change_extents(block: bytearray) -> None:
        kept = []
        for key, data in items_of(block):
            if key[1] == _BLOCK_GROUP_ITEM:
                groups.append((key, data))
            elif key[:2] == (blocks["uuid"], _METADATA_ITEM):
                kept.append((key, data[:25] + _BLOCK_GROUP_TREE.to_bytes(8, "little")))
            else:
                kept.append((key, data))
        put_items(block, kept)

    def change_uuids(block: bytearray) -> None:
        block[88:96] = _BLOCK_GROUP_TREE.to_bytes(8, "little")
        put_items(block, groups)

    def change_roots(block: bytearray) -> None:
        items = items_of(block)
        put_items(block, sorted((_renamed(key), data) for key, data in items))

    def change_superblock(block: bytearray) -> None:
        block[0xB4] |= 8  # BTRFS_FEATURE_COMPAT_RO_BLOCK_GROUP_TREE
        block[0x233:0x23B] = bytes(8)

    for tree, change in (("extent", change_extents), ("uuid", change_uuids), ("root", change_roots)):
        rewrite(contents, places_of(chunks, blocks[tree]), node_size, change)
    rewrite_superblock(contents, change_superblock)
    rewrite(contents, [_MIRROR], 4096, change_superblock)
    image.write_bytes(contents)


def _renamed(key: Key) -> Key:
    return (_BLOCK_GROUP_TREE, *key[1:]) if key[:2] == (_UUID_TREE, _ROOT_ITEM) else key
