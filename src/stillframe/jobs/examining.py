"""Reading chunks back from storage and checking them, in several threads.

Answers: "are these stored bytes still what was written?" Every entry is opened (its tag proves the bytes), expanded and
named again (its id proves that the right bytes were written).
"""

import threading
from collections.abc import Iterable
from typing import Final

from stillframe.errors import DamagedError, StorageError
from stillframe.events import BytesMoved, EventSink, Notice
from stillframe.jobs.pipeline import CancelToken, Workers
from stillframe.repo.format import ObjectType
from stillframe.repo.packs import Fetch
from stillframe.repo.proofs import write_proof
from stillframe.repo.reading import ChunkReader
from stillframe.repo.records import ProofRecord
from stillframe.repo.repository import Repository
from stillframe.repo.rows import Location
from stillframe.repo.writing import ChunkNamer

PAST_CACHE: Final = "read back from the medium: the system was asked to drop its cache of every pack first"
MAYBE_CACHED: Final = "read back through the system's cache, which could not be dropped here"


class Examination:
    """What was examined, and what of it is bad. For several threads."""

    def __init__(self, reader: ChunkReader, namer: ChunkNamer, events: EventSink) -> None:
        self._reader = reader
        self._namer = namer
        self._events = events
        self._lock = threading.Lock()
        self._asked: set[bytes] = set()
        self._past_cache = True
        self.bad: dict[bytes, str] = {}
        self.bytes_examined = 0

    @property
    def how(self) -> str:
        """Which way the bytes came, in words."""
        return PAST_CACHE if self._past_cache else MAYBE_CACHED

    def examine(self, fetches: Iterable[Fetch], cancel: CancelToken) -> None:
        """Read and check everything these fetches name."""
        with Workers(lambda: _Examiner(self), cancel=cancel) as workers:
            for fetch in fetches:
                for pack_id in (fetch.pack_id, *self._reader.packs_of_bases(fetch)):
                    self._drop_cache(pack_id)
                workers.put(fetch)

    def note_bad(self, chunk_id: bytes, reason: str) -> None:
        """A chunk that cannot be had."""
        with self._lock:
            self.bad[chunk_id] = reason

    def check(self, fetch: Fetch) -> None:
        """Read and check one fetch."""
        size = 0
        for place, data in self._reader.fetch(fetch):
            size += place.plain_size
            if isinstance(data, DamagedError):
                self.note_bad(place.chunk_id, data.message)
                self._check_base(place)
            elif self._namer.name(data) != place.chunk_id:
                self.note_bad(place.chunk_id, _wrong_name(place))
        with self._lock:
            self.bytes_examined += size
        self._events.emit(BytesMoved(size=size))

    def _check_base(self, place: Location) -> None:
        """A base that cannot be had is bad itself: stored whole again, it brings all its patches back."""
        for base_id, data in self._reader.read_bases([place.base]) if place.base else ():
            if isinstance(data, DamagedError):
                self.note_bad(base_id, data.message)

    def _drop_cache(self, pack_id: bytes) -> None:
        if pack_id not in self._asked:
            self._asked.add(pack_id)
            try:
                self._past_cache &= self._reader.packs.forget_cached(pack_id)
            except DamagedError:
                self._past_cache = False


def keep_proof(repository: Repository, proof: ProofRecord, events: EventSink) -> None:
    """Keep a verdict where that is possible: storage that is full or write-protected does not change what was found."""
    try:
        write_proof(repository, proof)
    except StorageError as error:
        events.emit(
            Notice(code="proof-not-kept", message=f"the verdict could not be kept: {error.message}", hint=error.hint)
        )


def healed_packs(repository: Repository) -> tuple[str, ...]:
    """Packs that could be read here only with the help of parity, so far: a proof names them, ``repair`` mends them."""
    uses = repository.box.healer.uses.all()
    return tuple(sorted(use.object_id.hex() for use in uses if use.kind is ObjectType.PACK))


class _Examiner:
    """One thread's work: a ``pipeline.Worker``."""

    def __init__(self, examination: Examination) -> None:
        self._examination = examination

    def work(self, item: Fetch) -> None:
        self._examination.check(item)

    def finish(self) -> None:
        """Nothing is left to do."""

    def abandon(self) -> None:
        """Nothing is held."""


def _wrong_name(place: Location) -> str:
    return (
        f"chunk {place.chunk_id.hex()[:16]} in pack {place.pack_id.hex()} opens, but its contents are not those "
        "it is named for: it was damaged in memory before it was stored"
    )
