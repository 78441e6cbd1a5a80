"""exFAT: name and used map.

Answers: "which clusters of this exFAT volume hold something, and was it closed?" It follows no file: files without
fragments have no entries in the FAT, so only the allocation bitmap knows.

exFAT has no journal. While a volume is in use a flag says so; with it the volume is kept whole, because directories
may name clusters that the bitmap on disk does not have yet. Everything before the cluster heap and behind the last
cluster is kept always.

Source: Microsoft, "exFAT file system specification" 1.00, sections in the comments.
"""

import struct
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from stillframe.block import BlockReader
from stillframe.errors import DiskFormatError
from stillframe.events import Notice
from stillframe.extents import Extent, ExtentSet
from stillframe.fs.base import LeftOutFile, UsedMap, Volume, raw_map

_NAME: Final = b"EXFAT   "
_BOOT_SECTORS: Final = 12  # 3: boot sector, 8 extended, OEM parameters, reserved, checksum; then the same again
_EXTENDED_SIGNATURE: Final = b"\x00\x00\x55\xaa"  # 3.2.2, the last bytes of sectors 1 to 8
_SECTOR_SIZES: Final = (512, 1024, 2048, 4096)  # 3.1.14
_CLUSTER_SHIFT_MAX: Final = 25  # 3.1.15: 32 MiB
_CLUSTER_COUNT_MAX: Final = 0xFFFFFFF5  # 3.1.9
# 3.1.13: bit 0 the second FAT and bitmap are active, bit 1 the volume is in use, bit 2 the medium failed.
_ACTIVE_SECOND, _IN_USE, _MEDIA_FAILURE = 1, 2, 4
# 7: types of the root directory's entries, with the bit that says "in use".
_END_OF_DIRECTORY, _BITMAP_ENTRY, _LABEL_ENTRY = 0x00, 0x81, 0x83
_ENTRY_SIZE: Final = 32
_LABEL_COUNT_MAX: Final = 11  # 7.3.2, in UTF-16 units
_DIRECTORY_SIZE_MAX: Final = 256 << 20  # 7.4: DataLength of a directory
_TABLE_WINDOW: Final = 64 << 10
_READ_SIZE: Final = 1 << 20
_EXTENT_COUNT_MAX: Final = 1 << 25
_HINT: Final = "Run chkdsk on the volume in Windows, or fsck.exfat in Linux."

_Number = TypeVar("_Number", int, NDArray[np.int64])


@dataclass(frozen=True, slots=True, kw_only=True)
class ExfatBoot:
    """What the boot sector says, in bytes where not said otherwise.

    Attributes:
        sector_size, cluster_size: Bytes of each.
        table_start, table_size: The FAT that is active.
        heap_start: Where cluster 2 begins.
        cluster_count: Clusters of the heap.
        root_cluster: First cluster of the root directory.
        serial: The volume's serial number.
        flags: ``VolumeFlags``.
        from_backup: Whether this is the copy in sectors 12 to 23.
    """

    sector_size: int
    cluster_size: int
    table_start: int
    table_size: int
    heap_start: int
    cluster_count: int
    root_cluster: int
    serial: int
    flags: int
    from_backup: bool = False

    @property
    def end(self) -> int:
        """Where the last cluster ends."""
        return self.heap_start + self.cluster_count * self.cluster_size


@dataclass(frozen=True, slots=True, kw_only=True)
class _Root:
    """What the root directory says of the volume: its label, and cluster and size of each bitmap."""

    label: str
    bitmaps: tuple[tuple[int, int], ...]


