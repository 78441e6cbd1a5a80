"""The superblock of Btrfs: what the volume is, where its trees begin, and what it says of itself.

Answers: "is this Btrfs, and may its trees be read by this program?" It reads no tree. Only the superblock at 64 KiB
counts, as it does for a mount; the mirrors are for repair and may be older.

Sources: Linux ``include/uapi/linux/btrfs_tree.h`` (``struct btrfs_super_block``, ``struct btrfs_dev_item``, flags),
``include/uapi/linux/btrfs.h`` (features), ``fs/btrfs/disk-io.c`` (bounds of ``btrfs_validate_super``); Btrfs
documentation, "On-disk Format".
"""

import struct
import uuid
from dataclasses import dataclass
from enum import IntFlag
from typing import Final

import numpy as np

from stillframe.fs.btrfs.checksums import READABLE_TYPES, ChecksumType, are_checksums_good

SUPERBLOCK_OFFSET: Final = 64 << 10  # BTRFS_SUPER_INFO_OFFSET
SUPERBLOCK_SIZE: Final = 4096  # BTRFS_SUPER_INFO_SIZE
MIRROR_OFFSETS: Final = (64 << 20, 256 << 30)
"""Where copies lie on devices large enough. Source: ``btrfs_sb_offset``, BTRFS_SUPER_MIRROR_SHIFT 12."""
DEVICE_RESERVED_SIZE: Final = 1 << 20
"""Bytes at the start of the device that are never allocated. Source: BTRFS_DEVICE_RANGE_RESERVED."""
LEVEL_MAX: Final = 7  # BTRFS_MAX_LEVEL 8 counts from 0
BLOCK_SIZE_MIN, BLOCK_SIZE_MAX = 4 << 10, 64 << 10  # BTRFS_MIN_BLOCKSIZE, BTRFS_MAX_METADATA_BLOCKSIZE
SYSTEM_CHUNKS_SIZE_MAX: Final = 2048  # BTRFS_SYSTEM_CHUNK_ARRAY_SIZE
ADDRESS_MAX: Final = 1 << 62
"""No address, size or generation that is read here is larger: sums of two stay below 2**63."""

_MAGIC: Final = b"_BHRfS_M"  # BTRFS_MAGIC, as bytes
_MAGIC_OFFSET: Final = 64
_LABEL_OFFSET, _LABEL_SIZE = 0x12B, 256  # BTRFS_LABEL_SIZE
_METADATA_UUID_OFFSET: Final = 0x23B
_SYSTEM_CHUNKS_OFFSET: Final = 0x32B


class Incompat(IntFlag):
    """``incompat_flags``: who does not know one must not even read. BTRFS_FEATURE_INCOMPAT_*."""

    MIXED_BACKREF = 1 << 0
    DEFAULT_SUBVOL = 1 << 1
    MIXED_GROUPS = 1 << 2
    COMPRESS_LZO = 1 << 3
    COMPRESS_ZSTD = 1 << 4
    BIG_METADATA = 1 << 5
    EXTENDED_IREF = 1 << 6
    RAID56 = 1 << 7
    SKINNY_METADATA = 1 << 8
    NO_HOLES = 1 << 9
    METADATA_UUID = 1 << 10
    RAID1C34 = 1 << 11
    ZONED = 1 << 12
    EXTENT_TREE_V2 = 1 << 13
    RAID_STRIPE_TREE = 1 << 14
    SIMPLE_QUOTA = 1 << 16


class RoCompat(IntFlag):
    """``compat_ro_flags``: who does not know one must not write. BTRFS_FEATURE_COMPAT_RO_*."""

    FREE_SPACE_TREE = 1 << 0
    FREE_SPACE_TREE_VALID = 1 << 1
    VERITY = 1 << 2
    BLOCK_GROUP_TREE = 1 << 3


class State(IntFlag):
    """``flags``: BTRFS_HEADER_FLAG_*, BTRFS_SUPER_FLAG_*, and those of btrfs-progs for a conversion not finished."""

    WRITTEN = 1 << 0
    RELOC = 1 << 1
    ERROR = 1 << 2
    SEEDING = 1 << 32
    METADUMP = 1 << 33
    METADUMP_V2 = 1 << 34
    CHANGING_FSID = 1 << 35
    CHANGING_FSID_V2 = 1 << 36
    CHANGING_BG_TREE = 1 << 38
    CHANGING_DATA_CSUM = 1 << 39
    CHANGING_META_CSUM = 1 << 40


