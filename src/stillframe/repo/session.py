"""Sessions: "this machine is at work here". The lock that saves work, and the witness that deletion waits for.

Answers: "may this run start beside the others?" Normative: ``docs/format/v1.md``, sections 11 to 14. A session is
written before anything is read that the run will rely on; correctness rests on that order, not on exclusion.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from stillframe.clock import rfc3339
from stillframe.errors import DamagedError, Locked, Retired, StorageError
from stillframe.repo.deletion_records import SessionRecord
from stillframe.repo.ending import Ending, end_sessions, ending_of, read_ends, write_end
from stillframe.repo.format import ObjectType
from stillframe.repo.records import BESIDE_MAX, MachineName, build_record, parse_time
from stillframe.repo.repository import Repository
from stillframe.repo.retirement import open_records, retirements
from stillframe.store import DeletionRefused, ObjectMissing

LIFETIME: Final = timedelta(days=14)
"""No run lasts longer. A run that did must not write its manifest: its chunks may have been deleted."""
_AGAIN: Final = "Run it again: what was stored is used again."
_LOOKS_MAX: Final = 8

_CONFLICTS: Final = {
    "backup": {"repair"},
    "forget": {"repair"},
    "expire": {"expire", "repair"},
    "repair": {"backup", "forget", "expire", "repair", "parity"},
    "verify": set[str](),
    "key": set[str](),
    "parity": {"repair"},
    "retire": set[str](),
    "undelete": {"repair"},
}
"""Which verbs a verb does not run beside (section 14). Also no two backups of the same disk of one machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Who runs: the machine, its boot, the process on it, and a way to ask whether such a process still lives.

    ``is_alive`` gets ``(boot_id, process)`` of a session of this same machine.
    """

    machine: MachineName
    boot_id: str
    process: str
    is_alive: Callable[[str, str], bool]


class Session:
    """One run at work. Begin it before reading what the run relies on; end it when all is written."""

    def __init__(self, repository: Repository, record: SessionRecord, began_boottime: float) -> None:
        self.repository = repository
        self.record = record
        self._began_boottime = began_boottime
        self.beside: tuple[str, ...] = ()
        """Other backups of this machine that were open when it began. Of two such runs at least one names the other."""
        self._committed: list[str] = []
        self._is_over = False

    @property
    def id(self) -> str:
        """The session's id, as hex."""
        return self.record.session

    def require_fresh(self) -> None:
        """Refuse to commit after the session's lifetime, time asleep included, or when the session is gone.

        Deletion waits for sessions that are open. A run whose session was ended by others was not waited for.

        Raises:
            StorageError: The run took too long, or lost its session; what it stored stays and the next run uses it.
        """
        self._require_young()
        is_there = self._is_there()
        if read_ends(self.repository).is_touched(self.id):
            raise self._given_up()
        if not is_there:
            raise StorageError(
                f"session {self.id} of this run is gone or damaged: others may have deleted what it relies on",
                hint=_AGAIN,
            )

    def confirm(self, record_id: str) -> None:
        """What was just written (a manifest, or a tombstone that brings images back) counts: nobody ended the session.

        A machine can sleep between the last look before it writes and the writing. So the last look is after it.

        Raises:
            StorageError: It may not count, and must not be called done.
        """
        self._require_young()
        is_there = self._is_there()  # first: whoever takes it away has written before that it ended
        if self._is_touched():
            raise self._given_up()
        if not is_there:
            ending = Ending(self.id, self.record.machine, "lost")
            write_end(self.repository, ending, self.record.machine, kept=self._committed)
            raise StorageError(
                f"session {self.id} of this run was gone when it ended: what it wrote last does not count", hint=_AGAIN
            )
        self._committed.append(record_id)

    def end(self) -> None:
        """Take the session away; where nothing may be deleted, write that it has ended. Safe to call twice."""
        if self._is_over:
            return
        try:
            self.repository.box.delete(ObjectType.SESSION, bytes.fromhex(self.id))
        except DeletionRefused:
            ending = Ending(self.id, self.record.machine, "done")
            write_end(self.repository, ending, self.record.machine, kept=self._committed)
        self._is_over = True

    def _require_young(self) -> None:
        if self.repository.clock.boottime() - self._began_boottime > LIFETIME.total_seconds():
            raise StorageError(
                f"this run began more than {LIFETIME.days} days ago; it must not be completed any more", hint=_AGAIN
            )

    def _is_there(self) -> bool:
        try:
            self.repository.box.read(ObjectType.SESSION, bytes.fromhex(self.id))
        except (ObjectMissing, DamagedError):
            return False
        return True

    def _is_touched(self) -> bool:
        """Whether somebody ended this session or began to; asked again while announcements vanish."""
        announced = self.repository.announced
        for _ in range(_LOOKS_MAX):
            there = announced.ids_of_ends()
            if read_ends(self.repository).is_touched(self.id):
                return True
            if there.issubset(announced.ids_of_ends()):
                return False
        return True

    def _given_up(self) -> StorageError:
        return StorageError(
            f"session {self.id} of this run was ended by another machine: it had expired, or this machine was retired",
            hint=f"{_AGAIN} See that the clock of this machine is right.",
        )


