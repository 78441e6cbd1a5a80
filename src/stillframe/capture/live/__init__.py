"""The tracked freeze: an exact copy of file systems that stay in use.

``source`` says what is in use on a disk, ``followed`` what changes on it, ``watching`` freezes, reads and proves.
"""

from stillframe.capture.live.source import LiveSource, open_live_source
from stillframe.capture.live.watching import Held, Piece, Watch, watch

__all__ = ["Held", "LiveSource", "Piece", "Watch", "open_live_source", "watch"]
