"""The verbs that write to a disk: ``restore`` and ``clone``."""

import os
from typing import Any, Final

from stillframe.capture import Selection, open_source
from stillframe.cli.call import Call, refuse_later, running
from stillframe.cli.restoring import edit, restore_lines, restore_options, target_lines
from stillframe.cli.results import notice_fields
from stillframe.cli.saving import SKIPPED
from stillframe.cli.words import local_time, plan_lines
from stillframe.clock import SystemClock
from stillframe.errors import TargetError, UsageError
from stillframe.events import Notice
from stillframe.host.machine import machine
from stillframe.jobs.clone import CloneOptions, ClonePlan, apply_clone, plan_clone
from stillframe.jobs.listing import find_image, look_at_image
from stillframe.jobs.looking import require_target
from stillframe.jobs.lost_files import name_lost_files
from stillframe.jobs.restore import RestorePlan, RestoreResult, apply_restore
from stillframe.jobs.restore_planning import RestorePlanner
from stillframe.jobs.targets import describe_contents
from stillframe.jobs.undo_table import apply_undo, plan_undo
from stillframe.units import format_duration, format_rate, format_size

_CLONE_LATER: Final = {
    "adapt": (False, "Back the disk up, and restore the image with '--adapt'."),
    "delta": (False, "Without it everything is written."),
    "fit": (False, "Back the disk up, and restore the image with '--fit'."),
}
_GONE: Final = Notice(
    code="table-only", message="only the table comes back: what was written over the partitions since is gone",
    hint="Copy what you still find on them to another disk.",
)  # fmt: skip
_QUESTION: Final = "Everything on the target that is listed above will be overwritten."


def restore(call: Call) -> int:
    """Write an image back."""
    options, screen = call.options, call.screen
    if options.undo_table:
        return _undo_table(call)
    if options.target is None:
        raise UsageError("an image and a target are needed", hint="Write 'stillframe restore IMAGE TARGET'.")
    require_target(options.target)
    wanted = restore_options(options)
    repository = call.open_repository()
    manifest = find_image(repository, options.image, machine_id=machine().id)
    planner = RestorePlanner(
        repository, manifest, options.disk, os.path.abspath(options.target), repository_folder=call.folder
    )
    if options.edit:
        wanted = edit(planner.plan, wanted, screen)
    plan = planner.plan(wanted)
    lines = restore_lines(plan, look_at_image(repository, manifest), explain=options.explain)
    if options.dry_run:
        fields = {"image": manifest.image, "disk": plan.source_disk.number, **_plan_fields(plan)}
        screen.finish("restore", fields, lines)
        return 0
    screen.say(*lines, "")
    if plan.target is not None:
        screen.confirm(_QUESTION, "restore", yes=options.yes)
    with running(screen) as context:
        result = apply_restore(repository, plan, context)
    for finding in name_lost_files(repository.reader(), manifest, result.lost):
        screen.emit(finding)
    screen.finish("restore", {"image": manifest.image, **_result_fields(plan, result)}, _result_lines(plan, result))
    return SKIPPED if result.lost else 0


def _result_fields(plan: RestorePlan, result: RestoreResult) -> dict[str, Any]:
    return {
        "target": plan.target_path, "bytes_written": result.bytes_written, "bytes_skipped": result.bytes_skipped,
        "seconds": result.seconds, "changes": list(result.changes),
        "lost": [{"partition": part.partition_number, "bytes": part.lost.size} for part in result.lost],
    }  # fmt: skip


def _result_lines(plan: RestorePlan, result: RestoreResult) -> list[str]:
    words = _done_lines(plan.target_path, result.bytes_written, result.bytes_skipped, result.seconds)
    words += [f"Lost          {part.words}: zeros are there now" for part in result.lost]
    return [*words, *(f"Changed       {change}" for change in result.changes)]


