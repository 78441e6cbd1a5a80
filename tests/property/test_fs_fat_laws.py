"""FAT: a law of the packing of entries, and volumes with bytes changed at random."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillframe.block import MemoryDisk
from stillframe.errors import StillframeError
from stillframe.fs.fat import FatFilesystem, unpack_entries
from stillframe.testing import volumes_windows as volumes

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
        volumes.run_tool("mcopy", "-i", str(image), __file__, "::")
    return image.read_bytes()


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
