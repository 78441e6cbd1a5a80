"""Opening a source the best way there is.

Answers: "may this be copied, and how does it hold still?" Offline when nothing uses it, else by a snapshot of LVM, else
by a tracked freeze, else not at all. A source in use that cannot be held still is copied only when the person insists,
and then it is ``torn``: never called good, never a baseline.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from stillframe.block.file import open_file_reader
from stillframe.capture.diskfiles import in_words, open_file_source
from stillframe.capture.live import open_live_source
from stillframe.capture.lvm import SnapshotSource, open_snapshot_source
from stillframe.capture.offline import OpenSource, writers_of
from stillframe.capture.windows import open_windows_source
from stillframe.errors import MachineRefusal, SourceInUse, UsageError
from stillframe.events import Notice
from stillframe.host.blocks import BlockNode
from stillframe.host.changes import change_stamp
from stillframe.host.disks import DiskFacts, describe
from stillframe.host.linux import DeviceNumber, hold_exclusively, thing_at
from stillframe.host.lvm import is_logical_volume
from stillframe.host.mounts import Use, Users, read_users
from stillframe.host.windows.calls import is_windows, system_calls


@contextmanager
def open_sources(paths: Sequence[str], *, allow_torn: bool = False) -> Iterator[tuple[OpenSource, ...]]:
    """Open what one image is made of, until the block ends; arguments and errors as of ``open_source``.

    Several sources in use are held still together, at one moment, which only the tracked freeze can do: a snapshot is
    made where only one of them is in use.
    """
    may_snapshot = len(paths) == 1
    if not may_snapshot and not is_windows():
        may_snapshot = sum(bool(writers_of(describe(path).path)) for path in paths) == 1
    with ExitStack() as stack:
        sources = [
            stack.enter_context(open_source(path, allow_torn=allow_torn, may_snapshot=may_snapshot)) for path in paths
        ]
        in_use = [source for source in sources if source.announcement is not None]
        if len(in_use) > 1 and any(isinstance(source, SnapshotSource) for source in in_use):
            raise SourceInUse(
                f"{in_use[-1].facts.path} came into use while the sources were opened", hint="Run the backup again."
            )
        yield tuple(sources)


def open_source(
    path: str, *, allow_torn: bool = False, may_be_live: bool = True, may_snapshot: bool = False
) -> OpenSource:
    """Open a disk, a partition or a disk file for reading.

    Args:
        path: The source; on Windows as ``open_windows_source`` takes it.
        allow_torn: Copy it as it changes, when it is in use.
        may_be_live: Hold it still while it is in use, where that is possible.
        may_snapshot: A snapshot of LVM may be made for it: the caller will ``hold`` it.

    Raises:
        UsageError: There is no such thing.
        SourceInUse: Something may write to it, and it cannot be held still.
        MachineRefusal: This user may not read it.
    """
    if is_windows():
        return open_windows_source(system_calls(), path, allow_torn=allow_torn, may_be_live=may_be_live)
    if os.path.isdir(path):
        raise UsageError(
            f"{path} is a folder, and neither a disk nor a disk file",
            hint="'stillframe import' takes the folder of a Clonezilla image, and Windows' WindowsImageBackup; "
            "'stillframe disks' lists the disks.",
        )
    facts = describe(path)
    if facts.kind == "file":
        return open_file_source(facts, allow_torn=allow_torn)
    writers = writers_of(facts.path)
    if writers and not allow_torn:
        return _open_live(facts, writers, may_be_live=may_be_live, may_snapshot=may_snapshot)
    notices: tuple[Notice, ...] = ()
    if writers:
        notices = (
            Notice(
                code="source-torn",
                message=f"{facts.path} was copied while in use ({in_words(writers)}): this image may be unusable",
                hint="Unmount it and make another.",
            ),
        )
    stamp = change_stamp(facts.path)
    reader = open_file_reader(facts.path)
    claim = hold_exclusively(facts.path) if not writers else None
    return OpenSource(
        facts=facts, reader=reader, consistency="torn" if writers else "offline",
        notices=notices, stamp=stamp, claim=claim,
    )  # fmt: skip


def _open_live(facts: DiskFacts, writers: tuple[Use, ...], *, may_be_live: bool, may_snapshot: bool) -> OpenSource:
    """A source in use, to be held still; refused with the reason where that cannot be."""
    number = thing_at(facts.path)
    reason = "it is no block device any more"
    if not may_be_live:
        reason = "it cannot be held still for this in this version"
    elif isinstance(number, DeviceNumber):
        users = read_users()
        node = users.tree.nodes[number]
        if may_snapshot and is_logical_volume(node):
            return _open_volume(facts, writers, users, node)
        return _open_followed(facts, writers, users, node)
    raise _refused(facts, writers, reason)


def _open_volume(facts: DiskFacts, writers: tuple[Use, ...], users: Users, node: BlockNode) -> OpenSource:
    """A logical volume in use: from a snapshot, or else followed."""
    try:
        return open_snapshot_source(facts, users, node)
    except MachineRefusal as error:
        reason, message = error.message, f"no LVM snapshot: {error.message}"
        why = Notice(code="no-snapshot", message=message, hint=error.hint)
    try:
        followed = open_live_source(facts, users, node)
    except MachineRefusal as error:  # mostly for another reason
        both = error.message if reason in error.message else f"{error.message}; {message}"
        raise _refused(facts, writers, both, hint=why.hint) from error
    return replace(followed, notices=(why,))


def _open_followed(facts: DiskFacts, writers: tuple[Use, ...], users: Users, node: BlockNode) -> OpenSource:
    try:
        return open_live_source(facts, users, node)
    except SourceInUse as error:
        raise _refused(facts, writers, error.message) from error
    except MachineRefusal as error:
        raise _refused(facts, writers, f"{error.message}. {error.hint}") from error


def _refused(facts: DiskFacts, writers: tuple[Use, ...], reason: str, *, hint: str = "") -> SourceInUse:
    return SourceInUse(
        f"{facts.path} is in use: {in_words(writers)}; {reason}",
        hint=f"{hint} Unmount it, or start the computer from a rescue stick. "
        "'--allow-torn' copies it as it changes: such an image may be unusable and is never called good.".lstrip(),
    )
