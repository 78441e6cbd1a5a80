"""Sealing, computed again here from the format page, sections 5 and 6, with HKDF of RFC 5869 from ``hmac``."""

import hashlib
import hmac
import os
import time
from itertools import count, repeat

import blake3
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from stillframe.errors import DamagedError
from stillframe.repo import sealing
from stillframe.repo.format import Header, ObjectType
from stillframe.repo.sealing import chunk_id_key, derive_key, make_id, make_salt, object_seal

REPOSITORY, OBJECT, SALT, MASTER = bytes(range(16)), bytes(range(16, 32)), bytes(range(32, 64)), bytes(range(64, 96))
HEADER = Header(kind=ObjectType.PACK, repository_id=REPOSITORY, object_id=OBJECT, salt=SALT)
SUBJECT = bytes(range(96, 128))


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """One round of RFC 5869 with SHA-256."""
    return hmac.digest(hmac.digest(salt, secret, "sha256"), info + b"\x01", "sha256")


def seal_by_the_page(plain: bytes, *, kind: int, offset: int, subject: bytes) -> bytes:
    key = hkdf(MASTER, SALT, b"stillframe/v1/object" + REPOSITORY + bytes([kind]))
    head = b"STILLFRM" + bytes([1, 0, kind, 1, 0, 0, 0, 0]) + REPOSITORY + OBJECT
    additional = head + offset.to_bytes(8, "little") + subject
    return AESGCM(key).encrypt(offset.to_bytes(12, "big"), plain, additional)


def test_derivation_is_the_third_vector_of_the_rfc_cut_to_32_bytes() -> None:
    # RFC 5869, appendix A.3: no info, no salt (which is 32 zero bytes), 42 bytes of which these are the first 32.
    expected = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
    assert derive_key(b"\x0b" * 22, salt=bytes(32), info=b"").hex() == expected


@pytest.mark.parametrize("kind", [ObjectType.PACK, ObjectType.IMAGE, ObjectType.PROOF])
@pytest.mark.parametrize("offset", [80, 1 << 20, (1 << 27) - 1])
@pytest.mark.parametrize("subject", [bytes(32), SUBJECT])
def test_sealed_bytes_are_those_of_the_page(kind: ObjectType, offset: int, subject: bytes) -> None:
    header = Header(kind=kind, repository_id=REPOSITORY, object_id=OBJECT, salt=SALT)
    seal, plain = object_seal(header, MASTER), b"some plain text"
    expected = seal_by_the_page(plain, kind=kind, offset=offset, subject=subject)
    assert seal.close(plain, offset=offset, subject=subject) == expected
    assert seal.open(expected, offset=offset, subject=subject) == plain
    buffer = bytearray(100)
    size = seal.close_into(plain, offset=offset, subject=subject, buffer=memoryview(buffer))
    assert bytes(buffer[:size]) == expected
    assert not any(buffer[size:])


def test_a_trailer_has_no_subject() -> None:
    sealed = object_seal(HEADER, MASTER).close(b"x", offset=80)
    assert sealed == seal_by_the_page(b"x", kind=1, offset=80, subject=bytes(32))


def test_chunk_id_key_is_that_of_the_page() -> None:
    domain = bytes(range(200, 216))
    key = hkdf(MASTER, bytes(32), b"stillframe/v1/chunk-id" + REPOSITORY + domain)
    assert chunk_id_key(MASTER, REPOSITORY, domain) == key
    assert len(blake3.blake3(b"chunk", key=key).digest()) == 32


OTHER_HEADERS = {
    "another pack": Header(kind=ObjectType.PACK, repository_id=REPOSITORY, object_id=REPOSITORY, salt=SALT),
    "another repository": Header(kind=ObjectType.PACK, repository_id=OBJECT, object_id=OBJECT, salt=SALT),
    "another type": Header(kind=ObjectType.INDEX, repository_id=REPOSITORY, object_id=OBJECT, salt=SALT),
    "another salt": Header(kind=ObjectType.PACK, repository_id=REPOSITORY, object_id=OBJECT, salt=MASTER),
}


@pytest.mark.parametrize("other", OTHER_HEADERS)
def test_sealed_bytes_open_in_no_other_object(other: str) -> None:
    sealed = object_seal(HEADER, MASTER).close(b"x", offset=80, subject=SUBJECT)
    with pytest.raises(DamagedError):
        object_seal(OTHER_HEADERS[other], MASTER).open(sealed, offset=80, subject=SUBJECT)


def test_sealed_bytes_open_at_no_other_place_for_no_other_subject_with_no_other_key() -> None:
    seal = object_seal(HEADER, MASTER)
    sealed = seal.close(b"x", offset=80, subject=SUBJECT)
    for offset, subject in ((81, SUBJECT), (80 + (1 << 64), SUBJECT), (80, bytes(32))):
        with pytest.raises((DamagedError, OverflowError)):
            seal.open(sealed, offset=offset, subject=subject)
    with pytest.raises(DamagedError):
        object_seal(HEADER, bytes(32)).open(sealed, offset=80, subject=SUBJECT)


@pytest.mark.parametrize("size", range(17))
def test_too_few_sealed_bytes_are_damage(size: int) -> None:
    with pytest.raises(DamagedError):
        object_seal(HEADER, MASTER).open(bytes(size), offset=80)


def test_salts_differ_even_if_the_random_generator_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", bytes)
    monkeypatch.setattr(time, "time_ns", repeat(5).__next__)
    monkeypatch.setattr(time, "monotonic_ns", repeat(6).__next__)
    salts = {make_salt() for _ in range(1000)}
    assert len(salts) == 1000
    assert {len(salt) for salt in salts} == {32}


def test_salts_differ_in_a_copied_machine_by_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", bytes)
    salts = set()
    for moment in (5, 6):
        monkeypatch.setattr(sealing, "_COUNTER", count())
        monkeypatch.setattr(time, "time_ns", repeat(moment).__next__)
        salts.add(make_salt())
    assert len(salts) == 2


def test_the_random_generator_is_what_makes_a_salt_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def urandom(size: int) -> bytes:
        asked.append(size)
        return hashlib.sha256(bytes([len(asked)])).digest()[:size]

    monkeypatch.setattr(os, "urandom", urandom)
    assert len(make_id()) == 16
    assert asked == [32]
