"""The tools of others that make a file system larger or smaller, in a file.

Answers: "how small can this volume be made, and make it so large." The file is a throw-away view of a volume; nothing
else is ever given to these tools. Each file system is brought into order first, as its own tools ask.

Sources: resize2fs(8), e2fsck(8), ntfsresize(8), btrfs-filesystem(8), btrfs-inspect-internal(8), xfs_growfs(8).
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from stillframe.errors import MachineRefusal
from stillframe.host.attaching import Keeper
from stillframe.host.run import Finished, run
from stillframe.units import MIB, align_up

LIMIT_S: Final = 24 * 3600.0
"""A volume of many terabytes on a slow disk."""
_MENDED: Final = 1  # e2fsck(8): file system errors corrected
_BTRFS_RESERVE: Final = 64 * MIB
"""Room to move the last of it."""
_BTRFS_TRIES: Final = (110, 130, 160, 200, 300)
"""Percent of what it uses that are tried."""
_BTRFS_MIN: Final = 256 * MIB  # Linux fs/btrfs/ioctl.c, btrfs_ioctl_resize: SZ_256M
_HINT: Final = "Restore it at its own size, or to a larger disk."


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeFile:
    """A file that holds a volume.

    Attributes:
        path: The file, as large as the larger of both sizes.
        folder: An empty folder, for those that are mounted.
        keeper: Undoes mounts.
    """

    path: str
    folder: str
    keeper: Keeper


@dataclass(frozen=True, slots=True, kw_only=True)
class Resizer:
    """How volumes of one kind are resized.

    Attributes:
        programs: What must be installed.
        needs_root: Whether they are mounted for it.
        smallest: Bytes that a volume needs, by its own tool; ``None`` where it cannot be made smaller at all.
        resize: Makes a volume so large, in bytes.
    """

    programs: tuple[str, ...]
    needs_root: bool
    smallest: Callable[[VolumeFile], int] | None
    resize: Callable[[VolumeFile, int], None]


def _checked(arguments: Sequence[str], accepted: tuple[int, ...] = (0,)) -> Finished:
    """Run a tool that must not fail; its last words are the reason."""
    done = run(arguments, timeout_s=LIMIT_S)
    if done.exit_code not in accepted:
        lines = [line.strip() for line in (done.text + done.errors.decode(errors="replace")).splitlines()]
        words = [line for line in lines if line and not line.startswith("(")]  # e2fsck explains its options at the end
        raise MachineRefusal(
            f"{arguments[0]} says: {words[-1] if words else f'exit code {done.exit_code}'}", hint=_HINT
        )
    return done


def _put_ext_in_order(volume: VolumeFile) -> None:
    """Replay its journal, and do what is done at every start; what asks for more than that is left to a person."""
    _checked(["e2fsck", "-f", "-p", volume.path], (0, _MENDED))


def _smallest_ext(volume: VolumeFile) -> int:
    _put_ext_in_order(volume)
    found = re.search(r":\s*(\d+)\s*$", _checked(["resize2fs", "-P", volume.path]).text.strip())
    size = re.search(r"^Block size:\s*(\d+)", _checked(["dumpe2fs", "-h", volume.path]).text, re.MULTILINE)
    if found is None or size is None:
        raise MachineRefusal("resize2fs did not say how small the volume can be made", hint=_HINT)
    return int(found[1]) * int(size[1])


def _resize_ext(volume: VolumeFile, size: int) -> None:
    _put_ext_in_order(volume)
    _checked(["resize2fs", volume.path, f"{size // 1024}K"])
    _put_ext_in_order(volume)


def _smallest_ntfs(volume: VolumeFile) -> int:
    text = _checked(["ntfsresize", "--info", "--no-progress-bar", volume.path]).text
    found = re.search(r"You might resize at (\d+) bytes", text)
    if found is None:
        raise MachineRefusal("ntfsresize did not say how small the volume can be made", hint=_HINT)
    return int(found[1])


def _resize_ntfs(volume: VolumeFile, size: int) -> None:
    # Twice: no question, and a volume that it has already changed may be changed again.
    _checked(["ntfsresize", "--force", "--force", "--no-progress-bar", "--size", str(size), volume.path])


def _smallest_btrfs(volume: VolumeFile) -> int:
    """What it really shrank to: ``min-dev-size`` counts whole block groups, however little is in them."""
    with _mounted(volume, "btrfs"):
        found = re.search(
            r"^\s*Used:\s+(\d+)", _checked(["btrfs", "filesystem", "usage", "-b", volume.folder]).text, re.MULTILINE
        )
        if found is None:
            raise MachineRefusal("btrfs did not say how much it uses", hint=_HINT)
        for percent in _BTRFS_TRIES:
            size = max(_BTRFS_MIN, align_up(int(found[1]) * percent // 100 + _BTRFS_RESERVE, MIB))
            if size >= os.path.getsize(volume.path):
                break
            if run(["btrfs", "filesystem", "resize", str(size), volume.folder], timeout_s=LIMIT_S).exit_code == 0:
                return size
    return os.path.getsize(volume.path)


def _resize_btrfs(volume: VolumeFile, size: int) -> None:
    with _mounted(volume, "btrfs"):
        _checked(["btrfs", "filesystem", "resize", str(size), volume.folder])


def _grow_xfs(volume: VolumeFile, _: int) -> None:
    with _mounted(volume, "xfs"):
        _checked(["xfs_growfs", volume.folder])


@contextmanager
def _mounted(volume: VolumeFile, filesystem: str) -> Iterator[None]:
    """A volume mounted for its own tool."""
    mark = volume.keeper.mark
    try:
        volume.keeper.attach_for_change(volume.path, filesystem, volume.folder)
        yield
    finally:
        volume.keeper.undo_to(mark)


_EXT: Final = Resizer(
    programs=("e2fsck", "resize2fs", "dumpe2fs"), needs_root=False, smallest=_smallest_ext, resize=_resize_ext
)
RESIZERS: Final[dict[str, Resizer]] = {
    "ext2": _EXT,
    "ext3": _EXT,
    "ext4": _EXT,
    "ntfs": Resizer(programs=("ntfsresize",), needs_root=False, smallest=_smallest_ntfs, resize=_resize_ntfs),
    "btrfs": Resizer(programs=("btrfs",), needs_root=True, smallest=_smallest_btrfs, resize=_resize_btrfs),
    "xfs": Resizer(programs=("xfs_growfs",), needs_root=True, smallest=None, resize=_grow_xfs),
}
"""By what ``blkid`` calls a file system."""
