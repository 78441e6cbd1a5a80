"""Storage that is full, unplugged, write-protected or damaged: what a backup, a verify and a restore then do."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest

from stillframe.block import MemoryDisk
from stillframe.errors import DamagedError, StorageError, StorageFull, TargetError
from stillframe.events import NoEvents, PhaseStarted
from stillframe.extents import Extent
from stillframe.jobs import pipeline
from stillframe.jobs.backup import BackupOptions
from stillframe.jobs.listing import look_at_image
from stillframe.jobs.restore import RestoreOptions
from stillframe.repo.check import check_repository
from stillframe.repo.format import ObjectType, object_name
from stillframe.repo.records import Manifest
from stillframe.repo.repository import Repository, open_repository
from stillframe.store import LocalStore, MemoryStore, Store
from stillframe.testing.clocks import FakeClock
from stillframe.testing.disk_builder import fill_with_noise, write_gpt
from stillframe.testing.faulty_store import FailingReads, FaultPlan, FullStore, VanishingStore
from stillframe.testing.job_runs import backup, make_repository, restore, verify
from stillframe.testing.repositories import Processes, make_owner
from stillframe.testing.sample_repository import flipped, replace_object
from stillframe.testing.tools import run_tool, unmount

MIB = 1 << 20
NEXT = make_owner(process="2", processes=Processes(dead={"1"}))
CLOCK = FakeClock()
PLACES = [Extent(MIB, 2 * MIB + 512), Extent(3 * MIB, 4 * MIB)]


def make_disk(seed: int = 1, *, size: int = 900_000) -> MemoryDisk:
    disk = MemoryDisk(bytes(5 * MIB))
    write_gpt(disk, PLACES)
    for place in PLACES:
        fill_with_noise(disk, Extent(place.start, place.start + size), seed)
        seed += 100
    return disk


def reopen(store: Store) -> Repository:
    """A moment later: which of two proofs of the same second is newer cannot be told."""
    CLOCK.advance(timedelta(seconds=1))
    return open_repository(store, where="the test", secret=None, clock=CLOCK)


def contents_of(repository: Repository, manifest: Manifest, target: Path) -> bytes:
    restore(repository, manifest, target)
    contents = target.read_bytes()
    target.unlink()
    return contents


def packs_of(repository: Repository) -> list[str]:
    return [object_name(ObjectType.PACK, pack) for pack in repository.stored_packs()]


class NoRoomKnown(FullStore):
    """A full disk that does not say beforehand how full it is, as network shares do."""

    def free_space(self) -> int | None:
        return None


@pytest.mark.variants(5)
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("capacity", [0, 300, 5_000, 600_000, 1_700_000])
def test_a_full_store_ends_the_run_and_harms_nothing(tmp_path: Path, capacity: int, late: bool) -> None:
    inner, first, second = MemoryStore(), make_disk(1), make_disk(7)
    earlier = backup(make_repository(inner), first).manifest
    with NoRoomKnown(inner, capacity, late=late) as store, pytest.raises(StorageFull) as full:
        backup(reopen(store), second)
    assert full.value.exit_code == 30
    assert full.value.hint
    repository = reopen(inner)
    assert [image.manifest for image in repository.images().images] == [earlier]
    assert repository.sessions() == ()
    assert check_repository(repository, events=NoEvents()).ok
    assert contents_of(repository, earlier, tmp_path / "disk") == first.contents
    result = backup(repository, second)  # room was made
    assert result.is_complete
    assert contents_of(repository, result.manifest, tmp_path / "disk") == second.contents


def test_too_little_room_is_said_before_the_first_byte() -> None:
    inner = MemoryStore()
    make_repository(inner)
    before = list(inner.operations)
    store = FullStore(inner, 33 << 20)
    with pytest.raises(StorageFull, match=r"has room for 34\.6 MB"):
        backup(reopen(store), make_disk())
    assert [done for done in inner.operations[len(before) :] if done.verb in ("create", "append", "commit")] == []
    assert backup(reopen(FullStore(inner, 40 << 20)), make_disk()).is_complete


@pytest.mark.variants(6)
@pytest.mark.parametrize("stop_after", range(0, 60, 4))
def test_a_store_that_is_unplugged_ends_the_run_and_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    monkeypatch.setattr(pipeline, "worker_count", lambda: 1)
    inner, first, second = MemoryStore(), make_disk(1), make_disk(7)
    earlier = backup(make_repository(inner), first).manifest
    store = VanishingStore(inner)
    repository = reopen(store)
    store.plan = FaultPlan("unplugged", after=stop_after)
    with suppress(StorageError):
        backup(repository, second)
        assert store.plugged_in
    repository = reopen(inner)
    assert contents_of(repository, earlier, tmp_path / "disk") == first.contents
    result = backup(repository, second, owner=NEXT)
    assert contents_of(repository, result.manifest, tmp_path / "disk") == second.contents
    assert check_repository(repository, events=NoEvents()).ok


def test_a_flipped_bit_is_named_refused_and_healed(tmp_path: Path) -> None:
    store, disk = MemoryStore(), make_disk()
    repository = make_repository(store, clock=CLOCK)
    manifest = backup(repository, disk, options=BackupOptions(compression="none")).manifest
    largest = max(packs_of(repository), key=store.size)
    replace_object(store, largest, flipped(store.read(largest), store.size(largest) // 2))
    repository = reopen(store)

    verdict = verify(repository, manifest)
    assert not verdict.ok
    (finding,) = verdict.findings
    assert manifest.image[:8] in finding.message
    assert "partition" in finding.message
    start, end = (int(word) for word in finding.message.split("at bytes ")[1].split(".")[0].split(" to "))
    number = int(finding.message.split("partition ")[1].split(":")[0])
    assert end - start <= 65_536
    place = PLACES[number - 1]

    with pytest.raises(DamagedError) as damage:
        restore(repository, manifest, tmp_path / "disk")
    assert f"at byte {place.start + start}" in damage.value.message
    assert (tmp_path / "disk").read_bytes()[:512] == bytes(512)  # no table
    other = 2 if number == 1 else 1
    restore(repository, manifest, tmp_path / "other", options=RestoreOptions(partition=other))
    whole = PLACES[other - 1]
    assert (tmp_path / "other").read_bytes() == disk.contents[whole.start : whole.end]

    healing = backup(reopen(store), disk)
    assert 0 < healing.manifest.bytes_added < 200_000
    repository = reopen(store)
    for image in (manifest, healing.manifest):
        assert verify(repository, image).ok
        assert contents_of(repository, image, tmp_path / "again") == disk.contents
    assert backup(reopen(store), disk).manifest.bytes_added == 0


def test_what_rots_before_the_reading_back_is_found_by_it() -> None:
    store, disk = MemoryStore(), make_disk()
    repository = make_repository(store, clock=CLOCK)

    class Rot(NoEvents):
        def emit(self, event: object) -> None:
            if isinstance(event, PhaseStarted) and event.name.startswith("reading back"):
                largest = max(packs_of(repository), key=store.size)
                replace_object(store, largest, flipped(store.read(largest), store.size(largest) // 2))

    result = backup(repository, disk, events=Rot())
    assert result.read_back is not None
    assert [finding.code for finding in result.read_back.findings] == ["chunk-damaged"]
    repository = reopen(store)
    assert look_at_image(repository, result.manifest).verdict == "damaged"
    healing = backup(repository, disk)
    assert healing.manifest.bytes_added > 0
    assert verify(reopen(store), result.manifest).ok
    assert look_at_image(reopen(store), result.manifest).verdict == "good"


@pytest.mark.parametrize("kind", ["full", "incremental", "differential"])
def test_a_lost_pack_is_stored_again_by_any_backup(tmp_path: Path, kind: str) -> None:
    store, disk = MemoryStore(), make_disk()
    manifest = backup(make_repository(store), disk).manifest
    repository = reopen(store)
    for name in packs_of(repository):
        store.delete(name)
    assert not verify(repository, manifest).ok
    assert not verify(repository, manifest, quick=True).ok
    with pytest.raises(DamagedError):
        restore(reopen(store), manifest, tmp_path / "disk")
    (tmp_path / "disk").unlink(missing_ok=True)
    options = BackupOptions(kind=kind)  # type: ignore[arg-type]
    healing = backup(reopen(store), disk, options=options)
    repository = reopen(store)
    for image in (manifest, healing.manifest):
        assert verify(repository, image).ok
        assert contents_of(repository, image, tmp_path / "again") == disk.contents


def test_a_pack_that_cannot_be_read_is_a_finding_and_an_error_not_zeros(tmp_path: Path) -> None:
    inner, disk = MemoryStore(), make_disk()
    manifest = backup(make_repository(inner), disk).manifest
    names = packs_of(reopen(inner))
    with FailingReads(inner, dict.fromkeys(names[:1])) as store:
        repository = reopen(store)
        assert not verify(repository, manifest).ok
        with pytest.raises((DamagedError, StorageError)):
            restore(repository, manifest, tmp_path / "disk")
    assert verify(reopen(inner), manifest).ok


def test_every_bit_of_every_pack_matters(tmp_path: Path) -> None:
    """A sample of bits: each one flipped is found by a verify, or the restore is right all the same."""
    store, disk = MemoryStore(), make_disk(size=100_000)
    repository = make_repository(store, clock=CLOCK)
    manifest = backup(repository, disk).manifest
    for name in packs_of(repository):
        whole = store.read(name)
        for position in range(0, len(whole), max(1, len(whole) // 12)):
            replace_object(store, name, flipped(whole, position, position % 8))
            damaged = reopen(store)
            try:
                got = contents_of(damaged, manifest, tmp_path / "disk")
            except (DamagedError, StorageError):
                (tmp_path / "disk").unlink(missing_ok=True)
                assert not verify(damaged, manifest).ok
            else:
                assert got == disk.contents
            replace_object(store, name, whole)


@contextmanager
def small_storage(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own for a repository."""
    image, place = folder / "storage", folder / "mounted"
    place.mkdir()
    run_tool("truncate", "-s", size, str(image))
    run_tool("mke2fs", "-q", "-F", "-t", "ext2", "-m", "0", str(image))
    run_tool("mount", "-o", "loop", str(image), str(place))
    try:
        yield place
    finally:
        unmount(place)


