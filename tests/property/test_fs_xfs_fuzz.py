"""Hostile XFS: whatever is on the disk, the answer is a map, ``None`` or one of our own errors, soon."""

import functools
import random
import struct
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stillframe.block import BlockReader, MemoryDisk, OverlayReader
from stillframe.errors import StillframeError
from stillframe.extents import Extent
from stillframe.fs.base import UsedMap
from stillframe.fs.xfs import XfsFilesystem, read_frozen_map
from stillframe.testing.xfs_builder import GROUP_SIZE, LOG_SIZE, XfsShape, build_log, build_xfs, seal

XFS = XfsFilesystem()
FREE = ([(300 + 7 * number, 1 + number % 6) for number in range(60)], [(3000, 9), (4000, 12000)])
SHAPES = (
    XfsShape(free=FREE),
    XfsShape(free=FREE, fanout=80),
    XfsShape(version=4, free=FREE),
    XfsShape(version=4, block_size=512, free=FREE),
    XfsShape(block_size=4096, free=(((200, 5), (3000, 8)), ((2000, 1),))),
)
CHANGES_SIZE_MAX = 400
RECORDS = [(200, False)] * 10 + [(90, False), (30, False), (1, True)]


@dataclass(frozen=True)
class Structure:
    """Bytes that mean something, and where their checksum is; -1 for none."""

    start: int
    size: int
    checksum: int


@functools.cache
def volume(index: int) -> tuple[MemoryDisk, tuple[Structure, ...]]:
    """A good volume, and the structures worth damaging."""
    shape = SHAPES[index]
    new, size = shape.version == 5, shape.block_size
    found = [Structure(0, 512, 224 if new else -1)]
    for group in range(2):
        start = group * GROUP_SIZE
        found.append(Structure(start + 512, 512, 216 if new else -1))
        found.append(Structure(start + 1536, 512, 32 if new else -1))
        tree = start + (shape.group_blocks - 100) * size
        found += [Structure(tree + block * size, size, 52 if new else -1) for block in range(21 if not group else 1)]
    log = shape.log_start
    found += [Structure(log + 512 * sector, 512, -1) for sector in (0, 83, 84, 114, 115, 116, 117, LOG_SIZE // 512 - 1)]
    return MemoryDisk(build_xfs(shape, log=build_log(LOG_SIZE // 512, RECORDS))), tuple(found)


def examine(reader: BlockReader, *, log: Extent | None = None) -> list[UsedMap]:
    """The whole contract, on a volume that may be anything."""
    maps: list[UsedMap] = []
    whole = Extent(0, reader.size)
    for read in (XFS.used_map, read_frozen_map):
        try:
            if XFS.identify(reader) is None:
                return []
            used = read(reader)
        except StillframeError:
            continue
        assert used.extents.clipped(whole) == used.extents
        assert used.extents.contains(Extent(0, min(2048, reader.size)))
        assert (used.kind == "used") == (used.notices == ())
        assert used.kind == "used" or used.extents.contains(whole)
        assert log is None or used.extents.contains(log)
        maps.append(used)
    return maps


def fuzz_xfs(data: bytes) -> None:
    """Entry for a fuzzer: ``data`` is a volume, and changes to a good one.

    Byte 0 chooses the volume; then each nine bytes are the number of a structure, a place in it (two), a value (four),
    how many of its bytes count, and whether the checksum is made right again.
    """
    examine(MemoryDisk(data))
    examine(MemoryDisk(b"XFSB" + data))
    if not data:
        return
    disk, structures = volume(data[0] % len(SHAPES))
    changed: dict[int, bytes] = {}
    for at in range(1, min(len(data), CHANGES_SIZE_MAX) - 8, 9):
        number, place, value, width, is_sealed = struct.unpack_from("<BHIBB", data, at)
        structure = structures[number % len(structures)]
        change(disk, changed, structure, (place, value.to_bytes(4, "big")[-(1 << width % 3) :]), is_sealed=is_sealed)
    examine(OverlayReader(disk, block_size=512, blocks=changed))


def change(
    disk: MemoryDisk, changed: dict[int, bytes], structure: Structure, what: tuple[int, bytes], *, is_sealed: int
) -> None:
    reader = OverlayReader(disk, block_size=512, blocks=changed)
    contents = bytearray(reader.read_at(structure.start, structure.size))
    place = what[0] % structure.size
    contents[place : place + len(what[1])] = what[1][: structure.size - place]
    if structure.checksum >= 0 and is_sealed % 8:
        contents = bytearray(seal(contents, structure.checksum))
    for offset in range(0, structure.size, 512):
        changed[(structure.start + offset) // 512] = bytes(contents[offset : offset + 512])


def test_the_volumes_to_be_changed_are_read_as_they_are() -> None:
    for index, shape in enumerate(SHAPES):
        maps = examine(volume(index)[0], log=Extent(shape.log_start, shape.log_start + LOG_SIZE))
        assert [used.kind for used in maps] == ["used", "used"]


@settings(max_examples=250, deadline=2000, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(min_size=10, max_size=60))
def test_changed_volumes(data: bytes) -> None:
    fuzz_xfs(data)


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(SHAPES)))
@pytest.mark.parametrize("value", [0, 1, 0xFF, 0x80000000, 0xFFFFFFFF])
def test_every_field_may_be_anything(index: int, value: int) -> None:
    """Headers and tree blocks; the volume's own places stay kept, or the answer is raw."""
    disk, structures = volume(index)
    shape = SHAPES[index]
    log = Extent(shape.log_start, shape.log_start + LOG_SIZE)
    for structure in structures[: 6 if value % 2 else 3]:
        for place in range(0, min(structure.size, 288), 4):
            changed: dict[int, bytes] = {}
            change(disk, changed, structure, (place, value.to_bytes(4, "big")), is_sealed=1)
            reader = OverlayReader(disk, block_size=512, blocks=changed)
            # A superblock may place the log elsewhere; nothing else may.
            examine(reader, log=log if structure.start else None)


@pytest.mark.parametrize("seed", range(40))
def test_changed_logs(seed: int) -> None:
    """Sectors of the log changed, repeated and swapped: no checksum would notice."""
    chance = random.Random(seed)
    index = seed % len(SHAPES)
    disk, start = volume(index)[0], SHAPES[index].log_start // 512
    changed: dict[int, bytes] = {}
    for _ in range(chance.randrange(1, 5)):
        sector = start + chance.choice([0, 84, 114, 115, 116, 117, 118, chance.randrange(2048), 2047])
        contents = bytearray(disk.read_at(512 * (start + chance.randrange(2048)), 512))
        if chance.random() < 0.6:
            contents = bytearray(disk.read_at(512 * sector, 512))
            place = 4 * chance.choice([0, 1, 2, 3, 10, 76, 80])
            contents[place : place + 4] = chance.choice(
                [bytes(4), b"\xff" * 4, chance.randbytes(4), b"\xfe\xed\xba\xbe"]
            )
        changed[sector] = bytes(contents)
    examine(OverlayReader(disk, block_size=512, blocks=changed))
