"""The verb ``disks``, and what lies at a path before it is used as a source or a target.

Answers: "which disks are there, what is on them, and which partitions would a backup of the system take?" Only reads.
What a system needs is judged for all disks together (``systems.needed``): it may start from one and lie on another.
"""

import os
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from stillframe.block.file import FileReader, open_file_reader
from stillframe.block.formats import DiskFile, container_name, open_disk_file
from stillframe.capture import CapturedDisk, CapturedVolume, Selection, capture_disk
from stillframe.capture.diskfiles import facts_of
from stillframe.errors import DeviceError, MachineRefusal, TargetError, UsageError
from stillframe.events import Notice
from stillframe.fs.base import Volume
from stillframe.host.blocks import THIS_MACHINE, KernelPaths, read_block_tree
from stillframe.host.disks import DiskFacts, describe, list_disks
from stillframe.host.mounts import Use, users_of_place
from stillframe.jobs.inside.system_reading import BootWaysFound, find_installed
from stillframe.jobs.inside.systems_here import LookedDisk, SystemsHere, find_systems
from stillframe.systems import InstalledSystem
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
        installed: The operating system on it; ``None`` where there is none, or nobody can tell.
        inside: The volumes inside of it that are listed below it.
    """

    volume: CapturedVolume
    bytes_used: int | None
    uses: tuple[Use, ...]
    in_system_backup: bool
    reason: str
    installed: InstalledSystem | None = None
    inside: tuple["SeenInside", ...] = ()

    @property
    def system(self) -> str | None:
        """The operating system on it, or the first one inside of it, in words."""
        found = [self.installed, *(one.installed for one in self.inside)]
        return next((one.name for one in found if one is not None), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenInside:
    """A volume inside a partition.

    Attributes:
        name: Such as ``vg/root``.
        volume: What is in it.
        size: In bytes.
        uses: Where the running system has it mounted.
        installed: The operating system on it.
        refusal: Why it is not read; empty when it is.
    """

    name: str
    volume: Volume
    size: int
    uses: tuple[str, ...]
    installed: InstalledSystem | None
    refusal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenDisk:
    """One disk as it is now. ``disk`` is ``None`` when it could not be read; a notice says why."""

    facts: DiskFacts
    disk: CapturedDisk | None
    partitions: tuple[SeenPartition, ...]
    notices: tuple[Notice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenDisks:
    """Disks as they are now, in the order of their numbers, and how a computer starts from them."""

    disks: tuple[SeenDisk, ...]
    boot: BootWaysFound


def look_at_disks(path: str | None, *, kernel: KernelPaths = THIS_MACHINE) -> SeenDisks:
    """Look at one disk, partition or disk file, or with ``None`` at every disk of this machine.

    A disk that cannot be read does not hide the others. The steps of the ways in which a computer starts count the
    disks that could be read, from 0.

    Raises:
        UsageError: There is nothing at the path.
        DiskFormatError: It is a disk file of another program, and broken.
        MachineRefusal, DeviceError: The one that was named cannot be read.
    """
    with ExitStack() as stack:
        if path is not None:
            opened: list[_Opened | SeenDisk] = [_open(describe(path, kernel=kernel), stack, kernel)]
        else:
            opened = [_open_bravely(facts, stack, kernel) for facts in list_disks(kernel=kernel)]
        read = [one for one in opened if isinstance(one, _Opened)]
        here = find_systems([one.looked for one in read], read_block_tree(kernel))
        boot = here.follow()
    verdicts, installed = iter(judge_parts(here.evidence).verdicts), iter(find_installed(here.asked))
    inside = _seen_inside(here)
    disks, number = list[SeenDisk](), 0
    for one in opened:
        if isinstance(one, SeenDisk):
            disks.append(one)
            continue
        parts = tuple(
            _seen(volume, uses, next(verdicts), next(installed), inside.get((number, volume.partition.number), ()))
            for volume, uses in zip(one.looked.disk.volumes, one.looked.uses, strict=True)
        )
        facts = one.looked.disk.facts
        disks.append(SeenDisk(facts=facts, disk=one.looked.disk, partitions=parts, notices=one.looked.disk.notices))
        number += 1
    return SeenDisks(disks=tuple(disks), boot=boot)


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
class _Opened:
    """A disk that is read, until the end of looking."""

    looked: LookedDisk


def _open_bravely(facts: DiskFacts, stack: ExitStack, kernel: KernelPaths) -> _Opened | SeenDisk:
    try:
        return _open(facts, stack, kernel)
    except (DeviceError, MachineRefusal) as error:
        notice = Notice(code=error.code, message=error.message, hint=error.hint)
        return SeenDisk(facts=facts, disk=None, partitions=(), notices=(notice,))


def _open(facts: DiskFacts, stack: ExitStack, kernel: KernelPaths) -> _Opened:
    reader = open_disk(facts)
    stack.enter_context(reader)
    if isinstance(reader, DiskFile):
        facts = facts_of(facts, reader)
    disk = capture_disk(reader, facts, Selection())
    tree = read_block_tree(kernel)
    uses = tuple(users_of_place(facts, one.partition.extent, tree, kernel=kernel) for one in disk.volumes)
    return _Opened(looked=LookedDisk(disk=disk, uses=uses))


def _seen(
    volume: CapturedVolume, uses: tuple[Use, ...], verdict: Verdict, installed: InstalledSystem | None,
    inside: tuple[SeenInside, ...],
) -> SeenPartition:  # fmt: skip
    return SeenPartition(
        volume=volume, bytes_used=_bytes_used(volume, uses), uses=uses, in_system_backup=verdict.taken,
        reason=verdict.reason, installed=installed, inside=inside,
    )  # fmt: skip


def _seen_inside(here: SystemsHere) -> dict[tuple[int, int], tuple[SeenInside, ...]]:
    """The volumes inside, by the partition below which they are listed."""
    found = dict[tuple[int, int], tuple[SeenInside, ...]]()
    installed = find_installed(here.asked)[len(here.volumes) :]
    for volume, system in zip(here.inner, installed, strict=True):
        part = volume.evidence
        one = SeenInside(
            name=part.inner, volume=part.volume, size=volume.size, uses=part.mounted, installed=system,
            refusal=volume.refusal,
        )  # fmt: skip
        place = part.disk, part.partition.number
        found[place] = (*found.get(place, ()), one)
    return found


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
