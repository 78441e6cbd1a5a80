"""NTFS: laws of the run decoders, and volumes with bytes changed at random."""

import random
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillframe.block import MemoryDisk
from stillframe.errors import DiskFormatError, StillframeError
from stillframe.fs.ntfs import NtfsFilesystem
from stillframe.fs.ntfs.runs import Run, decode_run_table, decode_runs
from stillframe.testing import volumes_windows as volumes
from stillframe.testing.tools import run_tool

NTFS = NtfsFilesystem()
MIB = 1 << 20


def fuzz_ntfs(data: bytes) -> None:
    """Any bytes give an answer or an error of ours."""
    reader = MemoryDisk(data)
    try:
        if NTFS.identify(reader) is not None and NTFS.used_map(reader).kind == "used":
            NTFS.left_out(reader)
    except StillframeError:
        pass


def encode_runs(runs: list[Run]) -> bytes:
    """The other direction, from the documentation: shortest signed numbers."""
    encoded, previous = bytearray(), 0
    for run in runs:
        length = shortest(run.cluster_count)
        distance = b"" if run.first_cluster is None else shortest(run.first_cluster - previous)
        previous = previous if run.first_cluster is None else run.first_cluster
        encoded += bytes([len(distance) << 4 | len(length)]) + length + distance
    return bytes(encoded) + b"\0"


def shortest(number: int) -> bytes:
    size = 1
    while not -(1 << 8 * size - 1) <= number < 1 << 8 * size - 1:
        size += 1
    return number.to_bytes(size, "little", signed=True)


RUNS = st.lists(st.builds(Run, st.none() | st.integers(0, 1 << 40), st.integers(1, 1 << 33)), max_size=12)


@given(runs=RUNS)
def test_runs_come_back_as_they_were_written(runs: list[Run]) -> None:
    total = sum(run.cluster_count for run in runs)
    assert decode_runs(encode_runs(runs), cluster_count=total, what="test") == tuple(runs)


@given(lists=st.lists(RUNS, min_size=1, max_size=5))
def test_both_decoders_find_the_same_clusters(lists: list[list[Run]]) -> None:
    pieces = [encode_runs(runs) for runs in lists]
    ends = np.cumsum([len(piece) for piece in pieces]).astype(np.int64)
    starts = ends - np.array([len(piece) for piece in pieces], np.int64)
    counts = np.array([sum(run.cluster_count for run in runs) for runs in lists], np.int64)
    table = decode_run_table(np.frombuffer(b"".join(pieces), np.uint8), starts, ends, counts)
    found = sorted(zip(table.first_clusters.tolist(), table.cluster_counts.tolist(), strict=True))
    expected = [(r.first_cluster, r.cluster_count) for runs in lists for r in runs if r.first_cluster is not None]
    assert found == sorted(expected)
    assert not len(table.broken)


@given(encoded=st.binary(max_size=40), count=st.integers(0, 300))
def test_both_decoders_refuse_the_same_bytes(encoded: bytes, count: int) -> None:
    try:
        runs = decode_runs(encoded, cluster_count=count, what="test")
    except DiskFormatError:
        runs = None
    one = np.array([0], np.int64)
    raw = np.frombuffer(encoded, np.uint8)
    table = decode_run_table(raw, one, one + len(encoded), np.array([count], np.int64))
    assert (runs is None) == bool(len(table.broken))
    if runs is not None:
        real = [run for run in runs if run.first_cluster is not None]
        assert table.first_clusters.tolist() == [run.first_cluster for run in real]


