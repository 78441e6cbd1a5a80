"""The kernel's trace buffer, page by page, as it is in memory.

Answers: "which requests were completed, and was any event lost?" Bytes in, records out; the text form of the trace is
a hundred times slower. What the fields' offsets are is asked of the kernel (``format``), never assumed.

Source: Linux Documentation/trace/ring-buffer-design.rst; kernel/trace/ring_buffer.c (struct buffer_data_page,
rb_event_length, RB_MISSED_EVENTS); include/linux/ring_buffer.h (struct ring_buffer_event).
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from stillframe.errors import MachineRefusal

PAGE_HEADER_SIZE: Final = 16  # u64 time stamp, local_t commit; "header_page" of tracefs says the same on 64 bits
_COMMIT_MASK: Final = 0x3FFF_FFFF
_MISSED_EVENTS: Final = 1 << 31
_LONG, _PADDING, _TIME_EXTEND, _TIME_STAMP = 0, 29, 30, 31  # enum ring_buffer_type; a long one tells its length
_WORD: Final = struct.Struct("<I")

_FIELD: Final = re.compile(r"field:[^;]*?(?P<name>\w+)(?:\[\d*\])?;\s*offset:(?P<offset>\d+);\s*size:(?P<size>\d+);")


@dataclass(frozen=True, slots=True)
class Completed:
    """A request that the kernel has completed, with or without an error.

    Attributes:
        device: As the kernel writes it in events: major in the upper 12 bits, minor in the lower 20.
        sector: First sector of 512 bytes, from the start of the disk.
        count: Sectors of 512 bytes; 0 for what has no place on the disk, such as a flush or a passthrough command.
        operation: Letters of ``blk_fill_rwbs``: ``R`` read, ``W`` write, ``D`` discard, ``F`` flush, ``N`` other ...
    """

    device: int
    sector: int
    count: int
    operation: bytes

    @property
    def is_read(self) -> bool:
        """Whether it only read."""
        return b"R" in self.operation and b"W" not in self.operation and b"D" not in self.operation


@dataclass(frozen=True, slots=True, kw_only=True)
class EventLayout:
    """Where the fields of the event ``block_rq_complete`` lie in its record."""

    event_id: int
    device_at: int
    sector_at: int
    count_at: int
    operation_at: int
    operation_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TracePage:
    """What one page of the buffer held, and whether events before it were lost."""

    completed: tuple[Completed, ...]
    lost: bool


def parse_layout(text: str) -> EventLayout:
    """Read the file ``format`` of the event.

    Raises:
        MachineRefusal: A field is missing or has another size than this version knows.
    """
    found = {match["name"]: (int(match["offset"]), int(match["size"])) for match in _FIELD.finditer(text)}
    number = re.search(r"^ID: (\d+)$", text, re.MULTILINE)
    wanted = {"dev": 4, "sector": 8, "nr_sector": 4}
    known = all(found.get(name, (0, 0))[1] == size for name, size in wanted.items())
    if number is None or "rwbs" not in found or not known:
        raise MachineRefusal(
            "this kernel writes its trace of completed requests in a form that is not known",
            hint="Back up from the rescue medium, and report the kernel's version.",
        )
    return EventLayout(
        event_id=int(number[1]), device_at=found["dev"][0], sector_at=found["sector"][0],
        count_at=found["nr_sector"][0], operation_at=found["rwbs"][0], operation_size=found["rwbs"][1],
    )  # fmt: skip


def parse_page(page: bytes, layout: EventLayout) -> TracePage:
    """Parse one page as ``trace_pipe_raw`` gives it.

    Raises:
        MachineRefusal: It is not of the form that is documented: then nothing that was seen may be trusted.
    """
    (commit,) = struct.unpack_from("<q", page, 8)
    end = PAGE_HEADER_SIZE + (commit & _COMMIT_MASK)
    if end > len(page):
        raise MachineRefusal("a page of the kernel's trace says it is longer than it is", hint="Report the kernel.")
    completed = tuple(
        Completed(
            device=_WORD.unpack_from(page, at + layout.device_at)[0],
            sector=struct.unpack_from("<Q", page, at + layout.sector_at)[0],
            count=_WORD.unpack_from(page, at + layout.count_at)[0],
            operation=page[at + layout.operation_at : at + layout.operation_at + layout.operation_size].split(b"\0")[0],
        )
        for at in _payloads(page, end)
        if page[at] | page[at + 1] << 8 == layout.event_id
    )
    return TracePage(completed=completed, lost=bool(commit & _MISSED_EVENTS))


def _payloads(page: bytes, end: int) -> Iterator[int]:
    """Where the record of each event begins."""
    at = PAGE_HEADER_SIZE
    while at + 4 <= end:
        (head,) = _WORD.unpack_from(page, at)
        kind = head & 0x1F
        if kind == _PADDING:
            if head >> 5 == 0:  # the rest of the page is empty
                return
            at += 4 + _WORD.unpack_from(page, at + 4)[0]
        elif kind in (_TIME_EXTEND, _TIME_STAMP):
            at += 8
        elif kind == _LONG:
            yield at + 8
            at += 4 + _WORD.unpack_from(page, at + 4)[0]
        else:
            yield at + 4
            at += 4 + kind * 4
