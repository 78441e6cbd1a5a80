"""What a volume holds, in numbers: files, folders, bytes, and where most of them lie.

Answers: "how much is in here, and which folders are the large ones?" A file with several names counts once. Bytes are
those that files say they have, not those that they take.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from stillframe.block import BlockReader
from stillframe.fs.base import Volume
from stillframe.fs.files.sleuthkit import open_volume
from stillframe.fs.files.support import gives_files
from stillframe.fs.files.walk import Found, Limits, Walk

LARGEST_MAX: Final = 10
_DEPTH_MAX: Final = 3
_SHARE: Final = 10
"""A folder is named apart from the one it is in when it holds at least one part in so many of all bytes."""
_LEAST: Final = 100
"""What is left of a folder is not worth a line when it is less than one part in so many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeFolder:
    """A folder, and what is in it and below it without the folders that are named beside it.

    Attributes:
        path: From the root of the volume; ``/`` for files of the root itself.
        size: Bytes of files.
        files_count: Files.
    """

    path: str
    size: int
    files_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCounts:
    """What a volume holds, without what belongs to the file system itself.

    Attributes:
        files_count, folders_count: The root is no folder of these. Links and devices are neither.
        size: Bytes of the files' main contents.
        largest: The folders with most bytes; no byte counts in two of them.
    """

    files_count: int
    folders_count: int
    size: int
    largest: tuple[LargeFolder, ...]


@dataclass(slots=True)
class _Sum:
    """Bytes and files of a folder and all that is below it, and the folders below that are summed too."""

    size: int = 0
    files_count: int = 0
    below: set[str] = field(default_factory=set)


def count_files(reader: BlockReader, volume: Volume) -> Found[FileCounts] | None:
    """Count everything on a volume; ``None`` for volumes whose files are not read here.

    Raises:
        DiskFormatError: The volume is broken.
        ReadFault: The device failed.
    """
    if not gives_files(reader, volume):
        return None
    walk = Walk(open_volume(reader, volume))
    files_count = folders_count = size = 0
    seen, sums = set[int](), {"": _Sum()}
    for path, entry in walk.descend(walk.root, Limits()):
        if entry.is_system:
            continue
        if entry.is_folder:
            folders_count += 1
        elif entry.is_file and not (entry.links > 1 and entry.number in seen):
            if entry.links > 1:
                seen.add(entry.number)
            files_count += 1
            size += entry.size
            _add(sums, path, entry.size)
    counts = FileCounts(
        files_count=files_count, folders_count=folders_count, size=size, largest=tuple(name_largest(sums))
    )
    return walk.answer([counts])


def _add(sums: dict[str, _Sum], path: str, size: int) -> None:
    """Add a file to the folders above it, as deep as they are looked at."""
    names = path.split("/")
    for depth in range(min(len(names) - 1, _DEPTH_MAX + 1)):
        folder = "/".join(names[: depth + 1])
        one = sums.get(folder)
        if one is None:
            one = sums[folder] = _Sum()
            sums["/".join(names[:depth])].below.add(folder)
        one.size += size
        one.files_count += 1


def name_largest(sums: dict[str, _Sum]) -> Iterable[LargeFolder]:
    """The largest folders, each without those that are named beside it."""
    least = sums[""].size / _SHARE
    found: list[LargeFolder] = []
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        here = sums[folder]
        apart = [one for one in here.below if not folder or sums[one].size >= least]
        waiting += apart
        size = here.size - sum(sums[one].size for one in apart)
        count = here.files_count - sum(sums[one].files_count for one in apart)
        if size and size * _LEAST >= sums[""].size:
            found.append(LargeFolder(path=folder or "/", size=size, files_count=count))
    return sorted(found, key=lambda one: (-one.size, one.path))[:LARGEST_MAX]
