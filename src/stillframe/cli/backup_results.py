"""A backup as fields: what it will do, and what it did.

Answers: "how does a program read what is saved?" Pure: fields out.
"""

from stillframe.cli.results import Fields, finding_fields, notice_fields
from stillframe.jobs.backup import BackupPlan, BackupResult
from stillframe.repo.records import Manifest, StoredImport


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
        "held": held_fields(manifest),
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


def held_fields(manifest: Manifest) -> Fields | None:
    """How disks in use were held still; nothing for others."""
    held = manifest.held
    if held is None:
        return None
    return {"seconds": held.milliseconds / 1000, "rounds": held.rounds, "bytes_again": held.bytes_again}
