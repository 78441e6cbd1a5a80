"""What a volume holds, in numbers: the records, and which folders are the large ones.

Answers: "where do most of the bytes lie?" from sums of the upper folders, however they were counted.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

LARGEST_MAX: Final = 10
DEPTH_MAX: Final = 3
"""Folders below the root that are summed apart, one in the other; what lies deeper counts in the last of them."""
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
        largest: The folders with most bytes; no byte counts in two of them. A file with several names counts in that
            of its folders, as deep as they are summed, whose path comes first.
    """

    files_count: int
    folders_count: int
    size: int
    largest: tuple[LargeFolder, ...]


@dataclass(slots=True)
class FolderSum:
    """Bytes and files of a folder and all that is below it, and the folders below that are summed too."""

    size: int = 0
    files_count: int = 0
    below: set[str] = field(default_factory=set)


class FolderSums:
    """The sums of the upper folders by their path; that of the root is empty."""

    def __init__(self) -> None:
        self._sums: Final = {"": FolderSum()}

    def add(self, folder: str, size: int, files_count: int = 1) -> None:
        """Add files to a folder, which is at most ``DEPTH_MAX`` deep, and to those above it."""
        names = folder.split("/")
        for depth in range(len(names)):
            path = "/".join(names[: depth + 1])
            one = self._sums.get(path)
            if one is None:
                one = self._sums[path] = FolderSum()
                self._sums["/".join(names[:depth])].below.add(path)
            one.size += size
            one.files_count += files_count

    def count(self, folders_count: int) -> FileCounts:
        """The answer."""
        whole = self._sums[""]
        return FileCounts(
            files_count=whole.files_count, folders_count=folders_count, size=whole.size,
            largest=tuple(self._name_largest()),
        )  # fmt: skip

    def _name_largest(self) -> Iterable[LargeFolder]:
        """The largest folders, each without those that are named beside it."""
        sums = self._sums
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


def upper_folder(path: str) -> str:
    """The folder that a file with this path is summed in."""
    return "/".join(path.split("/")[:-1][: DEPTH_MAX + 1])
