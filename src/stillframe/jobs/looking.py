"""The verb ``disks``, and what lies at a path before it is used as a source or a target.

Answers: "which disks are there, what is on them, and which partitions would a backup of the system take?" Only reads.
What belongs to the running system is told from what is mounted; systems are named by what lies on the volumes.
"""

import os
import shutil
from dataclasses import dataclass, replace
from typing import Final

from stillframe.block.file import FileReader, open_file_reader
from stillframe.block.formats import DiskFile, container_name, open_disk_file
from stillframe.capture import CapturedDisk, CapturedVolume, Selection, capture_disk
from stillframe.capture.diskfiles import facts_of
from stillframe.errors import DeviceError, MachineRefusal, TargetError, UsageError
from stillframe.events import Notice
from stillframe.host.blocks import THIS_MACHINE, KernelPaths, read_block_tree
from stillframe.host.disks import DiskFacts, describe, list_disks
from stillframe.host.mounts import Use, users_of_place
from stillframe.jobs.systems_here import FoundHere, name_systems

# Folders of a running Linux without which it does not start again. Source: Filesystem Hierarchy Standard 3.0,
# section 3; The Boot Loader Specification, uapi-group.org ($BOOT).
_SYSTEM_FOLDERS: Final = frozenset({"/", "/boot", "/boot/efi", "/efi", "/usr", "/var", "/etc", "/opt"})
_START_TYPES: Final = frozenset({"EFI system", "BIOS boot", "PowerPC boot", "Linux boot", "Microsoft reserved"})
"""Names by ``disk.types`` of partitions that a computer needs to start, whichever system is on the disk."""

_DEVICE_FOLDERS: Final = ("/dev/", "/proc/", "/sys/", "\\\\.\\")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenPartition:
    """One partition as it is now.

    Attributes:
        volume: Where it lies, and what is in it.
        bytes_used: Bytes that its file system uses; ``None`` when that cannot be told.
        uses: What it is used for at the moment.
        in_system_backup: Whether a backup of the running system would take it.
        reason: Why, or why not.
        system: The operating system on it, in words; ``None`` where there is none, or nobody can tell.
    """

    volume: CapturedVolume
    bytes_used: int | None
    uses: tuple[Use, ...]
    in_system_backup: bool
    reason: str
    system: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenDisk:
    """One disk as it is now. ``disk`` is ``None`` when it could not be read; a notice says why."""

    facts: DiskFacts
    disk: CapturedDisk | None
    partitions: tuple[SeenPartition, ...]
    notices: tuple[Notice, ...]


def look_at_disks(path: str | None, *, kernel: KernelPaths = THIS_MACHINE) -> tuple[SeenDisk, ...]:
    """Look at one disk, partition or disk file, or with ``None`` at every disk of this machine.

    A disk that cannot be read does not hide the others.

    Raises:
        UsageError: There is nothing at the path.
        DiskFormatError: It is a disk file of another program, and broken.
        MachineRefusal, DeviceError: The one that was named cannot be read.
    """
    if path is not None:
        return (_look(describe(path, kernel=kernel), kernel),)
    return tuple(_look_bravely(facts, kernel) for facts in list_disks(kernel=kernel))


def require_raw(path: str) -> None:
    """Refuse to write into a disk file of another program: its bytes are not those of the disk in it.

    Raises:
        UsageError: With another way.
    """
    with open_file_reader(path) as reader:
        name = container_name(reader)
    if name is not None:
        raise UsageError(
            f"{path} is a {name} file: this version writes to disks and to raw disk files only",
            hint="Name a file that does not exist yet: it becomes a raw disk file. To make a disk file of another "
            "format out of an image there is 'export'; 'qemu-img convert' makes one out of a raw file.",
        )


def require_target(path: str) -> None:
    """Refuse a target that cannot be meant, before anything is planned for it.

    Raises:
        TargetError: It is named like a device and is not there. A new file made there would lie in memory.
        UsageError: It is a container of another program.
    """
    if os.path.isfile(path):
        require_raw(path)
    elif os.path.exists(path):
        return
    elif os.path.realpath(path).startswith(_DEVICE_FOLDERS):
        raise TargetError(f"there is no device {path}", hint="'stillframe disks' lists the disks of this machine.")


def _look_bravely(facts: DiskFacts, kernel: KernelPaths) -> SeenDisk:
    try:
        return _look(facts, kernel)
    except (DeviceError, MachineRefusal) as error:
        notice = Notice(code=error.code, message=error.message, hint=error.hint)
        return SeenDisk(facts=facts, disk=None, partitions=(), notices=(notice,))


def _look(facts: DiskFacts, kernel: KernelPaths) -> SeenDisk:
    with open_disk(facts) as reader:
        if isinstance(reader, DiskFile):
            facts = facts_of(facts, reader)
        disk = capture_disk(reader, facts, Selection())
        tree = read_block_tree(kernel)
        uses = [users_of_place(facts, one.partition.extent, tree, kernel=kernel) for one in disk.volumes]
        here = [FoundHere(volume=one, uses=used) for one, used in zip(disk.volumes, uses, strict=True)]
        systems = name_systems(here)
    runs_here = any(_is_of_system(found) for found in uses)
    partitions = tuple(
        replace(_partition(one.volume, one.uses, runs_here=runs_here), system=system)
        for one, system in zip(here, systems, strict=True)
    )
    return SeenDisk(facts=facts, disk=disk, partitions=partitions, notices=disk.notices)


def open_disk(facts: DiskFacts) -> FileReader | DiskFile:
    """Open a disk or a disk file for reading; errors as ``look_at_disks``."""
    return open_disk_file(facts.path) if facts.kind == "file" else open_file_reader(facts.path)


def _is_of_system(uses: tuple[Use, ...]) -> bool:
    return any(use.kind == "mounted" and use.where in _SYSTEM_FOLDERS for use in uses)


def _partition(volume: CapturedVolume, uses: tuple[Use, ...], *, runs_here: bool) -> SeenPartition:
    taken, reason = _judge(volume, uses, runs_here=runs_here)
    return SeenPartition(
        volume=volume, bytes_used=_bytes_used(volume, uses), uses=uses, in_system_backup=taken, reason=reason
    )


def _judge(volume: CapturedVolume, uses: tuple[Use, ...], *, runs_here: bool) -> tuple[bool, str]:
    where = [use.where for use in uses if use.kind == "mounted"]
    system = sorted(folder for folder in where if folder in _SYSTEM_FOLDERS)
    type_name = volume.partition.type_name
    if system:
        return True, f"the running system has it at {', '.join(system)}"
    if runs_here and type_name in _START_TYPES:
        return True, f"{type_name}: the computer starts from this disk"
    if not runs_here:
        return False, "nothing of the running system is on this disk"
    if any(use.kind == "swap" for use in uses):
        return False, "swap: it holds nothing that lasts"
    if where:
        return False, f"mounted at {where[0]}: data, not the system"
    return False, "the running system does not use it"


def _bytes_used(volume: CapturedVolume, uses: tuple[Use, ...]) -> int | None:
    """By the file system's own map; of a mounted one by what the system says; else not known."""
    if volume.used.kind == "used":
        return volume.used.extents.size
    if any(use.kind == "holder" for use in uses):  # what is mounted lies in a volume on it, and tells of that alone
        return None
    for use in uses:
        if use.kind == "mounted":
            try:
                return shutil.disk_usage(use.where).used
            except OSError:
                continue
    return None
