"""Sources that are held still for as long as they are read, such as by a snapshot.

Answers: "from when on do these bytes not change, and what is in them then?" Sources that are followed while they change
are for ``live``; the others need nothing.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from stillframe.capture import CapturedDisk, Holding, OpenSource, Selection
from stillframe.events import Notice
from stillframe.jobs.context import JobContext
from stillframe.jobs.saving.hooks import Hooks, hooked


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldSources:
    """Sources to be read, what is in each, and what a person should know; letting go may add to that."""

    sources: tuple[OpenSource, ...]
    disks: tuple[CapturedDisk, ...]
    notices: list[Notice] = field(default_factory=list)


@contextmanager
def held_still(
    sources: Sequence[OpenSource], disks: Sequence[CapturedDisk], *, selection: Selection, hooks: Hooks,
    context: JobContext,
) -> Iterator[HeldSources]:  # fmt: skip
    """Hold sources still while the block runs.

    Args:
        sources: As opened.
        disks: What was planned for each.
        selection: Which bytes the person wants.
        hooks: What is run around the moment that counts.
        context: Of the job.

    Raises:
        MachineRefusal: One of them cannot be held still, or a hook failed.
    """
    notices = list[Notice]()

    def note(notice: Notice) -> None:
        notices.append(notice)
        context.events.emit(notice)

    holding = Holding(selection=selection, around=lambda: hooked(hooks, note), note=note)
    with ExitStack() as stack:
        found = [stack.enter_context(source.hold(disk, holding)) for source, disk in zip(sources, disks, strict=True)]
        for source, still in zip(sources, found, strict=True):
            if still.source is not source:  # what the plan said of it was an estimate
                notices += still.disk.notices
                notices += (notice for volume in still.disk.volumes for notice in volume.notices)
        yield HeldSources(
            sources=tuple(one.source for one in found), disks=tuple(one.disk for one in found), notices=notices
        )
