"""FAT12, FAT16 and FAT32 against partclone, sleuthkit, blkid and fsck.fat."""

import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from stillframe.block.file import open_file_reader
from stillframe.extents import Extent, ExtentSet
from stillframe.fs.fat import FatFilesystem, find_fat_boot
from stillframe.testing import volumes_windows as volumes
from stillframe.testing.tools import run_tool

MIB = 1 << 20
FAT = FatFilesystem()
# bits, bytes of the volume, of a cluster, of a sector
SHAPES = {
    "fat12": (12, 1440 << 10, 512, 512),
    "fat12 4k": (12, 4 * MIB + 3072, 2048, 512),
    "fat16": (16, 24 * MIB + 5632, 2048, 512),
    "fat32": (32, 48 * MIB + 1024, 512, 512),
    "fat32 4k": (32, 300 * MIB + 2048, 4096, 512),
    "fat32 4kn": (32, 300 * MIB, 4096, 4096),
}
Volumes = Callable[[str], tuple[Path, dict[str, str]]]


@pytest.fixture(scope="session")
def fat_volumes(tmp_path_factory: pytest.TempPathFactory) -> Volumes:
    """Filled volumes by name of their shape, each made once."""
    folder = tmp_path_factory.mktemp("fat")
    made: dict[str, tuple[Path, dict[str, str]]] = {}

    def get(shape: str) -> tuple[Path, dict[str, str]]:
        if shape not in made:
            bits, size, cluster_size, sector_size = SHAPES[shape]
            image = folder / f"{shape.replace(' ', '-')}.img"
            volumes.make_fat(image, size=size, bits=bits, cluster_size=cluster_size, sector_size=sector_size)
            made[shape] = (image, fill(image, folder / shape))
        return made[shape]

    return get


def fill(image: Path, folder: Path) -> dict[str, str]:
    """Write files in three rounds with every third deleted in between, so that later ones are in pieces."""
    source, folder = random.Random(5), folder / "tree"
    folder.mkdir(parents=True)
    run_tool("mmd", "-i", str(image), "::sub dir")
    for number in range(3):
        for index in range(12):
            path = folder / f"long file name {number}-{index}.bin"
            path.write_bytes(source.randbytes(source.randrange(1, 22_000)))
            run_tool("mcopy", "-i", str(image), str(path), "::sub dir/" if index % 2 else "::")
        for index in range(number, 12, 3):
            path = folder / f"long file name {number}-{index}.bin"
            run_tool("mdel", "-i", str(image), f"::{'sub dir/' if index % 2 else ''}{path.name}")
            path.unlink()
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def read_back(image: Path, folder: Path) -> dict[str, str]:
    folder.mkdir()
    run_tool("mcopy", "-s", "-i", str(image), "::*", str(folder))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.variants(2)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_map_is_theirs_and_the_tail(fat_volumes: Volumes, shape: str) -> None:
    image, _ = fat_volumes(shape)
    reader = open_file_reader(str(image))
    boot, ours = find_fat_boot(reader), FAT.used_map(reader)
    assert boot is not None
    if boot.bits == 12:
        theirs = volumes.map_fat_with_sleuthkit(image, sector_size=512)
    else:
        theirs = volumes.map_with_partclone("vfat", image)
    assert (ours.kind, ours.notices) == ("used", ())
    assert (boot.bits, boot.cluster_size) == (SHAPES[shape][0], SHAPES[shape][2])
    assert (theirs - ours.extents).size == 0
    assert (ours.extents - theirs - ExtentSet.of(Extent(boot.end, reader.size))).size == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_a_copy_of_the_used_bytes_holds_every_file(fat_volumes: Volumes, shape: str, tmp_path: Path) -> None:
    image, hashes = fat_volumes(shape)
    copy = tmp_path / "copy.img"
    volumes.keep_only(image, FAT.used_map(open_file_reader(str(image))).extents, copy)
    run_tool("fsck.fat", "-n", str(copy))
    assert read_back(copy, tmp_path / "back") == hashes


