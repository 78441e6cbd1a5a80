"""New UUIDs for a volume group and its physical volumes, as edits of what lies on the disk.

Answers: "what must be written so that this copy is another group than its original?" As ``vgimportclone`` does, the
group and its physical volumes get new ids, and logical volumes keep theirs; other than there, names stay too. A new id
is as long as the old one, so every text stays where it is and only checksums change with it.

Source: as in ``label``; LVM2 ``lib/uuid/uuid.c`` (``_c``: the letters of an id, ``lid_build``: 32 of them).
"""

import secrets
import string
from collections.abc import Mapping
from itertools import pairwise
from typing import Final

from stillframe.block import BlockReader
from stillframe.block.edits import Edit
from stillframe.disk.lvm import label
from stillframe.disk.lvm.label import PhysicalVolume
from stillframe.extents import Extent

_LETTERS: Final = string.ascii_letters + string.digits
"""LVM's own letters but for two that only it needs, ``!`` and ``#``."""
_CUTS: Final = (0, 6, 10, 14, 18, 22, 26, 32)


def new_lvm_uuid() -> str:
    """A random id, without hyphens."""
    return "".join(secrets.choice(_LETTERS) for _ in range(32))


def hyphenated(uuid: str) -> str:
    """A UUID as LVM writes it. Source: LVM2 ``lib/uuid/uuid.c``, ``id_write_format``: 6-4-4-4-4-4-6."""
    return "-".join(uuid[start:end] for start, end in pairwise(_CUTS))


def rename_physical(reader: BlockReader, volume: PhysicalVolume, new: Mapping[str, str]) -> tuple[Edit, ...]:
    """What to write into a physical volume, whose areas are all whole and in use.

    Args:
        reader: It, from its first byte on.
        volume: What ``read_physical_volume`` says of it.
        new: For every old id its new one, without hyphens: of the group, and of all its physical volumes.

    Raises:
        ReadFault: The device failed.
    """
    edits = [_rename_label(reader, volume, new[volume.uuid])]
    for area in volume.areas:
        edits += _rename_area(reader, area, new)
    return tuple(edits)


def _rename_label(reader: BlockReader, volume: PhysicalVolume, new: str) -> Edit:
    place = label.label_place(reader)
    if place is None:
        raise ValueError("there is no label of LVM: a bug of the caller")
    old = reader.read_at(place, label.SECTOR)
    sector = bytearray(old)
    start = int.from_bytes(sector[20:24], "little")  # offset_xl: where pv_header begins, with pv_uuid
    if sector[start : start + 32] != volume.uuid.encode():
        raise ValueError("the label is not that of the volume: a bug of the caller")
    sector[start : start + 32] = new.encode()
    sector[16:20] = label.checksum_of(bytes(sector[label.CHECKED_FROM :])).to_bytes(4, "little")  # crc_xl
    return Edit(offset=place, old=old, new=bytes(sector))


def _rename_area(reader: BlockReader, area: Extent, new: Mapping[str, str]) -> list[Edit]:
    """The text that is committed, and the header with its checksum; what lies around it is history."""
    old = reader.read_at(area.start, label.AREA_HEADER_SIZE)
    header, at = bytearray(old), label.COMMITTED_AT
    offset, length = (int.from_bytes(header[at + step : at + step + 8], "little") for step in (0, 8))
    if not offset:
        return []
    pieces = label.text_places(area, offset, length)
    contents = [reader.read_at(piece.start, piece.size) for piece in pieces]
    text = b"".join(contents)
    for one, other in new.items():
        text = text.replace(hyphenated(one).encode(), hyphenated(other).encode())
    header[at + 16 : at + 20] = label.checksum_of(text).to_bytes(4, "little")
    header[:4] = label.checksum_of(bytes(header[4:])).to_bytes(4, "little")
    edits, done = [Edit(offset=area.start, old=old, new=bytes(header))], 0
    for piece, before in zip(pieces, contents, strict=True):
        edits.append(Edit(offset=piece.start, old=before, new=text[done : done + piece.size]))
        done += piece.size
    return edits
