"""Keys of objects and chunks, and sealing with AES-256-GCM.

Answers: "with which key, nonce and additional data is this sealed?" Normative: ``docs/format/v1.md``, sections 5
and 6. A key seals one object; the offset is the nonce, and an object is never written twice.
"""

import hashlib
import itertools
import os
import time
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from stillframe.errors import DamagedError
from stillframe.repo.format import CHECK_HINT, TAG_SIZE, Header

NO_SUBJECT: Final = bytes(32)
OPEN_MASTER_KEY: Final = bytes(32)
"""The master key of a repository made with ``--encryption none``: known to everybody."""

_COUNTER: Final = itertools.count()


def derive_key(secret: bytes, *, salt: bytes, info: bytes) -> bytes:
    """HKDF-SHA256 to 32 bytes. Source: RFC 5869."""
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(secret)


def chunk_id_key(master_key: bytes, repository_id: bytes, domain: bytes) -> bytes:
    """The key of the keyed hash that names chunks. Chunks are shared by those who share a domain (16 bytes)."""
    return derive_key(master_key, salt=bytes(32), info=b"stillframe/v1/chunk-id" + repository_id + domain)


def make_salt() -> bytes:
    """32 bytes that do not repeat, even where a cloned virtual machine repeats its random generator."""
    spice = f"{time.time_ns()} {time.monotonic_ns()} {os.getpid()} {next(_COUNTER)}".encode()
    return hashlib.blake2b(os.urandom(32) + spice, digest_size=32).digest()


def make_id() -> bytes:
    """16 bytes for a new object, of the same making as a salt."""
    return make_salt()[:16]


class Seal:
    """Seals and opens what lies in one object. Safe for several threads."""

    __slots__ = ("_aead", "_bound")

    def __init__(self, header: Header, object_key: bytes) -> None:
        self._bound = header.build()[:48]
        self._aead = AESGCM(object_key)

    def close(self, plain: bytes | bytearray | memoryview, *, offset: int, subject: bytes = NO_SUBJECT) -> bytes:
        """Seal ``plain`` for the place ``offset``; 16 bytes longer than it."""
        return self._aead.encrypt(offset.to_bytes(12, "big"), plain, self._additional(offset, subject))

    def close_into(self, plain: bytes | memoryview, *, offset: int, subject: bytes, buffer: memoryview) -> int:
        """As ``close``, into the beginning of ``buffer``; returns the sealed length."""
        size = len(plain) + TAG_SIZE
        nonce, additional = offset.to_bytes(12, "big"), self._additional(offset, subject)
        self._aead.encrypt_into(nonce, plain, additional, buffer[:size])
        return size

    def open(
        self, sealed: bytes | memoryview, *, offset: int, subject: bytes = NO_SUBJECT, thing: str = "object"
    ) -> bytes:
        """Open what ``close`` made.

        Raises:
            DamagedError: The bytes, their place or their subject are not those that were sealed.
        """
        try:
            return self._aead.decrypt(offset.to_bytes(12, "big"), sealed, self._additional(offset, subject))
        except InvalidTag:
            raise DamagedError(f"{thing}: its bytes are not those that were written", hint=CHECK_HINT) from None

    def require_named(self, chunk_id: bytes, plain: bytes, *, thing: str) -> None:
        """Refuse an entry that is not what its id says; who knows the master key is believed."""

    def require_patches(self, *, thing: str) -> None:
        """Refuse a patch where none may be; who knows the master key makes them."""

    def _additional(self, offset: int, subject: bytes) -> bytes:
        return self._bound + offset.to_bytes(8, "little") + subject


def object_seal(header: Header, master_key: bytes) -> Seal:
    """The seal of an object under the repository's master key."""
    info = b"stillframe/v1/object" + header.repository_id + bytes([header.kind])
    return Seal(header, derive_key(master_key, salt=header.salt, info=info))