UNSUPPORTED_INCOMPAT: Final = (
    Incompat.ZONED | Incompat.EXTENT_TREE_V2 | Incompat.RAID_STRIPE_TREE | Incompat.SIMPLE_QUOTA
)
"""Known, and not read here: each changes where extents lie or how they are recorded. RAID56 and RAID1C34 only say that
such chunks may exist; what a chunk is, it says itself."""
HARMLESS_STATE: Final = State.WRITTEN | State.RELOC


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceItem:
    """One device (``struct btrfs_dev_item``): its number, its identity, its size in bytes."""

    number: int
    size: int
    uuid: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """The fields that the map of used bytes depends on. Addresses are logical, sizes are bytes.

    Attributes:
        fsid: What the volume is called by.
        metadata_uuid: What its tree blocks are marked with; ``fsid`` unless METADATA_UUID is set.
        generation: Number of the last transaction.
        root, chunk_root, log_root: First block of each tree; ``log_root`` is 0 when there is no log.
        root_level, chunk_root_level, log_root_level: Levels of these blocks.
        chunk_root_generation: Transaction that wrote ``chunk_root``.
        bytes_used: Sum of all extents, each counted once.
        devices_count: Devices of the file system.
        sector_size, node_size: Smallest piece of data; size of every tree block.
        checksum_type: As read; it may be one that is not known.
        checksum_good: Whether the superblock's own checksum is right and of a type that is read.
        place: Where the superblock says that it lies, in bytes of the device.
        device: This device.
        system_chunks: The chunks that hold the chunk tree, in raw form.
    """

    fsid: bytes
    metadata_uuid: bytes
    label: str
    generation: int
    root: int
    root_level: int
    chunk_root: int
    chunk_root_level: int
    chunk_root_generation: int
    log_root: int
    log_root_level: int
    bytes_used: int
    devices_count: int
    sector_size: int
    node_size: int
    state: State
    incompat: Incompat
    ro_compat: RoCompat
    checksum_type: int
    checksum_good: bool
    place: int
    device: DeviceItem
    system_chunks: bytes

    @property
    def uuid_text(self) -> str:
        """The UUID as ``blkid`` writes it."""
        return str(uuid.UUID(bytes=self.fsid)) if any(self.fsid) else ""

    @property
    def fault(self) -> str:
        """What makes the fields impossible, in words; empty when nothing does. Source: ``btrfs_validate_super``."""
        sizes = (self.sector_size, self.node_size)
        if not all(BLOCK_SIZE_MIN <= size <= BLOCK_SIZE_MAX and size & (size - 1) == 0 for size in sizes):
            return f"sector and node size are {self.sector_size} and {self.node_size}"
        if self.sector_size > self.node_size:
            return f"the node size {self.node_size} is below the sector size {self.sector_size}"
        if max(self.root_level, self.chunk_root_level, self.log_root_level) > LEVEL_MAX:
            return f"a tree has more than {LEVEL_MAX + 1} levels"
        numbers = (self.generation, self.chunk_root_generation, self.root, self.chunk_root, self.log_root)
        if max(*numbers, self.bytes_used, self.device.size) > ADDRESS_MAX:
            return "a number is too large"
        if any(address % self.sector_size for address in (self.root, self.chunk_root, self.log_root)):
            return "a tree does not begin at a sector"
        if self.place != SUPERBLOCK_OFFSET:
            return f"it says that it lies at byte {self.place}"
        if not 0 < len(self.system_chunks) <= SYSTEM_CHUNKS_SIZE_MAX:
            return "the list of system chunks has an impossible size"
        return ""


def parse_superblock(raw: bytes) -> Superblock | None:
    """Parse the 4,096 bytes at offset 65,536 of a volume.

    Returns:
        The superblock, or ``None`` when the magic is not there. ``checksum_good`` and ``fault`` say whether its fields
        may be used for more than a name.

    Source: Linux ``include/uapi/linux/btrfs_tree.h``, ``struct btrfs_super_block``.
    """
    if len(raw) != SUPERBLOCK_SIZE or raw[_MAGIC_OFFSET : _MAGIC_OFFSET + len(_MAGIC)] != _MAGIC:
        return None
    place, state = struct.unpack_from("<QQ", raw, 0x30)
    generation, root, chunk_root, log_root = struct.unpack_from("<4Q", raw, 0x48)
    bytes_used, _, devices_count, sector_size, node_size = struct.unpack_from("<QQQII", raw, 0x78)
    system_size, chunk_generation, _, ro_compat, incompat = struct.unpack_from("<IQQQQ", raw, 0xA0)
    checksum_type, root_level, chunk_root_level, log_root_level = struct.unpack_from("<HBBB", raw, 0xC4)
    fsid = raw[0x20:0x30]
    marked = bool(incompat & Incompat.METADATA_UUID)
    return Superblock(
        fsid=fsid,
        metadata_uuid=raw[_METADATA_UUID_OFFSET : _METADATA_UUID_OFFSET + 16] if marked else fsid,
        label=raw[_LABEL_OFFSET : _LABEL_OFFSET + _LABEL_SIZE].split(b"\0")[0].decode("utf-8", "replace").rstrip(),
        generation=generation,
        root=root,
        root_level=root_level,
        chunk_root=chunk_root,
        chunk_root_level=chunk_root_level,
        chunk_root_generation=chunk_generation,
        log_root=log_root,
        log_root_level=log_root_level,
        bytes_used=bytes_used,
        devices_count=devices_count,
        sector_size=sector_size,
        node_size=node_size,
        state=State(state),
        incompat=Incompat(incompat),
        ro_compat=RoCompat(ro_compat),
        checksum_type=checksum_type,
        checksum_good=checksum_type in READABLE_TYPES and _is_whole(raw, ChecksumType(checksum_type)),
        place=place,
        device=parse_device_item(raw[0xC9 : 0xC9 + DEVICE_ITEM_SIZE]),
        system_chunks=raw[_SYSTEM_CHUNKS_OFFSET : _SYSTEM_CHUNKS_OFFSET + system_size]
        if system_size <= SYSTEM_CHUNKS_SIZE_MAX
        else b"",
    )


DEVICE_ITEM_SIZE: Final = 98  # sizeof(struct btrfs_dev_item)


def parse_device_item(raw: bytes) -> DeviceItem:
    """Parse one ``struct btrfs_dev_item`` of 98 bytes."""
    number, size = struct.unpack_from("<QQ", raw)
    return DeviceItem(number=number, size=size, uuid=raw[66:82])


def _is_whole(raw: bytes, kind: ChecksumType) -> bool:
    return bool(are_checksums_good(np.frombuffer(raw, np.uint8).reshape(1, -1), kind)[0])
