"""Reading chunks by id: index and packs together, with another copy tried where one is damaged.

Answers: "give me the chunk with this id." Safe for several threads.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Protocol

from stillframe.errors import DamagedError, RepositoryError, StorageError
from stillframe.repo.format import CHECK_HINT
from stillframe.repo.index import ChunkIndex
from stillframe.repo.packs import Fetch, PackReader, plan_fetches
from stillframe.repo.patches import Expander
from stillframe.repo.rows import EntryKind, Ids, Location, ids_array
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
        self._expander = Expander(self.read_bases)

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
        """The chunks of one read, in any order. What is damaged is tried from another copy; else its error is there."""
        for place, data in self._expanded(self._fetch_here(fetch)):
            yield place, self._other_copy(place, data) if isinstance(data, DamagedError) else data

    def fetch_stored(self, fetch: Fetch) -> Iterator[tuple[Location, bytes | DamagedError]]:
        """As ``fetch``, each with the place of the copy that it came from, and of a patch its frame."""
        for place, data in self._fetch_here(fetch):
            if isinstance(data, DamagedError):
                others = (one for one in self.index.copies(place.chunk_id) if _is_other(one, place))
                found = next(self._opened(others, expand=False), None)
                yield found or (place, data)
            else:
                yield place, data

    def read_bases(self, base_ids: Sequence[bytes]) -> Iterator[tuple[bytes, bytes | DamagedError]]:
        """Whole chunks by their ids, each once; of one that cannot be had its error."""
        places = self.index.locate(ids_array(b"".join(base_ids)), whole=True)
        for fetch in plan_fetches([place for place in places if place is not None]):
            for place, data in self._fetch_here(fetch):
                found = self._other_copy(place, data, whole=True) if isinstance(data, DamagedError) else data
                yield place.chunk_id, found
        for base_id, known in zip(base_ids, places, strict=True):
            if known is None:
                yield base_id, self._excluded_base(base_id)

    def packs_of_bases(self, fetch: Fetch) -> set[bytes]:
        """The packs in which the bases of a read's patches rest."""
        base_ids = b"".join(place.base for place in fetch.locations)
        found = self.index.locate(ids_array(base_ids), whole=True) if base_ids else ()
        return {place.pack_id for place in found if place is not None}

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

    def _expanded(
        self, found: Iterator[tuple[Location, bytes | DamagedError]]
    ) -> Iterator[tuple[Location, bytes | DamagedError]]:
        """The same with chunks in the place of patches; these come last."""
        patches: list[tuple[Location, bytes]] = []
        for place, data in found:
            if place.kind is EntryKind.PATCH and not isinstance(data, DamagedError):
                patches.append((place, data))
            else:
                yield place, data
        if patches:
            yield from self._expander.expand(patches)

    def _other_copy(self, place: Location, error: DamagedError, *, whole: bool = False) -> bytes | DamagedError:
        found = self._copy_in(self.index, place, whole=whole)
        if found is None and isinstance(error.__cause__, ObjectMissing):
            newer = self._index_without(place.pack_id)
            found = self._copy_in(newer, place, whole=whole) if newer is not None else None
        return error if found is None else found

    def _excluded_base(self, base_id: bytes) -> bytes | DamagedError:
        """A base that rests whole in no pack that the index does not exclude."""
        copies = self.index.copies(base_id)
        whole = (place for place in copies if place.kind is not EntryKind.PATCH)
        found = next(self._opened(whole, expand=False), None)
        if found is not None:
            return found[1]
        if copies and copies[0].kind is EntryKind.PATCH:
            return DamagedError(f"chunk {base_id.hex()[:16]} rests as a patch itself", hint=CHECK_HINT)
        return missing_chunk(base_id)

    def _index_without(self, pack_id: bytes) -> ChunkIndex | None:
        """An index that was loaded after a pack was found missing."""
        with self._lock:
            if pack_id not in self._gone and self._load_index is not None:
                self._newer = self._load_index()
                self._gone.add(pack_id)
            return self._newer

    def _copy_in(self, index: ChunkIndex, place: Location, *, whole: bool) -> bytes | None:
        others = (
            other for other in index.copies(place.chunk_id)
            if _is_other(other, place) and not (whole and other.kind is EntryKind.PATCH)
        )  # fmt: skip
        found = next(self._opened(others, expand=not whole), None)
        return found[1] if found is not None else None

    def _opened(self, places: Iterable[Location], *, expand: bool) -> Iterator[tuple[Location, bytes]]:
        """Those of these copies that open."""
        for place in places:
            try:
                found = self.packs.fetch(Fetch(place.pack_id, (place,)))
                for _, data in self._expanded(found) if expand else found:
                    if not isinstance(data, DamagedError):
                        yield place, data
            except (StorageError, RepositoryError):
                continue


def _is_other(one: Location, place: Location) -> bool:
    return (one.pack_id, one.offset) != (place.pack_id, place.offset)


def missing_chunk(chunk_id: bytes) -> DamagedError:
    """The error for a chunk that no index run names."""
    return DamagedError(f"chunk {chunk_id.hex()[:16]} is in no index run: its pack is lost", hint=CHECK_HINT)


def damage(place: Location, error: Exception) -> DamagedError:
    """The error for a chunk whose pack cannot be read."""
    words = f"chunk {place.chunk_id.hex()[:16]} in pack {place.pack_id.hex()} cannot be read: {error}"
    damaged = DamagedError(words, hint=CHECK_HINT)
    damaged.__cause__ = error
    return damaged
