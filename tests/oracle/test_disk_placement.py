"""Tables on targets of other sizes, judged by sgdisk and sfdisk."""

import os
import random
import re
from uuid import UUID

import pytest

from stillframe.block import MemoryDisk
from stillframe.disk import clear_table_patches, fit_table, new_identity, read_layout
from stillframe.errors import TargetError
from stillframe.testing.disks_partitioned import (
    MIB,
    SeenTable,
    make_disk,
    patched,
    run_tool,
    see_table,
    shown_to_tools,
)

SIZE = 12 * MIB
CALLS = [
    *("-n", "7:8192:+1M", "-c", "7:later", "-A", "7:set:63"),
    *("-n", "3:16384:+1M", "-t", "3:8e00", "-c", "3:LVM"),
    *("-n", "1:4096:+1M", "-t", "1:ef00"),
]
LAST_END = (16384 + 2048) * 512
BACKUP_SIZE = 33 * 512


@pytest.fixture(scope="session")
def source() -> bytes:
    return make_disk(SIZE, sgdisk=CALLS)


@pytest.fixture(scope="session")
def logical_source() -> bytes:
    return make_disk(
        SIZE, sfdisk="label: dos\n/a1 : size=2M, type=7\n/a2 : size=8M, type=5\n/a5 : size=1M\n/a6 : size=1M\n"
    )


def judged(disk: bytes, *, sector_size: int = 512) -> SeenTable:
    """What sfdisk sees on a disk, after sgdisk and sfdisk found nothing wrong with it."""
    with shown_to_tools(disk, sector_size=sector_size) as path:
        verdict = run_tool("sgdisk", "-v", str(path))
        assert "No problems found" in verdict, verdict
        assert "Caution" not in verdict, verdict
        assert "No errors detected" in (found := run_tool("sfdisk", "--verify", str(path))), found
        assert "mismatch" not in found
        return see_table(path)


def fitted(source: bytes, size: int, *, sector_size: int = 512) -> bytes:
    reader = MemoryDisk(source, sector_size=sector_size)
    return patched(source, fit_table(read_layout(reader), reader, size), size=size)


@pytest.mark.parametrize("size", [SIZE + 512, SIZE + MIB + 512, 3 * SIZE, SIZE - 512, LAST_END + BACKUP_SIZE], ids=str)
def test_another_size(source: bytes, size: int) -> None:
    target = fitted(source, size)
    assert judged(target) == judged(source)
    assert target[LAST_END - MIB : LAST_END] == source[LAST_END - MIB : LAST_END]
    assert read_layout(MemoryDisk(target)).notices == ()


def test_no_old_backup_copy_is_left_behind(source: bytes) -> None:
    assert fitted(source, 2 * SIZE).count(b"EFI PART") == 2


def test_one_sector_too_few(source: bytes) -> None:
    reader = MemoryDisk(source)
    with pytest.raises(TargetError, match="512 bytes too few"):
        fit_table(read_layout(reader), reader, LAST_END + BACKUP_SIZE - 512)


def test_a_size_that_is_no_multiple_of_a_sector(source: bytes) -> None:
    target = fitted(source, SIZE + 5 * 512 + 100)
    assert judged(target[:-100]) == judged(source)


def test_the_same_size_needs_nothing(source: bytes) -> None:
    assert fitted(source, SIZE) == source


@pytest.mark.root
def test_4096_byte_sectors() -> None:
    source = make_disk(16 * MIB, sgdisk=("-n", "2:1024:+1M", "-c", "2:b", "-n", "1:512:+1M"), sector_size=4096)
    target = fitted(source, 20 * MIB, sector_size=4096)
    assert judged(target, sector_size=4096) == judged(source, sector_size=4096)
    assert fitted(source, 20 * MIB, sector_size=512) == target


def test_more_sectors_than_the_protective_mbr_can_count(source: bytes) -> None:
    size = (1 << 41) + 5 * MIB
    reader = MemoryDisk(source)
    patches = fit_table(read_layout(reader), reader, size)
    with shown_to_tools(source, size=size) as path:
        descriptor = os.open(path, os.O_WRONLY)
        for patch in patches:
            os.pwrite(descriptor, patch.data, patch.offset)
        os.close(descriptor)
        assert "No problems found" in run_tool("sgdisk", "-v", str(path))
        verdict = run_tool("sfdisk", "--verify", str(path))
        assert "No errors detected" in verdict
        assert "mismatch" not in verdict
        assert see_table(path) == judged(source)
        with path.open("rb") as disk:
            assert disk.read(512)[446 + 12 : 446 + 16] == b"\xff\xff\xff\xff"


@pytest.mark.parametrize("size", [SIZE, 2 * SIZE])
@pytest.mark.parametrize("where", ["primary header", "primary entries", "backup header", "backup entries"])
def test_a_broken_copy_is_made_anew(source: bytes, where: str, size: int) -> None:
    offsets = {
        "primary header": 512 + 30,
        "primary entries": 1024 + 130,
        "backup header": SIZE - 512 + 30,
        "backup entries": SIZE - 512 - 16384 + 130,
    }
    damaged = bytearray(source)
    damaged[offsets[where]] ^= 1
    target = fitted(bytes(damaged), size)
    assert judged(target) == judged(source)
    if size == SIZE:
        assert target == source


