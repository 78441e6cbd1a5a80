"""Who may run beside whom (format page, section 14), with real processes: a test per cell, and what they did whole."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from stillframe.block import MemoryDisk
from stillframe.errors import Locked
from stillframe.extents import Extent
from stillframe.host.machine import machine
from stillframe.repo.repository import create_repository
from stillframe.store import LocalStore
from stillframe.testing.disk_builder import fill_with_noise, write_gpt
from stillframe.testing.repositories import CHEAP

pytestmark = pytest.mark.root
MIB: Final = 1 << 20
PASSWORD: Final = "one two three"  # noqa: S105 - of a repository of this test
HOLD: Final = """
import sys
from stillframe.jobs.owner import this_owner
from stillframe.repo.repository import open_repository
from stillframe.repo.session import begin_session
from stillframe.store import LocalStore
repository = open_repository(LocalStore(sys.argv[1]), where="here", secret=sys.argv[3])
session = begin_session(repository, this_owner(), sys.argv[2], sys.argv[4:])
print("ready", flush=True)
sys.stdin.readline()
session.end()
"""


def make_disk(path: Path, seed: int, size: int = 4 * MIB) -> Path:
    disk = MemoryDisk(bytes(size))
    write_gpt(disk, [Extent(MIB, size - MIB)])
    for start in range(MIB, size - MIB, 64 * MIB):
        fill_with_noise(disk, Extent(start, min(start + 64 * MIB, size - MIB)), seed + start)
    path.write_bytes(bytes(disk.contents))
    return path


class Place:
    """A repository, disks, and programs that run there, on this machine or on another one."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.repo = folder, folder / "repo"
        self.other_id = folder / "machine-id"
        self.other_id.write_text("0123456789abcdef0123456789abcdef\n")
        create_repository(LocalStore(str(self.repo)), passphrase=PASSWORD, cost=CHEAP)
        self.environment = os.environ | {
            "STILLFRAME_REPO": str(self.repo), "STILLFRAME_PASSWORD": PASSWORD, "STILLFRAME_NEW_PASSWORD": "four five",
            "STILLFRAME_CACHE_DIR": str(folder / "cache"), "STILLFRAME_STATE_DIR": str(folder / "state"),
        }  # fmt: skip

    def start(self, *words: object, elsewhere: bool = False) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "stillframe", *(str(word) for word in words)]
        if elsewhere:  # another machine is one with another id and another name
            script = 'mount --bind "$0" /etc/machine-id && hostname elsewhere && exec "$@"'
            command = [
                "unshare",
                "--mount",
                "--propagation=slave",
                "--uts",
                "sh",
                "-c",
                script,
                str(self.other_id),
                *command,
            ]
        return subprocess.Popen(
            command, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )  # fmt: skip

    def run(self, *words: object, elsewhere: bool = False) -> tuple[int, str]:
        process = self.start(*words, elsewhere=elsewhere)
        out, errors = process.communicate(timeout=300)
        return process.returncode, out + errors

    def do(self, *words: object, elsewhere: bool = False) -> str:
        code, said = self.run(*words, elsewhere=elsewhere)
        assert code == 0, said
        return said

    @contextmanager
    def holding(self, verb: str) -> Iterator[None]:
        """Another process of this machine is at work with this verb."""
        disks = [str(self.folder / "two")] if verb == "backup" else []
        command = [sys.executable, "-c", HOLD, str(self.repo), verb, PASSWORD, *disks]
        with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            try:
                yield
            finally:
                process.communicate("go on\n", timeout=60)
        assert process.returncode == 0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("table"))
    place.do("backup", make_disk(place.folder / "one", 1), "--name", "one", "--no-verify")
    for number in range(3):
        place.do("backup", make_disk(place.folder / f"spare{number}", 2), "--name", f"spare{number}", "--no-verify")
    make_disk(place.folder / "two", 3)
    make_disk(place.folder / "three", 4)
    return place


def words_of(place: Place, column: str, row: str) -> Sequence[object]:
    spare = ("backup", "expire", "repair").index(row)
    return {
        "backup": ("backup", place.folder / "two", "--no-verify"),
        "backup of another disk": ("backup", place.folder / "three", "--no-verify"),
        "backup of another machine": ("backup", place.folder / "two", "--no-verify"),
        "verify": ("verify", "latest:one"),
        "restore": ("restore", "latest:one", place.folder / f"target-{row}", "--yes"),
        "list": ("images", "--all"),
        "forget": ("forget", f"latest:spare{spare}", "--yes"),
        "expire": ("expire", "--yes"),
        "repair": ("repair",),
        "key": ("key", "add"),
    }[column]


