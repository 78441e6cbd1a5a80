"""Btrfs against dump-tree, partclone, btrfs check, scrub and the kernel's own driver."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stillframe.block import MemoryDisk
from stillframe.block.file import open_file_reader
from stillframe.extents import Extent, ExtentSet
from stillframe.fs.base import UsedMap
from stillframe.fs.btrfs import BtrfsFilesystem
from stillframe.fs.registry import identify, read_used_map
from stillframe.testing import volumes_btrfs as volumes
from stillframe.testing.tools import run_tool
from stillframe.testing.volumes_windows import hash_tree, keep_only, map_with_partclone, name_with_blkid

pytestmark = pytest.mark.root
MIB = 1 << 20
BTRFS = BtrfsFilesystem()

# By name: bytes of the partition, options of mkfs, options of mount.
SHAPES: dict[str, tuple[int, str, str]] = {
    "default": (300 * MIB + 1536, "", "compress=zstd"),
    "single": (300 * MIB, "-m single", "compress=zstd"),
    "dup-data": (400 * MIB, "-d dup", ""),
    "mixed": (120 * MIB, "-M", ""),
    "mixed-single": (120 * MIB, "-M -m single -d single", "compress=lzo"),
    "node-4k": (300 * MIB, "-n 4096", ""),
    "node-64k": (300 * MIB, "-n 65536", "compress=zstd"),
    "sha256": (300 * MIB, "--csum sha256", ""),
    "blake2": (300 * MIB, "--csum blake2", ""),
    "old-space-cache": (300 * MIB, "-R ^free-space-tree", "space_cache=v1"),
    "no-space-cache": (300 * MIB, "-R ^free-space-tree", "nospace_cache"),
    "converted-space-tree": (300 * MIB, "-R ^free-space-tree", "space_cache=v2"),
    "old-features": (300 * MIB, "-O ^skinny-metadata,^no-holes,^extref -n 4096", ""),
    "quota": (300 * MIB, "-R quota", ""),
    "metadata-uuid": (300 * MIB, "", "compress=zstd"),
    "block-group-tree": (300 * MIB, "", ""),
    "balanced": (500 * MIB, "-n 4096", ""),
}
Volumes = Callable[[str], tuple[Path, dict[str, str]]]


@pytest.fixture(scope="session")
def btrfs_volumes(tmp_path_factory: pytest.TempPathFactory) -> Volumes:
    """Filled volumes by name of their shape, each made once."""
    folder = tmp_path_factory.mktemp("btrfs")
    made: dict[str, tuple[Path, dict[str, str]]] = {}

    def get(shape: str) -> tuple[Path, dict[str, str]]:
        if shape not in made:
            image, (size, options, mount_options) = folder / f"{shape}.img", SHAPES[shape]
            volumes.make_btrfs(image, "-L", f"the {shape}", *options.split(), size=size)
            if shape == "block-group-tree":
                volumes.move_block_groups(image)
            if shape == "metadata-uuid":
                run_tool("btrfstune", "-m", str(image))
            with volumes.mounted_btrfs(image, folder / "mount", ",".join(filter(None, ["rw", mount_options]))) as root:
                volumes.fill_btrfs(root, seed=len(shape), size=5 * MIB)
                if shape == "balanced":
                    run_tool("btrfs", "balance", "start", "--full-balance", str(root))
                hashes = hash_tree(root)
            made[shape] = (image, hashes)
        return made[shape]

    return get


def read_map(image: Path) -> UsedMap:
    with open_file_reader(str(image)) as reader:
        return BTRFS.used_map(reader)


def super_fields(image: Path) -> dict[str, str]:
    text = run_tool("btrfs", "inspect-internal", "dump-super", str(image))
    return dict(re.findall(r"^([\w.]+)\t+(\S+)", text, re.MULTILINE))


def always_kept(image: Path) -> ExtentSet:
    """What no extent stands for: the first MiB, the superblocks, and what lies behind the file system."""
    end = int(super_fields(image)["dev_item.total_bytes"])
    mirror = Extent(64 * MIB, 64 * MIB + 4096)
    return ExtentSet.of(Extent(0, MIB), mirror, Extent(end, image.stat().st_size))


def codes(used: UsedMap) -> list[str]:
    return [notice.code for notice in used.notices]


@pytest.mark.variants(6)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_map_is_exactly_what_dump_tree_lists(btrfs_volumes: Volumes, shape: str) -> None:
    image, _ = btrfs_volumes(shape)
    used = read_map(image)
    listed = volumes.list_used(image, node_size=int(super_fields(image)["nodesize"]))
    assert (used.kind, used.notices) == ("used", ())
    assert used.extents == listed | always_kept(image)
    assert used.extents.size < image.stat().st_size // 2


@pytest.mark.variants(5)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_copy_of_the_used_bytes_holds_every_file(btrfs_volumes: Volumes, shape: str, tmp_path: Path) -> None:
    image, hashes = btrfs_volumes(shape)
    copy = tmp_path / "copy.img"
    keep_only(image, read_map(image).extents, copy)
    if shape != "block-group-tree":  # which this version of btrfs check does not know; the kernel does
        run_tool("btrfs", "check", "--readonly", "--check-data-csum", str(copy))
    with volumes.mounted_btrfs(copy, tmp_path / "mount") as root:
        assert hash_tree(root) == hashes
        assert "no errors found" in run_tool("btrfs", "scrub", "start", "-B", str(root))
        (root / "new").write_bytes(os.urandom(MIB))
    copy.unlink()


@pytest.mark.parametrize("shape", ["default", "single", "node-4k", "sha256", "balanced"])
def test_partclone_keeps_no_other_data(btrfs_volumes: Volumes, shape: str) -> None:
    """Of tree blocks it leaves out second copies and, in 0.3.23, some roots of snapshots; its copy fails the check."""
    image, _ = btrfs_volumes(shape)
    theirs, ours = map_with_partclone("btrfs", image), read_map(image).extents
    chunks = volumes.list_chunks(image)
    data, blocks = (
        ExtentSet.of(*volumes.to_places(chunks, listed))
        for listed in volumes.list_extents(image, node_size=int(super_fields(image)["nodesize"]))
    )
    assert data.size > MIB
    assert (data - theirs).size == 0
    assert (data - ours).size == 0
    assert (ours - theirs - always_kept(image) - blocks).size == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_blkid_gives_the_same_name(btrfs_volumes: Volumes, shape: str) -> None:
    image, _ = btrfs_volumes(shape)
    with open_file_reader(str(image)) as reader:
        named, found = name_with_blkid(image), identify(reader)
        assert read_used_map(reader, found).kind == "used"
        assert BTRFS.left_out(reader) == ()
    volume = found.volume
    assert (named["TYPE"], named["LABEL"], named["UUID"]) == (volume.filesystem, volume.label, volume.uuid)
    assert int(named["BLOCK_SIZE"]) == volume.block_size


def test_the_shapes_have_trees_of_several_levels(btrfs_volumes: Volumes) -> None:
    """Else the tests above would not try nodes."""
    listing = volumes.tree_listing(btrfs_volumes("node-4k")[0], "extent")
    assert re.search(r"^node \d+ level [1-9]", listing, re.MULTILINE)


def test_the_feature_block_group_tree_is_there(btrfs_volumes: Volumes) -> None:
    """Else its shape would be the default one."""
    contents = btrfs_volumes("block-group-tree")[0].read_bytes()
    assert contents[volumes.SUPERBLOCK + 0xB4] & 8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files for a volume that is not mounted."""
    made = tmp_path / "folder"
    made.mkdir()
    for number in range(60):
        (made / f"file{number}").write_bytes(os.urandom(2000 * number))
    return made


