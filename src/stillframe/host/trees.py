"""Two folders that must be the same: copied by ``cp``, completed by what ``cp`` leaves out, and compared.

Answers: "is everything that belongs to these files in the copy?" Contents, names, owners, rights, times to the
nanosecond, links of both kinds, holes, devices, extended attributes with the access lists in them, the flags and
projects of XFS. For root, on Linux.

Sources: cp(1); xattr(7); lseek(2); linux/fs.h (``struct fsxattr``, ``FS_IOC_FSGETXATTR``, ``FS_XFLAG_*``).
"""

import os
import stat
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from stillframe.block.syscalls import next_data, refusal
from stillframe.errors import MachineRefusal
from stillframe.host.run import run

if sys.platform == "linux" or TYPE_CHECKING:
    import fcntl

_GET, _SET = 0x801C581F, 0x401C5820
_RECORD: Final = struct.Struct("=IIIII8s")  # flags, extsize, nextents, projid, cowextsize
# Immutable, append, sync, noatime, nodump, project for what is made below, nosymlinks, extsize for what is made below,
# nodefrag, filestream, dax. Not how single files are allocated: their allocation is another one.
_KEPT_FLAGS: Final = 0x8 | 0x10 | 0x20 | 0x40 | 0x80 | 0x200 | 0x400 | 0x1000 | 0x2000 | 0x4000 | 0x8000
_PIECE: Final = 1 << 20
_INODE_COUNT: Final = 64  # XFS_INODES_PER_CHUNK
_HINT: Final = (
    "Restore it at its own size. An older image may have what cannot be read: 'stillframe images' lists them."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Marks:
    """What XFS keeps of a file beside the rest: flags, a project, the size of extents for what is made below."""

    flags: int
    project: int
    extent_size: int


def measure_tree(folder: str, *, inode_size: int) -> int:
    """Bytes that the files in a folder take on a file system of their own, each extent counted for each file."""
    total, count, seen = 0, 0, set[int]()
    for path in _walk(folder):
        facts = os.lstat(path)
        if facts.st_ino in seen:
            continue
        if facts.st_nlink > 1 and not stat.S_ISDIR(facts.st_mode):
            seen.add(facts.st_ino)
        total += _blocks(facts) * 512
        count += 1
    chunks = count // _INODE_COUNT + 8
    return total + chunks * _INODE_COUNT * inode_size


def copy_tree(old: str, new: str, *, limit_s: float) -> None:
    """Copy everything in a folder into an empty one, and the folder's own rights and times.

    Raises:
        MachineRefusal: Something cannot be read or written, by name.
    """
    done = run(["cp", "-a", "--sparse=auto", "--", f"{old}/.", f"{new}/"], timeout_s=limit_s)
    if done.exit_code:
        words = done.errors.decode(errors="replace").strip().splitlines()
        raise MachineRefusal(f"the files were not copied: {words[0] if words else 'cp gave no reason'}", hint=_HINT)
    for path in _walk(old):
        marks = _read_marks(path)
        if marks is not None:
            _write_marks(new + path.removeprefix(old), marks)


def compare_copy(old: str, new: str) -> int:
    """Compare everything in two folders; how many names they have.

    Raises:
        MachineRefusal: Something differs or cannot be read, by name.
    """
    links: dict[int, int] = {}
    count = 0
    for path in _walk(old):
        other = new + path.removeprefix(old)
        shown = path.removeprefix(old) or "/"
        try:
            facts, copied = os.lstat(path), os.lstat(other)
            differs = _differs(path, other, facts, copied)
            if not differs and facts.st_nlink > 1 and not stat.S_ISDIR(facts.st_mode):
                differs = "" if links.setdefault(facts.st_ino, copied.st_ino) == copied.st_ino else "hard links"
        except OSError as error:
            raise MachineRefusal(f"{shown} was not copied rightly: {error.strerror}", hint=_HINT) from error
        if differs:
            raise MachineRefusal(f"{shown} was not copied rightly: its {differs} differ", hint=_HINT)
        count += 1
    if count != sum(1 for _ in _walk(new)):
        raise MachineRefusal("the copy has names that are not in the image", hint=_HINT)
    return count


def _walk(folder: str) -> Iterator[str]:
    """A folder and everything below it; a file system that is mounted in it has a number of its own and is none of it.

    Raises:
        MachineRefusal: A folder cannot be read.
    """
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        yield here
        try:
            with os.scandir(here) as found:
                entries = sorted(found, key=lambda one: one.name)
        except OSError as error:
            raise MachineRefusal(
                f"{here.removeprefix(folder) or '/'} cannot be read: {error.strerror}", hint=_HINT
            ) from error
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
            else:
                yield entry.path


def _blocks(facts: os.stat_result) -> int:
    """Blocks of 512 bytes. Source: stat(2)."""
    if sys.platform == "win32":
        raise refusal("making file systems anew")
    return facts.st_blocks


def _differs(path: str, other: str, facts: os.stat_result, copied: os.stat_result) -> str:
    """What is not the same, in a word; empty when everything is."""
    kind = stat.S_IFMT(facts.st_mode)
    pairs = {
        "rights": (facts.st_mode, copied.st_mode),
        "owners": ((facts.st_uid, facts.st_gid), (copied.st_uid, copied.st_gid)),
        "times": (facts.st_mtime_ns, copied.st_mtime_ns),
        "links": (facts.st_nlink, copied.st_nlink),
    }
    for name, (one, two) in pairs.items():
        if one != two:
            return name
    if kind != stat.S_IFDIR and facts.st_size != copied.st_size:
        return "sizes"
    if kind in (stat.S_IFBLK, stat.S_IFCHR) and _device(facts) != _device(copied):
        return "numbers"
    if kind == stat.S_IFLNK and os.readlink(path) != os.readlink(other):
        return "targets"
    if _read_attributes(path) != _read_attributes(other):
        return "extended attributes"
    if _read_marks(path) != _read_marks(other):
        return "flags"
    return "contents" if kind == stat.S_IFREG and not _is_same(path, other, facts.st_size) else ""


def _device(facts: os.stat_result) -> int:
    if sys.platform == "win32":
        raise refusal("making file systems anew")
    return facts.st_rdev


def _read_attributes(path: str) -> dict[str, bytes]:
    if sys.platform != "linux":
        raise refusal("making file systems anew")
    names = os.listxattr(path, follow_symlinks=False)
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def _is_same(path: str, other: str, size: int) -> bool:
    """Whether two files have the same contents; where both have holes, nothing is read."""
    with open(path, "rb", buffering=0) as one, open(other, "rb", buffering=0) as two:
        position = 0
        while position < size:
            position = min(next_data(file.fileno(), position, size)[0] for file in (one, two))
            wanted = min(_PIECE, size - position)
            one.seek(position)
            two.seek(position)
            if _read_whole(one.fileno(), wanted) != _read_whole(two.fileno(), wanted):
                return False
            position += wanted
    return True


def _read_whole(descriptor: int, size: int) -> bytes:
    parts, left = list[bytes](), size
    while left:
        part = os.read(descriptor, left)
        if not part:
            break
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _read_marks(path: str) -> _Marks | None:
    """The marks of a file or folder; ``None`` for what has none that can be asked for."""
    if sys.platform != "linux":
        raise refusal("making file systems anew")
    if not stat.S_ISREG(mode := os.lstat(path).st_mode) and not stat.S_ISDIR(mode):
        return None
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        flags, extent_size, _, project, _, _ = _RECORD.unpack(fcntl.ioctl(descriptor, _GET, bytes(_RECORD.size)))
    finally:
        os.close(descriptor)
    flags &= _KEPT_FLAGS
    return _Marks(flags=flags, project=project, extent_size=extent_size if flags & 0x1000 else 0)


def _write_marks(path: str, marks: _Marks) -> None:
    """Give a file or folder marks, if they are not its own."""
    if sys.platform != "linux":
        raise refusal("making file systems anew")
    if _read_marks(path) == marks:
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        old = _RECORD.unpack(fcntl.ioctl(descriptor, _GET, bytes(_RECORD.size)))
        flags = (old[0] & ~_KEPT_FLAGS & 0x7FFFFFFF) | marks.flags
        wanted = _RECORD.pack(flags, marks.extent_size or old[1], 0, marks.project, old[4], bytes(8))
        fcntl.ioctl(descriptor, _SET, wanted)
    except OSError as error:
        raise MachineRefusal(f"{path}: its flags were not set: {error.strerror}", hint=_HINT) from error
    finally:
        os.close(descriptor)
