"""What was on a target where its partition table is written, kept in the repository, and put back.

Answers: "I restored onto the wrong disk: what can be had of it?" Its table, and the beginning and the end of it; what
was written over its partitions meanwhile is gone. Kept before the first byte of a restore is written; where the
repository cannot be written, a notice says that there is no way back.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from stillframe.block import BlockReader
from stillframe.clock import Clock, rfc3339
from stillframe.disk import read_layout
from stillframe.errors import DeviceError, DiskFormatError, StorageError, TargetError
from stillframe.events import EventSink, JobFinished, JobStarted, Notice
from stillframe.extents import Extent, ExtentSet
from stillframe.host.target import TargetIdentity, identify_target, open_target
from stillframe.jobs.context import JobContext
from stillframe.jobs.owner import this_owner
from stillframe.jobs.restoring.targets import refuse_repository
from stillframe.repo.format import ObjectType
from stillframe.repo.kept_tables import KEPT_PIECE_MAX, KeptPiece, KeptTable, kept_tables
from stillframe.repo.records import build_record
from stillframe.repo.repository import Repository
from stillframe.repo.sealing import make_id
from stillframe.store import DeletionRefused
from stillframe.units import MIB

KEPT_MAX: Final = 5
"""Of one target; older ones are deleted."""
_BYTES_MAX: Final = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class UndoPlan:
    """What is put back where. ``lost`` is what is on the target now, in words."""

    kept: KeptTable
    target: TargetIdentity
    lost: tuple[str, ...]


def keep_table(
    repository: Repository, target: BlockReader, identity: TargetIdentity, contents: tuple[str, ...], events: EventSink
) -> None:
    """Keep what a restore is going to write over: the first and the last MiB of a target, and its table.

    Nothing is kept of a target without contents: an empty one, or one that a restore has cleared and not finished,
    which must not take the place of what was there before.
    """
    if not contents:
        return
    record = describe_table(target, identity, contents, repository.clock)
    try:
        repository.box.write(ObjectType.KEPT_TABLE, bytes.fromhex(record.table), build_record(record))
        for old in [one for one in kept_tables(repository) if _is_of(one, identity)][:-KEPT_MAX]:
            with suppress(DeletionRefused):
                repository.box.delete(ObjectType.KEPT_TABLE, bytes.fromhex(old.table))
    except StorageError as error:
        words = f"the partition table of the target could not be kept, so it cannot be put back: {error.message}"
        events.emit(Notice(code="table-not-kept", message=words, hint=error.hint))


def describe_table(target: BlockReader, identity: TargetIdentity, contents: tuple[str, ...], clock: Clock) -> KeptTable:
    """What is on a target at its beginning and end, and in its table."""
    return KeptTable(
        table=make_id().hex(), created=rfc3339(clock.now()), machine=this_owner().machine,
        path=identity.path[:4000], model=identity.model[:200], serial=identity.serial[:200], size=identity.size,
        contents=tuple(words[:4000] for words in contents[:1000]), pieces=tuple(_pieces(target)),
    )  # fmt: skip


def plan_undo_from(kept: KeptTable, path: str, *, lost: tuple[str, ...]) -> UndoPlan:
    """Put back what a file says. Writes nothing.

    Raises:
        TargetError: It was not on this target.
    """
    target = identify_target(path)
    if not _is_of(kept, target):
        number = " ".join(filter(None, [kept.model, kept.serial])) or "no number"
        raise TargetError(
            f"what is kept there was on {kept.path} ({number}, {kept.size} bytes), not on {path}",
            hint="Name that disk; 'stillframe disks' lists those of this machine.",
        )
    return UndoPlan(kept=kept, target=target, lost=lost)


def plan_undo(repository: Repository, path: str, *, repository_folder: str, lost: tuple[str, ...]) -> UndoPlan:
    """Find what was on a target before the last restore onto it. Writes nothing.

    Raises:
        TargetError: Nothing is kept of it, or it holds the repository.
    """
    refuse_repository(repository_folder, path)
    target = identify_target(path)
    found = [one for one in kept_tables(repository) if _is_of(one, target)]
    if not found:
        raise TargetError(
            f"nothing is kept of what was on {path}",
            hint="A restore keeps the table of the disk that it writes to, in the repository that it restores from.",
        )
    return UndoPlan(kept=found[-1], target=target, lost=lost)


def apply_undo(plan: UndoPlan, clock: Clock, context: JobContext) -> int:
    """Put it back; the bytes that were written. The first sector is written last.

    Raises:
        TargetError: The target is not what it was when the plan was made, or has come into use.
    """
    began = clock.monotonic()
    context.events.emit(JobStarted(verb="restore", what=plan.target.path, bytes_total=0))
    with open_target(plan.target) as target:
        first = b""
        for piece in plan.kept.pieces:
            if piece.offset + len(piece.data) > target.size:
                raise TargetError(f"{plan.target.path} is smaller than it was", hint="Is it the same disk?")
        for piece in plan.kept.pieces:
            data, offset = piece.data, piece.offset
            if offset == 0:
                first, data, offset = data[:4096], data[4096:], 4096
            target.write_at(offset, data)
        target.flush()
        target.write_at(0, first)
        target.flush()
        if plan.target.kind == "disk":
            target.reread_partitions()
    context.events.emit(JobFinished(verb="restore", seconds=clock.monotonic() - began))
    return sum(len(piece.data) for piece in plan.kept.pieces)


def _is_of(kept: KeptTable, target: TargetIdentity) -> bool:
    """Whether it was on this target: the same disk by its number where it has one, else by its path."""
    same = (kept.serial, kept.model) == (target.serial, target.model) if target.serial else kept.path == target.path
    return same and kept.size == target.size


def _pieces(target: BlockReader) -> Iterator[KeptPiece]:
    ends = ExtentSet.of(Extent(0, min(MIB, target.size)), Extent(max(0, target.size - MIB), target.size))
    try:
        table = read_layout(target).table
    except (DiskFormatError, DeviceError):
        table = ExtentSet.empty()
    whole, total = ends | table.clipped(Extent(0, target.size)), 0
    for extent in whole:
        for start in range(extent.start, extent.end, KEPT_PIECE_MAX):
            end = min(start + KEPT_PIECE_MAX, extent.end)
            total += end - start
            if total > _BYTES_MAX:
                return
            yield KeptPiece(offset=start, data=target.read_at(start, end - start))
