"""The chunks of a disk that is read itself: block maps that nobody stored, made when they are asked for.

Answers: "what is at this place of the source?", in the words in which an image answers it. An id names a place and not
contents: its four words are the range, the level in the map (0: a chunk), the number of the first chunk, and 0. A node
is made from what the file systems say is in use, each time anew: nothing is kept, however large the disk is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillframe.block.file import aligned_buffer
from stillframe.errors import DamagedError, DeviceError
from stillframe.extents import Extent
from stillframe.jobs.saving.chunking import KeptRange, Unit, fill, make_leaf, touched
from stillframe.repo.blockmap import FANOUT, UNUSED, Entry, Kind, MapRoot, Node, build_node, chunk_count, root_level
from stillframe.repo.packs import Fetch, plan_fetches
from stillframe.repo.rows import EntryKind, Ids, Location, ids_array

UNREADABLE_HINT: Final = (
    "Make an image with 'stillframe backup': it keeps what can be read and notes what cannot; then restore it."
)
_WORD: Final = "<u8"


@dataclass(frozen=True, slots=True)
class _Place:
    """What an id means: a node of a level below ``level``, or at 0 a chunk, and the first chunk of it."""

    number: int
    level: int
    first: int


class SourceChunks:
    """The ranges of one disk as chunks: a ``repo.reading.Chunks``. Safe for several threads.

    Args:
        ranges: Outside all partitions first, then each volume in order.
        chunk_size: Bytes of a chunk.
    """

    def __init__(self, ranges: Sequence[KeptRange], *, chunk_size: int) -> None:
        self._ranges = tuple(ranges)
        self._chunk_size = chunk_size

    def root(self, number: int) -> MapRoot:
        """The map of a range."""
        size = self._ranges[number].reader.size
        count = chunk_count(size, self._chunk_size)
        if not count:
            return MapRoot(size, UNUSED)
        return MapRoot(size, Entry(Kind.DATA, _ids(number, root_level(count) + 1, np.zeros(1, np.uint64))))

    def plan(self, chunk_ids: Sequence[bytes]) -> tuple[list[Fetch], list[bytes]]:
        """Reads that bring these chunks, each once, in order of their places. None is unknown."""
        unique = b"".join(dict.fromkeys(chunk_ids))
        return list(plan_fetches([place for place in self.locate(ids_array(unique)) if place is not None])), []

    def locate(self, ids: Ids) -> list[Location | None]:
        """Where each of these lies: the range takes the place of a pack."""
        return [self._location(number, first) for number, _, first, _ in ids.tolist()]

    def fetch(self, fetch: Fetch) -> Iterator[tuple[Location, bytes | DamagedError]]:
        """The chunks of one read. What is not kept of them is zeros.

        Raises:
            DeviceError: The source cannot be read there.
        """
        number, size = int.from_bytes(fetch.pack_id, "big"), self._chunk_size
        first, last = fetch.offset // size, fetch.locations[-1].offset // size + 1
        source = self._ranges[number]
        buffer = aligned_buffer((last - first) * size)  # zeros
        for unit in make_leaf(source, first, last - first, size)[1]:
            _fill(unit, buffer[(unit.first - first) * size : (unit.last - first) * size])
        for place in fetch.locations:
            at = place.offset - first * size
            yield place, bytes(buffer[at : at + place.plain_size])

    def read(self, chunk_id: bytes) -> bytes:
        """One chunk or node. Raises ``DeviceError``."""
        place = _place(chunk_id)
        if place.level:
            return self.read_node(chunk_id)
        (location,) = self.locate(ids_array(chunk_id))
        if location is None:
            raise ValueError("every place is known")
        ((_, data),) = self.fetch(Fetch(location.pack_id, (location,)))
        if isinstance(data, DamagedError):
            raise data
        return data

    def read_node(self, node_id: bytes) -> bytes:
        """A node of a map, made from what is in use there."""
        place = _place(node_id)
        source, level = self._ranges[place.number], place.level - 1
        step = FANOUT**level
        count = min(FANOUT, -(-(chunk_count(source.reader.size, self._chunk_size) - place.first) // step))
        kinds = self._leaf_kinds(source, place.first, count) if level == 0 else self._kinds(source, place, count)
        firsts = place.first + np.flatnonzero(kinds == Kind.DATA).astype(np.uint64) * np.uint64(step)
        return build_node(Node(level, kinds, _ids(place.number, level, firsts)))

    def _location(self, number: int, first: int) -> Location:
        offset = first * self._chunk_size
        size = min(self._chunk_size, self._ranges[number].reader.size - offset)
        return Location(
            chunk_id=_ids(number, 0, np.array([first], np.uint64)), pack_id=number.to_bytes(16, "big"), offset=offset,
            sealed_size=size, plain_size=size, kind=EntryKind.CHUNK, compressed=False,
        )  # fmt: skip

    def _leaf_kinds(self, source: KeptRange, first: int, count: int) -> NDArray[np.uint8]:
        """Of chunks: what must be read is data, whatever it holds."""
        leaf, units = make_leaf(source, first, count, self._chunk_size)
        for unit in units:
            here = leaf.kinds[unit.first - first : unit.last - first]
            here[touched(unit.to_read, unit.extent.start, self._chunk_size, len(here))] = Kind.DATA
        return leaf.kinds

    def _kinds(self, source: KeptRange, place: _Place, count: int) -> NDArray[np.uint8]:
        """Of nodes below: where nothing is kept or left out, nothing is made of them."""
        step = FANOUT ** (place.level - 1) * self._chunk_size
        start = place.first * self._chunk_size
        window = Extent(start, min(start + count * step, source.reader.size))
        known = source.kept.clipped(window) | source.excluded.clipped(window)
        return np.where(touched(known, start, step, count), Kind.DATA, Kind.UNUSED).astype(np.uint8)


def _fill(unit: Unit, buffer: memoryview) -> None:
    """Read what is kept of some chunks."""
    bad = fill(unit, buffer)
    if len(bad):
        start = unit.source.start + next(iter(bad)).start
        raise DeviceError(f"the source cannot be read at byte {start}", hint=UNREADABLE_HINT)


def _ids(number: int, level: int, firsts: NDArray[np.uint64]) -> bytes:
    """Joined ids of places of one range and level."""
    words = np.zeros((len(firsts), 4), _WORD)
    words[:, 0], words[:, 1], words[:, 2] = number, level, firsts
    return words.tobytes()


def _place(place_id: bytes) -> _Place:
    number, level, first, _ = (int(word) for word in np.frombuffer(place_id, _WORD))
    return _Place(number, level, first)
