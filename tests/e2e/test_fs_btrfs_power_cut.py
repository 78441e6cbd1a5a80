"""A power cut under a mounted Btrfs, or a freeze, and a backup of only the bytes the map names: nothing may be lost."""

import hashlib
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stillframe.block import MemoryDisk
from stillframe.extents import Extent, ExtentSet
from stillframe.fs.base import UsedMap
from stillframe.fs.btrfs import BtrfsFilesystem, read_frozen_map
from stillframe.testing import volumes_btrfs as volumes
from stillframe.testing.tools import run_tool
from stillframe.testing.volumes_windows import keep_only

pytestmark = pytest.mark.root
MIB = 1 << 20

Promised = dict[str, str]
"""What was fsynced: path below the mount point, and SHA-256 of the contents."""
Work = Callable[[Path, Promised], None]


def keep(root: Path, promised: Promised, name: str, contents: bytes) -> None:
    """Write a file and promise it."""
    path = root / name
    with path.open("wb") as file:
        file.write(contents)
        file.flush()
        os.fsync(file.fileno())
    promised[name] = hashlib.sha256(contents).hexdigest()


def plain_files(root: Path, promised: Promised) -> None:
    for number in range(60):
        keep(root, promised, f"file{number}", os.urandom(700 * number + 1))


def compressed_files(root: Path, promised: Promised) -> None:
    for number in range(60):
        keep(root, promised, f"file{number}", random.Random(number).randbytes(900) * number)


