r"""What this computer's UEFI firmware knows to start: its entries, read, and added to.

Answers: "does the firmware know this loader?" and "tell it." An entry names a partition by its number, its id and where
it lies, and a program on it. Entries that are there are never changed, and none is removed.

Sources: efibootmgr(8); UEFI Specification 2.10, sections 3.1.3 "Load Options" and 10.3.5.1 "Hard Drive Media Device
Path"; the texts of efibootmgr 17 (``File(...)``) and 18 (the path alone), as recorded in the tests.
"""

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from stillframe.extents import Extent
from stillframe.host.blocks import THIS_MACHINE, KernelPaths, read_text
from stillframe.host.run import run

_LINE: Final = re.compile(r"^Boot([0-9A-Fa-f]{4})\* (.*)$")
"""An entry that is switched off has a space for the star."""
_DRIVE: Final = re.compile(
    r"HD\((\d{1,5}),(?:GPT|MBR),(?:0x)?([0-9A-Fa-f-]{1,36}),0x([0-9A-Fa-f]{1,16}),0x([0-9A-Fa-f]{1,16})\)"
    r"/(?:File\()?(\\[^\t()]*?\.efi)",
    re.IGNORECASE,
)
_ENTRIES_MAX: Final = 0x10000
_PROCESSORS: Final[dict[str, Literal["x64", "aa64"]]] = {"x86_64": "x64", "aarch64": "aa64"}
_TIMEOUT_S: Final = 120.0
"""Some firmware takes seconds for a write."""
_HINT: Final = "Its memory may be full or locked; its own set-up menu can choose the loader too."


@dataclass(frozen=True, slots=True, kw_only=True)
class EfiPlace:
    """A program on a partition, as an entry names it.

    Attributes:
        partition: Number of the partition.
        signature: GUID of the partition, or for an MBR the disk's signature in hex digits; in capital letters.
        extent: Where the partition lies, in bytes.
        loader: Path of the program, with backslashes.
    """

    partition: int
    signature: str
    extent: Extent
    loader: str

    @property
    def key(self) -> tuple[int, str, Extent, str]:
        """What makes two of them the same: FAT ignores the case of letters."""
        return self.partition, self.signature, self.extent, self.loader.upper()


def parse_entries(text: str, *, sector_size: int) -> tuple[EfiPlace, ...]:
    """The entries for programs on disks, from what ``efibootmgr -v`` prints; not others, nor any that is switched off.

    Args:
        text: All of it.
        sector_size: Bytes of the sectors that places are counted in: those of the disk one asks about. Places on
            disks with other sectors come out wrong, and their ids are others anyway.
    """
    found = []
    for line in text.splitlines()[:_ENTRIES_MAX]:
        entry = _LINE.match(line)
        drive = _DRIVE.search(entry[2]) if entry else None
        if drive:
            start_lba, size_sectors = int(drive[3], 16), int(drive[4], 16)
            extent = Extent(start_lba * sector_size, (start_lba + size_sectors) * sector_size)
            signature = drive[2].upper().zfill(8)  # that of an MBR is printed without leading zeros
            found.append(EfiPlace(partition=int(drive[1]), signature=signature, extent=extent, loader=drive[5]))
    return tuple(found)


def processor(kernel: KernelPaths = THIS_MACHINE) -> Literal["x64", "ia32", "aa64"] | None:
    """Which programs this computer's UEFI starts, as file names have it; ``None`` where it did not start by UEFI.

    Source: Linux Documentation/ABI/testing/sysfs-firmware-efi (``fw_platform_size``).
    """
    folder = f"{kernel.sys}/firmware/efi"
    if not os.path.isdir(f"{folder}/efivars"):
        return None
    machine = _PROCESSORS.get(platform.machine())
    is_short = read_text(f"{folder}/fw_platform_size") == "32"
    return "ia32" if machine == "x64" and is_short else machine


def read_places(*, sector_size: int) -> tuple[EfiPlace, ...]:
    """The entries of this computer's firmware for programs on disks.

    Raises:
        MissingProgram: ``efibootmgr`` is not installed.
        MachineRefusal: The firmware does not say.
    """
    done = run(["efibootmgr", "--verbose"], timeout_s=_TIMEOUT_S).require_success(hint=_HINT)
    return parse_entries(done.text, sector_size=sector_size)


def creation_line(disk: str, place: EfiPlace, label: str, *, first: bool) -> Sequence[str]:
    """The command that adds an entry, which then is tried first, or else only when a person chooses it."""
    number, how = str(place.partition), "--create" if first else "--create-only"
    return ["efibootmgr", how, "--disk", disk, "--part", number, "--label", label, "--loader", place.loader]


def create_entry(disk: str, place: EfiPlace, label: str, *, first: bool) -> None:
    """Add an entry.

    Args:
        disk: The disk of the place.
        place: Where the program lies.
        label: What menus call it.
        first: The firmware tries it before those that are there; else it is only in the firmware's menu.

    Raises:
        MissingProgram: ``efibootmgr`` is not installed.
        MachineRefusal: The firmware does not take it.
    """
    run(creation_line(disk, place, label, first=first), timeout_s=_TIMEOUT_S).require_success(hint=_HINT)
