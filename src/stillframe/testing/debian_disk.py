"""A whole Debian on a disk: what a person's computer looks like to firmware, boot loader, kernel and file system.

Answers: "where does a test get a disk that really boots?" GPT with a BIOS boot partition, an EFI system partition and
an ext4 root; it boots by BIOS and by UEFI. Or as an installer of one of both makes it (``make_debian_for``). The root
file system is made once (some 40 s) and kept as a tar where the guests of tests are kept; a disk of it takes some
seconds. Needs root and the packages of ``[vm]``. FAT is filled by mtools, for this kernel may not know it.
"""

import hashlib
import os
import shutil
import struct
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from stillframe.extents import Extent
from stillframe.testing.debian_guest import cache, mirror
from stillframe.testing.loops import attach_loop, detach_loop, partition_nodes
from stillframe.testing.tools import run_tool, unmount

_PACKAGES: Final = (
    "systemd-sysv", "udev", "dbus", "login", "passwd", "kmod", "e2fsprogs", "initramfs-tools", "zstd",
    "linux-image-cloud-amd64",
)  # fmt: skip
_HOOKS: Final = (
    'echo debian > "$1/etc/hostname"', 'chroot "$1" sh -c "echo root:root | chpasswd"',
    'rm -rf "$1"/var/lib/apt/lists/*',
)  # fmt: skip
_MODULES: Final = (
    "part_gpt part_msdos ext2 fat search search_fs_uuid search_label serial configfile normal linux terminal boot echo "
    "test ls cat reboot halt gzio"
)
_GRAPHICS: Final = "all_video efi_gop gfxterm"
BIOS_MODULES: Final = ("biosdisk", *_MODULES.split())
"""Of GRUB, for a BIOS."""
_SERIAL: Final = "serial --unit=0 --speed=115200\nterminal_input serial console\nterminal_output serial console\n"
_LIMIT_S: Final = 1800
BIOS_BOOT: Final = Extent(1 << 20, 2 << 20)
"""The partition that holds GRUB for a BIOS."""
_MBR_SCRIPT: Final = (
    "label: dos\nlabel-id: 0x0a1b2c3d\nstart=2048, size=3600000, type=83, bootable\n"
    "start=3604478, size=200000, type=5\nstart=3604480, size=190000, type=82\n"
)
_UEFI_SCRIPT: Final = "label: gpt\nstart=2048, size=98304, type=uefi\nsize=3800000, type=linux\n"
QUIET_TIMER: Final = "no_timer_check"
"""An emulated clock on a busy machine may fail the kernel's test of it, which then stops."""
ROOT_NUMBER: Final = 3
ROOT_START: Final = 50 << 20
"""Bytes before the root file system."""
SWITCH_OFF_UNIT: Final = """[Unit]
Description=Switch off when it has started
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'touch /started; sync; systemctl poweroff'
[Install]
WantedBy=multi-user.target
"""
"""A unit of systemd, ``off.service``: notes in ``/started`` that the system has started, and switches it off."""


def make_debian_disk(path: Path, *, serial: bool = True, size: int = 2 << 30) -> Path:
    """A disk that boots.

    Args:
        path: The file to make.
        serial: Whether boot loader, kernel and a login prompt use the serial line too, and not only the screen.
        size: Bytes.
    """
    tar = root_tar()
    path.unlink(missing_ok=True)
    path.touch()
    os.truncate(path, size)
    run_tool(
        "sgdisk", "-n1:2048:+1M", "-t1:ef02", "-n2:0:+48M", "-t2:ef00", "-n3:0:0", "-t3:8300", str(path)
    )  # fmt: skip
    root_id, esp_id = str(uuid.uuid4()), uuid.uuid4().hex[:8].upper()
    with partitions(path) as device:
        run_tool("mkfs.fat", "-F32", "-n", "ESP", "-i", esp_id, f"{device}p2")
        run_tool("mkfs.ext4", "-q", "-U", root_id, "-L", "root", "-E", "lazy_itable_init=0", f"{device}p3")
        place = path.with_suffix(".mounted")
        place.mkdir()
        run_tool("mount", f"{device}p3", str(place))
        try:
            run_tool("tar", "-xpf", str(tar), "-C", str(place), "--xattrs", "--numeric-owner")
            _configure(place, root_id, esp_id, serial=serial)
        finally:
            unmount(place)
            place.rmdir()
        early = path.with_suffix(".early.cfg")
        early.write_text(
            f"search --no-floppy --fs-uuid --set=root {root_id}\n"
            "set prefix=($root)/boot/grub\nconfigfile ($root)/boot/grub/grub.cfg\n"
        )
        fill_esp(f"{device}p2", path.with_suffix(".efi"), early)
    install_for_bios(path, early, BIOS_MODULES, BIOS_BOOT)
    early.unlink()
    return path


