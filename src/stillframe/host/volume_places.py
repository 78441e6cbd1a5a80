"""Volumes of this machine, and shares of others, mounted so that a repository can be looked for on them.

Answers: "which devices may hold a file system, and how does one get at its files?" To look changes no byte: no journal
is replayed. To read is for a volume that a person chose: what a stick that was pulled out has only in its journal must
be there. To write is for a backup. The keeper takes everything away again.

Source: mount(8), ext4(5), xfs(5), btrfs(5), ntfs-3g(8), mount.cifs(8), nfs(5), sshfs(1).
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from stillframe.errors import MachineRefusal
from stillframe.host.attaching import Keeper, last_line
from stillframe.host.blocks import THIS_MACHINE, BlockNode, BlockTree, KernelPaths, read_number
from stillframe.host.linux import is_root
from stillframe.host.mounts import read_users
from stillframe.host.run import run
from stillframe.host.share_faults import NetworkShare, require_server, share_refusal

RUN_FOLDER: Final = "/run/stillframe/places"
_SAFE: Final = "nosuid,nodev,noexec"
_MOUNT_S: Final = 120.0
_SHARE_S: Final = 60.0
_IDLE_LOOPS: Final = "loop"
_SECRET_FOLDER: Final = "/run"  # noqa: S105 - in memory: a secret never reaches a disk
_SSH: Final = "ssh"
_NFS_WORDS: Final = ("soft", "timeo=100", "retrans=4", "retry=0", "nolock")
"""A server that is silent is waited for 10, 20, 30, 40 and 50 seconds: the disks of a NAS may have to wake up."""

How = Literal["look", "read", "write"]
# How each file system is mounted: to look (no journal is replayed), to read, to write.
_WAYS: Final[dict[str, dict[How, str]]] = {
    "ext2": {"look": "ro", "read": "ro", "write": "rw"},
    "ext3": {"look": "ro,noload", "read": "ro", "write": "rw"},
    "ext4": {"look": "ro,noload", "read": "ro", "write": "rw"},
    "xfs": {"look": "ro,nouuid,norecovery", "read": "ro,nouuid", "write": "rw,nouuid"},
    "btrfs": {"look": "ro,rescue=nologreplay", "read": "ro", "write": "rw"},
    "vfat": {"look": "ro", "read": "ro", "write": "rw,flush"},
    "exfat": {"look": "ro", "read": "ro", "write": "rw"},
    "ntfs": {"look": "ro", "read": "ro", "write": "rw"},
    "iso9660": {"look": "ro", "read": "ro"},
}
# Served by a program, where the kernel does not do it, or does not do it well.
_PROGRAMS: Final[dict[str, str]] = {"ntfs": "ntfs-3g", "exfat": "mount.exfat-fuse"}


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeDevice:
    """A device that may hold a file system.

    Attributes:
        path: The device.
        size: Bytes.
        disk: The whole disk that it is or lies on.
        partition: Its number; 0 for a whole disk or a volume of LVM, RAID or encryption.
        name: What the device mapper calls it, else empty.
        mounted: Where its file system is mounted, the shortest path first.
        read_write: Whether it is mounted to be written.
        external: Its disks hang on USB or FireWire, or their medium can be taken out.
        disks: All whole disks below it, through LVM, RAID and encryption.
        below: All devices that it rests on, and itself.
    """

    path: str
    size: int
    disk: str
    partition: int
    name: str
    mounted: tuple[str, ...]
    read_write: bool
    external: bool
    disks: tuple[str, ...] = ()
    below: frozenset[str] = frozenset()


def list_volume_devices(*, loops: Sequence[str] = (), kernel: KernelPaths = THIS_MACHINE) -> tuple[VolumeDevice, ...]:
    """Every device of this machine that nothing else rests on and that has no partitions of its own.

    Args:
        loops: Loop devices that count as disks; others are left out.
        kernel: Whose devices.
    """
    users = read_users(kernel)
    tree, found = users.tree, list[VolumeDevice]()
    for node in sorted(tree.nodes.values(), key=lambda node: node.path):
        if not node.size or node.holders or not _counts(node, tree, loops):
            continue
        if node.partition is None and tree.partitions_of(node):
            continue
        mounts, disks = users.mounts_of(node.number), tree.disks_below(node)
        found.append(
            VolumeDevice(
                path=node.path, size=node.size, disk=tree.disk_of(node).path, partition=node.partition or 0,
                name=node.mapped_name, mounted=tuple(mount.where for mount in mounts),
                read_write=any(mount.read_write for mount in mounts), external=all(map(_is_external, disks)),
                disks=tuple(disk.path for disk in disks), below=frozenset(one.path for one in tree.below(node)),
            )
        )  # fmt: skip
    return tuple(found)


def _counts(node: BlockNode, tree: BlockTree, loops: Sequence[str]) -> bool:
    if node.name.startswith(("ram", "zram", "fd", "nbd", "mtdblock")):
        return False
    disk = tree.disk_of(node)
    return not disk.name.startswith(_IDLE_LOOPS) or disk.path in loops


def _is_external(disk: BlockNode) -> bool:
    """By the way to it: a device behind a USB plug or FireWire has that in its path. Source: Linux sysfs-bus-usb."""
    steps = os.path.realpath(disk.folder).split("/")
    return any(step.startswith(("usb", "fw")) for step in steps) or read_number(f"{disk.folder}/removable") == 1


def can_read(filesystem: str) -> bool:
    """Whether there is a way to look into such a file system."""
    return filesystem in _WAYS


def can_write(filesystem: str) -> bool:
    """Whether there is a way to write files into it."""
    return "write" in _WAYS.get(filesystem, {})


def mount_volume(keeper: Keeper, device: str, filesystem: str, place: str, *, how: How) -> None:
    """Mount the file system of a device.

    Args:
        keeper: Takes it away.
        device: The volume.
        filesystem: As ``blkid`` calls it.
        place: A folder, made when it is missing.
        how: What for.

    Raises:
        MachineRefusal: That is not possible here.
    """
    require_root()
    _make_room(keeper, place)
    options = _WAYS[filesystem][how]
    keeper.will("mount", place)
    refusals = []
    if filesystem != "ntfs":
        ended = run(["mount", "-t", filesystem, "-o", f"{options},{_SAFE}", device, place], timeout_s=_MOUNT_S)
        if ended.exit_code == 0:
            return
        refusals.append(last_line(ended.errors))
    if filesystem in _PROGRAMS:
        try:
            ended = run([_PROGRAMS[filesystem], "-o", options, device, place], timeout_s=_MOUNT_S)
        except MachineRefusal as error:
            refusals.append(f"{error.message}. {error.hint}")
        else:
            if ended.exit_code == 0:
                return
            refusals.append(last_line(ended.errors))
    raise MachineRefusal(
        f"{device} ({filesystem}) cannot be opened: {refusals[-1].rpartition(': ')[2]}",
        hint="Is it damaged, or was it not closed? Look at it on the computer that it comes from.",
    )


def require_root() -> None:
    """Refuse where mounting is not allowed.

    Raises:
        MachineRefusal: This is not root.
    """
    if not is_root():
        raise MachineRefusal("looking into disks needs root", hint="Run it again with sudo.")


def mount_share(keeper: Keeper, share: NetworkShare, place: str, *, secret: str = "", read_write: bool = False) -> None:
    """Mount a share of another computer.

    Args:
        keeper: Takes it away.
        share: Which one.
        place: A folder, made when it is missing.
        secret: The password. It goes by a file in memory or by a pipe, and never stands on a command line.
        read_write: Not only to look.

    Raises:
        MachineRefusal: That is not possible here, or the other computer is not there or has no such share.
        LoginRefused: It lets that name not in.
    """
    require_root()
    share = require_server(share)
    _make_room(keeper, place)
    keeper.will("mount", place)
    words = ["rw" if read_write else "ro", _SAFE]
    if share.kind == "sshfs":
        said = _mount_sshfs(share, place, secret, words)
    elif share.kind == "cifs":
        words += [f"port={share.port}"] if share.port else []
        with _credentials(share.user, secret) as file:
            said = _mount(share, place, [f"credentials={file}" if share.user else "guest", *words])
    else:
        port = [f"port={share.port}"] if share.port else []
        said = _mount(share, place, [*_NFS_WORDS, *words, *port])
    if said is not None:
        raise share_refusal(share, said)


def _mount(share: NetworkShare, place: str, words: list[str]) -> bytes | None:
    """``None`` when it is mounted, else what was said."""
    ended = run(["mount", "-t", share.kind, "-o", ",".join(words), share.source, place], timeout_s=_SHARE_S)
    return ended.errors if ended.exit_code else None


def _mount_sshfs(share: NetworkShare, place: str, secret: str, words: list[str]) -> bytes | None:
    """As ``_mount``. What ssh says would be lost: sshfs throws it away, so it goes into a file in memory."""
    words = [*words, "reconnect", "ServerAliveInterval=15", "ConnectTimeout=20", "StrictHostKeyChecking=accept-new"]
    words += ["password_stdin"] if secret else ["BatchMode=yes"]
    source = f"{share.user}@{share.source}" if share.user else share.source
    port = ["-p", str(share.port)] if share.port else []
    with tempfile.NamedTemporaryFile(prefix="stillframe-", dir=_SECRET_FOLDER) as log:
        words.append(f"ssh_command={_SSH} -E {log.name}")
        command = ["sshfs", *port, "-o", ",".join(words), source, place]
        ended = run(command, given=f"{secret}\n".encode() if secret else b"", timeout_s=_SHARE_S)
        return log.read() + ended.errors if ended.exit_code else None


@contextlib.contextmanager
def _credentials(user: str, secret: str) -> Iterator[str]:
    """A file for mount.cifs, in memory, for root alone, and gone afterwards."""
    descriptor, path = tempfile.mkstemp(prefix="stillframe-", dir=_SECRET_FOLDER)  # made with mode 600
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            domain, _, name = user.rpartition("\\")
            file.write(f"username={name}\npassword={secret}\n" + (f"domain={domain}\n" if domain else ""))
        yield path
    finally:
        os.unlink(path)


def _make_room(keeper: Keeper, place: str) -> None:
    os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
    if not os.path.isdir(place):
        keeper.make_folder(place)
