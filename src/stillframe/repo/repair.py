"""Mending a repository as far as what is there allows.

Answers: "make the index right again, bring second copies and rotted blocks back, and say plainly what is lost." Packs
are never deleted, and a manifest only when parity brought it back and a good copy of it is durable. New objects are
durable before old ones go, so that a repair that is cut off can be run again. What was lost comes back only with a new
full backup, while the source still has it.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillframe.errors import DamagedError, RepositoryError, StillframeError, StorageError
from stillframe.events import Event, EventSink, Notice, PhaseStarted
from stillframe.repo.check import CheckReport, check_repository
from stillframe.repo.compaction import keep_rows, without_packs, write_tables
from stillframe.repo.copying import Copier, Opened, open_entries
from stillframe.repo.format import ObjectType, object_name
from stillframe.repo.identity import NAMES, read_identity
from stillframe.repo.inventory import Examined, State, examine_pack, examine_records, rows_by_pack, stray_rows
from stillframe.repo.keys import COPIES
from stillframe.repo.lineage import LastSeen
from stillframe.repo.packs import PackReader
from stillframe.repo.parity.replacing import finish_replacing, replace_healed
from stillframe.repo.put.credential import machine_of
from stillframe.repo.put.warnings import warn_again
from stillframe.repo.repository import Repository
from stillframe.repo.rows import Location, Table
from stillframe.repo.session import Session
from stillframe.repo.suspects import suspected_packs
from stillframe.repo.writing import whole_entries
from stillframe.store import ObjectExists, Store, write_object

_WITHOUT_LOSS: Final = (
    ObjectType.SESSION, ObjectType.TOMBSTONE, ObjectType.PROOF, ObjectType.SCREENSHOT, ObjectType.KEPT_TABLE,
    ObjectType.SETTING, ObjectType.SESSION_END, ObjectType.RETIREMENT,
)  # fmt: skip
"""Records of which a damaged one is taken away: no image needs them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairReport:
    """What a repair did, and how the repository is now.

    Attributes:
        done: Everything that was changed, in words.
        check: A check made afterwards: which images are whole, and which bytes of the others are lost.
    """

    done: tuple[Notice, ...]
    check: CheckReport


def repair_repository(
    session: Session, *, events: EventSink, read_all: bool, suspects: Collection[bytes] = (),
    last_seen: LastSeen | None = None,
) -> RepairReport:  # fmt: skip
    """Mend what can be mended.

    Args:
        session: Of the verb ``repair``: nothing else that writes may run.
        events: Gets what is done as it is done.
        read_all: Open every entry of every pack, and take the bad ones out of the index: the next backup stores them
            again. Without it a chunk whose bytes have rotted stays in the index until a proof finds it.
        suspects: Packs whose entries are opened in any case, beside those in which a proof found something.
        last_seen: As for ``check_repository``.

    Raises:
        StorageError: The storage failed. What was done until then is sound.
    """
    if session.record.verb != "repair":
        raise ValueError("repair needs a session of its own")
    repository, log = session.repository, _Log(events)
    before, repository.box.events = repository.box.events, _Unhealed(events)
    try:
        _mend(session, log, read_all=read_all, suspects=suspects)
        check = check_repository(repository, events=events, last_seen=last_seen)
    finally:
        repository.box.events = before
    return RepairReport(done=tuple(log.notices), check=check)


def _mend(session: Session, log: "_Log", *, read_all: bool, suspects: Collection[bytes]) -> None:
    repository = session.repository
    log.phase("identity and keys")
    _mend_identity(repository, log)
    _mend_key_slots(repository, log)
    log.phase("records")
    _mend_records(session, log)
    _mend_warnings(repository, log)
    log.phase("index")
    asked = {*suspects, *suspected_packs(repository)}
    _IndexRepair(repository, log, suspects=None if read_all else asked).run()


@dataclass(frozen=True, slots=True)
class _Unhealed:
    """Passes events on, but not that parity helped: a repair says itself what it did with that."""

    events: EventSink

    def emit(self, event: Event) -> None:
        if not (isinstance(event, Notice) and event.code == "healed-in-memory"):
            self.events.emit(event)


@dataclass(slots=True)
class _Log:
    """What was done, passed on at once."""

    events: EventSink
    notices: list[Notice] = field(default_factory=list)

    def phase(self, name: str) -> None:
        self.events.emit(PhaseStarted(name=name))

    def done(self, code: str, message: str, hint: str = "") -> None:
        notice = Notice(code=code, message=message, hint=hint)
        self.notices.append(notice)
        self.events.emit(notice)


def _words_of(kind: ObjectType) -> str:
    if kind is ObjectType.TOMBSTONE:
        return "If it named forgotten images, 'check' may say that they are missing."
    if kind is ObjectType.SETTING:
        return "If new objects are to have parity, say so again: 'stillframe parity on'."
    return "No image needs it."


