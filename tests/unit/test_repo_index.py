"""The index in use: cache files whole, torn, stale; merging; several threads."""

import hashlib
import threading
from pathlib import Path
from typing import Any

import pytest

from stillframe.repo import index as index_module
from stillframe.repo.index import ChunkIndex, Run, RunCache, make_run, merge_runs
from stillframe.repo.rows import EntryKind, Table, ids_array, make_rows
from stillframe.testing.sample_repository import flipped


def chunk_id(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "little")).digest()


def pack_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


def table_of(pack: int, numbers: list[int]) -> Table:
    """A table whose entries lie at offsets that tell their numbers."""
    rows = make_rows([(chunk_id(n), 80 + n * 1000, 116, 100, EntryKind.CHUNK, False) for n in numbers])
    return Table((pack_id(pack),), rows)


def contains(index: ChunkIndex, numbers: range) -> list[int]:
    found = index.contains(ids_array(b"".join(chunk_id(n) for n in numbers)))
    return [n for n, there in zip(numbers, found.tolist(), strict=True) if there]


class Runs(dict[bytes, Table]):
    """Index objects, and how often they were read."""

    reads = 0

    def read(self, run_id: bytes) -> Table:
        self.reads += 1
        return self[run_id]


def load(runs: Runs, folder: Path | None) -> ChunkIndex:
    index = ChunkIndex(RunCache(str(folder)) if folder else None)
    index.load(list(runs), runs.read)
    return index


def some_runs(count: int) -> Runs:
    return Runs({pack_id(n): table_of(n, list(range(n * 10, n * 10 + 10))) for n in range(count)})


def test_an_empty_index_knows_nothing() -> None:
    index = ChunkIndex()
    assert contains(index, range(3)) == []
    assert index.contains(ids_array(b"")).tolist() == []
    assert index.locate(ids_array(b"")) == []
    assert index.locate(ids_array(chunk_id(1))) == [None]
    assert index.copies(chunk_id(1)) == []


def test_a_chunk_is_located_with_all_that_is_known_of_it() -> None:
    index = load(some_runs(3), None)
    (place,) = index.locate(ids_array(chunk_id(25)))
    assert place is not None
    assert (place.chunk_id, place.pack_id, place.offset) == (chunk_id(25), pack_id(2), 80 + 25_000)
    assert index.copies(chunk_id(25)) == [place]


def test_the_cache_is_read_instead_of_the_repository(tmp_path: Path) -> None:
    runs = some_runs(3)
    load(runs, tmp_path)
    assert runs.reads == 3
    index = load(runs, tmp_path)
    assert runs.reads == 3
    assert contains(index, range(40)) == list(range(30))
    runs[pack_id(3)] = table_of(3, [35])
    assert contains(load(runs, tmp_path), range(40)) == [*range(30), 35]
    assert runs.reads == 4


def test_many_runs_are_merged_and_still_come_from_the_cache(tmp_path: Path) -> None:
    runs = some_runs(40)
    first = load(runs, tmp_path)
    assert len(list(first.tables())) <= 16
    again = load(runs, tmp_path)
    assert runs.reads == 40
    for index in (first, again):
        assert contains(index, range(500)) == list(range(400))
        assert index.packs() == {pack_id(n) for n in range(40)}
        (place,) = index.locate(ids_array(chunk_id(399)))
        assert place is not None
        assert (place.pack_id, place.offset) == (pack_id(39), 80 + 399_000)


