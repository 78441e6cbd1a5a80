"""The verb ``restore``: an image, or one partition of it, goes back onto a target.

Carries out what ``plan_restore`` of ``restoring`` has decided: the target's identity is checked again before the
first byte, the partition table is written last. A restore that was killed leaves no valid table; it is run again with
``delta`` and writes what is missing.
"""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from typing import Final

from stillframe.block import BlockReader, BlockWriter
from stillframe.block.file import FileWriter
from stillframe.block.formats.mapped import MappedDisk, ZeroMap
from stillframe.disk import Layout, Patch, fit_table, moved_layout, new_identity, renamed_layout
from stillframe.disk.new_table import build_table
from stillframe.events import JobFinished, JobStarted, Notice, PhaseStarted
from stillframe.extents import Extent, ExtentSet
from stillframe.host.target import create_target_file, open_target
from stillframe.jobs.context import JobContext
from stillframe.jobs.conversions.planning import front_of
from stillframe.jobs.conversions.words import conversion_changes
from stillframe.jobs.restoring.beside import require_same_table, write_table
from stillframe.jobs.restoring.fitting import resized_parts
from stillframe.jobs.restoring.placing import PlacedMap, Placer, PlacingOptions
from stillframe.jobs.restoring.plan import (
    RestoreOptions,
    RestorePlan,
    RestoreResult,
    outside_reader,
    stored_layout,
)
from stillframe.jobs.restoring.planning import plan_restore
from stillframe.jobs.restoring.remaking import NewPlace, remade
from stillframe.jobs.restoring.resizing import resized
from stillframe.jobs.restoring.supply import Supply, supply_from
from stillframe.jobs.restoring.tables import TableWriter
from stillframe.jobs.restoring.words import placement_words
from stillframe.jobs.starts.efi_start import tell_firmware
from stillframe.jobs.starts.making_ready import StartWishes, WrittenDisk, make_ready
from stillframe.jobs.starts.start_failures import StartFailures
from stillframe.repo.losses import LostPart
from stillframe.repo.map_reader import MapReader
from stillframe.repo.records import StoredPartition
from stillframe.repo.repository import Repository
from stillframe.units import MIB, format_size

__all__ = ["RestoreOptions", "RestorePlan", "RestoreResult", "apply_restore", "carry_out", "plan_restore"]

_AGAIN: Final = {
    "restore": "Run the same restore again with '--delta': it goes on where this one stopped.",
    "clone": "Make the clone again, with '--delta': then only what differs is written.",
}
Views = Mapping[int, BlockReader]
"""Partitions at another size, by their numbers."""


def apply_restore(repository: Repository, plan: RestorePlan, context: JobContext) -> RestoreResult:
    """Carry a plan out; errors as ``carry_out``."""
    return carry_out(supply_from(repository, plan), plan, context)


def carry_out(supply: Supply, plan: RestorePlan, context: JobContext) -> RestoreResult:
    """Carry a plan out, from wherever its bytes come.

    Raises:
        TargetError: The target is not what it was when the plan was made, or has come into use.
        DamagedError: Something of the image cannot be read: the target is left without a valid partition table.
        DeviceError, Disturbed: Likewise of a disk that is copied: it cannot be read, or did not stay as it was.
    """
    began = supply.clock.monotonic()
    failures = StartFailures(context.events)
    context = replace(context, events=failures)
    context.events.emit(JobStarted(verb=plan.verb, what=plan.target_path, bytes_total=plan.bytes_to_write))
    with ExitStack() as stack:
        views = {}  # before the target is touched: what cannot be resized is known then
        for part in resized_parts(plan):
            views[part.number] = stack.enter_context(_view(supply, plan, part, context))
        target = stack.enter_context(
            open_target(plan.target) if plan.target else create_target_file(plan.target_path, plan.target_size)
        )
        if plan.target is not None and plan.options.onto is None:
            supply.keep(target, plan.target, plan.was_there, context.events)
        try:
            placer, changes = _write(supply, plan, views, target, context)
        except BaseException:
            context.events.emit(_incomplete(plan))
            raise
        if plan.target is not None and plan.target.kind == "disk":
            target.reread_partitions()
    if plan.starts_by_uefi:
        changes += tell_firmware(plan.target, context.events, is_copy=plan.options.new_identity)
    seconds = supply.clock.monotonic() - began
    context.events.emit(JobFinished(verb=plan.verb, seconds=seconds))
    return RestoreResult(
        bytes_written=placer.written.bytes_written, bytes_skipped=placer.written.bytes_skipped, seconds=seconds,
        changes=changes, lost=tuple(_lost_parts(plan, placer)), may_not_start=failures.found,
    )  # fmt: skip


