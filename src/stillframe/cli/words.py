"""Records as words that people read: tables, plans, results.

Answers: "how is this told to a person?" Pure: lines in, lines out.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime

from stillframe.cli.contents import contents_lines
from stillframe.events import Notice
from stillframe.fs import LeftOutFile
from stillframe.jobs.backup import BackupPlan, BackupResult
from stillframe.jobs.listing import ListedImage
from stillframe.jobs.looking import SeenDisk
from stillframe.jobs.preflight import PricedFolder
from stillframe.repo.proofs import Standing
from stillframe.repo.records import (
    MachineName,
    Manifest,
    ProofRecord,
    StoredDisk,
    StoredImport,
    StoredNotice,
    StoredPartition,
)
from stillframe.units import format_duration, format_rate, format_size

_FILES_SHOWN = 3
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_VERDICTS = {
    "good": "good: every chunk was read back",
    "quick": "structure checked only",
    "unproven": "not yet verified",
    "damaged": "DAMAGED",
    "torn": "TORN: copied while it changed",
}


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> list[str]:
    """Rows under a head, in columns as wide as needed; the columns in ``right`` end together, as numbers do."""
    cells = [[cell.replace("\n", " ") for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = []
    for row in cells:
        parts = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(parts).rstrip())
    return lines


def local_time(text: str) -> str:
    """A stored time, which is in UTC, as the clock on this wall shows it."""
    try:
        return datetime.fromisoformat(text.removesuffix("Z") + "+00:00").astimezone().strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError):
        return text


def notice_lines(notices: Iterable[Notice | StoredNotice]) -> list[str]:
    """Each notice once, with its next step."""
    lines: dict[str, None] = {}
    for notice in notices:
        lines[f"Note: {notice.message}" + (f"\n      {notice.hint}" if notice.hint else "")] = None
    return list(lines)


def backup_plan_lines(plan: BackupPlan) -> list[str]:
    """What a backup will save, and what it costs."""
    lines = []
    for disk in plan.disks:
        facts = disk.facts
        lines += [f"{facts.path}  {facts.model}  {format_size(disk.layout.size)}".rstrip(), ""]
        rows = []
        for volume in disk.volumes:
            inside, part = volume.volume, volume.partition
            used = format_size(volume.used.extents.size) if volume.used.kind == "used" else "not known"
            how = "used map" if volume.used.kind == "used" else "raw: every byte"
            kept, whole = format_size(volume.kept.size), format_size(part.extent.size)
            out = _left_out_words(volume.left_out)
            rows.append(
                (str(part.number), inside.filesystem or part.type_name, inside.label, whole, used, kept, how, out)
            )
        head = ("no.", "file system", "label", "size", "used", "kept", "how", "left out")
        lines += [*table(head, rows, right=(0, 3, 4, 5)), ""]
    cost = plan.estimate
    compared = f", compared with {plan.baseline[:8]}" if plan.baseline else ""
    room = "not known" if plan.free_space is None else format_size(plan.free_space)
    lines += [
        f"Kind          {plan.kind}{compared}",
        f"To read       {format_size(cost.bytes_to_read)}",
        f"Left out      {format_size(plan.bytes_left_out)}",
        *_temporary_lines(plan.temporary),
        f"To store      about {format_size(cost.bytes_expected)}",
        f"Time          about {format_duration(cost.seconds_expected)}",
        f"Free there    {room}",
    ]
    return [*lines, *notice_lines(plan.notices)]


def _left_out_words(files: Sequence[LeftOutFile]) -> str:
    """The largest files that are left out, and how many more."""
    ordered = sorted(files, key=lambda file: file.extents.size, reverse=True)
    shown = [f"{file.path} {format_size(file.extents.size)}" for file in ordered[:_FILES_SHOWN]]
    rest = ordered[_FILES_SHOWN:]
    if rest:
        shown.append(f"{len(rest)} more {format_size(sum(file.extents.size for file in rest))}")
    return ", ".join(shown)


def _temporary_lines(folders: Sequence[PricedFolder]) -> list[str]:
    """What temporary files cost, and how to leave them out."""
    if not folders:
        return []
    total = format_size(sum(folder.size for folder in folders))
    shown = ", ".join(f"{folder.path} {format_size(folder.size)}" for folder in folders[:_FILES_SHOWN])
    return [
        f"Temporary     {total} of what is kept: {shown}",
        f"              To leave such a folder out: --exclude '{folders[0].path}/'",
    ]


def backup_result_lines(result: BackupResult) -> list[str]:
    """What a backup did."""
    manifest, checked = result.manifest, result.read_back
    if checked is None:
        proof = "not read back; 'stillframe verify' does that"
    elif checked.findings:
        proof = f"DAMAGED: {len(checked.findings)} stored pieces could not be read back"
    elif checked.is_whole and checked.proven_by:
        proof = (
            f"good: what this run stored and a share of the rest, {format_size(checked.bytes_examined)}; "
            f"all the rest was read back with image {checked.proven_by[:8]}"
        )
    elif checked.is_whole:
        proof = f"good: every chunk of the image, {format_size(checked.bytes_examined)}"
    else:
        examined = format_size(checked.bytes_examined)
        proof = f"no fault: what this run stored and a share of the rest, {examined}"
    rate = format_rate(manifest.bytes_read, result.seconds)
    return [
        f"Image         {manifest.image[:8]}  ({manifest.kind}{', ' + manifest.name if manifest.name else ''})",
        f"Read          {format_size(manifest.bytes_read)} in {format_duration(result.seconds)} ({rate})",
        f"Stored        {format_size(manifest.bytes_added)}",
        *_held_lines(manifest),
        f"Read back     {proof}",
        *notice_lines(manifest.notices),
    ]


def _held_lines(manifest: Manifest) -> list[str]:
    """How a computer in use was held still."""
    held = manifest.held
    if held is None:
        return []
    rounds = f" in {held.rounds} rounds" if held.rounds else ""
    again = f"{format_size(held.bytes_again)} changed meanwhile and were read again{rounds}"
    return [f"In use        held still for {held.milliseconds / 1000:.2f} s; {again}"]


def imported_lines(imported: StoredImport | None, machine: MachineName) -> list[str]:
    """Where an imported image came from, and whose it is; nothing for others."""
    if imported is None:
        return []
    made = f", made {local_time(imported.made)}" if imported.made else ""
    return [f"Imported      from {imported.path} ({imported.format}){made}; kept as of {machine.name}"]


def image_table(images: Iterable[ListedImage]) -> list[str]:
    """The images, one a line."""
    rows = []
    for listed in images:
        manifest = listed.manifest
        rows.append(
            (
                manifest.image[:8], manifest.name, manifest.kind, local_time(manifest.created), manifest.machine.name,
                format_size(manifest.bytes_total), format_size(manifest.bytes_used), format_size(manifest.bytes_added),
                standing_words(listed),
            )
        )  # fmt: skip
    head = ("id", "name", "kind", "created", "machine", "disks", "used", "stored", "proof")
    return table(head, rows, right=(5, 6, 7))


def standing_words(listed: ListedImage) -> str:
    """How high an image stands, and since when: ``booted 26 Nov``."""
    standing = listed.standing
    if listed.verdict in {"torn", "damaged"}:
        return listed.verdict
    if standing.start is not None and not standing.start.ok:
        return f"does not boot {_day(standing.start.created)}"
    word = {"read-back": "good"}.get(standing.rung, standing.rung)
    return f"{word} {_day(standing.since)}" if standing.since else word


def _day(text: str) -> str:
    """A day without its year: ``26 Nov``; of another year with it."""
    try:
        moment = datetime.fromisoformat(text.removesuffix("Z") + "+00:00").astimezone()
    except (ValueError, OverflowError):
        return text
    month = _MONTHS[moment.month - 1]
    this_year = datetime.now().astimezone().year == moment.year
    return f"{moment.day} {month}" if this_year else f"{moment.day} {month} {moment.year}"


def _start_lines(standing: Standing) -> list[str]:
    start = standing.start
    if start is None:
        return ["              whether it boots is not known: 'stillframe prove' tries it"]
    verdict = "it boots" if start.ok else "DOES NOT BOOT"
    return [f"              {verdict}: {start.how}"]


def _proof_words(proof: ProofRecord) -> str:
    when, where = local_time(proof.created), proof.machine.name
    if proof.kind == "booted":
        picture = ", with a screenshot" if proof.screenshot else ""
        took = f" after {proof.seconds} s with {proof.firmware.upper()}" if proof.firmware else ""
        return f"{when}  start: {proof.outcome}{took}, on {where}{picture}; {proof.how}"
    if proof.kind == "checked":
        verdict = "whole" if proof.ok else "; ".join(proof.findings)
        return f"{when}  file systems: {verdict}, on {where}; {proof.how}"
    verdict = "good" if proof.ok else f"{len(proof.bad_chunks)} bad chunks"
    return f"{when}  {proof.kind}: {verdict}, {format_size(proof.bytes)}, on {where}; {proof.how}"


def image_lines(listed: ListedImage) -> list[str]:
    """One image in full."""
    manifest = listed.manifest
    lines = [
        f"Image         {manifest.image}",
        *([f"Name          {manifest.name}"] if manifest.name else []),
        *([f"Comment       {manifest.comment}"] if manifest.comment else []),
        f"Kind          {manifest.kind}" + (f", compared with {manifest.baseline[:8]}" if manifest.baseline else ""),
        f"Created       {local_time(manifest.created)}, finished {local_time(manifest.finished)}",
        f"Machine       {manifest.machine.name}, its number {manifest.sequence}",
        f"Made by       Stillframe {manifest.program}",
        f"Disks         {format_size(manifest.bytes_total)}, {format_size(manifest.bytes_used)} kept",
        f"Read          {format_size(manifest.bytes_read)}, stored {format_size(manifest.bytes_added)}",
        *imported_lines(manifest.imported, manifest.machine),
        *_held_lines(manifest),
        f"Proof         {_VERDICTS[listed.verdict]}",
        *_start_lines(listed.standing),
        *(f"              {_proof_words(proof)}" for proof in listed.proofs),
    ]
    for disk in manifest.disks:
        lines += ["", *_disk_lines(disk)]
    return [*lines, *contents_lines(manifest), *_gap_lines(manifest), *notice_lines(_all_notices(manifest))]


def disk_lines(seen: SeenDisk) -> list[str]:
    """One disk as it is now."""
    facts, disk = seen.facts, seen.disk
    title = "  ".join(word for word in (facts.path, facts.model, facts.serial, format_size(facts.size)) if word)
    if disk is None:
        return [title, *notice_lines(seen.notices)]
    rows = []
    for found in seen.partitions:
        inside, part = found.volume.volume, found.volume.partition
        size = part.extent.size
        used = "?" if found.bytes_used is None else format_size(found.bytes_used)
        free = "?" if found.bytes_used is None else format_size(max(0, size - found.bytes_used))
        where = ", ".join(dict.fromkeys(use.where for use in found.uses))
        taken = "yes" if found.in_system_backup else "no"
        kind = inside.filesystem or part.type_name
        label = inside.label or part.name
        rows.append((str(part.number), kind, label, format_size(size), used, free, where, f"{taken}: {found.reason}"))
    head = ("no.", "file system", "label", "size", "used", "free", "in use at", "in a system backup")
    systems = [
        f"System on {found.volume.partition.number}: {found.system}" for found in seen.partitions if found.system
    ]
    return [title, *table(head, rows, right=(0, 3, 4, 5)), *systems, *notice_lines(seen.notices)]


def plan_lines(
    title: str, identity: Sequence[str], *, steps: Sequence[str], lost: Sequence[str], notices: Iterable[Notice]
) -> list[str]:
    """A plan that overwrites something: what the target is, what is lost there, what will be done."""
    lines = [title, *(f"  {line}" for line in identity), ""]
    if lost:
        lines += ["WILL BE LOST on the target:", *(f"  {line}" for line in lost), ""]
    lines += ["What will be done:", *(f"  {number}. {step}" for number, step in enumerate(steps, 1))]
    return [*lines, *notice_lines(notices)]


def _disk_lines(disk: StoredDisk) -> list[str]:
    title = [f"Disk {disk.number}", disk.path, disk.model, disk.serial, format_size(disk.size)]
    table_words = f"{disk.scheme}, sectors of {disk.sector_size} bytes" if disk.scheme != "none" else "no table"
    rows = [_partition_row(part) for part in disk.partitions]
    head = ("no.", "type", "file system", "label", "size", "kept", "map", "consistency")
    name = "  ".join(word for word in [*title, table_words] if word)
    return [name, *table(head, rows, right=(0, 4, 5))]


def _partition_row(part: StoredPartition) -> tuple[str, ...]:
    return (
        str(part.number), part.type_name or part.type, part.filesystem, part.label or part.name,
        format_size(part.size), format_size(part.bytes_used), part.map, part.consistency,
    )  # fmt: skip


def _gap_lines(manifest: Manifest) -> list[str]:
    """What an image does not hold: files left out, ranges that could not be read."""
    lines = []
    for disk in manifest.disks:
        for part in disk.partitions:
            place = f"disk {disk.number}, partition {part.number}"
            lines += [
                f"Left out      {place}: {file.path} ({file.kind}, {format_size(file.size)})" for file in part.left_out
            ]
            lines += [f"Unreadable    {place}: bytes {start} to {end}" for start, end in part.unreadable]
        lines += [f"Unreadable    disk {disk.number}: bytes {start} to {end}" for start, end in disk.unreadable]
    return lines


def _all_notices(manifest: Manifest) -> list[StoredNotice]:
    return [*manifest.notices, *(n for disk in manifest.disks for part in disk.partitions for n in part.notices)]
