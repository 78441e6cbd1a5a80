"""Operating systems on a disk as it is now.

Answers: "which systems are on this disk?" A volume that nobody uses is read as it lies there, in a process of its own.
A mounted one is read through its mount: its bytes change, its folders are always right. What is in use otherwise, or
cannot be read, has no answer; nobody guesses.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from stillframe.block import CachedReader
from stillframe.capture import CapturedVolume
from stillframe.errors import MachineRefusal, StillframeError
from stillframe.host.apart import call_apart
from stillframe.host.mounted_files import MountedTree, is_mounted_at
from stillframe.host.mounts import Use
from stillframe.jobs.catalogue import SYSTEMS_READ, VolumeTraces, find_traces, names_of
from stillframe.jobs.replayed import replayed_view
from stillframe.systems import NamedTraces, find_windows, join_linux, read_traces

_TIMEOUT_S: Final = 15.0
"""For all volumes of a disk together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundHere:
    """A volume of the disk, and what uses it now."""

    volume: CapturedVolume
    uses: tuple[Use, ...]


def name_systems(found: Sequence[FoundHere]) -> list[str | None]:
    """The system on each volume of a disk, in words; ``None`` where there is none or nobody can tell."""
    deadline = time.monotonic() + _TIMEOUT_S
    traces = [_traces(one, deadline - time.monotonic()) for one in found]
    named = [
        NamedTraces(names=_names(one.volume), traces=said.linux)
        for one, said in zip(found, traces, strict=True)
        if said is not None
    ]
    systems = [said and (said.windows or join_linux(said.linux, named)) for said in traces]
    return [system.name if system else None for system in systems]


def _names(volume: CapturedVolume) -> frozenset[str]:
    part, inside = volume.partition, volume.volume
    return names_of(uuid=inside.uuid, label=inside.label, guid=part.guid, name=part.name)


def _traces(found: FoundHere, seconds: float) -> VolumeTraces | None:
    if not found.uses:
        inside, reader = found.volume.volume, found.volume.reader
        if inside.filesystem not in SYSTEMS_READ or seconds <= 0:
            return None
        try:
            return call_apart(
                lambda: find_traces(replayed_view(CachedReader(reader), inside)[0], inside), what="looking for systems",
                timeout_s=math.ceil(seconds),
            )  # fmt: skip
        except MachineRefusal:
            return None
    for use in found.uses:
        if use.kind == "mounted" and is_mounted_at(use.device, use.where):
            files = MountedTree(use.where)
            try:
                return VolumeTraces(windows=find_windows(files), linux=read_traces(files))
            except StillframeError:
                return None
    return None
