"""Files counted from the tables of NTFS and ext: the same numbers as a walk by the Sleuth Kit, and as a mount shows."""

import os
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stillframe.block import BlockReader, MemoryDisk
from stillframe.errors import Cancelled
from stillframe.extents import Extent
from stillframe.fs.base import Volume
from stillframe.fs.files.counting import FileCounts, LargeFolder, count_at_once, count_files, count_walking
from stillframe.fs.registry import identify
from stillframe.testing import volumes_windows as volumes
from stillframe.testing.faulty_disk import FaultyDisk, PlannedFault
from stillframe.testing.tools import run_tool, unmount

pytestmark = pytest.mark.root
MIB = 1 << 20
EXT = {
    "ext4": "-t ext4 -b 4096",
    "ext4 1k": "-t ext4 -b 1024 -O ^64bit",
    "ext4 plain": "-t ext4 -O ^flex_bg,^metadata_csum,uninit_bg,^dir_index",
    "ext4 large": "-t ext4 -b 2048 -I 128 -O large_dir,ea_inode,metadata_csum_seed,mmp",
    "ext3 1k": "-t ext3 -b 1024",
    "ext2 1k": "-t ext2 -b 1024",
    "ext2 rev": "-t ext2 -O ^filetype,^ext_attr,none",
}
NTFS = {"512": (512, 512), "4k": (4096, 512), "4kn": (4096, 4096), "64k": (65536, 512)}


@contextmanager
def mounted(kind: str, image: Path, place: Path) -> Iterator[Path]:
    if kind == "ntfs":
        with volumes.mounted_ntfs(image, place, "streams_interface=windows", "compression") as root:
            yield root
        return
    place.mkdir(exist_ok=True)
    run_tool("mount", "-o", "loop", str(image), str(place))
    try:
        yield place
    finally:
        unmount(place)


def make(kind: str, shape: str, image: Path, *, size: int = 96 * MIB) -> None:
    if kind == "ntfs":
        cluster, sector = NTFS[shape]
        volumes.make_ntfs(image, size=size, cluster_size=cluster, sector_size=sector)
        return
    with image.open("wb") as file:
        file.truncate(size)
    run_tool("mke2fs", "-q", "-F", "-N", "20000", *EXT[shape].split(), str(image))


def fill_many(root: Path) -> None:
    """Large folders that lost names, deep ones, empty ones, files with several names in several folders."""
    large = root / "large folder"
    large.mkdir()
    for number in range(1200):
        (large / f"{number:05} {'x' * (number % 60)}").write_bytes(b"ab" * (number % 40))
        if number % 3 == 0:  # the folder grows in pieces
            (root / f"top{number}").write_bytes(b"c" * 1500)
    for number in range(0, 1100, 2):
        (large / f"{number:05} {'x' * (number % 60)}").unlink()
    (root / "Größe" / "漢字" / "three" / "four" / "five").mkdir(parents=True)
    (root / "Größe" / "漢字" / "three" / "four" / "five" / "deep").write_bytes(b"d" * 70_000)
    (root / "Größe" / "漢字" / "\\x5c").mkdir()
    (root / "Größe" / "漢字" / "\\x5c" / "file").write_bytes(b"e" * 90_000)
    for name in ("empty", "b/c/d", "b/a", "a/z"):
        (root / name).mkdir(parents=True)
    for number in range(30):
        first = root / "b" / "c" / "d" / f"linked {number}"
        first.write_bytes(b"f" * 9000)
        for folder in (("b/a", "a/z"), ("b/c",), ("a", "b", "large folder"))[number % 3]:
            os.link(first, root / folder / f"again {number}")
    with (root / "a" / "sparse").open("wb") as file:
        file.truncate(17 * MIB)
        file.seek(9 * MIB)
        file.write(b"here")


def fill_linux(root: Path) -> None:
    fill_many(root)
    os.symlink("nowhere", root / "a" / "link")
    os.mkfifo(root / "b" / "pipe")
    os.mkdir(os.fsencode(root) + b"/no \xff utf-8")
    Path(os.fsdecode(os.fsencode(root) + b"/no \xff utf-8/file")).write_bytes(b"g" * 300_000)


