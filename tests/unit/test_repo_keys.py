"""Key slots: made again here from the format page, section 7, and spoiled in every way."""

import hashlib
import hmac
import json
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
import zstandard
from argon2.exceptions import HashingError
from argon2.low_level import hash_secret_raw
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from stillframe.errors import DamagedError, MachineRefusal, StorageError, UsageError, WrongKey
from stillframe.repo import keys as keys_module
from stillframe.repo.format import Footer
from stillframe.repo.identity import FORMAT, NAMES, FoundIdentity, Identity, build_identity, read_identity
from stillframe.repo.keys import Cost, KeyRing, passphrase_key
from stillframe.repo.recovery_key import format_recovery_key
from stillframe.store import MemoryStore
from stillframe.testing.sample_repository import CHEAP, flipped, replace_object

MASTER, SECRET = bytes(range(64, 96)), bytes(range(20))
RECOVERY = format_recovery_key(SECRET)
CREATED = "2026-03-01T08:30:00Z"
IDENTITY = Identity(format=FORMAT, id="ab" * 16, created=CREATED, chunk_size=65_536, encryption="aes256")
REPOSITORY = IDENTITY.repository_id
SLOT = bytes(range(16, 32))
SALT = bytes(range(32, 64))


def hkdf(secret: bytes, salt: bytes, word: str) -> bytes:
    """One round of RFC 5869 with SHA-256, with the page's info."""
    info = b"stillframe/v1/" + word.encode() + REPOSITORY
    return hmac.digest(hmac.digest(salt, secret, "sha256"), info + b"\x01", "sha256")


def argon(passphrase: str, cost: Cost) -> bytes:
    """Argon2id by another library than the product's."""
    text = unicodedata.normalize("NFKC", passphrase).encode()
    return Argon2id(
        salt=SALT, length=32, iterations=cost.time_cost, lanes=cost.lanes, memory_cost=cost.memory_kib
    ).derive(text)


def slot_by_the_page(
    kek: bytes, body: dict[str, Any], *, master: str = MASTER.hex(), identity: str = "", commit: bytes | None = None
) -> bytes:
    """A key slot from the page alone: header, body, sealed trailer, footer."""
    commitment = hkdf(kek if commit is None else commit, SALT, "commitment").hex()
    text = json.dumps({"label": "x", "created": CREATED, "commitment": commitment, **body}).encode()
    header = b"STILLFRM" + bytes([1, 0, 7, 1, 0, 0, 0, 0]) + REPOSITORY + SLOT + SALT
    hidden = json.dumps({"master": master, "identity": identity or identity_digest()}).encode()
    offset = 80 + len(text)
    additional = header[:48] + offset.to_bytes(8, "little") + hashlib.sha256(text).digest()
    payload = bytes(4) + len(hidden).to_bytes(4, "little") + hidden
    trailer = AESGCM(hkdf(kek, SALT, "slot")).encrypt(offset.to_bytes(12, "big"), payload, additional)
    return with_footer(header + text, trailer)


def with_footer(head: bytes, trailer: bytes) -> bytes:
    """What anybody can do: the digest needs no key."""
    return head + trailer + Footer.over(head, trailer, trailer_offset=len(head), trailer_size=len(trailer)).build()


def identity_digest() -> str:
    return hashlib.sha256(build_identity(IDENTITY)).hexdigest()


def passphrase_body(cost: Cost = CHEAP) -> dict[str, Any]:
    return {"kind": "passphrase", "time_cost": cost.time_cost, "memory_kib": cost.memory_kib, "lanes": cost.lanes}


def make_ring(store: MemoryStore | None = None) -> KeyRing:
    store = store or MemoryStore()
    for name in NAMES:
        replace_object(store, name, build_identity(IDENTITY))
    return KeyRing(store, read_identity(store, where="here"))


def ring_with(first: bytes | None, second: bytes | None) -> KeyRing:
    store = MemoryStore()
    for copy, raw in (("a", first), ("b", second)):
        if raw is not None:
            replace_object(store, f"keys/{SLOT.hex()}.{copy}", raw)
    return make_ring(store)


def names(ring: KeyRing) -> list[str]:
    return sorted(stored.name for stored in ring._store.list("keys/"))


@pytest.mark.parametrize("cost", [CHEAP, Cost(time_cost=2, memory_kib=16_384, lanes=4)])
def test_argon2_of_another_library_gives_the_same_key(cost: Cost) -> None:
    assert passphrase_key("Grüße", salt=SALT, cost=cost) == argon("Grüße", cost)


def test_slots_made_from_the_page_open() -> None:
    raw = slot_by_the_page(argon("secret", CHEAP), passphrase_body())
    assert ring_with(raw, raw).unlock("secret") == (MASTER, SLOT)
    raw = slot_by_the_page(hkdf(SECRET, SALT, "recovery"), {"kind": "recovery"})
    assert ring_with(raw, None).unlock(RECOVERY) == (MASTER, SLOT)


