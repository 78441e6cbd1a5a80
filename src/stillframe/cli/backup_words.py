"""A backup in words: what it will do, and what it did.

Answers: "what will this save, and what was saved?" Pure: lines out.
"""

from collections.abc import Sequence

from stillframe.cli.words import local_time, notice_lines, table
from stillframe.fs import LeftOutFile
from stillframe.jobs.backup import BackupPlan, BackupResult
from stillframe.jobs.saving.preflight import PricedFolder
from stillframe.repo.put.credential import is_put_machine
from stillframe.repo.records import MachineName, Manifest, StoredImport
from stillframe.units import format_duration, format_rate, format_size

_FILES_SHOWN = 3


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
            how = "not in the image" if volume.is_left_out else how
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
    elif is_put_machine(manifest.machine.id):
        proof = (
            f"no fault: what this run stored, {format_size(checked.bytes_examined)}; a put key keeps no proof, "
            "'stillframe verify' on a machine with the passphrase does"
        )
    else:
        examined = format_size(checked.bytes_examined)
        proof = f"no fault: what this run stored and a share of the rest, {examined}"
    rate = format_rate(manifest.bytes_read, result.seconds)
    return [
        f"Image         {manifest.image[:8]}  ({manifest.kind}{', ' + manifest.name if manifest.name else ''})",
        f"Read          {format_size(manifest.bytes_read)} in {format_duration(result.seconds)} ({rate})",
        f"Stored        {format_size(manifest.bytes_added)}",
        *held_lines(manifest),
        f"Read back     {proof}",
        *notice_lines(manifest.notices),
    ]


def held_lines(manifest: Manifest) -> list[str]:
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
