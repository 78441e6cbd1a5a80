"""LVM2 as it is written on disks, read without the device mapper.

``label`` finds the text in a physical volume, ``text`` takes it apart, ``group`` says which logical volumes it
describes, ``assembly`` reads one.
"""

from stillframe.disk.lvm.assembly import join_volume, lift_extents
from stillframe.disk.lvm.group import LogicalVolume, PhysicalPlace, Segment, VolumeGroup, parse_group
from stillframe.disk.lvm.label import PhysicalVolume, read_physical_volume

__all__ = [
    "LogicalVolume",
    "PhysicalPlace",
    "PhysicalVolume",
    "Segment",
    "VolumeGroup",
    "join_volume",
    "lift_extents",
    "parse_group",
    "read_physical_volume",
]
