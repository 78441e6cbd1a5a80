"""Random-access bytes: disks, files, windows and overlays, all with the same few verbs (``BlockReader``)."""

from stillframe.block.assembled import AssembledReader, Piece
from stillframe.block.base import BlockReader, BlockWriter, ExtentKind, KnownExtent, ReadFault
from stillframe.block.cached import CachedReader
from stillframe.block.guarded import GuardedReader
from stillframe.block.joined import JoinedReader, StripedReader
from stillframe.block.memory import MemoryDisk
from stillframe.block.overlay import OverlayReader
from stillframe.block.window import WindowReader

__all__ = [
    "AssembledReader",
    "BlockReader",
    "BlockWriter",
    "CachedReader",
    "ExtentKind",
    "GuardedReader",
    "JoinedReader",
    "KnownExtent",
    "MemoryDisk",
    "OverlayReader",
    "Piece",
    "ReadFault",
    "StripedReader",
    "WindowReader",
]
