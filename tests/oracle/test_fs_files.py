"""Files of real volumes: what is read through a mount, and what debugfs, ntfscluster and fsck say, against ours."""

import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stillframe.block import BlockReader
from stillframe.block.base import ReadFault
from stillframe.block.file import open_file_reader
from stillframe.errors import Cancelled, DiskFormatError
from stillframe.extents import Extent, ExtentSet
from stillframe.fs.base import LeftOutFile, Volume
from stillframe.fs.files import FileTree, Found, open_files, parse_pattern
from stillframe.fs.files.names import read_name
from stillframe.fs.files.sleuthkit import DATA_TYPES, Stream
from stillframe.fs.files.walk import NOTICES_MAX, Limits, Walk
from stillframe.fs.registry import identify, read_used_map
from stillframe.testing import volumes_windows as volumes
from stillframe.testing.faulty_disk import FaultyDisk, PlannedFault
from stillframe.testing.tools import run_tool, unmount

pytestmark = pytest.mark.root
MIB = 1 << 20
NTFS = {"512": (48, 512, 512), "4k": (64, 4096, 512), "4kn": (64, 4096, 4096), "64k": (128, 65536, 512)}
FAT = {"12": (8, 12, 2048, 512), "16": (24, 16, 2048, 512), "32": (48, 32, 512, 512), "32 4kn": (300, 32, 4096, 4096)}
EXFAT = {"512": (16, 512), "4k": (33, 4096), "1m": (128, MIB)}
EXT = {
    "ext4": "-t ext4 -b 4096",
    "ext4 1k": "-t ext4 -b 1024 -O ^64bit",
    "ext4 plain": "-t ext4 -O ^flex_bg,^metadata_csum,uninit_bg,^dir_index",
    "ext4 large": "-t ext4 -O large_dir,ea_inode,metadata_csum_seed,mmp",
    "ext4 sparse2": "-t ext4 -b 1024 -O sparse_super2,^resize_inode",
    "ext3": "-t ext3",
    "ext2 1k": "-t ext2 -b 1024",
    "ext2 rev": "-t ext2 -O ^filetype,^ext_attr,none",
}
ATTRIBUTES, COMPRESSED_FOLDER = "system.ntfs_attrib_be", (0x810).to_bytes(4, "big")
SHAPES = (
    [("ntfs", s) for s in NTFS] + [("fat", s) for s in FAT] + [("exfat", s) for s in EXFAT] + [("ext", s) for s in EXT]
)
Files = dict[str, bytes]
Make = Callable[[str, str], tuple[Path, Files]]


@contextmanager
def mounted(kind: str, image: Path, place: Path, *options: str) -> Iterator[Path]:
    """A volume that the kernel or a FUSE program reads and writes."""
    place.mkdir(exist_ok=True)
    if kind == "ntfs":
        with volumes.mounted_ntfs(image, place, "streams_interface=windows", *options) as root:
            yield root
    elif kind == "exfat":
        with volumes.mounted_exfat(image, place) as root:
            yield root
    else:
        run_tool("mount", "-o", ",".join(("loop", *options)), str(image), str(place))
        try:
            yield place
        finally:
            unmount(place)


def read_all(root: Path) -> Files:
    """The contents of every file, by its path from the root; names as the system gives them."""
    found = {}
    for folder, _, names in os.walk(os.fsencode(root)):
        for name in names:
            path = Path(os.fsdecode(os.path.join(folder, name)))
            if path.is_file() and not path.is_symlink():
                found["/" + str(path.relative_to(root))] = path.read_bytes()
    return found


def make_ext(image: Path, layout: str, *, size: int = 64 * MIB) -> None:
    with image.open("wb") as file:
        file.truncate(size)
    run_tool("mke2fs", "-q", "-F", *layout.split(), str(image))


def make(kind: str, shape: str, image: Path) -> None:
    if kind == "ntfs":
        size, cluster, sector = NTFS[shape]
        volumes.make_ntfs(image, size=size * MIB, cluster_size=cluster, sector_size=sector)
    elif kind == "fat":
        size, bits, cluster, sector = FAT[shape]
        volumes.make_fat(image, size=size * MIB, bits=bits, cluster_size=cluster, sector_size=sector)
    elif kind == "exfat":
        size, cluster = EXFAT[shape]
        volumes.make_exfat(image, size=size * MIB, cluster_size=cluster)
    else:
        make_ext(image, EXT[shape])


