"""Disks with a Debian on them, in the layouts that people have: to be saved, restored and started.

Answers: "where does a test get a system that boots from LVM, from Btrfs, by extlinux ...?" Each disk is made once and
kept with the guests of tests, by the digest of its recipe; it is raw, and must only be read. File systems are made on
this machine; what needs a device mapper is put together in a guest (``tests/vm/guest/contain.sh``). Every system
reports when it has started (``boot_reports``).

What an installer would do with tools of the running system is done here with the loaders' own: a GRUB that holds its
modules, ``extlinux --install``, systemd-boot's program on the EFI system partition.
"""

import hashlib
import os
import random
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stillframe.extents import Extent
from stillframe.testing.boot_reports import digest_of, install_report, reporting_root
from stillframe.testing.debian_disk import BIOS_BOOT, BIOS_MODULES, fill_esp, install_for_bios, partitions
from stillframe.testing.debian_guest import GUEST, cache, make_disk, run_job
from stillframe.testing.loops import attach_loop, detach_loop
from stillframe.testing.tools import run_tool, unmount
from stillframe.testing.virtual_machine import Drive

MIB: Final = 1 << 20
SIZE: Final = 2 << 30
"""Bytes of every disk."""
_SIZES: Final = {"bios": 1, "esp": 48, "boot": 160, "swap": 96}
_ESP_WITH_KERNEL: Final = 160
_GPT_TYPES: Final = {
    "bios": "21686148-6449-6E6F-744E-656564454649", "esp": "U", "boot": "L", "swap": "S", "root": "L", "lvm": "V"
}  # fmt: skip
_MBR_TYPES: Final = {"boot": "83", "swap": "82", "root": "83"}
_GAP: Final = Extent(512, MIB)
"""Where GRUB for a BIOS lies on an MBR disk: between the first sector and the first partition."""
_MODULES: Final = ("xfs", "btrfs", "lvm", "zstd")
_LINE: Final = "console=tty0 console=ttyS0,115200 loglevel=4 panic=10 rd.shell=0 rd.emergency=reboot rd.timeout=30"
_MKFS: Final = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0", "-L", "root", "-U"),
    "xfs": ("mkfs.xfs", "-q", "-f", "-L", "root", "-m"),
    "btrfs": ("mkfs.btrfs", "-q", "-f", "-L", "root", "-U"),
}
_SUBVOLUME: Final = "@rootfs"
"""Where Debian's installer puts the root on Btrfs."""
_KEPT: Final = 60
_LIMIT_S: Final = 1800


@dataclass(frozen=True, slots=True, kw_only=True)
class BootLayout:
    """A kind of disk.

    Attributes:
        name: For people and for the cache.
        parts: What the partitions are, in order: ``bios``, ``esp``, ``boot``, ``swap``, ``root``.
        scheme: ``gpt`` or ``dos``.
        loader: ``grub``, ``systemd-boot`` or ``extlinux``.
        filesystem: Of the root.
        inside: What the root lies in: ``lvm``, ``luks`` or nothing.
        named_by: How ``/etc/fstab`` and the kernel's command line name what is not in LVM or LUKS.
        initrd: What made the initrd.
        any_disk: Whether the initrd has drivers for all disks; else for virtio alone.
    """

    name: str
    parts: tuple[str, ...] = ("bios", "esp", "root")
    scheme: str = "gpt"
    loader: str = "grub"
    filesystem: str = "ext4"
    inside: str = ""
    named_by: str = "UUID"
    initrd: str = "initramfs-tools"
    any_disk: bool = True

    @property
    def firmwares(self) -> tuple[str, ...]:
        """By what it can be started."""
        return tuple(name for name, part in (("bios", "bios"), ("uefi", "esp")) if part in self.parts) or ("bios",)

    def number(self, part: str) -> int:
        """The number of a partition."""
        return self.parts.index(part) + 1

    def size_mib(self, part: str) -> int:
        """The size of a partition that is not the last one."""
        return _ESP_WITH_KERNEL if part == "esp" and self.loader == "systemd-boot" else _SIZES[part]


