r"""The loader at the path where any firmware looks: ``\EFI\BOOT\BOOTX64.EFI``.

Answers: "does this disk start in a computer whose firmware has never seen it?" A loader in a folder of its own is found
by what the firmware has noted, and that does not come along with the disk.

Sources: UEFI Specification 2.10, section 3.5.1.1; shim ``README.fallback`` (shim starts ``grubx64.efi`` beside it);
systemd-boot(7).
"""

from collections.abc import Iterator
from typing import Final

from stillframe.host.esp_files import FatVolume, list_names, read_file, write_file
from stillframe.systems.efi_loaders import LINUX_LOADERS

_FOLDER: Final = "/EFI/BOOT"
_NAME: Final = "BOOTX64.EFI"
_NOT_OURS: Final = ("boot", "microsoft")
_LOADERS: Final = tuple(form.format("x64") for form in LINUX_LOADERS)
_COMPANIONS: Final = ("grubx64.efi", "mmx64.efi", "grub.cfg")
"""What a loader looks for beside it."""


def write_fallback(esp: FatVolume) -> Iterator[str]:
    """Copy a Linux's loader to where any firmware looks, if nothing is there; what was done, in words.

    Raises:
        MachineRefusal: The volume cannot be read, or is full.
    """
    if _NAME.lower() in {name.lower() for name in list_names(esp, _FOLDER) or ()}:
        return
    for vendor in list_names(esp, "/EFI") or ():
        names = {name.lower() for name in list_names(esp, f"/EFI/{vendor}") or ()}
        loader = next((name for name in _LOADERS if name in names), None)
        if vendor.lower() not in _NOT_OURS and loader is not None:
            _copy(esp, f"/EFI/{vendor}/{loader}", f"{_FOLDER}/{_NAME}")
            for name in _COMPANIONS:
                if name in names and name != loader:
                    _copy(esp, f"/EFI/{vendor}/{name}", f"{_FOLDER}/{name}")
            yield f"the loader of EFI/{vendor} was copied to where any firmware looks, EFI/BOOT/{_NAME}"
            return


def _copy(esp: FatVolume, source: str, target: str) -> None:
    contents = read_file(esp, source)
    if contents is not None:
        write_file(esp, target, contents)
