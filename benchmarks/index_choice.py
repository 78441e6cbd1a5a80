"""Which chunk index? Memory, file size and look-up speed of five ways to find a chunk by its id.

A chunk's entry is 48 bytes: a 32-byte id and four 32-bit numbers (pack, offset, stored size, plain size and codec).
Ids are uniform, so they are made as random bytes. A run is sorted by its key: the first 8 bytes of the id, read as a
*little-endian* number, because numpy.searchsorted copies a column that is not in native byte order at every call.

    dict     Python dict, bytes to tuple
    sqlite   table with the id as primary key, WITHOUT ROWID, asked with IN (1024 parameters)
    rows     sorted 48-byte records, memory-mapped; numpy.searchsorted over the strided key
    columns  the keys contiguous in one file, the other 40 bytes in a second; numpy.searchsorted
    buckets  columns, and a table of start positions by the key's first bits; bisection inside one bucket

Every case runs in a fresh process with the files in the page cache; private memory is the growth of RssAnon. Look-ups
are asked as lists of 1,024 ids in random order; turning the list into an array is part of the time.

Example:
    python benchmarks/index_choice.py --work /big/work --million 4 64
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Bytes: TypeAlias = NDArray[np.uint8]
Keys: TypeAlias = NDArray[np.uint64]
Places: TypeAlias = NDArray[np.int64]

BATCH = 1024
ID = 32
ROW = 48
REST = 40
BUCKET_ENTRIES = 8
PIECE = 1 << 20
WARM_BATCHES, TIMED_BATCHES = 64, 256


class Index(Protocol):
    """Answers a batch of ids with the number of ids that were found."""

    def find(self, ids: list[bytes]) -> int:
        """Look up a batch."""
        ...


def keys_of(ids: Bytes) -> Keys:
    """Return the first 8 bytes of each row as a native number."""
    keys: Keys = np.ascontiguousarray(ids[:, :8]).view("<u8")[:, 0]
    return keys


def map_bytes(path: Path, width: int) -> Bytes:
    """Map a file as rows of bytes."""
    return np.asarray(np.memmap(path, np.uint8, "r")).reshape(-1, width)


class DictIndex:
    """A Python dict from id to a tuple of four numbers."""

    def __init__(self, folder: Path) -> None:
        self._entries: dict[bytes, tuple[int, ...]] = {}
        rows = map_bytes(folder / "0.rows", ROW)
        for start in range(0, len(rows), PIECE):
            piece = np.array(rows[start : start + PIECE])
            blob = piece[:, :ID].tobytes()
            numbers = np.ascontiguousarray(piece[:, ID:]).view("<u4").tolist()
            ids = (blob[at : at + ID] for at in range(0, len(blob), ID))
            self._entries.update(zip(ids, map(tuple, numbers), strict=True))

    def find(self, ids: list[bytes]) -> int:
        """Look up a batch."""
        return sum(self._entries.get(item) is not None for item in ids)


class SqliteIndex:
    """A table whose primary key is the id."""

    def __init__(self, folder: Path) -> None:
        self._database = sqlite3.connect(folder / "index.sqlite")
        self._query = f"SELECT * FROM chunk WHERE id IN ({','.join('?' * BATCH)})"  # noqa: S608

    def find(self, ids: list[bytes]) -> int:
        """Look up a batch."""
        return len(self._database.execute(self._query, ids).fetchall())


class Run:
    """One sorted immutable run, in any of the three layouts."""

    def __init__(self, folder: Path, number: int, layout: str) -> None:
        self._buckets: NDArray[np.uint32] | None = None
        if layout == "rows":
            self._rest = map_bytes(folder / f"{number}.rows", ROW)[:, 8:]
            self._keys = np.asarray(np.memmap(folder / f"{number}.rows", "<u8", "r")).reshape(-1, ROW // 8)[:, 0]
        else:
            self._rest = map_bytes(folder / f"{number}.rest", REST)
            self._keys = np.asarray(np.memmap(folder / f"{number}.keys", "<u8", "r"))
        if layout == "buckets":
            self._buckets = np.asarray(np.memmap(folder / f"{number}.buckets", "<u4", "r"))
            self._shift = np.uint64(64 - (len(self._buckets) - 1).bit_length() + 1)

    def _position(self, keys: Keys) -> Places:
        """Return the first position whose key is not below, for each key."""
        if self._buckets is None:
            return np.searchsorted(self._keys, keys)
        bucket = (keys >> self._shift).astype(np.int64)
        low, high = self._buckets[bucket].astype(np.int64), self._buckets[bucket + 1].astype(np.int64)
        last = len(self._keys) - 1
        for _ in range(int((high - low).max()).bit_length()):
            middle = (low + high) >> 1
            below = (low < high) & (self._keys[np.minimum(middle, last)] < keys)
            low, high = np.where(below, middle + 1, low), np.where(below, high, middle)
        return low

    def find(self, keys: Keys, rests: Bytes) -> tuple[NDArray[np.bool_], Bytes]:
        """Return which ids are in this run, and the entries of those."""
        found = np.zeros(len(keys), np.bool_)
        place = self._position(keys)
        pending = np.arange(len(keys))
        while len(pending):  # a second round only when two ids share their first 8 bytes
            pending = pending[place[pending] < len(self._keys)]
            pending = pending[self._keys[place[pending]] == keys[pending]]
            same = (self._rest[place[pending], : ID - 8] == rests[pending]).all(axis=1)
            found[pending[same]] = True
            pending = pending[~same]
            place[pending] += 1
        return found, self._rest[place[found]]


class RunsIndex:
    """Runs, asked one after the other until every id is found."""

    def __init__(self, folder: Path, layout: str) -> None:
        count = len(list(folder.glob("*.keys")))
        self._runs = [Run(folder, number, layout) for number in range(count)]

    def find(self, ids: list[bytes]) -> int:
        """Look up a batch."""
        rows = np.frombuffer(b"".join(ids), np.uint8).reshape(-1, ID)
        keys = keys_of(rows)
        order = np.argsort(keys)
        keys, rests = keys[order], rows[order, 8:]
        total = 0
        for run in self._runs:
            found, _ = run.find(keys, rests)
            total += int(found.sum())
            keys, rests = keys[~found], rests[~found]
        return total


def build_run(folder: Path, number: int, count: int, rng: np.random.Generator) -> None:
    """Write one run in all layouts."""
    ids = np.frombuffer(rng.bytes(count * ID), np.uint8).reshape(-1, ID)
    keys = keys_of(ids)
    order = np.argsort(keys)
    keys = keys[order]
    keys.tofile(folder / f"{number}.keys")
    bits = max(1, (count // BUCKET_ENTRIES).bit_length() - 1)
    firsts = np.arange(1 << bits, dtype=np.uint64) << np.uint64(64 - bits)
    np.append(np.searchsorted(keys, firsts), count).astype("<u4").tofile(folder / f"{number}.buckets")
    with (folder / f"{number}.rows").open("wb") as rows, (folder / f"{number}.rest").open("wb") as rest:
        for start in range(0, count, PIECE):
            picked = order[start : start + PIECE]
            row = np.concatenate([ids[picked], rng.integers(0, 256, (len(picked), ROW - ID), np.uint8)], axis=1)
            row.tofile(rows)
            np.ascontiguousarray(row[:, 8:]).tofile(rest)


def build_sqlite(folder: Path, limit_s: float) -> float | None:
    """Fill the table in key order of its ids; return the seconds, or None when the limit was passed."""
    started = time.perf_counter()
    database = sqlite3.connect(folder / "index.sqlite")
    database.execute("PRAGMA journal_mode = OFF")
    database.execute("PRAGMA synchronous = OFF")
    database.execute("CREATE TABLE chunk (id BLOB PRIMARY KEY, pack, start, stored, plain) WITHOUT ROWID")
    rows = map_bytes(folder / "0.rows", ROW)
    order = np.argsort(np.ascontiguousarray(rows[:, :8]).view(">u8")[:, 0].astype(np.uint64))
    for start in range(0, len(rows), PIECE):
        piece = rows[order[start : start + PIECE]]
        blob, numbers = piece[:, :ID].tobytes(), np.ascontiguousarray(piece[:, ID:]).view("<u4").tolist()
        entries = ((blob[at * ID : at * ID + ID], *four) for at, four in enumerate(numbers))
        database.executemany("INSERT INTO chunk VALUES (?, ?, ?, ?, ?)", entries)
        if time.perf_counter() - started > limit_s:
            database.close()
            return None
    database.commit()
    database.close()
    return time.perf_counter() - started


def memory(name: str) -> int:
    """Return one line of /proc/self/status in bytes."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(name))