class ExfatFilesystem:
    """exFAT, as the seam ``Filesystem`` wants it."""

    def identify(self, reader: BlockReader) -> Volume | None:
        """What the volume is. A label that cannot be read is empty: the serial number names the volume."""
        boot = find_exfat_boot(reader)
        if boot is None:
            return None
        try:
            label = _read_root(reader, boot).label
        except DiskFormatError:
            label = ""
        uuid = f"{boot.serial >> 16:04X}-{boot.serial & 0xFFFF:04X}"
        return Volume(filesystem="exfat", label=label, uuid=uuid, block_size=boot.cluster_size)

    def used_map(self, reader: BlockReader) -> UsedMap:
        """The clusters in use, all that lies before and behind them, and the verdict."""
        boot = find_exfat_boot(reader)
        if boot is None:
            raise DiskFormatError("exFAT boot sector: not found", hint=_HINT)
        if boot.from_backup:
            # 3.1.13: the copy's flags are not kept up, so nothing says whether the volume is in use.
            message = "The exFAT boot region is broken; the volume is kept whole"
            return raw_map(reader, Notice(code="exfat-backup-boot", message=message, hint=_HINT))
        if boot.flags & _IN_USE:
            message = "The exFAT volume was not unmounted properly; it is kept whole"
            return raw_map(reader, Notice(code="exfat-dirty", message=message, hint=_HINT))
        notices: tuple[Notice, ...] = ()
        if boot.flags & _MEDIA_FAILURE:
            notices = (Notice(code="exfat-disk-errors", message="The exFAT volume noted disk errors", hint=_HINT),)
        used = _read_bitmaps(reader, boot)
        around = ExtentSet.of(Extent(0, boot.heap_start), Extent(boot.end, reader.size))
        return UsedMap(extents=used | around, kind="used", notices=notices)

    def left_out(self, reader: BlockReader) -> tuple[LeftOutFile, ...]:  # noqa: ARG002 the seam asks all alike
        """None: Windows cannot be installed on exFAT."""
        return ()


def find_exfat_boot(reader: BlockReader) -> ExfatBoot | None:
    """Find the boot region; when the first is broken but clearly of exFAT, its copy.

    The copy counts only when the first region still shows exFAT itself: it may be a leftover behind another file
    system that took the partition over.

    Raises:
        DiskFormatError: The first region is a broken exFAT one and there is no good copy.
    """
    if reader.size < 2 * _BOOT_SECTORS * 512:
        return None
    sector = reader.read_at(0, 512)
    mine = sector[3:11] == _NAME
    if not mine and (sector[3:11] != bytes(8) or not _shows_extended_sectors(reader)):
        return None
    try:
        return _read_region(reader, 0, sector)
    except DiskFormatError:
        for sector_size in _SECTOR_SIZES:
            place = _BOOT_SECTORS * sector_size
            if place + _BOOT_SECTORS * sector_size > reader.size:
                break
            try:
                boot = _read_region(reader, place, reader.read_at(place, 512))
            except DiskFormatError:
                continue
            if boot.sector_size == sector_size:
                return replace(boot, from_backup=True)
        if mine:
            raise
        return None


def _shows_extended_sectors(reader: BlockReader) -> bool:
    """Whether sectors 1 to 8 end as exFAT's extended boot sectors do."""
    for size in _SECTOR_SIZES:
        ends = [(index + 1) * size - 4 for index in range(1, 9)]
        if ends[-1] + 4 <= reader.size and all(reader.read_at(end, 4) == _EXTENDED_SIGNATURE for end in ends):
            return True
    return False


