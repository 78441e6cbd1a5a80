"""Random-access bytes: disks, files, windows and overlays, all with the same few verbs (``BlockReader``)."""

from stillframe.block.assembled import AssembledReader, Piece
from stillframe.block.base import BlockReader, BlockWriter, ExtentKind, KnownExtent, ReadFault
from stillframe.block.cached import CachedReader
from stillframe.block.guarded import GuardedReader
from stillframe.block.joined import JoinedReader, StripedReader
from stillframe.block.joined_writing import JoinedWriter, MirroredWriter, StripedWriter
from stillframe.block.memory import MemoryDisk
from stillframe.block.overlay import OverlayReader
from stillframe.block.window import WindowReader, WindowWriter

__all__ = [
    "AssembledReader",
    "BlockReader",
    "BlockWriter",
    "CachedReader",
    "ExtentKind",
    "GuardedReader",
    "JoinedReader",
    "JoinedWriter",
    "KnownExtent",
    "MemoryDisk",
    "MirroredWriter",
    "OverlayReader",
    "Piece",
    "ReadFault",
    "StripedReader",
    "StripedWriter",
    "WindowReader",
    "WindowWriter",
]
