"""A Windows in use: volumes from shadows, the boot files partition from two equal passes, the rest from the disk.

NOTHING HERE HAS RUN ON WINDOWS YET.
"""

from stillframe.capture.windows.holding import HeldDisks, hold
from stillframe.capture.windows.source import WindowsSource, open_windows_source

__all__ = ["HeldDisks", "WindowsSource", "hold", "open_windows_source"]
