"""FAT12, FAT16 and FAT32: name and used map.

Answers: "which clusters of this FAT volume hold something, and was it closed?" It follows no file.

FAT has no journal. A cluster is kept when any copy of the table gives it an entry that is neither 0 (free) nor the
mark of a bad cluster; everything before the first cluster and behind the last is kept always. While a volume is in use
a flag says so. With that flag the volume is kept whole: a file of one cluster can be read without its table entry,
so directories may name clusters that the table does not have yet.

Source: Microsoft, "FAT: General Overview of On-Disk Format" 1.03; ECMA-107; Linux fs/fat (the dirty flag in the boot
sector); the names as util-linux libblkid/src/superblocks/vfat.c finds them.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from stillframe.block import BlockReader
from stillframe.errors import DiskFormatError
from stillframe.events import Notice
from stillframe.extents import Extent, ExtentSet
from stillframe.fs.base import LeftOutFile, UsedMap, Volume, raw_map

# Microsoft's limits: fewer than 4085 clusters is FAT12, fewer than 65525 FAT16. Windows' own driver draws the first
# line at 4087, so 4085 and 4086 are read differently by different systems.
_FAT16_FROM: Final = 4085
_FAT16_SURELY_FROM: Final = 4087
_FAT16_CLUSTERS_MAX: Final = 65524
_FAT32_CLUSTERS_MAX: Final = 0x0FFFFFF5
_ROOT_ENTRY_SIZE: Final = 32
_CHUNK_SIZE: Final = 3 << 20  # of a table; a whole number of FAT12's groups of three bytes
_EXTENT_COUNT_MAX: Final = 1 << 25
_LABEL_CLUSTERS_MAX: Final = 100  # libblkid looks through as many clusters of the root directory
_TYPE_NAMES: Final = (b"FAT12   ", b"FAT16   ", b"FAT     ", b"MSDOS")
# BitLocker dresses its volumes as FAT32 (util-linux libblkid/src/superblocks/bitlocker.c).
_BITLOCKER_NAME: Final = b"-FVE-FS-"
_BITLOCKER_TO_GO: Final = (
    bytes.fromhex("3bd66749292ed84a8399f6a339e3d001"),
    bytes.fromhex("3b4da89280dd0e4d9e4eb1e3284eaed8"),
)
# OS/2 puts a FAT-like first sector in front of these (vfat.c).
_OS2_NAMES: Final = (b"HPFS    ", b"JFS     ")
_HINT: Final = "Run chkdsk on the volume in Windows, or fsck.fat in Linux."

Entries = NDArray[np.uint32]


@dataclass(frozen=True, slots=True, kw_only=True)
class FatBoot:
    """What the boot sector says, in bytes where not said otherwise.

    Attributes:
        bits: Of a table entry: 12, 16 or 32.
        cluster_size: Bytes of a cluster.
        cluster_count: Clusters that exist and have an entry.
        table_start, table_size, table_count: Where the copies of the table lie, one behind the other.
        root_start, root_size: The root directory of FAT12 and FAT16; size 0 in FAT32.
        root_cluster: First cluster of the root directory of FAT32.
        data_start: Where cluster 2 begins.
        media: The media byte, which entry 0 repeats.
        serial: The volume's serial number; ``None`` when there is none.
        is_mirrored: Whether all copies of the table are kept equal.
        was_in_use: The flag in the boot sector that Linux and Windows set while they use the volume.
        from_backup: Whether this is FAT32's copy of the boot sector.
    """

    bits: Literal[12, 16, 32]
    cluster_size: int
    cluster_count: int
    table_start: int
    table_size: int
    table_count: int
    root_start: int
    root_size: int
    root_cluster: int
    data_start: int
    media: int
    serial: int | None
    is_mirrored: bool
    was_in_use: bool
    from_backup: bool = False

    @property
    def end(self) -> int:
        """Where the last cluster ends."""
        return self.data_start + self.cluster_count * self.cluster_size

    @property
    def bad_mark(self) -> int:
        """The entry of a bad cluster."""
        return {12: 0xFF7, 16: 0xFFF7, 32: 0x0FFFFFF7}[self.bits]


class FatFilesystem:
    """FAT12, FAT16 and FAT32, as the seam ``Filesystem`` wants them."""

    def identify(self, reader: BlockReader) -> Volume | None:
        """What the volume is."""
        boot = find_fat_boot(reader)
        if boot is None:
            return None
        uuid = "" if not boot.serial else f"{boot.serial >> 16:04X}-{boot.serial & 0xFFFF:04X}"
        return Volume(filesystem="vfat", label=read_label(reader, boot), uuid=uuid, block_size=boot.cluster_size)

    def used_map(self, reader: BlockReader) -> UsedMap:
        """The clusters in use, all that lies before and behind them, and the verdict."""
        boot = find_fat_boot(reader)
        if boot is None:
            raise DiskFormatError("FAT boot sector: not found", hint=_HINT)
        if boot.from_backup:
            # Linux writes its flag into the first boot sector only, so nothing says whether the volume is in use.
            message = "The FAT boot sector is broken; the volume is kept whole"
            return raw_map(reader, Notice(code="fat-backup-boot", message=message, hint=_HINT))
        if boot.bits != 32 and _FAT16_FROM <= boot.cluster_count < _FAT16_SURELY_FROM:
            message = f"With {boot.cluster_count} clusters a volume is FAT12 or FAT16; it is kept whole"
            return raw_map(reader, Notice(code="fat-ambiguous", message=message))
        heads = [_read_head(reader, boot, copy) for copy in range(boot.table_count)]
        if all(int(head[0]) & 0xFF != boot.media for head in heads):
            raise DiskFormatError(
                f"FAT table: entry 0 is {int(heads[0][0]):#x}, expected it to end in {boot.media:#x}", hint=_HINT
            )
        closed, healthy = {12: (0, 0), 16: (0x8000, 0x4000), 32: (0x08000000, 0x04000000)}[boot.bits]
        if boot.was_in_use or any(closed and not int(head[1]) & closed for head in heads):
            message = "The FAT volume was not unmounted properly; it is kept whole"
            return raw_map(reader, Notice(code="fat-dirty", message=message, hint=_HINT))
        notices: tuple[Notice, ...] = ()
        if any(healthy and not int(head[1]) & healthy for head in heads):
            notices += (Notice(code="fat-disk-errors", message="The FAT volume noted disk errors", hint=_HINT),)
        used, differ = _read_tables(reader, boot)
        if differ and boot.is_mirrored:
            message = "The copies of the FAT table differ; what any of them has in use is kept"
            notices += (Notice(code="fat-copies-differ", message=message, hint=_HINT),)
        around = ExtentSet.of(Extent(0, boot.data_start), Extent(boot.end, reader.size))
        return UsedMap(extents=used | around, kind="used", notices=notices)

    def left_out(self, reader: BlockReader) -> tuple[LeftOutFile, ...]:  # noqa: ARG002 the seam asks all alike
        """None: no Windows since Vista can be installed on FAT."""
        return ()


def find_fat_boot(reader: BlockReader) -> FatBoot | None:
    """Find the boot sector; for FAT32 with a broken one, its copy in sector 6.

    Raises:
        DiskFormatError: It says that it is FAT, its fields cannot be, and there is no good copy.
    """
    if reader.size < 4096:
        return None
    sector = reader.read_at(0, 512)
    if not _may_be_fat(sector):
        return None
    named = sector[0x52:0x5A] == b"FAT32   " or sector[0x36:0x3E].startswith(_TYPE_NAMES)
    try:
        return parse_fat_boot(sector, partition_size=reader.size)
    except DiskFormatError:
        if not named:
            return None
        for sector_size in (512, 1024, 2048, 4096):
            # Windows always puts the copy in sector 6 ("BPB_BkBootSec: no value other than 6 is recommended").
            place = 6 * sector_size
            copy = reader.read_at(place, 512) if place + 512 <= reader.size else b""
            if copy[0x52:0x5A] == b"FAT32   " and _may_be_fat(copy):
                try:
                    return parse_fat_boot(copy, partition_size=reader.size, from_backup=True)
                except DiskFormatError:
                    continue
        raise


def _may_be_fat(sector: bytes) -> bool:
    """Whether the sector can be FAT's at all, and is not one of those that only look like it."""
    if sector[510:512] != b"\x55\xaa" and sector[0x52:0x5A] != b"FAT32   " and sector[0x36:0x3B] != b"MSDOS":
        return False
    if sector[3:11] in (_BITLOCKER_NAME, b"NTFS    ", b"EXFAT   ") or sector[424:440] in _BITLOCKER_TO_GO:
        return False
    return sector[0x36:0x3E] not in _OS2_NAMES


