"""Put keys as their owner sees them: made, listed, taken away.

Answers: "which machines may add without reading?" and "what counts of one whose key was taken away?" Nobody can tell
when an object of such a machine was really made. So what is there when the key is taken away is written down, and
nothing else of it counts from then on. Normative: ``docs/format/v1.md``, section 17.
"""

from dataclasses import dataclass, replace

from stillframe.clock import rfc3339
from stillframe.errors import DamagedError, UnsupportedFormat, UsageError
from stillframe.repo.announcements import read_records
from stillframe.repo.deletion_records import Revocation
from stillframe.repo.ending import end_sessions, ending_of
from stillframe.repo.format import ObjectType
from stillframe.repo.inventory import read_image
from stillframe.repo.put.credential import (
    Credential,
    derive_credential,
    is_of,
    make_machine_id,
)
from stillframe.repo.put.records import Grant
from stillframe.repo.put.warnings import new_warning, write_warning
from stillframe.repo.records import MachineName, build_record
from stillframe.repo.repository import Repository
from stillframe.repo.retirement import open_records
from stillframe.repo.sealing import make_id
from stillframe.store import ObjectMissing


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownGrant:
    """A put key, and what took it away, if anything did: the last word of it."""

    grant: Grant
    revoked: Revocation | None


def list_grants(repository: Repository) -> tuple[KnownGrant, ...]:
    """Every put key that was made, oldest first."""
    revoked = {record.grant: record for record in repository.announced.revocations()}
    found = read_records(repository.box, ObjectType.GRANT, Grant)
    return tuple(
        KnownGrant(grant=grant, revoked=revoked.get(grant.grant))
        for grant in sorted(found, key=lambda one: (one.created, one.grant))
    )


def new_credential(repository: Repository, label: str) -> Credential:
    """A new put key, which nothing knows of until it is granted.

    Raises:
        UsageError: The repository is not encrypted, or the label is empty or too long.
    """
    if repository.identity.encryption == "none":
        raise UsageError(
            "this repository is not encrypted: whoever can add to it can read it, so a put key protects nothing",
            hint="Make a repository with '--encryption aes256'.",
        )
    return derive_credential(
        repository.box.master_key, repository.found_identity, machine_id=make_machine_id(), label=label,
        created=rfc3339(repository.clock.now()),
    )  # fmt: skip


def grant(repository: Repository, credential: Credential, by: MachineName) -> None:
    """Let a put key add from now on."""
    record = Grant(grant=credential.machine, label=credential.label, created=credential.created, by=by)
    repository.box.write(ObjectType.GRANT, credential.machine_id, build_record(record))


def revoke(repository: Repository, grant_id: str, by: MachineName) -> Revocation:
    """Take a put key away: what it has written until now counts, and nothing else.

    The machine is warned first, then what there is of it is listed, then the list is written down. A run whose manifest
    was there before the warning finds it listed; any other run sees the warning after its manifest, and knows.
    """
    machine_id, revocation = bytes.fromhex(grant_id), make_id()
    write_warning(repository, replace(new_warning(repository, machine_id, revocation.hex()), is_revoked=True))
    sessions = [record for record in open_records(repository) if record.machine.id == grant_id]
    end_sessions(repository, (ending_of(record, "retired") for record in sessions), by)
    record = Revocation(
        revocation=revocation.hex(), grant=grant_id, by=by, created=rfc3339(repository.clock.now()),
        kept=tuple(image_id.hex() for image_id in _images_of(repository, machine_id)),
    )  # fmt: skip
    repository.box.write(ObjectType.REVOCATION, revocation, build_record(record))
    return record


def _images_of(repository: Repository, machine_id: bytes) -> list[bytes]:
    """The images of a machine that can be read: under the name of another one anything could be put later."""
    found = []
    for image_id in sorted(repository.box.ids(ObjectType.IMAGE)):
        if is_of(machine_id, image_id.hex()):
            try:
                read_image(repository, image_id)
            except (ObjectMissing, DamagedError, UnsupportedFormat):
                continue
            found.append(image_id)
    return found
