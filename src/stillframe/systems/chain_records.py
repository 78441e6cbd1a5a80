"""A way from the firmware to a system, as records.

Answers: "what starts what, where is it, and where does it break?"
"""

from dataclasses import dataclass, replace
from typing import Final, Literal

from stillframe.block import BlockReader
from stillframe.systems.evidence import PartEvidence
from stillframe.systems.records import SystemFiles

Firmware = Literal["bios", "uefi"]
StepKind = Literal["code", "loader", "menu", "kernel", "volume", "system", "tables"]

STEPS_MAX: Final = 24
"""Of one way; a way that is longer leads back to itself."""
CHAINS_MAX: Final = 64
"""Of all disks together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootDisk:
    """A disk by its bytes; ``number`` as in ``PartEvidence.disk``."""

    number: int
    reader: BlockReader


@dataclass(frozen=True, slots=True, kw_only=True)
class BootPart:
    """A partition, or a volume inside of partitions.

    Attributes:
        evidence: What is known of it.
        reader: Its bytes.
        files: Its files; ``None`` where they are not read.
    """

    evidence: PartEvidence
    reader: BlockReader
    files: SystemFiles | None

    @property
    def key(self) -> tuple[int, int, str]:
        """What tells it from others."""
        return self.evidence.disk, self.evidence.partition.number, self.evidence.inner

    def step(
        self, kind: StepKind, what: str, path: str = "", *, leads: str = "", fault: str = "", limit: str = ""
    ) -> "BootStep":  # fmt: skip
        """A step that is on this volume."""
        disk, number, inner = self.key
        return BootStep(
            kind=kind, what=what, disk=disk, partition=number, inner=inner, path=path, leads=leads, fault=fault,
            limit=limit,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class BootStep:
    """One link of the chain.

    Attributes:
        kind: What it is: ``code`` of a first sector, a ``loader``, a ``menu`` or store, a ``kernel`` with what belongs
            to it, a ``volume`` that is not looked into, a ``system``, the ``tables`` of a Linux.
        what: In words.
        disk: On which disk, from 0.
        partition: In which partition; ``None`` for what is outside of all.
        inner: In which volume inside of it; empty for none.
        path: Of the file; empty where it is none.
        leads: What it names next, in words.
        fault: What is missing, so that a start ends here; empty when nothing is.
        limit: Why nobody can tell more; empty when all is told.
    """

    kind: StepKind
    what: str
    disk: int
    partition: int | None = None
    inner: str = ""
    path: str = ""
    leads: str = ""
    fault: str = ""
    limit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootChain:
    """A way from the firmware to a system, or as far as it goes.

    Attributes:
        firmware: By which it is started.
        is_fallback: It begins at the path where every UEFI firmware looks.
        is_first: It is what is started when nobody chooses in a menu: its default, or its first entry.
        steps: From the firmware on.
    """

    firmware: Firmware
    is_fallback: bool = False
    is_first: bool = True
    steps: tuple[BootStep, ...] = ()

    @property
    def fault(self) -> str:
        """The first thing that is missing; empty when nothing is."""
        return next((step.fault for step in self.steps if step.fault), "")

    @property
    def limit(self) -> str:
        """Why it is not known whether it goes to its end; empty when it is."""
        return next((step.limit for step in self.steps if step.limit), "")

    @property
    def system(self) -> BootStep | None:
        """The system at its end; ``None`` when it does not get there, or it cannot be told which."""
        return next((step for step in reversed(self.steps) if step.kind == "system"), None)

    def then(self, *steps: BootStep) -> "BootChain":
        """The chain with more steps behind it."""
        return replace(self, steps=(*self.steps, *steps))

    def choosing(self, rank: int) -> "BootChain":
        """The chain when the entry of this rank is chosen in its menu; 0 is the first."""
        return replace(self, is_first=self.is_first and rank == 0)

    def has_been_at(self, part: BootPart, path: str) -> bool:
        """Whether this file was read on the way already, or the way is too long."""
        known = any((step.disk, step.partition, step.inner, step.path) == (*part.key, path) for step in self.steps)
        return known or len(self.steps) >= STEPS_MAX
