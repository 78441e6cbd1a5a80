"""A disk as one stream of bytes, in order, read by several threads ahead of whoever takes it.

Answers: "how do the bytes of an image leave one after the other?" Through a pipe, where zeros are written, and into
parts of a size, where holes stay holes.
"""

import hashlib
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Final

from stillframe.block import BlockReader
from stillframe.block.base import ExtentKind
from stillframe.block.file import FileWriter
from stillframe.errors import DeviceError, TargetError
from stillframe.events import BytesMoved
from stillframe.extents import Extent
from stillframe.hanging import Underway, pool, result
from stillframe.host.target import create_target_file
from stillframe.jobs.context import JobContext
from stillframe.jobs.exporting.names import WrittenFile, part_path
from stillframe.jobs.pipeline import worker_count
from stillframe.units import MIB, format_size

PIECE_SIZE: Final = 4 * MIB
_ZEROS: Final = bytes(MIB)
SPLIT_HINT: Final = "A disk with FAT32 takes no file of 4 GiB: add '--split 4000M', or choose another disk."


def iter_pieces(reader: BlockReader, context: JobContext) -> Iterator[tuple[Extent, bytes | None]]:
    """The whole of a reader in order: data in pieces of at most 4 MiB, ``None`` for what is a hole."""
    with pool(worker_count()) as threads:
        waiting: deque[tuple[Extent, Future[bytes] | None]] = deque()
        try:
            for extent, is_data in _plan_pieces(reader):
                context.cancel.check()
                waiting.append((extent, threads.submit(reader.read_at, extent.start, extent.size) if is_data else None))
                if len(waiting) > 2 * worker_count():
                    yield _done(*waiting.popleft(), context)
            while waiting:
                context.cancel.check()
                yield _done(*waiting.popleft(), context)
        finally:
            for _, future in waiting:
                if future is not None:
                    future.cancel()


def write_stream(pieces: Iterator[tuple[Extent, bytes | None]], descriptor: int, path: str) -> WrittenFile:
    """Write everything to a pipe, zeros where there are holes.

    Raises:
        TargetError: Whoever read from the pipe went away, or there is no room behind it.
    """
    digest, count = hashlib.sha256(), 0
    for extent, data in pieces:
        for start in range(0, extent.size, MIB):
            part = memoryview(_ZEROS if data is None else data)
            part = part[: extent.size - start] if data is None else part[start : start + MIB]
            digest.update(part)
            _write_all(descriptor, part, path)
            count += len(part)
    return WrittenFile(path=path, size=count, sha256=digest.hexdigest())


def write_parts(
    pieces: Iterator[tuple[Extent, bytes | None]], names: list[str], *, size: int, part_size: int, path: str
) -> tuple[list[WrittenFile], int]:
    """Write parts of a size, the last one shorter; holes stay holes.

    Args:
        pieces: All bytes, in order.
        names: What the parts are called while they are written; none of them exists.
        size: Bytes of all.
        part_size: Bytes of a part.
        path: What the whole is called.

    Returns:
        The parts, under their final names, and how many bytes were written.

    Raises:
        TargetError: The file system takes no file of that size, or has no room.
    """
    parts = _Parts(names, size=size, part_size=part_size, path=path)
    try:
        for extent, data in pieces:
            parts.take(extent, data)
        return parts.finish(), parts.written
    finally:
        parts.close()


class _Parts:
    """Files that together hold a range; one of them is open at a time."""

    def __init__(self, names: list[str], *, size: int, part_size: int, path: str) -> None:
        self.written = 0
        self._names, self._size, self._part_size, self._path = names, size, part_size, path
        self._done: list[WrittenFile] = []
        self._digest = hashlib.sha256()
        self._open: FileWriter | None = None

    def take(self, extent: Extent, data: bytes | None) -> None:
        """The next bytes."""
        position = extent.start
        while position < extent.end:
            number = position // self._part_size
            end = min(extent.end, (number + 1) * self._part_size, position + PIECE_SIZE)
            file, offset = self._file(number), position - number * self._part_size
            if data is None:
                self._hash_zeros(end - position)
            else:
                part = memoryview(data)[position - extent.start : end - extent.start]
                self._digest.update(part)
                file.write_at(offset, part)
                self.written += len(part)
            position = end

    def finish(self) -> list[WrittenFile]:
        """All parts, when the last one is complete."""
        self._close_part()
        return self._done

    def close(self) -> None:
        """Close what is open."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _file(self, number: int) -> FileWriter:
        if self._open is not None and number == len(self._done):
            return self._open
        self._close_part()
        size = min(self._part_size, self._size - number * self._part_size)
        self._digest = hashlib.sha256()
        self._open = create_file(self._names[number], size, path=part_path(self._path, number + 1))
        return self._open

    def _close_part(self) -> None:
        if self._open is None:
            return
        self._open.flush()
        name, size = part_path(self._path, len(self._done) + 1), self._open.size
        self._done.append(WrittenFile(path=name, size=size, sha256=self._digest.hexdigest()))
        self.close()

    def _hash_zeros(self, count: int) -> None:
        for start in range(0, count, MIB):
            self._digest.update(memoryview(_ZEROS)[: count - start])


def create_file(written: str, size: int, *, path: str) -> FileWriter:
    """Make a sparse file under a name that is not yet its own.

    Raises:
        TargetError: The file system takes no file of that size, or nothing may be written there.
    """
    try:
        return create_target_file(written, size)
    except TargetError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno is not None:
            words = f"{path}, {format_size(size)}, cannot be made there: {cause.strerror}"
            raise TargetError(words, hint=SPLIT_HINT if "4 GiB" in error.hint else error.hint) from error
        raise


def _plan_pieces(reader: BlockReader) -> Iterator[tuple[Extent, bool]]:
    """Ranges to read and holes, in order; neighbours of one kind are joined, data up to the size of a piece."""
    held: tuple[Extent, bool] | None = None
    for known in reader.known_extents(Extent(0, reader.size)):
        is_data = known.kind is ExtentKind.DATA
        for start in range(known.extent.start, known.extent.end, PIECE_SIZE if is_data else max(known.extent.size, 1)):
            end = min(start + PIECE_SIZE, known.extent.end) if is_data else known.extent.end
            if held and held[1] is is_data and (not is_data or end - held[0].start <= PIECE_SIZE):
                held = Extent(held[0].start, end), is_data
                continue
            if held:
                yield held
            held = Extent(start, end), is_data
    if held:
        yield held


def _done(extent: Extent, future: Future[bytes] | None, context: JobContext) -> tuple[Extent, bytes | None]:
    if future is None:
        return extent, None
    data = result(future, Underway("reading", "the image", extent.start))
    context.events.emit(BytesMoved(size=extent.size))
    return extent, data


def _write_all(descriptor: int, view: memoryview, path: str) -> None:
    while len(view):
        try:
            view = view[os.write(descriptor, view) :]
        except BrokenPipeError as error:
            raise TargetError(
                f"whoever read from {path} went away before the end: what it got is not complete",
                hint="Look at what the other program said, then run both again.",
            ) from error
        except OSError as error:
            raise DeviceError(f"writing to {path} failed: {error.strerror}", hint="Is there room behind it?") from error
