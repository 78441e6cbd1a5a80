"""Counting from tables: whatever is on the disk, numbers, or an error of ours, soon."""

import contextlib
import functools
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillframe.block import MemoryDisk
from stillframe.errors import DiskFormatError, StillframeError
from stillframe.fs.base import Volume
from stillframe.fs.ext.listing import list_ext
from stillframe.fs.files.counting import count_at_once, count_walking
from stillframe.fs.files.summing import sum_listing
from stillframe.fs.ntfs.listing import list_ntfs
from stillframe.testing.tools import run_tool

MIB = 1 << 20
LAYOUTS = ("-t ext4 -b 1024 -O ^has_journal", "-t ext2 -b 1024", "-t ext4 -b 1024 -O ^metadata_csum,^has_journal")


def fuzz_counting(data: bytes) -> None:
    """Any bytes give numbers or an error of ours, as ext and as NTFS."""
    for listing in (list_ext, list_ntfs):
        with contextlib.suppress(StillframeError):
            sum_listing(listing(MemoryDisk(data)))


@functools.cache
def small_ext(layout: str) -> bytes:
    """A volume with folders of several blocks, and files with several names."""
    with tempfile.TemporaryDirectory() as name:
        tree, image = Path(name) / "tree", Path(name) / "image"
        for folder in ("a/b/c/d/e", "f", "g"):
            (tree / folder).mkdir(parents=True)
        for number in range(90):
            (tree / "f" / f"file {number} {'x' * (number % 50)}").write_bytes(b"y" * number)
        (tree / "a/b/c/d/e/deep").write_bytes(b"z" * 5000)
        (tree / "g" / "again").hardlink_to(tree / "f" / "file 7 xxxxxxx")
        image.write_bytes(bytes(MIB))
        run_tool("mke2fs", "-q", "-F", *layout.split(), "-d", str(tree), str(image))
        return image.read_bytes()


@functools.cache
def small_ntfs() -> bytes:
    with tempfile.TemporaryDirectory() as name:
        image, files = Path(name) / "image", Path(name) / "files"
        image.write_bytes(bytes(2 * MIB))
        run_tool("mkntfs", "-F", "-Q", "-q", "-p", "0", "-H", "255", "-S", "63", "-s", "512", str(image))
        for number in range(5):
            files.write_bytes(b"a" * 900 * number)
            run_tool("ntfscp", "-f", str(image), str(files), f"file {number}")
        return image.read_bytes()


def changed(contents: bytes, *, seed: int, count: int, places: list[int], size: int) -> bytes:
    """A few bytes of the structures that begin at ``places`` are others."""
    source, raw = random.Random(seed), bytearray(contents)
    for _ in range(count):
        at = source.choice(places) + source.randrange(size)
        raw[at] = source.choice((0, 1, 2, 0x7F, 0x80, 0xFF, raw[at] ^ 1 << source.randrange(8), source.randrange(256)))
    return bytes(raw)


def structures(contents: bytes) -> list[int]:
    """Blocks of an ext volume, of 1 KiB, that are not empty."""
    return [at for at in range(MIB // 64, len(contents), 1024) if any(contents[at : at + 1024])] + list(
        range(0, 65536, 1024)
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_small_volumes_are_counted(layout: str) -> None:
    counts = sum_listing(list_ext(MemoryDisk(small_ext(layout))))
    assert (counts.files_count, counts.folders_count, counts.size) == (91, 8, sum(range(90)) + 5000)


def test_the_small_ntfs_is_counted() -> None:
    counts = sum_listing(list_ntfs(MemoryDisk(small_ntfs())))
    assert (counts.files_count, counts.folders_count, counts.size) == (5, 0, 9000)


@settings(max_examples=100)
@given(seed=st.integers(0, 1 << 32), count=st.integers(1, 6), layout=st.sampled_from(LAYOUTS))
def test_changed_ext(seed: int, count: int, layout: str) -> None:
    contents = small_ext(layout)
    fuzz_counting(changed(contents, seed=seed, count=count, places=structures(contents), size=1024))


@settings(max_examples=100)
@given(seed=st.integers(0, 1 << 32), count=st.integers(1, 6))
def test_changed_ntfs(seed: int, count: int) -> None:
    contents = small_ntfs()
    places = [at for at in range(0, len(contents), 1024) if contents[at : at + 4] == b"FILE" or at < 1024]
    fuzz_counting(changed(contents, seed=seed, count=count, places=places, size=1024))


@settings(max_examples=60)
@given(seed=st.integers(0, 1 << 32), layout=st.sampled_from(LAYOUTS))
def test_a_changed_folder_of_ext_is_counted_as_a_walk_counts_it_or_not_at_all(seed: int, layout: str) -> None:
    contents = small_ext(layout)
    places = [
        at for at in structures(contents) if contents[at + 8 : at + 9] == b"." or b"file 1" in contents[at : at + 1024]
    ]
    disk = MemoryDisk(changed(contents, seed=seed, count=2, places=places, size=1024))
    volume = Volume(filesystem="ext4")
    counts = count_at_once(disk, volume)
    if counts is not None:
        walked = count_walking(disk, volume)
        assert not walked.is_complete or walked.records[0] == counts


@pytest.mark.parametrize("size", [0, 1024, MIB])
def test_what_is_neither_is_an_error(size: int) -> None:
    for listing in (list_ext, list_ntfs):
        with pytest.raises(DiskFormatError):
            listing(MemoryDisk(bytes(size)))