@pytest.mark.parametrize("size", [8192, 16384, 65536])
def test_larger_sectors_are_read_too(tmp_path: Path, folder: Path, size: int) -> None:
    """This kernel mounts no sectors that are larger than its pages; btrfs check is the judge."""
    image, copy = tmp_path / "volume", tmp_path / "copy"
    volumes.make_btrfs(image, "-s", str(size), "-n", "65536", "-m", "single", size=300 * MIB, folder=folder)
    used = read_map(image)
    assert (used.kind, used.notices) == ("used", ())
    assert used.extents == volumes.list_used(image, node_size=65536) | always_kept(image)
    keep_only(image, used.extents, copy)
    run_tool("btrfs", "check", "--readonly", "--check-data-csum", str(copy))


@pytest.mark.parametrize("node_size", [4096, 16384])
def test_a_volume_converted_from_ext4_is_read(tmp_path: Path, folder: Path, node_size: int) -> None:
    """Its chunks are those of another tool, and its old file system is a file of a subvolume."""
    image, copy = tmp_path / "volume", tmp_path / "copy"
    image.touch()
    os.truncate(image, 300 * MIB)
    run_tool("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-d", str(folder), str(image))
    run_tool("btrfs-convert", "--nodesize", str(node_size), str(image))
    used = read_map(image)
    assert (used.kind, used.notices) == ("used", ())
    assert used.extents == volumes.list_used(image, node_size=node_size) | always_kept(image)
    keep_only(image, used.extents, copy)
    run_tool("btrfs", "check", "--readonly", "--check-data-csum", str(copy))
    with volumes.mounted_btrfs(copy, tmp_path / "mount") as root:
        found = {name: digest for name, digest in hash_tree(root).items() if name.startswith("file")}
        assert found == hash_tree(folder)
    run_tool("btrfs-convert", "--rollback", str(copy))
    run_tool("e2fsck", "-fn", str(copy))


