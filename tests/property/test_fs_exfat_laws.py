"""exFAT: volumes with bytes changed at random, their checksum put right so that the change is looked at."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillframe.block import MemoryDisk
from stillframe.errors import StillframeError
from stillframe.fs.exfat import ExfatFilesystem, compute_boot_checksum
from stillframe.testing import volumes_windows as volumes

EXFAT = ExfatFilesystem()


def fuzz_exfat(data: bytes) -> None:
    """Any bytes give an answer or an error of ours."""
    reader = MemoryDisk(data)
    try:
        if EXFAT.identify(reader) is not None:
            EXFAT.used_map(reader)
    except StillframeError:
        pass


@pytest.fixture(scope="session")
def small_exfat(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    image: Path = tmp_path_factory.mktemp("exfat") / "small.img"
    volumes.make_exfat(image, size=2 << 20, cluster_size=512)
    return image.read_bytes()


def test_the_checksum_is_the_one_mkfs_wrote(small_exfat: bytes) -> None:
    expected = int.from_bytes(small_exfat[512 * 11 : 512 * 11 + 4], "little")
    assert compute_boot_checksum(small_exfat[: 512 * 11]) == expected


def test_the_map_does_not_depend_on_the_size_of_pieces(small_exfat: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = EXFAT.used_map(MemoryDisk(small_exfat))
    monkeypatch.setattr("stillframe.fs.exfat._READ_SIZE", 32)
    monkeypatch.setattr("stillframe.fs.exfat._TABLE_WINDOW", 4)
    assert EXFAT.used_map(MemoryDisk(small_exfat)) == whole


@settings(max_examples=100, deadline=2000)
@given(seed=st.integers(0, 1 << 32), count=st.integers(1, 8))
def test_changed_volumes_give_an_answer_or_an_error_of_ours(small_exfat: bytes, seed: int, count: int) -> None:
    source, changed = random.Random(seed), bytearray(small_exfat)
    used = [start for start in range(0, len(changed), 512) if any(changed[start : start + 512])]
    for _ in range(count):
        place = source.choice((source.randrange(0x40, 0x72), source.choice(used) + source.randrange(512)))
        changed[place] = source.choice((0, 1, 2, 0xFF, 0x80, source.randrange(256)))
    changed[512 * 11 : 512 * 12] = compute_boot_checksum(bytes(changed[: 512 * 11])).to_bytes(4, "little") * 128
    fuzz_exfat(bytes(changed))


@given(data=st.binary(max_size=500))
def test_any_first_bytes_give_an_answer_or_an_error_of_ours(data: bytes) -> None:
    fuzz_exfat((b"\xeb\x76\x90EXFAT   " + data).ljust(510, b"\0") + b"\x55\xaa" + bytes(16384))
