"""Debian systems that do not start any more, and start again after a boot repair; a firmware that forgot its entry."""

import filecmp
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest

from stillframe.testing.debian_disk import SWITCH_OFF_UNIT, make_debian_for, partitions
from stillframe.testing.debian_guest import make_disk, run_job
from stillframe.testing.mended_disks import repaired, undone
from stillframe.testing.tools import run_tool, unmount
from stillframe.testing.virtual_machine import Drive, Machine

pytestmark = [pytest.mark.root, pytest.mark.vm]
LIMIT_S = 900
DEAD_S = 90
"""So long a disk that does not start is watched: by then one that does has printed the first lines of its kernel."""
ROOTS = {"bios": 1, "uefi": 2}
Firmware = Literal["bios", "uefi"]
JOB = r"""
disk() { readlink -f /dev/disk/by-id/virtio-$1; }
mkfs.ext4 -q $(disk keep); mount $(disk keep) /mnt; cd /mnt
mkdir /job/place; mount -o ro $(disk debian)2 /job/place
code=0
stillframe boot-repair $(disk debian) --yes --keep-undo /mnt/refused 2> /job/mounted || code=$?
echo $code > /job/mounted.code
umount /job/place
sha256sum < $(disk debian) > /job/sum.before
efibootmgr -v > /job/entries.before
code=0
stillframe boot-repair $(disk debian) --yes --keep-undo /mnt/undo --json > /job/done || code=$?
echo $code > /job/done.code
efibootmgr -v > /job/entries.after
code=0
stillframe boot-repair $(disk debian) --undo /mnt/undo --yes > /job/undone 2>&1 || code=$?
echo $code > /job/undone.code
sha256sum < $(disk debian) > /job/sum.after
"""


@contextmanager
def root_of(disk: Path, firmware: Firmware) -> Iterator[Path]:
    place = disk.with_suffix(".place")
    place.mkdir(exist_ok=True)
    with partitions(disk) as device:
        run_tool("mount", f"{device}p{ROOTS[firmware]}", str(place))
        try:
            yield place
        finally:
            unmount(place)


@pytest.fixture(scope="module")
def debians(tmp_path_factory: pytest.TempPathFactory) -> dict[Firmware, Path]:
    """One by BIOS, with an MBR; one by UEFI, with a GPT. Each leaves a file when it has started, and switches off."""
    made = dict[Firmware, Path]()
    for firmware in ("bios", "uefi"):
        disk = make_debian_for(firmware, tmp_path_factory.mktemp("repair") / f"{firmware}.img")
        with root_of(disk, firmware) as root:
            (root / "etc/systemd/system/off.service").write_text(SWITCH_OFF_UNIT)
            run_tool("systemctl", f"--root={root}", "enable", "off.service")
        made[firmware] = disk
    return made


def zero_boot_code(disk: Path) -> None:
    with disk.open("r+b") as file:
        file.write(bytes(440))


def zero_boot_code_and_core(disk: Path) -> None:
    zero_boot_code(disk)
    with disk.open("r+b") as file:
        file.seek(512)
        file.write(bytes((1 << 20) - 512))


def empty_esp(disk: Path) -> None:
    with partitions(disk) as device:
        run_tool("mdeltree", "-i", f"{device}p1", "::/EFI")


def zero_esp(disk: Path) -> None:
    with partitions(disk) as device:
        Path(f"{device}p1").write_bytes(bytes(48 << 20))


def lose_fallback(disk: Path) -> None:
    """The loader in a folder of its own, which only an entry of the firmware names."""
    with partitions(disk) as device:
        run_tool("mmd", "-i", f"{device}p1", "::/EFI/debian")
        run_tool("mmove", "-i", f"{device}p1", "::/EFI/BOOT/BOOTX64.EFI", "::/EFI/debian/grubx64.efi")


def lose_root(disk: Path) -> None:
    """Another id of the root's partition, as after a table that was made anew: nothing names the root any more."""
    run_tool("sfdisk", "--part-uuid", str(disk), "2", "11111111-2222-4333-8444-555555555555")


