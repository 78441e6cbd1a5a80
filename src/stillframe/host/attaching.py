"""Volumes in disk files, mounted read-only, and everything taken away again whatever happens to this process.

Answers: "let the kernel read the file system in this file, and leave nothing behind." What is about to be done is first
told to a keeper: a small process in a session of its own, that undoes it when this one is killed.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NoReturn, Self, cast

from stillframe.block.syscalls import refusal
from stillframe.errors import MachineRefusal, StillframeError
from stillframe.host.linux import stand_alone
from stillframe.host.mounts import read_mounts
from stillframe.host.run import run

_SAFE: Final = "nosuid,nodev,noexec"
_MOUNT_S: Final = 300.0
"""A journal of a gigabyte, replayed through an image on a slow disk."""
_STEP_S: Final = 0.1
_TRIES: Final = 50
_NOT_MOUNTED: Final = "'stillframe get' may read its files; 'stillframe export' makes a disk file for another machine."

# How each file system is mounted: first as it should be, the journal replayed (into the changes that are thrown away);
# then, where that fails, without a replay. mount(8), xfs(5), btrfs(5), ext4(5).
_WAYS: Final[dict[str, tuple[str, ...]]] = {
    "ext2": ("ro",),
    "ext3": ("ro", "ro,noload"),
    "ext4": ("ro", "ro,noload"),
    "xfs": ("ro,nouuid", "ro,nouuid,norecovery"),
    "btrfs": ("ro", "ro,rescue=nologreplay"),
    "vfat": ("ro",),
    "exfat": ("ro",),
    "squashfs": ("ro",),
    "iso9660": ("ro",),
    "udf": ("ro",),
}
# File systems that a program serves, from the file or, where the kernel might have done it, from the loop device.
_PROGRAMS: Final[dict[str, tuple[str, ...]]] = {
    "ntfs": ("ntfs-3g", "-o", "ro,streams_interface=xattr"),
    "exfat": ("mount.exfat-fuse", "-o", "ro"),
}
REPLAYED_BY_KERNEL: Final = frozenset({"ext3", "ext4", "xfs", "btrfs"})


def is_mount_point(place: str) -> bool:
    """Whether something is mounted there; asks the kernel's list, so that a server that hangs is not asked."""
    wanted = os.path.join(os.path.realpath(os.path.dirname(place)), os.path.basename(place))
    return any(mount.where == wanted for mount in read_mounts())


def can_mount(filesystem: str) -> bool:
    """Whether there is a way to mount it."""
    return filesystem in _WAYS or filesystem in _PROGRAMS


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """A volume that was mounted; ``is_stale`` when its journal could not be replayed."""

    place: str
    is_stale: bool


_Kind = Literal["mount", "loop", "partitions", "folder", "mapping", "array"]