def fill_fat(image: Path, folder: Path) -> None:
    """Through mtools: a kernel may have no FAT. Every second file goes again, so that later ones are in pieces."""
    source, folder = random.Random(5), folder / "tree"
    folder.mkdir(parents=True)
    run_tool("mmd", "-i", str(image), "::sub dir")
    for number in range(30):
        path = folder / f"long file name {number}.bin"
        path.write_bytes(source.randbytes(source.choice((0, 1, 600, 22_000, 90_000))))
        run_tool("mcopy", "-i", str(image), str(path), "::sub dir/" if number % 3 else "::")
        if number % 2:
            run_tool("mdel", "-i", str(image), f"::{'sub dir/' if number % 3 else ''}{path.name}")


def read_fat(image: Path, folder: Path) -> Files:
    folder.mkdir(parents=True)
    run_tool("mcopy", "-s", "-i", str(image), "::*", str(folder))
    return read_all(folder)


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Filled volumes by kind and shape, each made once, with what a mount reads in them."""
    folder = tmp_path_factory.mktemp("files")
    made: dict[tuple[str, str], tuple[Path, Files]] = {}

    def get(kind: str, shape: str) -> tuple[Path, Files]:
        if (kind, shape) not in made:
            name = f"{kind}-{shape}".replace(" ", "-")
            image = folder / f"{name}.img"
            make(kind, shape, image)
            if kind == "fat":
                fill_fat(image, folder / name)
                files = read_fat(image, folder / f"{name}-read")
            else:
                with mounted(kind, image, folder / "mount") as root:
                    volumes.fill_tree(root, seed=7, size=300_000 if shape == "1m" else 3 * MIB, piece=150_000)
                    files = read_all(root)
            made[(kind, shape)] = (image, files)
        return made[(kind, shape)]

    return get


def open_tree(image: Path | BlockReader) -> FileTree:
    reader = open_file_reader(str(image)) if isinstance(image, Path) else image
    tree = open_files(reader, identify(reader).volume)
    assert tree is not None
    return tree


def excluded(tree: FileTree, *patterns: str) -> Found[LeftOutFile]:
    return tree.find_excluded([parse_pattern(pattern) for pattern in patterns])


def all_streams(tree: FileTree) -> dict[str, tuple[int, tuple[Stream, ...]]]:
    """Size and streams of every file that is not the file system's own."""
    walk = Walk(tree._sleuth)
    found = {
        path: (entry.size, tree._sleuth.read_streams(entry))
        for path, entry in walk.descend(walk.root, Limits())
        if entry.is_file and not entry.is_system
    }
    assert walk.answer(()).is_complete
    return found


def assemble(image: Path, stream: Stream) -> bytes:
    """What the runs of a stream hold, holes as zeros."""
    contents, size = bytearray(stream.size), stream.size
    with image.open("rb") as file:
        for run in stream.runs:
            file.seek(run.start)
            piece = file.read(min(run.size, max(0, size - run.offset)))
            contents[run.offset : run.offset + len(piece)] = piece
    return bytes(contents)


@pytest.mark.parametrize(("kind", "shape"), SHAPES)
def test_the_runs_of_every_file_hold_what_a_mount_reads(filled: Make, kind: str, shape: str) -> None:
    image, files = filled(kind, shape)
    found = all_streams(open_tree(image))
    assert set(found) == set(files)
    outside = 0
    for path, (size, streams) in found.items():
        assert size == len(files[path])
        main = [stream for stream in streams if stream.type in DATA_TYPES and not stream.name]
        if main and size:
            outside += 1
            assert assemble(image, main[0]) == files[path]
        else:
            assert size < 1024
    assert outside > len(files) // 3 > 2


@pytest.mark.variants(7)
@pytest.mark.parametrize(("kind", "shape"), SHAPES)
def test_a_copy_without_the_excluded_bytes_is_whole_but_for_them(
    filled: Make, tmp_path: Path, kind: str, shape: str
) -> None:
    image, files = filled(kind, shape)
    answer = excluded(open_tree(image), "/folder 1/", "/sub dir/", "/l*.bin")
    assert answer.is_complete
    gone = {file.path for file in answer.records}
    assert gone
    assert {"/".join(path.split("/")[:2]) for path in gone} <= {"/folder 1", "/sub dir"} | gone
    copy = tmp_path / "copy.img"
    left_out = ExtentSet.from_extents(extent for file in answer.records for extent in file.extents)
    assert left_out.size == sum(file.extents.size for file in answer.records)
    volumes.keep_only(image, left_out.complement(Extent(0, image.stat().st_size)), copy)
    check(kind, copy)
    if kind == "fat":
        after = read_fat(copy, tmp_path / "read")
    else:
        with mounted(kind, copy, tmp_path / "mount", "ro") as root:
            after = read_all(root)
    assert set(after) == set(files)
    for path, contents in files.items():
        assert after[path] == (b"\xff" * len(contents) if path in gone else contents)
    copy.unlink()


