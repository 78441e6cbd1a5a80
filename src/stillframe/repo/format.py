"""The container of every object: header, footer, payload wrapper and names, as bytes.

Answers: "is this an object, of which type, and where does its trailer lie?" Normative: ``docs/format/v1.md``,
sections 2 and 4. Does no input or output, and knows no keys.
"""

import hashlib
import re
import struct
import threading
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self

import zstandard

from stillframe.errors import DamagedError, UnsupportedFormat

MAGIC: Final = b"STILLFRM"
FOOTER_MAGIC: Final = b"MRFLLITS"
VERSION: Final = 1
CIPHER_AES_256_GCM: Final = 1
CIPHER_PUT: Final = 2
"""AES-256-GCM too; its key is agreed on by X25519, and only who knows the master key can compute it again."""
HEADER: Final = struct.Struct("<8sHBB4x16s16s32s")
FOOTER: Final = struct.Struct("<QIIQ32s8s")
HEADER_SIZE: Final = 80
FOOTER_SIZE: Final = 64
DIGESTED_FOOTER_SIZE: Final = 24
TRAILER_SIZE_MIN: Final = 25
TRAILER_SIZE_MAX: Final = 134_217_728
PAYLOAD: Final = struct.Struct("<B3xI")
JSON_SIZE_MAX: Final = 67_108_864
TAG_SIZE: Final = 16
ID_SIZE: Final = 16
CHUNK_ID_SIZE: Final = 32
CHUNK_SIZE_MIN: Final = 65_536
CHUNK_SIZE_MAX: Final = 4_194_304
BODY_SIZE_MAX: Final = 4096
"""Of a key slot. A pack's body has its own bound; other objects have none."""
OBJECT_SIZE_MAX: Final = HEADER_SIZE + BODY_SIZE_MAX + TRAILER_SIZE_MAX + FOOTER_SIZE
"""Of an object that is read whole: every type but packs."""

_HEX_ID: Final = re.compile(r"[0-9a-f]{32}")


class ObjectType(IntEnum):
    """What an object is; the number stands in its header."""

    PACK = 1
    INDEX = 2
    IMAGE = 3
    SESSION = 4
    TOMBSTONE = 5
    PROOF = 6
    KEY_SLOT = 7
    SCREENSHOT = 8
    KEPT_TABLE = 9
    PARITY = 10
    SETTING = 11
    SESSION_END = 12
    RETIREMENT = 13
    GRANT = 14
    WARNING = 15
    REVOCATION = 16

    @property
    def folder(self) -> str:
        """Where objects of this type lie, with a slash at the end."""
        return _FOLDERS[self]

    @property
    def words(self) -> str:
        """What people call it."""
        return _WORDS[self]


_FOLDERS: Final = {
    ObjectType.PACK: "packs/",
    ObjectType.INDEX: "index/",
    ObjectType.IMAGE: "images/",
    ObjectType.SESSION: "sessions/",
    ObjectType.TOMBSTONE: "tombstones/",
    ObjectType.PROOF: "proofs/",
    ObjectType.KEY_SLOT: "keys/",
    ObjectType.SCREENSHOT: "screenshots/",
    ObjectType.KEPT_TABLE: "tables/",
    ObjectType.PARITY: "parity/",
    ObjectType.SETTING: "settings/",
    ObjectType.SESSION_END: "ended/",
    ObjectType.RETIREMENT: "retired/",
    ObjectType.GRANT: "grants/",
    ObjectType.WARNING: "warnings/",
    ObjectType.REVOCATION: "revoked/",
}
_WORDS: Final = {
    ObjectType.PACK: "pack",
    ObjectType.INDEX: "index run",
    ObjectType.IMAGE: "manifest",
    ObjectType.SESSION: "session",
    ObjectType.TOMBSTONE: "tombstone",
    ObjectType.PROOF: "proof",
    ObjectType.KEY_SLOT: "key slot",
    ObjectType.SCREENSHOT: "screenshot",
    ObjectType.KEPT_TABLE: "kept table",
    ObjectType.PARITY: "parity",
    ObjectType.SETTING: "setting",
    ObjectType.SESSION_END: "end of a session",
    ObjectType.RETIREMENT: "retirement",
    ObjectType.GRANT: "grant",
    ObjectType.WARNING: "warning",
    ObjectType.REVOCATION: "revocation",
}
PUT_TYPES: Final = frozenset(
    {ObjectType.PACK, ObjectType.INDEX, ObjectType.IMAGE, ObjectType.SESSION, ObjectType.SESSION_END}
)
"""What a put key may make. Whatever else says that a put key made it is refused."""


