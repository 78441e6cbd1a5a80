"""A store in memory: the twin of every other store, for tests.

Answers: "what would a store do?" It keeps a log of what was asked of it. It survives nothing and has no limit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from threading import RLock

from stillframe.errors import StorageError
from stillframe.store.base import ObjectExists, ObjectMissing, ObjectWriter, StoredObject, check_name, check_prefix


@dataclass(frozen=True, slots=True)
class StoreOperation:
    """One thing a store was asked to do, and to how many bytes."""

    verb: str
    name: str
    size: int = 0


class MemoryStore:
    """A ``Store`` over a dictionary.

    Attributes:
        operations: Everything that was asked and done, in order; refused operations are not in it.
    """

    def __init__(self) -> None:
        self.operations: list[StoreOperation] = []
        self._objects: dict[str, bytearray] = {}
        self._folders: set[str] = set()
        self._lock = RLock()

    @property
    def is_near(self) -> bool:
        """Nothing is nearer."""
        return True

    def create(self, name: str) -> ObjectWriter:
        """Begin a new object."""
        check_name(name)
        with self._lock:
            if name in self._objects:
                raise ObjectExists(f"object {name} is already in memory")
            self._make_folders(name)
            contents = self._objects[name] = bytearray()
            self._log("create", name)
        return _MemoryWriter(self, name, contents)

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes of an object: all of them, or exactly ``length`` from ``offset``."""
        if offset < 0 or (length is not None and length < 0):
            raise ValueError(f"not a range: {length} bytes from {offset}")
        with self._lock:
            contents = self._find(name)
            end = max(offset, len(contents)) if length is None else offset + length
            if end > len(contents):
                raise StorageError(f"object {name} in memory has {len(contents)} bytes, asked for [{offset}, {end})")
            self._log("read", name, end - offset)
            return bytes(memoryview(contents)[offset:end])

    def size(self, name: str) -> int:
        """Bytes of an object."""
        with self._lock:
            return len(self._find(name))

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """All objects whose name begins with ``prefix``, as they are now."""
        check_prefix(prefix)
        with self._lock:
            self._log("list", prefix)
            found = [StoredObject(name, len(held)) for name, held in self._objects.items() if name.startswith(prefix)]
        return iter(found)

    def delete(self, name: str) -> None:
        """Delete an object; one that is not there is no error."""
        check_name(name)
        with self._lock:
            self._objects.pop(name, None)
            self._log("delete", name)

    def forget_cached(self, name: str) -> bool:
        """Memory has nothing behind it."""
        with self._lock:
            self._find(name)
        return False

    def free_space(self) -> int | None:
        """Memory cannot tell."""
        return None

    def _find(self, name: str) -> bytearray:
        check_name(name)
        contents = self._objects.get(name)
        if contents is None:
            raise ObjectMissing(f"object {name} is not in memory")
        return contents

    def _make_folders(self, name: str) -> None:
        """Refuse what a folder on a disk refuses: an object called as a folder, or under another object.

        A folder stays when its last object is deleted, as on a disk.
        """
        if name in self._folders:
            raise StorageError(f"object {name} cannot be: it is a folder of others")
        words = name.split("/")
        for count in range(1, len(words)):
            above = "/".join(words[:count])
            if above in self._objects:
                raise StorageError(f"object {name} cannot be: {above} is an object")
            self._folders.add(above)

    def _log(self, verb: str, name: str, size: int = 0) -> None:
        self.operations.append(StoreOperation(verb, name, size))

    def _append(self, name: str, contents: bytearray, data: memoryview) -> None:
        with self._lock:
            contents += data
            self._log("append", name, len(data))

    def _commit(self, name: str) -> None:
        with self._lock:
            self._log("commit", name)

    def _abandon(self, name: str, contents: bytearray) -> None:
        with self._lock:
            if self._objects.get(name) is contents:
                del self._objects[name]
            self._log("abandon", name)


class _MemoryWriter:
    def __init__(self, store: MemoryStore, name: str, contents: bytearray) -> None:
        self._store = store
        self._name = name
        self._contents = contents
        self._ended = False

    def append(self, data: bytes | bytearray | memoryview) -> None:
        self._check_open()
        self._store._append(self._name, self._contents, memoryview(data).cast("B"))  # noqa: SLF001

    def commit(self) -> None:
        self._check_open()
        self._ended = True
        self._store._commit(self._name)  # noqa: SLF001

    def abandon(self) -> None:
        if not self._ended:
            self._ended = True
            self._store._abandon(self._name, self._contents)  # noqa: SLF001

    def _check_open(self) -> None:
        if self._ended:
            raise ValueError(f"object {self._name} is already committed or abandoned")
