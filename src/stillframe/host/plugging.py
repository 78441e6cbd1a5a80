"""A disk in a file, as the kernel shows a disk: a device, and a device for each of its partitions.

Answers: "let programs that ask for a disk with partitions work on this file." The kernel is told where partitions lie;
it reads no table, and there need not be one.

Source: addpart(8), losetup(8).
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from stillframe.errors import MachineRefusal
from stillframe.extents import Extent
from stillframe.host.attaching import Keeper, forget_partitions, last_line
from stillframe.host.linux import is_root
from stillframe.host.run import run

_SECTOR: Final = 512  # addpart(8): start and length are counted in sectors of 512 bytes
_MOUNT_S: Final = 300.0
_LOOP_HINT: Final = "Are there loop devices here? 'modprobe loop' may bring them."


@dataclass(frozen=True, slots=True, kw_only=True)
class PluggedDisk:
    """A device over a file; ``numbers`` are those of its partitions."""

    device: str
    numbers: tuple[int, ...]

    def node(self, number: int) -> str:
        """The device of a partition."""
        return f"{self.device}p{number}"


def plug_volume(keeper: Keeper, file: str, *, sector_size: int) -> str:
    """Make a device over a file; the device. The keeper takes it away.

    Args:
        keeper: Undoes it.
        file: A volume, or a whole disk.
        sector_size: Bytes of a logical sector that the device has.

    Raises:
        MachineRefusal: That is not possible here.
    """
    if not is_root():
        raise MachineRefusal("a disk file becomes a device only for root", hint="Run it again with sudo.")
    keeper.will("loop", file)
    ended = run(["losetup", "--find", "--show", "--sector-size", str(sector_size), file])
    return ended.require_success(hint=_LOOP_HINT).text.strip()


def forget_cached(devices: Iterable[str]) -> None:
    """Let the kernel forget what it has read of devices: their bytes were changed below them.

    Raises:
        MachineRefusal: It does not.
    """
    for device in devices:
        run(["blockdev", "--flushbufs", device]).require_success(hint="Is somebody using it?")


def plug(keeper: Keeper, file: str, partitions: Mapping[int, Extent], *, sector_size: int) -> PluggedDisk:
    """Make a device over a file, and one for each of its partitions. The keeper takes them away.

    Args:
        keeper: Undoes it.
        file: A whole disk.
        partitions: Where each lies, by its number.
        sector_size: Bytes of a logical sector that the device has.

    Raises:
        MachineRefusal: That is not possible here.
    """
    device = plug_volume(keeper, file, sector_size=sector_size)
    keeper.will("partitions", device)
    forget_partitions(device)  # of another file: that this device was free does not say that it has none
    found = PluggedDisk(device=device, numbers=tuple(partitions))
    for number, extent in partitions.items():
        start, length = extent.start // _SECTOR, extent.size // _SECTOR
        told = run(["addpart", device, str(number), str(start), str(length)])
        told.require_success(hint="The kernel knows no partitions of loop devices.")
        if not os.path.exists(found.node(number)):
            raise MachineRefusal(
                f"the kernel was told of partition {number} of {device}, and {found.node(number)} is not there",
                hint="Is /dev a devtmpfs here? In a container it may not be.",
            )
    return found


def mount_changeable(keeper: Keeper, device: str, filesystem: str, place: str, options: str = "rw") -> None:
    """Mount a partition of a plugged disk so that it can be changed.

    Args:
        keeper: Undoes it.
        device: The partition.
        filesystem: As ``blkid`` calls it; ``ntfs`` is mounted by ntfs-3g.
        place: An empty folder.
        options: For ``mount``.

    Raises:
        MachineRefusal: It cannot be mounted here.
    """
    keeper.will("mount", place)
    if filesystem == "ntfs":
        command = ["ntfs-3g", "-o", options, device, place]
    else:
        wanted = f"{options},nouuid" if filesystem == "xfs" else options
        command = ["mount", "-t", filesystem, "-o", wanted, device, place]
    ended = run(command, timeout_s=_MOUNT_S)
    if ended.exit_code:
        raise MachineRefusal(
            f"the {filesystem} file system was not mounted: {last_line(ended.errors)}",
            hint="The kernel needs a driver for it; as root, 'dmesg' has its own words.",
        )
