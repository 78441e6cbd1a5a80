"""What the early user space of a Linux is told, and what it must have afterwards."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from stillframe.block import MemoryDisk
from stillframe.errors import MachineRefusal
from stillframe.fs.base import Volume
from stillframe.host.root_files import RootFiles
from stillframe.jobs.starts.linux_early import EarlyNeeds, require_early
from stillframe.jobs.starts.linux_parts import DiskPart, find_part
from stillframe.jobs.starts.volume_stack import NestedVolume

BUILT_IN = "kernel/drivers/md/dm-mod.ko\n"


def make_root(folder: Path, *, crypttab: str = "", image: Sequence[tuple[str, str]] = ()) -> RootFiles:
    """A root with an initramfs that cpio has made."""
    (folder / "etc").mkdir()
    (folder / "etc/crypttab").write_text(crypttab)
    (folder / "lib/modules/6.1").mkdir(parents=True)
    (folder / "lib/modules/6.1/modules.builtin").write_text(BUILT_IN)
    (folder / "boot").mkdir()
    early = folder / "early"
    for name, text in image:
        (early / name).parent.mkdir(parents=True, exist_ok=True)
        (early / name).write_text(text)
    if image:
        listed = "\n".join(name for name, _ in image).encode()
        command = ["cpio", "--quiet", "-o", "-H", "newc"]
        made = subprocess.run(command, input=listed, cwd=early, capture_output=True, check=True).stdout
        (folder / "boot/initrd.img-6.1").write_bytes(made)
    return RootFiles(str(folder))


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("root UUID=1 none luks,discard\n", "root UUID=1 none luks,discard,initramfs\n"),
        ("root UUID=1\n", "root UUID=1 none luks,initramfs\n"),
        ("root UUID=1 /etc/key\n", "root UUID=1 /etc/key luks,initramfs\n"),
        ("root UUID=1 none initramfs,luks\n", "root UUID=1 none initramfs,luks\n"),
        ("home UUID=2 none luks\n", "home UUID=2 none luks\n"),
        ("# root UUID=1 none luks\n", "# root UUID=1 none luks\n"),
        ("\n", "\n"),
    ],
)
def test_a_crypttab_asks_for_what_the_root_lies_in_and_for_nothing_else(tmp_path: Path, line: str, shown: str) -> None:
    files = make_root(tmp_path, crypttab=line)
    assert EarlyNeeds(layers=("luks",), targets=("root",)).covers(files) == {"/etc/crypttab": shown}
    assert EarlyNeeds(layers=("lvm",)).covers(files) == {}
    assert (tmp_path / "etc/crypttab").read_text() == line


@pytest.mark.parametrize(
    ("layers", "image", "missing"),
    [
        (("lvm",), [("usr/sbin/lvm", "")], ""),
        (("lvm",), [("sbin/lvmdump", "")], "the program for lvm"),
        (("raid",), [("sbin/mdadm", "")], "the driver raid1"),
        (("raid",), [("sbin/mdadm", ""), ("lib/modules/6.1/kernel/drivers/md/raid1.ko.zst", "")], ""),
        (
            ("luks",),
            [("sbin/cryptsetup", ""), ("lib/modules/6.1/dm-crypt.ko", ""), ("cryptroot/crypttab", "home UUID=2\n")],
            "the encrypted volume root",
        ),
        (
            ("luks", "lvm"),
            [("sbin/cryptsetup", ""), ("sbin/lvm", ""), ("lib/m/dm-crypt.ko", ""), ("cryptroot/crypttab", "root x\n")],
            "",
        ),
        (("luks",), [("usr/lib/systemd/systemd-cryptsetup", ""), ("usr/lib/modules/6.1/dm-crypt.ko.xz", "")], ""),
    ],
)
def test_what_an_initramfs_lacks_is_named(
    tmp_path: Path, layers: tuple[str, ...], image: list[tuple[str, str]], missing: str
) -> None:
    files = make_root(tmp_path, image=image)
    needs = EarlyNeeds(layers=layers, targets=("root",) if "luks" in layers else ())
    if not missing:
        require_early(files, "initrd.img-6.1", needs)
        return
    with pytest.raises(MachineRefusal, match=f"initrd.img-6.1 was made anew without .*{missing}"):
        require_early(files, "initrd.img-6.1", needs)


def test_an_initramfs_that_cannot_be_read_is_not_believed(tmp_path: Path) -> None:
    files = make_root(tmp_path)
    (tmp_path / "boot/initrd.img-6.1").write_bytes(b"\x02!L\x18lz4")
    require_early(files, "initrd.img-6.1", EarlyNeeds())
    with pytest.raises(MachineRefusal, match="cannot be looked into for what opens lvm"):
        require_early(files, "initrd.img-6.1", EarlyNeeds(layers=("lvm",)))


def test_names_of_lvm_are_told_apart_by_their_letters() -> None:
    parts = [
        DiskPart(
            volume=Volume(filesystem="ext4"), names=frozenset({f"/dev/mapper/{name}"}),
            nested=NestedVolume(key=f"lvm-{name}", word=name, writer=MemoryDisk(b"")),
        )
        for name in ("house-root", "house-Root")
    ]  # fmt: skip
    assert find_part("/dev/mapper/house-Root", parts) is parts[1]
    assert find_part("/dev/mapper/house-root", parts) is parts[0]
    assert find_part("/dev/mapper/house-ROOT", parts) is None
