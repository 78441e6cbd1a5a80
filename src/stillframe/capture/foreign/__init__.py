"""Backups of other programs as sources: images of partclone, folders of Clonezilla and of Windows, disk files."""

from stillframe.capture.foreign.importable import Importable, ImportOptions, find_importable

__all__ = ["ImportOptions", "Importable", "find_importable"]