def _view(
    supply: Supply, plan: RestorePlan, part: StoredPartition, context: JobContext
) -> AbstractContextManager[BlockReader]:
    """A partition as it will be, its file system resized or made anew."""
    place = plan.place_of(part)
    if part.number not in plan.made_anew:
        context.events.emit(PhaseStarted(name=f"making partition {part.number} {format_size(place.size)}, on a copy"))
        return resized(supply, plan.manifest, part, place.size, context.events)
    context.events.emit(PhaseStarted(name=f"making partition {part.number} anew, {format_size(place.size)}"))
    # On a whole disk, boot sectors are told of their places when all partitions are written.
    start = place.start if plan.partition is not None or plan.beside is not None else None
    new = NewPlace(size=place.size, sector_size=plan.sector_size, start=start)
    return remade(supply, plan.manifest, part, new, context.events)


def _lost_parts(plan: RestorePlan, placer: Placer) -> Iterator[LostPart]:
    """What is zeros on the target for want of the image's bytes, by the partition it belongs to."""
    rest = placer.lost
    chosen = plan.source_disk.partitions if plan.partition is None else (plan.partition,)
    for part in chosen:
        start = plan.place_of(part).start
        here = rest.clipped(Extent(start, start + part.size))
        rest -= here
        if len(here):
            yield LostPart(
                disk_number=plan.source_disk.number, partition_number=part.number, place=f"partition {part.number}",
                lost=ExtentSet(here.starts - start, here.ends - start),
            )  # fmt: skip
    if len(rest):
        yield LostPart(
            disk_number=plan.source_disk.number, partition_number=None, place="outside all partitions", lost=rest
        )


def _write(
    supply: Supply, plan: RestorePlan, views: Views, target: FileWriter, context: JobContext
) -> tuple[Placer, tuple[str, ...]]:
    """Write everything, and wait until it would survive a power cut."""
    if plan.beside is not None:
        placer, changes = _write_beside(supply, plan, views, target, context), tuple[str, ...]()
    elif plan.partition is None:
        placer, changes = _write_disk(supply, plan, views, target, context)
    else:
        placer, changes = _placer(supply, plan, target, context), tuple[str, ...]()
        _place_partitions(placer, plan, views, [plan.partition], [])
        supply.require_still()
    context.events.emit(PhaseStarted(name="waiting until the target has written everything"))
    target.flush()
    return placer, changes


def _write_beside(supply: Supply, plan: RestorePlan, views: Views, target: FileWriter, context: JobContext) -> Placer:
    """New partitions in free space; the table that is there stays good until they are in it."""
    beside = plan.beside
    if beside is None:
        raise ValueError("nothing is added")
    require_same_table(target, beside, plan.target_path)
    placer = _placer(supply, plan, target, context)
    _place_partitions(placer, plan, views, plan.source_disk.partitions, [])
    target.flush()
    context.cancel.check()
    placer.written.add(written=write_table(target, beside, plan.target_path))
    return placer


def _incomplete(plan: RestorePlan) -> Notice:
    if plan.beside is not None:
        return Notice(
            code="target-incomplete", message=f"{plan.target_path} is as it was, without the new partitions",
            hint="Run the same restore again.",
        )  # fmt: skip
    return Notice(
        code="target-incomplete", message=f"{plan.target_path} is not complete", hint=_AGAIN[plan.verb]
    )  # fmt: skip


