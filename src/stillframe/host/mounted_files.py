"""Files below a mount, for whoever looks at a few known places.

Answers: "what does this file of the mounted volume say?" Only reads, and never leaves the volume by a link.
"""

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from stillframe.errors import DeviceError

NAMES_MAX: Final = 100_000
"""Names of a folder that are given."""


class MountedTree:
    """The files below a mount. Links are not followed, so nothing outside is ever read."""

    def __init__(self, place: str) -> None:
        self._place = place

    def list_names(self, path: str) -> tuple[str, ...]:
        """The names in a folder; none when there is no such folder."""
        with _opened(self._place, path) as folder:
            if folder is None or not stat.S_ISDIR(os.fstat(folder).st_mode):
                return ()
            try:
                return tuple(sorted(os.listdir(folder))[:NAMES_MAX])
            except OSError as error:
                raise _fault(path, error) from error

    def read_file(self, path: str, offset: int, size: int) -> bytes | None:
        """At most ``size`` bytes of a regular file; ``None`` when there is no such file."""
        with _opened(self._place, path) as file:
            if file is None or not stat.S_ISREG(os.fstat(file).st_mode):
                return None
            if sys.platform == "win32":  # ``is_mounted_at`` says no there
                return None
            try:
                return os.pread(file, size, offset)
            except OSError as error:
                raise _fault(path, error) from error


@contextmanager
def _opened(place: str, path: str) -> Iterator[int | None]:
    """What a path below a mount names, opened name by name; ``None`` when it is not there or a link is on the way."""
    if sys.platform == "win32":  # as above
        yield None
        return
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        here = os.open(place, flags)
    except OSError as error:
        raise _fault(place, error) from error
    try:
        for name in path.strip("/").split("/") if path.strip("/") else ():
            try:
                further = os.open(name, flags, dir_fd=here)
            except OSError:
                yield None
                return
            os.close(here)
            here = further
        yield here
    finally:
        os.close(here)


def is_mounted_at(device: str, place: str) -> bool:
    """Whether what is seen at a place is this device: something else may have been mounted over it."""
    if sys.platform == "win32":  # there are letters, not mounts, and nobody asks
        return False
    try:
        return os.stat(place).st_dev == os.stat(device).st_rdev
    except OSError:
        return False


def _fault(path: str, error: OSError) -> DeviceError:
    return DeviceError(f"{path} cannot be read: {error.strerror}", hint="Its disk may be failing.")
