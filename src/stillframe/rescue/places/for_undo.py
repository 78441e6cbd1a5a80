"""Where an undo file of a boot repair goes: a stick, a disk, a share, or the memory of this system.

Answers: "which folders can keep what was there, and for how long?" Never the disk that is repaired.
"""

import os
import tempfile
import time
from collections.abc import Iterable
from typing import Final

from stillframe.errors import TargetError
from stillframe.rescue.places.found import FoundVolume
from stillframe.rescue.places.shares import parse_address
from stillframe.rescue.world import World
from stillframe.units import format_size

MEMORY: Final = "memory"
ROOM: Final = 1 << 20
"""An undo file holds every changed sector twice, and this much more."""
_LABEL: Final = "label:"


def undo_name(disk: str) -> str:
    """A file name that says which disk and when; of letters that FAT has."""
    return time.strftime(f"stillframe-undo-{os.path.basename(disk)}-%Y%m%d-%H%M%S.undo")


def memory_folder() -> str:
    """Where files go that are gone when the rescue system ends; on an installed system its temporary folder."""
    return tempfile.gettempdir()


def why_not_there(volume: FoundVolume, disk: str, bytes_to_write: int) -> str:
    """Why a volume cannot keep an undo file; empty when it can."""
    if volume.disk == disk:
        return "it is on the disk that is repaired"
    if volume.refusal or not volume.writable:
        return volume.refusal or "nothing can be written there"
    needed = 2 * bytes_to_write + ROOM
    return "" if (volume.free or 0) > needed else f"{format_size(needed)} are needed"


def settled_folder(world: World, wanted: str, disk: str) -> str:
    """The folder that answers name: ``memory``, ``label:NAME``, a folder, or an address of a share.

    Raises:
        TargetError: No volume, or several, have that label, or it is on the disk that is repaired.
        MachineRefusal, RepositoryNotFound: It cannot be opened, or is not there.
    """
    if wanted == MEMORY:
        return memory_folder()
    if not wanted.startswith(_LABEL):
        address = parse_address(wanted)
        if address.share is not None:
            world.bring_network()
        secret = world.settings.secret.share_password
        return world.places.open_folder(address, secret=secret, read_write=True)
    volume = _labelled(world.places.search().volumes, wanted.removeprefix(_LABEL))
    world.places.close_all()
    refusal = why_not_there(volume, disk, 0)
    if refusal:
        raise TargetError(f"{wanted} cannot keep the undo file: {refusal}", hint="Name another volume in 'keep-undo'.")
    return world.places.open_volume(volume, "write")


def _labelled(volumes: Iterable[FoundVolume], label: str) -> FoundVolume:
    found = [one for one in volumes if one.label.strip() == label]
    if len(found) == 1:
        return found[0]
    what = "no volume has" if not found else f"{len(found)} volumes have"
    raise TargetError(
        f"{what} the label {label!r}", hint="Give a stick a label of its own, and name it in 'keep-undo'."
    )