def parse_fat_boot(sector: bytes, *, partition_size: int, from_backup: bool = False) -> FatBoot:
    """Parse one boot sector.

    Args:
        sector: Its first 512 bytes.
        partition_size: Bytes of the partition; the volume must fit into it.
        from_backup: Said of the result.

    Raises:
        DiskFormatError: A field cannot be.
    """
    sector_size, cluster_sectors, reserved, table_count = struct.unpack_from("<HBHB", sector, 0x0B)
    root_entries, sectors16, media, table_sectors16 = struct.unpack_from("<HHBH", sector, 0x11)
    (sectors32,) = struct.unpack_from("<I", sector, 0x20)
    wide = table_sectors16 == 0  # fastfat and Linux alike: no 16-bit table size means FAT32
    table_sectors32, flags, version, root_cluster = struct.unpack_from("<IHHI", sector, 0x24)
    table_sectors = table_sectors32 if wide else table_sectors16
    _demand(sector_size in (512, 1024, 2048, 4096), "sector size", sector_size)
    _demand(_is_power_of_two(cluster_sectors), "sectors per cluster", cluster_sectors)
    _demand(reserved > 0, "reserved sectors", reserved)
    _demand(1 <= table_count <= 16, "number of tables", table_count)
    _demand(media == 0xF0 or media >= 0xF8, "media byte", media)
    _demand(table_sectors > 0, "sectors per table", table_sectors)
    _demand(not wide or (root_entries == 0 and version == 0), "FAT32 version", version)
    _demand(wide or root_entries > 0, "root directory entries", root_entries)
    sector_count = sectors16 or sectors32
    _demand(0 < sector_count * sector_size <= partition_size, "sector count", sector_count)
    root_sectors = -(-root_entries * _ROOT_ENTRY_SIZE // sector_size)
    root_sector = reserved + table_count * table_sectors
    cluster_count = (sector_count - root_sector - root_sectors) // cluster_sectors
    _demand(0 < cluster_count <= (_FAT32_CLUSTERS_MAX if wide else _FAT16_CLUSTERS_MAX), "clusters", cluster_count)
    bits: Literal[12, 16, 32] = 32 if wide else 12 if cluster_count < _FAT16_FROM else 16
    # Clusters without a table entry cannot be used by a file; they count as tail and are kept.
    cluster_count = min(cluster_count, table_sectors * sector_size * 8 // bits - 2)
    _demand(not wide or 2 <= root_cluster < cluster_count + 2, "root cluster", root_cluster)
    signature, serial = struct.unpack_from("<BI", sector, 0x42 if wide else 0x26)
    return FatBoot(
        bits=bits,
        cluster_size=cluster_sectors * sector_size,
        cluster_count=cluster_count,
        table_start=reserved * sector_size,
        table_size=table_sectors * sector_size,
        table_count=table_count,
        root_start=root_sector * sector_size,
        root_size=root_sectors * sector_size,
        root_cluster=root_cluster if wide else 0,
        data_start=(root_sector + root_sectors) * sector_size,
        media=media,
        serial=serial if wide or signature in (0x28, 0x29) else None,
        # BPB_ExtFlags bit 7: only the table that bits 0 to 3 name is kept up.
        is_mirrored=not (wide and flags & 0x80),
        was_in_use=bool(sector[0x41 if wide else 0x25] & 1),
        from_backup=from_backup,
    )


def _demand(fulfilled: bool, name: str, found: int) -> None:
    if not fulfilled:
        raise DiskFormatError(f"FAT boot sector: {name} cannot be {found}", hint=_HINT)


def _is_power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


def unpack_entries(raw: bytes, bits: Literal[12, 16, 32]) -> Entries:
    """The entries of a piece of a table; for FAT12 whole groups of three bytes are used."""
    if bits == 32:
        return np.frombuffer(raw, "<u4", len(raw) // 4) & np.uint32(0x0FFFFFFF)
    if bits == 16:
        return np.frombuffer(raw, "<u2", len(raw) // 2).astype(np.uint32)
    groups = np.frombuffer(raw, np.uint8, len(raw) // 3 * 3).reshape(-1, 3).astype(np.uint32)
    pairs = np.empty((len(groups), 2), np.uint32)
    pairs[:, 0] = groups[:, 0] | (groups[:, 1] & 15) << 8
    pairs[:, 1] = groups[:, 1] >> 4 | groups[:, 2] << 4
    return pairs.reshape(-1)


def _read_head(reader: BlockReader, boot: FatBoot, copy: int) -> Entries:
    """The first few entries of one copy of the table; 0 and 1 hold the media byte and flags."""
    return unpack_entries(reader.read_at(boot.table_start + copy * boot.table_size, 12), boot.bits)


def _iter_used(reader: BlockReader, boot: FatBoot) -> Iterator[tuple[NDArray[np.bool_], bool]]:
    """For each piece of the table: which entries any copy has in use, and whether the copies differ in that."""
    entry_count = boot.cluster_count + 2
    size = -(-entry_count * boot.bits // 8)
    for offset in range(0, size, _CHUNK_SIZE):
        length = min(_CHUNK_SIZE, size - offset)
        used: NDArray[np.bool_] | None = None
        differ = False
        for copy in range(boot.table_count):
            raw = reader.read_at(boot.table_start + copy * boot.table_size + offset, length)
            entries = unpack_entries(raw + bytes(-len(raw) % 3) if boot.bits == 12 else raw, boot.bits)
            mask = (entries != 0) & (entries != boot.bad_mark)
            differ |= used is not None and not np.array_equal(used, mask)
            used = mask if used is None else used | mask
        if used is not None:
            yield used[: max(entry_count - offset * 8 // boot.bits, 0)], differ


def _read_tables(reader: BlockReader, boot: FatBoot) -> tuple[ExtentSet, bool]:
    """The clusters that any copy of the table has in use, and whether the copies differ."""
    starts, ends = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    extent_count, first_cluster, differ = 0, -2, False
    for used, piece_differs in _iter_used(reader, boot):
        if first_cluster < 0:
            used[:2] = False  # entries 0 and 1 belong to no cluster
        base = boot.data_start + first_cluster * boot.cluster_size
        piece = ExtentSet.from_mask(used, unit=boot.cluster_size, base=base)
        starts.append(piece.starts)
        ends.append(piece.ends)
        differ |= piece_differs
        first_cluster += len(used)
        extent_count += len(piece)
        if extent_count > _EXTENT_COUNT_MAX:
            raise DiskFormatError(f"FAT table: more than {_EXTENT_COUNT_MAX} pieces in use", hint=_HINT)
    clusters = ExtentSet.from_arrays(np.concatenate(starts), np.concatenate(ends))
    root = _cluster_extent(boot, boot.root_cluster)
    if root is not None and not clusters.contains(root):
        raise DiskFormatError(f"FAT table: the root directory's cluster {boot.root_cluster} is free", hint=_HINT)
    return clusters, differ


def _cluster_extent(boot: FatBoot, cluster: int) -> Extent | None:
    """Where a cluster lies; ``None`` for a number that is no cluster's."""
    if not 2 <= cluster < boot.cluster_count + 2:
        return None
    start = boot.data_start + (cluster - 2) * boot.cluster_size
    return Extent(start, start + boot.cluster_size)


def read_label(reader: BlockReader, boot: FatBoot) -> str:
    """The label in the root directory; empty when there is none. The boot sector's own is out of date in Windows."""
    for piece in _iter_root(reader, boot):
        entries = np.frombuffer(piece, np.uint8).reshape(-1, _ROOT_ENTRY_SIZE)
        ends = np.flatnonzero(entries[:, 0] == 0)
        entries = entries[: ends[0]] if len(ends) else entries
        # 0x0F is a long name, 0x08 the label, 0x10 a directory, 0xE5 deleted; a label has no cluster.
        attributes = entries[:, 11] & 0x3F
        labels = (entries[:, 0] != 0xE5) & (attributes != 0x0F) & (attributes & 0x18 == 0x08)
        labels &= ~entries[:, [20, 21, 26, 27]].any(axis=1)
        for index in np.flatnonzero(labels)[:1]:
            name = entries[index, :11].tobytes()
            name = b"\xe5" + name[1:] if name[0] == 0x05 else name
            return name.decode("cp850").rstrip(" ").rstrip("\0")
    return ""


def _iter_root(reader: BlockReader, boot: FatBoot) -> Iterator[bytes]:
    """The root directory: at its fixed place, or a few clusters of its chain."""
    if boot.bits != 32:
        yield reader.read_at(boot.root_start, boot.root_size)  # whole sectors, so whole entries
        return
    cluster = boot.root_cluster
    for _ in range(_LABEL_CLUSTERS_MAX):
        extent = _cluster_extent(boot, cluster)
        if extent is None:
            return
        yield reader.read_at(extent.start, extent.size)
        cluster = int.from_bytes(reader.read_at(boot.table_start + 4 * cluster, 4), "little") & 0x0FFFFFFF