def _read_region(reader: BlockReader, place: int, sector: bytes) -> ExfatBoot:
    """Parse the boot region at ``place`` and check its checksum."""
    boot = parse_exfat_boot(sector, partition_size=reader.size)
    size = boot.sector_size
    region = reader.read_at(place, _BOOT_SECTORS * size)
    checksum = compute_boot_checksum(region[: 11 * size])
    if region[11 * size :] != checksum.to_bytes(4, "little") * (size // 4):
        found = region[11 * size : 11 * size + 4][::-1].hex()
        raise DiskFormatError(f"exFAT boot region at {place}: checksum {found}, expected {checksum:08x}", hint=_HINT)
    return boot


def compute_boot_checksum(sectors: bytes) -> int:
    """The checksum of the first eleven sectors of a boot region (section 3.4); flags and percentage do not count."""
    checksum = 0
    for index, byte in enumerate(sectors):
        if index not in (106, 107, 112):
            checksum = ((checksum & 1) << 31 | checksum >> 1) + byte & 0xFFFFFFFF
    return checksum


def parse_exfat_boot(sector: bytes, *, partition_size: int) -> ExfatBoot:
    """Parse one boot sector (section 3.1).

    Args:
        sector: Its first 512 bytes.
        partition_size: Bytes of the partition; the volume must fit into it.

    Raises:
        DiskFormatError: A field cannot be.
    """
    sector_count, table, table_length, heap, cluster_count, root = struct.unpack_from("<QIIIII", sector, 0x48)
    serial, revision, flags, sector_shift, cluster_shift, table_count = struct.unpack_from("<IHHBBB", sector, 0x64)
    _demand(sector[3:11] == _NAME, "name", sector[3:11])
    _demand(sector[510:512] == b"\x55\xaa", "signature", sector[510:512])
    _demand(not any(sector[0x0B:0x40]), "reserved range", sector[0x0B:0x40].hex())
    _demand(9 <= sector_shift <= 12, "sector size shift", sector_shift)
    _demand(sector_shift + cluster_shift <= _CLUSTER_SHIFT_MAX, "cluster size shift", cluster_shift)
    _demand(revision >> 8 == 1, "revision", hex(revision))
    _demand(table_count in (1, 2), "number of FATs", table_count)
    size, cluster_size = 1 << sector_shift, 1 << sector_shift + cluster_shift
    _demand(0 < sector_count << sector_shift <= partition_size, "volume length", sector_count)
    _demand(table >= 2 * _BOOT_SECTORS, "FAT offset", table)
    _demand(table + table_count * table_length <= heap, "cluster heap offset", heap)
    _demand(0 < cluster_count <= _CLUSTER_COUNT_MAX, "cluster count", cluster_count)
    _demand((cluster_count << cluster_shift) + heap <= sector_count, "cluster count", cluster_count)
    _demand((cluster_count + 2) * 4 <= table_length << sector_shift, "FAT length", table_length)
    _demand(2 <= root < cluster_count + 2, "root cluster", root)
    active = table_length if table_count == 2 and flags & _ACTIVE_SECOND else 0
    return ExfatBoot(
        sector_size=size,
        cluster_size=cluster_size,
        table_start=(table + active) << sector_shift,
        table_size=table_length << sector_shift,
        heap_start=heap << sector_shift,
        cluster_count=cluster_count,
        root_cluster=root,
        serial=serial,
        flags=flags,
    )


def _demand(fulfilled: bool, name: str, found: object) -> None:
    if not fulfilled:
        raise DiskFormatError(f"exFAT boot sector: {name} cannot be {found!r}", hint=_HINT)


def _read_chain(reader: BlockReader, boot: ExfatBoot, first: int, *, count_max: int) -> list[int]:
    """The clusters of a chain, at most ``count_max``.

    Raises:
        DiskFormatError: It names a cluster that does not exist, or comes back to one.
    """
    clusters: dict[int, None] = {}
    window_start, window = -1, b""
    cluster = first
    while len(clusters) < count_max:
        if not 2 <= cluster < boot.cluster_count + 2 or cluster in clusters:
            raise DiskFormatError(f"exFAT FAT: a chain from cluster {first} leads to {cluster:#x}", hint=_HINT)
        clusters[cluster] = None
        place = 4 * cluster
        if not window_start <= place < window_start + len(window):
            window_start = place - place % _TABLE_WINDOW
            window_size = min(_TABLE_WINDOW, boot.table_size - window_start)
            window = reader.read_at(boot.table_start + window_start, window_size)
        (cluster,) = struct.unpack_from("<I", window, place - window_start)
        if cluster == 0xFFFFFFFF:
            break
    return list(clusters)


def _cluster_start(boot: ExfatBoot, cluster: _Number) -> _Number:
    return boot.heap_start + (cluster - 2) * boot.cluster_size


def _read_root(reader: BlockReader, boot: ExfatBoot) -> _Root:
    """Look through the root directory for the label and the bitmaps."""
    count_max = min(boot.cluster_count, max(_DIRECTORY_SIZE_MAX // boot.cluster_size, 1))
    label, bitmaps = "", []
    for cluster in _read_chain(reader, boot, boot.root_cluster, count_max=count_max):
        piece = reader.read_at(_cluster_start(boot, cluster), boot.cluster_size)
        types = np.frombuffer(piece, np.uint8)[::_ENTRY_SIZE]
        ends = np.flatnonzero(types == _END_OF_DIRECTORY)
        types = types[: ends[0]] if len(ends) else types
        for index in np.flatnonzero((types == _BITMAP_ENTRY) | (types == _LABEL_ENTRY)).tolist():
            entry = piece[index * _ENTRY_SIZE : (index + 1) * _ENTRY_SIZE]
            if entry[0] == _LABEL_ENTRY:
                label = entry[2 : 2 + 2 * min(entry[1], _LABEL_COUNT_MAX)].decode("utf-16-le", "replace")
            else:
                bitmaps.append(struct.unpack_from("<IQ", entry, 20))
        if len(ends):
            break
    return _Root(label=label, bitmaps=tuple(bitmaps))


def _read_bitmaps(reader: BlockReader, boot: ExfatBoot) -> ExtentSet:
    """The clusters that the allocation bitmap has in use; of two bitmaps, what either has.

    Raises:
        DiskFormatError: There is none, it is too short, or it calls its own clusters or the root's free.
    """
    root = _read_root(reader, boot)
    if not 1 <= len(root.bitmaps) <= 2:
        raise DiskFormatError(f"exFAT root directory: {len(root.bitmaps)} bitmaps, expected 1 or 2", hint=_HINT)
    used = ExtentSet.empty()
    needed = (boot.cluster_count + 7) // 8
    for first, size in root.bitmaps:
        if size < needed:
            raise DiskFormatError(f"exFAT allocation bitmap: {size} bytes, expected {needed}", hint=_HINT)
        count = -(-needed // boot.cluster_size)
        chain = _read_chain(reader, boot, first, count_max=count)
        if len(chain) != count:
            raise DiskFormatError(f"exFAT allocation bitmap: {len(chain)} clusters, expected {count}", hint=_HINT)
        used |= _read_bitmap(reader, boot, chain)
        starts = _cluster_start(boot, np.array([boot.root_cluster, *chain], np.int64))
        if (ExtentSet.from_arrays(starts, starts + boot.cluster_size) - used).size:
            raise DiskFormatError("exFAT allocation bitmap: it calls its own clusters or the root's free", hint=_HINT)
    return used


def _read_bitmap(reader: BlockReader, boot: ExfatBoot, chain: list[int]) -> ExtentSet:
    """The clusters that one bitmap has in use; its pieces are read one by one."""
    starts, ends = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    extent_count, unit = 0, boot.cluster_size
    for index, cluster in enumerate(chain):
        first = index * boot.cluster_size
        for offset in range(0, boot.cluster_size, _READ_SIZE):
            count = min(boot.cluster_count - (first + offset) * 8, min(_READ_SIZE, boot.cluster_size) * 8)
            if count <= 0:
                break
            raw = reader.read_at(_cluster_start(boot, cluster) + offset, (count + 7) // 8)
            base = boot.heap_start + (first + offset) * 8 * unit
            piece = ExtentSet.from_bitmap(raw, count=count, unit=unit, base=base)
            starts.append(piece.starts)
            ends.append(piece.ends)
            extent_count += len(piece)
        if extent_count > _EXTENT_COUNT_MAX:
            raise DiskFormatError(f"exFAT allocation bitmap: more than {_EXTENT_COUNT_MAX} pieces", hint=_HINT)
    return ExtentSet.from_arrays(np.concatenate(starts), np.concatenate(ends))