def object_name(kind: ObjectType, object_id: bytes, *, copy: str = "") -> str:
    """The name of an object in the store. Key slots have no fan-out folder and two copies, ``a`` and ``b``."""
    text = object_id.hex()
    return f"{kind.folder}{text}.{copy}" if kind is ObjectType.KEY_SLOT else f"{kind.folder}{text[:2]}/{text}"


def parse_object_name(kind: ObjectType, name: str) -> bytes | None:
    """The id in an object's name; ``None`` for a name that is not ours."""
    last = name.removeprefix(kind.folder).rpartition("/")[2].removesuffix(".a").removesuffix(".b")
    if not _HEX_ID.fullmatch(last):
        return None
    object_id = bytes.fromhex(last)
    copy = name[-1] if kind is ObjectType.KEY_SLOT else ""
    return object_id if object_name(kind, object_id, copy=copy) == name else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The first 80 bytes of an object."""

    kind: ObjectType
    repository_id: bytes
    object_id: bytes
    salt: bytes
    cipher: int = CIPHER_AES_256_GCM

    def build(self) -> bytes:
        """The bytes."""
        return HEADER.pack(MAGIC, VERSION, self.kind, self.cipher, self.repository_id, self.object_id, self.salt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What an object must say of itself: whoever opens it knows its name, and whose repository this is."""

    kind: ObjectType
    repository_id: bytes
    object_id: bytes

    @property
    def thing(self) -> str:
        """The object in words, for messages."""
        return f"{self.kind.words} {self.object_id.hex()}"


def parse_header(raw: bytes, expected: Expected) -> Header:
    """Parse the first 80 bytes of an object and compare them with what is expected under its name.

    Raises:
        UnsupportedFormat: Written by a later version.
        DamagedError: Not an object, or an object of another repository or name.

    Source: docs/format/v1.md, section 4.
    """
    if len(raw) < HEADER_SIZE or not raw.startswith(MAGIC):
        raise DamagedError(f"{expected.thing}: does not begin as an object of Stillframe", hint=CHECK_HINT)
    _, version, kind, cipher, repository_id, object_id, salt = HEADER.unpack(raw[:HEADER_SIZE])
    if version != VERSION or cipher not in {CIPHER_AES_256_GCM, CIPHER_PUT}:
        raise UnsupportedFormat(
            f"{expected.thing}: format version {version}, cipher {cipher}; this program knows version {VERSION}",
            hint="Use the newest Stillframe.",
        )
    if repository_id != expected.repository_id:
        raise DamagedError(
            f"{expected.thing}: belongs to repository {repository_id.hex()}, not to {expected.repository_id.hex()}",
            hint="Somebody copied it here from another repository. Move it back to where it came from.",
        )
    if kind != expected.kind or object_id != expected.object_id:
        raise DamagedError(
            f"{expected.thing}: the object under this name is number {kind}, {object_id.hex()}: it was replaced",
            hint=CHECK_HINT,
        )
    if cipher == CIPHER_PUT and expected.kind not in PUT_TYPES:
        raise DamagedError(
            f"{expected.thing}: it says that a put key made it, and a put key may not make such an object",
            hint="Somebody put it there: look for another copy of the repository. " + CHECK_HINT,
        )
    header = Header(kind=expected.kind, repository_id=repository_id, object_id=object_id, salt=salt, cipher=cipher)
    if header.build() != raw[:HEADER_SIZE]:
        raise DamagedError(f"{expected.thing}: its header has bytes set that must be zero", hint=CHECK_HINT)
    return header


CHECK_HINT: Final = "Run 'stillframe check' to see what is lost, then 'stillframe repair'."


