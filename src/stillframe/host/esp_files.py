"""Files of a FAT volume that is part of a disk, such as the EFI system partition, read and written without a mount.

Answers: "what is in this file of the ESP, and put these bytes there." The kernel needs no driver for it; the programs
of mtools do it. Only for volumes that nobody else changes meanwhile, and never for the only copy of one: what ends in
between leaves a file half-written.

Source: mtools(1): ``-i FILE@@OFFSET``, ``mcopy``, ``mdir``, ``mmd``, ``mdel``.
"""

from dataclasses import dataclass
from typing import Final

from stillframe.errors import MachineRefusal
from stillframe.host.run import run

FILE_SIZE_MAX: Final = 256 << 20
"""Bytes of a file that is read: loaders have a few MiB, unified kernel images some hundred."""
_PATTERNS: Final = frozenset('*?[]"\\')
_LIMIT_S: Final = 600.0
_HINT: Final = "Is the partition intact? 'fsck.fat -n' on a copy of it tells."


@dataclass(frozen=True, slots=True, kw_only=True)
class FatVolume:
    """A FAT volume in a file or device.

    Attributes:
        path: The file, or the device of the partition.
        offset: Where in it the volume begins, in bytes; 0 for the device of the partition itself.
    """

    path: str
    offset: int = 0

    @property
    def image(self) -> str:
        """As ``-i`` of the programs takes it."""
        return f"{self.path}@@{self.offset}" if self.offset else self.path


def list_names(volume: FatVolume, folder: str) -> tuple[str, ...] | None:
    """The names in a folder, those of folders too; ``None`` when there is no such folder.

    Args:
        volume: Where.
        folder: Such as ``/EFI/Boot``; ``/`` is the root. Case does not matter.

    Raises:
        MachineRefusal: The volume cannot be read.
    """
    parts = _parts(folder)
    for depth in range(len(parts)):
        names = _listed(volume, parts[:depth])
        if parts[depth].lower() not in {name.lower() for name, is_folder in names if is_folder}:
            return None
    return tuple(name for name, _ in _listed(volume, parts))


def read_file(volume: FatVolume, path: str) -> bytes | None:
    """The contents of a file; ``None`` when there is none.

    Raises:
        MachineRefusal: The volume cannot be read, or the file is larger than ``FILE_SIZE_MAX``.
    """
    parts = _parts(path)
    if not _is_there(volume, parts):
        return None
    done = run(["mcopy", "-n", "-i", volume.image, _name(parts), "-"], timeout_s=_LIMIT_S)
    contents = done.require_success(hint=_HINT).output
    if len(contents) > FILE_SIZE_MAX:
        raise MachineRefusal(f"{path} has {len(contents)} bytes, too many for a file of its kind", hint=_HINT)
    return contents


def write_file(volume: FatVolume, path: str, contents: bytes) -> None:
    """Make a file, or replace what it holds; folders above it that are missing are made.

    Raises:
        MachineRefusal: The volume cannot be written, or is full.
    """
    parts = _parts(path)
    for depth in range(1, len(parts)):
        if list_names(volume, "/" + "/".join(parts[:depth])) is None:
            run(["mmd", "-i", volume.image, _name(parts[:depth])]).require_success(hint=_HINT)
    done = run(["mcopy", "-o", "-i", volume.image, "-", _name(parts)], given=contents, timeout_s=_LIMIT_S)
    done.require_success(hint=_HINT)
    if read_file(volume, path) != contents:  # mcopy of a full volume has ended with exit code 0 before
        raise MachineRefusal(
            f"{path} does not hold what was written to it",
            hint="The EFI system partition may be full: 100 MB is usual.",
        )


def remove_file(volume: FatVolume, path: str) -> None:
    """Remove a file; nothing happens when there is none.

    Raises:
        MachineRefusal: The volume cannot be written.
    """
    parts = _parts(path)
    if _is_there(volume, parts):
        run(["mdel", "-i", volume.image, _name(parts)]).require_success(hint=_HINT)


def _is_there(volume: FatVolume, parts: tuple[str, ...]) -> bool:
    names = list_names(volume, "/" + "/".join(parts[:-1])) or ()
    return parts[-1].lower() in {name.lower() for name in names}


def _listed(volume: FatVolume, parts: tuple[str, ...]) -> list[tuple[str, bool]]:
    """The names in a folder that is there, each with whether it is a folder."""
    done = run(["mdir", "-b", "-a", "-i", volume.image, f"{_name(parts)}/"], timeout_s=_LIMIT_S)
    if done.exit_code and b"not found" in done.errors:  # what mdir says of a folder without anything in it
        return []
    lines = [line for line in done.require_success(hint=_HINT).text.splitlines() if line.startswith("::/")]
    return [(line.rstrip("/").rpartition("/")[2], line.endswith("/")) for line in lines]


def _parts(path: str) -> tuple[str, ...]:
    parts = tuple(part for part in path.split("/") if part)
    if any(part in (".", "..") or _PATTERNS.intersection(part) for part in parts):
        raise ValueError(f"{path!r} is no path of a single file")
    return parts


def _name(parts: tuple[str, ...]) -> str:
    return "::/" + "/".join(parts)
