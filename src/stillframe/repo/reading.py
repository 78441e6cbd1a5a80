"""Reading chunks by id: index and packs together, with another copy tried where one is damaged.

Answers: "give me the chunk with this id." Safe for several threads.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

from stillframe.errors import DamagedError, RepositoryError, StorageError
from stillframe.repo.format import CHECK_HINT
from stillframe.repo.index import ChunkIndex
from stillframe.repo.packs import Fetch, PackReader, plan_fetches
from stillframe.repo.rows import Ids, Location, ids_array
from stillframe.store import ObjectMissing

_NODES_CACHED: Final = 256


class Chunks(Protocol):
    """Chunks and nodes by id: what block maps are read through. Safe for several threads.

    What a chunk's place means is known to who gave it: it is only handed back. ``DamagedError`` stands for bytes that
    are not what was stored; a source that is read itself raises its own errors.
    """

    def plan(self, chunk_ids: Sequence[bytes]) -> tuple[list[Fetch], list[bytes]]:
        """Reads that bring these chunks, each once, and the ids that nobody knows."""
        ...

    def locate(self, ids: Ids) -> list[Location | None]:
        """Where each of these rests; ``None`` for one that nobody knows."""
        ...

    def fetch(self, fetch: Fetch) -> Iterator[tuple[Location, bytes | DamagedError]]:
        """The chunks of one read; an error stands in place of what is damaged."""
        ...

    def read(self, chunk_id: bytes) -> bytes:
        """One chunk or node. Raises ``DamagedError``."""
        ...

    def read_node(self, node_id: bytes) -> bytes:
        """A node of a block map. Raises ``DamagedError``."""
        ...


class Origin(Protocol):
    """Where the chunks of an image are had: a repository, or a disk that stands for an image of itself."""

    def reader(self) -> Chunks:
        """Its chunks."""
        ...


class ChunkReader:
    """Chunks and nodes of a repository, by id.

    Args:
        index: Where chunks rest.
        packs: Reads them.
        load_index: Loads the index anew when a pack is gone: an ``expire`` beside may have copied what is needed of it.
    """

    def __init__(
        self, index: ChunkIndex, packs: PackReader, *, load_index: Callable[[], ChunkIndex] | None = None
    ) -> None:
        self.index = index
        self.packs = packs
        self._load_index = load_index
        self._gone: set[bytes] = set()
        self._newer: ChunkIndex | None = None
        self._nodes: OrderedDict[bytes, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def plan(self, chunk_ids: Sequence[bytes]) -> tuple[list[Fetch], list[bytes]]:
        """Reads that bring these chunks, each once, and the ids that no run knows."""
        unique = list(dict.fromkeys(chunk_ids))
        if not unique:
            return [], []
        places = self.locate(ids_array(b"".join(unique)))
        missing = [chunk_id for chunk_id, place in zip(unique, places, strict=True) if place is None]
        return list(plan_fetches([place for place in places if place is not None])), missing

    def locate(self, ids: Ids) -> list[Location | None]:
        """Where one copy of each of these rests; ``None`` for one that no run knows."""
        return self.index.locate(ids)

    def fetch(self, fetch: Fetch) -> Iterator[tuple[Location, bytes | DamagedError]]:
        """The chunks of one read. What is damaged is tried from another copy; else its error stands in its place."""
        for place, data in self._fetch_here(fetch):
            yield place, self._other_copy(place, data) if isinstance(data, DamagedError) else data

    def read(self, chunk_id: bytes) -> bytes:
        """One chunk or node.

        Raises:
            DamagedError: No run knows it, or no copy of it is what was written.
        """
        failure = missing_chunk(chunk_id)
        for place in self.index.copies(chunk_id)[:1]:
            for _, data in self.fetch(Fetch(place.pack_id, (place,))):
                if not isinstance(data, DamagedError):
                    return data
                failure = data
        raise failure

    def read_node(self, node_id: bytes) -> bytes:
        """A node of a block map, kept for the next who asks."""
        with self._lock:
            if node_id in self._nodes:
                self._nodes.move_to_end(node_id)
                return self._nodes[node_id]
        data = self.read(node_id)
        with self._lock:
            self._nodes[node_id] = data
            if len(self._nodes) > _NODES_CACHED:
                self._nodes.popitem(last=False)
        return data

    def _fetch_here(self, fetch: Fetch) -> Iterator[tuple[Location, bytes | DamagedError]]:
        """As ``fetch``, from this pack only. Where a read fails, each entry is read alone: most may be whole."""
        done = 0
        try:
            for found in self.packs.fetch(fetch):
                done += 1
                yield found
        except (StorageError, RepositoryError) as error:
            rest = fetch.locations[done:]
            if len(fetch.locations) == 1 or isinstance(error, ObjectMissing):
                yield from ((place, damage(place, error)) for place in rest)
            else:
                for place in rest:
                    yield from self._fetch_here(Fetch(fetch.pack_id, (place,)))

    def _other_copy(self, place: Location, error: DamagedError) -> bytes | DamagedError:
        found = self._copy_in(self.index, place)
        if found is None and isinstance(error.__cause__, ObjectMissing):
            newer = self._index_without(place.pack_id)
            found = self._copy_in(newer, place) if newer is not None else None
        return error if found is None else found

    def _index_without(self, pack_id: bytes) -> ChunkIndex | None:
        """An index that was loaded after a pack was found missing."""
        with self._lock:
            if pack_id not in self._gone and self._load_index is not None:
                self._newer = self._load_index()
                self._gone.add(pack_id)
            return self._newer

    def _copy_in(self, index: ChunkIndex, place: Location) -> bytes | None:
        for other in index.copies(place.chunk_id):
            if (other.pack_id, other.offset) != (place.pack_id, place.offset):
                try:
                    for _, data in self.packs.fetch(Fetch(other.pack_id, (other,))):
                        if not isinstance(data, DamagedError):
                            return data
                except (StorageError, RepositoryError):
                    continue
        return None


def missing_chunk(chunk_id: bytes) -> DamagedError:
    """The error for a chunk that no index run names."""
    return DamagedError(f"chunk {chunk_id.hex()[:16]} is in no index run: its pack is lost", hint=CHECK_HINT)


def damage(place: Location, error: Exception) -> DamagedError:
    """The error for a chunk whose pack cannot be read."""
    words = f"chunk {place.chunk_id.hex()[:16]} in pack {place.pack_id.hex()} cannot be read: {error}"
    damaged = DamagedError(words, hint=CHECK_HINT)
    damaged.__cause__ = error
    return damaged
