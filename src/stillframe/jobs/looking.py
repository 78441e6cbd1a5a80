"""The verb ``disks``, and what lies at a path before it is used as a source or a target.

Answers: "which disks are there, what is on them, and which partitions would a backup of the system take?" Only reads.
What a system needs is judged for all disks together (``systems.needed``): it may start from one and lie on another.
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
from stillframe.jobs.systems_here import find_evidence, name_systems
from stillframe.systems.evidence import PartEvidence
from stillframe.systems.needed import Verdict, judge_parts

_DEVICE_FOLDERS: Final = ("/dev/", "/proc/", "/sys/", "\\\\.\\")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenPartition:
    """One partition as it is now.

    Attributes:
        volume: Where it lies, and what is in it.
        bytes_used: Bytes that its file system uses; ``None`` when that cannot be told.
        uses: What it is used for at the moment.
        in_system_backup: Whether ``backup --system`` takes it.
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
        looked = [_look(describe(path, kernel=kernel), 0, kernel)]
    else:
        looked = [_look_bravely(facts, number, kernel) for number, facts in enumerate(list_disks(kernel=kernel))]
    judged = judge_parts([part for one in looked for part in one.evidence])
    verdicts = iter(judged.verdicts)
    return tuple(
        replace(one.seen, partitions=tuple(_judged(part, next(verdicts)) for part in one.seen.partitions))
        for one in looked
    )


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Looked:
    """A disk before it is judged."""

    seen: SeenDisk
    evidence: tuple[PartEvidence, ...] = ()


def _look_bravely(facts: DiskFacts, number: int, kernel: KernelPaths) -> _Looked:
    try:
        return _look(facts, number, kernel)
    except (DeviceError, MachineRefusal) as error:
        notice = Notice(code=error.code, message=error.message, hint=error.hint)
        return _Looked(seen=SeenDisk(facts=facts, disk=None, partitions=(), notices=(notice,)))


def _look(facts: DiskFacts, number: int, kernel: KernelPaths) -> _Looked:
    with open_disk(facts) as reader:
        if isinstance(reader, DiskFile):
            facts = facts_of(facts, reader)
        disk = capture_disk(reader, facts, Selection())
        tree = read_block_tree(kernel)
        uses = [users_of_place(facts, one.partition.extent, tree, kernel=kernel) for one in disk.volumes]
        evidence = find_evidence(number, disk, uses)
    partitions = tuple(
        SeenPartition(
            volume=volume, bytes_used=_bytes_used(volume, used), uses=used, in_system_backup=False, reason="",
            system=system,
        )
        for volume, used, system in zip(disk.volumes, uses, name_systems(evidence), strict=True)
    )  # fmt: skip
    seen = SeenDisk(facts=facts, disk=disk, partitions=partitions, notices=disk.notices)
    return _Looked(seen=seen, evidence=evidence)


def _judged(part: SeenPartition, verdict: Verdict) -> SeenPartition:
    return replace(part, in_system_backup=verdict.taken, reason=verdict.reason)


def open_disk(facts: DiskFacts) -> FileReader | DiskFile:
    """Open a disk or a disk file for reading; errors as ``look_at_disks``."""
    return open_disk_file(facts.path) if facts.kind == "file" else open_file_reader(facts.path)


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
