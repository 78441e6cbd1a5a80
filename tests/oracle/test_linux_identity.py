"""A Linux restored under new ids: read with blkid, mount, mtools and zcat, every place says what the volumes are."""

import gzip
import re
import struct
from pathlib import Path
from random import Random

import pytest

from stillframe.events import Event, Notice
from stillframe.jobs.restore import RestoreOptions, RestoreResult, apply_restore, plan_restore
from stillframe.store.local import LocalStore
from stillframe.testing.job_runs import backup_paths, job_context, make_repository
from stillframe.testing.linux_disks import (
    KERNEL,
    MIB,
    LinuxDisk,
    RootKind,
    devices,
    ids_of,
    make_linux_disk,
    mounted_linux,
    tree_of,
)
from stillframe.testing.tools import run_tool
from stillframe.testing.volumes_linux import build_luks

pytestmark = pytest.mark.root
WRITTEN = ("etc/fstab", "etc/default/grub", "etc/initramfs-tools/conf.d/resume", "boot/grub/grub.cfg")
INITRD = f"boot/initrd.img-{KERNEL}"


class Heard:
    """Notices that a job gave."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []

    def emit(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.notices.append(event)

    @property
    def codes(self) -> list[str]:
        return [notice.code for notice in self.notices]


def restored(disk: LinuxDisk, target: Path, *, adapt: bool = False, renew: bool = True) -> tuple[RestoreResult, Heard]:
    repository = make_repository(LocalStore(str(target.with_suffix(".repository"))))
    manifest = backup_paths(repository, disk.path).manifest
    options = RestoreOptions(new_identity=renew, adapt=adapt)
    plan = plan_restore(repository, manifest, 1, str(target), repository_folder="", options=options)
    heard = Heard()
    return apply_restore(repository, plan, job_context(events=heard)), heard


def esp_file(path: Path, name: str) -> bytes:
    with devices(path) as device:
        return run_tool("mtype", "-i", f"{device}p1", f"::{name}").encode()


def check_volumes(path: Path, kind: RootKind) -> None:
    """The checkers of the file systems themselves find nothing."""
    with devices(path) as device:
        run_tool("fsck.fat", "-n", f"{device}p1")
        run_tool("e2fsck", "-fn", f"{device}p2")
        checkers = {"ext4": ("e2fsck", "-fn"), "xfs": ("xfs_repair", "-n"), "btrfs": ("btrfs", "check")}
        run_tool(*checkers[kind], f"{device}p4")


@pytest.mark.parametrize(
    ("kind", "label"),
    [
        ("ext4", "gpt"),
        pytest.param("ext4", "mbr", marks=pytest.mark.slow),
        pytest.param("xfs", "gpt", marks=pytest.mark.slow),
        pytest.param("btrfs", "gpt", marks=pytest.mark.slow),
    ],
)
def test_every_id_is_another_and_every_place_says_so(tmp_path: Path, kind: RootKind, label: str) -> None:
    disk = make_linux_disk(tmp_path / "source", kind, label="gpt" if label == "gpt" else "mbr")
    old, files, target = ids_of(disk.path), tree_of(disk), tmp_path / "target"
    result, heard = restored(disk, target)
    new = ids_of(target)
    before = {value for ids in old.values() for value in ids.values()}
    after = {value for ids in new.values() for value in ids.values()}
    assert len(after) == 8
    assert not before & after
    check_volumes(target, kind)
    spellings = [(old[name][tag], new[name][tag]) for name in old for tag in old[name]]

    def renewed(text: str) -> str:
        for one, other in spellings:
            text = text.replace(one, other).replace(one.upper(), other.upper())
        return text

    with mounted_linux(disk) as root:
        texts = {name: (root / name).read_text() for name in WRITTEN}
    with mounted_linux(disk, target) as root:
        for name, text in texts.items():
            assert (root / name).read_text() == renewed(text) != text, name
        packed = gzip.decompress((root / INITRD).read_bytes()).decode()
        assert f"RESUME=UUID={new['swap']['UUID']}\n" in packed
        assert not any(value in packed for value in before)
    changed = tree_of(disk, target)
    assert {name for name in files if changed[name] != files[name]} == {*WRITTEN, INITRD}
    assert set(changed) == set(files)
    early = esp_file(disk.path, "/EFI/debian/grub.cfg").decode()
    assert esp_file(target, "/EFI/debian/grub.cfg").decode() == renewed(early) != early
    assert new["/boot"]["UUID"].encode() in esp_file(target, "/EFI/debian/grubx64.efi")
    assert esp_file(target, "/EFI/BOOT/BOOTX64.EFI") == esp_file(target, "/EFI/debian/grubx64.efi")
    assert not result.may_not_start
    assert heard.codes == []
    assert any("/etc/fstab of Little Linux 1 has the new ids (4)" in words for words in result.changes)


@pytest.mark.slow
def test_without_a_wish_nothing_is_changed(tmp_path: Path) -> None:
    disk = make_linux_disk(tmp_path / "source")
    result, _ = restored(disk, tmp_path / "target", renew=False)
    assert result.changes == ()
    assert tree_of(disk, tmp_path / "target") == tree_of(disk)
    assert ids_of(tmp_path / "target") == ids_of(disk.path)


def break_program(root: Path) -> None:
    (root / "etc/fail").touch()


def break_machine(root: Path) -> None:
    shell = root / "bin/sh"
    raw = bytearray(shell.read_bytes())
    raw[18:20] = struct.pack("<H", 183)  # EM_AARCH64
    shell.write_bytes(raw)


def break_room(root: Path) -> None:
    (root / "etc/ballast").write_bytes(Random(1).randbytes(30 * MIB))  # does not shrink, and is more than /boot has


@pytest.mark.parametrize(
    ("breaks", "words"),
    [
        (break_program, "cannot find module virtio_blk"),
        pytest.param(break_machine, "another kind of processor", marks=pytest.mark.slow),
        pytest.param(break_room, "update-initramfs of the restored system failed", marks=pytest.mark.slow),
    ],
)
def test_when_the_initramfs_cannot_be_made_file_systems_keep_their_ids(
    tmp_path: Path, breaks: object, words: str
) -> None:
    disk = make_linux_disk(tmp_path / "source")
    with mounted_linux(disk) as root:
        assert callable(breaks)
        breaks(root)
    old, files, target = ids_of(disk.path), tree_of(disk), tmp_path / "target"
    result, heard = restored(disk, target)
    new = ids_of(target)
    assert heard.codes == ["uuids-kept"]
    assert words in heard.notices[0].message
    assert {name: ids["UUID"] for name, ids in new.items()} == {name: ids["UUID"] for name, ids in old.items()}
    assert new["/"]["PARTUUID"] != old["/"]["PARTUUID"]
    assert not result.may_not_start, "the ids of its table were written: it starts"
    changed = tree_of(disk, target)
    assert {name for name in files if changed[name] != files[name]} == {"etc/fstab", "boot/grub/grub.cfg"}
    with mounted_linux(disk, target) as root:
        assert (root / "etc/fstab").read_text().startswith(f"PARTUUID={new['/']['PARTUUID']} / ")
        menu = (root / "boot/grub/grub.cfg").read_text()
    assert re.findall("root=PARTUUID=(\\S+)", menu) == [new["/"]["PARTUUID"].upper()]
    check_volumes(target, "ext4")


@pytest.mark.slow
def test_a_boot_partition_that_is_not_on_the_disk_is_named(tmp_path: Path) -> None:
    disk = make_linux_disk(tmp_path / "source")
    gone = "00000000-1111-4222-8333-444444444444"
    with mounted_linux(disk) as root:
        fstab = root / "etc/fstab"
        fstab.write_text(re.sub(r"/dev/disk/by-uuid/\S+", f"UUID={gone}", fstab.read_text()))
    files, target = tree_of(disk), tmp_path / "target"
    result, heard = restored(disk, target)
    assert heard.codes == ["uuids-kept", "linux-not-repaired"]
    assert f"/boot of the Linux on partition 4 is UUID={gone}, which is not on this disk" in heard.notices[1].message
    assert result.may_not_start
    assert tree_of(disk, target) == files, "all of it or nothing"


@pytest.mark.slow
def test_a_signed_loader_with_an_id_is_never_touched(tmp_path: Path) -> None:
    disk = make_linux_disk(tmp_path / "source")
    boot = ids_of(disk.path)["/boot"]["UUID"]
    program = bytearray(4096)
    program[:2], program[0x3C:0x40], program[0x80:0x84] = b"MZ", struct.pack("<I", 0x80), b"PE\0\0"
    program[0x98:0x9A] = b"\x0b\x02"  # PE32+
    struct.pack_into("<II", program, 0x98 + 112 + 8 * 4, 3000, 520)  # its certificates, one of 512 bytes
    program[1000:1036] = boot.encode()
    signed = tmp_path / "signed.efi"
    signed.write_bytes(program)
    with devices(disk.path) as device:
        run_tool("mcopy", "-o", "-i", f"{device}p1", str(signed), "::/EFI/debian/grubx64.efi")
    result, heard = restored(disk, tmp_path / "target")
    assert heard.codes == ["uuids-kept"]
    assert "under its signature" in heard.notices[0].message
    assert ids_of(tmp_path / "target")["/boot"]["UUID"] == boot
    assert not result.may_not_start


@pytest.mark.slow
def test_where_something_cannot_be_opened_file_systems_keep_their_ids(tmp_path: Path) -> None:
    """A Linux in it may name them."""
    disk = make_linux_disk(tmp_path / "source")
    with devices(disk.path) as device, Path(f"{device}p3").open("r+b") as swap:
        swap.write(build_luks(2))
    old = ids_of(disk.path)
    result, heard = restored(disk, tmp_path / "target")
    new = ids_of(tmp_path / "target")
    assert heard.codes == ["uuids-kept"]
    assert "not opened: partition 3 (crypto_LUKS)" in heard.notices[0].message
    assert {ids["UUID"] for ids in new.values()} == {ids["UUID"] for ids in old.values()}
    assert not result.may_not_start
    with mounted_linux(disk, tmp_path / "target") as root:
        assert (root / "etc/fstab").read_text().startswith(f"PARTUUID={new['/']['PARTUUID']} / ")
