"""The verb ``backup``: an image of one or more disks goes into a repository.

Answers: "what will be saved, and what does it cost?" (``plan_backup``), then saves it (``apply_backup``). The source is
only read. The order of writing is that of ``docs/format/v1.md``, section 12.
"""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, Literal

import stillframe
from stillframe.capture import CapturedDisk, OpenSource, Selection
from stillframe.capture.live import LiveSource
from stillframe.capture.windows import WindowsSource, hold
from stillframe.clock import rfc3339
from stillframe.errors import Cancelled, StillframeError, StorageFull, UsageError
from stillframe.events import JobFinished, JobStarted, Notice, PhaseStarted
from stillframe.jobs.context import JobContext
from stillframe.jobs.inside.catalogue import make_catalogue
from stillframe.jobs.saving.baseline import WantedKind, choose_baseline, maps_before
from stillframe.jobs.saving.chunking import kept_ranges
from stillframe.jobs.saving.holding import held_still
from stillframe.jobs.saving.hooks import Hooks, hooked
from stillframe.jobs.saving.linking import linked, own_turn
from stillframe.jobs.saving.live import StoredLive, store_live
from stillframe.jobs.saving.manifests import describe_disk
from stillframe.jobs.saving.own_runs import known_here
from stillframe.jobs.saving.preflight import RESERVE, Estimate, PricedFolder, estimate, price_temporary
from stillframe.jobs.saving.readback import ReadBack, read_back, read_back_own
from stillframe.jobs.saving.storing import StoredRange, store_ranges
from stillframe.repo.records import (
    BackupKind,
    MachineName,
    Manifest,
    StoredHold,
    StoredImport,
    StoredNotice,
    stored_notice,
)
from stillframe.repo.repository import Repository
from stillframe.repo.sealing import make_id
from stillframe.repo.session import Owner, Session, begin_session
from stillframe.repo.walk import referenced_chunks
from stillframe.repo.writing import ChunkNamer, ImageWriter
from stillframe.units import format_size

Compression = Literal["none", "fast", "balanced", "high"]
LEVELS: Final[dict[Compression, int | None]] = {"none": None, "fast": 1, "balanced": 3, "high": 9}


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupOptions:
    """What a person asked for. ``patches``: store what changed against what it was, where that pays."""

    kind: WantedKind = "auto"
    name: str = ""
    comment: str = ""
    compression: Compression = "fast"
    patches: bool = True
    selection: Selection = field(default_factory=Selection)
    verify: bool = True
    hooks: Hooks = field(default_factory=Hooks)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupPlan:
    """What a backup is going to do.

    ``machine`` is whose image it will be. ``bytes_left_over`` are in packs of a run that was cut off, and may be what
    is needed; they count only where the room is short. ``free_space`` is ``None`` when the storage cannot tell.
    ``temporary`` is looked for where all is stored anew. ``imported`` says of an image of another program where it came
    from.
    """

    machine: MachineName
    kind: BackupKind
    baseline: str
    domain: str
    bytes_left_over: int = 0
    options: BackupOptions
    disks: tuple[CapturedDisk, ...]
    estimate: Estimate
    temporary: tuple[PricedFolder, ...]
    free_space: int | None
    notices: tuple[Notice, ...]
    imported: StoredImport | None = None

    @property
    def bytes_left_out(self) -> int:
        """Bytes in use that will not be kept: paging, hibernation, swap, and what was excluded."""
        return sum(volume.excluded.size for disk in self.disks for volume in disk.volumes)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupResult:
    """What a backup did. ``is_complete`` is false when something could not be read or changed meanwhile (exit 3)."""

    manifest: Manifest
    seconds: float
    read_back: ReadBack | None
    is_complete: bool