def make_debian_for(firmware: Literal["bios", "uefi"], path: Path, *, size: int = 2 << 30) -> Path:
    """A disk that boots by one firmware only, as Debian's installer lays it out.

    Args:
        firmware: ``bios``: an MBR with the root and a logical swap, GRUB in the gap behind the table, the root named by
            PARTUUID in ``fstab`` and on the kernel's line. ``uefi``: a GPT with an EFI system partition and the root.
        path: The file to make.
        size: Bytes.
    """
    tar = root_tar()
    path.unlink(missing_ok=True)
    path.touch()
    os.truncate(path, size)
    script = path.with_suffix(".sfdisk")
    script.write_text(_MBR_SCRIPT if firmware == "bios" else _UEFI_SCRIPT)
    with script.open() as given:
        subprocess.run(["sfdisk", "-q", str(path)], stdin=given, check=True)  # noqa: S603, S607 - made here
    script.unlink()
    root, root_id, esp_id = 1 if firmware == "bios" else 2, str(uuid.uuid4()), uuid.uuid4().hex[:8].upper()
    early = path.with_suffix(".early.cfg")
    early.write_text(
        f"search --no-floppy --fs-uuid --set=root {root_id}\n"
        "set prefix=($root)/boot/grub\nconfigfile ($root)/boot/grub/grub.cfg\n"
    )
    with partitions(path) as device:
        partuuid = run_tool("sfdisk", "--part-uuid", str(path), str(root)).strip().lower() if firmware == "uefi" else ""
        name = f"PARTUUID={partuuid or '0a1b2c3d-01'}"
        run_tool("mkfs.ext4", "-q", "-U", root_id, "-L", "root", "-E", "lazy_itable_init=0", f"{device}p{root}")
        if firmware == "bios":
            run_tool("mkswap", f"{device}p5")
        else:
            run_tool("mkfs.fat", "-F32", "-n", "ESP", "-i", esp_id, f"{device}p1")
            fill_esp(f"{device}p1", path.with_suffix(".efi"), early)
        place = path.with_suffix(".mounted")
        place.mkdir()
        run_tool("mount", f"{device}p{root}", str(place))
        try:
            run_tool("tar", "-xpf", str(tar), "-C", str(place), "--xattrs", "--numeric-owner")
            _configure(place, root_id, esp_id, serial=True)
            _name_by(place, name, root_id, has_esp=firmware == "uefi", number=root)
        finally:
            unmount(place)
            place.rmdir()
    if firmware == "bios":
        install_for_bios(path, early, BIOS_MODULES, Extent(512, 1 << 20))
    early.unlink()
    return path


def root_tar() -> Path:
    """The root file system, made when it is not there yet."""
    return make_root_tar("debian", _PACKAGES, _HOOKS)


