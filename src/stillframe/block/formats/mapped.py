"""A disk whose bytes are scattered over a file, as every format for virtual disks has it.

Answers: "which byte of which file is this byte of the disk?" A format says so in runs (``DiskMap``); reading, holes and
what shows through from the file below are the same for all of them.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Generic, Protocol, Self, TypeVar

from stillframe.block.base import BlockReader, Buffer, ExtentKind, KnownExtent, ReadFault, check_range, read_filled
from stillframe.errors import DiskFormatError
from stillframe.extents import Extent

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class RunKind(Enum):
    """Where the bytes of a run are."""

    STORED = "stored"
    """As they are, in a file."""
    PACKED = "packed"
    """In a block that must be expanded first."""
    ZERO = "zero"
    """Nowhere: they are zeros."""
    BELOW = "below"
    """At the same place of the disk file that this one rests on; zeros where there is none."""


@dataclass(frozen=True, slots=True)
class Run:
    """A range of the disk whose bytes are all in one place.

    Attributes:
        extent: Bytes of the disk.
        kind: Where they are.
        place: ``STORED``: the first byte in ``source``. ``PACKED``: the number of the block that holds them.
        skip: ``PACKED``: bytes of the expanded block before the first one.
        source: ``STORED``: the file.
    """

    extent: Extent
    kind: RunKind
    place: int = 0
    skip: int = 0
    source: BlockReader | None = None


class DiskMap(Protocol):
    """What a format knows of its disk. For several threads."""

    def runs(self, within: Extent) -> Iterator[Run]:
        """Runs that cover a range in order, without gap; neighbours are joined where that is cheap.

        Raises:
            DiskFormatError: The tables of the file are not what the format says.
        """
        ...

    def unpack(self, block: int) -> bytes:
        """The expanded bytes of a ``PACKED`` block.

        Raises:
            DiskFormatError: They cannot be expanded.
        """
        ...


class ZeroMap:
    """A ``DiskMap`` of a disk of zeros."""

    def runs(self, within: Extent) -> Iterator[Run]:
        """All of it is nowhere."""
        yield Run(within, RunKind.ZERO)

    def unpack(self, block: int) -> bytes:
        """Nothing is packed."""
        raise AssertionError(block)


class TableCache(Generic[K, V]):
    """Tables that were read last, for several threads.

    Args:
        load: Reads one.
        kept_max: So many are kept.
    """

    def __init__(self, load: Callable[[K], V], *, kept_max: int) -> None:
        self._load = load
        self._kept_max = kept_max
        self._kept: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K) -> V:
        """One table, read when it is not there."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        value = self._load(key)
        with self._lock:
            self._kept[key] = value
            if len(self._kept) > self._kept_max:
                self._kept.popitem(last=False)
        return value


class MappedDisk:
    """A ``BlockReader`` of a disk that a format describes.

    Args:
        disk_map: Where its bytes are.
        size: Bytes of the disk.
        sector_size: Bytes of its logical sectors.
        below: The disk file that this one rests on; may be smaller.
        unpacked_max: So many expanded blocks are kept in memory.
    """

    def __init__(
        self, disk_map: DiskMap, *, size: int, sector_size: int = 512, below: BlockReader | None = None,
        unpacked_max: int = 32,
    ) -> None:  # fmt: skip
        self._map = disk_map
        self._size = size
        self._sector_size = sector_size
        self._below = below
        self._unpacked = TableCache(disk_map.unpack, kept_max=unpacked_max)

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self._size

    @property
    def sector_size(self) -> int:
        """Bytes of a logical sector."""
        return self._sector_size

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes; errors as ``read_into``."""
        return read_filled(self, offset, length)

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill ``buffer``.

        Raises:
            ReadFault: The file could not be read; the bytes named are those of the disk.
            DiskFormatError: The file is not what its format says.
        """
        view = memoryview(buffer).cast("B")
        check_range(self.size, offset, len(view))
        if not len(view):
            return
        for run in self._map.runs(Extent(offset, offset + len(view))):
            part = view[run.extent.start - offset : run.extent.end - offset]
            try:
                self._fill(run, part)
            except ReadFault as fault:
                raise ReadFault(fault.message, extent=run.extent, hint=fault.hint) from fault

    def known_extents(self, within: Extent) -> Iterator[KnownExtent]:
        """What is stored nowhere is a hole, as is what is a hole of the file that stores it."""
        check_range(self.size, within.start, within.size)
        if not within.size:
            return
        for run in self._map.runs(within):
            yield from self._known(run)

    def _fill(self, run: Run, part: memoryview) -> None:
        if run.kind is RunKind.STORED and run.source is not None:
            run.source.read_into(run.place, part)
        elif run.kind is RunKind.PACKED:
            data = self._unpacked.get(run.place)[run.skip : run.skip + len(part)]
            part[:] = data
        elif run.kind is RunKind.BELOW and self._below is not None:
            there = max(0, min(run.extent.end, self._below.size) - run.extent.start)
            if there:
                self._below.read_into(run.extent.start, part[:there])
            part[there:] = bytes(len(part) - there)
        else:
            part[:] = bytes(len(part))

    def _known(self, run: Run) -> Iterator[KnownExtent]:
        extent = run.extent
        if run.kind is RunKind.STORED and run.source is not None:
            for known in run.source.known_extents(Extent(run.place, run.place + extent.size)):
                yield KnownExtent(known.extent.shifted(extent.start - run.place), known.kind)
        elif run.kind is RunKind.PACKED:
            yield KnownExtent(extent, ExtentKind.DATA)
        elif run.kind is RunKind.BELOW and self._below is not None:
            there = extent.clipped(Extent(0, self._below.size)) if extent.start < self._below.size else None
            if there is not None:
                yield from self._below.known_extents(there)
            rest = Extent(max(extent.start, self._below.size), extent.end) if extent.end > self._below.size else None
            if rest is not None:
                yield KnownExtent(rest, ExtentKind.HOLE)
        else:
            yield KnownExtent(extent, ExtentKind.HOLE)


