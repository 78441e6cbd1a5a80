"""The identity file: two copies, limits, and what is refused."""

import hashlib
import json
from typing import Any

import pytest

from stillframe.errors import DamagedError, RepositoryNotFound, UnsupportedFormat
from stillframe.repo.identity import FORMAT, NAMES, Identity, build_identity, read_identity, write_identity
from stillframe.store import MemoryStore
from stillframe.testing.sample_repository import flipped, replace_object

FIRST, SECOND = NAMES
FIELDS = {
    "magic": "stillframe-repository",
    "format": "v1",
    "id": "ab" * 16,
    "created": "2026-03-01T08:30:00Z",
    "chunk_size": 262_144,
    "encryption": "aes256",
    "features": [],
}


def identity_bytes(**changes: Any) -> bytes:
    return json.dumps({**FIELDS, **changes}).encode()


def store_with(first: bytes | None, second: bytes | None) -> MemoryStore:
    store = MemoryStore()
    for name, raw in ((FIRST, first), (SECOND, second)):
        if raw is not None:
            replace_object(store, name, raw)
    return store


def refuse(store: MemoryStore) -> None:
    with pytest.raises(DamagedError, match="at the place"):
        read_identity(store, where="the place")


def test_names_are_those_of_the_page() -> None:
    assert NAMES == ("stillframe.json", "stillframe-copy.json")
    assert FORMAT == "v1"


def test_both_copies_are_equal_json_and_the_first_name_is_written_last() -> None:
    store = MemoryStore()
    identity = Identity(
        format=FORMAT, id="ab" * 16, created="2026-03-01T08:30:00Z", chunk_size=262_144, encryption="aes256"
    )
    write_identity(store, identity)
    assert [done.name for done in store.operations if done.verb == "commit"] == [SECOND, FIRST]
    raw = store.read(FIRST)
    assert raw == store.read(SECOND) == build_identity(identity)
    assert json.loads(raw) == FIELDS
    found = read_identity(store, where="here")
    assert (found.identity, found.digest, found.copies) == (identity, hashlib.sha256(raw).digest(), NAMES)
    assert found.identity.repository_id == bytes.fromhex("ab" * 16)


def test_an_empty_folder_is_no_repository() -> None:
    with pytest.raises(RepositoryNotFound, match="at the place"):
        read_identity(store_with(None, None), where="the place")


@pytest.mark.parametrize("bad", [None, b"", b"{}", b"\xff", b"[" * 10_000, identity_bytes()[:-1], b'{"id": "\xff"}'])
def test_one_good_copy_is_enough(bad: bytes | None) -> None:
    good = identity_bytes()
    for name, store in ((SECOND, store_with(bad, good)), (FIRST, store_with(good, bad))):
        found = read_identity(store, where="here")
        assert found.copies == (name,)
        assert found.digest == hashlib.sha256(good).digest()


@pytest.mark.parametrize("other", [{"id": "ac" * 16}, {"chunk_size": 65_536}, {"encryption": "none"}])
def test_two_good_copies_that_differ_are_damage(other: dict[str, Any]) -> None:
    refuse(store_with(identity_bytes(), identity_bytes(**other)))


def test_two_damaged_copies_are_damage() -> None:
    refuse(store_with(b"", b"{}"))
    refuse(store_with(b"\xff" * 10, None))


BROKEN: dict[str, dict[str, Any]] = {
    "magic": {"magic": "another program"},
    "no id": {"id": ""},
    "id too long": {"id": "ab" * 17},
    "id with upper case": {"id": "AB" * 16},
    "id with a line end": {"id": "ab" * 16 + "\n"},
    "created": {"created": "yesterday"},
    "created in other digits": {"created": "٢٠٢٦-03-01T08:30:00Z"},
    "encryption": {"encryption": "rot13"},
    "chunk size below": {"chunk_size": 32_768},
    "chunk size above": {"chunk_size": 8_388_608},
    "chunk size between": {"chunk_size": 65_537},
    "chunk size no number": {"chunk_size": "65536"},
    "65 features": {"features": ["x"] * 65},
    "features": {"features": "x"},
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_field_outside_its_limits_is_damage(name: str) -> None:
    refuse(store_with(identity_bytes(**BROKEN[name]), None))


@pytest.mark.parametrize("field", ["format", "id", "created", "chunk_size", "encryption"])
def test_a_missing_field_is_damage(field: str) -> None:
    refuse(store_with(json.dumps({key: value for key, value in FIELDS.items() if key != field}).encode(), None))


@pytest.mark.parametrize("power", range(16, 23))
def test_every_chunk_size_of_the_page_is_read(power: int) -> None:
    found = read_identity(store_with(identity_bytes(chunk_size=1 << power), None), where="here")
    assert found.identity.chunk_size == 1 << power


def test_unknown_fields_are_ignored() -> None:
    assert read_identity(store_with(identity_bytes(later="x"), None), where="here").copies == (FIRST,)


@pytest.mark.parametrize("change", [{"format": "v2"}, {"features": ["parity"]}, {"features": ["x"] * 64}])
def test_what_this_program_does_not_know_is_unsupported(change: dict[str, Any]) -> None:
    raw = identity_bytes(**change)
    with pytest.raises(UnsupportedFormat, match="this program knows v1"):
        read_identity(store_with(raw, raw), where="here")


def test_the_longest_file_is_read_and_a_longer_one_is_not() -> None:
    raw = identity_bytes()
    most = raw + b" " * (65_536 - len(raw))
    assert read_identity(store_with(most, None), where="here").digest == hashlib.sha256(most).digest()
    store = store_with(most + b" ", None)
    refuse(store)
    assert not [done for done in store.operations if done.verb == "read"]


def test_a_flipped_bit_never_gives_two_readings() -> None:
    raw = identity_bytes()
    want = read_identity(store_with(raw, None), where="here").identity
    for position in range(len(raw)):
        for bit in range(8):
            store = store_with(flipped(raw, position, bit), raw)
            try:
                assert read_identity(store, where="here").identity == want
            except DamagedError:
                continue
