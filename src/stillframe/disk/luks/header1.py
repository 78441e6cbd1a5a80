"""The header of LUKS version 1.

Source: LUKS1 On-Disk Format Specification 1.2.3, section 2.2 (``phdr``) and 2.3 (key slots).
"""

import struct
from typing import Final

from stillframe.disk.luks.ciphers import require_cipher
from stillframe.disk.luks.records import (
    ITERATIONS_MAX,
    KEY_SIZE_MAX,
    SECTOR,
    STRIPES_MAX,
    KeyDigest,
    KeySlot,
    LuksHeader,
    Pbkdf2,
    Segment,
    refused,
    require_hash,
    require_number,
)
from stillframe.extents import Extent

HEADER_SIZE: Final = 592
_PHDR: Final = struct.Struct(">6sH32s32s32sII20s32sI40s")
_SLOT: Final = struct.Struct(">II32sII")  # active, iterations, salt, key material offset in sectors, stripes
_SLOTS: Final = 8
_ENABLED: Final = 0x00AC71F3
_DISABLED: Final = 0x0000DEAD
_WHERE: Final = "LUKS1 header"


def parse_header1(raw: bytes, size: int) -> LuksHeader:
    """Parse a header.

    Args:
        raw: At least the first 592 bytes of the volume.
        size: Bytes of the volume.

    Raises:
        DiskFormatError: It breaks the format, or asks for what is not done here.
    """
    if len(raw) < HEADER_SIZE:
        raise refused(_WHERE, f"{HEADER_SIZE} bytes", len(raw))
    _, _, name, mode, hash_spec, payload, key_size, digest, salt, iterations, uuid = _PHDR.unpack_from(raw)
    where = _WHERE
    key_size = require_number(where, "bytes of a key", key_size, least=1, most=KEY_SIZE_MAX)
    cipher = require_cipher(where, f"{_text(name)}-{_text(mode)}", key_size)
    hashed = require_hash(where, _text(hash_spec))
    start = payload * SECTOR
    end = size // SECTOR * SECTOR
    if not HEADER_SIZE <= start < end:
        raise refused(where, f"its encrypted bytes inside the {size} of the volume", f"byte {start}")
    rounds = require_number(where, "iterations", iterations, least=1, most=ITERATIONS_MAX)
    slots, unread = [], list[str]()
    for number in range(_SLOTS):
        fields = _SLOT.unpack_from(raw, _PHDR.size + number * _SLOT.size)
        if fields[0] == _ENABLED:
            slots.append(_parse_slot(number, fields, start, key_size=key_size, cipher=cipher, hashed=hashed))
        elif fields[0] != _DISABLED:
            unread.append(f"key slot {number} is neither in use nor free")
    return LuksHeader(
        version=1, uuid=_text(uuid), label="",
        segment=Segment(extent=Extent(start, end), cipher=cipher, sector_size=SECTOR, first_iv=0),
        digest=KeyDigest(derivation=Pbkdf2(hash=hashed, iterations=rounds, salt=salt), digest=digest),
        slots=tuple(slots), unread=tuple(unread),
    )  # fmt: skip


def _parse_slot(
    number: int, fields: tuple[int, int, bytes, int, int], payload: int, *, key_size: int, cipher: str, hashed: str
) -> KeySlot:
    _, iterations, salt, first, stripes = fields
    where = f"{_WHERE}, key slot {number}"
    stripes = require_number(where, "stripes", stripes, least=1, most=STRIPES_MAX)
    area = Extent(first * SECTOR, first * SECTOR + -(-key_size * stripes // SECTOR) * SECTOR)
    if area.start < HEADER_SIZE or area.end > payload:
        raise refused(where, f"its bytes between the header and {payload}", f"{area.start} to {area.end}")
    return KeySlot(
        number=number, key_size=key_size, area=area, cipher=cipher, area_key_size=key_size, stripes=stripes,
        split_hash=hashed,
        derivation=Pbkdf2(
            hash=hashed, salt=salt,
            iterations=require_number(where, "iterations", iterations, least=1, most=ITERATIONS_MAX),
        ),
    )  # fmt: skip


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("ascii", "replace")
