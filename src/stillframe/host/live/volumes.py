"""How the volumes of a disk that is in use can be held still.

Answers: "which of them are mounted, can each be frozen, and is anything there that nobody could hold still?"

Source: Linux fs/super.c: a file system freezes when it has ``freeze_fs`` or ``freeze_super``.
"""

from dataclasses import dataclass
from typing import Final, Literal

from stillframe.errors import SourceInUse
from stillframe.extents import Extent
from stillframe.host.blocks import BlockNode
from stillframe.host.linux import DeviceNumber
from stillframe.host.mounts import Users

# ext4_sops, xfs_super_operations, btrfs_super_ops and f2fs_sops have it; ext2 and vfat do not.
FREEZABLE: Final = frozenset({"ext3", "ext4", "xfs", "btrfs", "f2fs", "jfs", "nilfs2", "reiserfs", "gfs2"})
# No journal and no freeze, but what syncfs has written is all there is: they are read until nothing changes.
SETTLING: Final = frozenset({"vfat", "exfat", "ext2", "msdos"})
_HINT: Final = "Unmount it, or start the computer from a rescue stick."


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedVolume:
    """A volume of a source that is in use.

    Attributes:
        place: Its bytes in the source.
        where: Mount point; ``swap`` for swap.
        filesystem: As the kernel calls it.
        way: ``frozen``, ``settled`` (written out and read until nothing changes), or ``swap`` (its contents are left
            out).
    """

    place: Extent
    where: str
    filesystem: str
    way: Literal["frozen", "settled", "swap"]


def find_used_volumes(users: Users, source: BlockNode) -> tuple[UsedVolume, ...]:
    """The volumes of a disk or partition that may be written to at the moment.

    Raises:
        SourceInUse: One of them is used in a way that cannot be held still; the next step is named.
    """
    nodes = [source, *(users.tree.partitions_of(source) if source.partition is None else ())]
    found = []
    for node in nodes:
        place = Extent(0, source.size) if node is source else node.place
        found += [volume for volume in (_mounted(users, node, place), _swap(users, node, place)) if volume is not None]
        for use in users.of(node.number, node.path):
            if use.kind == "holder" and use.read_write and use.device == node.path:
                raise SourceInUse(
                    f"{node.path} is used by {use.where}",
                    hint="Name that volume as the source instead, or start the computer from a rescue stick.",
                )
    return tuple(found)


def _mounted(users: Users, node: BlockNode, place: Extent) -> UsedVolume | None:
    mounts = [mount for mount in users.mounts_of(node.number) if mount.read_write]
    if not mounts:
        return None
    mount = mounts[0]
    if mount.filesystem in FREEZABLE:
        return UsedVolume(place=place, where=mount.where, filesystem=mount.filesystem, way="frozen")
    if mount.filesystem in SETTLING:
        return UsedVolume(place=place, where=mount.where, filesystem=mount.filesystem, way="settled")
    raise SourceInUse(
        f"{node.path} is mounted at {mount.where} as {mount.filesystem}, which cannot be held still", hint=_HINT
    )


def _swap(users: Users, node: BlockNode, place: Extent) -> UsedVolume | None:
    if not users.is_swap(node.number):
        return None
    return UsedVolume(place=place, where="swap", filesystem="swap", way="swap")


def devices_of(volumes: tuple[UsedVolume, ...], users: Users) -> frozenset[DeviceNumber]:
    """The device numbers that files on these file systems have, for whoever must not write there."""
    wanted = {volume.where for volume in volumes}
    return frozenset(mount.number for mount in users.mounts if mount.where in wanted)
