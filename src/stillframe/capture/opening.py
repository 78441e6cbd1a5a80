"""Opening a source the best way there is: offline when nothing uses it, else by a tracked freeze, else not at all.

Answers: "may this be copied, and how does it hold still?" A source in use that cannot be held still is copied only
when the person insists, and then it is ``torn``: never called good, never a baseline.
"""

from stillframe.block.file import open_file_reader
from stillframe.capture.live import open_live_source
from stillframe.capture.offline import OpenSource, writers_of
from stillframe.capture.windows import open_windows_source
from stillframe.errors import MachineRefusal, SourceInUse
from stillframe.events import Notice
from stillframe.host.changes import change_stamp
from stillframe.host.disks import DiskFacts, describe
from stillframe.host.linux import DeviceNumber, hold_exclusively, thing_at
from stillframe.host.mounts import Use, read_users
from stillframe.host.windows.calls import is_windows, system_calls


def open_source(path: str, *, allow_torn: bool = False, may_be_live: bool = True) -> OpenSource:
    """Open a disk, a partition or a disk file for reading.

    Args:
        path: The source; on Windows as ``open_windows_source`` takes it.
        allow_torn: Copy it as it changes, when it is in use.
        may_be_live: Hold it still while it is in use, where that is possible.

    Raises:
        UsageError: There is no such thing.
        SourceInUse: Something may write to it, and it cannot be held still.
        MachineRefusal: This user may not read it.
    """
    if is_windows():
        return open_windows_source(system_calls(), path, allow_torn=allow_torn, may_be_live=may_be_live)
    facts = describe(path)
    writers = writers_of(facts.path)
    if writers and not allow_torn:
        return _open_live(facts, writers, may_be_live=may_be_live)
    notices: tuple[Notice, ...] = ()
    if writers:
        notices = (
            Notice(
                code="source-torn",
                message=f"{facts.path} was copied while in use ({_in_words(writers)}): this image may be unusable",
                hint="Unmount it and make another.",
            ),
        )
    stamp = change_stamp(facts.path)
    reader = open_file_reader(facts.path)
    claim = hold_exclusively(facts.path) if not writers and facts.kind != "file" else None
    return OpenSource(
        facts=facts, reader=reader, consistency="torn" if writers else "offline",
        notices=notices, stamp=stamp, claim=claim,
    )  # fmt: skip


def _open_live(facts: DiskFacts, writers: tuple[Use, ...], *, may_be_live: bool) -> OpenSource:
    """A source in use, to be held still; refused with the reason where that cannot be."""
    number = thing_at(facts.path)
    reason = "a disk file in use cannot be held still; name the device that was made of it"
    if not may_be_live:
        reason = "it cannot be held still for this in this version"
    elif isinstance(number, DeviceNumber):
        users = read_users()
        try:
            return open_live_source(facts, users, users.tree.nodes[number])
        except SourceInUse as error:
            raise _refused(facts, writers, error.message) from error
        except MachineRefusal as error:
            raise _refused(facts, writers, f"{error.message}. {error.hint}") from error
    raise _refused(facts, writers, reason)


def _refused(facts: DiskFacts, writers: tuple[Use, ...], reason: str) -> SourceInUse:
    return SourceInUse(
        f"{facts.path} is in use: {_in_words(writers)}; {reason}",
        hint="Unmount it, or start the computer from a rescue stick. "
        "'--allow-torn' copies it as it changes: such an image may be unusable and is never called good.",
    )


def _in_words(uses: tuple[Use, ...]) -> str:
    words = [
        f"{use.device} is mounted at {use.where}" if use.kind == "mounted" else f"{use.device} is used by {use.where}"
        for use in uses
    ]
    return "; ".join(words[:3]) + (f"; and {len(words) - 3} more" if len(words) > 3 else "")
