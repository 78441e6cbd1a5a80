"""An image of partclone as a source, also compressed and in parts as Clonezilla leaves it.

Answers: "is this file, with the parts beside it, an image of one volume?" It is expanded into a sparse file that has no
name any more, so nothing is left of it whatever happens. Recognised by its contents; a name only leads to other parts.
"""

import bz2
import gzip
import io
import itertools
import lzma
import os
import re
import string
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final, cast

import zstandard

from stillframe.block.file import FileReader
from stillframe.block.formats.partclone import MAGIC, PartcloneHead, PartcloneStream, Stream
from stillframe.capture.diskfiles import FileSource, file_writers, in_words
from stillframe.capture.foreign.nameless import ROOM_HINT, NamelessFile, nameless_file
from stillframe.errors import DiskFormatError, MachineRefusal, SourceInUse
from stillframe.host.changes import change_stamp
from stillframe.host.disks import describe

_PART: Final = re.compile(r"(.*\.)([a-z]{2,3})\Z", re.DOTALL)
_PACKING_ENDINGS: Final = frozenset({"gz", "xz", "lz", "zst", "lzo", "lrz"})
"""Endings that look like those of parts. Source: drbl's ``ocs-functions``, where Clonezilla names its images."""
_LZ4: Final = b"\x04\x22\x4d\x18"
_BAD_STREAM: Final = (zlib.error, lzma.LZMAError, zstandard.ZstdError, EOFError)
"""What a decompressor raises; gzip and bz2 also raise ``OSError`` without a number."""

_COMPRESSED: Final[dict[bytes, Callable[[Any], object]]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"\x28\xb5\x2f\xfd": lambda file: zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True),
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"BZh": bz2.BZ2File,
}
"""First bytes. Source: RFC 1952, RFC 8878, "The .xz File Format" 2.1.1.1, bzip2's ``compress.c``."""


def open_partclone(path: str, *, allow_torn: bool) -> FileSource | None:
    """Open an image of partclone, or the first of its parts; ``None`` where the file is none.

    Raises:
        DiskFormatError: It is damaged, a part is missing, or it is of a kind that is not read.
        MachineRefusal: There is no room to expand it.
        SourceInUse: Somebody is writing it.
    """
    facts = describe(path)
    if facts.kind != "file" or not is_partclone(facts.path):
        return None
    paths = parts_of(facts.path)
    writers = tuple(use for part in paths for use in file_writers(part))
    if writers and not allow_torn:
        raise SourceInUse(f"{facts.path} is in use: {in_words(writers)}", hint="Wait until it is complete.")
    stamps = tuple((part, change_stamp(part)) for part in paths)
    head, reader = _expand(paths)
    return FileSource(
        facts=replace(facts, size=reader.size, model=f"partclone image of {head.filesystem}"), reader=reader,
        consistency="torn" if writers else "offline", notices=(), stamps=stamps,
    )  # fmt: skip


def parts_of(path: str) -> tuple[str, ...]:
    """The files that together are an image: ``NAME.aa``, ``NAME.ab``, ... as ``split`` names them, else the one.

    Raises:
        DiskFormatError: One in between is missing, or another one than the first was named.
    """
    found = _PART.fullmatch(path)
    first = "a" * len(found[2]) if found else ""
    if found is None or (found[2] in _PACKING_ENDINGS and not os.path.exists(found[1] + first)):
        return (path,)
    base, folder = found[1], os.path.dirname(path) or "."
    pattern = re.compile(re.escape(os.path.basename(base)) + rf"[a-z]{{{len(first)}}}\Z")
    names = sorted(name for name in os.listdir(folder) if pattern.match(name))
    letters = map("".join, itertools.product(string.ascii_lowercase, repeat=len(first)))
    for name, wanted in zip(names, letters, strict=False):
        if not name.endswith(wanted):
            raise DiskFormatError(
                f"the part {base}{wanted} is missing; the next one is {name}", hint="Copy all parts into one folder."
            )
    if found[2] != first:
        raise DiskFormatError(f"{path} is not the first part", hint=f"Name {base}{first}.")
    return tuple(os.path.join(folder, name) for name in names)


