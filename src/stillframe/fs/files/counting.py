"""What a volume holds, in numbers: files, folders, bytes, and where most of them lie.

Answers: "how much is in here, and which folders are the large ones?" A file with several names counts once. Bytes are
those that files say they have, not those that they take.

The tables of NTFS and ext are read whole and counted as arrays. Where that way meets anything that it does not
understand, and on all other file systems, a walk goes through the folders; both count by the same rules.
"""

import sys

from stillframe.block import BlockReader
from stillframe.errors import Cancelled, StillframeError
from stillframe.fs.base import Volume
from stillframe.fs.ext.listing import list_ext
from stillframe.fs.ext.superblock import EXT_NAMES
from stillframe.fs.files.sleuthkit import open_volume
from stillframe.fs.files.summing import sum_listing
from stillframe.fs.files.sums import FileCounts, FolderSums, LargeFolder, upper_folder
from stillframe.fs.files.support import gives_files
from stillframe.fs.files.walk import Found, Limits, Walk
from stillframe.fs.ntfs.listing import list_ntfs

__all__ = ["FileCounts", "LargeFolder", "count_at_once", "count_files", "count_walking"]


def count_files(reader: BlockReader, volume: Volume) -> Found[FileCounts] | None:
    """Count everything on a volume; ``None`` for volumes whose files are not read here.

    Raises:
        DiskFormatError: The volume is broken.
        ReadFault: The device failed.
    """
    if not gives_files(reader, volume):
        return None
    counts = count_at_once(reader, volume)
    return Found(records=(counts,)) if counts is not None else count_walking(reader, volume)


def count_at_once(reader: BlockReader, volume: Volume) -> FileCounts | None:
    """Count from the file system's tables; ``None`` where that cannot be done, or not without doubt.

    Args:
        reader: The volume.
        volume: One of which ``gives_files`` says that its files may be read.
    """
    try:
        if volume.filesystem == "ntfs":
            return sum_listing(list_ntfs(reader))
        if volume.filesystem in EXT_NAMES:
            return sum_listing(list_ext(reader))
    except Cancelled:
        raise
    except StillframeError:  # whatever is wrong, the walk counts what can be read and says what cannot
        pass
    return None


def count_walking(reader: BlockReader, volume: Volume) -> Found[FileCounts]:
    """Count by a walk through all folders.

    Raises:
        DiskFormatError: The volume is broken.
        ReadFault: The device failed.
    """
    walk = Walk(open_volume(reader, volume))
    folders_count = 0
    sums = FolderSums()
    linked: dict[int, tuple[str, int]] = {}
    for path, entry in walk.descend(walk.root, Limits()):
        if entry.is_system:
            continue
        if entry.is_folder:
            folders_count += 1
        elif entry.is_file and entry.links > 1:
            place = sys.intern(upper_folder(path)), entry.size  # a million files are in few upper folders
            linked[entry.number] = min(linked.get(entry.number, place), place)
        elif entry.is_file:
            sums.add(upper_folder(path), entry.size)
    for folder, size in linked.values():
        sums.add(folder, size)
    return walk.answer([sums.count(folders_count)])