def _write_disk(
    supply: Supply, plan: RestorePlan, views: Views, target: FileWriter, context: JobContext
) -> tuple[Placer, tuple[str, ...]]:
    """Partitions first, then what lies outside, the table last; no valid table in between."""
    disk = plan.source_disk
    outside = outside_reader(supply, plan.manifest, disk)
    layout = stored_layout(disk, outside)
    table, changes, after = _table(plan, target, layout, outside)
    table.clear()
    placer = _placer(supply, plan, target, context)
    stay = {place.partition.number for place in plan.left_places if place.stays}
    # What was outside and still is. A disk without a table is one volume, and has no outside.
    inside = ExtentSet.from_extents(Extent(part.start, part.start + part.size) for part in disk.partitions)
    inside |= ExtentSet.from_extents(part.extent for part in layout.partitions)  # and those that are left out
    outside_only = ExtentSet.empty() if plan.conversion else table.outside_without_table - inside
    last = [] if plan.conversion else [PlacedMap(root=disk.outside.root(), offset=0, allowed=outside_only)]
    written = [part for part in disk.partitions if part.number not in stay]
    _place_partitions(placer, plan, views, written, last)
    if plan.conversion is not None:
        _clear_around(placer, after, table)
    copied = WrittenDisk(
        target=target, table=table, before=layout, after=after, written=tuple(part.number for part in written),
        resized=frozenset(views),
    )  # fmt: skip
    wishes = StartWishes(
        new_identity=plan.options.new_identity, adapt=plan.options.adapt, hardware=plan.options.hardware,
        conversion=plan.conversion,
    )  # fmt: skip
    changes += make_ready(copied, wishes, context)
    if plan.options.wipe and plan.target is not None:
        kept = ExtentSet.from_extents(plan.place_of(part) for part in disk.partitions) | outside_only
        if plan.conversion is not None:
            kept |= ExtentSet.from_extents([front_of(after), *(part.extent for part in plan.added)])
        for extent in kept.complement(Extent(0, plan.target_size)) - table.held:
            placer.clear(extent)
    target.flush()
    context.cancel.check()
    supply.require_still()
    placer.written.add(written=table.write())
    return placer, changes


def _table(
    plan: RestorePlan, target: FileWriter, layout: Layout, outside: MapReader
) -> tuple[TableWriter, tuple[str, ...], Layout]:
    """What writes the table, what is changed by that, and the layout that comes out."""
    if plan.conversion is not None:
        after = plan.conversion.layout
        nothing = MappedDisk(ZeroMap(), size=plan.target_size, sector_size=after.sector_size)
        changes = [words for one in plan.placements if (words := placement_words(one))]
        changes += conversion_changes(plan.conversion, layout.scheme)
        return TableWriter(target, after, nothing, build_table(after)), tuple(changes), after
    places = {one.partition.number: one.place for one in plan.placements}
    moved = moved_layout(layout, places) if places else layout
    patches, changed, after = _patches(plan, layout, outside, moved)
    return TableWriter(target, moved, outside, patches), changed, after


def _clear_around(placer: Placer, layout: Layout, table: TableWriter) -> None:
    """Zeros where another table or loader may lie: before the first partition, and in the last MiB of the disk."""
    ends = ExtentSet.from_extents([front_of(layout), Extent(max(0, layout.size - MIB), layout.size)])
    for extent in (ends & layout.outside) - table.held:
        placer.clear(extent)


def _place_partitions(
    placer: Placer, plan: RestorePlan, views: Views, parts: Sequence[StoredPartition], others: Sequence[PlacedMap]
) -> None:
    """Write partitions: those that keep their size from the image, the others from their views."""
    maps = [
        PlacedMap(root=part.blocks.root(), offset=plan.place_of(part).start)
        for part in parts
        if part.number not in views
    ]
    placer.place([*maps, *others])
    for part in parts:
        if part.number in views:
            placer.place_view(views[part.number], plan.place_of(part).start)


def _patches(
    plan: RestorePlan, layout: Layout, outside: MapReader, moved: Layout
) -> tuple[tuple[Patch, ...], tuple[str, ...], Layout]:
    """What to write for the table, what is changed by that, and the layout that comes out."""
    changes = [words for one in plan.placements if (words := placement_words(one))]
    after = moved
    if plan.options.new_identity:
        fresh = new_identity(layout, outside, plan.target_size, next_uuid=uuid.uuid4, moved=moved)
        after = renamed_layout(moved, fresh)
        if fresh.disk_id:
            changes.append(f"the disk has a new id, {fresh.disk_id}")
        patches = fresh.patches
    else:
        patches = fit_table(layout, outside, plan.target_size, moved=moved)
    if layout.scheme == "gpt" and plan.target_size != layout.size:
        changes.append("the second copy of the partition table was moved to the end of the target")
    return patches, tuple(changes), after


def _placer(supply: Supply, plan: RestorePlan, target: BlockWriter, context: JobContext) -> Placer:
    options = PlacingOptions(
        delta=plan.options.delta and plan.target is not None,
        wipe=plan.options.wipe,
        is_zero=plan.target is None,
        salvage=plan.options.salvage,
    )
    return Placer(
        target, supply.reader(), supply.namer, chunk_size=plan.manifest.chunk_size, options=options, context=context
    )