@pytest.mark.variants(2)
@pytest.mark.parametrize("damaged_offset", [512 + 16, 512 + 60, 1500 * 512 + 10, None])
def test_a_table_behind_the_boot_code_of_a_board(damaged_offset: int | None) -> None:
    source = make_disk(SIZE, sgdisk=("--move-main-table", "1500", "-n", "1:4096:+1M", "-n", "2:0:+1M"))
    board_code = random.Random(1).randbytes(64 * 512)
    source = source[:1024] + board_code + source[1024 + len(board_code) :]
    damaged = bytearray(source)
    if damaged_offset is not None:
        damaged[damaged_offset] ^= 1
    target = fitted(bytes(damaged), 2 * SIZE)
    with shown_to_tools(target) as path:
        assert "No problems found" in run_tool("sgdisk", "-v", str(path))
        assert see_table(path) == judged_loosely(source)
    assert target[1024 : 1024 + len(board_code)] == board_code


def judged_loosely(disk: bytes) -> SeenTable:
    with shown_to_tools(disk) as path:
        return see_table(path)


def test_a_disk_that_had_grown_before(source: bytes) -> None:
    grown = source + bytes(2 * MIB)
    assert fitted(grown, len(grown)) == grown
    assert judged(fitted(grown, 2 * SIZE)) == judged(source)
    assert judged(fitted(grown, SIZE)) == judged(source)


def test_four_slots() -> None:
    source = make_disk(SIZE, sfdisk="label: gpt\ntable-length: 4\nsize=1M\nsize=2M\n")
    assert judged(fitted(source, 2 * SIZE)) == judged(source)


def test_a_hybrid_keeps_its_mbr(source: bytes) -> None:
    hybrid = make_disk(SIZE, start=source, sgdisk=("-h", "3:7"))
    target = fitted(hybrid, 2 * SIZE)
    assert target[:512] == hybrid[:512]
    with shown_to_tools(target) as path:
        assert "No problems found" in run_tool("sgdisk", "-v", str(path))
        assert see_table(path) == judged_loosely(hybrid)


def test_a_protective_mbr_that_says_as_much_as_there_is(source: bytes) -> None:
    windows = source[: 446 + 12] + b"\xff\xff\xff\xff" + source[446 + 16 :]
    target = fitted(windows, 2 * SIZE)
    assert target[:512] == windows[:512]
    assert judged(target) == judged(source)


def test_an_mbr_stays_as_it_is(logical_source: bytes) -> None:
    reader = MemoryDisk(logical_source)
    layout = read_layout(reader)
    end = 11 * MIB  # 1 MiB of gap, 2 MiB, 8 MiB of container
    assert fit_table(layout, reader, end) == ()
    assert fit_table(layout, reader, 4 * SIZE) == ()
    with pytest.raises(TargetError, match="512 bytes too few"):
        fit_table(layout, reader, end - 512)
    with shown_to_tools(logical_source[:end]) as path:
        assert "No errors detected" in run_tool("sfdisk", "--verify", str(path))


@pytest.mark.parametrize("size", [SIZE, 2 * SIZE])
def test_a_new_identity_of_a_gpt(source: bytes, size: int) -> None:
    reader = MemoryDisk(source)
    layout = read_layout(reader)
    chooser = random.Random(9)
    given: list[UUID] = []

    def next_uuid() -> UUID:
        given.append(UUID(int=chooser.getrandbits(128), version=4))
        return given[-1]

    identity = new_identity(layout, reader, size, next_uuid=next_uuid)
    before, after = judged(source), judged(patched(source, identity.patches, size=size))
    assert after.disk_id == identity.disk_id == str(given[0]).upper()
    assert [part.guid for part in after.partitions] == [str(uuid).upper() for uuid in given[1:]]
    assert identity.guids == tuple(
        (old.guid, new.guid) for old, new in zip(before.partitions, after.partitions, strict=True)
    )
    kept = [(part.number, part.extent, part.type, part.name) for part in before.partitions]
    assert kept == [(part.number, part.extent, part.type, part.name) for part in after.partitions]
    with shown_to_tools(patched(source, identity.patches, size=size)) as path:
        assert re.search("Attribute flags: 8000000000000000", run_tool("sgdisk", "-i", "7", str(path)))


def test_a_new_identity_of_an_mbr(logical_source: bytes) -> None:
    reader = MemoryDisk(logical_source)
    identity = new_identity(read_layout(reader), reader, SIZE, next_uuid=lambda: UUID(int=0xABC0123456789))
    before, after = judged_loosely(logical_source), judged_loosely(patched(logical_source, identity.patches, size=SIZE))
    assert after.disk_id == identity.disk_id == "23456789"
    assert after.partitions == before.partitions


@pytest.mark.parametrize("kind", ["gpt", "mbr"])
@pytest.mark.parametrize("known", [True, False])
def test_no_tool_sees_a_table_that_was_cleared(source: bytes, logical_source: bytes, kind: str, *, known: bool) -> None:
    target = MemoryDisk(source if kind == "gpt" else logical_source)
    other = read_layout(MemoryDisk(bytes(4 * MIB)))
    for extent in clear_table_patches(read_layout(target) if known else other, target_size=target.size):
        target.zero(extent)
    with shown_to_tools(bytes(target.contents)) as path:
        assert "does not contain a recognized partition table" in run_tool("sfdisk", "-d", str(path), allowed=(1,))
        assert "Creating new GPT entries" in run_tool("sgdisk", "-p", str(path))
    assert read_layout(target).scheme == "none"
    if known:
        assert b"EFI PART" not in target.contents
