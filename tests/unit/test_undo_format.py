"""The file that takes a boot repair back, as bytes: what is written is read, and what cannot be is refused."""

import hashlib

import pytest

from stillframe.errors import DamagedError, UnsupportedFormat
from stillframe.extents import Extent, ExtentSet
from stillframe.jobs.mending.undo_format import (
    HEAD,
    MAGIC,
    RECORD_SIZE_MAX,
    VERSION,
    UndoRecord,
    build_head,
    parse_head,
    parse_undo_record,
)

SIZE = 1 << 20


def record(*ranges: tuple[int, int]) -> UndoRecord:
    return UndoRecord(
        created="2026-11-27T10:00:00Z", path="/dev/sda", model="M", serial="S", size=SIZE, sector_size=512,
        ranges=ranges, changes=("GRUB was installed for a BIOS",),
    )  # fmt: skip


def read(raw: bytes) -> UndoRecord:
    size = parse_head(raw[: HEAD.size], thing="f.undo")
    return parse_undo_record(raw[: HEAD.size], raw[HEAD.size : HEAD.size + size], thing="f.undo")


def test_what_is_written_is_read() -> None:
    made = record((0, 512), (4096, 8192), (SIZE - 512, SIZE))
    assert read(build_head(made)) == made
    assert made.extents == ExtentSet.of(Extent(0, 512), Extent(4096, 8192), Extent(SIZE - 512, SIZE))


def test_the_layout_is_that_of_the_specification() -> None:
    raw = build_head(record((0, 512)))
    assert raw[:8] == b"SFUNDO\r\n" == MAGIC
    assert raw[8:12] == b"\1\0\0\0"
    size = int.from_bytes(raw[12:16], "little")
    assert len(raw) == 32 + size
    assert raw[16:32] == hashlib.blake2b(raw[32:], digest_size=16).digest()
    assert raw[32:33] == b"{"


@pytest.mark.parametrize(
    "ranges", [((512, 0),), ((0, 0),), ((512, 1024), (0, 512)), ((0, 1024), (512, 2048)), ((0, SIZE + 1),)]
)
def test_ranges_that_cannot_be_are_refused(ranges: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(DamagedError, match="not in order"):
        read(build_head(record(*ranges)))


@pytest.mark.parametrize("at", [0, 5, 16, 31, 32, 60])
def test_a_flipped_bit_is_found(at: int) -> None:
    raw = bytearray(build_head(record((0, 512))))
    raw[at] ^= 4
    with pytest.raises(DamagedError, match=r"f\.undo"):
        read(bytes(raw))


def test_limits() -> None:
    for size, is_good in ((RECORD_SIZE_MAX, True), (RECORD_SIZE_MAX + 1, False)):
        raw = HEAD.pack(MAGIC, VERSION, size, bytes(16))
        if is_good:
            assert parse_head(raw, thing="f.undo") == size
        else:
            with pytest.raises(DamagedError, match="too long"):
                parse_head(raw, thing="f.undo")
    with pytest.raises(UnsupportedFormat):
        parse_head(HEAD.pack(MAGIC, VERSION + 1, 10, bytes(16)), thing="f.undo")
    for short in (b"", MAGIC, bytes(HEAD.size)):
        with pytest.raises(DamagedError):
            parse_head(short, thing="f.undo")
