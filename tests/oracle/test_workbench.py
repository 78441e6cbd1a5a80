"""A restored disk as a device that programs change: what they did is on the target, or nothing is."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stillframe.block.file import FileWriter, open_file_reader, open_file_writer
from stillframe.disk import Layout, read_layout
from stillframe.errors import MachineRefusal
from stillframe.events import NoEvents
from stillframe.jobs.restoring.tables import TableWriter
from stillframe.jobs.starts.workbench import Workbench, work_on
from stillframe.testing.tools import run_tool

pytestmark = pytest.mark.root
MIB = 1 << 20


def ours() -> str:
    """How names of what this process makes begin; asked when it is needed, for tests run in forked processes."""
    return f"stillframe-{os.getpid()}-"


def make_disk(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(64 * MIB)
    run_tool("sgdisk", "-n1:2048:+20M", "-n5:0:+20M", "-t1:8300", "-t5:8300", str(path))
    volume = path.with_suffix(".volume")
    with volume.open("wb") as file:
        file.truncate(20 * MIB)
    run_tool("mkfs.ext4", "-q", "-F", str(volume))
    with open_file_reader(str(path)) as reader:
        layout = read_layout(reader)
    with path.open("r+b") as file:
        for part in layout.partitions:
            file.seek(part.extent.start)
            file.write(volume.read_bytes())


@contextmanager
def restored(folder: Path) -> Iterator[tuple[FileWriter, TableWriter, Layout, Path]]:
    """A target whose partitions are written and whose table is not."""
    source, target = folder / "source", folder / "target"
    make_disk(source)
    shutil.copyfile(source, target)
    with open_file_reader(str(source)) as reader, open_file_writer(str(target)) as writer:
        layout = read_layout(reader)
        table = TableWriter(writer, layout, reader, ())
        table.clear()
        yield writer, table, layout, target


def loops_on(place: str) -> list[str]:
    listed = run_tool("losetup", "--list", "--noheadings", "--output", "BACK-FILE")
    return [line for line in listed.splitlines() if place in line]


def test_what_programs_change_is_on_the_target(tmp_path: Path) -> None:
    seen: list[str] = []

    def work(bench: Workbench) -> tuple[str, ...]:
        seen.append(run_tool("sfdisk", "-d", bench.disk.device))
        place = bench.mount(5, "ext4")
        Path(place, "note").write_text("it was here")
        with Path(bench.disk.device).open("r+b") as device:  # boot code in the sector of the table
            device.write(b"\xeb\x63\x90")
        return ("wrote a note",)

    with restored(tmp_path) as (writer, table, layout, target):
        assert work_on(writer, table, layout, NoEvents(), work) == ("wrote a note",)
        assert target.read_bytes()[:512] == bytes(512), "the table is written last, by its own step"
        table.write()
    tables = [run_tool("sfdisk", "-d", str(tmp_path / name)) for name in ("source", "target")]
    assert tables[0].replace("/source", "") == tables[1].replace("/target", "")
    assert seen[0].count("start=") == 2, "the programs saw the table"
    assert target.read_bytes()[:3] == b"\xeb\x63\x90"
    first, fifth = (part.extent for part in layout.partitions)
    volume = tmp_path / "fifth"
    volume.write_bytes(target.read_bytes()[fifth.start : fifth.end])
    assert run_tool("debugfs", "-R", "cat /note", str(volume)).startswith("it was here")
    run_tool("e2fsck", "-fn", str(volume))
    source = (tmp_path / "source").read_bytes()
    assert target.read_bytes()[first.start : first.end] == source[first.start : first.end]
    assert not loops_on(ours())


def test_work_that_fails_changes_nothing(tmp_path: Path) -> None:
    def work(bench: Workbench) -> tuple[str, ...]:
        Path(bench.mount(1, "ext4"), "note").write_text("half")
        raise MachineRefusal("no", hint="")

    with restored(tmp_path) as (writer, table, layout, target):
        before = target.read_bytes()
        with pytest.raises(MachineRefusal):
            work_on(writer, table, layout, NoEvents(), work)
        assert target.read_bytes() == before
        table.write()
    assert target.read_bytes() == (tmp_path / "source").read_bytes()
    assert not loops_on(ours())
    assert not [line for line in Path("/proc/mounts").read_text().splitlines() if ours() in line]


def test_a_volume_that_the_kernel_does_not_know_is_named(tmp_path: Path) -> None:
    def work(bench: Workbench) -> tuple[str, ...]:
        bench.mount(1, "vfat")
        return ()

    with (
        restored(tmp_path) as (writer, table, layout, _),
        pytest.raises(MachineRefusal, match="the vfat file system was not mounted"),
    ):
        work_on(writer, table, layout, NoEvents(), work)
