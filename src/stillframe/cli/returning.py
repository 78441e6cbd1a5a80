"""The verb ``restore``, and what ``clone`` says in the same words."""

import os
from dataclasses import replace
from typing import Any, Final

from stillframe.cli.call import REPOSITORY_VARIABLE, Call, running
from stillframe.cli.restoring import edit, once, restore_lines, restore_options, target_lines
from stillframe.cli.results import notice_fields
from stillframe.cli.saving import SKIPPED, unlocking
from stillframe.cli.words import local_time, notice_lines, plan_lines
from stillframe.clock import Clock, SystemClock
from stillframe.errors import TargetError, UsageError
from stillframe.events import Notice
from stillframe.host.machine import machine
from stillframe.jobs.clone import ClonePlan
from stillframe.jobs.inside.lost_files import name_lost_files
from stillframe.jobs.listing import find_image, look_at_image
from stillframe.jobs.looking import require_target
from stillframe.jobs.repositories import folder_of
from stillframe.jobs.restore import RestorePlan, RestoreResult, apply_restore
from stillframe.jobs.restoring.kept_files import read_kept
from stillframe.jobs.restoring.planning import RestorePlanner
from stillframe.jobs.restoring.several import apply_several, plan_several
from stillframe.jobs.restoring.targets import describe_contents, refuse_repository
from stillframe.jobs.restoring.undo_table import apply_undo, plan_undo, plan_undo_from
from stillframe.jobs.starts.unlocking_inside import unlock_image
from stillframe.units import format_duration, format_rate, format_size

_GONE: Final = Notice(
    code="table-only", message="only the table comes back: what was written over the partitions since is gone",
    hint="Copy what you still find on them to another disk.",
)  # fmt: skip
_QUESTION_SEVERAL: Final = "Everything on these targets that is listed above will be overwritten."
UNLOCK_FOR: Final = ("adapt", "new_identity")
"""Options that change what is inside of encrypted volumes; all else needs no passphrase."""
QUESTION: Final = "Everything on the target that is listed above will be overwritten."


def restore(call: Call) -> int:
    """Write an image back."""
    options, screen = call.options, call.screen
    if options.undo_table:
        return _undo_table(call)
    if options.kept:
        raise UsageError("'--from FILE' belongs to '--undo-table TARGET'", hint="Leave it out, or name the target.")
    if options.to:
        return _restore_several(call)
    if options.target is None:
        raise UsageError("an image and a target are needed", hint="Write 'stillframe restore IMAGE TARGET'.")
    require_target(options.target)
    wanted, passphrases = restore_options(options), unlocking(call, UNLOCK_FOR)
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
        fields = {"image": manifest.image, "disk": plan.source_disk.number, **plan_fields(plan), "words": lines}
        screen.finish("restore", fields, lines)
        return 0
    screen.say(*lines, "")
    keys = unlock_image(repository, plan, passphrases)
    if plan.target is not None:
        screen.confirm(QUESTION, "restore", yes=options.yes)
    with running(screen) as context:
        result = apply_restore(repository, plan, replace(context, keys=keys))
    for finding in name_lost_files(repository.reader(), manifest, result.lost):
        screen.emit(finding)
    screen.finish("restore", {"image": manifest.image, **_result_fields(plan, result)}, _result_lines(plan, result))
    return SKIPPED if result.lost or result.may_not_start else 0


