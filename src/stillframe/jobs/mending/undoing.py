"""A boot repair is taken back.

Answers: "is this the disk of that undo file, and is it as the repair left it?" Each sector must be as it was before, or
as the repair made it: so a repair that a power cut ended in the middle is taken back as well. Where anything else is
in one of them, a system has run or another program has written since, and nothing is put back.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from stillframe.block import BlockReader
from stillframe.block.file import open_file_reader
from stillframe.clock import Clock
from stillframe.disk import read_layout
from stillframe.errors import DiskFormatError, TargetError
from stillframe.events import JobFinished, JobStarted
from stillframe.extents import Extent, ExtentSet
from stillframe.host.target import TargetIdentity, identify_target, open_target, require_free
from stillframe.jobs.context import JobContext
from stillframe.jobs.mending.differences import different_units
from stillframe.jobs.mending.undo_file import UndoFile, open_undo_file
from stillframe.jobs.mending.undo_format import UndoRecord
from stillframe.units import format_size


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairUndoPlan:
    """What is put back.

    Attributes:
        target: The disk.
        record: What the file says of the repair.
        bytes_repaired: Bytes that are as the repair left them, and are put back.
        bytes_total: Bytes that the repair changed.
    """

    target: TargetIdentity
    record: UndoRecord
    bytes_repaired: int
    bytes_total: int


@contextmanager
def prepare_undo(path: str, file: str) -> Iterator[tuple[RepairUndoPlan, UndoFile]]:
    """Look whether a repair of this disk can be taken back. Writes nothing.

    Args:
        path: The disk.
        file: The undo file.

    Raises:
        StorageError, DamagedError, UnsupportedFormat: The file is not whole, or none.
        TargetError: It is of another disk, the disk is in use, or it was changed since.
    """
    with open_undo_file(file) as undo:
        require_free(path)
        target = identify_target(path)
        _require_disk(undo.record, target, path, file)
        with open_file_reader(target.path) as reader:
            repaired = _repaired_bytes(undo, reader)
        yield (
            RepairUndoPlan(
                target=target, record=undo.record, bytes_repaired=repaired, bytes_total=undo.record.extents.size
            ),
            undo,
        )


def apply_undo_repair(plan: RepairUndoPlan, undo: UndoFile, *, clock: Clock, context: JobContext) -> None:
    """Put everything back, what lies outside of partitions last.

    Raises:
        TargetError: The disk is not what it was when the plan was made, has come into use, or was changed.
    """
    began = clock.monotonic()
    context.events.emit(JobStarted(verb="boot-repair", what=plan.target.path, bytes_total=plan.bytes_total))
    with open_target(plan.target) as target:
        _repaired_bytes(undo, target)
        try:
            outside = read_layout(target).outside
        except DiskFormatError:  # of a repair that was cut off: the order is no matter then
            outside = ExtentSet.empty()
        last = list[tuple[int, bytes]]()
        for start, old, _ in undo.pieces():
            if len(outside.clipped(Extent(start, start + len(old)))):
                last.append((start, old))
            else:
                target.write_at(start, old)
        target.flush()
        for start, old in reversed(last):
            target.write_at(start, old)
        target.flush()
        if plan.target.kind == "disk":
            target.reread_partitions()
    context.events.emit(JobFinished(verb="boot-repair", seconds=clock.monotonic() - began))


def _require_disk(record: UndoRecord, target: TargetIdentity, path: str, file: str) -> None:
    is_same = record.size == target.size and (record.model, record.serial) == (target.model, target.serial)
    if not is_same:
        known = " ".join(filter(None, [record.model, record.serial])) or "no number"
        raise TargetError(
            f"{file} is of {record.path} ({known}, {format_size(record.size)}, {record.size} bytes), not of {path}",
            hint="Name that disk; 'stillframe disks' lists those of this machine.",
        )


def _repaired_bytes(undo: UndoFile, disk: BlockReader) -> int:
    """How many bytes are as the repair made them; all others are as they were.

    Raises:
        TargetError: Some are neither.
    """
    unit, repaired, foreign, first = undo.record.sector_size, 0, 0, -1
    for start, old, new in undo.pieces():
        now = disk.read_at(start, len(old))
        not_old = ExtentSet.from_extents(different_units(now, old, unit=unit, at=start))
        neither = not_old & ExtentSet.from_extents(different_units(now, new, unit=unit, at=start))
        repaired += not_old.size
        if len(neither):
            foreign += neither.size
            first = next(iter(neither)).start if first < 0 else first
    if foreign:
        raise TargetError(
            f"{format_size(foreign)} of what the repair wrote was changed since, the first at byte {first}: a system "
            "was started from this disk, or something was written to it. Nothing was put back",
            hint="What it is now is newer than the undo file. If it does not start, run 'boot-repair' again.",
        )
    return repaired