def check(kind: str, image: Path) -> None:
    """What the volume's own checker says."""
    match kind:
        case "ntfs":
            run_tool("ntfsfix", "--no-action", str(image))
        case "fat":
            run_tool("fsck.fat", "-n", str(image))
        case "exfat":
            run_tool("fsck.exfat", "-n", str(image))
        case _:
            run_tool("e2fsck", "-fn", str(image))


def debugfs_blocks(image: Path, path: str) -> list[int]:
    text = run_tool("debugfs", "-R", f'blocks "{path}"', str(image))
    return [int(word) for word in re.sub("(?m)^debugfs.*", "", text).split()]


@pytest.mark.parametrize("shape", ["ext4", "ext4 1k", "ext3", "ext2 1k"])
def test_debugfs_names_the_same_blocks(filled: Make, shape: str) -> None:
    image, files = filled("ext", shape)
    block_size = identify(open_file_reader(str(image))).volume.block_size
    for file in excluded(open_tree(image), "/folder 2/").records:
        blocks = debugfs_blocks(image, file.path)
        theirs = ExtentSet.from_extents(Extent(n * block_size, (n + 1) * block_size) for n in blocks)
        assert (file.extents - theirs).size == 0
        assert file.extents.size == -(-len(files[file.path]) // block_size) * block_size


@pytest.mark.parametrize("shape", NTFS)
def test_ntfscluster_names_the_same_clusters(filled: Make, shape: str) -> None:
    image, files = filled("ntfs", shape)
    size = NTFS[shape][1]
    for file in excluded(open_tree(image), "/folder 2/").records:
        text = run_tool("ntfscluster", "--force", "--filename", file.path, str(image))
        runs = re.findall(r"^ +\d+ +(\d+) +(\d+)$", text.partition("0x80")[2], re.MULTILINE)
        theirs = ExtentSet.from_extents(Extent(int(n) * size, (int(n) + int(count)) * size) for n, count in runs)
        assert (file.extents - theirs).size == 0
        assert file.extents.size == -(-len(files[file.path]) // size) * size


def test_the_kernel_names_the_same_bytes(filled: Make, tmp_path: Path) -> None:
    image, _ = filled("ext", "ext4")
    files = {file.path: file.extents for file in excluded(open_tree(image), "/folder 3/").records}
    with mounted("ext", image, tmp_path / "mount", "ro") as root:
        for path, extents in files.items():
            text = run_tool("filefrag", "-b1", "-v", "-e", str(root / path[1:]))
            rows = re.findall(r"^ *\d+: +\d+\.\. +\d+: +(\d+)\.\. +(\d+):", text, re.MULTILINE)
            assert extents == ExtentSet.from_extents(Extent(int(first), int(last) + 1) for first, last in rows)


def test_a_file_with_several_names_goes_only_when_all_are_named(tmp_path: Path) -> None:
    for kind in ("ext", "ntfs"):
        image = tmp_path / f"{kind}.img"
        make(kind, {"ext": "ext4", "ntfs": "4k"}[kind], image)
        with mounted(kind, image, tmp_path / "mount") as root:
            (root / "one").mkdir()
            (root / "two").mkdir()
            (root / "one" / "linked.bin").write_bytes(os.urandom(50_000))
            os.link(root / "one" / "linked.bin", root / "two" / "other.bin")
            (root / "one" / "alone.bin").write_bytes(os.urandom(50_000))
        tree = open_tree(image)
        assert [file.path for file in excluded(tree, "/one/").records] == ["/one/alone.bin"]
        both = excluded(tree, "/one/", "other.*").records
        assert [file.path.split("/")[-1] in ("alone.bin", "linked.bin", "other.bin") for file in both] == [True, True]
        assert not (both[0].extents & both[1].extents).size


def test_a_short_name_for_dos_is_no_second_name(tmp_path: Path) -> None:
    image = tmp_path / "ntfs.img"
    make("ntfs", "4k", image)
    with mounted("ntfs", image, tmp_path / "mount") as root:
        long = root / "a long file name.bin"
        long.write_bytes(os.urandom(50_000))
        os.setxattr(long, "system.ntfs_dos_name", b"ALONGF~1.BIN")
        (root / "linked too.bin").write_bytes(os.urandom(50_000))
        os.setxattr(root / "linked too.bin", "system.ntfs_dos_name", b"LINKED~1.BIN")
        os.link(root / "linked too.bin", root / "x")
    tree = open_tree(image)
    assert set(all_streams(tree)) == {"/a long file name.bin", "/linked too.bin", "/x"}
    assert [file.path for file in excluded(tree, "*.bin").records] == ["/a long file name.bin"]
    assert len(excluded(tree, "*.bin", "X").records) == 2


def test_streams_compressed_sparse_and_small_files_of_ntfs(tmp_path: Path) -> None:
    image, contents = tmp_path / "ntfs.img", os.urandom(70_000)
    make("ntfs", "4k", image)
    with mounted("ntfs", image, tmp_path / "mount", "compression") as root:
        (root / "streams.bin").write_bytes(contents)
        (root / "streams.bin:second").write_bytes(contents[:9000])
        (root / "packed by windows").write_bytes(contents)
        (root / "packed by windows:WofCompressedData").write_bytes(contents[:20_000])
        (root / "small.bin").write_bytes(b"inside the record")
        (root / "small.bin:large").write_bytes(contents[:30_000])
        (root / "compressed").mkdir()
        os.setxattr(root / "compressed", ATTRIBUTES, COMPRESSED_FOLDER)
        (root / "compressed" / "text").write_bytes(b"abc" * 100_000)
        with (root / "sparse.bin").open("wb") as file:
            file.truncate(20 * MIB)
            file.seek(10 * MIB)
            file.write(contents)
    files = {file.path: file for file in excluded(open_tree(image), "/**").records}
    assert {path: file.extents.size for path, file in files.items()} == {
        "/streams.bin": 73_728 + 12_288, "/packed by windows": 73_728, "/small.bin": 32_768, "/sparse.bin": 73_728,
    }  # fmt: skip
    assert {file.kind for file in files.values()} == {"excluded"}
    assert files["/sparse.bin"].size == 20 * MIB


def test_what_belongs_to_the_file_system_is_never_excluded(filled: Make) -> None:
    for kind, shape in (("ntfs", "4k"), ("exfat", "4k"), ("fat", "32"), ("ext", "ext4")):
        image, files = filled(kind, shape)
        named = {file.path for file in excluded(open_tree(image), "/**", "$*", "/$Extend/", "*").records}
        assert named <= set(files)
        assert not excluded(open_tree(image), "$*", "/$Extend/", "*(Volume Label Entry)").records


def test_case_counts_where_the_system_says_so(filled: Make) -> None:
    for kind, shape, counts in (("ntfs", "4k", False), ("exfat", "4k", False), ("ext", "ext4", True)):
        tree = open_tree(filled(kind, shape)[0])
        assert bool(excluded(tree, "/FOLDER 1/").records) is not counts
        assert [file.path for file in excluded(tree, "/LAST Ü.*", "/last ü.*").records] == ["/last ü.bin"]


def test_names_that_are_no_utf_8_and_deleted_ones(tmp_path: Path) -> None:
    image = tmp_path / "ext.img"
    make("ext", "ext4", image)
    raw = [b"bad\xff", b"\xe4\xf6", rb"unit\x2dname", rb"like\xff", b"b\\\xff"]
    with mounted("ext", image, tmp_path / "mount") as root:
        for name in raw:
            Path(os.fsdecode(os.path.join(os.fsencode(root), name))).write_bytes(name * 3000)
        (root / "deleted").write_bytes(b"gone" * 3000)
        (root / "deleted").unlink()
    files = {file.path: file for file in excluded(open_tree(image), "/**").records}
    assert {read_name(path[1:]): file.size for path, file in files.items()} == {name: len(name) * 3000 for name in raw}
    assert "".join(files).encode()
    assert [file.path for file in excluded(open_tree(image), r"/bad\xff").records] == [r"/bad\xff"]


def test_holes_and_reserved_room_of_ext4(tmp_path: Path) -> None:
    image, contents = tmp_path / "ext.img", os.urandom(70_000)
    make("ext", "ext4", image)
    with mounted("ext", image, tmp_path / "mount") as root:
        with (root / "sparse").open("wb") as file:
            file.write(contents[:5000])
            file.seek(10 * MIB)
            file.write(contents)
            file.truncate(20 * MIB)
        run_tool("fallocate", "--length", "1000000", str(root / "reserved"))
        (root / "grown").write_bytes(contents)
        run_tool("fallocate", "--keep-size", "--length", "500000", str(root / "grown"))
        before = read_all(root)
    found = all_streams(open_tree(image))
    assert all(assemble(image, found[path][1][0]) == before[path] for path in ("/sparse", "/reserved", "/grown"))
    files = {file.path: file.extents.size for file in excluded(open_tree(image), "/**").records}
    assert files == {"/sparse": 8192 + 73_728, "/grown": 73_728}


def test_prices_of_temporary_files_in_windows(tmp_path: Path) -> None:
    image = tmp_path / "ntfs.img"
    make("ntfs", "4k", image)
    with mounted("ntfs", image, tmp_path / "mount", "compression") as root:
        for folder in ("WINDOWS/temp/deep/er", "Windows/SoftwareDistribution/Download", "$Recycle.Bin/S-1-5"):
            (root / folder).mkdir(parents=True)
        (root / "WINDOWS" / "temp" / "deep" / "er" / "a").write_bytes(bytes(10_000))
        (root / "WINDOWS" / "temp" / "b").write_bytes(bytes(5000))
        os.link(root / "WINDOWS" / "temp" / "b", root / "WINDOWS" / "temp" / "c")
        for user in ("Anna", "Bert", "Carl"):
            (root / "Users" / user / "AppData" / "Local" / "Temp").mkdir(parents=True)
        (root / "Users" / "Anna" / "AppData" / "Local" / "Temp" / "t").write_bytes(bytes(70_000))
        (root / "Users" / "Bert" / "AppData" / "Local" / "Temp" / "tiny").write_bytes(b"inside")
        (root / "$Recycle.Bin" / "S-1-5" / "$R1.doc").write_bytes(bytes(8000))
        (root / "Temp").mkdir()
        (root / "Temp" / "not ours").write_bytes(bytes(8000))
    answer = open_tree(image).price_temporary()
    assert answer.is_complete
    assert {folder.path: (folder.size, folder.files_count) for folder in answer.records} == {
        "/WINDOWS/temp": (12_288 + 8192, 2),
        "/Users/Anna/AppData/Local/Temp": (73_728, 1),
        "/Users/Bert/AppData/Local/Temp": (0, 1),
        "/$Recycle.Bin": (8192, 1),
    }


@pytest.mark.parametrize(
    ("folders", "priced"),
    [
        ("etc tmp var/tmp var/cache/apt home/anna/.cache cache lib", "tmp var/tmp var/cache home/anna/.cache"),
        ("lib log spool tmp cache/apt mail", "tmp cache"),
        ("lib log cache", ""),
        ("anna/.cache anna/.config carl/.cache carl/x lost+found", "anna/.cache"),
        ("usr anna/.cache anna/.config", ""),
    ],
)
def test_prices_of_temporary_files_in_linux(tmp_path: Path, folders: str, priced: str) -> None:
    image, tree = tmp_path / "ext.img", tmp_path / "tree"
    for folder in folders.split():
        (tree / folder).mkdir(parents=True)
        (tree / folder / "file").write_bytes(bytes(range(256)) * 20)
    make_ext(image, f"-t ext4 -b 4096 -d {tree}", size=16 * MIB)
    found = open_tree(image).price_temporary().records
    assert {(folder.path, folder.size) for folder in found} == {(f"/{path}", 8192) for path in priced.split()}


def test_the_recycle_bin_of_a_stick(tmp_path: Path) -> None:
    image = tmp_path / "fat.img"
    make("fat", "32", image)
    run_tool("mmd", "-i", str(image), "::$RECYCLE.BIN", "::tmp")
    (tmp_path / "file").write_bytes(bytes(5000))
    for place in ("::$RECYCLE.BIN/", "::tmp/"):
        run_tool("mcopy", "-i", str(image), str(tmp_path / "file"), place)
    (found,) = open_tree(image).price_temporary().records
    assert (found.path, found.size, found.files_count) == ("/$RECYCLE.BIN", 5120, 1)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("ntfs", "4k"), ("exfat", "4k"), ("exfat", "1m"), ("ext", "ext4"), ("ext", "ext2 1k"), ("fat", "16")],
)
def test_lost_bytes_have_names(filled: Make, kind: str, shape: str) -> None:
    image, files = filled(kind, shape)
    tree = open_tree(image)
    every = excluded(tree, "/**").records
    chosen = random.Random(1).sample(every, 3)
    lost = ExtentSet.from_extents(
        Extent(next(iter(file.extents)).start, next(iter(file.extents)).start + 100) for file in chosen
    )
    answer = tree.name_lost(lost)
    assert answer.is_complete
    assert {(file.path, file.size, file.bytes_lost) for file in answer.records} == {
        (file.path, len(files[file.path]), 100) for file in chosen
    }
    whole = tree.name_lost(ExtentSet.of(Extent(0, image.stat().st_size)))
    assert {file.path for file in every} <= {file.path for file in whole.records}
    assert any(file.is_folder for file in whole.records)
    short = tree.name_lost(ExtentSet.of(Extent(0, image.stat().st_size)), count_max=2)
    assert (len(short.records), short.is_complete) == (2, False)
    assert tree.name_lost(ExtentSet.empty()).records == ()