def make_root_tar(name: str, packages: Sequence[str], hooks: Sequence[str], left_out: Sequence[str] = ()) -> Path:
    """A root file system of Debian as a tar, kept by the digest of its recipe.

    Args:
        name: What the file's name begins with.
        packages: What is installed.
        hooks: Shell commands that are run in the end; ``$1`` is the folder.
        left_out: Paths of packages that are not unpacked, as dpkg takes them.
    """
    recipe = repr((tuple(packages), tuple(hooks), *([tuple(left_out)] if left_out else []))).encode()
    found = cache() / f"{name}-{hashlib.sha256(recipe).hexdigest()[:16]}.tar"
    if not found.exists():
        found.parent.mkdir(parents=True, exist_ok=True)
        half = found.with_suffix(".half.tar")
        excluded = ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*", *left_out)
        command = [
            "mmdebstrap", "--quiet", "--variant=minbase", "--mode=root", '--aptopt=APT::Install-Recommends "false"',
            *(f"--dpkgopt=path-exclude={path}" for path in excluded), f"--include={','.join(packages)}",
            *(f"--customize-hook={hook}" for hook in hooks), "bookworm", str(half), f"deb {mirror()} bookworm main",
        ]  # fmt: skip
        # Mirrors and package indexes may be named in this environment, so it is passed on as it is.
        done = subprocess.run(  # noqa: S603 - made here
            command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_LIMIT_S
        )
        assert done.returncode == 0, done.stdout.decode(errors="replace")[-4000:]
        half.rename(found)
    return found


def use_signed_loader(disk: Path) -> None:
    """Give a disk Debian's own shim and GRUB, which Microsoft and Debian signed, in place of the GRUB made here."""
    folder = disk.with_suffix(".signed")
    folder.mkdir()
    for package in ("shim-signed", "grub-efi-amd64-signed"):
        command = ["apt-get", "download", "-q", package]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - environment as above
    for package_file in folder.glob("*.deb"):
        run_tool("dpkg-deb", "-x", str(package_file), str(folder))
    with partitions(disk) as device:
        esp, root_id = f"{device}p2", run_tool("blkid", "-o", "value", "-s", "UUID", f"{device}p{ROOT_NUMBER}").strip()
        early = folder / "grub.cfg"  # GRUB's signed program looks in /EFI/debian
        early.write_text(f"search.fs_uuid {root_id} root\nset prefix=($root)/boot/grub\nconfigfile $prefix/grub.cfg\n")
        run_tool("mmd", "-i", esp, "::/EFI/debian")
        for file, name in (
            (folder / "usr/lib/shim/shimx64.efi.signed", "BOOT/BOOTX64.EFI"),
            (folder / "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed", "BOOT/grubx64.efi"),
            (early, "debian/grub.cfg"),
        ):
            run_tool("mcopy", "-o", "-i", esp, str(file), f"::/EFI/{name}")
    shutil.rmtree(folder)


@contextmanager
def root_of(disk: Path) -> Iterator[Path]:
    """The root file system of a disk, mounted here read-write: to break something in it."""
    with partitions(disk) as device:
        place = disk.with_suffix(".mounted")
        place.mkdir()
        run_tool("mount", f"{device}p{ROOT_NUMBER}", str(place))
        try:
            yield place
        finally:
            unmount(place)
            place.rmdir()


@contextmanager
def partitions(disk: Path) -> Iterator[str]:
    """A loop device with a node for each partition, whether or not this kernel reads partition tables itself."""
    device = attach_loop(disk)
    try:
        with partition_nodes(device):
            try:
                yield device
            finally:
                run_tool("sync", str(disk))
    finally:
        detach_loop(device)