class Keeper:
    """Undoes what was done, in the reverse order. Use as a context; make it while this process has one thread.

    Undoing is done here when the block ends. The child does it when this process is gone.
    """

    def __init__(self) -> None:
        self._done: list[tuple[_Kind, str]] = []
        self._pipe = -1
        self._pid = -1

    def __enter__(self) -> Self:
        if sys.platform == "win32":
            raise refusal("mounting")
        reading, self._pipe = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            _keep(reading)
        os.close(reading)
        return self

    def __exit__(self, *_: object) -> None:
        if sys.platform == "win32":
            raise refusal("mounting")
        self.undo_to(0)
        os.close(self._pipe)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    def will(self, kind: _Kind, thing: str) -> None:
        """Say what is about to be done: mount at a place, attach a loop device to a file, make a folder.

        ``partitions`` are those that the kernel is told of a device; a ``mapping`` is one of the device mapper, by its
        name; an ``array`` is a device of RAID, and after a space the id of the array that is going to be on it.
        """
        self._done.append((kind, thing))
        with contextlib.suppress(BrokenPipeError):  # it is gone; this process still undoes
            os.write(self._pipe, f"{kind} {thing.encode().hex()}\n".encode())

    @property
    def mark(self) -> int:
        """Where things stand now, for ``undo_to``."""
        return len(self._done)

    def undo_to(self, mark: int) -> None:
        """Undo everything that was done since then, the last first."""
        while len(self._done) > mark:
            _undo(*self._done[-1])
            self._done.pop()
        with contextlib.suppress(BrokenPipeError):
            os.write(self._pipe, f"back {mark}\n".encode())

    def undo(self, thing: str) -> None:
        """Undo what was done about one thing, such as a mount at a place; what it still needs is tried in vain."""
        for step in reversed(self._done):
            if step[1] == thing:
                _undo(*step)

    def make_folder(self, path: str) -> str:
        """A new folder, for this user only."""
        self.will("folder", path)
        os.mkdir(path, 0o700)
        return path

    def attach(self, file: str, filesystem: str, place: str, *, reads_ahead: bool = True) -> Attached:
        """Mount the volume in a file read-only. A file that may be written to has its journal replayed.

        Args:
            file: The volume, and nothing else.
            filesystem: As ``blkid`` calls it.
            place: An empty folder.
            reads_ahead: Off where bytes cannot be read: one request for them and for their neighbours fails for both.

        Raises:
            MachineRefusal: It cannot be mounted here.
        """
        refusals: list[str] = []
        for number, options in enumerate(_WAYS.get(filesystem, ())):
            device = self._loop(file, reads_ahead=reads_ahead)
            self.will("mount", place)
            ended = run(["mount", "-t", filesystem, "-o", f"{options},{_SAFE}", device, place], timeout_s=_MOUNT_S)
            if ended.exit_code == 0:
                return Attached(place=place, is_stale=number > 0)
            refusals.append(last_line(ended.errors))
        if filesystem in _PROGRAMS:
            source = self._loop(file, reads_ahead=reads_ahead) if filesystem in _WAYS else file
            self.will("mount", place)
            try:
                ended = run([*_PROGRAMS[filesystem], source, place], timeout_s=_MOUNT_S)
            except MachineRefusal as error:
                refusals.append(f"{error.message}. {error.hint}")
            else:
                if ended.exit_code == 0:
                    return Attached(place=place, is_stale=False)
                refusals.append(last_line(ended.errors))
        raise MachineRefusal(
            f"the {filesystem} file system was not mounted: {refusals[-1].rpartition(': ')[2]}", hint=_NOT_MOUNTED
        )

    def attach_for_change(self, file: str, filesystem: str, place: str) -> None:
        """Mount the volume in a file so that its own tools can change it. What they write goes into that file.

        Raises:
            MachineRefusal: It cannot be mounted here.
        """
        device = self._loop(file, reads_ahead=True)
        self.will("mount", place)
        options = f"rw,noatime,{_SAFE}{',nouuid' if filesystem == 'xfs' else ''}"
        ended = run(["mount", "-t", filesystem, "-o", options, device, place], timeout_s=_MOUNT_S)
        if ended.exit_code:
            raise MachineRefusal(
                f"the {filesystem} file system was not mounted: {last_line(ended.errors).rpartition(': ')[2]}",
                hint="As root, 'dmesg' has the kernel's own words.",
            )

    def _loop(self, file: str, *, reads_ahead: bool) -> str:
        """A loop device over a file; one that is there already is used again."""
        found = _loops_of(file)
        if found:
            return found[0]
        self.will("loop", file)
        ended = run(["losetup", "--find", "--show", file]).require_success(
            hint="Are there loop devices here? 'modprobe loop' may bring them."
        )
        device = ended.text.strip()
        if not reads_ahead:
            run(["blockdev", "--setra", "0", device])
        return device


def require_unknown_btrfs(uuid: str) -> None:
    """Refuse to mount a second Btrfs with the id of one that is mounted: the kernel takes both for one file system.

    Raises:
        MachineRefusal: One is mounted.
    """
    if uuid and os.path.isdir(f"/sys/fs/btrfs/{uuid.lower()}"):
        raise MachineRefusal(
            f"a Btrfs with the id {uuid} is mounted on this machine already, and the kernel cannot tell them apart",
            hint="Mount the image on another machine, or unmount that file system first.",
        )


