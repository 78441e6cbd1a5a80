"""Logical partitions in new places: the chain that is made anew, as sfdisk, fdisk and parted see it."""

import os
import random
import re
from collections.abc import Sequence
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stillframe.block import MemoryDisk
from stillframe.disk import (
    Flexibility,
    Layout,
    Placement,
    Wish,
    fit_partitions,
    fit_table,
    moved_layout,
    new_identity,
    read_layout,
    room_for_partitions,
)
from stillframe.disk.logical import move_chain
from stillframe.errors import DiskFormatError, TargetError
from stillframe.extents import Extent
from stillframe.testing.disks_partitioned import MIB, make_disk, patched, run_tool, see_table, shown_to_tools

SIZE = 64 * MIB
EXAMPLES = int(os.environ.get("STILLFRAME_EXAMPLES", "8"))
TABLE = """label: dos
label-id: 0x0a1b2c3d
start=1MiB, size=4M, type=7, bootable
start=6MiB, size=56M, type=f
start=8MiB, size=10M, type=83
start=20MiB, size=8M, type=82
start=30MiB, size=20M, type=7
"""
OLD = """label: dos
start=63, size=10000, type=7
start=10063, size=100000, type=5
start=10126, size=20000, type=83
start=30189, size=30000, type=83
"""
GROWS = Flexibility(smallest=2 * MIB, can_grow=True)


def fitted(
    source: bytes, size: int, sizes: dict[int, Wish] | None = None, moves: dict[int, int] | None = None
) -> tuple[bytes, tuple[Placement, ...]]:
    """A disk on a target of another size."""
    reader = MemoryDisk(source)
    layout = read_layout(reader)
    may = {part.number: GROWS for part in layout.partitions}
    found = fit_partitions(layout, room_for_partitions(layout, reader, size), may, sizes or {}, moves)
    moved = moved_layout(layout, {one.partition.number: one.place for one in found})
    return patched(source, fit_table(layout, reader, size, moved=moved), size=size), found


def judge(target: bytes, found: Sequence[Placement], source: bytes) -> None:
    """Three other tools read the table as it was meant, and everything but the places is as it was."""
    expected = sorted((one.partition.number, one.partition.type, one.place) for one in found)
    with shown_to_tools(source) as path:
        before = see_table(path)
    with shown_to_tools(target) as path:
        seen = see_table(path)
        assert "No errors detected" in run_tool("sfdisk", "--verify", str(path))
        parted = run_tool("parted", "--script", str(path), "unit", "B", "print")
        fdisk = run_tool("fdisk", "--bytes", "-l", str(path))
    assert (seen.label, seen.disk_id) == ("dos", before.disk_id)
    assert [(part.number, part.type, part.extent) for part in seen.partitions] == expected
    rows = re.findall(r"^ *(\d+) +(\d+)B +(\d+)B +\d+B +(primary|logical)", parted, re.MULTILINE)
    assert sorted((int(row[0]), Extent(int(row[1]), int(row[2]) + 1), row[3]) for row in rows) == [
        (number, place, "logical" if number > 4 else "primary") for number, _, place in expected
    ]
    starts = [int(start) * 512 for start in re.findall(r"^\S+disk\d+ [ *]+ (\d+)", fdisk, re.MULTILINE)]
    assert {place.start for _, _, place in expected} <= set(starts)
    again = read_layout(MemoryDisk(target))
    assert again.notices == ()
    assert [part.attributes for part in again.partitions] == [
        part.attributes for part in read_layout(MemoryDisk(source)).partitions
    ]


@pytest.mark.parametrize("size", [40 * MIB, 58 * MIB, SIZE, 100 * MIB + 512 * 7])
def test_a_chain_on_a_disk_of_another_size(size: int) -> None:
    source = make_disk(SIZE, sfdisk=TABLE)
    target, found = fitted(source, size)
    judge(target, found, source)
    assert max(one.place.end for one in found) <= size
    if size == SIZE:
        assert found[-1].place.size > 20 * MIB  # the largest takes the free rest of the extended partition
    else:
        assert any(one.is_resized for one in found)


def test_old_disks_have_gaps_of_63_sectors() -> None:
    source = make_disk(SIZE, sfdisk=OLD)
    for size, sizes in ((SIZE, {}), (28 * MIB, {}), (SIZE, {1: 12 * MIB})):
        target, found = fitted(source, size, sizes)  # type: ignore[arg-type]
        judge(target, found, source)


def test_the_extended_partition_is_shortened_where_only_its_free_end_does_not_fit() -> None:
    source = make_disk(SIZE, sfdisk=TABLE)
    target, found = fitted(source, 51 * MIB, dict.fromkeys((1, 5, 6, 7), "keep"))
    assert not any(one.is_moved or one.is_resized for one in found)
    judge(target, found, source)


def test_boot_code_of_the_first_record_goes_with_it_and_old_records_do_not_stay() -> None:
    source = bytearray(make_disk(SIZE, sfdisk=TABLE))
    code = random.Random(1).randbytes(446)
    source[6 * MIB : 6 * MIB + 446] = code
    target, found = fitted(bytes(source), SIZE, {7: "keep"}, {5: 9 * MIB})
    judge(target, found, bytes(source))
    first = next(one.place.start for one in found if one.partition.number == 5)
    assert target.count(code) == 1
    assert target.index(code) < first
    ends = [at for at in range(510, len(target), 512) if target[at : at + 2] == b"\x55\xaa"]
    assert sum(not any(one.place.start <= at < one.place.end for one in found) for at in ends) == 4  # of the table


