"""Stores that fail on purpose: the power goes, the disk is full, unplugged, or cannot be read.

Answers: "what does the code above do when its storage fails here?" Each one wraps a working store and carries a plan. A
plan that never fired tested nothing: ``assert_fired``, or the wrapper as a context manager, makes that a failure. What
a medium does by itself between two operations (bit rot) is not here.

A sweep over every moment at which a run can be cut off::

    counted = CrashingStore(MemoryStore())
    job(counted)
    for moment in range(counted.operations):
        inner = MemoryStore()
        with CrashingStore(inner, moment, tear=Tear.ANY, seed=moment) as store, pytest.raises(Crash):
            job(store)
        examine(inner)
"""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from enum import Enum
from threading import RLock
from types import TracebackType
from typing import Literal, Self, TypeVar

from stillframe.errors import StillframeError, StorageError, StorageFull
from stillframe.store.base import ObjectMissing, ObjectWriter, Store, StoredObject, write_object
from stillframe.testing.fault_plan import FaultPlan

__all__ = ["Crash", "CrashingStore", "FailingReads", "FaultPlan", "FullStore", "Tear", "VanishingStore"]

_Result = TypeVar("_Result")
_Verb = Literal["create", "append", "commit", "read", "size", "list", "delete", "forget_cached", "free_space"]
_MUTATING = frozenset({"create", "append", "commit", "delete"})


class Crash(BaseException):
    """The process is dead. Not an ``Exception``: nothing may handle it and go on."""


class Tear(Enum):
    """What is left, after a power cut, of an object that was not committed. A FAT32 disk shows all of these."""

    KEPT = "kept"
    """Everything that was appended."""
    PREFIX = "prefix"
    """Less than that."""
    ZERO_TAIL = "zero tail"
    """The right length, zeros from some place on."""
    ZERO_HOLE = "zero hole"
    """The right length and the right end, zeros somewhere before: pages are not written in order."""
    EMPTY = "empty"
    """The name, and no bytes."""
    VANISHED = "vanished"
    """Not even the name."""
    ANY = "any"
    """Each object its own one of these, by the seed."""

    def leave(self, contents: bytes, *, seed: str) -> bytes | None:
        """What is left of an object with these contents; ``None`` for nothing. The same seed leaves the same."""
        chance = random.Random(seed)  # noqa: S311 - a test repeats it
        tear = random.Random(f"fate of {seed}").choice(_FATES) if self is Tear.ANY else self  # noqa: S311
        size = len(contents)
        start, cut = sorted(chance.sample(range(size), 2)) if size > 1 else (0, 0)
        match tear:
            case Tear.KEPT:
                return contents
            case Tear.PREFIX:
                return contents[:cut]
            case Tear.ZERO_TAIL:
                return contents[:cut] + bytes(size - cut)
            case Tear.ZERO_HOLE:
                return contents[:start] + bytes(cut - start) + contents[cut:]
            case Tear.EMPTY:
                return b""
            case _:
                return None


_FATES = tuple(tear for tear in Tear if tear is not Tear.ANY)


class _Writer:
    """One object being written through a faulty store; it remembers what was written so that it can be torn."""

    def __init__(self, store: "FaultyStore", name: str, inner: ObjectWriter) -> None:
        self.store = store
        self.name = name
        self.inner = inner
        self.written = bytearray()
        self.lost = False

    def append(self, data: bytes | bytearray | memoryview) -> None:
        self.store._do("append", self.name, lambda: self.store._append(self, memoryview(data).cast("B")))  # noqa: SLF001

    def commit(self) -> None:
        self.store._do("commit", self.name, lambda: self.store._commit(self))  # noqa: SLF001

    def abandon(self) -> None:
        self.store._abandon(self)  # noqa: SLF001


