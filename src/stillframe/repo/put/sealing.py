"""Sealing with a put key, and opening what was sealed so.

Answers: "with which key is this object of a put-only machine sealed?" Each object has a key pair of its own, of which
the private half is forgotten: the machine itself cannot open it any more once it has ended. Without the secret that it
shares with the owner nobody can make an object that opens as its own. Normative: ``docs/format/v1.md``, section
17.
"""

import functools
from typing import Final

import blake3
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from stillframe.errors import DamagedError
from stillframe.repo.format import CHECK_HINT, CIPHER_PUT, Header, ObjectType
from stillframe.repo.put.credential import machine_of, put_private_key, put_secret
from stillframe.repo.sealing import OPEN_MASTER_KEY, Seal, chunk_id_key, derive_key, make_salt


class PutSeal(Seal):
    """As ``Seal``, for what a put-only machine made: its entries must be what their ids say.

    Whoever holds the master key is believed about that, a put-only machine is not: else it could store other bytes
    under an id that others rely on.
    """

    __slots__ = ("_name_key",)

    def __init__(self, header: Header, object_key: bytes, name_key: bytes) -> None:
        super().__init__(header, object_key)
        self._name_key = name_key

    def require_named(self, chunk_id: bytes, plain: bytes, *, thing: str) -> None:
        """Refuse an entry whose bytes have another id in the domain of the machine that made it.

        Raises:
            DamagedError: So it is.
        """
        if blake3.blake3(plain, key=self._name_key).digest() != chunk_id:
            raise DamagedError(
                f"{thing}: a put key stored other bytes under this id", hint=f"Do not trust it. {CHECK_HINT}"
            )

    def require_patches(self, *, thing: str) -> None:
        """Refuse a patch: whoever holds a put key reads no chunk that one could be made against.

        Raises:
            DamagedError: Always.
        """
        raise DamagedError(f"{thing}: a put key made a patch, and none may", hint=f"Do not trust it. {CHECK_HINT}")


class PutOpener:
    """Opens what put-only machines sealed, for who knows the master key."""

    def __init__(self, master_key: bytes, repository_id: bytes) -> None:
        self._master_key = master_key
        self._repository_id = repository_id
        self.secret_of = functools.lru_cache(maxsize=1024)(functools.partial(put_secret, master_key, repository_id))
        self._name_key = functools.lru_cache(maxsize=1024)(functools.partial(chunk_id_key, master_key, repository_id))

    @functools.cached_property
    def _private(self) -> X25519PrivateKey:
        return put_private_key(self._master_key, self._repository_id)

    def seal(self, header: Header) -> Seal:
        """The seal of an object with this header.

        Raises:
            DamagedError: Nobody can have sealed it so.
        """
        if self._master_key == OPEN_MASTER_KEY:
            raise DamagedError(
                f"{header.kind.words} {header.object_id.hex()}: it says that a put key made it, and a repository "
                "without encryption has none",
                hint=CHECK_HINT,
            )
        machine_id = machine_of(header.object_id)
        try:
            shared = self._private.exchange(X25519PublicKey.from_public_bytes(header.salt))
        except ValueError:
            raise DamagedError(
                f"{header.kind.words} {header.object_id.hex()}: its header holds no public key", hint=CHECK_HINT
            ) from None
        key = _object_key(
            shared, self.secret_of(machine_id), header=header, public=self._private.public_key().public_bytes_raw()
        )
        return PutSeal(header, key, self._name_key(machine_id))


def new_put_header(
    kind: ObjectType, object_id: bytes, *, repository_id: bytes, public: bytes, secret: bytes
) -> tuple[Header, bytes]:  # fmt: skip
    """The header of a new object, and its key, which nobody who has only ``public`` and ``secret`` can find again."""
    # Where a virtual machine was copied its random numbers may repeat; what make_salt mixes in does not.
    private = X25519PrivateKey.from_private_bytes(make_salt())
    header = Header(
        kind=kind, repository_id=repository_id, object_id=object_id, salt=private.public_key().public_bytes_raw(),
        cipher=CIPHER_PUT,
    )  # fmt: skip
    shared = private.exchange(X25519PublicKey.from_public_bytes(public))
    return header, _object_key(shared, secret, header=header, public=public)


def warning_seal(header: Header, secret: bytes) -> Seal:
    """The seal of a warning: the owner writes it, and the one put-only machine that it is for reads it."""
    info = b"stillframe/v1/warning" + header.repository_id + machine_of(header.object_id)
    return Seal(header, derive_key(secret, salt=header.salt, info=info))


_INFO: Final = b"stillframe/v1/put-object"


def _object_key(shared: bytes, secret: bytes, *, header: Header, public: bytes) -> bytes:
    info = _INFO + header.repository_id + bytes([header.kind]) + machine_of(header.object_id) + public
    return derive_key(shared + secret, salt=header.salt, info=info)
