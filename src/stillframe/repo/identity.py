"""The identity file: this folder is a repository, and which one.

Answers: "is there a repository here, with which id, chunk size and encryption?" Normative:
``docs/format/v1.md``, section 3. A folder without it is no repository, so an unmounted path is never filled.
"""

import hashlib
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from stillframe.errors import DamagedError, RepositoryNotFound, UnsupportedFormat
from stillframe.repo.format import CHUNK_SIZE_MAX, CHUNK_SIZE_MIN
from stillframe.repo.records import JSON_ERRORS, Hex16, Time, Word
from stillframe.store import ObjectMissing, Store, write_object

NAMES: Final = ("stillframe.json", "stillframe-copy.json")
FORMAT: Final = "v1"
_SIZE_MAX: Final = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What the identity file says."""

    magic: Literal["stillframe-repository"] = "stillframe-repository"
    format: Word
    id: Hex16
    created: Time
    chunk_size: Annotated[int, Meta(ge=CHUNK_SIZE_MIN, le=CHUNK_SIZE_MAX)]
    encryption: Literal["aes256", "none"]
    features: Annotated[tuple[Word, ...], Meta(max_length=64)] = ()

    @property
    def repository_id(self) -> bytes:
        """The id as 16 bytes."""
        return bytes.fromhex(self.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundIdentity:
    """An identity, the digest of its exact bytes (it stands in every key slot), and which copies are readable."""

    identity: Identity
    digest: bytes
    copies: tuple[str, ...]


def write_identity(store: Store, identity: Identity) -> None:
    """Write both copies, the first name last: it is what makes the folder a repository."""
    raw = build_identity(identity)
    for name in reversed(NAMES):
        write_object(store, name, raw)


def build_identity(identity: Identity) -> bytes:
    """The exact bytes of the file."""
    return msgspec.json.format(msgspec.json.encode(identity), indent=2) + b"\n"


def read_identity(store: Store, *, where: str) -> FoundIdentity:
    """Find the repository in a store.

    Raises:
        RepositoryNotFound: Neither copy is there.
        DamagedError: There are copies and none can be read, or they contradict each other.
        UnsupportedFormat: Another version of the format, or features this program does not know.
    """
    found: dict[str, bytes] = {}
    for name in NAMES:
        try:
            found[name] = store.read(name) if store.size(name) <= _SIZE_MAX else b""
        except ObjectMissing:
            continue
    if not found:
        raise RepositoryNotFound(
            f"no repository at {where}: neither {NAMES[0]} nor {NAMES[1]} is there",
            hint="Is the disk plugged in and mounted? A new repository is made with 'stillframe init'.",
        )
    good = {name: parsed for name, raw in found.items() if (parsed := _parse(raw)) is not None}
    if not good or len({found[name] for name in good}) > 1:
        raise DamagedError(
            f"the identity files of the repository at {where} are damaged or differ",
            hint=f"Copy a good {NAMES[0]} back from another copy of the repository.",
        )
    name, identity = next(iter(good.items()))
    if identity.format != FORMAT or identity.features:
        raise UnsupportedFormat(
            f"the repository at {where} has format {identity.format} {' '.join(identity.features)}".rstrip()
            + f"; this program knows {FORMAT}",
            hint="Use the newest Stillframe.",
        )
    return FoundIdentity(identity=identity, digest=hashlib.sha256(found[name]).digest(), copies=tuple(good))


def _parse(raw: bytes) -> Identity | None:
    """An identity, or ``None`` when the bytes are not one."""
    try:
        identity = msgspec.json.decode(raw, type=Identity)
    except JSON_ERRORS:
        return None
    return identity if identity.chunk_size & (identity.chunk_size - 1) == 0 else None