def changed_files(root: Path, promised: Promised) -> None:
    """Old extents and new ones in one file, a hole, reserved space, a shared extent, a rename, a deletion."""
    for number in range(20):
        keep(root, promised, f"file{number}", os.urandom(60_000))
    os.sync()
    for number in range(20):
        with (root / f"file{number}").open("r+b") as file:
            file.seek(5000 * number % 50_000)
            file.write(os.urandom(9000))
            file.truncate(55_000 + 4000 * number)
            os.fsync(file.fileno())
    run_tool("fallocate", "--length", "200000", str(root / "file0"))
    run_tool("cp", "--reflink=always", str(root / "file1"), str(root / "shared"))
    (root / "file2").rename(root / "renamed")
    (root / "file3").unlink()
    for name in ("file0", "shared", "renamed"):
        with (root / name).open("r+b") as file:
            os.fsync(file.fileno())
    promised.clear()
    for path in root.glob("*"):
        if path.is_file() and path.name not in {"big", "file3"}:
            promised[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()


def two_subvolumes(root: Path, promised: Promised) -> None:
    for name in ("one", "two"):
        run_tool("btrfs", "subvolume", "create", str(root / name))
    os.sync()
    for number in range(40):
        keep(root, promised, f"{('one', 'two')[number % 2]}/file{number}", os.urandom(20_000))


def many_files(root: Path, promised: Promised) -> None:
    """Enough for log trees of several levels."""
    for number in range(500):
        keep(root, promised, f"{'long' * 20}{number}", os.urandom(3000 + number))


SCENES: dict[str, tuple[str, str, Work]] = {
    "default": ("", "", plain_files),
    "single": ("-m single", "", plain_files),
    "compressed": ("", "compress-force=zstd", compressed_files),
    "changed": ("", "", changed_files),
    "no-cow": ("", "nodatacow", changed_files),
    "subvolumes": ("", "", two_subvolumes),
    "mixed": ("-M", "", changed_files),
    "many": ("-n 4096", "", many_files),
    "old": ("-O ^skinny-metadata,^no-holes -R ^free-space-tree", "space_cache=v1", changed_files),
    "sha256": ("--csum sha256", "", many_files),
}


def power_cut(folder: Path, scene: str) -> tuple[Path, Promised]:
    """A volume as a power cut leaves it, with a log, and what must be in it."""
    image, cut, promised = folder / "live", folder / "cut", Promised()
    make, options, work = SCENES[scene]
    volumes.make_btrfs(image, *make.split(), size=300 * MIB)
    with volumes.mounted_btrfs(image, folder / "mount", ",".join(filter(None, ["rw,commit=300", options]))) as root:
        # There is room in the chunks afterwards: a new chunk turns an fsync into a whole transaction without a log.
        (root / "big").write_bytes(os.urandom(40 * MIB))
        os.sync()
        os.truncate(root / "big", 0)
        os.sync()
        work(root, promised)
        shutil.copyfile(image, cut)
    return cut, promised


def read_map(image: Path) -> UsedMap:
    return BtrfsFilesystem().used_map(MemoryDisk(image.read_bytes()))


def hashes(root: Path, names: Promised) -> Promised:
    return {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in names}


QUICK = {"changed", "subvolumes"}


@pytest.mark.parametrize(
    "scene", [pytest.param(one, marks=[] if one in QUICK else [pytest.mark.slow]) for one in SCENES]
)
def test_every_fsynced_file_survives_a_power_cut_and_a_restore_of_the_used_bytes(tmp_path: Path, scene: str) -> None:
    cut, promised = power_cut(tmp_path, scene)
    assert promised
    used = read_map(cut)
    assert (used.kind, [notice.code for notice in used.notices]) == ("used", ["btrfs-log-kept"])
    assert used.extents.size < 100 * MIB
    restored = tmp_path / "restored"
    keep_only(cut, used.extents, restored)
    with volumes.mounted_btrfs(restored, tmp_path / "mount") as root:
        assert hashes(root, promised) == promised
        assert "no errors found" in run_tool("btrfs", "scrub", "start", "-B", str(root))
    run_tool("btrfs", "check", "--readonly", "--check-data-csum", str(restored))
    assert read_map(restored).notices == ()  # the mount has replayed the log


@pytest.mark.parametrize("scene", ["default", pytest.param("many", marks=pytest.mark.slow), "changed"])
def test_the_log_is_exactly_what_dump_tree_lists(tmp_path: Path, scene: str) -> None:
    cut, _ = power_cut(tmp_path, scene)
    chunks = volumes.list_chunks(cut)
    text = run_tool("btrfs", "inspect-internal", "dump-tree", str(cut))
    node_size = 4096 if scene == "many" else 16384
    blocks = [int(at) for at in re.findall(r"^(?:leaf|node) (\d+) .* owner TREE_LOG$", text, re.MULTILINE)]
    parts = re.split(r"^(?=(?:leaf|node) \d+ (?:items|level))", text, flags=re.MULTILINE)
    leaves = [part for part in parts if re.match(r"leaf .* owner TREE_LOG\n", part)]
    extents = [pair for leaf in leaves for pair in re.findall(r"disk byte ([1-9]\d*) nr (\d+)", leaf)]
    assert extents
    logged = [(at, node_size) for at in blocks] + [(int(at), int(size)) for at, size in extents]
    ends = [Extent(0, MIB), Extent(64 * MIB, 64 * MIB + 4096)]
    listed = ExtentSet.of(*volumes.to_places(chunks, logged), *ends)
    assert read_map(cut).extents == listed | volumes.list_used(cut, node_size=node_size)


@pytest.mark.parametrize("scene", ["default", "mixed"])
def test_without_the_log_the_map_would_have_lost_files(tmp_path: Path, scene: str) -> None:
    """The test above proves nothing unless the extent tree alone is wrong."""
    cut, promised = power_cut(tmp_path, scene)
    used = read_map(cut).extents
    listed = volumes.list_used(cut, node_size=4096 if scene == "mixed" else 16384)
    assert (used - listed).size > sum(1 for _ in promised) * 4096


def test_a_log_that_cannot_be_believed_makes_it_raw(tmp_path: Path) -> None:
    cut, _ = power_cut(tmp_path, "single")
    contents = bytearray(cut.read_bytes())
    log_root = int.from_bytes(contents[volumes.SUPERBLOCK + 0x60 : volumes.SUPERBLOCK + 0x68], "little")
    (place,) = volumes.places_of(volumes.list_chunks(cut), log_root)
    contents[place + 200] ^= 1
    used = BtrfsFilesystem().used_map(MemoryDisk(contents))
    assert (used.kind, [notice.code for notice in used.notices]) == ("raw", ["btrfs-log"])
    assert "unmount" in used.notices[0].hint


@pytest.mark.parametrize("options", ["", "-M", "-R ^free-space-tree"])
def test_a_frozen_volume_is_read_while_it_is_mounted(tmp_path: Path, options: str) -> None:
    image, copy, promised = tmp_path / "live", tmp_path / "copy", Promised()
    volumes.make_btrfs(image, *options.split(), size=300 * MIB)
    with volumes.mounted_btrfs(image, tmp_path / "mount") as root:
        plain_files(root, promised)
        (root / "not synced").write_bytes(b"new" * 100_000)
        promised["not synced"] = hashlib.sha256(b"new" * 100_000).hexdigest()
        try:  # also when it is stopped right after it froze: nobody could unmount it then
            run_tool("fsfreeze", "--freeze", str(root))
            used = read_frozen_map(MemoryDisk(image.read_bytes()))
            keep_only(image, used.extents, copy)
        finally:
            run_tool("fsfreeze", "--unfreeze", str(root))
        (root / "after").write_bytes(os.urandom(MIB))
    assert (used.kind, used.notices) == ("used", ())
    run_tool("btrfs", "check", "--readonly", "--check-data-csum", str(copy))
    with volumes.mounted_btrfs(copy, tmp_path / "mount") as root:
        assert hashes(root, promised) == promised
        assert not (root / "after").exists()


def test_a_volume_that_is_not_frozen_is_not_believed_to_be(tmp_path: Path) -> None:
    cut, _ = power_cut(tmp_path, "default")
    used = read_frozen_map(MemoryDisk(cut.read_bytes()))
    assert (used.kind, [notice.code for notice in used.notices]) == ("raw", ["btrfs-not-frozen"])
