"""The medium as one file, for a CD and for a stick alike.

Answers: "with which command is an ISO made that BIOS and UEFI start, from CD and from stick?" UEFI finds Debian's
signed programs in a small FAT, which is a partition of the stick and a boot image of the CD at once.

Sources: xorrisofs(1), "Bootable ISO images", ``--grub2-mbr``, ``-append_partition``, ``--interval:``; UEFI
Specification 2.10, section 13.3.2.1 "ISO-9660 and El Torito".
"""

import os
from typing import Final

from stillframe.events import PhaseStarted
from stillframe.rescue.medium.base import Base, Step
from stillframe.rescue.medium.tree import ESP_FILES, label_of
from stillframe.units import KIB, MIB, align_up

_EFI_TYPE: Final = "28732ac11ff8d211ba4b00a0c93ec93b"
"""The GUID of an EFI system partition, as xorriso takes it."""
_BASIC_TYPE: Final = "a2a0d0ebe5b9334487c068b6b72699c7"
"""The GUID of Microsoft's basic data, likewise."""
_CD_IMAGE: Final = "boot/grub/cd.img"


def make_iso(base: Base, tree: str, path: str, room: str, step: Step) -> None:
    """Make the file.

    Args:
        base: Whose boot loaders.
        tree: The files of the medium.
        path: The file to make.
        room: A folder to work in.
        step: Carries programs out.

    Raises:
        MachineRefusal: It could not be made.
    """
    step.events.emit(PhaseStarted(name="writing the ISO"))
    efi = os.path.join(room, "efi.img")
    make_efi_image(base, efi, step)
    with open(base.piece("grub/cd.img"), "rb") as source, open(os.path.join(tree, _CD_IMAGE), "wb") as target:
        target.write(source.read())  # a copy: xorriso writes a table into it
    for here, _, names in os.walk(tree, topdown=False):
        for file in (*(os.path.join(here, name) for name in names), here):
            os.utime(file, (step.epoch, step.epoch))
    command = [
        "xorriso", "-as", "mkisofs", "-quiet", "-o", path, "-V", label_of(base), "-r", "-J", "-joliet-long",
        "-iso-level", "3", "--grub2-mbr", base.piece("grub/boot_hybrid.img"), "--protective-msdos-label",
        "-partition_cyl_align", "off", "-partition_offset", "16", "-append_partition", "2", _EFI_TYPE, efi,
        "-appended_part_as_gpt", "-iso_mbr_part_type", _BASIC_TYPE, "-c", "boot/boot.cat", "-b", _CD_IMAGE,
        "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", "--grub2-boot-info", "-eltorito-alt-boot", "-e",
        "--interval:appended_partition_2:all::", "-no-emul-boot", tree,
    ]  # fmt: skip
    step.run(command, what="writing the ISO")
    os.unlink(efi)


def make_efi_image(base: Base, path: str, step: Step) -> None:
    """A small FAT with the programs that UEFI starts."""
    sizes = [os.path.getsize(base.piece(f"efi/{name}")) for name in ESP_FILES]
    size = align_up(sum(align_up(size, 32 * KIB) for size in sizes) + MIB, MIB)
    step.run(
        ["mkfs.fat", "--invariant", "-n", "SFEFI", "-i", "5F5F5F5F", "-C", path, str(size // KIB)],
        what="making the EFI partition",
    )
    step.run(["mmd", "-i", path, "::/EFI", "::/EFI/BOOT"], what="filling the EFI partition")
    files = [base.piece(f"efi/{name}") for name in ESP_FILES]
    step.run(["mcopy", "-i", path, *files, "::/EFI/BOOT/"], what="filling the EFI partition")
