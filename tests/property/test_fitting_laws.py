"""Laws of fitting partitions to a disk: inside, apart, in order, never smaller than they need."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillframe.disk import Flexibility, Layout, Partition, Placement, fit_partitions
from stillframe.disk.fitting import ALIGNMENT
from stillframe.errors import TargetError, UsageError
from stillframe.extents import Extent, ExtentSet

MIB = 1 << 20
STEP = 512


def layout_of(*places: tuple[int, int], size: int = 0) -> Layout:
    """A disk with partitions at these starts with these sizes, in bytes."""
    parts = tuple(
        Partition(
            number=number, extent=Extent(start, start + length), type="", type_name="", name="", guid="", attributes=0,
            index=number - 1, logical=False,
        )
        for number, (start, length) in enumerate(places, 1)
    )  # fmt: skip
    return Layout(
        scheme="gpt", disk_id="", size=size or parts[-1].extent.end + MIB, sector_size=STEP, partitions=parts,
        notices=(), table=ExtentSet.empty(),
    )  # fmt: skip


@st.composite
def disks(draw: st.DrawFn) -> tuple[Layout, dict[int, Flexibility]]:
    places, end = [], MIB + draw(st.integers(0, 4000)) * STEP
    flexibility = {}
    for number in range(1, draw(st.integers(1, 6)) + 1):
        size = draw(st.integers(1, 400_000)) * STEP
        places.append((end, size))
        end += size + draw(st.integers(0, 5000)) * STEP
        least = draw(st.one_of(st.just(size), st.integers(1, size // STEP).map(lambda n: n * STEP)))
        can_move = number == 1 or draw(st.integers(0, 9)) > 0
        flexibility[number] = Flexibility(smallest=least, can_grow=draw(st.booleans()), can_move=can_move)
    return layout_of(*places), flexibility


def require_lawful(found: tuple[Placement, ...], layout: Layout, room: Extent, may: dict[int, Flexibility]) -> None:
    assert [one.partition.number for one in found] == [part.number for part in layout.partitions]
    assert all(before.place.end <= after.place.start for before, after in pairwise(found))
    for one in found:
        flexible = may[one.partition.number]
        assert room.start <= one.place.start
        assert one.place.end <= room.end
        assert one.place.start % STEP == one.place.size % STEP == 0
        assert one.place.size >= min(flexible.smallest, one.partition.extent.size)
        assert one.place.size <= one.partition.extent.size or flexible.can_grow
        if one.is_moved:
            assert flexible.can_move
            assert one.place.start % ALIGNMENT == 0


@settings(max_examples=400, deadline=None)
@given(disks(), st.integers(-400_000, 800_000))
def test_what_comes_out_is_lawful_or_refused(disk: tuple[Layout, dict[int, Flexibility]], more: int) -> None:
    layout, may = disk
    end = layout.partitions[-1].extent.end
    room = Extent(layout.partitions[0].extent.start, max(layout.partitions[0].extent.start, end + more * STEP))
    try:
        found = fit_partitions(layout, room, may, {})
    except TargetError:
        assert more < 0
        return
    require_lawful(found, layout, room, may)
    if more >= 0:
        assert all(one.place.size >= one.partition.extent.size for one in found)
        assert sum(one.is_resized for one in found) <= 1
    if more == 0:
        assert not any(one.is_moved or one.is_resized for one in found)


@settings(max_examples=200, deadline=None)
@given(disks(), st.integers(0, 800_000), st.data())
def test_wishes_are_kept_or_refused(
    disk: tuple[Layout, dict[int, Flexibility]], more: int, data: st.DataObject
) -> None:
    layout, may = disk
    room = Extent(layout.partitions[0].extent.start, layout.partitions[-1].extent.end + more * STEP)
    number = data.draw(st.sampled_from(sorted(may)))
    size = data.draw(st.integers(1, 500_000)) * STEP
    try:
        found = fit_partitions(layout, room, may, {number: size})
    except (TargetError, UsageError):
        return
    require_lawful(found, layout, room, may)
    assert found[number - 1].place.size == size


GROWS = Flexibility(smallest=10 * MIB, can_grow=True)
STAYS = Flexibility(smallest=10 * MIB)


def sizes(found: tuple[Placement, ...]) -> list[float]:
    return [one.place.size / MIB for one in found]


def test_the_largest_that_can_takes_what_is_left() -> None:
    layout = layout_of((MIB, 10 * MIB), (11 * MIB, 50 * MIB), (61 * MIB, 10 * MIB))
    found = fit_partitions(layout, Extent(MIB, 171 * MIB), {1: GROWS, 2: GROWS, 3: STAYS}, {})
    assert sizes(found) == [10, 150, 10]
    assert [one.is_moved for one in found] == [False, False, True]
    assert sizes(fit_partitions(layout, Extent(MIB, 171 * MIB), {1: GROWS, 2: GROWS, 3: STAYS}, {1: "max"})) == [
        110, 50, 10,
    ]  # fmt: skip
    still = Flexibility(smallest=10 * MIB, can_move=False)
    assert sizes(fit_partitions(layout, Extent(MIB, 171 * MIB), {1: GROWS, 2: GROWS, 3: still}, {})) == [10, 50, 10]


def test_the_last_shrinks_alone_where_that_is_enough() -> None:
    layout = layout_of((MIB, 50 * MIB), (60 * MIB, 50 * MIB))
    found = fit_partitions(layout, Extent(MIB, 80 * MIB), {1: GROWS, 2: GROWS}, {})
    assert sizes(found) == [50, 20]
    assert not any(one.is_moved for one in found)


def test_all_give_their_share_and_gaps_are_closed() -> None:
    layout = layout_of((MIB, 50 * MIB), (60 * MIB, 110 * MIB), (180 * MIB, 10 * MIB))
    found = fit_partitions(layout, Extent(MIB, 101 * MIB), {1: GROWS, 2: GROWS, 3: STAYS}, {})
    assert sum(sizes(found)) == 100
    assert sizes(found)[2] == 10
    assert 25 < sizes(found)[0] <= 30


def test_what_does_not_fit_is_said_with_what_is_missing() -> None:
    layout = layout_of((MIB, 50 * MIB), (60 * MIB, 50 * MIB))
    with pytest.raises(TargetError, match=r"need 5\.24 MB more than there is: partition 1 10\.5 MB, partition 2"):
        fit_partitions(layout, Extent(MIB, 16 * MIB), {1: GROWS, 2: GROWS}, {})
    with pytest.raises(UsageError, match="there is no partition 7"):
        fit_partitions(layout, Extent(MIB, 200 * MIB), {1: GROWS, 2: GROWS}, {7: "max"})
    with pytest.raises(UsageError, match="cannot be made larger"):
        fit_partitions(layout, Extent(MIB, 200 * MIB), {1: STAYS, 2: GROWS}, {1: "max"})
    with pytest.raises(UsageError, match="only one"):
        fit_partitions(layout, Extent(MIB, 200 * MIB), {1: GROWS, 2: GROWS}, {1: "max", 2: "max"})
