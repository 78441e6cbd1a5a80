"""Journals written by debugfs and replayed by e2fsck: our replay in memory must come to the same blocks."""

import os
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from stillframe.block import MemoryDisk, OverlayReader
from stillframe.crc32c import crc32c
from stillframe.errors import DiskFormatError
from stillframe.extents import Extent, ExtentSet
from stillframe.fs.ext import ExtFilesystem, replay_journal
from stillframe.fs.ext.groups import read_groups
from stillframe.fs.ext.journal import JournalIncompat, parse_journal_superblock
from stillframe.fs.ext.recovery import Replay
from stillframe.fs.ext.superblock import Superblock, parse_superblock

MAGIC = bytes.fromhex("c03b3998")  # JBD2_MAGIC_NUMBER

# Layout, and how debugfs opens the journal: without checksums, or with those of version 2 or 3.
JOURNALS = [
    ("-t ext4 -b 1024 -O ^metadata_csum,^64bit", ""),
    ("-t ext4 -b 4096 -O ^metadata_csum,64bit", ""),
    ("-t ext3 -b 1024", ""),
    ("-t ext4 -b 1024 -O metadata_csum,64bit", "-c -v 3"),
    ("-t ext4 -b 4096 -O metadata_csum,^64bit", "-c -v 3"),
    ("-t ext4 -b 1024 -O metadata_csum,64bit", "-c -v 2"),
    ("-t ext4 -b 2048 -O metadata_csum,^64bit", "-c -v 2"),
]


