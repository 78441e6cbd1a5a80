"""Operating systems on a disk as it is now.

Answers: "which systems are on these disks, and which partitions do they need?" A volume that nobody
uses is read as it lies there, in a process of its own. A mounted one is read through its mount: its bytes change, its
folders are always right. What is in use otherwise, or cannot be read, has no answer; nobody guesses.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from stillframe.block import CachedReader, ReadFault
from stillframe.capture import CapturedDisk, CapturedVolume
from stillframe.errors import MachineRefusal, StillframeError
from stillframe.fs.files.lookup import open_lookup
from stillframe.host.apart import call_apart
from stillframe.host.mounted_files import MountedTree, is_mounted_at
from stillframe.host.mounts import Use
from stillframe.jobs.catalogue import names_of
from stillframe.jobs.replayed import replayed_view
from stillframe.systems import NamedTraces, join_linux
from stillframe.systems.boot_way import has_boot_code
from stillframe.systems.evidence import FILES_ASKED, MAY_BE_WINDOWS, FileEvidence, PartEvidence, read_file_evidence

_TIMEOUT_S: Final = 15.0
"""For all volumes of a disk together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundHere:
    """A volume of the disk, and what uses it now."""

    volume: CapturedVolume
    uses: tuple[Use, ...]


def find_evidence(number: int, disk: CapturedDisk, uses: Sequence[tuple[Use, ...]]) -> tuple[PartEvidence, ...]:
    """What every partition of a disk says of systems.

    Args:
        number: Of the disk among those that are judged together, from 0.
        disk: As it was captured.
        uses: For each of its volumes what uses it now.
    """
    deadline = time.monotonic() + _TIMEOUT_S
    try:
        starts = has_boot_code(disk.reader, disk.layout)
    except ReadFault:
        starts = False
    found = [FoundHere(volume=volume, uses=used) for volume, used in zip(disk.volumes, uses, strict=True)]
    return tuple(
        PartEvidence(
            disk=number, disk_id=disk.layout.disk_id, scheme=disk.layout.scheme, partition=one.volume.partition,
            volume=one.volume.volume, names=_names(one.volume), files=_files(one, deadline - time.monotonic()),
            has_boot_code=starts, mounted=tuple(use.where for use in one.uses if use.kind == "mounted"),
            is_swapped_to=any(use.kind == "swap" for use in one.uses),
        )
        for one in found
    )  # fmt: skip


def name_systems(parts: Sequence[PartEvidence]) -> list[str | None]:
    """The system on each partition, in words; ``None`` where there is none or nobody can tell."""
    named = [NamedTraces(names=part.names, traces=part.files.linux) for part in parts if part.files is not None]
    systems = [part.files and (part.files.windows or join_linux(part.files.linux, named)) for part in parts]
    return [system.name if system else None for system in systems]


def _names(volume: CapturedVolume) -> frozenset[str]:
    part, inside = volume.partition, volume.volume
    return names_of(uuid=inside.uuid, label=inside.label, guid=part.guid, name=part.name)


def _files(found: FoundHere, seconds: float) -> FileEvidence | None:
    inside, reader = found.volume.volume, found.volume.reader
    may_be_windows = inside.filesystem in MAY_BE_WINDOWS
    if not found.uses:
        if inside.filesystem not in FILES_ASKED or seconds <= 0:
            return None

        def look() -> FileEvidence | None:
            files = open_lookup(replayed_view(CachedReader(reader), inside)[0], inside)
            return None if files is None else read_file_evidence(files, may_be_windows=may_be_windows)

        try:
            return call_apart(look, what="looking for systems", timeout_s=math.ceil(seconds))
        except MachineRefusal:
            return None
    for use in found.uses:
        if use.kind == "mounted" and is_mounted_at(use.device, use.where):
            try:
                return read_file_evidence(MountedTree(use.where), may_be_windows=may_be_windows)
            except StillframeError:
                return None
    return None
