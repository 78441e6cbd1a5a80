"""Swap areas: names as mkswap wrote and blkid reads them; what is left out, and when nothing is."""

import subprocess
import uuid
from pathlib import Path

import pytest

from stillframe.block import MemoryDisk
from stillframe.extents import Extent, ExtentSet
from stillframe.fs.swap import PAGE_SIZES, SwapFilesystem, build_swap_header
from stillframe.testing.volumes_linux import build_swap


def blkid(path: Path) -> dict[str, str]:
    done = subprocess.run(["blkid", "-p", "-o", "export", str(path)], capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("label", ["", "memory"])
def test_an_area_of_mkswap(tmp_path: Path, page_size: int, label: str) -> None:
    path = tmp_path / "area"
    path.write_bytes(b"\xa5" * (2 << 20) + bytes(512))
    named = ["-L", label] if label else []
    subprocess.run(["mkswap", "-p", str(page_size), *named, str(path)], check=True, capture_output=True)
    contents = path.read_bytes()
    disk = MemoryDisk(contents)
    volume, expected = SwapFilesystem().identify(disk), blkid(path)
    assert volume is not None
    assert (volume.filesystem, volume.uuid) == ("swap", expected["UUID"])
    assert volume.label == expected.get("LABEL", "") == label
    assert volume.block_size == page_size
    used = SwapFilesystem().used_map(disk)
    assert (used.kind, used.extents) == ("used", ExtentSet.of(Extent(0, disk.size)))
    (rest,) = SwapFilesystem().left_out(disk)
    assert rest.kind == "swap"
    # The 512 bytes behind the last page belong to no page and are kept.
    assert rest.extents == ExtentSet.of(Extent(page_size, 2 << 20))
    disk.zero(Extent(page_size, 2 << 20))
    path.write_bytes(disk.contents)
    assert blkid(path) == expected


@pytest.mark.parametrize(
    "signature", [b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001"], ids=lambda signature: signature.decode()
)
@pytest.mark.parametrize("page_size", [4096, 16384])
def test_a_sleeping_system_is_stored_whole(tmp_path: Path, signature: bytes, page_size: int) -> None:
    path = tmp_path / "area"
    path.write_bytes(build_swap(signature=signature, page_size=page_size, label=b"asleep"))
    disk = MemoryDisk(path.read_bytes())
    volume, expected = SwapFilesystem().identify(disk), blkid(path)
    assert volume is not None
    assert (volume.filesystem, volume.uuid, volume.label) == (expected["TYPE"], expected["UUID"], expected["LABEL"])
    used = SwapFilesystem().used_map(disk)
    assert (used.kind, used.extents) == ("raw", ExtentSet.of(Extent(0, disk.size)))
    assert [notice.code for notice in used.notices] == ["swap-hibernated"]
    assert SwapFilesystem().left_out(disk) == ()


def test_tux_on_ice_is_a_sleeping_system(tmp_path: Path) -> None:
    path = tmp_path / "area"
    path.write_bytes(bytes.fromhex("edc302e99856e50c") + build_swap()[8:])
    disk = MemoryDisk(path.read_bytes())
    volume = SwapFilesystem().identify(disk)
    assert volume is not None
    assert volume.filesystem == blkid(path)["TYPE"]
    assert SwapFilesystem().used_map(disk).kind == "raw"


def test_an_area_of_a_machine_with_the_other_byte_order(tmp_path: Path) -> None:
    path = tmp_path / "area"
    path.write_bytes(build_swap(order=">", label=b"big"))
    disk = MemoryDisk(path.read_bytes())
    volume, expected = SwapFilesystem().identify(disk), blkid(path)
    assert volume is not None
    assert (volume.filesystem, volume.uuid, volume.label) == (expected["TYPE"], expected["UUID"], expected["LABEL"])
    (rest,) = SwapFilesystem().left_out(disk)
    assert rest.extents == ExtentSet.of(Extent(4096, disk.size))


def test_a_header_that_promises_more_than_the_partition_is_cut(tmp_path: Path) -> None:
    disk = MemoryDisk(build_swap(pages=64)[: 40 * 4096])
    (rest,) = SwapFilesystem().left_out(disk)
    assert rest.extents == ExtentSet.of(Extent(4096, 40 * 4096))
    (tmp_path / "header").write_bytes(disk.contents[:4096])
    only = MemoryDisk(build_swap()[:4096])
    assert SwapFilesystem().left_out(only) == ()


def test_the_first_version_has_no_names_and_nothing_is_left_out(tmp_path: Path) -> None:
    area = bytearray(build_swap(signature=b"SWAP-SPACE"))
    area[1024:1068] = bytes(44)
    path = tmp_path / "area"
    path.write_bytes(area)
    volume = SwapFilesystem().identify(MemoryDisk(area))
    assert volume is not None
    assert (volume.filesystem, volume.uuid, volume.label) == (blkid(path)["TYPE"], "", "")
    assert SwapFilesystem().left_out(MemoryDisk(area)) == ()


@pytest.mark.parametrize("label", ["", "SWAP-sda3", "fifteen-letters"])
@pytest.mark.parametrize("size", [40960, (2 << 20) + 512])
def test_a_header_made_anew_is_that_of_mkswap(tmp_path: Path, size: int, label: str) -> None:
    path, identity = tmp_path / "area", uuid.uuid4()
    path.write_bytes(bytes(size))
    subprocess.run(["mkswap", "-U", str(identity), "-L", label, str(path)], check=True, capture_output=True)
    assert build_swap_header(size, identity=identity, label=label) == path.read_bytes()[:4096]
    with pytest.raises(ValueError, match="40448"):
        build_swap_header(40448, identity=identity, label=label)
