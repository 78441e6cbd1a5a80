"""What boot sectors say of size and place, as the tools say it that wrote them."""

import re
from pathlib import Path

import pytest

from stillframe.block import MemoryDisk
from stillframe.fs.boot_place import BootPlace, read_boot_place
from stillframe.fs.registry import identify
from stillframe.testing.tools import run_tool
from stillframe.testing.volumes_windows import make_exfat, make_fat, make_ntfs

MIB = 1 << 20


def place_of(image: Path, *, behind: int = 0) -> BootPlace | None:
    """What ours says, with more bytes behind the volume."""
    reader = MemoryDisk(image.read_bytes() + bytes(behind))
    return read_boot_place(reader, identify(reader).volume.filesystem)


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_ntfs_is_as_large_as_mkntfs_was_told(tmp_path: Path, sector_size: int) -> None:
    make_ntfs(tmp_path / "ntfs", size=8 * MIB, sector_size=sector_size)
    found = place_of(tmp_path / "ntfs", behind=MIB)
    assert found == BootPlace(size=8 * MIB, start=2048 * sector_size, sector_size=sector_size)


@pytest.mark.parametrize("bits", [12, 16, 32])
def test_fat_is_as_mtools_see_it(tmp_path: Path, bits: int) -> None:
    make_fat(tmp_path / "fat", size={12: 2, 16: 16, 32: 40}[bits] * MIB, bits=bits)
    image = bytearray((tmp_path / "fat").read_bytes())
    image[0x1C:0x20] = (4096).to_bytes(4, "little")
    (tmp_path / "fat").write_bytes(image)
    said = run_tool("minfo", "-i", str(tmp_path / "fat"), "::")
    assert "hidden sectors: 4096\n" in said
    small, big = (re.search(rf"{word}: (\d+) sectors", said) for word in ("small size", "big size"))
    sectors = max(int(found[1]) for found in (small, big) if found)
    found = place_of(tmp_path / "fat", behind=MIB)
    assert found == BootPlace(size=sectors * 512, start=4096 * 512, sector_size=512)


def test_exfat_is_as_its_own_tools_see_it(tmp_path: Path) -> None:
    make_exfat(tmp_path / "exfat", size=8 * MIB)
    said = run_tool("dump.exfat", str(tmp_path / "exfat"))
    found = place_of(tmp_path / "exfat")
    length = re.search(r"Volume Length\(sectors\):\s*(\d+)", said)
    assert length
    assert found == BootPlace(size=int(length[1]) * 512, start=None, sector_size=512)


def test_what_cannot_be_is_not_believed(tmp_path: Path) -> None:
    make_ntfs(tmp_path / "ntfs", size=8 * MIB)
    image = bytearray((tmp_path / "ntfs").read_bytes())
    assert read_boot_place(MemoryDisk(image), "ext4") is None
    for place, raw in ((0x0B, b"\x01\x02"), (0x28, b"\xff" * 8)):
        broken = image[:place] + raw + image[place + len(raw) :]
        assert read_boot_place(MemoryDisk(broken), "ntfs") is None
