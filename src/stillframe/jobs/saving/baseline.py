"""Which earlier image a backup is compared with, and with whose chunks it shares storage.

Answers: "have these disks been here before?" A computer started from a live stick is a new machine at every start; its
disks are not. So disks are known again by their serial number or the id in their partition table, whatever machine
they were in, and keep the domain of their chunks: the second backup from a stick stores only what changed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from stillframe.capture import CapturedDisk
from stillframe.errors import StillframeError
from stillframe.events import Notice
from stillframe.repo.blockmap import MapRoot
from stillframe.repo.patching import RangePlace
from stillframe.repo.put.credential import is_put_machine
from stillframe.repo.records import BackupKind, Manifest, StoredDisk
from stillframe.repo.repository import Repository

EarlierMaps = Mapping[RangePlace, MapRoot]
WantedKind = Literal["auto", "full", "incremental", "differential"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What a new image is compared with.

    Attributes:
        kind: Of the new image.
        image: Id of the earlier one; empty for a full image.
        domain: Whose chunks are shared, 32 hex digits.
        notices: What a person should know of the choice.
    """

    kind: BackupKind
    image: str
    domain: str
    notices: tuple[Notice, ...] = ()


def choose_baseline(
    images: Iterable[Manifest], *, wanted: WantedKind, name: str, machine_id: str, disks: Sequence[CapturedDisk]
) -> Baseline:
    """Choose among the images of a repository. Torn images are never compared with.

    Args:
        images: All manifests.
        wanted: The kind a person asked for.
        name: Of the job: images of other names are not compared with.
        machine_id: Of this machine.
        disks: What will be saved.
    """
    known = [manifest for manifest in images if _is_of(manifest, disks, machine_id=machine_id)]
    known.sort(key=lambda manifest: (manifest.created, manifest.sequence))
    domain = known[-1].domain if known else machine_id
    earlier = [manifest for manifest in known if manifest.name == name and not manifest.is_torn]
    if wanted == "full" or (wanted == "auto" and not earlier):
        return Baseline(kind="full", image="", domain=domain)
    candidates = [m for m in earlier if m.kind == "full"] if wanted == "differential" else earlier
    if not candidates:
        notice = Notice(code="no-baseline", message=f"there is no earlier image to be {wanted} to: this one is full")
        return Baseline(kind="full", image="", domain=domain, notices=(notice,))
    kind: BackupKind = "differential" if wanted == "differential" else "incremental"
    return Baseline(kind=kind, image=candidates[-1].image, domain=domain)


def maps_before(repository: Repository, baseline: str, domain: str, disks: Sequence[CapturedDisk]) -> EarlierMaps:
    """The block maps of the baseline, by the ranges of these disks: what changed may be stored as patches of it.

    None where the baseline cannot be had, or its chunks are of another domain: they are shared with others.
    """
    try:
        manifest = repository.image(bytes.fromhex(baseline)).manifest if baseline else None
    except StillframeError:
        return {}
    if manifest is None or manifest.domain != domain or len(manifest.disks) != len(disks):
        return {}
    maps: dict[RangePlace, MapRoot] = {}
    for disk, stored in zip(disks, manifest.disks, strict=True):
        maps[disk.facts.path, None] = stored.outside.root()
        maps.update({(disk.facts.path, part.number): part.blocks.root() for part in stored.partitions})
    return maps


def _is_of(manifest: Manifest, disks: Sequence[CapturedDisk], *, machine_id: str) -> bool:
    """Whether an image is of these disks. The path alone says so only on the same machine.

    One of a put-only machine never counts: nobody else may share chunks with a machine that could have lied of them.
    """
    if is_put_machine(manifest.machine.id):
        return False
    here = manifest.machine.id == machine_id
    return len(manifest.disks) == len(disks) and all(
        _is_same(stored, disk) or (here and stored.path == disk.facts.path)
        for stored, disk in zip(manifest.disks, disks, strict=True)
    )


def _is_same(stored: StoredDisk, disk: CapturedDisk) -> bool:
    same_serial = stored.serial != "" and stored.serial == disk.facts.serial
    return same_serial or (stored.disk_id != "" and stored.disk_id == disk.layout.disk_id)