class FaultyStore:
    """Passes everything on. Each operation goes through ``_do``, where a wrapper puts its fault."""

    def __init__(self, inner: Store, *plans: FaultPlan) -> None:
        self.plans = plans
        self._inner = inner
        self._lock = RLock()
        self._open: dict[int, _Writer] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.assert_fired()

    def assert_fired(self) -> None:
        """Fail unless every planned fault happened."""
        for plan in self.plans:
            plan.assert_fired()

    @property
    def is_near(self) -> bool:
        """As the inner store."""
        return self._inner.is_near

    def create(self, name: str) -> ObjectWriter:
        """Begin a new object."""
        return self._do("create", name, lambda: self._create(name))

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes of an object."""
        return self._do("read", name, lambda: self._inner.read(name, offset, length))

    def size(self, name: str) -> int:
        """Bytes of an object."""
        return self._do("size", name, lambda: self._inner.size(name))

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """All objects whose name begins with ``prefix``, as they are now."""
        return self._do("list", prefix, lambda: iter(tuple(self._inner.list(prefix))))

    def delete(self, name: str) -> None:
        """Delete an object."""
        self._do("delete", name, lambda: self._delete(name))

    def forget_cached(self, name: str) -> bool:
        """Ask the inner store."""
        return self._do("forget_cached", name, lambda: self._inner.forget_cached(name))

    def free_space(self) -> int | None:
        """Ask the inner store."""
        return self._do("free_space", "", self._inner.free_space)

    def _do(self, verb: _Verb, name: str, call: Callable[[], _Result]) -> _Result:  # noqa: ARG002
        return call()

    def _create(self, name: str) -> _Writer:
        writer = _Writer(self, name, self._inner.create(name))
        with self._lock:
            self._open[id(writer)] = writer
        return writer

    def _append(self, writer: _Writer, data: memoryview) -> None:
        _check_kept(writer)
        writer.inner.append(data)
        writer.written += data

    def _commit(self, writer: _Writer) -> None:
        _check_kept(writer)
        writer.inner.commit()
        self._close(writer)

    def _abandon(self, writer: _Writer) -> None:
        writer.inner.abandon()
        self._close(writer)

    def _delete(self, name: str) -> None:
        self._inner.delete(name)

    def _close(self, writer: _Writer) -> None:
        with self._lock:
            self._open.pop(id(writer), None)

    def _tear_open(self, tear: Tear, seed: int) -> None:
        """Leave of every object that is open what a power cut leaves."""
        for writer in self._open.values():
            writer.lost = True
            writer.inner.abandon()
            left = tear.leave(bytes(writer.written), seed=f"{seed}/{writer.name}")
            if left is not None:
                write_object(self._inner, writer.name, left)
        self._open.clear()


def _check_kept(writer: _Writer) -> None:
    if writer.lost:
        raise StorageError(f"object {writer.name} was open when its storage went away")


class CrashingStore(FaultyStore):
    """The power goes during one operation; afterwards the process is dead and the inner store shows what is left.

    ``create``, each ``append``, ``commit`` and ``delete`` count as operations. ``abandon`` does not: to be cut off
    before it or after it is the same as around the operations beside it. All operations are done one at a time.

    Args:
        inner: The store; open it again afterwards.
        stop_after: How many operations are carried out before the one that is cut off; ``None`` only counts.
        tear: What is left of objects that are not committed.
        seed: Decides every cut; the same seed gives the same wreck.
        late: The operation that is cut off has its effect, but nobody hears of it. Otherwise it has none.
        undelete: Some deleted objects are there again: a store does not promise that a deletion is durable.
    """

    def __init__(
        self,
        inner: Store,
        stop_after: int | None = None,
        *,
        tear: Tear = Tear.KEPT,
        seed: int = 0,
        late: bool = False,
        undelete: bool = False,
    ) -> None:
        self.plan = FaultPlan(f"a crash after {stop_after} operations", after=stop_after)
        super().__init__(inner, self.plan)
        self.dead = False
        self._tear = tear
        self._seed = seed
        self._late = late
        self._undelete = undelete
        self._deleted: dict[str, bytes] = {}

    @property
    def operations(self) -> int:
        """How many operations that change something were asked for, the one that was cut off included."""
        return self.plan.steps

    def _do(self, verb: _Verb, name: str, call: Callable[[], _Result]) -> _Result:
        with self._lock:
            self._check_alive(verb, name)
            if verb not in _MUTATING or not self.plan.step():
                return call()
            if self._late:
                with suppress(StillframeError):  # if it fails, nobody hears of that either
                    call()
            self._die()
        raise Crash(f"cut off at operation {self.operations - 1}: {verb} {name}")

    def _create(self, name: str) -> _Writer:
        writer = super()._create(name)
        self._deleted.pop(name, None)
        return writer

    def _abandon(self, writer: _Writer) -> None:
        with self._lock:
            if not self.dead:
                super()._abandon(writer)

    def _delete(self, name: str) -> None:
        if self._undelete:
            with suppress(ObjectMissing):
                self._deleted[name] = self._inner.read(name)
        super()._delete(name)

    def _check_alive(self, verb: str, name: str) -> None:
        if self.dead:
            raise Crash(f"a dead process asked for {verb} {name}")

    def _die(self) -> None:
        self.dead = True
        self._tear_open(self._tear, self._seed)
        chance = random.Random(self._seed)  # noqa: S311 - a test repeats it
        for name, contents in self._deleted.items():
            if chance.random() < 0.5:
                write_object(self._inner, name, contents)


class FullStore(FaultyStore):
    """A store with room for ``capacity`` more bytes; what is deleted or abandoned gives its room back.

    Args:
        inner: The store.
        capacity: Bytes that can be appended. The append that finds no room writes what still fits, as a disk does.
        late: Appends are accepted and ``commit`` finds no room, as with delayed allocation and network shares.
    """

    def __init__(self, inner: Store, capacity: int, *, late: bool = False) -> None:
        self.plan = FaultPlan(f"storage full after {capacity} bytes", after=0, times=None)
        super().__init__(inner, self.plan)
        self._room = capacity
        self._late = late

    def free_space(self) -> int | None:
        """Bytes of room."""
        return max(0, self._room)

    def _append(self, writer: _Writer, data: memoryview) -> None:
        self._check_whole(writer)
        with self._lock:
            fitting = data if self._late else data[: self._room]
            self._room -= len(fitting)
        super()._append(writer, fitting)
        if len(fitting) < len(data):
            writer.lost = True
            raise self._full(writer.name)

    def _commit(self, writer: _Writer) -> None:
        self._check_whole(writer)
        if self._room < 0:
            writer.lost = True
            raise self._full(writer.name)
        super()._commit(writer)

    def _abandon(self, writer: _Writer) -> None:
        with self._lock:
            if id(writer) in self._open:
                self._room += len(writer.written)
        super()._abandon(writer)

    def _delete(self, name: str) -> None:
        with self._lock:
            try:
                size = self._inner.size(name)
            except ObjectMissing:
                size = 0
            super()._delete(name)
            self._room += size

    def _check_whole(self, writer: _Writer) -> None:
        if writer.lost:
            raise ValueError(f"object {writer.name} could not be written before: it can only be abandoned")

    def _full(self, name: str) -> StorageFull:
        self.plan.step()
        return StorageFull(f"object {name}: planned fault: no room", hint="Free some room.")


class FailingReads(FaultyStore):
    """Some objects cannot be read, the first few times.

    Args:
        inner: The store.
        faults: How many reads of an object fail, by its name; ``None`` for every one.
    """

    def __init__(self, inner: Store, faults: Mapping[str, int | None]) -> None:
        self._faults = {name: FaultPlan(f"reading {name}", after=0, times=times) for name, times in faults.items()}
        super().__init__(inner, *self._faults.values())

    def _do(self, verb: _Verb, name: str, call: Callable[[], _Result]) -> _Result:
        plan = self._faults.get(name)
        if verb == "read" and plan is not None and plan.step():
            raise StorageError(f"object {name}: planned fault: cannot be read", hint="Use another disk.")
        return call()


class VanishingStore(FaultyStore):
    """The disk is unplugged after ``stop_after`` operations of any kind (``None``: never), until ``plug_in``.

    Objects that were open are left as ``tear`` says and cannot be written any more, even when the disk is back.
    """

    def __init__(self, inner: Store, stop_after: int | None = None, *, tear: Tear = Tear.KEPT, seed: int = 0) -> None:
        self.plan = FaultPlan(f"unplugged after {stop_after} operations", after=stop_after)
        super().__init__(inner, self.plan)
        self.plugged_in = True
        self._tear = tear
        self._seed = seed

    @property
    def operations(self) -> int:
        """How many operations of any kind were asked for while it was plugged in."""
        return self.plan.steps

    def plug_in(self) -> None:
        """The disk is back, with what it holds."""
        with self._lock:
            self.plugged_in = True

    def _do(self, verb: _Verb, name: str, call: Callable[[], _Result]) -> _Result:
        with self._lock:
            if self.plugged_in and self.plan.step():
                self._tear_open(self._tear, self._seed)
                self.plugged_in = False
            if not self.plugged_in:
                raise StorageError(f"{verb} {name}: planned fault: the disk is not there", hint="Plug it in.")
            return call()

    def _abandon(self, writer: _Writer) -> None:
        with self._lock:
            if not writer.lost:
                super()._abandon(writer)
            elif self.plugged_in:
                self._inner.delete(writer.name)
