"""The files of a partition of an image: opened, walked through, listed and found.

Answers: "which files are in there, and may they be believed?" What reads the file system is C code that follows what
the volume says, so it works in a process of its own (``host.streamed``), and only records come back.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from stillframe.errors import DiskFormatError, MachineRefusal, StillframeError, UsageError
from stillframe.events import NoEvents, Notice
from stillframe.fs.base import Volume
from stillframe.fs.ext import EXT_NAMES
from stillframe.fs.files.contents import open_contents
from stillframe.fs.files.mounted import MountedFiles
from stillframe.fs.files.names import CASE_FREE, fold_case, show_name
from stillframe.fs.files.patterns import Pattern, Trail
from stillframe.fs.files.source import FOLDER, LINK, FileEntry, FileSource
from stillframe.fs.registry import identify
from stillframe.host.attaching import can_mount
from stillframe.host.streamed import Send, stream_apart
from stillframe.jobs.exposing import ExposedPartition
from stillframe.jobs.inside.replayed import HELD, STALE, replayed_view
from stillframe.jobs.mounting import mounted_files
from stillframe.jobs.pipeline import CancelToken
from stillframe.repo.records import extents_of

NOT_READ: Final = "files-not-read"
DEPTH_MAX: Final = 256
_BY_KERNEL: Final = "As root, the verb 'mount' asks the kernel for them; or restore it to a disk and look there."
_NEXT: Final = {
    "BitLocker": "It is encrypted. Restore it and unlock it in Windows, or with 'cryptsetup bitlkOpen' in Linux.",
    "crypto_LUKS": "It is encrypted. Restore it and open it with 'cryptsetup open'.",
    "LVM2_member": "It holds logical volumes: 'stillframe ls IMAGE' lists them, and IMAGE:N@NAME names one.",
    "linux_raid_member": "It is a part of an array: 'stillframe ls IMAGE' says what is in it; IMAGE:N@ names it.",
    "swap": "Swap space has no files.",
    "": "'stillframe show IMAGE' tells what the image knows of it.",
}

Mount = Callable[[ExposedPartition], tuple[str, tuple[Notice, ...]]]
"""Mounts a partition read-only by the kernel: the folder where its files are, and what must be said about them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFiles:
    """The files of a partition, and what must be said about them."""

    source: FileSource
    notices: tuple[Notice, ...]


class ListedFile(NamedTuple):
    """A file as it is told. A tuple, because there may be a million of them.

    Attributes:
        path: From the root of the partition, as text that ``get`` takes.
        kind: As in ``FileEntry``.
        size, modified_ns, mode, uid, gid, links: Likewise.
        target: Where a link leads.
        streams: Names of alternate data streams.
        refusal: Why its contents cannot be given.
    """

    path: str
    kind: str
    size: int
    modified_ns: int
    mode: int | None
    uid: int
    gid: int
    links: int
    target: str
    streams: tuple[str, ...]
    refusal: str


def open_files_of(part: ExposedPartition, *, mount: Mount | None = None) -> OpenFiles:
    """The files of a partition, its journal replayed where that is possible.

    Args:
        part: The partition.
        mount: What asks the kernel for file systems that are not read here.

    Raises:
        MachineRefusal: Its files cannot be read here; the hint says what can be done.
        DiskFormatError: The volume is broken.
        ReadFault: What says where files are was left out of the image, or could not be read.
    """
    found = identify(part.reader)
    volume = found.volume
    where = f"partition {part.word}"
    name = volume.filesystem
    if found.filesystem is None or name in _NEXT:
        words = f"the files of {name} cannot be read" if name else "no file system was recognised"
        why = found.notices[0].message if found.notices and not name else words
        raise MachineRefusal(f"{where}: {why}", hint=_NEXT.get(name, _NEXT[""]))
    # Not part.guarded: what was left out is zeros here, and whoever reads around it meets no fault; files are asked.
    view, notices = replayed_view(part.reader, volume)
    left_out = extents_of(part.stored.excluded)
    source: FileSource | None = open_contents(view, volume, left_out=left_out)
    if source is None and mount is not None and can_mount(name):
        place, notices = mount(part)
        return OpenFiles(source=MountedFiles(place), notices=notices)
    if source is None:
        special = " with the features that this one has" if name in EXT_NAMES | CASE_FREE else ""
        raise MachineRefusal(f"{where}: the files of {name}{special} are not read without the kernel", hint=_BY_KERNEL)
    return OpenFiles(source=source, notices=tuple(_judged(part, volume, one) for one in notices))


def _judged(part: ExposedPartition, volume: Volume, notice: Notice) -> Notice:
    """A volume that was held still while it was in use looks unclean and is not: its buffers had been written out."""
    if notice.code != STALE or part.stored.consistency not in HELD or volume.filesystem in EXT_NAMES:
        return notice
    message = f"Partition {part.word} was in use and held still for the image; its journal is not replayed."
    return Notice(code="files-of-a-snapshot", message=message)


@contextmanager
def files_of(part: ExposedPartition) -> Iterator[OpenFiles]:
    """As ``open_files_of``, with the kernel where nothing else reads the file system: it is mounted until the end.

    For a process with one thread, which ends soon.
    """
    with ExitStack() as stack:
        yield open_files_of(part, mount=lambda part: stack.enter_context(mounted_files(part, NoEvents())))


