"""ext2, ext3 and ext4: which bytes are in use, with the journal replayed in memory when the volume was not unmounted.

``volume`` decides; ``superblock``, ``groups`` and ``bitmaps`` read the map; ``inode``, ``journal`` and ``recovery``
replay; ``swapfiles`` finds what need not be kept.
"""

from stillframe.fs.ext.superblock import EXT_NAMES
from stillframe.fs.ext.volume import ExtFilesystem, explain_unclean, leave_unreplayed, replay_journal, replay_volume

__all__ = ["EXT_NAMES", "ExtFilesystem", "explain_unclean", "leave_unreplayed", "replay_journal", "replay_volume"]
