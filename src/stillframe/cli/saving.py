"""The verb that saves: ``backup``. The plan is shown before anything is written."""

import argparse
from typing import Final

from stillframe.capture import Selection, open_sources
from stillframe.cli.call import Call, refuse_later, running
from stillframe.cli.results import backup_plan_fields, backup_result_fields
from stillframe.cli.words import backup_plan_lines, backup_result_lines
from stillframe.errors import DamagedError
from stillframe.fs.files import parse_pattern
from stillframe.host.power import change_power, require_power
from stillframe.jobs.backup import BackupOptions, apply_backup, plan_backup, require_room
from stillframe.jobs.hooks import Hooks, parse_command
from stillframe.jobs.live import require_elsewhere
from stillframe.jobs.owner import this_owner
from stillframe.jobs.repositories import last_seen

SKIPPED: Final = 3
"""Exit code: finished, and something is not in the image as it was on the disk."""

_LATER: Final = {
    "system": (False, "Name the disks yourself: 'stillframe disks' shows which partitions a system backup would take."),
}


def backup(call: Call) -> int:
    """Make an image of one or more sources."""
    options, screen = call.options, call.screen
    refuse_later(options, _LATER)
    require_power(options.then)
    repository = call.open_repository()
    with open_sources(options.sources, allow_torn=options.allow_torn) as sources:
        require_elsewhere(call.folder, sources)
        plan = plan_backup(repository, sources, _backup_options(options), this_owner())
        if options.dry_run:
            screen.finish("backup", backup_plan_fields(plan), backup_plan_lines(plan))
            return 0
        screen.say(*backup_plan_lines(plan), "")
        require_room(plan)
        with running(screen) as context:
            result = apply_backup(repository, sources, plan, context)
    last_seen(repository).note([result.manifest])
    screen.finish("backup", backup_result_fields(result), backup_result_lines(result))
    if result.read_back is not None and result.read_back.findings:
        return DamagedError.exit_code
    change_power(options.then)
    was_stopped = options.verify and result.read_back is None
    return SKIPPED if was_stopped or not result.is_complete else 0


def _backup_options(options: argparse.Namespace) -> BackupOptions:
    return BackupOptions(
        kind=options.kind, name=options.name, comment=options.comment, compression=options.compression,
        selection=Selection(
            all_sectors=options.all_sectors, include_paging=options.include_paging,
            exclude=tuple(parse_pattern(text) for text in options.exclude),
        ),
        verify=options.verify,
        hooks=Hooks(
            before=parse_command(options.hook_before, option="--hook-before"),
            after=parse_command(options.hook_after, option="--hook-after"), limit_s=options.hook_limit,
            on_failure=options.hook_failure,
        ),
    )  # fmt: skip
