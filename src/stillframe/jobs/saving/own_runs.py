"""Runs of one put-only machine beside each other, known by files in its state folder.

Answers: "which runs of this machine are at work now?" where its sessions in the repository cannot be read again. That
only saves work and keeps numbers tidy; nothing that is stored rests on it. Normative: ``docs/format/v1.md``,
section 17.
"""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from stillframe.block.syscalls import lock_file
from stillframe.errors import Locked, MachineRefusal
from stillframe.repo.records import BESIDE_MAX
from stillframe.repo.session import Session

_ID_LENGTH: Final = 32
_SIZE_MAX: Final = 1 << 20


@contextmanager
def known_here(folder: str, session: Session) -> Iterator[tuple[str, ...]]:
    """Let other runs of this machine know of this one while the block runs.

    Args:
        folder: Where this machine keeps what lasts; empty for none, and then nobody is known.
        session: Of this run, begun.

    Yields:
        The sessions of the runs that are at work beside it. Of two such runs at least one sees the other.

    Raises:
        Locked: One of them saves the same disk.
    """
    mine = session.record
    runs = os.path.join(folder, f"{session.repository.identity.id}.runs") if folder else ""
    descriptor = _announce(runs, mine.session, mine.disks) if runs else -1
    if descriptor < 0:
        yield ()
        return
    try:
        others = dict(_others(runs, mine.session))
        for disks in others.values():
            if not set(disks).isdisjoint(mine.disks):
                raise Locked(
                    f"'backup' is at work in this repository on {mine.machine.name}, this machine, and saves "
                    f"{', '.join(disks)}",
                    hint="Wait until it has ended.",
                )
        yield tuple(sorted(others)[:BESIDE_MAX])
    finally:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(runs, mine.session))
        os.close(descriptor)


def _announce(runs: str, session_id: str, disks: tuple[str, ...]) -> int:
    """A file with the disks of this run, locked before it has its name: one that is not locked is of a dead run."""
    fresh = os.path.join(runs, f"{session_id}.new")
    descriptor = -1
    try:
        os.makedirs(runs, mode=0o700, exist_ok=True)
        descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(descriptor, b"\0".join(os.fsencode(disk) for disk in disks))
        if lock_file(descriptor):
            os.rename(fresh, os.path.join(runs, session_id))
            return descriptor
    except (OSError, MachineRefusal):  # no folder or no locks here: then runs do not know of each other
        pass
    if descriptor >= 0:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            os.unlink(fresh)
    return -1


def _others(runs: str, session_id: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The sessions of other runs that live, and their disks; what dead ones left is taken away."""
    for name in os.listdir(runs):
        if name == session_id or len(name) != _ID_LENGTH:
            continue
        with contextlib.suppress(OSError), open(os.path.join(runs, name), "rb") as file:
            if lock_file(file.fileno()):
                os.unlink(file.name)
            else:
                yield name, tuple(os.fsdecode(disk) for disk in file.read(_SIZE_MAX).split(b"\0"))
