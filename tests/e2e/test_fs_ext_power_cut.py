"""A power cut under a mounted ext4, and a backup of only the bytes the map names: every fsynced file must come back."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from stillframe.block import MemoryDisk
from stillframe.extents import Extent, ExtentSet
from stillframe.fs.base import UsedMap
from stillframe.fs.ext import ExtFilesystem
from stillframe.testing.power_cuts import SCENES, Promised, hashes, mounted, plain_files, power_cut, run

pytestmark = pytest.mark.root


def restore(contents: bytes, used: UsedMap, path: Path) -> None:
    """Only the bytes that the map names, in a file that is otherwise full of ones."""
    restored = bytearray(b"\xff") * len(contents)
    for extent in used.extents:
        restored[extent.start : extent.end] = contents[extent.start : extent.end]
    path.write_bytes(restored)


def e2fsck_repair(path: Path) -> None:
    done = subprocess.run(["e2fsck", "-fy", str(path)], capture_output=True, check=False, timeout=60)
    assert done.returncode in (0, 1)  # 1: it changed something


def free_bytes(path: Path) -> ExtentSet:
    """What dumpe2fs calls free. A range ends with the first block of its last cluster."""
    text = run("dumpe2fs", path).stdout
    size = int(re.findall(r"Block size: +(\d+)", text)[0])
    cluster = int((re.findall(r"Cluster size: +(\d+)", text) or [size])[0])
    ranges = re.findall(r"(\d+)(?:-(\d+))?", " ".join(re.findall(r"^  Free blocks: (.*)$", text, re.MULTILINE)))
    return ExtentSet.of(*(Extent(int(first) * size, int(last or first) * size + cluster) for first, last in ranges))


@pytest.mark.variants(7)
@pytest.mark.parametrize("scene", SCENES)
def test_every_fsynced_file_survives_a_power_cut_and_a_restore_of_the_used_bytes(tmp_path: Path, scene: str) -> None:
    make, mount_options, work = SCENES[scene]
    contents, promised = power_cut(tmp_path, make=make, mount_options=mount_options, work=work)
    disk = MemoryDisk(contents)
    used = ExtFilesystem().used_map(disk)
    assert [notice.code for notice in used.notices] == ["ext-journal-replayed"], used.notices
    assert used.kind == "used"
    assert used.extents.size < 0.9 * len(contents)
    assert disk.contents == contents
    assert ExtFilesystem().left_out(disk) == ()

    restored = tmp_path / "restored"
    restore(contents, used, restored)
    with mounted(restored, tmp_path / "mount") as root:
        assert hashes(root, promised) == promised
    assert run("e2fsck", "-fn", restored).returncode == 0

    original = tmp_path / "original"
    original.write_bytes(contents)
    e2fsck_repair(original)
    free = free_bytes(original)
    left_out = used.extents.complement(Extent(0, len(contents)))
    assert (left_out - free).size == 0


@pytest.mark.parametrize("scene", ["ext4", "ext4-no-checksums", "ext4-revoke", "ext3"])
def test_without_the_journal_the_map_would_have_lost_files(tmp_path: Path, scene: str) -> None:
    """The test above proves nothing unless the bitmaps on the disk alone are wrong."""
    make, mount_options, work = SCENES[scene]
    contents, _ = power_cut(tmp_path, make=make, mount_options=mount_options, work=work)
    used = ExtFilesystem().used_map(MemoryDisk(contents)).extents
    image = tmp_path / "stale"
    image.write_bytes(contents)
    assert (used & free_bytes(image)).size > 0


def test_a_frozen_volume_is_clean(tmp_path: Path) -> None:
    image, promised = tmp_path / "live", Promised()
    run("truncate", "-s", "32M", image)
    run("mke2fs", "-q", "-F", "-t", "ext4", image)
    with mounted(image, tmp_path / "mount") as root:
        plain_files(root, promised)
        run("fsfreeze", "-f", root)
        try:
            contents = image.read_bytes()
        finally:
            run("fsfreeze", "-u", root)
    used = ExtFilesystem().used_map(MemoryDisk(contents))
    assert (used.kind, used.notices) == ("used", ())
    restored = tmp_path / "restored"
    restore(contents, used, restored)
    with mounted(restored, tmp_path / "mount") as root:
        assert hashes(root, promised) == promised


def test_a_mounted_ext2_is_raw(tmp_path: Path) -> None:
    image = tmp_path / "live"
    run("truncate", "-s", "8M", image)
    run("mke2fs", "-q", "-F", "-t", "ext2", image)
    with mounted(image, tmp_path / "mount", options="rw") as root:
        (root / "file").write_bytes(b"x" * 10000)
        os.sync()
        used = ExtFilesystem().used_map(MemoryDisk(image.read_bytes()))
    assert used.kind == "raw"
    assert [notice.code for notice in used.notices] == ["ext-not-clean"]
    assert used.extents.contains(Extent(0, 8 << 20))


def test_fast_commits_behind_the_last_transaction_are_not_guessed_at(tmp_path: Path) -> None:
    """A file fsynced by a fast commit is in no bitmap, neither on the disk nor in the replayed log."""

    def work(root: Path, promised: Promised) -> None:
        plain_files(root, promised)
        with (root / "fast").open("wb") as file:
            file.write(os.urandom(50_000))
            file.flush()
            os.fsync(file.fileno())

    contents, _ = power_cut(tmp_path, make="-t ext4 -O fast_commit", mount_options="", work=work)
    used = ExtFilesystem().used_map(MemoryDisk(contents))
    assert used.kind == "raw"
    assert "fast commits" in used.notices[0].message
