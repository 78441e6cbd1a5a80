"""The verb that saves: ``backup``. The plan is shown before anything is written."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from stillframe.capture import OpenSource, Selection, open_sources
from stillframe.cli.backup_results import backup_plan_fields, backup_result_fields
from stillframe.cli.backup_words import backup_plan_lines, backup_result_lines
from stillframe.cli.call import Call, running
from stillframe.clock import SystemClock
from stillframe.errors import Cancelled, DamagedError, MachineRefusal, PutOnly, UsageError
from stillframe.events import EventSink, Notice
from stillframe.fs.files import parse_pattern
from stillframe.hanging import reads_limited
from stillframe.host.power import change_power, require_power
from stillframe.jobs.backup import BackupOptions, BackupPlan, BackupResult, apply_backup, plan_backup, require_room
from stillframe.jobs.context import JobContext
from stillframe.jobs.owner import this_owner
from stillframe.jobs.repositories import last_seen
from stillframe.jobs.saving.hooks import Hooks, parse_command
from stillframe.jobs.saving.live import require_elsewhere
from stillframe.jobs.saving.system_parts import SERIES, choose_system, find_system_disks
from stillframe.jobs.saving.unlocking import Unlocking, unlock_sources
from stillframe.repo.repository import Repository
from stillframe.repo.session import Owner
from stillframe.rescue.noting import NO_MEDIUM_HINT, should_tell

if TYPE_CHECKING:
    from stillframe.cli.starting import StartSaid

SKIPPED: Final = 3
"""Exit code: finished, and something is not in the image as it was on the disk."""


def backup(call: Call) -> int:
    """Make an image of one or more sources."""
    options, screen = call.options, call.screen
    require_power(options.then)
    repository = call.open_repository(to_add=True)
    owner = _owner(repository, call)
    paths = find_system_disks() if options.system and not options.sources else options.sources
    with (
        reads_limited(options.read_timeout), open_sources(paths, allow_torn=options.allow_torn) as sources,
    ):  # fmt: skip
        require_elsewhere(call.folder, sources)
        plan = _plan(repository, sources, call, owner)
        if options.dry_run:
            lines = backup_plan_lines(plan)
            screen.finish("backup", backup_plan_fields(plan) | {"words": lines}, lines)
            return 0
        screen.say(*backup_plan_lines(plan), "")
        require_room(plan)
        with running(screen) as context:
            result = apply_backup(repository, sources, plan, replace(context, owner=owner))
            proven = _prove(repository, result, context) if options.prove else None
    last_seen(repository).note([result.manifest])
    _tell_of_medium(sources, result, screen)
    fields, lines = backup_result_fields(result), backup_result_lines(result)
    if proven is not None:
        fields, lines = fields | {"start": proven.fields}, [*lines, *proven.lines]
    screen.finish("backup", fields, lines)
    if result.read_back is not None and result.read_back.findings:
        return DamagedError.exit_code
    change_power(options.then)
    was_stopped = options.verify and result.read_back is None
    if was_stopped or not result.is_complete or (options.prove and proven is None):
        return SKIPPED
    return 0 if proven is None else proven.code


def _owner(repository: Repository, call: Call) -> Owner:
    """Whose image it will be: this computer's, or that of the put key that was given."""
    if repository.put is None:
        return this_owner()
    if call.options.prove:
        raise PutOnly(
            "a put key adds images and reads none: '--prove' is not possible with it",
            hint="Leave it out; 'stillframe prove' on a machine with the passphrase does it.",
        )
    return replace(this_owner(), machine=repository.put.name)


def _tell_of_medium(sources: Sequence[OpenSource], result: BackupResult, screen: EventSink) -> None:
    """After the first good backup of this computer's own disks: that nothing is there yet to start it from."""
    good = result.read_back is not None and not result.read_back.findings
    if good and any(source.facts.is_hardware for source in sources) and should_tell(clock=SystemClock()):
        words = "there is no rescue medium yet: without one nothing brings this image back to a computer that is dead"
        screen.emit(Notice(code="no-rescue-medium", message=words, hint=NO_MEDIUM_HINT))


def _plan(repository: Repository, sources: Sequence[OpenSource], call: Call, owner: Owner) -> BackupPlan:
    options = call.options
    wanted, notices = _backup_options(options), tuple[Notice, ...]()
    if options.system:
        choice = choose_system(sources)
        wanted = replace(wanted, name=wanted.name or SERIES, selection=choice.narrow(wanted.selection))
        notices = choice.notices
    keys = unlock_sources(sources, _unlocking(call), wanted.selection.without)
    wanted = replace(wanted, selection=replace(wanted.selection, keys=keys))
    return plan_backup(repository, sources, wanted, owner, notices)


def unlocking(call: Call, needs: Sequence[str] = ()) -> Unlocking:
    """What a person said of passphrases.

    Args:
        call: The command line.
        needs: Names of options without any of which there is no use for one.

    Raises:
        UsageError: There is no use for one.
    """
    options, screen = call.options, call.screen
    wanted = Unlocking(
        files=tuple(options.unlock_file), asks=options.unlock, ask=screen.ask_secret if screen.has_person else None
    )
    if wanted.is_wanted and needs and not any(getattr(options, name) for name in needs):
        words = " or ".join(f"'--{name.replace('_', '-')}'" for name in needs)
        raise UsageError(
            f"'--unlock' is of use here with {words} only: encrypted volumes come back without their passphrase",
            hint="Leave it out.",
        )
    return wanted


def _unlocking(call: Call) -> Unlocking:
    options, wanted = call.options, unlocking(call)
    if wanted.is_wanted and options.all_sectors:
        raise UsageError("'--unlock' has no use with '--all-sectors', which keeps all", hint="Leave out one of them.")
    return wanted


def _prove(repository: Repository, result: BackupResult, context: JobContext) -> "StartSaid | None":
    """Start the new image; ``None`` when that is not possible here, which does not undo the image."""
    from stillframe.cli.starting import prove_new_image  # noqa: PLC0415 - virtual machines: seldom, and long to load

    if result.read_back is not None and result.read_back.findings:
        return None
    try:
        return prove_new_image(repository, result.manifest, context)
    except (MachineRefusal, Cancelled) as error:
        words = f"image {result.manifest.image[:8]} is made; it could not be started: {error.message}"
        context.events.emit(Notice(code="not-proven", message=words, hint=error.hint))
        return None


def _backup_options(options: argparse.Namespace) -> BackupOptions:
    return BackupOptions(
        kind=options.kind, name=options.name, comment=options.comment, compression=options.compression,
        patches=options.patches,
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
