"""The firmware of a computer is told of loaders on a disk that was restored or cloned: by UEFI, in a guest."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from stillframe.testing.debian_guest import make_disk, run_job
from stillframe.testing.virtual_machine import Drive

pytestmark = [pytest.mark.root, pytest.mark.vm]
MIB = 1 << 20
SERIALS = ("source", "target", "copy", "repo")
SCRIPT = r"""
disk() { readlink -f /dev/disk/by-id/virtio-$1; }
sgdisk -n1:2048:+1M -t1:ef02 -n2:0:+40M -t2:ef00 -n3:0:0 -t3:8300 $(disk source); udevadm settle
esp=$(disk source)2
mkfs.fat -F32 $esp; mkfs.ext4 -q $(disk source)3; mkfs.ext4 -q $(disk repo); mount $(disk repo) /mnt
mmd -i $esp ::/EFI ::/EFI/BOOT ::/EFI/debian ::/EFI/Microsoft ::/EFI/Microsoft/Boot
for path in BOOT/BOOTX64.EFI debian/shimx64.efi debian/grubx64.efi Microsoft/Boot/bootmgfw.efi; do
    echo loader | mcopy -i $esp - ::/EFI/$path
done
export STILLFRAME_REPO=/mnt/r
stillframe init /mnt/r --encryption none; stillframe backup $(disk source)
efibootmgr -v > /job/before
stillframe restore latest $(disk target) --dry-run > /job/plan
mv /usr/bin/efibootmgr /root/
stillframe restore latest $(disk target) --yes --json > /job/without; echo $? > /job/without.code
mv /root/efibootmgr /usr/bin/
efibootmgr -v > /job/untold
stillframe restore latest $(disk target) --yes --json > /job/first
efibootmgr -v > /job/told
stillframe restore latest $(disk target) --yes --json > /job/second
efibootmgr -v > /job/again
stillframe clone $(disk source) $(disk copy) --new-identity --yes --json > /job/clone
efibootmgr -v > /job/cloned
stillframe restore latest /mnt/file.img --yes --json > /job/file
efibootmgr -v > /job/filed
for name in source target copy; do sgdisk -i 2 $(disk $name) > /job/$name.gpt; disk $name >> /job/$name.gpt; done
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the guest wrote down."""
    folder = tmp_path_factory.mktemp("entries")
    drives = [Drive(file=make_disk(folder / f"{serial}.img", 200 * MIB), serial=serial) for serial in SERIALS]
    (folder / "work").mkdir()
    done = run_job(folder / "work", SCRIPT, drives, limit_s=1800, uefi=True)
    assert done.code == 0, done.output
    return done.folder


def entries(seen: Path, name: str) -> set[str]:
    return {line for line in (seen / name).read_text().splitlines() if re.match(r"Boot[0-9A-F]{4}[* ]", line)}


def order(seen: Path, name: str) -> list[str]:
    found = re.search(r"(?m)^BootOrder: (.*)$", (seen / name).read_text())
    assert found
    return found[1].split(",")


def result(seen: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((seen / name).read_text().splitlines()[-1])
    return found


def guid(seen: Path, name: str) -> str:
    found = re.search(r"unique GUID: (\S+)", (seen / f"{name}.gpt").read_text())
    assert found
    return found[1].lower()


def test_loaders_are_entries_that_come_first(seen: Path) -> None:
    assert "firmware of the loaders" in (seen / "plan").read_text()
    new = entries(seen, "told") - entries(seen, "before")
    assert entries(seen, "before") <= entries(seen, "told")
    assert {line[10:].split("\t")[0] for line in new} == {"debian", "Windows Boot Manager"}
    assert all(f"HD(2,GPT,{guid(seen, 'target')}," in line for line in new)
    assert any(line.endswith(r"File(\EFI\debian\shimx64.efi)") for line in new)
    assert any(line.endswith(r"File(\EFI\Microsoft\Boot\bootmgfw.efi)") for line in new)
    names = {line[4:8]: line[10:].split("\t")[0] for line in new}
    assert [names.get(number) for number in order(seen, "told")[:2]] == ["debian", "Windows Boot Manager"]
    assert order(seen, "told")[2:] == order(seen, "before")
    assert any("debian" in words for words in result(seen, "first")["changes"])


def test_what_the_firmware_knows_is_not_told_again(seen: Path) -> None:
    assert (seen / "again").read_text() == (seen / "told").read_text()
    assert not any("firmware" in words for words in result(seen, "second")["changes"])


def test_a_copy_with_ids_of_its_own_has_entries_of_its_own(seen: Path) -> None:
    new = entries(seen, "cloned") - entries(seen, "again")
    assert guid(seen, "copy") != guid(seen, "source")
    assert len(new) == 2
    assert all(f"HD(2,GPT,{guid(seen, 'copy')}," in line for line in new)
    assert entries(seen, "again") <= entries(seen, "cloned")
    assert order(seen, "cloned") == order(seen, "again")
    assert any("debian" in words for words in result(seen, "clone")["changes"])


def test_without_the_program_there_is_the_line_to_type(seen: Path) -> None:
    assert (seen / "without.code").read_text().strip() == "0"
    assert entries(seen, "untold") == entries(seen, "before")
    text = (seen / "without").read_text()
    path = (seen / "target.gpt").read_text().split()[-1]
    assert "firmware-not-told" in text
    assert "apt install efibootmgr" in text
    assert f"sudo efibootmgr --create --disk {path} --part 2 --label debian --loader " in text
    assert not result(seen, "without")["may_not_start"]


def test_a_disk_file_is_told_to_nobody(seen: Path) -> None:
    assert (seen / "filed").read_text() == (seen / "cloned").read_text()
    assert "firmware" not in (seen / "file").read_text()
