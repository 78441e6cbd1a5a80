"""LVM2 as it is written on disks, read without the device mapper.

``label`` finds the text in a physical volume, ``text`` takes it apart, ``group`` says which logical volumes it
describes, ``assembly`` reads and writes one, ``renaming`` gives a group new ids.
"""

from stillframe.disk.lvm.assembly import join_volume, join_volume_for_writing, lift_extents
from stillframe.disk.lvm.group import LogicalVolume, PhysicalPlace, Segment, VolumeGroup, parse_group
from stillframe.disk.lvm.label import PhysicalVolume, read_physical_volume
from stillframe.disk.lvm.renaming import hyphenated, new_lvm_uuid, rename_physical

__all__ = [
    "LogicalVolume",
    "PhysicalPlace",
    "PhysicalVolume",
    "Segment",
    "VolumeGroup",
    "hyphenated",
    "join_volume",
    "join_volume_for_writing",
    "lift_extents",
    "new_lvm_uuid",
    "parse_group",
    "read_physical_volume",
    "rename_physical",
]
