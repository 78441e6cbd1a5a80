"""A new UUID for an encrypted volume, as edits of its header.

Answers: "what must be written so that this copy is another volume than its original?" Its key, its slots and what it
holds stay, and so does every passphrase. Of version 2 both copies of the header are changed, each with its checksum.

Source: LUKS1 On-Disk Format Specification 1.2.3, section 2.2 (``uuid``; no checksum); LUKS2 On-Disk Format
Specification 1.1.1, section 2.1 (``uuid``, ``csum``: over the whole copy with the field itself zeros).
"""

import hashlib
from collections.abc import Iterator
from typing import Final

from stillframe.block import BlockReader
from stillframe.block.edits import Edit
from stillframe.disk.luks.header2 import BINARY_SIZE, CHECKSUM, HEADER_SIZES, copy_size, parse_copy
from stillframe.disk.luks.records import LuksHeader

_UUID: Final = slice(168, 208)  # of both versions: 40 bytes, the text ends with a zero
_ALGORITHM: Final = slice(72, 104)


def rename_luks(volume: BlockReader, header: LuksHeader, new: str) -> tuple[Edit, ...]:
    """What to write.

    Args:
        volume: From its header on.
        header: What ``read_header`` says of it.
        new: As ``blkid`` spells it.

    Raises:
        ReadFault: The device failed.
    """
    text = new.encode("ascii").ljust(_UUID.stop - _UUID.start, b"\0")
    if header.version == 1:
        old = volume.read_at(_UUID.start, len(text))
        return (Edit(offset=_UUID.start, old=old, new=text),)
    return tuple(_rename_copies(volume, text))


def _rename_copies(volume: BlockReader, text: bytes) -> Iterator[Edit]:
    """One that is not whole is nobody's, and stays."""
    for start in (0, *HEADER_SIZES):
        if start + BINARY_SIZE > volume.size:
            return
        size = copy_size(volume.read_at(start, BINARY_SIZE), start=start)
        if size is None or start + size > volume.size:
            continue
        raw = volume.read_at(start, size)
        if parse_copy(raw, start=start) is None:
            continue
        changed = bytearray(raw)
        changed[_UUID] = text
        changed[CHECKSUM] = bytes(CHECKSUM.stop - CHECKSUM.start)
        digest = hashlib.new(raw[_ALGORITHM].split(b"\0")[0].decode("ascii"), changed, usedforsecurity=False).digest()
        changed[CHECKSUM] = digest.ljust(CHECKSUM.stop - CHECKSUM.start, b"\0")
        yield Edit(offset=start, old=raw[:BINARY_SIZE], new=bytes(changed[:BINARY_SIZE]))
