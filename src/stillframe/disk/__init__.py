"""From a whole disk to its partitions: GUID partition tables, MBR with logical partitions, disks without a table."""

from stillframe.disk.gpt_copies import detect_sector_size
from stillframe.disk.layout import Layout, Partition, read_layout
from stillframe.disk.placement import NewIdentity, Patch, clear_table_patches, fit_table, new_identity
from stillframe.disk.types import name_type

__all__ = [
    "Layout",
    "NewIdentity",
    "Partition",
    "Patch",
    "clear_table_patches",
    "detect_sector_size",
    "fit_table",
    "name_type",
    "new_identity",
    "read_layout",
]
