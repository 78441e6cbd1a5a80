"""Btrfs as a ``Filesystem``: the verdict whether its extent tree may be trusted.

Answers: "which bytes of this volume matter, and is that proven?" Btrfs never overwrites what its last transaction has
in use, so the extent tree is current at any moment; only fsynced files since then are in a log, which is read too.
Whatever is uncertain, or laid out over several devices, is stored whole. It never writes.
"""

from typing import Final

import numpy as np

from stillframe.block import BlockReader, ReadFault
from stillframe.errors import DiskFormatError
from stillframe.events import Notice
from stillframe.extents import Extent, ExtentSet
from stillframe.fs.base import LeftOutFile, UsedMap, Volume, raw_map
from stillframe.fs.btrfs.allocation import read_allocation, to_device
from stillframe.fs.btrfs.checksums import READABLE_TYPES, ChecksumType
from stillframe.fs.btrfs.chunks import CHECK_HINT, Chunk, ChunkMap, parse_system_chunks, unmapped_types
from stillframe.fs.btrfs.freespace import check_free_space
from stillframe.fs.btrfs.log import LOG_HINT, read_log
from stillframe.fs.btrfs.roots import DEVICE_TREE, FREE_SPACE_TREE, check_device_extents, read_chunks, read_roots
from stillframe.fs.btrfs.superblock import (
    DEVICE_RESERVED_SIZE,
    HARMLESS_STATE,
    MIRROR_OFFSETS,
    SUPERBLOCK_OFFSET,
    SUPERBLOCK_SIZE,
    UNSUPPORTED_INCOMPAT,
    Incompat,
    RoCompat,
    State,
    Superblock,
    parse_superblock,
)
from stillframe.fs.btrfs.tree import TreeReader
from stillframe.units import format_count, format_size

_NEWER_HINT: Final = "A newer Stillframe may know it."
_WHOLE_HINT: Final = "Nothing needs to be done: it is stored whole."


class BtrfsFilesystem:
    """Btrfs with SINGLE and DUP chunks on one device; of anything else the name."""

    def identify(self, reader: BlockReader) -> Volume | None:
        """What the volume is; ``None`` when it is not Btrfs."""
        superblock = _read_superblock(reader)
        if superblock is None:
            return None
        return Volume(
            filesystem="btrfs",
            label=superblock.label,
            uuid=superblock.uuid_text,
            block_size=superblock.sector_size if not superblock.fault else 0,
        )

    def used_map(self, reader: BlockReader) -> UsedMap:
        """The bytes in use by the extent tree and the log, if all that is written down twice agrees; otherwise all."""
        return _read_map(reader, is_frozen=False)

    def left_out(self, reader: BlockReader) -> tuple[LeftOutFile, ...]:  # noqa: ARG002 the seam asks all alike
        """None: swap files of Btrfs are ordinary files, and are kept; no file is looked at here."""
        return ()


def read_frozen_map(reader: BlockReader) -> UsedMap:
    """The bytes in use of a volume that is mounted read-write and frozen.

    FIFREEZE writes all data and commits the transaction, and no other one begins before the thaw. So there is no log,
    which is checked. The caller vouches for the freeze, and for a reader that sees what is on the disk, not what a
    cache of the block device had before: the kernel writes tree blocks past that cache.

    Args:
        reader: The device, or the file behind it.

    Returns:
        As ``used_map``; ``raw`` when there is a log, or when the superblock changed while it was read: then the volume
        is not frozen.

    Source: Linux ``fs/btrfs/super.c`` (``btrfs_freeze``), ``fs/btrfs/transaction.c`` (``btrfs_commit_transaction``).
    """
    return _read_map(reader, is_frozen=True)


def _read_map(reader: BlockReader, *, is_frozen: bool) -> UsedMap:
    superblock = _read_superblock(reader)
    if superblock is None:
        raise DiskFormatError("Btrfs superblock: there is none at byte 65536", hint="Ask identify first.")
    refusal = _refusal(superblock, reader)
    if refusal is None and is_frozen and superblock.log_root:
        message = "The volume was said to be frozen, but it has a log of fsynced files."
        refusal = _notice("btrfs-not-frozen", message, "Freeze it with fsfreeze, or unmount it.")
    if refusal is not None:
        return raw_map(reader, refusal)
    try:
        used = _trusted_map(reader, superblock)
        if _read_superblock(reader) != superblock:
            message = "The volume changed while it was read: it is mounted, and not frozen."
            return raw_map(reader, _notice("btrfs-changed", message, "Freeze or unmount it for a small image."))
    except DiskFormatError as error:
        return raw_map(reader, _notice("btrfs-contradiction", error.message, error.hint))
    except ReadFault as fault:
        return raw_map(reader, _notice("btrfs-unreadable", fault.message, fault.hint or CHECK_HINT))
    return used


def _read_superblock(reader: BlockReader) -> Superblock | None:
    if reader.size < SUPERBLOCK_OFFSET + SUPERBLOCK_SIZE:
        return None
    return parse_superblock(reader.read_at(SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE))


