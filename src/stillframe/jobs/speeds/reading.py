"""A sample of a source, read as a backup reads it.

Answers: "how fast does this disk give its bytes, and what are they like?" Pieces at even distances over all that is
kept, long enough that a disk with heads does not spend its time moving them. Reads only.
"""

import contextlib
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np

from stillframe.block import syscalls
from stillframe.block.file import FileReader, aligned_buffer
from stillframe.capture import CapturedDisk
from stillframe.events import BytesMoved
from stillframe.extents import Extent
from stillframe.jobs.context import JobContext
from stillframe.jobs.pipeline import worker_count
from stillframe.jobs.saving.chunking import UNIT_SIZE, KeptRange, kept_ranges

PIECE: Final = 8 << 20
PIECES: Final = 32
"""So at most 256 MiB are read."""
KEPT_SIZE: Final = 64 << 20
"""What of it stays in memory, for the processors to work on."""
TIME_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What was read.

    Attributes:
        bytes_read: All of it.
        seconds: What reading took.
        chunks: Some of it, in chunks that are not zeros.
        zeros: The share of chunks that are nothing but zeros, which a backup does not store.
    """

    bytes_read: int
    seconds: float
    chunks: tuple[memoryview, ...]
    zeros: float


def read_sample(disk: CapturedDisk, *, chunk_size: int, context: JobContext) -> Sample:
    """Read it, in as many threads as a backup.

    Raises:
        DeviceError: The disk failed.
        Cancelled: The person stopped it.
    """
    for reader in {id(source.reader): source.reader for source in kept_ranges(disk)}.values():
        if isinstance(reader, FileReader):
            with contextlib.suppress(OSError):
                syscalls.forget_pages(reader.descriptor)
    units = [unit for place in sample_places(list(kept_ranges(disk))) for unit in _units(*place)]
    ends, count = time.perf_counter() + TIME_S, worker_count()
    every = max(1, -(-sum(extent.size for _, extent in units) // KEPT_SIZE))

    def work(number: int) -> tuple[int, list[memoryview]]:
        size, held, room = 0, list[memoryview](), aligned_buffer(UNIT_SIZE)
        for place in range(number, len(units), count):
            context.cancel.check()
            if time.perf_counter() > ends:
                break
            source, extent = units[place]
            buffer = room[: extent.size]
            source.reader.read_into(extent.start, buffer)
            context.events.emit(BytesMoved(size=extent.size))
            size += extent.size
            held += (memoryview(bytes(chunk)) for chunk in list(split(buffer, chunk_size))[place % every :: every])
        return size, held

    began = time.perf_counter()
    with ThreadPoolExecutor(count) as pool:
        done = list(pool.map(work, range(count)))
    seconds = max(time.perf_counter() - began, 1e-9)
    chunks = [chunk for _, held in done for chunk in held]
    full = [chunk for chunk in chunks if np.frombuffer(chunk, np.uint8).any()]
    random.Random(0).shuffle(full)  # noqa: S311 - whoever takes only the first of them has some from everywhere
    zeros = 1 - len(full) / len(chunks) if chunks else 0.0
    return Sample(bytes_read=sum(size for size, _ in done), seconds=seconds, chunks=tuple(full), zeros=zeros)


def sample_places(ranges: Sequence[KeptRange]) -> Iterator[tuple[KeptRange, Extent]]:
    """Windows at even distances over all bytes that are kept; none twice."""
    total = sum(source.kept.size for source in ranges)
    wanted = [(number * 2 + 1) * total // (2 * PIECES) for number in range(PIECES)]
    passed, seen = 0, set[tuple[int, int]]()
    for source in ranges:
        lengths = np.cumsum(source.kept.ends - source.kept.starts)
        for place in (place - passed for place in wanted if passed <= place < passed + source.kept.size):
            row = int(np.searchsorted(lengths, place, "right"))
            start = int(source.kept.ends[row] - (lengths[row] - place)) // PIECE * PIECE
            if (id(source), start) not in seen:
                yield source, Extent(start, min(start + PIECE, source.reader.size))
            seen.add((id(source), start))
        passed += source.kept.size


def split(data: memoryview, size: int) -> Iterator[memoryview]:
    """Chunks of so many bytes; the last may be shorter."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


def _units(source: KeptRange, window: Extent) -> Iterator[tuple[KeptRange, Extent]]:
    for part in source.kept.clipped(window):
        for start in range(part.start, part.end, UNIT_SIZE):
            yield source, Extent(start, min(start + UNIT_SIZE, part.end))
