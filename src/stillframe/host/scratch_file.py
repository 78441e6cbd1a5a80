"""A file that nobody else sees and that never stays behind.

Answers: "how fast does this folder take bytes, and give them back?" The file loses its name as soon as it is open, so
that not even the end of the process by force leaves it there; where a file that is open cannot lose its name, it does
at the end.
"""

import contextlib
import errno
import os
import tempfile
from typing import Final, Self

from stillframe.block.syscalls import forget_pages
from stillframe.errors import StorageError, StorageFull

PREFIX: Final = ".stillframe-bench-"
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class ScratchFile:
    """A new file in a folder, as a context. Not for several threads.

    Raises:
        StorageFull: There is no room for it.
        StorageError: The folder cannot be written, or fails.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._descriptor = -1
        self._path = ""

    def __enter__(self) -> Self:
        try:
            self._descriptor, self._path = tempfile.mkstemp(prefix=PREFIX, dir=self._folder)
        except OSError as error:
            raise self._failure("cannot be written", error) from error
        self._unname()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
        self._unname()

    def append(self, data: bytes | memoryview) -> None:
        """Write all of it at the end."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            raise self._failure("cannot be written", error) from error

    def settle(self) -> None:
        """Return when what was written would survive a power cut."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise self._failure("cannot be written", error) from error

    def forget_cached(self) -> bool:
        """Ask the system to drop what it holds of the file in memory; whether it can be asked."""
        with contextlib.suppress(OSError):
            return forget_pages(self._descriptor)
        return False

    def rewind(self) -> None:
        """Go to the beginning, for ``read``."""
        os.lseek(self._descriptor, 0, os.SEEK_SET)

    def read(self, buffer: memoryview) -> int:
        """Fill as much of a buffer as there is; the number of bytes, 0 at the end."""
        try:
            return os.readv(self._descriptor, [buffer]) if hasattr(os, "readv") else self._read_copied(buffer)
        except OSError as error:
            raise self._failure("cannot be read", error) from error

    def _read_copied(self, buffer: memoryview) -> int:
        data = os.read(self._descriptor, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _unname(self) -> None:
        if self._path:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
                self._path = ""

    def _failure(self, what: str, error: OSError) -> StorageError:
        words = f"a temporary file in {self._folder} {what}: {error.strerror}"
        if error.errno in _FULL:
            return StorageFull(words, hint="Make room there, or use a larger disk.")
        return StorageError(words, hint="See that the disk or share is mounted and that this user may write there.")
