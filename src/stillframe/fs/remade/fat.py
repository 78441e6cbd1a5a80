"""A FAT volume made anew at another size, or for sectors of another size.

Answers: "what are the bytes of a volume of this size with the files of that one?" The boot sectors and what is kept
between them and the first table are taken over and told the new numbers; tables are new; folders have the entries that
they had; contents lie one behind the other, in the order of their folders.

Sources: Microsoft, FAT specification (2005), sections 3.1 to 3.3 (boot sector), 4 (table), 5 (FSInfo).
"""

import struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillframe.block import BlockReader, BlockWriter
from stillframe.errors import DiskFormatError
from stillframe.fs.fat import FatBoot, FatFilesystem, find_fat_boot
from stillframe.fs.remade.fat_shape import FatKind, FatShape, choose_shape, find_smallest
from stillframe.fs.remade.fat_tree import DOTS, ENTRY_SIZE, HINT, read_fat_tree
from stillframe.fs.remade.moved import Moved, Tree

_BOOT_SIZE: Final = 512
_SIGNATURE: Final = b"\x55\xaa"
_HIDDEN_AT: Final = 0x1C
_TABLE_STEP: Final = 3 << 18  # entries written together: a whole number of pairs
_COPY_STEP: Final = 1 << 20
_SECTORS16_MAX: Final = 0xFFFF
# Section 5: signatures of FSInfo, and where its numbers are.
_INFO_SIGNATURES: Final = ((0, b"RRaA"), (484, b"rrAa"))
_INFO_FREE, _INFO_NEXT = 488, 492
_SYSLINUX: Final = b"SYSLINUX"