def test_ranges_that_cannot_be_read_are_named_all_the_same(filled: Make) -> None:
    """The image of a failing disk: what is asked about is what the reader cannot give."""
    image, files = filled("ext", "ext4")
    reader = open_file_reader(str(image))
    tree = open_tree(image)
    (folder,) = (
        stream.runs[0]
        for path, entry in Walk(tree._sleuth).descend(Walk(tree._sleuth).root, Limits())
        if path == "/folder 4"
        for stream in tree._sleuth.read_streams(entry)
    )
    lost = ExtentSet.of(Extent(folder.start, folder.start + folder.size))
    with FaultyDisk(reader, [PlannedFault(extent=extent) for extent in lost]) as faulty:
        answer = open_tree(faulty).name_lost(lost)
        assert [(file.path, file.is_folder) for file in answer.records if file.bytes_lost] == [("/folder 4", True)]
        assert not answer.is_complete
        assert any("/folder 4" in notice.message for notice in answer.notices)
        kept = excluded(open_tree(faulty), "/**")
    assert not kept.is_complete
    assert {file.path for file in kept.records} >= {path for path in files if "folder 1" in path and len(files[path])}


class Broken:
    """A reader that raises what it is told to, once it is told to."""

    def __init__(self, inner: BlockReader) -> None:
        self.inner, self.error = inner, None
        self.size, self.sector_size = inner.size, inner.sector_size
        self.known_extents, self.read_into = inner.known_extents, inner.read_into

    error: BaseException | None

    def read_at(self, offset: int, length: int) -> bytes:
        if self.error is not None:
            raise self.error
        return self.inner.read_at(offset, length)


