"""The verbs ``machines`` and ``retire``: who uses the repository, and who will not come back."""

from stillframe.cli.call import Call
from stillframe.cli.results import Fields
from stillframe.cli.words import local_time, table
from stillframe.jobs.machines import find_machine, machines_of, take_back
from stillframe.jobs.machines import retire as retire_machine
from stillframe.jobs.owner import this_owner
from stillframe.repo.retirement import KnownMachine
from stillframe.units import format_count


def machines(call: Call) -> int:
    """List machines."""
    found = machines_of(call.open_repository())
    rows = [_row(one) for one in found]
    lines = table(("id", "machine", "images", "newest", "at work", "state"), rows, right=(2,)) if rows else []
    call.screen.finish(
        "machines", {"machines": [_fields(one) for one in found]}, lines or ["No machine is known here."]
    )
    return 0


def retire(call: Call) -> int:
    """Retire a machine, or take it back."""
    options, screen = call.options, call.screen
    repository, owner = call.open_repository(), this_owner()
    known = find_machine(machines_of(repository), options.machine)
    fields: Fields = {"machine": known.machine.id, "name": known.machine.name, "undo": options.undo}
    if options.undo:
        if not options.dry_run:
            take_back(repository, known.machine, owner=owner)
        words = "would be" if options.dry_run else "is"
        screen.finish("retire", fields, [f"{known.machine.name} {words} in use again: it may write here."])
        return 0
    stay = f"{format_count(known.images, 'image')}, which stay" if known.images else "no image"
    lines = [f"{known.machine.name} ({known.machine.id[:8]}): {stay}."]
    lines += [f"At work since {_since(one.started)}: '{one.verb}'. It will not count." for one in known.sessions]
    fields["sessions"] = [one.session for one in known.sessions]
    if options.dry_run:
        screen.finish("retire", {"dry_run": True, **fields}, lines)
        return 0
    screen.say(*lines)
    if known.machine.id == owner.machine.id:
        screen.say("This is the machine that you sit at.")
    screen.confirm(
        "Nothing waits for a retired machine. If it still runs, what it does now is lost, and it must not write here "
        "before 'stillframe retire --undo'.",
        "retire", yes=options.yes,
    )  # fmt: skip
    ended = retire_machine(repository, known.machine, owner=owner)
    fields["sessions"] = [one.session for one in ended]
    words = f"{known.machine.name} is retired; {format_count(len(ended), 'open session')} ended."
    screen.finish("retire", fields, [words])
    return 0


def _row(known: KnownMachine) -> tuple[str, ...]:
    newest = local_time(known.last.created) if known.last else ""
    at_work = ", ".join(f"{one.verb} since {_since(one.started)}" for one in known.sessions)
    state = f"retired {local_time(known.retired.created)}" if known.retired else ""
    return known.machine.id[:8], known.machine.name, str(known.images), newest, at_work, state


def _since(started: str) -> str:
    return local_time(started)


def _fields(known: KnownMachine) -> Fields:
    return {
        "id": known.machine.id, "name": known.machine.name, "images": known.images,
        "newest": None if known.last is None else {"image": known.last.image, "created": known.last.created},
        "sessions": [{"session": one.session, "verb": one.verb, "started": one.started} for one in known.sessions],
        "retired": None if known.retired is None else known.retired.created,
    }  # fmt: skip
