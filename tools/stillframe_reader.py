#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Get a disk back out of a Stillframe repository with this one file and nothing else of Stillframe.

You need Python 3.9 or newer and two packages::

    python3 -m pip install cryptography zstandard

(``zstandard`` may also be ``pyzstd`` or ``backports.zstd``; Python 3.14 needs neither.) Then, where REPO is the
folder that holds ``stillframe.json``::

    python3 stillframe_reader.py REPO list
    python3 stillframe_reader.py REPO show IMAGE
    python3 stillframe_reader.py REPO verify IMAGE
    python3 stillframe_reader.py REPO restore IMAGE disk.raw

IMAGE is an id as ``list`` prints it, or the first characters of one. ``restore`` makes a new sparse file as large as
the disk: write it to a disk with ``dd``, or attach it to a virtual machine. With several disks choose one by
``--disk N``; ``--partition N`` makes a file of that partition alone. An existing file or a block device is refused
unless you add ``--force``; what it holds is then lost.

The secret: ``--recovery-key-file FILE`` or ``--recovery-key SF1-...`` (the printed key), or ``--password-file FILE``
(the passphrase; needs a recent ``cryptography`` or the package ``argon2-cffi``). Without any of them you are asked.

What is damaged is reported with the pack, the offset in it and the range of the disk; everything else is restored,
and the exit code is 3. Other exit codes: 0 success, 2 usage, 10 no repository or image, 12 wrong key, 13 format
unknown, 14 damaged, 22 target refused, 30 reading or writing failed, 130 interrupted.

It answers one question: which bytes did the disk have? It never writes to the repository, and neither makes a disk
bootable nor takes out single files. It holds 48 bytes of memory per stored chunk: 240 MB for five million; some 200
more for each that is stored as a patch of another.

It was written from the page ``docs/format/v1.md`` alone; "section" below means a section of that page.
"""

from __future__ import annotations

import argparse
import bisect
import functools
import getpass
import hashlib
import hmac
import importlib
import json
import os
import re
import stat
import struct
import sys
import time
import unicodedata
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# --- The numbers of the page -----------------------------------------------------------------------------------------

PACK, INDEX, IMAGE, TOMBSTONE, SLOT, SESSION_END, REVOCATION = 1, 2, 3, 5, 7, 12, 16  # section 4, type
FOLDERS = {PACK: "packs", INDEX: "index", IMAGE: "images", TOMBSTONE: "tombstones"}  # section 2
FOLDERS |= {SESSION_END: "ended", REVOCATION: "revoked"}
PUT = 2  # section 4, cipher; section 17
PUT_TYPES = (PACK, INDEX, IMAGE, SESSION_END)  # section 17; sessions are not read here
PUT_PREFIX = b"put-only"  # section 17
HEADER = struct.Struct("<8sHBBI16s16s32s")  # section 4
FOOTER = struct.Struct("<QIIQ32s8s")  # section 4
SEALED_MIN, SEALED_MAX = 25, 134_217_728  # section 4, length of a sealed trailer
PLAIN_MAX, JSON_MAX = 134_217_728, 67_108_864  # section 4, payload
TAG_SIZE = 16  # section 5
SLOT_BODY_MAX = 4096  # section 7
IDENTITY_MAX = 65_536  # section 3
CHUNK_MIN, CHUNK_MAX = 65_536, 4_194_304  # section 3
FANOUT = 1024  # section 8, entries of a node
NODE_MAX = 8 + FANOUT + 32 * FANOUT  # section 8
LEVEL_MAX = 5  # section 8
UNUSED, ZERO, DATA, EXCLUDED, UNREADABLE = 0, 1, 2, 3, 4  # section 8, kinds
DAMAGED = -1  # ours: a part of a map that could not be read
ROW = struct.Struct("<32sIII3sB")  # section 9
PATCH = 2  # section 9, kind of a row
BASE_MIN = 8  # section 6, bytes of a base
RUN_PACKS_MAX, RUN_ROWS_MAX = 65_536, 1_000_000  # section 9
DISKS_MAX, PARTITIONS_MAX = 256, 1024  # section 10
SIZE_MAX = 2**63 - 1  # ours: what a file offset can say
BASE32 = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # section 7
OPEN_PACKS = 32  # ours: how many pack files are kept open
BASES_KEPT = 16  # ours: how many bases of patches are kept, 64 MB at most


# --- Errors ----------------------------------------------------------------------------------------------------------


class ReaderError(Exception):
    """Everything this program refuses or cannot do; ``exit_code`` is what it then returns."""

    exit_code = 1


class NotFound(ReaderError):
    """There is no repository, or no such image in it."""

    exit_code = 10


class WrongKey(ReaderError):
    """No key slot opens with the secret."""

    exit_code = 12


class Unsupported(ReaderError):
    """The format, a feature or a needed package is unknown here."""

    exit_code = 13


class Damaged(ReaderError):
    """Stored bytes are not what the page says."""

    exit_code = 14


class Torn(Damaged):
    """An object without a valid footer: ignored, as section 4 says."""


class TargetRefused(ReaderError):
    """The target exists, is too small or is no file."""

    exit_code = 22


def note(text: str) -> None:
    """Say something that does not belong to the answer; standard output stays clean."""
    print(f"note: {printable(text)}", file=sys.stderr)


def printable(text: object) -> str:
    """Make text from a disk harmless for a terminal."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


# --- Sealing, compression, JSON (sections 4 to 7) --------------------------------------------------------------------


def derive(key: bytes, salt: bytes, info: bytes) -> bytes:
    """Derive 32 bytes by HKDF-SHA256."""
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(key)


def unseal(cipher: AESGCM, header: bytes, offset: int, subject: bytes, sealed: bytes) -> bytes:
    """Open what rests at ``offset`` of the object with this header; raises ``Damaged`` when the tag differs."""
    additional = header[:48] + offset.to_bytes(8, "little") + subject
    try:
        return cipher.decrypt(offset.to_bytes(12, "big"), sealed, additional)
    except InvalidTag:
        raise Damaged("the tag does not match: the bytes were changed") from None


