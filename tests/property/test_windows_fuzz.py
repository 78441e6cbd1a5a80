"""Whatever a driver answers, only our own errors come out."""

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe.errors import DiskFormatError
from stillframe.host.windows import answers
from stillframe.testing import windows_documented as documented

PARSERS: list[Callable[[bytes], object]] = [
    answers.parse_drive_layout,
    answers.parse_disk_extents,
    answers.parse_ntfs_volume,
    answers.parse_volume_bitmap,
    answers.parse_device_number,
    answers.parse_length,
    answers.parse_geometry,
    answers.parse_device_description,
]
GOOD = documented.gpt_layout(documented.GPT_ENTRIES, size=1 << 36)


def fuzz_windows(data: bytes) -> None:
    for parse in PARSERS:
        with contextlib.suppress(DiskFormatError):
            parse(data)


@given(st.binary(max_size=800))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    fuzz_windows(data)


@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=8))
def test_a_layout_with_other_bytes_is_parsed_or_refused(offset: int, noise: bytes) -> None:
    fuzz_windows((GOOD[:offset] + noise + GOOD[offset + len(noise) :])[: len(GOOD)])


@pytest.mark.parametrize("size", [0, 1, 47, 48, 4096])
def test_zeros_are_parsed_or_refused(size: int) -> None:
    fuzz_windows(bytes(size))
