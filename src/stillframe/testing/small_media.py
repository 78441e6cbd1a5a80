"""Media with a kernel's lists and nothing else, for tests that ask which drivers they have.

Answers: "is there a medium that knows AHCI and not that Wi-Fi card?" The lines are Debian's (linux 6.1), some of very
many. Needs mksquashfs and xorriso.
"""

from pathlib import Path
from typing import Final

from stillframe.testing.tools import run_tool

RELEASE: Final = "6.1.0-28-amd64"
ALIASES: Final = {
    "pci:v*d*sv*sd*bc01sc06i01*": "ahci",
    "pci:v00008086d0000282Asv*sd*bc*sc*i*": "ahci",
    "pci:v*d*sv*sd*bc01sc08i02*": "nvme",
    "pci:v*d*sv*sd*bc0Csc03i30*": "xhci_pci",
    "pci:v00008086d00009A0Bsv*sd*bc*sc*i*": "vmd",
    "pci:v00008086d000015B7sv*sd*bc*sc*i*": "e1000e",
    "pci:v00008086d00002723sv*sd*bc*sc*i*": "iwlwifi",
    "scsi:t-0x00*": "sd_mod",
    "usb:v*p*d*dc*dsc*dp*ic08isc06ip50in*": "usb_storage",
    "fs-exfat": "exfat",
    "fs-cifs": "cifs",
    "fs-nfs": "nfs",
    "fs-fuse": "fuse",
}
WIFI_FIRMWARE: Final = ("iwlwifi-cc-a0-77.ucode", "iwlwifi-cc-a0-72.ucode", "iwlwifi-QuZ-a0-hr-b0-77.ucode")


def make_small_medium(folder: Path, *, without: tuple[str, ...] = (), firmware: tuple[str, ...] = ()) -> Path:
    """An ISO in a folder.

    Args:
        folder: Where; must exist.
        without: Drivers that it has not, or ``iwd``.
        firmware: Firmware files that it has.
    """
    root, lists = folder / "root", folder / "root/usr/lib/modules" / RELEASE
    lists.mkdir(parents=True)
    aliases = {alias: module for alias, module in ALIASES.items() if module not in without}
    lines = [f"alias {alias} {module}" for alias, module in aliases.items()]
    (lists / "modules.alias").write_text("# Aliases extracted from modules themselves.\n" + "\n".join(lines) + "\n")
    (lists / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\nkernel/drivers/virtio/virtio_pci.ko\n")
    (lists / "modules.builtin.modinfo").write_bytes(b"ext4.alias=fs-ext4\0ext4.license=GPL\0")
    modules = sorted(set(aliases.values()))
    (lists / "modules.dep").write_text("".join(f"kernel/{module}.ko:\n" for module in modules))
    (lists / "kernel").mkdir()
    for module in modules:
        names = WIFI_FIRMWARE if module == "iwlwifi" else ()
        text = b"".join(b"firmware=%b\0" % name.encode() for name in names)
        (lists / f"kernel/{module}.ko").write_bytes(b"\x7fELF\0" + text + b"license=GPL\0")
    (root / "usr/lib/firmware").mkdir()
    for name in firmware:
        (root / "usr/lib/firmware" / name).write_bytes(b"firmware")
    if "iwd" not in without:
        (root / "usr/libexec").mkdir()
        (root / "usr/libexec/iwd").write_bytes(b"\x7fELF")
    (folder / "iso/live").mkdir(parents=True)
    (folder / "iso/live/vmlinuz").write_bytes(b"kernel" * 5000)
    run_tool("mksquashfs", str(root), str(folder / "iso/live/filesystem.squashfs"), "-quiet", "-no-progress")
    iso = folder / "rescue.iso"
    run_tool("xorriso", "-as", "mkisofs", "-quiet", "-r", "-J", "-V", "RESCUE", "-o", str(iso), str(folder / "iso"))
    return iso
