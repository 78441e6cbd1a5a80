"""Hostile volumes: whatever is on the disk, the answer is a map, ``None`` or one of our own errors, soon."""

import functools
import random
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stillframe.block import MemoryDisk
from stillframe.crc32c import crc32c
from stillframe.errors import StillframeError
from stillframe.extents import Extent
from stillframe.fs.base import Filesystem
from stillframe.fs.ext import ExtFilesystem
from stillframe.fs.recognised import ContainerVolumes, ForeignFilesystems
from stillframe.fs.swap import SwapFilesystem
from stillframe.testing.volumes_linux import build_swap

LAYOUTS = (
    "-t ext4 -b 1024 -O ^metadata_csum,^64bit -J size=1",
    "-t ext4 -b 1024 -g 512 -O metadata_csum,64bit -J size=1",
    "-t ext3 -b 1024 -J size=1",
    "-t ext4 -b 1024 -O bigalloc -C 4096 -J size=1",
)


def examine(filesystem: Filesystem, disk: MemoryDisk) -> None:
    """The whole contract of a file system, on a volume that may be anything."""
    try:
        volume = filesystem.identify(disk)
        if volume is None:
            return
        used = filesystem.used_map(disk)
        whole = Extent(0, disk.size)
        assert used.extents.clipped(whole) == used.extents
        assert used.kind == "used" or used.extents.contains(whole)
        assert used.kind == "used" or used.notices
        if used.kind == "used":
            for file in filesystem.left_out(disk):
                assert file.extents.clipped(whole) == file.extents
    except StillframeError:
        pass


def fuzz_ext(data: bytes) -> None:
    """Entry for a fuzzer: ``data`` is changes to a volume whose journal waits to be replayed.

    Byte 0 chooses the volume; then each seven bytes are a place (four) and what to write there (two, one of width).
    """
    contents = bytearray(unclean_volumes()[data[0] % len(LAYOUTS)] if data else b"")
    for at in range(1, len(data) - 6, 7):
        place, value, width = struct.unpack_from("<IHB", data, at)
        # Three changes of four go where the structures are.
        place = place % len(contents) if width & 0xC0 == 0 else place % min(len(contents), 1 << 17)
        field = (value * 0x10001).to_bytes(4, "big" if width & 1 else "little")[: 1 + width % 4]
        contents[place : place + len(field)] = field[: len(contents) - place]
    if len(contents) >= 2048 and contents[1024 + 101] & 4:  # metadata_csum: let the superblock pass
        contents[2044:2048] = crc32c(bytes(contents[1024:2044])).to_bytes(4, "little")
    examine(ExtFilesystem(), MemoryDisk(contents))


def fuzz_swap(data: bytes) -> None:
    """Entry for a fuzzer: ``data`` is laid over the header of a swap area."""
    area = bytearray(build_swap(pages=20))
    area[1024 : 1024 + len(data)] = data[: len(area) - 1024]
    examine(SwapFilesystem(), MemoryDisk(area))
    examine(SwapFilesystem(), MemoryDisk(data))


def fuzz_recognised(data: bytes) -> None:
    """Entry for a fuzzer: ``data`` is a volume."""
    for filesystem in (ContainerVolumes(), ForeignFilesystems()):
        examine(filesystem, MemoryDisk(data))
        examine(filesystem, MemoryDisk(bytes(1024) + data + bytes(1 << 17) + data))


@functools.cache
def unclean_volumes() -> tuple[bytes, ...]:
    """One small volume per layout, with transactions and revokes in its log."""
    volumes = []
    with tempfile.TemporaryDirectory() as name:
        path, block = Path(name) / "volume", Path(name) / "block"
        block.write_bytes(bytes(range(256)) * 12)
        for layout in LAYOUTS:
            with path.open("wb") as file:
                file.truncate(4 << 20)
            subprocess.run(["mke2fs", "-q", "-F", *layout.split(), "-N", "64", str(path)], check=True)
            commands = f"jo\njw -b 3000-3002 {block}\njw -r 3001\njw -b 3002-3004 {block}\njc\n"
            subprocess.run(
                ["debugfs", "-w", "-f", "-", str(path)], input=commands.encode(), check=True, capture_output=True
            )
            volumes.append(path.read_bytes())
            examine(ExtFilesystem(), MemoryDisk(volumes[-1]))
            path.unlink()
    return tuple(volumes)


def test_the_volumes_to_be_changed_are_read_as_they_are() -> None:
    for contents in unclean_volumes():
        used = ExtFilesystem().used_map(MemoryDisk(contents))
        assert (used.kind, [notice.code for notice in used.notices]) == ("used", ["ext-journal-replayed"])


@settings(max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(min_size=8, max_size=120))
def test_changed_ext_volumes(data: bytes) -> None:
    fuzz_ext(data)


@settings(max_examples=120, deadline=2000)
@given(
    layout=st.integers(0, len(LAYOUTS) - 1),
    field=st.integers(0, 255),
    value=st.sampled_from([0, 1, 7, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]),
    size=st.sampled_from([2, 4]),
)
def test_every_field_of_the_superblock_may_be_anything(layout: int, field: int, value: int, size: int) -> None:
    contents = bytearray(unclean_volumes()[layout])
    place = 1024 + 4 * field
    contents[place : place + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
    if contents[1024 + 101] & 4:
        contents[2044:2048] = crc32c(bytes(contents[1024:2044])).to_bytes(4, "little")
    examine(ExtFilesystem(), MemoryDisk(contents))


@pytest.mark.parametrize("seed", range(60))
def test_changed_logs(seed: int) -> None:
    """Blocks of the journal changed, repeated and swapped, where no checksum would notice."""
    chance = random.Random(seed)
    contents = bytearray(unclean_volumes()[seed % 3 * 2 % 3])
    places = [at for at in range(0, len(contents), 1024) if contents[at : at + 4] == bytes.fromhex("c03b3998")]
    for _ in range(chance.randrange(1, 5)):
        place = chance.choice(places)
        if chance.random() < 0.3:
            other = chance.choice(places)
            contents[place : place + 1024] = contents[other : other + 1024]
        else:
            field = place + 4 * chance.randrange(1, 24)
            contents[field : field + 4] = chance.choice([bytes(4), b"\xff" * 4, chance.randbytes(4), b"\0\0\0\1"])
    examine(ExtFilesystem(), MemoryDisk(contents))


@settings(max_examples=100, deadline=2000)
@given(st.binary(max_size=300))
def test_changed_swap_areas(data: bytes) -> None:
    fuzz_swap(data)


@settings(max_examples=100, deadline=2000)
@given(st.binary(max_size=3000), st.sampled_from([b"LUKS\xba\xbe\0\2", b"LABELONE", b"BD", b"H+\0\4", b"XFSB", b""]))
def test_changed_recognised_volumes(data: bytes, start: bytes) -> None:
    fuzz_recognised(start + data)
