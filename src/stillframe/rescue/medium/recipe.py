"""What the distribution's part of the medium is made of.

Answers: "which packages, which files, and is this base the same as that one?" The base knows nothing of Stillframe's
version: Stillframe is added to it as a folder of its own, so a rebuild need not install Debian again.

Sources: Debian 12 "bookworm"; live-boot(7); mmdebstrap(1), "--customize-hook" with ``sync-in`` and ``tar-out``.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

Kernel = Literal["generic", "cloud"]
SUITE: Final = "bookworm"
PYTHON: Final = (3, 11)
"""Of that suite: what the folder of Stillframe is made for."""
ROOT_FILES: Final = Path(__file__).with_name("root")
"""Files that are put over what the packages install."""
FINISH: Final = "/usr/local/lib/stillframe/finish"

_KERNELS: Final[dict[Kernel, str]] = {"generic": "linux-image-amd64", "cloud": "linux-image-cloud-amd64"}
_SYSTEM: Final = (
    "systemd-sysv", "udev", "dbus", "login", "passwd", "kmod", "zstd", "live-boot", "initramfs-tools", "busybox",
    "python3", "util-linux-extra", "procps", "less", "nano", "kbd", "console-data", "ca-certificates",
)  # fmt: skip
_DISKS: Final = (
    "e2fsprogs", "xfsprogs", "btrfs-progs", "dosfstools", "exfatprogs", "ntfs-3g", "mtools", "gdisk", "fdisk", "parted",
    "partclone", "lvm2", "thin-provisioning-tools", "mdadm", "cryptsetup-bin", "dislocker", "dmsetup", "libhivex-bin",
    "smartmontools", "nvme-cli", "pciutils", "usbutils", "fuse3", "efibootmgr",
)  # fmt: skip
_STARTING: Final = (
    "grub-pc-bin", "grub-efi-amd64-bin", "grub2-common", "grub-efi-amd64-signed", "shim-signed", "memtest86+",
)  # fmt: skip
_NETWORK: Final = (
    "iproute2", "iputils-ping", "systemd-resolved", "nbd-client", "cifs-utils", "smbclient", "nfs-common", "sshfs",
    "openssh-client", "openssh-server",
)  # fmt: skip
_WIRELESS: Final = ("iwd", "wireless-regdb")
_FIRMWARE: Final = (
    "firmware-iwlwifi", "firmware-realtek", "firmware-atheros", "firmware-brcm80211", "firmware-misc-nonfree",
)  # fmt: skip
"""The last one has MediaTek and Ralink; a package of their own is in later Debians only."""
PROGRAMS: Final = (
    "btrfs", "chroot", "cryptsetup", "dislocker", "dmsetup", "e2fsck", "efibootmgr", "fsck.exfat", "fsck.fat",
    "fusermount3", "grub-install", "grub-mkimage", "hivexsh", "ip", "less", "loadkeys", "lvs", "mcopy", "mdadm",
    "mkfs.btrfs", "mkfs.exfat", "mkfs.ext4", "mkfs.fat", "mkfs.ntfs", "mkfs.xfs", "mount.cifs", "mount.nfs", "nano",
    "nbd-client", "ntfs-3g", "ntfsresize", "nvme", "parted", "partclone.dd", "ping", "resize2fs", "sfdisk", "sgdisk",
    "smartctl", "smbclient", "ssh", "sshfs", "xfs_repair",
)  # fmt: skip
"""Programs that are on every medium."""
_NOT_UNPACKED: Final = ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*", "/usr/share/doc/*")
_UNPACKED: Final = ("/usr/share/doc/*/copyright",)
_VERSION: Final = 1
"""Counted up when what is done with all this changes."""


def packages(kernel: Kernel, *, wifi: bool, firmware: bool) -> tuple[str, ...]:
    """What is installed; ``firmware`` is that of wireless cards, which is not in Debian's main part."""
    wireless = (*_WIRELESS, *(_FIRMWARE if firmware else ())) if wifi else ()
    return (*_SYSTEM, _KERNELS[kernel], *_DISKS, *_STARTING, *_NETWORK, *wireless)


def dpkg_options() -> Iterator[str]:
    """What dpkg leaves out, and that it need not wait for the disk: a base that is not whole is thrown away."""
    yield from (f"path-exclude={path}" for path in _NOT_UNPACKED)
    yield from (f"path-include={path}" for path in _UNPACKED)
    yield "force-unsafe-io"


def hooks(files: str, pieces: str) -> tuple[str, ...]:
    """What is done when the packages are installed.

    Args:
        files: The folder of ``ROOT_FILES``.
        pieces: The tar to make of what lies outside of the file system of the medium.
    """
    return (
        f"sync-in {files} /", f'chroot "$1" sh {FINISH}', f"tar-out /pieces {pieces}", 'rm -rf "$1"/pieces',
    )  # fmt: skip


def digest(kernel: Kernel, sources: tuple[str, ...], *, wifi: bool, firmware: bool) -> str:
    """Names a base by what it is made of, but for the versions of packages."""
    files = sorted(path for path in ROOT_FILES.rglob("*") if path.is_file())
    recipe = [
        _VERSION, SUITE, packages(kernel, wifi=wifi, firmware=firmware), sources, tuple(dpkg_options()),
        [(path.relative_to(ROOT_FILES).as_posix(), path.read_text()) for path in files],
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]