@pytest.fixture(scope="session")
def small_ntfs(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small volume with a folder that has an index and a fragmented file, made without a mount."""
    folder = tmp_path_factory.mktemp("small")
    image: Path = folder / "small.img"
    volumes.make_ntfs(image, size=3 * MIB, cluster_size=512, label="small")
    for index in range(30):
        source = folder / f"a rather long name for a file {index}"
        source.write_bytes(bytes([index]) * (1 + 997 * (index % 7)))
        run_tool("ntfscp", "-q", str(image), str(source), source.name)
    pagefile = folder / "pagefile.sys"
    pagefile.write_bytes(bytes(9000))
    run_tool("ntfscp", "-q", str(image), str(pagefile), pagefile.name)
    return image.read_bytes()


def test_the_small_volume_is_good(small_ntfs: bytes) -> None:
    reader = MemoryDisk(small_ntfs)
    assert NTFS.used_map(reader).kind == "used"
    assert [file.path for file in NTFS.left_out(reader)] == ["/pagefile.sys"]


def test_the_map_does_not_depend_on_the_size_of_pieces(small_ntfs: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = NTFS.used_map(MemoryDisk(small_ntfs))
    monkeypatch.setattr("stillframe.fs.ntfs.volume._BITMAP_READ_SIZE", 7)
    monkeypatch.setattr("stillframe.fs.ntfs.scan._BATCH_SIZE", 3 * 1024)
    assert NTFS.used_map(MemoryDisk(small_ntfs)) == whole


def find_runs(contents: bytes, *, size: int) -> list[int]:
    """Where the runs of the files of this many bytes begin, in the records of the table."""
    wanted = b"\x40\x00" + bytes(6) + (-(-size // 512) * 512).to_bytes(8, "little") + size.to_bytes(8, "little")
    places = [place for place in range(0, len(contents) - 64, 8) if contents[place + 0x20 : place + 0x38] == wanted]
    return [place + 0x40 for place in places if contents[place : place + 4] == b"\x80\0\0\0"]


def test_two_files_that_share_a_cluster_are_a_contradiction(small_ntfs: bytes) -> None:
    first, second = find_runs(small_ntfs, size=1 + 997 * 5)[:2]
    contents = bytearray(small_ntfs)
    contents[second : second + 8] = contents[first : first + 8]
    with pytest.raises(DiskFormatError, match="two files have cluster"):
        NTFS.used_map(MemoryDisk(contents))


def test_a_cluster_outside_the_volume_is_a_contradiction(small_ntfs: bytes) -> None:
    place = find_runs(small_ntfs, size=1 + 997 * 5)[0]
    contents = bytearray(small_ntfs)
    contents[place : place + 5] = bytes((0x31, 10)) + (8000).to_bytes(3, "little")
    with pytest.raises(DiskFormatError, match="a file has cluster 8009, the volume only"):
        NTFS.used_map(MemoryDisk(contents))


@pytest.mark.parametrize("index", [0, 3, 5, 6, 70])
def test_a_torn_record_is_a_contradiction(small_ntfs: bytes, index: int) -> None:
    boot = volumes.open_table(MemoryDisk(small_ntfs)).boot
    contents = bytearray(small_ntfs)
    for start in (boot.mft_cluster, boot.mirror_cluster) if index < 4 else (boot.mft_cluster,):
        contents[start * boot.cluster_size + index * 1024 + 510] ^= 0xFF
    with pytest.raises(DiskFormatError, match=f"MFT record {index}"):
        NTFS.used_map(MemoryDisk(contents))


def test_leftovers_behind_another_file_system_are_not_ours(small_ntfs: bytes) -> None:
    contents = bytearray(small_ntfs)
    contents[:8192] = bytes(8192)
    assert NTFS.identify(MemoryDisk(contents)) is None


@settings(max_examples=150, deadline=2000)
@given(seed=st.integers(0, 1 << 32), count=st.integers(1, 12))
def test_changed_volumes_give_an_answer_or_an_error_of_ours(small_ntfs: bytes, seed: int, count: int) -> None:
    fuzz_ntfs(mutate(small_ntfs, seed=seed, count=count, stride=512))


def mutate(contents: bytes, *, seed: int, count: int, stride: int) -> bytes:
    """Change bytes where something is written: zeros between structures teach nothing."""
    source, changed = random.Random(seed), bytearray(contents)
    for _ in range(count):
        while True:
            start = source.randrange(len(changed) // stride) * stride
            if any(changed[start : start + stride]):
                break
        place = start + source.randrange(stride)
        changed[place] = source.choice((0, 1, 0x7F, 0x80, 0xFF, source.randrange(256), changed[place] ^ 1))
    return bytes(changed)


@settings(max_examples=150, deadline=2000)
@given(data=st.binary(max_size=300), place=st.integers(0, 40))
def test_changed_records_give_an_answer_or_an_error_of_ours(small_ntfs: bytes, data: bytes, place: int) -> None:
    contents = bytearray(small_ntfs)
    boot = volumes.open_table(MemoryDisk(small_ntfs)).boot
    start = boot.mft_cluster * boot.cluster_size + place * 1024 + zlib.crc32(data) % 600
    contents[start : start + len(data)] = data
    fuzz_ntfs(bytes(contents))


@given(data=st.binary(max_size=600))
def test_any_first_bytes_give_an_answer_or_an_error_of_ours(data: bytes) -> None:
    fuzz_ntfs((b"\xeb\x52\x90NTFS    " + data).ljust(8192, b"\0"))
