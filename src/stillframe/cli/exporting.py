"""The verb that writes an image into a file of another program: ``export``."""

import sys
from collections.abc import Iterator
from typing import Any

from stillframe.cli.call import Call, running
from stillframe.cli.results import notice_fields
from stillframe.cli.saving import SKIPPED
from stillframe.errors import UsageError
from stillframe.host.machine import machine
from stillframe.jobs.exporting import ExportOptions, ExportPlan, ExportResult, apply_export, plan_export
from stillframe.jobs.inside.lost_files import name_lost_files
from stillframe.jobs.listing import find_image
from stillframe.units import format_duration, format_rate, format_size


def export(call: Call) -> int:
    """Write a stored disk or partition into a file."""
    options, screen = call.options, call.screen
    to_output = options.file == "-"
    if to_output and (screen.is_json or (sys.stdout.isatty() and not options.dry_run)):
        raise UsageError(
            "the disk would go where the words of the result go"
            if screen.is_json
            else "the disk would fill the screen",
            hint="Send it on, such as 'stillframe export latest - | zstd > disk.raw.zst', or name a file.",
        )
    repository = call.open_repository()
    manifest = find_image(repository, options.image, machine_id=machine().id)
    wanted = ExportOptions(
        format=options.format, split=options.split, disk=options.disk, partition=options.partition,
        salvage=options.salvage, overwrite=options.overwrite,
    )  # fmt: skip
    plan = plan_export(manifest, options.file, repository_folder=call.folder, options=wanted)
    say = screen.warn if to_output else screen.say
    if options.dry_run:
        screen.finish("export", _plan_fields(plan), list(_plan_lines(plan)))
        return 0
    say(*_plan_lines(plan), "")
    with running(screen) as context:
        result = apply_export(repository, plan, context)
    for finding in name_lost_files(repository.reader(), manifest, result.lost):
        screen.emit(finding)
    lines = list(_result_lines(plan, result))
    if to_output:
        screen.close()
        screen.warn(*lines)
    else:
        screen.finish("export", _result_fields(plan, result), lines)
    return SKIPPED if result.lost else 0


def _plan_lines(plan: ExportPlan) -> Iterator[str]:
    part = plan.partition
    what = f"disk {plan.disk.number}" + (f", partition {part.number}" if part else "")
    yield (
        f"Export        image {plan.manifest.image[:8]} of {plan.manifest.machine.name}, {what}, "
        f"{format_size(plan.size)}, {format_size(plan.bytes_to_write)} in use"
    )
    split = plan.options.split
    parts = f", in parts of {format_size(split)}" if split else ""
    yield f"To            {'standard output' if plan.path == '-' else plan.path} ({plan.format}){parts}"
    for old in plan.replaced:
        yield f"Replaces      {old}"
    for notice in plan.notices:
        yield f"Note          {notice.message}"
        if notice.hint:
            yield f"              {notice.hint}"


def _result_lines(plan: ExportPlan, result: ExportResult) -> Iterator[str]:
    rate = format_rate(result.bytes_written, result.seconds)
    yield f"Written       {format_size(result.bytes_written)} in {format_duration(result.seconds)} ({rate})"
    for file in result.files:
        yield f"File          {file.path} ({format_size(file.size)})"
    if result.checksums:
        yield f"Checksums     {result.checksums}; it says how to check and how to join the parts"
    if result.sha256:
        yield f"SHA-256       {result.sha256}"
    for part in result.lost:
        yield f"Lost          {part.words}: zeros are there now"
    if plan.format == "raw" and len(result.files) == 1 and not result.checksums:
        yield "              Its holes take no room: copy it with 'cp --sparse=always' or 'rsync -S'."


def _plan_fields(plan: ExportPlan) -> dict[str, Any]:
    return {
        "dry_run": True,
        "image": plan.manifest.image,
        "disk": plan.disk.number,
        "partition": plan.partition.number if plan.partition else None,
        "path": plan.path,
        "format": plan.format,
        "size": plan.size,
        "bytes_to_write": plan.bytes_to_write,
        "replaced": list(plan.replaced),
        "notices": notice_fields(plan.notices),
    }


def _result_fields(plan: ExportPlan, result: ExportResult) -> dict[str, Any]:
    return {
        "image": plan.manifest.image,
        "path": plan.path,
        "format": plan.format,
        "size": plan.size,
        "bytes_written": result.bytes_written,
        "parts": [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in result.files],
        "checksums": result.checksums,
        "sha256": result.sha256,
        "seconds": result.seconds,
        "notices": notice_fields(plan.notices),
        "lost": [
            {"partition": part.partition_number, "ranges": [[extent.start, extent.end] for extent in part.lost]}
            for part in result.lost
        ],
    }
