"""The tools of others that give a file system another UUID.

Answers: "let this copy never be taken for its original." The volume is a device that nobody has mounted. Its journal is
replayed first, as its own tools ask.

Sources: tune2fs(8), xfs_admin(8), btrfstune(8), swaplabel(8); for FAT, Microsoft "FAT: General Overview of On-Disk
Format" 1.03, "Boot Sector and BPB": ``BS_VolID``, ``BPB_BkBootSec``.
"""

import os
import secrets
import struct
import uuid
from collections.abc import Callable, Sequence
from typing import Final

from stillframe.errors import MachineRefusal
from stillframe.host.attaching import Keeper
from stillframe.host.plugging import mount_changeable
from stillframe.host.run import run

_LIMIT_S: Final = 6 * 3600.0
"""A check of many terabytes on a slow disk; Btrfs writes all its metadata anew."""
_MENDED: Final = 1  # e2fsck(8): file system errors corrected
_SECTOR: Final = 512
_FAT32_ID, _FAT_ID = 67, 39
_SIGNATURES: Final = (0x28, 0x29)
"""What stands before an id: BS_BootSig; 0x28 where only the id follows."""
_HINT: Final = "Without '--new-identity' it comes back as it was."


def new_uuid(filesystem: str) -> str:
    """A random id as ``blkid`` spells it for a file system."""
    if filesystem == "vfat":
        number = secrets.token_hex(4).upper()
        return f"{number[:4]}-{number[4:]}"
    return str(uuid.uuid4())


def rename_volume(keeper: Keeper, device: str, filesystem: str, new: str, folder: str) -> None:
    """Give a volume another UUID.

    Args:
        keeper: Undoes mounts.
        device: The volume, not mounted.
        filesystem: One of ``RENAMED``.
        new: By ``new_uuid``.
        folder: An empty folder, for those whose journal only the kernel replays.

    Raises:
        MachineRefusal: Its tool is missing, or says no.
    """
    if filesystem in ("xfs", "btrfs"):
        mark = keeper.mark
        try:
            mount_changeable(keeper, device, filesystem, folder)
        finally:
            keeper.undo_to(mark)
    RENAMED[filesystem](device, new)


def _rename_ext(device: str, new: str) -> None:
    _checked(["e2fsck", "-f", "-p", device], (0, _MENDED))
    _checked(["tune2fs", "-f", "-U", new, device])
    _checked(["e2fsck", "-f", "-p", device], (0, _MENDED))  # checksums that begin with the UUID are written anew


def _rename_xfs(device: str, new: str) -> None:
    _checked(["xfs_admin", "-U", new, device])


def _rename_btrfs(device: str, new: str) -> None:
    _checked(["btrfstune", "-f", "-U", new, device])


def _rename_swap(device: str, new: str) -> None:
    _checked(["swaplabel", "-U", new, device])


def _rename_fat(device: str, new: str) -> None:
    number = struct.pack("<I", int(new.replace("-", ""), 16))
    with open(device, "r+b") as volume:
        sector = volume.read(_SECTOR)
        size = int.from_bytes(sector[11:13], "little")
        is_fat32 = sector[22:24] == b"\0\0"
        at = _FAT32_ID if is_fat32 else _FAT_ID
        if sector[at - 1] not in _SIGNATURES:
            raise MachineRefusal("this FAT volume has no id that could be changed", hint=_HINT)
        reserved, backup = (int.from_bytes(sector[field : field + 2], "little") for field in (14, 50))
        copies = [0, backup] if is_fat32 and 0 < backup < reserved else [0]
        for copy in copies:
            volume.seek(copy * size + at)
            volume.write(number)
        volume.flush()
        os.fsync(volume.fileno())


def _checked(arguments: Sequence[str], accepted: tuple[int, ...] = (0,)) -> None:
    done = run(arguments, timeout_s=_LIMIT_S)
    if done.exit_code not in accepted:
        lines = [line.strip() for line in (done.text + done.errors.decode(errors="replace")).splitlines()]
        words = [line for line in lines if line and not line.startswith("(")]  # e2fsck explains its options at the end
        raise MachineRefusal(
            f"{arguments[0]} says: {words[-1] if words else f'exit code {done.exit_code}'}", hint=_HINT
        )


RENAMED: Final[dict[str, Callable[[str, str], None]]] = {
    "ext2": _rename_ext,
    "ext3": _rename_ext,
    "ext4": _rename_ext,
    "xfs": _rename_xfs,
    "btrfs": _rename_btrfs,
    "swap": _rename_swap,
    "vfat": _rename_fat,
}
"""By what ``blkid`` calls a file system. Others keep their ids."""
