"""Folders of temporary files, by file system.

Answers: "what on this volume could be left out without being missed?" Only folders that the system itself empties or
refills. A Linux partition may be the whole system, its ``/var`` or its ``/home``; what its root folder holds tells.
"""

from dataclasses import dataclass
from typing import Final

from stillframe.fs.files.patterns import Pattern, parse_pattern

_WINDOWS: Final = (
    "/Windows/Temp",
    "/Windows/SoftwareDistribution/Download",
    "/Users/*/AppData/Local/Temp",
    "/$Recycle.Bin",
)
_REMOVABLE: Final = ("/$RECYCLE.BIN",)
_LINUX: Final = ("/tmp", "/var/tmp", "/var/cache", "/home/*/.cache")  # noqa: S108 of the volume that is read
_VAR: Final = ("/tmp", "/cache")  # noqa: S108 likewise
_HOME: Final = "/*/.cache"
# Filesystem Hierarchy Standard 3.0: a root has these (3.2), a /var those (5.2). A /home has none of them.
_ROOT_SIGNS: Final = frozenset({"bin", "boot", "etc", "sbin", "usr", "var"})
_VAR_SIGNS: Final = frozenset({"lib", "log", "spool"})
# One of them beside it shows that a folder is somebody's home.
_HOME_SIGNS: Final = frozenset({".profile", ".bashrc", ".config"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TemporaryPlace:
    """A folder to look for. Where ``beside`` is not empty, one of these names must lie beside the folder."""

    pattern: Pattern
    beside: frozenset[str] = frozenset()


def list_temporary(kind: str, root_names: frozenset[str]) -> tuple[TemporaryPlace, ...]:
    """The folders to look for.

    Args:
        kind: ``Volume.filesystem``.
        root_names: What the root folder holds.
    """
    texts: tuple[str, ...] = _LINUX
    if kind == "ntfs":
        texts = _WINDOWS
    elif kind in ("vfat", "exfat"):
        texts = _REMOVABLE
    elif root_names >= _VAR_SIGNS and not root_names & _ROOT_SIGNS:
        texts = _VAR
    places = tuple(TemporaryPlace(pattern=parse_pattern(text)) for text in texts)
    if texts is _LINUX and not root_names & (_ROOT_SIGNS | _VAR_SIGNS):
        places += (TemporaryPlace(pattern=parse_pattern(_HOME), beside=_HOME_SIGNS),)
    return places
