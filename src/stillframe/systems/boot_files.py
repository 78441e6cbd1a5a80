r"""What starts a computer, from the files of one volume: loaders for UEFI, NT's loader, boot menus of Linux.

Answers: "does anything start from here, and which other volumes does it name?" Windows' boot manager and its store are
in ``windows_disks``.

Sources: UEFI Specification 2.10, section 13.3.1.3 (``\EFI`` and a folder for each vendor); GNU GRUB manual 2.06,
"search"; The Boot Loader Specification, uapi-group.org (entries; ``EFI/Linux`` for unified images); the SYSLINUX wiki,
"EXTLINUX" and "Config"; Linux Documentation/admin-guide/kernel-parameters.txt (``root=``, ``resume=``).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from stillframe.errors import StillframeError
from stillframe.systems.boot_ini import SIZE_MAX, BootIni, parse_boot_ini
from stillframe.systems.fstab import plain
from stillframe.systems.records import SystemFiles

_MENUS: Final = (
    "/grub/grub.cfg", "/grub2/grub.cfg", "/boot/grub/grub.cfg", "/boot/grub2/grub.cfg", "/extlinux/extlinux.conf",
    "/boot/extlinux/extlinux.conf", "/syslinux/syslinux.cfg", "/boot/syslinux/syslinux.cfg", "/loader/loader.conf",
)  # fmt: skip
_ENTRIES: Final = ("/loader/entries", "/boot/loader/entries")
_NTLDR: Final = "/ntldr"
_BOOT_INI: Final = "/boot.ini"
_UNIFIED: Final = "linux"
_FILE_MAX: Final = 256 << 10
_FOLDERS_MAX: Final = 16
_ENTRIES_MAX: Final = 64
_NAMES_MAX: Final = 200
_TAG: Final = re.compile(r"\b(UUID|PARTUUID|LABEL|PARTLABEL)=\"?(?:luks-)?([^\s\"':,;]{1,100})", re.IGNORECASE)
_SEARCH: Final = re.compile(r"fs[-_]uuid")
_UUID: Final = re.compile(
    r"(?<![\w-])([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{4}-[0-9a-f]{4}|[0-9a-f]{16})(?![\w-])",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFiles:
    """What of one volume starts a computer.

    Attributes:
        loaders: Folders below ``EFI`` that hold a program for UEFI, as they are written.
        has_ntldr: It holds the loader of Windows NT to 2003.
        ini: The ``boot.ini`` beside it; ``None`` when there is none.
        menus: Boot menus of Linux on it, by their paths.
        named: The volumes that those menus name, such as ``UUID=...``.
        is_unified: It holds kernels that are programs for UEFI.
    """

    loaders: tuple[str, ...] = ()
    has_ntldr: bool = False
    ini: BootIni | None = None
    menus: tuple[str, ...] = ()
    named: frozenset[str] = frozenset()
    is_unified: bool = False

    @property
    def starts_linux(self) -> bool:
        """Whether a Linux is started from here, as far as loaders and menus show it."""
        ours = {"microsoft", "boot"}
        return bool(self.menus) or self.is_unified or any(name.lower() not in ours for name in self.loaders)


def read_boot_files(files: SystemFiles) -> BootFiles:
    """Look at the few places of a volume from which a computer starts. What cannot be read is not there."""
    written = {name.lower(): name for name in _names(files, "/")}
    top = set(written)
    folder = f"/{written.get('efi', 'EFI')}"
    efi = _names(files, folder)[:_FOLDERS_MAX] if "efi" in top else ()
    loaders = tuple(name for name in efi if _has_program(files, f"{folder}/{name}"))
    places = (*_MENUS, *(f"{folder}/{name}/grub.cfg" for name in loaders))
    menus = [path for path in places if _is_there(files, path, top)]
    for entries in _ENTRIES:
        if entries.split("/")[1] in top:
            found = sorted(name for name in _names(files, entries) if name.endswith(".conf"))[:_ENTRIES_MAX]
            menus += [f"{entries}/{name}" for name in found]
    named = frozenset(name for path in menus for name in parse_menu(_text(files, path)))
    ini = _bytes(files, _BOOT_INI, SIZE_MAX) if _BOOT_INI[1:] in top else b""
    return BootFiles(
        loaders=tuple(plain(name) for name in loaders), has_ntldr=_is_there(files, _NTLDR, top), menus=tuple(menus),
        ini=parse_boot_ini(ini) if ini else None, named=named,
        is_unified=any(name.lower() == _UNIFIED for name in loaders),
    )  # fmt: skip


def parse_menu(text: str) -> frozenset[str]:
    """The volumes that a boot menu names: tags on lines of kernels, and what GRUB searches for."""
    found = set[str]()
    for line in text.splitlines():
        if len(found) >= _NAMES_MAX or line.lstrip().startswith("#"):
            continue
        found |= {plain(f"{tag.upper()}={value}") for tag, value in _TAG.findall(line)}
        if _SEARCH.search(line):
            found |= {f"UUID={value}" for value in _UUID.findall(line)}
    return frozenset(found)


def _has_program(files: SystemFiles, folder: str) -> bool:
    return any(name.lower().endswith(".efi") for name in _names(files, folder))


def _is_there(files: SystemFiles, path: str, top: set[str]) -> bool:
    """Whether a file is there; ``top`` saves most of the questions."""
    if path.split("/")[1].lower() not in top:
        return False
    try:
        return files.read_file(path, 0, 1) is not None
    except StillframeError:
        return False


def _text(files: SystemFiles, path: str) -> str:
    return _bytes(files, path, _FILE_MAX).decode(errors="replace")


def _bytes(files: SystemFiles, path: str, size_max: int) -> bytes:
    try:
        return files.read_file(path, 0, size_max) or b""
    except StillframeError:
        return b""


def _names(files: SystemFiles, path: str) -> tuple[str, ...]:
    try:
        return files.list_names(path)
    except StillframeError:
        return ()


def iter_titles(loaders: tuple[str, ...]) -> Iterator[str]:
    """Whose loaders these are, in words."""
    for name in loaders:
        if name.lower() == "boot":
            yield "for any computer"
        else:
            yield "of Windows" if name.lower() == "microsoft" else f"of {name}"
