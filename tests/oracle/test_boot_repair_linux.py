"""A Linux that does not start any more, repaired where it lies: judged by blkid, mtools, fsck, debugfs and ``cmp``."""

import filecmp
import gzip
import os
import re
import shutil
import uuid
from pathlib import Path

import pytest

from stillframe.jobs.mending.on_copy import MendWishes
from stillframe.jobs.saving.unlocking import Unlocking
from stillframe.testing.linux_disks import KERNEL, LinuxDisk, devices, ids_of, make_linux_disk, mounted_linux, tree_of
from stillframe.testing.linux_nested import NestedLinux, Stack, make_nested_linux, mounted_nested
from stillframe.testing.mended_disks import plan_of, repaired, undo_of, undone
from stillframe.testing.tools import run_tool
from stillframe.testing.volumes_luks import PASSPHRASE

pytestmark = pytest.mark.root
DEAD = "11111111-2222-4333-8444-555555555555"
DEAD_ROOT = "aaaaaaaa-2222-4333-8444-555555555555"
MIB = 1 << 20
BOOTED = {"/": 4, "/boot": 2}


def boot_menu(disk: LinuxDisk) -> None:
    """A menu with an entry, as distributions write it."""
    ids = ids_of(disk.path)
    with mounted_linux(disk) as root:
        (root / "boot/grub/grub.cfg").write_text(
            f"menuentry 'Little' {{\n search --no-floppy --fs-uuid --set=root {ids['/boot']['UUID']}\n"
            f" linux /vmlinuz-{KERNEL} root=PARTUUID={ids['/']['PARTUUID']}\n initrd /initrd.img-{KERNEL}\n}}\n"
        )


def replace_in(root: Path, name: str, *pairs: tuple[str, str]) -> None:
    text = (root / name).read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    (root / name).write_text(text)


@pytest.fixture(scope="module", name="little")
def made_little(tmp_path_factory: pytest.TempPathFactory) -> LinuxDisk:
    disk = make_linux_disk(tmp_path_factory.mktemp("little") / "source")
    boot_menu(disk)
    return disk


def copied(disk: LinuxDisk, folder: Path) -> LinuxDisk:
    shutil.copyfile(disk.path, folder / "disk")
    return LinuxDisk(path=folder / "disk", kind=disk.kind, numbers=disk.numbers)


def test_names_that_no_disk_has_are_put_right_wherever_they_are(little: LinuxDisk, tmp_path: Path) -> None:
    disk, ids = copied(little, tmp_path), ids_of(little.path)
    with mounted_linux(disk) as root:
        expected = (root / "etc/fstab").read_text(), (root / "boot/grub/grub.cfg").read_text()
        swap = ids["swap"]["UUID"]
        pairs = ((ids["/boot"]["UUID"], DEAD), (ids["/"]["PARTUUID"], DEAD_ROOT))
        replace_in(root, "etc/fstab", *pairs, (swap, DEAD.replace("1", "2")), (ids["/boot/efi"]["UUID"], "ABCD-1234"))
        replace_in(root, "boot/grub/grub.cfg", *pairs)
    before = tmp_path / "before"
    shutil.copyfile(disk.path, before)
    trees = tree_of(disk)
    plan, result = repaired(disk.path)
    assert len([words for words in plan.mended.broken if "which no disk here has" in words]) == 4
    assert not result.may_not_start
    assert not any(chain.fault for chain in result.chains)
    assert ids_of(disk.path) == ids
    with mounted_linux(disk) as root:
        assert ((root / "etc/fstab").read_text(), (root / "boot/grub/grub.cfg").read_text()) == expected
    changed = {name for name, digest in tree_of(disk).items() if trees.get(name) != digest}
    assert changed == {"etc/fstab", "boot/grub/grub.cfg"}
    with devices(disk.path) as device:
        for number in BOOTED.values():
            run_tool("e2fsck", "-fn", f"{device}p{number}")
    shutil.copyfile(before, disk.path)
    undo_of(disk.path).unlink()
    repaired(disk.path)
    undone(disk.path)
    assert filecmp.cmp(disk.path, before, shallow=False)