@dataclass(frozen=True, slots=True, kw_only=True)
class Footer:
    """The last 64 bytes of an object: where its trailer lies, and a digest."""

    trailer_offset: int
    trailer_size: int
    object_size: int
    digest: bytes
    reserved: int = 0

    @classmethod
    def over(cls, *digested: bytes, trailer_offset: int, trailer_size: int) -> Self:
        """Make the footer of an object. ``digested`` is what the digest covers, before the footer's own 24 bytes."""
        if trailer_offset < HEADER_SIZE or not TRAILER_SIZE_MIN <= trailer_size <= TRAILER_SIZE_MAX:
            raise ValueError(f"a trailer of {trailer_size} bytes at {trailer_offset} is outside the format's limits")
        size = trailer_offset + trailer_size + FOOTER_SIZE
        head = FOOTER.pack(trailer_offset, trailer_size, 0, size, bytes(32), FOOTER_MAGIC)[:DIGESTED_FOOTER_SIZE]
        return cls(
            trailer_offset=trailer_offset, trailer_size=trailer_size, object_size=size, digest=_digest(*digested, head)
        )

    def build(self) -> bytes:
        """The bytes."""
        return FOOTER.pack(
            self.trailer_offset, self.trailer_size, self.reserved, self.object_size, self.digest, FOOTER_MAGIC
        )

    def covers(self, *digested: bytes) -> bool:
        """Whether the digest is that of these bytes and the footer's own fields."""
        return self.digest == _digest(*digested, self.build()[:DIGESTED_FOOTER_SIZE])


def parse_footer(raw: bytes, *, object_size: int) -> Footer | None:
    """Parse the last 64 bytes of an object of ``object_size`` bytes; ``None`` is a torn object: garbage.

    Source: docs/format/v1.md, section 4.
    """
    if len(raw) != FOOTER_SIZE or not raw.endswith(FOOTER_MAGIC):
        return None
    offset, size, reserved, whole, digest, _ = FOOTER.unpack(raw)
    fits = offset >= HEADER_SIZE and TRAILER_SIZE_MIN <= size <= TRAILER_SIZE_MAX
    if not fits or whole != object_size or offset + size + FOOTER_SIZE != whole:
        return None
    return Footer(trailer_offset=offset, trailer_size=size, object_size=whole, digest=digest, reserved=reserved)


def is_cut_off(tail: bytes, *, object_size: int) -> bool:
    """Whether an object without a valid footer was never complete, rather than damaged afterwards.

    A write that is cut off leaves nothing of a footer at the object's end. Where its magic or its lengths still stand,
    a footer was written there and its bytes have changed since.
    """
    if len(tail) != FOOTER_SIZE or tail[-1] == 0:
        return True
    offset, size, _, whole, _, magic = FOOTER.unpack(tail)
    return not (magic == FOOTER_MAGIC or whole == object_size or offset + size + FOOTER_SIZE == object_size)


def build_payload(data: bytes) -> bytes:
    """Wrap the plaintext of a trailer: compressed when that saves something."""
    packed = zstandard.ZstdCompressor(level=3).compress(data) if len(data) > 64 else data
    codec = 1 if len(packed) < len(data) else 0
    return PAYLOAD.pack(codec, len(data)) + (packed if codec else data)


def parse_payload(raw: bytes, *, thing: str) -> bytes:
    """Unwrap the plaintext of a trailer.

    Raises:
        DamagedError: The wrapper is wrong, or the data has not the length it says.
    """
    if len(raw) >= PAYLOAD.size:
        codec, size = PAYLOAD.unpack(raw[: PAYLOAD.size])
        if codec in {0, 1} and size <= TRAILER_SIZE_MAX:
            data = decompress(raw[PAYLOAD.size :], size, thing=thing) if codec else raw[PAYLOAD.size :]
            if len(data) == size:
                return data
    raise DamagedError(f"{thing}: its payload is not what the format says", hint=CHECK_HINT)


def decompress(packed: bytes | memoryview, size: int, *, thing: str) -> bytes:
    """Undo one Zstandard frame into exactly ``size`` bytes; memory is bounded by ``size``, whatever the frame says.

    Raises:
        DamagedError: It is no frame, or holds another number of bytes.
    """
    try:
        if zstandard.frame_content_size(packed) == size:
            data: bytes = _decompressor().decompress(packed, max_output_size=size, allow_extra_data=False)
            if len(data) == size:
                return data
    except zstandard.ZstdError as error:
        raise DamagedError(f"{thing}: cannot be decompressed: {error}", hint=CHECK_HINT) from error
    raise DamagedError(f"{thing}: does not decompress to {size} bytes", hint=CHECK_HINT)


_LOCAL: Final = threading.local()


def _decompressor() -> zstandard.ZstdDecompressor:
    """This thread's own: making one costs as much as expanding a chunk."""
    found: zstandard.ZstdDecompressor | None = getattr(_LOCAL, "decompressor", None)
    if found is None:
        found = _LOCAL.decompressor = zstandard.ZstdDecompressor()
    return found


def _digest(*parts: bytes) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()
