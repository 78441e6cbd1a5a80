"""Files of a volume that the kernel has mounted.

Answers: the questions of ``source.FileSource``, for file systems that nothing else reads here, such as XFS and Btrfs.
The folder must be mounted read-only and must not change. Links are never followed, and other volumes that are mounted
below it are not entered.
"""

import errno
import os
import stat
from collections.abc import Iterator
from typing import Any, Final

from stillframe.errors import DeviceError, StillframeError
from stillframe.extents import Extent
from stillframe.fs.files.source import FILE, FOLDER, LINK, OTHER, Content, FileEntry, OnFault

_KINDS: Final = {
    stat.S_IFREG: FILE, stat.S_IFDIR: FOLDER, stat.S_IFLNK: LINK, stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device", stat.S_IFBLK: "device",
}  # fmt: skip
_posix: Any = os
"""Its calls that other systems do not have; nothing is mounted there."""
_HINT: Final = "The kernel's own words are in 'dmesg'."


class MountedFiles:
    """The files below a folder.

    Args:
        place: Where the volume is mounted.
    """

    def __init__(self, place: str) -> None:
        self._place = os.fsencode(place)

    @property
    def ignores_case(self) -> bool:
        """Never: what the kernel mounts here tells letters apart."""
        return False

    def open_root(self) -> FileEntry:
        """The root folder."""
        try:
            return _build(b"", self._place, os.lstat(self._place))
        except OSError as error:
            raise _fault(self._place, error) from error

    def iter_folder(self, folder: FileEntry, on_fault: OnFault) -> Iterator[FileEntry]:
        """What is in a folder; see ``FileSource``."""
        try:
            with os.scandir(folder.handle) as found:
                for item in found:
                    try:
                        yield _build(item.name, item.path, item.stat(follow_symlinks=False))
                    except OSError as error:
                        on_fault(_fault(item.path, error))
        except OSError as error:
            on_fault(_fault(folder.handle, error))

    def read_contents(self, entry: FileEntry) -> tuple[Content, ...]:
        """The contents of a file, with its holes; see ``FileSource``."""
        try:
            descriptor = _open(entry.handle)
            try:
                size = os.fstat(descriptor).st_size
                return (Content(name="", size=size, pieces=tuple(_find_pieces(descriptor, size)), handle=entry.handle),)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _fault(entry.handle, error) from error

    def read_at(self, content: Content, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes; see ``FileSource``."""
        parts: list[bytes] = []
        try:
            descriptor = _open(content.handle)
            try:
                while length and (part := _posix.pread(descriptor, length, offset)):
                    parts.append(part)
                    offset, length = offset + len(part), length - len(part)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _fault(content.handle, error) from error
        if length:
            raise DeviceError(f"{os.fsdecode(content.handle)} ends {length} bytes early", hint=_HINT)
        return b"".join(parts)

    def read_attributes(self, entry: FileEntry) -> tuple[tuple[str, bytes], ...]:
        """Extended attributes; see ``FileSource``."""
        try:
            names = _posix.listxattr(entry.handle, follow_symlinks=False)
            return tuple((name, _posix.getxattr(entry.handle, name, follow_symlinks=False)) for name in names)
        except OSError as error:
            if error.errno == errno.ENOTSUP:
                return ()
            raise _fault(entry.handle, error) from error


def _open(path: bytes) -> int:
    """Open a file so that nothing notes that it was read, where this user may ask for that (open(2), O_NOATIME)."""
    flags = os.O_RDONLY | _posix.O_NOFOLLOW | _posix.O_NONBLOCK
    try:
        return os.open(path, flags | getattr(os, "O_NOATIME", 0))
    except PermissionError:
        return os.open(path, flags)


def _build(name: bytes, path: bytes, facts: os.stat_result) -> FileEntry:
    kind = _KINDS.get(stat.S_IFMT(facts.st_mode), OTHER)
    return FileEntry(
        name, kind, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_atime_ns, stat.S_IMODE(facts.st_mode),
        facts.st_uid, facts.st_gid, facts.st_nlink, os.readlink(path) if kind == LINK else b"", (), "", path,
    )  # fmt: skip


def _find_pieces(descriptor: int, size: int) -> Iterator[Extent]:
    place = 0
    while place < size:
        try:
            start = os.lseek(descriptor, place, _posix.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # lseek(2): nothing but a hole up to the end
                return
            raise
        place = min(os.lseek(descriptor, start, _posix.SEEK_HOLE), size)
        if start < place:
            yield Extent(start, place)


def _fault(path: bytes, error: OSError) -> StillframeError:
    return DeviceError(f"{os.fsdecode(path)}: {error.strerror}", hint=_HINT)
