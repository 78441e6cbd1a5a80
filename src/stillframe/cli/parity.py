"""The verb ``parity``: what brings rotted bytes of a repository back."""

from stillframe.cli.call import Call, running
from stillframe.cli.results import Fields, finding_fields
from stillframe.errors import DamagedError
from stillframe.jobs import parity as job
from stillframe.jobs.owner import this_owner
from stillframe.units import format_count, format_size

_ON = "Parity is on: every new object gets it, about 4 % of its size."
_OFF = "Parity is off: new objects get none. What is there stays, and still heals what it belongs to."
_RENEW = "'stillframe parity renew' reads {count} and gives {them} parity: {size}."


def parity(call: Call) -> int:
    """Switch parity on or off, give it to what has none, or tell what has it."""
    match call.options.parity_verb:
        case "on" | "off":
            return _switch(call, wanted=call.options.parity_verb == "on")
        case "renew":
            return _renew(call)
        case _:
            return _status(call)


def _switch(call: Call, *, wanted: bool) -> int:
    repository = call.open_repository()
    if not call.options.dry_run:
        job.switch(repository, wanted=wanted, owner=this_owner())
    status = job.parity_status(repository)
    if call.options.dry_run:
        words = f"New objects would get {'parity' if wanted else 'no parity any more'}."
        call.screen.finish("parity", {"dry_run": True, **_fields(status)}, [words])
        return 0
    lines = [_ON, *_missing(status)] if wanted else [_OFF]
    call.screen.finish("parity", _fields(status), lines)
    return 0


def _status(call: Call) -> int:
    status = job.parity_status(call.open_repository())
    call.screen.finish("parity", _fields(status), _lines(status))
    return 0


def _renew(call: Call) -> int:
    repository = call.open_repository()
    if call.options.dry_run:
        status = job.parity_status(repository)
        call.screen.finish("parity", {"dry_run": True, **_fields(status)}, _lines(status))
        return 0
    with running(call.screen) as context:
        done = job.renew(repository, context)
    status = job.parity_status(repository)
    fields = {
        **_fields(status), "checked": done.checked, "written": done.written, "ok": not done.findings,
        "findings": finding_fields(done.findings),
    }  # fmt: skip
    words = f"{format_count(done.written, 'object')} got parity; that of {done.checked} was whole."
    lines = [words, *_lines(status)]
    if done.findings:
        lines.append(f"{format_count(len(done.findings), 'object')} damaged, and left as they are: see above.")
    call.screen.finish("parity", fields, lines)
    return DamagedError.exit_code if done.findings else 0


def _fields(status: job.ParityStatus) -> Fields:
    return {
        "wanted": status.is_wanted, "objects": status.objects, "covered": status.covered,
        "bytes_objects": status.bytes_objects, "bytes_parity": status.bytes_parity,
        "bytes_missing": status.bytes_missing, "orphans": status.orphans,
    }  # fmt: skip


def _lines(status: job.ParityStatus) -> list[str]:
    sizes = f"{format_size(status.bytes_parity)} for {format_size(status.bytes_objects)}"
    return [
        f"Parity   {'on' if status.is_wanted else 'off'}",
        f"Objects  {status.covered} of {status.objects} have it: {sizes}",
        *_missing(status),
    ]


def _missing(status: job.ParityStatus) -> list[str]:
    if not status.missing:
        return []
    count, them = format_count(status.missing, "object"), "it" if status.missing == 1 else "them"
    return [_RENEW.format(count=count, them=them, size=format_size(status.bytes_missing))]
