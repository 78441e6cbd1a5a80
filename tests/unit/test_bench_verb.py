"""The verb ``bench``: what follows from speeds, that it leaves nothing behind, and that it changes nothing."""

import hashlib
import os
import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillframe.capture import Selection, open_source
from stillframe.errors import Cancelled, StorageError, StorageFull
from stillframe.events import RecordedEvents
from stillframe.extents import Extent, ExtentSet
from stillframe.host.scratch_file import PREFIX, ScratchFile
from stillframe.jobs.backup import Compression
from stillframe.jobs.context import JobContext
from stillframe.jobs.pipeline import CancelToken
from stillframe.jobs.saving.chunking import KeptRange
from stillframe.jobs.speeds import reading, storage, working
from stillframe.jobs.speeds.forecast import Forecast, Packed, Speeds, forecast, recommended
from stillframe.testing.command_line import call, init_own
from stillframe.testing.sample_repository import OWNER

MIB = 1 << 20
FAST = Speeds(read=1e9, hash=8e9, seal=8e9, expand=4e9, write=1e9, read_back=1e9)


@pytest.fixture(autouse=True)
def short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working, "STEP_S", 0.1)
    monkeypatch.setattr(working, "SHORT_S", 0.0)
    for name in ("STILLFRAME_REPO", "STILLFRAME_PASSWORD"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(storage, "SIZE", 8 * MIB)
    return init_own(tmp_path, monkeypatch)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Half zeros, a quarter noise, a quarter text."""
    path = tmp_path / "disk.raw"
    rng = random.Random(1)
    path.write_bytes(
        bytes(8 * MIB) + rng.randbytes(4 * MIB) + (b"the same words again; " * (4 * MIB // 22 + 1))[: 4 * MIB]
    )
    return path


def context(cancel: CancelToken | None = None) -> JobContext:
    return JobContext(owner=OWNER, events=RecordedEvents(), cancel=cancel or CancelToken())


def contents(folder: Path) -> dict[str, bytes]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).digest() for path in found}


def packed(rate: float | None, ratio: float = 0.5) -> Packed:
    return Packed(compression="fast", rate=rate, ratio=ratio)


def expected(name: Compression, first_s: float, stored: int) -> Forecast:
    return Forecast(
        compression=name, bytes_stored=stored, first_s=first_s, next_s=1, restore_s=1, bottleneck="source",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "rate", "part", "seconds"),
    [
        ({"read": 1e8}, 1e9, "source", 100),
        ({"write": 1e7}, 1e9, "repository", 500),
        ({}, 1e8, "processor", 100 + 10e9 / 8e9 + 5e9 / 8e9),
        ({"write": None, "read_back": None, "read": 1e8}, 1e9, "source", 100),
    ],
)
def test_the_slowest_part_decides(changed: dict[str, Any], rate: float, part: str, seconds: float) -> None:
    speeds = Speeds(**{**{name: getattr(FAST, name) for name in Speeds.__slots__}, **changed})
    told = forecast(speeds, packed(rate), size=10_000_000_000, encrypted=True)
    assert told.bottleneck == part
    assert told.first_s == pytest.approx(seconds + told.restore_s)
    assert told.bytes_stored == 5_000_000_000


def test_without_source_and_repository_nothing_is_called_slow() -> None:
    speeds = Speeds(read=None, hash=1e9, seal=1e9, expand=1e9, write=None, read_back=None)
    assert forecast(speeds, packed(1e9), size=1000, encrypted=True).bottleneck is None


def test_an_unchanged_backup_reads_and_names_and_hardly_packs() -> None:
    told = forecast(FAST, packed(1e8), size=10_000_000_000, encrypted=False)
    assert told.next_s == pytest.approx(10 + 0.01 * told.first_s)
    assert told.next_s < told.first_s / 5


def test_a_repository_that_is_open_is_not_sealed() -> None:
    slow = Speeds(read=None, hash=1e9, seal=1e6, expand=1e9, write=1e9, read_back=1e9)
    sealed, plain = (forecast(slow, packed(1e9), size=10**9, encrypted=value) for value in (True, False))
    assert sealed.first_s > plain.first_s * 100


def test_what_is_recommended_is_quick_then_small() -> None:
    none, fast, balanced = expected("none", 50, 100), expected("fast", 100, 50), expected("balanced", 103, 40)
    high = expected("high", 400, 30)
    assert recommended([none, fast, balanced, high]) == balanced
    assert recommended([none, fast, high]) == fast
    assert recommended([none, expected("fast", 100, 98)]) == none  # nothing is saved


def test_places_lie_all_over_what_is_kept_and_none_comes_twice() -> None:
    size = 20 << 30
    kept = ExtentSet.from_extents([Extent(0, 1 << 30), Extent(15 << 30, size)])
    source = KeptRange(reader=_Sized(size), kept=kept, excluded=ExtentSet.empty())  # type: ignore[arg-type]
    windows = [extent for _, extent in reading.sample_places([source])]
    assert len({extent.start for extent in windows}) == len(windows) == reading.PIECES
    assert all(len(kept.clipped(extent)) for extent in windows)
    assert sum(extent.start < 1 << 30 for extent in windows) in (5, 6)  # a sixth of all that is kept
    assert max(extent.end for extent in windows) > 19 << 30


class _Sized:
    def __init__(self, size: int) -> None:
        self.size = size


@pytest.mark.root
def test_it_says_what_holds_a_backup_up_and_leaves_nothing(source: Path, repository: Path) -> None:
    before = contents(repository), source.read_bytes(), sorted(os.listdir(repository))
    done = call("bench", source, "--json")
    assert done.exit_code == 0, done.errors
    told = done.result
    assert (contents(repository), source.read_bytes(), sorted(os.listdir(repository))) == before
    assert told["bytes_used"] == source.stat().st_size
    assert told["bytes_read"] == source.stat().st_size
    assert told["zeros"] == 0.5
    assert told["bytes_written"] == 8 * MIB
    ratios = {one["compression"]: one["ratio"] for one in told["packed"]}
    assert ratios["none"] == 1.0
    assert 0.4 < ratios["fast"] < 0.6  # noise is half of what is no zeros, and takes as much as it is
    stored = {one["compression"]: one["bytes_stored"] for one in told["forecasts"]}
    assert stored["none"] == 8 * MIB
    assert stored["fast"] == pytest.approx(4 * MIB, rel=0.15)
    assert told["bottleneck"] in ("source", "processor", "repository")
    assert all(speed > 0 for speed in told["speeds"].values())


@pytest.mark.root
def test_people_read_times_and_one_piece_of_advice(source: Path, repository: Path) -> None:
    said = call("bench", source, "--repo", repository).output
    for words in (
        "reading",
        "packing, fast",
        "sealing",
        "writing to",
        "Expected for",
        "waits for",
        "Best here: '--comp",
    ):
        assert words in said
    assert said.count("Best here") == 1


def test_it_measures_the_processors_without_disk_and_repository() -> None:
    done = call("bench", "--json")
    assert done.exit_code == 0, done.errors
    assert done.result["source"] is None
    assert done.result["forecasts"] == []
    assert done.result["bytes_written"] == 0
    assert 0.1 < {one["compression"]: one["ratio"] for one in done.result["packed"]}["fast"] < 0.9


@pytest.mark.root
def test_a_dry_run_reads_and_writes_nothing(source: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "read_sample", None)
    monkeypatch.setattr(ScratchFile, "__enter__", None)
    told = call("bench", source, "--dry-run", "--json").result
    assert told["dry_run"] is True
    assert told["bytes_to_read"] == source.stat().st_size
    assert told["repository"] == str(repository)
    assert "written" in " ".join(told["words"])


def test_a_folder_without_a_repository_is_refused(tmp_path: Path) -> None:
    assert call("bench", "--repo", tmp_path, "--json").result["code"] == "not-found"


@pytest.mark.root
def test_a_disk_of_zeros_is_refused(tmp_path: Path) -> None:
    disk = tmp_path / "zeros.raw"
    disk.write_bytes(bytes(4 * MIB))
    done = call("bench", disk, "--json")
    assert (done.exit_code, done.result["code"]) == (20, "refused")


def test_a_place_with_hardly_any_room_is_left_alone() -> None:
    with pytest.raises(StorageFull):
        storage.require_room("there", storage.SIZE)
    storage.require_room("there", 2 * storage.SIZE)
    storage.require_room("there", None)


def test_the_file_is_gone_while_it_is_written(tmp_path: Path) -> None:
    with ScratchFile(str(tmp_path)) as file:
        file.append(b"x" * 1000)
        file.settle()
        assert os.listdir(tmp_path) == []
        file.rewind()
        buffer = memoryview(bytearray(600))
        assert [file.read(buffer) for _ in range(3)] == [600, 400, 0]


def test_where_an_open_file_keeps_its_name_it_goes_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", _refuse)
        file = ScratchFile(str(tmp_path)).__enter__()
    assert [name for name in os.listdir(tmp_path) if name.startswith(PREFIX)]
    file.__exit__(None, None, None)
    assert os.listdir(tmp_path) == []


def _refuse(_: str) -> None:
    raise PermissionError(13, "in use")


def test_a_folder_that_takes_nothing_is_an_error_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as found, ScratchFile(str(tmp_path / "missing")):
        pass
    assert found.value.hint


def test_storage_that_is_full_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ScratchFile(str(tmp_path)) as file:
        monkeypatch.setattr(os, "write", _full)
        with pytest.raises(StorageFull):
            file.append(b"x")


def _full(_descriptor: int, _data: object) -> int:
    raise OSError(28, "No space left on device")


def test_cancelled_while_it_writes_it_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "SIZE", 1 << 40)
    token = CancelToken()
    timer = threading.Timer(0.3, token.cancel)
    timer.start()
    with pytest.raises(Cancelled):
        storage.measure_storage(str(tmp_path), context(token))
    timer.join()
    assert os.listdir(tmp_path) == []


@pytest.mark.root
def test_a_sample_is_what_lies_on_the_disk(source: Path) -> None:
    with open_source(str(source)) as opened:
        disk = opened.capture(Selection())
        sample = reading.read_sample(disk, chunk_size=1 << 16, context=context())
    wanted = {source.read_bytes()[at : at + (1 << 16)] for at in range(0, 16 * MIB, 1 << 16)}
    assert {bytes(chunk) for chunk in sample.chunks} <= wanted
    assert len(sample.chunks) == 128


@pytest.mark.root
def test_it_stops_when_it_is_asked_to(source: Path) -> None:
    token = CancelToken()
    token.cancel()
    with open_source(str(source)) as opened, pytest.raises(Cancelled):
        reading.read_sample(opened.capture(Selection()), chunk_size=1 << 16, context=context(token))


def test_a_level_that_packs_harder_leaves_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working, "STEP_S", 5.0)
    text = np.frombuffer(b"some words, and some other words; " * 8000, np.uint8).tobytes()
    chunks = [memoryview(text)] * 24
    found = {one.compression: one for one in working.pack_rates(chunks, CancelToken())}
    assert found["high"].ratio <= found["fast"].ratio < 0.05
    assert found["none"].rate is None
