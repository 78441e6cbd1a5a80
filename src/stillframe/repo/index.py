"""The index in use: sorted runs of rows, mapped from a local cache, asked in batches.

Answers: "is this chunk stored, and where?" Runs are immutable; small ones are merged locally so that few are asked.
What is resident is a few kilobytes per run; the rows are mapped pages that the system may drop (figures: ADR 0004).
The cache can be deleted at any time: it is rebuilt from the repository.
"""

import contextlib
import hashlib
import os
import struct
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import blake3
import numpy as np
from numpy.typing import NDArray

from stillframe.repo.format import CHUNK_ID_SIZE, ID_SIZE
from stillframe.repo.rows import (
    ROW,
    EntryKind,
    Ids,
    Location,
    Rows,
    Table,
    are_patches,
    ids_array,
    search_keys,
    sort_rows,
)

_MAGIC: Final = b"SFINDEX3"
_HEADER: Final = struct.Struct("<8sIIII")
_DIGEST_SIZE: Final = 32
_READ_SIZE: Final = 1 << 20
_RUNS_MAX: Final = 16
_MERGE_ROWS_MAX: Final = 1_000_000
_UNSORTED_MAX: Final = 4_096
_ROWS_DEAD: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class Run:
    """A table sorted by chunk id, its search keys, and the index objects it came from."""

    members: tuple[bytes, ...]
    keys: NDArray[np.uint64]
    table: Table

    @property
    def packs(self) -> tuple[bytes, ...]:
        """Its packs."""
        return self.table.packs

    @property
    def rows(self) -> Rows:
        """Its rows."""
        return self.table.rows


def make_run(members: tuple[bytes, ...], table: Table) -> Run:
    """A run in memory from a table in any order."""
    table = sort_rows(table)
    return Run(members, search_keys(table.rows["id"]), table)


def merge_runs(runs: Iterable[Run]) -> Run:
    """One run with the rows of several."""
    members: list[bytes] = []
    packs: list[bytes] = []
    parts, bases = [], []
    for run in runs:
        rows = run.rows.copy()
        rows["pack"] += len(packs)
        members += run.members
        packs += run.packs
        parts.append(rows)
        bases.append(run.table.bases)
    return make_run(tuple(members), Table.of(tuple(packs), np.concatenate(parts), np.concatenate(bases)))


