"""Partitions on a disk of another size: which of them shrink, grow and move.

Answers: "where does each partition go on this target, and how large is it there?" Pure: it knows how far each may be
changed, and decides; it neither reads nor writes. What cannot be is refused, with the bytes that are missing.

The order of means: nothing is changed that need not be; the last partition shrinks alone if that is enough, because
then nothing moves; else gaps are closed and all that can shrink give the same share of what they have free. On a larger
disk one partition takes what there is: the one that was named, else the largest that can.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from stillframe.disk.layout import Layout, Partition
from stillframe.disk.logical import record_gap
from stillframe.errors import TargetError, UsageError
from stillframe.extents import Extent
from stillframe.units import MIB, align_down, align_up, format_size

ALIGNMENT: Final = MIB
"""What partitions that move are aligned to: Windows since Vista, parted and fdisk do the same."""

_STAYS: Final = "what is in it cannot grow here"
_WISHES: Final = "Write '--resize N=SIZE', N=keep or N=max for partitions that can; '--dry-run' shows what comes out."
_MOVES: Final = "Write '--move N=START' with another place, or '--resize N=SIZE' for the one before it."

Wish = int | Literal["keep", "max"]
"""What a person wants a partition to be: so many bytes, as it was, or as large as there is room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flexibility:
    """How far a partition may be changed.

    Attributes:
        smallest: Bytes that it needs; its size when it cannot shrink.
        can_grow: Whether what is in it can be made larger.
        can_move: Whether it may begin elsewhere.
        reason: Why it cannot shrink, for people; empty when it can.
    """

    smallest: int
    can_grow: bool = False
    can_move: bool = True
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A partition, where it was, and where it will be."""

    partition: Partition
    place: Extent

    @property
    def is_moved(self) -> bool:
        """Whether it begins elsewhere."""
        return self.place.start != self.partition.extent.start

    @property
    def is_resized(self) -> bool:
        """Whether it is larger or smaller than it was."""
        return self.place.size != self.partition.extent.size


def fit_partitions(
    layout: Layout, room: Extent, flexibility: Mapping[int, Flexibility], wishes: Mapping[int, Wish],
    moves: Mapping[int, int] | None = None,
) -> tuple[Placement, ...]:  # fmt: skip
    """Decide where partitions go.

    Args:
        layout: Of the source; without those that are left out.
        room: Where partitions may lie on the target, whole sectors.
        flexibility: Of each partition, by its number.
        wishes: By number; partitions without one are changed as little as possible.
        moves: By number, the byte at which a partition is to begin.

    Returns:
        In order of their places.

    Raises:
        UsageError: A wish is for a partition that is not there, or cannot be.
        TargetError: They do not fit, by how much; or two are in each other's way.
    """
    return _Fitting(layout, room, flexibility, wishes, moves or {}).fit()


class _Fitting:
    """One decision."""

    def __init__(
        self, layout: Layout, room: Extent, flexibility: Mapping[int, Flexibility], wishes: Mapping[int, Wish],
        moves: Mapping[int, int],
    ) -> None:  # fmt: skip
        self._room = room
        self._flexibility = flexibility
        self._wishes = wishes
        self._step = layout.sector_size
        self._sizes = {part.number: part.extent.size for part in layout.partitions}
        unknown = sorted((set(wishes) | set(moves)) - set(self._sizes))
        if unknown:
            have = ", ".join(map(str, sorted(self._sizes)))
            raise UsageError(
                f"there is no partition {unknown[0]}; there are {have}",
                hint="'stillframe show IMAGE' or 'stillframe disks DISK' lists them.",
            )
        self._moves = {number: self._start_asked(number, start, layout) for number, start in moves.items()}
        self._parts = sorted(layout.partitions, key=lambda part: self._moves.get(part.number, part.extent.start))
        self._gaps = {part.number: record_gap(self._parts, part, self._step) for part in self._parts}
        _refuse_among_logical(self._parts)

    def fit(self) -> tuple[Placement, ...]:
        """The decision."""
        for number, wish in self._wishes.items():
            if isinstance(wish, int):
                self._set(number, wish)
        excess = self._end(self._laid(is_compact=False)) - self._room.end
        if excess > 0:
            self._shrink(excess)
            starts = self._laid(is_compact=False)
            if self._end(starts) > self._room.end:
                starts = self._laid(is_compact=True)
        else:
            starts = self._grow()
        return tuple(
            Placement(partition=part, place=Extent(start, start + self._sizes[part.number]))
            for part, start in zip(self._parts, starts, strict=True)
        )

    def _start_asked(self, number: int, start: int, layout: Layout) -> int:
        """Where a partition was asked to begin: at a multiple of the alignment, unless it is where it was."""
        before = next(part.extent.start for part in layout.partitions if part.number == number)
        wanted = start if start == before else align_up(start, ALIGNMENT)
        if wanted != before and not self._flexibility[number].can_move:
            raise UsageError(f"partition {number} cannot be moved: boot code knows it by its place", hint=_MOVES)
        if not self._room.start <= wanted < self._room.end:
            raise UsageError(
                f"partition {number} cannot begin at byte {wanted}: partitions may lie from byte {self._room.start} to "
                f"{self._room.end} on this target",
                hint=_MOVES,
            )
        return wanted

    def _set(self, number: int, size: int) -> None:
        """Take a size that was asked for, whole sectors."""
        wanted, before, may = align_down(size, self._step), self._sizes[number], self._flexibility[number]
        if wanted < before and wanted < may.smallest:
            least = may.reason or f"it needs {format_size(may.smallest)}"
            raise UsageError(f"partition {number} cannot be made {format_size(wanted)}: {least}", hint=_WISHES)
        if wanted > before and not may.can_grow:
            raise UsageError(f"partition {number} cannot be made larger: {_STAYS}", hint=_WISHES)
        self._sizes[number] = wanted

    def _fixed_start(self, part: Partition) -> int | None:
        """Where a partition must begin; ``None`` when it may begin elsewhere."""
        if part.number in self._moves:
            return self._moves[part.number]
        is_free = self._flexibility[part.number].can_move and part.extent.start % self._step == 0
        return None if is_free else part.extent.start

    def _laid(self, *, is_compact: bool) -> list[int]:
        """Where partitions begin: where they were, as far as those before them leave room; compact, without gaps."""
        starts, end, before = list[int](), self._room.start, 0
        for part in self._parts:
            gap, fixed = self._gaps[part.number], self._fixed_start(part)
            start = part.extent.start if fixed is None else fixed
            if fixed is None:
                free = align_up(end + gap, ALIGNMENT)
                start = min(start, free) if is_compact else start
                start = free if start < end + gap else start
            if start < end + gap:
                raise TargetError(
                    f"partition {part.number} is to begin at byte {start}, and "
                    + (f"partition {before} before it ends at byte {end}" if before else f"nothing may before {end}"),
                    hint=_MOVES,
                )
            starts.append(start)
            end, before = start + self._sizes[part.number], part.number
        return starts

    def _end(self, starts: Sequence[int]) -> int:
        return starts[-1] + self._sizes[self._parts[-1].number] if starts else self._room.start

    def _slack(self, part: Partition) -> int:
        """Bytes by which a partition may still shrink, in whole steps of the alignment."""
        if part.number in self._wishes:
            return 0
        return max(0, self._sizes[part.number] - align_up(self._flexibility[part.number].smallest, ALIGNMENT))

    def _shrink(self, excess: int) -> None:
        """Make partitions smaller until they fit."""
        last = self._parts[-1]
        if self._slack(last) >= excess:
            self._sizes[last.number] = align_down(self._sizes[last.number] - excess, ALIGNMENT)
            return
        excess = self._end(self._laid(is_compact=True)) - self._room.end
        slacks = {part.number: self._slack(part) for part in self._parts}
        free = sum(slacks.values())
        if excess > free:
            raise TargetError(
                f"the partitions need {format_size(excess - free)} more than there is: {self._reasons()}",
                hint="Choose a larger disk, leave one out ('--leave-out N'), or take single partitions "
                "('--partition N' of an image).",
            )
        for number, slack in sorted(slacks.items(), key=lambda one: one[1]):
            if excess <= 0 or not slack:
                continue
            share = min(slack, align_up(-(-excess * slack // free), ALIGNMENT))
            self._sizes[number] = self._sizes[number] - share
            excess, free = excess - share, free - slack
        # Starts are aligned, so that shares which are not may leave a rest: what has room gives one step more.
        for part in reversed(self._parts):
            while self._end(self._laid(is_compact=True)) > self._room.end and self._slack(part) >= ALIGNMENT:
                self._sizes[part.number] -= ALIGNMENT
        if (rest := self._end(self._laid(is_compact=True)) - self._room.end) > 0:
            raise TargetError(
                f"the partitions need {format_size(rest)} more than there is: {self._reasons()}",
                hint="Choose a larger disk.",
            )

    def _reasons(self) -> str:
        """The least that each partition needs."""
        words = []
        for part in sorted(self._parts, key=lambda part: part.number):
            may = self._flexibility[part.number]
            least = self._sizes[part.number] - self._slack(part)
            words.append(f"partition {part.number} {format_size(least)}{f' ({may.reason})' if may.reason else ''}")
        return ", ".join(words)

    def _grow(self) -> list[int]:
        """Where partitions begin when one of them takes the room that is left."""
        starts = self._laid(is_compact=False)
        chosen = self._chosen()
        if chosen is None:
            return starts
        index, limit = self._limit(chosen)
        gain = align_down(limit - starts[index] - self._sizes[self._parts[index].number], ALIGNMENT)
        before = self._sizes[chosen.number]
        while gain >= ALIGNMENT:  # those behind it begin on aligned places, which may take a little more
            self._sizes[chosen.number] = before + gain
            with contextlib.suppress(TargetError):  # it ran into one that must begin where it does
                grown = self._laid(is_compact=False)
                if self._end(grown) <= self._room.end:
                    return grown
            gain -= ALIGNMENT
        self._sizes[chosen.number] = before
        return starts

    def _limit(self, chosen: Partition) -> tuple[int, int]:
        """The last partition that moves when one grows, by its index, and where it must end at the latest."""
        index = self._parts.index(chosen)
        for following, part in enumerate(self._parts[index + 1 :], index + 1):
            fixed = self._fixed_start(part)
            if fixed is not None:
                return following - 1, fixed - self._gaps[part.number]
        return len(self._parts) - 1, self._room.end

    def _chosen(self) -> Partition | None:
        """The partition that takes what is left: the named one, else the largest that can, if those behind it move."""
        named = [number for number, wish in self._wishes.items() if wish == "max"]
        if len(named) > 1:
            raise UsageError(
                f"only one partition can be as large as there is room, not {' and '.join(map(str, sorted(named)))}",
                hint=_WISHES,
            )
        if named and not self._flexibility[named[0]].can_grow:
            raise UsageError(f"partition {named[0]} cannot be made larger: {_STAYS}", hint=_WISHES)
        able = [
            part
            for part in self._parts
            if self._flexibility[part.number].can_grow
            and (
                part.number in named
                if named
                else part.number not in self._wishes and self._limit(part)[0] == len(self._parts) - 1
            )
        ]
        return max(able, key=lambda part: (part.extent.size, part.extent.start), default=None)


def _refuse_among_logical(parts: Sequence[Partition]) -> None:
    """Refuse an order on the disk in which a primary partition would lie between logical ones."""
    places = [index for index, part in enumerate(parts) if part.logical]
    among = [part.number for part in parts[places[0] : places[-1]] if not part.logical] if places else []
    if among:
        raise TargetError(
            f"partition {among[0]} would lie among logical partitions, whose extended partition is in one piece",
            hint=_MOVES,
        )
