"""The programs of this machine that the demo needs: loop devices, mounts, and whether they are there.

Answers: "may the demo run here, and if not, what is the one line to type?" Everything that is attached or mounted is
taken away again, also after an error.
"""

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from stillframe.errors import MachineRefusal, MissingProgram
from stillframe.extents import Extent
from stillframe.host.run import Finished, find_program, run

# The Debian package of every program that the demo starts.
PACKAGES: Final = {
    "blockdev": "util-linux",
    "e2fsck": "e2fsprogs",
    "fsck.fat": "dosfstools",
    "fusermount3": "fuse3",
    "losetup": "mount",
    "mcopy": "mtools",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.fat": "dosfstools",
    "mkfs.ntfs": "ntfs-3g",
    "mount": "mount",
    "ntfs-3g": "ntfs-3g",
    "ntfsfix": "ntfs-3g",
    "sfdisk": "fdisk",
    "sgdisk": "gdisk",
    "umount": "mount",
}
_TIMEOUT_S: Final = 300.0
_DETACH_S: Final = 20.0
_HINT: Final = "In a container the demo needs loop devices and the right to mount; a virtual machine always has both."


def require_machine() -> None:
    """Refuse unless the demo can run to its end.

    Raises:
        MissingProgram: The hint is the one line that installs all that is missing.
        MachineRefusal: This user may not use loop devices and mounts.
    """
    missing = [name for name in PACKAGES if not _is_installed(name)]
    if missing:
        packages = " ".join(sorted({PACKAGES[name] for name in missing}))
        raise MissingProgram(
            f"the demo needs programs that are not installed: {', '.join(missing)}",
            hint=f"On Debian or Ubuntu: sudo apt-get install -y {packages}",
        )
    if run(["id", "-u"]).text.strip() != "0":
        raise MachineRefusal(
            "the demo makes loop devices and mounts them, which only root may", hint="Run it with sudo."
        )


def call(*command: str, given: bytes = b"", allowed: Sequence[int] = (0,)) -> Finished:
    """Run a program that must succeed.

    Raises:
        MachineRefusal: It ended with an exit code that is not allowed.
    """
    done = run(command, given=given, timeout_s=_TIMEOUT_S)
    return done if done.exit_code in allowed else done.require_success(hint=_HINT)


@contextmanager
def attached(disk: str, extent: Extent, *, read_only: bool) -> Iterator[str]:
    """A loop device on a range of a disk file; afterwards all is written and the device is gone."""
    command = ["losetup", "--find", "--show", "--offset", str(extent.start), "--sizelimit", str(extent.size)]
    device = call(*command, *(["--read-only"] if read_only else []), disk).text.strip()
    try:
        yield device
        call("blockdev", "--flushbufs", device)
    finally:
        run(["losetup", "--detach", device])
        _wait_until_free(disk)


@contextmanager
def mounted(device: str, filesystem: str, *, read_only: bool) -> Iterator[str]:
    """The folder where a loop device is mounted; ``filesystem`` is ``ntfs`` or ``ext4``."""
    folder = tempfile.mkdtemp(prefix="stillframe-demo-")
    try:
        access = "ro" if read_only else "rw"
        if filesystem == "ntfs":
            call("ntfs-3g", "-o", access, device, folder)
        else:
            call("mount", "-t", filesystem, "-o", f"{access},noload" if read_only else access, device, folder)
        try:
            yield folder
        finally:
            _unmount(folder)
    finally:
        os.rmdir(folder)  # never more than the empty folder: what is mounted there must not be deleted


def _is_installed(name: str) -> bool:
    try:
        find_program(name)
    except MissingProgram:
        return False
    return True


def _unmount(folder: str) -> None:
    """Unmount; a desktop's indexer may hold the folder for a moment."""
    deadline = time.monotonic() + _DETACH_S
    while (done := run(["umount", folder])).exit_code != 0:
        if time.monotonic() > deadline:
            done.require_success(hint=f"Something uses {folder}: 'fuser -vm {folder}' shows what.")
        time.sleep(0.1)


def _wait_until_free(disk: str) -> None:
    """The kernel detaches a loop device when its last user has closed it, which udev may be for a moment."""
    deadline = time.monotonic() + _DETACH_S
    while os.path.exists(disk) and run(["losetup", "--associated", disk]).text.strip():
        if time.monotonic() > deadline:
            raise MachineRefusal(f"the loop device on {disk} does not go away", hint="'losetup --list' shows it.")
        time.sleep(0.02)
