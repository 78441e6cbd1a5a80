"""The verb that takes what other programs made: ``import``. The plan is shown before anything is written."""

from stillframe.capture import Selection
from stillframe.capture.foreign import ImportOptions, find_importable
from stillframe.cli.backup_results import backup_plan_fields, backup_result_fields, imported_fields
from stillframe.cli.backup_words import backup_plan_lines, backup_result_lines, imported_lines
from stillframe.cli.call import Call, running
from stillframe.cli.saving import SKIPPED
from stillframe.errors import DamagedError
from stillframe.jobs.backup import BackupOptions, require_room
from stillframe.jobs.importing import apply_import, plan_import
from stillframe.jobs.owner import this_owner
from stillframe.jobs.repositories import last_seen


def import_(call: Call) -> int:
    """Make an image of what another program made."""
    options, screen = call.options, call.screen
    wanted = BackupOptions(
        kind=options.kind, name=options.name, comment=options.comment, compression=options.compression,
        patches=options.patches,
        selection=Selection(all_sectors=options.all_sectors, include_paging=options.include_paging),
        verify=options.verify,
    )  # fmt: skip
    with find_importable(options.source, ImportOptions(allow_torn=options.allow_torn)) as found:
        repository = call.open_repository()
        plan = plan_import(repository, found, wanted, this_owner())
        lines = [*imported_lines(plan.imported, plan.machine), *backup_plan_lines(plan)]
        if options.dry_run:
            fields = {**backup_plan_fields(plan), "machine": plan.machine.name, **imported_fields(plan.imported)}
            screen.finish("import", fields, lines)
            return 0
        screen.say(*lines, "")
        require_room(plan)
        with running(screen) as context:
            result = apply_import(repository, found, plan, context)
    manifest = result.manifest
    last_seen(repository).note([manifest])
    fields = {**backup_result_fields(result), "machine": manifest.machine.name, **imported_fields(manifest.imported)}
    listed = f"Listed by     'stillframe images --all', as of the machine {manifest.machine.name}"
    screen.finish("import", fields, [*backup_result_lines(result), listed])
    if result.read_back is not None and result.read_back.findings:
        return DamagedError.exit_code
    was_stopped = options.verify and result.read_back is None
    return SKIPPED if was_stopped or not result.is_complete else 0
