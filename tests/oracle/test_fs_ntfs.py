"""NTFS against partclone, blkid, ntfsfix and ntfs-3g; volumes are made by mkntfs and filled by ntfs-3g."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from stillframe.block import MemoryDisk
from stillframe.block.file import open_file_reader
from stillframe.extents import Extent, ExtentSet
from stillframe.fs.base import UsedMap
from stillframe.fs.ntfs import NtfsFilesystem
from stillframe.fs.ntfs.mft import BITMAP_INDEX, LOG_INDEX, MFT_INDEX
from stillframe.fs.ntfs.record import AttributeType, unprotect
from stillframe.fs.ntfs.scan import scan_clusters
from stillframe.testing import volumes_windows as volumes
from stillframe.testing.tools import run_tool

pytestmark = pytest.mark.root
MIB = 1 << 20
Volumes = Callable[[str], tuple[Path, dict[str, str]]]
SHAPES = {
    "512": {"size": 24 * MIB + 12288, "cluster_size": 512},
    "4k": {"size": 40 * MIB + 512, "cluster_size": 4096},
    "64k": {"size": 64 * MIB + 40960, "cluster_size": 65536},
    "2m": {"size": 512 * MIB + 512 * 77, "cluster_size": 2 * MIB},
    "4kn": {"size": 48 * MIB, "cluster_size": 4096, "sector_size": 4096},
}
NTFS = NtfsFilesystem()


@pytest.fixture(scope="session")
def ntfs_volumes(tmp_path_factory: pytest.TempPathFactory) -> Volumes:
    """Filled volumes by name of their shape, each made once."""
    folder = tmp_path_factory.mktemp("ntfs")
    made: dict[str, tuple[Path, dict[str, str]]] = {}

    def get(shape: str) -> tuple[Path, dict[str, str]]:
        if shape not in made:
            image = folder / f"{shape}.img"
            volumes.make_ntfs(image, label=f"Disk {shape}", **SHAPES[shape])
            with volumes.mounted_ntfs(image, folder / "mount", "compression") as root:
                if SHAPES[shape]["cluster_size"] <= 4096:  # NTFS compresses no larger clusters
                    (root / "packed").mkdir()
                    os.setxattr(root / "packed", "system.ntfs_attrib_be", bytes.fromhex("00000800"))
                    (root / "packed" / "text.txt").write_bytes(b"abcdefgh" * 50_000)
                volumes.fill_tree(root, seed=7, size=8 * MIB if shape != "2m" else 3 * MIB)
                (root / "PageFile.SYS").write_bytes(os.urandom(300_000))
                (root / "sparse.bin").touch()
                os.truncate(root / "sparse.bin", 5 * MIB)
                hashes = volumes.hash_tree(root)
            made[shape] = (image, hashes)
        return made[shape]

    return get


@pytest.mark.parametrize("shape", SHAPES)
def test_the_map_is_partclones_and_the_tail(ntfs_volumes: Volumes, shape: str) -> None:
    image, _ = ntfs_volumes(shape)
    reader = open_file_reader(str(image))
    ours, theirs = NTFS.used_map(reader), volumes.map_with_partclone("ntfs", image)
    cluster_size = SHAPES[shape]["cluster_size"]
    tail = Extent((reader.size - SHAPES[shape].get("sector_size", 512)) // cluster_size * cluster_size, reader.size)
    assert (ours.kind, ours.notices) == ("used", ())
    assert (theirs - ours.extents).size == 0
    assert (ours.extents - theirs - ExtentSet.of(tail)).size == 0
    assert ours.extents.contains(tail)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_table_alone_gives_the_same_clusters(ntfs_volumes: Volumes, shape: str) -> None:
    image, _ = ntfs_volumes(shape)
    reader = open_file_reader(str(image))
    table = volumes.open_table(reader)
    tail = ExtentSet.of(Extent(table.boot.size, reader.size))
    assert scan_clusters(reader, table) | tail == NTFS.used_map(reader).extents


@pytest.mark.parametrize("shape", SHAPES)
def test_blkid_gives_the_same_name(ntfs_volumes: Volumes, shape: str) -> None:
    image, _ = ntfs_volumes(shape)
    named, volume = volumes.name_with_blkid(image), NTFS.identify(open_file_reader(str(image)))
    assert volume is not None
    assert (named["TYPE"], named["LABEL"], named["UUID"]) == (volume.filesystem, volume.label, volume.uuid)
    assert volume.block_size == SHAPES[shape]["cluster_size"]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_copy_of_the_used_bytes_holds_every_file(ntfs_volumes: Volumes, shape: str, tmp_path: Path) -> None:
    image, hashes = ntfs_volumes(shape)
    assert_survives(image, hashes, tmp_path)


def assert_survives(image: Path, hashes: dict[str, str], folder: Path) -> UsedMap:
    """The bytes of the map alone make a volume that ntfsfix finds good and that holds these files."""
    copy = folder / "copy.img"
    used = NTFS.used_map(open_file_reader(str(image)))
    volumes.keep_only(image, used.extents, copy)
    assert "processed successfully" in run_tool("ntfsfix", "-n", str(copy))
    with volumes.mounted_ntfs(copy, folder / "mount", "ro") as root:
        found = volumes.hash_tree(root)
    assert {path: found.get(path) for path in hashes} == hashes
    copy.unlink()
    return used


def test_the_paging_file_is_what_ntfscat_prints(ntfs_volumes: Volumes) -> None:
    image, _ = ntfs_volumes("4k")
    (left,) = NTFS.left_out(open_file_reader(str(image)))
    assert (left.path, left.size, left.kind) == ("/PageFile.SYS", 300_000, "paging")
    contents = image.read_bytes()
    data = b"".join(contents[e.start : e.end] for e in left.extents)[:300_000]
    assert data == subprocess.run(["ntfscat", str(image), "PageFile.SYS"], check=True, capture_output=True).stdout


def test_files_written_before_a_power_cut_are_all_kept(tmp_path: Path) -> None:
    image, cut = tmp_path / "live.img", tmp_path / "cut.img"
    volumes.make_ntfs(image, size=48 * MIB)
    with volumes.mounted_ntfs(image, tmp_path / "mount") as root:
        volumes.fill_tree(root, seed=3, size=6 * MIB)
        for path in [p for p in root.rglob("*") if p.is_file()]:
            with path.open("rb") as file:
                os.fsync(file.fileno())
        hashes = volumes.hash_tree(root)
        shutil.copyfile(image, cut)
    assert_survives(cut, hashes, tmp_path)


def test_clusters_that_a_late_bitmap_calls_free_are_kept(ntfs_volumes: Volumes, tmp_path: Path) -> None:
    image, hashes = ntfs_volumes("4k")
    reader = open_file_reader(str(image))
    boot, bitmap = volumes.open_table(reader).boot, volumes.place_of(reader, BITMAP_INDEX)

    def forget_late_allocations(contents: bytearray) -> None:
        first = boot.cluster_count // 16
        size = boot.cluster_count // 8 - first
        contents[bitmap.start + first : bitmap.start + first + size] = bytes(size)

    stale = volumes.patched_copy(image, tmp_path / "stale.img", forget_late_allocations)
    used = assert_survives(stale, hashes, tmp_path)
    assert [notice.code for notice in used.notices] == ["ntfs-map-extended"]


LOGS = {
    "closed": (volumes.restart_page(), None),
    "no client": (volumes.restart_page(in_use=0xFFFF, flags=0), None),
    "checked by chkdsk": (volumes.restart_page(magic=b"CHKD"), None),
    "in use": (volumes.restart_page(flags=0), "ntfs-log-not-clean"),
    "version 2.0": (volumes.restart_page(version=(2, 0)), "ntfs-log-not-clean"),
    "no such client": (volumes.restart_page(in_use=5), "ntfs-log-not-clean"),
    "torn": (volumes.restart_page()[:2046] + b"\x06\x00" + volumes.restart_page()[2048:], "ntfs-log-not-clean"),
}


@pytest.mark.parametrize("state", LOGS)
def test_a_log_that_ntfs_3g_refuses_makes_the_volume_raw(ntfs_volumes: Volumes, tmp_path: Path, state: str) -> None:
    page, code = LOGS[state]
    image, _ = ntfs_volumes("4k")
    start = volumes.place_of(open_file_reader(str(image)), LOG_INDEX).start

    def write_pages(contents: bytearray) -> None:
        contents[start : start + 8192] = page * 2

    changed = volumes.patched_copy(image, tmp_path / "log.img", write_pages)
    used = NTFS.used_map(open_file_reader(str(changed)))
    assert [notice.code for notice in used.notices] == ([code] if code else [])
    assert (used.kind == "raw") == bool(code)
    # ntfs-3g answers 15 for a volume that was not closed, 14 for metadata kept by Windows in its cache.
    expected = 14 if state == "version 2.0" else 15 if code else 0
    run_tool("ntfs-3g.probe", "--readwrite", str(changed), accept=(expected,))


def test_one_restart_page_in_use_is_enough(ntfs_volumes: Volumes, tmp_path: Path) -> None:
    image, _ = ntfs_volumes("4k")
    start = volumes.place_of(open_file_reader(str(image)), LOG_INDEX).start

    def write_pages(contents: bytearray) -> None:
        contents[start : start + 8192] = LOGS["closed"][0] + LOGS["in use"][0]

    changed = volumes.patched_copy(image, tmp_path / "log.img", write_pages)
    assert NTFS.used_map(open_file_reader(str(changed))).kind == "raw"


@pytest.mark.parametrize(
    ("head", "codes"),
    [
        (b"hibr", ["ntfs-hibernated"]),
        (b"HIBR", ["ntfs-hibernated"]),
        (b"RSTR", ["ntfs-hibernated"]),
        (b"wake", []),
        (b"\0\0\0\0", []),
    ],
)
def test_hibernation_is_seen_as_ntfs_3g_sees_it(tmp_path: Path, head: bytes, codes: list[str]) -> None:
    image = tmp_path / "disk.img"
    volumes.make_ntfs(image, size=24 * MIB)
    with volumes.mounted_ntfs(image, tmp_path / "mount") as root:
        (root / "hiberfil.sys").write_bytes(head + bytes(100_000))
    reader = open_file_reader(str(image))
    used = NTFS.used_map(reader)
    assert ([notice.code for notice in used.notices], used.kind) == (codes, "raw" if codes else "used")
    if codes:
        assert used.extents == ExtentSet.of(Extent(0, reader.size))
    else:
        (left,) = NTFS.left_out(reader)
        assert (left.path, left.size, left.kind) == ("/hiberfil.sys", 100_004, "hibernation")
    # ntfs-3g answers 14 for a hibernated Windows; it does not know that RSTR is one that was being resumed.
    run_tool("ntfs-3g.probe", "--readwrite", str(image), accept=(14 if codes and head != b"RSTR" else 0,))


def test_a_volume_marked_dirty_is_raw(ntfs_volumes: Volumes, tmp_path: Path) -> None:
    image, _ = ntfs_volumes("4k")
    dirty = tmp_path / "dirty.img"
    shutil.copyfile(image, dirty)
    run_tool("ntfsfix", str(dirty))
    flags = run_tool("ntfsinfo", "-m", "-f", str(dirty))
    assert "DIRTY" in flags.upper()
    used = NTFS.used_map(open_file_reader(str(dirty)))
    assert ([notice.code for notice in used.notices], used.kind) == (["ntfs-dirty"], "raw")


@pytest.mark.parametrize("damage", [(0x0B, b"\xff\xff"), (0x0D, b"\x03"), (0x28, b"\xff" * 8), (0x1FE, b"\0\0")])
def test_a_broken_boot_sector_is_read_from_its_copy(
    ntfs_volumes: Volumes, tmp_path: Path, damage: tuple[int, bytes]
) -> None:
    image, _ = ntfs_volumes("4k")
    good = open_file_reader(str(image))

    def break_boot(contents: bytearray) -> None:
        contents[damage[0] : damage[0] + len(damage[1])] = damage[1]

    broken = open_file_reader(str(volumes.patched_copy(image, tmp_path / "broken.img", break_boot)))
    assert NTFS.identify(broken) == NTFS.identify(good)
    used = NTFS.used_map(broken)
    assert [notice.code for notice in used.notices] == ["ntfs-backup-boot"]
    assert used.extents == NTFS.used_map(good).extents


def test_a_broken_first_record_is_read_from_the_mirror(ntfs_volumes: Volumes, tmp_path: Path) -> None:
    image, _ = ntfs_volumes("4k")
    good = open_file_reader(str(image))
    boot = volumes.open_table(good).boot

    def break_record(contents: bytearray) -> None:
        contents[boot.mft_cluster * boot.cluster_size + 1022] ^= 0x55

    broken = open_file_reader(str(volumes.patched_copy(image, tmp_path / "broken.img", break_record)))
    table = volumes.open_table(broken)
    assert table.from_mirror
    assert table.stream.extents == volumes.open_table(good).stream.extents


@pytest.fixture(scope="session")
def ntfs_in_pieces(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A volume whose master file table grew into the holes that deleted files left."""
    folder = tmp_path_factory.mktemp("pieces")
    image = folder / "pieces.img"
    volumes.make_ntfs(image, size=12 * MIB, cluster_size=512)
    with volumes.mounted_ntfs(image, folder / "mount") as root:
        written = write_until_full(root, "even", 1500)
        for index in range(0, written, 2):
            (root / f"even{index}").unlink()
        write_until_full(root, "tiny", 3)
        hashes = volumes.hash_tree(root)
    return image, hashes


