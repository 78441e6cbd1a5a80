"""The bytes of a stick that holds a folder.

Answers: "what is at this offset?" out of the boot area, the tables, the folders and the files, as ``layout`` has placed
them. Files are opened when they are read.
"""

import bisect
from collections.abc import Iterator
from typing import Final

import numpy as np

from stillframe.block import BlockReader, ExtentKind, JoinedReader, KnownExtent, MemoryDisk, ReadFault
from stillframe.block.base import Buffer, check_range, read_filled
from stillframe.errors import UsageError
from stillframe.extents import Extent
from stillframe.serve.stick.layout import (
    END_OF_CHAIN,
    FATS,
    RESERVED_SECTORS,
    ROOT,
    SECTOR,
    Entry,
    StickLayout,
    build_boot_area,
    build_table,
    lay_out,
)


def open_stick(folder: str, *, label: str = "STILLFRAME") -> BlockReader:
    """A stick with everything that is in a folder now, in its one partition; what comes later is not on it.

    Raises:
        UsageError: The folder cannot be listed, or is more than a FAT32 can hold.
    """
    try:
        volume = StickReader(lay_out(folder, label=label))
    except OSError as error:
        raise UsageError(
            f"{error.filename or folder} cannot be listed: {error.strerror}", hint="Is the disk plugged in?"
        ) from error
    return JoinedReader([MemoryDisk(build_table(volume.size)), volume])


class StickReader:
    """A ``BlockReader`` of the volume alone."""

    sector_size: Final = SECTOR

    def __init__(self, layout: StickLayout) -> None:
        self._layout = layout
        self._boot = build_boot_area(layout)
        self._last = np.array(layout.last_clusters, dtype=np.int64)
        self._starts = [layout.offset_of(entry.cluster) for entry in layout.entries]

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self._layout.size

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes; errors as ``read_into``."""
        return read_filled(self, offset, length)

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill ``buffer``.

        Raises:
            ReadFault: A file has gone, or has become shorter.
        """
        view = memoryview(buffer)
        check_range(self.size, offset, len(view))
        at = 0
        while at < len(view):
            piece = self._piece(offset + at, len(view) - at)
            view[at : at + len(piece)] = piece
            at += len(piece)

    def known_extents(self, within: Extent) -> Iterator[KnownExtent]:
        """Nothing is known without reading."""
        if within.size:
            yield KnownExtent(within, ExtentKind.DATA)

    def _piece(self, offset: int, length: int) -> bytes:
        """At least one byte, and at most ``length``: as far as one kind of thing goes."""
        layout = self._layout
        boot_end = RESERVED_SECTORS * SECTOR
        if offset < boot_end:
            return self._boot[offset : offset + length]
        if offset < layout.data_start:
            table_size = layout.fat_sectors * SECTOR
            table, at = divmod(offset - boot_end, table_size)
            assert table < FATS
            return self._table(at, min(length, table_size - at))
        return self._contents(offset, length)

    def _table(self, start: int, length: int) -> bytes:
        """A range of the file allocation table: each cluster names the next, but the last of a run."""
        first, after = start // 4, -(-(start + length) // 4)
        clusters = np.arange(first, after, dtype=np.int64)
        rows = clusters + 1
        low, high = np.searchsorted(self._last, (first, after))
        rows[self._last[low:high] - first] = END_OF_CHAIN
        rows[clusters >= ROOT + self._layout.used] = 0
        for number, word in ((0, 0x0FFFFFF8), (1, END_OF_CHAIN)):
            rows[clusters == number] = word
        raw = rows.astype("<u4").tobytes()
        return raw[start - first * 4 :][:length]

    def _contents(self, offset: int, length: int) -> bytes:
        number = bisect.bisect_right(self._starts, offset) - 1
        entry = self._layout.entries[number]
        at = offset - self._starts[number]
        following = self._starts[number + 1] if number + 1 < len(self._starts) else self.size
        size = len(entry.table) if entry.inside is not None else entry.size
        if at >= size:
            return bytes(min(length, following - offset))
        return entry.table[at : at + length] if entry.inside is not None else _read(entry, at, min(length, size - at))


def _read(entry: Entry, at: int, length: int) -> bytes:
    """Bytes of a file, all of them: it is opened each time, for a server holds it open for hours."""
    try:
        with open(entry.path, "rb") as file:
            file.seek(at)
            raw = file.read(length)
    except OSError as error:
        words = f"{entry.path} cannot be read: {error.strerror}"
        raise ReadFault(
            words, extent=Extent(at, at + length), hint="Was it deleted meanwhile? Run it again."
        ) from error
    if len(raw) < length:
        raise ReadFault(f"{entry.path} has become shorter", extent=Extent(at, at + length), hint="Run it again.")
    return raw
