"""Writing an image: chunks into packs, packs into index runs, the manifest last.

Answers: "is this chunk stored already? then store it", for several threads, in the order that a crash at any moment
leaves whole (``docs/format/v1.md``, section 12).
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

import blake3
import numpy as np
from numpy.typing import NDArray

from stillframe.errors import DamagedError, Locked, RepositoryError, StorageError
from stillframe.repo.blockmap import MapRoot
from stillframe.repo.format import CHUNK_ID_SIZE, ObjectType
from stillframe.repo.index import make_run, merge_runs
from stillframe.repo.packs import PackReader, PackWriter, compressor, plan_fetches
from stillframe.repo.patches import Base, make_patch
from stillframe.repo.patching import Patching, RangePlace
from stillframe.repo.proofs import newest
from stillframe.repo.reading import ChunkReader
from stillframe.repo.records import Manifest, ProofRecord, build_record
from stillframe.repo.repository import Repository
from stillframe.repo.retirement import open_records
from stillframe.repo.rows import PACKS_MAX, ROWS_MAX, EntryKind, Table, build_table, ids_array
from stillframe.repo.sealing import chunk_id_key
from stillframe.repo.session import Session

_FLUSH_ROWS: Final = 200_000
"""Rows that wait in memory before they become an index run: about 40 MB of Python objects."""


class ChunkNamer:
    """Names chunks of one domain."""

    def __init__(self, repository: Repository, domain: bytes) -> None:
        box, put = repository.box, repository.put
        self._key: Final = (
            chunk_id_key(box.master_key, box.repository_id, domain) if put is None else put.chunk_key(domain)
        )

    def name(self, data: bytes | bytearray | memoryview) -> bytes:
        """The id of a chunk or node."""
        return blake3.blake3(data, key=self._key).digest()


class ImageWriter:
    """Takes chunks of one run from several threads.

    Args:
        session: Of this run, begun.
        domain: 16 bytes: whose chunks are shared (section 6).
        level: Zstandard level; ``None`` stores as is.
    """

    def __init__(self, session: Session, *, domain: bytes, level: int | None) -> None:
        self.session = session
        self._repository = session.repository
        self.namer: Final = ChunkNamer(self._repository, domain)
        self._level = level
        self._patching: Patching | None = None
        self._lock = threading.Lock()
        self._claimed: set[bytes] = set()
        self._tables: list[Table] = []
        self._bad: set[bytes] = set()
        self._used: set[bytes] = set()
        self.bytes_added = 0
        self.packs_written: list[bytes] = []
        self.index = self._repository.load_index()
        self._prepare()

    def known(self, chunk_ids: list[bytes]) -> NDArray[np.bool_]:
        """Which of these need not be stored: they rest in a good pack, or this run has taken them."""
        ids = ids_array(b"".join(chunk_ids))
        found = self.index.contains(ids)
        if self._bad:
            found &= np.array([chunk_id not in self._bad for chunk_id in chunk_ids], bool)
        places = self.index.locate(ids) if self._repository.put is not None else ()
        with self._lock:
            self._used.update(place.pack_id for place in places if place is not None)
            for number in np.flatnonzero(~found).tolist():
                found[number] = chunk_ids[number] in self._claimed
        return found

    def patch_against(self, maps: Mapping[RangePlace, MapRoot]) -> None:
        """From now on store what changed as patches of what an earlier image, of the same domain, has at its place.

        Nothing happens where that would cost more than it saves: nothing is compressed, or reading here and there is
        slow at the store; nor for a put-only machine, which reads no base. Call it before there are lanes.
        """
        repository = self._repository
        if self._level is not None and maps and repository.put is None and repository.box.store.is_near:
            reader = ChunkReader(self.index, repository.strict_packs)
            size = repository.identity.chunk_size
            self._patching = Patching(reader, self.namer.name, maps, chunk_size=size, bad=self._bad)

    def bases(self, place: RangePlace | None, chunks: Mapping[int, bytes]) -> dict[int, Base]:
        """What new chunks may be patches of, by their numbers in a range; see ``Patching``."""
        return self._patching.bases(place, chunks) if self._patching is not None and place is not None else {}

    def lane(self) -> "Lane":
        """A way in for one thread."""
        return Lane(self, self._level)

    def claim(self, chunk_id: bytes) -> bool:
        """Whether the caller is the one who stores this chunk."""
        with self._lock:
            if chunk_id in self._claimed:
                return False
            self._claimed.add(chunk_id)
            return True

    def take_table(self, table: Table, stored: int) -> None:
        """A pack is durable. When enough rows wait they become an index run."""
        if self._repository.put is not None:
            self._repository.put.note_pack(table)
        with self._lock:
            self._tables.append(table)
            self.bytes_added += stored
            self.packs_written += table.packs
            full = sum(len(waiting.rows) for waiting in self._tables) >= _FLUSH_ROWS
            ready = self._tables if full else []
            if full:
                self._tables = []
        self._write_run(ready)

    def flush(self) -> None:
        """Make every finished pack known by an index run. Lanes must be closed."""
        with self._lock:
            ready, self._tables = self._tables, []
        self._write_run(ready)

    def commit(self, manifest: Manifest, relied_on: Callable[[], Iterable[bytes]]) -> None:
        """Write the manifest: the image exists from here on.

        Args:
            manifest: The whole of it.
            relied_on: Gives every chunk id the image refers to; called only when a deletion was announced meanwhile.

        Raises:
            DamagedError: Something the image relies on has vanished meanwhile.
        """
        self.flush()
        self.session.require_fresh()  # else what is missing would be called damage
        self._rescue(relied_on)
        self.session.require_fresh()
        self._repository.box.write(ObjectType.IMAGE, bytes.fromhex(manifest.image), build_record(manifest))
        self.session.confirm(manifest.image)

    def _prepare(self) -> None:
        """Adopt packs that a killed run left, and exclude what is dead, announced dead, or failed a proof."""
        dead = self._tombstoned()  # before the packs: a tombstone goes after its packs
        there = self._repository.stored_packs()
        left = there.keys() - self.index.packs() - dead if self._repository.put is None else ()
        for pack_id in sorted(left):
            try:
                packs = self._repository.strict_packs  # what parity brings back is for 'repair' to write anew
                table = whole_entries(packs, packs.read_table(pack_id))
            except (RepositoryError, StorageError):
                continue
            if len(table.rows):
                self._tables.append(table)
        self.flush()
        self._excluded = dead | (self.index.packs() - there.keys())
        self.index.exclude_packs(self._excluded)
        self._bad = failed_chunks(self._repository)

    def _tombstoned(self) -> set[bytes]:
        return {bytes.fromhex(pack) for record in self._repository.tombstones() for pack in record.packs}

    def _rescue(self, relied_on: Callable[[], Iterable[bytes]]) -> None:
        """Copy what the image relies on out of packs that were announced dead, or have gone, since the run began."""
        tombstoned = self._tombstoned()
        gone = self.index.packs() - self._repository.stored_packs().keys()
        newly = (tombstoned | gone) - self._excluded
        repairing = any(record.verb == "repair" for record in open_records(self._repository))
        if repairing:
            raise Locked("'repair' began while this run was at work", hint="Run it again when repair has ended.")
        if newly and self._repository.put is not None:
            self._excluded |= newly
            if not newly.isdisjoint(self._used):
                raise StorageError(
                    "packs that this image relies on were announced dead or have gone while it was made, and a put key "
                    "cannot copy what is in them",
                    hint="Run it again: what this run stored is used again, and what is gone is stored anew.",
                )
            return
        if not newly:
            return
        before = ChunkReader(self._repository.load_index(), self._repository.packs)
        wanted = list(dict.fromkeys(relied_on()))  # it reads nodes, so while the index still knows these packs
        self._excluded |= newly
        self.index.exclude_packs(self._excluded)
        lost = [wanted[n] for n in np.flatnonzero(~self.index.contains(ids_array(b"".join(wanted)))).tolist()]
        lane = self.lane()
        places = [place for place in before.index.locate(ids_array(b"".join(lost))) if place is not None]
        for fetch in plan_fetches(places):
            for place, data in before.fetch(fetch):
                if isinstance(data, DamagedError):
                    raise data
                lane.add_again(place.chunk_id, data, _whole_kind(place.kind))
        lane.close()
        self.flush()
        if not self.index.contains(ids_array(b"".join(wanted))).all():
            raise DamagedError(
                "chunks this image relies on were deleted while it was made", hint="Run the backup again."
            )

    def _write_run(self, tables: list[Table]) -> None:
        for group in table_groups(tables):
            run_id, table = self._repository.box.make_id(), join_tables(group)
            write_run(self._repository, run_id, table)
            self.index.add(run_id, table, keep=self._repository.put is None)  # a put key keeps each pack by itself
            with self._lock:
                raw = table.rows["id"].tobytes()
                self._claimed.difference_update(
                    raw[at : at + CHUNK_ID_SIZE] for at in range(0, len(raw), CHUNK_ID_SIZE)
                )


class Lane:
    """One thread's way into the repository: a pack of its own."""

    def __init__(self, writer: ImageWriter, level: int | None) -> None:
        self._writer = writer
        self._level = level
        self._compress = compressor(level)
        self._pack: PackWriter | None = None

    def add(
        self, chunk_id: bytes, data: bytes | memoryview, kind: EntryKind = EntryKind.CHUNK, base: Base | None = None
    ) -> None:
        """Store a chunk unless another thread of this run has taken it; as a patch of ``base`` where that pays."""
        if self._writer.claim(chunk_id):
            self.add_again(chunk_id, data, kind, base)

    def add_again(self, chunk_id: bytes, data: bytes | memoryview, kind: EntryKind, base: Base | None = None) -> None:
        """Store a chunk whatever is known of it."""
        if self._pack is None:
            self._pack = PackWriter(self._writer.session.repository.box, self._compress)
        patch = make_patch(base, data, self._level) if base is not None and self._level is not None else None
        self._pack.add(chunk_id, data, kind, patch)
        if self._pack.is_full:
            self.close()

    def close(self) -> None:
        """Finish the pack that is open."""
        pack, self._pack = self._pack, None
        if pack is not None:
            try:
                table = pack.finish()
            except BaseException:
                pack.abandon()
                raise
            self._writer.take_table(table, pack.size)

    def abandon(self) -> None:
        """Give up what is not finished: after an error."""
        if self._pack is not None:
            self._pack.abandon()