def fill_windows(root: Path) -> None:
    fill_many(root)
    (root / "a" / "streams").write_bytes(b"h" * 5000)
    for number in range(60):  # more than a record holds, so that it has further ones
        (root / "a" / f"streams:stream {number}").write_bytes(b"i" * 900)
    (root / "a" / "names").write_bytes(b"j" * 8000)
    for number in range(60):
        os.link(root / "a" / "names", root / ("a/z", "b", "empty")[number % 3] / f"name number {number} of one file")
    (root / "packed").mkdir()
    os.setxattr(root / "packed", "system.ntfs_attrib_be", struct.pack(">I", 0x810))
    (root / "packed" / "text").write_bytes(b"abc" * 100_000)
    (root / "packed by windows").write_bytes(b"k" * 20_000)
    (root / "packed by windows:WofCompressedData").write_bytes(b"l" * 2000)
    (root / "a long folder name").mkdir()
    os.setxattr(root / "a long folder name", "system.ntfs_dos_name", b"ALONGF~1")
    (root / "a long folder name" / "a long file name").write_bytes(b"m" * 3000)
    os.setxattr(root / "a long folder name" / "a long file name", "system.ntfs_dos_name", b"ALONGF~2.BIN")
    (root / "linked too.bin").write_bytes(b"n" * 50_000)
    os.setxattr(root / "linked too.bin", "system.ntfs_dos_name", b"LINKED~1.BIN")
    os.link(root / "linked too.bin", root / "b" / "x")
    (root / "junction").mkdir()
    target = "\\??\\C:\\Users".encode("utf-16-le")
    body = struct.pack("<HHHH", 0, len(target), len(target) + 2, 0) + target + bytes(4)
    os.setxattr(root / "junction", "system.ntfs_reparse_data", struct.pack("<IHH", 0xA0000003, len(body), 0) + body)
    scattered = root / "b" / "scattered"
    with scattered.open("wb") as file:
        for number in range(700):  # every second cluster: more runs than its first record holds
            file.seek(number << 17)
            file.write(b"o")


def read_mount(root: Path) -> tuple[int, int, int]:
    """Files, folders and bytes as a mount shows them; each file once, and no link."""
    files: dict[int, int] = {}
    count = 0
    for folder, names, found in os.walk(os.fsencode(root)):
        count += len(names)
        for name in found:
            status = os.lstat(os.path.join(folder, name))
            if os.path.isfile(os.path.join(folder, name)) and not os.path.islink(os.path.join(folder, name)):
                files[status.st_ino] = status.st_size
    return len(files), count, sum(files.values())


def volume_of(reader: BlockReader) -> Volume:
    found = identify(reader)
    assert found is not None
    return found.volume


def counted_twice(reader: BlockReader) -> FileCounts:
    """The counts from the tables, which must be those of a walk."""
    volume = volume_of(reader)
    at_once, walked = count_at_once(reader, volume), count_walking(reader, volume)
    assert walked.is_complete
    assert at_once == walked.records[0]
    return at_once


@pytest.mark.variants(5)
@pytest.mark.parametrize(("kind", "shape"), [("ext", s) for s in EXT] + [("ntfs", s) for s in NTFS])
def test_tables_a_walk_and_a_mount_say_the_same(tmp_path: Path, kind: str, shape: str) -> None:
    image = tmp_path / "volume.img"
    make(kind, shape, image)
    with mounted(kind, image, tmp_path / "mount") as root:
        (fill_windows if kind == "ntfs" else fill_linux)(root)
        if "-t ext4" in EXT.get(shape, ""):  # the library goes through the map of a file without extents
            with (root / "huge").open("wb") as file:
                file.truncate(5 << 30)
        files, folders, size = read_mount(root)
    folders += kind == "ntfs"  # ntfs-3g shows a junction as a link
    counts = counted_twice(MemoryDisk(image.read_bytes()))
    assert (counts.files_count, counts.folders_count, counts.size) == (files, folders, size)
    assert {one.path for one in counts.largest} & {"/Größe/漢字/\\x5cx5c", "/a", "/"}


def test_folders_whose_hashes_have_two_levels(tmp_path: Path) -> None:
    """The Sleuth Kit takes what an inner block of hashes holds for names now and then, so only the kernel is asked."""
    image = tmp_path / "volume.img"
    make("ext", "ext4 1k", image)
    with mounted("ext", image, tmp_path / "mount") as root:
        (root / "many").mkdir()
        for number in range(600):
            (root / "many" / ("y" * 240 + str(number))).write_bytes(b"a" * number)
        seen = read_mount(root)
    assert "Indirect levels: 1" in run_tool("debugfs", "-R", "htree_dump /many", str(image))
    disk = MemoryDisk(image.read_bytes())
    counts = count_at_once(disk, volume_of(disk))
    assert counts is not None
    assert (counts.files_count, counts.folders_count, counts.size) == seen


def test_a_file_with_several_names_counts_where_the_first_path_is(tmp_path: Path) -> None:
    image = tmp_path / "volume.img"
    make("ext", "ext4", image)
    with mounted("ext", image, tmp_path / "mount") as root:
        for name in ("z", "m/n/o/p", "b"):
            (root / name).mkdir(parents=True)
        (root / "z" / "file").write_bytes(bytes(100_000))
        os.link(root / "z" / "file", root / "m" / "n" / "o" / "p" / "file")
        (root / "b" / "other").write_bytes(bytes(30_000))
        os.link(root / "b" / "other", root / "other")
    assert counted_twice(MemoryDisk(image.read_bytes())).largest == (
        LargeFolder(path="/m/n/o", size=100_000, files_count=1),
        LargeFolder(path="/", size=30_000, files_count=1),
    )