@pytest.mark.parametrize("shape", SHAPES)
def test_blkid_gives_the_same_name(fat_volumes: Volumes, shape: str) -> None:
    image, _ = fat_volumes(shape)
    named, volume = volumes.name_with_blkid(image), FAT.identify(open_file_reader(str(image)))
    assert volume is not None
    assert (named["TYPE"], named["LABEL"], named["UUID"]) == (volume.filesystem, volume.label, volume.uuid)


@pytest.mark.parametrize("label", ["", "AB", "Q1 2024"])
def test_a_changed_label_is_blkids(fat_volumes: Volumes, tmp_path: Path, label: str) -> None:
    image = volumes.patched_copy(fat_volumes("fat32")[0], tmp_path / "label.img", lambda _: None)
    run_tool("mlabel", "-i", str(image), f"::{label}") if label else run_tool("mlabel", "-c", "-i", str(image), "::")
    volume = FAT.identify(open_file_reader(str(image)))
    assert volume is not None
    assert volume.label == volumes.name_with_blkid(image).get("LABEL", "") == label.upper()


@pytest.mark.parametrize("shape", ["fat12", "fat16", "fat32"])
def test_a_volume_that_fsck_calls_dirty_is_raw(fat_volumes: Volumes, tmp_path: Path, shape: str) -> None:
    def set_flag(contents: bytearray) -> None:
        contents[0x41 if shape == "fat32" else 0x25] |= 1

    dirty = volumes.patched_copy(fat_volumes(shape)[0], tmp_path / "dirty.img", set_flag)
    assert "Dirty bit is set" in run_tool("fsck.fat", "-n", str(dirty), accept=(0, 1))
    reader = open_file_reader(str(dirty))
    used = FAT.used_map(reader)
    assert ([notice.code for notice in used.notices], used.kind) == (["fat-dirty"], "raw")
    assert used.extents == ExtentSet.of(Extent(0, reader.size))


@pytest.mark.parametrize(("shape", "last_byte"), [("fat16", 3), ("fat32", 7)])
def test_a_table_that_says_in_use_makes_the_volume_raw(
    fat_volumes: Volumes, tmp_path: Path, shape: str, last_byte: int
) -> None:
    boot = find_fat_boot(open_file_reader(str(fat_volumes(shape)[0])))
    assert boot is not None
    start = boot.table_start

    def clear_flag(contents: bytearray) -> None:
        contents[start + last_byte] &= 0x7F if shape == "fat16" else 0xF7

    dirty = volumes.patched_copy(fat_volumes(shape)[0], tmp_path / "dirty.img", clear_flag)
    assert FAT.used_map(open_file_reader(str(dirty))).kind == "raw"


def test_what_only_the_second_table_has_is_kept(fat_volumes: Volumes, tmp_path: Path) -> None:
    image, _ = fat_volumes("fat32")
    reader = open_file_reader(str(image))
    boot, before = find_fat_boot(reader), FAT.used_map(reader)
    assert boot is not None
    middle = boot.table_start + 64

    def forget(contents: bytearray) -> None:
        contents[middle : boot.table_start + boot.table_size] = bytes(boot.table_size - 64)

    torn = open_file_reader(str(volumes.patched_copy(image, tmp_path / "torn.img", forget)))
    used = FAT.used_map(torn)
    assert (used.extents, used.kind) == (before.extents, "used")
    assert [notice.code for notice in used.notices] == ["fat-copies-differ"]


def test_a_broken_fat32_boot_sector_is_named_from_its_copy(fat_volumes: Volumes, tmp_path: Path) -> None:
    image, _ = fat_volumes("fat32")

    def break_boot(contents: bytearray) -> None:
        contents[0x0B:0x10] = os.urandom(1) * 5

    broken = open_file_reader(str(volumes.patched_copy(image, tmp_path / "broken.img", break_boot)))
    assert FAT.identify(broken) == FAT.identify(open_file_reader(str(image)))
    used = FAT.used_map(broken)
    assert ([notice.code for notice in used.notices], used.kind) == (["fat-backup-boot"], "raw")


def test_other_volumes_are_not_ours(tmp_path: Path) -> None:
    image = tmp_path / "other.img"
    volumes.make_ntfs(image, size=24 * MIB)
    assert FAT.identify(open_file_reader(str(image))) is None
    volumes.make_exfat(image, size=24 * MIB)
    assert FAT.identify(open_file_reader(str(image))) is None
