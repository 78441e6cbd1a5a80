"""Files below a mount of ours that is being changed, such as the folder of a Windows on a workbench.

Answers: "what is in this file, and put these bytes there." Names are looked up without regard to case, as Windows does
it. Links are never followed, neither to read nor to write: nothing outside of the mount is touched, whatever a volume
says.
"""

import os
import stat
from typing import Final

from stillframe.errors import DeviceError

_NAMES_MAX: Final = 100_000


class ChangeableFiles:
    """The files below a folder; paths are written from there with ``/``."""

    def __init__(self, place: str) -> None:
        self._place = place

    def find(self, path: str) -> str | None:
        """Where a file or folder is; ``None`` when it is not there, or a link is on the way to it."""
        here = self._place
        for name in _parts(path):
            if not _is_folder(here):
                return None
            found = _entry(here, name)
            if found is None:
                return None
            here = f"{here}/{found}"
        return here

    def has_entry(self, path: str) -> bool:
        """Whether something that is no folder has that name, also one that cannot be read here."""
        found = self.find(path)
        return found is not None and not _is_folder(found)

    def list_names(self, path: str) -> tuple[str, ...]:
        """The names in a folder; none when there is no such folder.

        Raises:
            DeviceError: It cannot be read.
        """
        found = self.find(path)
        if found is None or not _is_folder(found):
            return ()
        try:
            return tuple(sorted(os.listdir(found))[:_NAMES_MAX])
        except OSError as error:
            raise _fault("read", path, error) from error

    def read_file(self, path: str, offset: int, size: int) -> bytes | None:
        """At most ``size`` bytes of a regular file; ``None`` when there is no such file.

        Raises:
            DeviceError: It cannot be read.
        """
        found = self.find(path)
        if found is None or not stat.S_ISREG(os.lstat(found).st_mode):
            return None
        try:
            with open(found, "rb") as file:
                file.seek(offset)
                return file.read(size)
        except OSError as error:
            raise _fault("read", path, error) from error

    def file_size(self, path: str) -> int | None:
        """Bytes of a regular file; ``None`` when there is no such file."""
        found = self.find(path)
        status = None if found is None else os.lstat(found)
        return status.st_size if status is not None and stat.S_ISREG(status.st_mode) else None

    def write_file(self, path: str, contents: bytes) -> None:
        """Make a file, or give one that is there other contents; folders above it that are missing are made.

        A file that is there stays the same file: its rights and attributes are not touched.

        Raises:
            DeviceError: It cannot be written, or is a folder or a link.
        """
        parts, here = _parts(path), self._place
        try:
            for name in parts[:-1]:
                here = f"{here}/{_entry(here, name) or name}"
                if not os.path.lexists(here):
                    os.mkdir(here)
                if not _is_folder(here):
                    raise _refused(path)
            here = f"{here}/{_entry(here, parts[-1]) or parts[-1]}"
            is_new = not os.path.lexists(here)
            if not is_new and not stat.S_ISREG(os.lstat(here).st_mode):
                raise _refused(path)
            with open(here, "xb" if is_new else "r+b") as file:
                file.write(contents)
                file.truncate()
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _fault("written", path, error) from error


def _parts(path: str) -> list[str]:
    parts = [part for part in path.replace("\\", "/").split("/") if part]
    if any(part in (".", "..") or "\0" in part for part in parts) or not parts:
        raise ValueError(f"{path!r} is no path below a folder")
    return parts


def _entry(folder: str, name: str) -> str | None:
    """The name as it is written in the folder; the very same is preferred."""
    if os.path.lexists(f"{folder}/{name}"):
        return name
    wanted = name.upper()
    return next((found for found in os.listdir(folder) if found.upper() == wanted), None)


def _is_folder(path: str) -> bool:
    return stat.S_ISDIR(os.lstat(path).st_mode)


def _refused(path: str) -> DeviceError:
    return DeviceError(f"{path} is a link or a folder, and is not written", hint="An older image may have it whole.")


def _fault(done: str, path: str, error: OSError) -> DeviceError:
    return DeviceError(f"{path} could not be {done}: {error.strerror}", hint="Is its volume full, or damaged?")