def last_line(raw: bytes) -> str:
    """The last words that a program wrote, without the pointer to dmesg; that there are none, when there are none."""
    lines = [line.strip() for line in raw.decode(errors="replace").splitlines() if line.strip()]
    wordy = [line for line in lines if not line.startswith("dmesg(1)")]
    return wordy[-1] if wordy else "it gave no reason"


def _loops_of(file: str) -> list[str]:
    """Loop devices whose file this is."""
    found = []
    for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if entry.read_text().rstrip("\n") == file:
                found.append(f"/dev/{entry.parts[3]}")
    return found


def _undo(kind: _Kind, thing: str) -> None:
    """Undo one step, if it was made; a mount that stays busy is taken out of sight and ends when it is free."""
    steps: dict[_Kind, Callable[[str], None]] = {
        "mount": _unmount,
        "loop": _detach,
        "partitions": _forget_partitions,
        "folder": _remove,
        "mapping": _unmap,
        "array": _stop_array,
    }
    with contextlib.suppress(StillframeError, OSError):
        steps[kind](thing)


def _unmount(place: str) -> None:
    for number in range(_TRIES):
        if not is_mount_point(place):
            return
        lazily = ["--lazy"] if number == _TRIES - 1 else []
        if run(["umount", *lazily, "--", place]).exit_code:
            time.sleep(_STEP_S)


def _detach(file: str) -> None:
    for _ in range(_TRIES):
        found = _loops_of(file)
        if not found:
            return
        for device in found:
            run(["losetup", "--detach", device])
        time.sleep(_STEP_S / 2)


def _forget_partitions(device: str) -> None:
    with contextlib.suppress(MachineRefusal):  # nothing more can be done about it
        forget_partitions(device)


def forget_partitions(device: str) -> None:
    """Let the kernel forget the partitions of a device, once nobody has one of them open.

    A loop device that is detached keeps the partitions that it was told of, and whoever gets it next finds them there.

    Raises:
        MachineRefusal: One of them stays in use.
    """
    folder = f"/sys/block/{os.path.basename(device)}"
    for _ in range(_TRIES):
        left = sorted(name for name in os.listdir(folder) if os.path.exists(f"{folder}/{name}/partition"))
        if not left:
            return
        if run(["partx", "--delete", device]).exit_code:
            time.sleep(_STEP_S)
    raise MachineRefusal(
        f"the kernel does not forget the partitions of {device}: {', '.join(left)} in use",
        hint=f"'lsof /dev/{left[0]}' may tell by whom.",
    )


def _unmap(name: str) -> None:
    for _ in range(_TRIES):
        if not os.path.lexists(f"/dev/mapper/{name}"):
            return
        if run(["dmsetup", "remove", "--", name]).exit_code:
            time.sleep(_STEP_S)


def _stop_array(what: str) -> None:
    """Stop an array, when it is the one that was meant: another program may have taken that number."""
    device, _, uuid = what.partition(" ")
    for _ in range(_TRIES):
        if f"MD_UUID={uuid}" not in run(["mdadm", "--detail", "--export", device]).text.splitlines():
            return
        if run(["mdadm", "--stop", device]).exit_code:
            time.sleep(_STEP_S)


def _remove(path: str) -> None:
    os.rmdir(path)


def _keep(pipe: int) -> NoReturn:
    """The child: note what is said, and undo it when the parent is gone without having done so."""
    if sys.platform == "win32":
        raise refusal("a process that outlives its parent")
    code = 1
    try:
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        stand_alone()
        os.closerange(3, pipe)
        os.closerange(pipe + 1, 1 << 16)
        steps: list[tuple[_Kind, str]] = []
        with os.fdopen(pipe, "r", encoding="ascii") as lines:
            for line in lines:
                kind, _, thing = line.rstrip("\n").partition(" ")
                if kind == "back":
                    del steps[int(thing) :]
                else:
                    steps.append((cast("_Kind", kind), bytes.fromhex(thing).decode()))
        for step, what in reversed(steps):
            _undo(step, what)
        code = 0
    finally:
        os._exit(code)
