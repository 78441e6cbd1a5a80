"""A store in a folder of this machine: an internal or external disk, or a mounted share.

Answers: "how is an object put into a folder so that a power cut cannot take it back?" Objects are files, the words of
a name are folders. Links inside the folder are not objects. It keeps nothing open between calls, so the disk can be
unmounted, and it notices when that happened: a mount point without its disk is an empty folder of the system disk, and
objects must neither seem lost there nor be written there.
"""

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Final

from stillframe.block.syscalls import forget_pages, start_writeback
from stillframe.errors import StorageError, StorageFull
from stillframe.store.base import (
    NAME_SIZE_MAX,
    DeletionRefused,
    ObjectExists,
    ObjectMissing,
    ObjectWriter,
    StoredObject,
    check_name,
    check_prefix,
    is_word,
)

# Flags that not every system has. Python itself adds O_CLOEXEC to every descriptor it opens (PEP 446).
_BINARY: Final[int] = getattr(os, "O_BINARY", 0)
_NO_LINK: Final[int] = getattr(os, "O_NOFOLLOW", 0)
_FOLDER: Final[int | None] = getattr(os, "O_DIRECTORY", None)  # without it folders cannot be opened nor synced

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY | _NO_LINK
_READ: Final = os.O_RDONLY | _BINARY | _NO_LINK

# errno(3): a name that is not there, that lies below a file, or whose last word is a link (open(2), O_NOFOLLOW).
_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
# fsync(2) of a folder: FAT, SMB and FUSE file systems may not know it.
_CANNOT_SYNC: Final = frozenset({errno.EINVAL, errno.ENOTSUP})
# fsync(2) of a file on a read-only file system: there is nothing to write.
_NOTHING_TO_SYNC: Final = _CANNOT_SYNC | {errno.EROFS}
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

# unlink(2): no right to write in the folder, an append-only folder or a file that is immutable, a read-only mount.
_MAY_NOT: Final = frozenset({errno.EPERM, errno.EACCES})
_REFUSED_HINT: Final = "The storage lets nothing be deleted: do this where deleting is allowed."

_GONE_HINT: Final = "See that the disk or share is connected and mounted, then run the command again."
_HINTS: Final = {
    errno.ENOENT: "See that the disk or share is mounted; if it is, make the folder that is missing.",
    errno.ENOSPC: "Free some room there, delete images that are not needed, or use a larger disk.",
    errno.EDQUOT: "The quota there is used up: delete images that are not needed, or ask for more room.",
    errno.EROFS: "It is mounted read-only: mount it read-write; if the system did that itself, check the disk first.",
    errno.EIO: "The disk, its cable or the server of the share may be failing: the system log says more (dmesg).",
    errno.EACCES: "See that this user may read and write there.",
    errno.EPERM: "See that this user may read and write there.",
    errno.EFBIG: "The file system there does not take files of that size.",
    errno.ENOTCONN: _GONE_HINT,
    errno.ECONNABORTED: _GONE_HINT,
    errno.ESTALE: _GONE_HINT,
    errno.ENODEV: _GONE_HINT,
    errno.ENXIO: _GONE_HINT,
    errno.EHOSTDOWN: _GONE_HINT,
    errno.ETIMEDOUT: _GONE_HINT,
}


