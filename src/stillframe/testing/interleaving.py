"""Jobs that stand still before each operation on their store until somebody lets them go on.

Answers: "what happens when another machine does all of its work exactly here, or when this one wakes two weeks later?"
The code of the product runs unchanged, each job in a thread of its own, and only one of them runs at any moment. A job
that is killed does nothing any more, and what it had open lies there half written.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from stillframe.store.base import ObjectWriter, Store, StoredObject
from stillframe.testing.faulty_store import Crash

Verb = Literal["create", "append", "commit", "read", "size", "list", "delete"]
CHANGING: Final[frozenset[Verb]] = frozenset({"create", "append", "commit", "delete"})
_LIMIT_S: Final = 60.0
"""A step that takes longer hangs: the test must end."""


@dataclass(frozen=True, slots=True)
class Operation:
    """What a job is about to ask of its store."""

    verb: Verb
    name: str

    @property
    def changes(self) -> bool:
        """Whether it changes what is stored."""
        return self.verb in CHANGING


class SteppedJob:
    """A job in a thread of its own that waits before each operation on its store.

    Args:
        store: What its operations are carried out on.
        work: The job; gets the store to work on. It must not start threads that use it.

    Attributes:
        next: The operation it waits before; ``None`` when it has ended.
        result: What ``work`` returned.
        error: What it ended with, if not well.
    """

    def __init__(self, store: Store, work: Callable[[Store], object]) -> None:
        self.next: Operation | None = None
        self.result: object = None
        self.error: BaseException | None = None
        self.steps = 0
        self._dead = False
        self._go, self._arrived = threading.Semaphore(0), threading.Semaphore(0)
        self._work = work
        self._store = _SteppedStore(store, self)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._wait()

    @property
    def is_over(self) -> bool:
        """Whether it has ended, well or not."""
        return self.next is None

    @property
    def is_dead(self) -> bool:
        """Whether it was killed."""
        return self._dead

    @property
    def ended_well(self) -> bool:
        """Whether it came to its end without an error."""
        return self.is_over and self.error is None

    def step(self) -> None:
        """Carry out the operation it waits before, and what follows, up to the next one."""
        if self.next is not None:
            self.steps += 1
            self._go.release()
            self._wait()

    def kill(self) -> None:
        """End the process before its next operation."""
        if self.next is not None:
            self._dead = True
            self._go.release()
            self._wait()
        self._thread.join(_LIMIT_S)

    def _wait(self) -> None:
        assert self._arrived.acquire(timeout=_LIMIT_S), f"a job hangs after {self.next}"

    def _run(self) -> None:
        try:
            self.result = self._work(self._store)
        except BaseException as error:  # noqa: BLE001 - the test looks at what it was
            self.error = error
        self.next = None
        self._arrived.release()

    def arrive(self, verb: Verb, name: str) -> None:
        """Of the job's own thread: wait here until it may go on. Raises ``Crash`` when the process is dead."""
        if not self._dead:
            self.next = Operation(verb, name)
            self._arrived.release()
            self._go.acquire()
        if self._dead:
            raise Crash(f"killed before {verb} {name}")


class _SteppedStore:
    """A store whose operations wait for the baton."""

    def __init__(self, inner: Store, job: SteppedJob) -> None:
        self._inner = inner
        self._job = job

    @property
    def is_near(self) -> bool:
        return self._inner.is_near

    def create(self, name: str) -> ObjectWriter:
        self._job.arrive("create", name)
        return _SteppedWriter(self._inner.create(name), self._job, name)

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        self._job.arrive("read", name)
        return self._inner.read(name, offset, length)

    def size(self, name: str) -> int:
        self._job.arrive("size", name)
        return self._inner.size(name)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        self._job.arrive("list", prefix)
        return iter(tuple(self._inner.list(prefix)))

    def delete(self, name: str) -> None:
        self._job.arrive("delete", name)
        self._inner.delete(name)

    def forget_cached(self, name: str) -> bool:
        return self._inner.forget_cached(name)

    def free_space(self) -> int | None:
        return self._inner.free_space()


class _SteppedWriter:
    def __init__(self, inner: ObjectWriter, job: SteppedJob, name: str) -> None:
        self._inner = inner
        self._job = job
        self._name = name

    def append(self, data: bytes | bytearray | memoryview) -> None:
        self._job.arrive("append", self._name)
        self._inner.append(data)

    def commit(self) -> None:
        self._job.arrive("commit", self._name)
        self._inner.commit()

    def abandon(self) -> None:
        if not self._job.is_dead:
            self._inner.abandon()
