"""The NTFS boot sector, and its copy at the end of the partition.

Answers: "is this NTFS, how large are its clusters and records, and where does the master file table lie?" It does not
read the table.

Source: Linux-NTFS documentation, "$Boot"; ntfs-3g include/ntfs-3g/layout.h ``NTFS_BOOT_SECTOR`` and BIOS parameter
block; cluster sizes above 64 KiB as Windows 10 1709 writes them (``0x0D`` above 128 is a negative power of two).
"""

import struct
from dataclasses import dataclass
from typing import Final

from stillframe.block import BlockReader
from stillframe.errors import DiskFormatError

# Offset 3 of the boot sector, eight bytes: layout.h magicNTFS.
OEM_ID: Final = b"NTFS    "
# Windows limits: format /A: takes 512 bytes to 2 MiB; sectors are 512 to 4096 bytes.
CLUSTER_SIZE_MAX: Final = 2 << 20
SECTOR_SIZES: Final = (512, 1024, 2048, 4096)
# Records in use are 1024 or 4096 bytes; the field itself could say anything.
RECORD_SIZE_MIN: Final = 512
RECORD_SIZE_MAX: Final = 64 << 10
# Windows starts its second boot sector with a counted UTF-16 name of the loader.
_LOADERS: Final = ("BOOTMGR".encode("utf-16-le"), "NTLDR".encode("utf-16-le"))
_BOOT_SIGNATURE: Final = b"\x55\xaa"


@dataclass(frozen=True, slots=True, kw_only=True)
class NtfsBoot:
    """What the boot sector says.

    Attributes:
        sector_size: Bytes of a sector of the file system.
        cluster_size: Bytes of a cluster.
        cluster_count: Whole clusters; what lies behind the last is the tail.
        record_size: Bytes of a record of the master file table.
        index_size: Bytes of an index block.
        mft_cluster: Where the table starts.
        mirror_cluster: Where the copy of its first records starts.
        serial: The 64-bit volume serial number.
        from_backup: Whether this is the copy from the end of the partition.
    """

    sector_size: int
    cluster_size: int
    cluster_count: int
    record_size: int
    index_size: int
    mft_cluster: int
    mirror_cluster: int
    serial: int
    from_backup: bool = False

    @property
    def size(self) -> int:
        """Bytes that the cluster bitmap speaks of."""
        return self.cluster_count * self.cluster_size

    @property
    def uuid(self) -> str:
        """The serial number as ``blkid`` spells it."""
        return f"{self.serial:016X}"


def find_boot(reader: BlockReader) -> NtfsBoot | None:
    """Find the boot sector; when the first is broken but clearly of NTFS, its copy.

    A stale copy may lie behind another file system that took the partition over, so the copy counts only when the
    first sectors still show NTFS themselves.

    Raises:
        DiskFormatError: The first sector is a broken NTFS one and there is no good copy.
    """
    if reader.size < 4096:
        return None
    head = reader.read_at(0, 4096)
    mine = head[3:11] == OEM_ID
    if not mine and not any(loader in head[512:560] for loader in _LOADERS):
        return None
    try:
        return parse_boot(head[:512], partition_size=reader.size)
    except DiskFormatError:
        copy = _find_copy(reader, head)
        if copy is None and mine:
            raise
        return copy


def _find_copy(reader: BlockReader, head: bytes) -> NtfsBoot | None:
    """Find the copy: in the last sector of the partition, or where the broken one says that the volume ends."""
    sector_size, sector_count = struct.unpack_from("<H", head, 0x0B)[0], struct.unpack_from("<Q", head, 0x28)[0]
    places = [reader.size - size for size in SECTOR_SIZES]
    places += [sector_count * size for size in {sector_size, *SECTOR_SIZES}]
    for place in places:
        if place % 512 or not 512 <= place <= reader.size - 512:
            continue
        sector = reader.read_at(place, 512)
        if sector[3:11] != OEM_ID:
            continue
        try:
            return parse_boot(sector, partition_size=reader.size, from_backup=True)
        except DiskFormatError:
            continue
    return None


def parse_boot(sector: bytes, *, partition_size: int, from_backup: bool = False) -> NtfsBoot:
    """Parse one boot sector.

    Args:
        sector: Its first 512 bytes.
        partition_size: Bytes of the partition; the volume must fit into it.
        from_backup: Said of the result.

    Raises:
        DiskFormatError: A field cannot be.
    """
    sector_size, cluster_code = struct.unpack_from("<HB", sector, 0x0B)
    sector_count, mft_cluster, mirror_cluster = struct.unpack_from("<QQQ", sector, 0x28)
    record_code, index_code, serial = struct.unpack_from("<b3xb3xQ", sector, 0x40)
    _demand(sector[3:11] == OEM_ID, "name", "'NTFS    '", repr(sector[3:11]))
    _demand(sector[510:512] == _BOOT_SIGNATURE, "signature", "55 AA", sector[510:512].hex(" "))
    _demand(sector_size in SECTOR_SIZES, "sector size", "512 to 4096", sector_size)
    cluster_sectors = 1 << (256 - cluster_code) if cluster_code > 0x80 else cluster_code
    cluster_size = cluster_sectors * sector_size
    _demand(_is_power_of_two(cluster_sectors), "sectors per cluster", "a power of two", cluster_code)
    _demand(cluster_size <= CLUSTER_SIZE_MAX, "cluster size", "at most 2 MiB", cluster_size)
    size = sector_count * sector_size
    _demand(0 < size <= partition_size, "sector count", f"at most {partition_size // sector_size}", sector_count)
    cluster_count = sector_count // cluster_sectors
    _demand(0 < mft_cluster < cluster_count, "cluster of $MFT", f"below {cluster_count}", mft_cluster)
    return NtfsBoot(
        sector_size=sector_size,
        cluster_size=cluster_size,
        cluster_count=cluster_count,
        record_size=_coded_size(record_code, cluster_size, "MFT record size"),
        index_size=_coded_size(index_code, cluster_size, "index block size"),
        mft_cluster=mft_cluster,
        mirror_cluster=mirror_cluster,
        serial=serial,
        from_backup=from_backup,
    )


def _coded_size(code: int, cluster_size: int, name: str) -> int:
    """A size that is a number of clusters, or when negative a power of two of bytes."""
    size = code * cluster_size if code > 0 else 1 << min(-code, 63)
    fits = _is_power_of_two(size) and RECORD_SIZE_MIN <= size <= RECORD_SIZE_MAX
    _demand(fits, name, f"{RECORD_SIZE_MIN} to {RECORD_SIZE_MAX} bytes", f"code {code}")
    return size


def _is_power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


def _demand(fulfilled: bool, name: str, expected: object, found: object) -> None:
    if not fulfilled:
        raise DiskFormatError(
            f"NTFS boot sector: {name} is {found}, expected {expected}",
            hint="Run chkdsk on the volume in Windows.",
        )