@functools.cache
def import_first(*names: str) -> Any:
    """Import the first of some modules that is installed; None when none is."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


@functools.cache
def zstd_library() -> tuple[Callable[[bytes, int, bytes], bytes], type[Exception]]:
    """Find a Zstandard library; returns a function (frame, most bytes to return, prefix) and the error it raises."""
    standard = import_first("compression.zstd", "backports.zstd", "pyzstd")
    if standard is not None:

        def expand(frame: bytes, most: int, prefix: bytes) -> bytes:
            before = standard.ZstdDict(prefix, is_raw=True).as_prefix if prefix else None
            return bytes(standard.ZstdDecompressor(zstd_dict=before).decompress(frame, most))

        return expand, standard.ZstdError
    zstandard = import_first("zstandard")
    if zstandard is not None:

        def expand_by_other(frame: bytes, most: int, prefix: bytes) -> bytes:
            raw = zstandard.DICT_TYPE_RAWCONTENT
            before = zstandard.ZstdCompressionDict(prefix, dict_type=raw) if prefix else None
            return bytes(zstandard.ZstdDecompressor(dict_data=before).stream_reader(frame).read(most))

        return expand_by_other, zstandard.ZstdError
    raise Unsupported("no Zstandard library: run  python3 -m pip install zstandard")


def decode(codec: int, stored: bytes, plain_size: int, prefix: bytes = b"") -> bytes:
    """Undo codec 0 (as is) or 1 (Zstandard, after a prefix); never makes more than ``plain_size`` + 1 bytes."""
    if codec == 0:
        plain = stored
    elif codec == 1:
        decompress, zstd_error = zstd_library()
        try:
            plain = decompress(stored, plain_size + 1, prefix)
        except zstd_error as error:
            raise Damaged(f"the Zstandard frame is broken: {error}") from None
    else:
        raise Unsupported(f"codec {codec} is unknown to this reader")
    if len(plain) != plain_size:
        raise Damaged(f"plain length is {len(plain)} or more, expected {plain_size}")
    return plain


def unpack_payload(payload: bytes, most: int) -> bytes:
    """Take the data out of a payload (section 4)."""
    if len(payload) < 8 or payload[1:4] != bytes(3):
        raise Damaged("the payload does not begin with codec, three zero bytes and a length")
    plain_size = int.from_bytes(payload[4:8], "little")
    if plain_size > most:
        raise Damaged(f"the payload says {plain_size} bytes, at most {most} are allowed")
    return decode(payload[0], payload[8:], plain_size)


def parse_json(data: bytes) -> dict[str, Any]:
    """Read one JSON object."""
    try:
        record = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise Damaged("this is not JSON") from None
    if not isinstance(record, dict):
        raise Damaged("this is JSON, but not an object")
    return record


def number_of(record: dict[str, Any], key: str, low: int, high: int) -> int:
    """Read a whole number between two bounds."""
    value = record.get(key)
    if type(value) is not int or not low <= value <= high:
        raise Damaged(f"{key} must be a whole number from {low} to {high}, found {str(value)[:40]!r}")
    return value


def hex_of(record: dict[str, Any], key: str, size: int) -> bytes:
    """Read ``size`` bytes written in lower-case hex."""
    value = record.get(key)
    if not isinstance(value, str) or not re.fullmatch(f"[0-9a-f]{{{2 * size}}}", value):
        raise Damaged(f"{key} must be {2 * size} hex digits, found {str(value)[:40]!r}")
    return bytes.fromhex(value)


def records_of(record: dict[str, Any], key: str, most: int | None = None) -> list[dict[str, Any]]:
    """Read a list of objects; a list that is not there is empty."""
    value = record.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Damaged(f"{key} must be a list of objects")
    if most is not None and len(value) > most:
        raise Damaged(f"{key} has {len(value)} members, at most {most} are allowed")
    return value


# --- Objects (section 4) ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoredObject:
    """An object whose footer and header are right. ``body`` is empty for a pack: entries are read one by one."""

    header: bytes
    body: bytes
    trailer_at: int
    trailer: bytes

    @property
    def salt(self) -> bytes:
        """The last 32 bytes of the header."""
        return self.header[48:]

    @property
    def by_put_key(self) -> bool:
        """Whether a put key made it."""
        return self.header[11] == PUT


def read_object(path: str, object_type: int, repository_id: bytes, object_id: bytes) -> StoredObject:
    """Read an object and check all that needs no key.

    Raises:
        Torn: The footer is not valid.
        Damaged: It is, but the object is another one than its name says.
        Unsupported: Version or cipher are unknown.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < HEADER.size + SEALED_MIN + FOOTER.size:
            raise Torn("too short to have a footer")
        file.seek(size - FOOTER.size)
        footer = file.read(FOOTER.size)
        if len(footer) != FOOTER.size:
            raise Torn("the footer cannot be read")
        trailer_at, trailer_size, zero, total, digest, magic = FOOTER.unpack(footer)
        if magic != b"MRFLLITS" or zero or total != size or not SEALED_MIN <= trailer_size <= SEALED_MAX:
            raise Torn("the footer is not valid")
        if trailer_at < HEADER.size or trailer_at + trailer_size != size - FOOTER.size:
            raise Torn("the footer says that the trailer is elsewhere")
        body_size = 0 if object_type == PACK else trailer_at - HEADER.size
        if body_size > (SLOT_BODY_MAX if object_type == SLOT else 0):
            raise Damaged(f"the body has {body_size} bytes, more than objects of this type may have")
        file.seek(0)
        header, body = file.read(HEADER.size), file.read(body_size)
        file.seek(trailer_at)
        trailer = file.read(trailer_size)
    if hashlib.sha256(header + body + trailer + footer[:24]).digest() != digest:
        raise Torn("the footer's SHA-256 does not match")
    check_header(header, object_type, repository_id, object_id)
    return StoredObject(header, body, trailer_at, trailer)


def check_header(header: bytes, object_type: int, repository_id: bytes, object_id: bytes) -> None:
    """Check that a header is that of the object we asked for."""
    magic, version, found_type, cipher, zero, found_repository, found_id, _ = HEADER.unpack(header)
    if magic != b"STILLFRM" or zero:
        raise Damaged("the header does not begin as a header does")
    if version != 1 or cipher not in (1, PUT):
        raise Unsupported(f"version {version} with cipher {cipher} is unknown to this reader; it knows 1 with 1 and 2")
    if cipher == PUT and object_type not in PUT_TYPES:
        raise Damaged("it says that a put key made it, and a put key may not")
    if found_type != object_type:
        raise Damaged(f"it is an object of type {found_type}, expected {object_type}")
    if found_repository != repository_id:
        raise Damaged(f"it belongs to repository {found_repository.hex()}")
    if found_id != object_id:
        raise Damaged(f"it is object {found_id.hex()} under another name")


# --- The secret and the key slots (sections 3 and 7) -----------------------------------------------------------------


@dataclass(frozen=True)
class Secret:
    """What the user knows: the kind of slot it opens, and its bytes."""

    kind: str  # "passphrase" or "recovery"
    value: bytes


def parse_recovery_key(text: str) -> Secret:
    """Read a printed recovery key; says when a character is wrong, for it carries a check sum."""
    letters = re.sub(r"[\s-]", "", text).upper().translate(str.maketrans("OIL", "011"))
    if letters.startswith("SF1") and len(letters) == 43:
        letters = letters[3:]
    if len(letters) != 40 or any(letter not in BASE32 for letter in letters):
        raise WrongKey("a recovery key is SF1- and eight groups of five letters and digits")
    value = 0
    for letter in letters:
        value = value * 32 + BASE32.index(letter)
    data = value.to_bytes(25, "big")
    if hashlib.sha256(b"stillframe recovery key" + data[:20]).digest()[:5] != data[20:]:
        raise WrongKey("this recovery key has a typing error: its check sum does not match")
    return Secret("recovery", data[:20])


def passphrase_secret(text: str) -> Secret:
    """Bring a passphrase into the form that is hashed."""
    return Secret("passphrase", unicodedata.normalize("NFKC", text).encode())


def argon2id(password: bytes, salt: bytes, time_cost: int, memory_kib: int, lanes: int) -> bytes:
    """Derive 32 bytes by Argon2id, with whichever package can."""
    try:
        module = importlib.import_module("cryptography.hazmat.primitives.kdf.argon2")
        kdf = module.Argon2id(salt=salt, length=32, iterations=time_cost, lanes=lanes, memory_cost=memory_kib)
        return bytes(kdf.derive(password))
    except (ImportError, AttributeError, UnsupportedAlgorithm):
        pass
    low = import_first("argon2.low_level")
    if low is None:
        raise Unsupported(
            "a passphrase needs Argon2id: run  python3 -m pip install -U cryptography argon2-cffi  "
            "(the recovery key works without it)"
        )
    return bytes(low.hash_secret_raw(password, salt, time_cost, memory_kib, lanes, 32, low.Type.ID, 0x13))