class Closeable(Protocol):
    """Something open."""

    def close(self) -> None:
        """Close it; twice is once."""
        ...


class DiskFile:
    """A disk file of any program, open for reading: a ``BlockReader`` of the disk in it. Use as a context.

    Args:
        reader: The bytes of the disk.
        format_name: What people call its format, such as ``QCOW2``; ``raw`` where the file is the disk.
        files: Every file that is read for it, the one that was named first; with its path.
        made: When the program that wrote it says that it was made.
        identity: What a file that rests on this one knows its state by; empty where the format has no such thing.
    """

    def __init__(
        self, reader: BlockReader, *, format_name: str, files: Sequence[tuple[str, Closeable]],
        made: datetime | None = None, identity: str = "",
    ) -> None:  # fmt: skip
        self._reader = reader
        self._files = tuple(files)
        self.format_name = format_name
        self.made = made
        self.identity = identity

    @property
    def size(self) -> int:
        """Bytes of the disk in it."""
        return self._reader.size

    @property
    def sector_size(self) -> int:
        """Bytes of a logical sector of the disk."""
        return self._reader.sector_size

    @property
    def is_raw(self) -> bool:
        """Whether the bytes of the file are those of the disk."""
        return self.format_name == RAW

    @property
    def paths(self) -> tuple[str, ...]:
        """Every file that is read for it, the one that was named first."""
        return tuple(path for path, _ in self._files)

    @property
    def files(self) -> tuple[tuple[str, Closeable], ...]:
        """What is open, by path: for a disk file that rests on this one."""
        return self._files

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes of the disk."""
        return self._reader.read_at(offset, length)

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill ``buffer`` with bytes of the disk."""
        self._reader.read_into(offset, buffer)

    def known_extents(self, within: Extent) -> Iterator[KnownExtent]:
        """What is known of a range of the disk."""
        return self._reader.known_extents(within)

    def close(self) -> None:
        """Close every file; twice is once."""
        for _, file in self._files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


RAW = "raw"


def broken(path: str, place: int, what: str, *, expected: object, found: object) -> DiskFormatError:
    """The error for a disk file that is not what its format says."""
    return DiskFormatError(
        f"{path}: at byte {place}, {what}: expected {expected}, found {found}",
        hint="The file is damaged or was cut off while it was copied: get it again, or have it checked by the program "
        "that made it ('qemu-img check' knows QCOW2, VHDX and VDI).",
    )


def unsupported(path: str, what: str, hint: str) -> DiskFormatError:
    """The error for a disk file that is whole and uses what is not read in this version."""
    return DiskFormatError(f"{path}: {what}, which this version does not read", hint=hint)


def read_exactly(file: BlockReader, path: str, place: int, size: int, *, what: str) -> bytes:
    """Bytes of a disk file that must be there.

    Raises:
        DiskFormatError: The file ends before.
    """
    if place < 0 or place + size > file.size:
        raise broken(path, place, what, expected=f"{size} bytes", found=f"the end of the file at byte {file.size}")
    return file.read_at(place, size)
