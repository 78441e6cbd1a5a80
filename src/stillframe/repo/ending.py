"""Ending sessions that their own run did not end: of processes that died, of machines that never came back.

Answers: "how does a session end without its run, so that the run can do no harm when it wakes after all?" Nobody can
tell a dead machine from one that sleeps, and no clock can be trusted. So the end is written down, in an order that
leaves no gap: whatever the run writes afterwards does not count. Normative: ``docs/format/v1.md``, section 12.

An end is announced before the records of the session are listed, and becomes final with their names. A run looks for
announcements after it has written its manifest. So either it sees one, and knows that it did not succeed; or its
manifest was there before every announcement, and each end names it.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from stillframe.clock import rfc3339
from stillframe.errors import DamagedError, UnsupportedFormat
from stillframe.repo.deletion_records import SessionEnd, SessionRecord
from stillframe.repo.forgotten import Ends, judge_ends
from stillframe.repo.format import ObjectType
from stillframe.repo.inventory import read_image
from stillframe.repo.put.warnings import clear_warnings, warn
from stillframe.repo.records import MachineName, build_record
from stillframe.repo.repository import Repository
from stillframe.repo.sealing import make_id
from stillframe.store import DeletionRefused, ObjectMissing

Why = Literal["done", "dead", "expired", "damaged", "lost", "retired"]


@dataclass(frozen=True, slots=True)
class Ending:
    """A session to be ended, and why. ``machine`` is whose it was, if that can be read."""

    session: str
    machine: MachineName
    why: Why


def ending_of(record: SessionRecord, why: Why) -> Ending:
    """The ending of a session that can be read."""
    return Ending(record.session, record.machine, why)


def read_ends(repository: Repository) -> Ends:
    """Which sessions have ended other than by being taken away."""
    return judge_ends(repository.announced.ends(), repository.announced.revocations())


def end_sessions(repository: Repository, endings: Iterable[Ending], by: MachineName) -> None:
    """End sessions for good: what their runs have written until now counts, and nothing that they write later.

    They are taken away where that is allowed. Cut off at any moment it can be done again.
    """
    endings = tuple(endings)
    if not endings:
        return
    announced = [write_end(repository, ending, by, final=False) for ending in endings]
    written = _written_in(repository, {ending.session for ending in endings})
    for ending in endings:
        write_end(repository, ending, by, kept=written[ending.session])
    for ending, announcement in zip(endings, announced, strict=True):
        with suppress(DeletionRefused):
            repository.box.delete(ObjectType.SESSION, bytes.fromhex(ending.session))
            repository.box.delete(ObjectType.SESSION_END, announcement)
            clear_warnings(repository, [announcement.hex()])


def write_end(
    repository: Repository, ending: Ending, by: MachineName, *, final: bool = True, kept: Iterable[str] = ()
) -> bytes:
    """Write that a session has ended, or is about to; returns the record's id."""
    end_id = repository.box.make_id()
    warn(repository, end_id.hex(), sessions=[ending.session])
    record = SessionEnd(
        end=end_id.hex(), session=ending.session, machine=ending.machine, by=by,
        created=rfc3339(repository.clock.now()), why=ending.why, final=final, kept=tuple(kept),
    )  # fmt: skip
    repository.box.write(ObjectType.SESSION_END, end_id, build_record(record))
    return end_id


def require_right_to_delete(repository: Repository, by: MachineName, what: str) -> None:
    """Refuse what needs to delete where nothing may be deleted: tried on an object made for it.

    Args:
        repository: Where.
        by: Who asks.
        what: What was to be done, as the subject of a sentence.

    Raises:
        DeletionRefused: The storage lets objects only be added. Nothing was changed.
    """
    now, probe = rfc3339(repository.clock.now()), make_id()
    record = SessionRecord(
        session=probe.hex(), verb="probe", machine=by, boot_id="", process="", started=now, expires=now
    )  # fmt: skip
    ending = ending_of(record, "done")
    end = write_end(repository, ending, by)  # before it begins: so it never counts as open
    repository.box.write(ObjectType.SESSION, probe, build_record(record))
    try:
        repository.box.delete(ObjectType.SESSION, probe)
        repository.box.delete(ObjectType.SESSION_END, end)
    except DeletionRefused as error:
        raise DeletionRefused(
            f"{what} needs the right to delete, and the storage only lets this machine add: nothing was changed",
            hint="Do it where deleting is allowed, such as on the computer that the storage belongs to.",
        ) from error


def clear_ended(repository: Repository) -> None:
    """Take away what lies of sessions that have ended, where nobody could before."""
    ends = repository.announced.ends()
    ended = judge_ends(ends, repository.announced.revocations())
    for session_id in list(repository.box.ids(ObjectType.SESSION)):
        if ended.has_ended(session_id.hex()):
            repository.box.delete(ObjectType.SESSION, session_id)
    for record in ends:  # one that ended by itself is as if it had been taken away at once
        if record.why == "done":
            repository.box.delete(ObjectType.SESSION_END, bytes.fromhex(record.end))


def _written_in(repository: Repository, sessions: set[str]) -> dict[str, list[str]]:
    """Manifests and tombstones of these sessions that are there."""
    found: dict[str, list[str]] = {session: [] for session in sessions}
    for record in repository.tombstones():
        if record.session in found and record.back:
            found[record.session].append(record.tombstone)
    for image_id in sorted(repository.box.ids(ObjectType.IMAGE)):
        with suppress(ObjectMissing, DamagedError, UnsupportedFormat):
            session = read_image(repository, image_id).manifest.session
            if session in found:
                found[session].append(image_id.hex())
    return found
