"""XFS as a ``Filesystem``: the verdict whether the map of used blocks may be trusted.

Answers: "which bytes of this volume matter, and is that proven?" Free is what the trees of free space list, and nothing
else; all other bytes are kept, with the log and what lies behind the last block. The trees are current when the volume
was unmounted, or while it is frozen. Whatever is uncertain is stored whole. It never writes.
"""

from typing import Final

import numpy as np

from stillframe.block import BlockReader, ReadFault
from stillframe.errors import DiskFormatError
from stillframe.events import Notice
from stillframe.extents import Extent, ExtentSet
from stillframe.fs.base import LeftOutFile, UsedMap, Volume, raw_map
from stillframe.fs.xfs.freespace import RANGES_COUNT_MAX, FreeSpace, read_free_space
from stillframe.fs.xfs.groups import Group, read_group
from stillframe.fs.xfs.log import UNMOUNT_HINT, read_log_state
from stillframe.fs.xfs.superblock import (
    CHECK_HINT,
    SECTOR_SIZE_MAX,
    SUPERBLOCK_SIZE,
    UNSUPPORTED_INCOMPAT,
    Features2,
    Incompat,
    LogIncompat,
    RoCompat,
    Superblock,
    VersionFlags,
    check_geometry,
    parse_superblock,
)
from stillframe.units import format_size

_NEWER_HINT: Final = "A newer Stillframe may know it."
_WHOLE_HINT: Final = "Nothing needs to be done: it is stored whole."


class XfsFilesystem:
    """XFS, versions 4 and 5."""

    def identify(self, reader: BlockReader) -> Volume | None:
        """What the volume is; ``None`` when it is not XFS. Name and UUID are told of a damaged one too."""
        superblock = _read_superblock(reader)
        if superblock is None:
            return None
        return Volume(
            filesystem="xfs",
            label=superblock.label,
            uuid=superblock.uuid_text,
            block_size=superblock.block_size,
        )

    def used_map(self, reader: BlockReader) -> UsedMap:
        """The bytes in use, of a volume that was unmounted; otherwise all of them."""
        return _map(reader, is_frozen=False)

    def left_out(self, reader: BlockReader) -> tuple[LeftOutFile, ...]:  # noqa: ARG002 the seam asks all alike
        """None: directories and files are not read, so that a swap file on XFS is kept with its contents."""
        return ()


def read_frozen_map(reader: BlockReader) -> UsedMap:
    """The bytes in use, of a volume that is mounted and frozen.

    While it is frozen, every change of the headers and trees is on the disk, but the log is left as after a power cut,
    on purpose: so the log is not asked, and the next mount of a copy replays it. The superblock's count of free blocks
    lacks what the kernel has reserved, so it is not compared either. Everything else is checked as in ``used_map``.

    Args:
        reader: The volume, past any cache: the kernel writes an XFS around the cache of its device.

    Returns:
        The map. Its extents hold for bytes that are read before the volume is thawed.

    The caller vouches that the volume is frozen, by FIFREEZE, from before this call until its last byte was copied. If
    it is not, files are lost.

    Source: Linux ``fs/xfs/xfs_super.c`` (``xfs_fs_freeze``), ``fs/xfs/xfs_log.c`` (``xfs_log_quiesce``,
    ``xfs_log_cover``), ``fs/xfs/libxfs/xfs_sb.c`` (``xfs_log_sb``: the counters).
    """
    return _map(reader, is_frozen=True)


def _read_superblock(reader: BlockReader) -> Superblock | None:
    if reader.size < SUPERBLOCK_SIZE:
        return None
    return parse_superblock(reader.read_at(0, min(reader.size, SECTOR_SIZE_MAX)))


def _map(reader: BlockReader, *, is_frozen: bool) -> UsedMap:
    superblock = _read_superblock(reader)
    if superblock is None:
        raise DiskFormatError("XFS superblock: there is none at byte 0", hint="Ask identify first.")
    refusal = _refuse_version(superblock) or _refuse_features(superblock) or _refuse_layout(superblock, reader)
    if refusal is not None:
        return raw_map(reader, refusal)
    try:
        check_geometry(superblock)
        if not is_frozen and not read_log_state(reader, superblock).is_clean:
            message = "The XFS was not unmounted: its log must be replayed, and until then its maps are not current."
            return raw_map(reader, Notice(code="xfs-not-unmounted", message=message, hint=UNMOUNT_HINT))
        free = _read_free(reader, superblock, are_counters_current=not is_frozen)
    except DiskFormatError as error:
        return raw_map(reader, Notice(code="xfs-contradiction", message=error.message, hint=error.hint))
    except ReadFault as fault:
        return raw_map(reader, Notice(code="xfs-unreadable", message=fault.message, hint=fault.hint or CHECK_HINT))
    return UsedMap(extents=free.complement(Extent(0, reader.size)), kind="used")