def _refusal(superblock: Superblock, reader: BlockReader) -> Notice | None:
    """Why the superblock alone forbids to trust any map; ``None`` when it does not."""
    kind = superblock.checksum_type
    if kind not in READABLE_TYPES:
        name = {member.value: member.name for member in ChecksumType}.get(kind, f"number {kind}")
        message = f"The volume has checksums of type {name}, which this version does not compute."
        return _notice("btrfs-checksum-type", message, _WHOLE_HINT)
    if not superblock.checksum_good:
        return _notice("btrfs-checksum", "The checksum of the superblock is wrong.", CHECK_HINT)
    refusal = _refused_feature(superblock)
    if refusal is not None:
        return refusal
    # As numbers: the complement of a flag drops the bits that have no name.
    strange = int(superblock.state) & ~int(HARMLESS_STATE)
    if strange:
        message = f"The superblock says that the volume is not in order: {State(strange).name or hex(strange)}."
        return _notice("btrfs-state", message, CHECK_HINT)
    if superblock.fault:
        return _notice("btrfs-contradiction", f"Btrfs superblock: {superblock.fault}.", CHECK_HINT)
    if superblock.devices_count != 1 or superblock.device.number == 0:
        message = f"The file system lies on {format_count(superblock.devices_count, 'device')}; each is stored whole."
        return _notice("btrfs-several-devices", message, "All its devices must be backed up and restored together.")
    if superblock.device.size > reader.size:
        message = f"The file system is {format_size(superblock.device.size)}, its partition {format_size(reader.size)}."
        return _notice("btrfs-truncated", message, CHECK_HINT)
    return None


def _refused_feature(superblock: Superblock) -> Notice | None:
    for name, flags, known in (
        ("incompat", superblock.incompat, sum(Incompat)),
        ("compat_ro", superblock.ro_compat, sum(RoCompat)),
    ):
        if flags & ~known:
            message = f"The volume uses a {name} feature this program does not know: {int(flags) & ~known:#x}."
            return _notice("btrfs-unknown-feature", message, _NEWER_HINT)
    if superblock.incompat & UNSUPPORTED_INCOMPAT:
        names = (superblock.incompat & UNSUPPORTED_INCOMPAT).name
        return _notice(
            "btrfs-unsupported-feature", f"The volume uses a feature that is not read: {names}.", _WHOLE_HINT
        )
    if Incompat.MIXED_BACKREF not in superblock.incompat:
        message = "The volume is of the first version of Btrfs, before 2009, which is not read."
        return _notice("btrfs-unsupported-feature", message, _WHOLE_HINT)
    return None


def _trusted_map(reader: BlockReader, superblock: Superblock) -> UsedMap:
    """The map of a volume whose superblock allows one; raw when its chunks are laid out in other ways."""
    system = parse_system_chunks(superblock)
    strange = unmapped_types(system)
    if not strange:
        first = TreeReader(reader, superblock, _map_of(system, superblock))
        all_chunks = read_chunks(first, superblock)
        strange = unmapped_types(all_chunks)
    if strange:
        message = f"The volume has chunks of type {strange}, which this version does not read."
        return raw_map(reader, _notice("btrfs-profile", message, _WHOLE_HINT))
    chunks = _map_of(all_chunks, superblock)
    trees = TreeReader(reader, superblock, chunks)
    used = _read_used(trees, first, superblock, chunks)
    second_copies_count = first.second_copies_count + trees.second_copies_count
    notices: tuple[Notice, ...] = ()
    if superblock.log_root:
        log = TreeReader(reader, superblock, chunks)
        try:
            used |= read_log(log, superblock, chunks)
        except DiskFormatError as error:
            return raw_map(reader, _notice("btrfs-log", error.message, LOG_HINT))
        second_copies_count += log.second_copies_count
        message = "The volume was not unmounted. Its log of fsynced files was read, and what it names is kept as well."
        hint = "Nothing needs to be done: the restored volume replays its log when it is mounted."
        notices += (_notice("btrfs-log-kept", message, hint),)
    if second_copies_count:
        message = f"{format_count(second_copies_count, 'tree block')} could only be read in the second copy."
        hint = "Mount the volume and run 'btrfs scrub start' on it; the damage is in the image as it is on the disk."
        notices += (_notice("btrfs-second-copy", message, hint),)
    return UsedMap(extents=used | _always_kept(superblock, reader.size), kind="used", notices=notices)


def _map_of(chunks: tuple[Chunk, ...], superblock: Superblock) -> ChunkMap:
    return ChunkMap.of(chunks, superblock.device, sector_size=superblock.sector_size)


def _read_used(trees: TreeReader, first: TreeReader, superblock: Superblock, chunks: ChunkMap) -> ExtentSet:
    """What the extent tree has in use, after all cross-checks."""
    roots = read_roots(trees, superblock)
    check_device_extents(trees, superblock, roots[DEVICE_TREE], chunks)
    allocation = read_allocation(trees, superblock, roots, chunks)
    valid = RoCompat.FREE_SPACE_TREE | RoCompat.FREE_SPACE_TREE_VALID
    if superblock.ro_compat & valid == valid:
        check_free_space(trees, roots[FREE_SPACE_TREE], chunks, allocation, sector_size=superblock.sector_size)
    used = to_device(allocation, chunks)
    blocks = np.concatenate((first.blocks_read(), trees.blocks_read()))
    own = chunks.to_device(blocks, np.full(len(blocks), superblock.node_size, np.int64))
    if (own - used).size:
        raise DiskFormatError("Btrfs extent tree: it calls blocks of its own trees free", hint=CHECK_HINT)
    return used


def _always_kept(superblock: Superblock, size: int) -> ExtentSet:
    """The reserved start of the device, the superblocks, and what lies behind the file system."""
    mirrors = [Extent(place, place + SUPERBLOCK_SIZE) for place in MIRROR_OFFSETS if place + SUPERBLOCK_SIZE <= size]
    reserved = Extent(0, min(DEVICE_RESERVED_SIZE, size))
    return ExtentSet.of(reserved, *mirrors, Extent(superblock.device.size, size))


def _notice(code: str, message: str, hint: str) -> Notice:
    return Notice(code=code, message=message, hint=hint)
