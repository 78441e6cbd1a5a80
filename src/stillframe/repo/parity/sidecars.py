"""Sidecars: the objects in which the parity of other objects rests, and whether this repository wants them.

Answers: "give this object parity", "which objects have none?", "is this sidecar whole?" An object never waits for its
sidecar, and one that is missing is no error. Normative: ``docs/format/v1.md``, sections 11, 12 and 16.
"""

import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Final

from msgspec import Meta

from stillframe.clock import Clock, rfc3339
from stillframe.errors import StillframeError, StorageError
from stillframe.events import Notice
from stillframe.repo.format import (
    FOOTER_SIZE,
    HEADER_SIZE,
    Footer,
    ObjectType,
    build_payload,
    is_cut_off,
    object_name,
    parse_footer,
    parse_header,
    parse_object_name,
    parse_payload,
)
from stillframe.repo.objects import COVERED, ObjectBox
from stillframe.repo.parity.records import Covered, Geometry, find_records, make_records
from stillframe.repo.records import Hex16, MachineName, Time, build_record, parse_record
from stillframe.repo.sealing import make_id
from stillframe.store import DeletionRefused, ObjectExists

_PAYLOAD: Final = struct.Struct("<B7xQ")


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingRecord:
    """What a person decided for a repository. The one with the highest sequence counts.

    Attributes:
        parity: Whether new objects get parity.
    """

    setting: Hex16
    sequence: Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
    created: Time
    machine: MachineName
    parity: bool = False


def current_setting(box: ObjectBox) -> SettingRecord | None:
    """The setting that counts; ``None`` when nothing was ever decided. ``check`` names those that cannot be read."""
    found = []
    for setting_id in box.ids(ObjectType.SETTING):
        try:
            payload = box.read(ObjectType.SETTING, setting_id).payload
            found.append(parse_record(payload, SettingRecord, thing=object_name(ObjectType.SETTING, setting_id)))
        except StillframeError:
            continue
    return max(found, key=lambda one: (one.sequence, one.created, one.setting), default=None)


def write_setting(box: ObjectBox, *, parity: bool, machine: MachineName, clock: Clock) -> SettingRecord:
    """Decide anew; the settings that it replaces go once it is durable."""
    last = current_setting(box)
    record = SettingRecord(
        setting=make_id().hex(), sequence=last.sequence + 1 if last else 1, created=rfc3339(clock.now()),
        machine=machine, parity=parity,
    )  # fmt: skip
    older = list(box.ids(ObjectType.SETTING))
    box.write(ObjectType.SETTING, bytes.fromhex(record.setting), build_record(record))
    for setting_id in older:
        with suppress(DeletionRefused):  # the highest sequence counts
            box.delete(ObjectType.SETTING, setting_id)
    return record


class Covering:
    """Gives new objects parity when the repository wants that; ``ObjectBox.on_written`` calls it.

    Attributes:
        failures: Objects that got none, because the storage refused the sidecar.
    """

    def __init__(self, box: ObjectBox) -> None:
        self._box = box
        self._wanted: bool | None = None
        self.failures = 0

    @property
    def is_wanted(self) -> bool:
        """Whether new objects get parity; read from the repository once."""
        if self._wanted is None:
            setting = current_setting(self._box)
            self._wanted = setting is not None and setting.parity
        return self._wanted

    def decide(self, *, parity: bool, machine: MachineName, clock: Clock) -> None:
        """Decide whether new objects get parity from now on."""
        self._wanted = parity
        write_setting(self._box, parity=parity, machine=machine, clock=clock)

    def cover(self, kind: ObjectType, object_id: bytes) -> None:
        """An object is durable: give it parity. That its sidecar cannot be written is a notice, not an error."""
        if kind not in COVERED or not self.is_wanted:
            return
        try:
            write_sidecar(self._box, kind, object_id)
        except StorageError as error:
            self.failures += 1
            if self.failures == 1:
                notice = Notice(
                    code="no-parity", message=f"{object_name(kind, object_id)} got no parity: {error.message}",
                    hint="It is whole without it. 'stillframe parity renew' gives parity to all that have none.",
                )  # fmt: skip
                self._box.events.emit(notice)