def plan_backup(
    repository: Repository, sources: Sequence[OpenSource], options: BackupOptions, owner: Owner,
    notices: Sequence[Notice] = (),
) -> BackupPlan:  # fmt: skip
    """Look at the sources, choose what to compare with, and measure a sample.

    Args:
        repository: Where the image will be.
        sources: What will be in it.
        options: What a person asked for.
        owner: Whose image it will be.
        notices: What is known before, and belongs to the image.

    Raises:
        UsageError: No source, or the same one twice.
    """
    paths = [source.facts.path for source in sources]
    if not paths or len(set(paths)) < len(paths):
        raise UsageError("name at least one source, each once", hint="'stillframe disks' lists them.")
    if options.selection.exclude and any(isinstance(source, LiveSource) for source in sources):
        raise UsageError(
            "'--exclude' is not possible for a disk in use in this version: looking for the files takes too long for a "
            "freeze",
            hint="Leave it out, or unmount the disk first.",
        )
    disks = tuple(source.capture(options.selection) for source in sources)
    images = [image.manifest for image in repository.images().images] if repository.put is None else []
    baseline = choose_baseline(images, wanted=options.kind, name=options.name, machine_id=owner.machine.id, disks=disks)
    ranges = [found for disk in disks for found in kept_ranges(disk)]
    namer = ChunkNamer(repository, bytes.fromhex(baseline.domain))
    measured = estimate(
        ranges, chunk_size=repository.identity.chunk_size, namer=namer, index=repository.load_index(),
        level=LEVELS[options.compression],
    )  # fmt: skip
    cost = measured.with_parity() if repository.parity.is_wanted else measured
    free = repository.box.store.free_space()
    is_short = free is not None and cost.bytes_expected + RESERVE > free
    return BackupPlan(
        machine=owner.machine, kind=baseline.kind, baseline=baseline.image, domain=baseline.domain,
        options=options, disks=disks, estimate=cost, temporary=_price(sources, disks, options, baseline.kind),
        free_space=free, bytes_left_over=_left_over(repository) if is_short else 0,
        notices=(*notices, *baseline.notices, *_all_notices(sources, disks)),
    )  # fmt: skip


def _left_over(repository: Repository) -> int:
    """Bytes in packs that no index run names. A put key knows its own runs only: others' packs are nothing to it."""
    if repository.put is not None:
        return 0
    there, known = repository.stored_packs(), repository.load_index().packs()
    return sum(size for pack, size in there.items() if pack not in known)


def _price(
    sources: Sequence[OpenSource], disks: tuple[CapturedDisk, ...], options: BackupOptions, kind: BackupKind
) -> tuple[PricedFolder, ...]:
    """What temporary files cost, where they are not stored already.

    Not on Windows: nothing stands still yet, and a library that crashed would end us.
    """
    if kind != "full" or any(isinstance(source, WindowsSource) for source in sources):
        return ()
    return price_temporary(disks, [one.text for one in options.selection.exclude])


def require_room(plan: BackupPlan) -> None:
    """Refuse a backup that is not going to fit.

    Raises:
        StorageFull: With how much is missing. Nothing was written.
    """
    needed = max(plan.estimate.bytes_expected - plan.bytes_left_over, 0) + RESERVE
    if plan.free_space is not None and needed > plan.free_space:
        raise StorageFull(
            f"the repository has room for {format_size(plan.free_space)}, and this backup is expected to need "
            f"{format_size(needed)}",
            hint="Make room with 'stillframe expire', or use a larger disk.",
        )


def apply_backup(
    repository: Repository, sources: Sequence[OpenSource], plan: BackupPlan, context: JobContext
) -> BackupResult:
    """Make the image that was planned.

    Raises:
        StillframeError: The image does not exist; what was stored stays and the next run uses it.
    """
    clock = repository.clock
    began, created = clock.monotonic(), rfc3339(clock.now())
    require_room(plan)
    session = begin_session(repository, context.owner, "backup", [disk.facts.path for disk in plan.disks])
    with contextlib.ExitStack() as stack:
        stack.push(partial(_end, session))
        beside = session.beside
        if repository.put is not None:
            beside = stack.enter_context(known_here(context.state_folder, session))
        context.events.emit(JobStarted(verb="backup", what=_what(plan), bytes_total=plan.estimate.bytes_to_read))
        writer = ImageWriter(session, domain=bytes.fromhex(plan.domain), level=LEVELS[plan.options.compression])
        wanted = plan.options
        if wanted.patches:
            writer.patch_against(maps_before(repository, plan.baseline, plan.domain, plan.disks))
        with held_still(
            sources, plan.disks, selection=wanted.selection, hooks=wanted.hooks, context=context
        ) as held:  # fmt: skip
            done = _store(repository, held.sources, replace(plan, disks=held.disks), writer, context)
            context.events.emit(PhaseStarted(name="writing the index"))
            writer.flush()
            done = replace(done, torn=tuple(not source.stayed_still() for source in held.sources))
        done = replace(done, notices=(*done.notices, *held.notices))
        manifest = _make_manifest(
            repository, plan, done, created=created, session=session.id, bytes_added=writer.bytes_added
        )
        manifest = _with_catalogue(repository, sources, writer, manifest, context)
        context.cancel.check()
        with own_turn(context.state_folder, repository.identity.id, context.cancel.check):
            manifest = linked(repository, manifest, beside)
            writer.commit(manifest, lambda: _relied_on(repository, writer, manifest))
        checked = _read_back(repository, writer, manifest, plan, context)
    context.events.emit(JobFinished(verb="backup", seconds=clock.monotonic() - began))
    complete = not manifest.is_torn and not any(found.unreadable.size for found in done.ranges)
    return BackupResult(manifest=manifest, seconds=clock.monotonic() - began, read_back=checked, is_complete=complete)


