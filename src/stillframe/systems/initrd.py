"""Archives of early user space, searched for ids and for files.

Answers: "does this initrd name that file system, and is that program in it?" One may be several archives behind each
other, the last of them mostly compressed. What is compressed in a way that cannot be undone here is not known, and that
is an answer too.

Sources: Linux Documentation/driver-api/early-userspace/buffer-format.rst; cpio(5), "New ASCII Format"; RFC 1952, RFC
8878, the .xz file format 1.2.1; Linux ``lib/decompress.c`` (which compressions, by which first bytes).
"""

import bz2
import lzma
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

import zstandard

from stillframe.systems.linux_ids import IdPattern

_CPIO: Final = (b"070701", b"070702")
_HEADER: Final = 110
_NAME_SIZE, _FILE_SIZE = 94, 54
"""Where these fields of eight hex digits begin."""
_STEP: Final = 1 << 20
_PATH_MAX: Final = 4096
_CONTENTS_MAX: Final = 8 << 30
"""Bytes that are looked at of one archive."""


class _Unpacking(Protocol):
    """What decompressors have in common."""

    @property
    def unused_data(self) -> bytes:
        """What lies behind the end."""
        ...

    def decompress(self, data: bytes, /) -> bytes:
        """What comes out next."""
        ...


def _gzip() -> _Unpacking:
    return zlib.decompressobj(31)


def _zstd() -> _Unpacking:
    return zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj(read_across_frames=True)


_WAYS: Final[tuple[tuple[bytes, Callable[[], _Unpacking]], ...]] = (
    (b"\x1f\x8b", _gzip),
    (b"\x28\xb5\x2f\xfd", _zstd),
    (b"\xfd7zXZ\0", lzma.LZMADecompressor),
    (b"\x5d\0\0", lzma.LZMADecompressor),
    (b"BZh", bz2.BZ2Decompressor),
)


def holds_ids(archive: bytes, ids: IdPattern) -> bool | None:
    """Whether an initrd holds any of the old ids; ``None`` when it cannot be read."""
    at = 0
    while at < len(archive):
        if archive[at] == 0:
            at += len(archive[at : at + _STEP]) - len(archive[at : at + _STEP].lstrip(b"\0"))
            continue
        if archive[at : at + 6] not in _CPIO:
            return _holds_packed(archive[at:], ids)
        end = _archive_end(archive, at)
        if end is None:
            return None
        if ids.count(archive[at:end]):
            return True
        at = end
    return False


@dataclass(slots=True, kw_only=True)
class EarlyFiles:
    """What is in an initrd: the paths of all files, without a slash in front, and the contents of those asked for."""

    names: set[str] = field(default_factory=set)
    contents: dict[str, bytes] = field(default_factory=dict)


def read_early_files(archive: bytes, wanted: Collection[str] = ()) -> EarlyFiles | None:
    """List an initrd; ``None`` when it cannot be read.

    Args:
        archive: All of it.
        wanted: Paths of small files whose contents are wanted, without a slash in front.
    """
    found, at = EarlyFiles(), 0
    while at < len(archive):
        if archive[at] == 0:
            at += len(archive[at : at + _STEP]) - len(archive[at : at + _STEP].lstrip(b"\0"))
            continue
        listing = _Listing(found, wanted)
        if archive[at : at + 6] not in _CPIO:
            try:
                is_read = all(listing.feed(piece) for piece in _unpacked(archive[at:]))
            except _NotRead:
                return None
            return found if is_read and listing.is_over else None
        end = _archive_end(archive, at)
        if end is None or not listing.feed(archive[at:end]):
            return None
        at = end
    return found


class _Listing:
    """Takes an archive as it is unpacked, piece by piece."""

    def __init__(self, found: EarlyFiles, wanted: Collection[str]) -> None:
        self._found, self._wanted = found, wanted
        self._rest, self._skipped = bytearray(), 0
        self.is_over = False

    def feed(self, piece: bytes) -> bool:
        """Take the next piece; whether it is of the format."""
        skipped = min(self._skipped, len(piece))
        self._skipped -= skipped
        self._rest += piece[skipped:]
        while not self._skipped and self._rest:
            if self._rest[0] == 0 and self.is_over:
                self._rest = self._rest.lstrip(b"\0")
                continue
            taken = self._take()
            if taken is None:
                return False
            if not taken:
                return True
        return True

    def _take(self) -> int | None:
        """Take one file; how many bytes that were, 0 when more are needed, ``None`` when it is no file."""
        if len(self._rest) < _HEADER:
            return 0 if _CPIO[0].startswith(self._rest[:5]) else None
        try:
            name_size, size = (int(self._rest[at : at + 8], 16) for at in (_NAME_SIZE, _FILE_SIZE))
        except ValueError:
            return None
        if bytes(self._rest[:6]) not in _CPIO or name_size > _PATH_MAX:
            return None
        body = _HEADER + name_size
        body += -body % 4
        if len(self._rest) < body:
            return 0
        name = self._rest[_HEADER : _HEADER + name_size].split(b"\0")[0].decode("utf-8", "replace").lstrip("./")
        end = body + size + -size % 4
        if name in self._wanted and size <= _STEP:
            if len(self._rest) < end:
                return 0
            self._found.contents[name] = bytes(self._rest[body : body + size])
        self._found.names.add(name)
        self.is_over = name == "TRAILER!!!"
        self._skipped = max(0, end - len(self._rest))
        del self._rest[:end]
        return end


def _archive_end(archive: bytes, at: int) -> int | None:
    """Where an archive that is not compressed ends; ``None`` when it is broken."""
    while archive[at : at + 6] in _CPIO:
        try:
            name_size, file_size = (int(archive[at + start : at + start + 8], 16) for start in (_NAME_SIZE, _FILE_SIZE))
        except ValueError:
            return None
        name = archive[at + _HEADER : at + _HEADER + name_size]
        body = at + _HEADER + name_size
        body += -body % 4
        at = body + file_size
        at += -at % 4
        if name.startswith(b"TRAILER!!!"):
            return at
    return None


def _holds_packed(packed: bytes, ids: IdPattern) -> bool | None:
    kept = b""
    try:
        for out in _unpacked(packed):
            if ids.count(kept + out):
                return True
            kept = (kept + out)[-ids.size_max - 1 :]
    except _NotRead:
        return None
    return False


class _NotRead(Exception):
    """What is packed in a way that cannot be undone here, or is broken."""


def _unpacked(packed: bytes) -> Iterator[bytes]:
    """What comes out of something packed, piece by piece.

    Raises:
        _NotRead: It cannot be unpacked.
    """
    way = next((make for magic, make in _WAYS if packed.startswith(magic)), None)
    if way is None:
        raise _NotRead
    unpacking, seen = way(), 0
    try:
        for start in range(0, len(packed), _STEP):
            out = unpacking.decompress(packed[start : start + _STEP])
            yield out
            seen += len(out)
            if seen > _CONTENTS_MAX or unpacking.unused_data.strip(b"\0"):
                raise _NotRead
    except (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError, ValueError) as error:
        raise _NotRead from error  # EOFError: more lies behind the end