def test_a_slot_is_written_as_the_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "make_salt", lambda: SALT)
    monkeypatch.setattr(keys_module, "make_id", lambda: SLOT)
    ring = make_ring()
    ring.add_passphrase(MASTER, "secret", label="x", created=CREATED, cost=CHEAP)
    first, second = (ring._store.read(f"keys/{SLOT.hex()}.{copy}") for copy in "ab")
    assert first == second
    offset = int.from_bytes(first[-64:-56], "little")
    kek, text = argon("secret", CHEAP), first[80:offset]
    body = json.loads(text)
    assert body == {
        **passphrase_body(), "label": "x", "created": CREATED, "commitment": hkdf(kek, SALT, "commitment").hex()
    }  # fmt: skip
    additional = first[:48] + offset.to_bytes(8, "little") + hashlib.sha256(text).digest()
    plain = AESGCM(hkdf(kek, SALT, "slot")).decrypt(offset.to_bytes(12, "big"), first[offset:-64], additional)
    hidden = zstandard.ZstdDecompressor().decompress(plain[8:]) if plain[0] else plain[8:]
    assert json.loads(hidden) == {"master": MASTER.hex(), "identity": identity_digest()}


def test_every_secret_added_opens_the_same_master_key() -> None:
    ring = make_ring()
    first = ring.add_passphrase(MASTER, "one", label="1", created=CREATED, cost=CHEAP)
    second = ring.add_passphrase(MASTER, "two", label="2", created="2026-03-02T08:30:00Z", cost=CHEAP)
    third = ring.add_recovery(MASTER, RECOVERY, created="2026-03-03T08:30:00Z")
    assert ring.unlock("one") == (MASTER, first)
    assert ring.unlock("two") == (MASTER, second)
    assert ring.unlock(RECOVERY.lower().replace("1", "l")) == (MASTER, third)
    assert [slot.slot_id for slot in ring.slots()] == [first, second, third]
    assert {slot.copies for slot in ring.slots()} == {("a", "b")}


def test_salts_of_slots_differ() -> None:
    ring = make_ring()
    for _ in range(3):
        ring.add_recovery(MASTER, RECOVERY, created=CREATED)
    salts = {ring._store.read(name)[48:80] for name in names(ring)}
    assert len(salts) == 3


COMPOSED, DECOMPOSED = "Gr\u00fc\u00dfe \ufb01", "Gru\u0308\u00dfe fi"


def test_passphrases_are_compared_in_nfkc() -> None:
    assert COMPOSED != DECOMPOSED
    ring = make_ring()
    ring.add_passphrase(MASTER, COMPOSED, label="", created=CREATED, cost=CHEAP)
    assert ring.unlock(DECOMPOSED)[0] == MASTER
    with pytest.raises(WrongKey):
        ring.unlock(COMPOSED.lower())


@pytest.mark.parametrize("secret", ["wrong", "", "Secret", "secret ", RECOVERY])
def test_a_wrong_secret_is_a_wrong_key(secret: str) -> None:
    raw = slot_by_the_page(argon("secret", CHEAP), passphrase_body())
    with pytest.raises(WrongKey, match="recovery key" if secret == RECOVERY else "passphrase"):
        ring_with(raw, raw).unlock(secret)


def test_a_slip_in_a_recovery_key_is_told() -> None:
    ring = make_ring()
    ring.add_recovery(MASTER, RECOVERY, created=CREATED)
    with pytest.raises(WrongKey, match="not copied right"):
        ring.unlock(RECOVERY[:-1] + ("0" if RECOVERY[-1] != "0" else "2"))


def test_the_other_copy_opens_whatever_bit_is_flipped_and_both_flipped_is_damage() -> None:
    raw = slot_by_the_page(hkdf(SECRET, SALT, "recovery"), {"kind": "recovery"})
    for position in range(len(raw)):
        bad = flipped(raw, position, position % 8)
        assert ring_with(bad, raw).unlock(RECOVERY) == (MASTER, SLOT)
        assert ring_with(raw, bad).unlock(RECOVERY) == (MASTER, SLOT)
        with pytest.raises(DamagedError, match=SLOT.hex()):
            ring_with(bad, bad).unlock(RECOVERY)
        assert ring_with(bad, raw).slots()[0].copies == ("b",)


def test_the_other_copy_opens_at_whatever_length_one_is_cut() -> None:
    raw = slot_by_the_page(hkdf(SECRET, SALT, "recovery"), {"kind": "recovery"})
    for size in range(len(raw)):
        assert ring_with(raw[:size], raw).unlock(RECOVERY) == (MASTER, SLOT)
        with pytest.raises(DamagedError):
            ring_with(raw[:size], None).unlock(RECOVERY)


