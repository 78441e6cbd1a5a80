"""An image of several disks onto several targets, in one plan.

Answers: "which disk of the image goes where, and is everything right before the first byte is written?" Each disk has a
plan of its own by ``planning``; here is what is true of all of them together. Windows' notes of partitions on
another disk stay as they are.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from stillframe.errors import TargetError, UsageError
from stillframe.events import Notice
from stillframe.host.disks import describe
from stillframe.host.places import is_same, lies_on
from stillframe.host.target import open_target
from stillframe.jobs.context import JobContext
from stillframe.jobs.restore import apply_restore
from stillframe.jobs.restoring.plan import RestoreOptions, RestorePlan, RestoreResult
from stillframe.jobs.restoring.planning import plan_restore
from stillframe.repo.records import Manifest
from stillframe.repo.repository import Repository


@dataclass(frozen=True, slots=True, kw_only=True)
class SeveralPlan:
    """What will be written where, a plan for each disk; and what is true of all of them."""

    plans: tuple[RestorePlan, ...]
    notices: tuple[Notice, ...]


def plan_several(
    repository: Repository, manifest: Manifest, targets: Mapping[int, str], *, repository_folder: str,
    options: RestoreOptions,
) -> SeveralPlan:  # fmt: skip
    """Look at all targets, and decide what goes where. Writes nothing.

    Args:
        repository: With the image.
        manifest: The image.
        targets: Where each disk goes, by its number; disks that are not named are not restored.
        repository_folder: Where the repository is.
        options: What holds for all of them: nothing about single partitions.

    Raises:
        UsageError: A wish is about single partitions, or there is no such disk.
        TargetError: Two targets are one, or one of them is refused.
    """
    if options.partition is not None or options.added or options.wishes or options.moves or options.leave_out:
        raise UsageError(
            "'--to' restores whole disks: a wish for a partition does not say on which of them",
            hint="Restore that disk alone, with '--disk N' and its target.",
        )
    _refuse_shared(list(targets.values()))
    plans = [
        plan_restore(repository, manifest, number, path, repository_folder=repository_folder, options=options)
        for number, path in sorted(targets.items())
    ]
    return SeveralPlan(plans=tuple(plans), notices=tuple(_notices(manifest, plans, options)))


def apply_several(repository: Repository, plan: SeveralPlan, context: JobContext) -> tuple[RestoreResult, ...]:
    """Carry all plans out, one after the other; before the first byte is written all targets are looked at again.

    Raises:
        TargetError: A target is not what it was when the plan was made, or has come into use.
        DamagedError: Something of the image cannot be read: that target has no valid table, later ones stay.
    """
    for one in plan.plans:
        if one.target is not None:
            open_target(one.target).close()
        elif os.path.lexists(one.target_path):
            raise TargetError(f"{one.target_path} exists already", hint="It came into being meanwhile: run it again.")
    return tuple(apply_restore(repository, one, context) for one in plan.plans)


def _refuse_shared(paths: Sequence[str]) -> None:
    """Refuse two targets where writing one would write the other.

    Raises:
        TargetError: With both.
    """
    for one, other in combinations(paths, 2):
        if is_same(one, other):
            raise TargetError(f"{one} and {other} are the same target", hint="Name another one for each disk.")
        if os.path.exists(one) and os.path.exists(other):
            first, second = describe(one), describe(other)
            if first.path in (second.path, second.parent) or second.path == first.parent:
                raise TargetError(f"{one} and {other} are parts of one disk", hint="Name another one for each disk.")
        if lies_on(one, other) is not False or lies_on(other, one) is not False:
            raise TargetError(f"{one} and {other} lie on one another", hint="Name another one for each disk.")


def _notices(manifest: Manifest, plans: Sequence[RestorePlan], options: RestoreOptions) -> list[Notice]:
    notices = []
    restored = {plan.source_disk.number for plan in plans}
    missing = [str(disk.number) for disk in manifest.disks if disk.number not in restored]
    if missing:
        notices.append(
            Notice(
                code="disk-not-restored", message=f"disk {', '.join(missing)} of the image is not restored",
                hint="'--to N=TARGET' names a target for it.",
            )
        )  # fmt: skip
    has_windows = any(part.filesystem == "ntfs" for plan in plans for part in plan.source_disk.partitions)
    if options.new_identity and len(plans) > 1 and has_windows:
        notices.append(
            Notice(
                code="windows-across-disks",
                message="what a Windows on one of these disks notes of partitions on another one stays, and names them "
                "by their old ids",
                hint="Without '--new-identity' the ids stay, and so do drive letters.",
            )
        )
    return notices
