"""A disk by its bytes: which systems are on it, and how a computer starts from it.

Answers: "what starts what here, and where does it break?" Also of a view of a disk on which something was changed.
"""

from dataclasses import dataclass
from typing import Final

from stillframe.block import BlockReader, WindowReader
from stillframe.disk import Layout, read_layout
from stillframe.disk.layout import Partition
from stillframe.errors import StillframeError
from stillframe.events import Notice
from stillframe.fs.base import Volume
from stillframe.fs.registry import identify
from stillframe.jobs.inside.here import expose_here
from stillframe.jobs.inside.system_reading import AskedVolume, ask_volumes, find_installed, follow_volumes
from stillframe.jobs.inside.volume_names import inner_names, inner_word, names_of
from stillframe.jobs.inside.volumes import InnerVolume, Insides, look_inside_disks
from stillframe.systems import InstalledSystem
from stillframe.systems.chain_records import BootChain, BootDisk, Firmware
from stillframe.systems.evidence import PartEvidence
from stillframe.systems.names import partition_names

_TIMEOUT_S: Final = 120.0
_LOADER_STEPS: Final = frozenset({"code", "loader", "menu"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenSystem:
    """A system on the disk.

    Attributes:
        installed: What it is.
        evidence: The volume that it is on.
    """

    installed: InstalledSystem
    evidence: PartEvidence

    @property
    def word(self) -> str:
        """What a person calls it, with its place."""
        inner = f", {self.evidence.inner}" if self.evidence.inner else ""
        return f"{self.installed.name} (partition {self.evidence.partition.number}{inner})"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenDisk:
    """What a disk says.

    Attributes:
        layout: Its partitions.
        volumes: What each of them says, and each volume inside of them that was opened.
        systems: Those that were found.
        chains: Every way in which it may start a computer.
        notices: What could not be followed.
    """

    layout: Layout
    volumes: tuple[PartEvidence, ...]
    systems: tuple[SeenSystem, ...]
    chains: tuple[BootChain, ...]
    notices: tuple[Notice, ...] = ()

    def whole_ways(self, system: SeenSystem, firmware: Firmware) -> tuple[BootChain, ...]:
        """The ways to a system in which nothing is missing."""
        return tuple(one for one in self._ways_to(system) if one.firmware == firmware and not one.fault)

    def does_start(self, system: SeenSystem) -> bool | None:
        """Whether a whole way leads to a system; ``None`` when there is a way that nobody can follow to its end."""
        if any(not one.fault for one in self._ways_to(system)):
            return True
        return None if self.is_unknown("bios") or self.is_unknown("uefi") else False

    def is_unknown(self, firmware: Firmware) -> bool:
        """Whether there is a way of which nobody can tell where it leads: it is not touched."""
        ways = [one for one in self.chains if one.firmware == firmware]
        return any(one.limit and one.system is None and not one.fault for one in ways)

    def is_lost(self, firmware: Firmware, system: SeenSystem | None = None) -> bool:
        """Whether no loader by a firmware leads to a system, or to any: each way ends at a loader or before a menu.

        A way that ends later, at a kernel or at a root that is not there, has a loader; so has one that nobody can
        follow to its end.
        """
        ways = [one for one in self.chains if one.firmware == firmware and not _ends_at_loader(one)]
        own = self._ways_to(system) if system is not None else []
        return not any(system is None or one in own or one.system is None for one in ways)

    def _ways_to(self, system: SeenSystem) -> list[BootChain]:
        place = (system.evidence.partition.number, system.evidence.inner)
        found = [(one, one.system) for one in self.chains]
        return [one for one, end in found if end is not None and (end.partition, end.inner) == place]


def _ends_at_loader(chain: BootChain) -> bool:
    first = next((step for step in chain.steps if step.fault), None)
    return first is not None and first.kind in _LOADER_STEPS


def look_at_disk(reader: BlockReader) -> SeenDisk:
    """Look at a disk. Nothing is written, and no volume is mounted.

    Raises:
        DiskFormatError, DeviceError: Its table is broken, or it cannot be read.
    """
    layout = read_layout(reader)
    windows = [(part, WindowReader(reader, part.extent)) for part in layout.partitions]
    found = [(part, window, _identify(window)) for part, window in windows]
    exposed = expose_here(0, reader, layout, [(part, window, volume.filesystem) for part, window, volume in found])
    insides = look_inside_disks([exposed])
    asked = [_partition(layout, part, window, volume, insides) for part, window, volume in found]
    asked += [_inner(layout, one) for one in insides.volumes if one.part is not None]
    volumes = ask_volumes(asked, timeout_s=_TIMEOUT_S)
    ways = follow_volumes([BootDisk(number=0, reader=reader)], volumes)
    systems = zip(find_installed(volumes), volumes, strict=True)
    return SeenDisk(
        layout=layout, volumes=tuple(one.evidence for one in volumes), chains=ways.chains,
        notices=(*insides.notices, *ways.notices),
        systems=tuple(
            SeenSystem(installed=system, evidence=one.evidence) for system, one in systems if system is not None
        ),
    )  # fmt: skip


def _identify(window: WindowReader) -> Volume:
    """What is in a partition; nothing that is known in one whose file system is broken."""
    try:
        return identify(window).volume
    except StillframeError:
        return Volume(filesystem="", label="", uuid="", block_size=0)


def _partition(
    layout: Layout, part: Partition, window: WindowReader, volume: Volume, insides: Insides
) -> AskedVolume:  # fmt: skip
    names = names_of(uuid=volume.uuid, label=volume.label, guid=part.guid, name=part.name)
    inside = [one for one in insides.volumes if (0, part.number) in one.places]
    evidence = PartEvidence(
        disk=0, disk_id=layout.disk_id, scheme=layout.scheme, partition=part, volume=volume, files=None,
        is_opened=bool(inside) and all(one.part is not None for one in inside),
        names=names | partition_names(layout, part.number),
    )  # fmt: skip
    return AskedVolume(evidence=evidence, reader=window, size=part.extent.size)


def _inner(layout: Layout, one: InnerVolume) -> AskedVolume:
    if one.part is None:
        raise ValueError("only volumes that are read are asked")
    stored = one.part.stored
    found = Volume(filesystem=stored.filesystem, label=stored.label, uuid=stored.uuid, block_size=stored.block_size)
    carrier = next(part for part in layout.partitions if part.number == one.places[0][1])
    evidence = PartEvidence(
        disk=0, disk_id=layout.disk_id, scheme=layout.scheme, partition=carrier, volume=found, files=None,
        names=inner_names(one, found), inner=inner_word(one), beneath=one.places,
    )  # fmt: skip
    return AskedVolume(evidence=evidence, reader=one.part.reader, size=one.size)
