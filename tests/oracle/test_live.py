"""A mounted, busy file system is saved as it was at one moment: byte for byte, and with every file that was synced.

The judge is a copy of the device made under the freeze, by the hook that is there for it, and the kernel: a mount of
the restored volume that replays its journal.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from stillframe.capture.live import LiveSource, Watch
from stillframe.capture.live import watch as live_watching
from stillframe.capture.live.followed import FollowedSource
from stillframe.errors import Disturbed, HookFailed, Unseen
from stillframe.extents import Extent
from stillframe.jobs import clone as clone_job
from stillframe.jobs.backup import BackupOptions, BackupResult
from stillframe.jobs.cloning.copying import Copier
from stillframe.jobs.saving import live as live_job
from stillframe.jobs.saving import rounds
from stillframe.jobs.saving.hooks import Hooks
from stillframe.jobs.saving.storing import store_leaves
from stillframe.store import LocalStore
from stillframe.testing.busy_volume import (
    MAKE,
    MIB,
    Judge,
    busy_volume,
    compare,
    compare_target,
    save,
    used_of,
)
from stillframe.testing.job_runs import backup_paths, clone, make_repository, restore
from stillframe.testing.loops import loop_device, partition_nodes
from stillframe.testing.tools import run_tool, unmount

pytestmark = pytest.mark.root
SIZE = 700 * MIB


def assert_free_is_zero(judge: Judge, target: Path) -> None:
    free = used_of(judge.copy).complement(Extent(0, target.stat().st_size))
    with target.open("rb") as restored:
        assert not any(any(os.pread(restored.fileno(), extent.size, extent.start)) for extent in free)


def combinations() -> Iterator[tuple[str, str]]:
    """One writer for each file system, and discards on ext4; ``test_live_runs`` has the rest."""
    yield from (("ext4", "discards"), ("xfs", "files"), ("btrfs", "buffered"))


def one_of(filesystem: str) -> list[object]:
    """One file system in the quick tests, all in the slow ones."""
    return [pytest.param(name, marks=[] if name == filesystem else [pytest.mark.slow]) for name in MAKE]


@pytest.mark.variants(1)
@pytest.mark.parametrize(("filesystem", "writer"), list(combinations()))
def test_a_busy_file_system_is_saved_as_it_was_at_one_moment(filesystem: str, writer: str, tmp_path: Path) -> None:
    with busy_volume(tmp_path, filesystem) as volume:
        volume.write(writer, 1)
        judge = Judge(volume)
        repository, result = save(judge)
    compare(judge, repository, result)
    shutil.rmtree(tmp_path / "repository")


@pytest.mark.parametrize("filesystem", one_of("btrfs"))
def test_what_is_new_since_the_copy_began_does_not_have_to_fit_into_the_freeze(
    filesystem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large new file lies in blocks that were free in the first map."""
    monkeypatch.setattr("stillframe.capture.live.watching.HELD_BYTES_MAX", 24 * MIB)
    monkeypatch.setattr(rounds, "_CALM_BYTES", 4 * MIB)
    with busy_volume(tmp_path, filesystem, size=SIZE) as volume:
        volume.write("files", 2)
        judge = Judge(volume)
        calls = 0

        def store_and_write(*arguments: object, **named: object) -> None:
            nonlocal calls
            store_leaves(*arguments, **named)  # type: ignore[arg-type]
            calls += 1
            if calls == 1:
                data = os.urandom(120 * MIB)
                (volume.mount / "large").write_bytes(data)
                os.sync()
                with volume.ledger.open("a") as ledger:
                    ledger.write(f"large {hashlib.sha256(data).hexdigest()}\n")

        monkeypatch.setattr(live_job, "store_leaves", store_and_write)
        repository, result = save(judge)
        assert calls >= 2
        assert "large" in judge.promised
    compare(judge, repository, result)


