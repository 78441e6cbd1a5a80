"""A short measurement before a backup: how much of it is new, how well it packs, how long it will take.

Answers: "what will this cost, and is there room?" Reads a few dozen chunks, writes nothing.
"""

import contextlib
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from stillframe.block import CachedReader, ReadFault
from stillframe.capture import CapturedDisk, CapturedVolume
from stillframe.errors import MachineRefusal, StillframeError
from stillframe.extents import Extent
from stillframe.fs.files import TemporaryFolder, open_files
from stillframe.host.apart import call_apart
from stillframe.jobs.pipeline import worker_count
from stillframe.jobs.saving.chunking import KeptRange
from stillframe.repo.index import ChunkIndex
from stillframe.repo.packs import compressor
from stillframe.repo.rows import ids_array
from stillframe.repo.writing import ChunkNamer

_SAMPLES: Final = 48
_OVERHEAD: Final = 0.002
"""Of the bytes kept: maps, index and trailers. Measured: below 0.03 % of used bytes plus headers."""
_PRICING_TIMEOUT_S: Final = 20.0
_PARITY: Final = 0.042
"""Of the bytes stored, where objects get parity: 4.1 % of a full pack (docs/format/v1.md, section 16)."""
RESERVE: Final = 32 << 20
"""Bytes that must stay free: the last pack may go over its size, and the index and the manifest come after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a backup is expected to cost. Bytes and seconds; from a sample, so never exact."""

    bytes_to_read: int
    bytes_expected: int
    seconds_expected: float

    def with_parity(self) -> "Estimate":
        """The same where objects get parity."""
        return replace(self, bytes_expected=int(self.bytes_expected * (1 + _PARITY)))


def estimate(
    ranges: list[KeptRange], *, chunk_size: int, namer: ChunkNamer, index: ChunkIndex, level: int | None
) -> Estimate:
    """Measure a sample of what will be read.

    A chunk that is already stored counts as nothing to store; the sample is spread evenly over all bytes kept.
    """
    to_read = sum(source.kept.size for source in ranges)
    if to_read == 0:
        return Estimate(bytes_to_read=0, bytes_expected=0, seconds_expected=0.0)
    packed = sampled = 0
    began = time.perf_counter()
    compress = compressor(level)
    for source, offset in _spread(ranges, chunk_size):
        data = _read_kept(source, offset, chunk_size)
        sampled += len(data)
        if not any(data) or index.contains(ids_array(namer.name(data)))[0]:
            continue
        packed += min(len(data), len(compress(data)) if compress else len(data))
    elapsed = time.perf_counter() - began
    if sampled == 0:
        return Estimate(bytes_to_read=to_read, bytes_expected=to_read, seconds_expected=0.0)
    expected = int(to_read * (packed / sampled + _OVERHEAD))
    threads = max(1, worker_count() - 1)
    return Estimate(
        bytes_to_read=to_read, bytes_expected=expected, seconds_expected=to_read * elapsed / sampled / threads
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedFolder:
    """A folder of temporary files, and what keeping it costs before compression.

    Attributes:
        disk: Number of the disk in the image, from 1.
        partition: Number of the partition.
        path: From the root of the volume; with ``/`` behind it, a pattern for ``--exclude``.
        size: Bytes.
    """

    disk: int
    partition: int
    path: str
    size: int


def price_temporary(disks: Sequence[CapturedDisk], excluded: Collection[str]) -> tuple[PricedFolder, ...]:
    """What temporary files that will be kept cost, the largest first. Where that cannot be told, nothing is said.

    Args:
        disks: As captured.
        excluded: Patterns that leave files out; folders that are left out as a whole are not priced.
    """

    def price() -> list[PricedFolder]:
        return [
            PricedFolder(disk=number, partition=volume.partition.number, path=folder.path, size=folder.size)
            for number, disk in enumerate(disks, 1)
            for volume in disk.volumes
            if volume.used.kind == "used"
            for folder in _temporary_folders(volume)
            if f"{folder.path}/" not in excluded
        ]

    try:
        folders = call_apart(price, what="looking at temporary files", timeout_s=_PRICING_TIMEOUT_S)
    except MachineRefusal:  # the figure is a courtesy: a backup goes on without it
        return ()
    return tuple(sorted((folder for folder in folders if folder.size), key=lambda folder: -folder.size))


def _temporary_folders(volume: CapturedVolume) -> Iterable[TemporaryFolder]:
    try:
        files = open_files(CachedReader(volume.reader), volume.volume)
        return files.price_temporary().records if files is not None else ()
    except StillframeError:
        return ()


def _spread(ranges: list[KeptRange], chunk_size: int) -> list[tuple[KeptRange, int]]:
    """Chunk offsets at even distances over all that is kept."""
    total = sum(source.kept.size for source in ranges)
    wanted = [(number * 2 + 1) * total // (2 * _SAMPLES) for number in range(_SAMPLES)]
    found: dict[tuple[int, int], tuple[KeptRange, int]] = {}
    passed = 0
    for source in ranges:
        ends = passed + np.cumsum(source.kept.ends - source.kept.starts)
        for place in wanted:
            if len(ends) and passed <= place < ends[-1]:
                row = int(np.searchsorted(ends, place, "right"))
                offset = int(source.kept.ends[row] - (ends[row] - place)) // chunk_size * chunk_size
                found[id(source), offset] = (source, offset)
        passed += source.kept.size
    return list(found.values())


def _read_kept(source: KeptRange, offset: int, chunk_size: int) -> bytes:
    """One chunk as a backup would see it: what is not kept is zero; what cannot be read is left to the backup."""
    size = min(chunk_size, source.reader.size - offset)
    buffer = bytearray(size)
    for part in source.kept.clipped(Extent(offset, offset + size)):
        with contextlib.suppress(ReadFault):
            buffer[part.start - offset : part.end - offset] = source.reader.read_at(part.start, part.size)
    return bytes(buffer)