def _refuse_version(superblock: Superblock) -> Notice | None:
    """Why the format itself is not read; ``None`` when it is. Source: ``xfs_sb_good_version``."""
    if superblock.version not in (4, 5):
        message = f"The XFS is of version {superblock.version}; versions 4 and 5 are read."
        return Notice(code="xfs-unsupported-feature", message=message, hint=_WHOLE_HINT)
    if not superblock.checksum_good:
        return Notice(code="xfs-checksum", message="The checksum of the XFS superblock is wrong.", hint=CHECK_HINT)
    needed = VersionFlags.DIRECTORY_V2 | VersionFlags.EXTENT_FLAG
    unknown2 = superblock.features2 & ~sum(Features2)
    if superblock.version == 4:
        unknown2 |= superblock.features2 & Features2.CRC
    if superblock.flags & VersionFlags.SHARED or superblock.flags & needed != needed or unknown2:
        message = (
            f"The XFS has version flags {superblock.flags:#x} and features2 {superblock.features2:#x}, "
            "which no current Linux reads."
        )
        return Notice(code="xfs-unknown-feature", message=message, hint=_NEWER_HINT)
    return None


def _refuse_features(superblock: Superblock) -> Notice | None:
    """Why a feature of version 5 forbids to trust any map; ``None`` when none does."""
    for name, flags, known in (
        # A compat feature does not change what free means, or it would not be one.
        ("ro_compat", superblock.ro_compat, sum(RoCompat)),
        ("incompat", superblock.incompat, sum(Incompat)),
        ("log_incompat", superblock.log_incompat, sum(LogIncompat)),
    ):
        if flags & ~known:
            message = f"The XFS uses {name} features this program does not know: {flags & ~known:#x}."
            return Notice(code="xfs-unknown-feature", message=message, hint=_NEWER_HINT)
    unsupported = Incompat(superblock.incompat) & UNSUPPORTED_INCOMPAT
    if unsupported:
        message = f"The XFS uses incompat features that are not read: {unsupported.name}."
        return Notice(code="xfs-unsupported-feature", message=message, hint=_WHOLE_HINT)
    if superblock.incompat & Incompat.NEEDSREPAIR:
        return Notice(code="xfs-needs-repair", message="The XFS is marked as in need of repair.", hint=CHECK_HINT)
    return None


def _refuse_layout(superblock: Superblock, reader: BlockReader) -> Notice | None:
    """Why the volume is not all here; ``None`` when it is."""
    if superblock.in_progress:
        message = "The XFS is marked as not completely made: mkfs.xfs or xfs_copy did not finish."
        return Notice(code="xfs-in-progress", message=message, hint=CHECK_HINT)
    if superblock.realtime_blocks:
        message = "The XFS has a realtime section, whose maps are not read."
        return Notice(code="xfs-realtime", message=message, hint=_WHOLE_HINT)
    if superblock.log_start == 0:
        message = "The XFS has its log on another device, so nothing here proves that it was unmounted."
        return Notice(code="xfs-external-log", message=message, hint="Back up the device of the log too.")
    if superblock.size > reader.size:
        message = f"The XFS is {format_size(superblock.size)}, its partition {format_size(reader.size)}."
        return Notice(code="xfs-truncated", message=message, hint=CHECK_HINT)
    return None


def _read_free(reader: BlockReader, superblock: Superblock, *, are_counters_current: bool) -> ExtentSet:
    """The bytes that are free in all groups.

    Raises:
        DiskFormatError: Something contradicts.
    """
    starts, ends = [], []
    ranges_count, total, size = 0, 0, superblock.block_size
    for index in range(superblock.groups_count):
        group = read_group(reader, superblock, index)
        free = read_free_space(reader, superblock, group)
        _check_in_use(superblock, group, free)
        starts.append(group.start + free.starts * size)
        ends.append(group.start + free.ends * size)
        ranges_count += len(free.starts)
        total += group.free_count + len(group.kept_blocks) + group.tree_count
        if ranges_count > RANGES_COUNT_MAX:
            message = f"XFS: more than {RANGES_COUNT_MAX} free ranges, which is more than this version reads"
            raise DiskFormatError(message, hint=_WHOLE_HINT)
    # Exact after an unmount only, and older volumes count trees otherwise. Source: xfs_log_sb and
    # xfs_initialize_perag_data, which says what is in the sum.
    if are_counters_current and superblock.has_lazy_counters and total != superblock.free_blocks:
        message = f"XFS superblock: it counts {superblock.free_blocks} free blocks, its groups have {total}"
        raise DiskFormatError(message, hint=CHECK_HINT)
    return ExtentSet.from_arrays(np.concatenate(starts), np.concatenate(ends))


def _check_in_use(superblock: Superblock, group: Group, free: FreeSpace) -> None:
    """Whether nothing is called free that is known to be in use: the trees, the free list, the log, the root inode."""
    blocks = [free.tree_blocks, group.kept_blocks]
    root = superblock.place_of(superblock.root_inode >> superblock.inode_bits)
    if root[0] == group.index:
        blocks.append(np.array([root[1]], np.int64))
    firsts = np.concatenate(blocks)
    ends = firsts + 1
    log_group, log_first = superblock.place_of(superblock.log_start)
    if log_group == group.index:
        firsts = np.append(firsts, log_first)
        ends = np.append(ends, log_first + superblock.log_blocks)
    if free.holds_any(firsts, ends):
        message = f"XFS group {group.index}, free space: it calls blocks free that the file system itself is in"
        raise DiskFormatError(message, hint=CHECK_HINT)
