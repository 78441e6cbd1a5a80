"""The verb ``restore``: an image, or one partition of it, goes back onto a target.

Answers: "what will be written where, and what is lost there?" (``plan_restore``: looks only), then does it
(``apply_restore``: checks the target's identity again before the first byte; partition table last). A restore that was
killed leaves no valid table; it is run again with ``delta`` and writes what is missing.
"""

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace

from stillframe.block import BlockWriter
from stillframe.block.file import FileWriter, open_file_reader
from stillframe.disk import Layout, Patch, fit_table, new_identity, read_layout
from stillframe.errors import TargetError, UsageError
from stillframe.events import JobFinished, JobStarted, Notice, PhaseStarted
from stillframe.extents import Extent, ExtentSet
from stillframe.host.target import TargetIdentity, create_target_file, identify_target, open_target
from stillframe.jobs.context import JobContext
from stillframe.jobs.listing import find_disk, find_partition
from stillframe.jobs.placing import PlacedMap, Placer, PlacingOptions
from stillframe.jobs.staying import LeftPlace, find_left_places, staying
from stillframe.jobs.tables import TableWriter
from stillframe.jobs.targets import describe_contents, refuse_repository, require_same_sectors
from stillframe.repo.losses import LostPart
from stillframe.repo.map_reader import MapReader
from stillframe.repo.records import Manifest, StoredDisk, StoredPartition
from stillframe.repo.repository import Repository
from stillframe.repo.writing import ChunkNamer
from stillframe.units import format_size


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreOptions:
    """What a person asked for.

    Attributes:
        partition: Only this partition of the image.
        onto: Into this partition of the target disk; else onto the whole target.
        delta: Read the target and write only what differs; also goes on with a restore that was killed.
        wipe: Make what nobody uses zeros too.
        new_identity: Give the disk new ids, so that it can stay beside its original.
        salvage: Of a damaged image restore what can be had; the rest becomes zeros.
    """

    partition: int | None = None
    onto: int | None = None
    delta: bool = False
    wipe: bool = False
    new_identity: bool = False
    salvage: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePlan:
    """What a restore is going to do. ``target`` is ``None`` when ``target_path`` is a file to be made.

    Attributes:
        place: Bytes of the target that the image, or the partition, will occupy.
        steps: What will be done, in words.
        lost: What is on the target now and will be overwritten, in words.
        left_places: Places of partitions that the image does not hold, and whether they stay as they are.
    """

    manifest: Manifest
    source_disk: StoredDisk
    partition: StoredPartition | None
    target: TargetIdentity | None
    target_path: str
    target_size: int
    place: Extent
    options: RestoreOptions
    bytes_to_write: int
    steps: tuple[str, ...]
    lost: tuple[str, ...]
    notices: tuple[Notice, ...]
    left_places: tuple[LeftPlace, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreResult:
    """What a restore did.

    Attributes:
        bytes_written: Bytes written to the target.
        bytes_skipped: Bytes left as they were.
        seconds: How long it took.
        changes: What is different from the source, in words.
        lost: What a salvage could not have of the image, and where it now is zeros.
    """

    bytes_written: int
    bytes_skipped: int
    seconds: float
    changes: tuple[str, ...]
    lost: tuple[LostPart, ...] = ()


def plan_restore(
    repository: Repository, manifest: Manifest, disk_number: int | None, target_path: str, *, repository_folder: str,
    options: RestoreOptions,
) -> RestorePlan:  # fmt: skip
    """Look at the image and the target, and decide what goes where. Writes nothing.

    Raises:
        UsageError: The image has no such disk or partition.
        TargetError: The target holds the repository, is too small, or has sectors of another size.
    """
    disk = find_disk(manifest, disk_number)
    part = find_partition(disk, options.partition) if options.partition is not None else None
    if options.onto is not None and part is None:
        raise UsageError("a target partition without a source partition", hint="Write '--partition N:M'.")
    size = part.size if part else disk.size
    refuse_repository(repository_folder, target_path)
    if not os.path.exists(target_path):
        if options.onto is not None:
            raise TargetError(f"{target_path} does not exist, so it has no partition", hint="Name an existing disk.")
        target, target_size, lost = None, size, tuple[str, ...]()
        places = find_left_places(disk, None, wipe=options.wipe) if part is None else ()
    else:
        target = identify_target(target_path)
        target_size = target.size
        require_same_sectors(target_path, disk.sector_size)
        places = find_left_places(disk, target_path, wipe=options.wipe) if part is None else ()
        lost = tuple(describe_contents(target_path, staying(places)))
    place = _choose_place(target_path, target_size, size, part, options)
    if part is None:
        _check_table_fits(repository, manifest, disk, target_size)
    plan = RestorePlan(
        manifest=manifest, source_disk=disk, partition=part, target=target, target_path=target_path,
        target_size=target_size, place=place, options=options, steps=(), lost=lost,
        bytes_to_write=part.bytes_used if part else manifest_bytes(disk),
        notices=tuple(_notices(manifest, disk, part, place)), left_places=places,
    )  # fmt: skip
    return replace(plan, steps=tuple(_steps(plan)))


def apply_restore(repository: Repository, plan: RestorePlan, context: JobContext) -> RestoreResult:
    """Carry a plan out.

    Raises:
        TargetError: The target is not what it was when the plan was made, or has come into use.
        DamagedError: Something of the image cannot be read: the target is left without a valid partition table.
    """
    began = repository.clock.monotonic()
    target = open_target(plan.target) if plan.target else create_target_file(plan.target_path, plan.target_size)
    with target:
        context.events.emit(JobStarted(verb="restore", what=plan.target_path, bytes_total=plan.bytes_to_write))
        try:
            placer, changes = _write(repository, plan, target, context)
        except BaseException:
            context.events.emit(_incomplete(plan))
            raise
        if plan.target is not None and plan.target.kind == "disk":
            target.reread_partitions()
    seconds = repository.clock.monotonic() - began
    context.events.emit(JobFinished(verb="restore", seconds=seconds))
    return RestoreResult(
        bytes_written=placer.written.bytes_written, bytes_skipped=placer.written.bytes_skipped, seconds=seconds,
        changes=changes, lost=tuple(_lost_parts(plan, placer)),
    )  # fmt: skip


def _lost_parts(plan: RestorePlan, placer: Placer) -> Iterator[LostPart]:
    """What is zeros on the target for want of the image's bytes, by the partition it belongs to."""
    rest = placer.lost
    chosen = plan.source_disk.partitions if plan.partition is None else (plan.partition,)
    for part in chosen:
        start = part.start if plan.partition is None else plan.place.start
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


def manifest_bytes(disk: StoredDisk) -> int:
    """Bytes of a disk that an image keeps, without what lies outside partitions."""
    return sum(part.bytes_used for part in disk.partitions)


def outside_reader(repository: Repository, manifest: Manifest, disk: StoredDisk) -> MapReader:
    """The stored bytes outside all partitions, as a disk whose partitions read as zeros."""
    return MapReader(
        disk.outside.root(), repository.reader(), chunk_size=manifest.chunk_size, sector_size=disk.sector_size
    )


def _write(
    repository: Repository, plan: RestorePlan, target: FileWriter, context: JobContext
) -> tuple[Placer, tuple[str, ...]]:
    """Write everything, and wait until it would survive a power cut."""
    if plan.partition is None:
        placer, changes = _write_disk(repository, plan, target, context)
    else:
        placer, changes = _placer(repository, plan, target, context), tuple[str, ...]()
        placer.place([PlacedMap(root=plan.partition.blocks.root(), offset=plan.place.start)])
    context.events.emit(PhaseStarted(name="waiting until the target has written everything"))
    target.flush()
    return placer, changes


def _incomplete(plan: RestorePlan) -> Notice:
    return Notice(
        code="target-incomplete", message=f"{plan.target_path} is not complete",
        hint="Run the same restore again with '--delta': it goes on where this one stopped.",
    )  # fmt: skip


def _write_disk(
    repository: Repository, plan: RestorePlan, target: FileWriter, context: JobContext
) -> tuple[Placer, tuple[str, ...]]:
    """Partitions first, then what lies outside, the table last; no valid table in between."""
    disk = plan.source_disk
    outside = outside_reader(repository, plan.manifest, disk)
    layout = stored_layout(disk, outside)
    patches, changes = _patches(plan, layout, outside)
    table = TableWriter(target, layout, outside, patches)
    table.clear()
    placer = _placer(repository, plan, target, context)
    stay = {place.partition.number for place in plan.left_places if place.stays}
    maps = [
        PlacedMap(root=part.blocks.root(), offset=part.start) for part in disk.partitions if part.number not in stay
    ]
    inside = ExtentSet.from_extents(Extent(part.start, part.start + part.size) for part in disk.partitions)
    outside_only = table.outside_without_table - inside  # a disk without a table is one volume, and has no outside
    maps.append(PlacedMap(root=disk.outside.root(), offset=0, allowed=outside_only))
    placer.place(maps)
    if plan.options.wipe and plan.target is not None and plan.target_size > disk.size:
        placer.clear(Extent(disk.size, plan.target_size))
    target.flush()
    context.cancel.check()
    placer.written.add(written=table.write())
    return placer, changes


def stored_layout(disk: StoredDisk, outside: MapReader) -> Layout:
    """The layout of a stored disk, read from its stored bytes; a disk without a usable table is one volume."""
    if disk.scheme == "none":
        return Layout(
            scheme="none", disk_id="", size=disk.size, sector_size=disk.sector_size, partitions=(), notices=(),
            table=ExtentSet.empty(),
        )  # fmt: skip
    return read_layout(outside)


def _patches(plan: RestorePlan, layout: Layout, outside: MapReader) -> tuple[tuple[Patch, ...], tuple[str, ...]]:
    changes = []
    if plan.options.new_identity:
        fresh = new_identity(layout, outside, plan.target_size, next_uuid=uuid.uuid4)
        if fresh.disk_id:
            changes.append(f"the disk has a new id, {fresh.disk_id}: Windows on it may need its boot data repaired")
        patches = fresh.patches
    else:
        patches = fit_table(layout, outside, plan.target_size)
    if layout.scheme == "gpt" and plan.target_size != layout.size:
        changes.append("the second copy of the partition table was moved to the end of the target")
    return patches, tuple(changes)


def _placer(repository: Repository, plan: RestorePlan, target: BlockWriter, context: JobContext) -> Placer:
    options = PlacingOptions(
        delta=plan.options.delta and plan.target is not None,
        wipe=plan.options.wipe,
        is_zero=plan.target is None,
        salvage=plan.options.salvage,
    )
    namer = ChunkNamer(repository, bytes.fromhex(plan.manifest.domain))
    return Placer(
        target, repository.reader(), namer, chunk_size=plan.manifest.chunk_size, options=options, context=context
    )


def _choose_place(
    path: str, target_size: int, size: int, part: StoredPartition | None, options: RestoreOptions
) -> Extent:
    room, name = Extent(0, target_size), path
    if options.onto is not None:
        with open_file_reader(path) as reader:
            layout = read_layout(reader)
        found = [target.extent for target in layout.partitions if target.number == options.onto]
        if not found:
            raise TargetError(f"{path} has no partition {options.onto}", hint="'stillframe disks' lists them.")
        room, name = found[0], f"partition {options.onto} of {path}"
    if part is not None and room.size < size:
        raise TargetError(
            f"{name} is too small: {format_size(room.size)}, and the partition needs {format_size(size)} "
            f"({format_size(size - room.size)} more)",
            hint="Choose a larger one.",
        )
    return Extent(room.start, room.start + size) if part is not None else room


def _check_table_fits(repository: Repository, manifest: Manifest, disk: StoredDisk, target_size: int) -> None:
    outside = outside_reader(repository, manifest, disk)
    layout = stored_layout(disk, outside)
    if layout.scheme == "none" and target_size < disk.size:
        raise TargetError(
            f"the target is too small by {format_size(disk.size - target_size)}", hint="Choose a larger one."
        )
    fit_table(layout, outside, target_size)


def _notices(manifest: Manifest, disk: StoredDisk, part: StoredPartition | None, place: Extent) -> Iterator[Notice]:
    """What a person should know before he says yes."""
    chosen = disk.partitions if part is None else (part,)
    if manifest.is_torn:
        yield Notice(
            code="image-torn", message="the source changed while this image was made: it may be unusable",
            hint="Choose another image if there is one.",
        )  # fmt: skip
    ranges = [*(disk.unreadable if part is None else ()), *(pair for found in chosen for pair in found.unreadable)]
    lost = sum(end - start for start, end in ranges)
    if lost:
        yield Notice(
            code="unreadable", message=f"{format_size(lost)} could not be read from the source and come back as zeros",
            hint="'stillframe show' lists the ranges.",
        )  # fmt: skip
    gone = [str(found.number) for found in chosen if found.is_left_out]
    if gone:
        yield Notice(
            code="partition-not-kept", message=f"not in this image: partition {', '.join(gone)}, left out as a whole",
            hint="'stillframe show' tells why; an image of the whole disk has it.",
        )  # fmt: skip
    left_out = [f"{file.path} ({format_size(file.size)})" for found in chosen for file in found.left_out]
    if left_out:
        yield Notice(
            code="left-out", message=f"come back empty, as the image does not hold them: {', '.join(left_out[:6])}"
        )
    if part is not None and part.start != place.start and part.filesystem == "ntfs":
        yield Notice(
            code="boot-sector-moved",
            message="this Windows volume goes to another place than it came from: its data is right, but if Windows "
            "starts from it, its boot data must be repaired",
            hint="Start Windows' own repair, or restore the whole disk.",
        )


def _steps(plan: RestorePlan) -> Iterator[str]:
    part = plan.partition
    if plan.target is None:
        yield f"make {plan.target_path}, a sparse file of {format_size(plan.target_size)}"
    if part is not None:
        yield (
            f"write partition {part.number} ({part.filesystem or part.type_name or 'unknown'}"
            f"{', ' + repr(part.label) if part.label else ''}, {format_size(part.bytes_used)} in use) "
            f"to bytes {plan.place.start} to {plan.place.end}"
        )
        return
    yield "clear the partition table that is there, so that a half-done disk is never taken for a whole one"
    places = {place.partition.number: place for place in plan.left_places}
    for found in plan.source_disk.partitions:
        if found.number in places:
            yield places[found.number].step
            continue
        yield (
            f"write partition {found.number}: {found.filesystem or found.type_name or 'unknown'}"
            f"{', ' + repr(found.label) if found.label else ''}, {format_size(found.bytes_used)} of "
            f"{format_size(found.size)}"
        )
    yield "write boot code and what lies between partitions"
    if plan.source_disk.scheme == "gpt" and plan.target_size != plan.source_disk.size:
        yield "write the partition table, its second copy at the end of the target"
    elif plan.source_disk.scheme != "none":
        yield "write the partition table"