def _whole_kind(kind: EntryKind) -> EntryKind:
    """What an entry is once its contents are stored whole."""
    return EntryKind.CHUNK if kind is EntryKind.PATCH else kind


def whole_entries(packs: PackReader, table: Table) -> Table:
    """The rows of a pack's table whose entries open: a power cut can leave a footer behind a hole.

    Raises:
        RepositoryError, StorageError: The pack cannot be read.
    """
    places = [table.location(row) for row in range(len(table.rows))]
    opened = (found for fetch in plan_fetches(places) for found in packs.fetch(fetch))
    whole = [place.offset for place, data in opened if not isinstance(data, DamagedError)]
    return table.take(np.isin(table.rows["offset"], whole))


def last_readings(repository: Repository) -> Iterator[ProofRecord]:
    """Of each image the newest proofs that its chunks were read."""
    by_image: dict[str, list[ProofRecord]] = {}
    for proof in repository.proofs():
        if proof.kind == "read-back":
            by_image.setdefault(proof.image, []).append(proof)
    for proofs in by_image.values():
        yield from newest(proofs)


def failed_chunks(repository: Repository) -> set[bytes]:
    """Chunks that a proof found bad and no later good proof of the same image has cleared."""
    return {bytes.fromhex(text) for proof in last_readings(repository) for text in proof.bad_chunks}


def join_tables(tables: list[Table]) -> Table:
    """One table, sorted by chunk id, of several."""
    return merge_runs(make_run((), table) for table in tables).table


def write_run(repository: Repository, run_id: bytes, table: Table) -> None:
    """Write one index run."""
    repository.box.write(ObjectType.INDEX, run_id, build_table(table))


def table_groups(tables: Iterable[Table]) -> Iterator[list[Table]]:
    """Tables in groups that each fit into one index run."""
    group: list[Table] = []
    rows = packs = 0
    for table in tables:
        if group and (rows + len(table.rows) > ROWS_MAX or packs + len(table.packs) > PACKS_MAX):
            yield group
            group, rows, packs = [], 0, 0
        group.append(table)
        rows += len(table.rows)
        packs += len(table.packs)
    if group:
        yield group