@pytest.mark.parametrize("error", [Cancelled("stop"), KeyboardInterrupt(), ZeroDivisionError()])
def test_what_is_no_read_error_goes_on_its_way(filled: Make, error: BaseException) -> None:
    broken = Broken(open_file_reader(str(filled("ntfs", "4k")[0])))
    tree = open_tree(broken)
    broken.error = error
    with pytest.raises(type(error)):
        excluded(tree, "/**")
    broken.error = None
    assert excluded(tree, "/**").records


@pytest.mark.parametrize(("kind", "shape"), [("ntfs", "4k"), ("ext", "ext4"), ("fat", "16"), ("exfat", "4k")])
def test_a_fault_while_opening_is_the_readers(filled: Make, kind: str, shape: str) -> None:
    broken = Broken(open_file_reader(str(filled(kind, shape)[0])))
    volume = identify(broken).volume
    broken.error = ReadFault("sector 1 is bad", extent=Extent(0, 512))
    with pytest.raises(ReadFault, match="sector 1 is bad"):
        open_files(broken, volume)


@pytest.mark.parametrize(("kind", "shape"), [("ntfs", "4k"), ("ext", "ext4"), ("fat", "16"), ("exfat", "4k")])
def test_each_read_may_fail_and_nothing_is_invented(filled: Make, kind: str, shape: str) -> None:
    image, _ = filled(kind, shape)
    whole = {file.path: file.extents for file in excluded(open_tree(image), "/**").records}
    reader = open_file_reader(str(image))
    for start in range(0, min(reader.size, 4 * MIB), 65536):
        faulty = FaultyDisk(reader, [PlannedFault(extent=Extent(start, start + 512))])
        try:
            tree = open_files(faulty, identify(reader).volume)
        except (ReadFault, DiskFormatError):
            continue
        assert tree is not None
        answer = excluded(tree, "/**")
        assert all(whole[file.path] == file.extents for file in answer.records)
        assert answer.is_complete is (len(answer.records) == len(whole)) or faulty.faults_fired


