"""Disk files of other programs as ``BlockReader``: each recognised by its content, never by its name."""
