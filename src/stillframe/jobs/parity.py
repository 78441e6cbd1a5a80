"""The verb ``parity``: whether new objects get parity, and giving it to those that have none.

Answers: "is bit rot repaired here, and what would it take?" The code, the objects and what they heal are in
``repo.parity``.
"""

from stillframe.errors import StorageFull
from stillframe.events import JobFinished, JobStarted
from stillframe.jobs.context import JobContext
from stillframe.jobs.saving.preflight import RESERVE
from stillframe.repo.parity.condition import ParityStatus, RenewedParity, parity_status, renew_parity
from stillframe.repo.parity.sidecars import covered_objects
from stillframe.repo.repository import Repository
from stillframe.repo.session import Owner, begin_session
from stillframe.units import format_size

__all__ = ["ParityStatus", "RenewedParity", "parity_status", "renew", "switch"]


def switch(repository: Repository, *, wanted: bool, owner: Owner) -> None:
    """Decide whether new objects get parity. What is there stays as it is.

    Raises:
        Locked: A repair is at work.
    """
    session = begin_session(repository, owner, "parity")
    try:
        repository.parity.decide(parity=wanted, machine=owner.machine, clock=repository.clock)
    finally:
        session.end()


def renew(repository: Repository, context: JobContext) -> RenewedParity:
    """Give parity to every object that has none, and write those sidecars anew that are not whole.

    Raises:
        Locked: A repair is at work.
        StorageFull: There is no room for it. Nothing was written.
        Cancelled: The person stopped it. What was written is right.
    """
    began, status = repository.clock.monotonic(), parity_status(repository)
    free = repository.box.store.free_space()
    if free is not None and status.bytes_missing + RESERVE > free:
        raise StorageFull(
            f"the repository has room for {format_size(free)}, and parity needs {format_size(status.bytes_missing)}",
            hint="Make room with 'stillframe expire', or use a larger disk.",
        )
    session = begin_session(repository, context.owner, "parity")
    try:
        context.events.emit(
            JobStarted(verb="parity", what="every object and its parity", bytes_total=status.bytes_objects)
        )
        objects = covered_objects(repository.box)
        done = renew_parity(repository, objects, events=context.events, check=context.cancel.check)
    finally:
        session.end()
    context.events.emit(JobFinished(verb="parity", seconds=repository.clock.monotonic() - began))
    return done
