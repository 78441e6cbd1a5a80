"""How fast the place of a repository takes bytes and gives them back.

Answers: "what does this disk or network do with packs?" Writes noise, which nothing on the way can make smaller, into a
file that nobody else sees; it is no object of the repository, and nothing of it stays.
"""

import os
import time
from dataclasses import dataclass
from typing import Final

from stillframe.block.file import aligned_buffer
from stillframe.errors import StorageFull
from stillframe.events import BytesMoved
from stillframe.host.scratch_file import ScratchFile
from stillframe.jobs.context import JobContext
from stillframe.jobs.saving.preflight import RESERVE
from stillframe.units import format_size

SIZE: Final = 256 << 20
PACK: Final = 64 << 20
_PIECE: Final = 4 << 20
TIME_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """What was measured. ``past_caches`` is whether the system could be asked to forget the file before it was read."""

    bytes_written: int
    write_s: float
    read_s: float
    past_caches: bool


def require_room(folder: str, free: int | None) -> None:
    """Refuse where the sample would fill the place.

    Raises:
        StorageFull: With what is missing.
    """
    needed = SIZE + RESERVE
    if free is not None and free < needed:
        raise StorageFull(
            f"{folder} has {format_size(free)} free, and measuring it writes {format_size(SIZE)} for a moment",
            hint="Make room there first, or measure without '--repo'.",
        )


def measure_storage(folder: str, context: JobContext) -> Storage:
    """Write a sample in pieces as large as packs, each durable before the next; then read it back.

    Raises:
        StorageFull, StorageError: The place failed.
        Cancelled: The person stopped it.
    """
    noise = os.urandom(_PIECE)
    with ScratchFile(folder) as file:
        began, written = time.perf_counter(), 0
        while written < SIZE and time.perf_counter() - began < TIME_S:
            context.cancel.check()
            file.append(noise)
            written += _PIECE
            context.events.emit(BytesMoved(size=_PIECE))
            if written % PACK == 0:
                file.settle()
        file.settle()
        write_s = time.perf_counter() - began
        past_caches = file.forget_cached()
        return Storage(
            bytes_written=written, write_s=max(write_s, 1e-9), read_s=_read(file, context), past_caches=past_caches
        )


def _read(file: ScratchFile, context: JobContext) -> float:
    file.rewind()
    buffer = aligned_buffer(_PIECE)
    began = time.perf_counter()
    while file.read(buffer):
        context.cancel.check()
    return max(time.perf_counter() - began, 1e-9)
