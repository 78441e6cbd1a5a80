"""What the kernel asks of a folder, and the answers.

Answers: "what is in there, how large is it, and which bytes are these?" Two kinds of things are shown: disk files,
whose bytes come from a ``BlockReader``, and folders that lie elsewhere on this machine, such as a file system that was
mounted where nobody else sees it. Folders are passed through read-only and not mounted below: then a plain ``umount``
of the whole works.
"""

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from stillframe.block import BlockReader, BlockWriter
from stillframe.errors import StillframeError
from stillframe.events import EventSink, Finding
from stillframe.extents import Extent

Answer = TypeVar("Answer")

_posix: Any = os
"""Its calls that other systems do not have; nothing is served there."""
MAX_READ: Final = 1 << 20
"""Bytes of one read: with the default of 128 KiB a sequential reader gets half of the speed."""
_REPORTED_MAX: Final = 1000
_BLOCK: Final = 512  # stat(2): the unit of st_blocks
_ZEROING: Final = 0x02 | 0x10  # linux/falloc.h: FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE
_ROOT_MODE: Final = stat.S_IFDIR | 0o555
_PASSED: Final = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks", "st_ino")


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFile:
    """A file with the bytes of a disk or partition.

    Attributes:
        name: In the folder.
        reader: Its bytes.
        writer: The same bytes where they may be changed; ``None`` when they may not.
        modified_s: Its time, in seconds since 1970.
    """

    name: str
    reader: BlockReader
    writer: BlockWriter | None = None
    modified_s: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownFolder:
    """A folder that lies at ``place`` and is shown, read-only, under ``name``."""

    name: str
    place: str


class Reported:
    """Failures of reading, told once each to whoever watches; for several threads."""

    def __init__(self, events: EventSink) -> None:
        self._events = events
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def tell(self, name: str, error: StillframeError) -> None:
        """Tell of a failure, unless it was told before."""
        words = f"{name}: {error.message}"
        with self._lock:
            if words in self._known or len(self._known) >= _REPORTED_MAX:
                return
            self._known.add(words)
        self._events.emit(Finding(code=error.code, message=words, hint=error.hint, thing=name))

    @property
    def count(self) -> int:
        """Different failures until now."""
        return len(self._known)