class RemadeFat:
    """A FAT volume whose files were read, ready to be made at any size.

    Args:
        reader: The old volume.
        boot: Its boot sector.
        tree: Its files.
        sector_size: Of the new volume; as it was by default.
    """

    def __init__(self, reader: BlockReader, boot: FatBoot, tree: Tree, *, sector_size: int | None = None) -> None:
        self._reader = reader
        self._boot = boot
        self._tree = tree
        self._sector = reader.read_at(0, _BOOT_SIZE)
        (self._old_sector_size,) = struct.unpack_from("<H", self._sector, 0x0B)
        (reserved,), (entries,) = (struct.unpack_from("<H", self._sector, at) for at in (0x0E, 0x11))
        unit = (sector_size or self._old_sector_size) // ENTRY_SIZE
        self._kind = FatKind(
            bits=boot.bits, sector_size=sector_size or self._old_sector_size, cluster_size=boot.cluster_size,
            reserved_sectors=reserved, table_count=boot.table_count, root_entries=-(-entries // unit) * unit,
        )  # fmt: skip

    @property
    def notices(self) -> tuple[str, ...]:
        """What does not come along, in words."""
        words = ["deleted files and lost chains of clusters"]
        if self._sector[3:11] == _SYSLINUX:
            words.append("the start by SYSLINUX from a BIOS, which knows its file by sectors ('syslinux -i' mends it)")
        if self._kind.sector_size != self._old_sector_size:
            words.append("boot code for a BIOS, which counts in sectors of the old size")
        return tuple(words)

    def smallest(self, reserve: int) -> int:
        """Bytes that its files and so many free bytes need.

        Raises:
            DiskFormatError: There is no FAT of this kind that holds them.
        """
        found = find_smallest(self._kind, self._needs, reserve)
        if found is None:
            raise DiskFormatError(f"no FAT{self._kind.bits} with such sectors holds these files", hint=HINT)
        return found

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
        shape = choose_shape(self._kind, writer.size, self._needs)
        if shape is None:
            raise DiskFormatError(f"no FAT{self._kind.bits} of {writer.size} bytes holds these files", hint=HINT)
        root = -(-max(len(self._tree.folders[0].entries), 1) // shape.cluster_size) if self._boot.bits == 32 else 0
        counts = np.concatenate([np.array([root], np.int64), self._tree.clusters(shape.cluster_size)])
        starts = 2 + np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        self._write_boot(writer, shape, used=int(starts[-1]) - 2, start=start)
        self._write_tables(writer, shape, counts, starts)
        clusters = np.where(counts > 0, starts[:-1], 0)
        self._write_folders(writer, shape, clusters)
        places = (
            (shape.place_of(int(clusters[index + 1])), node)
            for index, node in enumerate(self._tree.nodes)
            if node.pieces
        )
        return Moved.of(places, end=shape.place_of(int(starts[-1])))

    def _needs(self, cluster_size: int) -> int:
        root = -(-max(len(self._tree.folders[0].entries), 1) // cluster_size) if self._boot.bits == 32 else 0
        return root + int(self._tree.clusters(cluster_size).sum())

    def _write_boot(self, writer: BlockWriter, shape: FatShape, *, used: int, start: int | None) -> None:
        """The boot sector, its copy, FSInfo, and what else is kept before the tables."""
        kind, unit = shape.kind, shape.kind.sector_size
        if unit == self._old_sector_size:
            end = kind.reserved_sectors * unit
            for offset in range(0, end, _COPY_STEP):
                writer.write_at(offset, self._reader.read_at(offset, min(_COPY_STEP, end - offset)))
        writer.write_at(0, self._told(self._sector, shape, start))
        if kind.bits != 32:
            return
        info, copy = struct.unpack_from("<HH", self._sector, 0x30)
        for number in {info, info + copy} if 0 < copy < kind.reserved_sectors else {info}:
            if info > 0 and number < kind.reserved_sectors:
                old = self._reader.read_at(number * self._old_sector_size, _BOOT_SIZE)
                writer.write_at(number * unit, _told_info(old, shape, used))
        if 0 < copy < kind.reserved_sectors:
            old = self._reader.read_at(copy * self._old_sector_size, _BOOT_SIZE)
            is_copy = old[510:] == _SIGNATURE and old[0x0B:_HIDDEN_AT] == self._sector[0x0B:_HIDDEN_AT]
            writer.write_at(copy * unit, self._told(old if is_copy else self._sector, shape, start))

    def _told(self, sector: bytes, shape: FatShape, start: int | None) -> bytes:
        """A boot sector with the new numbers."""
        kind, changed = shape.kind, bytearray(sector)
        is_wide = kind.bits == 32
        short = 0 if is_wide or shape.sector_count > _SECTORS16_MAX else shape.sector_count
        struct.pack_into(
            "<HBHBHH", changed, 0x0B, kind.sector_size, shape.cluster_size // kind.sector_size, kind.reserved_sectors,
            kind.table_count, kind.root_entries, short,
        )  # fmt: skip
        struct.pack_into("<H", changed, 0x16, 0 if is_wide else shape.table_sectors)
        struct.pack_into("<I", changed, 0x20, 0 if short else shape.sector_count)
        if is_wide:
            struct.pack_into("<IHHI", changed, 0x24, shape.table_sectors, 0, 0, 2)
        if start is not None:
            number = start // kind.sector_size
            struct.pack_into("<I", changed, _HIDDEN_AT, number if number <= 0xFFFFFFFF else 0)
        return bytes(changed)

    def _write_tables(
        self, writer: BlockWriter, shape: FatShape, counts: NDArray[np.int64], starts: NDArray[np.int64]
    ) -> None:
        """Every copy of the table: each chain names the cluster behind, up to its end."""
        bits = shape.kind.bits
        last = (1 << min(bits, 28)) - 1
        ends = (starts[:-1] + counts - 1)[counts > 0]
        after = int(starts[-1])
        for first in range(0, after, _TABLE_STEP):
            length = min(_TABLE_STEP, after - first)
            entries = np.arange(first + 1, first + 1 + length, dtype=np.uint32)
            entries[(ends[(ends >= first) & (ends < first + length)] - first).astype(np.int64)] = last
            if not first:
                entries[:2] = (last & ~0xFF) | self._boot.media, last
            raw = pack_entries(entries, bits)
            for copy in range(shape.kind.table_count):
                place = (shape.kind.reserved_sectors + copy * shape.table_sectors) * shape.kind.sector_size
                writer.write_at(place + first * bits // 8, raw)

    def _write_folders(self, writer: BlockWriter, shape: FatShape, clusters: NDArray[np.int64]) -> None:
        """Every folder, its entries naming the new clusters."""
        is_wide = shape.kind.bits == 32
        own = {node.child: int(clusters[index + 1]) for index, node in enumerate(self._tree.nodes) if node.child >= 0}
        folders = [bytearray(folder.entries) for folder in self._tree.folders]
        for index, node in enumerate(self._tree.nodes):
            _name_cluster(folders[node.folder], node.offset, int(clusters[index + 1]), is_wide=is_wide)
        for number, (folder, entries) in enumerate(zip(self._tree.folders, folders, strict=True)):
            # The folder above is named 0 when it is the root, also where that has a cluster. Section 6.5.
            for name, cluster in zip(DOTS, (own.get(number, 0), own.get(folder.parent, 0)), strict=True):
                for offset in range(0, min(2 * ENTRY_SIZE, len(entries)), ENTRY_SIZE):
                    if entries[offset : offset + 11] == name:
                        _name_cluster(entries, offset, cluster, is_wide=is_wide)
            if number:
                place = shape.place_of(own[number])
            else:
                place = shape.place_of(2) - (0 if is_wide else shape.kind.root_sectors * shape.kind.sector_size)
            writer.write_at(place, bytes(entries))


def read_fat(reader: BlockReader, *, sector_size: int | None = None) -> RemadeFat:
    """Read the files of a FAT volume.

    Args:
        reader: The volume.
        sector_size: Bytes of a sector of what will be made of it; as it was by default.

    Raises:
        DiskFormatError: It was not closed, or a file cannot be read whole.
        ReadFault: The device failed.
    """
    used = FatFilesystem().used_map(reader)
    doubts = [notice for notice in used.notices if used.kind == "raw" or notice.code == "fat-copies-differ"]
    boot = find_fat_boot(reader)
    if doubts or boot is None or not boot.is_mirrored:
        why = doubts[0].message.split(";")[0] if doubts else "Only one of its tables is kept up"
        raise DiskFormatError(f"{why[:1].lower()}{why[1:]}", hint=HINT)
    return RemadeFat(reader, boot, read_fat_tree(reader, boot), sector_size=sector_size)


def pack_entries(entries: NDArray[np.uint32], bits: int) -> bytes:
    """A piece of a table, as ``fat.unpack_entries`` reads it; of FAT12, from an even entry on."""
    if bits != 12:
        return entries.astype("<u4" if bits == 32 else "<u2").tobytes()
    pairs = np.concatenate([entries, np.zeros(len(entries) % 2, np.uint32)]).reshape(-1, 2)
    packed = np.empty((len(pairs), 3), np.uint8)
    packed[:, 0] = pairs[:, 0] & 0xFF
    packed[:, 1] = pairs[:, 0] >> 8 | (pairs[:, 1] & 15) << 4
    packed[:, 2] = pairs[:, 1] >> 4
    return packed.tobytes()


def _name_cluster(entries: bytearray, offset: int, cluster: int, *, is_wide: bool) -> None:
    struct.pack_into("<H", entries, offset + 26, cluster & 0xFFFF)
    if is_wide:
        struct.pack_into("<H", entries, offset + 20, cluster >> 16)


def _told_info(sector: bytes, shape: FatShape, used: int) -> bytes:
    """FSInfo with the new numbers; what is not one stays as it is."""
    if any(sector[at : at + 4] != name for at, name in _INFO_SIGNATURES):
        return sector
    changed = bytearray(sector)
    struct.pack_into("<II", changed, _INFO_FREE, shape.cluster_count - used, 2 + used)
    return bytes(changed)