def test_folders_in_which_case_does_not_count(tmp_path: Path) -> None:
    """Made by mke2fs: not every kernel mounts such a volume."""
    image, tree = tmp_path / "volume.img", tmp_path / "tree"
    tree.mkdir()
    fill_many(tree)
    image.touch()
    os.truncate(image, 96 * MIB)
    layout = ("-t", "ext4", "-N", "20000", "-O", "casefold", "-E", "encoding=utf8")
    run_tool("mke2fs", "-q", "-F", *layout, "-d", str(tree), str(image))
    assert counted_twice(MemoryDisk(image.read_bytes())).files_count == read_mount(tree)[0]


def test_an_empty_volume_and_one_that_lost_all_its_files(tmp_path: Path) -> None:
    for kind, shape in (("ext", "ext4 1k"), ("ntfs", "4k")):
        image = tmp_path / f"{kind}.img"
        make(kind, shape, image)
        empty = counted_twice(MemoryDisk(image.read_bytes()))
        assert (empty.files_count, empty.size, empty.largest) == (0, 0, ())
        with mounted(kind, image, tmp_path / "mount") as root:
            for number in range(900):
                (root / f"{number} with a name").write_bytes(b"a")
            for number in range(900):
                (root / f"{number} with a name").unlink()
        assert counted_twice(MemoryDisk(image.read_bytes())) == empty


def test_a_fault_leads_to_the_walk_which_says_what_it_could_not_read(tmp_path: Path) -> None:
    image = tmp_path / "volume.img"
    make("ext", "ext4", image, size=16 * MIB)
    with mounted("ext", image, tmp_path / "mount") as root:
        (root / "folder").mkdir()
        (root / "folder" / "file").write_bytes(b"a")
    block = run_tool("debugfs", "-R", "blocks /folder", str(image)).splitlines()[0].strip()
    fault = PlannedFault(extent=Extent(int(block) * 4096, int(block) * 4096 + 512))
    disk = MemoryDisk(image.read_bytes())
    volume = volume_of(disk)
    with FaultyDisk(disk, [fault]) as broken:
        assert count_at_once(broken, volume) is None
        found = count_files(broken, volume)
    assert found is not None
    assert (found.is_complete, found.records[0].files_count, found.records[0].folders_count) == (False, 0, 2)
    assert "/folder" in found.notices[0].message


def test_a_person_who_stops_it_is_not_held_up_by_the_walk(tmp_path: Path) -> None:
    image = tmp_path / "volume.img"
    make("ext", "ext4", image, size=16 * MIB)
    volume = volume_of(MemoryDisk(image.read_bytes()))

    class Stopping(MemoryDisk):
        def read_at(self, offset: int, length: int) -> bytes:
            raise Cancelled(f"Ctrl-C before {length} bytes at {offset}")

    with pytest.raises(Cancelled):
        count_at_once(Stopping(image.read_bytes()), volume)


def test_a_volume_that_was_not_closed_is_walked(tmp_path: Path) -> None:
    """Names in records and in folders may differ there, and the walk goes by folders."""
    image = tmp_path / "volume.img"
    make("ntfs", "4k", image, size=16 * MIB)
    with mounted("ntfs", image, tmp_path / "mount") as root:
        (root / "file").write_bytes(b"a")
    raw = bytearray(image.read_bytes())
    disk = MemoryDisk(bytes(raw))
    table = volumes.open_table(disk)
    record = int(table.stream.disk_starts[0]) + 3 * table.boot.record_size
    place = record + struct.unpack_from("<H", raw, record + 0x14)[0]
    while struct.unpack_from("<I", raw, place)[0] != 0x70:  # $VOLUME_INFORMATION
        place += struct.unpack_from("<I", raw, place + 4)[0]
    raw[place + 0x18 + 10] |= 1  # VOLUME_IS_DIRTY
    dirty = MemoryDisk(bytes(raw))
    assert count_at_once(disk, volume_of(disk)) is not None
    assert count_at_once(dirty, volume_of(dirty)) is None
    found = count_files(dirty, volume_of(dirty))
    assert found is not None
    assert found.records[0].files_count == 1


def test_random_trees(tmp_path: Path) -> None:
    source = random.Random(3)
    for kind, shape in (("ext", "ext2 1k"), ("ext", "ext4"), ("ntfs", "4k")):
        image = tmp_path / f"{kind}.img"
        make(kind, shape, image)
        with mounted(kind, image, tmp_path / "mount") as root:
            folders = [root]
            for number in range(150):
                folders.append(source.choice(folders) / f"{source.randrange(1000)} {number}")
                folders[-1].mkdir()
            files = []
            for number in range(700):
                files.append(source.choice(folders) / f"{number}{'n' * source.randrange(60)}")
                files[-1].write_bytes(bytes(source.choice((0, 5, 700, 5000, 30_000))))
                if number % 5 == 0:
                    os.link(source.choice(files), source.choice(folders) / f"link {number}")
                if number % 7 == 0:
                    files.pop(source.randrange(len(files))).unlink()
        counted_twice(MemoryDisk(image.read_bytes()))
