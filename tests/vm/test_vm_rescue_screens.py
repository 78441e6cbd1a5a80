"""A computer comes back through the screens of the medium: keys and words over the serial line, as a person types them.

The disk that comes back says from inside that all of it did. The screens stand in the output of the test (``pytest
-s``).
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stillframe.store.local import LocalStore
from stillframe.testing.boot_layouts import PLAIN, SIZE, layout_disk
from stillframe.testing.boot_reports import RIGHT, start_and_report
from stillframe.testing.command_line import call
from stillframe.testing.debian_guest import cache, make_disk
from stillframe.testing.job_runs import backup_paths, make_repository
from stillframe.testing.medium_machine import MediumMachine, start_medium
from stillframe.testing.serial_screens import Watcher
from stillframe.testing.tools import run_tool
from stillframe.testing.virtual_machine import Drive

pytestmark = [pytest.mark.root, pytest.mark.vm]
PASSPHRASE = "four words on paper"  # noqa: S105 - of a test
LIMIT_S = 1200
MIB = 1 << 20


def fat_disk(path: Path, folder: Path) -> Path:
    """A disk with a FAT32 volume that holds a folder."""
    make_disk(path, 1024 * MIB)
    run_tool("sgdisk", "-n1:2048:0", "-t1:0700", str(path))
    volume = f"{path}@@1M"
    run_tool("mkfs.fat", "-F32", "-n", "BACKUP", "--offset", "2048", str(path), str((1024 - 2) * 1024))
    run_tool("mcopy", "-s", "-i", volume, str(folder), "::/stillframe")
    return path


@contextmanager
def medium(tmp_path: Path) -> Iterator[Path]:
    """An ISO, made here; its base is made once."""
    iso = tmp_path / "rescue.iso"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STILLFRAME_CACHE_DIR", str(cache() / "media"))
        outcome = call("rescue", "build", iso, "--serial", "--yes")
    assert outcome.exit_code == 0, outcome.output[-3000:]
    yield iso
    iso.unlink()


def test_a_computer_comes_back_by_keys_over_the_serial_line(tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    repository = make_repository(LocalStore(str(folder)), chunk_size=262_144, passphrase=PASSPHRASE)
    backup_paths(repository, layout_disk(PLAIN))
    backups, empty = fat_disk(tmp_path / "backups.img", folder), make_disk(tmp_path / "empty.img", SIZE)
    machines = tmp_path / "m"
    machines.mkdir()
    disks = [Drive(file=empty, serial="empty"), Drive(file=backups, serial="backups")]
    with medium(tmp_path) as iso:
        machine = MediumMachine(
            folder=machines, medium=iso, plugged="usb", firmware="uefi", key=tmp_path / "none", disks=disks
        )
        with start_medium(machine) as running:
            watcher = Watcher(running, machines / "serial.log", limit_s=LIMIT_S)
            watcher.choose("Back up this computer", "Restore this computer")
            watcher.choose("Where are the backups|backups were found", "BACKUP")
            watcher.write("Unlock the backups|What you type is not shown", PASSPHRASE)
            watcher.choose("Which state do you want back|the newest first", "")
            watcher.choose("Onto which disk|EVERYTHING on it is", "serial empty")
            watcher.choose("same computer|made ready for another", "Yes")
            watcher.write("This is going to be done|Onto:", "restore")
            watcher.choose("Restored|Take the rescue medium out", "Switch it off")
            running.wait_for_end(limit_s=LIMIT_S)
    report = start_and_report(tmp_path, empty, firmware="uefi")
    assert report.code == RIGHT, report.log
    assert subprocess.run(["mdir", "-i", f"{backups}@@1M", "::/stillframe"], check=False).returncode == 0
