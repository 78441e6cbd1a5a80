"""A Linux that no firmware finds: GRUB is installed anew, by the files of the system where it has them.

Answers: "what starts this Linux?" For a BIOS boot code and core image; for UEFI the signed loader of the system, or a
GRUB that is made here. What another loader holds is not replaced: only a way that leads nowhere is made anew.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from stillframe.errors import MachineRefusal
from stillframe.events import EventSink
from stillframe.host.esp_files import FatVolume, list_names
from stillframe.jobs.conversions.found_linux import PROGRAM_MAX, SIGNED_GRUB, find_shim
from stillframe.jobs.conversions.grub_starts import write_signed
from stillframe.jobs.mending.esp import find_esp, require_fat
from stillframe.jobs.mending.linux_names_on_bench import require_awake
from stillframe.jobs.starts.linux_boot import install_for_bios, install_for_uefi
from stillframe.jobs.starts.linux_fallback import write_fallback
from stillframe.jobs.starts.linux_mounts import MountedLinux, find_roots, mount_linux
from stillframe.jobs.starts.linux_parts import ROOT_FILE_SYSTEMS, read_parts
from stillframe.jobs.starts.windows_adapting import write_fallback as write_windows_fallback
from stillframe.jobs.starts.workbench import Workbench
from stillframe.systems.grub import find_vendor

if TYPE_CHECKING:
    from stillframe.disk import Layout

_FALLBACK: Final = "bootx64.efi"
_OWN_HINT: Final = (
    "Start the computer from its system's own medium, open the volumes there, and install GRUB there ('grub-install')."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderWork:
    """Work on the bench.

    Attributes:
        layout: Of the disk.
        bios: Make it start by BIOS.
        uefi: Make it start by UEFI.
        replaces_fallback: What is where all firmware looks leads nowhere, and may be written over.
        esp_id: Of an EFI system partition that is made anew.
    """

    layout: "Layout"
    bios: bool
    uefi: bool
    replaces_fallback: bool
    esp_id: str

    def do(self, bench: Workbench) -> tuple[str, ...]:
        """Install what is missing; what was done, in sentences; none when there is no Linux.

        Raises:
            MachineRefusal: It is not possible, and nothing of it may be taken over.
        """
        parts = read_parts(bench, self.layout, [part.number for part in self.layout.partitions])
        roots = find_roots(bench, parts)
        if not roots:
            return ()
        require_awake(parts)
        linux = _choose(mount_linux(bench, parts, roots))
        done = list[str]()
        if self.bios:
            done += [f"{linux.name}: {words}" for words in install_for_bios(linux)]
        if self.uefi:
            done += [f"{linux.name}: {words}" for words in self._for_uefi(bench, linux)]
        return tuple(done)

    def _for_uefi(self, bench: Workbench, linux: MountedLinux) -> Iterator[str]:
        part = find_esp(self.layout)
        if part is None:
            raise MachineRefusal(
                "which EFI system partition is meant cannot be told", hint="Only a disk with one is repaired here."
            )
        esp, words = require_fat(bench, part, self.esp_id)
        yield from words
        known = {name.lower() for name in list_names(esp, "/EFI/BOOT") or ()}
        fallback = self.replaces_fallback or _FALLBACK not in known
        signed = linux.files.read_file(SIGNED_GRUB, 0, PROGRAM_MAX)
        vendor = find_vendor(signed) if signed else None
        if vendor and find_shim(linux.files):
            write_signed(linux, esp, f"/EFI/{vendor}", fallback=fallback)
            yield "the system's own signed GRUB was installed for UEFI"
        else:
            yield from install_for_uefi(linux, esp, fallback=fallback)


def add_fallback(bench: Workbench, layout: "Layout", events: EventSink) -> tuple[str, ...]:
    """Put a loader where every firmware looks, if nothing is there: a Linux's, else Windows'. What was done, in words.

    Raises:
        MachineRefusal: The volume is full.
    """
    part = find_esp(layout)
    if part is None:
        return ()
    done = tuple(write_fallback(FatVolume(path=bench.disk.node(part.number))))
    return done or tuple(write_windows_fallback(bench, part, events))


def _choose(systems: tuple[MountedLinux, ...]) -> MountedLinux:
    """The first whose boot menu GRUB can find; the menus of distributions start the others.

    Raises:
        MachineRefusal: There is none.
    """
    refusal = ""
    for linux in systems:
        boot = linux.boot
        if boot.nested is not None:
            refusal = refusal or f"/boot of {linux.name} lies inside of {boot.word}, where a new GRUB would not find it"
        elif boot.volume.filesystem not in ROOT_FILE_SYSTEMS or not boot.volume.uuid:
            refusal = refusal or f"GRUB would not find /boot of {linux.name} in {boot.word}: it has no id"
        elif not any(linux.files.is_file(f"/boot/{name}/grub.cfg") for name in ("grub", "grub2")):
            refusal = (
                refusal or f"{linux.name} has no boot menu of GRUB in /boot: its loader is not installed anew here"
            )
        else:
            return linux
    raise MachineRefusal(refusal or "there is no Linux whose loader could be installed", hint=_OWN_HINT)
