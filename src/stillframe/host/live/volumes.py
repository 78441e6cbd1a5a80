"""How the volumes of a disk that is in use can be held still.

Answers: "which of them are mounted, can each be frozen, and is anything there that nobody could hold still?" That
includes volumes that rest on the disk through LVM, encryption or RAID, and file systems in files on a mounted one.

Source: Linux fs/super.c: a file system freezes when it has ``freeze_fs`` or ``freeze_super``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from stillframe.errors import SourceInUse
from stillframe.extents import ExtentSet
from stillframe.host.blocks import BlockNode
from stillframe.host.linux import DeviceNumber, is_claimed
from stillframe.host.live.bytemap import ByteMap
from stillframe.host.live.leaves import find_pieces
from stillframe.host.mounts import Mount, Users

# ext4_sops, xfs_super_operations, btrfs_super_ops and f2fs_sops have it; ext2 and vfat do not.
FREEZABLE: Final = frozenset({"ext3", "ext4", "xfs", "btrfs", "f2fs", "jfs", "nilfs2", "reiserfs", "gfs2"})
# No journal and no freeze, but what syncfs has written is all there is: they are read until nothing changes.
SETTLING: Final = frozenset({"vfat", "exfat", "ext2", "msdos"})
_HINT: Final = "Unmount it, or start the computer from a rescue stick."
_DEPTH_MAX: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedVolume:
    """A volume that is in use, on a source or in a file on one.

    Attributes:
        device: The device node that shows its bytes, such as ``/dev/sda2`` or ``/dev/dm-1``.
        size: Of that device, in bytes.
        where: Mount point; ``swap`` for swap.
        filesystem: As the kernel calls it.
        way: ``frozen``, ``settled`` (written out and read until nothing changes), or ``swap`` (its contents are left
            out).
        pieces: Where its bytes lie in the source, once for each copy; none for a file system in a file.
        depth: 0 on a device; more for one in a file on another file system, which must be frozen before that.
    """

    device: str
    size: int
    where: str
    filesystem: str
    way: Literal["frozen", "settled", "swap"]
    pieces: tuple[ByteMap, ...] = ()
    depth: int = 0

    @property
    def bytes_in_source(self) -> ExtentSet:
        """The bytes of the source that are this volume's."""
        found = ExtentSet.empty()
        for pieces in self.pieces:
            found |= pieces.down(pieces.covered)
        return found


def find_used_volumes(users: Users, source: BlockNode) -> tuple[UsedVolume, ...]:
    """The volumes of a disk, a partition or a mapped device that may be written to at the moment.

    Raises:
        SourceInUse: One of them is used in a way that cannot be held still; the next step is named.
        MachineRefusal: A device between one of them and the source is of a kind that is not followed.
    """
    found: dict[str, UsedVolume] = {}
    for node in _nodes_over(users, source):
        volume = _volume(users, node)
        if volume is None:
            continue
        on_source = UsedVolume(
            device=node.path, size=node.size, where=volume.where, filesystem=volume.filesystem, way=volume.way,
            pieces=find_pieces(users.tree, node, source),
        )  # fmt: skip
        found.setdefault(node.path, on_source)
        for inner in _inside(users, node, 1):
            found.setdefault(inner.device, inner)
    if not found:
        raise SourceInUse(f"{source.path} is held by something that cannot be asked to hold still", hint=_HINT)
    return tuple(sorted(found.values(), key=lambda volume: -volume.depth))


def _nodes_over(users: Users, source: BlockNode) -> Iterator[BlockNode]:
    """The source, its partitions, and every device that rests on one of them."""
    waiting, seen = [source], {source.number}
    while waiting:
        node = waiting.pop()
        yield node
        partitions = users.tree.partitions_of(node) if node.partition is None else ()
        holders = [users.tree.named(name) for name in node.holders]
        above = [*partitions, *(holder for holder in holders if holder is not None)]
        loops = [loop for loop in users.tree.loops_on(node.number) if not loop.read_only]
        if loops:
            raise SourceInUse(f"{node.path} is used by {loops[0].path}", hint=f"Detach it: losetup -d {loops[0].path}")
        if not above and not _is_known(users, node) and is_claimed(node.path):
            raise SourceInUse(f"{node.path} is held exclusively by something that nobody can see", hint=_HINT)
        waiting += [one for one in above if one.number not in seen]
        seen.update(one.number for one in above)


def _is_known(users: Users, node: BlockNode) -> bool:
    return bool(users.mounts_of(node.number)) or users.is_swap(node.number)


def _volume(users: Users, node: BlockNode) -> UsedVolume | None:
    """What is on a device, if it may be written to."""
    if users.is_swap(node.number):
        return UsedVolume(device=node.path, size=node.size, where="swap", filesystem="swap", way="swap")
    mount = next((mount for mount in users.mounts_of(node.number) if mount.read_write), None)
    if mount is None:
        return None
    way = _way(mount)
    if way is None:
        raise SourceInUse(
            f"{node.path} is mounted at {mount.where} as {mount.filesystem}, which cannot be held still", hint=_HINT
        )
    return UsedVolume(device=node.path, size=node.size, where=mount.where, filesystem=mount.filesystem, way=way)


def _way(mount: Mount) -> Literal["frozen", "settled"] | None:
    if mount.filesystem in FREEZABLE:
        return "frozen"
    return "settled" if mount.filesystem in SETTLING else None


def _inside(users: Users, host: BlockNode, depth: int) -> Iterator[UsedVolume]:
    """File systems that are mounted from loop devices on files of this one: frozen first, or they stay half written."""
    mounts = users.mounts_of(host.number)
    numbers = {mount.number for mount in mounts}
    for loop in users.tree.nodes.values():
        on_file = loop.backing is not None and not isinstance(loop.backing, DeviceNumber)
        if not on_file or not _lies_in(users, loop, numbers, mounts) or depth > _DEPTH_MAX:
            continue
        for node in (loop, *users.tree.partitions_of(loop)):
            mount = next((mount for mount in users.mounts_of(node.number) if mount.read_write), None)
            way = _way(mount) if mount is not None else None
            if mount is not None and way is not None:
                yield UsedVolume(
                    device=node.path, size=node.size, where=mount.where, filesystem=mount.filesystem, way=way,
                    depth=depth,
                )  # fmt: skip
                yield from _inside(users, node, depth + 1)


def _lies_in(users: Users, loop: BlockNode, numbers: set[DeviceNumber], mounts: tuple[Mount, ...]) -> bool:
    """Whether a loop device's file lies on one of these mounts. Btrfs numbers every subvolume: there the path says."""
    if loop.backing is not None and not isinstance(loop.backing, DeviceNumber) and loop.backing.filesystem in numbers:
        return True
    over = [mount for mount in users.mounts if f"{loop.backing_path}/".startswith(f"{mount.where.rstrip('/')}/")]
    return bool(over) and max(over, key=lambda mount: len(mount.where)) in mounts
