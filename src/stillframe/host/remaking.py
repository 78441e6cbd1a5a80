"""An XFS made anew in a file, with the files of another one.

Answers: "how small can a new XFS with these files be, and make it." XFS cannot become smaller, so its files are copied
into a new one that is like it. The old volume and the new one are files that only show what is theirs; nothing else is
ever given to these tools.

Sources: mkfs.xfs(8), statvfs(3).
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from stillframe.block.syscalls import refusal
from stillframe.errors import MachineRefusal
from stillframe.host.attaching import Keeper
from stillframe.host.run import run
from stillframe.host.trees import compare_copy, copy_tree, measure_tree
from stillframe.units import MIB, align_up, format_size

PROGRAMS: Final = ("mkfs.xfs", "cp", "losetup", "mount")
LIMIT_S: Final = 24 * 3600.0
"""A volume of many terabytes on a slow disk."""
_INODE_SIZE_MAX: Final = 2048
_FIRST_ROOM: Final = 256 * MIB
"""More than a new volume keeps for itself before it has files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoVolumes:
    """Files that hold two volumes, and empty folders to mount them in.

    Attributes:
        old, new: The files.
        old_folder, new_folder: The folders.
        keeper: Undoes mounts.
    """

    old: str
    new: str
    old_folder: str
    new_folder: str
    keeper: Keeper


def measure_xfs(volumes: TwoVolumes) -> int:
    """Bytes that the files of the old volume need in a new one, without what that keeps for itself."""
    with _mounted_old(volumes):
        return measure_tree(volumes.old_folder, inode_size=_INODE_SIZE_MAX)


def first_size(needed: int, size_min: int) -> int:
    """Bytes of a new volume that surely is large enough for so many bytes of files."""
    return max(size_min, align_up(needed + needed // 16 + _FIRST_ROOM, MIB))


def measure_overhead(volumes: TwoVolumes, options: Sequence[str]) -> int:
    """Bytes that a new volume, as large as the new file, keeps for itself. A smaller one keeps no more."""
    if sys.platform == "win32":
        raise refusal("making file systems anew")
    _make(volumes.new, options)
    with _mounted_new(volumes):
        facts = os.statvfs(volumes.new_folder)
        return os.path.getsize(volumes.new) - facts.f_bavail * facts.f_frsize


def remake_xfs(volumes: TwoVolumes, options: Sequence[str]) -> int:
    """Make the new volume, copy all files into it, and compare every one of them; how many names it has.

    Raises:
        MachineRefusal: A tool refuses, or a file cannot be read or is not the same, by name.
    """
    _make(volumes.new, options)
    with _mounted_old(volumes):
        with _mounted_new(volumes):
            copy_tree(volumes.old_folder, volumes.new_folder, limit_s=LIMIT_S)
        with _mounted_new(volumes):  # once more: what is compared has been written
            return compare_copy(volumes.old_folder, volumes.new_folder)


def _make(path: str, options: Sequence[str]) -> None:
    done = run(["mkfs.xfs", "-q", "-f", *options, path], timeout_s=LIMIT_S)
    if done.exit_code:
        words = done.errors.decode(errors="replace").strip().splitlines()
        raise MachineRefusal(
            f"mkfs.xfs did not make a volume of {format_size(os.path.getsize(path))}: "
            f"{words[0] if words else f'exit code {done.exit_code}'}",
            hint="A newer xfsprogs may know what this one does not; or restore it at its own size.",
        )


@contextmanager
def _mounted_old(volumes: TwoVolumes) -> Iterator[None]:
    mark = volumes.keeper.mark
    try:
        attached = volumes.keeper.attach(volumes.old, "xfs", volumes.old_folder)
        if attached.is_stale:
            raise MachineRefusal(
                "the log of the XFS volume could not be replayed",
                hint="Let xfs_repair examine the volume, and begin again with its disk.",
            )
        yield
    finally:
        volumes.keeper.undo_to(mark)


@contextmanager
def _mounted_new(volumes: TwoVolumes) -> Iterator[None]:
    mark = volumes.keeper.mark
    try:
        volumes.keeper.attach_for_change(volumes.new, "xfs", volumes.new_folder)
        yield
    finally:
        volumes.keeper.undo_to(mark)
