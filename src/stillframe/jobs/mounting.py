"""The verb ``mount``: an image as a folder, with disk files, and the files of its volumes where that is possible.

Answers: "let me copy from the image as from a folder." The folder that people see shows everything. Behind it,
where only this process looks, lies a second one with the partitions for the kernel. There each partition is a file that
may be written to and whose changes are thrown away: so the kernel replays a journal, and the image stays as it is.
"""

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from stillframe.block.copy_on_write import CopyOnWrite, open_scratch
from stillframe.errors import MachineRefusal, StillframeError, UsageError
from stillframe.events import EventSink, Notice
from stillframe.fs.registry import identify
from stillframe.hanging import HANGS_S, serving_since
from stillframe.host.attaching import (
    REPLAYED_BY_KERNEL,
    Attached,
    Keeper,
    can_mount,
    is_mount_point,
    require_unknown_btrfs,
)
from stillframe.host.linux import is_root
from stillframe.host.places import is_inside
from stillframe.jobs.context import JobContext
from stillframe.jobs.exposing import ExposedImage, ExposedPartition, expose
from stillframe.jobs.inside.replayed import HELD, STALE, replayed_view
from stillframe.jobs.inside.volumes import look_inside
from stillframe.repo.records import Manifest, parse_time
from stillframe.repo.repository import Repository
from stillframe.serve.folder import DiskFile, Reported, ServedFolder, ShownFolder, serve_folder, serve_hidden