def _restore_several(call: Call) -> int:
    """Write several disks of an image back, each to its target."""
    options, screen = call.options, call.screen
    if options.target is not None or options.disk is not None:
        raise UsageError("'--to N=TARGET' takes no other target", hint="Write '--to' for each disk, and no TARGET.")
    if options.edit:
        raise UsageError("'--edit' is about one disk", hint="Restore the disks one by one, with '--disk N'.")
    targets = once("--to", [(number, os.path.abspath(path)) for number, path in options.to])
    for path in targets.values():
        require_target(path)
    repository = call.open_repository()
    manifest = find_image(repository, options.image, machine_id=machine().id)
    plan = plan_several(repository, manifest, targets, repository_folder=call.folder, options=restore_options(options))
    listed = look_at_image(repository, manifest)
    lines = [line for one in plan.plans for line in ("", *restore_lines(one, listed, explain=options.explain))]
    lines = [*lines[1:], *notice_lines(plan.notices)]
    if options.dry_run:
        disks = [{"disk": one.source_disk.number, **plan_fields(one)} for one in plan.plans]
        fields = {"image": manifest.image, "dry_run": True, "disks": disks, "notices": notice_fields(plan.notices)}
        screen.finish("restore", fields, lines)
        return 0
    screen.say(*lines, "")
    wanted = unlocking(call, UNLOCK_FOR)
    if wanted.is_wanted:
        raise UsageError("'--unlock' is about one disk", hint="Restore the disks one by one, with '--disk N'.")
    if any(one.target is not None for one in plan.plans):
        screen.confirm(_QUESTION_SEVERAL, "restore", yes=options.yes)
    with running(screen) as context:
        results = apply_several(repository, plan, context)
    words, found = list[str](), list[dict[str, Any]]()
    for one, result in zip(plan.plans, results, strict=True):
        for finding in name_lost_files(repository.reader(), manifest, result.lost):
            screen.emit(finding)
        words += _result_lines(one, result)
        found.append({"disk": one.source_disk.number, **_result_fields(one, result)})
    screen.finish("restore", {"image": manifest.image, "disks": found}, words)
    return SKIPPED if any(result.lost or result.may_not_start for result in results) else 0


def _result_fields(plan: RestorePlan, result: RestoreResult) -> dict[str, Any]:
    return {
        "target": plan.target_path, "bytes_written": result.bytes_written, "bytes_skipped": result.bytes_skipped,
        "seconds": result.seconds, "changes": list(result.changes),
        "lost": [{"partition": part.partition_number, "bytes": part.lost.size} for part in result.lost],
        "may_not_start": result.may_not_start,
    }  # fmt: skip


def _result_lines(plan: RestorePlan, result: RestoreResult) -> list[str]:
    words = done_lines(plan.target_path, result.bytes_written, result.bytes_skipped, result.seconds)
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
    clock: Clock = SystemClock()
    if options.kept:
        refuse_named_repository(call, options.repo, path)
        plan = plan_undo_from(read_kept(options.kept), path, lost=tuple(describe_contents(path)))
    else:
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
    screen.confirm(QUESTION, "restore", yes=options.yes)
    with running(screen) as context:
        written = apply_undo(plan, clock, context)
    screen.finish("restore", {"target": path, "bytes_written": written, "created": kept.created},
                  [f"Put back      the table of {local_time(kept.created)} on {path}"])  # fmt: skip
    return 0


def refuse_named_repository(call: Call, named: str, target: str) -> None:
    """Refuse a target with the repository that this person uses, also where the verb itself needs none."""
    named = named or call.environment.get(REPOSITORY_VARIABLE, "")
    if named:
        refuse_repository(folder_of(named), target)


def plan_fields(plan: RestorePlan | ClonePlan) -> dict[str, Any]:
    """What ``--json`` says of a plan."""
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
        "new_partitions": [
            {"partition": part.number, "start": part.extent.start, "size": part.extent.size, "type": part.type_name}
            for part in (plan.added if isinstance(plan, RestorePlan) else ())
        ],
        "steps": list(plan.steps),
        "reasons": [
            {"partition": reason.partition, "text": reason.text}
            for reason in (plan.reasons if isinstance(plan, RestorePlan) else ())
        ],
        "lost": list(plan.lost),
        "notices": notice_fields(plan.notices),
    }


def done_lines(target: str, written: int, skipped: int, seconds: float) -> list[str]:
    """What was written, in words."""
    rate = format_rate(written, seconds)
    return [
        f"Written       {format_size(written)} to {target} in {format_duration(seconds)} ({rate})",
        f"Left alone    {format_size(skipped)}",
    ]
