"""Arrays of the kernel's md, groups and encrypted volumes of its device mapper: they are read here, and come back."""

import subprocess
from pathlib import Path

import pytest

from stillframe.testing.command_line import call
from stillframe.testing.debian_guest import make_disk, run_job
from stillframe.testing.virtual_machine import Drive
from stillframe.testing.volumes_luks import PASSPHRASE

pytestmark = [pytest.mark.root, pytest.mark.vm]
MIB = 1 << 20
SERIALS = ("m0", "m1", "o0", "o1", "single", "p0", "p1")
TOOLS = """
disk() { echo /dev/disk/by-id/virtio-$1; }
fill() {
    mkfs.ext4 -q -F -L "$2" "$1"; mkdir -p /mnt/v; mount "$1" /mnt/v; mkdir /mnt/v/d
    for i in $(seq 1 40); do head -c $((i * 7001 + 13)) /dev/urandom > /mnt/v/d/$i; done
    rm /mnt/v/d/7 /mnt/v/d/21; (cd /mnt/v && sha256sum d/* > sums); umount /mnt/v
}
"""
MAKE = """
mdadm -C /dev/md1 --run -l1 -n2 --metadata=1.2 $(disk m0) $(disk m1) < /dev/null
mdadm -C /dev/md2 --run -l1 -n2 --metadata=0.90 $(disk o0) $(disk o1) < /dev/null
fill /dev/md1 new; fill /dev/md2 old
mdadm --wait /dev/md1 /dev/md2 || true
mdadm --stop /dev/md1; mdadm --stop /dev/md2
pvcreate -y $(disk single) $(disk p0) $(disk p1)
vgcreate -s 1m one $(disk single); vgcreate -s 1m two $(disk p0) $(disk p1)
lvcreate -y -L 20m -n root one; lvcreate -y -L 16m -n home one; lvextend -L 30m one/root
fill /dev/one/root root; fill /dev/one/home home
lvcreate -y -i2 -I 64k -L 40m -n rows two; fill /dev/two/rows rows
lvcreate -y -L 8m -n origin two; lvcreate -y -s -L 4m -n snap two/origin
vgchange -an one two
"""
JUDGE = """
vgchange -ay one; vgck one; mkdir -p /mnt/v
for name in root home; do
    e2fsck -fn /dev/one/$name; mount -o ro /dev/one/$name /mnt/v
    (cd /mnt/v && sha256sum -c --quiet sums); umount /mnt/v
done
vgchange -an one
"""


def test_files_of_arrays_and_groups_that_a_kernel_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disks = {serial: make_disk(tmp_path / f"{serial}.img", 64 * MIB) for serial in SERIALS}
    drives = [Drive(file=disk, serial=serial) for serial, disk in disks.items()]
    (tmp_path / "make").mkdir()
    made = run_job(tmp_path / "make", TOOLS + MAKE, drives, limit_s=900)
    assert made.code == 0, made.output

    monkeypatch.setenv("STILLFRAME_REPO", str(tmp_path / "repo"))
    assert call("init", tmp_path / "repo", "--encryption", "none").exit_code == 0
    assert call("backup", *disks.values(), "--name", "all").exit_code == 0
    names = [("", 1), ("", 2), ("", 3), ("", 4), ("root", 5), ("home", 5), ("rows", 6), ("rows", 7)]
    for name, number in names:
        out = tmp_path / f"out-{name}{number}"
        assert call("get", f"latest:1@{name}", out, "--disk", number).exit_code == 0
        subprocess.run(["sha256sum", "-c", "--quiet", "sums"], cwd=out, check=True)
    volumes = call("ls", "latest", "--disk", 6, "--json").result["partitions"][0]["volumes"]
    assert {one["name"]: bool(one["refused"]) for one in volumes} == {"rows": False, "origin": False, "snap": True}

    saved = call("backup", disks["single"], "--name", "one", "--json").result
    assert [one["map"] for one in saved["volumes"]] == ["used"]
    target = tmp_path / "target.img"
    target.write_bytes(b"\xee" * (64 * MIB))
    assert call("restore", "latest:one", target, "--yes").exit_code == 0
    (tmp_path / "judge").mkdir()
    judged = run_job(tmp_path / "judge", JUDGE, [Drive(file=target, serial="single")], limit_s=900)
    assert judged.code == 0, judged.output


