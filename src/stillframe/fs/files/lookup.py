"""Single files of a volume, found by their paths.

Answers: "what is in this folder?" and "what does that file say?", for whoever looks at a few known places. Links are
not followed: what a link names is looked for at its own place.
"""

from typing import Final

from stillframe.block import BlockReader
from stillframe.errors import StillframeError
from stillframe.fs.base import Volume
from stillframe.fs.files.names import CASE_FREE, fold_case
from stillframe.fs.files.sleuthkit import Entry, SleuthVolume, Stream, open_volume
from stillframe.fs.files.support import is_read_rightly

NAMES_MAX: Final = 100_000
"""Names of a folder that are looked at."""


class FileLookup:
    """Files by their paths, which are written from the root with ``/``. For one thread; ``open_lookup`` makes it."""

    def __init__(self, sleuth: SleuthVolume, *, ignores_case: bool) -> None:
        self._sleuth = sleuth
        self._ignores_case = ignores_case
        self._folders: dict[str, int | None] = {"": sleuth.root}
        self._last: tuple[str, Entry | None] = ("", None)

    def list_names(self, path: str) -> tuple[str, ...]:
        """The names in a folder; none when there is no such folder.

        Raises:
            StillframeError: It cannot be read.
        """
        number = self.find_folder(path)
        return () if number is None else tuple(entry.name for entry in self._list(number) if not entry.is_system)

    def read_file(self, path: str, offset: int, size: int) -> bytes | None:
        """At most ``size`` bytes of a regular file; ``None`` when there is no such file.

        Raises:
            StillframeError: It cannot be read.
        """
        if self._last[0] != path:
            self._last = (path, self.find(path))
        entry = self._last[1]
        if entry is None or not entry.is_file:
            return None
        return self._sleuth.read_bytes(entry, offset, min(size, entry.size - offset)) if offset < entry.size else b""

    def find(self, path: str) -> Entry | None:
        """What a path names, the root excepted; ``None`` when there is nothing.

        Raises:
            StillframeError: What leads there cannot be read.
        """
        folder, _, name = path.strip("/").rpartition("/")
        number = self.find_folder(folder)
        if number is None:
            return None
        wanted = self._fold(name)
        return next((entry for entry in self._list(number) if self._fold(entry.name) == wanted), None)

    def read_streams(self, entry: Entry) -> tuple[Stream, ...]:
        """Where the contents of a file lie; errors as ``SleuthVolume.read_streams``."""
        return self._sleuth.read_streams(entry)

    def find_folder(self, path: str) -> int | None:
        """The number of a folder; ``None`` when there is none.

        Raises:
            StillframeError: What leads there cannot be read.
        """
        path = path.strip("/")
        if path not in self._folders:
            entry = self.find(path)
            self._folders[path] = entry.number if entry is not None and entry.is_folder else None
        return self._folders[path]

    def _list(self, number: int) -> list[Entry]:
        faults: list[StillframeError] = []
        entries = []
        for entry in self._sleuth.iter_folder(number, faults.append):
            entries.append(entry)
            if len(entries) == NAMES_MAX:
                break
        if faults and not entries:
            raise faults[0]
        return entries

    def _fold(self, name: str) -> str:
        return fold_case(name) if self._ignores_case else name


def open_lookup(reader: BlockReader, volume: Volume) -> FileLookup | None:
    """Files of a volume by their paths; ``None`` where they are not read here. Errors as ``tree.open_files``."""
    if not is_read_rightly(reader, volume):
        return None
    return FileLookup(open_volume(reader, volume), ignores_case=volume.filesystem in CASE_FREE)
