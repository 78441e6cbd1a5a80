"""What a Linux notes by the place of blocks, and not by name: wrong after its file system was resized.

Answers: "does something on this volume count blocks?" Only looks; what can be put right is for the caller.

Sources: the SYSLINUX wiki, "EXTLINUX" (``ldlinux.sys`` must be found by its sectors); lilo(8) ("map"); Linux
Documentation/power/swsusp-and-swap-files.rst (``resume_offset=``).
"""

import re
from dataclasses import dataclass
from typing import Final

from stillframe.systems.linux_ids import ID_TEXTS, iter_paths
from stillframe.systems.records import SystemFiles

_LOADER: Final = "ldlinux.sys"
_FOLDERS: Final = ("/boot/extlinux", "/boot/syslinux", "/boot", "/extlinux", "/syslinux", "/")
_LILO: Final = "/etc/lilo.conf"
_OFFSET: Final = re.compile(rb"\bresume_offset=[0-9]{1,20}")
_TEXT_MAX: Final = 256 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceNotes:
    """What counts blocks on a volume.

    Attributes:
        extlinux: Folders with a loader of extlinux.
        lilo: Whether LILO is set up.
        offsets: Texts that say where in the volume a swap file begins.
    """

    extlinux: tuple[str, ...] = ()
    lilo: bool = False
    offsets: tuple[str, ...] = ()


def find_place_notes(files: SystemFiles) -> PlaceNotes:
    """Look at the few places where such things are.

    Raises:
        StillframeError: The volume cannot be read.
    """
    return PlaceNotes(
        extlinux=tuple(folder for folder in _FOLDERS if _LOADER in files.list_names(folder)),
        lilo=files.read_file(_LILO, 0, 1) is not None,
        offsets=tuple(
            path for path in iter_paths(files, ID_TEXTS) if _OFFSET.search(files.read_file(path, 0, _TEXT_MAX) or b"")
        ),
    )
