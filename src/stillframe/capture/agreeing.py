"""Reading what may change until two passes in a row show the same.

Answers: "how is a small volume copied that can be neither shadowed nor locked?", such as the boot files partition of a
running Windows. When a pass equals the one before it, no byte changed between its two readings, and all those times
have one moment in common: the end of the earlier pass. So the copy shows that moment, unless a byte changed and changed
back. What a system still holds in memory is not on the disk and not in the copy: pause between the passes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from stillframe.block import BlockReader, OverlayReader
from stillframe.errors import SourceInUse
from stillframe.extents import Extent, ExtentSet
from stillframe.units import GIB, MIB, format_size

PIECE_SIZE: Final = MIB
SIZE_MAX: Final = GIB
PASSES_MAX: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreed:
    """A copy in memory. ``reader`` shows it, and what was not asked for as it is now; ``passes`` were needed."""

    reader: BlockReader
    passes: int


def read_until_agreed(
    reader: BlockReader,
    extents: Iterable[Extent],
    *,
    pause: Callable[[], None],
    passes_max: int = PASSES_MAX,
    size_max: int = SIZE_MAX,
) -> Agreed:
    """Read ranges again and again until nothing differs from the pass before.

    Args:
        reader: The volume, read past any cache.
        extents: Which bytes matter; widened to pieces of 1 MiB.
        pause: Called between two passes: time for the system to write what it holds back.
        passes_max: At least 2.
        size_max: Largest copy, in bytes of memory.

    Raises:
        SourceInUse: It changed in every pass, or it is too large to be copied like this.
        ReadFault: It could not be read.
    """
    whole = Extent(0, reader.size)
    wanted = ExtentSet.from_extents(extents).rounded_out(PIECE_SIZE)
    pieces = [Extent(start, start + PIECE_SIZE) for run in wanted for start in range(run.start, run.end, PIECE_SIZE)]
    size = wanted.clipped(whole).size
    if size > size_max:
        raise SourceInUse(
            f"{format_size(size)} that may change cannot be read twice in memory; the limit is {format_size(size_max)}",
            hint="Save this volume from the Linux rescue system.",
        )
    copy: dict[int, bytes] = {}
    changed = 0
    for number in range(1, passes_max + 1):
        if number > 1:
            pause()
        changed = sum(_read_again(reader, piece, copy) for piece in pieces)
        if number > 1 and changed == 0:
            return Agreed(reader=OverlayReader(reader, block_size=PIECE_SIZE, blocks=copy), passes=number)
    raise SourceInUse(
        f"the volume changed in each of {passes_max} passes; in the last one {changed} pieces of 1 MiB",
        hint="Let what writes to it end (an update of Windows?), then run it again.",
    )


def _read_again(reader: BlockReader, piece: Extent, copy: dict[int, bytes]) -> bool:
    """Read one piece into the copy; whether it differs from what was there."""
    there = Extent(piece.start, min(piece.end, reader.size))
    read = reader.read_at(there.start, there.size).ljust(piece.size, b"\0")
    number = piece.start // PIECE_SIZE
    differs = copy.get(number) != read
    copy[number] = read
    return differs