class LocalStore:
    """A ``Store`` in a folder.

    The folder is made by the first ``create`` when only it is missing; folders above it are not made, because a path
    that is missing is most often a disk that is not mounted. Once this store has seen its folder it never makes it
    again: when the folder is gone, or lies on another device than before, every operation that would trust what it
    finds there raises ``StorageError``.

    Args:
        root: Path of the folder. It need not be there yet: then no object is there, and nothing is listed.
        is_near: Whether it lies on a disk of this machine, and not on a share.
    """

    def __init__(self, root: str, *, is_near: bool = True) -> None:
        self.root = root
        self._is_near = is_near
        self._lock = Lock()
        self._device: int | None = None
        self._durable: set[str] = set()

    @property
    def is_near(self) -> bool:
        """Whether reading here and there costs little, as whoever made this store said."""
        return self._is_near

    def create(self, name: str) -> ObjectWriter:
        """Begin a new object: a file only this user can read, under its final name."""
        path = self._path(name)
        with _naming(path):
            self._prepare_folders(name)
            try:
                descriptor = os.open(path, _CREATE, 0o600)
            except FileExistsError:
                if os.path.isdir(path):
                    raise
                raise ObjectExists(f"object {name} is already in {self.root}") from None
        return _LocalWriter(path, descriptor)

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes of an object: all of them, or exactly ``length`` from ``offset``."""
        if offset < 0 or (length is not None and length < 0):
            raise ValueError(f"not a range: {length} bytes from {offset}")
        with self._reading(name) as descriptor:
            size = os.fstat(descriptor).st_size
            end = max(offset, size) if length is None else offset + length
            contents = _read_fully(descriptor, offset, end - offset) if end <= size else None
        if contents is None or len(contents) != end - offset:
            raise StorageError(
                f"{self._path(name)} ends before the bytes asked for: expected [{offset}, {end}), it has {size} bytes",
                hint="Its writing was cut off, or the storage lost its end: check the repository.",
            )
        return contents

    def size(self, name: str) -> int:
        """Bytes of an object."""
        return self._find(name).st_size

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """All objects whose name begins with ``prefix``, one folder in memory at a time.

        Files that vanish meanwhile, links, and names that are not an object's are passed over.
        """
        check_prefix(prefix)
        return self._walk(prefix)

    def delete(self, name: str) -> None:
        """Delete an object; one that is not there is no error. A power cut may bring it back."""
        path = self._path(name)
        self._see_root()
        with _naming(path):
            try:
                os.unlink(path)
            except OSError as error:
                if os.path.isdir(path):
                    return
                if error.errno in _MAY_NOT and os.path.lexists(path):
                    raise DeletionRefused(f"{path} cannot be deleted: {error.strerror}", hint=_REFUSED_HINT) from error
                if error.errno not in _ABSENT:
                    raise
                self._check_root()

    def forget_cached(self, name: str) -> bool:
        """Ask the system to drop the object's pages; those not yet on the medium are written first."""
        with self._reading(name) as descriptor:
            if not hasattr(os, "posix_fadvise"):
                return False
            _sync(descriptor, tolerated=_NOTHING_TO_SYNC)
            return forget_pages(descriptor)

    def free_space(self) -> int | None:
        """Bytes that this user can still write; ``None`` when the folder is not there or its system does not say."""
        with _naming(self.root):
            try:
                usage = shutil.disk_usage(self.root)
            except FileNotFoundError:
                return None
        return usage.free if usage.total else None

    def _path(self, name: str) -> str:
        check_name(name)
        return os.path.join(self.root, *name.split("/"))

    @contextmanager
    def _reading(self, name: str) -> Iterator[int]:
        self._find(name)  # before it is opened: opening a FIFO would wait for ever
        path = self._path(name)
        with _naming(path):
            try:
                descriptor = os.open(path, _READ)
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                raise self._missing(name) from None
            try:
                yield descriptor
            finally:
                os.close(descriptor)

    def _find(self, name: str) -> os.stat_result:
        path = self._path(name)
        self._see_root()
        with _naming(path):
            try:
                found = os.lstat(path)
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                raise self._missing(name) from None
        if not stat.S_ISREG(found.st_mode):
            raise self._missing(name)
        return found

    def _walk(self, prefix: str) -> Iterator[StoredObject]:
        self._see_root()
        waiting = [prefix]
        while waiting:
            folder = waiting.pop()
            objects, folders = _scan(os.path.join(self.root, *folder.split("/")), folder)
            waiting += folders
            yield from objects
        self._check_root()

    def _missing(self, name: str) -> StorageError:
        self._check_root()
        return ObjectMissing(f"object {name} is not in {self.root}", hint="Check the repository.")

    def _see_root(self) -> None:
        """Remember the device that the folder lies on, the first time it is there."""
        if self._device is None:
            with self._lock, suppress(OSError):
                self._device = os.stat(self.root).st_dev

    def _check_root(self) -> bool:
        """Whether the folder is there; raise ``StorageError`` if it was there before and is not, or is another."""
        known = self._device  # before the look: another thread may make the folder meanwhile
        try:
            with _naming(self.root):
                device = os.stat(self.root).st_dev
        except StorageError as error:
            if known is None and isinstance(error.__cause__, FileNotFoundError):
                return False
            raise
        if known is not None and device != known:
            raise StorageError(
                f"{self.root} is no longer the folder it was: it now lies on another device", hint=_GONE_HINT
            )
        return True

    def _prepare_folders(self, name: str) -> None:
        """Make the folders of an object, and return when they would survive a power cut.

        A folder that is there may be another thread's or a killed run's, and not durable yet: the folder above each
        one is synced once per store, whoever made it.
        """
        self._see_root()
        self._prepare_root(is_new=not self._check_root())
        self._see_root()
        path = self.root
        for word in name.split("/")[:-1]:
            above, path = path, os.path.join(path, word)
            with self._lock:
                if path not in self._durable or not os.path.isdir(path):
                    with suppress(FileExistsError):
                        os.mkdir(path, 0o700)
                    _sync_folder(above)
                    self._durable.add(path)

    def _prepare_root(self, *, is_new: bool) -> None:
        if is_new:
            with suppress(FileExistsError):
                os.mkdir(self.root, 0o700)
        with self._lock:
            if is_new or self.root not in self._durable:
                try:
                    _sync_folder(os.path.dirname(os.path.abspath(self.root)))
                except OSError:
                    if is_new:  # else it is most likely old, and the folder above it somebody else's
                        raise
                self._durable.add(self.root)


