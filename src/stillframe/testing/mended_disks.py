"""Disks that do not start, repaired: what a person would do by ``boot-repair``, as a call.

Answers: "what does a boot repair plan and do with this disk?" Undo files lie beside the disk file.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from stillframe.clock import SystemClock
from stillframe.events import Event, Notice
from stillframe.jobs.boot_repair import (
    BootRepairPlan,
    BootRepairResult,
    PreparedRepair,
    apply_boot_repair,
    prepare_boot_repair,
)
from stillframe.jobs.mending.on_copy import MendWishes
from stillframe.jobs.mending.undoing import apply_undo_repair, prepare_undo
from stillframe.jobs.saving.unlocking import Unlocking
from stillframe.testing.job_runs import job_context


@dataclass(slots=True)
class Heard:
    """An ``EventSink`` that keeps notices."""

    notices: list[Notice] = field(default_factory=list)

    def emit(self, event: Event) -> None:
        """Keep a notice."""
        if isinstance(event, Notice):
            self.notices.append(event)


@contextmanager
def prepared(
    disk: Path, *, wishes: MendWishes | None = None, keys: Unlocking | None = None
) -> Iterator[PreparedRepair]:
    """A repair that was planned."""
    how = keys or Unlocking()
    with prepare_boot_repair(str(disk), wishes or MendWishes(), how, job_context(), folder=str(disk.parent)) as found:
        yield found


def plan_of(disk: Path, *, wishes: MendWishes | None = None) -> BootRepairPlan:
    """What would be done."""
    with prepared(disk, wishes=wishes) as found:
        return found.plan


def repaired(
    disk: Path, *, wishes: MendWishes | None = None, keys: Unlocking | None = None
) -> tuple[BootRepairPlan, BootRepairResult]:
    """A disk repaired; its undo file has its name and ``.undo``."""
    with prepared(disk, wishes=wishes, keys=keys) as found:
        result = apply_boot_repair(found, str(undo_of(disk)), clock=SystemClock(), context=job_context())
        return found.plan, result


def undo_of(disk: Path) -> Path:
    """The undo file of a disk."""
    return disk.with_name(f"{disk.name}.undo")


def undone(disk: Path) -> None:
    """A repair taken back."""
    with prepare_undo(str(disk), str(undo_of(disk))) as (plan, undo):
        apply_undo_repair(plan, undo, clock=SystemClock(), context=job_context())
