"""The power goes after each operation of a backup: older images stay, the next run goes on, nothing is stored twice."""

from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path

import pytest

from stillframe.block import MemoryDisk
from stillframe.events import NoEvents
from stillframe.extents import Extent
from stillframe.jobs import pipeline
from stillframe.jobs.backup import BackupOptions
from stillframe.repo.check import check_repository
from stillframe.repo.records import Manifest
from stillframe.repo.repository import Repository, open_repository
from stillframe.store import MemoryStore, Store
from stillframe.testing.clocks import FakeClock
from stillframe.testing.disk_builder import fill_with_noise, write_gpt
from stillframe.testing.faulty_store import Crash, CrashingStore, Tear
from stillframe.testing.job_runs import backup, make_repository, restore, verify
from stillframe.testing.repositories import Processes, make_owner

MIB = 1 << 20
SHARES = 4
"""Of five cases of each moment a share has at least one."""
PASSPHRASE = "one two three"  # noqa: S105
MAY_LOOK_WHOLE = {Tear.ZERO_HOLE, Tear.ANY}
"""An object with its right end and a hole before it is not garbage but damaged: nobody can tell the two apart."""

DEAD = make_owner(process="1")
NEXT = make_owner(process="2", processes=Processes(dead={"1"}))


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same operations in the same order every time."""
    monkeypatch.setattr(pipeline, "worker_count", lambda: 1)


def make_disk() -> MemoryDisk:
    disk = MemoryDisk(bytes(4 * MIB + 1536))
    write_gpt(disk, [Extent(MIB, 2 * MIB + 512), Extent(2 * MIB + 512, 4 * MIB)])
    fill_with_noise(disk, Extent(MIB, MIB + 900_000), 1)
    return disk


def change(disk: MemoryDisk) -> None:
    fill_with_noise(disk, Extent(2 * MIB + 70_000, 2 * MIB + 700_000), 2)


def reopen(store: Store) -> Repository:
    return open_repository(store, where="the test", secret=PASSPHRASE, clock=FakeClock())


@cache
def first_state() -> tuple[MemoryStore, Manifest, bytes]:
    """A repository with one image; the disk as it was."""
    store, disk = MemoryStore(), make_disk()
    manifest = backup(make_repository(store, passphrase=PASSPHRASE), disk, owner=DEAD).manifest
    return store, manifest, bytes(disk.contents)


def copy_of(store: MemoryStore) -> MemoryStore:
    fresh = MemoryStore()
    for stored in store.list(""):
        writer = fresh.create(stored.name)
        writer.append(store.read(stored.name))
        writer.commit()
    return fresh


def second_run(store: Store, contents: bytes) -> tuple[Repository, MemoryDisk]:
    disk = MemoryDisk(contents)
    change(disk)
    repository = reopen(store)
    backup(repository, disk, owner=DEAD)
    return repository, disk


def count_operations() -> int:
    store, _, contents = first_state()
    counted = CrashingStore(copy_of(store))
    second_run(counted, contents)
    return counted.operations


def moments() -> Iterator[tuple[int, Tear, bool]]:
    """Every operation: cut off with several kinds of wreck, and carried out without anybody hearing of it."""
    tears = list(Tear)
    for moment in range(count_operations()):
        yield moment, Tear.KEPT, True
        for tear in (Tear.PREFIX, Tear.ZERO_HOLE, Tear.ZERO_HOLE, tears[moment % len(tears)]):
            yield moment, tear, False


def contents_of(repository: Repository, manifest: Manifest, folder: Path) -> bytes:
    target = folder / manifest.image
    restore(repository, manifest, target)
    contents = target.read_bytes()
    target.unlink()
    return contents


def test_the_run_that_is_swept_has_many_moments() -> None:
    assert count_operations() > 15


@pytest.mark.variants(1)
@pytest.mark.parametrize("share", range(SHARES))
def test_after_a_crash_at_any_moment_all_is_well(tmp_path: Path, share: int) -> None:
    original, first, contents = first_state()
    changed = MemoryDisk(contents)
    change(changed)
    for turn, (moment, tear, late) in islice(enumerate(moments()), share, None, SHARES):
        what = f"moment {moment}, {tear}, late {late}"
        inner = copy_of(original)
        with CrashingStore(inner, moment, tear=tear, seed=turn, late=late) as store, pytest.raises(Crash):
            second_run(store, contents)
        repository = reopen(inner)
        report = check_repository(repository, events=NoEvents())
        assert report.ok or tear in MAY_LOOK_WHOLE, (what, report.findings)
        assert all(state.is_whole for state in report.images), what
        images = [image.manifest for image in repository.images().images]
        assert images[0] == first, what
        assert contents_of(repository, first, tmp_path) == contents, what
        if len(images) == 2:  # the manifest was written before the end
            assert contents_of(repository, images[1], tmp_path) == bytes(changed.contents), what
        left = repository.stored_packs().keys()
        result = backup(repository, changed, owner=NEXT)
        assert result.is_complete, what
        assert verify(repository, result.manifest).ok, what
        assert contents_of(repository, result.manifest, tmp_path) == bytes(changed.contents), what
        assert left <= repository.stored_packs().keys(), what
        assert check_repository(repository, events=NoEvents()).ok or tear in MAY_LOOK_WHOLE, what
        assert repository.sessions() == (), what


def test_finished_packs_of_a_dead_run_are_used_again() -> None:
    original, _, contents = first_state()
    counted = CrashingStore(copy_of(original))
    repository, disk = second_run(counted, contents)
    added = repository.images().images[-1].manifest.bytes_added
    inner = copy_of(original)
    with CrashingStore(inner, counted.operations - 5) as store, pytest.raises(Crash):
        second_run(store, contents)
    result = backup(reopen(inner), disk, owner=NEXT, options=BackupOptions(verify=False))
    assert result.manifest.bytes_added < added / 10
