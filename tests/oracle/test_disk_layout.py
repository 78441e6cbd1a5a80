"""Layouts as Stillframe reads them against what sfdisk, sgdisk and partx see on the same disks."""

import random
import re

import pytest

from stillframe.block import MemoryDisk
from stillframe.disk import Layout, detect_sector_size, fit_table, read_layout
from stillframe.disk.types import _GPT_NAMES, _MBR_NAMES, UNUSED_GUID
from stillframe.testing.disks_partitioned import (
    MIB,
    make_disk,
    patched,
    run_tool,
    see_table,
    shown_to_tools,
    with_entries,
    with_header_field,
)

WINDOWS = """label: gpt
first-lba: 34
label-id: 0D4F3C2B-1A09-4877-8665-544332211000
start=34, size=2000, type=21686148-6449-6E6F-744E-656564454649
size=1M, type=uefi, name="EFI system partition", attrs="RequiredPartition"
size=1M, type=E3C9E316-0B5C-4DB8-817D-F92DF00215AE, attrs="GUID:63"
size=4M, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7, name="Basic data: C\u00e4\u65e5\U0001f600"
size=2M, type=DE94BBA4-06D1-4D40-A16A-BFD50179D6AC, attrs="RequiredPartition GUID:63"
"""
WINDOWS_4096 = WINDOWS.replace("start=34, size=2000, type=21686148-6449-6E6F-744E-656564454649\n", "")
SCATTERED = [
    *("-n", "7:8192:+1M", "-c", "7:later", "-A", "7:set:2", "-A", "7:set:60"),
    *("-n", "3:16384:+1M", "-t", "3:8e00", "-A", "3:set:62", "-c", "3:" + "x" * 36),
    *("-n", "128:4096:+1M", "-t", "128:fd00", "-A", "128:set:0", "-A", "128:set:1", "-A", "128:set:63"),
]
LOGICAL = """label: dos
label-id: 0x0a1b2c3d
size=2M, type=7, bootable
size=20M, type=f
size=1M, type=27
size=2M, type=83
size=2M, type=82
size=1M, type=7
size=3M, type=8e
"""


def assert_seen_alike(disk: bytes, *, sector_size: int = 512) -> Layout:
    """Read the layout, and see the same with sfdisk."""
    layout = read_layout(MemoryDisk(disk, sector_size=sector_size))
    with shown_to_tools(disk, sector_size=sector_size) as path:
        seen = see_table(path)
    assert layout.scheme == {"gpt": "gpt", "dos": "mbr"}[seen.label]
    assert (layout.disk_id, layout.sector_size, layout.size) == (seen.disk_id, seen.sector_size, len(disk))
    ours = [(part.number, part.extent, part.type, part.name, part.guid) for part in layout.partitions]
    assert ours == [(part.number, part.extent, part.type, part.name, part.guid) for part in seen.partitions]
    return layout


@pytest.fixture(scope="session")
def windows_disk() -> bytes:
    return make_disk(12 * MIB, sfdisk=WINDOWS)


@pytest.fixture(scope="session")
def scattered_disk() -> bytes:
    return make_disk(12 * MIB, sgdisk=SCATTERED)


@pytest.fixture(scope="session")
def logical_disk() -> bytes:
    return make_disk(32 * MIB, sfdisk=LOGICAL)


@pytest.fixture(scope="session")
def disk_of_4096() -> bytes:
    return make_disk(16 * MIB, sfdisk=WINDOWS_4096, sector_size=4096)


def test_a_windows_disk(windows_disk: bytes) -> None:
    layout = assert_seen_alike(windows_disk)
    assert [part.type_name for part in layout.partitions] == [
        "BIOS boot",
        "EFI system",
        "Microsoft reserved",
        "Windows data",
        "Windows recovery",
    ]
    assert layout.notices == ()


@pytest.mark.root
def test_a_disk_of_4096_byte_sectors(disk_of_4096: bytes) -> None:
    layout = assert_seen_alike(disk_of_4096, sector_size=4096)
    assert [part.type_name for part in layout.partitions][:2] == ["EFI system", "Microsoft reserved"]
    assert layout.notices == ()