def test_names_of_other_lengths_and_of_devices(little: LinuxDisk, tmp_path: Path) -> None:
    disk, ids = copied(little, tmp_path), ids_of(little.path)
    with mounted_linux(disk) as root:
        replace_in(root, "etc/fstab", (f"PARTUUID={ids['/']['PARTUUID']} /", "LABEL=gone /"))
        replace_in(root, "boot/grub/grub.cfg", (f"root=PARTUUID={ids['/']['PARTUUID']}", "root=LABEL=gone"))
    repaired(disk.path)
    with mounted_linux(disk) as root:
        assert (root / "etc/fstab").read_text().startswith(f"UUID={ids['/']['UUID']} / ")
        assert f" root=UUID={ids['/']['UUID']}\n" in (root / "boot/grub/grub.cfg").read_text()
        assert "LABEL=gone /" in (root / "var/backups/stillframe/etc/fstab").read_text(), "as it was"


def test_an_initramfs_with_a_dead_id_is_made_anew(little: LinuxDisk, tmp_path: Path) -> None:
    disk, ids = copied(little, tmp_path), ids_of(little.path)
    swap, dead = ids["swap"]["UUID"], DEAD.replace("1", "3")
    with mounted_linux(disk) as root:
        for name in ("etc/fstab", "etc/initramfs-tools/conf.d/resume"):
            replace_in(root, name, (swap, dead))
        (root / f"boot/initrd.img-{KERNEL}").write_bytes(gzip.compress(f"RESUME=UUID={dead}\n".encode()))
    repaired(disk.path)
    with mounted_linux(disk) as root:
        assert f"RESUME=UUID={swap}".encode() in gzip.decompress((root / f"boot/initrd.img-{KERNEL}").read_bytes())


def test_what_nobody_can_tell_is_said_and_left(little: LinuxDisk, tmp_path: Path) -> None:
    disk = copied(little, tmp_path)
    with mounted_linux(disk) as root, (root / "etc/fstab").open("a") as file:
        file.write(f"UUID={DEAD} /data ext4 defaults 0 2\n")
    before = disk.path.read_bytes()
    plan = plan_of(disk.path)
    (notice,) = (one for one in plan.mended.notices if one.code == "linux-not-repaired")
    assert "/data" in notice.message
    assert DEAD in notice.message
    assert "nofail" in notice.hint
    assert not any("fstab" in words for words in plan.mended.changes)
    assert disk.path.read_bytes() == before