def open_slot(slot: StoredObject, repository_id: bytes, secret: Secret) -> tuple[bytes, bytes] | None:
    """Try a secret on one slot; returns master key and identity digest, or None when it is for another secret."""
    body = parse_json(slot.body)
    if body.get("kind") != secret.kind:
        return None
    if secret.kind == "recovery":
        kek = derive(secret.value, slot.salt, b"stillframe/v1/recovery" + repository_id)
    else:
        time_cost, lanes = number_of(body, "time_cost", 1, 64), number_of(body, "lanes", 1, 64)
        memory_kib = number_of(body, "memory_kib", 8192, 4_194_304)
        kek = argon2id(secret.value, slot.salt, time_cost, memory_kib, lanes)
    commitment = derive(kek, slot.salt, b"stillframe/v1/commitment" + repository_id)
    if not hmac.compare_digest(commitment, hex_of(body, "commitment", 32)):
        return None
    cipher = AESGCM(derive(kek, slot.salt, b"stillframe/v1/slot" + repository_id))
    subject = hashlib.sha256(slot.body).digest()
    payload = unseal(cipher, slot.header, slot.trailer_at, subject, slot.trailer)
    record = parse_json(unpack_payload(payload, JSON_MAX))
    return hex_of(record, "master", 32), hex_of(record, "identity", 32)


# --- The repository (sections 2 and 3) -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Identity:
    """The identity file: what it says, and the SHA-256 of its exact bytes."""

    repository_id: bytes
    encrypted: bool
    digest: bytes


def parse_identity(data: bytes) -> Identity:
    """Read an identity file."""
    record = parse_json(data)
    if record.get("magic") != "stillframe-repository":
        raise Damaged("magic is not stillframe-repository")
    if record.get("format") != "v1":
        raise Unsupported(f"format {str(record.get('format'))[:40]!r} is unknown to this reader; it knows v1")
    if record.get("encryption") not in ("aes256", "none"):
        raise Unsupported(f"encryption {str(record.get('encryption'))[:40]!r} is unknown to this reader")
    parse_chunk_size(record)
    return Identity(hex_of(record, "id", 16), record["encryption"] == "aes256", hashlib.sha256(data).digest())


def parse_chunk_size(record: dict[str, Any]) -> int:
    """Read the size of a chunk: a power of two."""
    size = number_of(record, "chunk_size", CHUNK_MIN, CHUNK_MAX)
    if size & (size - 1):
        raise Damaged(f"chunk_size {size} is no power of two")
    return size


@dataclass(frozen=True)
class Repository:
    """An opened repository: where it is, which it is, and its master key."""

    folder: str
    repository_id: bytes
    master_key: bytes

    def iter_ids(self, object_type: int) -> Iterator[str]:
        """Yield the ids of all files that are named as objects of this type; other names are left alone."""
        top = os.path.join(self.folder, FOLDERS[object_type])
        for fan in sorted(names_in(top)):
            if re.fullmatch("[0-9a-f]{2}", fan):
                for name in sorted(names_in(os.path.join(top, fan))):
                    if re.fullmatch("[0-9a-f]{32}", name) and name[:2] == fan:
                        yield name

    def path_of(self, object_type: int, object_id: str) -> str:
        """Say where an object rests."""
        return os.path.join(self.folder, FOLDERS[object_type], object_id[:2], object_id)

    def read(self, object_type: int, object_id: str) -> StoredObject:
        """Read an object; checks all that needs no key."""
        path = self.path_of(object_type, object_id)
        return read_object(path, object_type, self.repository_id, bytes.fromhex(object_id))

    def cipher_of(self, stored: StoredObject) -> AESGCM:
        """Make the cipher with the object's own key (section 5)."""
        if stored.by_put_key:
            return AESGCM(self._put_object_key(stored))
        info = b"stillframe/v1/object" + self.repository_id + stored.header[10:11]
        return AESGCM(derive(self.master_key, stored.salt, info))

    def _put_object_key(self, stored: StoredObject) -> bytes:
        """Derive the key of an object that a put key made (section 17)."""
        if self.master_key == bytes(32):
            raise Damaged("it says that a put key made it, and nothing is encrypted here")
        x25519 = import_first("cryptography.hazmat.primitives.asymmetric.x25519")
        machine = PUT_PREFIX + stored.header[40:48]
        seed = derive(self.master_key, bytes(32), b"stillframe/v1/put" + self.repository_id)
        private = x25519.X25519PrivateKey.from_private_bytes(seed)
        secret = derive(self.master_key, bytes(32), b"stillframe/v1/put-secret" + self.repository_id + machine)
        public = private.public_key().public_bytes_raw()
        info = b"stillframe/v1/put-object" + self.repository_id + stored.header[10:11] + machine + public
        try:
            shared = private.exchange(x25519.X25519PublicKey.from_public_bytes(stored.salt))
        except ValueError:
            raise Damaged("its header holds no public key") from None
        return derive(shared + secret, stored.salt, info)

    def read_payload(self, object_type: int, object_id: str) -> bytes:
        """Open the trailer of an object; one that a put key made must speak of its own machine alone."""
        stored = self.read(object_type, object_id)
        payload = unseal(self.cipher_of(stored), stored.header, stored.trailer_at, bytes(32), stored.trailer)
        data = unpack_payload(payload, PLAIN_MAX if object_type in (PACK, INDEX) else JSON_MAX)
        if stored.by_put_key:
            check_own_words(object_type, object_id, data)
        return data

    def is_by_put_key(self, object_type: int, object_id: str) -> bool:
        """Say whether a put key made an object."""
        return self.read(object_type, object_id).by_put_key


def check_own_words(object_type: int, object_id: str, data: bytes) -> None:
    """Check that what a put-only machine wrote is under its own names and of itself (section 17)."""
    tag = object_id[16:]
    own = PUT_PREFIX.hex() + tag
    if object_type in (PACK, INDEX):
        count, rows = int.from_bytes(data[:4], "little"), int.from_bytes(data[4:8], "little")
        ends = 8 + 16 * count + ROW.size - 1
        if any(kind >> 4 == PATCH for kind in data[ends : ends + ROW.size * rows : ROW.size]):
            raise Damaged("a put key made it, and it speaks of patches")
        if any(data[at : at + 16].hex()[16:] != tag for at in range(8, 8 + 16 * count, 16)):
            raise Damaged("a put key made it, and it names packs of others")
    if object_type not in (IMAGE, SESSION_END):
        return
    record = parse_json(data)
    name = hex_of(record, "image" if object_type == IMAGE else "end", 16).hex()
    machines = [record.get("machine")] + ([record.get("by")] if object_type == SESSION_END else [])
    speaks = [(str(dict(one or {}).get("id")), str(dict(one or {}).get("name"))) for one in machines]
    right = name == object_id and hex_of(record, "session", 16).hex()[16:] == tag
    right &= all(one == own and called.endswith(f" [put {tag[:8]}]") for one, called in speaks)
    if not right or (object_type == IMAGE and record.get("domain") != own):
        raise Damaged("a put key made it, and it speaks for another machine")


