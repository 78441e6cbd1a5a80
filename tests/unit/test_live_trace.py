"""The kernel's trace pages, built by hand as its documentation draws them, and the marks they leave."""

import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stillframe.errors import MachineRefusal
from stillframe.extents import Extent, ExtentSet
from stillframe.host.live.ring import EventLayout, parse_layout, parse_page
from stillframe.host.live.trace import ChangedGranules, granule_size_for

# The file "format" of Linux 6.18; older kernels have no ioprio and other offsets.
FORMAT = """name: block_rq_complete
ID: 2107
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:dev_t dev;\toffset:8;\tsize:4;\tsigned:0;
\tfield:sector_t sector;\toffset:16;\tsize:8;\tsigned:0;
\tfield:unsigned int nr_sector;\toffset:24;\tsize:4;\tsigned:0;
\tfield:int error;\toffset:28;\tsize:4;\tsigned:1;
\tfield:unsigned short ioprio;\toffset:32;\tsize:2;\tsigned:0;
\tfield:char rwbs[10];\toffset:34;\tsize:10;\tsigned:0;
\tfield:__data_loc char[] cmd;\toffset:44;\tsize:4;\tsigned:0;

print fmt: "%d,%d %s (%s) %llu + %u"
"""
LAYOUT = EventLayout(event_id=2107, device_at=8, sector_at=16, count_at=24, operation_at=34, operation_size=10)


def record(sector: int, count: int, operation: bytes, *, event_id: int = 2107) -> bytes:
    head = struct.pack("<HBBi", event_id, 0, 0, 1)
    return head + struct.pack("<IIQIiH10sI", 8 << 20, 0, sector, count, 0, 0, operation, 0) + bytes(4)


def short_event(payload: bytes) -> bytes:
    assert len(payload) % 4 == 0
    return struct.pack("<I", len(payload) // 4) + payload


def long_event(payload: bytes) -> bytes:
    return struct.pack("<II", 0, len(payload) + 4) + payload


def page(*events: bytes, missed: bool = False) -> bytes:
    body = b"".join(events)
    commit = len(body) | (1 << 31 if missed else 0)
    return (struct.pack("<QQ", 123, commit) + body).ljust(4096, b"\0")


def test_the_layout_is_read_from_the_kernels_own_description() -> None:
    assert parse_layout(FORMAT) == LAYOUT
    for broken in (FORMAT.replace("rwbs", "letters"), FORMAT.replace("size:8;", "size:4;"), "", FORMAT[30:]):
        with pytest.raises(MachineRefusal, match="not known"):
            parse_layout(broken)


def test_events_of_every_form_are_found() -> None:
    extend, stamp = struct.pack("<II", 30 | 5 << 5, 7), struct.pack("<II", 31, 9)
    skipped = struct.pack("<II", 29 | 1 << 5, 12) + bytes(8)
    found = parse_page(
        page(
            short_event(record(100, 8, b"WS")), extend, long_event(record(200, 16, b"D")), stamp, skipped,
            short_event(record(1, 1, b"R", event_id=99)), short_event(record(300, 1, b"RA")),
            struct.pack("<I", 29), short_event(record(999, 9, b"W")),
        ),
        LAYOUT,
    )  # fmt: skip
    assert [(one.sector, one.count, one.operation) for one in found.completed] == [
        (100, 8, b"WS"), (200, 16, b"D"), (300, 1, b"RA"),
    ]  # fmt: skip
    assert [one.is_read for one in found.completed] == [False, False, True]
    assert not found.lost


def test_lost_events_are_told() -> None:
    assert parse_page(page(missed=True), LAYOUT).lost


def test_a_page_that_is_longer_than_itself_is_refused() -> None:
    raw = bytearray(page())
    raw[8:16] = struct.pack("<Q", 1 << 20)
    with pytest.raises(MachineRefusal):
        parse_page(bytes(raw), LAYOUT)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no mistake
@given(
    size=st.integers(1, 40_000_000),
    marks=st.lists(st.tuples(st.integers(0, 40_000_000), st.integers(1, 9_000_000)), max_size=8),
    cleared=st.lists(st.tuples(st.integers(0, 40_000_000), st.integers(1, 9_000_000)), max_size=8),
)
def test_no_changed_byte_is_ever_forgotten(
    size: int, marks: list[tuple[int, int]], cleared: list[tuple[int, int]]
) -> None:
    granules = ChangedGranules(size)
    gone = ExtentSet.from_extents(Extent(start, start + length) for start, length in cleared)
    for start, length in marks:
        granules.mark(Extent(start, start + length))
    changed = ExtentSet.from_extents(Extent(start, start + length) for start, length in marks)
    inside = changed.clipped(Extent(0, size))
    assert (inside - granules.changed()).size == 0
    granules.clear(gone)
    assert (inside - gone - granules.changed()).size == 0
    granules.clear(ExtentSet.of(Extent(0, size)))
    assert granules.changed().size == 0


def test_marks_of_a_terabyte_take_little_room() -> None:
    size = 20 << 40
    assert size // granule_size_for(size) <= 16 << 20
    granules = ChangedGranules(size)
    granules.mark(Extent(1 << 40, 19 << 40))  # one discard
    assert granules.changed() == ExtentSet.of(Extent(1 << 40, 19 << 40))
