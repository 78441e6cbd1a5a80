"""Tables made from nothing, as sfdisk and sgdisk see them: those of a disk that sfdisk made come out the same."""

from dataclasses import replace

import pytest

from stillframe.block import MemoryDisk
from stillframe.disk import read_layout
from stillframe.disk.new_table import build_table, gpt_sectors
from stillframe.errors import DiskFormatError
from stillframe.extents import Extent
from stillframe.testing.disks_partitioned import MIB, make_disk, patched, run_tool, see_table, shown_to_tools

GPT = """label: gpt
label-id: 0D4F3C2B-1A09-4877-8665-544332211000
start=1MiB, size=1M, type=uefi, name="EFI system partition"
size=1M, type=E3C9E316-0B5C-4DB8-817D-F92DF00215AE, attrs="GUID:63"
start=8MiB, size=4M, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7, name="Basic data: C\u00e4\u65e5\U0001f600"
size=2M, type=DE94BBA4-06D1-4D40-A16A-BFD50179D6AC, attrs="RequiredPartition GUID:63"
"""
MBR = """label: dos
label-id: 0x0a1b2c3d
start=1MiB, size=2M, type=7, bootable
start=4MiB, size=20M, type=f
start=5MiB, size=1M, type=27
start=7MiB, size=2M, type=7
start=12MiB, size=2M, type=c
"""


@pytest.mark.parametrize(
    ("script", "sector_size"), [(GPT, 512), (GPT, 4096), (MBR, 512), (MBR.partition("start=4")[0], 4096)]
)
def test_a_table_is_seen_as_that_of_the_disk_it_was_read_from(script: str, sector_size: int) -> None:
    disk = make_disk(32 * MIB, sfdisk=script, sector_size=sector_size)
    layout = read_layout(MemoryDisk(disk, sector_size=sector_size))
    made = patched(b"", build_table(layout), size=layout.size)
    with shown_to_tools(disk, sector_size=sector_size) as path:
        expected = see_table(path)
    with shown_to_tools(made, sector_size=sector_size) as path:
        assert see_table(path) == expected
        assert "No errors detected" in run_tool("sfdisk", "--verify", str(path))
        if layout.scheme == "gpt":
            assert "No problems found" in run_tool("sgdisk", "-v", str(path))
            first, last = run_tool("sgdisk", "-D", str(path)), gpt_sectors(sector_size)
            assert first
            assert last == ((34, 33) if sector_size == 512 else (6, 5))
    again = read_layout(MemoryDisk(made, sector_size=sector_size))
    assert again.partitions == layout.partitions
    assert again.notices == ()


def test_a_partition_where_the_table_belongs_is_refused() -> None:
    layout = read_layout(MemoryDisk(make_disk(32 * MIB, sfdisk=GPT)))
    first = layout.partitions[0]
    for extent in (Extent(512 * 33, MIB), Extent(31 * MIB, 32 * MIB), Extent(31 * MIB, 33 * MIB)):
        with pytest.raises(DiskFormatError, match=r"partition 1 .* belongs"):
            build_table(replace(layout, partitions=(replace(first, extent=extent),)))


def test_logical_partitions_without_room_for_their_records_are_refused() -> None:
    layout = read_layout(MemoryDisk(make_disk(32 * MIB, sfdisk=MBR)))
    primary, first, *rest = layout.partitions
    beside = replace(first, extent=first.extent.shifted(primary.extent.end - first.extent.start))
    with pytest.raises(DiskFormatError, match="no room for an extended partition"):
        build_table(replace(layout, partitions=(primary, beside, *rest)))
    near = replace(rest[0], extent=rest[0].extent.shifted(first.extent.end - rest[0].extent.start))
    with pytest.raises(DiskFormatError, match="no sector is free"):
        build_table(replace(layout, partitions=(primary, first, near, rest[1])))
