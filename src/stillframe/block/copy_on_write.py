"""Copy-on-write: a disk that can be written though what lies below it stays as it is.

Answers: "may this image be booted, repaired, or mounted read-write, without being changed?" Changed blocks go to a
sparse file at their own offset; everything else shows through.
"""

import mmap
import os
import tempfile
import threading
from collections.abc import Iterator
from typing import Final

from stillframe.block.base import BlockReader, Buffer, KnownExtent, check_range
from stillframe.block.changed_blocks import ChangedBlocks
from stillframe.block.file import FileWriter
from stillframe.block.opening import OpenFile
from stillframe.errors import TargetError
from stillframe.extents import Extent

BLOCK_SIZE: Final = 64 << 10


class CopyOnWrite(ChangedBlocks):
    """A ``BlockWriter`` over a reader, for several threads.

    Args:
        inner: What shows through.
        changes: An empty writer of at least ``inner.size`` bytes for the blocks that change, such as a sparse file;
            it belongs to the caller.
    """

    def __init__(self, inner: BlockReader, changes: FileWriter) -> None:
        if changes.size < inner.size:
            raise ValueError(f"{changes.size} bytes for changes are fewer than the {inner.size} that may change")
        super().__init__(inner, block_size=BLOCK_SIZE)
        self._changes = changes
        self._lock = threading.Lock()

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill ``buffer``, each part from where it is."""
        view = memoryview(buffer).cast("B")
        check_range(self.size, offset, len(view))
        for part, is_changed in self._parts(Extent(offset, offset + len(view))):
            source = self._changes if is_changed else self._inner
            source.read_into(part.start, view[part.start - offset : part.end - offset])

    def known_extents(self, within: Extent) -> Iterator[KnownExtent]:
        """Of changed blocks what their file knows, of the rest what the inner reader knows."""
        check_range(self.size, within.start, within.size)
        for part, is_changed in self._parts(within):
            source = self._changes if is_changed else self._inner
            yield from source.known_extents(part)

    def write_at(self, offset: int, data: bytes | Buffer) -> None:
        """Write all of ``data``; blocks that it covers in part are copied first."""
        view = memoryview(data).cast("B")
        check_range(self.size, offset, len(view))
        if not len(view):
            return
        with self._lock:
            self._fill(Extent(offset, offset + len(view)))
            self._changes.write_at(offset, view)
            self._mark(Extent(offset, offset + len(view)))

    def zero(self, extent: Extent) -> None:
        """Make a range read as zeros."""
        check_range(self.size, extent.start, extent.size)
        if not extent.size:
            return
        with self._lock:
            self._fill(extent)
            self._changes.zero(extent)
            self._mark(extent)

    def flush(self) -> None:
        """Return when the changes would survive a power cut."""
        self._changes.flush()

    def _fill(self, extent: Extent) -> None:
        """Copy the first and the last block of a range up, where it leaves bytes of them as they are."""
        for number in {extent.start // BLOCK_SIZE, (extent.end - 1) // BLOCK_SIZE}:
            block = Extent(number * BLOCK_SIZE, min((number + 1) * BLOCK_SIZE, self.size))
            is_covered = extent.start <= block.start and block.end <= extent.end
            if not self._changed[number] and not is_covered:
                self._changes.write_at(block.start, self._inner.read_at(block.start, block.size))
                self._changed[number] = True

    def _mark(self, extent: Extent) -> None:
        self._changed[extent.start // BLOCK_SIZE : -(-extent.end // BLOCK_SIZE)] = True


def open_scratch(folder: str, size: int) -> FileWriter:
    """A sparse file for changes that nobody else can see, and that is gone when it is closed.

    Args:
        folder: On a file system with room for what will change.
        size: Bytes of the disk.

    Raises:
        TargetError: No file can be made there.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.truncate(size)
            descriptor = os.dup(file.fileno())
    except OSError as error:
        raise TargetError(
            f"no file for changes can be made in {folder}: {error.strerror}",
            hint="Set TMPDIR to a folder with room for what will be written.",
        ) from error
    return FileWriter(
        OpenFile(
            descriptor=descriptor, path=f"changes in {folder}", size=size, sector_size=512, alignment=mmap.PAGESIZE,
            is_device=False, direct=False,
        )
    )  # fmt: skip
