"""Block bitmaps: which blocks of the volume are in use, and whether bitmaps and descriptors agree.

Answers: "which bytes does this view of the volume call used?" A view is the volume as it lies on the disk, or with its
journal replayed over it. Whether the view is current is decided by ``volume``.

The free counts of the group descriptors are the ones compared: they are written in the same transaction as the bitmap.
The totals in the superblock are brought up to date lazily (after a replay they are stale), so they prove nothing.

Sources: Linux ``fs/ext4/balloc.c`` (``ext4_init_block_bitmap``), ``fs/ext4/bitmap.c`` (checksum).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillframe.block import BlockReader
from stillframe.crc32c import CRC32C, Bytes, crc_rows
from stillframe.errors import DiskFormatError
from stillframe.extents import Extent, ExtentSet
from stillframe.fs.ext.groups import CHECK_HINT, Flags, GroupTable, metadata_extents
from stillframe.fs.ext.superblock import SUPERBLOCK_OFFSET, Superblock

_BITS_AT_ONCE: Final = 1 << 22
"""Bits expanded together: bounds the memory, whatever the volume's size."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """The groups ``[first, end)``, examined together."""

    first: int
    end: int

    @property
    def count(self) -> int:
        return self.end - self.first


def read_used(reader: BlockReader, superblock: Superblock, table: GroupTable, *, strict: bool) -> ExtentSet:
    """The bytes of every cluster in use, the boot area, and the tail that belongs to no block.

    Args:
        reader: The view.
        superblock: Of the view.
        table: Of the view.
        strict: Whether bitmaps must carry the right checksum, agree with the descriptors' free counts and call all
            metadata used. Not for a view that a journal has yet to complete.

    Raises:
        DiskFormatError: ``strict``, and something contradicts.
    """
    metadata = metadata_extents(superblock, table)
    step = max(1, _BITS_AT_ONCE // superblock.clusters_per_group)
    parts = [ExtentSet.of(Extent(0, SUPERBLOCK_OFFSET)), metadata]
    for first in range(0, superblock.groups_count, step):
        batch = _Batch(first, min(first + step, superblock.groups_count))
        used = _used_clusters(reader, superblock, table, batch, metadata=metadata, strict=strict)
        base = (superblock.first_data_block + first * superblock.blocks_per_group) * superblock.block_size
        cluster = superblock.cluster_blocks * superblock.block_size
        parts.append(ExtentSet.from_mask(used.reshape(-1), unit=cluster, base=base))
    whole = Extent(0, superblock.size)
    tail = ExtentSet.of(Extent(superblock.size, reader.size), Extent(0, superblock.first_data_block * 1024))
    starts, ends = np.concatenate([part.starts for part in parts]), np.concatenate([part.ends for part in parts])
    return ExtentSet.from_arrays(starts, ends).clipped(whole) | tail


def _used_clusters(
    reader: BlockReader,
    superblock: Superblock,
    table: GroupTable,
    batch: _Batch,
    *,
    metadata: ExtentSet,
    strict: bool,
) -> Flags:
    """Used clusters of a batch, a row per group; bits behind the end of a short last group are off."""
    rows = _bitmap_rows(reader, superblock, table, batch)
    unwritten = table.unwritten[batch.first : batch.end]
    layout = _metadata_clusters(superblock, batch, metadata)
    bits = np.unpackbits(rows, axis=1, count=superblock.clusters_per_group, bitorder="little").view(np.bool_)
    bits[unwritten] = layout[unwritten]
    lengths = _group_lengths(superblock, batch)
    bits[-1, int(lengths[-1]) :] = False  # only the last group of a volume is short
    layout[-1, int(lengths[-1]) :] = False
    if strict:
        _check_bitmap_checksums(rows, superblock, table, batch)
        _check_agreement(bits, layout, lengths, table, batch)
    return bits


def _bitmap_rows(reader: BlockReader, superblock: Superblock, table: GroupTable, batch: _Batch) -> Bytes:
    """The bitmaps as they lie on the disk, a row per group; zeros where none was written. Neighbours are one read."""
    size = superblock.block_size
    rows = np.zeros((batch.count, superblock.clusters_per_group // 8), np.uint8)
    written = np.flatnonzero(~table.unwritten[batch.first : batch.end])
    if not len(written):
        return rows
    places = table.block_bitmap[batch.first : batch.end][written]
    cuts = np.flatnonzero(np.diff(places) != 1) + 1
    for run in np.split(np.arange(len(written)), cuts):
        raw = reader.read_at(int(places[run[0]]) * size, len(run) * size)
        rows[written[run]] = np.frombuffer(raw, np.uint8).reshape(len(run), size)[:, : rows.shape[1]]
    return rows


def _metadata_clusters(superblock: Superblock, batch: _Batch, metadata: ExtentSet) -> Flags:
    """The clusters of a batch that hold metadata by the layout, a row per group."""
    size, per_group = superblock.block_size, superblock.clusters_per_group
    count, ratio = batch.count * per_group, superblock.cluster_blocks
    base = superblock.first_data_block + batch.first * superblock.blocks_per_group
    within = metadata.clipped(Extent(base * size, (base + count * ratio) * size))
    clusters = np.zeros(count, np.bool_)
    firsts, ends = (within.starts // size - base) // ratio, -(-(within.ends // size - base) // ratio)
    for first, end in zip(firsts.tolist(), ends.tolist(), strict=True):  # a few extents per group
        clusters[first:end] = True
    return clusters.reshape(batch.count, per_group)


def _group_lengths(superblock: Superblock, batch: _Batch) -> NDArray[np.int64]:
    """Clusters of each group."""
    groups = np.arange(batch.first, batch.end, dtype=np.int64)
    blocks = superblock.blocks_count - superblock.first_data_block - groups * superblock.blocks_per_group
    return -(-np.minimum(blocks, superblock.blocks_per_group) // superblock.cluster_blocks)


def _check_bitmap_checksums(rows: Bytes, superblock: Superblock, table: GroupTable, batch: _Batch) -> None:
    if not superblock.has_metadata_checksums:
        return
    seeds = np.full(len(rows), superblock.checksum_seed, np.uint32)
    kept = 0xFFFFFFFF if superblock.desc_size >= 64 else 0xFFFF
    found = crc_rows(rows, seeds=seeds, polynomial=CRC32C) & np.uint32(kept)
    wrong = (found != table.bitmap_checksum[batch.first : batch.end]) & ~table.unwritten[batch.first : batch.end]
    if wrong.any():
        raise DiskFormatError(
            f"ext group {batch.first + int(np.argmax(wrong))}: the checksum of its block bitmap is wrong",
            hint=CHECK_HINT,
        )


def _check_agreement(bits: Flags, layout: Flags, lengths: NDArray[np.int64], table: GroupTable, batch: _Batch) -> None:
    forgotten = np.flatnonzero((layout > bits).any(axis=1))
    if len(forgotten):
        raise DiskFormatError(
            f"ext group {batch.first + int(forgotten[0])}: its block bitmap calls metadata of the file system free",
            hint=CHECK_HINT,
        )
    free = lengths - np.count_nonzero(bits, axis=1)
    expected = table.free_clusters[batch.first : batch.end]
    wrong = np.flatnonzero(free != expected)
    if len(wrong):
        at = int(wrong[0])
        raise DiskFormatError(
            f"ext group {batch.first + at}: its descriptor counts {int(expected[at])} free clusters, "
            f"its bitmap has {int(free[at])}",
            hint=CHECK_HINT,
        )