def _mend_identity(repository: Repository, log: _Log) -> None:
    store = repository.box.store
    try:
        found = read_identity(store, where="this place")
    except StillframeError:
        return  # there is no good copy to copy from; the check that follows says so
    for name in NAMES:
        if name not in found.copies and _put_copy(store, name, store.read(found.copies[0])):
            log.done("identity-copy", f"{name} is written anew from {found.copies[0]}")


def _mend_key_slots(repository: Repository, log: _Log) -> None:
    if repository.identity.encryption == "none":
        return
    store = repository.box.store
    for slot in repository.keys.slots():
        for copy in COPIES:
            if slot.copies and copy not in slot.copies:
                name = object_name(ObjectType.KEY_SLOT, slot.slot_id, copy=copy)
                good = object_name(ObjectType.KEY_SLOT, slot.slot_id, copy=slot.copies[0])
                if _put_copy(store, name, store.read(good)):
                    hint = "If it was you who took this key away, take it away again: 'stillframe key remove'."
                    log.done("key-slot-copy", f"{name} ({slot.body.label}) is written anew from its other copy", hint)


def _put_copy(store: Store, name: str, raw: bytes) -> bool:
    """Put a copy in the place of a missing or damaged one; whether nobody else did meanwhile."""
    store.delete(name)
    try:
        write_object(store, name, raw)
    except ObjectExists:
        return False
    return True


def _mend_records(session: Session, log: _Log) -> None:
    """Bring records back that parity has, and take away damaged ones that no image needs."""
    repository = session.repository
    for name in finish_replacing(repository.box):
        log.done("healed", f"{name} is whole again: an earlier repair had been cut off")
    for kind in (*_WITHOUT_LOSS, ObjectType.IMAGE):
        for found, object_id in list(examine_records(repository, kind)):
            if found.state is State.HEALABLE:
                replace_healed(repository.box, kind, object_id)
                log.done("healed", f"{found.name} was damaged, and is written anew as its parity says it was")
            elif found.state is State.DAMAGED and kind in _WITHOUT_LOSS and object_id.hex() != session.id:
                repository.box.delete(kind, object_id)
                log.done(
                    "record-deleted", f"{found.name} was damaged and is taken away: {found.words}", _words_of(kind)
                )


def _mend_warnings(repository: Repository, log: _Log) -> None:
    """Say all of it once more to machines for which a warning cannot be read: until then they rely on nothing."""
    for found, warning in list(examine_records(repository, ObjectType.WARNING)):
        if found.state is State.DAMAGED:
            warn_again(repository, machine_of(warning))
            repository.box.delete(ObjectType.WARNING, warning)
            log.done("warning-renewed", f"{found.name} was damaged; what it may have said is said again in a new one")


