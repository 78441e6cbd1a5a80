"""Warnings: what the owner's machines announce, told to those machines that can read nothing.

Answers: "which of its packs may this machine rely on no more, and which of its sessions were ended?" A put-only machine
can read no tombstone, no end and no retirement. So whoever writes one writes before it, for each put key, what of it
concerns that machine, sealed so that this one machine can read it. Nobody else believes a warning. Normative:
``docs/format/v1.md``, sections 12, 13 and 17.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

from stillframe.clock import rfc3339
from stillframe.repo.announcements import read_records
from stillframe.repo.deletion_records import Retirement
from stillframe.repo.format import ObjectType
from stillframe.repo.put.credential import TAG_SIZE, is_of
from stillframe.repo.put.records import SESSIONS_MAX, WarningRecord
from stillframe.repo.records import build_record
from stillframe.repo.repository import Repository
from stillframe.repo.sealing import make_id
from stillframe.store import DeletionRefused


def warn(
    repository: Repository, repeats: str, *, packs: Iterable[str] = (), sessions: Iterable[str] = (),
    retirement: Retirement | None = None,
) -> None:  # fmt: skip
    """Tell each put-only machine what of a record concerns it; durable on return. To be called before that is written.

    Args:
        repository: Open with a secret that reads it; a put-only machine warns nobody.
        repeats: Id of the record, in hex.
        packs: Packs that it names.
        sessions: Sessions that it names.
        retirement: The record, if it is one.
    """
    if repository.put is not None:
        return
    packs, sessions = tuple(packs), tuple(sessions)
    for machine_id in warned_machines(repository):
        mine = tuple(pack for pack in packs if is_of(machine_id, pack))
        ended = tuple(session for session in sessions if is_of(machine_id, session))
        given_up = retirement if retirement is not None and retirement.machine.id == machine_id.hex() else None
        if mine or ended or given_up is not None:
            warning = new_warning(repository, machine_id, repeats)
            write_warning(repository, replace(warning, packs=mine, sessions=ended, retirement=given_up))


def warn_again(repository: Repository, machine_id: bytes) -> None:
    """Tell one machine all that concerns it and still holds, in one warning."""
    said = repository.announced
    packs = {pack for record in said.tombstones() for pack in record.packs if is_of(machine_id, pack)}
    sessions = {record.session for record in said.ends() if is_of(machine_id, record.session)}
    retirements = sorted(said.retirements(), key=lambda record: (record.created, record.retirement))
    mine = [record for record in retirements if record.machine.id == machine_id.hex()]
    warning = new_warning(repository, machine_id, machine_id.hex())
    is_revoked = any(record.grant == machine_id.hex() for record in said.revocations())
    write_warning(
        repository,
        replace(
            warning, packs=tuple(sorted(packs)), sessions=tuple(sorted(sessions))[-SESSIONS_MAX:],
            retirement=mine[-1] if mine else None, is_revoked=is_revoked,
        ),
    )  # fmt: skip


def new_warning(repository: Repository, machine_id: bytes, repeats: str) -> WarningRecord:
    """A warning for one machine, which says nothing yet."""
    warning = make_id()[:TAG_SIZE] + machine_id[-TAG_SIZE:]
    return WarningRecord(warning=warning.hex(), created=rfc3339(repository.clock.now()), repeats=repeats)


def write_warning(repository: Repository, warning: WarningRecord) -> None:
    """Write a warning; durable on return."""
    repository.box.write(ObjectType.WARNING, bytes.fromhex(warning.warning), build_record(warning))


def warned_machines(repository: Repository) -> set[bytes]:
    """The machines whose put keys were not taken away. One whose grant is damaged is among them: its name is enough."""
    revoked = {record.grant for record in repository.announced.revocations()}
    return {grant for grant in repository.box.ids(ObjectType.GRANT) if grant.hex() not in revoked}


def clear_warnings(repository: Repository, repeats: Iterable[str]) -> None:
    """Take warnings away once the records that they repeat are gone. Where nothing may be deleted they stay."""
    gone = frozenset(repeats)
    if not gone or not any(True for _ in repository.box.ids(ObjectType.WARNING)):
        return
    with suppress(DeletionRefused):
        for record in read_records(repository.box, ObjectType.WARNING, WarningRecord):
            if record.repeats in gone:
                repository.box.delete(ObjectType.WARNING, bytes.fromhex(record.warning))


def warn_of_bad_chunks(repository: Repository, proof: str, bad_chunks: Iterable[str]) -> None:
    """Tell put-only machines of their packs in which a proof found chunks that are bad: they cannot read proofs."""
    bad = [bytes.fromhex(text) for text in bad_chunks]
    if bad and warned_machines(repository):
        index = repository.load_index()
        warn(repository, proof, packs={place.pack_id.hex() for chunk_id in bad for place in index.copies(chunk_id)})
