"""One copy of the header of LUKS version 2: 4096 bytes, then JSON, both under one checksum.

What asks for anything beyond one encrypted segment (integrity, a change of the key that is under way, requirements that
this version does not know) is refused with its name: cryptsetup might see other bytes there than are seen here.

Source: LUKS2 On-Disk Format Specification 1.1.1, sections 2 (binary header), 3 (JSON) and 3.6 (config).
"""

import hashlib
import struct
from dataclasses import dataclass, field
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from stillframe.disk.luks.ciphers import require_cipher
from stillframe.disk.luks.records import (
    ARGON2_LANES_MAX,
    ARGON2_MEMORY_KIB_MAX,
    ARGON2_WORK_KIB_MAX,
    HINT,
    ITERATIONS_MAX,
    KEY_SIZE_MAX,
    SECTOR,
    STRIPES_MAX,
    Argon2,
    KeyDigest,
    KeySlot,
    LuksHeader,
    Pbkdf2,
    Segment,
    refused,
    require_hash,
    require_number,
)
from stillframe.errors import DiskFormatError
from stillframe.extents import Extent

BINARY_SIZE: Final = 4096
HEADER_SIZES: Final = tuple(0x4000 << step for step in range(9))
"""All sizes that a copy may have, 16 KiB to 4 MiB; the second copy begins where the first one ends (section 2.1)."""
FIRST_MAGIC: Final = b"LUKS\xba\xbe"
SECOND_MAGIC: Final = b"SKUL\xba\xbe"
_BINARY: Final = struct.Struct(">6sHQQ48s32s64s40s48sQ")  # up to hdr_offset
CHECKSUM: Final = slice(448, 512)
_SEGMENT: Final = "0"
_OFFSET_MAX: Final = 1 << 60
_SLOTS_MAX: Final = 32  # LUKS2_KEYSLOTS_MAX
_JSON_ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_WHERE: Final = "LUKS2 header"

_Decimal = Annotated[str, Meta(pattern=r"^[0-9]{1,19}\Z")]  # 64 bits do not fit JSON's numbers: section 3


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderCopy:
    """A copy whose checksum is right: the higher ``sequence`` is the newer one. ``where`` names it in messages."""

    sequence: int
    header_size: int
    uuid: str
    label: str
    json: bytes
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _JsonArea:
    type: str = ""
    offset: _Decimal = "0"
    size: _Decimal = "0"
    encryption: str = ""
    key_size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _JsonDerivation:
    type: str = ""
    salt: bytes = b""  # msgspec reads base64
    hash: str = ""
    iterations: int = 0
    time: int = 0
    memory: int = 0
    cpus: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _JsonSplit:
    type: str = ""
    stripes: int = 0
    hash: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _JsonSlot:
    type: str
    key_size: int
    area: _JsonArea
    kdf: _JsonDerivation = field(default_factory=_JsonDerivation)
    af: _JsonSplit = field(default_factory=_JsonSplit)


@dataclass(frozen=True, slots=True, kw_only=True)
class _JsonSegment:
    type: str
    offset: _Decimal = "0"
    size: str = ""
    iv_tweak: _Decimal = "0"
    encryption: str = ""
    sector_size: int = 0
    integrity: dict[str, object] | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _JsonDigest:
    type: str
    keyslots: tuple[str, ...]
    segments: tuple[str, ...]
    salt: bytes
    digest: bytes
    hash: str = ""
    iterations: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _JsonRequirements:
    mandatory: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _JsonConfig:
    json_size: _Decimal
    keyslots_size: _Decimal
    requirements: _JsonRequirements = field(default_factory=_JsonRequirements)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Json:
    keyslots: dict[str, _JsonSlot]
    segments: dict[str, _JsonSegment]
    digests: dict[str, _JsonDigest]
    config: _JsonConfig


