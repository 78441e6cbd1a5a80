"""Volumes on a disk that is slow, finishes requests in another order, and keeps writes in a memory of its own."""

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stillframe.testing.busy_volume import MAKE, MIB, WRITERS, Judge, busy_volume, compare, save
from stillframe.testing.loops import attach_loop, detach_loop
from stillframe.testing.slow_medium import PAGE_SIZE, HeldPages, Pace, SlowMedium
from stillframe.testing.tools import run_tool

pytestmark = pytest.mark.root
SIZE = 400 * MIB
SMALL = 8 * PAGE_SIZE
PLACES = st.tuples(st.integers(0, SMALL - 1), st.integers(0, SMALL // 2), st.integers(0, 255))
STEPS = st.lists(st.tuples(st.sampled_from(("write", "clear", "some", "all")), PLACES), max_size=20)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no mistake
@given(steps=STEPS, held_s=st.sampled_from((0.0, 60.0, 0.000001)))
def test_what_was_called_done_is_read_at_once_and_lies_in_the_file_after_a_flush(
    steps: list[tuple[str, tuple[int, int, int]]], held_s: float
) -> None:
    descriptor = os.memfd_create("medium")
    os.truncate(descriptor, SMALL)
    pages, model = HeldPages(descriptor, held_s=held_s), bytearray(SMALL)
    for step, (start, length, value) in steps:
        end = min(start + length, SMALL)
        if step == "write":
            model[start:end] = bytes([value]) * (end - start)
            pages.write(start, bytes(model[start:end]))
        elif step == "clear":
            model[start:end] = bytes(end - start)
            pages.clear(start, end - start)
        else:
            pages.put_down(all_of_it=step == "all")
            assert step == "some" or os.pread(descriptor, SMALL, 0) == model
        assert pages.read(0, SMALL) == model
        assert pages.read(start, end - start) == model[start:end]
    os.close(descriptor)


def test_writes_overtake_each_other_and_rest_in_memory(tmp_path: Path) -> None:
    """Or the medium proves nothing: fio finds what it wrote, and the order of completion is not that of coming in."""
    with SlowMedium(tmp_path, size=64 * MIB, pace=Pace(delay_s=0.02, held_s=2)) as medium:
        device = attach_loop(medium.file, "--direct-io=on")
        try:
            log = tmp_path / "order"
            run_tool(
                "fio", "--name=a", f"--filename={device}", "--rw=write", "--bs=4k", "--size=2M", "--iodepth=16",
                "--ioengine=libaio", "--direct=1", "--verify=crc32c", f"--write_lat_log={log}", "--log_offset=1",
                "--allow_mounted_write=1", "--end_fsync=0", "--verify_state_save=0",
            )  # fmt: skip
            lines = log.with_name("order_clat.1.log").read_text().splitlines()
            fields = [[int(field) for field in line.split(",")] for line in lines]
            order = [one[4] for one in fields if one[2] == 1]  # direction 1 is a write; offsets as they were completed
            assert sorted(order) == list(range(0, 2 * MIB, 4096))
            assert sum(later < before for before, later in itertools.pairwise(order)) > 20
            resting = tmp_path / "medium.img"
            run_tool("dd", "if=/dev/urandom", f"of={device}", "bs=1M", "count=8", "oflag=direct")
            assert not _same(resting, Path(device), 8 * MIB)
            run_tool("blockdev", "--flushbufs", device)
            os.fsync(descriptor := os.open(device, os.O_RDWR))
            os.close(descriptor)
            assert _same(resting, Path(device), 8 * MIB)
        finally:
            detach_loop(device)


def _same(one: Path, other: Path, size: int) -> bool:
    with one.open("rb") as first, other.open("rb") as second:
        return first.read(size) == second.read(size)


def combinations() -> Iterator[object]:
    """One quick case; the others belong to ``make test-all``."""
    for filesystem in MAKE:
        for direct in ("on", "off"):
            for writer in WRITERS:
                quick = (filesystem, direct, writer) == ("ext4", "on", "files")
                yield pytest.param(filesystem, direct, writer, marks=[] if quick else [pytest.mark.slow])


@pytest.mark.parametrize(("filesystem", "direct", "writer"), list(combinations()))
def test_a_busy_volume_on_a_slow_and_reordering_disk_is_saved_as_it_was(
    filesystem: str, direct: str, writer: str, tmp_path: Path
) -> None:
    # Without direct I/O the kernel sends one request at a time: it would take minutes at the same delay.
    pace = Pace(delay_s=0.004 if direct == "on" else 0.0005)
    with (
        SlowMedium(tmp_path, size=SIZE, pace=pace) as medium,
        busy_volume(tmp_path, filesystem, image=medium.file, loop_flags=[f"--direct-io={direct}"]) as volume,
    ):
        volume.write(writer, 1, rate="2m", size="20M")
        judge = Judge(volume)
        repository, result = save(judge)
    compare(judge, repository, result)
    shutil.rmtree(tmp_path / "repository")
