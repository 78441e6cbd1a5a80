"""The verbs that care for a repository: ``verify``, ``check``, ``repair``, ``forget``, ``expire``."""

from stillframe.cli.call import Call, stoppable
from stillframe.cli.results import Fields, finding_fields
from stillframe.errors import DamagedError
from stillframe.host.machine import machine
from stillframe.jobs.care import check as check_structure
from stillframe.jobs.care import verify_images
from stillframe.jobs.listing import find_image
from stillframe.jobs.owner import this_owner
from stillframe.jobs.repositories import last_seen
from stillframe.jobs.verify import VerifyResult
from stillframe.units import format_duration, format_size


def verify(call: Call) -> int:
    """Read images back from storage and check them."""
    options, screen = call.options, call.screen
    repository = call.open_repository()
    manifests = None
    if options.image is not None:
        manifests = [find_image(repository, options.image, machine_id=machine().id)]
    with stoppable(screen) as cancel:
        verified = verify_images(
            repository, manifests, owner=this_owner(), quick=options.quick, events=screen, cancel=cancel
        )
    fields: Fields = {
        "ok": verified.ok,
        "findings": finding_fields(verified.findings),
        "images": [_verified_fields(result) for result in verified.results],
    }
    if len(verified.results) == 1:
        fields |= _verified_fields(verified.results[0]) | {"ok": verified.ok}
    lines = [_verified_line(result, quick=options.quick) for result in verified.results]
    screen.finish("verify", fields, lines or ["There is no image here."])
    return 0 if verified.ok else DamagedError.exit_code


def check(call: Call) -> int:
    """Check the structure of the repository."""
    repository = call.open_repository()
    report = check_structure(repository, last_seen(repository), events=call.screen)
    fields = {
        "ok": report.ok,
        "findings": finding_fields(report.findings),
        "notices": [{"code": note.code, "message": note.message, "hint": note.hint} for note in report.notes],
        "images": len(report.images),
        "packs": report.packs,
    }
    whole = sum(state.is_whole for state in report.images)
    lines = [
        f"{len(report.images)} images, {whole} of them whole; {report.packs} packs.",
        "Nothing is wrong. 'stillframe verify' also reads every chunk."
        if report.ok
        else f"{len(report.findings)} things are wrong: see above.",
    ]
    call.screen.finish("check", fields, lines)
    return 0 if report.ok else DamagedError.exit_code


def _verified_fields(result: VerifyResult) -> Fields:
    return {
        "image": result.image, "ok": result.ok, "bytes_examined": result.bytes_examined, "seconds": result.seconds,
        "how": result.how,
    }  # fmt: skip


def _verified_line(result: VerifyResult, *, quick: bool) -> str:
    if not result.ok:
        return f"Image {result.image[:8]}  DAMAGED: {len(result.findings)} findings, see above"
    if quick:
        return f"Image {result.image[:8]}  structure is whole; 'stillframe verify' without --quick reads the chunks"
    size, time = format_size(result.bytes_examined), format_duration(result.seconds)
    return f"Image {result.image[:8]}  good: every chunk, {size} in {time}; {result.how}"
