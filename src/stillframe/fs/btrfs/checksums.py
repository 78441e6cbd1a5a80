"""The checksums of Btrfs superblocks and tree blocks, of many blocks at once.

Answers: "is each of these blocks what was written?" XXH64 is known by name only: it would need another library.

Sources: Linux ``include/uapi/linux/btrfs.h`` (``enum btrfs_csum_type``), ``fs/btrfs/ctree.c`` (``btrfs_csums``: names
and sizes), ``fs/btrfs/disk-io.c`` (``csum_tree_block``: what is summed); Btrfs documentation, "Checksumming".
"""

import hashlib
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillframe.crc32c import CRC32C, crc_rows

CHECKSUM_FIELD_SIZE: Final = 32
"""BTRFS_CSUM_SIZE: every block begins with this field, which is not part of what is summed."""

Blocks = NDArray[np.uint8]
"""One block a row."""


class ChecksumType(IntEnum):
    """``csum_type``; the values of ``enum btrfs_csum_type``."""

    CRC32C = 0
    XXHASH64 = 1
    SHA256 = 2
    BLAKE2B = 3


READABLE_TYPES: Final = frozenset({ChecksumType.CRC32C, ChecksumType.SHA256, ChecksumType.BLAKE2B})


def are_checksums_good(blocks: Blocks, kind: ChecksumType) -> NDArray[np.bool_]:
    """Whether the checksum in each block is that of the rest of the block.

    Args:
        blocks: One block a row, with its checksum in front.
        kind: One of ``READABLE_TYPES``.
    """
    if kind is ChecksumType.CRC32C:
        seeds = np.full(len(blocks), 0xFFFFFFFF, np.uint32)
        computed = ~crc_rows(blocks[:, CHECKSUM_FIELD_SIZE:], seeds=seeds, polynomial=CRC32C)
        stored = np.ascontiguousarray(blocks[:, :4]).view("<u4")[:, 0]
        return np.asarray(computed == stored, np.bool_)
    return np.array([block[:CHECKSUM_FIELD_SIZE].tobytes() == _digest(block, kind) for block in blocks], np.bool_)


def _digest(block: Blocks, kind: ChecksumType) -> bytes:
    message = block[CHECKSUM_FIELD_SIZE:].tobytes()
    if kind is ChecksumType.SHA256:
        return hashlib.sha256(message).digest()
    if kind is ChecksumType.BLAKE2B:
        return hashlib.blake2b(message, digest_size=CHECKSUM_FIELD_SIZE).digest()
    raise ValueError(f"{kind.name} is not read")
