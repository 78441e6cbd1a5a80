"""A source that is open for reading, and whether it stayed still while it was read.

Answers: "what of it matters, and did anybody write to it meanwhile?" Which way a source is opened is for ``opening``.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from stillframe.block import BlockReader
from stillframe.capture.source import CapturedDisk, Consistency, Selection, capture_disk
from stillframe.events import Notice
from stillframe.host.changes import ChangeStamp, change_stamp
from stillframe.host.disks import DiskFacts
from stillframe.host.mounts import Use, users_of


class OpenReader(BlockReader, Protocol):
    """A reader that somebody has to close."""

    def close(self) -> None:
        """Close it; twice is once."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What a source is told when it is to be held still.

    Attributes:
        selection: Which bytes the person wants.
        around: Entered right around the moment that counts: programs of the person's run there.
        note: Told of what the person should know.
    """

    selection: Selection
    around: Callable[[], AbstractContextManager[None]]
    note: Callable[[Notice], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Still:
    """A source that holds still from now on, and what is in it."""

    source: "OpenSource"
    disk: CapturedDisk


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSource:
    """A source that is open for reading. Use as a context; it is closed at the end.

    ``claim`` is a descriptor that keeps others from mounting it meanwhile, where it is a device that nothing uses.
    """

    facts: DiskFacts
    reader: OpenReader
    consistency: Consistency
    notices: tuple[Notice, ...]
    stamp: ChangeStamp | None = None
    claim: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.reader.close()
        if self.claim is not None:
            os.close(self.claim)

    @property
    def paths(self) -> tuple[str, ...]:
        """Everything that is read for it: it must not be written to meanwhile."""
        return (self.facts.path,)

    @property
    def announcement(self) -> Notice | None:
        """For a source in use, how it is going to be held still; what ``capture`` says of it is an estimate."""
        return None

    @contextmanager
    def hold(self, disk: CapturedDisk, holding: Holding) -> Iterator[Still]:  # noqa: ARG002 others need it
        """Hold it still while the block runs. ``disk`` is what was planned, which is what it is when it is not in use.

        Raises:
            MachineRefusal: It cannot be held still.
        """
        yield Still(source=self, disk=disk)

    def capture(self, selection: Selection) -> CapturedDisk:
        """Decide which bytes matter; the source's own consistency counts, not the selection's."""
        wanted = Selection(
            all_sectors=selection.all_sectors,
            include_paging=selection.include_paging,
            exclude=selection.exclude,
            without=selection.without,
            consistency=self.consistency,
            is_unused=self.consistency == "offline",
            keys=selection.keys,
        )
        return capture_disk(self.reader, self.facts, wanted)

    def stayed_still(self) -> bool:
        """Whether, seen from now, nothing has written to it since it was opened, and nobody can.

        Raises:
            Disturbed: What held it still is lost.
        """
        path, is_ours = self.facts.path, self.claim is not None
        writers = writers_of(path, probe=not is_ours)
        return self.consistency == "offline" and not writers and change_stamp(path) == self.stamp


def writers_of(path: str, *, probe: bool = True) -> tuple[Use, ...]:
    """Everything that may write to a source at this moment; ``probe`` also asks whether somebody unseen claims it."""
    return tuple(use for use in users_of(path, probe=probe) if use.read_write)
