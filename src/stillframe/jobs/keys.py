"""The verbs ``key`` and ``recovery-kit``: which secrets open a repository, and which add to it without reading.

Answers: "which passphrases, recovery keys and put keys are there?", adds one, takes one away. The rules (two copies,
tried before use, never the last) are in ``repo.keys``, those of put keys in ``repo.put``.
"""

from collections.abc import Callable

from stillframe.clock import rfc3339
from stillframe.errors import UsageError
from stillframe.host.places import is_inside
from stillframe.jobs.repositories import SecretSources, kit_file, new_secret, recovery_kit_text, require_outside
from stillframe.repo.deletion_records import Revocation
from stillframe.repo.keys import DEFAULT_COST, Cost, FoundSlot
from stillframe.repo.put.credential import Credential, build_credential
from stillframe.repo.put.grants import KnownGrant, grant, list_grants, new_credential, revoke
from stillframe.repo.recovery_key import format_recovery_key, make_recovery_secret
from stillframe.repo.repository import Repository
from stillframe.repo.session import Owner, begin_session


def list_keys(repository: Repository) -> tuple[FoundSlot, ...]:
    """All key slots, oldest first."""
    return repository.keys.slots()


def add_key(
    repository: Repository, secrets: SecretSources, *, label: str, owner: Owner, cost: Cost = DEFAULT_COST
) -> bytes:
    """Add a passphrase.

    Returns:
        The id of its slot.
    """
    ring = repository.keys
    passphrase = new_secret(secrets)
    session = begin_session(repository, owner, "key")
    try:
        created = rfc3339(repository.clock.now())
        return ring.add_passphrase(repository.box.master_key, passphrase, label=label, created=created, cost=cost)
    finally:
        session.end()


def add_put_key(repository: Repository, path: str, folder: str, *, label: str, owner: Owner) -> Credential:
    """Make a put key, and the file of it.

    Args:
        repository: To what the key adds.
        path: The file; must not exist, nor lie inside the repository.
        folder: Where the repository is.
        label: Whose it is.
        owner: Who makes it.

    Raises:
        UsageError: The repository is not encrypted, or the file cannot be made there.
    """
    require_key_place(folder, path)
    credential = new_credential(repository, label)
    session = begin_session(repository, owner, "key")
    try:
        with kit_file(path, folder) as write:
            write(build_credential(credential))
            grant(repository, credential, owner.machine)
    finally:
        session.end()
    return credential


def require_key_place(folder: str, path: str) -> None:
    """Refuse to write a put key beside what it adds to, or over a file that exists.

    Raises:
        UsageError: With another place to choose.
    """
    if is_inside(folder, path):
        raise UsageError(
            f"{path} lies inside the repository: whoever finds the folder would have that key",
            hint="Write it to another place, such as a stick on which it goes to its machine.",
        )
    require_outside(folder, path)


def list_put_keys(repository: Repository) -> tuple[KnownGrant, ...]:
    """All put keys, also those that were taken away, oldest first."""
    return list_grants(repository)


def remove_put_key(repository: Repository, found: KnownGrant, *, owner: Owner) -> Revocation:
    """Take a put key away. What is there of its machine counts, and nothing that comes later."""
    session = begin_session(repository, owner, "key")
    try:
        return revoke(repository, found.grant.grant, owner.machine)
    finally:
        session.end()


def find_key(repository: Repository, word: str) -> FoundSlot | KnownGrant:
    """The key a person means: its id, or the beginning of it.

    Raises:
        UsageError: There is none, or several begin so.
    """
    ids: list[tuple[str, FoundSlot | KnownGrant]] = [(slot.slot_id.hex(), slot) for slot in repository.keys.slots()]
    for one in list_grants(repository):  # all put keys begin alike: what follows is meant as well
        ids.append((one.grant.grant, one))
        ids.append((put_key_name(one), one))
    found = list({id(key): key for name, key in ids if name.startswith(word.lower()) and word}.values())
    if len(found) != 1:
        how = "no key begins" if not found else f"{len(found)} keys begin"
        raise UsageError(f"{how} with {word!r}", hint="'stillframe key list' shows them.")
    return found[0]


def put_key_name(found: KnownGrant) -> str:
    """The part of a put key's id that is its own."""
    return found.grant.grant[16:]


def remove_key(repository: Repository, slot: FoundSlot, *, owner: Owner) -> None:
    """Take a key away. The last one that opens never goes."""
    session = begin_session(repository, owner, "key")
    try:
        repository.keys.remove(slot.slot_id)
    finally:
        session.end()


def make_recovery_kit(
    repository: Repository, path: str, folder: str, *, owner: Owner, page: Callable[[str], str] | None = None
) -> bytes:
    """Make a recovery key, and a file with it for printing.

    Args:
        repository: What the key opens.
        path: The file; must not exist, nor lie inside the repository.
        folder: Where the repository is.
        owner: Who makes it.
        page: The text of the file for a key; by default the recovery kit.

    Returns:
        The id of its slot.
    """
    ring = repository.keys
    key = format_recovery_key(make_recovery_secret())
    session = begin_session(repository, owner, "key")
    try:
        with kit_file(path, folder) as write:
            write(page(key) if page is not None else recovery_kit_text(repository.identity, key, folder))
            return ring.add_recovery(repository.box.master_key, key, created=rfc3339(repository.clock.now()))
    finally:
        session.end()
