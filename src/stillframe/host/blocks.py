"""The block devices that the kernel knows, as one picture: what is a part of what, and what rests on what.

Answers: "which disk is this partition of, what does this volume rest on, what rests on this disk?" It reads sysfs once
and keeps nothing open. Facts for people (model, serial) are in ``host.disks``, mounts in ``host.mounts``.

Source: Linux Documentation/ABI/{stable,testing}/sysfs-block, sysfs-block-loop, sysfs-block-dm.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from stillframe.extents import Extent
from stillframe.host.linux import DeviceNumber, Thing, loop_backing, parse_device_number, require_linux, thing_at

SYSFS_SECTOR: Final = 512  # "size" and "start" count these, whatever the sectors of the disk are
TEXT_MAX: Final = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelPaths:
    """Where the kernel shows itself; another root shows another machine, which is how tests have any machine."""

    sys: str = "/sys"
    proc: str = "/proc"
    dev: str = "/dev"
    udev: str = "/run/udev/data"


THIS_MACHINE: Final = KernelPaths()


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockNode:
    """One block device: a whole disk or a partition.

    Attributes:
        number: What the kernel knows it by.
        name: As in ``/dev``, such as ``sda1``.
        folder: Its folder in sysfs.
        path: The device node.
        disk: Name of the whole disk; its own name when it is one.
        partition: Partition number, from 1; ``None`` for a whole disk.
        place: Where it lies in its disk, in bytes.
        read_only: The kernel refuses writes.
        slaves: Names of the devices it is made of (LVM, RAID, encryption).
        holders: Names of the devices made of it.
        backing: What a loop device rests on.
        backing_path: The same as a path, as far as the kernel remembers it.
        backing_start: Offset in what it rests on, in bytes.
        mapped_name: Name of a device-mapper device, such as ``vg-root``.
        mapped_uuid: Its uuid, whose prefix names its maker, such as ``LVM-``.
    """

    number: DeviceNumber
    name: str
    folder: str
    path: str
    disk: str
    partition: int | None
    place: Extent
    read_only: bool
    slaves: tuple[str, ...]
    holders: tuple[str, ...]
    backing: Thing | None
    backing_path: str
    backing_start: int
    mapped_name: str
    mapped_uuid: str

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.place.size


@dataclass(frozen=True, slots=True)
class BlockTree:
    """Every block device of a machine."""

    nodes: Mapping[DeviceNumber, BlockNode]

    def named(self, name: str) -> BlockNode | None:
        """The device with a name, such as ``sda1``."""
        return next((node for node in self.nodes.values() if node.name == name), None)

    def disk_of(self, node: BlockNode) -> BlockNode:
        """The whole disk that a node is or lies on."""
        return self.named(node.disk) or node

    def below(self, node: BlockNode) -> tuple[BlockNode, ...]:
        """A node and all that it rests on, through partitions, LVM, RAID and encryption; itself first."""
        found, waiting = dict[DeviceNumber, BlockNode](), [node]
        while waiting:
            here = waiting.pop()
            if here.number in found:
                continue
            found[here.number] = here
            slaves = (self.named(name) for name in here.slaves)
            waiting += [self.disk_of(here), *(slave for slave in slaves if slave is not None)]
        return tuple(found.values())

    def disks_below(self, node: BlockNode) -> tuple[BlockNode, ...]:
        """The whole disks that a node rests on, by their paths; itself when it is one."""
        found = (one for one in self.below(node) if one.partition is None and not one.slaves)
        return tuple(sorted(found, key=lambda one: one.path)) or (self.disk_of(node),)

    def partitions_of(self, disk: BlockNode) -> tuple[BlockNode, ...]:
        """The partitions of a whole disk, by number."""
        found = (n for n in self.nodes.values() if n.disk == disk.name and n.partition is not None)
        return tuple(sorted(found, key=lambda node: node.partition or 0))

    def loops_on(self, thing: Thing) -> tuple[BlockNode, ...]:
        """The loop devices that rest on a device or a file."""
        return tuple(node for node in self.nodes.values() if node.backing == thing)


def read_block_tree(kernel: KernelPaths = THIS_MACHINE) -> BlockTree:
    """Read every block device from sysfs; a device that goes away meanwhile is left out."""
    require_linux("looking for disks")
    nodes: dict[DeviceNumber, BlockNode] = {}
    top = f"{kernel.sys}/block"
    for disk in sorted(names_in(top)):
        folders = [f"{top}/{disk}"]
        folders += [f"{top}/{disk}/{n}" for n in names_in(folders[0]) if os.path.exists(f"{top}/{disk}/{n}/partition")]
        for folder in folders:
            node = _read_node(folder, disk=disk, kernel=kernel)
            if node is not None:
                nodes[node.number] = node
    return BlockTree(nodes)


def read_text(path: str) -> str:
    """A small file of sysfs without the white space around it; empty when it is not there or cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(TEXT_MAX).decode("utf-8", "replace").strip().strip("\0").strip()
    except OSError:
        return ""


def read_number(path: str) -> int | None:
    """A decimal number in a small file; ``None`` when there is none."""
    text = read_text(path)
    return int(text) if re.fullmatch(r"-?[0-9]{1,20}", text) else None


def names_in(folder: str) -> list[str]:
    """What a folder holds; nothing when it is not there."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _read_node(folder: str, *, disk: str, kernel: KernelPaths) -> BlockNode | None:
    number = parse_device_number(read_text(f"{folder}/dev"))
    size = read_number(f"{folder}/size")
    if number is None or size is None:
        return None
    # A slash in a device's name is an exclamation mark in sysfs. Source: Linux Documentation, sysfs, kobject_set_name.
    name = os.path.basename(folder).replace("!", "/")
    start = (read_number(f"{folder}/start") or 0) * SYSFS_SECTOR
    backing_path = read_text(f"{folder}/loop/backing_file")
    path = f"{kernel.dev}/{name}"
    return BlockNode(
        number=number,
        name=name,
        folder=folder,
        path=path,
        disk=disk.replace("!", "/"),
        partition=read_number(f"{folder}/partition"),
        place=Extent(start, start + max(size, 0) * SYSFS_SECTOR),
        read_only=read_number(f"{folder}/ro") == 1,
        slaves=tuple(n.replace("!", "/") for n in names_in(f"{folder}/slaves")),
        holders=tuple(n.replace("!", "/") for n in names_in(f"{folder}/holders")),
        backing=(loop_backing(path) or thing_at(backing_path)) if backing_path else None,
        backing_path=backing_path,
        backing_start=read_number(f"{folder}/loop/offset") or 0,
        mapped_name=read_text(f"{folder}/dm/name"),
        mapped_uuid=read_text(f"{folder}/dm/uuid"),
    )
