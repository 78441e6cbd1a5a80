r"""Loaders for UEFI that a firmware has to be told of: those in folders of their own.

Answers: "which programs on this EFI system partition start the systems on this disk, and what are they called?" The one
where any firmware looks by itself, ``\EFI\BOOT``, is none of them.

Sources: UEFI Specification 2.10, section 3.5.1.1 (names of processors in file names); shim ``README.fallback``;
systemd-boot(7); names of entries as the installers of Debian, Fedora, systemd and Windows write them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from stillframe.systems.records import SystemFiles

Processor = Literal["x64", "ia32", "aa64"]
"""As file names of loaders have it."""
_TOP: Final = "/EFI"
_WINDOWS: Final = ("Boot", "bootmgfw.efi")
LINUX_LOADERS: Final = ("shim{}.efi", "grub{}.efi", "systemd-boot{}.efi")
"""Which of the loaders in one folder is started: the first that is there; ``{}`` is the processor."""
_NAMES: Final = {"systemd": "Linux Boot Manager", "microsoft": "Windows Boot Manager"}
_FALLBACK: Final = "boot"
_FOLDERS_MAX: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class EfiLoader:
    """A loader.

    Attributes:
        label: What it is called in the menu of a firmware.
        path: Its place on the volume, with backslashes, as firmware writes it.
    """

    label: str
    path: str


def find_loaders(files: SystemFiles, processor: Processor) -> tuple[EfiLoader, ...]:
    """The loaders on an EFI system partition for one kind of processor, those of Linux before that of Windows.

    Raises:
        StillframeError: The volume cannot be read.
    """
    folders = [name for name in files.list_names(_TOP) if name.lower() != _FALLBACK][:_FOLDERS_MAX]
    found = [loader for folder in folders for loader in _in_folder(files, folder, processor)]
    return tuple(sorted(found, key=lambda one: one.label == _NAMES["microsoft"]))


def _in_folder(files: SystemFiles, folder: str, processor: Processor) -> Iterator[EfiLoader]:
    label = _NAMES.get(folder.lower(), folder)
    if folder.lower() == "microsoft":
        inner, program = _WINDOWS
        names = {name.lower(): name for name in files.list_names(f"{_TOP}/{folder}/{inner}")}
        if program in names:
            yield EfiLoader(label=label, path=rf"\EFI\{folder}\{inner}\{names[program]}")
        return
    names = {name.lower(): name for name in files.list_names(f"{_TOP}/{folder}")}
    program = next((name for form in LINUX_LOADERS if (name := form.format(processor)) in names), "")
    if program:
        yield EfiLoader(label=label, path=rf"\EFI\{folder}\{names[program]}")