def test_the_other_copy_opens_when_the_storage_cannot_read_one() -> None:
    class BadSector(MemoryStore):
        def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
            if name.endswith(".a"):
                raise StorageError("the disk cannot read that")
            return super().read(name, offset, length)

    store = BadSector()
    raw = slot_by_the_page(argon("secret", CHEAP), passphrase_body())
    for copy in "ab":
        replace_object(store, f"keys/{SLOT.hex()}.{copy}", raw)
    assert make_ring(store).unlock("secret") == (MASTER, SLOT)


def test_a_repository_without_slots_is_damaged() -> None:
    with pytest.raises(DamagedError, match="no key slots"):
        make_ring().unlock("secret")


def test_a_wrong_passphrase_beside_a_damaged_slot_says_both() -> None:
    ring = make_ring()
    ring.add_passphrase(MASTER, "one", label="", created=CREATED, cost=CHEAP)
    replace_object(ring._store, f"keys/{SLOT.hex()}.a", b"torn")
    with pytest.raises(WrongKey, match=r"a key slot is damaged too: .*" + SLOT.hex()):
        ring.unlock("two")
    assert ring.unlock("one")[0] == MASTER


SPOILED: dict[str, Callable[[bytes, dict[str, Any]], bytes]] = {
    "trailer of another key": lambda kek, body: slot_by_the_page(bytes(32), body, commit=kek),
    "master key too short": lambda kek, body: slot_by_the_page(kek, body, master="ab"),
    "identity is no digest": lambda kek, body: slot_by_the_page(kek, body, identity="x"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_the_right_passphrase_of_a_spoiled_slot_is_damage_not_a_wrong_key(name: str) -> None:
    raw = SPOILED[name](argon("secret", CHEAP), passphrase_body())
    with pytest.raises(DamagedError):
        ring_with(raw, raw).unlock("secret")
    with pytest.raises(WrongKey):
        ring_with(raw, raw).unlock("another")


def test_an_altered_commitment_opens_for_nobody() -> None:
    """AES-GCM does not commit to its key: the commitment does, and it is bound to the trailer."""
    mine = argon("secret", CHEAP)
    raw = slot_by_the_page(mine, passphrase_body())
    other = hkdf(argon("other", CHEAP), SALT, "commitment").hex().encode()
    offset = int.from_bytes(raw[-64:-56], "little")
    head = raw[:offset].replace(hkdf(mine, SALT, "commitment").hex().encode(), other)
    forged = with_footer(head, raw[offset:-64])
    with pytest.raises(WrongKey):
        ring_with(forged, forged).unlock("secret")
    with pytest.raises(DamagedError):
        ring_with(forged, forged).unlock("other")
    assert ring_with(forged, raw).unlock("secret") == (MASTER, SLOT)
    assert ring_with(raw, forged).unlock("secret") == (MASTER, SLOT)


@pytest.mark.parametrize("change", [b'"label": "y"', b'"label": "x" '])
def test_an_altered_body_does_not_open(change: bytes) -> None:
    raw = slot_by_the_page(argon("secret", CHEAP), passphrase_body())
    offset = int.from_bytes(raw[-64:-56], "little")
    head = raw[:offset].replace(b'"label": "x"', change)
    assert head != raw[:offset]
    with pytest.raises(DamagedError):
        ring_with(with_footer(head, raw[offset:-64]), None).unlock("secret")


def test_a_changed_identity_is_refused_with_the_right_passphrase() -> None:
    ring = make_ring()
    ring.add_passphrase(MASTER, "secret", label="", created=CREATED, cost=CHEAP)
    for change in ({"chunk_size": 131_072}, {"created": "2026-03-02T08:30:00Z"}):
        other = Identity(**{**{name: getattr(IDENTITY, name) for name in Identity.__slots__}, **change})
        digest = hashlib.sha256(build_identity(other)).digest()
        with pytest.raises(DamagedError, match="identity file"):
            KeyRing(ring._store, FoundIdentity(identity=other, digest=digest, copies=NAMES)).unlock("secret")


COSTS: list[tuple[dict[str, Any], bool]] = [
    ({"time_cost": 64}, True),
    ({"time_cost": 65}, False),
    ({"time_cost": 0}, False),
    ({"memory_kib": 4_194_304}, True),
    ({"memory_kib": 4_194_305}, False),
    ({"memory_kib": 8191}, False),
    ({"lanes": 64}, True),
    ({"lanes": 65}, False),
    ({"lanes": 0}, False),
    ({"label": "é" * 200}, True),
    ({"label": "é" * 201}, False),
    ({"kind": "fingerprint"}, False),
    ({"commitment": "ab"}, False),
    ({"created": "today"}, False),
    ({"later": "x" * 3500}, True),
    ({"later": "x" * 4096}, False),
]


@pytest.mark.parametrize(("change", "readable"), COSTS, ids=[str(change)[:40] for change, _ in COSTS])
def test_limits_of_a_body(change: dict[str, Any], readable: bool) -> None:
    raw = slot_by_the_page(bytes(32), {**passphrase_body(), **change})
    assert bool(ring_with(raw, raw).slots()) == readable


def test_the_longest_body() -> None:
    short = slot_by_the_page(bytes(32), {**passphrase_body(), "later": ""})
    spare = 4096 - (int.from_bytes(short[-64:-56], "little") - 80)
    for extra, readable in ((spare, True), (spare + 1, False)):
        raw = slot_by_the_page(bytes(32), {**passphrase_body(), "later": "x" * extra})
        assert bool(ring_with(raw, raw).slots()) == readable


@pytest.mark.parametrize(
    ("label", "cost"), [("x" * 201, CHEAP), ("", Cost(time_cost=1, memory_kib=8191, lanes=1)), ("", Cost(lanes=65))]
)
def test_a_slot_outside_the_limits_is_not_written(label: str, cost: Cost) -> None:
    ring = make_ring()
    with pytest.raises(UsageError):
        ring.add_passphrase(MASTER, "secret", label=label, created=CREATED, cost=cost)
    assert names(ring) == []


@pytest.mark.parametrize("secret", ["", RECOVERY, "bytes \udcff of no text"])
def test_what_cannot_be_a_passphrase_is_refused(secret: str) -> None:
    ring = make_ring()
    with pytest.raises(UsageError):
        ring.add_passphrase(MASTER, secret, label="", created=CREATED, cost=CHEAP)
    assert names(ring) == []


def test_memory_this_machine_has_not_is_its_refusal_and_other_slots_still_open(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = make_ring()
    ring.add_passphrase(MASTER, "secret", label="", created=CREATED, cost=CHEAP)

    def too_much(*_: object) -> bytes:
        raise HashingError("Memory allocation error")

    with monkeypatch.context() as patch:
        patch.setattr(keys_module, "hash_secret_raw", too_much)
        with pytest.raises(MachineRefusal, match="8192 KiB"):
            ring.unlock("secret")
    greedy = slot_by_the_page(bytes(32), passphrase_body(Cost(time_cost=1, memory_kib=4_194_304, lanes=1)))
    replace_object(ring._store, f"keys/{SLOT.hex()}.a", greedy)

    def refuse_greed(text: bytes, salt: bytes, time_cost: int, memory: int, *rest: Any) -> bytes:
        return too_much() if memory > 8192 else hash_secret_raw(text, salt, time_cost, memory, *rest)

    monkeypatch.setattr(keys_module, "hash_secret_raw", refuse_greed)
    assert ring.unlock("secret")[0] == MASTER


def test_the_last_slot_is_never_removed() -> None:
    ring = make_ring()
    first = ring.add_passphrase(MASTER, "one", label="", created=CREATED, cost=CHEAP)
    with pytest.raises(UsageError, match="last key"):
        ring.remove(first)
    second = ring.add_recovery(MASTER, RECOVERY, created=CREATED)
    with pytest.raises(UsageError, match="no key slot"):
        ring.remove(bytes(16))
    ring.remove(first)
    assert names(ring) == [f"keys/{second.hex()}.{copy}" for copy in "ab"]
    with pytest.raises(UsageError, match="last key"):
        ring.remove(second)
    with pytest.raises(WrongKey):
        ring.unlock("one")
    assert ring.unlock(RECOVERY)[0] == MASTER


@pytest.mark.parametrize("copy", ["a", "b"])
def test_a_slot_with_one_copy_left_does_not_count_as_another(copy: str) -> None:
    ring = make_ring()
    first = ring.add_recovery(MASTER, RECOVERY, created=CREATED)
    second = ring.add_recovery(MASTER, RECOVERY, created=CREATED)
    replace_object(ring._store, f"keys/{second.hex()}.{copy}", b"torn")
    with pytest.raises(UsageError, match="last key"):
        ring.remove(first)
    ring.remove(second)
    assert ring.unlock(RECOVERY) == (MASTER, first)


def test_other_files_among_the_keys_are_left_alone() -> None:
    ring = make_ring()
    slot = ring.add_recovery(MASTER, RECOVERY, created=CREATED)
    for name in ("keys/readme", f"keys/{slot.hex()}.c", "keys/" + "zz" * 16 + ".a"):
        replace_object(ring._store, name, b"x")
    assert [found.slot_id for found in ring.slots()] == [slot]
    assert ring.unlock(RECOVERY) == (MASTER, slot)
