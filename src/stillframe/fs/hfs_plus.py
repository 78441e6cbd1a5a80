"""HFS+, the file system of older Macs: its volume header.

Answers: "is this an HFS+ volume by itself, and was it closed?" Its used map is not read: it is kept whole.

Source: Apple Technical Note TN1150, "Volume Header"; all numbers big-endian.
"""

import struct
from dataclasses import dataclass
from typing import Final

from stillframe.block import BlockReader
from stillframe.events import Notice

HEADER_OFFSET: Final = 1024
_HEADER_SIZE: Final = 112
_KINDS: Final = frozenset({(b"H+", 4), (b"HX", 5)})
_UNMOUNTED, _INCONSISTENT = 1 << 8, 1 << 11  # kHFSVolumeUnmountedBit, kHFSBootVolumeInconsistentBit


@dataclass(frozen=True, slots=True)
class HfsPlusHeader:
    """What a volume header says.

    Attributes:
        attributes: Its bits.
        identity: The 8 bytes of which tools make a UUID; zeros for none.
    """

    attributes: int
    identity: bytes


def parse_hfs_plus(raw: bytes) -> HfsPlusHeader | None:
    """The first 112 bytes of a volume header; ``None`` when they are none."""
    if len(raw) < _HEADER_SIZE:
        return None
    signature, version, attributes = struct.unpack_from(">2sHI", raw)
    if (signature, version) not in _KINDS:
        return None
    return HfsPlusHeader(attributes=attributes, identity=raw[104:112])


def find_hfs_plus(reader: BlockReader, offset: int = HEADER_OFFSET) -> HfsPlusHeader | None:
    """The header at an offset, by default where a volume without an HFS wrapper has it. Raises ``ReadFault``."""
    if offset + _HEADER_SIZE > reader.size:
        return None
    return parse_hfs_plus(reader.read_at(offset, _HEADER_SIZE))


def explain_unclean(reader: BlockReader) -> Notice | None:
    """Why the files may not be what the next mount would show; ``None`` when nothing says so. Raises ``ReadFault``."""
    header = find_hfs_plus(reader)
    if header is not None and header.attributes & _UNMOUNTED and not header.attributes & _INCONSISTENT:
        return None
    return Notice(code="unclean", message="it was not unmounted, and its journal is not replayed")