def test_a_freeze_that_did_not_hold_is_repeated_and_nothing_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first, spoilt freeze had read counts as changed again."""
    with busy_volume(tmp_path, "ext4") as volume:
        volume.write("buffered", 3)
        judge = Judge(volume)
        look = judge.look

        def look_and_spoil() -> None:
            look()
            if judge.calls == 1:
                run_tool("fsfreeze", "--unfreeze", str(volume.mount))

        monkeypatch.setattr(judge, "look", look_and_spoil)
        repository, result = save(judge)
        assert judge.calls == 2
    compare(judge, repository, result)


@pytest.mark.parametrize("wipe", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_busy_disk_is_cloned_as_it_was_at_one_moment(
    wipe: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was free when it began and is a file at the end, and the other way round, is right on a used target."""
    monkeypatch.setattr(rounds, "_CALM_BYTES", 4 * MIB)
    with busy_volume(tmp_path, "ext4") as volume:
        (volume.mount / "early").write_bytes(os.urandom(30 * MIB))
        os.sync()
        volume.write("buffered", 5)
        judge = Judge(volume)
        monkeypatch.setattr(clone_job, "watch", judge.watch)
        target = tmp_path / "clone.img"
        target.write_bytes(b"\xee" * volume.image.stat().st_size)
        calls = 0
        copy_ranges = Copier.copy_ranges

        def copy_and_write(*arguments: object, **named: object) -> None:
            nonlocal calls
            copy_ranges(*arguments, **named)  # type: ignore[arg-type]
            calls += 1
            if calls == 1:
                (volume.mount / "early").unlink()
                (volume.mount / "late").write_bytes(os.urandom(40 * MIB))
                os.sync()

        monkeypatch.setattr(Copier, "copy_ranges", copy_and_write)
        assert clone(volume.device, target, wipe=wipe).is_complete
        assert calls >= 2
    compare_target(judge, target)
    if wipe:
        assert_free_is_zero(judge, target)