def names_in(folder: str) -> list[str]:
    """List a folder; one that is not there is empty."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def open_repository(folder: str, ask_secret: Callable[..., Secret | None]) -> Repository:
    """Find the identity file, or its copy, and unlock the repository.

    Args:
        folder: The folder that holds ``stillframe.json``.
        ask_secret: Called once, with ``encrypted``; returns None when the user gave no secret.
    """
    identities: dict[bytes, Identity] = {}
    problems: list[ReaderError] = []
    for name in ("stillframe.json", "stillframe-copy.json"):
        try:
            with open(os.path.join(folder, name), "rb") as file:
                data = file.read(IDENTITY_MAX + 1)
            if len(data) > IDENTITY_MAX:
                raise Damaged(f"it has more than {IDENTITY_MAX} bytes")
            identities.setdefault(data, parse_identity(data))
        except OSError as error:
            problems.append(NotFound(f"{name}: {error.strerror}"))
        except ReaderError as error:
            problems.append(type(error)(f"{name}: {error}"))
    if not identities:
        unsupported = any(isinstance(problem, Unsupported) for problem in problems)
        family = Unsupported if unsupported else NotFound
        raise family(f"{folder} is no repository that can be read: " + "; ".join(map(str, problems)))
    for problem in problems:
        note(str(problem))
    secret = ask_secret(encrypted=any(identity.encrypted for identity in identities.values()))
    failures: list[ReaderError] = []
    for identity in identities.values():
        try:
            return Repository(folder, identity.repository_id, unlock(folder, identity, secret))
        except ReaderError as error:
            failures.append(error)
    raise failures[0]


def unlock(folder: str, identity: Identity, secret: Secret | None) -> bytes:
    """Find the master key; a slot must have been made for exactly this identity file."""
    keys = os.path.join(folder, "keys")
    names = sorted(name for name in names_in(keys) if re.fullmatch(r"[0-9a-f]{32}\.[ab]", name))
    if not identity.encrypted:
        if secret is not None or names:
            raise WrongKey(
                "the identity file says that nothing is encrypted, yet there is a key. "
                "Somebody may have replaced the file; if nobody did, run this without a secret and without keys/"
            )
        note("this repository is not encrypted: its tags find errors, but anyone could have forged them")
        return bytes(32)
    if secret is None:
        raise WrongKey("this repository is encrypted: give --recovery-key-file or --password-file")
    tried: set[bytes] = set()
    problem: ReaderError | None = None
    for name in names:
        try:
            slot = read_object(os.path.join(keys, name), SLOT, identity.repository_id, bytes.fromhex(name[:32]))
            if slot.header + slot.body + slot.trailer in tried:
                continue
            tried.add(slot.header + slot.body + slot.trailer)
            found = open_slot(slot, identity.repository_id, secret)
            if found is not None and found[1] == identity.digest:
                return found[0]
            if found is not None:
                problem = Damaged("the identity file is not the one that the key slot was made for")
        except Unsupported as error:
            problem = error
        except (Damaged, OSError) as error:
            note(f"key slot keys/{name} is left out: {error}")
    raise problem or WrongKey(f"none of the {len(tried)} readable key slots opens with this {secret.kind}")


# --- Where chunks rest (section 9) -----------------------------------------------------------------------------------


class Location(NamedTuple):
    """One row: where a chunk or a node rests. ``base`` is the id of the chunk that a patch is made against."""

    chunk_id: bytes
    pack: int
    offset: int
    sealed_size: int
    plain_size: int
    codec: int
    base: bytes = b""


class ChunkTable:
    """All rows, 48 bytes each, in 256 sorted pieces by the first byte of the chunk id."""

    def __init__(self) -> None:
        self.packs: list[str] = []
        self._numbers: dict[bytes, bytes] = {}
        self._bases: dict[bytes, bytes] = {}  # by the bytes of a row's pack, offset and length
        self._pieces = [bytearray() for _ in range(256)]
        self._unsorted: set[int] = set()

    def add(self, payload: bytes, only_pack: str | None = None) -> None:
        """Add the rows of a payload; ``only_pack`` is the pack whose trailer it is."""
        if len(payload) < 8:
            raise Damaged("the rows have no counts")
        pack_count, row_count = struct.unpack_from("<II", payload)
        if only_pack is None and row_count > RUN_ROWS_MAX:
            raise Damaged(f"{row_count} rows, at most {RUN_ROWS_MAX} are allowed")
        rows_at = 8 + 16 * pack_count
        base_at = rows_at + ROW.size * row_count
        patch_count = sum(kind >> 4 == PATCH for kind in payload[rows_at + ROW.size - 1 : base_at : ROW.size])
        if pack_count > RUN_PACKS_MAX or len(payload) != base_at + 32 * patch_count:
            raise Damaged(
                f"{len(payload)} bytes do not hold {pack_count} packs, {row_count} rows and {patch_count} bases"
            )
        names = [payload[at : at + 16] for at in range(8, rows_at, 16)]
        if only_pack is not None and names != [bytes.fromhex(only_pack)]:
            raise Damaged("the trailer of a pack must name this pack and no other")
        numbers = [self._number(name) for name in names]
        for at in range(rows_at, rows_at + ROW.size * row_count, ROW.size):
            pack = int.from_bytes(payload[at + 32 : at + 36], "little")
            if pack >= pack_count:
                raise Damaged(f"a row names pack {pack} of {pack_count}")
            if payload[at + ROW.size - 1] >> 4 == PATCH:
                self._bases[numbers[pack] + payload[at + 36 : at + 44]] = payload[base_at : base_at + 32]
                base_at += 32
            first = payload[at]
            self._pieces[first] += payload[at : at + 32] + numbers[pack] + payload[at + 36 : at + ROW.size]
            self._unsorted.add(first)

    def _number(self, pack_id: bytes) -> bytes:
        if pack_id not in self._numbers:
            self._numbers[pack_id] = len(self.packs).to_bytes(4, "little")
            self.packs.append(pack_id.hex())
        return self._numbers[pack_id]

    def find(self, chunk_id: bytes) -> list[Location]:
        """Say all places where a chunk rests; patches come last."""
        first = chunk_id[0]
        piece = self._pieces[first]
        if first in self._unsorted:
            rows = {bytes(piece[at : at + ROW.size]) for at in range(0, len(piece), ROW.size)}
            piece = self._pieces[first] = bytearray().join(sorted(rows))
            self._unsorted.discard(first)
        low, high = 0, len(piece) // ROW.size
        while low < high:
            middle = (low + high) // 2
            if piece[middle * ROW.size : middle * ROW.size + 32] < chunk_id:
                low = middle + 1
            else:
                high = middle
        found = []
        while piece[low * ROW.size : low * ROW.size + 32] == chunk_id:
            _, pack, offset, sealed_size, plain, kind = ROW.unpack_from(piece, low * ROW.size)
            if kind >> 4 in (0, 1, PATCH):
                plain_size = int.from_bytes(plain, "little") or CHUNK_MAX
                key = piece[low * ROW.size + 32 : low * ROW.size + 44]
                base = self._bases[bytes(key)] if kind >> 4 == PATCH else b""
                found.append(Location(chunk_id, pack, offset, sealed_size, plain_size, kind & 15, base))
            low += 1
        return sorted(found, key=lambda location: location.base != b"")


@dataclass(frozen=True)
class Pack:
    """A pack whose header and footer are right."""

    header: bytes
    trailer_at: int
    cipher: AESGCM


class ChunkReader:
    """Reads chunks and nodes by their ids."""

    def __init__(self, repository: Repository, put_tag: str = "") -> None:
        self._repository = repository
        self._put_tag = put_tag  # whose entries may be used beside those of who knows the master key
        self._table = ChunkTable()
        self._packs: dict[str, Pack | str] = {}  # a pack, or why it cannot be used
        self._files: OrderedDict[str, BinaryIO] = OrderedDict()
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self._unread_trailers = set(repository.iter_ids(PACK))

    def load(self) -> None:
        """Read all index runs; the trailers of packs, which say the same, are read when a chunk is missing."""
        for run in self._repository.iter_ids(INDEX):
            try:
                self._table.add(self._repository.read_payload(INDEX, run))
            except (ReaderError, OSError) as error:
                note(f"index run {run} is left out: {error}")

    def _load_trailers(self) -> None:
        while self._unread_trailers:
            pack = self._unread_trailers.pop()
            try:
                self._table.add(self._repository.read_payload(PACK, pack), only_pack=pack)
            except (ReaderError, OSError) as error:
                note(f"pack {pack} is left out: {error}")

    def read(self, chunk_id: bytes, smallest: int, largest: int, chunk_key: bytes | None) -> bytes:
        """Read a chunk or node from whichever pack has a good copy.

        Args:
            chunk_id: Its id.
            smallest: The least plain length it may have.
            largest: The greatest.
            chunk_key: The chunk id key, when the id shall be checked by BLAKE3 too.
        """
        return self._read_any(chunk_id, smallest, largest, chunk_key)

    def _read_any(
        self, chunk_id: bytes, smallest: int, largest: int, chunk_key: bytes | None, *, as_base: bool = False
    ) -> bytes:
        problems: dict[Location, str] = {}
        while True:
            for location in self._table.find(chunk_id):
                if location in problems or (as_base and location.base):
                    continue  # a patch of a patch is not allowed, so there is an end to it
                try:
                    if not smallest <= location.plain_size <= largest:
                        raise Damaged(f"plain length is {location.plain_size}")
                    return self._read_at(location, chunk_key)
                except (ReaderError, OSError) as error:
                    problems[location] = f"pack {self._table.packs[location.pack]} offset {location.offset}: {error}"
            if not self._unread_trailers:
                break
            self._load_trailers()
        raise Damaged("; ".join(problems.values()) or f"no pack holds chunk {chunk_id.hex()}")

    def _read_at(self, location: Location, chunk_key: bytes | None) -> bytes:
        pack_id = self._table.packs[location.pack]
        pack = self._pack(pack_id)
        if location.offset < HEADER.size or location.offset + location.sealed_size > pack.trailer_at:
            raise Damaged("the entry does not lie between header and trailer")
        if not TAG_SIZE < location.sealed_size <= location.plain_size + TAG_SIZE:
            raise Damaged(f"the entry cannot have {location.sealed_size} bytes")
        file = self._file(pack_id)
        file.seek(location.offset)
        sealed = file.read(location.sealed_size)
        stored = unseal(pack.cipher, pack.header, location.offset, location.chunk_id, sealed)
        if location.base and pack.header[11] == PUT:
            raise Damaged("a put key made a patch, and none may")
        if location.base and location.codec != 1:
            raise Damaged("a patch must be a Zstandard frame")
        prefix = self._read_base(location.base) if location.base else b""
        plain = decode(location.codec, stored, location.plain_size, prefix)
        if chunk_key is not None and blake3_keyed(plain, chunk_key) not in (None, location.chunk_id):
            raise Damaged("the BLAKE3 of the chunk is not its id")
        return plain

    def _read_base(self, base: bytes) -> bytes:
        """Read the whole chunk that a patch is made against."""
        if base not in self._kept:
            try:
                self._kept[base] = self._read_any(base, BASE_MIN, CHUNK_MAX, None, as_base=True)
            except Damaged as error:
                raise Damaged(f"a patch, whose base {base.hex()[:16]} cannot be had: {error}") from None
            if len(self._kept) > BASES_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(base)
        return self._kept[base]

    def _pack(self, pack_id: str) -> Pack:
        if pack_id not in self._packs:
            try:
                stored = self._repository.read(PACK, pack_id)
                if stored.by_put_key and pack_id[16:] != self._put_tag:
                    raise Damaged("a put key of another machine made the pack")
                self._packs[pack_id] = Pack(stored.header, stored.trailer_at, self._repository.cipher_of(stored))
            except FileNotFoundError:
                self._packs[pack_id] = "the pack is not there"
            except (ReaderError, OSError) as error:
                self._packs[pack_id] = str(error)
        pack = self._packs[pack_id]
        if isinstance(pack, str):
            raise Damaged(pack)
        return pack

    def _file(self, pack_id: str) -> BinaryIO:
        if pack_id not in self._files:
            if len(self._files) >= OPEN_PACKS:
                self._files.popitem(last=False)[1].close()
            self._files[pack_id] = open(self._repository.path_of(PACK, pack_id), "rb")  # noqa: SIM115 - closed above and by close()
        self._files.move_to_end(pack_id)
        return self._files[pack_id]

    def close(self) -> None:
        """Close the packs."""
        while self._files:
            self._files.popitem()[1].close()


def blake3_keyed(plain: bytes, key: bytes) -> bytes | None:
    """Hash a chunk when the package ``blake3`` is there; without it the tag is enough (section 6)."""
    module = import_first("blake3")
    if module is None:
        return None
    return bytes(module.blake3(plain, key=key).digest())


# --- Manifest (section 10) -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BlockMap:
    """The root of a map of ``size`` bytes."""

    size: int
    kind: int
    node_id: bytes


@dataclass(frozen=True)
class Partition:
    """One partition; ``record`` is what the manifest says about it, for ``show``."""

    number: int
    start: int
    size: int
    blocks: BlockMap
    record: dict[str, Any]


@dataclass(frozen=True)
class Disk:
    """One disk."""

    number: int
    size: int
    outside: BlockMap
    partitions: list[Partition]
    record: dict[str, Any]


@dataclass(frozen=True)
class Image:
    """One image."""

    image_id: str
    chunk_size: int
    domain: bytes
    disks: list[Disk]
    record: dict[str, Any]


def parse_map(record: object, expected_size: int) -> BlockMap:
    """Read the root of a map; it must be as large as what it maps."""
    if not isinstance(record, dict):
        raise Damaged("a map must be an object")
    size, kind = number_of(record, "size", 0, SIZE_MAX), number_of(record, "kind", UNUSED, UNREADABLE)
    if size != expected_size:
        raise Damaged(f"a map of {size} bytes stands for {expected_size} bytes")
    if size == 0 and kind != UNUSED:
        raise Damaged("a map of no bytes must have kind 0")
    node_id = hex_of(record, "id", 32 if kind == DATA else 0)
    return BlockMap(size, kind, node_id)


def parse_disk(record: dict[str, Any]) -> Disk:
    """Read one disk of a manifest."""
    size = number_of(record, "size", 0, SIZE_MAX)
    partitions = []
    for item in records_of(record, "partitions", PARTITIONS_MAX):
        start = number_of(item, "start", 0, size)
        length = number_of(item, "size", 0, size - start)
        number = number_of(item, "number", 0, SIZE_MAX)
        partitions.append(Partition(number, start, length, parse_map(item.get("blocks"), length), item))
    number = number_of(record, "number", 0, SIZE_MAX)
    return Disk(number, size, parse_map(record.get("outside"), size), partitions, record)


def read_image(repository: Repository, image_id: str) -> Image:
    """Read and check a manifest."""
    record = parse_json(repository.read_payload(IMAGE, image_id))
    if record.get("version") != 1:
        raise Unsupported(f"manifest version {str(record.get('version'))[:40]!r} is unknown to this reader")
    if record.get("features", []) != []:
        raise Unsupported(f"it needs features unknown to this reader: {str(record['features'])[:200]}")
    if hex_of(record, "image", 16).hex() != image_id:
        raise Damaged("the manifest says that it is another image")
    disks = [parse_disk(disk) for disk in records_of(record, "disks", DISKS_MAX)]
    if not disks:
        raise Damaged("a manifest without disks")
    return Image(image_id, parse_chunk_size(record), hex_of(record, "domain", 16), disks, record)


def read_tombstones(repository: Repository) -> tuple[set[str], set[tuple[str, int]]]:
    """Say which images are forgotten: by id, and by machine and sequence (section 11)."""
    gone: set[str] = set()
    binned: set[tuple[str, str]] = set()
    back: set[tuple[str, str]] = set()
    sequences: set[tuple[str, int]] = set()
    ends = read_ends(repository)
    for name in repository.iter_ids(TOMBSTONE):
        try:
            record = parse_json(repository.read_payload(TOMBSTONE, name))
            for field in ("images", "binned"):
                for item in records_of(record, field):
                    image = hex_of(item, "image", 16).hex()
                    gone.update([image] if field == "images" else [])
                    binned.update([(image, name)] if field == "binned" else [])
                    sequences.add((str(item.get("machine")), number_of(item, "sequence", 0, SIZE_MAX)))
            if counts(ends, record, name):
                for item in records_of(record, "back"):
                    image = hex_of(item, "image", 16).hex()
                    back.update((image, str(tombstone)) for tombstone in item.get("tombstones") or [])
        except (ReaderError, OSError, TypeError) as error:
            note(f"tombstone {name} is left out: {error}")
    return gone | {image for image, _ in binned - back}, sequences


def read_ends(repository: Repository) -> dict[str, set[str]]:
    """Say of each session that was ended which of its records count (section 11)."""
    kept: dict[str, set[str]] = {}
    for name in repository.iter_ids(SESSION_END):
        try:
            record = parse_json(repository.read_payload(SESSION_END, name))
            if record.get("final", True):
                named = {str(one) for one in record.get("kept") or []}
                session = hex_of(record, "session", 16).hex()
                kept[session] = kept.get(session, named) & named
        except (ReaderError, OSError, TypeError) as error:
            note(f"end of a session {name} is left out: {error}")
    for name in repository.iter_ids(REVOCATION):  # by the end of the ids of all sessions of that machine
        try:
            record = parse_json(repository.read_payload(REVOCATION, name))
            tag, named = hex_of(record, "grant", 16).hex()[16:], {str(one) for one in record.get("kept") or []}
            kept[tag] = kept.get(tag, named) & named
        except (ReaderError, OSError, TypeError) as error:
            note(f"revocation {name} is left out: {error}")
    return kept


def counts(ends: dict[str, set[str]], record: dict[str, Any], name: str) -> bool:
    """Say whether a record was written while its session was held."""
    session = str(record.get("session"))
    return all(key not in ends or name in ends[key] for key in (session, session[16:]))


def find_image(repository: Repository, wanted: str) -> Image:
    """Find the one image whose id begins with ``wanted``."""
    forgotten, _ = read_tombstones(repository)
    names = [name for name in repository.iter_ids(IMAGE) if name.startswith(wanted.lower())]
    if any(name in forgotten for name in names):
        note("images that a tombstone names are left out: they were forgotten on purpose")
    names = [name for name in names if name not in forgotten]
    if len(names) != 1:
        raise NotFound(f"{len(names)} images have an id that begins with {wanted!r}; see the command list")
    try:
        image = read_image(repository, names[0])
    except ReaderError as error:
        raise type(error)(f"image {names[0]}: {error}") from None
    if not counts(read_ends(repository), image.record, names[0]):
        raise NotFound(f"image {names[0]} does not count: its run had lost its session when it was written")
    return image


# --- Block maps (section 8) ------------------------------------------------------------------------------------------


class Piece(NamedTuple):
    """A range ``[start, end)`` of a map and what it is; ``problem`` says why it is DAMAGED."""

    start: int
    end: int
    kind: int
    chunk_id: bytes = b""
    problem: str = ""


class MapWalker:
    """Walks the maps of one image."""

    def __init__(self, chunks: ChunkReader, chunk_size: int, chunk_key: bytes) -> None:
        self._chunks = chunks
        self._chunk_size = chunk_size
        self._chunk_key = chunk_key

    def walk(self, blocks: BlockMap) -> Iterator[Piece]:
        """Yield all pieces of a map in order; a piece of kind DATA is one chunk."""
        count = -(-blocks.size // self._chunk_size)
        level = 0
        while FANOUT ** (level + 1) < count:
            level += 1
        if blocks.kind != DATA:
            yield Piece(0, blocks.size, blocks.kind)
        elif level > LEVEL_MAX:
            yield Piece(0, blocks.size, DAMAGED, b"", f"a map of level {level}")
        else:
            yield from self._walk_node(blocks, blocks.node_id, level, 0)

    def _walk_node(self, blocks: BlockMap, node_id: bytes, level: int, first_chunk: int) -> Iterator[Piece]:
        """Yield the pieces below one node whose first entry begins at ``first_chunk``."""
        unit = self._chunk_size * FANOUT**level
        start = first_chunk * self._chunk_size
        entry_count = min(FANOUT, -(-(blocks.size - start) // unit))
        try:
            node = self._chunks.read(node_id, 9, NODE_MAX, self._chunk_key)
            entries = parse_node(node, level, entry_count)
        except ReaderError as error:
            yield Piece(start, min(start + FANOUT * unit, blocks.size), DAMAGED, b"", f"map: {error}")
            return
        for index, (kind, chunk_id) in enumerate(entries):
            entry_start = start + index * unit
            if kind == DATA and level > 0:
                yield from self._walk_node(blocks, chunk_id, level - 1, entry_start // self._chunk_size)
            else:
                yield Piece(entry_start, min(entry_start + unit, blocks.size), kind, chunk_id)

    def read_chunk(self, piece: Piece) -> bytes:
        """Read the bytes of a piece of kind DATA."""
        size = piece.end - piece.start
        return self._chunks.read(piece.chunk_id, size, size, self._chunk_key)


def parse_node(node: bytes, level: int, entry_count: int) -> list[tuple[int, bytes]]:
    """Read a node: kind and id of each entry."""
    expected = struct.pack("<4sBBH", b"SFMN", 1, level, entry_count)
    if node[:8] != expected:
        raise Damaged(f"a node begins with {node[:8].hex()}, expected {expected.hex()}")
    kinds = node[8 : 8 + entry_count]
    if len(node) != 8 + entry_count + 32 * kinds.count(DATA) or max(kinds) > UNREADABLE:
        raise Damaged("the kinds and ids of a node do not fit its length")
    entries, at = [], 8 + entry_count
    for kind in kinds:
        entries.append((kind, node[at : at + 32] if kind == DATA else b""))
        at += 32 * (kind == DATA)
    return entries


# --- Restore and verify ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Volume:
    """A map, where its byte 0 lies on the disk, and the ranges of the disk that may be written from it."""

    title: str
    start: int
    blocks: BlockMap
    ranges: list[tuple[int, int]]
    holds_tables: bool = False


def partition_volume(disk: Disk, partition: Partition) -> Volume:
    """Make the volume of a partition."""
    title = f"disk {disk.number} partition {partition.number}"
    ends = [(partition.start, partition.start + partition.size)]
    return Volume(title, partition.start, partition.blocks, ends)


def disk_volumes(disk: Disk) -> list[Volume]:
    """Make the volumes of a disk: its partitions, then what lies outside of them, for it holds the tables."""
    gaps, at = [], 0
    for start, end in sorted((part.start, part.start + part.size) for part in disk.partitions if part.size):
        if start < at:
            raise Damaged(f"two partitions of disk {disk.number} overlap at byte {start}; use --partition N")
        gaps.append((at, start))
        at = end
    gaps.append((at, disk.size))
    gaps = [(start, end) for start, end in gaps if start < end]
    outside = Volume(f"disk {disk.number} outside partitions", 0, disk.outside, gaps, holds_tables=True)
    return [*(partition_volume(disk, partition) for partition in disk.partitions), outside]


def clip(start: int, end: int, ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Cut ``[start, end)`` down to sorted ranges."""
    first = max(0, bisect.bisect_right(ranges, (start, SIZE_MAX)) - 1)
    found = []
    for low, high in ranges[first:]:
        if low >= end:
            break
        if max(low, start) < min(high, end):
            found.append((max(low, start), min(high, end)))
    return found


