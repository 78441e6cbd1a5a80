"""What a Windows on a restored disk is told of its partitions, when they lie elsewhere or have other ids.

Answers: "does the Windows on this target find what it starts from?" The partitions have been written, the table has
not: a run that ends here leaves no disk that starts.
"""

from collections.abc import Iterable
from typing import Final

from stillframe.block import BlockWriter
from stillframe.disk import Layout
from stillframe.errors import MachineRefusal
from stillframe.events import Notice, PhaseStarted
from stillframe.host.apart import call_apart
from stillframe.jobs.context import JobContext
from stillframe.systems.windows_moves import build_moves
from stillframe.systems.windows_repair import plan_windows_repair

_TIMEOUT_S: Final = 1800.0


def repair_windows(
    target: BlockWriter, before: Layout, after: Layout, context: JobContext, *, written: Iterable[int],
    resized: Iterable[int],
) -> tuple[str, ...]:  # fmt: skip
    """Change what Windows notes of its partitions; what was changed, in sentences. What cannot be is a notice.

    Args:
        target: The disk, its partitions written.
        before: The layout of the source.
        after: That of the target.
        context: Who asks.
        written: Numbers of partitions that came from the image; others are not looked into.
        resized: Of those, whose file systems were resized.
    """
    if before.scheme == "none":
        return ()
    moves = build_moves(before, after, {number: number for number in written})
    if moves.is_nothing:
        return ()
    context.events.emit(PhaseStarted(name="looking for what Windows notes of its partitions"))
    target.flush()
    try:
        repair = call_apart(
            lambda: plan_windows_repair(target, after, moves, resized=frozenset(resized)),
            what="looking for what Windows notes of its partitions", timeout_s=_TIMEOUT_S,
        )  # fmt: skip
    except MachineRefusal as error:
        context.events.emit(Notice(code="windows-not-repaired", message=error.message, hint=error.hint))
        return ()
    for patch in repair.patches:
        target.write_at(patch.offset, patch.data)
    for notice in repair.not_done:
        context.events.emit(notice)
    return repair.done
