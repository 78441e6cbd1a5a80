"""The label of an LVM2 physical volume, and the text of the volume group that it holds.

Answers: "is this a physical volume, and what does it say of its group?" Checksums are proven first; of several copies
the newest that is whole counts. What the text says is for ``group``.

Source: LVM2 ``lib/label/label.h`` (``struct label_header``), ``lib/format_text/layout.h`` (``struct pv_header``,
``disk_locn``, ``mda_header``, ``raw_locn``), ``lib/format_text/format-text.c`` (how the text wraps around), and
``lib/misc/crc.c`` with ``INITIAL_CRC`` of ``crc.h``.
"""

import re
import struct
import zlib
from dataclasses import dataclass
from typing import Final

from stillframe.block import BlockReader
from stillframe.disk.lvm.text import TEXT_SIZE_MAX
from stillframe.errors import DiskFormatError
from stillframe.extents import Extent

SECTOR: Final = 512
_LABEL_SECTORS: Final = 4  # LABEL_SCAN_SECTORS
_LABEL: Final = struct.Struct("<8sQII8s")  # id, sector, crc, offset of the contents, type
CHECKED_FROM: Final = 20  # the checksum covers the sector from offset_xl on
_CRC_SEED: Final = 0xF597A6CF  # INITIAL_CRC
_PLACE: Final = struct.Struct("<QQ")  # struct disk_locn: offset, size
_PLACES_AT: Final = 40  # behind pv_uuid[32] and device_size_xl
_UUID_SIZE: Final = 32  # ID_LEN
_UUID: Final = re.compile(r"[A-Za-z0-9!#]{32}")  # lib/uuid/uuid.c, _c
AREA_HEADER_SIZE: Final = 512  # MDA_HEADER_SIZE
_AREA: Final = struct.Struct("<I16sIQQ")  # checksum, magic, version, start, size
_AREA_MAGIC: Final = b"\x20LVM2\x20x[5A%r0N*>"  # FMTT_MAGIC
_AREA_VERSION: Final = 1  # FMTT_VERSION
COMMITTED_AT: Final = _AREA.size  # raw_locns[0]: what is committed
_RAW: Final = struct.Struct("<QQII")  # struct raw_locn: offset, size, checksum, flags
_RAW_IGNORED: Final = 1  # RAW_LOCN_IGNORED
_HINT: Final = "'pvck' of LVM tells more, and 'vgcfgrestore' repairs it, on a restored copy."


@dataclass(frozen=True, slots=True, kw_only=True)
class PhysicalVolume:
    """A physical volume.

    Attributes:
        uuid: 32 letters and digits, without hyphens.
        size: Bytes that LVM takes it for.
        areas: Where its metadata areas are; empty when it has none.
        texts: Copies of the group's metadata that are whole; none where it belongs to no group or keeps none.
        fault: What is wrong with the first area that is broken.
        is_settled: No area is out of use or holds a change that was begun and not committed.
    """

    uuid: str
    size: int
    areas: tuple[Extent, ...]
    texts: tuple[bytes, ...]
    fault: DiskFormatError | None = None
    is_settled: bool = True


