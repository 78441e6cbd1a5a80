"""ext2, ext3 and ext4: which bytes are in use, with the journal replayed in memory when the volume was not unmounted.

``volume`` decides; ``superblock``, ``groups`` and ``bitmaps`` read the map; ``inode``, ``journal`` and ``recovery``
replay; ``swapfiles`` finds what need not be kept.
"""

from stillframe.fs.ext.volume import ExtFilesystem, replay_journal

__all__ = ["ExtFilesystem", "replay_journal"]
