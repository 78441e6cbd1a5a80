"""The file of kept changes, read and written in pages.

Answers: "what is on this page of the file?" It does not know what pages mean.
"""

import os

from stillframe.block import syscalls
from stillframe.block.overlay_format import PAGE_SIZE
from stillframe.errors import DeviceError, TargetError


class Pages:
    """The pages of a file, read and written whole."""

    def __init__(self, descriptor: int, path: str) -> None:
        self.descriptor = descriptor
        self.path = path

    def read(self, page: int, count: int = 1) -> bytes:
        """Pages; fewer bytes only where the file ends."""
        buffer = bytearray(count * PAGE_SIZE)
        done = 0
        while done < len(buffer):
            try:
                got = syscalls.read_some(self.descriptor, memoryview(buffer)[done:], page * PAGE_SIZE + done)
            except OSError as error:
                raise DeviceError(
                    f"{self.path} cannot be read: {error.strerror}", hint="Its disk may be failing: copy it elsewhere."
                ) from error
            if not got:
                break
            done += got
        return bytes(buffer[:done])

    def write(self, page: int, raw: bytes | memoryview, *, skip: int = 0) -> None:
        """Write from a page on, ``skip`` bytes further."""
        view, done = memoryview(raw), 0
        while done < len(view):
            try:
                done += syscalls.write_some(self.descriptor, view[done:], page * PAGE_SIZE + skip + done)
            except OSError as error:
                raise self._failed(error) from error

    def sync(self) -> None:
        """Return when it would survive a power cut."""
        try:
            os.fsync(self.descriptor)
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> TargetError:
        return TargetError(
            f"{self.path} cannot be written: {error.strerror}", hint="Make room there: what was flushed is kept."
        )