MAKE_LOCKED = """
echo -n {secret} > /tmp/key; disk=$(disk locked)
sgdisk -n1:0:+90M -n2:0:+60M -n3:0:+90M $disk; udevadm settle
cheap="--pbkdf-memory 65536 --pbkdf-force-iterations 4"; slow="--pbkdf-force-iterations 2000"
cryptsetup -q luksFormat --type luks2 --sector-size 4096 $cheap $disk-part1 /tmp/key
cryptsetup -q luksFormat --type luks1 --cipher aes-cbc-essiv:sha256 --key-size 256 $slow $disk-part2 /tmp/key
cryptsetup -q luksFormat --type luks2 $cheap $disk-part3 /tmp/key
for n in 1 2 3; do cryptsetup open --key-file /tmp/key $disk-part$n open$n; done
fill /dev/mapper/open1 first; fill /dev/mapper/open2 second
pvcreate -y /dev/mapper/open3; vgcreate -s 1m vault /dev/mapper/open3
lvcreate -y -L 20m -n root vault; lvcreate -y -L 16m -n home vault; lvextend -L 30m vault/root
lvcreate -y -L 8m -n swap vault; mkswap /dev/vault/swap
fill /dev/vault/root root; fill /dev/vault/home home
vgchange -an vault; for n in 1 2 3; do cryptsetup close open$n; done
"""
JUDGE_LOCKED = """
echo -n {secret} > /tmp/key; disk=$(disk locked); mkdir -p /mnt/v
for n in 1 2 3; do cryptsetup open --key-file /tmp/key $disk-part$n open$n; done
vgchange -ay vault; vgck vault; udevadm settle
for device in /dev/mapper/open1 /dev/mapper/open2 /dev/vault/root /dev/vault/home; do
    e2fsck -fn $device; mount -o ro $device /mnt/v
    (cd /mnt/v && sha256sum -c --quiet sums); umount /mnt/v
done
swapon /dev/vault/swap; swapoff /dev/vault/swap
vgchange -an vault; for n in 1 2 3; do cryptsetup close open$n; done
"""


def test_encrypted_volumes_that_a_kernel_filled_come_back_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, key = make_disk(tmp_path / "locked.img", 256 * MIB), tmp_path / "key"
    key.write_text(PASSPHRASE)
    (tmp_path / "make").mkdir()
    script = TOOLS + MAKE_LOCKED.replace("{secret}", f"'{PASSPHRASE}'")
    made = run_job(tmp_path / "make", script, [Drive(file=disk, serial="locked")], limit_s=1800)
    assert made.code == 0, made.output

    monkeypatch.setenv("STILLFRAME_REPO", str(tmp_path / "repo"))
    assert call("init", tmp_path / "repo", "--encryption", "none").exit_code == 0
    saved = call("backup", disk, "--unlock-file", key, "--json").result
    assert [one["map"] for one in saved["volumes"]] == ["used"] * 3
    assert saved["bytes_used"] < 150 * MIB  # of 256; headers are 16, 2 and 16
    target = tmp_path / "target.img"
    target.write_bytes(b"\xee" * (256 * MIB))
    assert call("restore", "latest", target, "--yes").exit_code == 0
    (tmp_path / "judge").mkdir()
    script = TOOLS + JUDGE_LOCKED.replace("{secret}", f"'{PASSPHRASE}'")
    judged = run_job(tmp_path / "judge", script, [Drive(file=target, serial="locked")], limit_s=1800)
    assert judged.code == 0, judged.output