def write_sidecar(box: ObjectBox, kind: ObjectType, object_id: bytes) -> None:
    """Write the sidecar of a whole object that has none. One that somebody else wrote meanwhile is as good.

    Raises:
        StorageError: The object cannot be read, or the sidecar cannot be written.
    """
    name = object_name(kind, object_id)
    geometry = Geometry(box.store.size(name))
    covered = Covered(box.repository_id, kind, object_id)
    body = make_records(lambda offset, length: box.store.read(name, offset, length), covered, geometry)
    header = box.new_header(ObjectType.PARITY, object_id)
    head, offset = header.build(), HEADER_SIZE + len(body)
    trailer = box.seal(header).close(build_payload(_PAYLOAD.pack(kind, geometry.length)), offset=offset)
    footer = Footer.over(head, trailer, trailer_offset=offset, trailer_size=len(trailer))
    try:
        writer = box.store.create(object_name(ObjectType.PARITY, object_id))
    except ObjectExists:
        return
    try:
        for part in (head, body, trailer + footer.build()):
            writer.append(part)
        writer.commit()
    except BaseException:
        writer.abandon()
        raise
    box.healer.forget(kind, object_id)


def is_sidecar_whole(box: ObjectBox, kind: ObjectType, object_id: bytes, length: int) -> bool:
    """Whether every byte of an object's sidecar is right: each record, trailer and footer.

    Args:
        box: The repository's objects.
        kind: The type of the object that is covered.
        object_id: Its id.
        length: Its size.
    """
    geometry, name = Geometry(length), object_name(ObjectType.PARITY, object_id)
    expected = box.expected(ObjectType.PARITY, object_id)
    try:
        if box.store.size(name) != geometry.sidecar_size:
            return False
        raw = box.store.read(name)
        footer = parse_footer(raw[-FOOTER_SIZE:], object_size=len(raw))
        if footer is None or not footer.covers(raw[:HEADER_SIZE], raw[footer.trailer_offset : -FOOTER_SIZE]):
            return False
        seal = box.seal(parse_header(raw, expected))
        trailer = raw[footer.trailer_offset : -FOOTER_SIZE]
        plain = seal.open(trailer, offset=footer.trailer_offset, thing=expected.thing)
        if parse_payload(plain, thing=expected.thing) != _PAYLOAD.pack(kind, length):
            return False
    except StillframeError:
        return False
    records = find_records(raw, Covered(box.repository_id, kind, object_id))
    places = {(record.stripe, record.row) for record in records if record.length == length}
    return len(places) == geometry.rows * geometry.stripes


def torn_sidecars(box: ObjectBox) -> Iterator[str]:
    """Names of sidecars that were never complete and hold not one whole record: garbage."""
    for object_id, size in sidecar_sizes(box).items():
        name = object_name(ObjectType.PARITY, object_id)
        try:
            tail = box.store.read(name, max(0, size - FOOTER_SIZE), min(size, FOOTER_SIZE))
            if parse_footer(tail, object_size=size) is not None or not is_cut_off(tail, object_size=size):
                continue
            raw = box.store.read(name)
        except StorageError:
            continue
        kinds = (Covered(box.repository_id, kind, object_id) for kind in COVERED)
        if not any(True for covered in kinds for _ in find_records(raw, covered)):
            yield name


@dataclass(frozen=True, slots=True, kw_only=True)
class CoveredObject:
    """An object that may have parity, its size, and the size of its sidecar: 0 when there is none."""

    kind: ObjectType
    object_id: bytes
    size: int
    sidecar_size: int

    @property
    def is_covered(self) -> bool:
        """Whether its sidecar has the size that it must have. Nothing was read."""
        return self.sidecar_size == Geometry(self.size).sidecar_size


def sidecar_sizes(box: ObjectBox) -> dict[bytes, int]:
    """Every sidecar that is there: by the id of the object that it covers its own size."""
    found = {}
    for stored in box.store.list(ObjectType.PARITY.folder):
        object_id = parse_object_name(ObjectType.PARITY, stored.name)
        if object_id is not None:
            found[object_id] = stored.size
    return found


def covered_objects(box: ObjectBox) -> Iterator[CoveredObject]:
    """Every object that may have parity. Nothing is read but the names and sizes."""
    sizes = sidecar_sizes(box)
    for kind in sorted(COVERED):
        for stored in box.store.list(kind.folder):
            object_id = parse_object_name(kind, stored.name)
            if object_id is not None and stored.size:
                yield CoveredObject(
                    kind=kind, object_id=object_id, size=stored.size, sidecar_size=sizes.get(object_id, 0)
                )


def orphaned_sidecars(box: ObjectBox) -> list[str]:
    """Names of sidecars whose object is gone. They are listed before objects, which are written before them."""
    sizes = sidecar_sizes(box)
    there = {object_id for kind in COVERED for object_id in box.ids(kind)} if sizes else set()
    return [object_name(ObjectType.PARITY, object_id) for object_id in sorted(sizes.keys() - there)]