def _undo_table(call: Call) -> int:
    """Put back the table that was on a target."""
    options, screen = call.options, call.screen
    if options.image is not None:
        raise UsageError("'--undo-table TARGET' takes no image", hint="Write 'stillframe restore --undo-table TARGET'.")
    path = os.path.abspath(options.undo_table)
    require_target(path)
    if not os.path.exists(path):
        raise TargetError(f"there is no {path}", hint="'stillframe disks' lists the disks of this machine.")
    repository = call.open_repository()
    plan = plan_undo(repository, path, repository_folder=call.folder, lost=tuple(describe_contents(path)))
    kept = plan.kept
    lines = plan_lines(
        f"Put back the partition table of {local_time(kept.created)} on",
        target_lines(plan.target, path, plan.target.size),
        steps=[f"write the first and the last MiB, and the table, with: {'; '.join(kept.contents) or 'no partitions'}"],
        lost=plan.lost, notices=[_GONE],
    )  # fmt: skip
    if options.dry_run:
        screen.finish("restore", {"dry_run": True, "target": path, "created": kept.created}, lines)
        return 0
    screen.say(*lines, "")
    screen.confirm(_QUESTION, "restore", yes=options.yes)
    with running(screen) as context:
        written = apply_undo(plan, repository, context)
    screen.finish("restore", {"target": path, "bytes_written": written, "created": kept.created},
                  [f"Put back      the table of {local_time(kept.created)} on {path}"])  # fmt: skip
    return 0


def clone(call: Call) -> int:
    """Copy a disk onto another one."""
    options, screen = call.options, call.screen
    refuse_later(options, _CLONE_LATER)
    require_target(options.target)
    wanted = CloneOptions(
        selection=Selection(all_sectors=options.all_sectors, include_paging=options.include_paging),
        wipe=options.wipe, new_identity=options.new_identity,
    )  # fmt: skip
    with open_source(options.source, allow_torn=options.allow_torn, may_snapshot=True) as source:
        plan = plan_clone(source, os.path.abspath(options.target), wanted)
        lines = plan_lines(
            f"Clone {source.facts.path} ({format_size(plan.disk.layout.size)}) to",
            target_lines(plan.target, plan.target_path, plan.target_size),
            steps=plan.steps, lost=plan.lost, notices=plan.notices,
        )  # fmt: skip
        if options.dry_run:
            screen.finish("clone", {"source": source.facts.path, **_plan_fields(plan)}, lines)
            return 0
        screen.say(*lines, "")
        if plan.target is not None:
            screen.confirm(_QUESTION, "clone", yes=options.yes)
        with running(screen) as context:
            result = apply_clone(source, plan, clock=SystemClock(), context=context)
    fields = {
        "source": source.facts.path, "target": plan.target_path, "bytes_written": result.bytes_written,
        "bytes_skipped": result.bytes_skipped, "seconds": result.seconds, "complete": result.is_complete,
    }  # fmt: skip
    words = _done_lines(plan.target_path, result.bytes_written, result.bytes_skipped, result.seconds)
    if not result.is_complete:
        words.append("The source was in use while it was copied: this copy may be unusable.")
    screen.finish("clone", fields, words)
    return 0 if result.is_complete else SKIPPED


def _plan_fields(plan: RestorePlan | ClonePlan) -> dict[str, Any]:
    target = plan.target
    return {
        "dry_run": True,
        "target": plan.target_path,
        "target_size": plan.target_size,
        "model": target.model if target else "",
        "serial": target.serial if target else "",
        "bytes_to_write": plan.bytes_to_write,
        "places": [
            {"partition": one.partition.number, "start": one.place.start, "size": one.place.size}
            for one in (plan.placements if isinstance(plan, RestorePlan) else ())
        ],
        "steps": list(plan.steps),
        "reasons": [
            {"partition": reason.partition, "text": reason.text}
            for reason in (plan.reasons if isinstance(plan, RestorePlan) else ())
        ],
        "lost": list(plan.lost),
        "notices": notice_fields(plan.notices),
    }


def _done_lines(target: str, written: int, skipped: int, seconds: float) -> list[str]:
    rate = format_rate(written, seconds)
    return [
        f"Written       {format_size(written)} to {target} in {format_duration(seconds)} ({rate})",
        f"Left alone    {format_size(skipped)}",
    ]
