"""Clean ext volumes: our map against dumpe2fs's free blocks, names against blkid, swap files against debugfs."""

import os
import random
import re
import subprocess
from pathlib import Path

import pytest

from stillframe.block import MemoryDisk
from stillframe.crc32c import crc16, crc32_be, crc32c
from stillframe.extents import Extent, ExtentSet
from stillframe.fs.ext import ExtFilesystem

LAYOUTS = [
    *(f"-t {kind} -b {size}" for kind in ("ext2", "ext3", "ext4") for size in (1024, 2048, 4096)),
    "-t ext4 -b 65536",
    "-r 0 -t ext2 -b 1024",
    "-t ext2 -b 1024 -g 256 -O meta_bg,^resize_inode",
    "-t ext2 -b 1024 -g 256 -O ^sparse_super,^resize_inode",
    "-t ext4 -b 1024 -g 1024 -O ^flex_bg",
    "-t ext4 -b 1024 -g 1024 -G 4 -E lazy_itable_init=1",
    "-t ext4 -b 1024 -g 256 -O ^64bit",
    "-t ext4 -b 1024 -g 512 -O meta_bg,^resize_inode",
    "-t ext4 -b 4096 -g 1024 -O meta_bg,^resize_inode,^flex_bg",
    "-t ext4 -b 1024 -g 512 -O sparse_super2,^resize_inode",
    "-t ext4 -b 1024 -g 512 -O sparse_super2,^resize_inode -E num_backup_sb=1",
    "-t ext4 -b 1024 -g 512 -O ^metadata_csum,uninit_bg",
    "-t ext4 -b 1024 -g 512 -O ^metadata_csum,uninit_bg,^64bit,^flex_bg",
    "-t ext4 -b 4096 -O bigalloc -C 16384",
    "-t ext4 -b 1024 -O bigalloc -C 8192 -g 4096",
    "-t ext4 -b 2048 -O bigalloc,meta_bg,^resize_inode -C 16384 -g 8192",
    "-t ext4 -b 1024 -g 512 -O ^has_journal",
    "-t ext4 -b 4096 -O mmp",
    "-t ext4 -b 1024 -O metadata_csum_seed,inline_data,quota,project,verity,casefold,encrypt,ea_inode,large_dir",
    "-t ext4 -b 1024 -O fast_commit,orphan_file",
    "-t ext4 -b 1024 -E resize=4G",
]


def run(*command: str | Path) -> str:
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout


def blkid(path: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in run("blkid", "-p", "-o", "export", path).splitlines())


