"""The seam for storage: named immutable blobs.

Answers: "where do the repository's objects lie?" An object is written once and never changed; it exists under its final
name from its first byte, so a torn one must be told by its contents (its footer), not by its name. Retry, limit and
faults are wrappers of this same seam. ``testing.store_contract`` holds what every store obeys.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from stillframe.errors import StorageError

NAME_SIZE_MAX: Final = 512
WORD_SIZE_MAX: Final = 255  # NAME_MAX of Linux, and what FAT, exFAT, NTFS and SMB allow

# No dot at either end: ".." leaves the folder, FAT and NTFS drop a trailing dot, and systems leave their own dot files.
_WORD: Final = re.compile(r"[A-Za-z0-9_-](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?")


class ObjectMissing(StorageError):
    """There is no object of that name."""

    code = "object-missing"


class ObjectExists(StorageError):
    """An object of that name is already there; it stays as it is."""

    code = "object-exists"


class DeletionRefused(StorageError):
    """The storage lets objects be added, and none be deleted."""

    code = "deletion-refused"


@dataclass(frozen=True, slots=True, order=True)
class StoredObject:
    """An object's name and its size in bytes."""

    name: str
    size: int


class ObjectWriter(Protocol):
    """One object being written. After ``commit`` or ``abandon`` nothing else may be called."""

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Write the next bytes.

        Raises:
            StorageFull: There is no room.
            StorageError: The storage failed.
        """
        ...

    def commit(self) -> None:
        """Return when the object, and its name, would survive a power cut. May be called from another thread."""
        ...

    def abandon(self) -> None:
        """Give the object up and delete it if that is possible. Never raises."""
        ...


class Store(Protocol):
    """A flat set of named objects. Safe for several threads.

    Names are ``/``-joined words of ``[A-Za-z0-9._-]`` with no dot at either end (``check_name``); any other name is a
    ``ValueError``. Callers keep object names and folder names apart: no object is called as another one's folder, and
    no two names differ only by case.
    """

    @property
    def is_near(self) -> bool:
        """Whether reading a little here and there costs little: a disk of this machine, and no share or bucket."""
        ...

    def create(self, name: str) -> ObjectWriter:
        """Begin a new object.

        Raises:
            ObjectExists: The name is taken.
            StorageFull, StorageError: As the writer's.
        """
        ...

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes of an object: all of them, or exactly ``length`` from ``offset``.

        Raises:
            ObjectMissing: No such object.
            StorageError: The storage failed, or the object ends before the range does.
        """
        ...

    def size(self, name: str) -> int:
        """Bytes of an object. Raises ``ObjectMissing``."""
        ...

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """All objects whose name begins with ``prefix``, which is empty or ends with ``/``; in no order.

        What this store wrote itself is in it. Of what others wrote the newest may be missing for a while: some hours
        are what a deletion allows for (format page, section 13).
        """
        ...

    def delete(self, name: str) -> None:
        """Delete an object; one that is not there is no error.

        Raises:
            DeletionRefused: It is there, and the storage lets nothing be deleted. Nothing was changed.
            StorageError: The storage failed.
        """
        ...

    def forget_cached(self, name: str) -> bool:
        """Ask the system to drop what it caches of an object, so that the next read comes from the medium.

        Returns:
            Whether the system has such a call; not a proof that it obeyed.
        """
        ...

    def free_space(self) -> int | None:
        """Bytes that can still be written; ``None`` when the store cannot tell."""
        ...


def is_word(word: str) -> bool:
    """Whether this can be one word of an object's name."""
    return len(word) <= WORD_SIZE_MAX and _WORD.fullmatch(word) is not None


def check_name(name: str) -> None:
    """Raise ``ValueError`` unless this can be an object's name."""
    if len(name) > NAME_SIZE_MAX or not all(is_word(word) for word in name.split("/")):
        raise ValueError(f"not an object's name: {name[:NAME_SIZE_MAX]!r}")


def check_prefix(prefix: str) -> None:
    """Raise ``ValueError`` unless objects can be listed by this prefix: empty, or words that each end with ``/``."""
    if prefix:
        if not prefix.endswith("/"):
            raise ValueError(f"a prefix ends with a slash: {prefix[:NAME_SIZE_MAX]!r}")
        check_name(prefix[:-1])


def write_object(store: Store, name: str, data: bytes) -> None:
    """Write a small object whole and durably; a failed one is removed if that is possible."""
    writer = store.create(name)
    try:
        writer.append(data)
        writer.commit()
    except BaseException:
        writer.abandon()
        raise
