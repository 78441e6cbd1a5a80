"""A Linux on a target gets a boot loader for other firmware, and tables that name its partitions as they are now.

Answers: "what must be written so that this disk starts?" It is done on the workbench: the target gets all of it or
nothing. The loader is the system's own signed one, or GRUB as ``linux_boot`` installs it; it searches the file system
with the boot menu by its id, and goes on with that menu.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from stillframe.block import BlockWriter
from stillframe.disk import Layout
from stillframe.disk.other_scheme import ESP_GUID
from stillframe.errors import MachineRefusal
from stillframe.events import Notice, PhaseStarted
from stillframe.host.esp_files import FatVolume, write_file
from stillframe.host.new_fat import make_fat
from stillframe.host.root_files import RootFiles
from stillframe.jobs.context import JobContext
from stillframe.jobs.conversions.conversion import Conversion
from stillframe.jobs.conversions.found_linux import PROGRAM_MAX, SIGNED_GRUB, find_shim
from stillframe.jobs.restoring.tables import TableWriter
from stillframe.jobs.starts.linux_boot import grub_folder, install_for_bios, install_for_uefi
from stillframe.jobs.starts.linux_mounts import MountedLinux, mount_linux
from stillframe.jobs.starts.linux_parts import read_parts
from stillframe.jobs.starts.workbench import Workbench, work_on
from stillframe.systems import grub
from stillframe.systems.linux_ids import ID_TEXTS, iter_paths

_MOK: Final = "/usr/lib/shim/mmx64.efi.signed"
"""Shim's own program for keys, which it asks for by this name."""
_FALLBACK: Final = "/EFI/BOOT"
_FSTAB: Final = "/etc/fstab"
_FIXED: Final = "grubenv"
"""A block of 1,024 bytes: GNU GRUB manual 2.06, section 15.2; an id of another length does not go into it."""
_WORDS: Final = {"uefi": "UEFI", "bios": "a BIOS", "bios-mbr": "a BIOS"}
_SECURE: Final = Notice(
    code="secure-boot-off",
    message="the new boot loader is not signed: firmware with Secure Boot switched on does not start it",
    hint="Switch Secure Boot off, or install the signed one when it has started: on Debian or Ubuntu "
    "'apt install shim-signed grub-efi-amd64-signed'.",
)


def start_converted(
    target: BlockWriter, table: TableWriter, before: Layout, conversion: Conversion, context: JobContext
) -> tuple[str, ...]:
    """Make a converted disk start; what was done, in sentences.

    Raises:
        MachineRefusal: It was not possible; then nothing of it is on the target.
    """
    context.events.emit(PhaseStarted(name=f"making {conversion.linux.name} start by {_WORDS[conversion.starts_by]}"))

    def work(bench: Workbench) -> tuple[str, ...]:
        linux = _mount(bench, before, conversion)
        return (*_install(linux, conversion), *_change_texts(linux, before, conversion))

    done = work_on(target, table, conversion.layout, context.events, work)
    if conversion.starts_by == "uefi" and conversion.linux.loader == "made":
        context.events.emit(_SECURE)
    return done


def _mount(bench: Workbench, before: Layout, conversion: Conversion) -> MountedLinux:
    """The Linux that is to start, by its number on the target."""
    numbers = conversion.draft.numbers
    taken = tuple(replace(part, number=numbers[part.number]) for part in before.partitions if part.number in numbers)
    # The signature and number of an MBR were its names; its partitions keep their numbers when they become a GPT's.
    parts = read_parts(bench, replace(before, partitions=taken), tuple(numbers.values()))
    wanted = numbers[conversion.linux.root]
    found = next((linux for linux in mount_linux(bench, parts) if linux.parts["/"].number == wanted), None)
    if found is None:
        raise MachineRefusal(
            f"{conversion.linux.name} is not in partition {wanted} of the target, where it was written",
            hint="Run the same restore again; if that is of no use, report it.",
        )
    return found


def _install(linux: MountedLinux, conversion: Conversion) -> Iterator[str]:
    if conversion.starts_by != "uefi":
        yield from install_for_bios(linux)
        return
    number = next(part.number for part in conversion.layout.partitions if part.type == ESP_GUID)
    device = linux.bench.disk.node(number)
    make_fat(device, label="ESP", volume_id=conversion.esp_id)
    yield f"partition {number} is a new EFI system partition"
    if conversion.linux.loader == "signed":
        write_signed(linux, FatVolume(path=device), f"/EFI/{conversion.linux.folder}")
        yield "the system's own signed GRUB was installed for UEFI"
    else:
        yield from install_for_uefi(linux, FatVolume(path=device))


def write_signed(linux: MountedLinux, esp: FatVolume, own: str, *, fallback: bool = True) -> None:
    """Shim, which Microsoft signed, starts the GRUB beside it, which the distribution signed.

    Args:
        linux: The system, whose files these are.
        esp: Where they go.
        own: The folder that its GRUB looks in.
        fallback: Also where every firmware looks.

    Raises:
        MachineRefusal: There is no boot menu, or no room.
    """
    programs = {"shimx64.efi": find_shim(linux.files) or "", "grubx64.efi": SIGNED_GRUB, "mmx64.efi": _MOK}
    for name, path in programs.items():
        contents = linux.files.read_file(path, 0, PROGRAM_MAX)
        if contents is not None:
            write_file(esp, f"{own}/{name}", contents)
            if fallback:
                write_file(esp, f"{_FALLBACK}/{'BOOTX64.EFI' if name == 'shimx64.efi' else name}", contents)
    folder = f"{linux.boot_prefix}{grub_folder(linux.files).removeprefix('/boot')}"
    write_file(esp, f"{own}/{grub.MENU}", grub.loader_text(linux.boot.volume.uuid, folder).encode())


def _change_texts(linux: MountedLinux, before: Layout, conversion: Conversion) -> Iterator[str]:
    """Names of partitions in tables and in the boot menu, and the mount of a new EFI system partition."""
    renaming = grub.rename_partitions(before, conversion.layout, conversion.draft.numbers)
    esp = f"{conversion.esp_id[:4]}-{conversion.esp_id[4:]}"
    for path in iter_paths(linux.files, ID_TEXTS):
        raw = linux.files.read_file(path, 0, grub.TEXT_MAX + 1)
        if raw is None or len(raw) > grub.TEXT_MAX or path.endswith(_FIXED):
            continue
        text = raw.decode("utf-8", "surrogateescape")
        changed = grub.renamed_menu(text, renaming) if path.endswith(".cfg") else grub.renamed_text(text, renaming)
        if path == _FSTAB:
            changed = grub.renumbered_fstab(changed, renaming)
            changed = grub.with_esp(changed, esp) if conversion.starts_by == "uefi" else changed
        if changed != text:
            linux.files.write_file(path, changed.encode("utf-8", "surrogateescape"))
            yield f"{path} names partitions as they are now"
    if conversion.starts_by == "uefi":
        _make_folder(linux.files, grub.ESP_PLACE)


def _make_folder(files: RootFiles, path: str) -> None:
    place = files.place(path)
    try:
        os.makedirs(place, exist_ok=True)
    except OSError as error:
        raise MachineRefusal(f"{path} was not made: {error.strerror}", hint="Is the volume full?") from error