class RunCache:
    """A folder of mapped runs of one repository. Never needed for correctness; a bad file is ignored."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def load(self) -> Iterator[Run]:
        """Every run that is there and whole."""
        with contextlib.suppress(OSError):
            for entry in sorted(os.scandir(self._folder), key=lambda found: found.name):
                run = _map_run(entry.path) if entry.name.endswith(".run") else None
                if run is not None:
                    yield run

    def save(self, run: Run) -> Run:
        """Write a run and return it mapped; where the folder cannot be written, as it was."""
        path = self._path(run)
        temporary = f"{path}.{os.getpid()}.tmp"
        table = run.table
        head = _HEADER.pack(_MAGIC, len(run.members), len(run.packs), len(run.rows), len(table.patches))
        names = b"".join(run.members) + b"".join(run.packs)
        arrays = [array.tobytes() for array in (run.keys, table.rows, table.bases, table.patches)]
        hasher = blake3.blake3(head).update(names)
        for array in arrays:
            hasher.update(array)
        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            with open(temporary, "wb") as out:
                out.writelines((head, hasher.digest(), names, *arrays))
                out.flush()
                os.fsync(out.fileno())
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            return run
        return _map_run(path) or run

    def drop(self, run: Run) -> None:
        """Forget a run."""
        with contextlib.suppress(OSError):
            os.unlink(self._path(run))

    def _path(self, run: Run) -> str:
        digest = hashlib.blake2b(b"".join(sorted(run.members)), digest_size=16).hexdigest()
        return os.path.join(self._folder, f"{digest}.run")


def _map_run(path: str) -> Run | None:
    """A cached run, mapped; ``None`` when the file is not, byte by byte, what was saved."""
    try:
        with open(path, "rb") as file:
            head, digest = file.read(_HEADER.size), file.read(_DIGEST_SIZE)
            magic, member_count, pack_count, row_count, patch_count = _HEADER.unpack(head)
            ids_size = (member_count + pack_count) * ID_SIZE
            keys_at = len(head) + len(digest) + ids_size
            rows_at = keys_at + row_count * 8
            bases_at = rows_at + row_count * ROW.itemsize
            patches_at = bases_at + patch_count * CHUNK_ID_SIZE
            if magic != _MAGIC or os.fstat(file.fileno()).st_size != patches_at + patch_count * 4:
                return None
            ids = file.read(ids_size)
            hasher = blake3.blake3(head).update(ids)
            while piece := file.read(_READ_SIZE):
                hasher.update(piece)
        if row_count == 0 or hasher.digest() != digest:
            return None
        names = tuple(ids[at : at + ID_SIZE] for at in range(0, len(ids), ID_SIZE))
        mapped = np.asarray(np.memmap(path, np.uint8, "r"))  # pieces of a plain array are taken in half the time
    except (OSError, struct.error, ValueError):
        return None
    table = Table(
        names[member_count:],
        mapped[rows_at:bases_at].view(ROW),
        mapped[bases_at:patches_at].view("<u8").reshape(-1, 4),
        mapped[patches_at:].view(np.uint32),
    )
    return Run(names[:member_count], mapped[keys_at:rows_at].view(np.uint64), table)


class ChunkIndex:
    """All runs of a repository. Safe for several threads: the list of runs is replaced, never changed."""

    def __init__(self, cache: RunCache | None = None) -> None:
        self._cache = cache
        self._state: _State = ()
        self._dead: frozenset[bytes] = frozenset()
        self._likely = 0
        self._lock = threading.Lock()

    def load(self, run_ids: Collection[bytes], read: Callable[[bytes], Table | None]) -> None:
        """Take the runs of the repository, from the cache where it has them, and merge small ones.

        Args:
            run_ids: Ids of the index objects that are there.
            read: Reads one of them; ``None`` when it is damaged (its rows are then unknown here).
        """
        wanted, have = set(run_ids), set[bytes]()
        runs: list[Run] = []
        for run in self._cache.load() if self._cache else ():
            if wanted.issuperset(run.members) and have.isdisjoint(run.members):
                runs.append(run)
                have.update(run.members)
            elif self._cache:
                self._cache.drop(run)
        for run_id in sorted(wanted - have):
            table = read(run_id)
            if table is not None and len(table.rows):
                runs.append(self._saved(make_run((run_id,), table)))
        self._set(tuple(self._merged(runs)))

    def add(self, run_id: bytes, table: Table, *, keep: bool = True) -> None:
        """Take one more run: just written, or (``keep`` false) known here only and not worth caching."""
        run = make_run((run_id,), table)
        if keep:
            run = self._saved(run)
        with self._lock:
            self._set((*self._runs(), run))

    def exclude_packs(self, packs: Collection[bytes]) -> None:
        """From now on treat what rests only in these packs as absent."""
        with self._lock:
            self._dead = frozenset(packs)
            self._set(self._runs())

    def packs(self) -> set[bytes]:
        """Every pack that some run names, excluded ones too."""
        return {pack for run in self._runs() for pack in run.packs}

    def tables(self) -> Iterator[Table]:
        """The rows of every run."""
        for run in self._runs():
            yield run.table

    def contains(self, ids: Ids, *, whole: bool = False) -> NDArray[np.bool_]:
        """Which chunks rest in a pack that is not excluded, whole or as a patch whose base rests so, whole.

        Args:
            ids: Of chunks.
            whole: A patch does not count.
        """
        lookup = self._lookup(self._state)
        return lookup.find_whole(ids)[0] >= 0 if whole else lookup.find(ids)[2]

    def locate(self, ids: Ids, *, whole: bool = False) -> list[Location | None]:
        """One place for each chunk, in a pack that is not excluded; ``None`` where there is none.

        Args:
            ids: Of chunks.
            whole: Never a patch. Without it a patch only where no whole copy is, if possible one whose base is there.
        """
        state = self._state
        lookup = self._lookup(state)
        numbers, found = lookup.find_whole(ids) if whole else lookup.find(ids)[:2]
        return [
            state[number][0].table.location(row) if number >= 0 else None
            for number, row in zip(numbers.tolist(), found.tolist(), strict=True)
        ]

    def locations_in(self, pack_id: bytes) -> list[Location]:
        """What the runs say of one pack, each entry once."""
        found: dict[int, Location] = {}
        for run in self._runs():
            if pack_id in run.packs:
                part = run.table.take(run.rows["pack"] == run.packs.index(pack_id))
                found.update((place.offset, place) for place in map(part.location, range(len(part.rows))))
        return [found[offset] for offset in sorted(found)]

    def copies(self, chunk_id: bytes) -> list[Location]:
        """Every place of one chunk, excluded packs too; patches last."""
        ids = ids_array(chunk_id)
        places = [run.table.location(row) for run in self._runs() for row in _rows_of(run, ids).tolist()]
        return sorted(places, key=lambda place: place.kind is EntryKind.PATCH)

    def _lookup(self, state: "_State") -> "_Lookup":
        """A look-up in which the run that answered last is asked first: what lies together was stored together."""
        return _Lookup(state, first=self._likely, note=self._note)

    def _note(self, numbers: NDArray[np.int64]) -> None:
        """Remember who answered. One id alone says nothing of the next: nodes are asked for between chunks."""
        answered = numbers[numbers >= 0]
        if len(answered) > 1:
            self._likely = int(answered[-1])

    def _set(self, runs: tuple[Run, ...]) -> None:
        dead = self._dead
        self._state = tuple((run, np.array([pack not in dead for pack in run.packs], bool)) for run in runs)

    def _runs(self) -> tuple[Run, ...]:
        return tuple(run for run, _ in self._state)

    def _saved(self, run: Run) -> Run:
        return self._cache.save(run) if self._cache else run

    def _merged(self, runs: list[Run]) -> list[Run]:
        """Merge the smallest runs until few are left, or the rest are large."""
        runs = sorted(runs, key=lambda run: len(run.rows))
        while len(runs) > _RUNS_MAX:
            count, rows = 0, 0
            while count < _RUNS_MAX and rows + len(runs[count].rows) <= _MERGE_ROWS_MAX:
                rows += len(runs[count].rows)
                count += 1
            if count < 2:
                break
            merged = self._saved(merge_runs(runs[:count]))
            for run in runs[:count]:
                if self._cache:
                    self._cache.drop(run)
            runs = sorted([*runs[count:], merged], key=lambda run: len(run.rows))
        return runs


_State = tuple[tuple[Run, NDArray[np.bool_]], ...]
_Found = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Number of the run and of the row for each id; -1 where there is none."""