class Target:
    """A new sparse file, or a block device when forced. ``base`` is the byte of the disk that becomes its byte 0."""

    def __init__(self, path: str, base: int, size: int, *, force: bool) -> None:
        self._base = base
        flags = os.O_RDWR | getattr(os, "O_BINARY", 0)
        try:
            is_device = force and stat.S_ISBLK(os.stat(path).st_mode)
        except FileNotFoundError:
            is_device = False
        # On a block device Linux takes O_EXCL to mean "unless it is mounted or otherwise in use".
        flags |= os.O_EXCL if is_device or not force else 0
        try:
            descriptor = os.open(path, flags | (0 if is_device else os.O_CREAT), 0o600)
        except FileExistsError:
            raise TargetRefused(f"{path} exists; choose another name, or --force to lose what it holds") from None
        except OSError as error:
            raise TargetRefused(f"{path} cannot be written: {error.strerror}") from None
        self._file = open(descriptor, "r+b", buffering=0)  # noqa: SIM115 - closed by close()
        self._holes = not is_device
        try:
            self._prepare(path, size, is_device=is_device)
        except BaseException:
            self._file.close()
            raise

    def _prepare(self, path: str, size: int, *, is_device: bool) -> None:
        if is_device:
            room = self._file.seek(0, os.SEEK_END)
            if room < size:
                raise TargetRefused(f"{path} has {room} bytes, {size} are needed")
        elif stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
            self._file.truncate(0)
            self._file.truncate(size)
        else:
            raise TargetRefused(f"{path} is neither a file nor a block device")

    def write(self, at: int, data: bytes) -> None:
        """Write bytes at a byte of the disk."""
        self._file.seek(at - self._base)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def zero(self, start: int, end: int) -> None:
        """Make a range zeros; in a new file it is already a hole."""
        while not self._holes and start < end:
            size = min(end - start, 1 << 20)
            self.write(start, bytes(size))
            start += size

    def close(self) -> None:
        """Wait until everything is on the medium."""
        os.fsync(self._file.fileno())
        self._file.close()


