"""Btrfs on one device: which bytes are in use, by the extent tree, and by the log of fsynced files when there is one.

``volume`` decides; ``superblock`` and ``chunks`` say what the volume is and where logical addresses lie; ``tree`` reads
and verifies tree blocks; ``allocation``, ``freespace`` and ``log`` gather and cross-check; ``checksums`` computes.
"""

from stillframe.fs.btrfs.volume import BtrfsFilesystem, read_frozen_map

__all__ = ["BtrfsFilesystem", "read_frozen_map"]
