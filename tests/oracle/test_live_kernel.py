"""The kernel's own freeze and trace: what is seen, what is refused, and who thaws when this process cannot."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stillframe.capture import open_source
from stillframe.errors import Disturbed, MachineRefusal, SourceInUse, ThawedEarly
from stillframe.extents import Extent, ExtentSet
from stillframe.host.blocks import read_block_tree
from stillframe.host.linux import DeviceNumber, thing_at
from stillframe.host.live import trace as tracing
from stillframe.host.live import tracefs
from stillframe.host.live.freezing import frozen, open_mounted
from stillframe.host.live.leaves import LeafDisk, LeafShare, find_leaves
from stillframe.host.live.trace import open_trace
from stillframe.host.live.watchdog import Watchdog
from stillframe.testing.command_line import call
from stillframe.testing.loops import loop_device, partition_nodes
from stillframe.testing.tools import run_tool

pytestmark = pytest.mark.root
MIB = 1 << 20
SIZE = 128 * MIB


def ours() -> str:
    """How names of what this process makes begin; asked when it is needed, for tests run in forked processes."""
    return f"stillframe-{os.getpid()}-"


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(SIZE)
    with loop_device(image) as found:
        yield found


@pytest.fixture
def mounted(device: Path, tmp_path: Path) -> Iterator[Path]:
    run_tool("mkfs.ext4", "-q", "-F", str(device))
    place = tmp_path / "mount"
    place.mkdir()
    run_tool("mount", str(device), str(place))
    yield place
    for _ in range(100):  # a watchdog whose parent was killed holds it open for some moments
        if subprocess.run(["umount", str(place)], check=False, capture_output=True).returncode == 0:
            return
        time.sleep(0.1)
    raise AssertionError("it stays busy")


def share_of(device: Path) -> LeafShare:
    number = thing_at(str(device))
    assert isinstance(number, DeviceNumber)
    (share,) = find_leaves(read_block_tree(), number)
    return share


def leaf_of(device: Path) -> LeafDisk:
    return share_of(device).disk


def write(device: Path, offset: int, size: int) -> None:
    run_tool("dd", "if=/dev/urandom", f"of={device}", "bs=4096", f"seek={offset // 4096}", f"count={size // 4096}",
             "conv=notrunc", "oflag=direct")  # fmt: skip


def test_every_write_discard_and_zeroing_is_seen_and_proven(device: Path) -> None:
    with open_trace(leaf_of(device)) as trace:
        write(device, 8 * MIB, 65_536)
        run_tool("blkdiscard", "-o", str(40 * MIB), "-l", str(MIB), str(device))
        run_tool("blkdiscard", "-z", "-o", str(60 * MIB), "-l", str(MIB), str(device))
        run_tool("dd", f"if={device}", "of=/dev/null", "bs=1M", "iflag=direct")  # reads are no change
        trace.drain()
        expected = [Extent(8 * MIB, 8 * MIB + 65_536), Extent(40 * MIB, 41 * MIB), Extent(60 * MIB, 61 * MIB)]
        assert trace.changed.changed() == ExtentSet.of(*expected)
        assert trace.shortfall() == ""
    assert not [name for name in os.listdir(f"{tracefs.TRACEFS}/instances") if name.startswith(ours())]


def test_a_partition_is_followed_on_its_disk(device: Path) -> None:
    run_tool("sgdisk", "-n1:2048:+32M", "-n2:0:0", str(device))
    with partition_nodes(device):
        part = Path(f"{device}p2")
        share = share_of(part)
        with open_trace(share.disk) as trace:
            write(part, MIB, 4096)
            trace.drain()
            assert trace.changed.changed() == ExtentSet.of(Extent(34 * MIB, 34 * MIB + 4096))
            assert share.pieces.up(trace.changed.changed()) == ExtentSet.of(Extent(MIB, MIB + 4096))


def test_a_buffer_that_overflows_is_no_proof(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_BUFFER_KIB", 4)
    with open_trace(leaf_of(device)) as trace:
        run_tool("fio", "--name=a", f"--filename={device}", "--rw=randwrite", "--bs=4k", "--size=40M", "--direct=1",
                 "--allow_mounted_write=1")  # fmt: skip
        trace.drain()
        assert "overflowed" in trace.shortfall()
        trace.begin_again()
        assert trace.shortfall() == ""
        write(device, 0, 4096)
        trace.drain()
        assert trace.shortfall() == ""


def test_what_is_written_is_noted_to_the_sector(device: Path) -> None:
    with open_trace(leaf_of(device)) as trace:
        write(device, MIB, 4096)
        trace.drain()
        assert not len(trace.note_anew())  # before the first call nothing is noted
        run_tool("blkdiscard", "-o", str(3 * MIB + 512), "-l", "1024", str(device))
        write(device, 5 * MIB, 4096)
        trace.drain()
        expected = ExtentSet.of(Extent(3 * MIB + 512, 3 * MIB + 1536), Extent(5 * MIB, 5 * MIB + 4096))
        assert trace.note_anew() == expected
        trace.stop_noting()
        write(device, 6 * MIB, 4096)
        trace.drain()
        assert not len(trace.note_anew())


def test_the_trace_file_system_is_mounted_and_leftovers_of_a_killed_run_go(device: Path) -> None:
    subprocess.run(["umount", tracefs.TRACEFS], check=False, capture_output=True)  # busy: another test uses it
    with open_trace(leaf_of(device)) as trace:
        stale = Path(tracefs.TRACEFS, "instances", "stillframe-999999999-0000")  # no process has this number
        stale.mkdir()
        (stale / "events/block/block_rq_complete/enable").write_text("1")
        with open_trace(leaf_of(device)) as second:
            assert not stale.exists()
            write(device, 5 * MIB, 4096)
            for one in (trace, second):
                one.drain()
                assert one.changed.changed() == ExtentSet.of(Extent(5 * MIB, 5 * MIB + 4096))
    assert not [name for name in os.listdir(f"{tracefs.TRACEFS}/instances") if name.startswith(ours())]


def test_writes_that_the_trace_does_not_show_are_noticed(device: Path) -> None:
    with open_trace(leaf_of(device)) as trace:
        (instance,) = (name for name in os.listdir(f"{tracefs.TRACEFS}/instances") if name.startswith(ours()))
        Path(tracefs.TRACEFS, "instances", instance, tracing._EVENT, "enable").write_text("0")
        write(device, 0, 4096)
        trace.drain()
        assert "8 sectors" in trace.shortfall()


def test_a_disk_that_does_not_count_is_refused(device: Path) -> None:
    switch = Path(leaf_of(device).folder, "queue/iostats")
    switch.write_text("0")
    try:
        with pytest.raises(MachineRefusal, match="does not count") as caught:
            leaf_of(device)
        assert "iostats" in caught.value.hint
    finally:
        switch.write_text("1")


def test_what_was_thawed_early_is_told(mounted: Path) -> None:
    place = open_mounted(str(mounted))
    with Watchdog([place.descriptor], limit_s=30) as dog, pytest.raises(ThawedEarly), frozen([place], dog):
        run_tool("fsfreeze", "--unfreeze", str(mounted))
    os.close(place.descriptor)


def test_the_watchdog_thaws_after_its_limit(mounted: Path) -> None:
    place = open_mounted(str(mounted))
    with Watchdog([place.descriptor], limit_s=0.5) as dog:
        with pytest.raises(Disturbed), frozen([place], dog):
            (mounted / "after").write_text("this waits until the watchdog has thawed")
        with frozen([place], dog) as stillness:
            pass
        assert stillness.seconds < 5
    os.close(place.descriptor)


def test_one_that_is_frozen_already_is_refused_and_stays_so(mounted: Path) -> None:
    place = open_mounted(str(mounted))
    run_tool("fsfreeze", "--freeze", str(mounted))
    try:
        with (
            Watchdog([place.descriptor], limit_s=30) as dog,
            pytest.raises(MachineRefusal, match="frozen already"),
            frozen([place], dog),
        ):
            raise AssertionError
    finally:
        run_tool("fsfreeze", "--unfreeze", str(mounted))  # fails unless it is frozen still
    os.close(place.descriptor)


FREEZE_AND_HANG = """
import sys, time
from stillframe.host.live.freezing import frozen, open_mounted
from stillframe.host.live.watchdog import Watchdog
place = open_mounted(sys.argv[1])
with Watchdog([place.descriptor], limit_s=60) as dog, frozen([place], dog):
    print("frozen", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("whole_group", [False, True])
def test_a_killed_backup_leaves_a_writable_system(mounted: Path, whole_group: bool) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", FREEZE_AND_HANG, str(mounted)], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"frozen\n"
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGKILL) if whole_group else process.kill()
    (mounted / "after").write_text("written")
    assert time.monotonic() - began < 30  # generous: it takes a tenth of a second
    process.wait()
    process.stdout.close()


