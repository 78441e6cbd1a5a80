"""A clone whose partitions are made to fit the target: a restore of the disk as an image of itself.

Answers: "what goes where, and why?" and does it. Planning, resizing on copies, writing and the table are those of
``restore``; here is only where the bytes come from, and what must not be written to.
"""

import os
from dataclasses import dataclass, replace
from typing import Final

from stillframe.block import BlockReader
from stillframe.clock import Clock
from stillframe.errors import UsageError
from stillframe.events import EventSink, Notice
from stillframe.host.target import TargetIdentity
from stillframe.jobs.cloning.disk_image import DiskImage
from stillframe.jobs.context import JobContext
from stillframe.jobs.restore import carry_out
from stillframe.jobs.restoring.kept_files import keep_in_file
from stillframe.jobs.restoring.plan import RestoreOptions, RestorePlan, RestoreResult
from stillframe.jobs.restoring.planning import RestorePlanner
from stillframe.jobs.restoring.supply import Supply
from stillframe.jobs.restoring.targets import refuse_source, require_same_sectors

_OF_TABLES: Final = {
    "wishes": "--resize", "moves": "--move", "leave_out": "--leave-out", "convert": "--convert", "adapt": "--adapt",
    "new_identity": "--new-identity",
}  # fmt: skip
"""What can be asked of a disk with partitions only: names of options, and how they are typed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedClonePlanner:
    """Plans clones of one disk onto one target, as often as a person changes his wishes."""

    image: DiskImage
    target_path: str
    planner: RestorePlanner

    def plan(self, options: RestoreOptions) -> RestorePlan:
        """Decide what goes where. Writes nothing.

        Raises:
            UsageError: A wish cannot be.
            TargetError: What is there does not fit.
        """
        if self.image.disk.layout.scheme == "none":  # one volume, as of a partition that is cloned by itself
            _refuse_wishes(options)
            options = replace(options, partition=1)
        plan = self.planner.plan(options)
        return replace(plan, verb="clone", notices=(*_notices(self.image), *plan.notices))


def clone_planner(image: DiskImage, target_path: str) -> FittedClonePlanner:
    """Look at a target for the clone of a disk.

    Raises:
        TargetError: It is the source, holds it, or has sectors of another size.
    """
    if os.path.exists(target_path):
        refuse_source(image.source, target_path)
        if image.disk.layout.scheme != "none":  # of one volume it is known whether it is right on others
            require_same_sectors(target_path, image.disk.layout.sector_size)
    planner = RestorePlanner(image, image.manifest, 1, target_path, repository_folder="")
    return FittedClonePlanner(image=image, target_path=target_path, planner=planner)


def apply_fitted_clone(
    image: DiskImage, plan: RestorePlan, *, keep_table: str, clock: Clock, context: JobContext
) -> RestoreResult:
    """Carry a plan out.

    Args:
        image: The source.
        plan: Made of it.
        keep_table: The file where the table of the target is kept; empty for none.
        clock: For how long it takes.
        context: Of the job.

    Raises:
        TargetError: The target is not what it was when the plan was made, or has come into use.
        DeviceError: The source cannot be read somewhere: a clone has no place to write that down.
        Disturbed: Somebody wrote to the source, or could have: the target has no table.
    """

    def keep(target: BlockReader, identity: TargetIdentity, contents: tuple[str, ...], events: EventSink) -> None:
        if keep_table:
            keep_in_file(keep_table, target, identity, contents, events=events, clock=clock)

    supply = Supply(
        origin=image,
        clock=clock,
        namer=None,
        keep=keep,
        require_still=image.require_still,
    )
    return carry_out(supply, plan, context)


def _notices(image: DiskImage) -> tuple[Notice, ...]:
    """What a person should know of the source."""
    inside = (notice for volume in image.disk.volumes for notice in volume.notices)
    return (*image.source.notices, *image.disk.notices, *inside)


def _refuse_wishes(options: RestoreOptions) -> None:
    """Refuse wishes for partitions where there are none.

    Raises:
        UsageError: With the option.
    """
    word = next((word for name, word in _OF_TABLES.items() if getattr(options, name)), "")
    if word:
        raise UsageError(
            f"the source has no partition table, and '{word}' is about a disk that has one",
            hint="'--fit' alone makes its only volume as large as the target.",
        )
