"""GRUB installed for a restored Linux, for BIOS or for UEFI.

Answers: "make this disk start the Linux on it." The programs and modules are the system's own GRUB where it has one for
that firmware, else this machine's; the system keeps its boot menu, which must be there. What ``grub-install`` does is
done here: it cannot find out which disk a loop device's partition belongs to, and wants a mounted FAT.

Sources: GNU GRUB manual 2.06, sections 3.4 "BIOS installation", 4 "Booting GRUB from ...", ``grub-mkimage``; GRUB 2.06
``include/grub/i386/pc/boot.h`` and ``util/setup.c`` (boot code, block list, the space behind an MBR).
"""

import os
import shutil
import struct
from dataclasses import dataclass
from typing import Final, Literal

from stillframe.errors import MachineRefusal
from stillframe.extents import Extent
from stillframe.host.esp_files import FatVolume, write_file
from stillframe.host.inside_system import require_same_machine, run_inside
from stillframe.host.root_files import RootFiles
from stillframe.host.run import run
from stillframe.jobs.starts.linux_mounts import MountedLinux

Platform = Literal["i386-pc", "x86_64-efi"]
BIOS_BOOT_TYPE: Final = "21686148-6449-6E6F-744E-656564454649"
"""GNU GRUB manual 2.06, section 3.4."""
_SECTOR: Final = 512  # GRUB_DISK_SECTOR_SIZE; boot code for a BIOS counts in no other
_CODE_SIZE: Final = 440
_KERNEL_SECTOR: Final = 0x5C  # GRUB_BOOT_MACHINE_KERNEL_SECTOR
_BOOT_DRIVE: Final = 0x64  # GRUB_BOOT_MACHINE_BOOT_DRIVE; 0xff: the one that the BIOS started from
_DRIVE_CHECK: Final = 0x66  # GRUB_BOOT_MACHINE_DRIVE_CHECK
_NO_CHECK: Final = b"\x90\x90"  # util/setup.c: of a hard disk the number that the BIOS gives is not believed blindly
_BLOCK_LIST: Final = 12  # GRUB_BOOT_MACHINE_LIST_SIZE, at the end of the first sector of the core image
_MODULES: Final = (
    "part_gpt", "part_msdos", "ext2", "fat", "xfs", "btrfs", "search", "search_fs_uuid", "search_label", "configfile",
    "normal", "linux", "echo", "test", "ls", "cat", "reboot", "halt", "gzio", "minicmd", "boot", "terminal", "serial",
)  # fmt: skip
_OWN_MODULES: Final[dict[Platform, tuple[str, ...]]] = {
    "i386-pc": ("biosdisk",),
    "x86_64-efi": ("efi_gop", "all_video", "gfxterm"),
}
_MAKERS: Final = ("/usr/bin/grub-mkimage", "/usr/bin/grub2-mkimage")
_PACKAGES: Final[dict[Platform, str]] = {"i386-pc": "grub-pc-bin", "x86_64-efi": "grub-efi-amd64-bin"}
_COPIED: Final = (".mod", ".lst", ".img")
_FALLBACK: Final = "/EFI/BOOT/BOOTX64.EFI"
_IMAGE_MAX: Final = 32 << 20
_LIMIT_S: Final = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Grub:
    """A GRUB that can be installed.

    Attributes:
        platform: For which firmware.
        modules: Its folder of modules, on this machine.
        maker: The system's own program that makes its images; empty where this machine's is used.
    """

    platform: Platform
    modules: str
    maker: str


def find_grub(files: RootFiles, platform: Platform) -> Grub:
    """The GRUB to install: the system's own, else this machine's.

    Raises:
        MachineRefusal: Neither has one for that firmware.
    """
    folder = f"/usr/lib/grub/{platform}"
    own = next((path for path in _MAKERS if files.is_program(path)), "")
    if own and files.is_file(f"{folder}/normal.mod") and _runs_here(files):
        return Grub(platform=platform, modules=files.place(folder), maker=own)
    if os.path.isfile(f"{folder}/normal.mod"):
        return Grub(platform=platform, modules=folder, maker="")
    raise MachineRefusal(
        f"neither the restored system nor this machine has a GRUB for {platform}",
        hint=f"On Debian or Ubuntu: sudo apt install {_PACKAGES[platform]} grub-common",
    )


