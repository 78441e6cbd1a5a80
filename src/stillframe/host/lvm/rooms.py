"""Whether a snapshot of a logical volume can be made, and with how much room.

Answers: "may this volume be saved from a snapshot?" A pure function of what LVM says. A classic snapshot needs room in
the volume group for everything that is written meanwhile; a thin one fills its pool, and a full pool would stop the
volumes that people work with, so it is not let come near that.

Source: lvmthin(7), lvcreate(8); Linux drivers/md/dm-snap-persistent.c (16 bytes for each chunk, a chunk is 4 KiB).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from stillframe.errors import MachineRefusal
from stillframe.host.blocks import BlockNode
from stillframe.host.lvm.report import LogicalVolume
from stillframe.units import GIB, MIB, align_up, format_size

_WANTED_MIN: Final = GIB
_WANTED_PERCENT: Final = 15
ROOM_MIN: Final = 128 * MIB
"""Less room than this, or than 2 % of the volume, fills up too soon to be tried."""
_NEEDED_PERCENT: Final = 2
_WHOLE_EXTRA: Final = 16 * MIB
_EXCEPTION_SHARE: Final = 128
"""One part in so many of the volume: more than its list of changed chunks ever takes."""
POOL_PERCENT_MAX: Final = 90.0
"""How full a pool may be when a snapshot is made."""
_LAYOUTS: Final = frozenset({"linear", "striped", "thin", "sparse", "raid"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotPlan:
    """A snapshot that can be made.

    Attributes:
        origin: Of this volume.
        size: Bytes for what changes; 0 for a thin one.
        pool: The thin pool of a thin one.
    """

    origin: LogicalVolume
    size: int
    pool: LogicalVolume | None = None


def plan_snapshot(
    volumes: Sequence[LogicalVolume], node: BlockNode, leftovers: Sequence[LogicalVolume]
) -> SnapshotPlan:
    """Plan a snapshot of a device.

    Args:
        volumes: All that LVM has.
        node: The device of the volume.
        leftovers: Snapshots that will be removed before: their room counts as free.

    Raises:
        MachineRefusal: None can be made; the reason is a sentence that goes on from "no LVM snapshot".
    """
    origin = next((volume for volume in volumes if volume.mapped_uuid == node.mapped_uuid), None)
    if origin is None:
        raise MachineRefusal(f"{node.path} is a part of a logical volume and not one itself", hint="'lvs' lists them.")
    _require_kind(origin)
    if origin.pool:
        return _plan_thin(volumes, origin, leftovers)
    freed = sum(one.size for one in leftovers if one.group_uuid == origin.group_uuid and "thicksnapshot" in one.role)
    return SnapshotPlan(origin=origin, size=_classic_size(origin, origin.group_free + freed))


def _require_kind(origin: LogicalVolume) -> None:
    strange = sorted(name for name in origin.layout - _LAYOUTS if not name.startswith("raid"))
    reason = ""
    if "thicksnapshot" in origin.role:
        reason = "is a snapshot itself"
    elif "pool" in origin.layout:
        reason = "is a pool of other volumes"
    elif "public" not in origin.role:
        reason = "is a part of another volume"
    elif origin.is_merging:
        reason = "has a snapshot merged into it at the moment"
    elif origin.is_shared:
        reason = "lies in a volume group that other machines use too"
    elif strange:
        reason = f"is of the kind {strange[0]}"
    if reason:
        raise MachineRefusal(f"{origin.full_name} {reason}", hint="Name the volume that is mounted.")


def _classic_size(origin: LogicalVolume, free: int) -> int:
    """Bytes for what changes: a share of the volume, never more than all of it could need."""
    step = max(origin.extent_size, 512)
    whole = align_up(origin.size + origin.size // _EXCEPTION_SHARE + _WHOLE_EXTRA, step)
    wanted = align_up(max(_WANTED_MIN, origin.size * _WANTED_PERCENT // 100), step)
    needed = min(whole, max(ROOM_MIN, origin.size * _NEEDED_PERCENT // 100))
    size = min(free, wanted, whole)
    if size < needed:
        raise MachineRefusal(
            f"the volume group {origin.group} has {format_size(free)} free, and a snapshot of {origin.name} needs at "
            f"least {format_size(needed)}",
            hint=f"Add a disk to it with 'vgextend', or make another volume smaller: 'vgs {origin.group}' shows it.",
        )
    return size


def _plan_thin(
    volumes: Sequence[LogicalVolume], origin: LogicalVolume, leftovers: Sequence[LogicalVolume]
) -> SnapshotPlan:
    pool = next(
        (one for one in volumes if one.group_uuid == origin.group_uuid and one.name == origin.pool), None
    )  # fmt: skip
    if pool is None or pool.number is None or pool.data_percent is None or pool.metadata_percent is None:
        raise MachineRefusal(f"LVM does not say how full the pool {origin.pool} is", hint="'lvs' shows it.")
    fullest = max(pool.data_percent, pool.metadata_percent)
    frees = any(one.group_uuid == pool.group_uuid and one.pool == pool.name for one in leftovers)
    if fullest >= POOL_PERCENT_MAX and not frees:
        raise MachineRefusal(
            f"the pool {pool.full_name} is {fullest:.0f} % full, and the limit for a snapshot is "
            f"{POOL_PERCENT_MAX:.0f} %",
            hint=f"Make it larger: 'lvextend' for its data, or with '--poolmetadatasize'; 'lvs {pool.group}' shows it.",
        )
    return SnapshotPlan(origin=origin, size=0, pool=pool)
