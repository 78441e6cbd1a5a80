"""On which disks the bytes of a device lie, as the kernel's own trace names them.

Answers: "a write to which sectors of which disks changes this device?" The trace shows requests to *leaf* disks, with
sectors counted from the start of the disk, also for a write to a partition, to a volume of LVM, through encryption or
to a mirror. A device whose tables cannot be translated is refused: nobody may claim to have seen its writes.

Source: Linux block/blk-mq-sysfs.c (the folder ``mq`` of a request-based disk); Documentation/ABI/stable/sysfs-block.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from stillframe.errors import MachineRefusal
from stillframe.host.blocks import BlockNode, BlockTree, read_text
from stillframe.host.linux import DeviceNumber
from stillframe.host.live.bytemap import ByteMap
from stillframe.host.live.tables import HINT, Below, read_below

_LAYERS_MAX: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafDisk:
    """A disk that the kernel's trace names.

    Attributes:
        number: What the kernel knows it by.
        folder: Its folder in sysfs.
        size: In bytes.
    """

    number: DeviceNumber
    folder: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafShare:
    """What of a device lies on one leaf disk; mirrors have the same bytes on several."""

    disk: LeafDisk
    pieces: ByteMap


def find_leaves(tree: BlockTree, number: DeviceNumber) -> tuple[LeafShare, ...]:
    """The leaf disks of a device, each once for every way that leads to it.

    Raises:
        MachineRefusal: There is no such device, or its writes cannot be told from the trace.
    """
    node = tree.nodes.get(number)
    if node is None:
        raise MachineRefusal(f"the device {number} is not among the disks of this machine", hint=HINT)
    whole = ByteMap.of((0, 0, node.size))
    return tuple(
        LeafShare(disk=_leaf_disk(one.node, node), pieces=one.pieces) for one in _leaves(tree, Below(node, whole), 0)
    )


def find_pieces(tree: BlockTree, upper: BlockNode, lower: BlockNode) -> tuple[ByteMap, ...]:
    """Where the bytes of a device lie on one of the devices below it, once for every way that leads there.

    Raises:
        MachineRefusal: A table on the way cannot be translated.
    """
    whole = ByteMap.of((0, 0, upper.size))
    return tuple(_ways(tree, Below(upper, whole), lower, 0))


def _leaves(tree: BlockTree, here: Below, layer: int) -> Iterator[Below]:
    if here.node.partition is None and _is_request_based(here.node):
        yield here
        return
    for below in _steps(tree, here, layer):
        yield from _leaves(tree, below, layer + 1)


def _ways(tree: BlockTree, here: Below, lower: BlockNode, layer: int) -> Iterator[ByteMap]:
    if here.node.number == lower.number:
        yield here.pieces
    elif here.node.partition is not None or not _is_request_based(here.node):
        for below in _steps(tree, here, layer):
            yield from _ways(tree, below, lower, layer + 1)


def _steps(tree: BlockTree, here: Below, layer: int) -> Iterator[Below]:
    """The devices right below, with the map from the very top down to them."""
    if layer >= _LAYERS_MAX:
        raise MachineRefusal(f"{here.node.path} lies below more devices than anybody stacks", hint=HINT)
    for below in read_below(tree, here.node):
        yield Below(below.node, here.pieces.onto(below.pieces))


def _leaf_disk(disk: BlockNode, wanted: BlockNode) -> LeafDisk:
    if read_text(f"{disk.folder}/queue/iostats") == "0":
        raise MachineRefusal(
            f"the kernel does not count writes to {disk.path}, so nobody can prove that all of {wanted.path} were seen",
            hint=f"Switch its counters on: echo 1 > {disk.folder}/queue/iostats",
        )
    return LeafDisk(number=disk.number, folder=disk.folder, size=disk.size)


def _is_request_based(disk: BlockNode) -> bool:
    return os.path.isdir(f"{disk.folder}/mq")
