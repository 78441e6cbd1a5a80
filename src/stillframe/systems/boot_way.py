"""Whether a disk can start a computer, and in which ways.

Answers: "does this start by BIOS, by UEFI, by both, or not at all?" Looks at the table, at the boot code, and for
loaders on FAT volumes; whether what is found works, only starting it tells. A loader in a folder of its own is no way
by itself: the computer it was on knew of it from its own memory, which is on no disk.

Sources: UEFI Specification 2.10, section 3.5.1.1 (the path for removable media); GNU GRUB manual 2.06, section 3.4
(BIOS boot partition).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from stillframe.block import BlockReader
from stillframe.block.window import WindowReader
from stillframe.disk.layout import Layout, Partition, read_layout
from stillframe.errors import StillframeError
from stillframe.fs.files.sleuthkit import Entry, SleuthVolume, open_volume
from stillframe.fs.files.support import is_read_rightly
from stillframe.fs.registry import identify

_FALLBACK: Final = "efi/boot/bootx64.efi"
_WINDOWS_BOOT: Final = ("efi/microsoft/boot/bootmgfw.efi", "bootmgr")
_WINDOWS: Final = ("windows/system32/winload.efi", "windows/system32/winload.exe", "windows/system32/ntoskrnl.exe")
_BIOS_BOOT_TYPE: Final = "21686148-6449-6E6F-744E-656564454649"
_CODE_SIZE: Final = 440
_LOADERS_MAX: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class BootWays:
    """How a disk can be started.

    Attributes:
        bios: Its first sector holds boot code for what its table is.
        uefi: A volume holds a loader at the path where any firmware looks.
        loaders: Loaders for UEFI elsewhere, as paths.
        windows: A Windows is on it, or its boot manager.
    """

    bios: bool
    uefi: bool
    loaders: tuple[str, ...]
    windows: bool

    @property
    def is_bootable(self) -> bool:
        """Whether there is a way that needs nothing but the disk."""
        return self.bios or self.uefi


def find_boot_ways(disk: BlockReader) -> BootWays:
    """Look for the ways in which a disk can be started. What cannot be read is no way."""
    try:
        layout = read_layout(disk)
    except StillframeError:
        return BootWays(bios=False, uefi=False, loaders=(), windows=False)
    uefi, loaders, windows = False, list[str](), False
    for partition in layout.partitions:
        for path in _found_in(disk, partition):
            uefi |= path == _FALLBACK
            windows |= path in (*_WINDOWS_BOOT, *_WINDOWS)
            if path.endswith(".efi") and path.startswith("efi/") and path != _FALLBACK:
                loaders.append(path)
    return BootWays(bios=has_boot_code(disk, layout), uefi=uefi, loaders=tuple(loaders[:_LOADERS_MAX]), windows=windows)


def has_boot_code(disk: BlockReader, layout: Layout) -> bool:
    """Code and signature in the first sector, and for a GPT the partition that its code goes on in."""
    if disk.size < 512:
        return False
    sector = disk.read_at(0, 512)
    if sector[510:] != b"\x55\xaa" or not any(sector[:_CODE_SIZE]):
        return False
    if layout.scheme == "gpt":
        return any(partition.type == _BIOS_BOOT_TYPE for partition in layout.partitions)
    # A volume without a table begins with a boot sector of its own that mostly says that it cannot be started.
    return layout.scheme == "mbr" or identify(disk).volume.filesystem == ""


def _found_in(disk: BlockReader, partition: Partition) -> Iterator[str]:
    """The paths we look for that are in a partition, in small letters."""
    reader = WindowReader(disk, partition.extent)
    try:
        volume = identify(reader).volume
        if volume.filesystem not in {"vfat", "ntfs"} or not is_read_rightly(reader, volume):
            return
        sleuth = open_volume(reader, volume)
        for path in (*_WINDOWS_BOOT, *_WINDOWS):
            if find_path(sleuth, path) is not None:
                yield path
        if volume.filesystem == "vfat":
            yield from _loaders(sleuth)
    except StillframeError:
        return


def _loaders(sleuth: SleuthVolume) -> Iterator[str]:
    """``EFI/*/*.efi``."""
    top = find_path(sleuth, "efi")
    if top is None or not top.is_folder:
        return
    for folder in list(sleuth.iter_folder(top.number, _ignore)):
        if folder.is_folder:
            for file in sleuth.iter_folder(folder.number, _ignore):
                if file.is_file and file.name.lower().endswith(".efi"):
                    yield f"efi/{folder.name}/{file.name}".lower()


def find_path(sleuth: SleuthVolume, path: str) -> Entry | None:
    """The file or folder of a path of which capital and small letters are the same; ``None`` when it is not there."""
    number, found = sleuth.root, None
    for name in path.lower().split("/"):
        found = next((entry for entry in sleuth.iter_folder(number, _ignore) if entry.name.lower() == name), None)
        if found is None:
            return None
        number = found.number
    return found


def _ignore(_: StillframeError) -> None:
    """What cannot be read is not found."""
