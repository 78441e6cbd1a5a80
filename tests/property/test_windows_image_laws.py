"""Laws of disks put together from volumes: nothing overlaps or shrinks, what is known is kept, tables are read."""

import contextlib
from itertools import pairwise
from xml.parsers.expat import ExpatError

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stillframe.block import AssembledReader, MemoryDisk, Piece
from stillframe.block.formats.mapped import MappedDisk, ZeroMap
from stillframe.capture.foreign.windows_image_folder import parse_specs
from stillframe.capture.foreign.windows_image_layout import ROLES, FoundVolume, PlannedDisk, plan_disks
from stillframe.disk.layout import Layout, read_layout
from stillframe.disk.new_table import build_table
from stillframe.errors import DiskFormatError
from stillframe.extents import Extent
from stillframe.systems.windows_disks import (
    PartitionRecord,
    parse_boot_device,
    parse_mounted_device,
    parse_volume_guid,
)

MIB = 1 << 20
STEPS = (512, 4096)
GUIDS = [f"{n:08X}-1111-4222-8333-444455556666" for n in range(6)]

starts = st.one_of(
    st.none(),
    st.integers(0, 64).map(lambda n: n * MIB),
    st.integers(0, 1 << 20).map(lambda n: n * 512),
    st.integers(0, 1 << 42),
)
records = st.one_of(
    st.none(),
    st.builds(
        lambda disk, guid: PartitionRecord(scheme="gpt", disk=disk, guid=guid),
        st.sampled_from(["", *GUIDS[:2]]), st.sampled_from(GUIDS),
    ),
    st.builds(
        lambda disk, start: PartitionRecord(scheme="mbr", disk=f"{disk:08X}", start=start),
        st.integers(1, 2), starts,
    ),
)  # fmt: skip


@st.composite
def volumes(draw: st.DrawFn) -> list[FoundVolume]:
    step = draw(st.sampled_from(STEPS))
    return [
        FoundVolume(
            name=f"volume {number}", guid=draw(st.sampled_from(["", f"{number:08x}-1111-4222-8333-444455556666"])),
            size=draw(st.one_of(st.integers(1, 1 << 16), st.just(200 << 21), st.just(16 << 11))) * 512,
            sector_size=step, filesystem=draw(st.sampled_from(["ntfs", "vfat", ""])),
            role=draw(st.sampled_from(ROLES)), starts_bios=draw(st.booleans()), record=draw(records),
            boot_start=draw(starts),
        )
        for number in range(draw(st.integers(1, 7)))
    ]  # fmt: skip


def shown(disk: PlannedDisk) -> AssembledReader:
    layout = disk.layout
    empty = MappedDisk(ZeroMap(), size=layout.size, sector_size=layout.sector_size)
    patches = build_table(layout)
    return AssembledReader(
        empty,
        [Piece(start=one.offset, reader=MemoryDisk(one.data, sector_size=layout.sector_size)) for one in patches],
    )


def known_starts(volume: FoundVolume) -> list[int]:
    """Where a volume may be said to have been, the surest first."""
    told = [volume.record.start if volume.record else None, volume.boot_start]
    return [start for start in told if start is not None]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(volumes())
def test_disks_are_lawful_and_their_tables_are_read_again(found: list[FoundVolume]) -> None:
    try:
        disks = plan_disks(found)
    except DiskFormatError:
        return  # an MBR has no room, or no place for logical partitions
    assert sorted(volume.name for disk in disks for _, volume in disk.places) == sorted(one.name for one in found)
    for disk in disks:
        require_lawful(disk)


def require_lawful(disk: PlannedDisk) -> None:
    layout = disk.layout
    extents = sorted(part.extent for part in layout.partitions)
    assert all(before.end <= after.start for before, after in pairwise(extents))
    assert extents[0].start > 0
    assert extents[-1].end <= layout.size
    for start, volume in disk.places:
        (extent,) = (one for one in extents if one.start == start)
        assert 0 <= extent.size - volume.size < layout.sector_size
    assert len({part.guid for part in layout.partitions if part.guid}) in {0, len(extents)}
    read = read_layout(shown(disk))
    assert without_table(read) == without_table(layout)
    assert disk.notices[0].message.startswith("layout guessed: ")