COLUMNS: Final = (
    "backup", "backup of another disk", "backup of another machine", "verify", "restore", "list", "forget", "expire",
    "repair", "key",
)  # fmt: skip
LOCKED: Final = {
    "backup": {"backup", "repair"},
    "expire": {"expire", "repair"},
    "repair": {"backup", "backup of another disk", "backup of another machine", "forget", "expire", "repair"},
}
"""Section 14: for each row the columns that are refused. All others run."""


@pytest.mark.variants(9)
@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("row", LOCKED)
def test_a_cell_of_the_table(place: Place, row: str, column: str) -> None:
    with place.holding(row):
        code, said = place.run(*words_of(place, column, row), elsewhere=column.endswith("another machine"))
    if column in LOCKED[row]:
        assert code == Locked.exit_code, said
        assert f"'{row}' is at work in this repository on {machine().name}" in said
    else:
        assert code == 0, said


# What several of them did at once is whole.


@pytest.fixture
def fresh(tmp_path: Path) -> Place:
    return Place(tmp_path)


def restored_equals(place: Place, name: str, disk: Path) -> None:
    target = place.folder / f"back-{name}"
    place.do("restore", f"latest:{name}", target, "--yes")
    subprocess.run(["cmp", target, disk], check=True)


def stop_at(process: subprocess.Popen[str], place: Place, folder: str, count: int = 1) -> None:
    """Stop a process as soon as so many objects of it are there."""
    limit = time.monotonic() + 120
    while sum(one.is_file() for one in (place.repo / folder).rglob("*")) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.01)
    process.send_signal(signal.SIGSTOP)


def go_on(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGCONT)
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, out + errors
    return out


def test_two_disks_go_into_one_repository_at_once(fresh: Place) -> None:
    disks = [make_disk(fresh.folder / f"disk{number}", number, 24 * MIB) for number in range(2)]
    here = fresh.start("backup", disks[0], "--name", "disk0", "--compression", "none")
    stop_at(here, fresh, "sessions")
    there = fresh.start("backup", disks[1], "--name", "disk1", "--compression", "none", elsewhere=True)
    stop_at(there, fresh, "sessions", 2)
    here.send_signal(signal.SIGCONT)
    go_on(there)
    go_on(here)
    assert "elsewhere" in fresh.do("machines")
    for number, disk in enumerate(disks):
        restored_equals(fresh, f"disk{number}", disk)
    fresh.do("check")


DISKS_AT_ONCE: Final = 4


@pytest.mark.slow
def test_several_disks_of_one_machine_go_into_one_repository_at_once(fresh: Place) -> None:
    """Four backups, a verification and an expiry, all of them at work at the same moment."""
    disks = [make_disk(fresh.folder / f"disk{number}", number, 24 * MIB) for number in range(DISKS_AT_ONCE)]
    fresh.do("backup", disks[0], "--name", "earlier", "--no-verify", "--compression", "none")
    packs = sum(one.is_file() for one in (fresh.repo / "packs").rglob("*"))
    runs = []
    for number, disk in enumerate(disks):
        with disk.open("r+b") as file:
            file.seek(2 * MIB)
            file.write(os.urandom(12 * MIB))
        run = fresh.start("backup", disk, "--name", f"disk{number}", "--no-verify", "--compression", "none", "--json")
        stop_at(run, fresh, "packs", packs + 1 + 3 * number)
        runs.append(run)
        packs = max(packs, sum(one.is_file() for one in (fresh.repo / "packs").rglob("*")) - 1 - 3 * number)
    code, said = fresh.run("backup", disks[2], "--no-verify")
    assert code == Locked.exit_code, said
    verifying = fresh.start("verify", "latest:earlier", "--json")
    assert verifying.stdout is not None
    while '"job_started"' not in verifying.stdout.readline():
        assert verifying.poll() is None
    verifying.send_signal(signal.SIGSTOP)
    expiring = fresh.start("expire", "--yes")
    for run in (*runs, verifying):
        run.send_signal(signal.SIGCONT)
    results = [json.loads(go_on(run).splitlines()[-1]) for run in (*runs, verifying)]
    assert results[-1]["ok"]
    go_on(expiring)
    assert results[0]["bytes_added"] < 16 * MIB  # what was indexed before is not stored again
    shown = [json.loads(fresh.do("show", f"latest:disk{n}", "--json").splitlines()[-1]) for n in range(DISKS_AT_ONCE)]
    assert sorted(one["sequence"] for one in shown) == [2, 3, 4, 5]
    for number, disk in enumerate(disks):
        restored_equals(fresh, f"disk{number}", disk)
    fresh.do("check")
    assert not list((fresh.repo / "sessions").rglob("*.*"))