def _end(session: Session, _kind: object, error: BaseException | None, _trace: object) -> None:
    """End the session. What goes wrong with that says less than what went wrong before; the next run ends it then."""
    try:
        session.end()
    except StillframeError:
        if error is None:
            raise


def _all_notices(sources: Sequence[OpenSource], disks: Sequence[CapturedDisk]) -> Iterator[Notice]:
    for source, disk in zip(sources, disks, strict=True):
        yield from source.notices
        if source.announcement is not None:  # what a look at it says now need not hold when it stands still
            yield source.announcement
            continue
        yield from disk.notices
        for volume in disk.volumes:
            yield from volume.notices


def _what(plan: BackupPlan) -> str:
    return ", ".join(disk.facts.path for disk in plan.disks)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    """What was stored: disks as they were saved, their ranges one disk after the other, and which disks are torn."""

    disks: tuple[CapturedDisk, ...]
    ranges: tuple[StoredRange, ...]
    bytes_read: int
    torn: tuple[bool, ...] = ()
    held: StoredHold | None = None
    notices: tuple[Notice, ...] = ()


def _store(
    repository: Repository, sources: Sequence[OpenSource], plan: BackupPlan, writer: ImageWriter, context: JobContext
) -> _Done:
    """Store all sources: first those in use, all as they are at one moment, then the others as they lie there."""
    shadowed = [source for source in sources if isinstance(source, WindowsSource)]
    if shadowed:  # and then all are: a Windows has no others
        return _store_shadowed(repository, shadowed, plan, writer, context)
    live = [source for source in sources if isinstance(source, LiveSource)]
    found = None
    if live:
        wanted = plan.options
        found = store_live(repository, live, writer, selection=wanted.selection, hooks=wanted.hooks, context=context)
    still = [disk for disk, source in zip(plan.disks, sources, strict=True) if not isinstance(source, LiveSource)]
    ranges = [one for disk in still for one in kept_ranges(disk)]
    stored, bytes_read = store_ranges(ranges, writer, chunk_size=repository.identity.chunk_size, context=context)
    if found is None:
        return _Done(disks=plan.disks, ranges=tuple(stored), bytes_read=bytes_read)
    return _merged(sources, found, still, stored, bytes_read)


def _store_shadowed(
    repository: Repository, sources: Sequence[WindowsSource], plan: BackupPlan, writer: ImageWriter,
    context: JobContext,
) -> _Done:  # fmt: skip
    """Store disks of a running Windows, which are held still until the last byte of them was read."""
    wanted, notices = plan.options, list[Notice]()
    around = hooked(wanted.hooks, notices.append)
    check = context.cancel.check
    with hold(sources, wanted.selection, around=around, sink=context.events, check=check) as held:
        ranges = [one for disk in held.disks for one in kept_ranges(disk)]
        stored, bytes_read = store_ranges(ranges, writer, chunk_size=repository.identity.chunk_size, context=context)
    return _Done(
        disks=held.disks, ranges=tuple(stored), bytes_read=bytes_read, notices=(*held.notices, *notices)
    )  # fmt: skip


