"""A store whose storage may hang: whoever waits for it can still be stopped.

Answers: "what of an object that is being written when the share does not answer?" A wrapper, as ``hanging`` says: an
operation that does not come back is left behind, with what it was writing. It has no limit of its own: a share may come
back after any time, and only the person knows how long to wait.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

from stillframe.errors import StillframeError
from stillframe.hanging import Underway, reach
from stillframe.store.base import ObjectWriter, Store, StoredObject, check_prefix

_LISTED_AT_A_TIME: Final = 256

Answer = TypeVar("Answer")


class ReachableStore:
    """A ``Store`` over another one."""

    def __init__(self, inner: Store, *, where: str) -> None:
        self._inner = inner
        self._where = where

    @property
    def is_near(self) -> bool:
        """Whether its disk is one of this machine."""
        return self._inner.is_near

    def create(self, name: str) -> ObjectWriter:
        """Begin a new object."""
        return _ReachableWriter(self._do("writing", partial(self._inner.create, name)), self._where)

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes of an object."""
        return self._do("reading", partial(self._inner.read, name, offset, length))

    def size(self, name: str) -> int:
        """Bytes of an object."""
        return self._do("reading", partial(self._inner.size, name))

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """All objects whose name begins with ``prefix``."""
        check_prefix(prefix)
        return self._walk(prefix)

    def delete(self, name: str) -> None:
        """Delete an object."""
        self._do("writing", partial(self._inner.delete, name))

    def forget_cached(self, name: str) -> bool:
        """Ask the system to drop what it caches of an object."""
        return self._do("reading", partial(self._inner.forget_cached, name))

    def free_space(self) -> int | None:
        """Bytes that can still be written."""
        return self._do("reading", self._inner.free_space)

    def _walk(self, prefix: str) -> Iterator[StoredObject]:
        found = self._inner.list(prefix)
        while some := self._do("reading", lambda: list(itertools.islice(found, _LISTED_AT_A_TIME))):
            yield from some

    def _do(self, verb: str, work: Callable[[], Answer]) -> Answer:
        return reach(work, Underway(verb, self._where))


class _ReachableWriter:
    def __init__(self, inner: ObjectWriter, where: str) -> None:
        self._inner = inner
        self._call = Underway("writing", where)
        self._is_lost = False

    def append(self, data: bytes | bytearray | memoryview) -> None:
        self._do(partial(self._inner.append, data))

    def commit(self) -> None:
        self._do(self._inner.commit)

    def abandon(self) -> None:
        if not self._is_lost:  # else somebody still writes it
            with suppress(StillframeError):
                self._do(self._inner.abandon)

    def _do(self, work: Callable[[], None]) -> None:
        done = False

        def note() -> None:
            nonlocal done
            try:
                work()
            finally:
                done = True

        try:
            reach(note, self._call)
        finally:
            self._is_lost = not done