class Copier:
    """Reads volumes of an image and, when there is a target, writes them to it; counts what is damaged."""

    def __init__(self, walker: MapWalker, target: Target | None) -> None:
        self._walker = walker
        self._target = target
        self._shown = time.monotonic()
        self.bytes_read = 0
        self.bytes_damaged = 0

    def copy(self, volume: Volume) -> None:
        """Copy one volume; the first and the last piece of the one with the partition tables come last."""
        late = []
        for piece in self._walker.walk(volume.blocks):
            if volume.holds_tables and (piece.start == 0 or piece.end == volume.blocks.size):
                late.append(piece)
            else:
                self._copy_piece(volume, piece)
        for piece in reversed(late):
            self._copy_piece(volume, piece)

    def _copy_piece(self, volume: Volume, piece: Piece) -> None:
        start, end = volume.start + piece.start, volume.start + piece.end
        ranges, target = clip(start, end, volume.ranges), self._target
        if piece.kind == UNUSED or (target is not None and not ranges):
            return
        data, problem = None, piece.problem
        if piece.kind == DATA:
            try:
                data = self._walker.read_chunk(piece)
                self.bytes_read += len(data)
            except ReaderError as error:
                problem = str(error)
        if problem:
            self.bytes_damaged += end - start
            place = f"{volume.title}: bytes [{start}, {end}) of the disk"
            print(f"damaged: {place}: {printable(problem)}", file=sys.stderr)
        for low, high in ranges:
            if target is not None and data is None:
                target.zero(low, high)
            elif target is not None and data is not None:
                target.write(low, data[low - start : high - start])
        self._show_progress(volume)

    def _show_progress(self, volume: Volume) -> None:
        if sys.stderr.isatty() and time.monotonic() - self._shown > 10:
            self._shown = time.monotonic()
            print(f"{volume.title}: {self.bytes_read >> 20} MiB so far", file=sys.stderr)