def write_until_full(root: Path, name: str, size: int) -> int:
    """Write files of this size until the volume is full; how many were written."""
    for index in range(10_000):
        try:
            (root / f"{name}{index}").write_bytes(index.to_bytes(2, "little") * (size // 2))
        except OSError:
            return index
    raise AssertionError("the volume does not fill up")


@pytest.mark.slow
def test_a_table_in_hundreds_of_pieces_is_read(ntfs_in_pieces: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    image, hashes = ntfs_in_pieces
    reader = open_file_reader(str(image))
    table = volumes.open_table(reader)
    assert table.read_record(reader, MFT_INDEX).find(AttributeType.ATTRIBUTE_LIST) is not None
    assert len(table.stream.starts) > 100
    ours, theirs = assert_survives(image, hashes, tmp_path), volumes.map_with_partclone("ntfs", image)
    assert ours.extents == theirs | ExtentSet.of(Extent(table.boot.size, reader.size))


def test_a_bitmap_in_two_pieces_is_read(ntfs_volumes: Volumes, tmp_path: Path) -> None:
    image, hashes = ntfs_volumes("512")
    changed = volumes.patched_copy(image, tmp_path / "split.img", split_bitmap)
    reader = open_file_reader(str(changed))
    table = volumes.open_table(reader)
    bitmap = table.open_stream(reader, table.read_record(reader, BITMAP_INDEX), AttributeType.DATA)
    assert bitmap is not None
    assert len(bitmap.starts) == 2
    ours, theirs = assert_survives(changed, hashes, tmp_path), volumes.map_with_partclone("ntfs", changed)
    assert ours.notices == ()
    assert ours.extents == theirs | ExtentSet.of(Extent(table.boot.size, reader.size))


def split_bitmap(contents: bytearray) -> None:
    """Move the second half of ``$Bitmap`` to free clusters of an image with clusters of 512 bytes."""
    reader = MemoryDisk(contents)
    table = volumes.open_table(reader)
    place, record = volumes.place_of(reader, BITMAP_INDEX), int(table.stream.disk_starts[0]) + BITMAP_INDEX * 1024
    first, count = place.start // 512, place.size // 512
    kept = count // 2
    free = NTFS.used_map(reader).extents.complement(Extent(0, reader.size))
    target = next(extent.start // 512 for extent in reversed(list(free)) if extent.size > place.size)
    contents[target * 512 : (target + count - kept) * 512] = contents[(first + kept) * 512 : (first + count) * 512]
    for index in range(count - kept):
        for cluster, used in ((first + kept + index, 0), (target + index, 1)):
            byte = cluster // 8 + (place.start if cluster // 8 < kept * 512 else (target - kept) * 512)
            contents[byte] = contents[byte] & ~(1 << cluster % 8) | used << cluster % 8
    fixed = bytearray(unprotect(bytes(contents[record : record + 1024]), magic=b"FILE", what="$Bitmap"))
    start = fixed.index(bytes((0x80, 0, 0, 0, 0x48, 0, 0, 0)), 0x38)
    runs = bytes((0x13 + 0x20, kept, 0, 0)) + first.to_bytes(3, "little", signed=True)
    runs += bytes((0x31, count - kept)) + (target - first).to_bytes(3, "little", signed=True)
    fixed[start + 0x40 : start + 0x58] = (runs + b"\0").ljust(16, b"\0") + bytes((0xFF,) * 4) + bytes(4)
    fixed[start + 4] = 0x50
    fixed[0x18] += 8
    number = bytes(fixed[0x30:0x32])
    for sector in (1, 2):
        fixed[0x30 + 2 * sector : 0x32 + 2 * sector] = fixed[sector * 512 - 2 : sector * 512]
        fixed[sector * 512 - 2 : sector * 512] = number
    contents[record : record + 1024] = fixed
