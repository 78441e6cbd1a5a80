"""XFS against xfs_db, xfs_logprint, xfs_repair, partclone, blkid and the kernel.

This kernel does not mount version 4: there, volumes are filled by mkfs.xfs and holes are made by xfs_repair.
"""

import hashlib
import os
import random
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from stillframe.block import WindowReader
from stillframe.block.file import open_file_reader
from stillframe.extents import Extent, ExtentSet
from stillframe.fs.base import UsedMap
from stillframe.fs.registry import identify
from stillframe.fs.xfs import XfsFilesystem, read_frozen_map
from stillframe.fs.xfs.log import read_log_state
from stillframe.fs.xfs.superblock import parse_superblock
from stillframe.testing import volumes_xfs as xfs
from stillframe.testing.real_disks import mounted_kernel
from stillframe.testing.tools import run_tool
from stillframe.testing.volumes_windows import fill_tree, hash_tree, keep_only, map_with_partclone, name_with_blkid
from stillframe.testing.xfs_builder import build_log

pytestmark = pytest.mark.root
MIB = 1 << 20
XFS = XfsFilesystem()
Fill = Callable[[Path], None]


def some_files(root: Path) -> None:
    fill_tree(root, seed=5, size=9 * MIB)


def shared_extents(root: Path) -> None:
    some_files(root)
    for number, source in enumerate(sorted(root.glob("folder 1/*.bin"))):
        run_tool("cp", "--reflink=always", str(source), str(root / f"shared{number}"))
        with (root / f"shared{number}").open("r+b") as file:
            file.write(b"changed" * 700)
    (root / "last ü.bin").unlink()


