"""Sources that fail or shrink: all that can be read is kept, and the rest is listed to the byte."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from stillframe.block import MemoryDisk
from stillframe.errors import DeviceError
from stillframe.events import NoEvents
from stillframe.extents import Extent, ExtentSet
from stillframe.jobs.restore import RestoreOptions, plan_restore
from stillframe.jobs.saving.careful import read_carefully
from stillframe.store import MemoryStore
from stillframe.testing.disk_builder import fill_with_noise, write_gpt
from stillframe.testing.faulty_disk import FaultyDisk, PlannedFault
from stillframe.testing.job_runs import backup, backup_paths, make_repository, restore, verify

MIB = 1 << 20
PLACE = Extent(MIB, 5 * MIB + 512)


def make_disk(sector_size: int = 512) -> MemoryDisk:
    disk = MemoryDisk(bytes(6 * MIB), sector_size=sector_size)
    fill_with_noise(disk, Extent(300_000, MIB), 4)
    place = Extent(PLACE.start, PLACE.end // sector_size * sector_size)
    fill_with_noise(disk, place, 5)
    write_gpt(disk, [place])
    return disk


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_sectors_that_cannot_be_read_are_listed_and_zeros(tmp_path: Path, sector_size: int) -> None:
    disk = make_disk(sector_size)
    bad = [Extent(400_000 // 4096 * 4096, 400_000 // 4096 * 4096 + 4096), Extent(2 * MIB, 2 * MIB + 4096),
           Extent(3 * MIB + 61_440, 3 * MIB + 81_920)]  # fmt: skip
    repository = make_repository(MemoryStore())
    with FaultyDisk(disk, [PlannedFault(extent=extent) for extent in bad]) as faulty:
        result = backup(repository, faulty)
    assert not result.is_complete
    stored = result.manifest.disks[0]
    assert stored.unreadable == ((bad[0].start, bad[0].end),)
    assert stored.partitions[0].unreadable == tuple((e.start - MIB, e.end - MIB) for e in bad[1:])
    assert "unreadable" in [notice.code for notice in result.manifest.notices]
    expected = MemoryDisk(disk.contents, sector_size=sector_size)
    for extent in bad:
        expected.zero(extent)
    target = tmp_path / "target"
    target.write_bytes(b"\xff" * disk.size)
    plan = plan_restore(repository, result.manifest, 1, str(target), repository_folder="", options=RestoreOptions())
    assert "unreadable" in [notice.code for notice in plan.notices]
    restore(repository, result.manifest, target)
    assert target.read_bytes() == expected.contents
    assert verify(repository, result.manifest).ok

    healed = backup(repository, disk)
    assert healed.is_complete
    assert healed.manifest.disks[0].partitions[0].unreadable == ()
    restore(repository, healed.manifest, tmp_path / "healed")
    assert (tmp_path / "healed").read_bytes() == disk.contents


def test_a_whole_chunk_that_cannot_be_read_is_written_as_zeros(tmp_path: Path) -> None:
    disk = make_disk()
    bad = Extent(MIB + 2 * 65_536, MIB + 5 * 65_536)
    repository = make_repository(MemoryStore())
    with FaultyDisk(disk, [PlannedFault(extent=bad)]) as faulty:
        result = backup(repository, faulty)
    target = tmp_path / "target"
    target.write_bytes(b"\xff" * disk.size)
    restore(repository, result.manifest, target)
    contents = target.read_bytes()
    assert contents[bad.start : bad.end].count(0) == bad.size
    assert contents[: bad.start] == disk.contents[: bad.start]
    assert contents[bad.end :] == disk.contents[bad.end :]


@pytest.mark.parametrize("times", [1, 2, 4])
def test_a_fault_that_passes_leaves_no_trace(tmp_path: Path, times: int) -> None:
    disk = make_disk()
    repository = make_repository(MemoryStore())
    with FaultyDisk(disk, [PlannedFault(extent=Extent(3 * MIB + 700, 3 * MIB + 900), times=times)]) as faulty:
        result = backup(repository, faulty)
    assert result.is_complete
    assert result.manifest.disks[0].partitions[0].unreadable == ()
    restore(repository, result.manifest, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == disk.contents


def test_a_broken_first_sector_does_not_end_the_run(tmp_path: Path) -> None:
    """Nothing is known of the partitions then: the disk is kept as one piece."""
    disk = make_disk()
    repository = make_repository(MemoryStore())
    with FaultyDisk(disk, [PlannedFault(extent=Extent(0, 512))]) as faulty:
        result = backup(repository, faulty)
    assert not result.is_complete
    restore(repository, result.manifest, tmp_path / "target")
    assert (tmp_path / "target").read_bytes()[512:] == disk.contents[512:]


def test_a_source_that_shrinks_makes_no_image(tmp_path: Path) -> None:
    source = tmp_path / "source"
    disk = make_disk()
    fill_with_noise(disk, Extent(PLACE.start, PLACE.end), 11)
    source.write_bytes(bytes(disk.contents) + os.urandom(30 * MIB))

    class Shrinker(NoEvents):
        def emit(self, event: object) -> None:
            if type(event).__name__ == "JobStarted":
                os.truncate(source, 4 * MIB)

    repository = make_repository(MemoryStore())
    with pytest.raises(DeviceError, match=f"had {36 * MIB} bytes when it was opened"):
        backup_paths(repository, source, events=Shrinker())
    assert repository.images().images == ()


MEASURED = """
import re, sys, time
from pathlib import Path
from stillframe.store import LocalStore
from stillframe.testing.job_runs import backup_paths, make_repository, restore, verify
repository = make_repository(LocalStore(sys.argv[1]), chunk_size=262144)
began = time.monotonic()
result = backup_paths(repository, sys.argv[2])
assert verify(repository, result.manifest).ok
restore(repository, result.manifest, sys.argv[3])
status = Path("/proc/self/status").read_text()  # getrusage would count what the parent had before the exec
print(int(re.search("VmHWM:\\s+(\\d+)", status)[1]) << 10, time.monotonic() - began)
"""


@pytest.mark.root
@pytest.mark.parametrize(
    ("size", "used"), [(1 << 40, 24), pytest.param(1 << 40, 4096, marks=pytest.mark.slow)], ids=["small", "4 GiB used"]
)
def test_memory_and_time_follow_what_is_used_not_the_size_of_the_disk(tmp_path: Path, size: int, used: int) -> None:
    source = tmp_path / "source"
    source.touch()
    os.truncate(source, size)
    chunk = os.urandom(MIB)
    with source.open("r+b") as file:
        for number in range(used):
            file.seek(MIB + number * (size // used // 2) // MIB * MIB)
            file.write(number.to_bytes(8, "big") + chunk[8:])
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path / "repository"), str(source), str(tmp_path / "restored")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    memory, seconds = (float(word) for word in done.stdout.split())
    assert 20 << 20 < memory < 400 << 20
    assert seconds < 30 + used / 4
    assert (tmp_path / "restored").stat().st_size == size
    assert (tmp_path / "restored").stat().st_blocks * 512 < used * 3 * MIB
    with source.open("rb") as one, (tmp_path / "restored").open("rb") as other:
        for number in range(used):
            for disk in (one, other):
                disk.seek(MIB + number * (size // used // 2) // MIB * MIB)
            assert one.read(2 * MIB) == other.read(2 * MIB)


@pytest.mark.parametrize("lost", ["primary", "backup", "both entries"])
def test_a_table_that_can_be_read_in_part_is_whole_on_the_target(tmp_path: Path, lost: str) -> None:
    disk = MemoryDisk(bytes(6 * MIB))
    write_gpt(disk, [PLACE])
    fill_with_noise(disk, PLACE, 5)
    bad = {
        "primary": [Extent(512, 1024)],
        "backup": [Extent(disk.size - 33 * 512, disk.size)],
        "both entries": [Extent(disk.size - 512, disk.size), Extent(1024, 1536)],
    }[lost]
    repository = make_repository(MemoryStore())
    with FaultyDisk(disk, [PlannedFault(extent=extent) for extent in bad]) as faulty:
        result = backup(repository, faulty)
    assert not result.is_complete
    target = tmp_path / "target"
    target.write_bytes(b"\xff" * disk.size)
    restore(repository, result.manifest, target)
    contents = target.read_bytes()
    assert contents[PLACE.start : PLACE.end] == disk.contents[PLACE.start : PLACE.end]
    if lost != "both entries":
        assert contents == disk.contents


def test_a_disk_that_fails_everywhere_is_given_up_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillframe.jobs.saving.storing.GIVE_UP_SIZE", 16 * MIB)
    disk = MemoryDisk(bytes(64 * MIB))
    fill_with_noise(disk, Extent(0, 64 * MIB), 9)
    repository = make_repository(MemoryStore())
    gone = FaultyDisk(disk, [PlannedFault(extent=Extent(20 * MIB, 64 * MIB))])
    with pytest.raises(DeviceError, match="does not answer any more"):
        backup(repository, gone)
    assert gone.faults_fired < 40 * MIB // 512 // 4  # a failing sector can take seconds: not all are tried
    assert repository.images().images == ()
    assert backup(repository, disk).is_complete


def test_a_long_bad_run_is_read_from_both_ends() -> None:
    disk = MemoryDisk(random.Random(3).randbytes(65_536))
    bad = Extent(1024, 60_000 // 512 * 512)
    buffer = memoryview(bytearray(65_536))
    with FaultyDisk(disk, [PlannedFault(extent=bad)]) as faulty:
        assert read_carefully(faulty, 0, buffer) == ExtentSet.of(bad)
        assert faulty.faults_fired < 30
    expected = MemoryDisk(disk.contents)
    expected.zero(bad)
    assert bytes(buffer) == expected.contents
