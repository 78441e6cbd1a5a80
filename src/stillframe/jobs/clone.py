"""The verb ``clone``: a disk is copied onto another one, without a repository.

Answers: "what will be written where?" (``plan_clone``), then copies (``apply_clone``). The same bytes count as in a
backup, the same order as in a restore: the partition table last.
"""

import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

from stillframe.block.file import FileWriter
from stillframe.capture import CapturedDisk, OpenSource, Selection
from stillframe.capture.live import LiveSource, watch
from stillframe.capture.windows import WindowsSource
from stillframe.clock import Clock
from stillframe.disk import Layout, Patch, fit_table, new_identity, renamed_layout
from stillframe.errors import Disturbed, SourceInUse, TargetError
from stillframe.events import JobFinished, JobStarted, Notice, PhaseStarted
from stillframe.extents import Extent, ExtentSet
from stillframe.host.places import lies_on
from stillframe.host.target import TargetIdentity, create_target_file, identify_target, open_target
from stillframe.jobs.cloning.copying import CHUNK_SIZE, ZERO_STEP, Copier
from stillframe.jobs.cloning.words import clone_steps
from stillframe.jobs.context import JobContext
from stillframe.jobs.restoring.kept_files import keep_in_file
from stillframe.jobs.restoring.tables import TableWriter
from stillframe.jobs.restoring.targets import describe_contents, refuse_source, require_same_sectors
from stillframe.jobs.saving.chunking import kept_ranges
from stillframe.jobs.saving.holding import held_still
from stillframe.jobs.saving.hooks import Hooks
from stillframe.jobs.saving.rounds import Following, Ranges, Rounds
from stillframe.jobs.starts.efi_start import tell_firmware
from stillframe.jobs.starts.making_ready import StartWishes, WrittenDisk, make_ready
from stillframe.jobs.starts.start_failures import StartFailures
from stillframe.jobs.starts.windows_adapting import WindowsHardware, require_adapting
from stillframe.units import format_size


