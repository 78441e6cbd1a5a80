"""Logical volumes of LVM and their snapshots.

``report`` reads what LVM and the kernel say of them, ``rooms`` decides whether a snapshot can be made, ``snapshots``
makes and removes one.
"""

from stillframe.host.lvm.report import Filling, LogicalVolume, is_logical_volume
from stillframe.host.lvm.rooms import SnapshotPlan, plan_snapshot
from stillframe.host.lvm.snapshots import (
    Snapshot,
    find_leftovers,
    make_snapshot,
    new_name,
    read_filling,
    read_volumes,
    remove_leftovers,
    remove_own,
    require_makeable,
)

__all__ = [
    "Filling",
    "LogicalVolume",
    "Snapshot",
    "SnapshotPlan",
    "find_leftovers",
    "is_logical_volume",
    "make_snapshot",
    "new_name",
    "plan_snapshot",
    "read_filling",
    "read_volumes",
    "remove_leftovers",
    "remove_own",
    "require_makeable",
]
