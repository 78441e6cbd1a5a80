"""The words of ``rescue`` that make the medium: ``build``."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from stillframe.cli.call import REPOSITORY_VARIABLE, Call, running
from stillframe.cli.restoring import target_lines
from stillframe.cli.results import notice_fields
from stillframe.cli.words import notice_lines, plan_lines
from stillframe.clock import SystemClock, rfc3339
from stillframe.rescue.medium.building import BuildResult, apply_build
from stillframe.rescue.medium.plan import MediumPlan, MediumWishes, plan_build
from stillframe.rescue.medium.settings import SettingWishes
from stillframe.rescue.noting import note_rescue
from stillframe.units import format_duration, format_size

_QUESTION = "Everything on the stick that is listed above will be overwritten."


def build(call: Call) -> int:
    """Make a rescue medium."""
    screen, clock = call.screen, SystemClock()
    plan = plan_build(_wishes(call), clock)
    lines = _plan_lines(plan)
    if call.options.dry_run:
        screen.finish("rescue build", _plan_fields(plan), lines)
        return 0
    screen.say(*lines, "")
    if plan.stick is not None:
        screen.confirm(_QUESTION, "write", yes=call.options.yes)
    with running(screen) as context:
        result = apply_build(plan, clock, context)
    note_rescue(os.path.abspath(plan.wishes.iso or plan.wishes.pieces or plan.wishes.usb), clock=clock)
    screen.finish("rescue build", _result_fields(plan, result), list(_result_lines(plan, result)))
    return 0


def _wishes(call: Call) -> MediumWishes:
    options = call.options
    settings = SettingWishes(
        answers=options.answers, repository=options.repo, networks=tuple(options.network), drivers=options.drivers,
        ssh_key=options.ssh_key, keyboard=options.keyboard,
    )  # fmt: skip
    used = options.repo or call.environment.get(REPOSITORY_VARIABLE, "")
    return MediumWishes(
        iso=options.file, usb=options.usb, pieces=options.pieces, kernel=options.kernel, wifi=options.wifi,
        mirror=options.mirror, fresh=options.fresh, serial=options.serial, settings=settings,
        repository_folder=os.path.abspath(used) if os.path.isdir(used) else "",
    )  # fmt: skip


def _plan_lines(plan: MediumPlan) -> list[str]:
    if plan.stick is None:
        numbered = [f"  {number}. {step}" for number, step in enumerate(plan.steps, 1)]
        return ["Build a rescue medium:", *numbered, *notice_lines(plan.notices)]
    stick = plan.stick
    steps = [*plan.steps, "write the stick: all of the medium on it, and a volume STILLFRAME in the rest"]
    identity = target_lines(stick.identity, stick.identity.path, stick.identity.size)
    title = "Build a rescue medium on the stick"
    return plan_lines(title, identity, steps=steps, lost=stick.lost, notices=(*plan.notices, *stick.notices))


def _plan_fields(plan: MediumPlan) -> dict[str, Any]:
    stick = plan.stick
    return {
        "dry_run": True,
        "file": plan.wishes.iso,
        "packages_missing": list(plan.missing),
        "stick": None
        if stick is None
        else {
            "path": stick.identity.path, "model": stick.identity.model, "serial": stick.identity.serial,
            "size": stick.identity.size, "lost": list(stick.lost),
        },
        "steps": list(plan.steps),
        "notices": notice_fields((*plan.notices, *(stick.notices if stick else ()))),
    }  # fmt: skip


def _result_fields(plan: MediumPlan, result: BuildResult) -> dict[str, Any]:
    return {
        "files": list(result.files),
        "size": result.size,
        "filesystem_size": result.filesystem_size,
        "label": result.label,
        "kernel": result.kernel,
        "base_reused": result.base_reused,
        "base_made": _when(result),
        "bytes_written": result.bytes_written,
        "steps": [{"name": step.name, "seconds": round(step.seconds, 2)} for step in result.steps],
        "seconds": result.seconds,
        "notices": notice_fields(plan.notices),
    }


def _result_lines(plan: MediumPlan, result: BuildResult) -> Iterator[str]:
    if plan.wishes.iso:
        yield f"Made          {os.path.abspath(plan.wishes.iso)} ({format_size(result.size)})"
    if plan.wishes.pieces:
        yield f"Made          {os.path.abspath(plan.wishes.pieces)}: vmlinuz, initrd, filesystem.squashfs"
    if plan.stick is not None:
        yield f"Written       {plan.stick.identity.path}, {format_size(result.bytes_written)}, read back and compared"
    yield f"Kernel        {result.kernel}, Debian's own, started under Secure Boot too"
    parts = ", ".join(f"{step.name} {format_duration(step.seconds)}" for step in result.steps)
    yield f"Time          {format_duration(result.seconds)}: {parts}"
    yield "Next          Start the computer from it once, now, while all is well: does it find the disk and backups?"


def _when(result: BuildResult) -> str:
    return rfc3339(datetime.fromtimestamp(result.base_made, UTC))
