"""From a volume to its used map. One module or folder per file system; ``registry`` knows them all."""

from stillframe.fs.base import Filesystem, LeftOutFile, UsedMap, Volume, raw_map

__all__ = ["Filesystem", "LeftOutFile", "UsedMap", "Volume", "raw_map"]
