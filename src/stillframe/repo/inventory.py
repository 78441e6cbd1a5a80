"""What is really there: packs and the other objects, opened one by one.

Answers: "is this pack whole?", "does this index row say what the pack says of itself?", "which objects of this type
cannot be opened?" Reads headers, trailers and footers, no chunks; judges nothing lost and changes nothing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillframe.errors import StillframeError, StorageError
from stillframe.repo.deletion_records import Retirement, Revocation, SessionEnd, SessionRecord, TombstoneRecord
from stillframe.repo.format import FOOTER_SIZE, ObjectType, is_cut_off, object_name, parse_footer
from stillframe.repo.kept_tables import KeptTable
from stillframe.repo.manifest_rules import parse_manifest
from stillframe.repo.objects import TornObject, read_whole
from stillframe.repo.parity.sidecars import SettingRecord
from stillframe.repo.proofs import require_png
from stillframe.repo.put.records import Grant, WarningRecord
from stillframe.repo.records import ProofRecord, parse_record
from stillframe.repo.repository import Repository, StoredImage
from stillframe.repo.rows import Table, parse_table
from stillframe.store import ObjectMissing


class State(Enum):
    """How an object is."""

    WHOLE = "whole"
    TORN = "torn"
    HEALABLE = "damaged, and its parity brings it back"
    DAMAGED = "damaged"
    UNREADABLE = "unreadable"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Examined:
    """What was found under a name. ``error`` says more unless the state is ``WHOLE``."""

    state: State
    name: str
    error: StillframeError | None = None

    @property
    def words(self) -> str:
        """What is wrong with it, as a sentence."""
        return self.error.message if self.error else f"{self.name} is {self.state.value}"


@dataclass(frozen=True, slots=True)
class ExaminedPack:
    """A pack, and where its chunks rest if it can tell."""

    found: Examined
    table: Table | None = None


def examine_pack(repository: Repository, pack_id: bytes) -> ExaminedPack:
    """Open header, trailer and footer of a pack; where they are damaged, with the help of its parity."""
    name = object_name(ObjectType.PACK, pack_id)
    try:
        table = repository.strict_packs.read_table(pack_id)
    except StillframeError as error:
        try:
            return ExaminedPack(Examined(State.HEALABLE, name, error), repository.packs.read_table(pack_id))
        except StillframeError as final:  # it knows more: what has parity was complete once
            return ExaminedPack(Examined(state_of(final), name, final))
    return ExaminedPack(Examined(State.WHOLE, name), table)


def examine_records(repository: Repository, kind: ObjectType) -> Iterator[tuple[Examined, bytes]]:
    """Open every object of a type and parse what it says; yields each with its id.

    Objects that vanish meanwhile are left out: somebody deleted them.
    """
    for object_id in sorted(repository.box.ids(kind)):
        name = object_name(kind, object_id)
        try:
            _parse(repository, kind, object_id, heal=False)
        except ObjectMissing:
            continue
        except StillframeError as error:
            found = _with_parity(repository, kind, object_id, error)
            if found.state is not State.MISSING:
                yield found, object_id
        else:
            yield Examined(State.WHOLE, name), object_id


def _with_parity(repository: Repository, kind: ObjectType, object_id: bytes, error: StillframeError) -> Examined:
    """An object that cannot be opened as it lies there, and why."""
    name = object_name(kind, object_id)
    try:
        _parse(repository, kind, object_id, heal=True)
    except StillframeError as final:  # it knows more: what has parity was complete once
        return Examined(state_of(final), name, final)
    return Examined(State.HEALABLE, name, error)


def examine_slot_copy(repository: Repository, slot_id: bytes, copy: str) -> State:
    """How a copy of a key slot is that the key ring could not use."""
    name = object_name(ObjectType.KEY_SLOT, slot_id, copy=copy)
    try:
        raw = read_whole(repository.box.store, name, thing=name)
    except StillframeError as error:
        return state_of(error)
    tail = raw[-FOOTER_SIZE:]
    has_footer = parse_footer(tail, object_size=len(raw)) is not None
    return State.DAMAGED if has_footer or not is_cut_off(tail, object_size=len(raw)) else State.TORN


def state_of(error: StillframeError) -> State:
    """What an error at opening says of the object."""
    if isinstance(error, ObjectMissing):
        return State.MISSING
    if isinstance(error, TornObject):
        return State.TORN
    return State.UNREADABLE if isinstance(error, StorageError) else State.DAMAGED


def rows_by_pack(table: Table) -> Iterator[tuple[bytes, NDArray[np.int64]]]:
    """For each pack of a table the numbers of its rows."""
    order = np.argsort(table.rows["pack"], kind="stable")
    bounds = np.searchsorted(table.rows["pack"][order], np.arange(len(table.packs) + 1))
    for number, pack_id in enumerate(table.packs):
        yield pack_id, order[bounds[number] : bounds[number + 1]]


def stray_rows(part: Table, own: Table) -> NDArray[np.bool_]:
    """Which rows of one pack in an index run do not stand in the pack's own table."""
    if len(own.rows) == 0:
        return np.ones(len(part.rows), bool)
    own = own.take(np.argsort(own.rows["offset"], kind="stable"))
    rows = part.rows
    places = np.minimum(np.searchsorted(own.rows["offset"], rows["offset"]), len(own.rows) - 1)
    found = own.take(places)
    same = (found.rows["id"] == rows["id"]).all(axis=1)
    for field in ("offset", "sealed", "plain"):
        same &= found.rows[field] == rows[field]
    both = part.patches[same[part.patches]]  # of the same kind, so a patch in both
    same[both] = (found.bases_at(both) == part.bases_at(both)).all(axis=1)
    stray: NDArray[np.bool_] = ~same
    return stray


def read_image(repository: Repository, image_id: bytes) -> StoredImage:
    """A manifest, whether it is forgotten or not. Raises as ``ObjectBox.read`` and ``parse_record``."""
    opened = repository.box.read(ObjectType.IMAGE, image_id)
    thing = object_name(ObjectType.IMAGE, image_id)
    return StoredImage(manifest=parse_manifest(opened.payload, thing=thing), digest=opened.digest)


def _parse(repository: Repository, kind: ObjectType, object_id: bytes, *, heal: bool) -> None:
    name, payload = object_name(kind, object_id), repository.box.read(kind, object_id, heal=heal).payload
    match kind:
        case ObjectType.INDEX:
            parse_table(payload, thing=name)
        case ObjectType.IMAGE:
            parse_manifest(payload, thing=name)
        case ObjectType.SCREENSHOT:
            require_png(payload, thing=name)
        case _:
            parse_record(payload, _RECORDS[kind], thing=name)


_RECORDS: Final[Mapping[ObjectType, type[Any]]] = {
    ObjectType.SESSION: SessionRecord,
    ObjectType.TOMBSTONE: TombstoneRecord,
    ObjectType.PROOF: ProofRecord,
    ObjectType.KEPT_TABLE: KeptTable,
    ObjectType.SETTING: SettingRecord,
    ObjectType.SESSION_END: SessionEnd,
    ObjectType.RETIREMENT: Retirement,
    ObjectType.GRANT: Grant,
    ObjectType.WARNING: WarningRecord,
    ObjectType.REVOCATION: Revocation,
}
