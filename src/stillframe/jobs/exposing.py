"""A stored image as disks that can be read at random.

Answers: "what was at this byte of the disk, or of its third partition?" Browsing, mounting, serving, booting, proving
and exporting all stand on this. Nothing is written on the way.

Two rules decide what is read where the image has no bytes. What a backup left out (the contents of paging files) is
zeros for whoever uses the disk as a disk, and an error for whoever reads files. What the source could not read is an
error for both.
"""

from dataclasses import dataclass
from typing import Final

from stillframe.block import AssembledReader, BlockReader, GuardedReader, Piece
from stillframe.jobs.listing import find_disk, find_partition
from stillframe.repo.chunk_cache import AHEAD_THREADS, CACHE_SIZE, ChunkCache
from stillframe.repo.map_reader import MapReader
from stillframe.repo.reading import Chunks, Origin
from stillframe.repo.records import (
    Manifest,
    Ranges,
    StoredDisk,
    StoredMap,
    StoredPartition,
    extents_of,
    require_known_features,
)

_LEFT_OUT: Final = "was left out of the image"
_LEFT_OUT_HINT: Final = "'stillframe show' lists what was left out; '--include-paging' keeps it next time."
_UNREADABLE: Final = "could not be read when the image was made"
_UNREADABLE_HINT: Final = "An older image may have it: 'stillframe images' lists what there is."


@dataclass(frozen=True, slots=True, kw_only=True)
class ExposedPartition:
    """A partition of an image, or a volume inside of one (``jobs.inside``).

    Attributes:
        stored: What the image says of it; of a volume inside, what was found in it, under the partition's number.
        reader: Its bytes for whoever uses it as a disk: what was left out is zeros.
        volume: The name of a volume inside, which may be empty; ``None`` for a partition.
        beneath: For a volume inside, the partitions that hold it or say where it lies.
    """

    stored: StoredPartition
    reader: BlockReader
    volume: str | None = None
    beneath: tuple[StoredPartition, ...] = ()

    @property
    def word(self) -> str:
        """What a person calls it behind the ``:``, such as ``3`` or ``3@root``."""
        return f"{self.stored.number}" + ("" if self.volume is None else f"@{self.volume}")

    def guarded(self, reader: BlockReader) -> BlockReader:
        """A view of this partition of which what was left out of the image cannot be read: a ``ReadFault``."""
        return _guarded(reader, self.stored.excluded, _LEFT_OUT, _LEFT_OUT_HINT)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExposedDisk:
    """A disk of an image, whole and by its partitions. What was left out is zeros in ``reader``."""

    stored: StoredDisk
    reader: BlockReader
    partitions: tuple[ExposedPartition, ...]

    def partition(self, number: int) -> ExposedPartition:
        """One partition, by the number people see.

        Raises:
            UsageError: There is none of that number; those that are there are listed.
        """
        wanted = find_partition(self.stored, number)
        return next(part for part in self.partitions if part.stored is wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExposedImage:
    """All disks of an image."""

    manifest: Manifest
    disks: tuple[ExposedDisk, ...]

    def disk(self, number: int | None) -> ExposedDisk:
        """One disk, by the number people see; ``None`` is the only one.

        Raises:
            UsageError: There are several and none was named, or none of that number.
        """
        wanted = find_disk(self.manifest, number)
        return next(disk for disk in self.disks if disk.stored is wanted)


def expose(origin: Origin, manifest: Manifest, *, cache_size: int | None = None) -> ExposedImage:
    """An image as disks.

    Args:
        origin: Where it is.
        manifest: The image.
        cache_size: Bytes of expanded chunks that all its readers keep together; by default 128 MiB.

    Raises:
        UnsupportedFormat: It needs what this program does not know.
        DamagedError: Its maps are not what the format allows, or the index cannot be read.
    """
    return expose_from(origin.reader(), manifest, cache_size=cache_size)


def expose_from(chunks: Chunks, manifest: Manifest, *, cache_size: int | None = None) -> ExposedImage:
    """An image as disks, through a reader of chunks that is there already; errors as ``expose``."""
    require_known_features(manifest)
    size_max = CACHE_SIZE if cache_size is None else cache_size
    cache = ChunkCache(chunks, size_max=size_max, threads=AHEAD_THREADS)
    return ExposedImage(manifest=manifest, disks=tuple(_expose_disk(cache, manifest, disk) for disk in manifest.disks))


def _expose_disk(cache: ChunkCache, manifest: Manifest, disk: StoredDisk) -> ExposedDisk:
    def read(stored: StoredMap) -> MapReader:
        return MapReader(
            stored.root(), cache.chunks, chunk_size=manifest.chunk_size, sector_size=disk.sector_size, cache=cache
        )

    parts = tuple(_expose_partition(read(part.blocks), part) for part in disk.partitions)
    outside = _guarded(read(disk.outside), disk.unreadable, _UNREADABLE, _UNREADABLE_HINT)
    whole = AssembledReader(outside, [Piece(start=part.stored.start, reader=part.reader) for part in parts])
    return ExposedDisk(stored=disk, reader=whole, partitions=parts)


def _expose_partition(reader: BlockReader, part: StoredPartition) -> ExposedPartition:
    reader = _guarded(reader, part.unreadable, _UNREADABLE, _UNREADABLE_HINT)
    return ExposedPartition(stored=part, reader=reader)


def _guarded(reader: BlockReader, ranges: Ranges, words: str, hint: str) -> BlockReader:
    if not ranges:
        return reader
    return GuardedReader(reader, extents_of(ranges), words=words, hint=hint)