def batches(folder: Path, count: int, *, known: bool) -> list[list[bytes]]:
    """Draw batches of ids in random order; known ones come from all runs alike."""
    rng = np.random.default_rng(count + known)
    total = count * BATCH
    if known:
        paths = list(folder.glob("*.rows"))
        picked: list[bytes] = []
        for path in paths:
            rows = map_bytes(path, ROW)
            picked += [rows[at, :ID].tobytes() for at in rng.integers(0, len(rows), -(-total // len(paths)))]
        random.Random(1).shuffle(picked)
    else:
        blob = rng.bytes(total * ID)
        picked = [blob[at : at + ID] for at in range(0, len(blob), ID)]
    return [picked[at : at + BATCH] for at in range(0, total, BATCH)]


def rate(index: Index, asked: list[list[bytes]], found_each: int) -> float:
    """Return look-ups per second; the answers are checked."""
    started = time.perf_counter()
    total = sum(index.find(ids) for ids in asked)
    seconds = time.perf_counter() - started
    repeats = sum(len(ids) - len(set(ids)) for ids in asked)  # SQL's IN answers an id asked twice once
    assert abs(total - found_each * len(asked)) <= repeats
    return BATCH * len(asked) / seconds


def measure(folder: Path, layout: str) -> dict[str, float]:
    """Open an index and ask it; runs in a process of its own."""
    known, absent = batches(folder, TIMED_BATCHES, known=True), batches(folder, TIMED_BATCHES, known=False)
    first = batches(folder, WARM_BATCHES, known=True)
    before, started = memory("RssAnon"), time.perf_counter()
    index: Index
    if layout == "dict":
        index = DictIndex(folder)
    elif layout == "sqlite":
        index = SqliteIndex(folder)
    else:
        index = RunsIndex(folder, layout)
    answer = {"open_s": time.perf_counter() - started, "fresh": rate(index, first, BATCH)}
    answer |= {"hits": rate(index, known, BATCH), "misses": rate(index, absent, 0)}
    return answer | {"private": memory("RssAnon") - before, "mapped": memory("RssFile")}


def print_case(folder: Path, layout: str, count: int, runs: int) -> None:
    """Measure one case in a fresh process, with its files in the page cache; print its row."""
    endings = {"dict": [], "sqlite": ["sqlite"], "rows": ["rows"], "columns": ["keys", "rest"]}
    names = endings.get(layout, ["keys", "rest", "buckets"])
    paths = [path for name in names for path in folder.glob(f"*.{name}")]
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.read(8 << 20):
                pass
    command = [sys.executable, __file__, "--work", str(folder), "--measure", layout]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    stored = sum(path.stat().st_size for path in paths) / count
    row = f"| {count / 1e6:.0f} | {layout} | {runs} | {told['private'] / count:.2f} | {told['private'] / 2**20:.1f} |"
    row += f" {told['mapped'] / 2**20:.0f} | {stored:.2f} | {told['open_s'] * 1000:.1f} | {told['fresh'] / 1000:.0f} |"
    print(f"{row} {told['hits'] / 1000:.0f} | {told['misses'] / 1000:.0f} |", flush=True)


def compare(work: Path, count: int, sqlite_limit_s: float, dict_limit: int) -> None:
    """Build and measure every case for one number of chunks."""
    for runs in (1, 16):
        folder = work / f"index-{runs}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        rng, started = np.random.default_rng(runs), time.perf_counter()
        for number in range(runs):
            build_run(folder, number, count // runs, rng)
        print(f"built {runs} run(s) of {count} in {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
        for layout in ("rows", "columns", "buckets"):
            print_case(folder, layout, count, runs)
        if runs == 1 and count <= dict_limit:
            print_case(folder, "dict", count, runs)
        if runs == 1 and sqlite_limit_s:
            built_s = build_sqlite(folder, sqlite_limit_s)
            print(f"sqlite built in {built_s} s", file=sys.stderr, flush=True)
            if built_s is not None:
                print_case(folder, "sqlite", count, runs)
        shutil.rmtree(folder)


def main() -> None:
    """Parse the command line, measure, print one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder with room: 100 bytes a chunk")
    parser.add_argument("--million", type=float, nargs="+", default=[4, 64], help="numbers of chunks, in millions")
    parser.add_argument("--sqlite-limit", type=float, default=180, help="give sqlite up after so many seconds; 0: skip")
    parser.add_argument("--dict-limit", type=float, default=8, help="no dict above so many million chunks")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.work, args.measure)))
        return
    print("| million chunks | index | runs | private B/chunk | private MiB | mapped MiB | file B/chunk |", end="")
    print(" open ms | fresh k/s | hits k/s | misses k/s |\n|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|", flush=True)
    for million in args.million:
        compare(args.work, int(million * 1e6) // 16 * 16, args.sqlite_limit, int(args.dict_limit * 1e6))


if __name__ == "__main__":
    main()
