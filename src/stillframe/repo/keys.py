"""Key slots: the master key, sealed under a passphrase or the recovery key.

Answers: "does this secret open the repository?", "add a secret", "take one away". Normative:
``docs/format/v1.md``, section 7. A slot is written new, in two copies, read back and tried before another goes;
the last one that opens never goes.
"""

import hashlib
import hmac
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec
from argon2.exceptions import HashingError
from argon2.low_level import Type, hash_secret_raw
from msgspec import Meta

from stillframe.errors import DamagedError, MachineRefusal, StillframeError, UsageError, WrongKey
from stillframe.repo.format import (
    BODY_SIZE_MAX,
    FOOTER_SIZE,
    HEADER_SIZE,
    Expected,
    Footer,
    Header,
    ObjectType,
    build_payload,
    object_name,
    parse_footer,
    parse_header,
    parse_object_name,
    parse_payload,
)
from stillframe.repo.identity import FoundIdentity
from stillframe.repo.objects import read_whole
from stillframe.repo.records import JSON_ERRORS, Hex32, Time, Word
from stillframe.repo.recovery_key import looks_like_recovery_key, parse_recovery_key
from stillframe.repo.sealing import Seal, derive_key, make_id, make_salt
from stillframe.store import Store, write_object

COPIES: Final = ("a", "b")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotBody:
    """What a slot says openly: how its secret becomes a key."""

    kind: Literal["passphrase", "recovery"]
    label: Word = ""
    created: Time
    commitment: Hex32
    time_cost: Annotated[int, Meta(ge=1, le=64)] = 3
    memory_kib: Annotated[int, Meta(ge=8192, le=4_194_304)] = 65_536
    lanes: Annotated[int, Meta(ge=1, le=64)] = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotSecret:
    """What a slot hides."""

    master: Hex32
    identity: Hex32


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """How hard it is to guess a passphrase: passes over memory, memory, lanes."""

    time_cost: int = 3
    memory_kib: int = 65_536
    lanes: int = 4


DEFAULT_COST: Final = Cost()


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSlot:
    """A key slot whose open part could be read."""

    slot_id: bytes
    body: SlotBody
    copies: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _RawSlot:
    header: Header
    body: SlotBody
    body_digest: bytes
    trailer: bytes
    trailer_offset: int


