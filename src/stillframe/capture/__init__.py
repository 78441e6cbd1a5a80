"""A source that holds still: a reader, what lies where, which bytes matter, and how consistent they are."""

from stillframe.capture.offline import OpenSource
from stillframe.capture.opening import open_source
from stillframe.capture.source import CapturedDisk, CapturedVolume, Selection, capture_disk

__all__ = ["CapturedDisk", "CapturedVolume", "OpenSource", "Selection", "capture_disk", "open_source"]
