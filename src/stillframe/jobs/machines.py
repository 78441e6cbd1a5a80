"""The verbs ``machines`` and ``retire``: who uses a repository, and who will not come back.

Answers: "which machine do you mean?", "what does it leave open?" Thin: ``repo.retirement`` does it.
"""

from collections.abc import Sequence
from typing import Final

from stillframe.errors import RepositoryNotFound, UsageError
from stillframe.repo.deletion_records import SessionRecord
from stillframe.repo.records import MachineName
from stillframe.repo.repository import Repository
from stillframe.repo.retirement import KnownMachine, list_machines, retire_machine, unretire_machine
from stillframe.repo.session import Owner, begin_session

_PREFIX_MIN: Final = 4


def find_machine(machines: Sequence[KnownMachine], word: str) -> KnownMachine:
    """The machine that a person means: its name, its id, or at least four characters of that.

    Raises:
        RepositoryNotFound: There is none.
        UsageError: The word could mean several. Nobody guesses.
    """
    found = [one for one in machines if one.machine.name == word]
    if not found and len(word) >= _PREFIX_MIN:
        found = [one for one in machines if one.machine.id.startswith(word.lower())]
    if len(found) > 1:
        names = ", ".join(f"{one.machine.id[:12]} ({one.machine.name})" for one in found)
        raise UsageError(
            f"{word!r} could mean {len(found)} machines: {names}", hint="Write the id of the one you mean."
        )
    if not found:
        raise RepositoryNotFound(f"no machine {word!r} is known here", hint="'stillframe machines' lists them.")
    return found[0]


def machines_of(repository: Repository) -> tuple[KnownMachine, ...]:
    """Every machine that has an image, a session or a retirement here, by name."""
    return list_machines(repository)


def retire(repository: Repository, machine: MachineName, *, owner: Owner) -> tuple[SessionRecord, ...]:
    """Retire a machine; returns its sessions that were ended.

    What it has at work will not count, and it may not write here again before it is taken back.
    """
    session = begin_session(repository, owner, "retire")
    try:
        ended = retire_machine(repository, machine, owner.machine)
        return tuple(record for record in ended if record.session != session.id)
    finally:
        session.end()


def take_back(repository: Repository, machine: MachineName, *, owner: Owner) -> None:
    """Let a retired machine write again.

    Raises:
        UsageError: It is not retired.
    """
    session = begin_session(repository, owner, "retire")
    try:
        unretire_machine(repository, machine, owner.machine)
    finally:
        session.end()
