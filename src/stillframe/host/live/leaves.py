"""On which disk the bytes of a device lie, as the kernel's own trace names them.

Answers: "a write to which sectors of which disk changes this device?" The trace shows requests to *leaf* disks, with
sectors counted from the start of the disk, also for a write to a partition. A device that is neither a leaf nor a
partition of one needs a table to translate; without one nobody may claim to have seen its writes.

Source: Linux block/blk-mq-sysfs.c (the folder ``mq`` of a request-based disk); Documentation/ABI/stable/sysfs-block.
"""

import os
from dataclasses import dataclass

from stillframe.errors import MachineRefusal
from stillframe.extents import Extent
from stillframe.host.blocks import BlockNode, BlockTree, read_text
from stillframe.host.linux import DeviceNumber

_HINT = "Use an LVM snapshot where the volume lies on LVM, or back up from the rescue medium."


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafRange:
    """Bytes of a leaf disk that are the bytes of a device, from its first on.

    Attributes:
        number: Of the leaf disk.
        name: Its name in ``/dev`` and in sysfs.
        folder: Its folder in sysfs.
        place: Where the device lies on it, in bytes.
    """

    number: DeviceNumber
    name: str
    folder: str
    place: Extent


def find_leaf(tree: BlockTree, number: DeviceNumber) -> LeafRange:
    """The leaf disk of a device.

    Raises:
        MachineRefusal: There is no such device, or its writes cannot be told from the trace.
    """
    node = tree.nodes.get(number)
    if node is None:
        raise MachineRefusal(f"the device {number} is not among the disks of this machine", hint=_HINT)
    disk = tree.disk_of(node)
    if not _is_request_based(disk):
        raise MachineRefusal(
            f"the kernel's trace does not show which bytes of {node.path} are written: {disk.path} is no plain disk",
            hint=_HINT,
        )
    if read_text(f"{disk.folder}/queue/iostats") == "0":
        raise MachineRefusal(
            f"the kernel does not count writes to {disk.path}, so nobody can prove that all were seen",
            hint=f"Switch its counters on: echo 1 > {disk.folder}/queue/iostats",
        )
    place = node.place if node.partition is not None else Extent(0, node.size)
    return LeafRange(number=disk.number, name=disk.name, folder=disk.folder, place=place)


def _is_request_based(disk: BlockNode) -> bool:
    return os.path.isdir(f"{disk.folder}/mq")
