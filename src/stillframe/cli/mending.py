"""The verb ``boot-repair``, and the way back from it."""

import os
import tempfile
from contextlib import ExitStack
from typing import Any

from stillframe.cli.boot_words import boot_fields
from stillframe.cli.call import Call, running
from stillframe.cli.mending_words import done_lines, plan_lines, undo_lines
from stillframe.cli.results import notice_fields
from stillframe.cli.saving import SKIPPED, unlocking
from stillframe.clock import SystemClock
from stillframe.errors import UsageError
from stillframe.jobs.boot_repair import (
    BootRepairPlan,
    PreparedRepair,
    apply_boot_repair,
    default_undo_file,
    prepare_boot_repair,
)
from stillframe.jobs.inside.system_reading import BootWaysFound
from stillframe.jobs.looking import require_target
from stillframe.jobs.mending.on_copy import MendWishes
from stillframe.jobs.mending.undo_file import check_undo_file
from stillframe.jobs.mending.undoing import apply_undo_repair, prepare_undo
from stillframe.jobs.restoring.adapting_wishes import read_hardware
from stillframe.systems.chain_records import BootChain

_QUESTION = "What is listed above will be written to this disk."
_WORD = "repair"


def boot_repair(call: Call) -> int:
    """Repair how a disk starts."""
    options, screen = call.options, call.screen
    path = os.path.abspath(options.disk)
    require_target(path)
    if options.undo:
        return _undo(call, path)
    wishes = MendWishes(
        adapt=options.adapt, hardware=read_hardware(path, options.controller, options.drivers, adapt=options.adapt)
    )
    undo_file = os.path.abspath(options.keep_undo or default_undo_file(os.getcwd(), path, SystemClock()))
    if not options.dry_run or options.keep_undo:
        check_undo_file(undo_file, path)
    with ExitStack() as stack:
        with running(screen) as context:
            made = prepare_boot_repair(path, wishes, unlocking(call), context, folder=tempfile.gettempdir())
            prepared = stack.enter_context(made)
        return _carry_out(call, prepared, undo_file)


def _carry_out(call: Call, prepared: PreparedRepair, undo_file: str) -> int:
    options, screen, plan = call.options, call.screen, prepared.plan
    shown = "" if options.dry_run and not options.keep_undo else undo_file
    lines, code = plan_lines(plan, shown), SKIPPED if plan.may_not_start else 0
    if options.dry_run or not plan.is_needed:
        screen.finish("boot-repair", {**_plan_fields(plan), "dry_run": bool(options.dry_run), "words": lines}, lines)
        return 0 if options.dry_run else code
    screen.say(*lines, "")
    screen.confirm(_QUESTION, _WORD, yes=options.yes)
    with running(screen) as context:
        result = apply_boot_repair(prepared, undo_file, clock=SystemClock(), context=context)
    fields = {
        "disk": plan.target.path, "bytes_written": result.bytes_written, "seconds": result.seconds,
        "changes": list(result.changes), "undo_file": result.undo_file, "boot": _boot(result.chains, plan.target.path),
        "may_not_start": result.may_not_start, "notices": notice_fields(plan.mended.notices),
    }  # fmt: skip
    screen.finish("boot-repair", fields, done_lines(plan, result))
    return code


def _undo(call: Call, path: str) -> int:
    """Take a repair back."""
    options, screen = call.options, call.screen
    if options.adapt or options.keep_undo or options.unlock or options.unlock_file:
        raise UsageError("'--undo FILE' puts back what was there, and does nothing else", hint="Leave the rest out.")
    file = os.path.abspath(options.undo)
    with prepare_undo(path, file) as (plan, undo):
        lines = undo_lines(plan, file)
        fields: dict[str, Any] = {
            "disk": plan.target.path, "undone": file, "created": plan.record.created,
            "bytes_to_put_back": plan.bytes_repaired, "changes": list(plan.record.changes),
        }  # fmt: skip
        if options.dry_run or not plan.bytes_repaired:
            screen.finish("boot-repair", {**fields, "dry_run": bool(options.dry_run), "words": lines}, lines)
            return 0
        screen.say(*lines, "")
        screen.confirm(_QUESTION, "undo", yes=options.yes)
        with running(screen) as context:
            apply_undo_repair(plan, undo, clock=SystemClock(), context=context)
    screen.finish("boot-repair", fields, [f"{plan.target.path} is as it was before the repair."])
    return 0


def _plan_fields(plan: BootRepairPlan) -> dict[str, Any]:
    mended, target = plan.mended, plan.target
    return {
        "disk": target.path, "size": target.size, "model": target.model, "serial": target.serial,
        "systems": [
            {"name": one.installed.name, "partition": one.evidence.partition.number,
             "inner": one.evidence.inner or None, "starts": mended.before.does_start(one)}
            for one in mended.before.systems
        ],
        "broken": list(mended.broken), "changes": list(mended.changes),
        "bytes_to_write": plan.differences.size,
        "places": [
            {"partition": one.number, "filesystem": one.filesystem, "bytes": one.size, "pieces": one.count}
            for one in plan.places
        ],
        "steps": list(plan.steps), "boot_before": _boot(mended.before.chains, target.path),
        "boot": _boot(mended.after.chains, target.path), "may_not_start": plan.may_not_start,
        "notices": notice_fields(mended.notices),
    }  # fmt: skip


def _boot(chains: tuple[BootChain, ...], path: str) -> Any:
    return boot_fields(BootWaysFound(chains=chains), [path])["chains"]
