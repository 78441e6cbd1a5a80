"""Byte ranges: what is refused, and edges that the laws (tests/property/test_extents.py) do not draw often enough."""

import numpy as np
import pytest

from stillframe.extents import Extent, ExtentSet


def test_extent_knows_its_size_and_moves() -> None:
    extent = Extent(512, 4096)
    assert extent.size == 3584
    assert extent.shifted(88) == Extent(600, 4184)
    assert extent.clipped(Extent(4096, 8192)) is None
    assert extent.clipped(Extent(0, 600)) == Extent(512, 600)


@pytest.mark.parametrize(("start", "end"), [(-1, 5), (6, 5), (-2, -1)])
def test_no_extent(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="not an extent"):
        Extent(start, end)


def test_touching_extents_become_one() -> None:
    assert list(ExtentSet.of(Extent(5, 9), Extent(0, 5), Extent(3, 3))) == [Extent(0, 9)]


def test_empty_window_inside_an_extent_is_empty() -> None:
    window = ExtentSet.of(Extent(0, 10)).clipped(Extent(5, 5))
    assert len(window) == 0
    assert window == ExtentSet.empty()


def test_clipping_leaves_the_original_alone() -> None:
    whole = ExtentSet.of(Extent(0, 10), Extent(20, 30))
    whole.clipped(Extent(5, 25))
    assert list(whole) == [Extent(0, 10), Extent(20, 30)]


def test_bitmap_counts_bits_from_the_least_significant() -> None:
    assert list(ExtentSet.from_bitmap(b"\x05\x80", count=16, unit=4096, base=100)) == [
        Extent(100, 4196),
        Extent(100 + 2 * 4096, 100 + 3 * 4096),
        Extent(100 + 15 * 4096, 100 + 16 * 4096),
    ]


def test_bits_beyond_the_count_mean_nothing() -> None:
    assert ExtentSet.from_bitmap(b"\xff", count=3, unit=1).size == 3
    assert ExtentSet.from_bitmap(b"", count=0, unit=1) == ExtentSet.empty()


def test_short_bitmap_is_refused() -> None:
    with pytest.raises(ValueError, match="too short for 9 units"):
        ExtentSet.from_bitmap(b"\xff", count=9, unit=1)


def test_large_offsets_do_not_overflow() -> None:
    far = Extent((1 << 62) - 4096, 1 << 62)
    found = ExtentSet.of(far) | ExtentSet.of(Extent(0, 1))
    assert list(found.rounded_out(4096)) == [Extent(0, 4096), far]
    assert found.size == 4097


def test_words() -> None:
    assert repr(ExtentSet.of(Extent(1, 2))) == "ExtentSet([1, 2); 1 bytes)"
    many = ExtentSet.from_mask(np.array([True, False] * 9), unit=1)
    assert repr(many).endswith(", ...; 9 bytes)")


def test_sets_are_not_hashable_and_differ_from_other_things() -> None:
    with pytest.raises(TypeError):
        hash(ExtentSet.empty())
    assert ExtentSet.empty() != 3