CASES = {
    "bios, no boot code": ("bios", zero_boot_code),
    "bios, no boot code and no GRUB": ("bios", zero_boot_code_and_core),
    "uefi, ESP emptied": ("uefi", empty_esp),
    "uefi, ESP all zeros": ("uefi", zero_esp),
    "uefi, fallback lost": ("uefi", lose_fallback),
    "uefi, root has another PARTUUID": ("uefi", lose_root),
}


def start(disk: Path, firmware: Firmware, folder: Path, *, limit_s: float) -> tuple[bool, str]:
    """Whether a disk started to its end, and what it wrote to its serial line."""
    folder.mkdir()
    machine = Machine(folder=folder, drives=[Drive(file=disk)], uefi=firmware == "uefi")
    try:
        machine.run(limit_s=limit_s)
    except AssertionError as error:
        if "did not end" not in str(error):
            raise
    with root_of(disk, firmware) as root:
        return (root / "started").exists(), machine.log.read_text(errors="replace")


@pytest.mark.parametrize("name", CASES)
def test_it_does_not_start_before_and_starts_after(name: str, debians: dict[Firmware, Path], tmp_path: Path) -> None:
    firmware, break_it = CASES[name]
    disk, broken = tmp_path / "disk.img", tmp_path / "broken.img"
    run_tool("cp", "--sparse=always", str(debians[firmware]), str(disk))  # type: ignore[index]
    break_it(disk)
    run_tool("cp", "--sparse=always", str(disk), str(broken))
    has_started, said = start(broken, firmware, tmp_path / "before", limit_s=DEAD_S)  # type: ignore[arg-type]
    assert not has_started
    assert ("Linux version" in said) == (break_it is lose_root), "without a loader, not even a kernel"
    run_tool("cp", "--sparse=always", str(disk), str(broken))  # a kernel without its root writes nothing; be sure
    plan, result = repaired(disk)
    assert plan.mended.broken
    assert not result.may_not_start
    undone(disk)
    assert filecmp.cmp(disk, broken, shallow=False)
    (tmp_path / "disk.img.undo").unlink()
    repaired(disk)
    has_started, said = start(disk, firmware, tmp_path / "after", limit_s=LIMIT_S)  # type: ignore[arg-type]
    assert has_started, said[-3000:]
    assert "Linux version" in said


def test_a_firmware_that_forgot_its_entry_is_told_again(debians: dict[Firmware, Path], tmp_path: Path) -> None:
    """In a guest that started by UEFI: on a real block device, mounted first, and undone in the end."""
    disk = tmp_path / "disk.img"
    shutil.copyfile(debians["uefi"], disk)
    lose_fallback(disk)
    drives = [Drive(file=disk, serial="debian"), Drive(file=make_disk(tmp_path / "keep.img", 64 << 20), serial="keep")]
    (tmp_path / "work").mkdir()
    done = run_job(tmp_path / "work", JOB, drives, limit_s=1800, uefi=True)
    assert done.code == 0, done.output
    seen = done.folder
    assert (seen / "mounted.code").read_text().strip() == "22"
    assert "mounted at /job/place" in (seen / "mounted").read_text()
    assert (seen / "done.code").read_text().strip() == "0"
    result = json.loads((seen / "done").read_text().splitlines()[-1])
    assert any("starts before all others" in change for change in result["changes"])
    entries = {name: set(re.findall(r"(?m)^Boot[0-9A-F]{4}\*? .*", (seen / f"entries.{name}").read_text()))
               for name in ("before", "after")}  # fmt: skip
    (new,) = entries["after"] - entries["before"]
    assert r"\efi\debian\grubx64.efi" in new.lower()
    assert (seen / "undone.code").read_text().strip() == "0", (seen / "undone").read_text()
    assert (seen / "sum.after").read_text() == (seen / "sum.before").read_text()