def _search(sorted_keys: NDArray[np.uint64], keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where each key stands, or would; of many keys in order, so that pages of a large run are touched once."""
    if len(keys) <= _UNSORTED_MAX:
        return np.searchsorted(sorted_keys, keys, "left")
    order = np.argsort(keys)
    rows = np.empty(len(keys), np.int64)
    rows[order] = np.searchsorted(sorted_keys, keys[order], "left")
    return rows


def _find_in_run(
    run: Run, living: NDArray[np.bool_], keys: NDArray[np.uint64], ids: Ids, *, whole: bool
) -> NDArray[np.int64]:
    """The row of each id in one run, in a living pack; -1 where there is none. A key may stand several times."""
    rows = _search(run.keys, keys)
    result = np.full(len(keys), -1, np.int64)
    asked = np.flatnonzero(rows < len(run.keys))
    while len(asked):
        place = rows[asked]
        same = run.keys[place] == keys[asked]
        asked, place = asked[same], place[same]
        if len(asked) == 0:
            break
        candidates = run.rows[place]
        hit = (candidates["id"] == ids[asked]).all(axis=1) & living[candidates["pack"]]
        if whole:
            hit &= ~are_patches(candidates)
        result[asked[hit]] = place[hit]
        asked = asked[~hit]
        rows[asked] += 1
        asked = asked[rows[asked] < len(run.keys)]
    return result


def _rows_of(run: Run, chunk_id: Ids) -> NDArray[np.int64]:
    """Every row of one chunk in a run."""
    key = search_keys(chunk_id)[0]
    first, last = int(np.searchsorted(run.keys, key, "left")), int(np.searchsorted(run.keys, key, "right"))
    return first + np.flatnonzero((run.rows["id"][first:last] == chunk_id).all(axis=1))


class _Lookup:
    """Asks runs of one moment, run ``first`` before the others; ``note`` is told who answered."""

    def __init__(self, state: _State, *, first: int, note: Callable[[NDArray[np.int64]], None]) -> None:
        self._state = state
        self._order = sorted(range(len(state)), key=lambda number: number != first)
        self._note = note

    def find(self, ids: Ids) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """The best row of each id, and whether its chunk can be had: it is whole, or its base is there and whole."""
        numbers, found = self._find(ids, whole=False)
        usable = numbers >= 0
        for number, (run, _) in enumerate(self._state):
            here = np.flatnonzero(numbers == number) if len(run.table.patches) else np.empty(0, np.int64)
            here = here[are_patches(run.rows[found[here]])]
            if len(here):
                better = self.find_whole(ids[here])
                is_better = better[0] >= 0
                numbers[here[is_better]], found[here[is_better]] = better[0][is_better], better[1][is_better]
                rest = here[~is_better]
                usable[rest] = self.find_whole(run.table.bases_at(found[rest]))[0] >= 0
        for place in np.flatnonzero((numbers >= 0) & ~usable).tolist():
            other = self._usable_patch(ids[place : place + 1])
            if other is not None:
                numbers[place], found[place], usable[place] = *other, True
        return numbers, found, usable

    def find_whole(self, ids: Ids) -> _Found:
        """A row of each id that is no patch."""
        return self._find(ids, whole=True)

    def _find(self, ids: Ids, *, whole: bool) -> _Found:
        keys = search_keys(ids)
        numbers, found = np.full(len(ids), -1, np.int64), np.full(len(ids), -1, np.int64)
        for number in self._order:
            run, living = self._state[number]
            open_ids = np.flatnonzero(numbers < 0)
            if len(open_ids) == 0:
                break
            rows = _find_in_run(run, living, keys[open_ids], ids[open_ids], whole=whole)
            hit = rows >= 0
            numbers[open_ids[hit]], found[open_ids[hit]] = number, rows[hit]
        self._note(numbers)
        return numbers, found

    def _usable_patch(self, chunk_id: Ids) -> tuple[int, int] | None:
        """Another patch that stands for a chunk, whose base is there; such chunks are few, so each is asked alone."""
        for number, (run, living) in enumerate(self._state):
            rows = _rows_of(run, chunk_id)
            rows = rows[are_patches(run.rows[rows]) & living[run.rows["pack"][rows]]]
            good = self.find_whole(run.table.bases_at(rows))[0] >= 0
            if good.any():
                return number, int(rows[good][0])
        return None
