"""On which disks a folder lies.

Answers: "would writing to this target damage what is in that folder?" and "how much room is there?" The repository's
disk is never a target; neither is a file inside the repository. ``None`` means that nobody can tell: treat it as yes.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from stillframe.errors import MachineRefusal
from stillframe.extents import Extent
from stillframe.host.blocks import THIS_MACHINE, KernelPaths
from stillframe.host.linux import DeviceNumber, FileKey, Thing, filesystem_number, thing_at
from stillframe.host.mounts import Mount, Users, read_users

_ANYWHERE: Final = Extent(0, 1 << 63)
_LAYERS_MAX: Final = 64  # overlays on overlays: nobody stacks more
_SPANS_MAX: Final = 65536  # a picture taken while devices came and went may be inconsistent: it still ends

# File systems that keep nothing on a disk of this machine. Source: Linux fs/*/super.c, names in file_system_type.
_NETWORK: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "afs", "virtiofs", "fuse.sshfs", "fuse.rclone"}
)
_MEMORY: Final = frozenset({"tmpfs", "ramfs", "devtmpfs", "proc", "sysfs", "cgroup", "cgroup2", "hugetlbfs", "devpts"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A range of a device or file that a place lies in. ``exact`` unless it may be only a part of that range.

    ``by_lvm`` says that the way here led through LVM, which never gives one range to two volumes.
    """

    thing: Thing
    extent: Extent
    exact: bool
    by_lvm: bool


def disks_under(folder: str, *, kernel: KernelPaths = THIS_MACHINE) -> frozenset[str]:
    """The whole disks that a folder lies on, such as ``/dev/sda``, through volumes, arrays and loop devices.

    Empty for a network share, and for a place of which nothing is known; ``lies_on`` tells these apart.
    """
    users = read_users(kernel)
    spans, _ = _spans_of_folder(folder, users)
    nodes = (users.tree.nodes.get(span.thing) for span in spans if isinstance(span.thing, DeviceNumber))
    return frozenset(n.path for n in nodes if n is not None and n.partition is None and not n.slaves and not n.backing)


def filesystem_under(folder: str, *, kernel: KernelPaths = THIS_MACHINE) -> str:
    """The type of the file system that a folder lies on, as the kernel names it; empty when nobody can tell."""
    path = _existing(folder)
    mount = _mount_of(path, filesystem_number(path), read_users(kernel))
    return "" if mount is None else mount.filesystem


def is_near(folder: str, *, kernel: KernelPaths = THIS_MACHINE) -> bool:
    """Whether a folder lies on a disk of this machine or in its memory: a small read costs little there.

    ``False`` for a share, for what a program serves (FUSE), and without the kernel's list of mounts.
    """
    path = _existing(folder)
    try:
        mount = _mount_of(path, filesystem_number(path), read_users(kernel))
    except MachineRefusal:
        return False
    return mount is not None and mount.filesystem not in _NETWORK and not mount.filesystem.startswith("fuse.")


def lies_on(folder: str, target: str, *, kernel: KernelPaths = THIS_MACHINE) -> bool | None:
    """Whether writing a target from end to end would damage what is in a folder.

    Args:
        folder: The repository, say; when it does not exist yet, the nearest folder above it that does.
        target: A disk, a partition or a disk file; a file need not exist yet.
        kernel: Whose devices.

    Returns:
        ``None`` when it cannot be told: the folder lies on a file system that does not say where it keeps its bytes,
        or both lie in one device whose map is not known.
    """
    thing = thing_at(target)
    if not isinstance(thing, DeviceNumber) and is_inside(folder, target):
        return True
    if thing is None:
        return False
    users = read_users(kernel)
    below, certain = _spans_of_folder(folder, users)
    written = tuple(_spans_below(_whole(thing), users, through_files=False))
    nodes = (users.tree.nodes.get(span.thing) for span in written if isinstance(span.thing, DeviceNumber))
    if any(node is not None and node.backing_path and is_inside(folder, node.backing_path) for node in nodes):
        return True
    answers = {_overlap(one, other) for one in written for other in below}
    if True in answers:
        return True
    return None if None in answers or (not certain and isinstance(thing, DeviceNumber)) else False


