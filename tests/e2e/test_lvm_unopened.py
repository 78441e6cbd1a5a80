"""A disk with LVM that nobody uses: what its file systems do not use is not kept, and all the rest comes back."""

import subprocess
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from stillframe.block import MemoryDisk
from stillframe.capture import Selection, open_source
from stillframe.extents import Extent
from stillframe.jobs.exposing import expose
from stillframe.jobs.inside.volumes import look_inside
from stillframe.repo.records import StoredPartition
from stillframe.store import MemoryStore
from stillframe.testing.disks_partitioned import make_disk
from stillframe.testing.file_images import get_all
from stillframe.testing.job_runs import backup, make_repository, restore
from stillframe.testing.real_disks import PAGING, Hashes, make_ext4, read_files
from stillframe.testing.tools import run_tool
from stillframe.testing.volumes_lvm import GROUP, LvmTools, lvm_on
from stillframe.testing.volumes_windows import hash_tree

pytestmark = pytest.mark.root

MIB = 1 << 20
PLACES = (Extent(4 * MIB, 28 * MIB), Extent(29 * MIB, 53 * MIB))
SIZE = 56 * MIB
NOISE = bytes(range(1, 256)) * (SIZE // 255 + 1)
VOLUMES = ("root", "home", "blob", "swap")


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A disk in a file, and the files in its volumes."""

    path: Path
    files: dict[str, Hashes]


def make_old(folder: Path) -> bytes:
    """The disk of a virtual machine: partitioned now, with an empty ext4 of earlier days showing through."""
    old = folder / "old"
    old.write_bytes(bytes(3 * MIB))
    run_tool("mke2fs", "-q", "-F", "-t", "ext4", str(old))
    subprocess.run(["sfdisk", "--quiet", "--wipe", "never", old], input=b"start=2048\n", check=True)
    assert "TYPE" in run_tool("blkid", "-p", "-u", "filesystem", str(old))
    return old.read_bytes()[:MIB] + NOISE[: 2 * MIB]


def build(folder: Path) -> Built:
    """Two physical volumes on one disk that was full of noise; ``root`` in two pieces, ``home`` in stripes."""
    path = folder / "disk.img"
    table = "label: gpt\n" + "".join(f"start={one.start // 512}, size={one.size // 512}\n" for one in PLACES)
    path.write_bytes(make_disk(SIZE, sfdisk=table, start=NOISE[:SIZE]))
    with lvm_on(*((path, place) for place in PLACES)) as lvm:
        lvm.make_group()
        lvm.make_volume("root", "-L", "6m", lvm.devices[1])
        lvm.make_striped("home", "12m", stripe_size="32k")
        lvm.extend("root", "12m", lvm.devices[0])
        lvm.make_volume("blob", "-L", "3m", lvm.devices[1])
        lvm.make_volume("swap", "-L", "4m", lvm.devices[0])
        files = {name: make_ext4(folder / name, 12 * MIB, seed=len(name)) for name in ("root", "home")}
        (folder / "blob").write_bytes(make_old(folder))
        (folder / "swap").write_bytes(PAGING * (4 * MIB // len(PAGING) + 1))
        with (folder / "swap").open("r+b") as file:
            file.truncate(4 * MIB)
        run_tool("mkswap", str(folder / "swap"))
        for name in VOLUMES:
            lvm.write_volume(name, folder / name)
    return Built(path=path, files=files)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp("unopened"))


def saved_and_restored(contents: bytes, target: Path) -> tuple[StoredPartition, ...]:
    """The partitions as they were stored, after a restore onto a disk full of other bytes."""
    repository = make_repository(MemoryStore(), chunk_size=65_536)
    manifest = backup(repository, MemoryDisk(contents)).manifest
    target.write_bytes(b"\xff" * len(contents))
    restore(repository, manifest, target)
    return manifest.disks[0].partitions


def test_only_what_is_in_use_is_kept_and_all_files_come_back(built: Built, tmp_path: Path) -> None:
    contents, target = built.path.read_bytes(), tmp_path / "target.img"
    parts = saved_and_restored(contents, target)
    assert [(part.filesystem, part.map) for part in parts] == [("LVM2_member", "used")] * 2
    assert sum(part.bytes_used for part in parts) < 24 * MIB  # of 48: 31 in volumes, and not full
    after = target.read_bytes()
    assert after[: PLACES[0].start] == contents[: PLACES[0].start]
    for place in PLACES:  # the label, the metadata, what is in front of the first extent
        assert after[place.start : place.start + MIB] == contents[place.start : place.start + MIB]
    assert after[54 * MIB :] == contents[54 * MIB :]
    with lvm_on(*((built.path, place) for place in PLACES)) as lvm:
        before = {name: lvm.read_volume(name, tmp_path / f"{name}.before") for name in VOLUMES}
        segments = {name: [[one for _, one in stripes] for _, stripes in lvm.segments(name)] for name in VOLUMES}
    with lvm_on(*((target, place) for place in PLACES)) as lvm:
        lvm.run("vgck", GROUP)
        assert {name: [[one for _, one in row] for _, row in lvm.segments(name)] for name in VOLUMES} == segments
        restored = {name: lvm.read_volume(name, tmp_path / name) for name in VOLUMES}
    assert restored["blob"].read_bytes() == before["blob"].read_bytes()
    assert restored["swap"].read_bytes()[:4096] == before["swap"].read_bytes()[:4096]
    assert PAGING not in restored["swap"].read_bytes()  # its contents were left out
    for name, files in built.files.items():
        run_tool("e2fsck", "-fn", str(restored[name]))
        found = read_files("ext4", restored[name])
        assert {one: found[one] for one in files if one != "swapfile"} == {
            one: files[one] for one in files if one != "swapfile"
        }


def test_files_of_such_an_image_are_read_and_what_was_left_out_is_refused(built: Built, tmp_path: Path) -> None:
    repository = make_repository(MemoryStore(), chunk_size=65_536)
    image = expose(repository, backup(repository, MemoryDisk(built.path.read_bytes())).manifest)
    insides = look_inside(image)
    assert [(one.name, one.places[0]) for one in insides.volumes] == [
        ("root", (1, 2)), ("home", (1, 1)), ("blob", (1, 2)), ("swap", (1, 1)),
    ]  # fmt: skip
    for name, files in built.files.items():
        tally = get_all(insides.find(1, 2, name), tmp_path / name)
        assert [notice.message.split(" was")[0] for notice in tally.notices] == ["/swapfile"]
        assert hash_tree(tmp_path / name) == {one: files[one] for one in files if one != "swapfile"}


def _add_snapshot(lvm: LvmTools, folder: Path) -> None:
    """A snapshot may use what the file system of its origin calls free."""
    saved = folder / "saved"
    lvm.run("vgcfgbackup", "-f", str(saved), GROUP)
    snapshot = """logical_volumes {
        store { id = "aaaaaa-bbbb-cccc-dddd-eeee-ffff-gggg01" status = ["READ", "WRITE", "VISIBLE"] segment_count = 1
            segment1 { start_extent = 0 extent_count = 2 type = "striped" stripe_count = 1 stripes = ["pv1", 17] } }
        snapshot0 { id = "aaaaaa-bbbb-cccc-dddd-eeee-ffff-gggg02" status = ["READ", "WRITE"] segment_count = 1
            segment1 { start_extent = 0 extent_count = 12 type = "snapshot" chunk_size = 8
                origin = "home" cow_store = "store" } }
    """
    saved.write_text(saved.read_text().replace("logical_volumes {", snapshot))
    lvm.run("vgcfgrestore", "-f", str(saved), GROUP)


def _change_one_copy(lvm: LvmTools, _: Path) -> None:
    """A change that only one of the physical volumes has: LVM saw that one alone."""
    alone = Path(lvm.devices[0]).read_bytes()[: 2 * MIB]
    lvm.run("vgchange", "--addtag", "newer", GROUP)
    with open(lvm.devices[0], "r+b") as device:
        device.write(alone)


def _break_metadata(lvm: LvmTools, _: Path) -> None:
    with open(lvm.devices[1], "r+b") as device:
        device.seek(4096 + 60)
        device.write(b"\xa5")


def _begin_a_change(lvm: LvmTools, _: Path) -> None:
    """A change that was written and not committed: LVM2 lib/format_text/layout.h, mda_header, raw_locns[1]."""
    with open(lvm.devices[1], "r+b") as device:
        device.seek(4096)
        header = bytearray(device.read(512))
        header[64:72] = (8192).to_bytes(8, "little")
        check = zlib.crc32(header[4:], 0xF597A6CF ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
        header[:4] = check.to_bytes(4, "little")
        device.seek(4096)
        device.write(header)
    assert "precommit" in lvm.run("pvck", "--dump", "headers", lvm.devices[1])


def _lose_the_second(lvm: LvmTools, _: Path) -> None:
    """The group wants a physical volume that is not on this disk."""
    with open(lvm.devices[1], "r+b") as device:
        device.write(bytes(MIB))


def _copy_the_first(lvm: LvmTools, _: Path) -> None:
    """Two partitions say that they are the same physical volume."""
    head = Path(lvm.devices[0]).read_bytes()[: 2 * MIB]
    with open(lvm.devices[1], "r+b") as device:
        device.write(head)


@pytest.mark.parametrize(
    "doubt", [_add_snapshot, _change_one_copy, _break_metadata, _begin_a_change, _lose_the_second, _copy_the_first],
    ids=lambda one: one.__name__.strip("_"),
)  # fmt: skip
def test_a_group_in_doubt_is_kept_whole(built: Built, tmp_path: Path, doubt: Callable[[LvmTools, Path], None]) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(built.path.read_bytes())
    with lvm_on(*((path, place) for place in PLACES)) as lvm:
        doubt(lvm, tmp_path)
    with open_source(str(path)) as source:
        disk = source.capture(Selection())
    assert {volume.used.kind for volume in disk.volumes} == {"raw"}
    assert [volume.kept.size for volume in disk.volumes] == [place.size for place in PLACES]
