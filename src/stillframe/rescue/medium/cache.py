"""Where the pieces of media are kept between builds, and the rooms in which a build works.

Answers: "where is what can be made again, and does another build use it now?" Everything here may be deleted at any
time. What is made is made in a room of its own and gets its name when it is whole; a room whose build is gone is
cleared by the next one. A lock on a file says that a build lives: it ends with the process, however that ends.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from stillframe.errors import MachineRefusal, StorageError
from stillframe.host.linux import lock_whole
from stillframe.host.machine import cache_dir

_FOLDER: Final = "rescue"
_LOCK: Final = "lock"
_STEP_S: Final = 0.5


def media_cache() -> str:
    """The folder; it need not exist."""
    return os.path.join(cache_dir(), _FOLDER)


@contextmanager
def work_room() -> Iterator[str]:
    """A folder for one build, gone at its end; those of builds that were killed go first.

    Raises:
        StorageError: It cannot be made.
    """
    above = os.path.join(media_cache(), "work")
    _make(above)
    _sweep(above)
    room = tempfile.mkdtemp(prefix="build-", dir=above)
    lock = _locked(room, patience_s=0)
    try:
        yield room
    finally:
        shutil.rmtree(room, ignore_errors=True)
        if lock is not None:
            os.close(lock)


@contextmanager
def made_once(name: str, *, check: Callable[[], None]) -> Iterator[str]:
    """Hold the place of something that is kept, so that two builds do not make it at once.

    Args:
        name: Which, with its kind before it: ``base/0123456789abcdef``.
        check: Asked while another build is waited for; what it raises ends the waiting.

    Yields:
        Its folder, which exists when it is whole.

    Raises:
        StorageError: It cannot be made.
    """
    place = os.path.join(media_cache(), name)
    locks = os.path.join(media_cache(), "locks", name.replace("/", "-"))
    _make(locks)
    _make(os.path.dirname(place))
    while True:
        lock = _locked(locks, patience_s=_STEP_S)
        if lock is not None:
            break
        check()
    try:
        yield place
    finally:
        os.close(lock)


def keep(made: str, place: str) -> None:
    """Give something that is whole its place; what was there goes.

    Raises:
        StorageError: It cannot be moved there.
    """
    try:
        if os.path.isdir(place):
            old = tempfile.mkdtemp(prefix="old-", dir=os.path.dirname(made))
            os.rename(place, os.path.join(old, "was"))
            shutil.rmtree(old, ignore_errors=True)
        os.rename(made, place)
    except OSError as error:
        raise StorageError(f"{place} cannot be written: {error.strerror}", hint=_HINT) from error


def gone(error: OSError) -> MachineRefusal:
    """What to say when something of the cache is not there any more in the middle of a build."""
    return MachineRefusal(
        f"{error.filename} is gone: the cache {media_cache()} was cleared during the build", hint="Build it again."
    )


_HINT: Final = "Set STILLFRAME_CACHE_DIR to a folder with room, or make room there."


def _make(folder: str) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder} cannot be made: {error.strerror}", hint=_HINT) from error


def _locked(folder: str, *, patience_s: float) -> int | None:
    file = os.path.join(folder, _LOCK)
    with suppress(FileExistsError):
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    return lock_whole(file, patience_s=patience_s)


def _sweep(above: str) -> None:
    for name in os.listdir(above):
        room = os.path.join(above, name)
        try:
            lock = _locked(room, patience_s=0)
        except OSError:  # it went in this moment
            continue
        if lock is not None:
            shutil.rmtree(room, ignore_errors=True)
            os.close(lock)