class KeyRing:
    """The key slots of one repository."""

    def __init__(self, store: Store, found: FoundIdentity) -> None:
        self._store = store
        self._identity = found

    def slots(self) -> tuple[FoundSlot, ...]:
        """All slots with at least one readable copy, oldest first."""
        copies: dict[bytes, list[str]] = {}
        bodies: dict[bytes, SlotBody] = {}
        for slot_id, copy in self._names():
            try:
                bodies[slot_id] = self._read(slot_id, copy).body
            except StillframeError:
                copies.setdefault(slot_id, [])
            else:
                copies.setdefault(slot_id, []).append(copy)
        found = [FoundSlot(slot_id=key, body=bodies[key], copies=tuple(sorted(copies[key]))) for key in bodies]
        return tuple(sorted(found, key=lambda slot: (slot.body.created, slot.slot_id)))

    def unlock(self, secret: str) -> tuple[bytes, bytes]:
        """Open the repository with a passphrase or a recovery key.

        Returns:
            The master key, and the id of the slot that opened.

        Raises:
            WrongKey: No slot was made with this secret.
            DamagedError: A slot was made with this secret, and no copy of it can be opened; or there are no slots.
            MachineRefusal: A slot asks for more memory than this machine has, and no other slot opens.
        """
        seen = False
        unread: StillframeError | None = None
        spoiled: StillframeError | None = None
        refused: set[tuple[bytes, SlotBody]] = set()
        recovery = looks_like_recovery_key(secret)
        for slot_id, copy in self._names():
            try:
                slot = self._read(slot_id, copy)
            except StillframeError as error:
                unread = error
                continue
            seen = True
            tried = (slot.header.salt, slot.body)
            if (slot.body.kind == "recovery") == recovery and tried not in refused:
                try:
                    master = self._open(slot, secret)
                except (DamagedError, MachineRefusal) as error:
                    spoiled = error
                    continue
                if master is not None:
                    return master, slot_id
                refused.add(tried)
        if spoiled is not None:
            raise spoiled
        self._require_slots(seen, unread)
        word = "recovery key" if recovery else "passphrase"
        extra = f" (a key slot is damaged too: {unread})" if unread else ""
        raise WrongKey(f"no key slot opens with this {word}{extra}", hint="Try again, or use the printed recovery key.")

    @staticmethod
    def _require_slots(seen: bool, unread: StillframeError | None) -> None:
        if unread is not None and not seen:
            raise unread
        if not seen:
            raise DamagedError(
                "the repository has no key slots",
                hint="Copy the folder 'keys' back from another copy of the repository.",
            )

    def add_passphrase(self, master: bytes, passphrase: str, *, label: str, created: str, cost: Cost) -> bytes:
        """Add a passphrase; returns the id of its slot, which has been read back and tried."""
        if not passphrase:
            raise UsageError("an empty passphrase protects nothing", hint="Choose several words.")
        if looks_like_recovery_key(passphrase):
            raise UsageError("a recovery key cannot be a passphrase", hint="Choose several words.")
        salt = make_salt()
        kek = passphrase_key(passphrase, salt=salt, cost=cost)
        body = SlotBody(
            kind="passphrase", label=label, created=created, commitment=self._commitment(kek, salt),
            time_cost=cost.time_cost, memory_kib=cost.memory_kib, lanes=cost.lanes,
        )  # fmt: skip
        return self._add(master, passphrase, body, salt, kek)

    def add_recovery(self, master: bytes, text: str, *, created: str) -> bytes:
        """Add a recovery key, given as its printed text."""
        salt = make_salt()
        kek = self._recovery_kek(parse_recovery_key(text), salt)
        body = SlotBody(kind="recovery", label="recovery kit", created=created, commitment=self._commitment(kek, salt))
        return self._add(master, text, body, salt, kek)

    def remove(self, slot_id: bytes) -> None:
        """Take a slot away.

        Raises:
            UsageError: It is the last one with two readable copies, or there is none of that id.
        """
        slots = self.slots()
        if not any(slot.slot_id == slot_id for slot in slots):
            raise UsageError(f"no key slot {slot_id.hex()}", hint="'stillframe key list' shows them.")
        if not any(slot.slot_id != slot_id and len(slot.copies) == len(COPIES) for slot in slots):
            raise UsageError(
                "this is the last key that opens the repository", hint="Add another with 'stillframe key add' first."
            )
        for copy in COPIES:
            self._store.delete(object_name(ObjectType.KEY_SLOT, slot_id, copy=copy))

    def _add(self, master: bytes, secret: str, body: SlotBody, salt: bytes, kek: bytes) -> bytes:
        try:
            msgspec.json.decode(msgspec.json.encode(body), type=SlotBody)
        except msgspec.ValidationError as error:
            raise UsageError(f"a key slot cannot say that: {error}", hint="Choose a shorter label.") from error
        slot_id = make_id()
        raw = self._build(master, slot_id, body, salt, kek)
        for copy in COPIES:
            write_object(self._store, object_name(ObjectType.KEY_SLOT, slot_id, copy=copy), raw)
        for copy in COPIES:
            if self._open(self._read(slot_id, copy), secret) != master:
                raise DamagedError(f"key slot {slot_id.hex()}.{copy} cannot be read back", hint="Check the disk.")
        return slot_id

    def _build(self, master: bytes, slot_id: bytes, body: SlotBody, salt: bytes, kek: bytes) -> bytes:
        header = Header(
            kind=ObjectType.KEY_SLOT, repository_id=self._identity.identity.repository_id, object_id=slot_id, salt=salt
        )
        open_part = msgspec.json.encode(body)
        hidden = msgspec.json.encode(SlotSecret(master=master.hex(), identity=self._identity.digest.hex()))
        offset = HEADER_SIZE + len(open_part)
        trailer = self._seal(header, kek).close(
            build_payload(hidden), offset=offset, subject=hashlib.sha256(open_part).digest()
        )
        head = header.build()
        footer = Footer.over(head, open_part, trailer, trailer_offset=offset, trailer_size=len(trailer))
        return head + open_part + trailer + footer.build()

    def _read(self, slot_id: bytes, copy: str) -> _RawSlot:
        expected = Expected(
            kind=ObjectType.KEY_SLOT, repository_id=self._identity.identity.repository_id, object_id=slot_id
        )
        thing = f"{expected.thing}.{copy}"
        raw = read_whole(self._store, object_name(ObjectType.KEY_SLOT, slot_id, copy=copy), thing=thing)
        footer = parse_footer(raw[-FOOTER_SIZE:], object_size=len(raw))
        hint = "The other copy or another slot may still open."
        if footer is None or not footer.covers(raw[:-FOOTER_SIZE]):
            raise DamagedError(f"{thing}: its bytes are not those that were written", hint=hint)
        header, open_part = parse_header(raw, expected), raw[HEADER_SIZE : footer.trailer_offset]
        if len(open_part) > BODY_SIZE_MAX:
            raise DamagedError(f"{thing}: its open part is too long", hint=hint)
        try:
            body = msgspec.json.decode(open_part, type=SlotBody)
        except JSON_ERRORS as error:
            raise DamagedError(f"{thing}: {error}", hint=hint) from error
        trailer = raw[footer.trailer_offset : -FOOTER_SIZE]
        digest = hashlib.sha256(open_part).digest()
        return _RawSlot(
            header=header, body=body, body_digest=digest, trailer=trailer, trailer_offset=footer.trailer_offset
        )

    def _open(self, slot: _RawSlot, secret: str) -> bytes | None:
        """The master key; ``None`` when the slot was made with another secret."""
        body, salt = slot.body, slot.header.salt
        if body.kind == "recovery":
            kek = self._recovery_kek(parse_recovery_key(secret), salt)
        else:
            cost = Cost(time_cost=body.time_cost, memory_kib=body.memory_kib, lanes=body.lanes)
            kek = passphrase_key(secret, salt=salt, cost=cost)
        if not hmac.compare_digest(self._commitment(kek, salt), body.commitment):
            return None
        thing = f"key slot {slot.header.object_id.hex()}"
        plain = self._seal(slot.header, kek).open(
            slot.trailer, offset=slot.trailer_offset, subject=slot.body_digest, thing=thing
        )
        try:
            hidden = msgspec.json.decode(parse_payload(plain, thing=thing), type=SlotSecret)
        except JSON_ERRORS as error:
            raise DamagedError(f"{thing}: {error}") from error
        if hidden.identity != self._identity.digest.hex():
            raise DamagedError(
                "the identity file of the repository was changed: it is not the one its key slots were made for",
                hint="Do not write to it. Copy stillframe.json back from another copy of the repository.",
            )
        return bytes.fromhex(hidden.master)

    def _names(self) -> Iterator[tuple[bytes, str]]:
        for stored in sorted(self._store.list(ObjectType.KEY_SLOT.folder)):
            slot_id = parse_object_name(ObjectType.KEY_SLOT, stored.name)
            if slot_id is not None and stored.name[-1] in COPIES:
                yield slot_id, stored.name[-1]

    def _recovery_kek(self, secret: bytes, salt: bytes) -> bytes:
        return derive_key(secret, salt=salt, info=b"stillframe/v1/recovery" + self._repository_id)

    def _commitment(self, kek: bytes, salt: bytes) -> str:
        return derive_key(kek, salt=salt, info=b"stillframe/v1/commitment" + self._repository_id).hex()

    def _seal(self, header: Header, kek: bytes) -> Seal:
        info = b"stillframe/v1/slot" + self._repository_id
        return Seal(header, derive_key(kek, salt=header.salt, info=info))

    @property
    def _repository_id(self) -> bytes:
        return self._identity.identity.repository_id


def passphrase_key(passphrase: str, *, salt: bytes, cost: Cost) -> bytes:
    """The key-encryption key of a passphrase: Argon2id.

    Raises:
        UsageError: The passphrase is not text: a file or a variable holds bytes that are no UTF-8.
        MachineRefusal: This machine cannot spend the memory that the slot asks for.

    Source: RFC 9106.
    """
    try:
        text = unicodedata.normalize("NFKC", passphrase).encode()
        return hash_secret_raw(text, salt, cost.time_cost, cost.memory_kib, cost.lanes, 32, Type.ID, 0x13)
    except UnicodeEncodeError:
        raise UsageError("the passphrase is not text", hint="Write the password file as UTF-8.") from None
    except HashingError as error:
        raise MachineRefusal(
            f"the key slot asks for {cost.memory_kib} KiB of memory and {cost.lanes} lanes: {error}",
            hint="Open the repository with the recovery key, or on a machine with more memory.",
        ) from error
