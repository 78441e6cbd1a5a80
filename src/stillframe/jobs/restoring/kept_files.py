"""What was on a disk where a clone writes its table, kept in a file: a clone has no repository.

Answers: "which file puts the table of this disk back?" The file is written once and nothing else needs it: without it
there is only no way back. It must not lie on the disk that is written.
"""

import contextlib
import os
from typing import Final

from stillframe.block import BlockReader
from stillframe.clock import Clock
from stillframe.errors import DamagedError, StorageError, TargetError, UsageError
from stillframe.events import EventSink, Notice
from stillframe.host.places import lies_on
from stillframe.host.target import TargetIdentity
from stillframe.jobs.restoring.undo_table import describe_table
from stillframe.repo.format import JSON_SIZE_MAX
from stillframe.repo.kept_tables import KeptTable
from stillframe.repo.records import build_record, parse_record

FILES_MAX: Final = 20
"""In the folder where they go by themselves; older ones are deleted."""


def check_file(path: str, target_path: str) -> None:
    """Refuse a file for a table that would not outlive it, or that exists.

    Raises:
        TargetError: It lies on the target, or nobody can say.
        UsageError: It exists.
    """
    if os.path.lexists(path):
        raise UsageError(f"{path} exists already", hint="Name a file that does not exist.")
    if os.path.exists(target_path) and lies_on(path, target_path) is not False:
        raise TargetError(
            f"{path} lies on the target {target_path}, or nobody can say: it would be overwritten with it",
            hint="Name a file on another disk with '--keep-table FILE'.",
        )


def keep_in_file(
    path: str, target: BlockReader, identity: TargetIdentity, contents: tuple[str, ...], *, events: EventSink,
    clock: Clock,
) -> None:  # fmt: skip
    """Keep what a clone is going to write over, and say where. Nothing is kept of a target without contents.

    What cannot be written is a notice.
    """
    if not contents:
        return
    try:
        check_file(path, identity.path)
        record = describe_table(target, identity, contents, clock)
        _write(path, build_record(record))
    except (OSError, TargetError, UsageError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.message
        words = f"the partition table of the target could not be kept, so it cannot be put back: {reason}"
        events.emit(Notice(code="table-not-kept", message=words, hint="'--keep-table FILE' names another place."))
        return
    events.emit(
        Notice(
            code="table-kept", message=f"the partition table that was on {identity.path} is kept in {path}",
            hint=f"'stillframe restore --undo-table {identity.path} --from {path}' puts it back.",
        )
    )  # fmt: skip


def default_file(folder: str, name: str) -> str:
    """Where a table goes when no file is named: a folder in the state of this machine; old ones are removed from it."""
    tables = os.path.join(folder, "tables")
    with contextlib.suppress(OSError):
        os.makedirs(tables, mode=0o700, exist_ok=True)
        old = sorted(one for one in os.listdir(tables) if one.endswith(".table"))
        for one in old[: -FILES_MAX + 1]:
            os.unlink(os.path.join(tables, one))
    return os.path.join(tables, f"{name}.table")


def read_kept(path: str) -> KeptTable:
    """The table in a file.

    Raises:
        StorageError: It cannot be read.
        DamagedError: It is no such file.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(JSON_SIZE_MAX + 1)
    except OSError as error:
        raise StorageError(
            f"{path} cannot be read: {error.strerror}", hint="A clone says where it keeps it."
        ) from error
    try:
        return parse_record(raw, KeptTable, thing=path)
    except DamagedError as error:
        raise DamagedError(
            error.message, hint="Name a file that 'clone' has written; it says which when it begins."
        ) from error


def _write(path: str, raw: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