def test_folders_in_a_circle_end(tmp_path: Path) -> None:
    image, tree = tmp_path / "ext.img", tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "file").write_bytes(os.urandom(5000))
    make_ext(image, f"-t ext4 -b 4096 -d {tree}", size=16 * MIB)
    for command in ("ln /a /a/b/again", "ln / /a/b/root"):
        run_tool("debugfs", "-w", "-R", command, str(image))
    assert [file.path for file in excluded(open_tree(image), "/**").records] == ["/a/b/file"]
    everything = open_tree(image).name_lost(ExtentSet.of(Extent(0, image.stat().st_size)))
    assert sorted(file.path for file in everything.records) == ["/", "/a", "/a/b", "/a/b/file", "/lost+found"]


def test_files_that_share_blocks_are_kept(tmp_path: Path) -> None:
    image, tree = tmp_path / "ext.img", tmp_path / "tree"
    tree.mkdir()
    for name in ("one", "two", "three"):
        (tree / name).write_bytes(os.urandom(4000))
    make_ext(image, f"-t ext2 -b 4096 -d {tree}", size=16 * MIB)
    block = debugfs_blocks(image, "/one")[0]
    run_tool("debugfs", "-w", "-R", f"set_inode_field /two block[0] {block}", str(image))
    answer = excluded(open_tree(image), "/**")
    assert ([file.path for file in answer.records], answer.is_complete) == ([], False)
    assert "share" in answer.notices[0].message


OLD = "-t ext4 -b 4096 -O ^extents,^64bit"


