"""Records as the JSON that other programs rely on; ``docs/cli.md`` lists the names.

Answers: "which fields does the last line of ``--json`` have?" Names here never change their meaning.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from stillframe.cli.contents import catalogue_fields, installed_fields
from stillframe.events import Finding, Notice
from stillframe.jobs.backup import BackupPlan, BackupResult
from stillframe.jobs.listing import ListedImage
from stillframe.jobs.looking import SeenDisk, SeenPartition
from stillframe.repo.records import Manifest, ProofRecord, StoredDisk, StoredImport, StoredNotice, StoredPartition

Fields = dict[str, Any]


def notice_fields(notices: Iterable[Notice | StoredNotice]) -> list[Fields]:
    """Notices: code, message, hint; each once."""
    found = {(notice.code, notice.message): notice.hint for notice in notices}
    return [{"code": code, "message": message, "hint": hint} for (code, message), hint in found.items()]


def finding_fields(findings: Iterable[Finding]) -> list[Fields]:
    """Findings: code, message, hint, thing."""
    return [{"code": f.code, "message": f.message, "hint": f.hint, "thing": f.thing} for f in findings]


def backup_plan_fields(plan: BackupPlan) -> Fields:
    """What a backup would do."""
    return {
        "dry_run": True,
        "kind": plan.kind,
        "baseline": plan.baseline,
        "bytes_to_read": plan.estimate.bytes_to_read,
        "bytes_expected": plan.estimate.bytes_expected,
        "bytes_left_out": plan.bytes_left_out,
        "temporary": [
            {"disk": one.disk, "partition": one.partition, "path": one.path, "size": one.size} for one in plan.temporary
        ],
        "seconds_expected": plan.estimate.seconds_expected,
        "free_space": plan.free_space,
        "notices": notice_fields(plan.notices),
        "volumes": [
            {
                "disk": number,
                "partition": volume.partition.number,
                "filesystem": volume.volume.filesystem,
                "label": volume.volume.label,
                "size": volume.partition.extent.size,
                "bytes_kept": volume.kept.size,
                "bytes_left_out": volume.excluded.size,
                "consistency": volume.consistency,
                "map": volume.used.kind,
            }
            for number, disk in enumerate(plan.disks, 1)
            for volume in disk.volumes
        ],
    }


def backup_result_fields(result: BackupResult) -> Fields:
    """What a backup did."""
    manifest, checked = result.manifest, result.read_back
    return {
        "image": manifest.image,
        "kind": manifest.kind,
        "baseline": manifest.baseline,
        "bytes_read": manifest.bytes_read,
        "bytes_used": manifest.bytes_used,
        "bytes_added": manifest.bytes_added,
        "seconds": result.seconds,
        "held": _held_fields(manifest),
        "notices": notice_fields(manifest.notices),
        "volumes": [
            {"disk": disk.number, "partition": part.number, "consistency": part.consistency, "map": part.map}
            for disk in manifest.disks
            for part in disk.partitions
        ],
        "complete": result.is_complete,
        "read_back": None if checked is None else {"ok": not checked.findings, "whole": checked.is_whole},
        "findings": finding_fields(checked.findings if checked else ()),
    }


def imported_fields(imported: StoredImport | None) -> Fields:
    """Where an imported image came from; ``null`` for others."""
    if imported is None:
        return {"imported": None}
    return {"imported": {"format": imported.format, "path": imported.path, "made": imported.made}}


def _held_fields(manifest: Manifest) -> Fields | None:
    """How disks in use were held still; nothing for others."""
    held = manifest.held
    if held is None:
        return None
    return {"seconds": held.milliseconds / 1000, "rounds": held.rounds, "bytes_again": held.bytes_again}


def listed_fields(listed: ListedImage) -> Fields:
    """One image in a list."""
    manifest = listed.manifest
    return {
        "id": manifest.image,
        "name": manifest.name,
        "kind": manifest.kind,
        "created": manifest.created,
        "machine": manifest.machine.name,
        "machine_id": manifest.machine.id,
        "bytes_used": manifest.bytes_used,
        "bytes_total": manifest.bytes_total,
        "bytes_added": manifest.bytes_added,
        "proof": listed.verdict,
        "proofs": [_proof_fields(proof) for proof in listed.proofs],
        "rung": listed.standing.rung,
        "rung_since": listed.standing.since or None,
        "boots": listed.standing.boots,
    }


def image_fields(listed: ListedImage) -> Fields:
    """One image in full."""
    manifest = listed.manifest
    return {
        **listed_fields(listed),
        "image": manifest.image,
        "comment": manifest.comment,
        "baseline": manifest.baseline,
        "sequence": manifest.sequence,
        "finished": manifest.finished,
        "program": manifest.program,
        "bytes_read": manifest.bytes_read,
        "held": _held_fields(manifest),
        **imported_fields(manifest.imported),
        "chunk_size": manifest.chunk_size,
        "disks": [_stored_disk_fields(disk) for disk in manifest.disks],
        "notices": notice_fields(_all_notices(manifest)),
    }


def seen_disk_fields(seen: SeenDisk) -> Fields:
    """One disk as it is now."""
    facts, disk = seen.facts, seen.disk
    return {
        "path": facts.path,
        "kind": facts.kind,
        "model": facts.model,
        "serial": facts.serial,
        "size": facts.size,
        "sector_size": disk.layout.sector_size if disk else facts.sector_size,
        "scheme": disk.layout.scheme if disk else None,
        "disk_id": disk.layout.disk_id if disk else "",
        "removable": facts.removable,
        "read_only": facts.read_only,
        "partitions": [_seen_partition_fields(found) for found in seen.partitions],
        "notices": notice_fields(seen.notices),
    }


def _proof_fields(proof: ProofRecord) -> Fields:
    return {
        "kind": proof.kind,
        "created": proof.created,
        "ok": proof.ok,
        "bytes": proof.bytes,
        "how": proof.how,
        "machine": proof.machine.name,
        "findings": list(proof.findings),
        "outcome": proof.outcome or None,
        "seconds": proof.seconds if proof.outcome else None,
        "firmware": proof.firmware or None,
        "screenshot": proof.screenshot,
    }


def _stored_disk_fields(disk: StoredDisk) -> Fields:
    return {
        "number": disk.number,
        "path": disk.path,
        "model": disk.model,
        "serial": disk.serial,
        "size": disk.size,
        "sector_size": disk.sector_size,
        "scheme": disk.scheme,
        "disk_id": disk.disk_id,
        "unreadable": _ranges(disk.unreadable),
        "partitions": [_stored_partition_fields(part) for part in disk.partitions],
    }


def _stored_partition_fields(part: StoredPartition) -> Fields:
    return {
        "number": part.number,
        "start": part.start,
        "size": part.size,
        "type": part.type,
        "type_name": part.type_name,
        "name": part.name,
        "guid": part.guid,
        "filesystem": part.filesystem,
        "label": part.label,
        "uuid": part.uuid,
        "bytes_used": part.bytes_used,
        "system": part.system,
        "installed": installed_fields(part.installed),
        "catalogue": catalogue_fields(part.catalogue),
        "consistency": part.consistency,
        "map": part.map,
        "left_out": [{"path": file.path, "size": file.size, "kind": file.kind} for file in part.left_out],
        "excluded": _ranges(part.excluded),
        "unreadable": _ranges(part.unreadable),
        "notices": notice_fields(part.notices),
    }


def _seen_partition_fields(found: SeenPartition) -> Fields:
    part, inside = found.volume.partition, found.volume.volume
    return {
        "number": part.number,
        "start": part.extent.start,
        "size": part.extent.size,
        "type": part.type,
        "type_name": part.type_name,
        "name": part.name,
        "guid": part.guid,
        "filesystem": inside.filesystem,
        "label": inside.label,
        "uuid": inside.uuid,
        "bytes_used": found.bytes_used,
        "system": found.system,
        "in_use_at": list(dict.fromkeys(use.where for use in found.uses)),
        "in_system_backup": found.in_system_backup,
        "reason": found.reason,
    }


def _ranges(pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    return [list(pair) for pair in pairs]


def _all_notices(manifest: Manifest) -> list[StoredNotice]:
    return [*manifest.notices, *(n for disk in manifest.disks for part in disk.partitions for n in part.notices)]
