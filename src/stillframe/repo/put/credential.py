"""What a put-only machine holds, and how it is derived from the master key.

Answers: "whose object is this, by its name?" and "what does the file of a put key say?" Nothing in the repository is
needed to derive a put key again: a grant that is lost loses no image. Normative: ``docs/format/v1.md``, section
17. Does no input or output.
"""

import hashlib
import hmac
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from msgspec import Meta

from stillframe.errors import UsageError
from stillframe.repo.identity import FoundIdentity
from stillframe.repo.records import JSON_ERRORS, Hex16, Hex32, MachineName, Time
from stillframe.repo.sealing import chunk_id_key, derive_key, make_id

PREFIX: Final = b"put-only"
"""With it the id of every put-only machine begins; ids of others are random."""
TAG_SIZE: Final = 8
CREDENTIAL_SIZE_MAX: Final = 65_536
SEQUENCE_MAX: Final = (1 << 24) - 1
LABEL_MAX: Final = 150
_NO_SALT: Final = bytes(32)
_RANDOM_SIZE: Final = 3

Label = Annotated[str, Meta(min_length=1, max_length=LABEL_MAX)]


def make_machine_id() -> bytes:
    """The id of a new put-only machine."""
    return PREFIX + make_id()[:TAG_SIZE]


def is_put_machine(machine_id: str) -> bool:
    """Whether a machine's id, in hex, is that of a put-only machine."""
    return machine_id.startswith(PREFIX.hex())


def machine_of(object_id: bytes) -> bytes:
    """The id of the put-only machine whose object this is, if it is one's: objects end with what the machine does."""
    return PREFIX + object_id[-TAG_SIZE:]


def is_of(machine_id: bytes, object_id: str) -> bool:
    """Whether an object of this id, in hex, is one that this put-only machine can have made."""
    return object_id.endswith(machine_id[-TAG_SIZE:].hex())


def put_machine_name(machine_id: bytes, label: str) -> MachineName:
    """How a put-only machine is called: the end of its name follows from its id, so that it passes for no other."""
    return MachineName(id=machine_id.hex(), name=f"{label} {_name_end(machine_id)}")


def is_named_rightly(machine: MachineName, machine_id: bytes) -> bool:
    """Whether these are the id and a name of this put-only machine."""
    return machine.id == machine_id.hex() and machine.name.endswith(f" {_name_end(machine_id)}")


def _name_end(machine_id: bytes) -> str:
    return f"[put {machine_id[-TAG_SIZE:].hex()[:8]}]"


def put_private_key(master_key: bytes, repository_id: bytes) -> X25519PrivateKey:
    """The X25519 key that opens what put keys sealed. Source: RFC 7748."""
    return X25519PrivateKey.from_private_bytes(
        derive_key(master_key, salt=_NO_SALT, info=b"stillframe/v1/put" + repository_id)
    )


def put_secret(master_key: bytes, repository_id: bytes, machine_id: bytes) -> bytes:
    """What one put-only machine and the owner know, and no other machine."""
    return derive_key(master_key, salt=_NO_SALT, info=b"stillframe/v1/put-secret" + repository_id + machine_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """The file of a put key: secrets of one machine, and nothing that opens what is stored.

    Attributes:
        repository: Id of the repository.
        identity: SHA-256 of its identity file, so that nobody can change that unseen.
        machine: Id of the machine that the key makes of its holder.
        label: Whose it is.
        created: When it was made.
        public: The repository's X25519 public key.
        secret: What only this machine and the owner know.
        chunks: The key that names this machine's chunks.
    """

    magic: Literal["stillframe-put-key"] = "stillframe-put-key"
    version: Literal[1] = 1
    repository: Hex16
    identity: Hex32
    machine: Hex16
    label: Label
    created: Time
    public: Hex32
    secret: Hex32
    chunks: Hex32

    @property
    def machine_id(self) -> bytes:
        """The machine's id as 16 bytes."""
        return bytes.fromhex(self.machine)

    @property
    def machine_name(self) -> MachineName:
        """The machine as its images name it."""
        return put_machine_name(self.machine_id, self.label)


def derive_credential(
    master_key: bytes, found: FoundIdentity, *, machine_id: bytes, label: str, created: str
) -> Credential:  # fmt: skip
    """The put key of a machine; the same each time.

    Raises:
        UsageError: The label is empty or too long.
    """
    repository_id = found.identity.repository_id
    credential = Credential(
        repository=found.identity.id, identity=found.digest.hex(), machine=machine_id.hex(), label=label,
        created=created, public=put_private_key(master_key, repository_id).public_key().public_bytes_raw().hex(),
        secret=put_secret(master_key, repository_id, machine_id).hex(),
        chunks=chunk_id_key(master_key, repository_id, machine_id).hex(),
    )  # fmt: skip
    try:
        return msgspec.json.decode(msgspec.json.encode(credential), type=Credential)
    except JSON_ERRORS as error:
        raise UsageError(f"a put key cannot say that: {error}", hint="Choose a label of 1 to 150 letters.") from error


def build_credential(credential: Credential) -> str:
    """The text of the file."""
    return msgspec.json.format(msgspec.json.encode(credential), indent=2).decode() + "\n"


def parse_credential(raw: bytes, *, where: str) -> Credential:
    """Parse the file of a put key.

    Raises:
        UsageError: It is none.
    """
    try:
        if len(raw) <= CREDENTIAL_SIZE_MAX:
            credential = msgspec.json.decode(raw, type=Credential)
            if is_put_machine(credential.machine):
                return credential
    except JSON_ERRORS:
        pass
    raise UsageError(f"{where} is not the file of a put key", hint="'stillframe key add --put-only FILE' makes one.")


class ImageNames:
    """Ids of the images of one put-only machine: only it and the owner can tell their numbers.

    Such a machine cannot read its own manifests. That it goes on counting where its cache is lost follows from the
    names alone.
    """

    def __init__(self, credential: Credential) -> None:
        info = b"stillframe/v1/put-image-id" + bytes.fromhex(credential.repository) + credential.machine_id
        self._key: Final = derive_key(bytes.fromhex(credential.secret), salt=_NO_SALT, info=info)
        self._machine_id: Final = credential.machine_id

    def make(self, sequence: int) -> bytes:
        """A new id for the image of this number, another one each time."""
        random = os.urandom(_RANDOM_SIZE)
        plain = min(sequence, SEQUENCE_MAX).to_bytes(3, "big") + bytes(2)
        return random + self._mask(random, plain) + self._machine_id[-TAG_SIZE:]

    def sequence(self, image_id: bytes) -> int:
        """The number in an image's id; 0 for one that this machine did not make."""
        if not is_of(self._machine_id, image_id.hex()):
            return 0
        plain = self._mask(image_id[:_RANDOM_SIZE], image_id[_RANDOM_SIZE:TAG_SIZE])
        return 0 if any(plain[3:]) else int.from_bytes(plain[:3], "big")

    def newest(self, image_ids: Iterable[bytes]) -> tuple[int, bytes]:
        """The highest number among these, and its id; 0 and nothing when there is none."""
        return max(((self.sequence(one), one) for one in image_ids), default=(0, b""))

    def _mask(self, random: bytes, text: bytes) -> bytes:
        stream = hmac.digest(self._key, random, hashlib.sha256)
        return bytes(one ^ other for one, other in zip(text, stream, strict=False))
