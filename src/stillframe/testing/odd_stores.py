"""Stores that keep their promises in the narrowest way, as some shares and object stores do.

Answers: "what if a name can be taken twice, if lists lag behind, if nothing may be deleted?" None loses anything.
"""

from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta

from stillframe.store.base import DeletionRefused, ObjectMissing, ObjectWriter, Store, StoredObject
from stillframe.testing.clocks import FakeClock


class _Wrapped:
    """Passes everything on."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner

    @property
    def is_near(self) -> bool:
        """As the inner store."""
        return self._inner.is_near

    def create(self, name: str) -> ObjectWriter:
        """Begin an object."""
        return self._inner.create(name)

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes of an object."""
        return self._inner.read(name, offset, length)

    def size(self, name: str) -> int:
        """Bytes of an object."""
        return self._inner.size(name)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """All objects whose name begins so."""
        return self._inner.list(prefix)

    def delete(self, name: str) -> None:
        """Delete an object."""
        self._inner.delete(name)

    def forget_cached(self, name: str) -> bool:
        """Ask the inner store."""
        return self._inner.forget_cached(name)

    def free_space(self) -> int | None:
        """Ask the inner store."""
        return self._inner.free_space()


class CarelessStore(_Wrapped):
    """Creating a name that is taken succeeds, and replaces what was there: nobody may rely on being the only one."""

    def create(self, name: str) -> ObjectWriter:
        """Begin an object, whatever is there."""
        with suppress(ObjectMissing):
            self._inner.delete(name)
        return self._inner.create(name)


class LaggingStore(_Wrapped):
    """A store as one machine sees it: of what others wrote, lists miss the newest for a while.

    Args:
        inner: The store.
        lag: How long.
        clock: The true one.
        born: When and by whom each object was made; shared by all who see the store.
        name: Of the machine that sees it so.
    """

    def __init__(
        self, inner: Store, *, lag: timedelta, clock: FakeClock, born: dict[str, tuple[str, float]], name: str
    ) -> None:
        super().__init__(inner)
        self._lag = lag.total_seconds()
        self._clock = clock
        self._born = born
        self._name = name

    def create(self, name: str) -> ObjectWriter:
        """Begin an object: from now on it has an age."""
        self._born[name] = (self._name, self._clock.boottime())
        return self._inner.create(name)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """What is mine, and what is old enough."""
        for stored in self._inner.list(prefix):
            maker, born = self._born.get(stored.name, (self._name, 0.0))
            if maker == self._name or born + self._lag <= self._clock.boottime():
                yield stored


class AddOnlyStore(_Wrapped):
    """Objects can be added, and none be deleted; what was begun and given up stays as it is.

    Attributes:
        refused: How many deletions were.
    """

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.refused = 0

    def create(self, name: str) -> ObjectWriter:
        """Begin an object."""
        return _AddOnlyWriter(self._inner.create(name))

    def delete(self, name: str) -> None:
        """Refused, unless there is nothing."""
        with suppress(ObjectMissing):
            self._inner.size(name)
            self.refused += 1
            raise DeletionRefused(f"{name} cannot be deleted here", hint="Do it where deleting is allowed.")


class _AddOnlyWriter:
    def __init__(self, inner: ObjectWriter) -> None:
        self._inner = inner

    def append(self, data: bytes | bytearray | memoryview) -> None:
        self._inner.append(data)

    def commit(self) -> None:
        self._inner.commit()

    def abandon(self) -> None:
        """Nobody may take it away."""
