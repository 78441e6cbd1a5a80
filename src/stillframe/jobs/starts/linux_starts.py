"""What a Linux on a restored disk needs changed so that it starts: under new ids, or in another computer.

Answers: "does the Linux on this target find what it starts from?" The partitions have been written, the table has not.
Its tools work on a view (``workbench``): all of it is on the target afterwards, or nothing. What cannot be done whole
is tried again with less: without new ids of file systems, then without new ids at all.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from stillframe.errors import DeviceError, MachineRefusal, StillframeError
from stillframe.events import Notice, PhaseStarted
from stillframe.host.esp_files import FatVolume
from stillframe.jobs.starts.linux_adapt import forget_devices_file, name_by_uuid, relax_network
from stillframe.jobs.starts.linux_fallback import write_fallback
from stillframe.jobs.starts.linux_identity import rename_volumes, renamed_words, stale_initrds, write_ids
from stillframe.jobs.starts.linux_initramfs import rebuild_initramfs
from stillframe.jobs.starts.linux_mounts import MountedLinux, find_roots, mount_linux
from stillframe.jobs.starts.linux_parts import DiskPart, is_possible, read_disk_parts, read_parts, with_old_names
from stillframe.jobs.starts.linux_places import repair_places
from stillframe.jobs.starts.stack_identity import rename_layers
from stillframe.jobs.starts.start_failures import NOT_REPAIRED
from stillframe.jobs.starts.volume_stack import VolumeStack, open_stack
from stillframe.jobs.starts.workbench import Look, Workbench, work_on
from stillframe.systems.linux_ids import IdChange, IdPattern, partition_changes

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
    if not (wishes.new_identity or wishes.adapt):
        return placed
    look = partial(open_stack, layout=disk.after, numbers=disk.written, keys=context.keys)
    stack = look(disk.target)
    if not (is_possible(parts) or stack.volumes or stack.unopened):
        return placed
    context.events.emit(PhaseStarted(name="making the Linux on it ready to start"))
    first = _Attempt(table=wishes.new_identity, volumes=wishes.new_identity, adapt=wishes.adapt)
    if stack.unopened:
        context.events.emit(_unopened(stack, adapt=wishes.adapt))
        first = replace(first, volumes=False)
    for attempt in _attempts(first):
        work = _Work(disk=disk, attempt=attempt, look=look)
        try:
            done = work_on(disk.target, disk.table, disk.after, context.events, work.do, look=look)
        except (MachineRefusal, DeviceError) as error:
            context.events.emit(_failed(attempt, error))
            continue
        for notice in work.notices:
            context.events.emit(notice)
        return (*placed, *done)
    return placed


def _attempts(first: _Attempt) -> Iterator[_Attempt]:
    """What is wished, then less of it."""
    yield first
    if first.volumes:
        yield replace(first, volumes=False)
    if first.table and first.adapt:
        yield replace(first, volumes=False, table=False)


@dataclass(slots=True, kw_only=True)
class _Work:
    """An attempt on the workbench; ``notices`` are true when it succeeded."""

    disk: "WrittenDisk"
    attempt: _Attempt
    look: Look
    notices: list[Notice] = field(default_factory=list)

    def do(self, bench: Workbench) -> tuple[str, ...]:
        """Change what has to be changed; what was done, in words."""
        disk, attempt = self.disk, self.attempt
        parts = read_parts(bench, disk.before, disk.written)
        roots = find_roots(bench, parts)
        done, changes = list[str](), list(partition_changes(disk.before, disk.after) if attempt.table else ())
        if attempt.volumes and (roots or not _starts_something(parts)):
            parts = self._rename(bench, parts, done, changes)
        systems = mount_linux(bench, parts, roots)
        ids = IdPattern(changes)
        done += write_ids(bench, systems, parts, ids)
        for linux in systems:
            if attempt.adapt:
                done += relax_network(linux)
                done += name_by_uuid(linux, parts)
            if attempt.volumes or attempt.adapt:
                done += forget_devices_file(linux)
            done += renew_initramfs(linux, ids, always=attempt.adapt)
        if systems:
            done += _fallbacks(bench, parts)
        return tuple(done)

    def _rename(
        self, bench: Workbench, parts: tuple[DiskPart, ...], done: list[str], changes: list[IdChange]
    ) -> tuple[DiskPart, ...]:
        """Give file systems and what they lie in new ids; the volumes as they are then."""
        disk = self.disk
        changes += rename_volumes(bench, parts)
        renamed = read_parts(bench, disk.before, disk.written)
        done += renamed_words(parts, renamed)
        layers = rename_layers(bench, lambda: self.look(bench.view))
        changes += layers.changes
        done += layers.words
        self.notices += [layers.notice] if layers.notice is not None else []
        return with_old_names(read_parts(bench, disk.before, disk.written), parts)


def renew_initramfs(linux: MountedLinux, ids: IdPattern, *, always: bool) -> tuple[str, ...]:
    """Make the initramfs of a Linux anew where it must be; it holds no old id afterwards. What was done, in words.

    Args:
        linux: The system.
        ids: Old and new.
        always: Make it anew in any case, with all drivers.

    Raises:
        MachineRefusal: It was not made, or still holds an old id.
    """
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
            yield from write_fallback(FatVolume(path=bench.node(part.key)))


def _starts_something(parts: Sequence[DiskPart]) -> bool:
    """Whether a disk without a root of its own may start one that lies elsewhere, which knows its ids."""
    return any(
        part.volume.filesystem == "vfat" or (part.partition is not None and part.partition.type_name == "BIOS boot")
        for part in parts
    )


def _failed(attempt: _Attempt, error: StillframeError) -> Notice:
    if attempt.volumes:
        return Notice(
            code=IDS_KEPT, message=f"file systems keep the ids of their originals: {error.message}", hint=error.hint
        )
    what = "its new ids were not written where it notes them" if attempt.table else "it was not adapted"
    return Notice(
        code=NOT_REPAIRED, message=f"the Linux on it may not start, {what}: {error.message}", hint=error.hint or _HINT
    )


def _unopened(stack: VolumeStack, *, adapt: bool) -> Notice:
    rest = "no Linux in them was adapted" if adapt else "what a Linux in them notes of partitions was not changed"
    unlock = "'--unlock' opens what is encrypted by LUKS. " if stack.locked else ""
    return Notice(
        code=NOT_REPAIRED if adapt else IDS_KEPT,
        message=f"not opened: {', '.join(stack.unopened)}; file systems keep the ids of their originals, and {rest}",
        hint=f"{unlock}If it does not start, start it from its system's own medium: correct /etc/fstab there, and make "
        "the initramfs anew.",
    )  # fmt: skip
