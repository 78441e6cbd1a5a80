"""How a FAT volume of a size is laid out.

Answers: "which clusters does a FAT of this kind have in so many bytes, and what is the smallest that holds these
files?" Pure. The kind stays what it was, FAT12, FAT16 or FAT32: boot code and the partition's type depend on it.

Source: Microsoft, FAT specification (2005), section 3.5: the kind follows from the number of clusters, and "avoid
making volumes with a cluster count within 16 of" its borders.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from stillframe.units import align_up

_CLUSTERS: Final = {12: (1, 4084 - 16), 16: (4085 + 16, 65524 - 16), 32: (65525 + 16, 0x0FFFFFF4)}
"""The least and the most clusters of each kind."""
_CLUSTER_SIZE_MAX: Final = 32 << 10  # section 3.1: larger ones are not read everywhere
_CLUSTER_SECTORS_MAX: Final = 128
_SECTORS_MAX: Final = 0xFFFFFFFF
_ENTRY_SIZE: Final = 32

Needs = Callable[[int], int]
"""How many clusters of a size the files take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FatKind:
    """What stays the same at every size.

    Attributes:
        bits: Of a table entry.
        sector_size: Bytes of a sector, of the new volume.
        cluster_size: Bytes of a cluster, of the old volume.
        reserved_sectors: Before the first table.
        table_count: Copies of the table.
        root_entries: Entries of the root folder of FAT12 and FAT16.
    """

    bits: Literal[12, 16, 32]
    sector_size: int
    cluster_size: int
    reserved_sectors: int
    table_count: int
    root_entries: int

    @property
    def root_sectors(self) -> int:
        """Sectors of the root folder of FAT12 and FAT16."""
        return -(-self.root_entries * _ENTRY_SIZE // self.sector_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class FatShape:
    """A volume.

    Attributes:
        kind: Its kind.
        cluster_size: Bytes of a cluster.
        cluster_count: How many there are.
        table_sectors: Sectors of one copy of the table.
        sector_count: Sectors of the volume; may be fewer than there is room for.
    """

    kind: FatKind
    cluster_size: int
    cluster_count: int
    table_sectors: int
    sector_count: int

    @property
    def data_start(self) -> int:
        """Where cluster 2 begins."""
        kind = self.kind
        sectors = kind.reserved_sectors + kind.table_count * self.table_sectors + kind.root_sectors
        return sectors * kind.sector_size

    def place_of(self, cluster: int) -> int:
        """Where a cluster begins."""
        return self.data_start + (cluster - 2) * self.cluster_size


def choose_shape(kind: FatKind, size: int, needs: Needs) -> FatShape | None:
    """The layout of a volume of so many bytes that holds these files; ``None`` when there is none.

    The clusters stay as large as they were, where that is possible; else the nearest size is taken, smaller ones first.
    """
    fallback = None
    for cluster_size in _cluster_sizes(kind):
        shape, is_whole = _shape(kind, size, cluster_size)
        if shape is not None and needs(cluster_size) <= shape.cluster_count:
            if is_whole:
                return shape
            fallback = fallback or shape
    return fallback


def find_smallest(kind: FatKind, needs: Needs, reserve: int) -> int | None:
    """Bytes of the smallest volume that holds these files and so many free bytes; ``None`` when there is none."""
    found = list[int]()
    least, most = _CLUSTERS[kind.bits]
    for cluster_size in _cluster_sizes(kind):
        count = needs(cluster_size) + -(-reserve // cluster_size)
        if count <= most:
            found.append(_size_of(kind, cluster_size, max(count, least)))
    return min(found, default=None)


def _cluster_sizes(kind: FatKind) -> Iterator[int]:
    """Sizes of clusters that may be chosen, the best first."""
    most = min(max(_CLUSTER_SIZE_MAX, kind.cluster_size), _CLUSTER_SECTORS_MAX * kind.sector_size)
    sizes = [kind.sector_size << shift for shift in range(8) if kind.sector_size << shift <= most]
    yield from sorted((size for size in sizes if size <= kind.cluster_size), reverse=True)
    yield from (size for size in sizes if size > kind.cluster_size)


def _table_sectors(kind: FatKind, cluster_count: int) -> int:
    return -(-(cluster_count + 2) * kind.bits // (8 * kind.sector_size))


def _shape(kind: FatKind, size: int, cluster_size: int) -> tuple[FatShape | None, bool]:
    """A volume with clusters of a size, and whether it fills its room."""
    unit = cluster_size // kind.sector_size
    sectors = min(size // kind.sector_size, _SECTORS_MAX)
    before = kind.reserved_sectors + kind.root_sectors
    tables = _table_sectors(kind, max(0, sectors - before) // unit)  # for a few more than there will be
    count = (sectors - before - kind.table_count * tables) // unit
    least, most = _CLUSTERS[kind.bits]
    if count < least:
        return None, False
    is_whole = count <= most and sectors == size // kind.sector_size
    if count > most:
        count, tables = most, _table_sectors(kind, most)
        sectors = before + kind.table_count * tables + count * unit
    return FatShape(
        kind=kind, cluster_size=cluster_size, cluster_count=count, table_sectors=tables, sector_count=sectors
    ), is_whole  # fmt: skip


def _size_of(kind: FatKind, cluster_size: int, count: int) -> int:
    """Bytes that surely hold so many clusters: the table is counted as ``_shape`` counts it, for those of its room."""
    unit = cluster_size // kind.sector_size
    before = kind.reserved_sectors + kind.root_sectors
    sectors = before + count * unit
    while True:
        tables = kind.table_count * _table_sectors(kind, (sectors - before) // unit)
        needed = before + tables + count * unit
        if needed <= sectors:
            return align_up(needed * kind.sector_size, cluster_size)
        sectors = needed
