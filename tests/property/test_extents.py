"""Sets of extents obey the laws of sets: Python's own sets of integers are the oracle."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stillframe.extents import Extent, ExtentSet

TOP = 60
positions = st.integers(0, TOP)
extents = st.tuples(positions, positions).map(lambda pair: Extent(min(pair), max(pair)))
lists = st.lists(extents, max_size=8)


def members(found: ExtentSet) -> set[int]:
    return {byte for extent in found for byte in range(extent.start, extent.end)}


def bytes_of(many: list[Extent]) -> set[int]:
    return {byte for extent in many for byte in range(extent.start, extent.end)}


def check_form(found: ExtentSet) -> None:
    """Sorted, not touching, none empty, 64 bits."""
    assert found.starts.dtype == found.ends.dtype == np.int64
    assert (found.starts < found.ends).all()
    assert (found.starts[1:] > found.ends[:-1]).all()


@given(lists)
def test_union_of_extents(many: list[Extent]) -> None:
    found = ExtentSet.from_extents(many)
    check_form(found)
    assert members(found) == bytes_of(many)
    assert found.size == len(bytes_of(many))
    assert found == ExtentSet.from_extents(reversed(many))
    assert len(found) == len(list(found))


@given(lists, lists)
def test_arithmetic(one: list[Extent], other: list[Extent]) -> None:
    left, right = ExtentSet.from_extents(one), ExtentSet.from_extents(other)
    for found, expected in (
        (left | right, bytes_of(one) | bytes_of(other)),
        (left & right, bytes_of(one) & bytes_of(other)),
        (left - right, bytes_of(one) - bytes_of(other)),
    ):
        check_form(found)
        assert members(found) == expected


@given(lists, extents)
def test_complement_clip_and_contains(many: list[Extent], within: Extent) -> None:
    found = ExtentSet.from_extents(many)
    window = bytes_of([within])
    rest, inside = found.complement(within), found.clipped(within)
    check_form(rest)
    check_form(inside)
    assert members(rest) == window - bytes_of(many)
    assert members(inside) == window & bytes_of(many)
    assert found.contains(within) == (window <= bytes_of(many))


@given(lists, st.integers(1, 9))
def test_rounding_out_covers_and_is_aligned(many: list[Extent], step: int) -> None:
    found = ExtentSet.from_extents(many).rounded_out(step)
    check_form(found)
    blocks = {byte // step for byte in bytes_of(many)}
    assert members(found) == {block * step + i for block in blocks for i in range(step)}


@given(lists, st.integers(0, 1 << 40))
def test_shift(many: list[Extent], distance: int) -> None:
    found = ExtentSet.from_extents(many)
    moved = found.shifted(distance)
    check_form(moved)
    assert moved.shifted(-distance) == found
    assert [extent.shifted(distance) for extent in found] == list(moved)


@given(st.lists(st.booleans(), max_size=70), st.integers(1, 5), st.integers(0, 100))
def test_mask_and_bitmap(bits: list[bool], unit: int, base: int) -> None:
    expected = {base + i * unit + j for i, bit in enumerate(bits) if bit for j in range(unit)}
    by_mask = ExtentSet.from_mask(np.array(bits, bool), unit=unit, base=base)
    number = sum(1 << i for i, bit in enumerate(bits) if bit)
    bitmap = number.to_bytes(len(bits) // 8 + 2, "little")
    by_bitmap = ExtentSet.from_bitmap(bitmap, count=len(bits), unit=unit, base=base)
    check_form(by_mask)
    assert members(by_mask) == expected
    assert by_bitmap == by_mask


@given(extents, extents)
def test_clip_of_one_extent(one: Extent, within: Extent) -> None:
    clipped = one.clipped(within)
    both = bytes_of([one]) & bytes_of([within])
    assert (bytes_of([clipped]) if clipped is not None else set()) == both