def parse_copy(raw: bytes, *, start: int) -> HeaderCopy | None:
    """Parse the binary part of a copy, and prove its checksum.

    Args:
        raw: The volume from this copy on, as much as it says it has (``copy_size``) or less.
        start: Where in the volume it lies; 0 is the first copy.

    Returns:
        ``None`` when there is no copy here, or one that is not whole: cryptsetup uses the other one then.
    """
    size = copy_size(raw, start=start)
    if size is None or len(raw) < size:
        return None
    _, _, _, sequence, label, algorithm, _, uuid, _, _ = _BINARY.unpack_from(raw)
    name = _text(algorithm)
    if name not in ("sha1", "sha256", "sha384", "sha512"):
        return None
    digest = hashlib.new(name, usedforsecurity=False)
    digest.update(raw[: CHECKSUM.start] + bytes(64) + raw[CHECKSUM.stop : size])
    if raw[CHECKSUM][: digest.digest_size] != digest.digest():
        return None
    which = "first" if start == 0 else "second"
    return HeaderCopy(
        sequence=sequence, header_size=size, uuid=_text(uuid), label=_text(label),
        json=raw[BINARY_SIZE:size].split(b"\0")[0], where=f"{_WHERE}, {which} copy",
    )  # fmt: skip


def copy_size(raw: bytes, *, start: int) -> int | None:
    """Bytes of a copy by its own words, one of ``HEADER_SIZES``; ``None`` when none begins here."""
    if len(raw) < BINARY_SIZE:
        return None
    magic, version, size, *_, place = _BINARY.unpack_from(raw)
    is_one = magic == (FIRST_MAGIC if start == 0 else SECOND_MAGIC) and version == 2 and place == start
    return size if is_one and size in HEADER_SIZES and start in (0, size) else None


def parse_header2(copy: HeaderCopy, size: int) -> LuksHeader:
    """Parse what a whole copy says.

    Args:
        copy: From ``parse_copy``.
        size: Bytes of the volume.

    Raises:
        DiskFormatError: It breaks the format, or asks for what is not done here.
    """
    where = copy.where
    try:
        json = msgspec.json.decode(copy.json, type=_Json)
    except _JSON_ERRORS as error:
        raise refused(where, "JSON of LUKS2", error) from error
    required = json.config.requirements.mandatory
    if required:
        raise refused(where, "no requirements", ", ".join(required))
    if int(json.config.json_size) != copy.header_size - BINARY_SIZE:
        raise refused(where, f"JSON of {copy.header_size - BINARY_SIZE} bytes", json.config.json_size)
    digests = [one for one in json.digests.values() if _SEGMENT in one.segments]
    if len(digests) != 1 or digests[0].type != "pbkdf2":
        raise refused(where, "one digest of the key of its segment", [one.type for one in digests])
    if len(json.keyslots) > _SLOTS_MAX:
        raise refused(where, f"at most {_SLOTS_MAX} key slots", len(json.keyslots))
    slots, unread = list[KeySlot](), list[str]()
    areas = Extent(2 * copy.header_size, min(size, _OFFSET_MAX))
    for name in sorted(set(digests[0].keyslots) & set(json.keyslots), key=lambda one: (len(one), one)):
        try:
            slots.append(_parse_slot(where, name, json.keyslots[name], areas))
        except DiskFormatError as error:
            unread.append(error.message)
    if unread and not slots:
        raise DiskFormatError(unread[0], hint=HINT)
    key_sizes = {slot.key_size for slot in slots}
    if len(key_sizes) != 1:
        raise refused(where, "key slots, of one size of key", key_sizes or "none")
    segment = _parse_segment(where, json.segments, size, key_size=key_sizes.pop())
    if any(slot.area.end > segment.extent.start for slot in slots) or areas.start > segment.extent.start:
        raise refused(where, "its encrypted bytes behind its key slots", segment.extent)
    return LuksHeader(
        version=2, uuid=copy.uuid, label=copy.label, segment=segment, digest=_parse_digest(where, digests[0]),
        slots=tuple(slots), unread=tuple(unread),
    )  # fmt: skip


