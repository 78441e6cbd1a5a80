"""Sizes and times as people read them. Expected values follow from the definition of each unit (SI; powers of 1024)."""

import pytest

from stillframe.units import align_down, align_up, format_count, format_duration, format_rate, format_size, parse_size


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (1234, "1.23 kB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (123_456_789, "123 MB"),
        (500_107_862_016, "500 GB"),
        (2_000_398_934_016, "2 TB"),
        (1 << 63, "9223 PB"),
        (-5000, "-5 kB"),
    ],
)
def test_size_in_words(size: int, words: str) -> None:
    assert format_size(size) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (0.44, "0.4 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_duration_in_words(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words


def test_rate_in_words() -> None:
    assert format_rate(812_000_000, 1) == "812 MB/s"
    assert format_rate(5, 0) == "-"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("512", 512),
        ("4k", 4096),
        ("20G", 20 * 2**30),
        (" 1.5 TiB ", 3 * 2**39),
        ("512MB", 512 * 2**20),
        ("100b", 100),
        ("9007199254740993", 9007199254740993),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_size_is_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "G",
        "-1",
        "1e5",
        "nan",
        "inf",
        "infk",
        "1_000",
        "12Q",
        "1.2.3",
        "8388608T",
        "9223372036854775808",
        "9" * 30,
        "٣",
    ],
)
def test_no_size_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


def test_alignment() -> None:
    for step in (1, 512, 4096, 3):
        for value in (0, 1, 511, 512, 513, 4095, 4096, 4097):
            down, up = align_down(value, step), align_up(value, step)
            assert down <= value <= up
            assert (down % step, up % step) == (0, 0)
            assert up - down == (0 if value % step == 0 else step)


def test_a_count_agrees_with_its_noun() -> None:
    assert format_count(0, "image") == "0 images"
    assert format_count(1, "image") == "1 image"
    assert format_count(2, "image") == "2 images"
