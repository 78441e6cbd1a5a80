"""What a Linux on a restored disk needs changed so that it starts: under new ids, or in another computer.

Answers: "does the Linux on this target find what it starts from?" The partitions have been written, the table has not.
Its tools work on a view (``workbench``): all of it is on the target afterwards, or nothing. What cannot be done whole
is tried again with less: without new ids of file systems, then without new ids at all.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from stillframe.errors import DeviceError, MachineRefusal, StillframeError
from stillframe.events import Notice, PhaseStarted
from stillframe.host.esp_files import FatVolume
from stillframe.jobs.starts.linux_adapt import name_by_uuid, relax_network
from stillframe.jobs.starts.linux_fallback import write_fallback
from stillframe.jobs.starts.linux_identity import rename_volumes, renamed_words, stale_initrds, write_ids
from stillframe.jobs.starts.linux_initramfs import rebuild_initramfs
from stillframe.jobs.starts.linux_mounts import (
    DiskPart,
    MountedLinux,
    find_roots,
    is_possible,
    mount_linux,
    read_disk_parts,
    read_parts,
    unopened_parts,
    with_old_names,
)
from stillframe.jobs.starts.linux_places import repair_places
from stillframe.jobs.starts.start_failures import NOT_REPAIRED
from stillframe.jobs.starts.workbench import Workbench, work_on
from stillframe.systems.linux_ids import IdPattern, partition_changes

if TYPE_CHECKING:
    from stillframe.jobs.context import JobContext
    from stillframe.jobs.starts.making_ready import StartWishes, WrittenDisk

IDS_KEPT: Final = "uuids-kept"
_HINT: Final = "Start it; if it does not, start the computer from its system's own medium and repair it there."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    """What is done in one go.

    Attributes:
        table: The new ids of the table are written where the old ones are noted.
        volumes: File systems get new ids too.
        adapt: It goes into another computer.
    """

    table: bool
    volumes: bool
    adapt: bool


def repair_linux(disk: "WrittenDisk", wishes: "StartWishes", context: "JobContext") -> tuple[str, ...]:
    """Change what the Linux systems on a disk need changed; what was done, in words. What cannot be is a notice."""
    parts = read_disk_parts(disk.target, disk.before, disk.after, disk.written)
    placed = repair_places(disk, parts, context)
    if not (wishes.new_identity or wishes.adapt) or not is_possible(parts):
        return placed
    context.events.emit(PhaseStarted(name="making the Linux on it ready to start"))
    first = _Attempt(table=wishes.new_identity, volumes=wishes.new_identity, adapt=wishes.adapt)
    unopened = unopened_parts(parts)
    if unopened:
        context.events.emit(_unopened(unopened, adapt=wishes.adapt))
        first = replace(first, volumes=False)
    for attempt in _attempts(first):
        work = partial(_work, disk=disk, attempt=attempt)
        try:
            return (*placed, *work_on(disk.target, disk.table, disk.after, context.events, work))
        except (MachineRefusal, DeviceError) as error:
            context.events.emit(_failed(attempt, error))
    return placed


def _attempts(first: _Attempt) -> Iterator[_Attempt]:
    """What is wished, then less of it."""
    yield first
    if first.volumes:
        yield replace(first, volumes=False)
    if first.table and first.adapt:
        yield replace(first, volumes=False, table=False)


def _work(bench: Workbench, *, disk: "WrittenDisk", attempt: _Attempt) -> tuple[str, ...]:
    parts = read_parts(bench, disk.before, disk.written)
    roots = find_roots(bench, parts)
    done, changes = list[str](), list(partition_changes(disk.before, disk.after) if attempt.table else ())
    if attempt.volumes and (roots or not _starts_something(parts)):
        changes += rename_volumes(bench, parts)
        renamed = read_parts(bench, disk.before, disk.written)
        done += renamed_words(parts, renamed)
        parts = with_old_names(renamed, parts)
    systems = mount_linux(bench, parts, roots)
    ids = IdPattern(changes)
    done += write_ids(bench, systems, parts, ids)
    for linux in systems:
        if attempt.adapt:
            done += relax_network(linux)
            done += name_by_uuid(linux, parts)
        done += _renew_initramfs(linux, ids, always=attempt.adapt)
    if systems:
        done += _fallbacks(bench, parts)
    return tuple(done)


def _renew_initramfs(linux: MountedLinux, ids: IdPattern, *, always: bool) -> tuple[str, ...]:
    """Make it anew where it must be; it holds no old id afterwards."""
    if not always and not (ids.size_max and stale_initrds(linux, ids, unknown=True)):
        return ()
    done = rebuild_initramfs(linux)
    stale = stale_initrds(linux, ids, unknown=False) if ids.size_max else ()
    if stale:
        raise MachineRefusal(f"{', '.join(stale)} of {linux.name} still holds ids of the source", hint=_HINT)
    return done


def _fallbacks(bench: Workbench, parts: Sequence[DiskPart]) -> Iterator[str]:
    for part in parts:
        if part.volume.filesystem == "vfat":
            yield from write_fallback(FatVolume(path=bench.disk.node(part.number)))


def _starts_something(parts: Sequence[DiskPart]) -> bool:
    """Whether a disk without a root of its own may start one that lies elsewhere, which knows its ids."""
    return any(part.volume.filesystem == "vfat" or part.partition.type_name == "BIOS boot" for part in parts)


def _failed(attempt: _Attempt, error: StillframeError) -> Notice:
    if attempt.volumes:
        return Notice(
            code=IDS_KEPT, message=f"file systems keep the ids of their originals: {error.message}", hint=error.hint
        )
    what = "its new ids were not written where it notes them" if attempt.table else "it was not adapted"
    return Notice(
        code=NOT_REPAIRED, message=f"the Linux on it may not start, {what}: {error.message}", hint=error.hint or _HINT
    )


def _unopened(places: Sequence[str], *, adapt: bool) -> Notice:
    words = ", ".join(places)
    rest = "no Linux in them was adapted" if adapt else "what a Linux in them notes of partitions was not changed"
    return Notice(
        code=NOT_REPAIRED if adapt else IDS_KEPT,
        message=f"not opened: {words}; file systems keep the ids of their originals, and {rest}",
        hint="If it does not start, start it from its system's own medium: correct /etc/fstab there, and make the "
        "initramfs anew.",
    )  # fmt: skip
