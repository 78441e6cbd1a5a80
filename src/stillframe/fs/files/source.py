"""The seam for files of a volume: folders, contents and links, whoever reads the file system.

Answers: "what is in this folder, and what is in that file?" The Sleuth Kit (``contents``) and a folder where the kernel
has mounted the volume (``mounted``) are behind it. For one thread.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from stillframe.errors import StillframeError
from stillframe.extents import Extent

OnFault = Callable[[StillframeError], None]

FILE, FOLDER, LINK, OTHER = "file", "folder", "link", "other"


class FileEntry(NamedTuple):
    """A name in a folder and what it names. A tuple, because there may be a million of them.

    Attributes:
        name: The bytes of the name.
        kind: ``file``, ``folder``, ``link``; for all else what it is, such as ``pipe``, or ``other``.
        number: Of the inode or record; names with one number are one file.
        size: Bytes of the contents.
        modified_ns, accessed_ns: Nanoseconds since 1970 in UTC.
        mode: Permissions, without the type; ``None`` where the file system has none.
        uid, gid: Owner and group.
        links: How many names it has.
        target: Where a link leads.
        streams: Names of its alternate data streams.
        refusal: Why its contents cannot be given; empty when they can.
        handle: The source's own.
    """

    name: bytes
    kind: str
    number: int
    size: int
    modified_ns: int
    accessed_ns: int
    mode: int | None
    uid: int
    gid: int
    links: int
    target: bytes
    streams: tuple[str, ...]
    refusal: str
    handle: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A stream of a file that can be read.

    Attributes:
        name: Empty for the main contents.
        size: Bytes.
        pieces: Where something is written; all else reads as zeros and takes no room.
        handle: The source's own.
    """

    name: str
    size: int
    pieces: tuple[Extent, ...]
    handle: Any


class FileSource(Protocol):
    """The files of a volume."""

    @property
    def ignores_case(self) -> bool:
        """Whether capital and small letters are the same in names."""
        ...

    def open_root(self) -> FileEntry:
        """The root folder.

        Raises:
            StillframeError: It cannot be read.
        """
        ...

    def iter_folder(self, folder: FileEntry, on_fault: OnFault) -> Iterator[FileEntry]:
        """What is in a folder, without ``.``, ``..`` and what belongs to the file system itself.

        What cannot be read is told to ``on_fault``, and the listing goes on where it can.
        """
        ...

    def read_contents(self, entry: FileEntry) -> tuple[Content, ...]:
        """The streams of a file, the main one first.

        Raises:
            StillframeError: What lies where cannot be read.
        """
        ...

    def read_at(self, content: Content, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes of a stream.

        Raises:
            StillframeError: They cannot be read.
        """
        ...

    def read_attributes(self, entry: FileEntry) -> tuple[tuple[str, bytes], ...]:
        """Extended attributes, where the source can read them."""
        ...