def begin_session(repository: Repository, owner: Owner, verb: str, disks: Sequence[str] = ()) -> Session:
    """Announce a run, and stop if another one is in its way.

    Args:
        repository: Where.
        owner: Who runs.
        verb: What it does.
        disks: Paths of the disks that a backup saves; without any it may be all of them.

    Raises:
        Locked: Another run is at work; the message says which, where and since when.
        Retired: This machine was retired.
    """
    clock = repository.clock
    began, now = clock.boottime(), clock.now()
    record = SessionRecord(
        session=repository.box.make_id().hex(), verb=verb, machine=owner.machine, boot_id=owner.boot_id,
        process=owner.process, started=rfc3339(now), expires=rfc3339(now + LIFETIME), disks=tuple(disks),
    )  # fmt: skip
    repository.box.write(ObjectType.SESSION, bytes.fromhex(record.session), build_record(record))
    session = Session(repository, record, began)
    try:
        _require_welcome(repository, record)
        there = open_sessions(repository, owner)
    except BaseException:
        session.end()
        raise
    if record not in there:
        raise StorageError("the session just written is not there", hint="Is the storage shared? Try again.")
    others = [other for other in there if _conflicts(record, other)]
    if others:
        session.end()
        other = others[0]
        raise Locked(
            f"'{other.verb}' is at work in this repository on {other.machine.name} since {other.started}",
            hint=f"Wait until it has ended. A run that died counts until {other.expires}; if {other.machine.name} "
            "never comes back: 'stillframe retire'.",
        )
    mine = [other.session for other in there if _is_other_backup(record, other)]
    session.beside = tuple(mine[:BESIDE_MAX])
    return session


def open_sessions(repository: Repository, owner: Owner) -> list[SessionRecord]:
    """Sessions that count: of this machine those whose process lives, of others until they expire.

    Dead sessions of this machine are ended on the way.
    """
    found, dead = [], []
    for record in open_records(repository):
        if record.machine.id == owner.machine.id:
            alive = record.process == owner.process or owner.is_alive(record.boot_id, record.process)
            if alive and record.boot_id == owner.boot_id:
                found.append(record)
            else:
                dead.append(ending_of(record, "dead"))
        elif parse_time(record.expires) > repository.clock.now():
            found.append(record)
    end_sessions(repository, dead, owner.machine)
    return found


def _require_welcome(repository: Repository, mine: SessionRecord) -> None:
    retired = retirements(repository).get(mine.machine.id)
    if retired and mine.verb != "retire":
        raise Retired(
            f"{mine.machine.name}, this machine, was retired from this repository on {retired[-1].created} by "
            f"{retired[-1].by.name}: nothing waits for it any more, so it must not write here",
            hint=f"If it is in use again: 'stillframe retire --undo {mine.machine.name}'. Restoring works as it is.",
        )


def _conflicts(mine: SessionRecord, other: SessionRecord) -> bool:
    if mine.session == other.session:
        return False
    if other.verb in _CONFLICTS.get(mine.verb, set()) or mine.verb in _CONFLICTS.get(other.verb, set()):
        return True
    share = not (mine.disks and other.disks) or not set(mine.disks).isdisjoint(other.disks)
    return _is_other_backup(mine, other) and share


def _is_other_backup(mine: SessionRecord, other: SessionRecord) -> bool:
    """Whether both are backups of the same machine."""
    same_machine = mine.machine.id == other.machine.id
    return mine.verb == other.verb == "backup" and same_machine and mine.session != other.session