def make_two_folders(image: Path, tree: Path, layout: str) -> None:
    """``/one/gone`` is to be left out, ``/two/kept`` is not."""
    for path, size in (("one/gone", 4000), ("one/large", 100_000), ("two/kept", 4000)):
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(os.urandom(size))
    make_ext(image, f"{layout} -d {tree}", size=16 * MIB)


def first_number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found is not None, text
    return int(found[1])


def find_block(image: Path, thing: str) -> int:
    """A block that belongs to something else than ``/one/gone``, as debugfs and dumpe2fs tell."""
    match thing:
        case "inode table" | "block bitmap" | "MMP block":
            word = {
                "inode table": "Inode table at",
                "block bitmap": "Block bitmap at",
                "MMP block": "MMP block number:",
            }
            return first_number(rf"{word[thing]} +(\d+)", run_tool("dumpe2fs", str(image)))
        case "list of blocks":
            return first_number(r"\(IND\):(\d+)", run_tool("debugfs", "-R", "stat /one/large", str(image)))
        case "orphan file":
            number = first_number(r"Orphan file inode:\s+(\d+)", run_tool("dumpe2fs", "-h", str(image)))
            return debugfs_blocks(image, f"<{number}>")[0]
        case "group descriptors":
            return 1
        case _:
            return debugfs_blocks(image, thing)[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "thing"),
    [
        ("-t ext2 -b 4096", "/two/kept"),
        ("-t ext2 -b 4096", "/two"),
        ("-t ext2 -b 4096", "/"),
        ("-t ext2 -b 4096", "inode table"),
        ("-t ext2 -b 4096", "block bitmap"),
        ("-t ext2 -b 4096", "group descriptors"),
        ("-t ext2 -b 4096", "list of blocks"),
        ("-t ext3 -b 4096", "<8>"),  # the journal
        (f"{OLD},quota", "<3>"),
        (f"{OLD},orphan_file", "orphan file"),
        (f"{OLD},mmp", "MMP block"),
    ],
)
def test_what_is_something_elses_too_is_kept(tmp_path: Path, layout: str, thing: str) -> None:
    """A damaged list of blocks, on a volume that calls itself clean: the map is proven, the owner is not."""
    image = tmp_path / "ext.img"
    make_two_folders(image, tmp_path / "tree", layout)
    healthy = excluded(open_tree(image), "/one/")
    assert ([file.path for file in healthy.records], healthy.is_complete) == (["/one/gone", "/one/large"], True)
    block = find_block(image, thing)
    run_tool("debugfs", "-w", "-R", f"set_inode_field /one/gone block[0] {block}", str(image))
    reader = open_file_reader(str(image))
    assert read_used_map(reader, identify(reader)).kind == "used"
    answer = excluded(open_tree(image), "/one/")
    assert (answer.records, answer.is_complete) == ((), False)
    assert "nothing is left out" in answer.notices[0].message


def test_a_file_that_is_named_in_part_keeps_its_blocks(tmp_path: Path) -> None:
    image = tmp_path / "ext.img"
    make_two_folders(image, tmp_path / "tree", "-t ext2 -b 4096")
    for command in ("ln /two/kept /one/link", "set_inode_field /two/kept links_count 2"):
        run_tool("debugfs", "-w", "-R", command, str(image))
    assert [file.path for file in excluded(open_tree(image), "/one/").records] == ["/one/gone", "/one/large"]
    block = debugfs_blocks(image, "/two/kept")[0]
    run_tool("debugfs", "-w", "-R", f"set_inode_field /one/gone block[0] {block}", str(image))
    answer = excluded(open_tree(image), "/one/")
    assert (answer.records, answer.is_complete) == ((), False)


def test_that_nothing_is_left_out_is_said_however_much_is_broken(tmp_path: Path) -> None:
    image, tree = tmp_path / "ext.img", tmp_path / "tree"
    (tree / "one").mkdir(parents=True)
    for number in range(NOTICES_MAX + 4):
        (tree / "one" / f"file {number}").write_bytes(os.urandom(4000))
    make_ext(image, f"-t ext2 -b 4096 -d {tree}", size=16 * MIB)
    commands = [f'set_inode_field "/one/file {number}" block[0] 99999999' for number in range(NOTICES_MAX + 2)]
    block = debugfs_blocks(image, f"/one/file {NOTICES_MAX + 2}")[0]
    commands.append(f'set_inode_field "/one/file {NOTICES_MAX + 3}" block[0] {block}')
    (tmp_path / "commands").write_text("\n".join(commands))
    run_tool("debugfs", "-w", "-f", str(tmp_path / "commands"), str(image))
    answer = excluded(open_tree(image), "/one/")
    assert (answer.records, len(answer.notices)) == ((), NOTICES_MAX + 1)
    assert "nothing is left out" in answer.notices[0].message