@dataclass(frozen=True, slots=True, kw_only=True)
class CloneOptions:
    """What a person asked for.

    Attributes:
        selection: Which bytes.
        delta: Read the target and write only what differs.
        wipe: Zeros where nobody uses them.
        new_identity: Give the copy new ids, so that it can stay beside its original.
        adapt: Make its systems ready for another computer.
        hardware: What a Windows finds there.
        hooks: Of a source in use.
        keep_table: The file where the table of the target is kept; empty for none.
    """

    selection: Selection
    delta: bool = False
    wipe: bool = False
    new_identity: bool = False
    adapt: bool = False
    hardware: WindowsHardware = field(default_factory=WindowsHardware)
    hooks: Hooks = field(default_factory=Hooks)
    keep_table: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClonePlan:
    """What a clone is going to do. ``target`` is ``None`` when ``target_path`` is a file to be made.

    ``after`` is the layout that the target will have.
    """

    disk: CapturedDisk
    target: TargetIdentity | None
    target_path: str
    target_size: int
    options: CloneOptions
    patches: tuple[Patch, ...]
    after: Layout
    bytes_to_write: int
    steps: tuple[str, ...]
    lost: tuple[str, ...]
    notices: tuple[Notice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CloneResult:
    """What a clone did.

    Attributes:
        bytes_written: Bytes written to the target.
        bytes_skipped: Bytes left as they were.
        seconds: How long it took.
        is_complete: Whether the source stood still.
        changes: What is different from the source, in words.
        may_not_start: A system on it had to be made ready to start, and was not.
    """

    bytes_written: int
    bytes_skipped: int
    seconds: float
    is_complete: bool
    changes: tuple[str, ...] = ()
    may_not_start: bool = False


def plan_clone(source: OpenSource, target_path: str, options: CloneOptions) -> ClonePlan:
    """Look at both disks and decide what goes where. Writes nothing.

    Raises:
        TargetError: The target is the source, holds it, is too small, or has sectors of another size.
        SourceInUse: It is a disk of the Windows that is running.
    """
    if isinstance(source, WindowsSource):
        raise SourceInUse(
            f"{source.facts.path} is in use by this Windows: it can be backed up, and not be cloned in this version",
            hint="Clone it from the Linux rescue system.",
        )
    disk = source.capture(options.selection)
    layout, target, size = disk.layout, None, disk.layout.size
    if options.adapt:
        require_adapting({volume.volume.filesystem for volume in disk.volumes})
    lost: tuple[str, ...] = ()
    _refuse_own_disk(source, target_path)
    if os.path.exists(target_path):
        refuse_source(source, target_path)
        target = identify_target(target_path)
        size, lost = target.size, tuple(describe_contents(target_path))
        require_same_sectors(target_path, layout.sector_size)
    after = layout
    if options.new_identity:
        fresh = new_identity(layout, disk.reader, size, next_uuid=uuid.uuid4)
        patches, after = fresh.patches, renamed_layout(layout, fresh)
    elif layout.scheme == "none" and size < layout.size:
        raise TargetError(
            f"the target is too small by {format_size(layout.size - size)}",
            hint="Choose a larger one; '--fit' makes the volume smaller where that is possible.",
        )
    else:
        patches = fit_table(layout, disk.reader, size)
    return ClonePlan(
        disk=disk, target=target, target_path=target_path, target_size=size, options=options, patches=patches,
        after=after, bytes_to_write=disk.bytes_used, lost=lost,
        steps=tuple(clone_steps(disk, target_path, target, size, options)), notices=tuple(_notices(source, disk)),
    )  # fmt: skip


def _notices(source: OpenSource, disk: CapturedDisk) -> Iterator[Notice]:
    yield from source.notices
    if source.announcement is not None:  # what a look at it says now need not hold when it stands still
        yield source.announcement
        return
    yield from disk.notices
    for volume in disk.volumes:
        yield from volume.notices


def _refuse_own_disk(source: OpenSource, target_path: str) -> None:
    """A file on what is held still could not be written meanwhile, or would fill the snapshot."""
    if source.announcement is not None and lies_on(target_path, source.facts.path) is not False:
        raise TargetError(f"{target_path} lies on the source {source.facts.path}", hint="Choose another disk.")


def apply_clone(source: OpenSource, plan: ClonePlan, *, clock: Clock, context: JobContext) -> CloneResult:
    """Carry a plan out.

    Raises:
        TargetError: The target is not what it was when the plan was made, or has come into use.
        DeviceError: The source cannot be read somewhere: a clone has no place to write that down.
        MachineRefusal: A source in use could not be held still.
    """
    began = clock.monotonic()
    failures = StartFailures(context.events)
    context = replace(context, events=failures)
    with ExitStack() as stack:
        with ExitStack() as holding:
            held = holding.enter_context(
                held_still(
                    [source], [plan.disk], selection=plan.options.selection, hooks=plan.options.hooks, context=context
                )
            )  # fmt: skip
            plan = _as_held(plan, held.disks[0])
            following = holding.enter_context(_follow(source, plan))  # before anything is written, and any thread
            target = stack.enter_context(
                open_target(plan.target) if plan.target else create_target_file(plan.target_path, plan.target_size)
            )
            copier = _copy(plan, target, following, clock=clock, context=context)
            held.sources[0].stayed_still()  # a snapshot that was lost says so here: then the target gets no table
            copier.table.load()
            stayed_still = held.sources[0].stayed_still()
        changes = _make_ready(plan, target, copier, context)
        copier.written.add(written=copier.table.write())
        target.flush()
        if plan.target is not None and plan.target.kind == "disk":
            target.reread_partitions()
    changes += tell_firmware(plan.target, context.events, is_copy=plan.options.new_identity)
    seconds = clock.monotonic() - began
    context.events.emit(JobFinished(verb="clone", seconds=seconds))
    return CloneResult(
        bytes_written=copier.written.bytes_written, bytes_skipped=copier.written.bytes_skipped, seconds=seconds,
        is_complete=stayed_still, changes=changes, may_not_start=failures.found,
    )  # fmt: skip


def _copy(
    plan: ClonePlan, target: FileWriter, following: Following | None, *, clock: Clock, context: JobContext
) -> Copier:
    """Copy everything but the table."""
    context.events.emit(JobStarted(verb="clone", what=plan.target_path, bytes_total=plan.bytes_to_write))
    if plan.target is not None and plan.options.keep_table:
        keep_in_file(plan.options.keep_table, target, plan.target, plan.lost, events=context.events, clock=clock)
    table = TableWriter(target, plan.disk.layout, plan.disk.reader, plan.patches)
    copier = Copier(table, target, context, is_zero=plan.target is None, delta=plan.options.delta)
    copier.table.clear()
    if following is None:
        copier.copy_ranges([list(kept_ranges(plan.disk))], wipe=plan.options.wipe)
    else:
        _copy_live(copier, plan, following, context)
    if plan.options.wipe:
        for start in range(plan.disk.layout.size, plan.target_size, ZERO_STEP):
            context.cancel.check()
            copier.zero(ExtentSet.of(Extent(start, min(start + ZERO_STEP, plan.target_size))), 0)
    context.events.emit(PhaseStarted(name="waiting until the target has written everything"))
    target.flush()
    return copier


def _make_ready(plan: ClonePlan, target: FileWriter, copier: Copier, context: JobContext) -> tuple[str, ...]:
    """Change what the systems on the copy need changed, when they have new ids or go into another computer."""
    options, layout = plan.options, plan.disk.layout
    copied = WrittenDisk(
        target=target, table=copier.table, before=layout, after=plan.after,
        written=tuple(part.number for part in layout.partitions), resized=frozenset(),
    )  # fmt: skip
    wishes = StartWishes(new_identity=options.new_identity, adapt=options.adapt, hardware=options.hardware)
    return make_ready(copied, wishes, context)


def _as_held(plan: ClonePlan, disk: CapturedDisk) -> ClonePlan:
    """The plan with what the source is while it is held still.

    Raises:
        Disturbed: Its partitions are others than were planned.
    """
    if disk.layout != plan.disk.layout:
        raise Disturbed(f"the partitions of {disk.facts.path} were changed", hint="Make the clone again.")
    return replace(plan, disk=disk)


@contextmanager
def _follow(source: OpenSource, plan: ClonePlan) -> Iterator[Following | None]:
    if not isinstance(source, LiveSource):
        yield None
        return
    with watch([source]) as watching:
        yield Following(
            watching=watching, selection=plan.options.selection, chunk_size=CHUNK_SIZE, hooks=plan.options.hooks
        )


def _copy_live(copier: Copier, plan: ClonePlan, following: Following, context: JobContext) -> None:
    """Copy a source that stays in use, as it was at one moment.

    Raises:
        Disturbed: Its partitions were changed meanwhile, or not every write was seen.
    """
    rounds = Rounds(following, context)
    first = rounds.begin()
    copier.table.load()

    def copy(ranges: Ranges) -> None:
        copier.copy_ranges(ranges, wipe=plan.options.wipe and ranges is first)
        copier.has_old_bytes()

    held = rounds.hold(copy)
    (disk,), (pieces,) = held.disks, held.pieces
    touched = any(
        len(disk.layout.table.clipped(Extent(part.offset, part.offset + len(part.data)))) for part in pieces[0]
    )
    if disk.layout != plan.disk.layout or touched:
        raise Disturbed(
            f"the partitions of {disk.facts.path} were changed while it was copied",
            hint="Make the clone again; the target has no partition table now.",
        )
    for one, before, parts in zip(kept_ranges(disk), first[0], pieces, strict=True):
        for part in parts:
            copier.write(one.start + part.offset, part.data)
        gone = one.excluded - before.excluded
        if plan.options.wipe and before is not first[0][0]:  # what is in no volume is kept outside them
            gone = one.kept.complement(Extent(0, one.reader.size))
        copier.zero(gone, one.start)
