"""The entries of the menu on the medium itself: back up, files out, health, clone; one start by BIOS, one person.

Keys and words go over the serial line as a person types them. The owner's disk is only read: it is compared at the end.
"""

import filecmp
from dataclasses import dataclass
from pathlib import Path

import pytest

from stillframe.extents import Extent
from stillframe.testing import volumes_windows
from stillframe.testing.command_line import call
from stillframe.testing.debian_guest import cache, make_disk
from stillframe.testing.disks_partitioned import see_table
from stillframe.testing.medium_machine import MediumMachine, start_medium
from stillframe.testing.real_disks import copy_into, extract, mounted_kernel
from stillframe.testing.serial_screens import Watcher
from stillframe.testing.tools import run_tool
from stillframe.testing.virtual_machine import Drive
from stillframe.testing.volumes_windows import fill_tree, hash_tree, mounted_exfat, mounted_ntfs

pytestmark = [pytest.mark.root, pytest.mark.vm]
MIB = 1 << 20
LIMIT_S = 1200
PASSPHRASE = "four words on paper"  # noqa: S105 - of a test
PLACES = (Extent(MIB, 97 * MIB), Extent(97 * MIB, 193 * MIB))
SIZE = 200 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Computer:
    """Its own disk and what is plugged in; and what is in its files, by partition."""

    own: Path
    before: Path
    backup: Path
    files: Path
    empty: Path
    hashes: tuple[dict[str, str], dict[str, str]]


def own_disk(folder: Path) -> tuple[Path, tuple[dict[str, str], dict[str, str]]]:
    """An ext4 called linux and an NTFS called windows."""
    disk, one, other = make_disk(folder / "own.img", SIZE), folder / "one", folder / "other"
    run_tool("sgdisk", "-n1:1M:+96M", "-n2:97M:+96M", "-t2:0700", str(disk))
    make_disk(one, PLACES[0].size)
    run_tool("mkfs.ext4", "-q", "-L", "linux", str(one))
    with mounted_kernel(one, folder / "mount-one") as root:
        (root / "letters").mkdir()
        fill_tree(root / "letters", seed=1, size=20 * MIB)
        first = hash_tree(root / "letters")
    volumes_windows.make_ntfs(other, size=PLACES[1].size, label="windows")
    with mounted_ntfs(other, folder / "mount-other") as root:
        fill_tree(root, seed=2, size=20 * MIB)
        second = hash_tree(root)
    for image, place in zip((one, other), PLACES, strict=True):
        copy_into(image, disk, place.start)
    return disk, (first, second)


def plugged(folder: Path, name: str, size: int) -> Path:
    """A USB disk with one exFAT."""
    disk, volume = make_disk(folder / f"{name.lower()}.img", size), folder / f"{name}.volume"
    run_tool("sgdisk", "-n1:1M:0", "-t1:0700", str(disk))
    make_disk(volume, size - 2 * MIB)
    run_tool("mkfs.exfat", "-L", name, str(volume))
    copy_into(volume, disk, MIB)
    return disk


def volume_of(disk: Path, folder: Path) -> Path:
    """The exFAT of such a disk."""
    return extract(disk, Extent(MIB, disk.stat().st_size - MIB), folder / f"{disk.stem}.volume")


@pytest.fixture
def computer(tmp_path: Path) -> Computer:
    own, hashes = own_disk(tmp_path)
    before = tmp_path / "before.img"
    run_tool("cp", "--sparse=always", str(own), str(before))
    return Computer(
        own=own, before=before, hashes=hashes, backup=plugged(tmp_path, "BACKUP", 768 * MIB),
        files=plugged(tmp_path, "FILES", 256 * MIB), empty=make_disk(tmp_path / "empty.img", SIZE),
    )  # fmt: skip


@pytest.fixture
def iso(tmp_path: Path) -> Path:
    path = tmp_path / "rescue.iso"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STILLFRAME_CACHE_DIR", str(cache() / "media"))
        outcome = call("rescue", "build", path, "--serial", "--yes")
    assert outcome.exit_code == 0, outcome.output[-3000:]
    return path


def back_up(person: Watcher) -> None:
    person.choose("Nothing is changed on any disk", "Back up this computer")
    person.choose("The disks that are saved are only read", "Choose other disks")
    person.choose("What is saved|A disk that is saved is only read", "serial own")
    person.choose("serial own.*(.|\n)*To: +BACKUP", "Save all of it")
    person.choose("Protect the backups|New backups begin", "Protect them")
    person.write("A passphrase|Choose several words", PASSPHRASE)
    person.write("The same once more|To be sure", PASSPHRASE)
    assert "SF1-" in person.go_on("Write this key down|This is the recovery key")
    person.choose("This is going to be saved|To read:", "Start")
    person.choose("Saved|every piece is right", "Back to the menu")


