"""Small sealed objects in a store: manifests, sessions, tombstones, proofs, index runs.

Answers: "write this payload as a new object", "what does the object of this id say?" Packs and key slots have bodies of
their own and live in ``packs`` and ``keys``; they share the trailer with what is here.
"""

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from stillframe.errors import DamagedError, RepositoryError, StorageError
from stillframe.events import EventSink, NoEvents, Notice
from stillframe.repo.format import (
    CHECK_HINT,
    CIPHER_PUT,
    FOOTER_SIZE,
    HEADER_SIZE,
    OBJECT_SIZE_MAX,
    Expected,
    Footer,
    Header,
    ObjectType,
    build_payload,
    is_cut_off,
    object_name,
    parse_footer,
    parse_header,
    parse_object_name,
    parse_payload,
)
from stillframe.repo.parity.healing import Healer
from stillframe.repo.put.credential import machine_of
from stillframe.repo.put.rules import require_own_words
from stillframe.repo.put.sealing import PutOpener, warning_seal
from stillframe.repo.sealing import Seal, make_id, make_salt, object_seal
from stillframe.store import ObjectMissing, Store, write_object

_Result = TypeVar("_Result")

REPLACED: Final = frozenset(
    {
        ObjectType.IMAGE, ObjectType.TOMBSTONE, ObjectType.SESSION_END, ObjectType.RETIREMENT, ObjectType.PROOF,
        ObjectType.KEPT_TABLE, ObjectType.SETTING, ObjectType.GRANT, ObjectType.REVOCATION,
    }
)  # fmt: skip
"""Objects that are written again under their own names when they were brought back: others know them by it."""
COVERED: Final = REPLACED | {ObjectType.PACK, ObjectType.INDEX}
"""Objects that may have parity. Key slots and the identity have two copies each; no image needs the others."""
SPARES: Final = "healed/"
"""Where an object rests while the damaged one under its own name is replaced."""


class ObjectSource(Protocol):
    """Where the bytes of objects come from: a store, or an object as its parity says it was."""

    def size(self, name: str) -> int:
        """Bytes of an object."""
        ...

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes of an object: all of them, or exactly ``length`` from ``offset``."""
        ...


class TornObject(DamagedError):
    """The object has no valid footer: its writing was cut off. Garbage, and by itself no loss."""

    code = "torn-object"


def without_footer(expected: Expected, tail: bytes, *, object_size: int) -> DamagedError:
    """The error for an object whose last bytes are no valid footer: cut off, or damaged there."""
    if is_cut_off(tail, object_size=object_size):
        return TornObject(f"{expected.thing}: has no valid end; its writing was cut off", hint=CHECK_HINT)
    return DamagedError(f"{expected.thing}: its end is not what was written", hint=CHECK_HINT)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedObject:
    """An object's payload and the digest by which others refer to it."""

    object_id: bytes
    payload: bytes
    digest: bytes


def read_whole(store: ObjectSource, name: str, *, thing: str) -> bytes:
    """The bytes of an object that is no pack; one larger than the format allows is not read.

    Raises:
        ObjectMissing: There is none of that name.
        DamagedError: It is too large.
    """
    size = store.size(name)
    if size > OBJECT_SIZE_MAX:
        raise DamagedError(f"{thing}: {size} bytes are more than the format allows", hint=CHECK_HINT)
    return store.read(name)


