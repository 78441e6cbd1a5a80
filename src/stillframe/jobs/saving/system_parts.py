"""What ``backup --system`` takes: the partitions that the systems on some disks need, and nothing else.

Answers: "which disks has the running system, and which partitions of the sources stay out of the image?" What is needed
is judged by ``systems.needed``, from what ``systems_here`` reads.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from stillframe.capture import LeftOutPart, OpenSource, Selection
from stillframe.capture.windows import WindowsSource
from stillframe.errors import MachineRefusal, UsageError
from stillframe.events import Notice
from stillframe.host.blocks import read_block_tree
from stillframe.host.mounts import Use, users_of, users_of_place
from stillframe.jobs.inside.systems_here import LookedDisk, find_systems
from stillframe.jobs.looking import look_at_disks
from stillframe.systems.needed import is_system_folder, judge_parts

SERIES: Final = "system"
"""The name of images of ``--system`` that have no other: they are never thinned together with images of everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemChoice:
    """What stays out of an image of a system, and what a person should know of it."""

    without: tuple[LeftOutPart, ...]
    notices: tuple[Notice, ...]

    def narrow(self, selection: Selection) -> Selection:
        """A selection without those partitions."""
        return replace(selection, without=self.without)


def find_system_disks() -> tuple[str, ...]:
    """The disks that the running system needs to start.

    Raises:
        UsageError: It is on none, as on a live stick.
        MachineRefusal: One that it uses cannot be read.
    """
    seen = look_at_disks(None).disks
    for disk in seen:
        if disk.disk is None and _runs_from(users_of(disk.facts.path, probe=False)):
            raise MachineRefusal(disk.notices[0].message, hint=disk.notices[0].hint)
    runs_here = any(_runs_from(part.uses) for disk in seen for part in disk.partitions)
    disks = tuple(disk.facts.path for disk in seen if any(part.in_system_backup for part in disk.partitions))
    if not runs_here or not disks:
        raise UsageError(
            "the running system is on no disk of this computer",
            hint="Name the disk: 'stillframe backup --system /dev/sda'. 'stillframe disks' shows what is on which.",
        )
    return disks


def _runs_from(uses: Iterable[Use]) -> bool:
    return any(use.kind == "mounted" and is_system_folder(use.where) for use in uses)


def choose_system(sources: Sequence[OpenSource]) -> SystemChoice:
    """Judge the partitions of all sources together.

    Raises:
        UsageError: On one of them nothing is a part of a system.
        MachineRefusal: They are disks of a running Windows.
    """
    if any(isinstance(source, WindowsSource) for source in sources):
        raise MachineRefusal(
            "'--system' is not possible from a running Windows in this version",
            hint="Save the whole disk; or start Stillframe from a Linux stick and name the disk.",
        )
    disks = [source.capture(Selection()) for source in sources]
    tree = read_block_tree()
    looked = [
        LookedDisk(
            disk=disk, uses=tuple(users_of_place(disk.facts, one.partition.extent, tree) for one in disk.volumes)
        )
        for disk in disks
    ]  # fmt: skip
    judged = judge_parts(find_systems(looked, tree).evidence)
    verdicts, without = iter(judged.verdicts), list[LeftOutPart]()
    for disk in disks:
        path, found = disk.facts.path, [(volume, next(verdicts)) for volume in disk.volumes]
        if not any(verdict.taken for _, verdict in found):
            raise UsageError(
                f"nothing on {path} is a part of a system", hint="'stillframe disks SOURCE' shows why; leave it out, "
                "or save all of it without '--system'.",
            )  # fmt: skip
        without += [
            LeftOutPart(disk=path, place=volume.partition.extent, reason=verdict.reason)
            for volume, verdict in found
            if not verdict.taken
        ]
    hint = "If that system matters, name its other disk too; an entry that is out of date does no harm."
    notices = tuple(Notice(code="system-not-whole", message=words, hint=hint) for words in judged.missing)
    return SystemChoice(without=tuple(without), notices=notices)
