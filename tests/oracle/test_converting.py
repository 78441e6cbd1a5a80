"""Disks under the other kind of table, as sfdisk, sgdisk and parted see them."""

import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from stillframe.block import MemoryDisk
from stillframe.disk import Flexibility, Layout, fit_partitions, read_layout
from stillframe.disk.converting import StartsBy, draft_conversion, finish_conversion, place_for_grub, room_of
from stillframe.disk.new_table import build_table
from stillframe.disk.other_scheme import BIOS_BOOT_GUID, ESP_GUID
from stillframe.errors import TargetError
from stillframe.extents import Extent
from stillframe.testing.disks_partitioned import (
    MIB,
    SeenTable,
    make_disk,
    patched,
    run_tool,
    see_table,
    shown_to_tools,
)

MBR = """label: dos
label-id: 0x0a1b2c3d
start=2048, size=10M, type=83, bootable
start=22528, size=4M, type=7
start=32768, size=12M, type=f
start=34816, size=2M, type=82
start=40960, size=2M, type=8e
start=49152, size=2M, type=fd
"""
GPT = """label: gpt
label-id: 0D4F3C2B-1A09-4877-8665-544332211000
start=2048, size=10M, type=uefi, name="EFI"
size=2M, type=E3C9E316-0B5C-4DB8-817D-F92DF00215AE
size=5M, type=linux, name="root"
size=3M, type=swap
size=2M, type=DE94BBA4-06D1-4D40-A16A-BFD50179D6AC, attrs="RequiredPartition GUID:63"
size=4M, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7
"""
SIZE = 96 * MIB
ESP = 64 * MIB


def convert(
    disk: bytes, starts_by: StartsBy, *, size: int = SIZE, sector_size: int = 512, boot: int | None = None
) -> tuple[Layout, Layout, bytes]:
    """The layout of a disk, its layout converted with nothing that can shrink, and a disk with that table."""
    layout = read_layout(MemoryDisk(disk, sector_size=sector_size))
    draft = draft_conversion(layout, starts_by, boot=boot, esp_size=ESP if sector_size == 512 else None)
    may = {part.number: Flexibility(smallest=part.extent.size) for part in draft.layout.partitions}
    found = fit_partitions(draft.layout, room_of(draft, size), may, {})
    places = {one.partition.number: one.place for one in found}
    after = finish_conversion(draft, places, size, next_uuid=uuid.uuid4)
    return layout, after, patched(b"", build_table(after), size=size)


def seen(disk: bytes, *, sector_size: int = 512) -> SeenTable:
    """What sfdisk sees, when no tool finds fault with the table."""
    with shown_to_tools(disk, sector_size=sector_size) as path:
        assert "No errors detected" in run_tool("sfdisk", "--verify", str(path))
        table = see_table(path)
        if table.label == "gpt":
            assert "No problems found" in run_tool("sgdisk", "-v", str(path))
        shown = run_tool("parted", "-s", "-m", str(path), "unit", "B", "print")
        rows = [row.split(":") for row in shown.splitlines() if row[:1].isdigit()]
        places = {int(row[0]): (int(row[1][:-1]), int(row[2][:-1]) + 1) for row in rows}
        for part in table.partitions:
            assert places[part.number] == (part.extent.start, part.extent.end)
    return table


def test_an_mbr_becomes_a_gpt_for_uefi() -> None:
    before, after, disk = convert(make_disk(SIZE, sfdisk=MBR), "uefi")
    table = seen(disk)
    assert table.label == "gpt"
    assert [part.number for part in table.partitions] == [1, 2, 5, 6, 7, 8]
    assert {part.number: part.extent for part in table.partitions if part.number < 8} == {
        part.number: part.extent for part in before.partitions
    }
    esp = table.partitions[-1]
    assert (esp.type, esp.extent.size, esp.name) == (ESP_GUID, ESP, "EFI system partition")
    assert esp.extent.start % MIB == 0
    assert read_layout(MemoryDisk(disk)).partitions == after.partitions
    ids = {table.disk_id, *(part.guid for part in table.partitions)}
    assert len(ids) == 1 + len(table.partitions)
    assert disk[440:446] == bytes(6), "UEFI Specification 2.10, table 5.3: no signature in a protective MBR"