@pytest.mark.root
def test_a_file_with_4096_byte_sectors_is_told_by_its_table(disk_of_4096: bytes) -> None:
    asked_right = read_layout(MemoryDisk(disk_of_4096, sector_size=4096))
    asked_wrong = read_layout(MemoryDisk(disk_of_4096, sector_size=512))
    assert detect_sector_size(MemoryDisk(disk_of_4096)) == 4096
    assert asked_wrong.partitions == asked_right.partitions
    assert asked_wrong.sector_size == 4096
    assert [notice.code for notice in asked_wrong.notices] == ["sector-size-differs"]
    damaged = disk_of_4096[:4096] + bytes(4096) + disk_of_4096[8192:]
    assert read_layout(MemoryDisk(damaged)).partitions == asked_right.partitions


@pytest.mark.root
def test_a_scattered_disk_of_4096_byte_sectors() -> None:
    calls = ("-n", "7:1024:+1M", "-A", "7:set:62", "-n", "2:512:+1M", "-c", "2:first")
    assert_seen_alike(make_disk(16 * MIB, sgdisk=calls, sector_size=4096), sector_size=4096)


def test_a_file_with_512_byte_sectors_on_a_reader_that_says_4096(windows_disk: bytes) -> None:
    layout = read_layout(MemoryDisk(windows_disk, sector_size=4096))
    assert layout.partitions == read_layout(MemoryDisk(windows_disk)).partitions


def test_numbers_with_gaps_and_out_of_order(scattered_disk: bytes) -> None:
    layout = assert_seen_alike(scattered_disk)
    assert [part.number for part in layout.partitions] == [3, 7, 128]
    assert [part.index for part in layout.partitions] == [2, 6, 127]


@pytest.mark.parametrize("number", [3, 7, 128])
def test_all_attribute_bits(scattered_disk: bytes, number: int) -> None:
    parts = {part.number: part for part in read_layout(MemoryDisk(scattered_disk)).partitions}
    with shown_to_tools(scattered_disk) as path:
        shown = run_tool("sgdisk", "-i", str(number), str(path))
    flags = re.search(r"Attribute flags: ([0-9A-F]{16})", shown)
    assert flags is not None
    assert parts[number].attributes == int(flags[1], 16)


@pytest.mark.parametrize(
    "calls",
    [
        ("-S", "256", "-n", "200:4096:+1M"),
        ("--move-main-table", "1000", "-n", "1:4096:+1M"),
        ("-o",),
        ("-n", "1:34:0"),
    ],
    ids=["256 slots", "moved table", "no partitions", "nothing left over"],
)
def test_unusual_tables(calls: tuple[str, ...]) -> None:
    layout = assert_seen_alike(make_disk(8 * MIB, sgdisk=calls))
    assert layout.notices == ()


def test_a_table_of_four_slots() -> None:
    layout = assert_seen_alike(make_disk(8 * MIB, sfdisk="label: gpt\ntable-length: 4\nsize=1M\nsize=2M\n"))
    assert layout.table.size == 512 + 2 * (512 + 512)


@pytest.mark.parametrize("size", [256, 512])
def test_entries_larger_than_anybody_makes_them(size: int) -> None:
    disk = make_disk(4 * MIB, sfdisk="label: gpt\nfirst-lba: 34\nstart=64, size=9, name=a\nstart=80, size=50\n")
    count = 16384 // size
    entries = b"".join(disk[1024 + 128 * index : 1152 + 128 * index].ljust(size, b"\xa5") for index in range(2))
    end = len(disk)
    for header_at, entries_at in ((512, 1024), (end - 512, end - 512 - 16384)):
        disk = with_header_field(disk, "<I", 84, size, header_at=header_at)
        disk = with_header_field(disk, "<I", 80, count, header_at=header_at)
        disk = with_entries(disk, entries.ljust(16384, b"\0"), header_at=header_at, entries_at=entries_at)
    assert len(assert_seen_alike(disk).partitions) == 2
    reader = MemoryDisk(disk)
    assert_seen_alike(patched(disk, fit_table(read_layout(reader), reader, 2 * end), size=2 * end))


