"""LVM's metadata as we read it, against what LVM's own tools say of the same disks."""

import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stillframe.block import MemoryDisk
from stillframe.disk.lvm import PhysicalVolume, VolumeGroup, join_volume, parse_group, read_physical_volume
from stillframe.errors import DiskFormatError
from stillframe.extents import Extent
from stillframe.testing.real_disks import make_ext4
from stillframe.testing.tools import run_tool
from stillframe.testing.volumes_lvm import GROUP, LvmTools, lvm_on

pytestmark = pytest.mark.root

MIB = 1 << 20
SIZE = 24 * MIB


@contextmanager
def two_disks(folder: Path, *, size: int = SIZE) -> Iterator[tuple[LvmTools, tuple[Path, Path]]]:
    paths = folder / "a", folder / "b"
    for path in paths:
        path.write_bytes(bytes(size))
    with lvm_on(*((path, Extent(0, size)) for path in paths)) as lvm:
        yield lvm, paths


def read(path: Path) -> PhysicalVolume:
    found = read_physical_volume(MemoryDisk(path.read_bytes()))
    assert found is not None
    return found


def group_of(path: Path) -> VolumeGroup:
    (text,) = set(read(path).texts)
    return parse_group(text)


def test_a_group_is_what_lvm_says_of_it(tmp_path: Path) -> None:
    with two_disks(tmp_path) as (lvm, paths):
        lvm.make_group(extent_size="512k")
        lvm.make_volume("root", "-L", "6m", lvm.devices[0])
        lvm.make_striped("data-1.0", "8m", stripe_size="16k")
        lvm.make_volume("2024", "-L", "1m", lvm.devices[1])
        lvm.extend("root", "9m", lvm.devices[1])
        groups = [group_of(path) for path in paths]
        assert groups[0] == groups[1]
        group = groups[0]
        ((name, uuid, seqno, extent_size),) = lvm.ask("vgs", "vg_name,vg_uuid,vg_seqno,vg_extent_size")
        assert (group.name, group.uuid, group.seqno, group.extent_size) == (
            name, uuid.replace("-", ""), int(seqno), int(extent_size),
        )  # fmt: skip
        seen = {row[1].replace("-", ""): row for row in lvm.ask("pvs", "pv_name,pv_uuid,pe_start,pv_size,pv_mda_count")}
        assert {place.uuid: (place.start, place.size) for place in group.physical} == {
            uuid: (int(row[2]), int(row[3])) for uuid, row in seen.items()
        }
        for path, device in zip(paths, lvm.devices, strict=True):
            assert seen[read(path).uuid][0] == device
            assert len(read(path).areas) == int(seen[read(path).uuid][4])
        shown = lvm.ask("lvs", "lv_name,lv_uuid,lv_size")
        assert {one.name: (one.uuid, one.size) for one in group.logical} == {
            row[0]: (row[1].replace("-", ""), int(row[2])) for row in shown
        }
        assert {one.name: one.type for one in group.logical} == {
            "root": "linear", "data-1.0": "striped", "2024": "linear",
        }  # fmt: skip
        for volume in group.logical:
            mine = [
                [(seen[place.uuid][0], start, start + segment.size // len(segment.stripes))
                 for place, start in segment.stripes]
                for segment in volume.segments
            ]  # fmt: skip
            theirs = lvm.segments(volume.name)
            assert mine == [[(device, one.start, one.end) for device, one in stripes] for _, stripes in theirs]
            assert [one.stripe_size for one in volume.segments if len(one.stripes) > 1] == [
                size for size, stripes in theirs if len(stripes) > 1
            ]


@pytest.mark.slow
@pytest.mark.parametrize("copies", ["1", "2"])
def test_text_that_wraps_around_its_area_is_what_pvck_shows(tmp_path: Path, copies: str) -> None:
    with two_disks(tmp_path) as (lvm, paths):
        lvm.make_group(physical=("--metadatasize", "32k", "--dataalignment", "4k", "--pvmetadatacopies", copies))
        has_wrapped = 0
        for number in range(14):
            lvm.run("vgchange", "--addtag", f"tag{number:0300d}", GROUP)
            physical = read(paths[0])
            assert len(physical.texts) == int(copies) == len(physical.areas)
            shown = lvm.run("pvck", "--dump", "metadata", lvm.devices[0])
            header, text = shown.split("  ---\n")[:2]
            assert physical.texts[0].rstrip(b"\0").decode().strip() == text.strip()
            assert parse_group(physical.texts[0]).seqno == int(header.split()[-1])
            headers = lvm.run("pvck", "--dump", "headers", lvm.devices[0])
            place, length = (
                int(re.search(rf"raw_locn\[0\]\.{word} (\d+)", headers)[1])  # type: ignore[index]
                for word in ("offset", "size")
            )
            has_wrapped += place + length > physical.areas[0].size
        assert has_wrapped, physical.areas


def test_the_bytes_of_volumes_are_those_that_were_written_by_the_map_of_lvs(tmp_path: Path) -> None:
    for name, size in (("root", 9 * MIB), ("data", 8 * MIB)):
        make_ext4(tmp_path / name, size, seed=size)
    with two_disks(tmp_path) as (lvm, paths):
        lvm.make_group()
        lvm.make_volume("root", "-L", "6m", lvm.devices[0])
        lvm.make_striped("data", "8m")
        lvm.extend("root", "9m", lvm.devices[1])
        for name in ("root", "data"):
            lvm.write_volume(name, tmp_path / name)
    group = group_of(paths[0])
    readers = {read(path).uuid: MemoryDisk(path.read_bytes()) for path in paths}
    for volume in group.logical:
        reader = join_volume(volume, readers)
        assert reader.read_at(0, reader.size) == (tmp_path / volume.name).read_bytes()
        (tmp_path / "joined").write_bytes(reader.read_at(0, reader.size))
        run_tool("e2fsck", "-fn", str(tmp_path / "joined"))


SNAPSHOT = """
    store {
        id = "aaaaaa-bbbb-cccc-dddd-eeee-ffff-gggg01"
        status = ["READ", "WRITE"]
        segment_count = 1
        segment1 { start_extent = 0 extent_count = 2 type = "striped" stripe_count = 1 stripes = ["pv1", 0] }
    }
    snapshot0 {
        id = "aaaaaa-bbbb-cccc-dddd-eeee-ffff-gggg02"
        status = ["READ", "WRITE", "VISIBLE"]
        segment_count = 1
        segment1 { start_extent = 0 extent_count = 4 type = "snapshot" chunk_size = 8
            origin = "root" cow_store = "store" }
    }
    nothing {
        id = "aaaaaa-bbbb-cccc-dddd-eeee-ffff-gggg03"
        status = ["READ", "WRITE", "VISIBLE"]
        segment_count = 1
        segment1 { start_extent = 0 extent_count = 3 type = "zero" }
    }
"""


def test_what_is_not_linear_is_named_by_its_type(tmp_path: Path) -> None:
    with two_disks(tmp_path) as (lvm, paths):
        lvm.make_group()
        lvm.make_volume("root", "-L", "4m", lvm.devices[0])
        saved = tmp_path / "saved"
        lvm.run("vgcfgbackup", "-f", str(saved), GROUP)
        saved.write_text(saved.read_text().replace("logical_volumes {", "logical_volumes {" + SNAPSHOT))
        lvm.run("vgcfgrestore", "-f", str(saved), GROUP)
        shown = {row[0]: row[1] for row in lvm.ask("lvs", "lv_name,segtype")}
        assert shown == {"root": "linear", "store": "linear", "nothing": "zero"}
        assert dict(lvm.ask("lvs", "lv_name,origin"))["store"] == "root"
        group = group_of(paths[1])
    types = {one.name: (one.type, len(one.segments)) for one in group.logical if one.is_visible}
    assert types == {"root": ("linear", 1), "store": ("snapshot", 0), "nothing": ("zero", 0)}


def test_one_flipped_bit_in_what_is_read_is_found(tmp_path: Path) -> None:
    with two_disks(tmp_path, size=4 * MIB) as (lvm, paths):
        lvm.make_group()
        lvm.make_volume("root", "-L", "1m", lvm.devices[0])
    good, choose = bytearray(paths[0].read_bytes()), random.Random(1)
    text = read(paths[0]).texts[0]
    start = good.rindex(text)
    covered = [*range(512 + 16, 1024), *range(4096, 4096 + 512), *range(start, start + len(text))]
    for place in choose.sample(covered, 300):
        damaged = bytearray(good)
        damaged[place] ^= 1 << choose.randrange(8)
        try:
            found = read_physical_volume(MemoryDisk(damaged))
        except DiskFormatError:
            continue
        assert found is None or (found.fault is not None and found.texts == ()), place
