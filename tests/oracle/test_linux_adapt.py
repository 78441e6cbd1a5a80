"""A little Linux restored for another computer: what was true of the old one only is not in it any more."""

import gzip
import os
import re
from pathlib import Path

import pytest

from stillframe.events import Event, Notice
from stillframe.jobs.restore import RestoreOptions, RestoreResult, apply_restore, plan_restore
from stillframe.store.local import LocalStore
from stillframe.testing.job_runs import backup_paths, job_context, make_repository
from stillframe.testing.linux_disks import KERNEL, LinuxDisk, ids_of, make_linux_disk, mounted_linux, tree_of
from stillframe.testing.tools import run_tool

pytestmark = pytest.mark.root
INITRD = f"boot/initrd.img-{KERNEL}"
INTERFACES = "auto enp3s0\niface enp3s0 inet dhcp\n"
KEPT = "var/backups/stillframe"


def adapted(disk: LinuxDisk, target: Path) -> tuple[RestoreResult, list[Notice]]:
    notices: list[Notice] = []

    class Heard:
        def emit(self, event: Event) -> None:
            if isinstance(event, Notice):
                notices.append(event)

    repository = make_repository(LocalStore(str(target.with_suffix(".repository"))))
    manifest = backup_paths(repository, disk.path).manifest
    options = RestoreOptions(adapt=True)
    plan = plan_restore(repository, manifest, 1, str(target), repository_folder="", options=options)
    assert any("another computer" in step for step in plan.steps)
    return apply_restore(repository, plan, job_context(events=Heard())), notices


def make_old(folder: Path) -> LinuxDisk:
    """A system that names disks and cards as its old computer does."""
    disk = make_linux_disk(folder / "source", label="mbr")
    with mounted_linux(disk) as root:
        fstab = root / "etc/fstab"
        text = re.sub(r"^PARTUUID=\S+ / ", "/dev/sda4 / ", fstab.read_text())
        fstab.write_text(text + "/dev/sdb1 /data ext4 nofail 0 2\n/dev/sda3 none swap sw 0 0\n")
        menu = root / "boot/grub/grub.cfg"
        menu.write_text(re.sub(r"root=\S+", "root=/dev/sda4", menu.read_text()))
        (root / "etc/network").mkdir()
        (root / "etc/network/interfaces").write_text(INTERFACES)
        (root / "etc/udev/rules.d").mkdir(parents=True)
        (root / "etc/udev/rules.d/70-persistent-net.rules").write_text(
            'ATTR{address}=="52:54:00:12:34:56", NAME="lan"\n'
        )
    return disk


def test_drivers_cards_and_names_of_disks(tmp_path: Path) -> None:
    disk, target = make_old(tmp_path), tmp_path / "target"
    files, ids = tree_of(disk), ids_of(disk.path)
    result, notices = adapted(disk, target)
    assert notices == []
    assert not result.may_not_start
    assert ids_of(target) == ids, "its identity stays"
    changed = tree_of(disk, target)
    touched = {"etc/fstab", "boot/grub/grub.cfg", "etc/network/interfaces"}
    assert {name for name in files if name in changed and changed[name] != files[name]} == {*touched, INITRD}
    assert set(files) - set(changed) == {"etc/udev/rules.d/70-persistent-net.rules"}
    for name in (*touched, *(set(files) - set(changed))):
        assert changed[f"{KEPT}/{name}"] == files[name], "as it was"
    with mounted_linux(disk, target) as root:
        fstab = (root / "etc/fstab").read_text()
        assert fstab.startswith(f"UUID={ids['/']['UUID']} / ")
        assert f"UUID={ids['swap']['UUID']} none swap sw" in fstab
        assert "/dev/sdb1 /data " in fstab, "nobody knows what that is elsewhere"
        assert f" root=UUID={ids['/']['UUID']} " in (root / "boot/grub/grub.cfg").read_text()
        assert (root / "etc/network/interfaces").read_text() == "auto /e*/1=enp3s0\niface enp3s0 inet dhcp\n"
        assert b"MODULES=most\n" in gzip.decompress((root / INITRD).read_bytes())
        assert not (root / "etc/initramfs-tools/conf.d/zz-stillframe").exists()
        assert (root / KEPT / "etc/network/interfaces").stat().st_mode & 0o777 == 0o600
    assert any("the initramfs was made anew with all drivers" in words for words in result.changes)
    assert run_tool("mount").count(f"stillframe-{os.getpid()}-") == 0


@pytest.mark.slow
def test_a_failure_is_said_and_nothing_is_half_done(tmp_path: Path) -> None:
    disk = make_old(tmp_path)
    with mounted_linux(disk) as root:
        (root / "etc/fail").touch()
    files = tree_of(disk)
    result, notices = adapted(disk, tmp_path / "target")
    assert [notice.code for notice in notices] == ["linux-not-repaired"]
    assert "cannot find module virtio_blk" in notices[0].message
    assert result.may_not_start
    assert tree_of(disk, tmp_path / "target") == files
