"""The verb ``boot-repair``: a disk whose systems are all there and do not start.

Answers: "what keeps this disk from starting, what will be changed, and how is that taken back?" The repair is done on a
copy-on-write view of the disk first, so the plan says what really happens. Applying it writes the sectors that differ,
after their old contents are in a file of their own, and reads them back. Nothing else of the disk is written.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from stillframe.block import BlockReader, WindowReader
from stillframe.block.copy_on_write import CopyOnWrite, open_scratch
from stillframe.block.file import FileWriter, open_file_reader
from stillframe.capture.unlocking import VolumeKey
from stillframe.clock import Clock, rfc3339
from stillframe.disk import Layout, read_layout
from stillframe.errors import DeviceError, StillframeError, TargetError
from stillframe.events import EventSink, JobFinished, JobStarted, Notice, PhaseStarted
from stillframe.extents import Extent, ExtentSet
from stillframe.fs.registry import identify
from stillframe.host.disks import describe
from stillframe.host.mounts import users_of
from stillframe.host.places import disks_under
from stillframe.host.target import TargetIdentity, identify_target, open_target, require_free
from stillframe.jobs.context import JobContext
from stillframe.jobs.mending.differences import PlaceChange, by_place, find_differences
from stillframe.jobs.mending.on_copy import Mended, MendWishes, lost_systems, mend
from stillframe.jobs.mending.undo_file import (
    check_undo_file,
    open_undo_file,
    pieces_of,
    undo_size,
    write_undo_file,
)
from stillframe.jobs.mending.undo_format import UndoRecord
from stillframe.jobs.saving.unlocking import Unlocking
from stillframe.jobs.starts.efi_start import tell_firmware, told_steps
from stillframe.jobs.starts.unlocking_inside import unlock_disk
from stillframe.jobs.starts.windows_adapting import require_adapting
from stillframe.systems.chain_records import BootChain

VERB: Final = "boot-repair"
_RUNNING_HINT: Final = (
    "Start the computer from the rescue medium ('stillframe rescue build' makes one) and choose 'Repair how it starts'."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BootRepairPlan:
    """What a repair is going to write.

    Attributes:
        target: The disk.
        layout: Its partitions.
        mended: What was found, what was done on the view, and what comes of it.
        differences: The sectors that are going to be written.
        places: The same, by partition.
        steps: What else will be done, in words.
        digest: BLAKE3 of all that the plan was made from where anything changes, in hexadecimal.
    """

    target: TargetIdentity
    layout: Layout
    mended: Mended
    differences: ExtentSet
    digest: str
    places: tuple[PlaceChange, ...]
    steps: tuple[str, ...]

    @property
    def is_needed(self) -> bool:
        """Whether anything is to be written, or told to the firmware."""
        return bool(len(self.differences)) or bool(self.steps)

    @property
    def may_not_start(self) -> bool:
        """Whether a system is on the disk that still has no whole way."""
        return bool(lost_systems(self.mended))


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRepair:
    """A plan, and the disk as it would be; ``view`` is there as long as ``prepare_boot_repair`` lasts."""

    plan: BootRepairPlan
    view: CopyOnWrite


@dataclass(frozen=True, slots=True, kw_only=True)
class BootRepairResult:
    """What a repair did.

    Attributes:
        bytes_written: To the disk.
        seconds: How long it took.
        changes: What was changed, in sentences.
        undo_file: What takes it back; empty when nothing was written.
        chains: The ways in which the disk may start now.
        may_not_start: A system on it still has no whole way.
    """

    bytes_written: int
    seconds: float
    changes: tuple[str, ...]
    undo_file: str
    chains: tuple[BootChain, ...]
    may_not_start: bool


def require_repairable(path: str) -> None:
    """Refuse what is no whole disk, and a disk that is in use; the running system's own with its own sentence.

    Raises:
        UsageError: There is no such disk or file.
        TargetError: It is in use, or a partition.
    """
    facts = describe(path)
    if facts.kind == "partition":
        raise TargetError(
            f"{path} is a partition: how a disk starts is repaired on the whole disk",
            hint=f"Name {facts.parent or 'its disk'}.",
        )
    is_root = any(use.kind == "mounted" and use.where == "/" for use in users_of(facts.path))
    if is_root or facts.path in disks_under("/"):
        raise TargetError(
            f"{path} is the disk of the system that is running: it is not repaired while it is in use",
            hint=_RUNNING_HINT,
        )
    require_free(path)


@contextmanager
def prepare_boot_repair(
    path: str, wishes: MendWishes, unlocking: Unlocking, context: JobContext, *, folder: str
) -> Iterator[PreparedRepair]:
    """Repair a disk on a copy-on-write view, and say what that would write. Nothing of the disk is written.

    Args:
        path: A whole disk, or a disk file.
        wishes: What a person asked for.
        unlocking: How encrypted volumes are opened.
        context: Who asks. Call it with one thread.
        folder: Where changes go meanwhile; on a file system with room.

    Raises:
        TargetError: It is in use, it is a partition, or no file can be made in the folder.
        DiskFormatError, DeviceError: Its table is broken, or it cannot be read.
        WrongKey: A passphrase opens nothing.
        MachineRefusal: A Windows on it cannot be changed here, and ``wishes`` need that.
    """
    require_repairable(path)
    target = identify_target(path)
    with open_file_reader(target.path) as reader, open_scratch(folder, reader.size) as changes:
        layout = _require_table(read_layout(reader), path)
        keys: tuple[VolumeKey, ...] = unlock_disk(reader, layout, None, unlocking)
        view = CopyOnWrite(reader, changes)
        told = JobContext(owner=context.owner, events=context.events, cancel=context.cancel, keys=keys)
        if wishes.adapt:
            require_adapting(
                {identify(WindowReader(reader, part.extent)).volume.filesystem for part in layout.partitions}
            )
        mended = mend(view, wishes, told)
        differences = find_differences(reader, view, unit=layout.sector_size)
        steps = tuple(told_steps(target, (part.type for part in layout.partitions), is_copy=False))
        plan = BootRepairPlan(
            target=target, layout=layout, mended=mended, differences=differences, steps=steps,
            places=by_place(differences, layout, mended.after), digest=_digest(reader, view.changed),
        )  # fmt: skip
        yield PreparedRepair(plan=plan, view=view)


def _require_table(layout: Layout, path: str) -> Layout:
    if layout.scheme == "none":
        raise TargetError(
            f"{path} has no partition table: there is nothing on it that could be made to start",
            hint="An image brings a lost table back ('stillframe restore'); 'testdisk' may find partitions.",
        )
    return layout


def default_undo_file(folder: str, path: str, clock: Clock) -> str:
    """Where an undo file goes when none is named: the folder, with the name of the disk and the time."""
    stamp = rfc3339(clock.now()).replace(":", "").replace("-", "")
    return os.path.join(folder, f"{os.path.basename(path)}-{stamp}.undo")


def apply_boot_repair(
    prepared: PreparedRepair, undo_file: str, *, clock: Clock, context: JobContext
) -> BootRepairResult:
    """Write what was repaired on the view, keep what was there, and read it back.

    Args:
        prepared: The plan, and the disk as it is to be.
        undo_file: Where the old contents go; it must not exist.
        clock: For the time in that file.
        context: Who asks.

    Raises:
        TargetError: The disk is not what it was when the plan was made, or has come into use; nothing was written.
        StorageError: The undo file cannot be written; nothing was written to the disk.
        DeviceError: The disk failed. What had been written was put back, or a notice says that it could not be.
    """
    plan, began = prepared.plan, clock.monotonic()
    context.events.emit(JobStarted(verb=VERB, what=plan.target.path, bytes_total=plan.differences.size))
    changes = plan.mended.changes
    if len(plan.differences):
        check_undo_file(undo_file, plan.target.path, size=undo_size(plan.differences.size))
        with open_target(plan.target) as target:
            _require_same(target, prepared)
            context.cancel.check()
            context.events.emit(PhaseStarted(name="keeping what was there"))
            write_undo_file(undo_file, _record(plan, clock), target, prepared.view)
            _write_or_put_back(target, prepared, undo_file, context.events)
            if plan.target.kind == "disk":
                target.reread_partitions()
    changes += tell_firmware(plan.target, context.events, is_copy=False)
    seconds = clock.monotonic() - began
    context.events.emit(JobFinished(verb=VERB, seconds=seconds))
    return BootRepairResult(
        bytes_written=plan.differences.size, seconds=seconds, changes=changes,
        undo_file=undo_file if len(plan.differences) else "", chains=plan.mended.after.chains,
        may_not_start=plan.may_not_start,
    )  # fmt: skip


def write_order(extents: ExtentSet, layout: Layout) -> tuple[Extent, ...]:
    """Pieces of a disk in the order in which they are written: partitions first, tables and boot code last."""
    outside = extents & layout.outside
    return (*pieces_of(tuple(extents - outside)), *sorted(pieces_of(tuple(outside)), key=lambda one: -one.start))


def _record(plan: BootRepairPlan, clock: Clock) -> UndoRecord:
    target = plan.target
    return UndoRecord(
        created=rfc3339(clock.now()), path=target.path, model=target.model[:200], serial=target.serial[:200],
        size=target.size, sector_size=plan.layout.sector_size,
        ranges=tuple((extent.start, extent.end) for extent in plan.differences),
        changes=tuple(words[:4000] for words in plan.mended.changes),
    )  # fmt: skip


def _digest(disk: BlockReader, changed: ExtentSet) -> str:
    found = blake3()
    for piece in pieces_of(tuple(changed.clipped(Extent(0, disk.size)))):
        found.update(disk.read_at(piece.start, piece.size))
    return found.hexdigest()


def _require_same(target: FileWriter, prepared: PreparedRepair) -> None:
    """Make sure that where anything is going to be written the disk still is what the plan was made from.

    Raises:
        TargetError: It is not.
    """
    if _digest(target, prepared.view.changed) != prepared.plan.digest:
        raise TargetError(
            f"{prepared.plan.target.path} was changed since the plan was made. Nothing was written",
            hint="Run the command again.",
        )


def _write_or_put_back(target: FileWriter, prepared: PreparedRepair, undo_file: str, events: EventSink) -> None:
    events.emit(PhaseStarted(name="writing the repair"))
    order = write_order(prepared.plan.differences, prepared.plan.layout)
    try:
        for piece in order:
            target.write_at(piece.start, prepared.view.read_at(piece.start, piece.size))
        target.flush()
        _read_back(target, prepared.view, order)
    except BaseException:
        _put_back(target, undo_file, events)
        raise


def _read_back(target: FileWriter, view: BlockReader, pieces: tuple[Extent, ...]) -> None:
    for piece in pieces:
        if target.read_at(piece.start, piece.size) != view.read_at(piece.start, piece.size):
            raise DeviceError(
                f"{target.path} does not give back what was written at byte {piece.start}",
                hint="The disk is failing: make an image of it before anything else.",
            )


def _put_back(target: FileWriter, undo_file: str, events: EventSink) -> None:
    path = target.path
    try:
        with open_undo_file(undo_file) as undo:
            for start, old, _ in undo.pieces():
                target.write_at(start, old)
        target.flush()
    except StillframeError as error:
        events.emit(
            Notice(
                code="repair-not-undone",
                message=f"{path} is half repaired, and could not be put back: {error.message}",
                hint=f"When it can be written again: 'stillframe boot-repair {path} --undo {undo_file}'.",
            )
        )
        return
    events.emit(Notice(code="repair-undone", message=f"{path} is as it was before the repair"))
