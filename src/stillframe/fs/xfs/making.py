"""What ``mkfs.xfs`` must be told so that a new XFS is like an old one.

Answers: "which options give a volume with these features?" Pure. What a new volume cannot have, or what a program that
is too old does not know, is for ``mkfs.xfs`` to refuse.

Sources: mkfs.xfs(8); Linux ``fs/xfs/libxfs/xfs_format.h`` (``struct xfs_dsb``: ``sb_inodesize`` at 104,
``sb_qflags`` at 176, ``sb_dirblklog`` at 192; ``XFS_SB_VERSION_BORGBIT``, the folding of ASCII names).
"""

import struct
from collections.abc import Iterator
from typing import Final

from stillframe.errors import DiskFormatError
from stillframe.fs.xfs.superblock import CHECK_HINT, Features2, Incompat, RoCompat, Superblock, parse_superblock

SIZE_MIN: Final = 300 << 20
"""mkfs.xfs since 5.19: "Filesystem must be larger than 300MB.\""""
_INODE_SIZE_AT, _QUOTAS_AT, _FOLDER_BLOCK_AT = 104, 176, 192
_FOLDS_CASE: Final = 0x4000
_INODE_SIZES: Final = (256, 512, 1024, 2048)  # XFS_DINODE_MIN_SIZE to XFS_DINODE_MAX_SIZE
_KNOWN_RO: Final = RoCompat.FINOBT | RoCompat.RMAPBT | RoCompat.REFLINK | RoCompat.INOBTCNT
_KNOWN_INCOMPAT: Final = (
    Incompat.FTYPE | Incompat.SPINODES | Incompat.META_UUID | Incompat.BIGTIME | Incompat.NREXT64
    | Incompat.EXCHRANGE | Incompat.PARENT
)  # fmt: skip


def has_quotas(raw: bytes) -> bool:
    """Whether an XFS, by its first 512 bytes, has limits for users, groups or projects."""
    return len(raw) > _QUOTAS_AT + 1 and raw[_QUOTAS_AT : _QUOTAS_AT + 2] != bytes(2)


def read_sector_size(raw: bytes) -> int:
    """Bytes of a sector of an XFS, from its first 512 bytes; 0 when they are not of one."""
    superblock = parse_superblock(raw)
    return superblock.sector_size if superblock is not None else 0


def making_options(raw: bytes, *, sector_size: int) -> tuple[str, ...]:
    """Options for ``mkfs.xfs``.

    Args:
        raw: The first 512 bytes of the old volume.
        sector_size: Of the disk that the new one is for; sectors become no smaller than this.

    Raises:
        DiskFormatError: It is not an XFS, or one that is not made anew.
    """
    superblock = parse_superblock(raw)
    if superblock is None:
        raise DiskFormatError("XFS superblock: not found", hint=CHECK_HINT)
    if superblock.realtime_blocks or not superblock.log_start:
        raise DiskFormatError("an XFS with parts on other devices is not made anew", hint="Restore it at its own size.")
    unknown = superblock.incompat & ~int(_KNOWN_INCOMPAT), superblock.ro_compat & ~int(_KNOWN_RO)
    if superblock.version not in (4, 5) or any(unknown):
        raise DiskFormatError(
            f"an XFS of version {superblock.version} with features {unknown[0]:#x} and {unknown[1]:#x}, which are not "
            "known here, is not made anew",
            hint="Restore it at its own size.",
        )
    return tuple(_iter_options(superblock, raw, max(superblock.sector_size, sector_size)))


def _iter_options(superblock: Superblock, raw: bytes, sector_size: int) -> Iterator[str]:
    (inode_size,) = struct.unpack_from(">H", raw, _INODE_SIZE_AT)
    shift = raw[_FOLDER_BLOCK_AT]
    if inode_size not in _INODE_SIZES or superblock.block_size << shift > 64 << 10:
        raise DiskFormatError(f"XFS superblock: inodes of {inode_size} bytes cannot be", hint=CHECK_HINT)
    yield from ("-K", "-b", f"size={superblock.block_size}", "-s", f"size={sector_size}")
    yield from ("-m", ",".join(_global_options(superblock)), "-i", ",".join(_inode_options(superblock, inode_size)))
    names = [f"size={superblock.block_size << shift}"]
    if superblock.flags & _FOLDS_CASE:
        names.append("version=ci")
    if superblock.version == 4:
        names.append(f"ftype={int(bool(superblock.features2 & Features2.FILE_TYPE))}")
    if superblock.incompat & Incompat.PARENT:
        names.append("parent=1")
    yield from ("-n", ",".join(names))
    if superblock.label:
        yield from ("-L", superblock.label)


def _global_options(superblock: Superblock) -> Iterator[str]:
    yield f"crc={int(superblock.version == 5)}"
    if superblock.version == 5:
        for name, bit in (
            ("finobt", RoCompat.FINOBT), ("rmapbt", RoCompat.RMAPBT), ("reflink", RoCompat.REFLINK),
            ("inobtcount", RoCompat.INOBTCNT),
        ):  # fmt: skip
            yield f"{name}={int(bool(superblock.ro_compat & bit))}"
        yield f"bigtime={int(bool(superblock.incompat & Incompat.BIGTIME))}"
    else:
        yield "finobt=0"
    if superblock.uuid_text:
        yield f"uuid={superblock.uuid_text}"


def _inode_options(superblock: Superblock, inode_size: int) -> Iterator[str]:
    yield f"size={inode_size}"
    if superblock.version == 5:
        yield f"sparse={int(bool(superblock.incompat & Incompat.SPINODES))}"
        # Asked for only where they are wanted: an older mkfs.xfs does not know the words.
        yield from (
            f"{name}=1"
            for name, bit in (("nrext64", Incompat.NREXT64), ("exchange", Incompat.EXCHRANGE))
            if superblock.incompat & bit
        )