class ObjectBox:
    """Reads and writes sealed objects of one repository.

    Attributes:
        events: Gets a notice when an object could be used only with the help of its parity.
        on_written: Called with each object that was written here or by a ``PackWriter``, once it is durable.
        healer: Finds the parity of damaged objects.
    """

    def __init__(self, store: Store, repository_id: bytes, master_key: bytes) -> None:
        self.store = store
        self.repository_id = repository_id
        self._master_key = master_key
        self._opener: Final = PutOpener(master_key, repository_id)
        self.healer: Final = Healer(store, repository_id)
        self.events: EventSink = NoEvents()
        self.on_written: Callable[[ObjectType, bytes], None] = lambda _kind, _id: None
        self._told: Final = set[bytes]()
        self._process: Final = os.getpid()
        self._lock: Final = threading.Lock()

    @property
    def master_key(self) -> bytes:
        """The master key; a put key has none."""
        return self._master_key

    def make_id(self) -> bytes:
        """An id for a new object."""
        return make_id()

    def new_header(self, kind: ObjectType, object_id: bytes) -> Header:
        """The header of a new object, with a fresh salt."""
        return Header(kind=kind, repository_id=self.repository_id, object_id=object_id, salt=make_salt())

    def seal(self, header: Header) -> Seal:
        """The seal for an object with this header."""
        if header.cipher == CIPHER_PUT:
            return self._opener.seal(header)
        if header.kind is ObjectType.WARNING:
            return warning_seal(header, self._opener.secret_of(machine_of(header.object_id)))
        return object_seal(header, self.master_key)

    def write(self, kind: ObjectType, object_id: bytes, data: bytes) -> bytes:
        """Write a new object whose payload is ``data``; returns its digest. Durable on return."""
        header = self.new_header(kind, object_id)
        head, trailer = header.build(), self.seal(header).close(build_payload(data), offset=HEADER_SIZE)
        footer = Footer.over(head, trailer, trailer_offset=HEADER_SIZE, trailer_size=len(trailer))
        write_object(self.store, object_name(kind, object_id), head + trailer + footer.build())
        self.on_written(kind, object_id)
        return footer.digest

    def read(self, kind: ObjectType, object_id: bytes, *, heal: bool = True) -> OpenedObject:
        """Read an object.

        Args:
            kind: Its type.
            object_id: Its id.
            heal: Whether a damaged one may be read with the help of its parity.

        Raises:
            ObjectMissing: There is none of that id.
            TornObject: Its writing was cut off.
            DamagedError, UnsupportedFormat: It is not what was written.
        """
        expected = self.expected(kind, object_id)
        name = object_name(kind, object_id)

        def attempt(source: ObjectSource) -> OpenedObject:
            return self.parse(read_whole(source, name, thing=expected.thing), expected)

        try:
            return self.with_parity(kind, object_id, attempt) if heal else attempt(self.store)
        except ObjectMissing:
            if kind not in REPLACED:
                raise
            return self.parse(read_whole(self.store, SPARES + name, thing=expected.thing), expected)

    def parse(self, raw: bytes, expected: Expected) -> OpenedObject:
        """Open the bytes of an object that is no pack. Raises as ``read``."""
        footer = parse_footer(raw[-FOOTER_SIZE:], object_size=len(raw))
        if footer is None:
            raise without_footer(expected, raw[-FOOTER_SIZE:], object_size=len(raw))
        if footer.trailer_offset != HEADER_SIZE or not footer.covers(raw[:-FOOTER_SIZE]):
            raise DamagedError(f"{expected.thing}: its bytes are not those that were written", hint=CHECK_HINT)
        header = parse_header(raw, expected)
        trailer = raw[footer.trailer_offset : -FOOTER_SIZE]
        plain = self.seal(header).open(trailer, offset=footer.trailer_offset, thing=expected.thing)
        payload = parse_payload(plain, thing=expected.thing)
        if header.cipher == CIPHER_PUT:
            require_own_words(expected, payload)
        return OpenedObject(object_id=expected.object_id, payload=payload, digest=footer.digest)

    def with_parity(self, kind: ObjectType, object_id: bytes, attempt: Callable[[ObjectSource], _Result]) -> _Result:
        """Do something with an object as it is stored; where that fails, with what its parity says it was.

        Raises:
            StillframeError: As ``attempt`` does with what is stored. A torn object that has parity is damaged: it was
                complete once. One that is missing stays so.
        """
        try:
            return attempt(self.store)
        except ObjectMissing:
            raise
        except (RepositoryError, StorageError) as error:
            healed = self.healer.open(kind, object_id)
            if healed is None:
                raise
            try:
                result = attempt(healed)
            except (RepositoryError, StorageError):
                if isinstance(error, TornObject):
                    raise DamagedError(
                        f"{object_name(kind, object_id)}: its end is gone, and its parity cannot bring it back",
                        hint=CHECK_HINT,
                    ) from error
                raise error from None
        self.healer.note_use(kind, object_id, healed)
        if self._process == os.getpid():  # a process that was forked has nobody to tell
            self.tell_uses()
        return result

    def tell_uses(self) -> None:
        """Tell of each object that needed its parity, once; also of those that a forked process met."""
        for use in self.healer.uses.all():
            with self._lock:
                is_new = use.object_id not in self._told
                self._told.add(use.object_id)
            if is_new:
                self.events.emit(_healed(object_name(use.kind, use.object_id), use.blocks))

    def expected(self, kind: ObjectType, object_id: bytes) -> Expected:
        """What an object of this repository must say of itself."""
        return Expected(kind=kind, repository_id=self.repository_id, object_id=object_id)

    def ids(self, kind: ObjectType) -> Iterator[bytes]:
        """The ids of all objects of a type, torn ones included."""
        seen = set[bytes]()
        for folder in (kind.folder, SPARES + kind.folder) if kind in REPLACED else (kind.folder,):
            for stored in self.store.list(folder):
                object_id = parse_object_name(kind, stored.name.removeprefix(SPARES))
                if object_id is not None and object_id not in seen:
                    seen.add(object_id)
                    yield object_id

    def delete(self, kind: ObjectType, object_id: bytes) -> None:
        """Delete an object, then what belongs to it alone; one that is gone already is no error."""
        name = object_name(kind, object_id)
        self.store.delete(name)
        if kind in REPLACED:
            self.store.delete(SPARES + name)
        if kind in COVERED:
            self.store.delete(object_name(ObjectType.PARITY, object_id))


def _healed(name: str, count: int) -> Notice:
    return Notice(
        code="healed-in-memory",
        message=f"{name} is damaged: its parity brought {count} blocks of 4 KiB back, in memory",
        hint="'stillframe verify --repair' writes them anew. The disk that the repository lies on may be failing.",
    )
