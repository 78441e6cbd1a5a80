"""Reading a disk that fails: large reads first, then smaller ones around the fault, each tried again.

Answers: "give me all that can still be read, and tell me what cannot."
"""

from typing import Final

from stillframe.block import BlockReader, ReadFault
from stillframe.extents import Extent, ExtentSet

_STEP: Final = 64 << 10
_TRIES: Final = 3


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
    """Read one piece; when it fails, each of its sectors alone, several times."""
    try:
        reader.read_into(offset, buffer)
    except ReadFault:
        pass
    else:
        return []
    step = reader.sector_size
    bad = []
    for start in range(0, len(buffer), step):
        part = buffer[start : start + step]
        if not _try_sector(reader, offset + start, part):
            part[:] = bytes(len(part))
            bad.append(Extent(offset + start, offset + start + len(part)))
    return bad


def _try_sector(reader: BlockReader, offset: int, buffer: memoryview) -> bool:
    for _ in range(_TRIES):
        try:
            reader.read_into(offset, buffer)
        except ReadFault:
            continue
        return True
    return False
