"""XFS, versions 4 and 5: which bytes are in use, of a volume that was unmounted, or is frozen at this moment.

``volume`` decides; ``superblock`` and ``groups`` read the headers, ``freespace`` the trees of free space, ``log``
whether the volume was unmounted. The log is not replayed.
"""

from stillframe.fs.xfs.volume import XfsFilesystem, read_frozen_map

__all__ = ["XfsFilesystem", "read_frozen_map"]