def run_copy(
    repository: Repository, image: Image, volumes: list[Volume], open_target: Callable[[], Target] | None
) -> int:
    """Copy volumes, or only read them; returns the exit code. The target is opened when the chunks are found."""
    by_put_key = repository.is_by_put_key(IMAGE, image.image_id)
    chunks = ChunkReader(repository, image.image_id[16:] if by_put_key else "")
    target = None
    try:
        chunks.load()
        info = b"stillframe/v1/chunk-id" + repository.repository_id + image.domain
        chunk_key = derive(repository.master_key, bytes(32), info)
        target = open_target() if open_target is not None else None
        copier = Copier(MapWalker(chunks, image.chunk_size, chunk_key), target)
        for volume in volumes:
            copier.copy(volume)
    finally:
        chunks.close()
        if target is not None:
            target.close()
    verdict = f"{copier.bytes_damaged} bytes are DAMAGED, see above" if copier.bytes_damaged else "no damage"
    print(f"{copier.bytes_read} bytes read from chunks, {verdict}")
    return 3 if copier.bytes_damaged else 0


# --- Commands --------------------------------------------------------------------------------------------------------


def command_list(repository: Repository) -> int:
    """Print one line per image."""
    forgotten, buried = read_tombstones(repository)
    ends = read_ends(repository)
    rows: list[tuple[str, int, str]] = []
    exit_code = 0
    for name in repository.iter_ids(IMAGE):
        if name in forgotten:
            continue
        try:
            record = read_image(repository, name).record
            if not counts(ends, record, name):
                continue
            machine = dict(record.get("machine") or {})
            sequence = number_of(record, "sequence", 1, SIZE_MAX)
        except Torn as error:
            note(f"image {name} is ignored: {error}")
        except (ReaderError, OSError, ValueError, TypeError) as error:
            note(f"image {name} is left out: {error}")
            exit_code = 3
        else:
            words = [record.get("created"), machine.get("name"), record.get("kind"), f"#{sequence}", record.get("name")]
            line = f"{name}  " + "  ".join(printable("" if word is None else word) for word in words)
            rows.append((str(machine.get("id")), sequence, line))
    for row in sorted(rows):
        print(row[2])
    note_gaps(rows, buried)
    return exit_code