@dataclass
class Scene:
    path: Path
    block_size: int

    def debugfs(self, *commands: str) -> None:
        done = subprocess.run(
            ["debugfs", "-w", "-f", "-", str(self.path)],
            input="\n".join(commands) + "\n",
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        noise = [line for line in done.stderr.splitlines() if not line.startswith(("debugfs 1.", "Journal"))]
        assert noise == [], done.stderr

    def contents(self, name: str, blocks: int, *, escaped: bool = False) -> str:
        """A file with new contents for some blocks."""
        file = self.path.with_name(name)
        start = MAGIC if escaped else b""
        file.write_bytes((start + os.urandom(blocks * self.block_size))[: blocks * self.block_size])
        return str(file)

    def superblock(self) -> Superblock:
        parsed = parse_superblock(self.path.read_bytes()[1024:2048])
        assert parsed is not None
        return parsed

    def replay(self, disk: MemoryDisk) -> Replay:
        superblock = self.superblock()
        return replay_journal(disk, superblock, read_groups(disk, superblock))

    def view(self) -> tuple[bytes, Replay]:
        disk = MemoryDisk(self.path.read_bytes())
        replay = self.replay(disk)
        return OverlayReader(disk, block_size=self.block_size, blocks=replay.blocks).read_at(0, disk.size), replay

    def after_e2fsck(self) -> bytes:
        copy = self.path.with_name("replayed")
        copy.write_bytes(self.path.read_bytes())
        done = subprocess.run(["e2fsck", "-y", "-E", "journal_only", str(copy)], capture_output=True, check=False)
        assert done.returncode in (0, 1), done.stdout
        return copy.read_bytes()

    def journal_place(self) -> int:
        """The first byte of the journal, which mke2fs lays out in one piece."""
        done = subprocess.run(
            ["debugfs", "-R", "bmap <8> 0", str(self.path)], capture_output=True, text=True, check=True
        )
        return int(done.stdout) * self.block_size


@pytest.fixture
def scene(tmp_path: Path, request: pytest.FixtureRequest) -> Scene:
    layout: str = request.param
    path = tmp_path / "volume"
    with path.open("wb") as file:
        file.truncate(24 << 20)
    subprocess.run(["mke2fs", "-q", "-F", *layout.split(), "-N", "256", str(path)], check=True)
    return Scene(path=path, block_size=int(layout.split("-b ")[1].split(maxsplit=1)[0]))


def assert_equal_blocks(scene: Scene, blocks: range) -> Replay:
    (ours, replay), theirs = scene.view(), scene.after_e2fsck()
    size = scene.block_size
    for block in blocks:
        at = slice(block * size, (block + 1) * size)
        assert ours[at] == theirs[at], block
    return replay


@pytest.mark.parametrize(("scene", "how"), JOURNALS, indirect=["scene"])
def test_replay_comes_to_what_e2fsck_writes(scene: Scene, how: str) -> None:
    scene.debugfs(
        f"jo {how}",
        f"jw -b 5000-5019 {scene.contents('first', 20)}",
        f"jw -b 5005-5006 {scene.contents('second', 2, escaped=True)}",
        "jw -r 5001,5002,5019",
        f"jw -b 5002 {scene.contents('third', 1)}",
        f"jw -b 5003 -r 5004 {scene.contents('fourth', 1)}",
        "jc",
    )
    replay = assert_equal_blocks(scene, range(4990, 5030))
    assert set(replay.blocks) == set(range(5000, 5019)) - {5001, 5004}
    assert replay.transactions_count >= 5
    assert not replay.fast_commits
    used = ExtFilesystem().used_map(MemoryDisk(scene.path.read_bytes()))
    assert [notice.code for notice in used.notices] == ["ext-journal-replayed"]


@pytest.mark.parametrize(("scene", "how"), JOURNALS, indirect=["scene"])
def test_a_transaction_without_its_commit_is_not_replayed(scene: Scene, how: str) -> None:
    scene.debugfs(f"jo {how}", f"jw -b 5000 {scene.contents('first', 1)}", "jc")
    scene.debugfs(f"jo {how}", f"jw -b 5001-5003 -c {scene.contents('second', 3)}", "jc")
    replay = assert_equal_blocks(scene, range(4990, 5010))
    assert set(replay.blocks) == {5000}


@pytest.mark.parametrize(
    ("scene", "how", "where"),
    [(*JOURNALS[3], "descriptor"), (*JOURNALS[3], "data"), (*JOURNALS[3], "commit"), (*JOURNALS[5], "data")],
    indirect=["scene"],
)
def test_a_wrong_checksum_in_a_committed_transaction_is_never_guessed_over(scene: Scene, how: str, where: str) -> None:
    scene.debugfs(f"jo {how}", f"jw -b 5000-5003 {scene.contents('first', 4)}", "jc")
    disk = MemoryDisk(scene.path.read_bytes())
    start = scene.journal_place()
    log = [
        (number, bytes(disk.contents[start + number * scene.block_size :][:12]))
        for number in range(1, 60)
        if disk.contents[start + number * scene.block_size :][:4] == MAGIC
    ]
    kinds = {struct.unpack(">4xI4x", header)[0]: number for number, header in log}
    block = {"descriptor": kinds[1], "data": kinds[1] + 2, "commit": kinds[2]}[where]
    disk.contents[start + block * scene.block_size + 40] ^= 1
    with pytest.raises(DiskFormatError):
        scene.replay(disk)
    used = ExtFilesystem().used_map(disk)
    assert (used.kind, [notice.code for notice in used.notices]) == ("raw", ["ext-contradiction"])


@pytest.mark.parametrize("scene", ["-t ext4 -b 4096"], indirect=True)
def test_a_clean_volume_whose_journal_is_not_empty_is_raw(scene: Scene) -> None:
    scene.debugfs("jo", f"jw -b 5000 {scene.contents('first', 1)}", "jc", "feature -needs_recovery")
    used = ExtFilesystem().used_map(MemoryDisk(scene.path.read_bytes()))
    assert used.kind == "raw"
    assert "not empty" in used.notices[0].message


@pytest.mark.parametrize("scene", ["-t ext4 -b 4096 -O ^metadata_csum"], indirect=True)
def test_a_block_that_the_journal_calls_used_is_used(scene: Scene) -> None:
    """A file that only the log knows of: bitmap, descriptor, inode and folder. Its blocks are in the map."""
    before = scene.path.read_bytes()
    free = ExtFilesystem().used_map(MemoryDisk(before)).extents
    copy = scene.path.with_name("copy")
    copy.write_bytes(before)
    written = f"write {scene.contents('file', 7)} file"
    subprocess.run(["debugfs", "-w", "-R", written, str(copy)], check=True, capture_output=True)
    listed = subprocess.run(["debugfs", "-R", "blocks /file", str(copy)], check=True, capture_output=True, text=True)
    after = copy.read_bytes()
    changed = [at for at in range(0, len(before), 4096) if before[at : at + 4096] != after[at : at + 4096]]
    commands = []
    for number, at in enumerate(changed):
        file = scene.path.with_name(f"block{number}")
        file.write_bytes(after[at : at + 4096])
        commands.append(f"jw -b {at // 4096} {file}")
    assert len(changed) >= 2
    scene.debugfs("jo", *commands, "jc")
    used = ExtFilesystem().used_map(MemoryDisk(scene.path.read_bytes()))
    assert used.kind == "used"
    blocks = [int(word) for word in listed.stdout.split()]
    assert len(blocks) == 7
    assert used.extents - free == ExtentSet.of(*(Extent(block * 4096, (block + 1) * 4096) for block in blocks))


@pytest.mark.parametrize(
    ("offset", "value"),
    [(0, 1), (12, 512), (16, 1), (16, 1 << 30), (20, 0), (20, 1 << 20), (28, 1 << 30), (36 + 4, 0x40), (36 + 8, 1)],
)
def test_a_journal_superblock_that_points_nowhere_or_is_newer_is_refused(offset: int, value: int) -> None:
    raw = bytearray(1024)
    struct.pack_into(">6I", raw, 0, 0xC03B3998, 4, 0, 4096, 1024, 1)
    struct.pack_into(">2I", raw, 24, 7, 1)
    parsed = parse_journal_superblock(bytes(raw), blocks_max=1024, block_size=4096)
    assert (parsed.first, parsed.end, parsed.start, parsed.sequence) == (1, 1024, 1, 7)
    struct.pack_into(">I", raw, offset, value)
    with pytest.raises(DiskFormatError):
        parse_journal_superblock(bytes(raw), blocks_max=1024, block_size=4096)


def test_a_journal_superblock_with_checksums_must_have_the_right_one() -> None:
    raw = bytearray(1024)
    struct.pack_into(">6I", raw, 0, 0xC03B3998, 4, 0, 4096, 1024, 1)
    struct.pack_into(">I", raw, 40, JournalIncompat.CSUM_V3)
    raw[80] = 4
    struct.pack_into(">I", raw, 252, crc32c(bytes(raw)))
    assert parse_journal_superblock(bytes(raw), blocks_max=1024, block_size=4096).has_block_checksums
    raw[300] ^= 1
    with pytest.raises(DiskFormatError):
        parse_journal_superblock(bytes(raw), blocks_max=1024, block_size=4096)
