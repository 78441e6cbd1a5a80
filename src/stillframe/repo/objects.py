"""Small sealed objects in a store: manifests, sessions, tombstones, proofs, index runs.

Answers: "write this payload as a new object", "what does the object of this id say?" Packs and key slots have bodies of
their own and live in ``packs`` and ``keys``; they share the trailer with what is here.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from stillframe.errors import DamagedError
from stillframe.repo.format import (
    CHECK_HINT,
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
from stillframe.repo.sealing import Seal, make_salt, object_seal
from stillframe.store import Store, write_object


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


def read_whole(store: Store, name: str, *, thing: str) -> bytes:
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
    """Reads and writes sealed objects of one repository."""

    def __init__(self, store: Store, repository_id: bytes, master_key: bytes) -> None:
        self.store = store
        self.repository_id = repository_id
        self.master_key = master_key

    def new_header(self, kind: ObjectType, object_id: bytes) -> Header:
        """The header of a new object, with a fresh salt."""
        return Header(kind=kind, repository_id=self.repository_id, object_id=object_id, salt=make_salt())

    def seal(self, header: Header) -> Seal:
        """The seal for an object with this header."""
        return object_seal(header, self.master_key)

    def write(self, kind: ObjectType, object_id: bytes, data: bytes) -> bytes:
        """Write a new object whose payload is ``data``; returns its digest. Durable on return."""
        header = self.new_header(kind, object_id)
        head, trailer = header.build(), self.seal(header).close(build_payload(data), offset=HEADER_SIZE)
        footer = Footer.over(head, trailer, trailer_offset=HEADER_SIZE, trailer_size=len(trailer))
        write_object(self.store, object_name(kind, object_id), head + trailer + footer.build())
        return footer.digest

    def read(self, kind: ObjectType, object_id: bytes) -> OpenedObject:
        """Read an object.

        Raises:
            ObjectMissing: There is none of that id.
            TornObject: Its writing was cut off.
            DamagedError, UnsupportedFormat: It is not what was written.
        """
        expected = Expected(kind=kind, repository_id=self.repository_id, object_id=object_id)
        raw = read_whole(self.store, object_name(kind, object_id), thing=expected.thing)
        footer = parse_footer(raw[-FOOTER_SIZE:], object_size=len(raw))
        if footer is None:
            raise without_footer(expected, raw[-FOOTER_SIZE:], object_size=len(raw))
        if footer.trailer_offset != HEADER_SIZE or not footer.covers(raw[:-FOOTER_SIZE]):
            raise DamagedError(f"{expected.thing}: its bytes are not those that were written", hint=CHECK_HINT)
        header = parse_header(raw, expected)
        trailer = raw[footer.trailer_offset : -FOOTER_SIZE]
        plain = self.seal(header).open(trailer, offset=footer.trailer_offset, thing=expected.thing)
        return OpenedObject(
            object_id=object_id, payload=parse_payload(plain, thing=expected.thing), digest=footer.digest
        )

    def ids(self, kind: ObjectType) -> Iterator[bytes]:
        """The ids of all objects of a type, torn ones included."""
        for stored in self.store.list(kind.folder):
            object_id = parse_object_name(kind, stored.name)
            if object_id is not None:
                yield object_id

    def delete(self, kind: ObjectType, object_id: bytes) -> None:
        """Delete an object; one that is gone already is no error."""
        self.store.delete(object_name(kind, object_id))
