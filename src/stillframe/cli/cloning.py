"""The verb ``clone``: as it is, or made to fit its target."""

import argparse
import os
from dataclasses import replace
from typing import Any, Final

from stillframe.capture import OpenSource, Selection, open_source
from stillframe.cli.call import Call, running
from stillframe.cli.restoring import edit, fit_options, planned_lines, target_lines
from stillframe.cli.returning import QUESTION, UNLOCK_FOR, done_lines, plan_fields, refuse_named_repository
from stillframe.cli.saving import SKIPPED, unlocking
from stillframe.cli.words import plan_lines
from stillframe.clock import SystemClock, rfc3339
from stillframe.hanging import reads_limited
from stillframe.host.machine import state_dir
from stillframe.jobs.clone import CloneOptions, ClonePlan, CloneResult, apply_clone, plan_clone
from stillframe.jobs.cloning.disk_image import disk_image
from stillframe.jobs.cloning.fitted import apply_fitted_clone, clone_planner
from stillframe.jobs.looking import require_target
from stillframe.jobs.restore import RestorePlan, RestoreResult
from stillframe.jobs.restoring.adapting_wishes import read_hardware
from stillframe.jobs.restoring.kept_files import check_file, default_file
from stillframe.jobs.saving.unlocking import Unlocking
from stillframe.jobs.starts.unlocking_inside import unlock_disk
from stillframe.units import format_size

_FITTING: Final = ("fit", "resize", "move", "leave_out", "convert", "experimental", "explain", "edit")
"""Options for which the disk is planned like an image of it."""


def clone(call: Call) -> int:
    """Copy a disk onto another one."""
    options = call.options
    require_target(options.target)
    passphrases = unlocking(call, UNLOCK_FOR)
    refuse_named_repository(call, "", os.path.abspath(options.target))
    with (
        reads_limited(options.read_timeout),
        open_source(options.source, allow_torn=options.allow_torn, may_snapshot=True) as source,
    ):
        if any(getattr(options, name) for name in _FITTING):
            return _clone_fitted(call, source, passphrases)
        return _clone_as_it_is(call, source, passphrases)


def _clone_as_it_is(call: Call, source: OpenSource, passphrases: Unlocking) -> int:
    options, screen = call.options, call.screen
    wanted = CloneOptions(
        selection=_selection(options), wipe=options.wipe, new_identity=options.new_identity, adapt=options.adapt,
        hardware=read_hardware(options.target, options.controller, options.drivers, adapt=options.adapt),
        delta=options.delta, keep_table=_table_file(options),
    )  # fmt: skip
    plan = plan_clone(source, os.path.abspath(options.target), wanted)
    lines = plan_lines(
        f"Clone {source.facts.path} ({format_size(plan.disk.layout.size)}) to",
        target_lines(plan.target, plan.target_path, plan.target_size),
        steps=plan.steps, lost=plan.lost, notices=plan.notices,
    )  # fmt: skip
    if options.dry_run:
        screen.finish("clone", {"source": source.facts.path, **plan_fields(plan), "words": lines}, lines)
        return 0
    screen.say(*lines, "")
    if plan.target is not None:
        screen.confirm(QUESTION, "clone", yes=options.yes)
    keys = unlock_disk(source.reader, plan.disk.layout, None, passphrases)
    with running(screen) as context:
        result = apply_clone(source, plan, clock=SystemClock(), context=replace(context, keys=keys))
    return _finish(call, plan, result, is_complete=result.is_complete)


def _clone_fitted(call: Call, source: OpenSource, passphrases: Unlocking) -> int:
    """As an image of itself."""
    options, screen = call.options, call.screen
    wanted, keep_table = fit_options(options), _table_file(options)
    image = disk_image(source, _selection(options), SystemClock())
    planner = clone_planner(image, os.path.abspath(options.target))
    if options.edit:
        wanted = edit(planner.plan, wanted, screen)
    plan = planner.plan(wanted)
    title = f"Clone {source.facts.path} ({format_size(image.disk.layout.size)}) to"
    lines = planned_lines(title, plan, explain=options.explain)
    if options.dry_run:
        screen.finish("clone", {"source": source.facts.path, **plan_fields(plan), "words": lines}, lines)
        return 0
    screen.say(*lines, "")
    if plan.target is not None:
        screen.confirm(QUESTION, "clone", yes=options.yes)
    kept = [part.number for part in plan.source_disk.partitions]
    keys = unlock_disk(source.reader, image.disk.layout, kept, passphrases)
    with running(screen) as context:
        told = replace(context, keys=keys)
        result = apply_fitted_clone(image, plan, keep_table=keep_table, clock=SystemClock(), context=told)
    return _finish(call, plan, result, is_complete=True)


def _finish(
    call: Call, plan: ClonePlan | RestorePlan, result: CloneResult | RestoreResult, *, is_complete: bool
) -> int:
    source = plan.source_disk.path if isinstance(plan, RestorePlan) else plan.disk.facts.path
    fields: dict[str, Any] = {
        "source": source, "target": plan.target_path, "bytes_written": result.bytes_written,
        "bytes_skipped": result.bytes_skipped, "seconds": result.seconds, "complete": is_complete,
        "changes": list(result.changes), "may_not_start": result.may_not_start,
    }  # fmt: skip
    words = done_lines(plan.target_path, result.bytes_written, result.bytes_skipped, result.seconds)
    if not is_complete:
        words.append("The source was in use while it was copied: this copy may be unusable.")
    words += [f"Changed       {change}" for change in result.changes]
    call.screen.finish("clone", fields, words)
    return 0 if is_complete and not result.may_not_start else SKIPPED


def _selection(options: argparse.Namespace) -> Selection:
    return Selection(all_sectors=options.all_sectors, include_paging=options.include_paging)


def _table_file(options: argparse.Namespace) -> str:
    """Where a clone keeps the table of its target."""
    if options.keep_table:
        path: str = os.path.abspath(options.keep_table)
        check_file(path, os.path.abspath(options.target))
        return path
    name = f"{rfc3339(SystemClock().now()).replace(':', '')}-{os.getpid()}"
    return "" if options.dry_run else default_file(state_dir(), name)