def test_the_bytes_of_the_table(windows_disk: bytes) -> None:
    layout = read_layout(MemoryDisk(windows_disk))
    with shown_to_tools(windows_disk) as path:
        shown = run_tool("sgdisk", "-p", "-v", str(path))
    first = re.search(r"Main partition table begins at sector (\d+) and ends at sector (\d+)", shown)
    assert first is not None
    main_end = (int(first[2]) + 1) * 512
    ends = [(extent.start, extent.end) for extent in layout.table]
    assert ends == [(0, main_end), (len(windows_disk) - (main_end - 512), len(windows_disk))]
    assert layout.outside.size == len(windows_disk) - sum(part.extent.size for part in layout.partitions)


def test_an_mbr_with_logical_partitions(logical_disk: bytes) -> None:
    layout = assert_seen_alike(logical_disk)
    assert [(part.number, part.logical) for part in layout.partitions] == [
        (1, False),
        (3, False),
        (4, False),
        (5, True),
        (6, True),
        (7, True),
    ]
    assert [part.attributes for part in layout.partitions] == [0x80, 0, 0, 0, 0, 0]


def test_an_mbr_as_partx_sees_it(logical_disk: bytes) -> None:
    layout = read_layout(MemoryDisk(logical_disk))
    assert partx_rows(logical_disk) == [
        (part.number, part.extent.start // 512, part.extent.size // 512, int(part.type, 16), part.attributes)
        for part in layout.partitions
    ]


def partx_rows(disk: bytes) -> list[tuple[int, ...]]:
    with shown_to_tools(disk) as path:
        shown = run_tool("partx", "--raw", "--noheadings", "-o", "NR,START,SECTORS,TYPE,FLAGS", str(path))
    rows = [tuple(int(word, 0) for word in line.split()) for line in shown.splitlines()]
    return [row for row in rows if row[3] not in (0x05, 0x0F, 0x85)]


@pytest.mark.parametrize("deleted", ["5", "6", "7", "5 6", "7 6 5", "1", "3"])
def test_numbers_after_deletion(logical_disk: bytes, deleted: str) -> None:
    with shown_to_tools(logical_disk) as path:
        run_tool("sfdisk", "--no-reread", "--no-tell-kernel", "--delete", str(path), *deleted.split())
        disk = path.read_bytes()
    assert_seen_alike(disk)


@pytest.mark.parametrize("kind", ["5", "f", "85"])
def test_each_type_of_container(kind: str) -> None:
    layout = assert_seen_alike(
        make_disk(16 * MIB, sfdisk=f"label: dos\n/a1 : size=10M, type={kind}\n/a5 : size=2M, type=c\n")
    )
    assert [(part.number, part.type, part.type_name) for part in layout.partitions] == [(5, "0C", "FAT")]


def test_logical_partitions_out_of_order() -> None:
    script = (
        "label: dos\n/a1 : start=2048, size=40960, type=5\n/a5 : start=20480, size=4096\n/a6 : start=8192, size=4096\n"
    )
    layout = assert_seen_alike(make_disk(32 * MIB, sfdisk=script))
    assert [part.extent.start // 512 for part in layout.partitions] == [20480, 8192]


@pytest.mark.root
def test_an_mbr_with_4096_byte_sectors() -> None:
    disk = make_disk(32 * MIB, sfdisk=LOGICAL.replace("size=20M", "size=16M"), sector_size=4096)
    assert_seen_alike(disk, sector_size=4096)


def test_a_hybrid_is_read_by_its_gpt(scattered_disk: bytes) -> None:
    disk = make_disk(len(scattered_disk), start=scattered_disk, sgdisk=("-h", "3:7"))
    layout = assert_seen_alike(disk)
    assert [notice.code for notice in layout.notices] == ["mbr-hybrid"]


def test_any_damage_to_the_primary_copy_is_survived(windows_disk: bytes) -> None:
    whole = read_layout(MemoryDisk(windows_disk))
    chooser = random.Random(5)
    offsets = [*range(512, 512 + 92), *(chooser.randrange(1024, 1024 + 16384) for _ in range(60))]
    for offset in offsets:
        damaged = bytearray(windows_disk)
        damaged[offset] ^= 1 << chooser.randrange(8)
        layout = read_layout(MemoryDisk(damaged))
        assert layout.partitions == whole.partitions, offset
        assert layout.disk_id == whole.disk_id
        assert [notice.code for notice in layout.notices] == ["gpt-primary-broken"], offset


def test_any_damage_to_the_backup_copy_is_told(windows_disk: bytes) -> None:
    whole = read_layout(MemoryDisk(windows_disk))
    chooser = random.Random(6)
    end = len(windows_disk)
    offsets = [
        *range(end - 512, end - 512 + 92, 3),
        *(chooser.randrange(end - 512 - 16384, end - 512) for _ in range(30)),
    ]
    for offset in offsets:
        damaged = bytearray(windows_disk)
        damaged[offset] ^= 1 << chooser.randrange(8)
        layout = read_layout(MemoryDisk(damaged))
        assert layout.partitions == whole.partitions, offset
        assert [notice.code for notice in layout.notices] == ["gpt-backup-broken"], offset


def test_a_disk_that_has_grown(windows_disk: bytes) -> None:
    grown = windows_disk + bytes(4 * MIB)
    layout = assert_seen_alike(grown)
    assert [notice.code for notice in layout.notices] == ["gpt-ends-early"]
    damaged = bytearray(grown)
    damaged[512 + 60] ^= 1
    layout = read_layout(MemoryDisk(damaged))
    assert layout.partitions == read_layout(MemoryDisk(windows_disk)).partitions
    assert [notice.code for notice in layout.notices] == ["gpt-primary-broken", "gpt-ends-early"]


@pytest.mark.parametrize(
    "command",
    [
        ("mkfs.fat", "-F", "12"),
        ("mkfs.fat", "-F", "16"),
        ("mkfs.fat", "-F", "32"),
        ("mkfs.ntfs", "-F", "-Q", "-q"),
        ("mkfs.exfat",),
        ("mkfs.ext4", "-q", "-F"),
        ("mkfs.btrfs", "-q"),
        ("mkswap", "-q"),
    ],
    ids=" ".join,
)
def test_a_file_system_on_the_whole_disk_is_no_table(command: tuple[str, ...]) -> None:
    with shown_to_tools(None, size=128 * MIB) as path:
        run_tool(*command, str(path))
        with path.open("rb") as volume:
            disk = volume.read(MIB)
    layout = read_layout(MemoryDisk(disk))
    assert (layout.scheme, layout.disk_id, layout.partitions, layout.notices) == ("none", "", (), ())
    assert layout.outside.size == MIB


def test_every_type_of_gpt_is_known_to_the_tools() -> None:
    known = {line.split()[0].upper() for line in run_tool("sfdisk", "-T", "--label", "gpt").splitlines() if line}
    made = make_disk(
        8 * MIB, sgdisk=("-n", "1:2048:+1M", "-t", "1:8308", "-n", "2:0:+1M", "-t", "2:8309")
    )  # encrypted types: sgdisk knows them, sfdisk does not
    known |= {part.type for part in read_layout(MemoryDisk(made)).partitions}
    assert set(_GPT_NAMES) <= known
    assert UNUSED_GUID not in _GPT_NAMES


def test_every_type_of_mbr_is_known_to_sfdisk() -> None:
    lines = [line.split() for line in run_tool("sfdisk", "-T", "--label", "dos").splitlines()]
    assert set(_MBR_NAMES) <= {words[0].upper().zfill(2) for words in lines if words}
