"""The names by which the tables of a Linux call volumes.

Answers: "what may an ``fstab`` say for this partition, or for this volume inside of partitions?"

Source: LVM2 libdm ``dm_build_dm_name`` (a ``-`` is doubled in the name of a device).
"""

from typing import Final

from stillframe.fs.base import Volume
from stillframe.jobs.inside.volumes import InnerVolume

NO_GROUP: Final = "RAID 1"
"""What a volume that a RAID 1 holds is called."""


def names_of(*, uuid: str, label: str, guid: str, name: str) -> frozenset[str]:
    """The names by which an ``fstab`` may call a partition."""
    names = {"UUID": uuid, "LABEL": label, "PARTUUID": guid.lower(), "PARTLABEL": name}
    return frozenset(f"{kind}={one}" for kind, one in names.items() if one)


def inner_names(volume: InnerVolume, found: Volume) -> frozenset[str]:
    """The names by which an ``fstab`` may call a volume inside.

    Args:
        volume: Where it lies.
        found: What is in it.
    """
    names = names_of(uuid=found.uuid, label=found.label, guid="", name="")
    if not volume.group:
        return names
    return names | {f"/dev/{volume.group}/{volume.name}", f"/dev/mapper/{mapped_name(volume.group, volume.name)}"}


def inner_word(volume: InnerVolume) -> str:
    """What a volume inside is called: ``vg/root``."""
    return f"{volume.group}/{volume.name}" if volume.group else NO_GROUP


def mapped_name(group: str, name: str) -> str:
    """What the device mapper calls a logical volume."""
    return f"{group.replace('-', '--')}-{name.replace('-', '--')}"
