"""What a plan is carried out from: an image in a repository, or a disk that stands for an image of itself.

Answers: "where do the bytes come from, and what goes with that?" It is all that ``restore`` and ``clone --fit`` do not
have in common once a plan is made.
"""

from collections.abc import Callable
from dataclasses import dataclass

from stillframe.block import BlockReader
from stillframe.clock import Clock
from stillframe.events import EventSink
from stillframe.host.target import TargetIdentity
from stillframe.jobs.restoring.plan import RestorePlan
from stillframe.jobs.restoring.undo_table import keep_table
from stillframe.repo.reading import Chunks, Origin
from stillframe.repo.repository import Repository
from stillframe.repo.writing import ChunkNamer

KeepTable = Callable[[BlockReader, TargetIdentity, tuple[str, ...], EventSink], None]
"""Keeps what is on a target before it is written: its bytes, which it is, what is on it, and who is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Supply:
    """What a plan is carried out from.

    Attributes:
        origin: Where its bytes are.
        clock: For how long it took.
        namer: Tells whether a chunk is what its id says; ``None`` where an id says only where it lies.
        keep: Keeps what was on the target.
        require_still: Raises when what was read has changed meanwhile; asked before the table is written.
    """

    origin: Origin
    clock: Clock
    namer: ChunkNamer | None
    keep: KeepTable
    require_still: Callable[[], None]

    def reader(self) -> Chunks:
        """Its chunks."""
        return self.origin.reader()


def supply_from(repository: Repository, plan: RestorePlan) -> Supply:
    """An image, as it is stored. It never changes."""

    def keep(target: BlockReader, identity: TargetIdentity, contents: tuple[str, ...], events: EventSink) -> None:
        keep_table(repository, target, identity, contents, events)

    return Supply(
        origin=repository, clock=repository.clock, namer=ChunkNamer(repository, bytes.fromhex(plan.manifest.domain)),
        keep=keep, require_still=lambda: None,
    )  # fmt: skip
