"""Calls that never come back: who waits for them can be stopped, and what they use stays as it is."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from stillframe import hanging
from stillframe.block import MemoryDisk
from stillframe.block.base import Buffer, WrappedReader
from stillframe.block.file import open_file_reader
from stillframe.errors import Cancelled, DeviceError, StorageError
from stillframe.events import NoEvents
from stillframe.extents import Extent
from stillframe.hanging import (
    Slot,
    Underway,
    heeding,
    is_ended_from_outside,
    noting,
    reach,
    reads_limited,
    result,
)
from stillframe.jobs.pipeline import CancelToken, Workers
from stillframe.store import MemoryStore, ReachableStore, write_object
from stillframe.testing.disk_builder import fill_with_noise
from stillframe.testing.job_runs import backup, make_repository

MIB = 1 << 20
CALL = Underway("reading", "the disk", 4096, 0.2)


@pytest.fixture
def stuck() -> Iterator[threading.Event]:
    """What a call waits for that never comes back; at the end it does, so that its thread ends."""
    event = threading.Event()
    yield event
    event.set()
    deadline = time.monotonic() + 10
    while hanging.is_any_left():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def soon(action: Callable[[], None], seconds: float = 0.2) -> Iterator[None]:
    """Do something a moment later, from another thread."""
    timer = threading.Timer(seconds, action)
    timer.start()
    try:
        yield
    finally:
        timer.join()


def test_a_call_gives_its_answer_or_its_error() -> None:
    assert reach(lambda: 7, CALL) == 7
    with pytest.raises(ZeroDivisionError):
        reach(lambda: 1 // 0, CALL)
    assert reach(threading.current_thread, CALL) is not threading.current_thread()


def test_a_call_that_takes_too_long_is_given_up_with_disk_place_and_limit(stuck: threading.Event) -> None:
    with pytest.raises(DeviceError, match=r"the disk: reading at byte 4096 has not come back for 0\.2 seconds") as told:
        reach(stuck.wait, CALL)
    assert "--read-timeout" in told.value.hint
    assert hanging.is_any_left()
    assert reach(lambda: 8, CALL) == 8  # by another helper


def test_who_waits_hears_that_the_run_is_to_stop(stuck: threading.Event) -> None:
    token = CancelToken()
    began = time.monotonic()
    with heeding(token.check), soon(token.cancel), pytest.raises(Cancelled):
        reach(stuck.wait, Underway("writing", "the share"))
    assert time.monotonic() - began < 5


def test_an_interruption_between_a_call_and_its_answer_mixes_nothing_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reach(lambda: 0, CALL)
    helper = hanging._here.helper
    assert helper is not None

    def interrupted(*_: object) -> tuple[bool, object]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(helper, "_await", interrupted)
        with pytest.raises(KeyboardInterrupt):
            reach(lambda: "old", CALL)
    assert reach(lambda: "new", CALL) == "new"


def test_a_thread_of_a_pipeline_makes_its_calls_itself_and_notes_them() -> None:
    slot, seen = Slot(), list[Underway | None]()
    with noting(slot):
        reach(lambda: seen.append(slot.call), CALL)
        here = reach(threading.current_thread, CALL)
    assert here is threading.current_thread()
    assert [(one.thing, one.place) for one in seen if one] == [("the disk", 4096)]
    assert slot.call is None


def test_a_child_that_is_ended_from_outside_calls_itself_and_its_parent_has_one_thread() -> None:
    reach(lambda: 0, CALL)
    threads = {thread.name for thread in threading.enumerate()}
    assert "calls that may hang" in threads
    child = os.fork()
    if child == 0:
        is_ended_from_outside()
        os._exit(0 if reach(threading.current_thread, CALL) is threading.current_thread() else 1)
    assert "calls that may hang" not in {thread.name for thread in threading.enumerate()}
    assert os.waitpid(child, 0)[1] == 0
    assert reach(lambda: 9, CALL) == 9


def test_a_pool_is_waited_for_in_the_same_way(stuck: threading.Event) -> None:
    pool, token = ThreadPoolExecutor(1), CancelToken()
    assert result(pool.submit(lambda: 5), CALL) == 5
    with pytest.raises(DeviceError):
        result(pool.submit(stuck.wait), CALL)
    with heeding(token.check), soon(token.cancel), pytest.raises(Cancelled):
        result(pool.submit(stuck.wait), Underway("reading", "the disk"))
    pool.shutdown(wait=False, cancel_futures=True)


def test_a_reader_is_not_closed_while_a_call_may_use_it(tmp_path: Path, stuck: threading.Event) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(8192))
    reader = open_file_reader(str(path))
    descriptor = reader.descriptor
    with pytest.raises(DeviceError):
        reach(stuck.wait, CALL)
    reader.close()
    assert os.pread(descriptor, 1, 0) == b"\0"
    stuck.set()
    while hanging.is_any_left():
        time.sleep(0.01)
    reader.close()
    assert reader.descriptor == -1


class HangingDisk(WrappedReader):
    """A disk of which one place never answers until it is told to."""

    def __init__(self, inner: MemoryDisk, place: Extent, stuck: threading.Event) -> None:
        super().__init__(inner)
        self._place, self._stuck = place, stuck
        self.is_armed = True

    def read_into(self, offset: int, buffer: Buffer) -> None:
        if self.is_armed and self._place.clipped(Extent(offset, offset + len(buffer))) is not None:
            call = Underway("reading", "/dev/test0", offset, hanging.read_limit())
            reach(self._stuck.wait, call)
        self._inner.read_into(offset, buffer)


def noise(size: int) -> MemoryDisk:
    disk = MemoryDisk(bytes(size))
    fill_with_noise(disk, Extent(MIB, size), 3)
    return disk


@pytest.mark.parametrize("when", ["planning", "storing"])
def test_a_backup_of_a_disk_that_hangs_ends_with_what_where_and_how_long(stuck: threading.Event, when: str) -> None:
    disk = HangingDisk(noise(40 * MIB), Extent(20 * MIB, 21 * MIB), stuck)
    disk.is_armed = when == "planning"
    repository = make_repository(MemoryStore())

    class Armed(NoEvents):
        def emit(self, event: object) -> None:
            disk.is_armed |= type(event).__name__ == "JobStarted"

    with reads_limited(0.3), pytest.raises(DeviceError, match=r"/dev/test0: reading at byte 2\d{7} .* 0\.3 seconds"):
        backup(repository, disk, events=Armed())
    assert repository.images().images == ()
    assert repository.sessions() == ()
    stuck.set()
    assert backup(repository, disk).is_complete


class Waits:
    """A worker of a pipeline."""

    def __init__(self, stuck: threading.Event) -> None:
        self._stuck = stuck

    def work(self, item: int) -> None:
        if item == 0:
            reach(self._stuck.wait, Underway("writing", "the share"))
        elif item == 1:
            raise StorageError("the share is gone")

    def finish(self) -> None:
        """Nothing is unfinished."""

    def abandon(self) -> None:
        """Nothing is unfinished."""


def run_all(items: list[int], token: CancelToken, stuck: threading.Event, count: int) -> None:
    with Workers(lambda: Waits(stuck), count=count, cancel=token) as workers:
        for item in items:
            workers.put(item)


@pytest.mark.parametrize("items", [[0], [0] * 40])
def test_a_pipeline_whose_threads_all_hang_is_stopped(stuck: threading.Event, items: list[int]) -> None:
    token = CancelToken()
    began = time.monotonic()
    with soon(token.cancel), pytest.raises(Cancelled):
        run_all(items, token, stuck, 3)
    assert time.monotonic() - began < 5


def test_a_thread_that_hangs_does_not_hide_the_error_of_another(
    stuck: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stillframe.jobs.pipeline.FAILED_GRACE_S", 0.2)
    with pytest.raises(StorageError, match="the share is gone"):
        run_all([0, 1], CancelToken(), stuck, 2)


class HangingWrites(MemoryStore):
    """A store of which nothing that changes it comes back until it is told to."""

    def __init__(self, stuck: threading.Event) -> None:
        super().__init__()
        self._stuck = stuck
        self.hangs = False

    def delete(self, name: str) -> None:
        if self.hangs:
            self._stuck.wait()
        super().delete(name)


def test_a_store_that_hangs_is_left_behind(stuck: threading.Event) -> None:
    token, inner = CancelToken(), HangingWrites(stuck)
    store = ReachableStore(inner, where="/mnt/share")
    write_object(store, "one", b"1")
    inner.hangs = True
    with heeding(token.check), soon(token.cancel), pytest.raises(Cancelled):
        store.delete("one")
    assert store.read("one") == b"1"
