"""Whether something was written to a disk or disk file between two moments.

Answers: "did this change while I read it?" For a device the kernel counts what was written and discarded; for a file
its size and its time of change tell. A stamp that cannot be had is ``None``: then nothing is proven either way.

Source: Linux Documentation/block/stat.rst: fields 5 (writes), 7 (sectors written), 12 (discards), 14 (sectors
discarded).
"""

import os
from dataclasses import dataclass

from stillframe.host.blocks import THIS_MACHINE, KernelPaths, read_text
from stillframe.host.linux import DeviceNumber, thing_at


@dataclass(frozen=True, slots=True)
class ChangeStamp:
    """Numbers that grow or change with every write. Two equal stamps: nothing was written in between."""

    numbers: tuple[int, ...]


def change_stamp(path: str, *, kernel: KernelPaths = THIS_MACHINE) -> ChangeStamp | None:
    """The stamp of a device or file now; ``None`` when the system does not count."""
    thing = thing_at(path)
    if isinstance(thing, DeviceNumber):
        return parse_block_stat(read_text(f"{kernel.sys}/dev/block/{thing.major}:{thing.minor}/stat"))
    try:
        found = os.stat(path)
    except OSError:
        return None
    return ChangeStamp((found.st_size, found.st_mtime_ns))


def parse_block_stat(text: str) -> ChangeStamp | None:
    """The numbers of ``/sys/block/X/stat`` that count writes and discards; ``None`` when it is no such text."""
    fields = text.split()
    if len(fields) < 11 or not all(field.isdecimal() for field in fields):
        return None
    wanted = [4, 6, *([11, 13] if len(fields) > 13 else [])]
    return ChangeStamp(tuple(int(fields[number]) for number in wanted))