class _LocalWriter:
    def __init__(self, path: str, descriptor: int) -> None:
        self._path = path
        self._descriptor: int | None = descriptor
        self._failed = False

    def append(self, data: bytes | bytearray | memoryview) -> None:
        descriptor = self._check_open()
        rest = memoryview(data).cast("B")
        self._failed = True
        with _naming(self._path):
            while rest:
                written = os.write(descriptor, rest)
                if not written:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                rest = rest[written:]
        start_writeback(descriptor)  # so that the sync at the end finds little left: 3 % of a whole backup
        self._failed = False

    def commit(self) -> None:
        descriptor = self._check_open()
        self._failed = True  # what fsync(2) could not write it may forget: a second try would prove nothing
        with _naming(self._path):
            os.fsync(descriptor)
            _sync_folder(os.path.dirname(self._path))
            self._descriptor = None
            os.close(descriptor)

    def abandon(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            ours = False
            with suppress(OSError):
                ours = os.path.samestat(os.fstat(descriptor), os.lstat(self._path))  # or deleted and made anew
            with suppress(OSError):
                os.close(descriptor)
            if ours:
                with suppress(OSError):
                    os.unlink(self._path)

    def _check_open(self) -> int:
        if self._descriptor is None:
            raise ValueError(f"{self._path} is already committed or abandoned")
        if self._failed:
            raise ValueError(f"{self._path} could not be written before: it can only be abandoned")
        return self._descriptor


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Turn the system's errors into ours, with the path and the next step."""
    try:
        yield
    except OSError as error:
        kind = StorageFull if error.errno in _FULL else StorageError
        words = os.strerror(error.errno) if error.errno else str(error)
        hint = _HINTS.get(error.errno or 0, "See that the disk or share there works, then run the command again.")
        raise kind(f"{path}: {words}", hint=hint) from error


def _read_fully(descriptor: int, offset: int, length: int) -> bytes:
    """Up to ``length`` bytes: fewer only when the file ends. The descriptor is this thread's own."""
    os.lseek(descriptor, offset, os.SEEK_SET)
    contents = os.read(descriptor, length)
    if len(contents) == length:
        return contents
    pieces = [contents]
    while pieces[-1]:
        length -= len(pieces[-1])
        pieces.append(os.read(descriptor, length))
    return b"".join(pieces)


def _scan(path: str, folder: str) -> tuple[list[StoredObject], list[str]]:
    """The objects in one folder, and the folders in it; ``folder`` and these are names that end with a slash."""
    objects: list[StoredObject] = []
    folders: list[str] = []
    with _naming(path):
        try:
            entries = os.scandir(path)
        except (FileNotFoundError, NotADirectoryError):
            return objects, folders
        with entries:
            for entry in entries:
                name = folder + entry.name
                if not is_word(entry.name) or len(name) > NAME_SIZE_MAX:
                    continue
                with suppress(FileNotFoundError):
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(f"{name}/")
                    elif entry.is_file(follow_symlinks=False):
                        objects.append(StoredObject(name, entry.stat(follow_symlinks=False).st_size))
    return objects, folders


def _sync_folder(path: str) -> None:
    """Return when the names in a folder would survive a power cut, as far as its file system can promise that."""
    if _FOLDER is None:
        return
    descriptor = os.open(path, os.O_RDONLY | _FOLDER)
    try:
        _sync(descriptor, tolerated=_CANNOT_SYNC)
    finally:
        os.close(descriptor)


def _sync(descriptor: int, *, tolerated: frozenset[int]) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in tolerated:
            raise
