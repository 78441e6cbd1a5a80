"""What is mounted and swapped on, and who uses a disk.

Answers: "is anything using this disk, this partition or this disk file, where, and may it write?" It only looks;
refusing is the caller's. ``parse_mountinfo`` and ``parse_swaps`` are pure functions of the kernel's text.

A program that merely has the device open (a virtual machine without locking) is not seen, by nobody's list.

Source: proc_pid_mountinfo(5); Linux Documentation/filesystems/proc.rst; mm/swapfile.c, swap_show.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from stillframe.errors import MachineRefusal, StillframeError, UsageError
from stillframe.extents import Extent
from stillframe.host.blocks import THIS_MACHINE, BlockNode, BlockTree, KernelPaths, names_in, read_block_tree, read_text
from stillframe.host.disks import DiskFacts
from stillframe.host.linux import DeviceNumber, Thing, is_claimed, parse_device_number, require_linux, thing_at

_OCTAL: Final = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One line of mountinfo.

    Attributes:
        number: Device number of the file system; major 0 when no block device stands for it (Btrfs, overlay, network).
        root: What part of the file system is shown, ``/`` for all of it.
        where: The mount point.
        filesystem: Type, such as ``ext4`` or ``fuseblk``.
        source: What it says it was mounted from.
        options: Options of this mount point.
        super_options: Options of the file system behind it.
    """

    number: DeviceNumber
    root: str
    where: str
    filesystem: str
    source: str
    options: frozenset[str]
    super_options: frozenset[str]

    @property
    def read_write(self) -> bool:
        """Whether the file system may write to its device. A read-only bind of a writable file system still may."""
        return "rw" in self.super_options


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """One reason why a disk is not free.

    Attributes:
        kind: Mounted; used as swap; or held by another device (LVM, RAID, encryption, loop) or something unseen.
        device: The device or file that is used: the disk, its partition, or a volume that rests on it.
        where: Mount point, ``swap``, or the holder.
        read_write: Bytes of the disk may change through it.
    """

    kind: Literal["mounted", "swap", "holder"]
    device: str
    where: str
    read_write: bool


def parse_mountinfo(text: str) -> tuple[Mount, ...]:
    """Parse ``/proc/self/mountinfo``; a line that is not of that form is left out."""
    mounts = (_parse_mount(line) for line in text.split("\n"))
    return tuple(mount for mount in mounts if mount is not None)


def parse_swaps(text: str) -> tuple[str, ...]:
    """The files and devices in ``/proc/swaps``; a deleted one keeps the kernel's mark and so is no path."""
    lines = (line.split() for line in text.split("\n")[1:])
    return tuple(unescape(fields[0]) for fields in lines if len(fields) >= 2 and fields[0].startswith("/"))


