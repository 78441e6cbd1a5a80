"""A container is kept without what the volumes that rest on it prove to be unused."""

import io
import subprocess
from pathlib import Path

import pytest

from stillframe.block.file import open_file_reader
from stillframe.capture import Selection, capture_disk
from stillframe.capture.stacking import StackedVolume
from stillframe.extents import Extent, ExtentSet
from stillframe.host.disks import DiskFacts
from stillframe.host.live.bytemap import ByteMap

MIB = 1 << 20
HEADER = 16 * MIB


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    path = tmp_path / "volume.img"
    with path.open("wb") as file:
        file.truncate(64 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(path)], check=True, env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"})
    return path


def captured(tmp_path: Path, volume: Path, *, is_broken: bool) -> tuple[ExtentSet, str, list[str]]:
    """Two halves of the volume, the second first, behind a header of LUKS on a disk without a table."""
    disk = tmp_path / "disk.img"
    with disk.open("wb") as file:
        file.write(b"LUKS\xba\xbe\x00\x02")  # LUKS2 on-disk format, 1.1: magic and version
        file.truncate(HEADER + 64 * MIB)
    if is_broken:
        with volume.open("r+b") as file:
            file.seek(1024, io.SEEK_SET)
            file.write(bytes(1024))
    half = 32 * MIB
    pieces = ByteMap.of((0, HEADER + half, half), (half, HEADER, half))
    with open_file_reader(str(disk)) as reader, open_file_reader(str(volume)) as upper:
        stacked = StackedVolume(reader=upper, pieces=(pieces,), is_held=False)
        facts = DiskFacts(path="/dev/test", kind="disk", size=reader.size, sector_size=512)
        found = capture_disk(reader, facts, Selection(stacked=(stacked,)))
    (part,) = found.volumes
    return part.kept, part.used.kind, [notice.code for notice in part.notices]


def test_what_the_file_system_above_does_not_use_is_not_kept(tmp_path: Path, volume: Path) -> None:
    kept, kind, notices = captured(tmp_path, volume, is_broken=False)
    shown = subprocess.run(
        ["dumpe2fs", str(volume)], check=True, capture_output=True, text=True,
        env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"},
    ).stdout  # fmt: skip
    free = [line.split(":")[1] for line in shown.splitlines() if line.strip().startswith("Free blocks: ")]
    size = next(int(line.split(":")[1]) for line in shown.splitlines() if line.startswith("Block size"))
    blocks = [span.split("-") for spans in free for span in spans.replace(" ", "").split(",") if span]
    half = 32 * MIB
    expected = ExtentSet.of(Extent(0, HEADER + 64 * MIB))
    for first, *last in blocks:
        extent = Extent(int(first) * size, (int((last or [first])[0]) + 1) * size)
        for low, place in ((0, HEADER + half), (half, HEADER)):
            part = extent.clipped(Extent(low, low + half))
            expected -= ExtentSet.of(part.shifted(place - low)) if part else ExtentSet.empty()
    assert (kept, kind, notices) == (expected, "used", [])
    assert Extent(0, HEADER) in list(kept.clipped(Extent(0, HEADER)))


def test_without_a_proven_map_above_the_container_is_kept_whole(tmp_path: Path, volume: Path) -> None:
    kept, kind, notices = captured(tmp_path, volume, is_broken=True)
    assert kept == ExtentSet.of(Extent(0, HEADER + 64 * MIB))
    assert kind == "raw"
    assert notices