def test_several_disks_go_in_with_one_put_key_at_once(fresh: Place) -> None:
    """Two backups that cannot read each other's sessions; a third, of a disk that is being saved, is refused."""
    disks = [make_disk(fresh.folder / f"disk{number}", number, 24 * MIB) for number in range(2)]
    key = fresh.folder / "put.key"
    fresh.do("key", "add", "--put-only", key, "--label", "web")
    words = ("--put-key", key, "--compression", "none", "--json")
    runs = []
    for number, disk in enumerate(disks):
        runs.append(fresh.start("backup", disk, "--name", f"disk{number}", *words))
        stop_at(runs[-1], fresh, "packs", 1 + 3 * number)
    code, said = fresh.run("backup", disks[1], *words)
    assert (code, "saves" in said) == (Locked.exit_code, True), said
    results = [json.loads(go_on(run).splitlines()[-1]) for run in runs]
    assert not list((fresh.folder / "state").rglob("*.runs/*"))
    shown = [json.loads(fresh.do("show", one["image"], "--json").splitlines()[-1]) for one in results]
    assert [one["sequence"] for one in shown] == [1, 2]
    for number, disk in enumerate(disks):
        fresh.do("restore", results[number]["image"], fresh.folder / f"back{number}", "--yes")
        subprocess.run(["cmp", fresh.folder / f"back{number}", disk], check=True)
    fresh.do("check")


@pytest.mark.slow
def test_a_killed_backup_is_gone_on_with_while_another_disk_is_saved(fresh: Place) -> None:
    """What the killed run left is used again; the packs of the run that is alive stay as they are."""
    disks = [make_disk(fresh.folder / f"disk{number}", number, 320 * MIB) for number in range(2)]
    words = ("--no-verify", "--compression", "none", "--json")
    killed = fresh.start("backup", disks[0], "--name", "disk0", *words)
    stop_at(killed, fresh, "packs", 5)  # no more than three are open: two are whole
    alive = fresh.start("backup", disks[1], "--name", "disk1", *words)
    stop_at(alive, fresh, "packs", 10)
    killed.kill()
    killed.communicate()
    before = {one: one.stat().st_mtime_ns for one in (fresh.repo / "packs").rglob("*") if one.is_file()}
    again = json.loads(fresh.do("backup", disks[0], "--name", "disk0", *words).splitlines()[-1])
    assert again["bytes_added"] < (320 - 2 * 60) * MIB
    assert {one: one.stat().st_mtime_ns for one in before if one.exists()} == before
    go_on(alive)
    for number, disk in enumerate(disks):
        restored_equals(fresh, f"disk{number}", disk)
    fresh.do("check")


def test_a_backup_while_an_image_is_verified(fresh: Place) -> None:
    disks = [make_disk(fresh.folder / f"disk{number}", number, 24 * MIB) for number in range(2)]
    fresh.do("backup", disks[0], "--name", "disk0", "--no-verify")
    verifying = fresh.start("verify", "latest:disk0", "--json")
    assert verifying.stdout is not None
    while '"job_started"' not in verifying.stdout.readline():
        assert verifying.poll() is None
    verifying.send_signal(signal.SIGSTOP)
    fresh.do("backup", disks[1], "--name", "disk1", "--no-verify")
    assert '"ok":true' in go_on(verifying)
    for number, disk in enumerate(disks):
        restored_equals(fresh, f"disk{number}", disk)


def test_an_expiry_while_a_backup_is_made_of_what_it_would_delete(fresh: Place) -> None:
    disk = make_disk(fresh.folder / "disk", 5, 24 * MIB)
    fresh.do("backup", disk, "--name", "old", "--no-verify")
    with disk.open("r+b") as file:
        file.seek(9 * MIB)
        file.write(os.urandom(4 * MIB))
    packs = sum(one.is_file() for one in (fresh.repo / "packs").rglob("*"))
    making = fresh.start("backup", disk, "--name", "new", "--no-verify", "--compression", "none")
    stop_at(making, fresh, "packs", packs + 1)
    old = fresh.do("images").splitlines()[-1].split()[0]
    fresh.do("forget", old, "--yes", elsewhere=True)
    for _ in range(2):
        said = fresh.do("expire", "--undelete-days", "0", "--grace", "0", "--yes", elsewhere=True)
        assert f"on {machine().name}, at work since" in said
    go_on(making)
    restored_equals(fresh, "new", disk)
    for _ in range(2):
        fresh.do("expire", "--undelete-days", "0", "--grace", "0", "--yes", elsewhere=True)
    shutil.rmtree(fresh.folder / "cache")
    (fresh.folder / "back-new").unlink()
    restored_equals(fresh, "new", disk)
    fresh.do("verify")
    fresh.do("check")