PLAIN: Final = BootLayout(name="plain")
MBR: Final = BootLayout(name="mbr", scheme="dos", parts=("swap", "root"), named_by="LABEL")
APART: Final = BootLayout(name="apart", parts=("bios", "esp", "boot", "swap", "root"))
XFS: Final = BootLayout(name="xfs", filesystem="xfs")
BTRFS: Final = BootLayout(name="btrfs", filesystem="btrfs")
LVM: Final = BootLayout(name="lvm", inside="lvm")
LUKS: Final = BootLayout(name="luks", parts=("bios", "esp", "boot", "root"), inside="luks")
SYSTEMD_BOOT: Final = BootLayout(name="systemd-boot", loader="systemd-boot", parts=("esp", "root"), named_by="PARTUUID")
EXTLINUX: Final = BootLayout(name="extlinux", scheme="dos", loader="extlinux", parts=("root",))
DRACUT: Final = BootLayout(name="dracut", initrd="dracut")
NARROW: Final = BootLayout(name="narrow", any_disk=False)
NARROW_DRACUT: Final = BootLayout(name="narrow-dracut", initrd="dracut", any_disk=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ids:
    """What is what on one disk."""

    root: str
    boot: str
    swap: str
    esp: str
    root_part: str
    luks: str

    def spec(self, layout: BootLayout) -> str:
        """How the root is named."""
        if layout.inside:
            return {"lvm": "/dev/mapper/vg0-root", "luks": "/dev/mapper/root_crypt"}[layout.inside]
        return {"UUID": f"UUID={self.root}", "LABEL": "LABEL=root", "PARTUUID": f"PARTUUID={self.root_part}"}[
            layout.named_by
        ]


def layout_disk(layout: BootLayout) -> Path:
    """A disk of this layout; made when it is not there yet (half a minute to some minutes). Only to be read."""
    tar = reporting_root(layout.initrd)
    recipes = (Path(__file__), *(GUEST / name for name in ("report.sh", "report.service", "contain.sh")))
    recipe = (repr(layout), tar.name, *(digest_of(path) for path in recipes))
    found = cache() / f"boots-{layout.name}-{hashlib.sha256(repr(recipe).encode()).hexdigest()[:16]}.img"
    if not found.exists():
        folder = found.with_suffix(".making")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        made = _make(layout, folder, tar)
        made.rename(found)
        shutil.rmtree(folder)
    return found


def _make(layout: BootLayout, folder: Path, tar: Path) -> Path:
    names = [str(uuid.uuid4()) for _ in range(5)]
    ids = _Ids(
        root=names[0], boot=names[1], swap=names[2], root_part=names[3], luks=names[4],
        esp=uuid.uuid4().hex[:8].upper(),
    )  # fmt: skip
    disk = make_disk(folder / "disk.img", SIZE)
    _make_table(layout, disk, ids)
    inner = make_disk(folder / "root.img", 1536 * MIB) if layout.inside else None
    early = folder / "early.cfg"
    early.write_text(_early(layout, ids))
    with partitions(disk) as device, _loop(inner) as contained:
        root = contained or f"{device}p{layout.number('root')}"
        _make_volumes(layout, device, root, ids)
        with _mounted(layout, folder / "mounted", root, device) as place:
            run_tool("tar", "-xpf", str(tar), "-C", str(place), "--xattrs", "--numeric-owner")
            _configure(layout, place, ids, folder)
            _install(layout, place, device, early)
            if "esp" in layout.parts:
                _copy_loader(f"{device}p{layout.number('esp')}", place / "root/kept")
            install_report(place)
    if layout.loader == "grub" and "bios" in layout.firmwares:
        place_of_grub = BIOS_BOOT if "bios" in layout.parts else _GAP
        install_for_bios(disk, early, (*BIOS_MODULES, *_MODULES), place_of_grub)
    if inner is not None:
        _contain(layout, folder, disk, inner, ids)
    return disk


def _make_table(layout: BootLayout, disk: Path, ids: _Ids) -> None:
    lines = [f"label: {layout.scheme}", "first-lba: 2048" if layout.scheme == "gpt" else ""]
    for part in layout.parts:
        size = "" if part == "root" else f"size={layout.size_mib(part)}MiB, "
        types = _GPT_TYPES if layout.scheme == "gpt" else _MBR_TYPES
        kind = types["lvm" if part == "root" and layout.inside == "lvm" else part]
        name = f", uuid={ids.root_part}" if part == "root" and layout.scheme == "gpt" else ""
        active = ", bootable" if part == "root" and layout.scheme == "dos" else ""
        lines.append(f"{size}type={kind}{name}{active}")
    script = disk.with_suffix(".sfdisk")
    script.write_text("\n".join(lines) + "\n")
    run_tool("sh", "-c", f"sfdisk --quiet {disk} < {script}")


def _make_volumes(layout: BootLayout, device: str, root: str, ids: _Ids) -> None:
    make = _MKFS[layout.filesystem]
    options = ("-O", "^64bit,^metadata_csum") if layout.loader == "extlinux" else ()  # which syslinux 6.04 cannot read
    run_tool(*make, f"uuid={ids.root}" if layout.filesystem == "xfs" else ids.root, *options, root)
    if "boot" in layout.parts:
        run_tool("mkfs.ext4", "-q", "-F", "-L", "boot", "-U", ids.boot, f"{device}p{layout.number('boot')}")
    if "swap" in layout.parts:
        run_tool("mkswap", "-q", "-U", ids.swap, f"{device}p{layout.number('swap')}")
    if "esp" in layout.parts:
        run_tool("mkfs.fat", "-F32", "-n", "ESP", "-i", ids.esp, f"{device}p{layout.number('esp')}")


@contextmanager
def _loop(image: Path | None) -> Iterator[str]:
    """A loop device of a file; nothing for nothing."""
    if image is None:
        yield ""
        return
    device = attach_loop(image)
    try:
        yield device
    finally:
        detach_loop(device)


@contextmanager
def _mounted(layout: BootLayout, place: Path, root: str, device: str) -> Iterator[Path]:
    """The root file system, and ``/boot`` in it when that is apart."""
    place.mkdir()
    with ExitStack() as stack:
        if layout.filesystem == "btrfs":
            run_tool("mount", root, str(place))
            run_tool("btrfs", "subvolume", "create", str(place / _SUBVOLUME))
            run_tool("umount", str(place))
            run_tool("mount", "-o", f"subvol={_SUBVOLUME}", root, str(place))
        else:
            run_tool("mount", root, str(place))
        stack.callback(unmount, place)
        if "boot" in layout.parts:
            (place / "boot").mkdir()
            run_tool("mount", f"{device}p{layout.number('boot')}", str(place / "boot"))
            stack.callback(run_tool, "umount", str(place / "boot"))
        yield place
    place.rmdir()


def _configure(layout: BootLayout, root: Path, ids: _Ids, folder: Path) -> None:
    """What an installer writes, and files of the person whose computer it is."""
    (root / "etc/fstab").write_text("".join(f"{line}\n" for line in _fstab(layout, ids)))
    (root / "etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")
    if "esp" in layout.parts:
        (root / "boot/efi").mkdir(exist_ok=True)
    picked = random.Random(layout.name)  # noqa: S311 - contents of files
    for number in range(_KEPT):  # ext4 spreads folders over the whole volume
        kept = root / f"root/kept/{number}"
        kept.mkdir(parents=True)
        (kept / "file").write_bytes(picked.randbytes(1 << 17))
    if layout.inside == "luks":
        _keep_key(root, ids, folder)
    if not layout.any_disk:
        _narrow(layout, root)


def _fstab(layout: BootLayout, ids: _Ids) -> Iterator[str]:
    options = {"ext4": "errors=remount-ro 0 1", "xfs": "defaults 0 0", "btrfs": f"defaults,subvol={_SUBVOLUME} 0 0"}
    yield f"{ids.spec(layout)} / {layout.filesystem} {options[layout.filesystem]}"
    if "boot" in layout.parts:
        yield f"UUID={ids.boot} /boot ext4 defaults 0 2"
    if "esp" in layout.parts:
        yield f"UUID={ids.esp[:4]}-{ids.esp[4:]} /boot/efi vfat umask=0077 0 1"
    if "swap" in layout.parts:
        yield f"UUID={ids.swap} none swap sw 0 0"
    if layout.inside == "lvm":
        yield "/dev/mapper/vg0-swap none swap sw 0 0"


def _keep_key(root: Path, ids: _Ids, folder: Path) -> None:
    """A key in the initrd, so that it starts with nobody there."""
    key = root / "etc/keys/root.key"
    key.parent.mkdir(mode=0o700)
    key.write_bytes(os.urandom(64))
    shutil.copy(key, folder / "root.key")
    (root / "etc/crypttab").write_text(f"root_crypt UUID={ids.luks} /etc/keys/root.key luks,discard,initramfs\n")
    for file, line in (
        ("etc/cryptsetup-initramfs/conf-hook", 'KEYFILE_PATTERN="/etc/keys/*.key"'),
        ("etc/initramfs-tools/initramfs.conf", "UMASK=0077"),
    ):
        with (root / file).open("a") as opened:
            opened.write(f"{line}\n")
    _run_inside(root, "update-initramfs", "-u")


def _narrow(layout: BootLayout, root: Path) -> None:
    """An initrd for one computer, with virtio disks."""
    if layout.initrd == "dracut":
        (root / "etc/dracut.conf.d/90-any.conf").write_text(
            'hostonly=yes\nhostonly_cmdline=no\ncompress=zstd\nadd_drivers+=" virtio_pci virtio_blk ext4 "\n'
        )
        (initrd,) = (root / "boot").glob("initrd.img-*")
        kernel = initrd.name.removeprefix("initrd.img-")
        _run_inside(root, "dracut", "--quiet", "--force", f"/boot/{initrd.name}", kernel)
    else:
        (root / "etc/initramfs-tools/conf.d/modules").write_text("MODULES=list\n")
        (root / "etc/initramfs-tools/modules").write_text("virtio_pci\nvirtio_blk\next4\n")
        _run_inside(root, "update-initramfs", "-u")


def _run_inside(root: Path, *command: str) -> None:
    """Run a program of a system that does not run."""
    with ExitStack() as stack:
        for name in ("proc", "sys", "dev"):
            run_tool("mount", "--bind", f"/{name}", str(root / name))
            stack.callback(run_tool, "umount", str(root / name))
        run_tool("chroot", str(root), *command)


def _early(layout: BootLayout, ids: _Ids) -> str:
    """What GRUB does first: find its menu."""
    apart = "boot" in layout.parts
    folder = "/grub" if apart else f"{'/' + _SUBVOLUME if layout.filesystem == 'btrfs' else ''}/boot/grub"
    return (
        f"search --no-floppy --fs-uuid --set=root {ids.boot if apart else ids.root}\n"
        f"set prefix=($root){folder}\nconfigfile $prefix/grub.cfg\n"
    )


def _install(layout: BootLayout, root: Path, device: str, early: Path) -> None:
    """The loader, and its menu."""
    (kernel,) = (found.name.removeprefix("vmlinuz-") for found in (root / "boot").glob("vmlinuz-*"))
    spec = next(line.split()[0] for line in (root / "etc/fstab").read_text().splitlines())
    flags = f" rootflags=subvol={_SUBVOLUME}" if layout.filesystem == "btrfs" else ""
    line = f"root={spec}{flags} ro {_LINE}"
    if layout.loader == "grub":
        (root / "boot/grub").mkdir(exist_ok=True)
        (root / "boot/grub/grub.cfg").write_text(
            "serial --unit=0 --speed=115200\nterminal_input serial console\nterminal_output serial console\n"
            f'set timeout=0\nmenuentry "Debian" {{\n  linux $prefix/../vmlinuz-{kernel} {line}\n'
            f"  initrd $prefix/../initrd.img-{kernel}\n}}\n"
        )
        if "esp" in layout.parts:
            fill_esp(f"{device}p{layout.number('esp')}", early.with_suffix(".efi"), early, " ".join(_MODULES))
    elif layout.loader == "systemd-boot":
        _install_systemd_boot(root, f"{device}p{layout.number('esp')}", kernel, line)
    else:
        _install_extlinux(root, Path(device), kernel, line)


def _install_systemd_boot(root: Path, esp: str, kernel: str, line: str) -> None:
    """Its program where firmware looks on a disk it does not know; kernel, initrd and menu as kernel-install does."""
    own = root / "tmp/loader"
    own.mkdir()
    (own / "loader.conf").write_text("timeout 0\n")
    (own / "debian.conf").write_text(
        f"title Debian\nversion {kernel}\nlinux /debian/linux\ninitrd /debian/initrd\noptions {line}\n"
    )
    run_tool("mmd", "-i", esp, "::/EFI", "::/EFI/BOOT", "::/loader", "::/loader/entries", "::/debian")
    for file, name in (
        (root / "usr/lib/systemd/boot/efi/systemd-bootx64.efi", "EFI/BOOT/BOOTX64.EFI"),
        (own / "loader.conf", "loader/loader.conf"), (own / "debian.conf", "loader/entries/debian.conf"),
        (root / f"boot/vmlinuz-{kernel}", "debian/linux"), (root / f"boot/initrd.img-{kernel}", "debian/initrd"),
    ):  # fmt: skip
        run_tool("mcopy", "-i", esp, str(file), f"::/{name}")
    shutil.rmtree(own)


def _install_extlinux(root: Path, disk: Path, kernel: str, line: str) -> None:
    """Its second stage is a file that the boot sector of the partition knows by its blocks."""
    folder = root / "boot/extlinux"
    folder.mkdir()
    (folder / "extlinux.conf").write_text(
        f"SERIAL 0 115200\nDEFAULT debian\nPROMPT 0\nLABEL debian\n  LINUX /boot/vmlinuz-{kernel}\n"
        f"  INITRD /boot/initrd.img-{kernel}\n  APPEND {line}\n"
    )
    run_tool("extlinux", "--install", str(folder))
    with disk.open("r+b") as file:
        file.write(Path("/usr/lib/syslinux/mbr/mbr.bin").read_bytes())


def _copy_loader(esp: str, kept: Path) -> None:
    """The program that the firmware starts, as a file of the root too: the system compares the two."""
    run_tool("mcopy", "-i", esp, "::/EFI/BOOT/BOOTX64.EFI", str(kept / "loader"))


def _contain(layout: BootLayout, folder: Path, disk: Path, inner: Path, ids: _Ids) -> None:
    """Put the root file system into LVM or LUKS, where there is a device mapper."""
    files, work = folder / "files", folder / "work"
    files.mkdir()
    work.mkdir()
    shutil.copy(GUEST / "contain.sh", files)
    (files / "uuid").write_text(ids.luks)
    if layout.inside == "luks":
        shutil.copy(folder / "root.key", files)
    part = f"/dev/disk/by-id/virtio-target-part{layout.number('root')}"
    done = run_job(
        work, f"sh /job/contain.sh {layout.inside} {part} /dev/disk/by-id/virtio-inner",
        [Drive(file=disk, serial="target"), Drive(file=inner, serial="inner")], limit_s=_LIMIT_S, files=files,
    )  # fmt: skip
    assert done.code == 0, done.output
