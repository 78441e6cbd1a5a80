"""Bytes that are to become others: what is there now, and what shall be there.

Answers: "which whole sectors must be written so that these bytes change, and no other?" An edit is as long as what it
replaces, so nothing is moved, and it carries what it replaces, so whoever applies it can see that nothing else did.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from stillframe.block.base import BlockReader
from stillframe.errors import DiskFormatError
from stillframe.extents import Extent, ExtentSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A change in place. ``old`` and ``new`` are of one length, and not empty."""

    offset: int
    old: bytes
    new: bytes

    def __post_init__(self) -> None:
        if len(self.old) != len(self.new) or not self.old or self.offset < 0:
            raise ValueError(f"edit at {self.offset}: {len(self.new)} bytes in the place of {len(self.old)}")

    @property
    def extent(self) -> Extent:
        """The bytes that it covers."""
        return Extent(self.offset, self.offset + len(self.old))

    def shifted(self, by: int) -> "Edit":
        """The same in something that begins ``by`` bytes earlier."""
        return Edit(offset=self.offset + by, old=self.old, new=self.new)


def order_edits(edits: Iterable[Edit], *, what: str) -> tuple[Edit, ...]:
    """Put edits in order of offset, each once.

    Raises:
        DiskFormatError: Two of them are for the same bytes: two things of ``what`` lie over each other.
    """
    ordered = sorted(set(edits), key=lambda edit: (edit.offset, len(edit.old)))
    for before, after in pairwise(ordered):
        if after.offset < before.extent.end:
            raise DiskFormatError(
                f"{what}: what lies at byte {before.offset} and at byte {after.offset} overlaps",
                hint="It is damaged. Have it checked by its own system.",
            )
    return tuple(ordered)


def find_mismatch(reader: BlockReader, edits: Iterable[Edit]) -> Edit | None:
    """The first edit that does not find what it is to replace.

    Raises:
        ReadFault: The device failed.
    """
    for edit in edits:
        is_inside = edit.extent.end <= reader.size
        if not is_inside or reader.read_at(edit.offset, len(edit.old)) != edit.old:
            return edit
    return None


def build_sectors(reader: BlockReader, edits: Iterable[Edit], *, sector_size: int) -> Iterator[tuple[int, bytes]]:
    """The whole sectors around some edits, as they must be written: offset and bytes, in order, none next to another.

    Args:
        reader: What the edits are for.
        edits: As ``order_edits`` gives them, inside of the whole sectors of the reader.
        sector_size: Bytes of a sector.
    """
    ordered = deque(edits)
    for extent in ExtentSet.from_extents(edit.extent for edit in ordered).rounded_out(sector_size):
        data = bytearray(reader.read_at(extent.start, extent.size))
        while ordered and ordered[0].offset < extent.end:
            edit = ordered.popleft()
            data[edit.offset - extent.start : edit.extent.end - extent.start] = edit.new
        yield extent.start, bytes(data)