def test_types_are_those_that_sgdisk_gives(tmp_path: Path) -> None:
    script = "label: dos\nlabel-id: 0x0a1b2c3d\nstart=2048, size=1M, type=83\nstart=6144, size=90M, type=f\n"
    kinds = ["82", "7", "b", "c", "27", "8e", "fd", "ef", "83", "1", "4", "6", "e", "af", "a5"]
    script += "".join(f"start={8192 + 4096 * place}, size=1M, type={kind}\n" for place, kind in enumerate(kinds))
    source = make_disk(128 * MIB, sfdisk=script)
    path = tmp_path / "disk"
    path.write_bytes(source)
    run_tool("sgdisk", "--mbrtogpt", str(path))
    # sgdisk numbers logical partitions from 5 on too; FreeBSD's it calls a disklabel and takes apart.
    theirs = {part.number: part.type for part in see_table(path).partitions}
    layout = read_layout(MemoryDisk(source))
    without_esp = replace(layout, partitions=tuple(part for part in layout.partitions if part.type not in ("EF", "A5")))
    draft = draft_conversion(without_esp, "uefi")
    ours = {part.number: part.type for part in draft.layout.partitions}
    assert ours == {number: theirs[number] for number in ours}
    assert len(ours) == 14


def test_a_gpt_becomes_an_mbr_for_a_bios() -> None:
    before, after, disk = convert(make_disk(SIZE, sfdisk=GPT), "bios-mbr", boot=3)
    table = seen(disk)
    assert table.label == "dos"
    assert table.disk_id == after.disk_id != before.disk_id
    # The reserved partition of Microsoft is only in a GPT. Of five, the first three on the disk are primary.
    assert [(part.number, part.type) for part in table.partitions] == [
        (1, "EF"),
        (3, "83"),
        (4, "82"),
        (5, "27"),
        (6, "07"),
    ]
    sizes = {part.number: part.extent.size for part in before.partitions}
    assert [part.extent.size for part in table.partitions] == [sizes[number] for number in (1, 3, 4, 5, 6)]
    with shown_to_tools(disk) as path:
        active = [line for line in run_tool("sfdisk", "-d", str(path)).splitlines() if "bootable" in line]
    assert len(active) == 1
    assert "type=83" in active[0]
    assert read_layout(MemoryDisk(disk)).partitions == after.partitions
    assert place_for_grub(after) == Extent(512, MIB)


def test_four_partitions_are_primary_and_keep_their_numbers() -> None:
    script = GPT.partition("size=2M, type=DE94")[0].replace("E3C9E316-0B5C-4DB8-817D-F92DF00215AE", "linux")
    before, _, disk = convert(make_disk(SIZE, sfdisk=script), "bios-mbr", boot=3)
    table = seen(disk)
    assert [part.number for part in table.partitions] == [1, 2, 3, 4]
    assert [part.extent for part in table.partitions] == [part.extent for part in before.partitions]


@pytest.mark.parametrize("script", [GPT, MBR])
def test_a_gpt_for_a_bios_has_grub_in_the_gap_before_its_first_partition(script: str) -> None:
    before, after, disk = convert(make_disk(SIZE, sfdisk=script), "bios")
    table = seen(disk)
    assert table.label == "gpt"
    boot = table.partitions[-1]
    assert boot.type == BIOS_BOOT_GUID
    assert boot.extent == Extent(20480, MIB)
    assert place_for_grub(after) == boot.extent
    assert [part.extent for part in table.partitions[:-1]] == [part.extent for part in before.partitions]
    if before.scheme == "gpt":
        assert table.disk_id == before.disk_id
        assert [part.guid for part in table.partitions[:-1]] == [part.guid for part in before.partitions]


