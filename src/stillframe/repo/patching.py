"""Which chunk a new chunk may be stored as a patch of: what lay at the same place in an earlier image.

Answers: "what was here before, whole?" It only ever saves room: whatever is in its way, the chunk is stored whole. A
base must rest where this run may rely on it: the index of the run says so, as for every chunk.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from stillframe.errors import DamagedError, StillframeError
from stillframe.repo.blockmap import MapRoot, chunk_count
from stillframe.repo.index import ChunkIndex
from stillframe.repo.map_leaves import MapLeaves
from stillframe.repo.packs import plan_fetches
from stillframe.repo.patches import BASE_SIZE_MIN, Base
from stillframe.repo.reading import ChunkReader
from stillframe.repo.rows import EntryKind, ids_array

Name = Callable[[bytes], bytes]
"""Gives the id of a chunk."""
RangePlace = tuple[str, int | None]
"""A range that has a block map: the path of its disk, and the number of the partition; ``None`` for what is outside."""


class Patching:
    """Finds bases. Safe for several threads; keeps no chunks.

    Args:
        reader: Of the run's index, from packs as they lie there: what needs its parity is no base.
        name: Names chunks: a base whose bytes are not those that it is named for is none.
        maps: The block maps of an earlier image.
        chunk_size: Bytes of a chunk.
        bad: Ids of chunks that a proof found bad.
    """

    def __init__(
        self, reader: ChunkReader, name: Name, maps: Mapping[RangePlace, MapRoot], *, chunk_size: int, bad: set[bytes]
    ) -> None:
        self._reader = reader
        self._name = name
        self._counts = {place: chunk_count(root.size, chunk_size) for place, root in maps.items()}
        self._maps = {place: MapLeaves(root, reader, chunk_size=chunk_size) for place, root in maps.items()}
        self._bad: Final = bad
        self._stays_whole: Final = lost_bases(reader.index, bad)

    def bases(self, place: RangePlace, chunks: Mapping[int, bytes]) -> dict[int, Base]:
        """What chunks of a range may be patches of.

        Args:
            place: The range.
            chunks: The ids of new chunks by their numbers in it.

        Returns:
            Bases by those numbers; a chunk that must be stored whole has none.
        """
        if place not in self._maps:
            return {}
        wanted = {number: chunk_id for number, chunk_id in chunks.items() if chunk_id not in self._stays_whole}
        try:
            before = self._before(place, sorted(wanted))
            found = self._read({base for number, base in before.items() if base != wanted[number]})
        except StillframeError:  # nothing of an earlier image is worth a backup that fails
            return {}
        return {number: found[base] for number, base in before.items() if base in found and base != wanted[number]}

    def _before(self, place: RangePlace, numbers: Sequence[int]) -> dict[int, bytes]:
        """The whole chunks at these places, or those that the patches there are made against."""
        leaves, count = self._maps[place], self._counts[place]
        ids = {number: leaves.chunk_id(number) for number in numbers if number < count}
        known = {number: chunk_id for number, chunk_id in ids.items() if chunk_id}
        if not known:
            return {}
        found = self._reader.locate(ids_array(b"".join(known.values())))
        return {
            number: one.base if one.kind is EntryKind.PATCH else one.chunk_id
            for number, one in zip(known, found, strict=True)
            if one is not None
        }

    def _read(self, base_ids: set[bytes]) -> dict[bytes, Base]:
        """Those of these chunks that this run may rely on, whole, and that open and are what they are named for."""
        asked = b"".join(sorted(base_ids - self._bad))
        if not asked:
            return {}
        places = self._reader.index.locate(ids_array(asked), whole=True)
        found = {}
        for fetch in plan_fetches([one for one in places if one is not None and one.plain_size >= BASE_SIZE_MIN]):
            for one, data in self._reader.packs.fetch(fetch):
                if not isinstance(data, DamagedError) and self._name(data) == one.chunk_id:
                    found[one.chunk_id] = Base(one.chunk_id, data, one.sealed_size)
        return found


def lost_bases(index: ChunkIndex, bad: set[bytes]) -> frozenset[bytes]:
    """Bases that can be had no more: such a chunk is stored whole when it comes again, and brings its patches back."""
    lost = set(bad)
    for table in index.tables():
        if len(table.bases):
            lost.update(one.tobytes() for one in table.bases[~index.contains(table.bases, whole=True)])
    return frozenset(lost)
