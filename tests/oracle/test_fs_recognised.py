"""Volumes that are stored whole: type, label and UUID as blkid tells them."""

import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from stillframe.block import BlockReader, MemoryDisk
from stillframe.fs.base import Volume
from stillframe.fs.ext import ExtFilesystem
from stillframe.fs.recognised import ContainerVolumes, ForeignFilesystems
from stillframe.fs.swap import SwapFilesystem
from stillframe.testing import volumes_linux as build

# blkid writes a label that blanks or other letters are in with a backslash; ours is the label itself.
BUILT: dict[str, Callable[[], bytes]] = {
    "luks1": partial(build.build_luks, 1),
    "luks2": partial(build.build_luks, 2, label=b"secret"),
    "lvm2": build.build_lvm2,
    **{f"raid-{version}": partial(build.build_raid, version) for version in ("0.90", "1.0", "1.1", "1.2")},
    **{name: partial(build.build_signature, name) for name in build.SIGNATURE_TYPES},
}


def blkid(path: Path) -> dict[str, str]:
    done = subprocess.run(["blkid", "-p", "-o", "export", str(path)], capture_output=True, text=True, check=True)
    return {key: value.replace("\\", "") for key, value in (line.split("=", 1) for line in done.stdout.splitlines())}


def identify(reader: BlockReader) -> Volume | None:
    return ContainerVolumes().identify(reader) or ForeignFilesystems().identify(reader)


@pytest.mark.parametrize("name", BUILT)
def test_type_label_and_uuid_are_those_of_blkid(tmp_path: Path, name: str) -> None:
    contents = BUILT[name]()
    path = tmp_path / "volume"
    path.write_bytes(contents)
    volume, expected = identify(MemoryDisk(contents)), blkid(path)
    assert volume is not None
    assert (volume.filesystem, volume.uuid) == (expected["TYPE"], expected.get("UUID", ""))
    assert volume.label == expected.get("LABEL", "")


def test_a_raid_member_is_known_before_the_ext_inside_it(tmp_path: Path) -> None:
    path = tmp_path / "volume"
    path.write_bytes(build.build_raid("1.0"))
    subprocess.run(["mke2fs", "-q", "-F", str(path), "2032k"], check=True, capture_output=True)
    disk = MemoryDisk(path.read_bytes())
    assert ExtFilesystem().identify(disk) is not None
    volume = ContainerVolumes().identify(disk)
    assert volume is not None
    assert volume.filesystem == "linux_raid_member"


@pytest.mark.parametrize("size", [0, 1, 512, 4096, 100_000])
def test_small_and_empty_volumes_are_nobodys(size: int) -> None:
    for contents in (bytes(size), b"\xff" * size):
        for filesystem in (ContainerVolumes(), ForeignFilesystems(), ExtFilesystem(), SwapFilesystem()):
            assert filesystem.identify(MemoryDisk(contents)) is None
