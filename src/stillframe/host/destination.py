"""A folder into which files from a stranger's disk are written, and outside of which nothing is.

Answers: "may this be written here, and does it stay inside?" Every step goes from an open folder to a name in it and
follows no link, so that neither a name nor a link from the image leads elsewhere. A file is written under another name
in a folder of its own and gets its right name when it is whole.
"""

import errno
import itertools
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from stillframe.errors import MachineRefusal, TargetError

_posix: Any = os
"""Its calls that other systems do not have; ``open_destination`` refuses them."""
_FATAL: Final = {
    errno.ENOSPC: "has no room left", errno.EDQUOT: "has no room left (your quota is used up)",
    errno.EROFS: "cannot be written (mounted read-only)", errno.EIO: "failed (input/output error)",
}  # fmt: skip
"""After these, nothing else will work there either."""
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS})
_SPECIAL_BITS: Final = 0o7000


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a file brings with it besides its bytes. ``mode`` is ``None`` where its file system has none."""

    modified_ns: int
    accessed_ns: int
    mode: int | None
    uid: int
    gid: int


class AlreadyThere(Exception):
    """Something of that name is there, and was to be kept."""


class Destination:
    """An open folder. Errors are ``OSError``, for the one file; ``TargetError`` when nothing more can be written."""

    def __init__(self, path: str, root: int, room: int, *, overwrite: bool) -> None:
        """Use ``open_destination``."""
        self.path: Final = path
        self.root: Final = root
        self._room = room
        self._overwrite = overwrite
        self._numbers = itertools.count()
        self._is_root: Final = _posix.geteuid() == 0
        self._umask: Final = _umask()

    def enter(self, folder: int, name: bytes) -> tuple[int, bool]:
        """Open a folder below another one, made when it is missing; its descriptor, and whether it was made.

        The caller closes it.
        """
        try:
            os.mkdir(name, 0o700, dir_fd=folder)
            made = True
        except FileExistsError:
            made = False
        flags = os.O_RDONLY | _posix.O_DIRECTORY | _posix.O_NOFOLLOW | _posix.O_CLOEXEC
        return os.open(name, flags, dir_fd=folder), made

    def is_free(self, folder: int, name: bytes) -> bool:
        """Whether a file may be put there: nothing has that name, or may be replaced."""
        try:
            os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return True
        return self._overwrite

    def begin(self) -> tuple[int, bytes]:
        """A new empty file that nobody sees yet: its descriptor and its name for ``place``."""
        name = b"%d" % next(self._numbers)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _posix.O_NOFOLLOW | _posix.O_CLOEXEC
        return os.open(name, flags, 0o600, dir_fd=self._room), name

    def begin_link(self, target: bytes) -> bytes:
        """A new link that nobody sees yet."""
        name = b"%d" % next(self._numbers)
        os.symlink(target, name, dir_fd=self._room)
        return name

    def begin_copy(self, name: bytes) -> bytes:
        """One more name, that nobody sees yet, of a file that was kept."""
        other = b"%d" % next(self._numbers)
        os.link(name, other, src_dir_fd=self._room, dst_dir_fd=self._room, follow_symlinks=False)
        return other

    def place(self, begun: bytes, folder: int, name: bytes) -> None:
        """Give what was begun its right name.

        Raises:
            AlreadyThere: Something has that name by now.
        """
        rooms = {"src_dir_fd": self._room, "dst_dir_fd": folder}
        if self._overwrite:
            os.rename(begun, name, **rooms)
            self.drop(begun)  # two names of one file are left as they are by rename(2)
            return
        try:
            os.link(begun, name, follow_symlinks=False, **rooms)
        except FileExistsError:
            raise AlreadyThere from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if not self.is_free(folder, name):
                raise AlreadyThere from None
            os.rename(begun, name, **rooms)
            return
        os.unlink(begun, dir_fd=self._room)

    def drop(self, begun: bytes) -> None:
        """Forget what was begun, when it is still there."""
        with suppress(FileNotFoundError):
            os.unlink(begun, dir_fd=self._room)

    def dress(
        self, descriptor: int, traits: Traits, attributes: Iterable[tuple[str, bytes]] = ()
    ) -> tuple[tuple[str, str], ...]:
        """Give an open file or folder its owner (as root), extended attributes, permissions and times.

        Returns:
            The attributes that could not be given, each with the system's words.
        """
        if self._is_root and traits.mode is not None:
            _posix.fchown(descriptor, traits.uid, traits.gid)
        failed = tuple(self._set_attributes(descriptor, attributes))
        if traits.mode is not None:
            # A program of another owner must not become one that runs with the rights of whoever fetched it.
            _posix.fchmod(descriptor, traits.mode if self._is_root else traits.mode & ~_SPECIAL_BITS)
        else:
            is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
            _posix.fchmod(descriptor, (0o777 if is_folder else 0o666) & ~self._umask)
        os.utime(descriptor, ns=(traits.accessed_ns, traits.modified_ns))
        return failed

    def dress_link(self, begun: bytes, traits: Traits) -> None:
        """Give a link its owner (as root) and times."""
        if self._is_root and traits.mode is not None:
            _posix.chown(begun, traits.uid, traits.gid, dir_fd=self._room, follow_symlinks=False)
        times = (traits.accessed_ns, traits.modified_ns)
        os.utime(begun, ns=times, dir_fd=self._room, follow_symlinks=False)

    def _set_attributes(self, descriptor: int, attributes: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, str]]:
        for name, value in attributes:
            try:
                _posix.setxattr(descriptor, name, value)
            except OSError as error:
                self.require_room(error)
                yield name, os.strerror(error.errno or 0)

    def require_room(self, error: OSError) -> None:
        """Raise ``TargetError`` for an error after which nothing more can be written here."""
        if error.errno in _FATAL:
            raise TargetError(
                f"{self.path} {_FATAL[error.errno]}", hint="What was written stays. Choose another folder, or make room"
                " and run it again: what is there already is kept.",
            ) from error  # fmt: skip


@contextmanager
def open_destination(path: str, *, overwrite: bool) -> Iterator[Destination]:
    """Open a folder for files, made when only its last part is missing. What was not finished is taken away at the end.

    Raises:
        TargetError: It is no folder, its parent is missing, or it cannot be written.
        MachineRefusal: This system cannot write without following links.
    """
    if sys.platform == "win32":
        raise MachineRefusal("files cannot yet be written safely here", hint="Use Linux or the rescue system.")
    made = _make_folder(path)
    try:
        root = os.open(path, os.O_RDONLY | _posix.O_DIRECTORY | _posix.O_CLOEXEC)
    except OSError as error:
        raise _refused(path, error) from error
    place = ""
    try:
        try:
            place = tempfile.mkdtemp(prefix=".stillframe-get-", dir=path)
            room = os.open(place, os.O_RDONLY | _posix.O_DIRECTORY | _posix.O_NOFOLLOW | _posix.O_CLOEXEC)
        except OSError as error:
            raise _refused(path, error) from error
        try:
            yield Destination(path, root, room, overwrite=overwrite)
        finally:
            os.close(room)
    finally:
        os.close(root)
        if place:
            shutil.rmtree(place, ignore_errors=True)
        if made:
            _remove_if_empty(path)


def _make_folder(path: str) -> bool:
    try:
        os.mkdir(path)
    except FileExistsError:
        if os.path.isdir(path):
            return False
        raise TargetError(
            f"{path} is a file, expected a folder", hint="Name a folder into which the files are put."
        ) from None
    except OSError as error:
        raise _refused(path, error) from error
    return True


def _remove_if_empty(path: str) -> None:
    """A folder that was made for files of which none came."""
    with suppress(OSError):
        os.rmdir(path)


def _refused(path: str, error: OSError) -> TargetError:
    if error.errno in _FATAL:
        return TargetError(f"{path} {_FATAL[error.errno]}", hint="Choose another folder.")
    parent = os.path.dirname(os.path.abspath(path))
    if error.errno == errno.ENOENT and not os.path.isdir(parent):
        return TargetError(f"{path} cannot be made: there is no {parent}", hint="Make that folder first.")
    return TargetError(f"{path} cannot be written: {error.strerror}", hint="Choose a folder that you may write.")


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
