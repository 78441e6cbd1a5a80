"""FAT and exFAT made anew at another size: filled by the kernel of a Debian, judged by it and by its checkers."""

from pathlib import Path

import pytest

from stillframe.jobs.restore import RestoreOptions
from stillframe.store import LocalStore
from stillframe.testing.debian_guest import make_disk, run_job
from stillframe.testing.job_runs import backup_paths, make_repository, restore
from stillframe.testing.tools import run_tool
from stillframe.testing.virtual_machine import Drive

pytestmark = [pytest.mark.root, pytest.mark.vm]
MIB = 1 << 20
SIZES = {"fat16": (60, 40), "fat32": (120, 70), "exfat": (80, 50), "large": (40, 90)}
MAKERS = {
    "fat16": ("mkfs.fat", "-F", "16"), "fat32": ("mkfs.fat", "-F", "32", "-s", "1"), "exfat": ("mkfs.exfat",),
    "large": ("mkfs.exfat", "-c", "32K"),
}  # fmt: skip
MAKE = """
modprobe vfat; modprobe exfat; modprobe nls_utf8 || true
for name in fat16 fat32 exfat large; do
    mkdir -p /mnt/v; mount -o iocharset=utf8 /dev/disk/by-id/virtio-$name /mnt/v
    mkdir -p "/mnt/v/a long name of a folder/inner"
    cd "/mnt/v/a long name of a folder"
    for i in $(seq 1 90); do head -c $((i * 701 + 13)) /dev/urandom > "$i größe 文.bin"; done
    for i in $(seq 2 3 90); do rm "$i größe 文.bin"; done
    cd /
    for i in $(seq 1 40); do for n in one two; do head -c 20001 /dev/urandom >> /mnt/v/$n; done; done
    touch -d '2003-04-05 06:07:08' /mnt/v/one; chmod a-w /mnt/v/two
    (cd /mnt/v && find . -type f ! -name sums -print0 | xargs -0 sha256sum > sums)
    umount /mnt/v
done
"""
JUDGE = """
modprobe vfat; modprobe exfat
for name in fat16 fat32 exfat large; do
    mkdir -p /mnt/v /mnt/w
    mount -o ro,iocharset=utf8 /dev/disk/by-id/virtio-$name /mnt/v
    mount -o ro,iocharset=utf8 /dev/disk/by-id/virtio-new$name /mnt/w
    (cd /mnt/w && sha256sum -c --quiet sums)
    for place in v w; do
        cd /mnt/$place
        find . -mindepth 1 -type f -printf '%p %s %T+ %m\\n' -o -mindepth 1 -printf '%p %T+ %m\\n' | sort > /tmp/$place
        cd /
    done
    cmp /tmp/v /tmp/w; test $(wc -l < /tmp/v) -gt 60
    umount /mnt/v
    umount /mnt/w; mount -o iocharset=utf8 /dev/disk/by-id/virtio-new$name /mnt/w
    head -c 3000000 /dev/urandom > /mnt/w/more; sync; echo 3 > /proc/sys/vm/drop_caches
    (cd /mnt/w && sha256sum -c --quiet sums)
    umount /mnt/w
done
"""


def test_the_kernel_finds_the_same_files_and_writes_more(tmp_path: Path) -> None:
    disks = {name: make_disk(tmp_path / f"{name}.img", size * MIB) for name, (size, _) in SIZES.items()}
    for name, disk in disks.items():
        run_tool(*MAKERS[name], str(disk))
    (tmp_path / "make").mkdir()
    drives = [Drive(file=disk, serial=name) for name, disk in disks.items()]
    made = run_job(tmp_path / "make", MAKE, drives, limit_s=1200)
    assert made.code == 0, made.output
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    for name, disk in disks.items():
        manifest = backup_paths(repository, disk).manifest
        target = make_disk(tmp_path / f"new{name}.img", SIZES[name][1] * MIB)
        restore(repository, manifest, target, options=RestoreOptions(partition=1, fit=True))
        drives.append(Drive(file=target, serial=f"new{name}"))
    (tmp_path / "judge").mkdir()
    judged = run_job(tmp_path / "judge", JUDGE, drives, limit_s=1200)
    assert judged.code == 0, judged.output
    for name in SIZES:
        checker = ("fsck.exfat", "-n") if "exfat" in MAKERS[name][0] else ("fsck.fat", "-n")
        run_tool(*checker, str(tmp_path / f"new{name}.img"))