def test_a_run_that_left_the_repository_leaves_the_index_and_the_cache(tmp_path: Path) -> None:
    runs = some_runs(40)
    load(runs, tmp_path)
    del runs[pack_id(7)]
    assert contains(load(runs, tmp_path), range(400)) == [n for n in range(400) if n // 10 != 7]
    again = runs.reads
    assert contains(load(runs, tmp_path), range(400)) == [n for n in range(400) if n // 10 != 7]
    assert runs.reads == again


def test_a_cache_file_cut_or_with_a_bit_flipped_anywhere_is_ignored(tmp_path: Path) -> None:
    runs = Runs({pack_id(1): table_of(1, [1, 2])})
    load(runs, tmp_path)
    (path,) = tmp_path.iterdir()
    raw = path.read_bytes()
    spoiled = [flipped(raw, position, position % 8) for position in range(len(raw))]
    spoiled += [raw[:size] for size in range(len(raw))] + [raw + b"\0", raw + raw]
    for number, bad in enumerate(spoiled):
        path.write_bytes(bad)
        index = load(runs, tmp_path)
        assert contains(index, range(5)) == [1, 2]
        assert runs.reads == 2 + number


def test_a_cache_of_another_repository_is_ignored(tmp_path: Path) -> None:
    load(some_runs(3), tmp_path)
    other = Runs({pack_id(9): table_of(9, [90])})
    assert contains(load(other, tmp_path), range(100)) == [90]


def test_a_cache_that_cannot_be_written_or_read_costs_nothing_but_time(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_bytes(b"not a folder")
    runs = some_runs(20)
    for _ in range(2):
        assert contains(load(runs, place), range(250)) == list(range(200))
    assert runs.reads == 40


def test_a_full_disk_leaves_no_half_cache_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert contains(load(some_runs(2), tmp_path), range(30)) == list(range(20))
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_run_is_left_out_and_an_empty_one_is_none() -> None:
    index = ChunkIndex()
    tables = {pack_id(1): None, pack_id(2): table_of(2, []), pack_id(3): table_of(3, [5])}
    index.load(list(tables), tables.__getitem__)
    assert contains(index, range(10)) == [5]


def test_what_rests_only_in_excluded_packs_is_absent() -> None:
    runs = Runs({pack_id(1): table_of(1, [1, 2]), pack_id(2): table_of(2, [2, 3])})
    index = load(runs, None)
    index.exclude_packs([pack_id(1)])
    assert contains(index, range(5)) == [2, 3]
    places = index.locate(ids_array(chunk_id(2) + chunk_id(1)))
    assert [place and place.pack_id for place in places] == [pack_id(2), None]
    assert {place.pack_id for place in index.copies(chunk_id(2))} == {pack_id(1), pack_id(2)}
    assert index.packs() == {pack_id(1), pack_id(2)}
    index.add(pack_id(4), table_of(1, [4]))
    assert contains(index, range(5)) == [2, 3]
    index.exclude_packs([])
    assert contains(index, range(5)) == [1, 2, 3, 4]


def test_a_chunk_listed_twice_in_one_run_is_found_in_the_living_pack() -> None:
    both = merge_runs([make_run((), table_of(1, [1, 2])), make_run((), table_of(2, [1, 2]))])
    for dead, living in ((1, 2), (2, 1)):
        index = ChunkIndex()
        index.add(pack_id(1), Table(both.packs, both.rows))
        index.exclude_packs([pack_id(dead)])
        places = index.locate(ids_array(chunk_id(2) + chunk_id(1)))
        assert [place and place.pack_id for place in places] == [pack_id(living)] * 2


def test_chunks_whose_ids_begin_alike_are_told_apart() -> None:
    ids = [b"\x07" * 8 + bytes([n]) * 24 for n in range(50)]
    rows = make_rows([(one, 80 + n, 116, 100, EntryKind.CHUNK, False) for n, one in enumerate(ids[::2])])
    index = ChunkIndex()
    index.add(pack_id(1), Table((pack_id(1),), rows))
    assert index.contains(ids_array(b"".join(ids))).tolist() == [n % 2 == 0 for n in range(50)]
    places = index.locate(ids_array(b"".join(ids[::2])))
    assert [place and place.offset for place in places] == [80 + n for n in range(25)]


def test_large_runs_are_not_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "_MERGE_ROWS_MAX", 15)
    index = load(some_runs(20), None)
    assert len(list(index.tables())) == 20
    monkeypatch.setattr(index_module, "_MERGE_ROWS_MAX", 20)
    index = load(some_runs(20), None)
    assert len(list(index.tables())) == 16
    assert contains(index, range(250)) == list(range(200))


def test_the_run_that_answered_last_is_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    index, asked = load(some_runs(5), None), list[int]()
    find = index_module._find_in_run

    def counted(run: Run, *rest: Any, whole: bool) -> Any:
        asked.append(run.packs[0][-1])
        return find(run, *rest, whole=whole)

    monkeypatch.setattr(index_module, "_find_in_run", counted)
    for run, searched in ((3, 4), (3, 1), (0, 2), (4, 5), (4, 1)):
        asked.clear()
        assert contains(index, range(run * 10, run * 10 + 10)) == list(range(run * 10, run * 10 + 10))
        assert len(asked) <= searched
        assert contains(index, range(11, 12)) == [11]  # one alone changes nothing
    assert contains(index, range(60)) == list(range(50))


def test_threads_add_and_ask_at_once() -> None:
    index = ChunkIndex()
    failures: list[str] = []

    def work(thread: int) -> None:
        for step in range(30):
            number = thread * 100 + step
            index.add(pack_id(number), table_of(number, [number]))
            if contains(index, range(thread * 100, number + 1)) != list(range(thread * 100, number + 1)):
                failures.append(f"{number} is not there")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert contains(index, range(400)) == [n for n in range(400) if n % 100 < 30]
