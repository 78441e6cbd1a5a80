"""Images and disks as fields.

Answers: "how does a program read which images are there and what is in one?" Pure: fields out.
"""

from collections.abc import Sequence

from stillframe.cli.backup_results import held_fields, imported_fields
from stillframe.cli.contents import catalogue_fields, installed_fields
from stillframe.cli.results import Fields, notice_fields
from stillframe.jobs.listing import ListedImage
from stillframe.jobs.looking import SeenDisk, SeenInside, SeenPartition
from stillframe.repo.records import Manifest, ProofRecord, StoredDisk, StoredInside, StoredNotice, StoredPartition


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
        "recovery_seconds": None if listed.standing.rehearsal is None else listed.standing.rehearsal.seconds,
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
        "held": held_fields(manifest),
        **imported_fields(manifest.imported),
        "chunk_size": manifest.chunk_size,
        "disks": [_stored_disk_fields(disk) for disk in manifest.disks],
        "boot": None,
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
        "medium_seconds": proof.medium_seconds if proof.kind == "rehearsed" else None,
        "restore_seconds": proof.restore_seconds if proof.kind == "rehearsed" else None,
        "start_seconds": proof.start_seconds if proof.kind == "rehearsed" else None,
        "emulated": proof.emulated if proof.kind == "rehearsed" else None,
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
        "inside": [_stored_inside_fields(one) for one in part.inside],
        "consistency": part.consistency,
        "map": part.map,
        "in_image": not part.is_left_out,
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
        "installed": installed_fields(found.installed),
        "inside": [_seen_inside_fields(one) for one in found.inside],
        "in_use_at": list(dict.fromkeys(use.where for use in found.uses)),
        "in_system_backup": found.in_system_backup,
        "reason": found.reason,
    }


def _stored_inside_fields(inside: StoredInside) -> Fields:
    return {
        "name": inside.name,
        "filesystem": inside.filesystem,
        "label": inside.label,
        "uuid": inside.uuid,
        "size": inside.size,
        "installed": installed_fields(inside.installed),
        "catalogue": catalogue_fields(inside.catalogue),
    }


def _seen_inside_fields(found: SeenInside) -> Fields:
    return {
        "name": found.name,
        "filesystem": found.volume.filesystem,
        "label": found.volume.label,
        "uuid": found.volume.uuid,
        "size": found.size,
        "in_use_at": list(found.uses),
        "installed": installed_fields(found.installed),
        "refusal": found.refusal or None,
    }


def _ranges(pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    return [list(pair) for pair in pairs]


def _all_notices(manifest: Manifest) -> list[StoredNotice]:
    return [*manifest.notices, *(n for disk in manifest.disks for part in disk.partitions for n in part.notices)]