def take_files(person: Watcher) -> None:
    person.choose("Nothing is changed on any disk", "Take files out")
    person.choose("Where are the backups|backups were found", "BACKUP")
    person.write("Unlock the backups|What you type is not shown", PASSPHRASE)
    person.choose("Files of which day|the newest first", "20")
    person.choose("Which partition|The largest is often", "linux")
    person.choose("Which files|Enter opens a folder", "letters")
    person.choose("In /letters", "Take this folder")
    person.choose("Onto which disk or stick|go into a new folder", "FILES")
    person.choose("The files are there|are in the folder", "Back to the menu")


def ask_health(person: Watcher) -> str:
    person.choose("Nothing is changed on any disk", "Are the disks well")
    return person.go_on("The disks of this computer")


def clone(person: Watcher) -> None:
    person.choose("Nothing is changed on any disk", "Copy one disk")
    person.choose("Which disk is copied|The OLD disk", "serial own")
    person.choose("The NEW disk", "serial empty")
    person.write("This is going to be done|From: ", "clone")
    person.choose("Copied|Take the rescue medium out", "Switch it off")


def test_each_entry_does_what_it_says(computer: Computer, iso: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    disks = [
        Drive(file=computer.own, serial="own"), Drive(file=computer.empty, serial="empty"),
        Drive(file=computer.backup, serial="backup", bus="usb"), Drive(file=computer.files, serial="files", bus="usb"),
    ]  # fmt: skip
    machine = MediumMachine(folder=folder, medium=iso, key=tmp_path / "none", disks=disks)
    with start_medium(machine) as running:
        person = Watcher(running, folder / "serial.log", limit_s=LIMIT_S)
        back_up(person)
        take_files(person)
        health = ask_health(person)
        clone(person)
        running.wait_for_end(limit_s=LIMIT_S)
    assert filecmp.cmp(computer.own, computer.before, shallow=False), "the owner's disk was written to"
    assert "/dev/vda" in health
    assert "This disk says nothing of its health" in health
    check_files(computer.files, computer.hashes[0], tmp_path)
    check_disk(computer.empty, computer, tmp_path)
    check_image(computer, tmp_path)


def check_files(disk: Path, wanted: dict[str, str], folder: Path) -> None:
    with mounted_exfat(volume_of(disk, folder), folder / "mount-files") as root:
        (taken,) = root.glob("files from backup *")
        found = hash_tree(taken)
    below = {name.removeprefix("letters/"): value for name, value in found.items()}
    assert below == wanted


def check_disk(disk: Path, computer: Computer, folder: Path) -> None:
    """All partitions, files and the table are those of the owner's disk."""
    assert see_table(disk) == see_table(computer.before)
    assert "No problems found" in run_tool("sgdisk", "--verify", str(disk))
    one = extract(disk, PLACES[0], folder / f"{disk.stem}.one")
    run_tool("e2fsck", "-fn", str(one))
    with mounted_kernel(one, folder / f"{disk.stem}-one", options="ro") as root:
        assert hash_tree(root / "letters") == computer.hashes[0]
    other = extract(disk, PLACES[1], folder / f"{disk.stem}.other")
    with mounted_ntfs(other, folder / f"{disk.stem}-other", "ro") as root:
        assert hash_tree(root) == computer.hashes[1]


def check_image(computer: Computer, folder: Path) -> None:
    """The image verifies here, and restores to the same."""
    (folder / "pw").write_text(PASSPHRASE)
    words = ("--password-file", folder / "pw")
    with (
        mounted_exfat(volume_of(computer.backup, folder), folder / "mount-backup") as root,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name in ("CACHE", "STATE"):
            patch.setenv(f"STILLFRAME_{name}_DIR", str(folder / name.lower()))
        repo = root / "stillframe"
        assert call("check", "--repo", repo, *words).exit_code == 0
        image = call("images", "--all", "--repo", repo, *words, "--json").result["images"][0]["id"]
        assert call("verify", image, "--repo", repo, *words).exit_code == 0
        restored = make_disk(folder / "restored.img", SIZE)
        done = call("restore", image, restored, "--repo", repo, *words, "--yes")
        assert done.exit_code == 0, done.output
    check_disk(restored, computer, folder)