def nearly_full(root: Path) -> None:
    number = 0
    try:
        while True:
            (root / f"file{number}").write_bytes(os.urandom(3 * MIB // (number % 60 + 1)))
            number += 1
    except OSError:
        (root / f"file{number}").unlink(missing_ok=True)


def punched(root: Path, *, holes: int, unit: int) -> None:
    """A file whose every other block is free again."""
    (root / "file").write_bytes(os.urandom(2 * holes * unit))
    os.sync()
    commands = "".join(f"fpunch {2 * number * unit} {unit}\n" for number in range(holes))
    subprocess.run(["xfs_io", str(root / "file")], input=commands.encode(), check=True, capture_output=True)
    some_files(root)


def grown(root: Path) -> None:
    """Made larger while it is mounted, so that the last group is filled up and a short one follows."""
    some_files(root)
    run_tool("xfs_growfs", str(root))
    (root / "later").write_bytes(os.urandom(MIB))


def fragmented(root: Path) -> None:
    punched(root, holes=4000, unit=4096)


def very_fragmented(root: Path) -> None:
    punched(root, holes=14000, unit=1024)


SHAPES: dict[str, tuple[str, int, Fill]] = {
    "default": ("-L volume", 320 * MIB, some_files),
    "1k": ("-b size=1024 -L small", 310 * MIB, some_files),
    "1k-three-levels": ("-b size=1024 -d agcount=1", 320 * MIB, very_fragmented),
    "2k": ("-b size=2048 -i size=1024", 310 * MIB, some_files),
    "16k": ("-b size=16384", 320 * MIB, some_files),
    "64k": ("-b size=65536", 320 * MIB, some_files),
    "sector-4k": ("-s size=4096 -L sectors", 320 * MIB, some_files),
    "shared": ("-m reflink=1,rmapbt=1", 320 * MIB, shared_extents),
    "rmapbt": ("-m rmapbt=1,reflink=0", 320 * MIB, fragmented),
    "old-5": ("-m rmapbt=0,reflink=0,finobt=0,bigtime=0,inobtcount=0 -i sparse=0", 320 * MIB, some_files),
    "new-5": ("-m bigtime=1,inobtcount=1 -i sparse=1,nrext64=1", 320 * MIB, fragmented),
    "many-groups": ("-d agcount=19", 320 * MIB + 5 * 4096 + 512, fragmented),
    "full": ("-m reflink=1", 320 * MIB, nearly_full),
    "stripes": ("-d su=64k,sw=4 -l su=256k", 400 * MIB, some_files),
    "grown": ("-d size=310m", 400 * MIB + 12345, grown),
}
Made = Callable[[str], tuple[Path, dict[str, str]]]


@pytest.fixture(scope="session")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Filled and unmounted volumes by the name of their shape, with the hash of every file; each is made once."""
    folder = tmp_path_factory.mktemp("xfs")
    made: dict[str, tuple[Path, dict[str, str]]] = {}

    def get(name: str) -> tuple[Path, dict[str, str]]:
        if name not in made:
            image, (options, size, fill) = folder / f"{name}.img", SHAPES[name]
            xfs.make_xfs(image, *options.split(), size=size)
            with mounted_kernel(image, folder / "mount") as root:
                fill(root)
                hashes = hash_tree(root)
            made[name] = (image, hashes)
        return made[name]

    return get


def used_map(image: Path) -> UsedMap:
    with open_file_reader(str(image)) as reader:
        return XFS.used_map(reader)


def check_copy(image: Path, kept: ExtentSet, hashes: dict[str, str], folder: Path) -> None:
    """A copy of only these bytes must mount, hold every file, and be whole for xfs_repair."""
    copy = folder / "copy.img"
    keep_only(image, kept, copy)
    with mounted_kernel(copy, folder / "mount", options="rw,nouuid") as root:
        found = hash_tree(root)
        assert {name: found.get(name) for name in hashes} == hashes
    run_tool("xfs_repair", "-n", "-o", "force_geometry", str(copy))
    copy.unlink()


@pytest.mark.parametrize("shape", SHAPES)
def test_free_is_exactly_what_xfs_db_finds_in_the_trees(volumes: Made, shape: str) -> None:
    check_exact(volumes(shape)[0])


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_the_map_covers_partclones(volumes: Made, shape: str) -> None:
    image, _ = volumes(shape)
    ours, theirs = used_map(image).extents, map_with_partclone("xfs", image)
    assert theirs.size
    assert (theirs - ours).size == 0
    # Partclone leaves out the free list, a few blocks of each group, and what lies behind the last block.
    fields = xfs.read_fields(image, "sb 0", "blocksize", "agcount", "dblocks")
    rest = image.stat().st_size - fields["blocksize"] * fields["dblocks"]
    assert (ours - theirs).size <= rest + fields["agcount"] * fields["blocksize"] * 128


@pytest.mark.variants(5)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_copy_of_the_used_bytes_holds_every_file(volumes: Made, shape: str, tmp_path: Path) -> None:
    image, hashes = volumes(shape)
    check_copy(image, used_map(image).extents, hashes, tmp_path)


@pytest.mark.parametrize("shape", ["default", "1k", "sector-4k", "64k"])
def test_names_are_those_of_blkid(volumes: Made, shape: str) -> None:
    image, _ = volumes(shape)
    with open_file_reader(str(image)) as reader:
        found, volume = identify(reader), XFS.identify(reader)
    named = name_with_blkid(image)
    assert volume is not None
    assert (found.volume, type(found.filesystem)) == (volume, XfsFilesystem)
    assert (named["TYPE"], named.get("LABEL", ""), named["UUID"]) == (volume.filesystem, volume.label, volume.uuid)
    assert xfs.read_fields(image, "sb 0", "blocksize")["blocksize"] == volume.block_size


def test_the_shapes_have_trees_of_one_two_and_three_levels(volumes: Made) -> None:
    """Else the comparisons above would not try every level."""
    levels = {xfs.read_fields(volumes(shape)[0], "agf 0", "bnolevel")["bnolevel"] for shape in SHAPES}
    assert levels >= {1, 2, 3}


OLD = ["", "-b size=512", "-b size=512 -l version=1", "-b size=1024 -l lazy-count=0", "-b size=2048 -s size=2048"]


@pytest.mark.slow
@pytest.mark.parametrize("options", OLD)
@pytest.mark.parametrize("holes", [0, 500])
def test_version_4(tmp_path: Path, options: str, holes: int) -> None:
    """Files are put in by mkfs.xfs; xfs_db makes every other one vanish, and xfs_repair builds the trees anew."""
    image, prototype = tmp_path / "volume", tmp_path / "prototype"
    contents = [os.urandom(700 + 37 * number) for number in range(12)]
    for number, piece in enumerate(contents):
        (tmp_path / f"piece{number}").write_bytes(piece)
    lines = [f"file{number} ---644 0 0 {tmp_path}/piece{number % 12}" for number in range(2 * holes + 30)]
    prototype.write_text("\n".join(["/dev/null", "0 0", "d--755 0 0", *lines, "$", ""]))
    xfs.make_xfs(image, "-m", "crc=0", *options.split(), "-p", str(prototype), size=310 * MIB + 512)
    inodes = xfs.list_files(image)
    if holes:
        gone = [inodes.pop(f"file{number}") for number in range(0, 2 * holes, 2)]
        commands = [command for inode in gone for command in (f"inode {inode}", "write core.mode 0")]
        xfs.ask_xfs_db(image, *commands, write=True)
        run_tool("xfs_repair", str(image))
    used = used_map(image)
    assert (used.kind, used.notices) == ("used", ())
    assert used.extents.complement(Extent(0, image.stat().st_size)) == xfs.map_free_with_xfs_db(image)
    assert (map_with_partclone("xfs", image) - used.extents).size == 0
    if holes:
        assert len(used.extents) > holes // 2
    copy = tmp_path / "copy"
    keep_only(image, used.extents, copy)
    run_tool("xfs_repair", "-n", str(copy))
    for number in (1, 7, 2 * holes + 5):
        assert read_with_xfs_db(copy, inodes[f"file{number}"]).startswith(contents[number % 12])
    named = name_with_blkid(image)
    with open_file_reader(str(image)) as reader:
        volume = XFS.identify(reader)
    assert volume is not None
    assert (named["TYPE"], named["UUID"]) == (volume.filesystem, volume.uuid)


def read_with_xfs_db(image: Path, inode: int) -> bytes:
    """The blocks of a file, found without us."""
    size = xfs.read_fields(image, "sb 0", "blocksize")["blocksize"]
    printed = xfs.ask_xfs_db(image, f"inode {inode}", "bmap")
    contents = b""
    for line in printed.splitlines():  # data offset 0 startblock 12 (0/12) count 2 flag 0
        words = line.split()
        first, count = int(words[4]), int(words[words.index("count") + 1])
        sector = int(xfs.ask_xfs_db(image, f"convert fsblock {first} daddr").split("(")[1].rstrip(")\n"))
        with image.open("rb") as file:
            file.seek(512 * sector)
            contents += file.read(count * size)
    return contents


def test_a_container_is_known_before_the_xfs_inside_it(tmp_path: Path) -> None:
    image = tmp_path / "volume"
    xfs.make_xfs(image, "-d", "size=64m", size=66 * MIB)
    luks = b"LUKS\xba\xbe\0\2"
    raid = bytes.fromhex("fc4e2ba9") + b"\1\0\0\0"
    with image.open("r+b") as file:
        file.seek((66 * MIB // 512 - 16) // 8 * 8 * 512)
        file.write(raid.ljust(144, b"\0") + ((66 * MIB // 512 - 16) // 8 * 8).to_bytes(8, "little"))
    with open_file_reader(str(image)) as reader:
        assert XFS.identify(reader) is not None
        assert identify(reader).filesystem is None  # both claim it, so nobody guesses
    with image.open("r+b") as file:
        file.write(luks)
    with open_file_reader(str(image)) as reader:
        assert XFS.identify(reader) is None


def log_end(image: Path) -> tuple[int, bool]:
    with open_file_reader(str(image)) as reader:
        superblock = parse_superblock(reader.read_at(0, 512))
        assert superblock is not None
        state = read_log_state(reader, superblock)
    return state.head, state.is_clean


def write_synced(root: Path, name: str, contents: bytes) -> None:
    with (root / name).open("wb") as file:
        file.write(contents)
        file.flush()
        os.fsync(file.fileno())


SLOW_LOGS = ("-l su=4k -s size=4096", "-b size=1024")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", ["", "-l su=32k", *(pytest.param(one, marks=pytest.mark.slow) for one in SLOW_LOGS)]
)
def test_the_log_ends_where_xfs_logprint_sees_its_end(tmp_path: Path, options: str) -> None:
    """Through several rounds of a small log: unmounted, and cut off in between."""
    image, cut = tmp_path / "volume", tmp_path / "cut"
    blocks = {"": 1368, "-b size=1024": 5472}.get(options, 3000)
    xfs.make_xfs(image, *options.split(), "-l", f"size={blocks}b", size=310 * MIB)
    heads: list[int] = []
    rounds = 0
    for turn in range(9):
        size = ("32k", "256k")[turn % 2]  # the larger ones have headers of eight sectors
        with mounted_kernel(image, tmp_path / "mount", options=f"rw,logbsize={size}") as root:
            for number in range(25 * turn * turn):
                write_synced(root, f"file{number % 800}", bytes(number % 50))
                if number % 500 == 200:
                    shutil.copyfile(image, cut)
                    assert log_end(cut) == (xfs.read_log_end(cut)[0], False)
        head, is_clean = log_end(image)
        assert (head, is_clean) == (xfs.read_log_end(image)[0], True)
        assert xfs.read_log_end(image)[1]
        rounds += bool(heads) and head < heads[-1]
        heads.append(head)
    assert rounds


@pytest.mark.parametrize("options", ["", "-m crc=0 -l version=1"])
def test_logs_with_gaps_end_where_xfs_logprint_sees_their_end(tmp_path: Path, options: str) -> None:
    """Logs of random records, of which some of the last were lost on their way to the disk."""
    image = tmp_path / "volume"
    xfs.make_xfs(image, *options.split(), "-l", "size=1400b", size=310 * MIB)
    with open_file_reader(str(image)) as reader:
        superblock = parse_superblock(reader.read_at(0, 512))
    assert superblock is not None
    group, first = superblock.place_of(superblock.log_start)
    start = (group * superblock.group_blocks + first) * superblock.block_size
    sectors, longest = 1400 * 8, 62 if "version=1" in options else 500
    compared = clean = 0
    for seed in range(60):
        chance = random.Random(seed)
        lengths = [chance.randrange(1, longest) for _ in range(chance.randrange(1, 3 * sectors // longest * 2))]
        records = [(length, chance.random() < 0.1) for length in lengths] + [(1, True)] * (seed % 3 > 0)
        late = range(max(0, len(records) - 7), len(records))
        lost = frozenset(number for number in late if chance.random() < 0.2) if seed % 2 else frozenset[int]()
        with image.open("r+b") as file:
            file.seek(start)
            file.write(build_log(sectors, records, volume=superblock.uuid, lost=lost))
        try:
            theirs = xfs.read_log_end(image)
        except AssertionError:
            assert used_map(image).kind == "raw"
            continue
        assert log_end(image) == theirs, (seed, lost)
        compared, clean = compared + 1, clean + theirs[1]
    assert compared > 40
    assert 10 < clean < compared


def test_cut_off_while_it_is_written_to(tmp_path: Path) -> None:
    """A copy taken while it is mounted is raw, and says why; so is one after a shutdown."""
    image, cut = tmp_path / "volume", tmp_path / "cut"
    xfs.make_xfs(image, size=310 * MIB)
    with mounted_kernel(image, tmp_path / "mount") as root:
        write_synced(root, "one", os.urandom(100_000))
        shutil.copyfile(image, cut)
        check_raw(cut, "xfs-not-unmounted")
        write_synced(root, "two", os.urandom(100_000))
        run_tool("xfs_io", "-x", "-c", "shutdown", str(root))
    check_raw(image, "xfs-not-unmounted")
    with mounted_kernel(image, tmp_path / "mount") as root:
        assert set(hash_tree(root)) == {"one", "two"}
    check_exact(image)


def test_a_log_that_was_thrown_away(tmp_path: Path) -> None:
    image, cut = tmp_path / "volume", tmp_path / "cut"
    xfs.make_xfs(image, size=310 * MIB)
    with mounted_kernel(image, tmp_path / "mount") as root:
        some_files(root)
        os.sync()
        shutil.copyfile(image, cut)
    check_raw(cut, "xfs-not-unmounted")
    run_tool("xfs_repair", "-L", str(cut))
    check_exact(cut)


def test_another_uuid(tmp_path: Path) -> None:
    """Headers of version 5 then go on to carry the old one."""
    image = tmp_path / "volume"
    xfs.make_xfs(image, size=310 * MIB)
    with mounted_kernel(image, tmp_path / "mount") as root:
        some_files(root)
    run_tool("xfs_admin", "-U", "generate", str(image))
    assert xfs.read_fields(image, "sb 0", "blocksize")
    check_exact(image)
    with open_file_reader(str(image)) as reader:
        volume, superblock = XFS.identify(reader), parse_superblock(reader.read_at(0, 512))
    assert volume is not None
    assert superblock is not None
    assert superblock.header_uuid != superblock.uuid
    assert volume.uuid == name_with_blkid(image)["UUID"]
    with mounted_kernel(image, tmp_path / "mount") as root:
        (root / "new").write_bytes(os.urandom(MIB))
    check_exact(image)


def check_exact(image: Path) -> None:
    used = used_map(image)
    assert (used.kind, used.notices) == ("used", ())
    assert used.extents.complement(Extent(0, image.stat().st_size)) == xfs.map_free_with_xfs_db(image)


def check_raw(image: Path, code: str) -> None:
    used = used_map(image)
    assert ([notice.code for notice in used.notices], used.kind) == ([code], "raw")
    assert used.notices[0].hint
    assert used.extents == ExtentSet.of(Extent(0, image.stat().st_size))


def test_mounted_read_only_again_is_as_good_as_unmounted(tmp_path: Path) -> None:
    image, cut = tmp_path / "volume", tmp_path / "cut"
    xfs.make_xfs(image, size=310 * MIB)
    with mounted_kernel(image, tmp_path / "mount") as root:
        some_files(root)
        run_tool("mount", "-o", "remount,ro", str(root))
        hashes = hash_tree(root)
        shutil.copyfile(image, cut)
    assert used_map(cut).kind == "used"
    check_copy(cut, used_map(cut).extents, hashes, tmp_path)


@pytest.mark.variants(1)
@pytest.mark.parametrize("options", ["", "-m rmapbt=1,reflink=1", "-b size=1024 -d agcount=15", "-s size=4096"])
def test_a_frozen_volume(tmp_path: Path, options: str) -> None:
    """Frozen while others write to it; then only the bytes of the map are copied, and every synced file is there."""
    image = tmp_path / "volume"
    xfs.make_xfs(image, *options.split(), size=310 * MIB)
    with mounted_kernel(image, tmp_path / "mount") as root:
        for turn in range(3):
            (root / f"turn{turn}").mkdir()
            fill_tree(root / f"turn{turn}", seed=turn, size=3 * MIB)
            shared_by_reflink(root, options)
            check_frozen(image, root, tmp_path / f"copies{turn}", turn)
    assert used_map(image).kind == "used"


def shared_by_reflink(root: Path, options: str) -> None:
    if "reflink" in options:
        run_tool("cp", "--reflink=always", str(root / "turn0/last ü.bin"), str(root / "shared"))
        with (root / "shared").open("r+b") as file:
            file.write(os.urandom(5000))


def check_frozen(image: Path, root: Path, folder: Path, turn: int) -> None:
    promised = {name: digest for name, digest in hash_tree(root).items() if not name.startswith("busy")}
    folder.mkdir()
    is_over = threading.Event()

    def keep_busy() -> None:
        number = 0
        while not is_over.is_set():
            contents = os.urandom(number * 997 % 200_000)
            write_synced(root, f"busy{turn}-{number}", contents)
            promised[f"busy{turn}-{number}"] = hashlib.sha256(contents).hexdigest()
            if number % 3 == 2:
                promised.pop(name := f"busy{turn}-{number - 1}")
                (root / name).unlink()
            number += 1

    worker = threading.Thread(target=keep_busy)
    worker.start()
    while len(promised) < 40:
        is_over.wait(0.01)
    device = run_tool("findmnt", "-n", "-o", "SOURCE", str(root)).strip()
    opened = (root / "no name any more").open("wb")
    opened.write(os.urandom(300_000))
    (root / "no name any more").unlink()
    run_tool("fsfreeze", "-f", str(root))
    try:
        certain = dict(promised)
        with open_file_reader(str(image)) as reader, open_file_reader(device) as raw:
            used = read_frozen_map(reader)
            assert (used.kind, used.notices) == ("used", ())
            assert XFS.used_map(reader).notices[0].code == "xfs-not-unmounted"
            assert read_frozen_map(raw).extents == used.extents
        assert used.extents.size < image.stat().st_size // 2
        keep_only(image, used.extents, folder / "frozen")
    finally:
        run_tool("fsfreeze", "-u", str(root))
        is_over.set()
        worker.join()
        opened.close()
    with mounted_kernel(folder / "frozen", folder / "mount", options="rw,nouuid") as copied:
        found = hash_tree(copied)
    assert {name: found.get(name) for name in certain} == certain
    run_tool("xfs_repair", "-n", str(folder / "frozen"))
    (folder / "frozen").unlink()


@pytest.mark.variants(10)
@pytest.mark.parametrize(
    ("change", "code"),
    [
        (("sb 0", "write -d features_incompat 0x10b"), "xfs-unsupported-feature"),
        (("sb 0", "write -d features_incompat 0x80000003"), "xfs-unknown-feature"),
        (("sb 0", "write -d features_ro_compat 0x100"), "xfs-unknown-feature"),
        (("sb 0", "write -d features_log_incompat 0x2"), "xfs-unknown-feature"),
        (("sb 0", "write -d features_incompat 0x1b"), "xfs-needs-repair"),
        (("sb 0", "write -d rblocks 7"), "xfs-realtime"),
        (("sb 0", "write -d logstart 0"), "xfs-external-log"),
        (("sb 0", "write -d inprogress 1"), "xfs-in-progress"),
        (("sb 0", "write -d dblocks 400000"), "xfs-truncated"),
        (("sb 0", "write -d agblocks 7"), "xfs-contradiction"),
        (("sb 0", "write -d logblocks 99999"), "xfs-contradiction"),
        (("sb 0", "write -d rootino 0"), "xfs-contradiction"),
        (("sb 0", "write -d fdblocks 1234"), "xfs-contradiction"),
        (("agf 1", "write -d freeblks 77"), "xfs-contradiction"),
        (("agf 1", "write -d longest 77"), "xfs-contradiction"),
        (("agf 1", "write -d bnoroot 9999999"), "xfs-contradiction"),
        (("agf 1", "write -d bnolevel 2"), "xfs-contradiction"),
        (("agf 1", "write -d bnolevel 100"), "xfs-contradiction"),
        (("agf 1", "write -d seqno 0"), "xfs-contradiction"),
        (("agf 1", "write -d flcount 3000"), "xfs-contradiction"),
        (("agfl 1", "write -d bno[1] 9999999"), "xfs-contradiction"),
        (("agf 1", "addr bnoroot", "write -d recs[1].startblock 0"), "xfs-contradiction"),
        (("agf 1", "addr bnoroot", "write -d recs[1].blockcount 12"), "xfs-contradiction"),
        (("agf 1", "addr bnoroot", "write -d numrecs {fewer}"), "xfs-contradiction"),
        (("agf 1", "addr bnoroot", "write -d leftsib 3"), "xfs-contradiction"),
        (("agf 1", "addr bnoroot", "write -d owner 3"), "xfs-contradiction"),
    ],
)
def test_what_is_not_proven_is_raw_with_the_reason(
    volumes: Made, tmp_path: Path, change: tuple[str, ...], code: str
) -> None:
    """xfs_db writes a right checksum with each change."""
    image = tmp_path / "volume"
    shutil.copyfile(volumes("default")[0], image)
    printed = xfs.ask_xfs_db(
        image, "agf 1", "addr bnoroot", "print numrecs"
    )  # how many there are is the kernel's choice
    fewer = int(printed.split("=")[-1]) - 1
    xfs.ask_xfs_db(image, *(words.format(fewer=fewer) for words in change), write=True)
    check_raw(image, code)


@pytest.mark.parametrize("shape", ["default", "many-groups"])
def test_one_flipped_bit_in_what_carries_a_checksum_makes_it_raw(volumes: Made, tmp_path: Path, shape: str) -> None:
    image = tmp_path / "volume"
    shutil.copyfile(volumes(shape)[0], image)
    fields = xfs.read_fields(image, "sb 0", "blocksize", "agblocks")
    size, start = fields["blocksize"], fields["blocksize"] * fields["agblocks"]
    root = xfs.read_fields(image, "agf 1", "bnoroot")["bnoroot"]
    block = start + root * size
    structures = {
        "superblock": (0, 512),
        "AGF": (start + 512, 512),
        "AGFL": (start + 3 * 512, 512),
        "tree": (block, size),
    }
    if xfs.read_fields(image, "agf 1", "bnolevel")["bnolevel"] > 1:
        pointers = xfs.ask_xfs_db(image, "agf 1", "addr bnoroot", "print ptrs[1]")
        structures["leaf"] = (start + int(pointers.split("=")[1]) * size, size)
    with image.open("r+b", buffering=0) as file:
        for name, (place, length) in structures.items():
            for offset in (4, length // 7, length // 2, length - 1):
                original = os.pread(file.fileno(), 1, place + offset)
                os.pwrite(file.fileno(), bytes([original[0] ^ 0x10]), place + offset)
                assert used_map(image).kind == "raw", f"{name} at {offset}"
                os.pwrite(file.fileno(), original, place + offset)
    assert used_map(image).kind == "used"


def test_a_volume_in_a_partition(volumes: Made, tmp_path: Path) -> None:
    image, _ = volumes("1k")
    disk = tmp_path / "disk"
    with disk.open("wb") as file, image.open("rb") as volume:
        file.seek(MIB + 512)
        shutil.copyfileobj(volume, file)
        file.truncate(MIB + 512 + image.stat().st_size + 3 * MIB)
    with open_file_reader(str(disk)) as reader:
        place = Extent(MIB + 512, reader.size - 512)
        used = XFS.used_map(WindowReader(reader, place))
    assert used.extents.complement(Extent(0, image.stat().st_size)) == xfs.map_free_with_xfs_db(image)
    assert used.extents.contains(Extent(image.stat().st_size, place.size))