def unescape(text: str) -> str:
    r"""Undo the kernel's octal escapes, such as ``\040`` for a space; it escapes ASCII only (seq_path, mangle)."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8) & 0xFF), text)


def read_mounts(kernel: KernelPaths = THIS_MACHINE) -> tuple[Mount, ...]:
    """What this process sees mounted.

    Raises:
        MachineRefusal: The kernel's list cannot be read: "nothing is mounted" would be a guess.
    """
    require_linux("listing mounts")
    path = f"{kernel.proc}/self/mountinfo"
    try:
        return parse_mountinfo(_read_all(path))
    except OSError as error:
        raise MachineRefusal(
            f"{path} cannot be read ({error.strerror}), so nobody can say what is mounted",
            hint="Mount proc at /proc: `mount -t proc proc /proc`.",
        ) from error


def read_users(kernel: KernelPaths = THIS_MACHINE) -> "Users":
    """One picture of who uses what."""
    return Users(read_block_tree(kernel), read_mounts(kernel), _read_swaps(kernel), _read_btrfs_groups(kernel))


def users_of(path: str, *, kernel: KernelPaths = THIS_MACHINE, probe: bool = True) -> tuple[Use, ...]:
    """Everything that uses a disk, a partition or a disk file, or anything that rests on it.

    For a whole disk its partitions count; for a partition what uses the whole disk directly; for a file the loop
    devices on it and what is mounted from them.

    Args:
        path: A block device or a regular file.
        kernel: Whose devices.
        probe: When nothing is found for a device, ask the kernel whether it is held exclusively. A caller that
            holds it itself says ``False``.

    Raises:
        UsageError: There is no such device or file.
    """
    thing = thing_at(path)
    if thing is None:
        raise UsageError(f"{path} is neither a disk nor a disk file", hint="`stillframe disks` lists the disks.")
    found = read_users(kernel).of(thing, os.path.realpath(path))
    if not found and probe and isinstance(thing, DeviceNumber) and is_claimed(path):
        held = "something that holds it exclusively: another mount namespace, an array, or another run"
        return (Use(kind="holder", device=path, where=held, read_write=True),)
    return found


def users_of_place(
    facts: DiskFacts, place: Extent, tree: BlockTree, *, kernel: KernelPaths = THIS_MACHINE
) -> tuple[Use, ...]:
    """What uses a part of a disk: by its own device where the kernel made one, else what uses the whole disk."""
    node = next((node for node in tree.nodes.values() if node.path == facts.path), None)
    if node is None or facts.kind == "file":
        return _users(facts.path, kernel)
    for part in tree.partitions_of(node) if node.partition is None else ():
        if part.place == place:
            return _users(part.path, kernel)
    return _users(facts.path, kernel) if place == Extent(0, facts.size) else ()


def _users(path: str, kernel: KernelPaths) -> tuple[Use, ...]:
    try:
        return users_of(path, kernel=kernel, probe=False)
    except StillframeError:
        return ()


class Users:
    """Who uses what, from one picture of the machine.

    Args:
        tree: Block devices.
        mounts: What is mounted.
        swaps: Paths that are swapped on.
        btrfs: For each mounted Btrfs, its devices: a mount names only one of them.
    """

    def __init__(
        self, tree: BlockTree, mounts: Iterable[Mount], swaps: Iterable[str], btrfs: Iterable[frozenset[DeviceNumber]]
    ) -> None:
        self.tree = tree
        self.mounts = tuple(mounts)
        self._btrfs = tuple(btrfs)
        self._mounted: dict[Thing, list[Mount]] = {}
        for mount in self.mounts:
            for thing in self.things_of(mount):
                self._mounted.setdefault(thing, []).append(mount)
        self._swaps = {thing_at(path) for path in swaps}

    def things_of(self, mount: Mount) -> frozenset[Thing]:
        """The devices or the file that a mount's file system lies on; empty when it lies on none, or none is known."""
        found: set[Thing] = {mount.number} if mount.number in self.tree.nodes else set()
        if mount.number.major == 0 and mount.source.startswith("/"):
            source = thing_at(mount.source)
            found |= {source} if source is not None else set()
        for group in self._btrfs:
            if not found.isdisjoint(group):
                found |= group
        return frozenset(found)

    def of(self, thing: Thing, name: str) -> tuple[Use, ...]:
        """Everything that uses a thing, mounts first; ``name`` is what a file is called in the answer."""
        uses: dict[Use, None] = {}
        waiting: list[tuple[Thing, str]] = [(thing, name)]
        seen: set[Thing] = {thing}
        node = self.tree.nodes.get(thing) if isinstance(thing, DeviceNumber) else None
        if node is not None and node.partition is not None:  # what uses the whole disk uses its partitions
            disk = self.tree.disk_of(node)
            uses.update(dict.fromkeys(self._direct(disk.number, disk.path)))
            waiting += [(n.number, n.path) for n in self._resting_on(disk.number)]
        while waiting:
            here, name = waiting.pop()
            uses.update(dict.fromkeys(self._direct(here, name)))
            above = [*self._parts(here), *self._resting_on(here)]
            waiting += [(n.number, n.path) for n in above if n.number not in seen]
            seen.update(n.number for n in above)
        rank = ("mounted", "swap", "holder")
        return tuple(sorted(uses, key=lambda use: (rank.index(use.kind), use.device, use.where)))

    def mounts_of(self, thing: Thing) -> tuple[Mount, ...]:
        """Where the file system on a thing is mounted, the shortest path first."""
        return tuple(sorted(self._mounted.get(thing, ()), key=lambda mount: (len(mount.where), mount.where)))

    def is_swap(self, thing: Thing) -> bool:
        """Whether the system swaps to it."""
        return thing in self._swaps

    def _direct(self, thing: Thing, name: str) -> list[Use]:
        found = [
            Use(kind="mounted", device=name, where=mount.where, read_write=mount.read_write)
            for mount in self._mounted.get(thing, ())
        ]
        if thing in self._swaps:
            found.append(Use(kind="swap", device=name, where="swap", read_write=True))
        for node in self._resting_on(thing):
            called = f"{node.path} ({node.mapped_name})" if node.mapped_name else node.path
            found.append(Use(kind="holder", device=name, where=called, read_write=not node.read_only))
        return found

    def _parts(self, thing: Thing) -> tuple[BlockNode, ...]:
        node = self.tree.nodes.get(thing) if isinstance(thing, DeviceNumber) else None
        return self.tree.partitions_of(node) if node is not None and node.partition is None else ()

    def _resting_on(self, thing: Thing) -> list[BlockNode]:
        node = self.tree.nodes.get(thing) if isinstance(thing, DeviceNumber) else None
        holders = [self.tree.named(name) for name in node.holders] if node is not None else []
        return [*(holder for holder in holders if holder is not None), *self.tree.loops_on(thing)]


def _parse_mount(line: str) -> Mount | None:
    # 36 35 98:0 /root /mnt rw,noatime master:1 - ext3 /dev/root rw,errors=continue : any number of tags before the dash
    before, dash, after = line.partition(" - ")
    fields, rest = before.split(" "), after.split(" ")
    number = parse_device_number(fields[2]) if len(fields) >= 6 else None
    if not dash or number is None or len(rest) < 2:
        return None
    return Mount(
        number=number,
        root=unescape(fields[3]),
        where=unescape(fields[4]),
        filesystem=rest[0],
        source=unescape(rest[1]),
        options=frozenset(fields[5].split(",")),
        super_options=frozenset(rest[2].split(",") if len(rest) > 2 else ()),
    )


def _read_all(path: str) -> str:
    with open(path, "rb") as file:
        return file.read().decode("utf-8", "surrogateescape")


def _read_swaps(kernel: KernelPaths) -> tuple[str, ...]:
    try:
        return parse_swaps(_read_all(f"{kernel.proc}/swaps"))
    except FileNotFoundError:  # a kernel built without swap
        return ()


def _read_btrfs_groups(kernel: KernelPaths) -> list[frozenset[DeviceNumber]]:
    top = f"{kernel.sys}/fs/btrfs"
    found = []
    for uuid in names_in(top):
        folder = f"{top}/{uuid}/devices"
        numbers = (parse_device_number(read_text(f"{folder}/{name}/dev")) for name in names_in(folder))
        found.append(frozenset(number for number in numbers if number is not None))
    return found
