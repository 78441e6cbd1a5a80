r"""What starts a computer, made by the tools that make it for real, or from what is published of it.

Answers: "where does a test get boot code, a GRUB, a unified kernel, a ``boot.ini``, a store?" GRUB's images come from
``grub-mkimage`` and are put where ``grub-bios-setup`` would put them; programs for UEFI get their sections from
``objcopy``. Boot code of Windows is only its published first bytes and messages: it does not run.
"""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from stillframe.testing.hive_builder import Tree, build_hive
from stillframe.testing.system_disks import MIB, Part
from stillframe.testing.tools import run_tool
from stillframe.testing.windows_backup import BOOTMGR

_GRUB_FOLDER: Final = Path("/usr/lib/grub/i386-pc")
WINDOWS_CODE: Final = b"\x33\xc0\x8e\xd0\xbc\x00\x7c\xfb\x50\x07\x50\x1f\xfc".ljust(300, b"\x90") + (
    b"Invalid partition table\0Error loading operating system\0Missing operating system\0"
)
NTLDR_SECTOR: Final = b"\xeb\x52\x90NTFS    ".ljust(400, b"\x90") + b"\r\nNTLDR is missing\0"
BOOTMGR_SECTOR: Final = b"\xeb\x52\x90NTFS    ".ljust(400, b"\x90") + b"\r\nBOOTMGR is missing\0"
LEGACY: Final = "{466f5a88-0af2-4f76-9038-095b170dc21c}"


def boot_ini(*places: str, default: str = "") -> bytes:
    """A ``boot.ini`` as Windows XP writes it."""
    lines = [f'{place}="Windows {number}" /noexecute=optin /fastdetect' for number, place in enumerate(places, 1)]
    head = ["[boot loader]", "timeout=30", f"default={default or places[0]}", "[operating systems]"]
    return ("\r\n".join([*head, *lines]) + "\r\n").encode("ascii")


def xp_files(folder: str = "WINDOWS", *, name: str = "Microsoft Windows XP", host: str = "OLD-PC") -> dict[str, bytes]:
    """What makes a volume a Windows XP, with the values that its registry is known to have."""
    version = {
        "ProductName": name, "CurrentVersion": "5.1", "CurrentBuildNumber": "2600", "CSDVersion": "Service Pack 3",
        "CurrentBuild": "1.511.1 () (Obsolete data - do not use)",
    }  # fmt: skip
    control: Tree = {
        "ComputerName": {"ComputerName": {"ComputerName": host}},
        "Session Manager": {"Environment": {"PROCESSOR_ARCHITECTURE": "x86"}},
    }
    return {
        f"{folder}/system32/config/system": build_hive({
            "MountedDevices": {"x": 1}, "Select": {"Current": 1}, "ControlSet001": {"Control": control},
        }),
        f"{folder}/system32/config/software": build_hive(
            {"Microsoft": {"Windows NT": {"CurrentVersion": version}}}
        ),
        f"{folder}/system32/ntoskrnl.exe": b"MZ" * 3000,
    }  # fmt: skip


def xp_starts(ini: bytes) -> dict[str, bytes]:
    """What starts a Windows XP."""
    return {"ntldr": b"loader" * 4000, "NTDETECT.COM": b"detect" * 800, "boot.ini": ini}


def xp_mbr(kind: str = "ntfs") -> list[Part]:
    """One partition with everything, and one with data: as XP lays a disk out."""
    files = {**xp_starts(boot_ini(r"multi(0)disk(0)rdisk(0)partition(1)\WINDOWS")), **xp_files()}
    code = "7" if kind == "ntfs" else "c"
    return [
        Part(size=40 * MIB, type=code, kind=kind, files=files, active=True),
        Part(size=16 * MIB, type="7", kind="ntfs", files={"Photos/a.jpg": b"photo"}),
    ]


