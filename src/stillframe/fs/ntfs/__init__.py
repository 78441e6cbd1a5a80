"""NTFS: the used map of a volume and the proof that it is current (``NtfsFilesystem``)."""

from stillframe.fs.ntfs.volume import NtfsFilesystem

__all__ = ["NtfsFilesystem"]
