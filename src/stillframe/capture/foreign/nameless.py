"""A sparse file that has no name any more, for what has to be expanded before it can be read at random.

Answers: "where does an image that is a stream go while it is saved?" Into the folder for temporary files (``TMPDIR``);
as its name is removed before it is read, nothing of it is left whatever happens.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final, cast

from stillframe.block.file import FileReader, open_file_reader
from stillframe.errors import MachineRefusal
from stillframe.host.places import free_space
from stillframe.units import format_size

ROOM_HINT: Final = "Name a folder with more room by the variable TMPDIR."


class NamelessFile:
    """A file to write into; ask for its reader before the context that made it ends."""

    def __init__(self, file: BinaryIO, path: str) -> None:
        self._file = file
        self._path = path
        self._size = 0

    def require_size(self, size: int) -> None:
        """Make it at least so many bytes large, without taking room.

        Raises:
            MachineRefusal: The file system of the folder has no files that large.
        """
        if size <= self._size:
            return
        try:
            self._file.truncate(size)
        except (OSError, OverflowError) as error:
            raise MachineRefusal(
                f"{os.path.dirname(self._path)} cannot hold a file of {format_size(size)}", hint=ROOM_HINT
            ) from error
        self._size = size

    def require_room(self, needed: int) -> None:
        """Refuse when so many more bytes do not fit.

        Raises:
            MachineRefusal: They do not.
        """
        folder = os.path.dirname(self._path)
        free = free_space(folder)
        if free < needed:
            raise MachineRefusal(
                f"the image is expanded before it is saved: that takes {format_size(needed)} in {folder}, and "
                f"{format_size(free)} are free",
                hint=ROOM_HINT,
            )

    def write(self, offset: int, data: bytes) -> None:
        """Write all of ``data``.

        Raises:
            OSError: It cannot be written.
        """
        view = memoryview(data)
        self._file.seek(offset)
        while view:
            view = view[self._file.write(view) or 0 :]

    def reader(self) -> FileReader:
        """What was written so far and will be. It stays readable when the name is gone."""
        return open_file_reader(self._path)


@contextmanager
def nameless_file() -> Iterator[NamelessFile]:
    """A new empty file; its name is removed when the block ends.

    Raises:
        MachineRefusal: None can be made.
    """
    try:
        descriptor, path = tempfile.mkstemp(prefix="stillframe-import-")
    except OSError as error:
        raise MachineRefusal(f"there is no place for temporary files: {error.strerror}", hint=ROOM_HINT) from error
    try:
        with open(descriptor, "wb", buffering=0) as file:
            yield NamelessFile(cast("BinaryIO", file), path)
    finally:
        os.unlink(path)
