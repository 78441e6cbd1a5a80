"""Systems that tell, when they have started, whether all of them came back: by an exit code, from inside.

Answers: "does this disk boot, and is what boots what was saved?" A service of the system (``tests/vm/guest/report.sh``)
compares every file of a list, what ``/etc/fstab`` names, and services that failed, and ends the virtual machine with
its verdict. What is only true of a machine (firmware, controller, sizes) it reports, and a test compares.
"""

import hashlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stillframe.testing.debian_disk import make_root_tar
from stillframe.testing.debian_guest import GUEST
from stillframe.testing.virtual_machine import VERDICT_PORT, Drive, Machine

RIGHT: Final = 2 * 16 + 1
"""The exit code of a machine whose system wrote 16: all came back."""
LIMIT_S: Final = 1200
_SYSTEM: Final = (
    "systemd-sysv", "udev", "dbus", "login", "passwd", "kmod", "e2fsprogs", "dosfstools", "xfsprogs", "btrfs-progs",
    "lvm2", "zstd", "linux-image-amd64", "systemd-boot-efi",
)  # fmt: skip
_INITRD: Final = {"initramfs-tools": ("initramfs-tools", "cryptsetup-initramfs"), "dracut": ("dracut",)}
# Drivers that no disk needs. Without them a system is half as large, and starts in half the time.
_NO_DISK_NEEDS: Final = tuple(
    f"/lib/modules/*/kernel/{folder}/*"
    for folder in (
        "sound", "arch/x86/kvm", "drivers/bluetooth", "drivers/cpufreq", "drivers/edac", "drivers/gpu", "drivers/hid",
        "drivers/hwmon", "drivers/i2c", "drivers/iio", "drivers/infiniband", "drivers/input", "drivers/isdn",
        "drivers/media", "drivers/mfd", "drivers/net", "drivers/parport", "drivers/platform", "drivers/powercap",
        "drivers/staging", "drivers/thermal", "drivers/watchdog",
    )
)  # fmt: skip
_HOOKS: Final = (
    'echo debian > "$1/etc/hostname"', 'chroot "$1" sh -c "echo root:root | chpasswd"',
    'rm -rf "$1"/var/lib/apt/lists/*',
)  # fmt: skip
# As in distributions that use dracut, for any hardware: what Fedora calls its rescue entry.
_GENERIC: Final = (
    'printf "hostonly=no\\ncompress=zstd\\n" > "$1/etc/dracut.conf.d/90-any.conf"',
    'K=$(ls "$1/lib/modules"); chroot "$1" dracut --quiet --force /boot/initrd.img-$K $K',
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a system told of itself and its machine; bytes.

    Attributes:
        code: The machine's exit code: ``RIGHT``, or something is wrong or missing.
        firmware: ``bios`` or ``uefi``.
        filesystem: Of its root.
        bytes: The size of its root file system.
        disk: The kernel's name of the disk that it is on.
        driver: Of the controller of that disk.
        disk_bytes: The size of that disk.
        start: Where the partition with the root begins.
        size: How large that partition is.
        part_id: That partition's PARTUUID.
        root_id: The UUID of its root file system.
        files: How many files were compared, and are equal if the code is ``RIGHT``.
        starts: Whether what it starts from (boot menu, ``/etc/fstab``, initrd, loader) is ``same`` or ``changed``.
        log: All that it said.
    """

    code: int
    firmware: str
    filesystem: str
    bytes: int
    disk: str
    driver: str
    disk_bytes: int
    start: int
    size: int
    part_id: str
    root_id: str
    files: int
    starts: str
    log: str


def reporting_root(initrd: str) -> Path:
    """The root file system of a Debian that reports, as a tar, with an initrd by ``initramfs-tools`` or ``dracut``."""
    hooks = (*_HOOKS, *(_GENERIC if initrd == "dracut" else ()))
    return make_root_tar(f"reporting-{initrd}", (*_SYSTEM, *_INITRD[initrd]), hooks, _NO_DISK_NEEDS)


def install_report(root: Path) -> None:
    """Let a system report: its service, and the list of its files, which must be complete by now."""
    shutil.copy(GUEST / "report.sh", root / "usr/local/sbin/report")
    shutil.copy(GUEST / "report.service", root / "etc/systemd/system")
    wanted = root / "etc/systemd/system/multi-user.target.wants/report.service"
    wanted.parent.mkdir(exist_ok=True)
    wanted.symlink_to("/etc/systemd/system/report.service")
    listed = sorted(_listed(root))
    for name, chosen in (
        ("list", [file for file in listed if not _is_for_start(file)]),
        ("list-of-starts", [file for file in listed if _is_for_start(file)]),
    ):
        (root / "root" / name).write_text("".join(f"{digest_of(root / file)}  /{file}\n" for file in chosen))


def _listed(root: Path) -> Iterator[str]:
    """Files that no system changes when it starts, from its folder."""
    for folder in ("usr", "boot", "root/kept"):
        found = (path for path in (root / folder).rglob("*") if path.is_file() and not path.is_symlink())
        yield from (path.relative_to(root).as_posix() for path in found)
    yield from ("etc/fstab", "etc/machine-id", "etc/passwd")


def _is_for_start(file: str) -> bool:
    """Whether ids or drivers are in it: it may have to change so that a system starts elsewhere."""
    return file == "etc/fstab" or file.startswith(("boot/grub/", "boot/extlinux/", "boot/initrd"))


def digest_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def start_and_report(folder: Path, disk: Path, *, firmware: str, bus: str = "virtio") -> Report:
    """Start a disk, and let its system report. The disk is not changed.

    Args:
        folder: An empty folder for logs.
        disk: The disk, raw.
        firmware: ``bios`` or ``uefi``.
        bus: What the disk is attached to.

    Raises:
        AssertionError: It said nothing before it ended, or did not end: the end of the serial log is in the message.
    """
    said = folder / "report.log"
    extra = ("-serial", f"file:{said}", "-device", f"isa-debug-exit,iobase={VERDICT_PORT},iosize=2")
    machine = Machine(
        folder=folder, drives=[Drive(file=disk, throw_away=True, bus=bus)], uefi=firmware == "uefi", memory_mib=1024,
        extra=extra,
    )  # fmt: skip
    code = machine.run_to_verdict(limit_s=LIMIT_S)
    log = said.read_text(errors="replace")
    facts = dict(re.findall(r"REPORT (\w+)=([^\r\n]*)", log))
    assert "REPORT end" in log, f"it ended with {code} and did not report\n{machine.tail()}\n{log}"
    return Report(
        code=code, firmware=facts["firmware"], filesystem=facts["filesystem"], bytes=int(facts["bytes"]),
        disk=facts["disk"], driver=facts["driver"], disk_bytes=int(facts["disk_bytes"]), start=int(facts["start"]),
        size=int(facts["size"]), part_id=facts["part_id"], root_id=facts["root_id"],
        files=int(facts["files"]), starts=facts["starts"], log=log,
    )  # fmt: skip
