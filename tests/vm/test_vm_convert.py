"""A Debian that a BIOS starts comes back as one that UEFI starts, and the reverse; it says so from inside."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest

from stillframe.block.file import open_file_reader
from stillframe.disk import read_layout
from stillframe.disk.converting import StartsBy
from stillframe.jobs.conversions.conversion import ConvertWish
from stillframe.jobs.restore import RestoreOptions
from stillframe.repo.records import Manifest
from stillframe.repo.repository import Repository
from stillframe.store.local import LocalStore
from stillframe.testing.debian_disk import make_debian_for
from stillframe.testing.job_runs import backup_paths, make_repository, restore
from stillframe.testing.loops import loop_device
from stillframe.testing.tools import run_tool, unmount
from stillframe.testing.virtual_machine import Drive, Machine
from stillframe.testing.volumes_windows import hash_tree

pytestmark = [pytest.mark.root, pytest.mark.vm]
LIMIT_S = 1200
Start = Literal["bios", "uefi"]
UNIT = """[Unit]
After=local-fs.target swap.target
[Service]
Type=oneshot
ExecStart=/bin/sh /root/report
[Install]
WantedBy=multi-user.target
"""
# Says by which firmware it was started and whether its fstab holds, and switches itself off. The start does not wait
# for a volume with 'nofail'.
SCRIPT = """mode=bios
if [ -d /sys/firmware/efi ]; then mode=uefi; fi
mountpoint -q /boot/efi || mount /boot/efi
{
  echo firmware=$mode
  echo root=$(findmnt -no SOURCE /)
  echo line=$(tr ' ' '\\n' < /proc/cmdline | grep ^root=)
  echo efi=$(findmnt -no FSTYPE /boot/efi)
  echo swap=$(tail -n +2 /proc/swaps | wc -l)
  echo failed=$(systemctl --failed --no-legend | wc -l)
} > /root/said
sync
systemctl poweroff --no-block
"""
Saved = tuple[Repository, Manifest, Path]


@contextmanager
def root_of(disk: Path, number: int) -> Iterator[Path]:
    """The root file system of a disk, mounted."""
    with loop_device(disk) as device:
        run_tool("partx", "--add", str(device))
        place = disk.with_suffix(".root")
        place.mkdir()
        run_tool("mount", f"{device}p{number}", str(place))
        try:
            yield place
        finally:
            unmount(place)
            place.rmdir()
            run_tool("partx", "--delete", str(device))


@pytest.fixture(scope="module")
def save(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Start], Saved]:
    """An image of a Debian for one firmware, and its disk."""
    folder = tmp_path_factory.mktemp("convert")
    repository = make_repository(LocalStore(str(folder / "repository")), chunk_size=262_144)
    made: dict[Start, Saved] = {}

    def make(firmware: Start) -> Saved:
        if firmware not in made:
            disk = make_debian_for(firmware, folder / f"{firmware}.img")
            with root_of(disk, 1 if firmware == "bios" else 2) as root:
                (root / "etc/systemd/system/report.service").write_text(UNIT)
                (root / "root/report").write_text(SCRIPT)
                run_tool("chroot", str(root), "systemctl", "--quiet", "enable", "report.service")
            made[firmware] = repository, backup_paths(repository, disk).manifest, disk
        return made[firmware]

    return make


def report(target: Path, number: int, folder: Path, firmware: Start) -> dict[str, str]:
    """What the system says when this firmware starts it: it is written into its own root."""
    folder.mkdir()
    machine = Machine(folder=folder, drives=[Drive(file=target)], uefi=firmware == "uefi", memory_mib=1024)
    machine.run(limit_s=LIMIT_S)
    with root_of(target, number) as root:
        said = root / "root/said"
        assert said.exists(), machine.tail()
        return dict(line.split("=", 1) for line in said.read_text().splitlines())


CHANGED = frozenset({"etc/fstab", "boot/grub/grub.cfg"})


def compare_files(
    source: Path, number: int, target: Path, new_number: int, changed: frozenset[str] = CHANGED
) -> None:  # fmt: skip
    """Every file is as it was; other are only tables and the menu, new are only GRUB's own."""
    with root_of(source, number) as root:
        before = hash_tree(root)
    with root_of(target, new_number) as root:
        after = hash_tree(root)
    assert len(before) > 5000
    differing = {path for path, digest in before.items() if after.get(path) != digest}
    assert differing == changed
    assert all(re.match(r"boot/grub/(x86_64-efi|i386-pc)/", path) for path in set(after) - set(before))


@pytest.mark.parametrize("size", [2 << 30, 3 << 30])
def test_a_bios_debian_on_an_mbr_starts_by_uefi(save: Callable[[Start], Saved], tmp_path: Path, size: int) -> None:
    repository, manifest, disk = save("bios")
    target = tmp_path / "target.img"
    target.touch()
    os.truncate(target, size)
    restore(repository, manifest, target, options=RestoreOptions(convert=ConvertWish(starts_by="uefi")))
    assert "No problems found" in run_tool("sgdisk", "-v", str(target))
    assert not any(target.read_bytes()[:440]), "a BIOS finds no code"
    compare_files(disk, 1, target, 1)
    said = report(target, 1, tmp_path / "run", "uefi")
    assert (said["firmware"], said["root"]) == ("uefi", "/dev/vda1")
    guid = run_tool("sfdisk", "--part-uuid", str(target), "1").strip().lower()
    assert said["line"] == f"root=PARTUUID={guid}"
    assert (said["efi"], said["swap"], said["failed"]) == ("vfat", "1", "0")


@pytest.mark.parametrize("how", ["bios", "bios-mbr"])
def test_a_uefi_debian_starts_by_bios(save: Callable[[Start], Saved], tmp_path: Path, how: StartsBy) -> None:
    repository, manifest, disk = save("uefi")
    target = tmp_path / "target.img"
    restore(repository, manifest, target, options=RestoreOptions(convert=ConvertWish(starts_by=how)))
    with open_file_reader(str(target)) as reader:
        layout = read_layout(reader)
    assert layout.scheme == ("gpt" if how == "bios" else "mbr")
    compare_files(disk, 2, target, 2, changed=CHANGED if how == "bios-mbr" else frozenset())
    said = report(target, 2, tmp_path / "run", "bios")
    assert (said["firmware"], said["root"]) == ("bios", "/dev/vda2")
    assert (said["efi"], said["failed"]) == ("vfat", "0")
    if how == "bios-mbr":
        assert said["line"] == f"root=PARTUUID={layout.disk_id.lower()}-02"