@pytest.mark.slow
@pytest.mark.parametrize("filesystem", one_of("ext4"))
def test_what_was_deleted_meanwhile_is_not_in_the_image(
    filesystem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small files share chunks with others that stay: of a chunk that was stored, what is free at the end is zeros."""
    with busy_volume(tmp_path, filesystem) as volume:
        small = [volume.mount / f"small{number:03}" for number in range(400)]
        for file in small:
            file.write_bytes(os.urandom(12 << 10))
        os.sync()
        volume.write("files", 6)
        judge = Judge(volume)
        calls = 0

        def store_and_delete(*arguments: object, **named: object) -> None:
            nonlocal calls
            store_leaves(*arguments, **named)  # type: ignore[arg-type]
            calls += 1
            if calls == 1:
                for file in small[::2]:
                    file.unlink()
                os.sync()

        monkeypatch.setattr(live_job, "store_leaves", store_and_delete)
        repository, result = save(judge)
    compare(judge, repository, result)
    target = tmp_path / "restored.img"
    target.unlink()
    restore(repository, result.manifest, target)
    assert_free_is_zero(judge, target)


def test_disks_in_use_and_disks_that_are_not_make_one_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, last = tmp_path / "first.img", tmp_path / "last.img"
    first.write_bytes(os.urandom(2 * MIB))
    last.write_bytes(os.urandom(3 * MIB))
    with busy_volume(tmp_path, "ext4") as volume:
        volume.write("files", 7)
        judge = Judge(volume)
        monkeypatch.setattr(live_job, "watch", judge.watch)
        repository = make_repository(LocalStore(str(tmp_path / "repository")))
        result = backup_paths(repository, first, volume.device, last)
    assert [disk.partitions[0].consistency for disk in result.manifest.disks] == ["offline", "frozen", "offline"]
    for number, original in ((1, first), (3, last)):
        target = tmp_path / f"restored-{number}.img"
        restore(repository, result.manifest, target, disk_number=number)
        assert target.read_bytes() == original.read_bytes()
    target = tmp_path / "restored-2.img"
    restore(repository, result.manifest, target, disk_number=2)
    compare_target(judge, target)


@pytest.mark.slow
def test_hooks_run_around_the_freeze_and_a_failure_does_what_was_asked(tmp_path: Path) -> None:
    """The first hook's file is in the image, the second one's is not."""

    def save_with(hooks: Hooks) -> BackupResult:
        return backup_paths(repository, volume.device, options=BackupOptions(hooks=hooks))

    with busy_volume(tmp_path, "ext4") as volume:
        place, repository = volume.mount, make_repository(LocalStore(str(tmp_path / "repository")))
        hooks = Hooks(before=("touch", f"{place}/before"), after=("touch", f"{place}/after"))
        good = save_with(hooks)
        assert (place / "after").exists()
        (place / "after").unlink()
        failing = replace(hooks, before=("false",))
        with pytest.raises(HookFailed, match="false"):
            save_with(failing)
        assert (place / "after").exists()
        assert len(repository.images().images) == 1
        result = save_with(replace(failing, on_failure="continue", after=("false",)))
        codes = {notice.code for notice in result.manifest.notices}
        assert {"hook-before-failed", "hook-after-failed"} <= codes
        with pytest.raises(HookFailed, match="within 1 seconds"):
            save_with(Hooks(before=("sleep", "60"), limit_s=1))
    target = tmp_path / "restored.img"
    restore(repository, good.manifest, target)
    names = subprocess.run(["debugfs", "-R", "ls -p /", str(target)], check=True, capture_output=True, text=True).stdout
    assert "/before/" in names
    assert "/after/" not in names


@pytest.mark.slow
def test_writes_that_were_not_seen_make_it_read_everything_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with busy_volume(tmp_path, "ext4") as volume:
        volume.write("buffered", 9)
        judge = Judge(volume)
        shortfalls = iter(["8 sectors were written that the trace does not show"])
        monkeypatch.setattr(FollowedSource, "shortfalls", lambda _: shortfalls)
        repository, result = save(judge)
        assert judge.calls == 2
        compare(judge, repository, result)
        monkeypatch.setattr(FollowedSource, "shortfalls", lambda _: iter(["never all"]))
        with pytest.raises(Unseen, match="never all"):
            backup_paths(repository, volume.device)
        assert len(repository.images().images) == 1


def test_a_file_system_that_is_mounted_meanwhile_is_not_taken_for_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(128 * MIB)
    run_tool("sgdisk", "-n1:2048:+40M", "-n2:0:0", str(image))
    places = [tmp_path / "one", tmp_path / "two"]
    with loop_device(image) as device, contextlib.ExitStack() as stack:
        stack.enter_context(partition_nodes(device))
        for number, place in enumerate(places, 1):
            run_tool("mkfs.ext4", "-q", "-F", f"{device}p{number}")
            place.mkdir()
        run_tool("mount", f"{device}p1", str(places[0]))
        stack.callback(unmount, places[0])
        looks = 0

        def mount_the_other() -> None:
            nonlocal looks
            looks += 1
            if looks == 1:
                subprocess.Popen(["mount", f"{device}p2", str(places[1])]).wait()
                stack.callback(unmount, places[1])

        @contextlib.contextmanager
        def watching(sources: Sequence[LiveSource]) -> Iterator[Watch]:
            with live_watching(sources, limit_s=60) as found:
                found.on_hold = mount_the_other
                yield found

        monkeypatch.setattr(live_job, "watch", watching)
        with pytest.raises(Disturbed, match=r"mounted|written"):
            backup_paths(make_repository(LocalStore(str(tmp_path / "repository"))), device)


def test_a_file_system_in_a_file_is_frozen_before_the_one_that_holds_the_file(tmp_path: Path) -> None:
    """What it had not written yet is in the image, and its own journal is clean there."""
    with busy_volume(tmp_path, "ext4", size=192 * MIB) as volume:
        inner, place = volume.mount / "inner.img", tmp_path / "inner"
        with inner.open("wb") as file:
            file.truncate(64 * MIB)
        run_tool("mkfs.ext4", "-q", "-F", str(inner))
        place.mkdir()
        run_tool("mount", "-o", "loop", str(inner), str(place))
        try:
            (place / "letter").write_text("not synced by anybody")
            repository = make_repository(LocalStore(str(tmp_path / "repository")))
            result = backup_paths(repository, volume.device)
        finally:
            unmount(place)
    target, taken = tmp_path / "restored.img", tmp_path / "taken.img"
    restore(repository, result.manifest, target)
    run_tool("debugfs", "-R", f"dump /inner.img {taken}", str(target))
    flags = subprocess.run(["dumpe2fs", "-h", str(taken)], check=True, capture_output=True, text=True).stdout
    assert "needs_recovery" not in flags
    shown = subprocess.run(["debugfs", "-R", "cat /letter", str(taken)], check=True, capture_output=True, text=True)
    assert shown.stdout == "not synced by anybody"
