"""What is on a medium: its kernel's drivers and its firmware files, read where they lie.

Answers: "what does the system on this medium know?" A medium is an ISO, a folder with its pieces (network boot), or
where a stick with them is mounted. Only ``live/filesystem.squashfs`` is asked, through ``unsquashfs``; nothing is
unpacked.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from stillframe.block.file import open_file_reader
from stillframe.errors import DiskFormatError, UsageError
from stillframe.host.run import run
from stillframe.rescue.trying.iso import find_file
from stillframe.rescue.trying.modules import KernelModules, parse_firmware, parse_modules

SQUASHFS: Final = "live/filesystem.squashfs"
_PREFIX: Final = "squashfs-root/"
_LISTS: Final = ("modules.alias", "modules.builtin", "modules.builtin.modinfo", "modules.dep")
_RELEASE: Final = re.compile(r"(?:usr/)?lib/modules/([^/]+)/modules\.alias")
_IWD: Final = "usr/libexec/iwd"
_TIMEOUT_S: Final = 300.0
_HINT: Final = "Make the medium anew: 'stillframe rescue build FILE.iso'."


@dataclass(frozen=True, slots=True, kw_only=True)
class Squashfs:
    """Where the system of a medium lies: in which file, from which byte on."""

    file: str
    offset: int

    def read(self, path: str) -> bytes:
        """One of its files; empty when it is not there."""
        done = run(["unsquashfs", "-o", str(self.offset), "-cat", self.file, path], timeout_s=_TIMEOUT_S)
        return done.output if done.exit_code == 0 else b""

    def list_below(self, folders: Iterable[str]) -> tuple[str, ...]:
        """The paths below some folders.

        Raises:
            DiskFormatError: It is no squashfs, or a damaged one.
        """
        done = run(["unsquashfs", "-o", str(self.offset), "-lc", self.file, *folders], timeout_s=_TIMEOUT_S)
        if done.exit_code != 0:
            said = (done.errors.decode("utf-8", "replace").strip().splitlines() or ["no reason"])[0]
            raise DiskFormatError(f"the system on {self.file} cannot be read: {said}", hint=_HINT)
        lines = done.text.splitlines()
        return tuple(line.removeprefix(_PREFIX) for line in lines if line.startswith(_PREFIX))


@dataclass(frozen=True, slots=True, kw_only=True)
class MediumContents:
    """What a medium knows.

    Attributes:
        path: What a person calls it.
        squashfs: Its system.
        folder: Where its modules lie in it.
        modules: The drivers of its kernel.
        firmware: Firmware files, from the folder ``firmware`` on.
        has_wifi: Whether iwd is on it, without which no wireless network is joined.
    """

    path: str
    squashfs: Squashfs
    folder: str
    modules: KernelModules
    firmware: frozenset[str]
    has_wifi: bool

    def firmware_of(self, module: str) -> tuple[str, ...]:
        """The firmware files that a driver names; none for one that is part of the kernel."""
        path = self.modules.paths.get(module.replace("-", "_"))
        return parse_firmware(self.squashfs.read(f"{self.folder}/{path}")) if path else ()


def open_medium(path: str) -> MediumContents:
    """Look into a medium.

    Raises:
        UsageError: There is nothing there, or no medium of ours.
        MissingProgram: ``unsquashfs`` is not installed.
        DiskFormatError: It is damaged.
    """
    squashfs = find_squashfs(path)
    listed = squashfs.list_below(("usr/lib/modules", "usr/lib/firmware", "lib/modules", "lib/firmware", _IWD))
    found = [match for name in listed if (match := _RELEASE.fullmatch(name))]
    if not found:
        raise DiskFormatError(f"the system on {path} has no kernel modules", hint=_HINT)
    release, folder = found[0][1], os.path.dirname(found[0][0])
    lists = [squashfs.read(f"{folder}/{name}") for name in _LISTS]
    alias, builtin, dep = (lists[number].decode("utf-8", "replace") for number in (0, 1, 3))
    names = (name.partition("lib/firmware/")[2] for name in listed if "lib/firmware/" in name)
    return MediumContents(
        path=path, squashfs=squashfs, folder=folder,
        modules=parse_modules(release, alias=alias, builtin=builtin, modinfo=lists[2], dep=dep),
        firmware=frozenset(name.removesuffix(".xz").removesuffix(".zst") for name in names), has_wifi=_IWD in listed,
    )  # fmt: skip


def find_squashfs(path: str) -> Squashfs:
    """Where the system of a medium lies; errors as ``open_medium``."""
    if os.path.isdir(path):
        inside = os.path.join(path, SQUASHFS)
        inside = inside if os.path.isfile(inside) else os.path.join(path, os.path.basename(SQUASHFS))
        if os.path.isfile(inside):
            return Squashfs(file=inside, offset=0)
        raise UsageError(f"there is no {SQUASHFS} below {path}", hint=_HINT)
    with open_file_reader(path) as disk:
        extent = find_file(disk, SQUASHFS)
    if extent is None:
        raise UsageError(f"{path} is no rescue medium: it holds no {SQUASHFS}", hint=_HINT)
    return Squashfs(file=path, offset=extent.start)