def find_entry(source: FileSource, names: Iterable[bytes]) -> tuple[str, FileEntry]:
    """Follow a path from the root; links are not followed.

    Returns:
        The path as it is really written, without a ``/`` at the end, and what is there.

    Raises:
        UsageError: There is no such file.
        StillframeError: A folder on the way cannot be read.
    """
    entry, path = source.open_root(), ""
    for name in names:
        shown = show_text(name)
        if entry.kind == LINK:
            target = show_name(entry.target)
            raise UsageError(f"{path} is a link to {target}; links are not followed", hint="Name the file itself.")
        if entry.kind != FOLDER:
            raise UsageError(f"{path} is no folder", hint="'stillframe ls IMAGE:N' lists what is there.")
        faults: list[StillframeError] = []
        found = _find_in(source, entry, name, faults.append)
        if found is None:
            if faults:
                raise faults[0]
            raise UsageError(
                f"there is no {shown!r} in {path or '/'}", hint="'stillframe ls IMAGE:N/FOLDER' lists what is there."
            )
        entry, path = found, f"{path}/{show_text(found.name)}"
    return path, entry


def _find_in(
    source: FileSource, folder: FileEntry, name: bytes, on_fault: Callable[[StillframeError], None]
) -> FileEntry | None:
    folded = fold_case(show_name(name)) if source.ignores_case else ""
    second = None
    for entry in source.iter_folder(folder, on_fault):
        if entry.name == name:
            return entry
        if folded and second is None and fold_case(show_name(entry.name)) == folded:
            second = entry
    return second


def show_text(name: bytes) -> str:
    """A name as ``get`` takes it; a ``/`` inside a name, which no good volume has, as its code."""
    return show_name(name).replace("/", "\\x2f")


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What is to be listed of one partition.

    Attributes:
        names: The path to begin at.
        recursive: Also what is in the folders below.
        pattern: Only what it names, looked for from the root.
        kind: Only files, or only folders; empty for everything.
        larger: Only files of at least so many bytes.
        newer_ns: Only what was modified at that time or later.
    """

    names: tuple[bytes, ...] = ()
    recursive: bool = False
    pattern: Pattern | None = None
    kind: str = ""
    larger: int = 0
    newer_ns: int | None = None


def iter_files(part: ExposedPartition, look: Look, *, cancel: CancelToken) -> Iterator[list[ListedFile | Notice]]:
    """What is to be listed, in bundles, by a process of its own; notices say what could not be read.

    Raises:
        StillframeError: As ``open_files_of``; ``MachineRefusal`` also when the volume made the reading crash.
    """

    def produce(send: Send) -> None:
        with files_of(part) as opened:
            for notice in opened.notices:
                send(notice)
            _list(opened.source, look, send)

    yield from stream_apart(produce, what=f"reading the files of partition {part.word}", check=cancel.check)


def _list(source: FileSource, look: Look, send: Callable[[Any], None]) -> None:
    path, top = find_entry(source, look.names)

    def on_fault(where: str, fault: StillframeError) -> None:
        send(Notice(code=NOT_READ, message=f"{where or '/'} was not read whole: {fault.message}", hint=fault.hint))

    if top.kind != FOLDER:
        send(_listed(path, top))
        return
    trail = None if look.pattern is None else Trail.start([look.pattern], ignore_case=source.ignores_case)
    depth = DEPTH_MAX if look.recursive or trail is not None else 1
    for place, entry in walk(source, path, top, trail=trail, depth=depth, on_fault=on_fault):
        if _is_wanted(look, entry):
            send(_listed(place, entry))


def _is_wanted(look: Look, entry: FileEntry) -> bool:
    return (
        look.kind in ("", entry.kind)
        and (not look.larger or (entry.kind != FOLDER and entry.size >= look.larger))
        and (look.newer_ns is None or entry.modified_ns >= look.newer_ns)
    )


def walk(
    source: FileSource, path: str, top: FileEntry, *, trail: Trail | None, depth: int,
    on_fault: Callable[[str, StillframeError], None],
) -> Iterator[tuple[str, FileEntry]]:  # fmt: skip
    """Everything below a folder, in order of names; with a trail only what it names. Each folder is entered once."""
    waiting: list[tuple[str, FileEntry, Trail | None, int]] = [(path, top, trail, 1)]
    seen = {top.number}
    while waiting:
        here, folder, way, level = waiting.pop()

        def note(fault: StillframeError, where: str = here) -> None:
            on_fault(where, fault)

        below: list[tuple[str, FileEntry, Trail | None, int]] = []
        for entry in sorted(source.iter_folder(folder, note), key=lambda one: one.name):
            text = show_text(entry.name)
            place = f"{here}/{text}"
            if way is None or way.names_file(text):
                yield place, entry
            further = way.enter(text) if way is not None and entry.kind == FOLDER else None
            if entry.kind != FOLDER or level >= depth or (further is not None and further.is_over):
                if entry.kind == FOLDER and level >= DEPTH_MAX:
                    on_fault(place, DiskFormatError(f"it lies {DEPTH_MAX} folders deep"))
                continue
            if entry.number in seen:
                on_fault(place, DiskFormatError("the same folder is in another place too, the volume is damaged"))
                continue
            seen.add(entry.number)
            below.append((place, entry, further, level + 1))
        waiting += reversed(below)


def _listed(path: str, entry: FileEntry) -> ListedFile:
    return ListedFile(
        path or "/", entry.kind, entry.size, entry.modified_ns, entry.mode, entry.uid, entry.gid, entry.links,
        show_name(entry.target), entry.streams, entry.refusal,
    )  # fmt: skip
