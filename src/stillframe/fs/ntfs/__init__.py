"""NTFS: the used map of a volume and the proof that it is current (``NtfsFilesystem``, ``read_shadow_map``)."""

from stillframe.fs.ntfs.volume import NtfsFilesystem, explain_unclean, holds_resumable, is_hibernated, read_shadow_map

__all__ = ["NtfsFilesystem", "explain_unclean", "holds_resumable", "is_hibernated", "read_shadow_map"]