def test_crossed_chains_of_fat_are_kept(tmp_path: Path) -> None:
    image = tmp_path / "fat.img"
    make("fat", "32", image)
    run_tool("mmd", "-i", str(image), "::one", "::two")
    for place in ("::one/gone", "::two/kept"):
        (tmp_path / "file").write_bytes(os.urandom(400))
        run_tool("mcopy", "-i", str(image), str(tmp_path / "file"), place)
    assert [file.path for file in excluded(open_tree(image), "/one/").records] == ["/one/gone"]

    def cross(contents: bytearray) -> None:
        ours, theirs = contents.index(b"GONE       "), contents.index(b"KEPT       ")
        for place in (20, 26):  # DIR_FstClusHI, DIR_FstClusLO
            contents[ours + place : ours + place + 2] = contents[theirs + place : theirs + place + 2]

    answer = excluded(open_tree(volumes.patched_copy(image, tmp_path / "crossed.img", cross)), "/one/")
    assert (answer.records, answer.is_complete) == ((), False)
    assert "/two/kept shares blocks" in answer.notices[0].message


def test_an_error_names_the_volume_and_the_place(tmp_path: Path) -> None:
    image, tree = tmp_path / "ext.img", tmp_path / "tree"
    (tree / "folder").mkdir(parents=True)
    (tree / "folder" / "file").write_bytes(os.urandom(4000))
    make_ext(image, f"-t ext2 -b 4096 -L Photos -d {tree}", size=16 * MIB)
    run_tool("debugfs", "-w", "-R", "set_inode_field /folder/file block[0] 99999999", str(image))
    (notice,) = excluded(open_tree(image), "/**").notices
    assert "/folder/file is kept" in notice.message
    assert "ext2 volume 'Photos'" in notice.message
    assert notice.hint


def test_a_walk_ends_at_its_limits_and_says_so(filled: Make) -> None:
    tree = open_tree(filled("ext", "ext4")[0])
    for limits, words in ((Limits(entry_count=5), "only 5 names"), (Limits(depth=1), "1 folders deep")):
        walk = Walk(tree._sleuth)
        paths = [path for path, _ in walk.descend(walk.root, limits)]
        answer: Found[str] = walk.answer(())
        assert (answer.is_complete, words in answer.notices[0].message) == (False, True)
        assert len(paths) == 5 if limits.entry_count == 5 else all(path.count("/") == 1 for path in paths)


@pytest.mark.parametrize(
    ("kind", "shape", "changed"),
    [
        ("ext", "ext2 1k", (1024 + 0x60, 0x2 | 0x4)),  # s_feature_incompat: FILETYPE, RECOVER
        ("fat", "32", (0x28, 0x81)),  # BPB_ExtFlags: only the second table is kept up
        ("ntfs", "4k", (0x0B, 0xFF)),  # the boot sector is broken, its copy is not
    ],
)
def test_a_volume_whose_first_view_is_out_of_date_is_not_opened(
    filled: Make, tmp_path: Path, kind: str, shape: str, changed: tuple[int, int]
) -> None:
    def change(contents: bytearray) -> None:
        contents[changed[0]] = changed[1]

    reader = open_file_reader(str(volumes.patched_copy(filled(kind, shape)[0], tmp_path / "copy.img", change)))
    volume = identify(reader).volume
    assert volume.filesystem
    assert open_files(reader, volume) is None


@pytest.mark.parametrize(
    "layout",
    [
        "-t ext4 -b 1024 -g 1024 -O meta_bg,^resize_inode",
        "-t ext4 -O bigalloc -C 16384",
        "-t ext4 -O inline_data",
        "-t ext4 -O encrypt",
    ],
)
def test_ext_that_is_not_read_rightly_is_not_opened(tmp_path: Path, layout: str) -> None:
    image = tmp_path / "ext.img"
    make_ext(image, layout)
    reader = open_file_reader(str(image))
    assert identify(reader).volume.filesystem == "ext4"
    assert open_files(reader, identify(reader).volume) is None


def test_other_volumes_are_not_opened(filled: Make, tmp_path: Path) -> None:
    image = tmp_path / "ntfs.img"
    volumes.make_ntfs(image, size=512 * MIB, cluster_size=MIB)
    reader = open_file_reader(str(image))
    assert identify(reader).volume.filesystem == "ntfs"
    assert open_files(reader, identify(reader).volume) is None
    some = open_file_reader(str(filled("ext", "ext4")[0]))
    for kind in ("", "xfs", "btrfs", "swap", "BitLocker"):
        assert open_files(some, Volume(filesystem=kind)) is None


def test_the_library_is_loaded_only_when_it_is_needed() -> None:
    script = "import sys, stillframe.fs.files, stillframe.cli.main; sys.exit('pytsk3' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
