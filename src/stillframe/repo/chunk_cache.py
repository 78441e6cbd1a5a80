"""Expanded chunks, kept while they may be asked for again; shared by all readers of an image.

Answers: "give me these chunks, and do not expand one twice." Several threads read at once: what one is bringing, the
others wait for, and nothing is read or expanded under the lock. Chunks that lie side by side in a pack are one read.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from stillframe.errors import DamagedError
from stillframe.hanging import STEP_S, check
from stillframe.repo.packs import plan_fetches
from stillframe.repo.reading import Chunks
from stillframe.repo.rows import Location

CACHE_SIZE: Final = 128 << 20
"""Bytes of expanded chunks that are kept."""
AHEAD_THREADS: Final = 2
"""Threads that expand what will most likely be asked for next."""
GROUP: Final = 8
"""Chunks that one thread brings at a time: enough for one read of a pack, few enough to share the work."""


class _Flight:
    """Chunks that a thread is bringing."""

    __slots__ = ("done", "found")

    def __init__(self) -> None:
        self.done: Final = threading.Event()
        self.found: dict[bytes, bytes | DamagedError] = {}


class ChunkCache:
    """Chunks by where they rest.

    Args:
        chunks: Reads them.
        size_max: Bytes that are kept; what is being read comes on top.
        threads: That read ahead; 0 for a reader that is used once, or only here and there.
    """

    def __init__(self, chunks: Chunks, *, size_max: int = CACHE_SIZE, threads: int = 0) -> None:
        self.chunks: Final = chunks
        self.threads: Final = threads
        self._size_max = size_max
        self._start_anew()

    def read(self, places: Sequence[Location]) -> list[bytes]:
        """Chunks in the order asked.

        Raises:
            DamagedError: One has no copy that is what was written.
        """
        if self._process != os.getpid():
            self._start_anew()
        if len(places) == 1:
            return [self._read_one(places[0])]
        groups = [places[start : start + GROUP] for start in range(0, len(places), GROUP)]
        self._begin(groups[1:])
        return [data for group in groups for data in self._read_group(group)]

    def ahead(self, places: Sequence[Location]) -> None:
        """Bring chunks that will most likely be asked for. Whoever asks meanwhile does not wait for a turn."""
        if self._process == os.getpid():
            self._begin([places[start : start + GROUP] for start in range(0, len(places), GROUP)])

    def _start_anew(self) -> None:
        """Empty. A process that was forked has none of the threads, and locks that nobody will open."""
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self._size = 0
        self._flights: dict[bytes, _Flight] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._waiting = 0

    def _begin(self, groups: Sequence[Sequence[Location]]) -> None:
        """Let other threads bring groups, as far as there is one that would soon begin."""
        for group in groups if self.threads else ():
            with self._lock:
                if self._waiting >= 2 * self.threads or all(place.chunk_id in self._kept for place in group):
                    continue
                self._waiting += 1
                self._pool = self._pool or ThreadPoolExecutor(self.threads, thread_name_prefix="chunks-ahead")
            self._pool.submit(self._bring_ahead, group)

    def _bring_ahead(self, group: Sequence[Location]) -> None:
        with self._lock:
            self._waiting -= 1
            mine, flight = self._claim(group)
        self._bring(mine, flight)

    def _read_one(self, place: Location) -> bytes:
        with self._lock:
            data = self._kept.get(place.chunk_id)
            if data is not None:
                self._kept.move_to_end(place.chunk_id)
                return data
        return self._read_group([place])[0]

    def _read_group(self, places: Sequence[Location]) -> list[bytes]:
        found: dict[bytes, bytes | DamagedError] = {}
        others: dict[bytes, _Flight] = {}
        with self._lock:
            for place in places:
                data = self._kept.get(place.chunk_id)
                if data is not None:
                    found[place.chunk_id] = data
                    self._kept.move_to_end(place.chunk_id)
                elif place.chunk_id in self._flights:
                    others[place.chunk_id] = self._flights[place.chunk_id]
            mine, flight = self._claim(places)
        self._bring(mine, flight)
        found.update(flight.found)
        for chunk_id, other in others.items():
            while not other.done.wait(STEP_S):  # whoever brings it may hang
                check()
            if chunk_id in other.found:
                found[chunk_id] = other.found[chunk_id]
        return [_whole(found.get(place.chunk_id), place, self.chunks) for place in places]

    def _claim(self, places: Iterable[Location]) -> tuple[list[Location], _Flight]:
        """Take what nobody has or brings; the lock is held."""
        flight = _Flight()
        mine: list[Location] = []
        for place in places:
            if place.chunk_id not in self._kept and place.chunk_id not in self._flights:
                self._flights[place.chunk_id] = flight
                mine.append(place)
        return mine, flight

    def _bring(self, mine: Sequence[Location], flight: _Flight) -> None:
        try:
            for fetch in plan_fetches(mine):
                for place, data in self.chunks.fetch(fetch):
                    flight.found[place.chunk_id] = data
        finally:
            with self._lock:
                for place in mine:
                    self._flights.pop(place.chunk_id, None)
                for chunk_id, data in flight.found.items():
                    if not isinstance(data, DamagedError):
                        self._keep(chunk_id, data)
            flight.done.set()

    def _keep(self, chunk_id: bytes, data: bytes) -> None:
        before = self._kept.pop(chunk_id, b"")
        self._kept[chunk_id] = data
        self._size += len(data) - len(before)
        while self._size > self._size_max and self._kept:
            self._size -= len(self._kept.popitem(last=False)[1])


def _whole(data: bytes | DamagedError | None, place: Location, chunks: Chunks) -> bytes:
    if isinstance(data, DamagedError):
        raise data
    return data if data is not None else chunks.read(place.chunk_id)  # whoever brought it was interrupted