def is_inside(folder: str, path: str) -> bool:
    """Whether a path lies inside a folder, by whatever links or mounts it is reached; neither need exist."""
    if _is_above(os.path.realpath(folder), os.path.realpath(path)):
        return True
    try:
        wanted = os.stat(folder)
        above = _existing(path)
        while not os.path.samestat(os.stat(above), wanted):
            if os.path.dirname(above) == above:
                return False
            above = os.path.dirname(above)
    except OSError:
        return False
    return True


def is_same(one: str, other: str) -> bool:
    """Whether two paths are the same device or the same file, under whatever names."""
    first, second = thing_at(one), thing_at(other)
    if first is None or second is None:
        return os.path.realpath(one) == os.path.realpath(other)
    return first == second


def free_space(path: str) -> int:
    """Bytes that this user may still write in the file system of a path, or of the nearest folder that exists."""
    return shutil.disk_usage(_existing(path)).free


def _is_above(outer: str, inner: str) -> bool:
    """``is_inside`` for paths without symbolic links, which touches no disk: a dead network share would not answer."""
    return inner == outer or inner.startswith(outer.rstrip(os.sep) + os.sep)


def _existing(path: str) -> str:
    path = os.path.realpath(path)
    while not os.path.exists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    return path


def _overlap(one: Span, other: Span) -> bool | None:
    """Whether what is written in ``one`` hits what lies in ``other``; ``None``: perhaps."""
    if one.thing != other.thing or one.extent.clipped(other.extent) is None:
        return False
    if one.exact and (other.exact or _holds(one.extent, other.extent)):
        return True
    return False if one.by_lvm and other.by_lvm else None


def _holds(outer: Extent, inner: Extent) -> bool:
    return outer.start <= inner.start and inner.end <= outer.end


def _whole(thing: Thing) -> Span:
    return Span(thing=thing, extent=_ANYWHERE, exact=True, by_lvm=False)


def _spans_of_folder(folder: str, users: Users) -> tuple[tuple[Span, ...], bool]:
    """Everything that the file system of a folder rests on, down to the disks, and whether that is all of it."""
    things, certain = _things_under(_existing(folder), users, depth=0)
    found: dict[Span, None] = {}
    waiting = [_whole(thing) for thing in things]
    while waiting:
        for span in _spans_below(waiting.pop(), users, through_files=True):
            known = span in found
            found[span] = None
            if known or not isinstance(span.thing, FileKey) or span.thing.filesystem in users.tree.nodes:
                continue
            rooms, is_all = _rooms_of_file(span.thing, users)
            certain = certain and is_all
            waiting += [Span(thing=room, extent=_ANYWHERE, exact=False, by_lvm=span.by_lvm) for room in rooms]
    return tuple(found), certain


def _rooms_of_file(file: FileKey, users: Users) -> tuple[frozenset[Thing], bool]:
    """What a file rests on whose file system has no device of its own number (Btrfs, overlay), and whether it is all.

    Only a path leads on from there; the kernel keeps one for a file behind a loop device.
    """
    paths = [node.backing_path for node in users.tree.loops_on(file) if thing_at(node.backing_path) == file]
    return _things_under(paths[0], users, depth=0) if paths else (frozenset(), False)


def _spans_below(top: Span, users: Users, *, through_files: bool) -> Iterator[Span]:
    """A span, and what it rests on, layer by layer.

    Args:
        top: Where to begin.
        users: The picture of the machine.
        through_files: A file rests on the disk of its file system; but writing the file writes nothing else there.
    """
    waiting, seen = [top], {top}
    while waiting and len(seen) < _SPANS_MAX:
        span = waiting.pop()
        yield span
        for below in _next_below(span, users, through_files=through_files):
            if below not in seen:
                seen.add(below)
                waiting.append(below)


