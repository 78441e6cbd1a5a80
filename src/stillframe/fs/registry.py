"""All file systems Stillframe knows, and which of them a volume is.

Answers: "what is in this partition?" Where two file systems claim the same bytes (a stale signature left by another
one), nobody guesses: both are named and the caller stores the volume raw.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from stillframe.block import BlockReader, ReadFault
from stillframe.errors import DiskFormatError
from stillframe.events import Notice
from stillframe.extents import ExtentSet
from stillframe.fs.base import Filesystem, UsedMap, Volume, raw_map
from stillframe.fs.btrfs import BtrfsFilesystem
from stillframe.fs.btrfs import read_frozen_map as read_frozen_btrfs
from stillframe.fs.exfat import ExfatFilesystem
from stillframe.fs.ext import ExtFilesystem
from stillframe.fs.fat import FatFilesystem
from stillframe.fs.ntfs import NtfsFilesystem, read_shadow_map
from stillframe.fs.recognised import ContainerVolumes, ForeignFilesystems
from stillframe.fs.swap import SwapFilesystem
from stillframe.fs.xfs import XfsFilesystem
from stillframe.fs.xfs import read_frozen_map as read_frozen_xfs

FILESYSTEMS: Final[tuple[Filesystem, ...]] = (
    ContainerVolumes(), NtfsFilesystem(), FatFilesystem(), ExfatFilesystem(), ExtFilesystem(), XfsFilesystem(),
    BtrfsFilesystem(), SwapFilesystem(), ForeignFilesystems(),
)  # fmt: skip


_FROZEN_MAPS: Final[dict[str, Callable[[BlockReader], UsedMap]]] = {
    "btrfs": read_frozen_btrfs,
    "xfs": read_frozen_xfs,
}
"""File systems that a freeze leaves looking unclean, though their maps are current. The others look unmounted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identified:
    """What is in a partition. ``filesystem`` is ``None`` when it must be stored raw; ``notices`` say why."""

    volume: Volume
    filesystem: Filesystem | None
    notices: tuple[Notice, ...] = ()


def identify(reader: BlockReader) -> Identified:
    """Say what is in a partition; an empty ``Volume`` when nobody knows."""
    found: list[tuple[Filesystem, Volume]] = []
    notices: list[Notice] = []
    for filesystem in FILESYSTEMS:
        try:
            volume = filesystem.identify(reader)
        except (DiskFormatError, ReadFault) as error:
            notices.append(Notice(code="filesystem-broken", message=error.message, hint=error.hint))
            continue
        if volume is not None:
            found.append((filesystem, volume))
    if len(found) == 1 and not notices:
        return Identified(volume=found[0][1], filesystem=found[0][0])
    if len(found) > 1:
        names = " and ".join(volume.filesystem for _, volume in found)
        notices.append(
            Notice(
                code="filesystem-ambiguous",
                message=f"the volume looks like {names}: every byte of it is kept",
                hint="'wipefs' shows the signatures; an old one may be left over.",
            )
        )
    return Identified(
        volume=found[0][1] if len(found) == 1 else Volume(filesystem=""), filesystem=None, notices=tuple(notices)
    )


def read_used_map(
    reader: BlockReader, identified: Identified, *, is_frozen: bool = False, said_used: ExtentSet | None = None
) -> UsedMap:
    """The bytes in use; the whole partition where its file system is not known, is broken, or cannot prove its map.

    Args:
        reader: The partition.
        identified: What ``identify`` said of it.
        is_frozen: The caller vouches that the kernel holds it frozen at this moment.
        said_used: The reader is a shadow of a mounted NTFS, and these of its bytes are in use by what Windows says of
            that shadow.
    """
    if identified.filesystem is None:
        return raw_map(reader, *identified.notices)
    try:
        if said_used is not None and identified.volume.filesystem == "ntfs":
            return read_shadow_map(reader, said_used)
        if is_frozen and identified.volume.filesystem in _FROZEN_MAPS:
            return _FROZEN_MAPS[identified.volume.filesystem](reader)
        return identified.filesystem.used_map(reader)
    except (DiskFormatError, ReadFault) as error:
        notice = Notice(code="filesystem-broken", message=f"{error.message}: every byte is kept", hint=error.hint)
        return raw_map(reader, notice)
