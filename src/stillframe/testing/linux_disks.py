"""Disks with a little Linux on them: every place where ids are written, and programs that really run.

Answers: "what becomes of a Linux when it is restored under new ids, or onto another computer?" Made by sgdisk, sfdisk,
mkfs, mount and mtools. Its shell and the few programs are those of this machine; ``update-initramfs`` is a script that
packs what the settings say. It does not start: whole systems are in ``debian_disk``.
"""

import gzip
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from stillframe.testing.loops import attach_loop, detach_loop, partition_nodes
from stillframe.testing.tools import run_tool, unmount
from stillframe.testing.volumes_windows import hash_tree

MIB: Final = 1 << 20
KERNEL: Final = "6.1.0-18-amd64"
RootKind = Literal["ext4", "xfs", "btrfs"]
_SIZES: Final[dict[RootKind, int]] = {"ext4": 96 * MIB, "xfs": 320 * MIB, "btrfs": 192 * MIB}
_PROGRAMS: Final = ("/bin/sh", "/usr/bin/env", "/bin/cat", "/bin/gzip", "/bin/ls")
_MAKER: Final = """#!/bin/sh
# update-initramfs -u -k VERSION: what the settings say, packed
set -e
[ ! -e /etc/fail ] || { echo 'cannot find module virtio_blk' >&2; exit 3; }
case "$(ls /dev)" in *vda*|*sda*) echo 'saw the disks of the machine' >&2; exit 4;; esac
cat /etc/initramfs-tools/conf.d/* /etc/ballast | gzip > "/boot/initrd.img-$3"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinuxDisk:
    """A disk with a Linux, and the ids on it, by folder (``/boot/efi``, ``/boot``, ``swap``, ``/``), as blkid says."""

    path: Path
    kind: RootKind
    numbers: dict[str, int]


def make_linux_disk(path: Path, kind: RootKind = "ext4", *, label: Literal["gpt", "mbr"] = "gpt") -> LinuxDisk:
    """ESP (or a FAT), ``/boot`` (ext4), swap, root; in a Btrfs the root is subvolume ``@``.

    Root and swap are named by PARTUUID and UUID, the ESP by UUID, ``/boot`` by a link of udev.
    """
    sizes = [36 * MIB, 24 * MIB, 8 * MIB, _SIZES[kind]]
    path.touch()
    os.truncate(path, sum(sizes) + 4 * MIB)
    types = ("U", "L", "S", "L") if label == "gpt" else ("ef", "83", "82", "83")
    lines = [f"size={size // MIB}MiB, type={kind}" for size, kind in zip(sizes, types, strict=True)]
    table = path.with_suffix(".sfdisk")
    table.write_text(f"label: {'gpt' if label == 'gpt' else 'dos'}\n" + "\n".join(lines) + "\n")
    run_tool("sh", "-c", f"sfdisk -q '{path}' < '{table}'")
    table.unlink()
    made = LinuxDisk(path=path, kind=kind, numbers={"/boot/efi": 1, "/boot": 2, "swap": 3, "/": 4})
    with devices(path) as device:
        run_tool("mkfs.fat", "-F32", "-s1", f"{device}p1")
        run_tool("mkfs.ext4", "-q", "-L", "boot", f"{device}p2")
        run_tool("mkswap", "-q", f"{device}p3")
        run_tool(f"mkfs.{kind}", "-q", *(() if kind == "ext4" else ("-f",)), f"{device}p4")
        ids = read_ids(device)
        with _mounted(made, device) as root:
            _fill(root, ids)
        early = path.with_suffix(".grub.cfg")
        early.write_text(f"search.fs_uuid {ids['/boot']['UUID']} root\nset prefix=($root)'/grub'\n")
        run_tool("mmd", "-i", f"{device}p1", "::/EFI", "::/EFI/debian")
        run_tool("mcopy", "-i", f"{device}p1", str(early), "::/EFI/debian/grub.cfg")
        program = path.with_suffix(".efi")
        program.write_bytes(b"MZ" + bytes(126) + early.read_bytes() + b"\0" * 4096)
        run_tool("mcopy", "-i", f"{device}p1", str(program), "::/EFI/debian/grubx64.efi")
        program.unlink()
        early.unlink()
    return made


@contextmanager
def devices(path: Path) -> Iterator[str]:
    """A disk file as a loop device with a node for each partition."""
    device = attach_loop(path)
    try:
        with partition_nodes(device):
            try:
                yield device
            finally:
                run_tool("sync", str(path))
    finally:
        detach_loop(device)


@contextmanager
def mounted_linux(disk: LinuxDisk, path: Path | None = None) -> Iterator[Path]:
    """The root of a disk with its ``/boot``, mounted here; ``path`` where it was restored to."""
    with devices(path or disk.path) as device, _mounted(disk, device) as root:
        yield root


def read_ids(device: str) -> dict[str, dict[str, str]]:
    """What blkid says of each partition: UUID and PARTUUID, by folder."""
    found = {}
    for folder, number in (("/boot/efi", 1), ("/boot", 2), ("swap", 3), ("/", 4)):
        text = run_tool("blkid", "-p", "-o", "export", f"{device}p{number}")
        fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        table = (
            run_tool("sfdisk", "--part-uuid", device, str(number)).strip() if "PART_ENTRY_UUID" not in fields else ""
        )
        found[folder] = {"UUID": fields["UUID"], "PARTUUID": fields.get("PART_ENTRY_UUID", table.lower())}
    return found


def ids_of(path: Path) -> dict[str, dict[str, str]]:
    """The ids of a disk file."""
    with devices(path) as device:
        found = read_ids(device)
    if "label: dos" in run_tool("sfdisk", "-d", str(path)):
        signature = run_tool("sfdisk", "--disk-id", str(path)).strip().removeprefix("0x")
        places = {"/boot/efi": 1, "/boot": 2, "swap": 3, "/": 4}
        found = {name: {**ids, "PARTUUID": f"{signature}-{places[name]:02x}"} for name, ids in found.items()}
    return found


def tree_of(disk: LinuxDisk, path: Path | None = None) -> dict[str, str]:
    """Every file of it by its hash."""
    with mounted_linux(disk, path) as root:
        return hash_tree(root)


@contextmanager
def _mounted(disk: LinuxDisk, device: str) -> Iterator[Path]:
    place = Path(f"{disk.path}.mounted")
    place.mkdir()
    top = ["-o", "nouuid"] if disk.kind == "xfs" else []
    run_tool("mount", *top, f"{device}p4", str(place))
    try:
        root = place / "@" if disk.kind == "btrfs" else place
        if disk.kind == "btrfs" and not root.exists():
            run_tool("btrfs", "subvolume", "create", str(root))
        (root / "boot").mkdir(exist_ok=True)
        run_tool("mount", f"{device}p2", str(root / "boot"))
        try:
            yield root
        finally:
            unmount(root / "boot")
    finally:
        unmount(place)
        place.rmdir()


def _fill(root: Path, ids: dict[str, dict[str, str]]) -> None:
    swap, boot, efi, own = (ids[name] for name in ("swap", "/boot", "/boot/efi", "/"))
    options = "subvol=@" if root.name == "@" else "defaults"
    kind = run_tool("stat", "-f", "-c", "%T", str(root)).strip().replace("ext2/ext3", "ext4")
    texts = {
        "etc/os-release": 'PRETTY_NAME="Little Linux 1"\nID=little\n',
        "etc/fstab": f"PARTUUID={own['PARTUUID']} / {kind} {options} 0 1\n"
        f"/dev/disk/by-uuid/{boot['UUID']} /boot ext4 defaults 0 2\n"
        f"UUID={efi['UUID']} /boot/efi vfat umask=0077,nofail 0 1\nUUID={swap['UUID']} none swap sw 0 0\n",
        "etc/default/grub": f'GRUB_CMDLINE_LINUX="resume=UUID={swap["UUID"]}"\n',
        "etc/initramfs-tools/conf.d/resume": f"RESUME=UUID={swap['UUID']}\n",
        "boot/grub/grub.cfg": f"search --fs-uuid --set=root {boot['UUID']}\n"
        f"linux /vmlinuz-{KERNEL} root=PARTUUID={own['PARTUUID'].upper()} resume=UUID={swap['UUID']}\n",
        f"boot/vmlinuz-{KERNEL}": "kernel\n" * 100,
        f"lib/modules/{KERNEL}/modules.dep": "",
        "etc/ballast": "x" * 1000,
        "home/letter": f"the id {own['UUID']} in a letter stays\n",
        "usr/sbin/update-initramfs": _MAKER,
        "proc/.keep": "", "sys/.keep": "", "dev/.keep": "", "run/.keep": "", "var/.keep": "",
    }  # fmt: skip
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "usr/sbin/update-initramfs").chmod(0o755)
    (root / f"boot/initrd.img-{KERNEL}").write_bytes(gzip.compress(f"RESUME=UUID={swap['UUID']}\n".encode()))
    copy_programs(root, _PROGRAMS)


def copy_programs(root: Path, programs: Sequence[str]) -> None:
    """Programs of this machine with their libraries, into another root."""
    wanted = {*programs}
    for program in programs:
        text = run_tool("ldd", program, accept=(0, 1))
        wanted |= {word for line in text.splitlines() for word in line.split() if word.startswith("/")}
    for name in wanted:
        place = root / name.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            shutil.copy(os.path.realpath(name), place)
