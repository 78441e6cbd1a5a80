"""Kept changes: opened again, cut off at any moment, damaged anywhere, over the wrong image."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stillframe.block import MemoryDisk
from stillframe.block.kept_overlay import open_overlay
from stillframe.block.overlay_format import BLOCK_SIZE, ENTRIES_MAX, Subject
from stillframe.errors import DamagedError, StillframeError, TargetError
from stillframe.extents import Extent

SIZE = 20 * BLOCK_SIZE + 777
BELOW = random.Random(3).randbytes(SIZE)
SUBJECT = Subject(image=bytes(range(16)), disk=1, partition=0, size=SIZE)


def read_all(path: Path) -> bytes:
    with open_overlay(str(path), MemoryDisk(BELOW), SUBJECT) as disk:
        return disk.read_at(0, SIZE)


def write_some(path: Path, *, rounds: int, seed: int = 1) -> bytes:
    """Random writes, zeros and flushes over several openings; what the disk must then be."""
    choose, model = random.Random(seed), bytearray(read_all(path))
    for _ in range(rounds):
        with open_overlay(str(path), MemoryDisk(BELOW), SUBJECT) as disk:
            for _ in range(12):
                start = choose.randrange(SIZE)
                end = min(SIZE, start + choose.choice([1, 511, 4096, 70_000, 200_000]))
                if choose.random() < 0.3:
                    disk.zero(Extent(start, end))
                    model[start:end] = bytes(end - start)
                else:
                    model[start:end] = new = choose.randbytes(end - start)
                    disk.write_at(start, new)
                if choose.random() < 0.3:
                    disk.flush()
                assert disk.read_at(start, end - start) == model[start:end]
        assert read_all(path) == model
    return bytes(model)


def test_what_was_written_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    write_some(tmp_path / "kept", rounds=6)
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o600


def test_places_that_were_replaced_are_used_again(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    for number in range(30):
        with open_overlay(str(path), MemoryDisk(BELOW), SUBJECT) as disk:
            disk.write_at(0, bytes([number + 1]) * BLOCK_SIZE)
    assert path.stat().st_size < 4 * BLOCK_SIZE + 40 * 4096


def test_a_flush_of_many_blocks_takes_several_records(tmp_path: Path) -> None:
    size = (2 * ENTRIES_MAX + 5) * BLOCK_SIZE
    subject = Subject(image=bytes(16), disk=1, partition=2, size=size)
    below = MemoryDisk(b"\1" * size)
    with open_overlay(str(tmp_path / "kept"), below, subject) as disk:
        disk.zero(Extent(0, size))
    assert (tmp_path / "kept").stat().st_size < 10 * 4096
    with open_overlay(str(tmp_path / "kept"), below, subject) as disk:
        assert disk.read_at(0, size) == bytes(size)


@pytest.mark.parametrize(
    "other",
    [
        Subject(image=bytes(16), disk=1, partition=0, size=SIZE),
        Subject(image=bytes(range(16)), disk=2, partition=0, size=SIZE),
        Subject(image=bytes(range(16)), disk=1, partition=1, size=SIZE),
    ],
)
def test_changes_to_another_disk_are_refused_and_left_as_they_are(tmp_path: Path, other: Subject) -> None:
    path = tmp_path / "kept"
    write_some(path, rounds=1)
    before = path.read_bytes()
    with pytest.raises(TargetError, match="keeps changes to image 00010203, disk 1"):
        open_overlay(str(path), MemoryDisk(BELOW), other).__enter__()
    assert path.read_bytes() == before


def test_a_file_that_is_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear Anna, " * 1000)
    with pytest.raises(DamagedError, match="is no file of kept changes"):
        read_all(path)
    assert path.read_text() == "Dear Anna, " * 1000


def test_only_one_program_may_have_it_open(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    with open_overlay(str(path), MemoryDisk(BELOW), SUBJECT), pytest.raises(TargetError, match="in use"):
        read_all(path)


def test_a_flipped_byte_anywhere_is_refused_or_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    truth = write_some(path, rounds=2)
    whole = path.read_bytes()
    choose, refused = random.Random(7), 0
    places = [*range(0, 5 * 4096, 64), *(choose.randrange(len(whole)) for _ in range(300))]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << choose.randrange(8)
        path.write_bytes(damaged)
        try:
            assert read_all(path) == truth, f"byte {place}"
        except StillframeError:
            refused += 1
    assert refused > len(places) // 4


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_short_is_refused(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "kept"
    write_some(path, rounds=3)
    os.truncate(path, int(path.stat().st_size * kept))
    with pytest.raises(DamagedError):
        read_all(path)


def test_a_run_that_ends_before_its_flush_leaves_the_disk_of_the_flush_before(tmp_path: Path) -> None:
    """Every state that a power cut can leave: any of the writes since the last sync may be missing."""
    path = tmp_path / "kept"
    before = write_some(path, rounds=2)
    old = path.read_bytes()
    with open_overlay(str(path), MemoryDisk(BELOW), SUBJECT) as disk:
        disk.write_at(0, b"\7" * (9 * BLOCK_SIZE))
    new = path.read_bytes()
    after = read_all(path)
    pages = [n for n in range(0, len(new), 4096) if new[n : n + 4096] != old[n : n + 4096]]
    records = [n for n in pages if new[n : n + 8] == b"SFOVRECD"]
    contents = [n for n in pages if new[n : n + 4] != b"SFOV"]
    choose = random.Random(11)
    for _ in range(100):
        torn = bytearray(old.ljust(len(new), b"\0"))
        for page in contents:  # they are synced before a record is written: here is a cut before that
            if choose.random() < 0.5:
                torn[page : page + 4096] = new[page : page + 4096]
        path.write_bytes(torn)
        assert read_all(path) == before
    for length in (0, 1, 8, 100, 2048, 4095, 4096):
        torn = bytearray(old.ljust(len(new), b"\0"))
        for page in contents:
            torn[page : page + 4096] = new[page : page + 4096]
        torn[records[0] : records[0] + length] = new[records[0] : records[0] + length]
        path.write_bytes(torn)
        assert read_all(path) == (after if length == 4096 else before)


WRITER = """
import random, sys
from stillframe.block import MemoryDisk
from stillframe.block.kept_overlay import open_overlay
from stillframe.block.overlay_format import Subject
size = int(sys.argv[2])
below = MemoryDisk(random.Random(3).randbytes(size))
with open_overlay(sys.argv[1], below, Subject(image=bytes(range(16)), disk=1, partition=0, size=size)) as disk:
    number = 0
    while True:
        number += 1
        for start in range(0, size - 1000, 40_000):
            disk.write_at(start, number.to_bytes(4, "big") * 250)
        disk.flush()
        print(number, flush=True)
"""


def test_a_program_that_is_killed_leaves_a_whole_flush(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    for _ in range(4):
        command = [sys.executable, "-c", WRITER, str(path), str(SIZE)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            seen = [int(process.stdout.readline()) for _ in range(3)]
            time.sleep(random.Random().random() / 50)
            process.send_signal(signal.SIGKILL)
            seen += [int(line) for line in process.stdout.read().split()]
        found = read_all(path)
        numbers = {found[start : start + 1000] for start in range(0, SIZE - 1000, 40_000)}
        assert len(numbers) == 1
        (number,) = {int.from_bytes(piece[:4], "big") for piece in numbers}
        assert number in (seen[-1], seen[-1] + 1)
