"""exFAT against partclone, blkid and fsck.exfat; volumes are made by mkfs.exfat and filled by exfat-fuse."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stillframe.block.file import open_file_reader
from stillframe.extents import Extent, ExtentSet
from stillframe.fs.exfat import ExfatFilesystem, find_exfat_boot
from stillframe.testing import volumes_windows as volumes
from stillframe.testing.tools import run_tool

pytestmark = pytest.mark.root
MIB = 1 << 20
EXFAT = ExfatFilesystem()
SHAPES = {
    "512": (16 * MIB, 512),
    "4k": (33 * MIB + 1536, 4096),
    "128k": (96 * MIB, 128 << 10),
    "1m": (128 * MIB, MIB),
}
Volumes = Callable[[str], tuple[Path, dict[str, str]]]


@pytest.fixture(scope="session")
def exfat_volumes(tmp_path_factory: pytest.TempPathFactory) -> Volumes:
    """Filled volumes by name of their shape, each made once."""
    folder = tmp_path_factory.mktemp("exfat")
    made: dict[str, tuple[Path, dict[str, str]]] = {}

    def get(shape: str) -> tuple[Path, dict[str, str]]:
        if shape not in made:
            image, (size, cluster_size) = folder / f"{shape}.img", SHAPES[shape]
            volumes.make_exfat(image, size=size, cluster_size=cluster_size)
            with volumes.mounted_exfat(image, folder / "mount") as root:
                volumes.fill_tree(root, seed=11, size=400_000 if shape == "1m" else 5 * MIB, piece=100_000)
                hashes = volumes.hash_tree(root)
            made[shape] = (image, hashes)
        return made[shape]

    return get


@pytest.mark.variants(2)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_map_is_partclones_and_the_tail(exfat_volumes: Volumes, shape: str) -> None:
    image, _ = exfat_volumes(shape)
    reader = open_file_reader(str(image))
    boot, ours, theirs = find_exfat_boot(reader), EXFAT.used_map(reader), volumes.map_with_partclone("exfat", image)
    assert boot is not None
    assert (ours.kind, ours.notices, boot.cluster_size) == ("used", (), SHAPES[shape][1])
    assert (theirs - ours.extents).size == 0
    assert (ours.extents - theirs - ExtentSet.of(Extent(boot.end, reader.size))).size == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_a_copy_of_the_used_bytes_holds_every_file(exfat_volumes: Volumes, shape: str, tmp_path: Path) -> None:
    image, hashes = exfat_volumes(shape)
    copy = tmp_path / "copy.img"
    volumes.keep_only(image, EXFAT.used_map(open_file_reader(str(image))).extents, copy)
    run_tool("fsck.exfat", "-n", str(copy))
    with volumes.mounted_exfat(copy, tmp_path / "mount") as root:
        assert volumes.hash_tree(root) == hashes
    copy.unlink()


@pytest.mark.parametrize("shape", SHAPES)
def test_blkid_gives_the_same_name(exfat_volumes: Volumes, shape: str) -> None:
    image, _ = exfat_volumes(shape)
    named, volume = volumes.name_with_blkid(image), EXFAT.identify(open_file_reader(str(image)))
    assert volume is not None
    assert (named["TYPE"], named["LABEL"], named["UUID"]) == (volume.filesystem, volume.label, volume.uuid)


def test_a_volume_cut_off_while_mounted_is_raw(exfat_volumes: Volumes, tmp_path: Path) -> None:
    image, cut = tmp_path / "live.img", tmp_path / "cut.img"
    shutil.copyfile(exfat_volumes("4k")[0], image)
    with volumes.mounted_exfat(image, tmp_path / "mount") as root:
        with (root / "new.bin").open("wb") as file:
            file.write(bytes(100_000))
            file.flush()
            os.fsync(file.fileno())
        shutil.copyfile(image, cut)
    reader = open_file_reader(str(cut))
    used = EXFAT.used_map(reader)
    assert ([notice.code for notice in used.notices], used.kind) == (["exfat-dirty"], "raw")
    assert used.extents == ExtentSet.of(Extent(0, reader.size))
    assert EXFAT.used_map(open_file_reader(str(image))).kind == "used"


@pytest.mark.parametrize("place", [0x58, 0x6C, 200, 512 * 11, 512 * 3 + 17])
def test_a_broken_boot_region_is_named_from_its_copy(exfat_volumes: Volumes, tmp_path: Path, place: int) -> None:
    image, _ = exfat_volumes("4k")

    def break_boot(contents: bytearray) -> None:
        contents[place] ^= 0x55

    broken = open_file_reader(str(volumes.patched_copy(image, tmp_path / "broken.img", break_boot)))
    assert EXFAT.identify(broken) == EXFAT.identify(open_file_reader(str(image)))
    used = EXFAT.used_map(broken)
    assert ([notice.code for notice in used.notices], used.kind) == (["exfat-backup-boot"], "raw")


def test_a_copy_behind_another_file_system_is_not_ours(exfat_volumes: Volumes, tmp_path: Path) -> None:
    def take_over(contents: bytearray) -> None:
        contents[: 512 * 12] = bytes(512 * 12)

    other = volumes.patched_copy(exfat_volumes("4k")[0], tmp_path / "other.img", take_over)
    assert EXFAT.identify(open_file_reader(str(other))) is None