def test_a_name_that_another_disk_has_is_no_mistake(
    little: LinuxDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, ids = copied(little, tmp_path), ids_of(little.path)
    with mounted_linux(disk) as root:
        replace_in(root, "etc/fstab", (ids["swap"]["UUID"], DEAD))
    monkeypatch.setattr(
        "stillframe.jobs.mending.linux_names_on_bench.find_named",
        lambda name: ("/dev/other",) if name == f"UUID={DEAD}" else (),
    )
    assert not any("swap" in words for words in plan_of(disk.path).mended.broken)


def test_a_hibernated_linux_is_left_alone(little: LinuxDisk, tmp_path: Path) -> None:
    disk, ids = copied(little, tmp_path), ids_of(little.path)
    with mounted_linux(disk) as root:
        replace_in(root, "etc/fstab", (ids["/boot"]["UUID"], DEAD))
    with devices(disk.path) as device, open(f"{device}p3", "r+b") as file:
        file.seek(4096 - 10)
        file.write(b"S1SUSPEND\0")
    plan = plan_of(disk.path)
    assert plan.mended.changes == () or all("fstab" not in words for words in plan.mended.changes)
    (notice,) = (one for one in plan.mended.notices if "hibernated Linux" in one.message)
    assert "partition 3" in notice.message
    assert notice.hint
    assert {one.number for one in plan.places} <= {1}


def test_a_missing_fallback_is_made_and_a_disk_that_is_whole_is_not_touched(little: LinuxDisk, tmp_path: Path) -> None:
    disk = copied(little, tmp_path)
    plan, _ = repaired(disk.path)
    (broken,) = plan.mended.broken
    assert "where every firmware looks" in broken
    assert [one.number for one in plan.places] == [1]
    with devices(disk.path) as device:
        names = run_tool("mdir", "-b", "-/", "-i", f"{device}p1", "::/")
        run_tool("fsck.fat", "-n", f"{device}p1")
    assert "::/EFI/BOOT/BOOTX64.EFI" in names
    whole = disk.path.read_bytes()
    plan = plan_of(disk.path)
    assert len(plan.differences) == 0
    assert plan.mended.changes == ()
    assert disk.path.read_bytes() == whole


def test_a_lost_boot_sector_and_core_image_come_back(tmp_path: Path) -> None:
    disk = make_linux_disk(tmp_path / "disk", label="mbr")
    boot_menu(disk)
    run_tool("sfdisk", "--part-type", str(disk.path), "1", "c")
    plan, result = repaired(disk.path)
    assert any("BIOS" in words for words in plan.mended.broken)
    assert not result.may_not_start
    (way,) = (one for one in result.chains if one.firmware == "bios")
    assert way.system is not None
    sector = disk.path.read_bytes()[:512]
    boot = Path("/usr/lib/grub/i386-pc/boot.img").read_bytes()
    assert sector[:0x5C] == boot[:0x5C]
    assert sector[440:510] != bytes(70), "the table is whole"
    assert "type=c" in run_tool("sfdisk", "-d", str(disk.path))


@pytest.mark.variants(1)
@pytest.mark.parametrize("is_zeroed", [False, True], ids=["emptied", "all zeros"])
def test_an_emptied_esp_gets_a_loader_again(little: LinuxDisk, tmp_path: Path, *, is_zeroed: bool) -> None:
    disk, ids, before = copied(little, tmp_path), ids_of(little.path), tmp_path / "before"
    with devices(disk.path) as device:
        if is_zeroed:
            Path(f"{device}p1").write_bytes(bytes(36 * MIB))
        else:
            run_tool("mdeltree", "-i", f"{device}p1", "::/EFI")
    shutil.copyfile(disk.path, before)
    plan, result = repaired(disk.path)
    assert "by UEFI: nothing is there that starts a system" in plan.mended.broken
    assert not result.may_not_start
    assert ids_of(disk.path) == ids, "a new file system has the id by which the fstab mounts it"
    with devices(disk.path) as device:
        run_tool("fsck.fat", "-n", f"{device}p1")
        run_tool("e2fsck", "-fn", f"{device}p2")
        names = run_tool("mdir", "-b", "-/", "-i", f"{device}p1", "::/")
        run_tool("mcopy", "-n", "-i", f"{device}p1", "::/EFI/BOOT/BOOTX64.EFI", str(tmp_path / "program"))
    assert "::/EFI/BOOT/BOOTX64.EFI" in names
    assert "::/EFI/little/grubx64.efi" in names
    assert ids["/boot"]["UUID"].encode() in (tmp_path / "program").read_bytes()
    undone(disk.path)
    assert filecmp.cmp(disk.path, before, shallow=False)


def test_an_esp_with_something_else_in_it_is_not_made_anew(little: LinuxDisk, tmp_path: Path) -> None:
    disk = copied(little, tmp_path)
    with devices(disk.path) as device:
        Path(f"{device}p1").write_bytes(b"letters of a person".ljust(36 * MIB, b"\0"))
    plan = plan_of(disk.path)
    (notice,) = (one for one in plan.mended.notices if "not made anew" in one.message)
    assert "mkfs.fat" in notice.hint
    assert len(plan.differences) == 0
    assert plan.may_not_start


def renamed_boot(folder: Path, stack: Stack) -> tuple[NestedLinux, str]:
    """A Linux whose ``/boot`` has another id than its tables say, by tune2fs; and that id."""
    disk, new = make_nested_linux(folder / "disk", stack), str(uuid.uuid4())
    with devices(disk.path) as device:
        run_tool("e2fsck", "-fp", f"{device}p2", accept=(0, 1))
        run_tool("tune2fs", "-U", new, f"{device}p2")
    return disk, new


def boot_lines(disk: NestedLinux, work: Path) -> tuple[str, str]:
    """What the ``fstab`` and the boot menu say of ``/boot``."""
    work.mkdir()
    with mounted_nested(disk, disk.path, work) as root:
        fstab = next(line for line in (root / "etc/fstab").read_text().splitlines() if " /boot " in line)
        return fstab.split()[0], (root / "boot/grub/grub.cfg").read_text().split()[3]


@pytest.mark.variants(1)
@pytest.mark.parametrize("stack", ["lvm", "luks"])
def test_a_linux_in_lvm_or_in_luks_with_its_key(tmp_path: Path, stack: Stack) -> None:
    disk, new = renamed_boot(tmp_path, stack)
    (tmp_path / "key").write_text(f"{PASSPHRASE}\n")
    keys = Unlocking(files=(str(tmp_path / "key"),)) if stack == "luks" else None
    shutil.copyfile(disk.path, tmp_path / "before")
    plan, _ = repaired(disk.path, keys=keys)
    assert any("/boot is named" in words for words in plan.mended.broken)
    assert boot_lines(disk, tmp_path / "work") == (f"UUID={new}", new)
    undone(disk.path)
    assert filecmp.cmp(disk.path, tmp_path / "before", shallow=False)


def test_without_the_key_nothing_is_called_dead(tmp_path: Path) -> None:
    disk, _ = renamed_boot(tmp_path, "luks")
    plan = plan_of(disk.path)
    (notice,) = (one for one in plan.mended.notices if one.code == "volumes-not-opened")
    assert "--unlock" in notice.hint
    assert not any("is named" in words for words in plan.mended.broken)
    assert {one.number for one in plan.places} <= {1}


@pytest.mark.variants(1)
@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_other_file_systems(tmp_path: Path, kind: str) -> None:
    disk = make_linux_disk(tmp_path / "disk", kind)  # type: ignore[arg-type]
    boot_menu(disk)
    ids = ids_of(disk.path)
    with mounted_linux(disk) as root:
        text = (root / "etc/fstab").read_text()
        replace_in(root, "etc/fstab", (ids["/boot"]["UUID"], DEAD))
    repaired(disk.path)
    with mounted_linux(disk) as root:
        assert (root / "etc/fstab").read_text() == text


@pytest.mark.slow
def test_drivers_and_cards_only_when_it_is_asked_for(little: LinuxDisk, tmp_path: Path) -> None:
    disk = copied(little, tmp_path)
    cards = "auto enp3s0\niface enp3s0 inet dhcp\n"
    with mounted_linux(disk) as root:
        (root / "etc/network").mkdir()
        (root / "etc/network/interfaces").write_text(cards)
    before = tmp_path / "before"
    shutil.copyfile(disk.path, before)
    repaired(disk.path)
    with mounted_linux(disk) as root:
        assert (root / "etc/network/interfaces").read_text() == cards
    shutil.copyfile(before, disk.path)
    undo_of(disk.path).unlink()
    plan, _ = repaired(disk.path, wishes=MendWishes(adapt=True))
    assert any("the initramfs was made anew with all drivers" in words for words in plan.mended.changes)
    undone(disk.path)
    assert filecmp.cmp(disk.path, before, shallow=False)
    undo_of(disk.path).unlink()
    repaired(disk.path, wishes=MendWishes(adapt=True))
    with mounted_linux(disk) as root:
        assert "/e*/1=enp3s0" in (root / "etc/network/interfaces").read_text()
        assert b"MODULES=most\n" in gzip.decompress((root / f"boot/initrd.img-{KERNEL}").read_bytes())


def test_nothing_of_ours_is_left_mounted(little: LinuxDisk, tmp_path: Path) -> None:
    disk = copied(little, tmp_path)
    repaired(disk.path)
    assert not re.search(rf"stillframe-{os.getpid()}-", run_tool("mount"))
    assert str(disk.path) not in run_tool("losetup", "--list", "--output", "BACK-FILE")
