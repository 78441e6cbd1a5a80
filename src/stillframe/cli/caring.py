"""The verbs that care for a repository: ``verify``, ``check``, ``repair``, ``forget``, ``expire``."""

from datetime import timedelta
from typing import Final

from stillframe.cli.call import Call, running
from stillframe.cli.forgetting import undo
from stillframe.cli.results import Fields, finding_fields, notice_fields
from stillframe.cli.words import local_time
from stillframe.errors import DamagedError, DiskFormatError, Locked, StorageError, UsageError
from stillframe.events import Notice
from stillframe.host.machine import machine
from stillframe.jobs import care
from stillframe.jobs.checking import CheckedImage, check_filesystems
from stillframe.jobs.listing import find_image, find_image_id
from stillframe.jobs.owner import this_owner
from stillframe.jobs.repositories import last_seen
from stillframe.jobs.sampling import SampledImage, sample_files
from stillframe.jobs.verify import VerifyResult
from stillframe.repo.check import CheckReport
from stillframe.repo.ending import Ending
from stillframe.repo.expire import UNDELETE
from stillframe.repo.repair import RepairReport
from stillframe.repo.repository import Repository
from stillframe.repo.retention import JudgedImage, RetentionPolicy
from stillframe.units import format_count, format_duration, format_size

SKIPPED: Final = 3
"""Exit code: finished, and something was not looked at."""


def verify(call: Call) -> int:
    """Read images back from storage and check them."""
    options, screen = call.options, call.screen
    for option, is_asked in (("--filesystems", options.filesystems), ("--files", options.files is not None)):
        if is_asked and (options.image is None or options.quick):
            raise UsageError(f"'{option}' needs an IMAGE, and reads all of it", hint="Name one, without '--quick'.")
    repository = call.open_repository()
    manifests = None
    if options.image is not None:
        manifests = [find_image(repository, options.image, machine_id=machine().id)]
    checked, sampled = None, None
    with running(screen) as context:
        verified = care.verify_images(repository, manifests, quick=options.quick, context=context)
        if options.filesystems and verified.ok and manifests:
            checked = check_filesystems(repository, manifests[0], context)
        if options.files and verified.ok and manifests:
            sampled = sample_files(repository, manifests[0], context, count=options.files)
    is_done = True
    repaired = _repair_after(call, repository, verified) if options.repair else None
    fields = _images_fields(verified)
    lines = [_verified_line(result, quick=options.quick) for result in verified.results]
    if checked is not None:
        fields["filesystems"] = _checked_fields(checked)
        lines += _checked_lines(checked)
    if sampled is not None:
        fields["files"] = _sampled_fields(sampled)
        lines += _sampled_lines(sampled)
    if repaired is not None:
        fields["repair"] = {**_report_fields(repaired.check), "done": notice_fields(repaired.done)}
        lines.append(_mended(repaired))
    elif verified.healed:
        lines.append("Parity had to help. 'stillframe repair' writes anew what it brought back.")
        is_done = not options.repair
    screen.finish("verify", fields, lines or ["There is no image here."])
    if not verified.ok:
        return DamagedError.exit_code
    asked = [one for one in (checked, sampled) if one is not None]
    if any(one.findings for one in asked):
        return DiskFormatError.exit_code
    return 0 if is_done and all(one.is_proven for one in asked) else SKIPPED


def _images_fields(verified: care.VerifiedImages) -> Fields:
    fields: Fields = {
        "ok": verified.ok, "healed": list(verified.healed), "findings": finding_fields(verified.findings),
        "images": [_verified_fields(result) for result in verified.results],
    }  # fmt: skip
    if len(verified.results) == 1:
        fields |= _verified_fields(verified.results[0]) | {"ok": verified.ok}
    return fields


def _checked_fields(checked: CheckedImage) -> Fields:
    return {
        "ok": checked.is_proven, "checked": list(checked.checked), "findings": finding_fields(checked.findings),
        "skipped": notice_fields(checked.skipped),
    }  # fmt: skip


def _checked_lines(checked: CheckedImage) -> list[str]:
    if checked.is_proven:
        return [f"File systems    whole, by their own tools: {'; '.join(checked.checked)}"]
    if checked.findings:
        return [f"File systems    {format_count(len(checked.findings), 'finding')}: see above"]
    return ["File systems    not all could be checked" if checked.checked else "File systems    none was checked"]


