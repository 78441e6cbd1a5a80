"""Machines that will not come back, and those that did after all.

Answers: "may this machine still write here?" and "which machines use this repository, and what is open of each?" A
retirement ends the machine's sessions, so that nothing waits for them; its images stay. Normative:
``docs/format/v1.md``, sections 11 and 14.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from stillframe.clock import rfc3339
from stillframe.errors import UsageError
from stillframe.repo.deletion_records import Retirement, SessionRecord
from stillframe.repo.ending import end_sessions, ending_of, read_ends
from stillframe.repo.format import ObjectType
from stillframe.repo.put.warnings import warn
from stillframe.repo.records import MachineName, Manifest, build_record
from stillframe.repo.repository import Repository
from stillframe.repo.sealing import make_id


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownMachine:
    """A machine that has an image, a session or a retirement here.

    Attributes:
        images: How many images count.
        last: Its newest image.
        sessions: Those that are open; one that died on another machine is among them until it expires.
        retired: What retired it, if it is: the newest one.
    """

    machine: MachineName
    images: int
    last: Manifest | None
    sessions: tuple[SessionRecord, ...]
    retired: Retirement | None


def retirements(repository: Repository) -> dict[str, tuple[Retirement, ...]]:
    """For each machine that is retired what retired it, oldest first."""
    records = repository.announced.retirements()
    undone = {retirement for record in records for retirement in record.undoes}
    found: dict[str, tuple[Retirement, ...]] = {}
    for record in sorted(records, key=lambda one: (one.created, one.retirement)):
        if not record.undoes and record.retirement not in undone:
            found[record.machine.id] = (*found.get(record.machine.id, ()), record)
    return found


def open_records(repository: Repository) -> tuple[SessionRecord, ...]:
    """Sessions that nobody has ended, oldest first, whether their time is over or not."""
    records = repository.sessions()  # before their ends: what has ended meanwhile is then known
    ends = read_ends(repository)
    return tuple(record for record in records if not ends.has_ended(record.session))


def list_machines(repository: Repository) -> tuple[KnownMachine, ...]:
    """Every machine, by name."""
    retired, sessions = retirements(repository), open_records(repository)
    manifests = [image.manifest for image in repository.images().images]
    names: dict[str, MachineName] = {records[-1].machine.id: records[-1].machine for records in retired.values()}
    names |= {record.machine.id: record.machine for record in sessions}
    names |= {manifest.machine.id: manifest.machine for manifest in manifests}
    return tuple(
        _known(machine, manifests, sessions, retired.get(machine.id, ()))
        for machine in sorted(names.values(), key=lambda one: (one.name, one.id))
    )


def retire_machine(repository: Repository, machine: MachineName, by: MachineName) -> tuple[SessionRecord, ...]:
    """Say that a machine will not come back, and end what it left open; returns the sessions that were ended.

    The word is written before its sessions are listed: one that begins later reads it, and stops.
    """
    _write(repository, machine, by)
    sessions = tuple(record for record in open_records(repository) if record.machine.id == machine.id)
    end_sessions(repository, (ending_of(record, "retired") for record in sessions), by)
    return sessions


def unretire_machine(repository: Repository, machine: MachineName, by: MachineName) -> None:
    """Say that a machine is back.

    Raises:
        UsageError: It is not retired.
    """
    undone = retirements(repository).get(machine.id, ())
    if not undone:
        raise UsageError(f"{machine.name} is not retired", hint="'stillframe machines' shows which are.")
    _write(repository, machine, by, undoes=[record.retirement for record in undone])


def _write(repository: Repository, machine: MachineName, by: MachineName, undoes: Iterable[str] = ()) -> None:
    record = Retirement(
        retirement=make_id().hex(), machine=machine, by=by, created=rfc3339(repository.clock.now()),
        undoes=tuple(undoes),
    )  # fmt: skip
    warn(repository, record.retirement, retirement=record)
    repository.box.write(ObjectType.RETIREMENT, bytes.fromhex(record.retirement), build_record(record))


def _known(
    machine: MachineName, manifests: list[Manifest], sessions: tuple[SessionRecord, ...],
    retired: tuple[Retirement, ...],
) -> KnownMachine:  # fmt: skip
    mine = [manifest for manifest in manifests if manifest.machine.id == machine.id]
    return KnownMachine(
        machine=machine, images=len(mine), last=max(mine, key=lambda one: one.sequence, default=None),
        sessions=tuple(record for record in sessions if record.machine.id == machine.id),
        retired=retired[-1] if retired else None,
    )  # fmt: skip
