"""A source that holds still: a reader, what lies where, which bytes matter, and how consistent they are."""

from stillframe.capture.offline import Holding, OpenSource, Still
from stillframe.capture.opening import open_source, open_sources
from stillframe.capture.source import (
    CapturedDisk,
    CapturedVolume,
    LeftOutPart,
    Selection,
    capture_disk,
    find_partitions,
)

__all__ = [
    "CapturedDisk",
    "CapturedVolume",
    "Holding",
    "LeftOutPart",
    "OpenSource",
    "Selection",
    "Still",
    "capture_disk",
    "find_partitions",
    "open_source",
    "open_sources",
]
