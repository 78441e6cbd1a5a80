"""Forgotten images on the command line: ``images --forgotten`` and ``forget --undo``."""

from stillframe.cli.call import Call
from stillframe.cli.results import Fields
from stillframe.cli.words import local_time, table
from stillframe.errors import UsageError
from stillframe.jobs.forgetting import ForgottenListing, find_forgotten, list_forgotten, undo_forget
from stillframe.jobs.owner import this_owner
from stillframe.units import format_count


def show_forgotten(call: Call) -> int:
    """List forgotten images that are not gone."""
    found = list_forgotten(call.open_repository())
    lines = table(("id", "name", "created", "machine", "forgotten", "state"), [_row(one) for one in found])
    call.screen.finish(
        "images", {"forgotten": [_fields(one) for one in found]}, lines if found else ["No forgotten image is here."]
    )
    return 0


def undo(call: Call) -> int:
    """Bring forgotten images back."""
    options, screen = call.options, call.screen
    if any(word.startswith("latest") for word in options.images):
        raise UsageError(
            "'--undo' needs the id of a forgotten image", hint="'stillframe images --forgotten' lists them."
        )
    repository = call.open_repository()
    ids = list(dict.fromkeys(find_forgotten(repository, word) for word in options.images))
    if options.dry_run:
        screen.finish("forget", {"dry_run": True, "undo": True, "images": ids}, [f"To come back: {one}" for one in ids])
        return 0
    back = undo_forget(repository, ids, owner=this_owner())
    words = f"{format_count(len(back), 'image')} came back, as before: 'stillframe verify' reads every chunk of it."
    screen.finish("forget", {"undo": True, "images": ids}, [words])
    return 0


def _row(one: ForgottenListing) -> tuple[str, ...]:
    manifest = one.manifest
    state = "too late: its end is announced" if one.binned.purging else "can come back"
    return (
        one.binned.image.image[:8], manifest.name if manifest else "unreadable",
        local_time(manifest.created) if manifest else "", manifest.machine.name if manifest else "",
        local_time(one.binned.since), state if manifest else "unreadable",
    )  # fmt: skip


def _fields(one: ForgottenListing) -> Fields:
    manifest = one.manifest
    return {
        "id": one.binned.image.image, "name": manifest.name if manifest else "",
        "created": manifest.created if manifest else "", "machine": manifest.machine.name if manifest else "",
        "forgotten": one.binned.since, "can_come_back": not one.binned.purging and manifest is not None,
    }  # fmt: skip