def read_physical_volume(reader: BlockReader) -> PhysicalVolume | None:
    """Read a partition or a disk as a physical volume.

    Returns:
        ``None`` when it has no label of LVM2.

    Raises:
        DiskFormatError: Its label or header is broken.
        ReadFault: The device failed.
    """
    place = label_place(reader)
    return None if place is None else _read_header(reader, reader.read_at(place, SECTOR), number=place // SECTOR)


def label_place(reader: BlockReader) -> int | None:
    """Where the sector with the label begins; ``None`` when there is none."""
    head = reader.read_at(0, min(reader.size, _LABEL_SECTORS * SECTOR))
    for number in range(len(head) // SECTOR):
        sector = head[number * SECTOR : (number + 1) * SECTOR]
        if sector[:8] == b"LABELONE" and sector[24:32] == b"LVM2 001":
            return number * SECTOR
    return None


def _read_header(reader: BlockReader, sector: bytes, *, number: int) -> PhysicalVolume:
    _, place, checksum, start, _ = _LABEL.unpack_from(sector)
    if checksum_of(sector[CHECKED_FROM:]) != checksum:
        raise DiskFormatError("LVM label: its checksum is wrong", hint=_HINT)
    if place != number or not _LABEL.size <= start <= SECTOR - _PLACES_AT:
        raise DiskFormatError(
            f"LVM label: expected sector {number} and a header inside of it, found {place} and {start}", hint=_HINT
        )
    header = sector[start:]
    uuid = header[:_UUID_SIZE].decode("ascii", "replace")
    if not _UUID.fullmatch(uuid):
        raise DiskFormatError(f"LVM label: expected a UUID of letters and digits, found {uuid!r}", hint=_HINT)
    _, next_list = _read_places(header, _PLACES_AT)
    areas, _ = _read_places(header, next_list)
    texts, faults, is_settled = list[bytes](), list[DiskFormatError](), True
    for area in areas:
        try:
            text, is_quiet = _read_area(reader, area)
        except DiskFormatError as error:
            faults.append(error)
            continue
        texts += [text] if text is not None else []
        is_settled = is_settled and is_quiet
    return PhysicalVolume(
        uuid=uuid, size=int.from_bytes(header[_UUID_SIZE:_PLACES_AT], "little"),
        areas=areas, texts=tuple(texts), fault=faults[0] if faults else None,
        is_settled=is_settled,
    )  # fmt: skip


def _read_places(header: bytes, at: int) -> tuple[tuple[Extent, ...], int]:
    """A list of places up to its end, and where the next list begins."""
    places = list[Extent]()
    while at + _PLACE.size <= len(header):
        offset, size = _PLACE.unpack_from(header, at)
        at += _PLACE.size
        if offset == 0:
            return tuple(places), at
        places.append(Extent(offset, offset + size))
    raise DiskFormatError("LVM label: expected an end of the list of areas, found none in its sector", hint=_HINT)


def _read_area(reader: BlockReader, area: Extent) -> tuple[bytes | None, bool]:
    """The text of a metadata area, ``None`` when it holds none or is not in use; and whether it is settled."""
    where = f"LVM metadata area at byte {area.start}"
    if area.end > reader.size or area.size <= AREA_HEADER_SIZE:
        raise DiskFormatError(
            f"{where}: expected it inside the {reader.size} bytes, found {area.size} bytes", hint=_HINT
        )
    header = reader.read_at(area.start, AREA_HEADER_SIZE)
    checksum, magic, version, start, size = _AREA.unpack_from(header)
    if checksum_of(header[4:]) != checksum or magic != _AREA_MAGIC:
        raise DiskFormatError(f"{where}: its header's checksum or signature is wrong", hint=_HINT)
    if (version, start, size) != (_AREA_VERSION, area.start, area.size):
        raise DiskFormatError(
            f"{where}: expected version 1 and {area.size} bytes there, found {version}, {size} at {start}", hint=_HINT
        )
    offset, length, expected, flags = _RAW.unpack_from(header, COMMITTED_AT)
    begun, _, _, _ = _RAW.unpack_from(header, _AREA.size + _RAW.size)  # raw_locns[1]: what is being written
    if offset == 0 or flags & _RAW_IGNORED:
        return None, not flags & _RAW_IGNORED and begun == 0
    room = area.size - AREA_HEADER_SIZE
    if not AREA_HEADER_SIZE <= offset < area.size or not 0 < length <= min(room, TEXT_SIZE_MAX):
        raise DiskFormatError(f"{where}: expected its text inside, found {length} bytes at {offset}", hint=_HINT)
    text = b"".join(reader.read_at(piece.start, piece.size) for piece in text_places(area, offset, length))
    if checksum_of(text) != expected:
        raise DiskFormatError(f"{where}: the checksum of its text is wrong", hint=_HINT)
    return text, begun == 0


def text_places(area: Extent, offset: int, length: int) -> tuple[Extent, ...]:
    """Where in a physical volume the text of an area lies: it wraps around behind the header."""
    first = min(length, area.size - offset)
    start, again = area.start + offset, area.start + AREA_HEADER_SIZE
    rest = (Extent(again, again + length - first),) if length > first else ()
    return (Extent(start, start + first), *rest)


def checksum_of(contents: bytes) -> int:
    """LVM's CRC-32: that of zlib with another seed, and not inverted."""
    return zlib.crc32(contents, _CRC_SEED ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
