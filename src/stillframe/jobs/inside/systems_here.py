"""Operating systems on disks as they are now.

Answers: "which systems are on these disks, and which partitions do they need?" A volume that nobody
uses is read as it lies there, in a process of its own. A mounted one is read through its mount: its bytes change, its
folders are always right. What is in use otherwise, or cannot be read, has no answer; nobody guesses. Logical volumes of
LVM, and what a RAID 1 holds, are volumes like others.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from stillframe.block import ReadFault
from stillframe.capture import CapturedDisk, CapturedVolume
from stillframe.events import Notice
from stillframe.fs.base import Volume
from stillframe.host.blocks import BlockTree
from stillframe.host.mounted_files import is_mounted_at
from stillframe.host.mounts import Use
from stillframe.jobs.exposing import ExposedDisk
from stillframe.jobs.inside.here import expose_here
from stillframe.jobs.inside.system_reading import AskedVolume, BootWaysFound, ask_volumes, follow_volumes
from stillframe.jobs.inside.volume_names import inner_names, inner_word, mapped_name, names_of
from stillframe.jobs.inside.volumes import InnerVolume, look_inside_disks
from stillframe.systems.boot_way import has_boot_code
from stillframe.systems.chain_records import BootDisk
from stillframe.systems.evidence import PartEvidence

_TIMEOUT_S: Final = 15.0
"""For all volumes of a disk together."""
_SEALED: Final = "crypto_LUKS"
_MAPPED: Final = re.compile(r"\(([^()]+)\)$")

Uses = tuple[Use, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LookedDisk:
    """A disk, and for each of its volumes what uses it now."""

    disk: CapturedDisk
    uses: tuple[Uses, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemsHere:
    """What the volumes of some disks say of systems.

    Attributes:
        disks: Those that were asked.
        volumes: Their partitions, disk by disk, in order.
        inner: The volumes inside of these.
        notices: What is inside and could not be read.
    """

    disks: tuple[CapturedDisk, ...]
    volumes: tuple[AskedVolume, ...]
    inner: tuple[AskedVolume, ...]
    notices: tuple[Notice, ...]

    @property
    def asked(self) -> tuple[AskedVolume, ...]:
        """All, partitions first."""
        return (*self.volumes, *self.inner)

    @property
    def evidence(self) -> tuple[PartEvidence, ...]:
        """What all say, partitions first."""
        return tuple(one.evidence for one in self.asked)

    def follow(self) -> BootWaysFound:
        """How a computer starts from these disks."""
        disks = [BootDisk(number=number, reader=disk.reader) for number, disk in enumerate(self.disks)]
        return follow_volumes(disks, self.asked)


def find_systems(disks: Sequence[LookedDisk], tree: BlockTree) -> SystemsHere:
    """Ask every volume of some disks for systems.

    Args:
        disks: Those that are judged together.
        tree: The devices of this machine, by which volumes inside are known that are open.
    """
    insides = look_inside_disks([_exposed(number, one.disk) for number, one in enumerate(disks)])
    opened = {place for one in insides.volumes for place in one.places}
    closed = {place for one in insides.volumes if one.part is None for place in one.places}
    asked, inner = list[AskedVolume](), list[AskedVolume]()
    for number, looked in enumerate(disks):
        starts = _starts(looked.disk)
        mine = [
            _partition((number, index), looked, starts=starts, is_opened=(number, part) in opened - closed)
            for index, part in enumerate(one.partition.number for one in looked.disk.volumes)
        ]
        found = [one for one in insides.volumes if one.places[0][0] == number]
        both = ask_volumes([*mine, *(_inner(one, disks, tree) for one in found)], timeout_s=_TIMEOUT_S)
        asked += both[: len(mine)]
        inner += both[len(mine) :]
    return SystemsHere(
        disks=tuple(one.disk for one in disks), volumes=tuple(asked), inner=tuple(inner), notices=insides.notices
    )  # fmt: skip


def _starts(disk: CapturedDisk) -> bool:
    try:
        return has_boot_code(disk.reader, disk.layout)
    except ReadFault:
        return False


def _partition(place: tuple[int, int], looked: LookedDisk, *, starts: bool, is_opened: bool) -> AskedVolume:
    """A partition; ``place`` is the number of its disk, and which of its partitions it is, from 0."""
    number, index = place
    volume, uses, disk = looked.disk.volumes[index], looked.uses[index], looked.disk
    evidence = PartEvidence(
        disk=number, disk_id=disk.layout.disk_id, scheme=disk.layout.scheme, partition=volume.partition,
        volume=volume.volume, names=_names(volume, uses), files=None, has_boot_code=starts, is_opened=is_opened,
        mounted=_mounted(uses), is_swapped_to=any(use.kind == "swap" for use in uses),
    )  # fmt: skip
    return AskedVolume(
        evidence=evidence, reader=volume.reader, size=volume.reader.size,
        mounted_at="" if is_opened else _read_at(uses),
        is_closed=is_opened or bool(uses),
    )  # fmt: skip


def _inner(volume: InnerVolume, disks: Sequence[LookedDisk], tree: BlockTree) -> AskedVolume:
    """A volume inside, as if it were a partition of the first place that it is in."""
    number, partition = volume.places[0]
    looked = disks[number]
    index = next(n for n, one in enumerate(looked.disk.volumes) if one.partition.number == partition)
    carrier = looked.disk.volumes[index]
    uses = _inner_uses(volume, looked.uses[index], tree)
    inside = volume.part.stored if volume.part is not None else None
    found = Volume(
        filesystem=inside.filesystem if inside else "", label=inside.label if inside else "",
        uuid=inside.uuid if inside else "", block_size=inside.block_size if inside else 0,
    )  # fmt: skip
    evidence = PartEvidence(
        disk=number, disk_id=looked.disk.layout.disk_id, scheme=looked.disk.layout.scheme,
        partition=replace(carrier.partition, attributes=0), volume=found, names=inner_names(volume, found), files=None,
        mounted=_mounted(uses), is_swapped_to=any(use.kind == "swap" for use in uses), inner=inner_word(volume),
        beneath=volume.places,
    )  # fmt: skip
    return AskedVolume(
        evidence=evidence, reader=volume.part.reader if volume.part else carrier.reader, size=volume.size,
        mounted_at=_read_at(uses), is_closed=bool(uses) or volume.part is None,
        refusal=volume.refusal.replace("in the image", "on these disks"),
    )  # fmt: skip


def _inner_uses(volume: InnerVolume, uses: Uses, tree: BlockTree) -> Uses:
    """What uses a volume inside: of a logical volume its own device tells, of a RAID 1 whatever is above."""
    if not volume.group:
        return uses
    wanted = mapped_name(volume.group, volume.name)
    paths = {node.path for node in tree.nodes.values() if node.mapped_name == wanted}
    return tuple(use for use in uses if use.device in paths)


def _names(volume: CapturedVolume, uses: Uses) -> frozenset[str]:
    part, inside = volume.partition, volume.volume
    names = names_of(uuid=inside.uuid, label=inside.label, guid=part.guid, name=part.name)
    if inside.filesystem != _SEALED:
        return names
    opened = (_MAPPED.search(use.where) for use in uses if use.kind == "holder")
    return names | {f"/dev/mapper/{found[1]}" for found in opened if found}


def _mounted(uses: Uses) -> tuple[str, ...]:
    return tuple(use.where for use in uses if use.kind == "mounted")


def _read_at(uses: Uses) -> str:
    """Where the files of a volume in use are read; empty when nowhere."""
    mounted = (use for use in uses if use.kind == "mounted" and is_mounted_at(use.device, use.where))
    return next((use.where for use in mounted), "")


def _exposed(number: int, disk: CapturedDisk) -> ExposedDisk:
    found = [(one.partition, one.reader, one.volume.filesystem) for one in disk.volumes]
    return expose_here(number, disk.reader, disk.layout, found)