def without_table(layout: Layout) -> tuple[object, ...]:
    return (
        layout.scheme, layout.disk_id, layout.size, layout.sector_size,
        sorted(layout.partitions, key=lambda one: one.number), layout.notices,
    )  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 40)), min_size=1, max_size=4),
    st.sampled_from(["gpt", "mbr", "boot"]), st.randoms(use_true_random=False),
)  # fmt: skip
@example([(1, 36), (16, 24), (1, 8)], "gpt", None)
def test_places_that_agree_are_kept(gaps: list[tuple[int, int]], kind: str, order: object) -> None:
    found, start = list[FoundVolume](), 0
    for number, (gap, size) in enumerate(gaps):
        start += gap * MIB
        place = PartitionRecord(scheme="mbr", disk="00C0FFEE", start=start)
        if kind == "gpt":
            place = PartitionRecord(scheme="gpt", disk=GUIDS[0], guid=GUIDS[number + 1])
        found.append(FoundVolume(
            name=f"{number}", guid="", size=size * MIB, role="windows" if number == 1 else "data",
            record=None if kind == "boot" else place, boot_start=start if kind != "mbr" else 5 * 512,
        ))  # fmt: skip
        start += size * MIB
    given_order = found[::-1] if order is not None else found
    (disk,) = plan_disks(given_order)
    places = {volume.name: place for place, volume in disk.places}
    assert places == {one.name: known_starts(one)[0] for one in found}
    if kind == "gpt":
        guids = {part.extent.start: part.guid for part in disk.layout.partitions}
        assert all(guids[place] == volume.record.guid for place, volume in disk.places if volume.record)
    if kind == "mbr":
        assert disk.layout.disk_id == "00C0FFEE"
        assert "boot sector" not in disk.notices[0].message


@pytest.mark.parametrize(
    ("gap", "reserved"), [(16, (101, 16)), (128, (101, 128)), (40, (101, 16)), (15, None), (0, None)]
)
def test_what_windows_reserves_lies_before_it(gap: int, reserved: tuple[int, int] | None) -> None:
    esp = FoundVolume(name="esp", guid="", size=100 * MIB, role="esp", boot_start=MIB)
    windows = FoundVolume(name="C:", guid="", size=MIB, role="windows", boot_start=(101 + gap) * MIB)
    data = FoundVolume(name="D:", guid="", size=MIB, boot_start=1000 * MIB)  # a larger gap is before it
    (disk,) = plan_disks([data, windows, esp])
    kind = "E3C9E316-0B5C-4DB8-817D-F92DF00215AE"
    found = [part.extent for part in disk.layout.partitions if part.type == kind]
    behind = Extent((102 + gap) * MIB, (118 + gap) * MIB)
    expected = Extent(reserved[0] * MIB, sum(reserved) * MIB) if reserved else behind
    assert found == [expected]


def test_sectors_of_two_sizes_are_not_put_on_one_disk() -> None:
    one, other = (FoundVolume(name=str(step), guid="", size=MIB, sector_size=step) for step in STEPS)
    with pytest.raises(DiskFormatError, match="sectors of 512 and 4096 bytes"):
        plan_disks([one, other])


@given(st.integers(1, (1 << 32) - 1), st.integers(1, (1 << 32) - 1))
def test_a_volume_that_is_named_by_its_place(signature: int, sector: int) -> None:
    words = (sector * 512).to_bytes(8, "little").hex()
    found = parse_volume_guid(f"{signature:08x}-0000-0000-{words[:4]}-{words[4:]}")
    assert found == PartitionRecord(scheme="mbr", disk=f"{signature:08X}", start=sector * 512)
    assert parse_volume_guid(f"{signature:08x}-0000-4000-{words[:4]}-{words[4:]}") is None


def fuzz_windows_image(data: bytes) -> None:
    """Any bytes as a list of volumes, or as a record of a place: an answer, or the errors that are caught."""
    parse_mounted_device(data)
    for record in parse_boot_device(data):
        assert record.start is None or Extent(0, record.start).size % 512 == 0
    with contextlib.suppress(ValueError, ExpatError):
        assert all(len(one.guid) == 36 for one in parse_specs(data))


@given(st.binary(max_size=400))
@example(b"<BackupSpecs/>")
@example(bytes(16) + bytes([6, 0, 0, 0, 0, 0, 0, 0, 0x48]) + bytes(7) + bytes(64))
def test_any_bytes_end_in_an_answer_or_an_error_that_is_caught(data: bytes) -> None:
    fuzz_windows_image(data)
