"""Walks through the folders of a volume: each folder once, within limits, whatever is broken.

Answers: "what is below this folder?" What could not be read, or lies beyond a limit, is gathered beside the answer.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from stillframe.errors import StillframeError
from stillframe.events import Notice
from stillframe.fs.files.patterns import Trail
from stillframe.fs.files.sleuthkit import HINT, Entry, SleuthVolume, Stream

NOTICES_MAX: Final = 20

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found(Generic[Record]):
    """An answer.

    Attributes:
        records: What was found.
        is_complete: Whether everything was looked at. Otherwise ``notices`` say what was not; of many the first few.
    """

    records: tuple[Record, ...]
    is_complete: bool = True
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Where a walk ends: names that are looked at, and folders below each other."""

    entry_count: int = 10_000_000
    depth: int = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A folder on the way: its path from the root without a ``/`` at the end, and its number."""

    path: str
    number: int
    depth: int = 1


class Walk:
    """The walks that answer one question."""

    def __init__(self, sleuth: SleuthVolume) -> None:
        self.sleuth: Final = sleuth
        self.root: Final = Folder(path="", number=sleuth.root)
        self._notices: list[Notice] = []
        self._is_complete = True

    def answer(self, records: Iterable[Record]) -> Found[Record]:
        """The answer, with what was noted on the way."""
        return Found(records=tuple(records), is_complete=self._is_complete, notices=tuple(self._notices))

    def note(self, message: str, hint: str = "") -> None:
        """Say that something is missing in the answer; once, however many walks meet it."""
        self._is_complete = False
        notice = Notice(code="files-not-read", message=message, hint=hint or HINT)
        if len(self._notices) < NOTICES_MAX and notice not in self._notices:
            self._notices.append(notice)

    def note_first(self, message: str) -> None:
        """Say what concerns the whole answer, before all else, however much was noted already."""
        self._is_complete = False
        self._notices.insert(0, Notice(code="files-not-read", message=message, hint=HINT))

    def iter_folder(self, folder: Folder) -> Iterator[Entry]:
        """What is in one folder."""

        def note(fault: StillframeError) -> None:
            self.note(f"folder {folder.path or '/'} was not read whole: {fault.message}", fault.hint)

        return self.sleuth.iter_folder(folder.number, note)

    def read_streams(self, path: str, entry: Entry) -> tuple[Stream, ...] | None:
        """The streams of a file; ``None`` when they cannot be read, which is noted."""
        try:
            return self.sleuth.read_streams(entry)
        except StillframeError as error:
            self.note(f"{path} was not read whole: {error.message}", error.hint)
            return None

    def descend(self, top: Folder, limits: Limits, *, with_system: bool = False) -> Iterator[tuple[str, Entry]]:
        """Everything below a folder, with its path."""
        waiting, seen, count = [top], {top.number}, 0
        while waiting:
            folder = waiting.pop()
            for entry in self.iter_folder(folder):
                count += 1
                if count > limits.entry_count:
                    self.note(f"{top.path or '/'}: only {limits.entry_count} names were looked at")
                    return
                path = f"{folder.path}/{entry.name}"
                self._note_entry(path, entry)
                yield path, entry
                if entry.is_folder and (with_system or not entry.is_system) and entry.number not in seen:
                    seen.add(entry.number)
                    if folder.depth < limits.depth:
                        waiting.append(Folder(path=path, number=entry.number, depth=folder.depth + 1))
                    else:
                        self.note(f"{path} lies {limits.depth} folders deep; what is in it was not looked at")

    def follow(self, trail: Trail, limits: Limits) -> Iterator[tuple[Folder, Entry]]:
        """Everything that a trail names, with the folder it is in; only folders that it reaches are opened."""
        waiting, seen, count = [(self.root, trail)], {self.root.number}, 0
        while waiting:
            folder, here = waiting.pop()
            for entry in self.iter_folder(folder):
                count += 1
                if count > limits.entry_count:
                    self.note(f"only {limits.entry_count} names were looked at")
                    return
                if entry.is_system:
                    continue
                path = f"{folder.path}/{entry.name}"
                self._note_entry(path, entry)
                if here.names_file(entry.name):
                    yield folder, entry
                if not entry.is_folder or entry.number in seen:
                    continue
                further = here.enter(entry.name)
                if further.is_over:
                    continue
                seen.add(entry.number)
                if folder.depth < limits.depth:
                    waiting.append((Folder(path=path, number=entry.number, depth=folder.depth + 1), further))
                else:
                    self.note(f"{path} lies {limits.depth} folders deep; what is in it was not looked at")

    def _note_entry(self, path: str, entry: Entry) -> None:
        if entry.fault is not None and not entry.is_file and not entry.is_folder:
            self.note(f"{path} was not read: {entry.fault.message}", entry.fault.hint)