def _configure(root: Path, root_id: str, esp_id: str, *, serial: bool) -> None:
    """What an installer writes: the table of file systems and the boot menu."""
    (root / "etc/fstab").write_text(
        f"UUID={root_id} / ext4 errors=remount-ro 0 1\n"
        f"UUID={esp_id[:4]}-{esp_id[4:]} /boot/efi vfat umask=0077,nofail 0 1\n"
    )
    (root / "boot/efi").mkdir(exist_ok=True)
    (root / "boot/grub").mkdir(exist_ok=True)
    (kernel,) = (found.name.removeprefix("vmlinuz-") for found in (root / "boot").glob("vmlinuz-*"))
    consoles = "console=tty0 console=ttyS0,115200" if serial else "console=tty0"
    (root / "boot/grub/grub.cfg").write_text(
        f"{_SERIAL if serial else ''}set timeout=0\n"
        'menuentry "Debian" {\n'
        f"  search --no-floppy --fs-uuid --set=root {root_id}\n"
        f"  linux /boot/vmlinuz-{kernel} root=UUID={root_id} ro {consoles}\n"
        f"  initrd /boot/initrd.img-{kernel}\n}}\n"
    )


def fill_esp(device: str, program: Path, early: Path, modules: str = "") -> None:
    """One GRUB that holds all it needs, at the path where firmware looks on a disk it does not know.

    Args:
        device: The EFI system partition.
        program: A file to make and remove.
        early: What GRUB does first.
        modules: Of GRUB, beside those that every disk here needs.
    """
    built_in = f"{_MODULES} {modules}".strip()
    run_tool(
        "grub-mkstandalone", "-O", "x86_64-efi", "-o", str(program), f"--install-modules={built_in} {_GRAPHICS}",
        f"--modules={built_in}", "--locales=", "--fonts=", "--themes=", f"boot/grub/grub.cfg={early}",
    )  # fmt: skip
    run_tool("mmd", "-i", device, "::/EFI", "::/EFI/BOOT")
    run_tool("mcopy", "-i", device, str(program), "::/EFI/BOOT/BOOTX64.EFI")
    program.unlink()


def _name_by(root: Path, name: str, root_id: str, *, has_esp: bool, number: int) -> None:
    """Name the root partition otherwise than by its file system, and its place where a menu of Debian does."""
    fstab, menu = root / "etc/fstab", root / "boot/grub/grub.cfg"
    lines = fstab.read_text().replace(f"UUID={root_id}", name, 1).splitlines(keepends=True)
    fstab.write_text("".join(line for line in lines if has_esp or "/boot/efi" not in line))
    kind = "gpt" if has_esp else "msdos"
    search = f"  search --no-floppy --fs-uuid --set=root {root_id}\n"
    hinted = f"  insmod part_{kind}\n  insmod ext2\n  set root='hd0,{kind}{number}'\n" + search.replace(
        "--set=root", f"--set=root --hint-bios=hd0,{kind}{number}"
    )
    menu.write_text(
        menu.read_text().replace(search, hinted).replace(f"root=UUID={root_id}", f"root={name} {QUIET_TIMER}")
    )


def install_for_bios(disk: Path, early: Path, modules: Sequence[str], place: Extent) -> None:
    """The same for a BIOS: boot code in the first sector, and GRUB in the BIOS boot partition or before the first one.

    What ``grub-install`` does; it cannot find out which disk a partition of a loop device belongs to. Source: GRUB
    2.06, include/grub/i386/pc/boot.h: GRUB_BOOT_MACHINE_KERNEL_SECTOR (the first sector of GRUB) and
    GRUB_BOOT_MACHINE_LIST_SIZE (the list, at the end of its first sector, of where the rest is).
    """
    core = disk.with_suffix(".core")
    run_tool("grub-mkimage", "-O", "i386-pc", "-o", str(core), "-p", "/boot/grub", "-c", str(early), *modules)
    boot = Path("/usr/lib/grub/i386-pc/boot.img").read_bytes()
    image = bytearray(core.read_bytes())
    core.unlink()
    assert len(image) <= place.size
    first = place.start // 512
    image[512 - 12 : 512 - 4] = struct.pack("<Q", first + 1)
    with disk.open("r+b") as file:
        file.write(boot[:0x5C] + struct.pack("<QB", first, 0xFF) + boot[0x65:440])
        file.seek(place.start)
        file.write(image)
