"""Where the partitions of a disk go, and what was known when that was decided: a record.

Answers: "why does this partition lie there?" Decided in ``fitting`` and ``conversions.planning``, told by ``reasons``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from stillframe.disk import Flexibility, Layout, Placement
from stillframe.extents import Extent


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Where the partitions of a disk go, and what was known when it was decided.

    Attributes:
        placements: In order of their places.
        layout: Of the source, without what is left out.
        room: Where partitions may lie on the target.
        flexibility: How far each could be changed, by its number.
    """

    placements: tuple[Placement, ...]
    layout: Layout
    room: Extent
    flexibility: Mapping[int, Flexibility]