NOT_MOUNTED: Final = "files-not-mounted"
_STEP_S: Final = 0.2
_NAME: Final = re.compile(r"[^\w.+-]+")
_LABEL_MAX: Final = 32
_EXPORT: Final = "'stillframe get' may read them; 'stillframe export' makes a disk file for another machine."
_NEXT: Final = {
    "BitLocker": "It is encrypted. Restore it, or export it, and unlock it in Windows or with 'cryptsetup bitlkOpen'.",
    "crypto_LUKS": "It is encrypted: 'losetup' and 'cryptsetup open' work on its file in the folder.",
    "LVM2_member": "It holds logical volumes: 'stillframe ls' and 'get' read their files.",
    "linux_raid_member": "It is a part of an array: 'stillframe ls' and 'get' read the files of a RAID 1.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MountedImage:
    """What is shown.

    Attributes:
        place: The folder.
        files: Names of disk files in it.
        folders: Names of folders with the files of volumes.
        notices: What a person should know.
    """

    place: str
    files: tuple[str, ...]
    folders: tuple[str, ...]
    notices: tuple[Notice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MountResult:
    """What was shown, and how many different reads failed."""

    mounted: MountedImage
    failures: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """A partition, or a volume inside of one, and what it is called in the folder."""

    name: str
    part: ExposedPartition
    is_opened: bool = False
    """The volumes inside of it are shown."""


def mount_image(
    repository: Repository, manifest: Manifest, place: str, context: JobContext,
    ready: Callable[[MountedImage], None], *, repository_folder: str = "",
) -> MountResult:  # fmt: skip
    """Show an image as a folder until it is unmounted or the run is asked to stop. Call it with one thread.

    Args:
        repository: Where the image is.
        manifest: The image.
        place: An empty folder.
        context: ``cancel`` ends it; failed reads go to ``events``.
        ready: Called once, when everything is shown.
        repository_folder: Where the repository is; nothing may be shown in it.

    Raises:
        UsageError: The folder cannot be used.
        MachineRefusal: FUSE is not possible here.
    """
    place = os.path.abspath(place)
    require_place(place, repository_folder)
    image = expose(repository, manifest)
    wanted = list(_name_all(image))
    reported = Reported(context.events)
    with ExitStack() as stack:
        keeper = stack.enter_context(Keeper())
        keeper.will("mount", place)
        folders, notices = stack.enter_context(_mounted(wanted, keeper, reported))
        files = [*_disk_files(image), *(_partition_file(one, manifest) for one in wanted)]
        folder = stack.enter_context(serve_folder([*files, *folders], place, reported, for_others=is_root()))
        mounted = MountedImage(
            place=place, files=tuple(one.name for one in files), folders=tuple(one.name for one in folders),
            notices=tuple(notices),
        )  # fmt: skip
        for notice in notices:
            context.events.emit(notice)
        ready(mounted)
        _await_end(folder, context)
    return MountResult(mounted=mounted, failures=reported.count)


@contextmanager
def mounted_files(part: ExposedPartition, events: EventSink) -> Iterator[tuple[str, tuple[Notice, ...]]]:
    """A folder with the files of one partition, mounted by the kernel. Needs root; call it with one thread.

    Raises:
        MachineRefusal: It cannot be mounted here.
    """
    if not is_root():
        raise MachineRefusal(
            f"partition {part.word}: the files of {part.stored.filesystem} are read by the kernel, which asks for root",
            hint="Run it again with sudo.",
        )
    with Keeper() as keeper:
        wanted = [_Wanted(name="files", part=part)]
        with _mounted(wanted, keeper, Reported(events)) as (folders, notices):
            if not folders:
                raise MachineRefusal(notices[0].message, hint=notices[0].hint)
            yield folders[0].place, tuple(notices)


def require_place(place: str, repository_folder: str) -> None:
    """Refuse a folder at which nothing can be shown.

    Raises:
        UsageError: It is missing, not empty, in use, or inside the repository.
    """
    if is_mount_point(place):
        raise UsageError(f"something is mounted at {place} already", hint=f"'umount {place}' ends that.")
    try:
        names = os.listdir(place)
    except FileNotFoundError:
        raise UsageError(f"there is no folder {place}", hint=f"Make it: mkdir {place}") from None
    except OSError as error:
        raise UsageError(f"{place} cannot be used: {error.strerror}", hint="Name an empty folder of yours.") from error
    if names:
        raise UsageError(
            f"{place} is not empty: what is in it would be hidden", hint="Name an empty folder, such as a new one."
        )
    if repository_folder and is_inside(repository_folder, place):
        raise UsageError(f"{place} lies inside the repository", hint="Name a folder outside of it.")


def _name_all(image: ExposedImage) -> Iterator[_Wanted]:
    insides = look_inside(image)
    opened = {place for one in insides.volumes if one.part is not None for place in one.places}
    for disk in image.disks:
        first = f"disk{disk.stored.number}-" if len(image.disks) > 1 else ""
        for part in disk.partitions:
            if part.stored.is_left_out:
                continue
            place = disk.stored.number, part.stored.number
            yield _Wanted(name=first + _name_of(part), part=part, is_opened=place in opened)
            for one in insides.below(*place):
                if one.part is not None:
                    yield _Wanted(name=first + _name_of(one.part), part=one.part)


def _name_of(part: ExposedPartition) -> str:
    stored = part.stored
    words = [f"partition{stored.number}", stored.filesystem, stored.label or stored.name]
    if part.volume is not None:
        words.insert(1, part.volume or "inside")
    return "-".join(_NAME.sub("_", word)[:_LABEL_MAX].strip("_.") for word in words if word).rstrip("-")


def _disk_files(image: ExposedImage) -> Iterator[DiskFile]:
    for disk in image.disks:
        name = "disk.img" if len(image.disks) == 1 else f"disk{disk.stored.number}.img"
        yield DiskFile(name=name, reader=disk.reader, modified_s=_time_of(image.manifest))


def _partition_file(wanted: _Wanted, manifest: Manifest) -> DiskFile:
    return DiskFile(name=f"{wanted.name}.img", reader=wanted.part.reader, modified_s=_time_of(manifest))


def _time_of(manifest: Manifest) -> int:
    return int(parse_time(manifest.created).timestamp())


@contextmanager
def _mounted(
    wanted: Sequence[_Wanted], keeper: Keeper, reported: Reported
) -> Iterator[tuple[list[ShownFolder], list[Notice]]]:
    """Mount what can be mounted, each in a folder that nobody else sees."""
    notices: list[Notice] = []
    todo = [one for one in wanted if _may_be_mounted(one, notices)]
    if not todo:
        yield [], notices
        return
    with ExitStack() as stack:
        files = [stack.enter_context(_changeable_file(one)) for one in todo]
        hidden = stack.enter_context(serve_hidden(files, keeper, reported, name="stillframe-partitions"))
        attached = [_attach(one, keeper, hidden, notices) for one in todo]
        found = [ShownFolder(name=one.name, place=a.place) for one, a in zip(todo, attached, strict=True) if a]
        yield found, notices


def _may_be_mounted(wanted: _Wanted, notices: list[Notice]) -> bool:
    """Whether to try; why not is noted."""
    stored = wanted.part.stored
    what = f"partition {wanted.part.word} ({stored.filesystem or stored.type_name or 'unknown contents'})"
    if stored.filesystem in ("", "swap") or wanted.is_opened:
        return False
    if stored.filesystem in _NEXT or not can_mount(stored.filesystem):
        words = f"{what}: there is no way to show its files here"
        notices.append(Notice(code=NOT_MOUNTED, message=words, hint=_NEXT.get(stored.filesystem, _EXPORT)))
        return False
    if not is_root():
        words = f"{what}: its files are shown only to root"
        notices.append(Notice(code=NOT_MOUNTED, message=words, hint="Run it with sudo, or use 'stillframe get'."))
        return False
    try:
        if stored.filesystem == "btrfs":
            require_unknown_btrfs(stored.uuid)
    except MachineRefusal as error:
        notices.append(Notice(code=NOT_MOUNTED, message=f"{what}: {error.message}", hint=error.hint))
        return False
    return True


@contextmanager
def _changeable_file(wanted: _Wanted) -> Iterator[DiskFile]:
    """The partition for the kernel; what it writes is thrown away. What was left out is an error, never zeros."""
    part = wanted.part
    with open_scratch(tempfile.gettempdir(), part.reader.size) as changes:
        writer = CopyOnWrite(part.reader, changes)  # not over the guard: what it copies up is more than is written
        yield DiskFile(name=wanted.name, reader=part.guarded(writer), writer=writer)


def _attach(wanted: _Wanted, keeper: Keeper, hidden: str, notices: list[Notice]) -> Attached | None:
    stored = wanted.part.stored
    try:
        place = keeper.make_folder(f"{hidden}/{wanted.name}")
        file = f"{hidden}/disks/{wanted.name}"
        attached = keeper.attach(file, stored.filesystem, place, reads_ahead=not stored.excluded)
    except StillframeError as error:
        words = f"partition {stored.number}: {error.message}"
        notices.append(Notice(code=NOT_MOUNTED, message=words, hint=error.hint))
        return None
    if attached.is_stale or stored.filesystem not in REPLAYED_BY_KERNEL:
        notices += _doubts(wanted.part, is_stale=attached.is_stale)
    return attached


def _doubts(part: ExposedPartition, *, is_stale: bool) -> Iterator[Notice]:
    """Why files of a volume that was not unmounted may be out of date."""
    if is_stale:
        yield Notice(
            code=STALE,
            message=f"partition {part.word}: its journal could not be replayed, so files may be missing or out of date",
            hint="Compare with an older image, or restore the partition and let its own system repair it.",
        )
        return
    view = replayed_view(part.reader, identify(part.reader).volume)
    yield from (notice for notice in view[1] if notice.code == STALE and part.stored.consistency not in HELD)


def _await_end(folder: ServedFolder, context: JobContext) -> None:
    """Wait until somebody unmounts it, or the run is to stop and nobody has anything in it open, or can close it."""
    told = ""
    while not folder.wait(_STEP_S):
        if not context.cancel.is_set:
            continue
        why = folder.unmount()
        if why and serving_since() > HANGS_S:  # nobody can close what waits for a storage that hangs
            return
        if why and why != told:
            told = why
            context.events.emit(
                Notice(
                    code="folder-busy", message=f"{folder.place} is still in use: {why}",
                    hint="Close what is open in it; it ends by itself then. Ctrl-C again ends it at once.",
                )
            )  # fmt: skip
