"""What is installed: operating systems recognised from the files of volumes."""

from stillframe.systems.linux import LinuxTraces, NamedTraces, join_linux, read_traces
from stillframe.systems.records import InstalledSystem, SystemFiles
from stillframe.systems.windows import find_windows

__all__ = [
    "InstalledSystem",
    "LinuxTraces",
    "NamedTraces",
    "SystemFiles",
    "find_windows",
    "join_linux",
    "read_traces",
]
