"""Volumes that rest on the partitions of a disk.

Answers: "whose bytes are these, and may what it calls free be left out?"
"""

from dataclasses import dataclass

from stillframe.block import BlockReader
from stillframe.host.live.bytemap import ByteMap


@dataclass(frozen=True, slots=True, kw_only=True)
class StackedVolume:
    """A volume that is not a partition but rests on one, through LVM, encryption or RAID.

    Attributes:
        reader: Its bytes, as the file system sees them.
        pieces: Where they lie on the disk that is captured, once for each copy.
        is_held: Whether its file system stands still; else it is looked at as it lies there.
    """

    reader: BlockReader
    pieces: tuple[ByteMap, ...]
    is_held: bool
