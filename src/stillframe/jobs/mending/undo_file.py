"""The file that takes a boot repair back: written before the first byte of the disk, and read to put it back.

Answers: "which file undoes this repair, and is it whole?" It holds every changed sector twice, as it was and as the
repair leaves it: so it can be told whether a disk is as the repair left it, or as a power cut left it in the middle.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final

from stillframe.block import BlockReader
from stillframe.errors import StorageError, TargetError, UsageError
from stillframe.extents import Extent
from stillframe.host.places import free_space, lies_on
from stillframe.jobs.mending.undo_format import (
    HEAD,
    SUM_SIZE,
    UndoRecord,
    build_head,
    damaged,
    parse_head,
    parse_undo_record,
)
from stillframe.units import format_size

_STEP: Final = 4 << 20


def check_undo_file(path: str, target: str, *, size: int = 0) -> None:
    """Refuse a file that exists, that would lie on the disk it is to take back, or that there is no room for.

    Raises:
        UsageError: It exists, or there is no such folder.
        TargetError: It lies on the disk, or nobody can say.
        StorageError: There is no room.
    """
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.lexists(path):
        raise UsageError(f"{path} exists already", hint="Name a file that does not exist with '--keep-undo FILE'.")
    if not os.path.isdir(folder):
        raise UsageError(f"there is no folder {folder}", hint="Name a file in a folder that exists.")
    if lies_on(path, target) is not False:
        raise TargetError(
            f"{path} lies on {target}, or nobody can say: what takes a repair back must not lie on the disk it changes",
            hint="Name a file on another disk with '--keep-undo FILE'.",
        )
    if size > free_space(folder):
        raise StorageError(
            f"the undo file needs {format_size(size)}, and {folder} has {format_size(free_space(folder))} left",
            hint="Name a file on another disk with '--keep-undo FILE'.",
        )


def undo_size(bytes_changed: int) -> int:
    """How much room a file takes, about."""
    return 2 * bytes_changed + (1 << 20)


def pieces_of(extents: "Iterator[Extent] | tuple[Extent, ...]") -> Iterator[Extent]:
    """Ranges in pieces that fit into memory."""
    for extent in extents:
        for start in range(extent.start, extent.end, _STEP):
            yield Extent(start, min(start + _STEP, extent.end))


def write_undo_file(path: str, record: UndoRecord, disk: BlockReader, view: BlockReader) -> None:
    """Write a file; it and its name would survive a power cut on return.

    Args:
        path: The file; it must not exist.
        record: What it says of itself.
        disk: The disk as it is.
        view: The disk as it will be.

    Raises:
        StorageError: It cannot be written; then it is not there.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
    except OSError as error:
        raise _not_written(path, error) from error
    try:
        with open(descriptor, "wb") as file:
            _fill(file, record, disk, view)
        _sync_folder(path)
    except OSError as error:
        os.unlink(path)
        raise _not_written(path, error) from error
    except BaseException:
        os.unlink(path)
        raise


def _fill(file: BinaryIO, record: UndoRecord, disk: BlockReader, view: BlockReader) -> None:
    total = hashlib.blake2b(digest_size=SUM_SIZE)
    head = build_head(record)
    total.update(head)
    file.write(head)
    for piece in pieces_of(tuple(record.extents)):
        for reader in (disk, view):
            contents = reader.read_at(piece.start, piece.size)
            total.update(contents)
            file.write(contents)
    file.write(total.digest())
    file.flush()
    os.fsync(file.fileno())


class UndoFile:
    """A file that was read to its end once, and is whole; made by ``open_undo_file``."""

    def __init__(self, file: BinaryIO, record: UndoRecord, start: int) -> None:
        self.record: Final = record
        self._file = file
        self._start = start

    def pieces(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Each piece of the disk: where it begins, what it was, and what the repair made of it.

        Raises:
            StorageError: The file cannot be read any more.
        """
        self._file.seek(self._start)
        for piece in pieces_of(tuple(self.record.extents)):
            yield piece.start, _read(self._file, piece.size), _read(self._file, piece.size)


@contextmanager
def open_undo_file(path: str) -> Iterator[UndoFile]:
    """Open a file, and make sure that every byte of it is what was written.

    Raises:
        StorageError: It cannot be read.
        DamagedError: It is no such file, or not what was written.
        UnsupportedFormat: It was made by a newer version.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise StorageError(
            f"{path} cannot be read: {error.strerror}", hint="A repair says where it keeps it."
        ) from error
    with file:
        head = file.read(HEAD.size)
        raw = file.read(parse_head(head, thing=path))
        record = parse_undo_record(head, raw, thing=path)
        total = hashlib.blake2b(head + raw, digest_size=SUM_SIZE)
        for piece in pieces_of(tuple(record.extents)):
            contents = file.read(2 * piece.size)
            if len(contents) != 2 * piece.size:
                raise damaged(path, "it is cut short")
            total.update(contents)
        if file.read() != total.digest():
            raise damaged(path, "it is not what was written")
        yield UndoFile(file, record, HEAD.size + len(raw))


def _read(file: BinaryIO, size: int) -> bytes:
    contents = file.read(size)
    if len(contents) != size:
        raise StorageError("the undo file cannot be read any more", hint="Is its disk still there? Run it again.")
    return contents


def _not_written(path: str, error: OSError) -> StorageError:
    return StorageError(
        f"the undo file {path} cannot be written: {error.strerror}; nothing was written to the disk",
        hint="Name a file on another disk with '--keep-undo FILE'.",
    )


def _sync_folder(path: str) -> None:
    folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
