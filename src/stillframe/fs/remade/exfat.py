"""An exFAT volume made anew at another size, or for sectors of another size.

Answers: "what are the bytes of a volume of this size with the files of that one?" The boot regions are taken over and
told the new numbers; bitmap and FAT are new; folders have the entries that they had; contents lie one behind the other.

Source: Microsoft, "exFAT file system specification" 1.00, sections in the comments.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillframe.block import BlockReader, BlockWriter
from stillframe.errors import DiskFormatError
from stillframe.fs.exfat import ExfatBoot, ExfatFilesystem, compute_boot_checksum, find_exfat_boot
from stillframe.fs.remade.exfat_tree import (
    BITMAP,
    END_OF_CHAIN,
    ENTRY_SIZE,
    HINT,
    UPCASE,
    ExfatTree,
    iter_entries,
    read_exfat_tree,
    set_checksum,
)
from stillframe.fs.remade.moved import Moved, Node
from stillframe.units import MIB, align_up

_REGION_SECTORS: Final = 12
_ALIGNMENT_MAX: Final = 4 * MIB
_CLUSTERS_MAX: Final = 0xFFFFFFF5  # 3.1.9
_CLUSTER_SIZE_MAX: Final = 32 * MIB  # 3.1.15
_SIZE_MIN: Final = MIB  # 3.1.6: VolumeLength
_BITMAP_STEP: Final = 1 << 23
_EXTENDED_SIGNATURE: Final = b"\x00\x00\x55\xaa"  # 3.2.2
_FLAGS: Final = 3  # 6.3.4: it has clusters, and they follow each other


@dataclass(frozen=True, slots=True, kw_only=True)
class ExfatShape:
    """How a volume of a size is laid out, in bytes where not said otherwise."""

    sector_size: int
    cluster_size: int
    cluster_count: int
    table_start: int
    table_size: int
    heap_start: int

    def place_of(self, cluster: int) -> int:
        """Where a cluster begins."""
        return self.heap_start + (cluster - 2) * self.cluster_size


@dataclass(frozen=True, slots=True, kw_only=True)
class _Places:
    """First clusters and numbers of clusters: bitmap, table of capital letters, root, then the nodes."""

    starts: NDArray[np.int64]
    counts: NDArray[np.int64]

    @property
    def used(self) -> int:
        """Clusters in use."""
        return int(self.counts.sum())

    def first(self, index: int) -> int:
        """The first cluster of one; 0 for what has none."""
        return int(self.starts[index]) if self.counts[index] else 0


_BITMAP_AT, _UPCASE_AT, _ROOT_AT, _NODES_FROM = range(4)


class RemadeExfat:
    """An exFAT volume whose files were read, ready to be made at any size.

    Args:
        reader: The old volume.
        boot: Its boot sector.
        found: Its files.
        sector_size: Of the new volume; as it was by default.
    """

    def __init__(
        self, reader: BlockReader, boot: ExfatBoot, found: ExfatTree, *, sector_size: int | None = None
    ) -> None:
        self._reader = reader
        self._boot = boot
        self._found = found
        self._tree = found.tree
        self._sector_size = sector_size or boot.sector_size

    @property
    def notices(self) -> tuple[str, ...]:
        """What does not come along, in words."""
        words = ["deleted files and lost clusters"]
        if self._sector_size != self._boot.sector_size:
            words.append("boot code for a BIOS, which counts in sectors of the old size")
        return tuple(words)

    def smallest(self, reserve: int) -> int:
        """Bytes that its files and so many free bytes need."""
        size = _SIZE_MIN
        while True:
            shape = self._shape(size)
            missing = self._places(shape).used + -(-reserve // shape.cluster_size) - shape.cluster_count
            if missing <= 0:
                return size
            size = align_up(size + missing * (shape.cluster_size + 4), shape.sector_size)

    def write(self, writer: BlockWriter, *, start: int | None) -> Moved:
        """Write everything but the contents of files; what is written reads as zeros before.

        Args:
            writer: As large as the new volume.
            start: Where it will begin on its disk; ``None`` leaves what the old one says.

        Returns:
            Where contents come from.

        Raises:
            DiskFormatError: It does not fit.
        """
        shape = self._shape(writer.size)
        places = self._places(shape)
        if writer.size < _SIZE_MIN or places.used > shape.cluster_count:
            raise DiskFormatError(f"no exFAT of {writer.size} bytes holds these files", hint=HINT)
        for offset in (0, _REGION_SECTORS * shape.sector_size):
            writer.write_at(offset, self._region(shape, places, writer.size, start))
        self._write_table(writer, shape, places)
        _write_bitmap(writer, shape, places)
        self._write_folders(writer, shape, places)
        upcase = Node(0, 0, 0, self._found.upcase_pieces, -1)
        nodes = [(_UPCASE_AT, upcase)] + [(_NODES_FROM + index, node) for index, node in enumerate(self._tree.nodes)]
        shown = ((shape.place_of(places.first(index)), node) for index, node in nodes if node.pieces)
        return Moved.of(shown, end=shape.place_of(2 + places.used))

    def _shape(self, size: int) -> ExfatShape:
        """The layout; clusters are as large as they were, unless sectors or their number ask for larger ones."""
        sector = self._sector_size
        cluster = max(self._boot.cluster_size, sector)
        while size // cluster > _CLUSTERS_MAX and cluster < _CLUSTER_SIZE_MAX:
            cluster *= 2
        old = self._boot.heap_start
        alignment = min(old & -old, _ALIGNMENT_MAX, max(sector, 1 << max((size >> 6).bit_length() - 1, 0)))
        alignment = max(alignment, sector)
        table_start = align_up(2 * _REGION_SECTORS * sector, min(alignment, MIB))
        table_size = align_up((size // cluster + 2) * 4, sector)
        heap_start = align_up(table_start + table_size, alignment)
        count = min(max(0, size - heap_start) // cluster, _CLUSTERS_MAX)
        return ExfatShape(
            sector_size=sector, cluster_size=cluster, cluster_count=count, table_start=table_start,
            table_size=table_size, heap_start=heap_start,
        )  # fmt: skip

    def _places(self, shape: ExfatShape) -> _Places:
        unit = shape.cluster_size
        upcase = sum(size for _, size in self._found.upcase_pieces)
        own = [-(-shape.cluster_count // 8), upcase, len(self._tree.folders[0].entries)]
        counts = np.concatenate([
            np.array([max(1, -(-size // unit)) for size in own], np.int64), self._tree.clusters(unit),
        ])  # fmt: skip
        return _Places(starts=2 + np.cumsum(counts) - counts, counts=counts)

    def _region(self, shape: ExfatShape, places: _Places, size: int, start: int | None) -> bytes:
        """A boot region (3): boot sector, extended boot sectors, OEM parameters, reserved sector, checksum."""
        old, sector = self._boot.sector_size, shape.sector_size
        if sector == old:
            region = bytearray(self._reader.read_at(0, _REGION_SECTORS * sector))
        else:
            region = bytearray(_REGION_SECTORS * sector)
            region[:512] = self._reader.read_at(0, 512)
            for number in range(1, 9):
                region[(number + 1) * sector - 4 : (number + 1) * sector] = _EXTENDED_SIGNATURE
        shift = sector.bit_length() - 1
        if start is not None:
            struct.pack_into("<Q", region, 0x40, start >> shift)
        struct.pack_into(
            "<QIIIII", region, 0x48, size >> shift, shape.table_start >> shift, shape.table_size >> shift,
            shape.heap_start >> shift, shape.cluster_count, places.first(_ROOT_AT),
        )  # fmt: skip
        struct.pack_into("<H", region, 0x6A, 0)  # 3.1.13: nothing is in use, nothing has failed
        region[0x6C], region[0x6D], region[0x6E] = shift, (shape.cluster_size // sector).bit_length() - 1, 1
        region[0x70] = places.used * 100 // shape.cluster_count  # 3.1.19
        checksum = compute_boot_checksum(bytes(region[: 11 * sector]))
        region[11 * sector :] = checksum.to_bytes(4, "little") * (sector // 4)
        return bytes(region)

    def _write_table(self, writer: BlockWriter, shape: ExfatShape, places: _Places) -> None:
        """The FAT: only what no entry says to be one run has a chain there (4.1)."""
        count = int(places.counts[:_NODES_FROM].sum())
        entries = np.arange(1, count + 3, dtype=np.uint32)
        entries[:2] = 0xFFFFFFF8, END_OF_CHAIN
        ends = places.starts[:_NODES_FROM] + places.counts[:_NODES_FROM] - 1
        entries[ends] = END_OF_CHAIN
        writer.write_at(shape.table_start, entries.astype("<u4").tobytes())

    def _write_folders(self, writer: BlockWriter, shape: ExfatShape, places: _Places) -> None:
        """Every folder, its sets naming the new clusters."""
        folders = [bytearray(folder.entries) for folder in self._tree.folders]
        own = {node.child: _NODES_FROM + index for index, node in enumerate(self._tree.nodes) if node.child >= 0}
        _name_tables(folders[0], shape, places)
        for index, node in enumerate(self._tree.nodes):
            entries, at = folders[node.folder], node.offset
            cluster = places.first(_NODES_FROM + index)
            entries[at + 1] = _FLAGS if cluster else entries[at + 1] & ~(_FLAGS & 2)
            struct.pack_into("<I", entries, at + 20, cluster)
            if node.child >= 0:
                size = int(places.counts[_NODES_FROM + index]) * shape.cluster_size
                struct.pack_into("<Q", entries, at + 8, size)
                struct.pack_into("<Q", entries, at + 24, size)
        for number, entries in enumerate(folders):
            for at, end in _iter_sets(entries):
                struct.pack_into("<H", entries, at + 2, set_checksum(bytes(entries[at:end])))
            writer.write_at(shape.place_of(places.first(own.get(number, _ROOT_AT))), bytes(entries))


def read_exfat(reader: BlockReader, *, sector_size: int | None = None) -> RemadeExfat:
    """Read the files of an exFAT volume.

    Args:
        reader: The volume.
        sector_size: Bytes of a sector of what will be made of it; as it was by default.

    Raises:
        DiskFormatError: It was not closed, it keeps two tables, or a file cannot be read whole.
        ReadFault: The device failed.
    """
    used = ExfatFilesystem().used_map(reader)
    boot = find_exfat_boot(reader)
    if used.kind == "raw" or boot is None:
        why = used.notices[0].message.split(";")[0] if used.notices else "Its boot region is broken"
        raise DiskFormatError(f"{why[:1].lower()}{why[1:]}", hint=HINT)
    if reader.read_at(0x6E, 1) != b"\x01":  # 3.1.16: TexFAT, of Windows CE only
        raise DiskFormatError("the exFAT volume keeps two tables", hint=HINT)
    return RemadeExfat(reader, boot, read_exfat_tree(reader, boot), sector_size=sector_size)


def _write_bitmap(writer: BlockWriter, shape: ExfatShape, places: _Places) -> None:
    """The first clusters are in use, all others are free."""
    place = shape.place_of(places.first(_BITMAP_AT))
    for first in range(0, places.used, _BITMAP_STEP):
        bits = np.ones(min(_BITMAP_STEP, places.used - first), np.bool_)
        writer.write_at(place + first // 8, np.packbits(bits, bitorder="little").tobytes())


def _name_tables(root: bytearray, shape: ExfatShape, places: _Places) -> None:
    """The entries of the bitmap (7.1) and of the table of capital letters (7.2)."""
    for at, entry in iter_entries(bytes(root)):
        if entry[0] == BITMAP:
            struct.pack_into("<IQ", root, at + 20, places.first(_BITMAP_AT), -(-shape.cluster_count // 8))
        elif entry[0] == UPCASE:
            struct.pack_into("<I", root, at + 20, places.first(_UPCASE_AT))


def _iter_sets(entries: bytearray) -> Iterator[tuple[int, int]]:
    """Where the sets of files begin and end."""
    at = 0
    while at < len(entries):
        end = at + ENTRY_SIZE * (1 + entries[at + 1] if entries[at] == 0x85 else 1)
        if entries[at] == 0x85:
            yield at, end
        at = end
