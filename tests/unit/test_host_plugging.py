"""Disk files plugged in as devices with partitions: what is left of others, and what may not be left behind."""

import os
import threading
import time
from pathlib import Path

import pytest

from stillframe.errors import MachineRefusal
from stillframe.extents import Extent
from stillframe.host import attaching
from stillframe.host.attaching import Keeper, forget_partitions
from stillframe.host.plugging import plug
from stillframe.testing.loops import attach_loop, detach_loop, drop_partitions, loop_device
from stillframe.testing.tools import run_tool

pytestmark = pytest.mark.root
MIB = 1 << 20
TWO = {1: Extent(MIB, 3 * MIB), 2: Extent(4 * MIB, 6 * MIB)}


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.touch()
    os.truncate(path, 8 * MIB)
    return path


def partitions(device: str) -> list[str]:
    name = Path(device).name
    return sorted(entry for entry in os.listdir(f"/sys/block/{name}") if entry.startswith(name))


def test_partitions_are_there_and_are_gone_afterwards(disk: Path) -> None:
    with Keeper() as keeper:
        found = plug(keeper, str(disk), TWO, sector_size=512)
        name = Path(found.device).name
        assert partitions(found.device) == [f"{name}p1", f"{name}p2"]
        assert Path(f"/sys/block/{name}/{name}p2/start").read_text() == "8192\n"
    assert partitions(found.device) == []


def test_a_partition_that_somebody_looks_at_is_gone_when_he_has_looked(disk: Path) -> None:
    with Keeper() as keeper:
        found = plug(keeper, str(disk), TWO, sector_size=512)
        opened = os.open(found.node(2), os.O_RDONLY)
        closing = threading.Timer(0.5, os.close, [opened])
        closing.start()
    closing.join()
    assert partitions(found.device) == []


def test_partitions_that_another_left_on_the_device_are_not_in_the_way(disk: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.touch()
    os.truncate(other, 8 * MIB)
    device = attach_loop(other)
    run_tool("addpart", device, "1", "2048", "2048")
    run_tool("addpart", device, "7", "8192", "2048")
    detach_loop(device)
    try:
        with Keeper() as keeper:
            found = plug(keeper, str(disk), TWO, sector_size=512)
            name = Path(found.device).name
            assert partitions(found.device) == [f"{name}p1", f"{name}p2"]
            assert Path(f"/sys/block/{name}/{name}p1/size").read_text() == f"{2 * MIB // 512}\n"
    finally:
        drop_partitions(device)


def test_a_partition_that_stays_in_use_is_named(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attaching, "_STEP_S", 0.001)
    with loop_device(disk) as device:
        run_tool("addpart", str(device), "3", "2048", "2048")
        opened = os.open(f"{device}p3", os.O_RDONLY)
        try:
            began = time.monotonic()
            with pytest.raises(MachineRefusal, match=f"{device.name}p3 in use"):
                forget_partitions(str(device))
            assert time.monotonic() - began < 30
        finally:
            os.close(opened)
            drop_partitions(device)