def _merged(
    sources: Sequence[OpenSource], live: StoredLive, still: Sequence[CapturedDisk], stored: Sequence[StoredRange],
    bytes_read: int,
) -> _Done:  # fmt: skip
    """Disks in the order in which they were named."""
    kinds = (iter(still), iter(stored)), (iter(live.disks), iter(live.ranges))
    disks, ranges = list[CapturedDisk](), list[StoredRange]()
    for source in sources:
        from_disks, from_ranges = kinds[isinstance(source, LiveSource)]
        disks.append(next(from_disks))
        ranges += itertools.islice(from_ranges, 1 + len(disks[-1].volumes))
    return _Done(
        disks=tuple(disks), ranges=tuple(ranges), bytes_read=bytes_read + live.bytes_read, held=live.held,
        notices=live.notices,
    )  # fmt: skip


def _make_manifest(
    repository: Repository, plan: BackupPlan, done: _Done, *, created: str, session: str, bytes_added: int
) -> Manifest:
    queue = iter(done.ranges)
    disks = []
    for number, (disk, is_torn) in enumerate(zip(done.disks, done.torn, strict=True), 1):
        ranges = [next(queue) for _ in range(1 + len(disk.volumes))]
        disks.append(describe_disk(number, disk, ranges, torn=is_torn))
    return Manifest(
        image=make_id().hex(), program=stillframe.__version__, created=created,
        finished=rfc3339(repository.clock.now()), machine=plan.machine, name=plan.options.name,
        comment=plan.options.comment, kind=plan.kind, baseline=plan.baseline, sequence=1,  # until it is linked
        domain=plan.domain, chunk_size=repository.identity.chunk_size, session=session,
        bytes_total=sum(disk.size for disk in disks), bytes_used=sum(disk.bytes_used for disk in done.disks),
        bytes_read=done.bytes_read, bytes_added=bytes_added, held=done.held, imported=plan.imported,
        notices=_notices(plan, done), disks=tuple(disks),
    )  # fmt: skip


def _with_catalogue(
    repository: Repository, sources: Sequence[OpenSource], writer: ImageWriter, manifest: Manifest, context: JobContext
) -> Manifest:
    """The image with its page of contents; none of a put-only machine, which cannot read what it stored earlier.

    Not on Windows: a library that crashed would end the backup with it.
    """
    if repository.put is not None or any(isinstance(source, WindowsSource) for source in sources):
        return manifest
    context.events.emit(PhaseStarted(name="looking at what is in the image"))
    earlier = None
    with contextlib.suppress(StillframeError):  # it only saves counting
        earlier = repository.image(bytes.fromhex(manifest.baseline)).manifest if manifest.baseline else None
    return make_catalogue(repository.reader(writer.index), manifest, earlier)


def _notices(plan: BackupPlan, done: _Done) -> tuple[StoredNotice, ...]:
    notices = [stored_notice(notice) for notice in (*plan.notices, *done.notices)]
    lost = sum(found.unreadable.size for found in done.ranges)
    if lost:
        notices.append(
            StoredNotice(
                code="unreadable",
                message=f"{format_size(lost)} could not be read and are zeros in this image",
                hint="The disk is failing: replace it. 'stillframe show' lists the ranges.",
            )
        )
    if any(done.torn) and not any(notice.code == "source-torn" for notice in notices):
        notices.append(
            StoredNotice(
                code="source-torn",
                message="the source came into use while it was copied: this image may be unusable",
                hint="Unmount it and make another.",
            )
        )
    return tuple(notices)


def _relied_on(repository: Repository, writer: ImageWriter, manifest: Manifest) -> list[bytes]:
    raw = referenced_chunks(repository.reader(writer.index), [manifest]).ids.tobytes()
    return [raw[at : at + 32] for at in range(0, len(raw), 32)]


def _read_back(
    repository: Repository, writer: ImageWriter, manifest: Manifest, plan: BackupPlan, context: JobContext
) -> ReadBack | None:
    if not plan.options.verify:
        return None
    look = read_back if repository.put is None else read_back_own
    try:
        return look(repository, manifest, writer.packs_written, index=writer.index, context=context)
    except Cancelled:  # the image exists: only its proof is missing
        notice = Notice(
            code="read-back-stopped", message=f"image {manifest.image[:8]} is made; reading it back was stopped",
            hint="'stillframe verify' does it at any time.",
        )  # fmt: skip
        context.events.emit(notice)
        return None
