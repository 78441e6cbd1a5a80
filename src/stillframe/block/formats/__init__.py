"""Disk files of other programs as ``BlockReader``: each recognised by its content, never by its name."""

from stillframe.block.formats.mapped import DiskFile
from stillframe.block.formats.opening import container_name, open_disk_file

__all__ = ["DiskFile", "container_name", "open_disk_file"]