def _sampled_fields(sampled: SampledImage) -> Fields:
    return {
        "ok": sampled.is_proven, "compared": sampled.compared, "bytes": sampled.bytes_compared,
        "changed": sampled.changed, "places": sampled.places, "findings": finding_fields(sampled.findings),
        "skipped": notice_fields(sampled.skipped),
    }  # fmt: skip


def _sampled_lines(sampled: SampledImage) -> list[str]:
    changed = f"; {format_count(sampled.changed, 'more file')} changed since" if sampled.changed else ""
    if sampled.findings:
        return [f"Files           {len(sampled.findings)} of {sampled.compared} are not as their originals: see above"]
    if not sampled.compared:
        return [f"Files           none could be compared{changed}"]
    size = format_size(sampled.bytes_compared)
    return [f"Files           {sampled.compared} compared ({size}), all as their originals{changed}"]


def check(call: Call) -> int:
    """Check the structure of the repository."""
    repository = call.open_repository()
    report = care.check(repository, last_seen(repository), events=call.screen)
    call.screen.finish("check", _report_fields(report), _report_lines(report))
    return 0 if report.ok else DamagedError.exit_code


def repair(call: Call) -> int:
    """Mend the repository."""
    options, screen = call.options, call.screen
    repository = call.open_repository()
    seen = last_seen(repository)
    if options.dry_run:
        report = care.check(repository, seen, events=screen)
        screen.finish("repair", {"dry_run": True, **_report_fields(report)}, _report_lines(report))
        return 0
    repaired = care.repair(repository, seen, owner=this_owner(), read_all=options.read_all, events=screen)
    fields = {**_report_fields(repaired.check), "done": notice_fields(repaired.done)}
    screen.finish("repair", fields, [_mended(repaired), *_report_lines(repaired.check)])
    return 0 if repaired.check.ok else DamagedError.exit_code


def _repair_after(call: Call, repository: Repository, verified: care.VerifiedImages) -> RepairReport | None:
    """Mend what a verification met; ``None`` when there was nothing to mend, or it could not be begun now."""
    if verified.ok and not verified.healed:
        return None
    seen, screen = last_seen(repository), call.screen
    try:
        return care.repair(
            repository, seen, owner=this_owner(), read_all=False, events=screen, suspects=verified.healed
        )  # fmt: skip
    except (Locked, StorageError) as error:  # what was verified is known all the same
        screen.emit(Notice(code="not-repaired", message=f"not repaired: {error.message}", hint=error.hint))
        return None


def _mended(repaired: RepairReport) -> str:
    return f"Mended: {format_count(len(repaired.done), 'thing')}." if repaired.done else "There was nothing to mend."


def forget(call: Call) -> int:
    """Forget images."""
    options, screen = call.options, call.screen
    if options.undo:
        return undo(call)
    repository = call.open_repository()
    here = machine().id
    ids = list(dict.fromkeys(find_image_id(repository, word, machine_id=here) for word in options.images))
    known = {image.manifest.image: image.manifest for image in repository.images().images}
    lines = []
    for image_id in ids:
        manifest = known.get(image_id)
        words = f"{local_time(manifest.created)}, {manifest.machine.name} {manifest.name}" if manifest else "unreadable"
        lines.append(f"To be forgotten: {image_id[:8]}  {words.strip()}")
    if options.dry_run:
        screen.finish("forget", {"dry_run": True, "images": ids}, lines)
        return 0
    screen.say(*lines)
    screen.confirm("'forget --undo' brings them back until 'expire' lets them go.", "forget", yes=options.yes)
    forgotten = care.forget(repository, ids, owner=this_owner())
    words = f"{format_count(len(forgotten), 'image')} forgotten. 'stillframe expire' frees the room, days later."
    screen.finish("forget", {"images": [image.image for image in forgotten]}, [words])
    return 0