def full_store(
    manager: bytes, systems: Mapping[str, tuple[str, bytes]], *, default: str = "", legacy: bytes = b"",
    loader: str = r"\Windows\system32\winload.efi",
) -> bytes:  # fmt: skip
    """A BCD with titles, an order, and what else real ones have.

    Args:
        manager: The device of the boot manager.
        systems: Titles and devices, by the names of their objects, in the order of the menu.
        default: The name of the default; the first when empty.
        legacy: The device of an NT loader, which comes last in the menu.
        loader: The path of the loaders.
    """
    order = [*systems, *([LEGACY] if legacy else [])]
    objects: dict[str, Tree] = {
        BOOTMGR: _object(0x10100002, {
            "11000001": manager, "12000004": "Windows Boot Manager", "23000003": default or order[0],
            "24000001": ("\0".join(order) + "\0\0").encode("utf-16-le"),
        }),
        "{1afa9c49-16ab-4a5c-901b-212802da9460}": _object(0x10200004, {"21000001": manager, "12000004": "Resume"}),
    }  # fmt: skip
    for name, (title, device) in systems.items():
        elements: Tree = {
            "11000001": device, "12000002": loader, "12000004": title, "21000001": device, "22000002": r"\Windows",
        }  # fmt: skip
        objects[name] = _object(0x10200003, elements)
    if legacy:
        objects[LEGACY] = _object(0x10300006, {"11000001": legacy, "12000002": r"\ntldr", "12000004": "Older Windows"})
    return build_hive({"Description": {"KeyName": "BCD00000000"}, "Objects": objects})


def _object(kind: int, elements: Tree) -> Tree:
    return {
        "Description": {"Type": kind},
        "Elements": {name: {"Element": value} for name, value in elements.items()},
    }  # fmt: skip


def write_code(path: Path, code: bytes, *, at: int = 0) -> None:
    """Boot code in the first sector of a disk or a volume; tables and the facts of volumes stay."""
    limit, skip = (440, 0) if at == 0 else (510, 0x5A)
    with path.open("r+b") as file:
        file.seek(at + skip)
        file.write(code[skip:limit].ljust(limit - skip, b"\0"))
        file.seek(at + 510)
        file.write(b"\x55\xaa")


def install_grub(disk: Path, *, at: int, prefix: str, config: str, modules: Sequence[str] = ("ext2",)) -> None:
    """GRUB for a BIOS, as ``grub-bios-setup`` installs it.

    Source: GRUB 2.06, include/grub/i386/pc/boot.h: GRUB_BOOT_MACHINE_KERNEL_SECTOR and GRUB_BOOT_MACHINE_LIST_SIZE.

    Args:
        disk: With its table.
        at: Where the core image goes: behind the first sector, or into the BIOS boot partition.
        prefix: As ``grub-mkimage`` takes it.
        config: Commands to build in; none when empty.
        modules: Likewise.
    """
    core, early = disk.with_suffix(".core"), disk.with_suffix(".early")
    early.write_text(config)
    words = ["-c", str(early)] if config else []
    run_tool(
        "grub-mkimage", "-O", "i386-pc", "-o", str(core), "-p", prefix, *words, "biosdisk", "part_gpt", "part_msdos",
        "search_fs_uuid", *modules,
    )  # fmt: skip
    image = bytearray(core.read_bytes())
    image[500:508] = struct.pack("<Q", at // 512 + 1)
    boot = (_GRUB_FOLDER / "boot.img").read_bytes()
    with disk.open("r+b") as file:
        file.write(boot[:0x5C] + struct.pack("<Q", at // 512) + boot[0x64:440])
        file.seek(at)
        file.write(image)
    core.unlink()
    early.unlink()


def grub_program(folder: Path, *, prefix: str, config: str = "") -> bytes:
    """GRUB for UEFI."""
    target, early = folder / "grub.efi", folder / "early.cfg"
    early.write_text(config)
    words = ["-c", str(early)] if config else []
    run_tool("grub-mkimage", "-O", "x86_64-efi", "-o", str(target), "-p", prefix, *words, "part_gpt", "search_fs_uuid")
    return target.read_bytes()


def program_with(folder: Path, sections: Mapping[str, bytes]) -> bytes:
    """A program for UEFI with these sections, such as a unified kernel."""
    base, target = folder / "base.efi", folder / "made.efi"
    base.write_bytes(grub_program(folder, prefix="/none"))
    words = ["--remove-section", "mods"]
    for number, (name, contents) in enumerate(sections.items()):
        piece = folder / f"section{number}"
        piece.write_bytes(contents)
        place = 0x2000000 + number * 0x100000  # in memory, behind all that was there
        words += ["--add-section", f"{name}={piece}", "--change-section-vma", f"{name}={place:#x}"]
    run_tool("objcopy", *words, str(base), str(target))
    return target.read_bytes()