@pytest.mark.parametrize(("start", "starts_by"), [(1, "uefi"), (33, "uefi"), (63, "bios-mbr"), (63, "bios")])
def test_what_lies_where_the_new_table_or_grub_belongs_is_moved(start: int, starts_by: StartsBy) -> None:
    label = "dos" if starts_by != "bios-mbr" else "gpt\nfirst-lba: 34"
    kind = "83" if label == "dos" else "linux"
    script = f"label: {label}\nstart={start}, size=4M, type={kind}\nstart=16384, size=4M, type={kind}\n"
    before, after, disk = convert(make_disk(SIZE, sfdisk=script), starts_by)
    first, second = after.partitions[:2]
    if starts_by == "bios":  # 63 sectors are room for a GPT, and not for GRUB, which gets a place behind the last
        assert first.extent == before.partitions[0].extent
        assert after.partitions[2].extent == Extent(second.extent.end, second.extent.end + MIB)
    else:
        assert first.extent.start == MIB
        assert first.extent.size == before.partitions[0].extent.size
    assert second.extent == before.partitions[1].extent
    assert [part.extent for part in seen(disk).partitions] == [part.extent for part in after.partitions]


def test_sectors_of_4_kib() -> None:
    script = "label: dos\nlabel-id: 0x1\nstart=256, size=4M, type=83\n"
    disk = make_disk(328 * MIB, sfdisk=script, sector_size=4096)
    _, _, made = convert(disk, "uefi", size=328 * MIB, sector_size=4096)
    table = seen(made, sector_size=4096)
    assert table.partitions[-1].extent.size == 320 * MIB
    with pytest.raises(TargetError, match="sectors of 512 bytes, and these are 4096"):
        convert(disk, "bios", sector_size=4096)


def test_what_cannot_be_is_refused() -> None:
    mbr, gpt = (read_layout(MemoryDisk(make_disk(SIZE, sfdisk=script))) for script in (MBR, GPT))
    with pytest.raises(TargetError, match="partition 1 is an EFI system partition"):
        draft_conversion(gpt, "uefi")
    with pytest.raises(TargetError, match="has an MBR already"):
        draft_conversion(mbr, "bios-mbr")
    with pytest.raises(TargetError, match=r"system partition of 33\.6 MB is too small"):
        draft_conversion(mbr, "uefi", esp_size=32 * MIB)
    assert draft_conversion(mbr, "uefi").new[0].size == 256 * MIB
    dynamic = make_disk(SIZE, sfdisk="label: dos\nstart=2048, size=20M, type=42\n")
    with pytest.raises(TargetError, match="Windows dynamic disk"):
        draft_conversion(read_layout(MemoryDisk(dynamic)), "uefi")
    with pytest.raises(TargetError, match="no partition table"):
        draft_conversion(replace(gpt, scheme="none", partitions=()), "uefi")


def test_no_partition_of_an_mbr_lies_behind_two_tebibytes() -> None:
    tib = 1 << 40
    layout = read_layout(MemoryDisk(make_disk(SIZE, sfdisk=GPT)))
    last = layout.partitions[-1]
    far = replace(last, extent=last.extent.shifted(3 * tib))
    draft = draft_conversion(replace(layout, size=4 * tib, partitions=(*layout.partitions[:-1], far)), "bios-mbr")
    room = room_of(draft, 4 * tib)
    assert room.end == 2 * tib - 512
    may = {part.number: Flexibility(smallest=part.extent.size) for part in draft.layout.partitions}
    found = fit_partitions(draft.layout, room, may, {})
    assert max(one.place.end for one in found) <= room.end
    huge = replace(last, extent=Extent(last.extent.start, 3 * tib))
    draft = draft_conversion(replace(layout, size=4 * tib, partitions=(*layout.partitions[:-1], huge)), "bios-mbr")
    may = {part.number: Flexibility(smallest=part.extent.size) for part in draft.layout.partitions}
    with pytest.raises(TargetError, match="more than there is"):
        fit_partitions(draft.layout, room_of(draft, 4 * tib), may, {})


def test_a_type_that_the_other_table_does_not_know_is_said() -> None:
    disk = make_disk(SIZE, sfdisk="label: dos\nlabel-id: 0x1\nstart=2048, size=20M, type=eb\n")
    draft = draft_conversion(read_layout(MemoryDisk(disk)), "uefi")
    assert "partition 1 has a type that the other table does not know (EB)" in draft.notes[0]