def install_for_bios(linux: MountedLinux) -> tuple[str, ...]:
    """Boot code in the first sector, and GRUB in the BIOS boot partition or behind the MBR; what was done, in words.

    Raises:
        MachineRefusal: There is no GRUB, no boot menu or no room for it.
    """
    grub = find_grub(linux.files, "i386-pc")
    image = bytearray(_make_image(linux, grub))
    room = _room_for_bios(linux)
    if len(image) > room.size:
        raise MachineRefusal(
            f"GRUB needs {len(image)} bytes, and the room for it has {room.size}",
            hint="A BIOS boot partition of 1 MiB is enough; so is a first partition that begins at 1 MiB.",
        )
    first = room.start // _SECTOR
    image[_SECTOR - _BLOCK_LIST : _SECTOR - _BLOCK_LIST + 8] = struct.pack("<Q", first + 1)
    with open(f"{grub.modules}/boot.img", "rb") as file:
        code = bytearray(file.read(_SECTOR))
    code[_KERNEL_SECTOR : _KERNEL_SECTOR + 8] = struct.pack("<Q", first)
    code[_BOOT_DRIVE] = 0xFF
    code[_DRIVE_CHECK : _DRIVE_CHECK + 2] = _NO_CHECK
    with open(linux.bench.disk.device, "r+b") as disk:
        disk.seek(room.start)
        disk.write(image)
        disk.seek(0)
        disk.write(code[:_CODE_SIZE])
        disk.flush()
        os.fsync(disk.fileno())
    return (f"GRUB was installed for a BIOS, {_origin(grub)}",)


def install_for_uefi(linux: MountedLinux, esp: FatVolume, *, fallback: bool = True) -> tuple[str, ...]:
    """GRUB in an EFI system partition, where every firmware looks and in a folder of its own; what was done, in words.

    Args:
        linux: The system that is to start.
        esp: The files of that partition.
        fallback: Also where every firmware looks; without it what is there stays.

    Raises:
        MachineRefusal: There is no GRUB, no boot menu or no room for it.
    """
    grub = find_grub(linux.files, "x86_64-efi")
    image = _make_image(linux, grub)
    for path in (*((_FALLBACK,) if fallback else ()), f"/EFI/{linux.id}/grubx64.efi"):
        write_file(esp, path, image)
    return (f"GRUB was installed for UEFI, {_origin(grub)}",)


def grub_folder(files: RootFiles) -> str:
    """The folder of its GRUB.

    Raises:
        MachineRefusal: There is no boot menu of GRUB in it.
    """
    for folder in ("/boot/grub", "/boot/grub2"):
        if files.is_file(f"{folder}/grub.cfg"):
            return folder
    raise MachineRefusal(
        "the restored system has no boot menu of GRUB", hint="Start it from its own medium and install GRUB there."
    )


def _make_image(linux: MountedLinux, grub: Grub) -> bytes:
    """The program that finds the volume with the boot menu by its UUID; the modules it loads lie beside that menu."""
    folder = grub_folder(linux.files)
    prefix = f"{linux.boot_prefix}{folder.removeprefix('/boot')}"
    early = f"search --no-floppy --fs-uuid --set=root {linux.boot.volume.uuid}\nset prefix=($root){prefix}\n"
    own = f"{folder}/{grub.platform}"
    _copy_modules(linux.files, grub, own)
    linux.files.write_file(f"{own}/load.cfg", early.encode())  # as grub-install calls it, and core.img
    known = set(os.listdir(grub.modules))
    wanted = [name for name in (*_MODULES, *_OWN_MODULES[grub.platform]) if f"{name}.mod" in known]
    core = f"{own}/core.{'img' if grub.platform == 'i386-pc' else 'efi'}"
    options = ["-O", grub.platform, "-p", prefix]
    if grub.maker:
        options += ["-d", f"/usr/lib/grub/{grub.platform}", "-c", f"{own}/load.cfg", "-o", core]
        run_inside(linux.files, [grub.maker, *options, *wanted], timeout_s=_LIMIT_S)
    else:
        early_place, core_place = linux.files.place(f"{own}/load.cfg"), linux.files.place(core)
        options += ["-d", grub.modules, "-c", early_place, "-o", core_place]
        done = run(["grub-mkimage", *options, *wanted], timeout_s=_LIMIT_S)
        done.require_success(hint="Is grub-common of the same version as the modules?")
    return linux.files.read_file(core, 0, _IMAGE_MAX) or b""


def _copy_modules(files: RootFiles, grub: Grub, folder: str) -> None:
    """Modules and image come from one GRUB: a module of another version is refused when it is loaded."""
    place = files.place(folder)
    try:
        os.makedirs(place, exist_ok=True)
        for name in os.listdir(grub.modules):
            if name.endswith(_COPIED):
                shutil.copyfile(f"{grub.modules}/{name}", f"{place}/{name}")
    except OSError as error:
        raise MachineRefusal(
            f"the modules of GRUB were not copied to {folder}: {error.strerror}", hint="They need some 10 MB there."
        ) from error


def _room_for_bios(linux: MountedLinux) -> Extent:
    layout = linux.bench.layout
    if layout.scheme == "gpt":
        found = [part.extent for part in layout.partitions if part.type == BIOS_BOOT_TYPE]
        if not found:
            raise MachineRefusal(
                "a GPT disk starts by BIOS only from a BIOS boot partition, and there is none",
                hint="Start it by UEFI.",
            )
        return found[0]
    return Extent(_SECTOR, min((part.extent.start for part in layout.partitions), default=_SECTOR))


def _runs_here(files: RootFiles) -> bool:
    try:
        require_same_machine(files)
    except MachineRefusal:
        return False
    return True


def _origin(grub: Grub) -> str:
    return "from the system's own files" if grub.maker else "from the files of this machine's GRUB"
