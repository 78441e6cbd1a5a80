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

from stillframe.repo.format import ID_SIZE
from stillframe.repo.rows import ROW, Ids, Location, Rows, Table, ids_array, location_of, search_keys, sort_rows

_MAGIC: Final = b"SFINDEX2"
_HEADER: Final = struct.Struct("<8sIII4x")
_DIGEST_SIZE: Final = 32
_READ_SIZE: Final = 1 << 20
_RUNS_MAX: Final = 16
_MERGE_ROWS_MAX: Final = 1_000_000
_ROWS_DEAD: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class Run:
    """Rows sorted by chunk id, their search keys, and the index objects they came from."""

    members: tuple[bytes, ...]
    packs: tuple[bytes, ...]
    keys: NDArray[np.uint64]
    rows: Rows


def make_run(members: tuple[bytes, ...], table: Table) -> Run:
    """A run in memory from a table in any order."""
    rows = sort_rows(table.rows)
    return Run(members, table.packs, search_keys(rows["id"]), rows)


def merge_runs(runs: Iterable[Run]) -> Run:
    """One run with the rows of several."""
    members: list[bytes] = []
    packs: list[bytes] = []
    parts = []
    for run in runs:
        rows = run.rows.copy()
        rows["pack"] += len(packs)
        members += run.members
        packs += run.packs
        parts.append(rows)
    return make_run(tuple(members), Table(tuple(packs), np.concatenate(parts)))


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
        head = _HEADER.pack(_MAGIC, len(run.members), len(run.packs), len(run.rows))
        names = b"".join(run.members) + b"".join(run.packs)
        keys, rows = run.keys.tobytes(), run.rows.tobytes()
        digest = blake3.blake3(head).update(names).update(keys).update(rows).digest()
        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            with open(temporary, "wb") as out:
                out.writelines((head, digest, names, keys, rows))
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
            magic, member_count, pack_count, row_count = _HEADER.unpack(head)
            ids_size = (member_count + pack_count) * ID_SIZE
            keys_at = len(head) + len(digest) + ids_size
            rows_at = keys_at + row_count * 8
            if magic != _MAGIC or os.fstat(file.fileno()).st_size != rows_at + row_count * ROW.itemsize:
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
    keys, rows = mapped[keys_at:rows_at].view(np.uint64), mapped[rows_at:].view(ROW)
    return Run(names[:member_count], names[member_count:], keys, rows)


class ChunkIndex:
    """All runs of a repository. Safe for several threads: the list of runs is replaced, never changed."""

    def __init__(self, cache: RunCache | None = None) -> None:
        self._cache = cache
        self._state: tuple[tuple[Run, NDArray[np.bool_]], ...] = ()
        self._dead: frozenset[bytes] = frozenset()
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
            yield Table(run.packs, run.rows)

    def contains(self, ids: Ids) -> NDArray[np.bool_]:
        """Which chunks rest in a pack that is not excluded."""
        return _find(self._state, ids)[0] >= 0

    def locate(self, ids: Ids) -> list[Location | None]:
        """One place for each chunk, in a pack that is not excluded; ``None`` where there is none."""
        state = self._state
        numbers, found = _find(state, ids)
        return [
            location_of(state[number][0].packs, state[number][0].rows[row]) if number >= 0 else None
            for number, row in zip(numbers.tolist(), found.tolist(), strict=True)
        ]

    def packs_of(self, ids: Ids) -> set[bytes]:
        """In which packs that are not excluded one copy of each of these rests, as far as it is known."""
        state, used = self._state, set[bytes]()
        numbers, found = _find(state, ids)
        for number in np.unique(numbers[numbers >= 0]).tolist():
            run = state[number][0]
            used.update(run.packs[pack] for pack in np.unique(run.rows["pack"][found[numbers == number]]).tolist())
        return used

    def locations_in(self, pack_id: bytes) -> list[Location]:
        """What the runs say of one pack, each entry once."""
        found: dict[int, Location] = {}
        for run in self._runs():
            if pack_id in run.packs:
                rows = run.rows[run.rows["pack"] == run.packs.index(pack_id)]
                found.update((int(row["offset"]), location_of(run.packs, row)) for row in rows)
        return [found[offset] for offset in sorted(found)]

    def copies(self, chunk_id: bytes) -> list[Location]:
        """Every place of one chunk, excluded packs too."""
        ids, places = ids_array(chunk_id), []
        key = search_keys(ids)[0]
        for run in self._runs():
            first, last = np.searchsorted(run.keys, key, "left"), np.searchsorted(run.keys, key, "right")
            rows = run.rows[int(first) : int(last)]
            places += [location_of(run.packs, row) for row in rows[(rows["id"] == ids).all(axis=1)]]
        return places

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


def _find_in_run(run: Run, living: NDArray[np.bool_], keys: NDArray[np.uint64], ids: Ids) -> NDArray[np.int64]:
    """The row of each id in one run, in a living pack; -1 where there is none. A key may stand several times."""
    order = np.argsort(keys)
    rows = np.empty(len(keys), np.int64)
    rows[order] = np.searchsorted(run.keys, keys[order], "left")
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
        result[asked[hit]] = place[hit]
        asked = asked[~hit]
        rows[asked] += 1
        asked = asked[rows[asked] < len(run.keys)]
    return result


def _find(state: tuple[tuple[Run, NDArray[np.bool_]], ...], ids: Ids) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number of the run and of the row for each id; -1 where there is none."""
    keys = search_keys(ids)
    numbers, found = np.full(len(ids), -1, np.int64), np.full(len(ids), -1, np.int64)
    for number, (run, living) in enumerate(state):
        open_ids = np.flatnonzero(numbers < 0)
        if len(open_ids) == 0:
            break
        rows = _find_in_run(run, living, keys[open_ids], ids[open_ids])
        hit = rows >= 0
        numbers[open_ids[hit]], found[open_ids[hit]] = number, rows[hit]
    return numbers, found