@pytest.mark.root
def test_a_real_disk_that_fills_up_in_mid_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalStore, "free_space", lambda _: None)
    first, second = make_disk(1), MemoryDisk(os.urandom(20 * MIB))
    with small_storage(tmp_path, "16M") as place:
        store = LocalStore(str(place / "repository"))
        repository = make_repository(store, clock=CLOCK)
        earlier = backup(repository, first).manifest
        with pytest.raises(StorageFull):
            backup(repository, second)
        repository = reopen(LocalStore(str(place / "repository")))
        assert contents_of(repository, earlier, tmp_path / "disk") == first.contents
        assert repository.sessions() == ()
        smaller = MemoryDisk(bytes(second.contents[: 5 * MIB]))
        result = backup(repository, smaller)
        assert contents_of(repository, result.manifest, tmp_path / "disk") == smaller.contents


@pytest.mark.root
def test_preflight_on_a_real_disk(tmp_path: Path) -> None:
    with small_storage(tmp_path, "48M") as place:
        repository = make_repository(LocalStore(str(place / "repository")))
        before = sorted(path for path in place.rglob("*") if path.is_file())
        with pytest.raises(StorageFull, match="has room for"):
            backup(repository, MemoryDisk(os.urandom(20 * MIB)))
        assert sorted(path for path in place.rglob("*") if path.is_file()) == before
        assert backup(repository, make_disk()).is_complete