def expire(call: Call) -> int:
    """Forget images by rules, and free room."""
    options, screen = call.options, call.screen
    policy = RetentionPolicy(
        keep_last=options.keep_last, keep_daily=options.keep_daily, keep_weekly=options.keep_weekly,
        keep_monthly=options.keep_monthly, max_size=options.max_size,
    )  # fmt: skip
    repository = call.open_repository()
    days = (UNDELETE.days if options.grace else 0) if options.undelete_days is None else options.undelete_days
    undelete = timedelta(days=days)
    expiry = care.plan_expiry(repository, policy, grace=timedelta(hours=options.grace), undelete=undelete)
    lines = _expiry_lines(expiry)
    if options.dry_run:
        screen.finish("expire", {"dry_run": True, **_expiry_fields(expiry)}, lines)
        return 0
    screen.say(*lines, "")
    if not expiry.plan.is_empty:
        screen.confirm(_warning(days), "expire", yes=options.yes)
    result = care.apply_expiry(repository, expiry, owner=this_owner(), events=screen)
    fields = _expiry_fields(expiry) | {
        "packs_announced": result.announced, "packs_deleted": result.deleted, "bytes_freed": result.bytes_freed,
    }  # fmt: skip
    words = (
        f"{result.forgotten} images forgotten, {result.deleted} packs deleted, "
        f"{format_size(max(0, result.bytes_freed))} freed."
    )
    screen.finish("expire", fields, [words])
    return 0


def _warning(undelete_days: int) -> str:
    if not undelete_days:
        return "What is forgotten or deleted cannot be brought back."
    return f"What is deleted cannot be brought back; what is forgotten can, for {format_count(undelete_days, 'day')}."


def _report_fields(report: CheckReport) -> Fields:
    return {
        "ok": report.ok,
        "findings": finding_fields(report.findings),
        "notices": notice_fields(report.notes),
        "images": len(report.images),
        "packs": report.packs,
    }


def _report_lines(report: CheckReport) -> list[str]:
    whole = sum(state.is_whole for state in report.images)
    verdict = (
        "Nothing is wrong. 'stillframe verify' also reads every chunk."
        if report.ok
        else f"{format_count(len(report.findings), 'finding')}: see above."
    )
    images, packs = format_count(len(report.images), "image"), format_count(report.packs, "pack")
    counts = f"{images}, {whole} of them whole; {packs}."
    return [counts, verdict]


def _expiry_lines(expiry: care.Expiry) -> list[str]:
    plan, retention = expiry.plan, expiry.retention
    lines = [f"Keep    {_judged_words(judged)}" for judged in retention.keep]
    lines += [f"Forget  {_judged_words(judged)}" for judged in retention.forget]
    if retention.is_over:
        lines.append("Even so the images take more than '--max-size': the newest good one of each series always stays.")
    lines += [f"End            {_ending_words(ending)}" for ending in plan.endings]
    if plan.purge:
        lines.append(f"Let go         {format_count(len(plan.purge), 'forgotten image')}: too late for '--undo' then")
    if plan.binned:
        lines.append(
            f"Keep whole     {format_count(len(plan.binned), 'forgotten image')} for {plan.undelete.days} days; "
            "'--undelete-days 0' lets go of them now"
        )
    lines += [
        f"Delete now     {format_size(plan.bytes_ripe)}, announced earlier",
        f"Announce dead  {len(plan.dead_packs)} packs, {format_size(plan.bytes_dead)}",
        f"Copy together  what is needed of {len(plan.repack)} packs that are mostly dead",
    ]
    return [*lines, *(f"Must wait      {waiting.what}: {waiting.why}" for waiting in plan.waiting)]


def _expiry_fields(expiry: care.Expiry) -> Fields:
    plan = expiry.plan
    return {
        "forgotten": [image.image for image in plan.forget],
        "kept": [{"image": judged.manifest.image, "reasons": list(judged.reasons)} for judged in expiry.retention.keep],
        "let_go": [image.image for image in plan.purge],
        "can_come_back": [binned.image.image for binned in plan.binned],
        "ended": [ending.session for ending in plan.endings],
        "bytes_ripe": plan.bytes_ripe,
        "bytes_dead": plan.bytes_dead,
        "waiting": [{"what": waiting.what, "why": waiting.why} for waiting in plan.waiting],
    }


def _ending_words(ending: Ending) -> str:
    if ending.why == "damaged":
        return f"session {ending.session[:8]}, which cannot be read"
    return f"the session of a run on {ending.machine.name} that never came back"


def _judged_words(judged: JudgedImage) -> str:
    manifest = judged.manifest
    name = f" {manifest.name}" if manifest.name else ""
    when = local_time(manifest.created)
    return f"{manifest.image[:8]}  {when}  {manifest.machine.name}{name}: {', '.join(judged.reasons)}"


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
