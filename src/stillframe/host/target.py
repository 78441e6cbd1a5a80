"""The target of a restore or clone: named by what it is, not by a name that moves, and held until the end.

Answers: "is this still the disk that was shown to the person, is it free, and does it stay so?" A disk's name can
change between the plan and the first write; its model, serial, size, sequence number and first and last bytes do not.
Whether the repository lies on it is asked of ``host.places``; what will be lost is the plan's to show.
"""

import contextlib
import errno
import os
from dataclasses import dataclass, fields
from typing import Final

from blake3 import blake3

from stillframe.block import BlockReader
from stillframe.block.file import FileWriter, open_file_reader, open_file_writer
from stillframe.errors import StillframeError, TargetError, UsageError
from stillframe.host.blocks import THIS_MACHINE, KernelPaths
from stillframe.host.disks import DiskFacts, describe
from stillframe.host.linux import lock_whole, require_linux
from stillframe.host.mounts import Use, users_of
from stillframe.units import MIB, format_size

SAMPLE_SIZE: Final = MIB
LOCK_PATIENCE_S: Final = 5.0

_WORDS: Final = {
    "kind": "kind of target",
    "model": "model",
    "serial": "serial number",
    "size": "size",
    "diskseq": "disk sequence number",
    "head_digest": "contents of its first MiB",
    "tail_digest": "contents of its last MiB",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetIdentity:
    """What a target is known by. All but ``path`` must be the same when it is opened.

    Attributes:
        path: Where it was, symbolic links resolved.
        kind: ``disk``, ``partition`` or ``file``.
        model: As in ``DiskFacts``.
        serial: As in ``DiskFacts``.
        size: Bytes.
        diskseq: As in ``DiskFacts``; it changes when a disk is unplugged and plugged in again.
        head_digest: BLAKE3 of the first MiB, in hexadecimal.
        tail_digest: BLAKE3 of the last MiB.
    """

    path: str
    kind: str
    model: str
    serial: str
    size: int
    diskseq: int | None
    head_digest: str
    tail_digest: str


def identify_target(path: str, *, kernel: KernelPaths = THIS_MACHINE) -> TargetIdentity:
    """Look at a target without writing to it.

    Raises:
        UsageError: There is no such disk or file.
        DeviceError: It could not be read.
    """
    facts = describe(path, kernel=kernel)
    with open_file_reader(facts.path) as reader:
        return _identity(facts, reader)


def require_free(path: str, *, kernel: KernelPaths = THIS_MACHINE) -> None:
    """Refuse a target that is in use now; ``open_target`` asks again.

    Raises:
        TargetError: It is mounted or in use.
    """
    _refuse_users(path, users_of(path, kernel=kernel))


def open_target(identity: TargetIdentity, *, kernel: KernelPaths = THIS_MACHINE) -> FileWriter:
    """Open a target for writing, make sure that it is the right one and free, and keep it so until it is closed.

    Returns:
        The writer; closing it gives the disk back.

    Raises:
        TargetError: It is mounted or in use, another run holds it, it is write-protected, or it is not what it was.
    """
    require_linux("writing to disks")
    try:
        facts = describe(identity.path, kernel=kernel)
    except UsageError as error:
        raise TargetError(f"{identity.path} is not there any more", hint=_PLAN_AGAIN) from error
    if facts.read_only:
        raise TargetError(
            f"{facts.path} is write-protected", hint="Look for a switch on the card or stick; it may also be worn out."
        )
    _refuse_users(facts.path, users_of(facts.path, kernel=kernel))
    with contextlib.ExitStack() as undo:
        writer = undo.enter_context(open_file_writer(facts.path, exclusive=True))
        _hold(writer, facts)
        # Held from here on: nobody can mount it, so what is asked now stays true.
        _refuse_users(facts.path, users_of(facts.path, kernel=kernel, probe=False))
        _compare(identity, _identity(describe(facts.path, kernel=kernel), writer))
        undo.pop_all()
    return writer


def create_target_file(path: str, size: int) -> FileWriter:
    """Create a sparse disk file that reads as zeros, and open it. It must not exist.

    Raises:
        TargetError: It exists, its folder does not, it may not be written, or the file system cannot hold that size.
    """
    if size <= 0:
        raise UsageError(f"a disk file of {size} bytes cannot be made", hint="Give the size of the disk.")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise _create_failure(path, size, error) from error
    try:
        os.truncate(descriptor, size)
    except OSError as error:
        os.unlink(path)
        raise _create_failure(path, size, error) from error
    finally:
        os.close(descriptor)
    return open_target(identify_target(path))


_PLAN_AGAIN: Final = "Run the command again: it shows anew what would be written, and what would be lost."


def _identity(facts: DiskFacts, reader: BlockReader) -> TargetIdentity:
    sample = min(SAMPLE_SIZE, reader.size)
    return TargetIdentity(
        path=facts.path,
        kind=facts.kind,
        model=facts.model,
        serial=facts.serial,
        size=reader.size,
        diskseq=facts.diskseq,
        head_digest=blake3(reader.read_at(0, sample)).hexdigest(),
        tail_digest=blake3(reader.read_at(reader.size - sample, sample)).hexdigest(),
    )


def _compare(planned: TargetIdentity, found: TargetIdentity) -> None:
    names = [field.name for field in fields(TargetIdentity) if field.name != "path"]
    changed = [_difference(name, planned, found) for name in names if getattr(planned, name) != getattr(found, name)]
    if changed:
        raise TargetError(
            f"{planned.path} is not the target that was shown: {'; '.join(changed)}. Nothing was written",
            hint=_PLAN_AGAIN,
        )


def _difference(name: str, planned: TargetIdentity, found: TargetIdentity) -> str:
    if name.endswith("_digest"):
        return f"the {_WORDS[name]} changed"
    before, now = getattr(planned, name), getattr(found, name)
    if name == "size":
        before, now = f"{format_size(before)} ({before} bytes)", f"{format_size(now)} ({now} bytes)"
    return f"the {_WORDS[name]} was {before or 'not known'} and is {now or 'not known'}"


def _refuse_users(path: str, users: tuple[Use, ...]) -> None:
    if not users:
        return
    words = {"mounted": "mounted at", "swap": "used as", "holder": "held by"}
    reasons = [f"{use.device} is {words[use.kind]} {use.where}" for use in users[:4]]
    more = f", and {len(users) - 4} more" if len(users) > 4 else ""
    first = users[0]
    hint = {
        "mounted": f"If nothing on it is needed: `umount {first.where}`. The running system's disk is never a target.",
        "swap": f"If this is the right disk: `swapoff {first.device}`.",
        "holder": f"Stop what holds it (`vgchange -an`, `cryptsetup close`, `losetup -d`); `lsblk {path}` shows it.",
    }[first.kind]
    raise TargetError(f"{path} is in use: {'; '.join(reasons)}{more}", hint=hint)


def _hold(writer: FileWriter, facts: DiskFacts) -> None:
    """Lock the whole disk, also when only a partition is written: two runs on one disk are never meant."""
    whole = facts.parent or facts.path
    try:
        lock = lock_whole(whole, patience_s=LOCK_PATIENCE_S)
    except OSError as error:
        raise TargetError(f"{whole} cannot be locked: {error.strerror}", hint="Is the disk still there?") from error
    if lock is None:
        raise TargetError(
            f"{whole} is locked by another program, perhaps another run of Stillframe",
            hint=f"Wait for it; `lslocks` and `fuser {whole}` show who it is.",
        )
    writer.close_with(lock)


def _create_failure(path: str, size: int, error: OSError) -> StillframeError:
    if error.errno == errno.EEXIST:
        return TargetError(f"{path} exists already", hint="Name a file that does not exist, or remove it yourself.")
    if error.errno in (errno.EFBIG, errno.ENOSPC, errno.EINVAL):
        return TargetError(
            f"the file system of {path} cannot hold a file of {format_size(size)} ({error.strerror})",
            hint="Choose a file system for large files: FAT32 ends at 4 GiB.",
        )
    return TargetError(f"{path} cannot be made: {error.strerror}", hint="Name a folder that exists and may be written.")