def free_bytes(path: Path) -> ExtentSet:
    """What dumpe2fs calls free. A range ends with the first block of its last cluster."""
    text = run("dumpe2fs", path)
    size = int(re.findall(r"Block size: +(\d+)", text)[0])
    count = int(re.findall(r"Block count: +(\d+)", text)[0])
    cluster = int((re.findall(r"Cluster size: +(\d+)", text) or [size])[0])
    ranges = re.findall(r"(\d+)(?:-(\d+))?", " ".join(re.findall(r"^  Free blocks: (.*)$", text, re.MULTILINE)))
    free = ExtentSet.of(*(Extent(int(first) * size, int(last or first) * size + cluster) for first, last in ranges))
    return free.clipped(Extent(0, count * size))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What goes into every volume: small files, and one in the middle that debugfs will delete."""
    root = tmp_path_factory.mktemp("contents")
    (root / "deep").mkdir()
    for number in range(30):
        (root / "deep" / f"file{number}").write_bytes(os.urandom(1500 * number))
    return root


def make(path: Path, folder: Path, layout: str, *, size: int) -> bytes:
    with path.open("wb") as file:
        file.truncate(size)
    run("mke2fs", "-q", "-F", "-d", folder, "-L", "Label", "-N", "512", *layout.split(), path, f"{size // 1024}k")
    return path.read_bytes()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_the_map_leaves_out_is_exactly_what_dumpe2fs_calls_free(tmp_path: Path, folder: Path, layout: str) -> None:
    size = random.Random(layout).randrange(20 << 20, 34 << 20) // 512 * 512 + 512
    path = tmp_path / "volume"
    make(path, folder, layout, size=size)
    if "mmp" not in layout:  # for which debugfs would wait ten seconds
        subprocess.run(["debugfs", "-w", "-R", "rm /deep/file20", str(path)], check=True, capture_output=True)
    disk = MemoryDisk(path.read_bytes())
    used, volume = ExtFilesystem().used_map(disk), ExtFilesystem().identify(disk)
    assert used.notices == ()
    assert used.extents.complement(Extent(0, size)) == free_bytes(path)
    assert used.extents.contains(Extent(0, 1024))
    assert used.extents.contains(Extent(size - size % 1024, size))
    expected = blkid(path)
    assert volume is not None
    assert (volume.filesystem, volume.label, volume.uuid) == (expected["TYPE"], expected["LABEL"], expected["UUID"])


def test_the_layouts_have_groups_whose_bitmap_was_never_written(tmp_path: Path, folder: Path) -> None:
    """Else the matrix above would not try the rule for them."""
    for layout in ("-t ext4 -b 1024 -g 512 -O sparse_super2,^resize_inode", "-t ext4 -b 1024 -g 512 -O meta_bg"):
        make(tmp_path / "volume", folder, f"{layout},^resize_inode", size=24 << 20)
        assert "BLOCK_UNINIT" in run("dumpe2fs", tmp_path / "volume")


def test_partclone_keeps_the_same_blocks(tmp_path: Path, folder: Path) -> None:
    path, domain = tmp_path / "volume", tmp_path / "domain"
    contents = make(path, folder, "-t ext4 -b 4096", size=32 << 20)
    run("partclone.ext4", "-D", "-s", path, "-o", domain, "-L", tmp_path / "log")
    rows = re.findall(r"^(0x[0-9A-Fa-f]+)\s+(0x[0-9A-Fa-f]+)\s+\+", domain.read_text(), re.MULTILINE)
    kept = ExtentSet.of(*(Extent(int(start, 16), int(start, 16) + int(length, 16)) for start, length in rows))
    assert ExtFilesystem().used_map(MemoryDisk(contents)).extents == kept


def test_an_external_journal_is_told_apart(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "journal"
    run("truncate", "-s", "8M", path)
    run("mke2fs", "-q", "-F", "-O", "journal_dev", "-b", "4096", path)
    disk = MemoryDisk(path.read_bytes())
    volume = ExtFilesystem().identify(disk)
    assert volume is not None
    assert (volume.filesystem, volume.uuid) == (blkid(path)["TYPE"], blkid(path)["UUID"])
    assert ExtFilesystem().used_map(disk).kind == "raw"
    assert folder.exists()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("set_super_value feature_incompat 0x80000242", "ext-unknown-feature"),
        ("set_super_value feature_ro_compat 0x80000003", "ext-unknown-feature"),
        ("set_super_value feature_incompat 0x243", "ext-unsupported-feature"),
        ("set_super_value state 0", "ext-not-clean"),
        ("set_super_value state 3", "ext-errors"),
        ("set_super_value blocks_count 40000", "ext-truncated"),
        ("set_super_value blocks_count 7000", "ext-contradiction"),
        ("set_block_group 0 free_blocks_count 77", "ext-contradiction"),
        ("set_block_group 0 block_bitmap 9", "ext-contradiction"),
        ("set_block_group 0 block_bitmap 99999999", "ext-contradiction"),
        ("freeb 5 1", "ext-contradiction"),
        ("feature needs_recovery", "ext-journal-replayed"),
    ],
)
def test_what_is_not_proven_is_raw_with_the_reason(tmp_path: Path, folder: Path, change: str, code: str) -> None:
    path = tmp_path / "volume"
    make(path, folder, "-t ext4 -b 4096 -O ^metadata_csum,^uninit_bg,^64bit,^resize_inode", size=32 << 20)
    subprocess.run(["debugfs", "-w", "-R", change, str(path)], check=True, capture_output=True)
    disk = MemoryDisk(path.read_bytes())
    used = ExtFilesystem().used_map(disk)
    assert [notice.code for notice in used.notices] == [code]
    assert used.notices[0].hint
    if code != "ext-journal-replayed":  # an empty log: there is nothing to replay, and that is proven
        assert (used.kind, used.extents) == ("raw", ExtentSet.of(Extent(0, disk.size)))


def test_one_flipped_bit_in_a_structure_with_a_checksum_makes_it_raw(tmp_path: Path, folder: Path) -> None:
    contents = make(tmp_path / "volume", folder, "-t ext4 -b 4096", size=32 << 20)
    text = run("dumpe2fs", tmp_path / "volume")
    bitmap = int(re.findall(r"Block bitmap at (\d+)", text)[0])
    for offset in (1024 + 4, 1024 + 200, 4096 + 12, 4096 + 60, bitmap * 4096 + 1000, bitmap * 4096 + 1):
        disk = MemoryDisk(contents)
        disk.contents[offset] ^= 0x10
        assert ExtFilesystem().used_map(disk).kind == "raw", offset


@pytest.mark.parametrize("layout", ["-t ext4 -b 4096", "-t ext4 -b 1024", "-t ext3 -b 1024", "-t ext2 -b 2048"])
@pytest.mark.parametrize("name", ["swapfile", "swap.img"])
def test_a_swap_file_is_left_out_but_for_its_header(tmp_path: Path, folder: Path, layout: str, name: str) -> None:
    swap, path = tmp_path / "swap", tmp_path / "volume"
    swap.write_bytes(os.urandom(3 << 20))
    run("mkswap", "-L", "inside", swap)
    make(path, folder, layout, size=32 << 20)
    # More names than fit in one block, so that the root directory is not the smallest one.
    crowd = "".join(f"write /dev/null {'n' * 200}{number}\n" for number in range(40))
    subprocess.run(
        ["debugfs", "-w", "-f", "-", str(path)],
        input=f"{crowd}write {swap} {name}\n".encode(),
        check=True,
        capture_output=True,
    )
    disk = MemoryDisk(path.read_bytes())
    size = int(re.findall(r"-b (\d+)", layout)[0])
    blocks = [int(word) * size for word in run("debugfs", "-R", f"blocks /{name}", path).split() if word != "0"]
    mapped = ExtentSet.of(*(Extent(start, start + size) for start in blocks))
    (file,) = ExtFilesystem().left_out(disk)
    assert (file.path, file.size, file.kind) == (f"/{name}", 3 << 20, "swap")
    assert (file.extents - mapped).size == 0
    assert file.extents.size == (3 << 20) - 4096
    assert ExtFilesystem().used_map(disk).kind == "used"
    for extent in file.extents:
        disk.zero(extent)
    emptied = tmp_path / "emptied"
    emptied.write_bytes(disk.contents)
    run("debugfs", "-R", f"dump /{name} {tmp_path / 'out'}", emptied)
    assert (tmp_path / "out").read_bytes() == swap.read_bytes()[:4096] + bytes((3 << 20) - 4096)
    assert blkid(tmp_path / "out")["LABEL"] == "inside"


def test_a_hibernated_swap_file_and_one_that_is_no_swap_are_kept(tmp_path: Path, folder: Path) -> None:
    swap, path = tmp_path / "swap", tmp_path / "volume"
    for signature in (b"S1SUSPEND\0", b"\0" * 10):
        swap.write_bytes(os.urandom(3 << 20))
        run("mkswap", swap)
        contents = bytearray(swap.read_bytes())
        contents[4086:4096] = signature
        swap.write_bytes(contents)
        make(path, folder, "-t ext4", size=32 << 20)
        subprocess.run(["debugfs", "-w", "-R", f"write {swap} swapfile", str(path)], check=True, capture_output=True)
        assert ExtFilesystem().left_out(MemoryDisk(path.read_bytes())) == ()


def test_checksums_of_known_messages() -> None:
    # RFC 3720 B.4, before the final inversion; CRC-16/MODBUS and CRC-32/MPEG-2 as the RevEng catalogue lists them.
    assert crc32c(bytes(32)) ^ 0xFFFFFFFF == 0x8A9136AA
    assert crc32c(bytes(range(32))) ^ 0xFFFFFFFF == 0x46DD794E
    assert crc32c(b"123456789") ^ 0xFFFFFFFF == 0xE3069283
    assert crc16(b"123456789") == 0x4B37
    assert crc32_be(b"123456789") == 0x0376E6E7


@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 1023, 1024, 1025, 5000])
def test_a_checksum_goes_on_where_it_stopped(length: int) -> None:
    message = random.Random(length).randbytes(length)
    for cut in {0, length // 3, length}:
        assert crc32c(message[cut:], seed=crc32c(message[:cut])) == crc32c(message)
        assert crc16(message[cut:], seed=crc16(message[:cut])) == crc16(message)
        assert crc32_be(message[cut:], seed=crc32_be(message[:cut])) == crc32_be(message)