class _JoinedFiles(io.RawIOBase):
    """Files one after the other."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        self._waiting = list(paths)
        self._file: io.FileIO | None = None

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: object) -> int:
        """Some bytes; none at the end of the last file."""
        view = memoryview(cast("bytearray", buffer))
        while True:
            if self._file is None:
                if not self._waiting:
                    return 0
                self._file = io.FileIO(self._waiting.pop(0))
            count = self._file.readinto(view) or 0
            if count:
                return count
            self._file.close()
            self._file = None

    def close(self) -> None:
        """Close what is open."""
        if self._file is not None:
            self._file.close()
            self._file = None
        super().close()


@contextmanager
def unpacked(paths: tuple[str, ...]) -> Iterator[Stream]:
    """The bytes of an image, from all of its parts, expanded.

    Raises:
        DiskFormatError: They cannot be expanded.
        MachineRefusal: They cannot be read, or what is made of them cannot be written.
    """
    try:
        with io.BufferedReader(_JoinedFiles(paths), 1 << 20) as file:
            first = file.peek(8)
            openers = [opener for magic, opener in _COMPRESSED.items() if first.startswith(magic)]
            yield cast("Stream", openers[0](file) if openers else file)
    except _BAD_STREAM as error:
        raise _broken(paths[0], error) from error
    except OSError as error:
        if error.errno is None:
            raise _broken(paths[0], error) from error
        raise MachineRefusal(f"{paths[0]} could not be expanded: {error.strerror}", hint=ROOM_HINT) from error


def is_partclone(path: str) -> bool:
    """Whether the first bytes of a file, expanded, are those of an image of partclone.

    Raises:
        DiskFormatError: It is compressed in a way that is not read.
    """
    try:
        with open(path, "rb") as file:
            is_lz4 = file.read(len(_LZ4)) == _LZ4
    except OSError:
        return False  # whoever looks next says what is wrong with it
    if is_lz4:
        raise DiskFormatError(f"{path} is compressed by lz4, which is not read", hint=f"Expand it first: lz4 -d {path}")
    try:
        with unpacked((path,)) as stream:
            return stream.read(len(MAGIC)) == MAGIC
    except (DiskFormatError, MachineRefusal):
        return False


def expand_volume(paths: tuple[str, ...], file: NamelessFile, *, start: int, size_max: int | None) -> PartcloneHead:
    """Write a volume into a file, every checksum compared.

    Args:
        paths: All parts of the image.
        file: Made larger when it is too small for the volume.
        start: Where byte 0 of the volume belongs in it.
        size_max: Bytes that are there for it; ``None`` for as many as it takes.

    Raises:
        DiskFormatError: The image is damaged, or its volume is larger.
        MachineRefusal: There is no room.
    """
    with unpacked(paths) as packed:
        stream = PartcloneStream(packed, name=paths[0])
        head = stream.read_head()
        if size_max is not None and head.size > size_max:
            raise DiskFormatError(
                f"{paths[0]} holds a volume of {head.size} bytes, and its partition has {size_max}",
                hint="This image belongs to another table. Import it by itself.",
            )
        file.require_room(head.used_blocks * head.block_size)
        file.require_size(start + head.size)
        stream.expand(head, lambda offset, data: file.write(start + offset, data))
        return head


def _expand(paths: tuple[str, ...]) -> tuple[PartcloneHead, FileReader]:
    """The volume, in a sparse file without a name."""
    with nameless_file() as file:
        head = expand_volume(paths, file, start=0, size_max=None)
        return head, file.reader()


def _broken(path: str, error: Exception) -> DiskFormatError:
    return DiskFormatError(
        f"{path} cannot be expanded: {error or 'it ends too early'}",
        hint="Is every part there (.aa, .ab, ...), and the whole of it? Copy it again.",
    )
