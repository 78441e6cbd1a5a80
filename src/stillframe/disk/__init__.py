"""From a whole disk to its partitions: GUID partition tables, MBR with logical partitions, disks without a table."""

from stillframe.disk.added import add_partitions, find_room, free_number
from stillframe.disk.fitting import Flexibility, Placement, Wish, fit_partitions
from stillframe.disk.gpt_copies import detect_sector_size
from stillframe.disk.layout import Layout, Partition, read_layout
from stillframe.disk.placement import (
    NewIdentity,
    Patch,
    clear_table_patches,
    fit_table,
    moved_layout,
    new_identity,
    renamed_layout,
    room_for_partitions,
)
from stillframe.disk.types import name_type

__all__ = [
    "Flexibility",
    "Layout",
    "NewIdentity",
    "Partition",
    "Patch",
    "Placement",
    "Wish",
    "add_partitions",
    "clear_table_patches",
    "detect_sector_size",
    "find_room",
    "fit_partitions",
    "fit_table",
    "free_number",
    "moved_layout",
    "name_type",
    "new_identity",
    "read_layout",
    "renamed_layout",
    "room_for_partitions",
]
