"""Reading a disk that fails: large reads first, then smaller ones around the fault, each tried again.

Answers: "give me all that can still be read, and tell me what cannot."
"""

from dataclasses import dataclass
from typing import Final

from stillframe.block import BlockReader, ReadFault
from stillframe.extents import Extent, ExtentSet

_STEP: Final = 64 << 10
_TRIES: Final = 3
_BAD_RUN_MAX: Final = 16
"""Sectors in a row that fail before a piece is read from its other end."""


def read_carefully(reader: BlockReader, offset: int, buffer: memoryview) -> ExtentSet:
    """Fill ``buffer``; what cannot be read is left as zeros and returned as byte ranges of the reader.

    Raises:
        DeviceError: The device is gone altogether, which is not a ``ReadFault``.
    """
    try:
        reader.read_into(offset, buffer)
    except ReadFault:
        pass
    else:
        return ExtentSet.empty()
    bad: list[Extent] = []
    for start in range(0, len(buffer), _STEP):
        bad += _read_piece(reader, offset + start, buffer[start : start + _STEP])
    return ExtentSet.from_extents(bad)


def _read_piece(reader: BlockReader, offset: int, buffer: memoryview) -> list[Extent]:
    """Read one piece; when it fails, its sectors one by one from both ends, up to a long run that fails.

    A failing disk takes seconds for each sector it cannot read: what lies between two bad ends is given up unread.
    """
    try:
        reader.read_into(offset, buffer)
    except ReadFault:
        pass
    else:
        return []
    step = reader.sector_size
    parts = [(offset + at, buffer[at : at + step]) for at in range(0, len(buffer), step)]
    bad = _read_sectors(reader, parts, run_max=_BAD_RUN_MAX)
    done = len(bad.tried)
    rest = parts[done:]
    bad_behind = _read_sectors(reader, rest[::-1], run_max=1)
    given_up = rest[: len(rest) - len(bad_behind.tried)]
    for _, part in given_up:
        part[:] = bytes(len(part))
    lost = [*bad.lost, *bad_behind.lost, *given_up]
    return [Extent(start, start + len(part)) for start, part in lost]


@dataclass(frozen=True, slots=True)
class _Sectors:
    """Sectors that were tried, and those of them that could not be read."""

    tried: list[tuple[int, memoryview]]
    lost: list[tuple[int, memoryview]]


def _read_sectors(reader: BlockReader, parts: list[tuple[int, memoryview]], *, run_max: int) -> _Sectors:
    """Read sectors in turn until ``run_max`` in a row have failed. The first of a run is tried several times."""
    found, run = _Sectors([], []), 0
    for start, part in parts:
        if run == run_max:
            break
        good = _try_sector(reader, start, part, tries=1 if run else _TRIES)
        found.tried.append((start, part))
        run = 0 if good else run + 1
        if not good:
            part[:] = bytes(len(part))
            found.lost.append((start, part))
    return found


def _try_sector(reader: BlockReader, offset: int, buffer: memoryview, *, tries: int) -> bool:
    for _ in range(tries):
        try:
            reader.read_into(offset, buffer)
        except ReadFault:
            continue
        return True
    return False
