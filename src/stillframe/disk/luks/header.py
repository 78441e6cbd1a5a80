"""Whether a volume is one of LUKS, and what its header says.

Answers: "is this encrypted by LUKS, where, and how?" Of version 2 there are two copies of the header. cryptsetup takes
the newer whole one; here they must also agree on what is encrypted and how, or nothing is believed.
"""

from collections.abc import Iterator

from stillframe.block import BlockReader
from stillframe.disk.luks.header1 import HEADER_SIZE, parse_header1
from stillframe.disk.luks.header2 import (
    BINARY_SIZE,
    FIRST_MAGIC,
    HEADER_SIZES,
    HeaderCopy,
    copy_size,
    parse_copy,
    parse_header2,
)
from stillframe.disk.luks.records import LuksHeader, refused


def read_header(volume: BlockReader) -> LuksHeader | None:
    """Read the header of a volume.

    Returns:
        ``None`` when the volume is not of LUKS.

    Raises:
        DiskFormatError: It is, and broken, in doubt, or of a kind that is not opened here; the message says which.
        ReadFault: The device failed.
    """
    head = volume.read_at(0, min(volume.size, BINARY_SIZE))
    if not head.startswith(FIRST_MAGIC):
        return None
    version = int.from_bytes(head[6:8], "big")
    if version == 1:
        return parse_header1(head[:HEADER_SIZE], volume.size)
    if version != 2:
        raise refused("LUKS header", "version 1 or 2", version)
    copies = sorted(_iter_copies(volume), key=lambda one: one.sequence)
    if not copies:
        raise refused("LUKS2 header", "a copy whose checksum is right", "none")
    headers = [parse_header2(copy, volume.size) for copy in copies]
    if any((one.segment, one.digest) != (headers[-1].segment, headers[-1].digest) for one in headers):
        raise refused("LUKS2 header", "two copies that agree", "another segment or key in the second one")
    if len({copy.sequence for copy in copies}) < len({copy.json for copy in copies}):
        raise refused("LUKS2 header", "two copies that agree", "equally new ones that differ")
    return headers[-1]


def _iter_copies(volume: BlockReader) -> Iterator[HeaderCopy]:
    """All copies that are whole: the first, and the second where the first ends, or wherever one is found."""
    for start in (0, *HEADER_SIZES):
        if start + BINARY_SIZE > volume.size:
            return
        size = copy_size(volume.read_at(start, BINARY_SIZE), start=start)
        if size is not None and start + size <= volume.size:
            copy = parse_copy(volume.read_at(start, size), start=start)
            if copy is not None:
                yield copy
