"""A volume of an image as it is after its journal was replayed, with nothing written.

Answers: "may these files be believed, and what must be done before they are read?" ext3 and ext4 are replayed in
memory. What cannot be replayed here is read as it stands, and a notice says that files may be out of date.
"""

from typing import Final

from stillframe.block import BlockReader, ReadFault
from stillframe.errors import DiskFormatError
from stillframe.events import Notice
from stillframe.fs import ext, hfs_plus, ntfs
from stillframe.fs.base import Volume
from stillframe.fs.registry import FILESYSTEMS

STALE: Final = "files-may-be-stale"
"""The code of a notice after which nobody should trust that a file is the newest; exit code 3."""
REPLAYED: Final = "journal-replayed"
_BY_MAP: Final = frozenset({"vfat", "exfat", "xfs", "btrfs"})
_KEPT_WHOLE: Final = ("; it is kept whole", "; the volume is kept whole", ": every byte is kept")
HELD: Final = frozenset({"snapshot", "frozen"})
"""Consistencies of volumes that look unclean and are not: they were in use, and all their buffers written out."""
_FAST: Final = Notice(code=STALE, message="its newest changes are fast commits, which this version does not replay")
_HINT: Final = "Compare with an older image, or restore the partition and let its own system repair it."


def replayed_view(reader: BlockReader, volume: Volume) -> tuple[BlockReader, tuple[Notice, ...]]:
    """The volume to read files from, and what must be said about it.

    Args:
        reader: The partition.
        volume: What ``registry.identify`` said of it.

    Returns:
        ``reader``, or a view of it in which the journal was replayed and is empty, or one that asks for no replay where
        that is not possible. A notice with the code ``STALE``
        says that files may be missing or out of date.
    """
    name = f"{volume.filesystem} volume {(volume.label or volume.uuid)!r}"
    try:
        if volume.filesystem not in ext.EXT_NAMES:
            return reader, _stale(name, _find_doubt(reader, volume))
        replayed = ext.replay_volume(reader)
        if replayed is None:
            return reader, _stale(name, ext.explain_unclean(reader))
        notice = Notice(
            code=REPLAYED,
            message=f"The {name} was not unmounted. Its journal ({replayed.transactions_count} transactions, "
            f"{replayed.blocks_count} blocks) was replayed in memory; the image is as it was.",
        )  # fmt: skip
        doubt = _FAST if replayed.fast_commits else ext.explain_unclean(replayed.view)
        return replayed.view, (notice, *_stale(name, doubt))
    except (DiskFormatError, ReadFault) as error:
        notices = _stale(name, Notice(code=STALE, message=error.message, hint=error.hint))
    try:
        return ext.leave_unreplayed(reader) if volume.filesystem in ext.EXT_NAMES else reader, notices
    except (DiskFormatError, ReadFault):
        return reader, notices


def _find_doubt(reader: BlockReader, volume: Volume) -> Notice | None:
    """The first reason why the volume is not as the next mount would show it."""
    if volume.filesystem == "ntfs":
        return ntfs.explain_unclean(reader)
    if volume.filesystem == "hfsplus":
        return hfs_plus.explain_unclean(reader)
    if volume.filesystem not in _BY_MAP:
        return None
    filesystem = next((one for one in FILESYSTEMS if one.identify(reader) is not None), None)
    found = None if filesystem is None else filesystem.used_map(reader)
    return found.notices[0] if found is not None and found.kind == "raw" and found.notices else None


def _stale(name: str, doubt: Notice | None) -> tuple[Notice, ...]:
    if doubt is None:
        return ()
    words = doubt.message
    for ending in _KEPT_WHOLE:
        words = words.removesuffix(ending)
    return (Notice(code=STALE, message=f"Files of the {name} may be missing or out of date: {words}.", hint=_HINT),)