def note_gaps(rows: list[tuple[str, int, str]], buried: set[tuple[str, int]]) -> None:
    """Say when images of a machine are missing and nobody forgot them (section 10)."""
    for machine in sorted({row[0] for row in rows}):
        known = {row[1] for row in rows if row[0] == machine} | {number for owner, number in buried if owner == machine}
        ordered = sorted({0} | known)
        gaps = [f"#{before + 1}" for at, before in enumerate(ordered[:-1]) if ordered[at + 1] > before + 1]
        if gaps:
            note(f"machine {machine}: images are missing that nobody forgot, from {', '.join(gaps[:20])} on")


def command_show(image: Image) -> int:
    """Print what the manifest says."""
    print_fields(image.record, "", ("image", "created", "finished", "name", "comment", "kind", "sequence", "program"))
    machine = image.record.get("machine")
    print(f"machine: {printable(machine.get('name') if isinstance(machine, dict) else '')}")
    print_records(image.record, "notices", "notice: ")
    for disk in image.disks:
        print(f"disk {disk.number}: {disk.size} bytes")
        print_fields(disk.record, "  ", ("path", "model", "serial", "scheme", "sector_size", "disk_id", "unreadable"))
        for part in disk.partitions:
            print(f"  partition {part.number}: bytes [{part.start}, {part.start + part.size}), {part.size} bytes")
            names = ("type_name", "name", "filesystem", "label", "uuid", "consistency", "map", "bytes_used", "system")
            print_fields(part.record, "    ", (*names, "excluded", "unreadable"))
            print_records(part.record, "left_out", "    left out: ")
            print_records(part.record, "notices", "    notice: ")
    return 0


def print_fields(record: dict[str, Any], indent: str, keys: tuple[str, ...]) -> None:
    """Print the fields that say something."""
    for key in keys:
        if record.get(key) not in (None, "", []):
            print(f"{indent}{key}: {printable(record[key])}")


def print_records(record: dict[str, Any], key: str, prefix: str) -> None:
    """Print one line for each member of a list."""
    for item in records_of(record, key):
        print(
            prefix
            + ", ".join(f"{name}: {value}" for name, value in ((printable(k), printable(v)) for k, v in item.items()))
        )


def choose(kind: str, items: list[Any], wanted: int | None) -> Any:
    """Choose a disk or partition by its number; a single one needs no choice."""
    found = [item for item in items if wanted is None or item.number == wanted]
    if len(found) != 1:
        numbers = ", ".join(str(item.number) for item in items)
        raise NotFound(f"say which {kind} by --{kind} N; this image has: {numbers or 'none'}")
    return found[0]


def command_restore(repository: Repository, image: Image, options: argparse.Namespace) -> int:
    """Write a disk or a partition of an image to a file."""
    if os.path.lexists(options.target) and not options.force:
        raise TargetRefused(f"{options.target} exists; choose another name, or --force to lose what it holds")
    disk: Disk = choose("disk", image.disks, options.disk)
    if options.partition is None:
        volumes, base, size = disk_volumes(disk), 0, disk.size
    else:
        partition: Partition = choose("partition", disk.partitions, options.partition)
        volumes, base, size = [partition_volume(disk, partition)], partition.start, partition.size
    return run_copy(repository, image, volumes, lambda: Target(options.target, base, size, force=options.force))


def command_verify(repository: Repository, image: Image) -> int:
    """Open every chunk of an image."""
    volumes = [volume for disk in image.disks for volume in disk_volumes(disk)]
    return run_copy(repository, image, volumes, None)


def ask_secret(options: argparse.Namespace, *, encrypted: bool) -> Secret | None:
    """Take the secret from the options, or ask for it."""
    if options.recovery_key is not None:
        return parse_recovery_key(options.recovery_key)
    if options.recovery_key_file is not None:
        return parse_recovery_key(read_text(options.recovery_key_file))
    if options.password_file is not None:
        return passphrase_secret(read_text(options.password_file).split("\n")[0].rstrip("\r"))
    if encrypted and sys.stdin is not None and sys.stdin.isatty():
        answer = getpass.getpass("Recovery key or passphrase: ")
        try:
            return parse_recovery_key(answer)
        except WrongKey:
            return passphrase_secret(answer)
    return None


def read_text(path: str) -> str:
    """Read a small text file, as editors of any system write it."""
    with open(path, "rb") as file:
        try:
            return file.read(65_536).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise WrongKey(f"{path} is not UTF-8 text") from None


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; the secret may be named before or behind the command."""
    secret = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    choice = secret.add_mutually_exclusive_group()
    choice.add_argument("--recovery-key", metavar="TEXT", help="the printed key (visible to other users meanwhile)")
    choice.add_argument("--recovery-key-file", metavar="FILE", help="a file with the printed key")
    choice.add_argument("--password-file", metavar="FILE", help="a file whose first line is the passphrase")
    usage = "Restore a Stillframe repository; the text at the top of this file says more."
    parser = argparse.ArgumentParser(description=usage, parents=[secret])
    parser.add_argument("repo", metavar="REPO", help="the folder that holds stillframe.json")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser("list", parents=[secret], help="the images")
    for name, text in (("show", "one image"), ("verify", "open every chunk"), ("restore", "write a disk to a file")):
        command = commands.add_parser(name, parents=[secret], help=text)
        command.add_argument("image", metavar="IMAGE", help="an id, or how it begins")
    command.add_argument("target", metavar="TARGET_FILE")
    command.add_argument("--disk", type=int, metavar="N")
    command.add_argument("--partition", type=int, metavar="N", help="this partition alone")
    command.add_argument("--force", action="store_true", help="overwrite a file or a block device")
    empty = argparse.Namespace(recovery_key=None, recovery_key_file=None, password_file=None)
    return parser.parse_args(arguments, empty)


def run(options: argparse.Namespace) -> int:
    """Do what the command line says."""
    zstd_library()  # a missing package is said now, not once per chunk
    repository = open_repository(options.repo, functools.partial(ask_secret, options))
    if options.command == "list":
        return command_list(repository)
    image = find_image(repository, options.image)
    if options.command == "show":
        return command_show(image)
    if options.command == "verify":
        return command_verify(repository, image)
    return command_restore(repository, image, options)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    try:
        return run(parse_options(arguments))
    except ReaderError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 30
    except KeyboardInterrupt:
        print("interrupted; what was written is not complete", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