def _next_below(span: Span, users: Users, *, through_files: bool) -> Iterator[Span]:
    if isinstance(span.thing, FileKey):
        room = users.tree.nodes.get(span.thing.filesystem) if through_files else None
        if room is not None:
            yield Span(thing=room.number, extent=_ANYWHERE, exact=False, by_lvm=span.by_lvm)
        return
    node = users.tree.nodes.get(span.thing)
    if node is None:
        return
    if node.partition is not None:
        yield _moved(span, node.place, users.tree.disk_of(node).number)
    elif node.backing is not None:
        yield _moved(span, Extent(node.backing_start, node.backing_start + node.size), node.backing)
    else:
        by_lvm = span.by_lvm or node.mapped_uuid.startswith("LVM-")
        for slave in (users.tree.named(name) for name in node.slaves):
            if slave is not None:
                yield Span(thing=slave.number, extent=_ANYWHERE, exact=False, by_lvm=by_lvm)


def _moved(span: Span, within: Extent, below: Thing) -> Span:
    """The span as a range of what its device is a window of."""
    start = min(within.start + span.extent.start, within.end)
    extent = Extent(start, min(within.start + span.extent.end, within.end))
    return Span(thing=below, extent=extent, exact=span.exact, by_lvm=span.by_lvm)


def _things_under(path: str, users: Users, *, depth: int) -> tuple[frozenset[Thing], bool]:
    """The devices or files that the file system of a path lies on, and whether that is all."""
    number = filesystem_number(path)
    mount = _mount_of(path, number, users)
    if mount is None or depth > _LAYERS_MAX:
        return (frozenset({number}), True) if number in users.tree.nodes else (frozenset(), False)
    things = users.things_of(mount)
    if number in users.tree.nodes:
        return things | {number}, True
    if mount.filesystem in _NETWORK | _MEMORY or _is_remote_fuse(mount):
        return frozenset(), True
    if mount.filesystem.startswith("fuse") and os.path.isdir(mount.source) and os.path.isabs(mount.source):
        return _things_under(mount.source, users, depth=depth + 1)  # gocryptfs, bindfs: a folder seen another way
    if mount.filesystem != "overlay":
        return things, bool(things) and mount.filesystem != "bcachefs"
    layers = [_things_under(folder, users, depth=depth + 1) for folder in _overlay_folders(mount)]
    return frozenset().union(*(found for found, _ in layers)), bool(layers) and all(certain for _, certain in layers)


def _is_remote_fuse(mount: Mount) -> bool:
    """Whether a FUSE file system lies on another machine or a service: ``kim@nas:/backup``, ``s3:bucket``."""
    return mount.filesystem.startswith("fuse.") and ":" in mount.source and not mount.source.startswith("/")


def _overlay_folders(mount: Mount) -> list[str]:
    """The folders that an overlay is made of; none when one of them cannot be seen from here."""
    options = dict(option.partition("=")[::2] for option in mount.super_options)
    folders = [options.get("upperdir", ""), *options.get("lowerdir", "").split(":")]
    folders = [folder for folder in folders if folder]
    return folders if all(os.path.isabs(folder) and os.path.isdir(folder) for folder in folders) else []


def _mount_of(path: str, number: DeviceNumber, users: Users) -> Mount | None:
    """The mount that a path is seen through: the deepest whose mount point is above it; the latest of equals.

    Btrfs gives the files of a subvolume another number than the mount's, so the number only breaks ties.
    """
    above = [mount for mount in users.mounts if _is_above(mount.where, path)]
    same = [mount for mount in above if mount.number == number]
    ranked = sorted(same or above, key=lambda mount: len(mount.where))
    deepest = [mount for mount in ranked if len(mount.where) == len(ranked[-1].where)]
    return deepest[-1] if deepest else None