def test_a_new_identity_has_the_chain_too() -> None:
    source = make_disk(SIZE, sfdisk=TABLE)
    reader = MemoryDisk(source)
    layout = read_layout(reader)
    places = {part.number: part.extent.shifted(0 if part.number == 1 else 4 * MIB) for part in layout.partitions}
    moved = moved_layout(layout, places)

    fresh = new_identity(layout, reader, SIZE, next_uuid=lambda: UUID(int=0xABCD1234), moved=moved)
    with shown_to_tools(patched(source, fresh.patches, size=SIZE)) as path:
        seen = see_table(path)
    assert seen.disk_id == "ABCD1234"
    assert [part.extent for part in seen.partitions] == [places[number] for number in (1, 5, 6, 7)]


def without(layout: Layout, *numbers: int) -> Layout:
    return moved_layout(layout, {part.number: part.extent for part in layout.partitions if part.number not in numbers})


def test_partitions_that_are_left_out_are_not_in_the_table() -> None:
    source = make_disk(SIZE, sfdisk=TABLE)
    reader = MemoryDisk(source)
    layout = read_layout(reader)
    for gone, left in (((1,), [5, 6, 7]), ((7,), [1, 5, 6]), ((5, 6, 7), [1])):
        target = patched(source, fit_table(layout, reader, SIZE, moved=without(layout, *gone)), size=SIZE)
        with shown_to_tools(target) as path:
            assert [part.number for part in see_table(path).partitions] == left
            text = run_tool("sfdisk", "--dump", str(path))
        assert ("type=f" in text) == (5 in left)
        assert read_layout(MemoryDisk(target)).partitions == without(layout, *gone).partitions
    with pytest.raises(ValueError, match="other numbers"):
        without(layout, 6)


def test_what_cannot_be_a_chain_is_refused() -> None:
    source = make_disk(SIZE, sfdisk=TABLE)
    layout = read_layout(MemoryDisk(source))
    places = {part.number: part.extent for part in layout.partitions}
    with pytest.raises(DiskFormatError, match="no sector is free"):
        moved_layout(layout, places | {6: Extent(18 * MIB, 20 * MIB)})
    with pytest.raises(DiskFormatError, match="primary partition 1 lies among"):
        moved_layout(layout, places | {1: Extent(28 * MIB, 29 * MIB)})
    may = {part.number: GROWS for part in layout.partitions}
    with pytest.raises(TargetError, match="partition 1 would lie among logical partitions"):
        fit_partitions(layout, Extent(MIB, 2 * SIZE), may, {}, {1: 18 * MIB})
    two = make_disk(SIZE, sfdisk=TABLE.partition("start=8")[0])
    entry = bytearray(two[446 + 16 : 446 + 32])
    entry[8:12] = (60 * MIB // 512).to_bytes(4, "little")
    twice = two[: 446 + 32] + bytes(entry) + two[446 + 48 :]
    reader = MemoryDisk(twice)
    with pytest.raises(DiskFormatError, match="two extended partitions"):
        move_chain(layout, reader, layout)


@st.composite
def scripts(draw: st.DrawFn) -> str:
    """A disk with up to three primary partitions and a chain behind, between or before them."""
    lines, at = ["label: dos"], draw(st.sampled_from([63, 2048]))
    before, after = draw(st.integers(0, 2)), draw(st.integers(0, 1))
    gap = draw(st.sampled_from([1, 63, 2048, 3000]))

    def primary() -> None:
        nonlocal at
        size = draw(st.integers(2000, 6000))
        lines.append(f"start={at}, size={size}, type=83")
        at += size + draw(st.sampled_from([0, 0, 1, 2048]))

    for _ in range(before):
        primary()
    inner, first = list[str](), at
    for _ in range(draw(st.integers(1, 5))):
        size = draw(st.integers(500, 4000))
        inner.append(f"start={at + gap}, size={size}, type={draw(st.sampled_from(['83', '82', '7']))}")
        at += gap + size
    lines.append(f"start={first}, size={at - first}, type={draw(st.sampled_from(['5', 'f', '85']))}")
    for _ in range(after):
        primary()
    return "\n".join([*lines, *inner]) + "\n"


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scripts(), st.integers(-20000, 40000), st.integers(500, 2000))
def test_random_layouts_come_back_as_they_were_meant(script: str, more: int, least: int) -> None:
    source = make_disk(SIZE // 2, sfdisk=script)
    reader = MemoryDisk(source)
    layout = read_layout(reader)
    size = max(part.extent.end for part in layout.partitions) + more * 512
    may = {part.number: Flexibility(smallest=least * 512, can_grow=True) for part in layout.partitions}
    try:
        found = fit_partitions(layout, room_for_partitions(layout, reader, size), may, {})
    except TargetError:
        assert more < 0
        return
    moved = moved_layout(layout, {one.partition.number: one.place for one in found})
    judge(patched(source, fit_table(layout, reader, size, moved=moved), size=size), found, source)