def test_what_is_saved_unmounted_cannot_be_mounted_meanwhile(device: Path, tmp_path: Path) -> None:
    run_tool("mkfs.ext4", "-q", "-F", str(device))
    mount = ["mount", str(device), str(tmp_path)]
    with open_source(str(device)) as source:
        assert source.consistency == "offline"
        assert subprocess.run(mount, check=False, capture_output=True).returncode != 0
        assert source.stayed_still()
        with pytest.raises(SourceInUse, match="another run"):
            open_source(str(device))
    subprocess.run(mount, check=True)
    with open_source(str(device)) as source:
        assert source.consistency == "frozen"
    subprocess.run(["mount", "-o", "remount,ro", str(device), str(tmp_path)], check=True)
    with open_source(str(device)) as source:  # only read: nothing to hold still, and nobody to keep out
        assert source.consistency == "offline"
        assert source.stayed_still()
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_refusals_name_the_next_step(
    mounted: Path, device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STILLFRAME_PASSWORD", "secret")
    inside = mounted / "repository"
    assert call("init", inside).exit_code == 0
    refused = call("backup", device, "--repo", inside)
    assert refused.exit_code == SourceInUse.exit_code
    assert "another disk" in refused.errors
    elsewhere = tmp_path / "repository"
    assert call("init", elsewhere).exit_code == 0
    refused = call("backup", device, "--exclude", "*.iso", "--repo", elsewhere)
    assert refused.exit_code == 2
    assert "Leave it out" in refused.errors
    cloned = call("clone", device, mounted / "copy", "--yes")
    assert cloned.exit_code == 22
    assert "lies on the source" in cloned.errors
    monkeypatch.setattr(tracefs, "TRACEFS", str(tmp_path / "none"))
    monkeypatch.setattr(tracefs, "_TRACEFS_OLD", str(tmp_path / "none"))
    refused = call("backup", device, "--repo", elsewhere)
    assert refused.exit_code == 20
    assert "tracefs" in refused.errors
    file = call("backup", tmp_path / "disk.img", "--repo", elsewhere)
    assert file.exit_code == 20
    assert "name the device" in file.errors


def test_a_mounted_disk_is_saved_restored_and_its_files_are_there(
    mounted: Path, device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STILLFRAME_PASSWORD", "secret")
    (mounted / "letter").write_bytes(os.urandom(3 * MIB))
    expected = (mounted / "letter").read_bytes()
    repository, target = tmp_path / "repository", tmp_path / "target.img"
    assert call("init", repository).exit_code == 0
    plan = call("backup", device, "--dry-run", "--json", "--repo", repository)
    assert plan.result["volumes"][0]["consistency"] == "frozen"
    made = call("backup", device, "--json", "--repo", repository)
    assert made.exit_code == 0, made.errors
    assert made.result["volumes"] == [{"disk": 1, "partition": 1, "consistency": "frozen", "map": "used"}]
    assert 0 < made.result["held"]["seconds"] < 10
    shown = call("show", made.result["image"], "--json", "--repo", repository)
    assert shown.result["held"] == made.result["held"]
    assert "held still" in call("show", made.result["image"], "--repo", repository).output
    (mounted / "later").write_text("not in the image")
    again = call("backup", device, "--json", "--repo", repository)
    assert (again.exit_code, again.result["kind"]) == (0, "incremental")
    assert call("restore", made.result["image"], target, "--yes", "--repo", repository).exit_code == 0
    place = tmp_path / "again"
    place.mkdir()
    run_tool("mount", "-o", "loop", str(target), str(place))
    try:
        assert (place / "letter").read_bytes() == expected
        assert not (place / "later").exists()
    finally:
        run_tool("umount", str(place))
    run_tool("e2fsck", "-fn", str(target))