class Operations:
    """The answers, in the form in which mfusepy asks for them: names and arguments are those of libfuse."""

    use_ns = True

    def __init__(self, shown: Sequence[DiskFile | ShownFolder], reported: Reported) -> None:
        self._files = {one.name: one for one in shown if isinstance(one, DiskFile)}
        self._folders = {one.name: one for one in shown if isinstance(one, ShownFolder)}
        self._reported = reported
        self.started = threading.Event()

    def init_with_config(self, connection: Any, _config: Any) -> None:
        """The kernel has mounted it. What is agreed on must be what was asked for when it was mounted."""
        if connection is not None:
            connection.max_read = MAX_READ
        self.started.set()

    def getattr(self, path: str, _handle: int | None = None) -> dict[str, int]:
        """What ``stat`` says."""
        if path == "/":
            return {"st_mode": _ROOT_MODE, "st_nlink": 2 + len(self._folders)}
        file = self._files.get(path[1:])
        if file is None:
            return _facts(os.lstat(self._passed(path)))
        mode = stat.S_IFREG | (0o600 if file.writer is not None else 0o444)
        time_ns = file.modified_s * 1_000_000_000
        return {
            "st_mode": mode, "st_nlink": 1, "st_size": file.reader.size, "st_mtime": time_ns, "st_ctime": time_ns,
            "st_atime": time_ns, "st_blocks": -(-file.reader.size // _BLOCK),
        }  # fmt: skip

    def readdir(self, path: str, _handle: int) -> Iterator[str]:
        """The names in a folder."""
        yield from (".", "..")
        if path == "/":
            yield from (*self._files, *self._folders)
            return
        with os.scandir(self._passed(path)) as found:
            yield from (os.fsdecode(item.name) for item in found)

    def readlink(self, path: str) -> str:
        """Where a link of a folder leads."""
        return os.fsdecode(os.readlink(self._passed(path)))

    def listxattr(self, path: str) -> list[str]:
        """Names of extended attributes."""
        if path[1:] in self._files or path == "/":
            return []
        return list(_posix.listxattr(self._passed(path), follow_symlinks=False))

    def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
        """An extended attribute."""
        if path[1:] in self._files or path == "/" or position:
            raise OSError(errno.ENODATA, path)
        value: bytes = _posix.getxattr(self._passed(path), name, follow_symlinks=False)
        return value

    def open(self, path: str, flags: int) -> int:
        """Open a file. Only files that have a writer may be written to."""
        wants_write = flags & (os.O_WRONLY | os.O_RDWR)
        file = self._files.get(path[1:])
        if wants_write and (file is None or file.writer is None):
            raise OSError(errno.EROFS, path)
        if file is not None:
            return 0
        return os.open(self._passed(path), os.O_RDONLY | _posix.O_NOFOLLOW)

    def release(self, path: str, handle: int) -> int:
        """Close a file."""
        if path[1:] not in self._files:
            os.close(handle)
        return 0

    def read(self, path: str, size: int, offset: int, handle: int) -> bytes:
        """Bytes of a file; fewer only at its end."""
        file = self._files.get(path[1:])
        if file is None:
            return _read_fully(handle, size, offset)
        length = min(size, file.reader.size - offset)
        if length <= 0:
            return b""
        return self._guarded(file.name, lambda: file.reader.read_at(offset, length))

    def statfs(self, _path: str) -> dict[str, int]:
        """Room: all of it is taken."""
        blocks = sum(-(-file.reader.size // 4096) for file in self._files.values())
        return {"f_bsize": 4096, "f_frsize": 4096, "f_blocks": blocks, "f_bavail": 0, "f_bfree": 0, "f_namemax": 255}

    def _passed(self, path: str) -> bytes:
        """The real place of something in a folder that is passed through. No name in it is ``..``."""
        first, _, rest = path[1:].partition("/")
        folder = self._folders.get(first)
        if folder is None:
            raise OSError(errno.ENOENT, path)
        return os.path.join(os.fsencode(folder.place), os.fsencode(rest)) if rest else os.fsencode(folder.place)

    def _guarded(self, name: str, question: Callable[[], Answer]) -> Answer:
        try:
            return question()
        except StillframeError as error:
            self._reported.tell(name, error)
            raise OSError(errno.EIO, error.message) from error


class ChangeableOperations(Operations):
    """The same, with disk files that may be written to where they have a writer."""

    def write(self, path: str, data: bytes, offset: int, _handle: int) -> int:
        """Write into a disk file that may be written to; never behind its end."""
        file = self._writable(path)
        if offset + len(data) > file.size:
            raise OSError(errno.ENOSPC, path)
        self._guarded(path[1:], lambda: file.write_at(offset, data))
        return len(data)

    def fallocate(self, path: str, mode: int, offset: int, size: int, _handle: int) -> int:
        """Make zeros: what a loop device asks for when something is discarded. Nothing else is offered."""
        file = self._writable(path)
        if not mode & _ZEROING:
            raise OSError(errno.EOPNOTSUPP, path)
        end = min(offset + size, file.size)
        self._guarded(path[1:], lambda: file.zero(Extent(offset, max(offset, end))))
        return 0

    def fsync(self, _path: str, _datasync: int, _handle: int) -> int:
        """Changes are thrown away at the end: there is nothing that a power cut could lose."""
        return 0

    def _writable(self, path: str) -> BlockWriter:
        file = self._files.get(path[1:])
        if file is None or file.writer is None:
            raise OSError(errno.EROFS, path)
        return file.writer


def _read_fully(descriptor: int, size: int, offset: int) -> bytes:
    """Bytes of a file; fewer only at its end. A read that stops before bad bytes would be taken for the end."""
    parts: list[bytes] = []
    while size and (part := _posix.pread(descriptor, size, offset)):
        parts.append(part)
        size, offset = size - len(part), offset + len(part)
    return b"".join(parts)


def _facts(found: os.stat_result) -> dict[str, int]:
    facts = {name: int(getattr(found, name)) for name in _PASSED}
    facts |= {"st_mtime": found.st_mtime_ns, "st_atime": found.st_atime_ns, "st_ctime": found.st_ctime_ns}
    return facts | {"st_rdev": int(getattr(found, "st_rdev", 0))}