def test_all_superblocks_of_a_large_volume_are_kept(tmp_path: Path) -> None:
    image = tmp_path / "volume"
    volumes.make_btrfs(image, size=300 << 30)
    used = read_map(image)
    mirror = Extent(256 << 30, (256 << 30) + 4096)
    listed = volumes.list_used(image, node_size=16384) | always_kept(image) | ExtentSet.of(mirror)
    assert (used.kind, used.extents) == ("used", listed)


def test_a_volume_of_xxhash_is_raw(tmp_path: Path) -> None:
    image = tmp_path / "volume"
    volumes.make_btrfs(image, "--csum", "xxhash", size=128 * MIB)
    used = read_map(image)
    assert (used.kind, codes(used)) == ("raw", ["btrfs-checksum-type"])
    assert used.extents == ExtentSet.of(Extent(0, 128 * MIB))
    with open_file_reader(str(image)) as reader:
        assert identify(reader).volume.uuid == name_with_blkid(image)["UUID"]


@pytest.mark.parametrize("options", ["-m raid1 -d raid1", "-m raid0 -d single", "-m single -d single"])
def test_a_volume_on_two_devices_is_raw(tmp_path: Path, options: str) -> None:
    images = [tmp_path / "first", tmp_path / "second"]
    for image in images:
        image.touch()
        os.truncate(image, 200 * MIB)
    run_tool("mkfs.btrfs", "-q", *options.split(), *map(str, images))
    for image in images:
        used = read_map(image)
        assert (used.kind, codes(used)) == ("raw", ["btrfs-several-devices"])
        with open_file_reader(str(image)) as reader:
            assert identify(reader).volume.filesystem == "btrfs"


def test_stripes_on_one_device_are_raw(tmp_path: Path) -> None:
    image = tmp_path / "volume"
    volumes.make_btrfs(image, "-d", "raid0", size=200 * MIB)
    used = read_map(image)
    assert (used.kind, codes(used)) == ("raw", ["btrfs-profile"])
    assert "RAID0" in used.notices[0].message


def test_a_seed_is_raw(btrfs_volumes: Volumes, tmp_path: Path) -> None:
    image = tmp_path / "seed"
    shutil.copyfile(btrfs_volumes("single")[0], image)
    run_tool("btrfstune", "-f", "-S", "1", str(image))
    used = read_map(image)
    assert (used.kind, codes(used)) == ("raw", ["btrfs-state"])
    assert "SEEDING" in used.notices[0].message


def test_a_cut_off_volume_is_raw(btrfs_volumes: Volumes, tmp_path: Path) -> None:
    image = tmp_path / "cut"
    shutil.copyfile(btrfs_volumes("single")[0], image)
    os.truncate(image, 299 * MIB)
    assert codes(read_map(image)) == ["btrfs-truncated"]


def test_a_volume_inside_a_container_is_not_taken_for_itself(btrfs_volumes: Volumes) -> None:
    disk = MemoryDisk(btrfs_volumes("mixed-single")[0].read_bytes())
    disk.contents[4096 + 24 : 4096 + 40] = bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")  # bcache
    found = identify(disk)
    assert found.filesystem is None
    assert read_used_map(disk, found).kind == "raw"
    assert "bcache and btrfs" in found.notices[0].message
