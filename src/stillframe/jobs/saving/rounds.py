"""Rounds of copying: sources that stay in use are copied, then what changed, until a freeze can take the rest.

Answers: "what has to be copied now, and is it time to freeze?" Where the bytes go to is the caller's: into a repository
(``live``) or onto another disk (``clone``).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from stillframe.capture import Selection
from stillframe.capture.live import Held, Watch
from stillframe.errors import Disturbed, Unseen
from stillframe.events import Notice, PhaseStarted
from stillframe.extents import Extent, ExtentSet
from stillframe.jobs.context import JobContext
from stillframe.jobs.saving.chunking import KeptRange, kept_ranges
from stillframe.jobs.saving.hooks import Hooks, hooked

_ROUNDS_MAX: Final = 8
_TRIES_MAX: Final = 5
_CALM_BYTES: Final = 32 << 20
"""So much may be left to read under the freeze without another round before it."""

Ranges = list[list[KeptRange]]
"""For each source its ranges: outside first, then the volumes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Following:
    """What is followed, and how it is told to hold still.

    Attributes:
        watching: The sources.
        selection: Which bytes the person wants.
        chunk_size: Bytes that are copied together.
        hooks: What is run around each freeze.
    """

    watching: Watch
    selection: Selection
    chunk_size: int
    hooks: Hooks


class Rounds:
    """One run. ``count`` rounds were made, and ``bytes_again`` were read more than once."""

    def __init__(self, following: Following, context: JobContext) -> None:
        self._following = following
        self._watching = following.watching
        self._context = context
        self._sources: Ranges = []
        self.already: list[list[ExtentSet]] = []
        """For each source and each of its ranges what was read at least once."""
        self.count = 0
        self.bytes_again = 0
        self.notices: list[Notice] = []
        """What a person should know afterwards."""

    def begin(self) -> Ranges:
        """Begin to follow: what is to be copied first."""
        disks = self._watching.begin(self._following.selection)
        self._sources = [list(kept_ranges(disk)) for disk in disks]
        self.already = [[one.kept for one in ranges] for ranges in self._sources]
        self.count = self.bytes_again = 0
        return self._sources

    def hold(self, copy: Callable[[Ranges], None]) -> Held:
        """Copy everything, and what changes meanwhile, and freeze for the rest.

        Args:
            copy: Copies ranges; called several times.

        Raises:
            Unseen: Some writes may not have been seen: begin again.
            Disturbed: Every attempt to hold the sources still was disturbed, or they are written too fast.
            MachineRefusal: They cannot be frozen, or a hook failed.
        """
        copy(self._sources)
        failure: Disturbed | None = None
        for _ in range(_TRIES_MAX):
            self._copy_changes(copy)
            self._context.cancel.check()
            self._context.events.emit(PhaseStarted(name="freezing for a moment"))
            try:
                with hooked(self._following.hooks, self._note_down):
                    held = self._watching.hold(self._following.selection, self.already)
            except Unseen:
                raise
            except Disturbed as error:
                failure = error
                continue
            if held is not None:
                self.bytes_again += sum(len(part.data) for disk in held.pieces for parts in disk for part in parts)
                return held
        raise failure or Disturbed(
            "the source is written faster than it can be copied",
            hint="Back up at a quieter time, or from the rescue medium.",
        )

    def _note_down(self, notice: Notice) -> None:
        self.notices.append(notice)
        self._context.events.emit(notice)

    def _copy_changes(self, copy: Callable[[Ranges], None]) -> None:
        """Read again what changed, as long as that makes less of it."""
        before: int | None = None
        while self.count < _ROUNDS_MAX:
            parts = [
                [self._changed_part(one, change, is_outside=index == 0) for index, one in enumerate(ranges)]
                for ranges, change in zip(self._sources, self._watching.changed(), strict=True)
            ]
            size = sum(one.kept.size for ranges in parts for one in ranges)
            if size <= _CALM_BYTES or (before is not None and size > before * 3 // 4):
                return
            before = size
            self.count += 1
            self.bytes_again += size
            self._context.events.emit(PhaseStarted(name="reading again what changed", bytes_total=size))
            self._note(parts)
            copy(parts)

    def _note(self, parts: Sequence[Sequence[KeptRange]]) -> None:
        """What is about to be read counts as read, and as unchanged."""
        for number, ranges in enumerate(parts):
            for index, one in enumerate(ranges):
                self._watching.clear(number, one.kept.shifted(one.start))
                self.already[number][index] |= one.kept

    def _changed_part(self, one: KeptRange, changed: ExtentSet, *, is_outside: bool) -> KeptRange:
        """The whole chunks of a range that changed. In a volume also what was free: it may be a new file by now."""
        here, size = changed.clipped(Extent(one.start, one.start + one.reader.size)), self._following.chunk_size
        starts = (here.starts - one.start) // size * size
        ends = np.minimum(-(-(here.ends - one.start) // size) * size, one.reader.size)
        chunks = ExtentSet.from_arrays(starts, ends)
        kept = one.kept & chunks if is_outside else chunks - one.excluded
        return replace(one, kept=kept, excluded=ExtentSet.empty())
