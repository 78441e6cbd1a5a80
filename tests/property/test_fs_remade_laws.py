"""FAT and exFAT made anew: laws of their shapes, and volumes with bytes changed at random."""

import contextlib
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillframe.block import MemoryDisk
from stillframe.errors import StillframeError
from stillframe.fs.exfat import compute_boot_checksum
from stillframe.fs.fat import unpack_entries
from stillframe.fs.remade import RemadeExfat, RemadeFat, read_exfat, read_fat, show_moved
from stillframe.fs.remade.fat import pack_entries
from stillframe.fs.remade.fat_shape import FatKind, choose_shape, find_smallest
from stillframe.testing import volumes_windows as volumes
from stillframe.testing.tools import run_tool

MIB = 1 << 20


def make_again(remade: RemadeFat | RemadeExfat, old: MemoryDisk, size: int) -> bytes:
    written = MemoryDisk(bytes(size))
    return show_moved(old, written, remade.write(written, start=None), sector_size=512).read_at(0, size)


def fuzz_remade_fat(data: bytes) -> None:
    """Any bytes give a volume of the same files or an error of ours."""
    reader = MemoryDisk(data)
    with contextlib.suppress(StillframeError):
        make_again(read_fat(reader), reader, 3 * MIB)


def fuzz_remade_exfat(data: bytes) -> None:
    """Any bytes give a volume of the same files or an error of ours."""
    reader = MemoryDisk(data)
    with contextlib.suppress(StillframeError):
        make_again(read_exfat(reader), reader, 3 * MIB)


@settings(max_examples=50, deadline=None)
@given(
    bits=st.sampled_from([12, 16, 32]),
    sector=st.sampled_from([512, 4096]),
    shift=st.integers(0, 6),
    sizes=st.lists(st.integers(0, 40_000_000), max_size=30),
    reserve=st.sampled_from([0, 1, 16 * MIB]),
    more=st.integers(0, 1 << 33),
)
def test_what_is_called_enough_is_enough(
    *, bits: int, sector: int, shift: int, sizes: list[int], reserve: int, more: int
) -> None:
    kind = FatKind(
        bits=bits,  # type: ignore[arg-type]
        sector_size=sector, cluster_size=sector << min(shift, 3), reserved_sectors=1 if bits < 32 else 32,
        table_count=2, root_entries=512 if bits < 32 else 0,
    )  # fmt: skip

    def needs(cluster_size: int) -> int:
        return sum(-(-size // cluster_size) for size in sizes)

    smallest = find_smallest(kind, needs, reserve)
    if smallest is None:
        assert needs(32 << 10) + -(-reserve // (32 << 10)) > (65524 if bits == 16 else 4084) - 16
        return
    for size in (smallest, smallest + more):
        shape = choose_shape(kind, size, needs)
        assert shape is not None
        assert shape.sector_count * sector <= size
        # Microsoft's rules: the kind follows from the number of clusters, which follows from the number of sectors.
        data_sectors = shape.sector_count - shape.data_start // sector
        count = data_sectors // (shape.cluster_size // sector)
        assert bits == (12 if count < 4085 else 16 if count < 65525 else 32)
        assert needs(shape.cluster_size) <= shape.cluster_count == count
        assert (count + 2) * bits <= shape.table_sectors * sector * 8


@given(entries=st.lists(st.integers(0, 0xFFF), min_size=1), bits=st.sampled_from([12, 16, 32]))
def test_entries_are_read_as_they_were_packed(entries: list[int], bits: int) -> None:
    import numpy as np

    raw = pack_entries(np.array(entries, np.uint32), bits)
    assert unpack_entries(raw, bits).tolist()[: len(entries)] == entries  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def small_fat(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    image: Path = tmp_path_factory.mktemp("fat") / "small.img"
    volumes.make_fat(image, size=3 * MIB, bits=16, cluster_size=512)
    run_tool("mmd", "-i", str(image), "::/a folder")
    for name in ("one", "a folder/two", "a folder/a rather long name"):
        run_tool("mcopy", "-i", str(image), __file__, f"::/{name}")
    return image.read_bytes()


@pytest.fixture(scope="module")
def small_exfat(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    image: Path = tmp_path_factory.mktemp("exfat") / "small.img"
    volumes.make_exfat(image, size=2 * MIB, cluster_size=512)
    return image.read_bytes()


def test_twice_made_anew_is_once_made_anew(small_fat: bytes, small_exfat: bytes) -> None:
    """What comes out has nothing that a second time would leave behind."""
    for data, read in ((small_fat, read_fat), (small_exfat, read_exfat)):
        old = MemoryDisk(data)
        once = MemoryDisk(make_again(read(old), old, 4 * MIB))
        assert make_again(read(once), once, 4 * MIB) == once.read_at(0, 4 * MIB)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1 << 32), count=st.integers(1, 8))
def test_a_changed_fat_gives_a_volume_or_an_error_of_ours(small_fat: bytes, seed: int, count: int) -> None:
    source, changed = random.Random(seed), bytearray(small_fat)
    used = [start for start in range(0, len(changed), 512) if any(changed[start : start + 512])]
    for _ in range(count):
        place = source.choice((source.randrange(64), source.choice(used) + source.randrange(512)))
        changed[place] = source.choice((0, 1, 2, 0xFF, 0x80, 0x10, source.randrange(256)))
    fuzz_remade_fat(bytes(changed))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1 << 32), count=st.integers(1, 8))
def test_a_changed_exfat_gives_a_volume_or_an_error_of_ours(small_exfat: bytes, seed: int, count: int) -> None:
    source, changed = random.Random(seed), bytearray(small_exfat)
    used = [start for start in range(0, len(changed), 512) if any(changed[start : start + 512])]
    for _ in range(count):
        place = source.choice((source.randrange(0x40, 0x72), source.choice(used) + source.randrange(512)))
        changed[place] = source.choice((0, 1, 2, 0xFF, 0x80, source.randrange(256)))
    changed[512 * 11 : 512 * 12] = compute_boot_checksum(bytes(changed[: 512 * 11])).to_bytes(4, "little") * 128
    fuzz_remade_exfat(bytes(changed))
