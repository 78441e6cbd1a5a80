"""FAT: a law of the packing of entries, and volumes with bytes changed at random."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillframe.block import MemoryDisk
from stillframe.errors import DiskFormatError, StillframeError
from stillframe.fs.fat import FatFilesystem, find_fat_boot, unpack_entries
from stillframe.testing import volumes_windows as volumes
from stillframe.testing.tools import run_tool

FAT = FatFilesystem()


def fuzz_fat(data: bytes) -> None:
    """Any bytes give an answer or an error of ours."""
    reader = MemoryDisk(data)
    try:
        if FAT.identify(reader) is not None:
            FAT.used_map(reader)
    except StillframeError:
        pass


@given(entries=st.lists(st.integers(0, 0xFFF)))
def test_twelve_bit_entries_are_one_long_little_endian_number(entries: list[int]) -> None:
    number = sum(entry << 12 * index for index, entry in enumerate(entries))
    raw = number.to_bytes((len(entries) * 12 + 7) // 8 + 2, "little")
    assert unpack_entries(raw, 12).tolist()[: len(entries)] == entries


@pytest.fixture(scope="session", params=[(12, 200 << 10), (16, 4 << 20), (32, 2 << 20)])
def small_fat(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    bits, size = request.param
    image: Path = tmp_path_factory.mktemp("fat") / "small.img"
    volumes.make_fat(image, size=size, bits=bits, cluster_size=512)
    if bits != 32:  # mtools takes so small a FAT32 for FAT16
        run_tool("mcopy", "-i", str(image), __file__, "::")
    return image.read_bytes()


def test_the_map_does_not_depend_on_the_size_of_pieces(small_fat: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = FAT.used_map(MemoryDisk(small_fat))
    monkeypatch.setattr("stillframe.fs.fat._CHUNK_SIZE", 36)
    assert FAT.used_map(MemoryDisk(small_fat)) == whole


def test_bad_clusters_are_not_kept(small_fat: bytes) -> None:
    boot = find_fat_boot(MemoryDisk(small_fat))
    assert boot is not None
    contents, cluster = bytearray(small_fat), boot.cluster_count - 5
    for copy in range(boot.table_count):
        bit = (boot.table_start + copy * boot.table_size) * 8 + cluster * boot.bits
        number = int.from_bytes(contents[bit // 8 : bit // 8 + 8], "little") | boot.bad_mark << bit % 8
        contents[bit // 8 : bit // 8 + 8] = number.to_bytes(8, "little")
    assert FAT.used_map(MemoryDisk(contents)).extents == FAT.used_map(MemoryDisk(small_fat)).extents


def test_a_table_of_zeros_is_a_contradiction(small_fat: bytes) -> None:
    boot = find_fat_boot(MemoryDisk(small_fat))
    assert boot is not None
    contents = bytearray(small_fat)
    contents[boot.table_start : boot.root_start] = bytes(boot.root_start - boot.table_start)
    with pytest.raises(DiskFormatError, match="FAT table: entry 0"):
        FAT.used_map(MemoryDisk(contents))


@pytest.mark.parametrize(
    "place_and_bytes", [(3, b"-FVE-FS-"), (424, bytes.fromhex("3bd66749292ed84a8399f6a339e3d001"))]
)
def test_bitlocker_dressed_as_fat_is_not_ours(small_fat: bytes, place_and_bytes: tuple[int, bytes]) -> None:
    place, data = place_and_bytes
    contents = bytearray(small_fat)
    contents[place : place + len(data)] = data
    assert FAT.identify(MemoryDisk(contents)) is None


@pytest.mark.parametrize(("count", "kind"), [(4084, "used"), (4085, "raw"), (4086, "raw"), (4087, "used")])
def test_a_number_of_clusters_that_systems_read_differently_is_raw(
    tmp_path_factory: pytest.TempPathFactory, count: int, kind: str
) -> None:
    image: Path = tmp_path_factory.mktemp("limit") / "limit.img"
    volumes.make_fat(image, size=4 << 20, bits=16, cluster_size=512)
    contents = bytearray(image.read_bytes())
    boot = find_fat_boot(MemoryDisk(contents))
    assert boot is not None
    contents[0x13:0x15] = (boot.data_start // 512 + count).to_bytes(2, "little")
    limited = MemoryDisk(contents)
    assert FAT.used_map(limited).kind == kind


@settings(max_examples=100, deadline=2000)
@given(seed=st.integers(0, 1 << 32), count=st.integers(1, 8))
def test_changed_volumes_give_an_answer_or_an_error_of_ours(small_fat: bytes, seed: int, count: int) -> None:
    source, changed = random.Random(seed), bytearray(small_fat)
    for _ in range(count):
        changed[source.choice((source.randrange(96), source.randrange(4096)))] = source.choice((0, 1, 0xFF, 0x80, 0x10))
    fuzz_fat(bytes(changed))


@given(data=st.binary(max_size=500))
def test_any_first_bytes_give_an_answer_or_an_error_of_ours(data: bytes) -> None:
    fuzz_fat((b"\xeb\x3c\x90MSDOS5.0" + data).ljust(510, b"\0") + b"\x55\xaa" + bytes(8192))
