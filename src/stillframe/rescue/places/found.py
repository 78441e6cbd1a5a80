"""What a search for repositories brings: volumes, and the repositories in their folders.

Answers: "what is on this device, and which repository is in this folder?" A repository is known by the id in its
identity file, never by the name of a folder or a disk. What reads file systems and repositories is loaded when it is
needed: the first screen must be there at once, also where a computer is slow.
"""

import os
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from stillframe.block.file import open_file_reader
from stillframe.errors import StillframeError
from stillframe.host.stacked_places import ClosedVolume
from stillframe.host.volume_places import VolumeDevice
from stillframe.rescue.places.shares import Address

_DEPTH: Final = 2
_FOLDERS_MAX: Final = 2000
_FILES_MAX: Final = 100_000
_IMAGE_NAME: Final = re.compile("[0-9a-f]{32}")  # docs/format/v1.md, names of objects
_NOT_SEARCHED: Final = frozenset(
    {"windows", "program files", "program files (x86)", "system volume information", "$recycle.bin", "proc", "sys",
     "dev", "run", "usr", "lib", "bin", "sbin", "etc", "lost+found"}
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundVolume:
    """A volume of this machine that was looked at.

    Attributes:
        device: What the kernel calls it.
        disk: The whole disk that it lies on.
        partition: Its number, 0 for none.
        filesystem: As ``blkid`` calls it.
        label: Its name.
        size: Bytes.
        free: Bytes that are free; ``None`` when that could not be told.
        writable: Whether files can be put there.
        external: It can be taken away: USB, for instance.
        refusal: Why it was not looked into; empty when it was.
        disks: All whole disks that it lies on, where these are others than ``disk``.
        uuid: Its id, as ``blkid`` shows it.
    """

    device: str
    disk: str
    partition: int
    filesystem: str
    label: str
    size: int
    free: int | None = None
    writable: bool = False
    external: bool = False
    refusal: str = ""
    disks: tuple[str, ...] = ()
    uuid: str = ""

    @property
    def rests_on(self) -> frozenset[str]:
        """The whole disks that it lies on."""
        return frozenset(self.disks or (self.disk,))


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRepository:
    """A repository, by what stands in its identity file.

    Attributes:
        id: 32 hexadecimal digits.
        folder: Where it is open now.
        where: Where it is, in words: a share, or the volume and the folder in it.
        encryption: ``aes256`` or ``none``.
        volume: The volume that it lies on; ``None`` for a share or a folder.
        address: Of a share or a folder.
        images: How many images lie there, by their files.
        refusal: Why it cannot be used; empty when it can.
    """

    id: str
    folder: str
    where: str
    encryption: Literal["aes256", "none"] = "aes256"
    volume: FoundVolume | None = None
    address: Address | None = None
    images: int = 0
    refusal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search brought; ``closed`` is what was not opened: LVM, RAID, encryption."""

    volumes: tuple[FoundVolume, ...] = ()
    repositories: tuple[FoundRepository, ...] = ()
    closed: tuple[ClosedVolume, ...] = ()


def find_repositories(top: str) -> tuple[FoundRepository, ...]:
    """The repositories in a folder and in the two levels of folders below it."""
    return tuple(_read(folder) for folder in _search(top))


def closed_folders(top: str) -> tuple[str, ...]:
    """The folders in a folder whose files this user may not see: a repository may be in one of them."""
    found = []
    with os.scandir(top) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            try:
                if _is_searched(entry):
                    os.scandir(entry.path).close()
            except OSError:
                found.append(entry.name)
    return tuple(found)


def _search(top: str) -> Iterator[str]:
    from stillframe.repo.identity import NAMES  # noqa: PLC0415 - see above

    waiting, seen = deque([(top, 0)]), 0
    while waiting and seen < _FOLDERS_MAX:
        folder, depth = waiting.popleft()
        seen += 1
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            if depth == 0:
                raise
            continue
        if any(entry.name in NAMES for entry in found):
            yield folder
        elif depth < _DEPTH:
            waiting += [(entry.path, depth + 1) for entry in found if _is_searched(entry)]


def _is_searched(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False) and entry.name.lower() not in _NOT_SEARCHED
    except OSError:
        return False


def _read(folder: str) -> FoundRepository:
    from stillframe.repo.identity import read_identity  # noqa: PLC0415 - see above
    from stillframe.store import LocalStore  # noqa: PLC0415

    try:
        identity = read_identity(LocalStore(folder), where=folder).identity
    except StillframeError as error:
        return FoundRepository(id="", folder=folder, where=folder, refusal=f"{error.message}. {error.hint}")
    return FoundRepository(
        id=identity.id, folder=folder, where=folder, encryption=identity.encryption, images=_count_images(folder)
    )


def _count_images(folder: str) -> int:
    names = (name for _, _, files in os.walk(f"{folder}/images") for name in files)
    return sum(1 for number, name in enumerate(names) if number < _FILES_MAX and _IMAGE_NAME.fullmatch(name))


def identify_volume(device: VolumeDevice) -> FoundVolume | None:
    """What is on a device; ``None`` when that is no file system of files."""
    from stillframe.fs.registry import identify  # noqa: PLC0415 - see above

    try:
        with open_file_reader(device.path) as reader:
            volume = identify(reader).volume
    except (StillframeError, OSError):
        return None
    if not volume.filesystem or volume.filesystem == "swap":
        return None
    return FoundVolume(
        device=device.path, disk=device.disk, partition=device.partition, filesystem=volume.filesystem,
        label=volume.label, size=device.size, external=device.external, disks=device.disks,
        uuid=volume.uuid,
    )  # fmt: skip


def why_not_read(filesystem: str) -> str:
    """Why nobody can look into such a volume from here."""
    return f"files of {filesystem} cannot be read from here"


def volume_words(volume: FoundVolume, top: str, folder: str) -> str:
    """Where a folder of a volume is, for a person."""
    inside = os.path.relpath(folder, top)
    called = f"{volume.label} " if volume.label else ""
    below = f" on {', '.join(volume.disks)}" if volume.disks and volume.disk not in volume.disks else ""
    return f"{called}({volume.device}{below}){'' if inside == '.' else f', folder {inside}'}"
