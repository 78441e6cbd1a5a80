"""Images and disks in words.

Answers: "which images are there, what is in this one, and what is on the disks of this computer?" Pure: lines out.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime

from stillframe.cli.backup_words import held_lines, imported_lines
from stillframe.cli.contents import contents_lines, system_words
from stillframe.cli.words import local_time, notice_lines, table
from stillframe.jobs.listing import ListedImage
from stillframe.jobs.looking import SeenDisk
from stillframe.repo.proofs import Standing
from stillframe.repo.records import Manifest, ProofRecord, StoredDisk, StoredNotice, StoredPartition
from stillframe.units import format_duration, format_size

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_VERDICTS = {
    "good": "good: every chunk was read back",
    "quick": "structure checked only",
    "unproven": "not yet verified",
    "damaged": "DAMAGED",
    "torn": "TORN: copied while it changed",
}


def image_table(images: Sequence[ListedImage]) -> list[str]:
    """The images, one a line; how long one takes to come back, where any was rehearsed."""
    rows: list[tuple[str, ...]] = []
    for listed in images:
        manifest = listed.manifest
        rows.append(
            (
                manifest.image[:8], manifest.name, manifest.kind, local_time(manifest.created), manifest.machine.name,
                format_size(manifest.bytes_total), format_size(manifest.bytes_used), format_size(manifest.bytes_added),
                standing_words(listed),
            )
        )  # fmt: skip
    head: tuple[str, ...] = ("id", "name", "kind", "created", "machine", "disks", "used", "stored", "proof")
    times = [recovery_words(listed.standing) for listed in images]
    if any(times):
        head, rows = (*head, "recovery time"), [(*row, time) for row, time in zip(rows, times, strict=True)]
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


def recovery_words(standing: Standing) -> str:
    """How long an image took to come back in its last rehearsal that ended well; empty without one."""
    proof = standing.rehearsal
    return "" if proof is None else format_duration(proof.seconds) + (", emulated" if proof.emulated else "")


def _recovery_lines(standing: Standing) -> list[str]:
    proof = standing.rehearsal
    if proof is None:
        return ["              how long it takes to come back is not known: 'stillframe rescue rehearse' tries it"]
    parts = (
        f"{format_duration(proof.medium_seconds)} to start the medium, {format_duration(proof.restore_seconds)} to "
        f"restore, {format_duration(proof.start_seconds)} to start"
    )
    return [f"Recovery time {recovery_words(standing)}, rehearsed {_day(proof.created)}: {parts}"]


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
    if proof.kind == "rehearsed":
        return f"{when}  rehearsal: {proof.outcome} after {proof.seconds} s, on {where}; {proof.how}"
    if proof.kind == "checked":
        verdict = "whole" if proof.ok else "; ".join(proof.findings)
        return f"{when}  file systems: {verdict}, on {where}; {proof.how}"
    if proof.kind == "sampled":
        verdict = "all as their originals" if proof.ok else f"{len(proof.findings)} not as their originals"
        return f"{when}  files: {verdict}, {format_size(proof.bytes)}, on {where}; {proof.how}"
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
        *held_lines(manifest),
        f"Proof         {_VERDICTS[listed.verdict]}",
        *_start_lines(listed.standing),
        *(f"              {_proof_words(proof)}" for proof in listed.proofs),
        *_recovery_lines(listed.standing),
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
    return [title, *table(head, rows, right=(0, 3, 4, 5)), *_system_lines(seen), *notice_lines(seen.notices)]


def _system_lines(seen: SeenDisk) -> Iterator[str]:
    """The volumes inside of partitions, and the systems on all."""
    for found in seen.partitions:
        number = found.volume.partition.number
        if found.installed is not None:
            yield f"System on {number}: {system_words(found.installed)}"
        for one in found.inside:
            words = [one.volume.filesystem, one.volume.label, format_size(one.size), ", ".join(one.uses)]
            shown = ", ".join(word for word in words if word)
            yield f"Inside {number}: {one.name}, {shown}" + (f"; not read: {one.refusal}" if one.refusal else "")
            if one.installed is not None:
                yield f"System on {number} ({one.name}): {system_words(one.installed)}"


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
        format_size(part.size), format_size(part.bytes_used), "not in it" if part.is_left_out else part.map,
        part.consistency,
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
