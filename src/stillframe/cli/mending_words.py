"""A boot repair in words: what is broken, what is written, what comes of it, and what is not repaired.

Answers: "how is this told to a person whose computer does not start?" Pure: lines out.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from stillframe.cli.boot_words import chain_words
from stillframe.cli.restoring import target_lines
from stillframe.cli.words import local_time, notice_lines
from stillframe.jobs.boot_repair import BootRepairPlan, BootRepairResult
from stillframe.jobs.mending.on_copy import Mended, lost_systems
from stillframe.jobs.mending.undo_file import undo_size
from stillframe.jobs.mending.undoing import RepairUndoPlan
from stillframe.systems.chain_records import BootChain
from stillframe.units import format_duration, format_size

_NEXT: Final = (
    "Next step: start the medium of that system itself and repair it there; or bring back an image with 'restore'."
)
_STATES: Final = {
    True: "a way leads to it",
    False: "no whole way leads to it",
    None: "whether it starts cannot be told",
}


def plan_lines(plan: BootRepairPlan, undo_file: str) -> list[str]:
    """The plan.

    Args:
        plan: What will be done.
        undo_file: Where what was there goes first; empty when that is not decided.
    """
    target, mended = plan.target, plan.mended
    lines = ["Repair how this disk starts:", *(f"  {line}" for line in target_lines(target, target.path, target.size))]
    lines += ["", "Systems on it:", *(f"  {line}" for line in _system_lines(mended))]
    lines += ["", "How it starts now:", *_way_lines(mended.before.chains)]
    if mended.broken:
        lines += ["", "What is broken:", *_numbered(mended.broken)]
    if mended.changes:
        lines += ["", "What was repaired on a copy, and will be written:", *_numbered(mended.changes)]
        lines += [f"  {one.words}" for one in plan.places]
        lines += ["", f"What was there is kept first, about {format_size(undo_size(plan.differences.size))}:"]
        lines += _undo_words(target.path, undo_file)
        lines += ["", "How it starts then, as far as its bytes say:", *_way_lines(mended.after.chains)]
    elif mended.broken or plan.may_not_start:
        lines += ["", "Nothing was found that can be repaired here."]
    else:
        lines += ["", "Nothing is broken, as far as its bytes say."]
    if plan.steps:
        lines += ["", "Besides:", *_numbered(plan.steps)]
    if plan.may_not_start:
        lines += ["", *(f"Still does not start: {words}" for words in _lost_words(mended)), _NEXT]
    return [*lines, *notice_lines(mended.notices)]


def done_lines(plan: BootRepairPlan, result: BootRepairResult) -> list[str]:
    """What was done."""
    size, seconds = format_size(result.bytes_written), format_duration(result.seconds)
    lines = [f"Repaired      {plan.target.path}: {size} written and read back in {seconds}"]
    lines += [f"Changed       {change}" for change in result.changes]
    if result.undo_file:
        lines += [f"Way back      {_undo_command(plan.target.path, result.undo_file)}"]
    lines += _way_lines(result.chains)
    if result.may_not_start:
        lines += [*(f"Still does not start: {words}" for words in _lost_words(plan.mended)), _NEXT]
    return [*lines, *notice_lines(plan.mended.notices)]


def undo_lines(plan: RepairUndoPlan, file: str) -> list[str]:
    """What is taken back."""
    lines = [
        f"Take back the boot repair of {local_time(plan.record.created)}, as {file} has kept it:",
        *(f"  {line}" for line in target_lines(plan.target, plan.target.path, plan.target.size)),
        "", "What the repair did:", *_numbered(plan.record.changes), "",
    ]  # fmt: skip
    if not plan.bytes_repaired:
        return [*lines, "The disk is as it was before that repair: there is nothing to put back."]
    lines.append(f"{format_size(plan.bytes_repaired)} are as the repair made them, and are put back as they were.")
    if plan.bytes_repaired < plan.bytes_total:
        lines.append(f"{format_size(plan.bytes_total - plan.bytes_repaired)} are as they were: it was not finished.")
    return [*lines, "Entries of this computer's firmware stay; they do no harm."]


def _system_lines(mended: Mended) -> Iterator[str]:
    if not mended.before.systems:
        yield "none that can be told from the files that are read here"
    for one in mended.before.systems:
        yield f"{one.word}: {_STATES[mended.before.does_start(one)]}"


def _lost_words(mended: Mended) -> Iterator[str]:
    for one in lost_systems(mended):
        yield one.word


def _way_lines(chains: Sequence[BootChain]) -> list[str]:
    return [f"  {chain_words(chain, many=False)}" for chain in chains] or ["  no way was found"]


def _numbered(lines: Sequence[str]) -> list[str]:
    return [f"  {number}. {line}" for number, line in enumerate(lines, 1)]


def _undo_words(path: str, undo_file: str) -> Iterator[str]:
    if not undo_file:
        yield "  in a file in the current folder, or where '--keep-undo FILE' says"
        return
    yield f"  in {undo_file}; it is taken back by"
    yield f"  {_undo_command(path, undo_file)}"


def _undo_command(path: str, undo_file: str) -> str:
    return f"stillframe boot-repair {path} --undo {undo_file}"
