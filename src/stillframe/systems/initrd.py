"""Archives of early user space, searched for ids.

Answers: "does this initrd name that file system?" One may be several archives behind each other, the last of them
mostly compressed. What is compressed in a way that cannot be undone here is not known, and that is an answer too.

Sources: Linux Documentation/driver-api/early-userspace/buffer-format.rst; cpio(5), "New ASCII Format"; RFC 1952, RFC
8878, the .xz file format 1.2.1; Linux ``lib/decompress.c`` (which compressions, by which first bytes).
"""

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Final, Protocol

import zstandard

from stillframe.systems.linux_ids import IdPattern

_CPIO: Final = (b"070701", b"070702")
_HEADER: Final = 110
_NAME_SIZE, _FILE_SIZE = 94, 54
"""Where these fields of eight hex digits begin."""
_STEP: Final = 1 << 20
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
    way = next((make for magic, make in _WAYS if packed.startswith(magic)), None)
    if way is None:
        return None
    unpacking, kept, seen = way(), b"", 0
    try:
        for start in range(0, len(packed), _STEP):
            out = unpacking.decompress(packed[start : start + _STEP])
            if ids.count(kept + out):
                return True
            kept, seen = (kept + out)[-ids.size_max - 1 :], seen + len(out)
            if seen > _CONTENTS_MAX or unpacking.unused_data.strip(b"\0"):
                return None
    except EOFError:  # more lies behind the end
        return None
    except (zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError, ValueError):
        return None
    return False
