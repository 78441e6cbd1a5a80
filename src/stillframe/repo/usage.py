"""How much of each pack is in use, and how much storage images take.

Answers: "which packs does nothing need?" and "how many bytes would go if the oldest images went?" Counts whole arrays
of index rows; reads block maps, never chunks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from stillframe.repo.id_sets import IdSet
from stillframe.repo.index import ChunkIndex
from stillframe.repo.reading import ChunkReader
from stillframe.repo.records import Manifest
from stillframe.repo.rows import Ids
from stillframe.repo.walk import iter_new_references


@dataclass(frozen=True, slots=True)
class PackUse:
    """Stored bytes of a pack's entries: those that images refer to, and all."""

    live: int
    total: int

    @property
    def is_dead(self) -> bool:
        """Whether no image refers to any of it."""
        return self.live == 0

    @property
    def is_mostly_dead(self) -> bool:
        """Whether less than half of it is referred to, but something is."""
        return 0 < self.live * 2 < self.total


@dataclass(frozen=True, slots=True)
class IndexUse:
    """The use of every pack that the index names, and whether all that is needed rests in one of them."""

    packs: dict[bytes, PackUse]
    is_complete: bool


def index_use(index: ChunkIndex, needed: IdSet) -> IndexUse:
    """What is needed of an index. A chunk that rests in several packs counts in each.

    Every stored entry has more bytes than none, so a pack whose ``live`` is 0 holds nothing that is needed. Each row is
    looked up among what is needed: the other way round every id would be sought in every run.
    """
    uses: dict[bytes, PackUse] = {}
    seen = np.zeros(len(needed), np.bool_)
    for table in index.tables():
        sealed, packs = table.rows["sealed"].astype(np.float64), table.rows["pack"]
        places = needed.places(table.rows["id"])
        is_needed = places >= 0
        seen[places[is_needed]] = True
        live = np.bincount(packs, np.where(is_needed, sealed, 0), len(table.packs))
        total = np.bincount(packs, sealed, len(table.packs))
        for pack, used, whole in zip(table.packs, live.tolist(), total.tolist(), strict=True):
            other = uses.get(pack, PackUse(0, 0))
            uses[pack] = PackUse(max(other.live, int(used)), max(other.total, int(whole)))
    return IndexUse(uses, bool(seen.all()))


def image_sizes(reader: ChunkReader) -> Callable[[Sequence[Manifest]], list[int]]:
    """A function that tells the stored bytes of the first image, of the first two together, and so on.

    It raises ``DamagedError`` where a block map cannot be read.
    """

    def sizes(manifests: Sequence[Manifest]) -> list[int]:
        parts: list[Ids] = list(iter_new_references(reader, manifests))
        known = IdSet.of(np.concatenate(parts)) if parts else IdSet.of(np.empty((0, 4), np.uint64))
        first = np.full(len(known), len(parts), np.int64)
        for number, ids in reversed(list(enumerate(parts))):
            first[known.places(ids)] = number
        grown = np.zeros(len(parts) + 1, np.float64)
        for table in reader.index.tables():
            rows = table.rows[known.contains(table.rows["id"])]
            grown += np.bincount(first[known.places(rows["id"])], rows["sealed"].astype(np.float64), len(parts) + 1)
        return [int(total) for total in np.cumsum(grown)[: len(parts)].tolist()]

    return sizes
