"""SIGKILL at any moment: of a backup, and of a restore."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stillframe.block import MemoryDisk
from stillframe.clock import SystemClock
from stillframe.events import NoEvents
from stillframe.extents import Extent
from stillframe.jobs.restore import RestoreOptions
from stillframe.repo.check import check_repository
from stillframe.repo.records import Manifest
from stillframe.repo.repository import Repository, open_repository
from stillframe.store import LocalStore
from stillframe.testing.disk_builder import fill_with_noise, write_gpt
from stillframe.testing.job_runs import backup_paths, make_repository, restore, verify
from stillframe.testing.real_disks import MIB, hash_file, see_valid_table

KILLS = [pytest.param(3, id="three"), pytest.param(200, id="many", marks=pytest.mark.slow)]

BACKUP = """
import sys
from stillframe.jobs.backup import BackupOptions
from stillframe.jobs.owner import this_owner
from stillframe.repo.repository import open_repository
from stillframe.store import LocalStore
from stillframe.testing.job_runs import backup_paths
repository = open_repository(LocalStore(sys.argv[1]), where="here", secret=None)
print("ready", flush=True)
backup_paths(repository, sys.argv[2], owner=this_owner(), options=BackupOptions(compression="none"))
"""
RESTORE = """
import sys
from stillframe.jobs.restore import RestoreOptions
from stillframe.repo.repository import open_repository
from stillframe.store import LocalStore
from stillframe.testing.job_runs import restore
repository = open_repository(LocalStore(sys.argv[1]), where="here", secret=None)
manifest = repository.image(bytes.fromhex(sys.argv[3])).manifest
print("ready", flush=True)
restore(repository, manifest, sys.argv[2], options=RestoreOptions(delta=sys.argv[4] == "delta"))
"""


def run_until(script: str, *arguments: str, seconds: float | None) -> float | None:
    """Run a script and kill it so long after it is ready; how long it took when it ended by itself."""
    command = [sys.executable, "-c", script, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        assert line == b"ready\n", process.stderr.read().decode()
        began = time.monotonic()
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return None
        assert process.returncode == 0, process.stderr.read().decode()
        return time.monotonic() - began


def make_source(path: Path, seed: int) -> bytes:
    disk = MemoryDisk(bytes(48 * MIB))
    places = [Extent(MIB, 24 * MIB), Extent(25 * MIB, 47 * MIB)]
    write_gpt(disk, places)
    for number in range(10):
        start = MIB + number * 4 * MIB
        fill_with_noise(disk, Extent(start, start + 3 * MIB + 4096), seed + number)
    path.write_bytes(disk.contents)
    return bytes(disk.contents)


def moments(count: int, whole: float, seed: int) -> Iterator[float]:
    chance = random.Random(seed)
    return (chance.uniform(0, whole) for _ in range(count))


def reopen(folder: Path) -> Repository:
    return open_repository(LocalStore(str(folder)), where="the test", secret=None, clock=SystemClock())


def contents_of(repository: Repository, manifest: Manifest, target: Path) -> bytes:
    restore(repository, manifest, target)
    contents = target.read_bytes()
    target.unlink()
    return contents


@pytest.mark.parametrize("kills", KILLS)
def test_a_backup_that_is_killed_harms_nothing(tmp_path: Path, kills: int) -> None:
    folder, source = tmp_path / "repository", tmp_path / "source"
    repository = make_repository(LocalStore(str(folder)), chunk_size=262_144, clock=SystemClock())
    first_contents = make_source(source, 1)
    first = backup_paths(repository, source).manifest
    make_source(source, 500)
    whole = run_until(BACKUP, str(folder), str(source), seconds=None)
    assert whole is not None
    killed = 0
    for turn, seconds in enumerate(moments(kills, whole * 1.2, 1)):
        contents = make_source(source, 1000 + 100 * turn)
        ended = run_until(BACKUP, str(folder), str(source), seconds=seconds)
        killed += ended is None
        repository = reopen(folder)
        report = check_repository(repository, events=NoEvents())
        assert report.ok, report.findings
        if turn % 4 == 0:
            assert contents_of(repository, first, tmp_path / "restored") == first_contents
            before = sum(repository.stored_packs().values())
            run_until(BACKUP, str(folder), str(source), seconds=None)
            repository = reopen(folder)
            newest = repository.images().images[-1].manifest
            assert verify(repository, newest).ok
            assert contents_of(repository, newest, tmp_path / "restored") == contents
            grown = sum(repository.stored_packs().values()) - before
            assert grown <= 36 * MIB  # 140 chunks: what was finished before is not stored again
            if ended is not None:
                assert grown < MIB
            assert repository.sessions() == ()
    assert killed >= kills // 3


@pytest.mark.parametrize("kills", KILLS)
def test_a_restore_that_is_killed_leaves_no_table_and_goes_on_with_delta(tmp_path: Path, kills: int) -> None:
    folder, source, target = tmp_path / "repository", tmp_path / "source", tmp_path / "target"
    repository = make_repository(LocalStore(str(folder)), clock=SystemClock())
    make_source(source, 1)
    manifest = backup_paths(repository, source).manifest
    right = hash_file(source)
    older = make_source(tmp_path / "older", 900)

    target.write_bytes(older)
    whole = run_until(RESTORE, str(folder), str(target), manifest.image, "plain", seconds=None)
    assert whole is not None
    assert see_valid_table(target)
    killed = 0
    for turn, seconds in enumerate(moments(kills, whole * 1.2, 2)):
        target.write_bytes(older)
        ended = run_until(RESTORE, str(folder), str(target), manifest.image, "plain", seconds=seconds)
        if ended is None:
            killed += 1
            contents = target.read_bytes()
            untouched = contents == older
            complete = contents[: 2 * MIB] == source.read_bytes()[: 2 * MIB] and hash_file(target) == right
            assert not see_valid_table(target) or untouched or complete
        if turn % 2:  # killed again while it goes on
            run_until(RESTORE, str(folder), str(target), manifest.image, "delta", seconds=seconds / 2)
        result = restore(repository, manifest, target, options=RestoreOptions(delta=True))
        assert hash_file(target) == right
        assert see_valid_table(target)
        if ended is not None:
            assert result.bytes_written < MIB
    assert killed >= kills // 3
