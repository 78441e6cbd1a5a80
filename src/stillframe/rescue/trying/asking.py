"""What this machine is, as far as a medium cares.

Answers: "what must the medium know?" by looking at the running machine; the answers are made in ``checking``.
"""

import os
from typing import Final

from stillframe.errors import DeviceError, MachineRefusal
from stillframe.host.blocks import THIS_MACHINE, KernelPaths
from stillframe.host.hardware import find_hardware
from stillframe.host.linux import require_linux
from stillframe.host.places import disks_under, filesystem_under
from stillframe.host.start_up import read_start_up
from stillframe.jobs.looking import look_at_disks
from stillframe.repo.identity import NAMES
from stillframe.rescue.places.shares import parse_address
from stillframe.rescue.trying.checking import Asked, Place

_MOUNTED_AS: Final = {"sshfs": "fuse.sshfs"}
_LOCKED = ("BitLocker", "crypto_LUKS")


def ask_machine(repository: str, *, kernel: KernelPaths = THIS_MACHINE) -> Asked:
    """Look at this machine.

    Args:
        repository: The folder of its repository; empty when it is not known.
        kernel: Whose.

    Raises:
        MachineRefusal: This is no Linux.
    """
    require_linux("comparing a medium with this machine")
    return Asked(
        hardware=find_hardware(kernel), start_up=read_start_up(kernel),
        place=find_place(repository, kernel=kernel) if repository else None, locked=_find_locked(kernel),
    )  # fmt: skip


def find_place(folder: str, *, kernel: KernelPaths = THIS_MACHINE) -> Place:
    """Where a repository lies: in a folder, or on a share that only the medium opens.

    Raises:
        UsageError: It is no address.
    """
    if "://" in folder:
        address = parse_address(folder)
        kind = address.share.kind if address.share is not None else ""
        return Place(folder=address.words, filesystem=_MOUNTED_AS.get(kind, kind), disks=frozenset())
    path = os.path.abspath(folder)
    refusal = ""
    if not os.path.isdir(path):
        refusal = "there is no such folder now"
    elif not any(os.path.exists(os.path.join(path, name)) for name in NAMES):
        refusal = "the folder is there, but no backups are in it"
    return Place(
        folder=path, filesystem=filesystem_under(path, kernel=kernel), disks=disks_under(path, kernel=kernel),
        refusal=refusal,
    )  # fmt: skip


def _find_locked(kernel: KernelPaths) -> tuple[str, ...]:
    """The kinds of encrypted volumes; none where the disks cannot be read, which needs root."""
    try:
        seen = look_at_disks(None, kernel=kernel)
    except (MachineRefusal, DeviceError):
        return ()
    kinds = {part.volume.volume.filesystem for disk in seen.disks for part in disk.partitions}
    return tuple(kind for kind in _LOCKED if kind in kinds)
