"""What a header of LUKS says, whichever version it is.

Answers: "which bytes are encrypted, how, and what turns a passphrase into their key?" The two parsers make these
records; every number in them has been bounded.
"""

from dataclasses import dataclass
from typing import Final, Literal

from stillframe.errors import DiskFormatError
from stillframe.extents import Extent

SECTOR: Final = 512
"""Offsets of LUKS1, areas of key slots and numbers of sectors count in these, whatever the disk's sectors are."""
HINT: Final = "'cryptsetup luksDump' tells more, on a restored copy."

KEY_SIZE_MAX: Final = 64
"""Two keys of AES-256 for XTS; no cipher that is read here has a longer one."""
ITERATIONS_MAX: Final = 200_000_000
"""Of PBKDF2. cryptsetup takes what this needs of a fast computer in two seconds, some millions; this is a minute."""
STRIPES_MAX: Final = 16_384  # cryptsetup has always written LUKS_STRIPES, 4000 (lib/luks1/luks.h)
ARGON2_MEMORY_KIB_MAX: Final = 4_194_304  # MAX_ARGON2_MEMORY, lib/crypto_backend/crypto_backend.h; it takes 1 GiB
ARGON2_WORK_KIB_MAX: Final = 256 << 20
"""Memory times passes: 256 GiB are some minutes; cryptsetup takes what this needs in two seconds."""
ARGON2_LANES_MAX: Final = 64
HASHES: Final = ("sha1", "sha224", "sha256", "sha384", "sha512", "sha3-224", "sha3-256", "sha3-384", "sha3-512")
"""As LUKS spells them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pbkdf2:
    """How a passphrase becomes a key by iterating a hash; ``hash`` as LUKS spells it."""

    hash: str
    iterations: int
    salt: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Argon2:
    """How a passphrase becomes a key by filling memory."""

    kind: Literal["argon2i", "argon2id"]
    passes: int
    memory_kib: int
    lanes: int
    salt: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySlot:
    """A copy of the volume's key, split up and encrypted under a passphrase.

    Attributes:
        number: As cryptsetup counts, from 0.
        key_size: Bytes of the volume's key.
        area: Where it lies in the volume.
        cipher: It is encrypted with, such as ``aes-xts-plain64``.
        area_key_size: Bytes of the key that a passphrase becomes.
        stripes: How many pieces the volume's key was split into.
        split_hash: The hash that splits it.
        derivation: How a passphrase becomes the key of the area.
    """

    number: int
    key_size: int
    area: Extent
    cipher: str
    area_key_size: int
    stripes: int
    split_hash: str
    derivation: Pbkdf2 | Argon2


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyDigest:
    """What tells the right key from a wrong one: what PBKDF2 makes of it."""

    derivation: Pbkdf2
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """The encrypted bytes.

    Attributes:
        extent: Where they lie in the volume; whole sectors.
        cipher: Such as ``aes-xts-plain64``.
        sector_size: Bytes that are encrypted in one go: 512, 1024, 2048 or 4096.
        first_iv: Number that the first sector is encrypted under, in sectors of 512 bytes.
    """

    extent: Extent
    cipher: str
    sector_size: int
    first_iv: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LuksHeader:
    """A volume of LUKS. ``unread`` says which key slots are not tried here, and why."""

    version: int
    uuid: str
    label: str
    segment: Segment
    digest: KeyDigest
    slots: tuple[KeySlot, ...]
    unread: tuple[str, ...] = ()


def refused(where: str, expected: str, found: object) -> DiskFormatError:
    """A header that is broken, or asks for what is not done here."""
    return DiskFormatError(f"{where}: expected {expected}, found {str(found)[:80]}", hint=HINT)


def require_number(where: str, name: str, number: int, *, least: int, most: int) -> int:
    """A number within its bounds.

    Raises:
        DiskFormatError: It is not.
    """
    if not least <= number <= most:
        raise refused(where, f"{name} from {least} to {most}", number)
    return number


def require_hash(where: str, name: str) -> str:
    """A hash that is computed here.

    Raises:
        DiskFormatError: It is another one.
    """
    if name.lower() not in HASHES:
        raise refused(where, f"a hash of {', '.join(HASHES)}", name)
    return name.lower()