def _parse_segment(where: str, segments: dict[str, _JsonSegment], size: int, *, key_size: int) -> Segment:
    segment = segments.get(_SEGMENT)
    if segment is None or len(segments) != 1 or segment.type != "crypt":
        raise refused(where, "one encrypted segment", ", ".join(f"{key} {one.type}" for key, one in segments.items()))
    if segment.integrity is not None or segment.flags:
        raise refused(where, "a segment without integrity and flags", segment.integrity or segment.flags)
    sector_size = segment.sector_size
    if sector_size not in (512, 1024, 2048, 4096):
        raise refused(where, "sectors of 512 to 4096 bytes", sector_size)
    start, length = _number(where, "offset", segment.offset), size
    if segment.size != "dynamic":
        length = _number(where, "size", segment.size)
    end = min(start + length, size) if segment.size == "dynamic" else start + length
    end = start + max(end - start, 0) // sector_size * sector_size
    if start % SECTOR or not 0 < start < end <= size:
        raise refused(where, f"its encrypted bytes inside the {size} of the volume", f"{start} to {end}")
    return Segment(
        extent=Extent(start, end), cipher=require_cipher(where, segment.encryption, key_size),
        sector_size=sector_size, first_iv=_number(where, "iv_tweak", segment.iv_tweak),
    )  # fmt: skip


def _parse_digest(where: str, digest: _JsonDigest) -> KeyDigest:
    if not 20 <= len(digest.digest) <= 64:
        raise refused(where, "a digest of 20 to 64 bytes", len(digest.digest))
    return KeyDigest(
        derivation=Pbkdf2(
            hash=require_hash(where, digest.hash), salt=digest.salt,
            iterations=require_number(where, "iterations", digest.iterations, least=1, most=ITERATIONS_MAX),
        ),
        digest=digest.digest,
    )  # fmt: skip


def _parse_slot(header: str, name: str, slot: _JsonSlot, areas: Extent) -> KeySlot:
    where = f"{header}, key slot {name[:10]}"
    if not name.isdecimal() or len(name) > 2 or (slot.type, slot.area.type, slot.af.type) != ("luks2", "raw", "luks1"):
        raise refused(where, "a key slot of type luks2", slot.type)
    key_size = require_number(where, "bytes of a key", slot.key_size, least=1, most=KEY_SIZE_MAX)
    area_key_size = require_number(where, "bytes of a key", slot.area.key_size, least=1, most=KEY_SIZE_MAX)
    stripes = require_number(where, "stripes", slot.af.stripes, least=1, most=STRIPES_MAX)
    start, length = _number(where, "offset", slot.area.offset), _number(where, "size", slot.area.size)
    needed = -(-key_size * stripes // SECTOR) * SECTOR
    if not areas.start <= start <= start + needed <= min(start + length, areas.end):
        raise refused(where, f"{needed} bytes between {areas.start} and {areas.end}", f"{start} to {start + length}")
    return KeySlot(
        number=int(name), key_size=key_size, area=Extent(start, start + needed),
        cipher=require_cipher(where, slot.area.encryption, area_key_size), area_key_size=area_key_size,
        stripes=stripes, split_hash=require_hash(where, slot.af.hash), derivation=_parse_derivation(where, slot.kdf),
    )  # fmt: skip


def _parse_derivation(where: str, found: _JsonDerivation) -> Pbkdf2 | Argon2:
    if found.type == "pbkdf2":
        iterations = require_number(where, "iterations", found.iterations, least=1, most=ITERATIONS_MAX)
        return Pbkdf2(hash=require_hash(where, found.hash), iterations=iterations, salt=found.salt)
    if found.type not in ("argon2i", "argon2id"):
        raise refused(where, "pbkdf2, argon2i or argon2id", found.type)
    lanes = require_number(where, "lanes", found.cpus, least=1, most=ARGON2_LANES_MAX)
    memory = require_number(where, "KiB of memory", found.memory, least=8 * lanes, most=ARGON2_MEMORY_KIB_MAX)
    passes = require_number(where, "passes", found.time, least=1, most=ARGON2_WORK_KIB_MAX // memory)
    if not 8 <= len(found.salt) <= 4096:
        raise refused(where, "a salt of 8 to 4096 bytes", len(found.salt))
    kind = found.type
    return Argon2(
        kind="argon2i" if kind == "argon2i" else "argon2id", passes=passes, memory_kib=memory, lanes=lanes,
        salt=found.salt,
    )  # fmt: skip


def _number(where: str, name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 19):
        raise refused(where, f"a number as {name}", text)
    return require_number(where, name, int(text), least=0, most=_OFFSET_MAX)


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("utf-8", "replace")