@pytest.mark.root
def test_read_only_storage_still_restores_and_verifies(tmp_path: Path) -> None:
    disk = make_disk()
    with small_storage(tmp_path, "48M") as place:
        manifest = backup(make_repository(LocalStore(str(place / "repository"))), disk).manifest
        run_tool("mount", "-o", "remount,ro", str(place))
        repository = reopen(LocalStore(str(place / "repository")))
        assert contents_of(repository, manifest, tmp_path / "disk") == disk.contents
        assert check_repository(repository, events=NoEvents()).ok
        with pytest.raises(StorageError):
            backup(repository, make_disk(9))
        verdict = verify(repository, manifest)
        assert verdict.ok


@pytest.mark.root
def test_storage_that_is_unmounted_in_mid_run_does_not_fill_the_disk_below(tmp_path: Path) -> None:
    disk = make_disk()
    with small_storage(tmp_path, "48M") as place:
        make_repository(LocalStore(str(place / "repository")))
        repository = reopen(LocalStore(str(place / "repository")))
        unmount(place)
        with pytest.raises(StorageError):
            backup(repository, disk)
        assert list(place.iterdir()) == []
        run_tool("mount", "-o", "loop", str(tmp_path / "storage"), str(place))
        assert backup(repository, disk).is_complete


@pytest.mark.root
def test_a_target_file_system_without_room_is_said_so_and_delta_goes_on(tmp_path: Path) -> None:
    disk = MemoryDisk(os.urandom(20 * MIB))
    repository = make_repository(MemoryStore())
    manifest = backup(repository, disk).manifest
    with small_storage(tmp_path, "32M") as place:
        (place / "in the way").write_bytes(bytes(16 * MIB))
        with pytest.raises(TargetError, match="no room"):
            restore(repository, manifest, place / "disk")
        (place / "in the way").unlink()
        restore(repository, manifest, place / "disk", options=RestoreOptions(delta=True))
        assert (place / "disk").read_bytes() == disk.contents
