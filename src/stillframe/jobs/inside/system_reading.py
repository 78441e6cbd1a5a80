"""The files of volumes, asked for systems: of disks as they are now, and of images.

Answers: "what do these volumes say of systems, and how does a computer start from them?" What reads a file system is C
code that follows what the volume says, so each is asked in a process of its own first; the ways in which a computer
starts are followed in another one, which opens only those volumes that have answered before.
"""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from stillframe.block import BlockReader, CachedReader
from stillframe.errors import MachineRefusal, StillframeError
from stillframe.events import Notice
from stillframe.fs.files.lookup import open_lookup
from stillframe.host.apart import call_apart
from stillframe.host.mounted_files import MountedTree
from stillframe.jobs.inside.replayed import replayed_view
from stillframe.systems import InstalledSystem, NamedTraces, SystemFiles, join_linux
from stillframe.systems.boot_chain import follow_boot
from stillframe.systems.chain_records import BootChain, BootDisk, BootPart
from stillframe.systems.evidence import FILES_ASKED, MAY_BE_WINDOWS, FileEvidence, PartEvidence, read_file_evidence

_FOLLOW_S: Final = 30.0
_NOT_FOLLOWED: Final = "boot-not-followed"


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedVolume:
    """A partition, or a volume inside of partitions, that is asked for systems.

    Attributes:
        evidence: What is known of it; its ``files`` are what came of asking.
        reader: Its bytes.
        size: Of it.
        mounted_at: Where its files are read, when that is the only right way; empty else.
        is_closed: It is in use in a way that nobody reads through.
        refusal: Why a volume inside is not read; empty when it is.
    """

    evidence: PartEvidence
    reader: BlockReader
    size: int
    mounted_at: str = ""
    is_closed: bool = False
    refusal: str = ""

    @property
    def word(self) -> str:
        """What a person calls it: ``3``, or ``3 (vg/root)``."""
        number = self.evidence.partition.number
        return f"{number} ({self.evidence.inner})" if self.evidence.inner else f"{number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BootWaysFound:
    """How a computer starts from some disks, and what could not be followed."""

    chains: tuple[BootChain, ...]
    notices: tuple[Notice, ...] = ()


def ask_volumes(volumes: Sequence[AskedVolume], *, timeout_s: float) -> tuple[AskedVolume, ...]:
    """The same volumes, each with what its files say.

    Args:
        volumes: To be asked in turn.
        timeout_s: For all of them together; what comes later is not asked.
    """
    deadline = time.monotonic() + timeout_s
    found = list[AskedVolume]()
    for volume in volumes:
        files = _ask(volume, deadline - time.monotonic())
        found.append(replace(volume, evidence=replace(volume.evidence, files=files)))
    return tuple(found)


def follow_volumes(disks: Iterable[BootDisk], volumes: Sequence[AskedVolume]) -> BootWaysFound:
    """How a computer starts from these volumes, which were asked before."""

    def follow() -> tuple[BootChain, ...]:
        return follow_boot(tuple(disks), [_as_boot_part(volume) for volume in volumes])

    try:
        return BootWaysFound(chains=call_apart(follow, what="following how it starts", timeout_s=_FOLLOW_S))
    except MachineRefusal as error:
        notice = Notice(code=_NOT_FOLLOWED, message=error.message, hint=error.hint)
        return BootWaysFound(chains=(), notices=(notice,))


def find_installed(volumes: Sequence[AskedVolume]) -> list[InstalledSystem | None]:
    """The system on each volume; ``None`` where there is none or nobody can tell."""
    parts = [volume.evidence for volume in volumes]
    named = [NamedTraces(names=part.names, traces=part.files.linux) for part in parts if part.files is not None]
    return [
        (part.files.windows or join_linux(part.files.linux, named)) if part.files is not None else None
        for part in parts
    ]


def _ask(volume: AskedVolume, seconds: float) -> FileEvidence | None:
    inside = volume.evidence.volume.filesystem
    may_be_windows = inside in MAY_BE_WINDOWS
    if volume.mounted_at:
        try:
            return read_file_evidence(MountedTree(volume.mounted_at), may_be_windows=may_be_windows)
        except StillframeError:
            return None
    if volume.is_closed or inside not in FILES_ASKED or seconds <= 0:
        return None

    def look() -> FileEvidence | None:
        files = _open_files(volume)
        return None if files is None else read_file_evidence(files, may_be_windows=may_be_windows)

    try:
        return call_apart(look, what="looking for systems", timeout_s=math.ceil(seconds))
    except MachineRefusal:
        return None


def _open_files(volume: AskedVolume) -> SystemFiles | None:
    """Files of a volume, for a process of its own."""
    if volume.mounted_at:
        return MountedTree(volume.mounted_at)
    inside = volume.evidence.volume
    return open_lookup(replayed_view(CachedReader(volume.reader), inside)[0], inside)


def _as_boot_part(volume: AskedVolume) -> BootPart:
    try:
        files = _open_files(volume) if volume.evidence.files is not None else None
    except StillframeError:
        files = None
    return BootPart(evidence=volume.evidence, reader=volume.reader, files=files)