class _IndexRepair:
    """Makes the index say of every pack what the pack holds, and no more.

    Args:
        repository: Open.
        log: Gets what is done.
        suspects: Packs of which every entry is opened; ``None`` for all.
    """

    def __init__(self, repository: Repository, log: _Log, *, suspects: set[bytes] | None) -> None:
        self._repository = repository
        self._log = log
        self._suspects = suspects
        self._there = repository.stored_packs()
        self._named: set[bytes] = set()
        self._salvaged: dict[bytes, list[int]] = {}
        self._new: list[Table] = []
        self._old: list[bytes] = []
        self._copier = Copier(repository)

    def run(self) -> None:
        """Judge every run and every pack; write what is new; delete what it replaces."""
        try:
            for found, run_id in list(examine_records(self._repository, ObjectType.INDEX)):
                self._judge_run(found, run_id)
            for pack_id in sorted(self._there.keys() - self._named):
                self._index_pack(pack_id)
            tables = [*self._copier.finish(), *self._new]
        except BaseException:
            self._copier.abandon()
            raise
        write_tables(self._repository, tables)
        for run_id in self._old:
            self._repository.box.delete(ObjectType.INDEX, run_id)

    def _judge_run(self, found: Examined, run_id: bytes) -> None:
        if found.state is State.UNREADABLE:
            return  # it may be readable tomorrow
        if found.state not in {State.WHOLE, State.HEALABLE}:
            self._old.append(run_id)
            self._log.done("index-deleted", f"{found.name} is {found.state.value} and is replaced by what packs say")
            return
        table = self._repository.read_run_strictly(run_id)
        right = self._right_table(table)
        self._named.update(right.packs)
        if found.state is State.HEALABLE:
            self._log.done("healed", f"{found.name} was damaged, and is written anew as its parity says it was")
        if found.state is State.HEALABLE or right.packs != table.packs or len(right.rows) < len(table.rows):
            self._old.append(run_id)
            self._new.append(right)

    def _right_table(self, table: Table) -> Table:
        """What a run should say."""
        dead: set[bytes] = set()
        kept = np.ones(len(table.rows), bool)
        for pack_id, numbers in rows_by_pack(table):
            name = object_name(ObjectType.PACK, pack_id)
            part = table.take(numbers)
            examined = examine_pack(self._repository, pack_id)
            match examined.found.state:
                case State.MISSING:
                    self._require_gone(pack_id)
                    dead.add(pack_id)
                    self._log.done("pack-missing", f"{name} is gone; the index names it no more")
                case State.WHOLE if examined.table is not None:
                    kept[numbers] = self._rows_that_stay(part, examined.table)
                case _ if len(numbers) == 0:
                    pass  # nothing of it is used; it stays named, so that nobody takes it for one that a run left
                case State.HEALABLE if examined.table is not None:
                    kept[numbers] = np.isin(part.rows["offset"], self._copy_out(pack_id, examined.table))
                case State.TORN | State.DAMAGED:
                    unread = self._copy_out(pack_id, part)
                    kept[numbers] = np.isin(part.rows["offset"], unread)
                    if not unread:
                        dead.add(pack_id)
                case _:
                    pass  # it may be readable tomorrow
        return without_packs(keep_rows(table, kept), dead)

    def _require_gone(self, pack_id: bytes) -> None:
        """Stop when packs vanish while they are looked at: then the storage goes, not the pack."""
        if pack_id in self._there:
            raise StorageError(
                f"{object_name(ObjectType.PACK, pack_id)} was there a moment ago and is gone",
                hint="Is the disk still plugged in? Nothing was changed in the index. Run repair again.",
            )

    def _rows_that_stay(self, part: Table, own: Table) -> NDArray[np.bool_]:
        """Which rows of a whole pack the index keeps. Where parity brings entries back all is copied elsewhere."""
        good = self._good_rows(part, own)
        if good.all():
            return good
        healed = self._repository.box.healer.open(ObjectType.PACK, own.packs[0])
        if healed is not None and healed.patches:
            moved: NDArray[np.bool_] = np.isin(part.rows["offset"], self._copy_out(own.packs[0], own))
            return moved
        name = object_name(ObjectType.PACK, own.packs[0])
        self._log.done(
            "rows-dropped", f"{int((~good).sum())} rows of {name} were wrong or bad and are out of the index"
        )
        return good

    def _good_rows(self, part: Table, own: Table) -> NDArray[np.bool_]:
        """Which rows of a whole pack are right, and where that is asked open as they lie there."""
        good = ~stray_rows(part, own)
        if self._suspects is None or own.packs[0] in self._suspects:
            good[good] = self._opening(part.take(good))
        return good

    def _opening(self, part: Table) -> NDArray[np.bool_]:
        """Which of these rows of one pack open, or could not be read this time and have no parity."""
        good = np.ones(len(part.rows), bool)
        rows = {part.location(row): row for row in range(len(part.rows))}
        for place, data in self._open(part, self._repository.strict_packs):
            if isinstance(data, StorageError):
                good[rows[place]] = isinstance(self._open_again(place), StorageError)
            else:
                good[rows[place]] = not isinstance(data, DamagedError)
        return good

    def _open_again(self, place: Location) -> Opened:
        """An entry that could not be read, with the help of parity."""
        size = self._there.get(place.pack_id, 0)
        return next(data for _, data in open_entries(self._repository.packs, [place], pack_size=size))

    def _open(self, part: Table, packs: PackReader) -> Iterator[tuple[Location, Opened]]:
        places = [part.location(row) for row in range(len(part.rows))]
        healed = self._repository.box.healer.open(ObjectType.PACK, places[0].pack_id) if places else None
        there = self._there.get(places[0].pack_id, 0) if places else 0
        yield from open_entries(packs, places, pack_size=max(there, healed.size("")) if healed else there)

    def _copy_out(self, pack_id: bytes, part: Table) -> list[int]:
        """Copy what opens of a damaged pack, with the help of parity, into a new one.

        Returns:
            Offsets of the entries that could not be read this time: they stay in the index.
        """
        if pack_id in self._salvaged:
            return self._salvaged[pack_id]
        name, whole, unread = object_name(ObjectType.PACK, pack_id), 0, list[int]()
        for place, data in self._open(part, self._repository.packs):
            if isinstance(data, bytes):
                self._copier.add(place, data)
                whole += 1
            elif isinstance(data, StorageError):
                unread.append(place.offset)
        self._salvaged[pack_id] = unread
        if unread:
            self._log.done("pack-unreadable", f"{name}: {len(unread)} chunks cannot be read now, and stay in the index")
        healed = any(use.object_id == pack_id for use in self._repository.box.healer.uses.all())
        words = ", with the help of its parity," if healed else ""
        message = (
            f"{name} is damaged: {whole} of its {len(part.rows)} chunks are whole{words} and are copied to a new pack"
        )
        self._log.done("pack-healed" if healed else "pack-salvaged", message)
        return unread

    def _index_pack(self, pack_id: bytes) -> None:
        """Name what opens of a pack that no run names: nobody said yet that it is durable."""
        try:
            packs = self._repository.strict_packs
            table = whole_entries(packs, packs.read_table(pack_id))
        except (RepositoryError, StorageError):
            return  # the check that follows names it
        if len(table.rows):
            self._new.append(table)
            name = object_name(ObjectType.PACK, pack_id)
            self._log.done("pack-indexed", f"{name} was in no index run: {len(table.rows)} chunks are found again")
