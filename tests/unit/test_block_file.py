"""What failures of files and devices mean, and what opening refuses."""

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stillframe.block import ExtentKind, KnownExtent, MemoryDisk, ReadFault, WindowReader, syscalls
from stillframe.block import file as file_module
from stillframe.block.file import FileWriter, aligned_buffer, open_file_reader, open_file_writer
from stillframe.errors import DeviceError, MachineRefusal, StillframeError, TargetError, UsageError
from stillframe.extents import Extent
from stillframe.testing.block_contract import check_zero, contents
from stillframe.testing.faulty_disk import FaultyDisk, PlannedFault
from stillframe.testing.loops import attach_loop, detach_loop
from stillframe.testing.tools import unmount

MIB = 1 << 20


@contextlib.contextmanager
def loop(file: Path, *options: str) -> Iterator[str]:
    device = attach_loop(file, *options)
    try:
        yield device
    finally:
        detach_loop(device)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(contents(MIB))
    return path


def fail_with(code: int, *, after: int = 0) -> object:
    def read_some(_descriptor: int, view: memoryview, offset: int) -> int:
        if offset >= after:
            raise OSError(code, os.strerror(code))
        return min(len(view), after - offset)

    return read_some


@pytest.mark.parametrize("code", [errno.EIO, errno.ENODATA, errno.EILSEQ, errno.EREMOTEIO, errno.ETIMEDOUT])
@pytest.mark.parametrize("direct", [False, True])
def test_bad_sector_is_a_read_fault(disk: Path, monkeypatch: pytest.MonkeyPatch, code: int, *, direct: bool) -> None:
    with open_file_reader(str(disk), direct=direct) as reader:
        monkeypatch.setattr(syscalls, "read_some", fail_with(code))
        with pytest.raises(ReadFault) as caught:
            reader.read_at(5000, 100)
    assert caught.value.extent == Extent(5000, 5100), "never more than what was asked for"
    assert str(disk) in caught.value.message
    assert "image of it now" in caught.value.hint


def test_fault_begins_where_reading_ended(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_file_reader(str(disk)) as reader:
        monkeypatch.setattr(syscalls, "read_some", fail_with(errno.EIO, after=8192))
        with pytest.raises(ReadFault) as caught:
            reader.read_at(4096, 100_000)
    assert caught.value.extent == Extent(8192, 104_096)


def test_lost_device_is_no_read_fault(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_file_reader(str(disk)) as reader:
        monkeypatch.setattr(syscalls, "read_some", fail_with(errno.ENODEV))
        with pytest.raises(DeviceError) as caught:
            reader.read_at(0, 100)
    assert not isinstance(caught.value, ReadFault)
    assert caught.value.exit_code == 23


def test_fault_seen_through_a_window_is_the_window_s(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_file_reader(str(disk), direct=True) as reader:
        window = WindowReader(reader, Extent(700, 90_000))
        monkeypatch.setattr(syscalls, "read_some", fail_with(errno.EIO))
        with pytest.raises(ReadFault) as caught:
            window.read_at(0, 10)
    assert caught.value.extent == Extent(0, 10)


@pytest.mark.parametrize("direct", [False, True])
def test_file_that_became_smaller(disk: Path, *, direct: bool) -> None:
    with open_file_reader(str(disk), direct=direct) as reader:
        os.truncate(disk, MIB // 2)
        with pytest.raises(DeviceError, match=f"ended at byte {MIB // 2}, but had {MIB} bytes"):
            reader.read_at(0, MIB)
        assert len(reader.read_at(0, MIB // 2)) == MIB // 2


@pytest.mark.root
def test_device_that_became_smaller(disk: Path) -> None:
    with loop(disk) as device, open_file_reader(device) as reader:
        os.truncate(disk, MIB // 2)
        subprocess.run(["losetup", "--set-capacity", device], check=True)
        with pytest.raises(DeviceError, match="ended at byte"):
            reader.read_at(0, MIB)


@pytest.mark.root
def test_full_file_system_is_the_target_s_fault(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "small", str(tmp_path)], check=True)
    try:
        path = tmp_path / "disk.img"
        path.touch()
        os.truncate(path, MIB)
        with open_file_writer(str(path)) as writer, pytest.raises(TargetError, match="no room left") as caught:
            writer.write_at(0, contents(MIB))
        assert caught.value.exit_code == 22
    finally:
        unmount(tmp_path)


@pytest.mark.parametrize(
    ("code", "kind"),
    [(errno.EIO, DeviceError), (errno.ENOSPC, TargetError), (errno.EDQUOT, TargetError), (errno.EPERM, TargetError)],
)
def test_write_failures(disk: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[StillframeError]) -> None:
    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    with open_file_writer(str(disk)) as writer:
        monkeypatch.setattr(syscalls, "write_some", refuse)
        with pytest.raises(kind, match="at byte 7"):
            writer.write_at(7, b"x")
        monkeypatch.setattr(syscalls, "punch_hole", refuse)
        if code != errno.EPERM:
            with pytest.raises(kind):
                writer.zero(Extent(7, 9))
        monkeypatch.setattr(os, "fsync", refuse)
        with pytest.raises(kind):
            writer.flush()


@pytest.mark.parametrize("call", ["punch_hole", "zero_device_range"])
@pytest.mark.root
def test_zeros_are_written_where_nothing_quicker_is_possible(
    disk: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    tried = []

    def unsupported(*_: object) -> None:
        tried.append(1)
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(syscalls, call, unsupported)
    os.truncate(disk, 96 * 1024)
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(loop(disk)) if call == "zero_device_range" else str(disk)
        with open_file_writer(path) as writer:
            check_zero(writer, bytearray(contents(MIB)[: 96 * 1024]))
    assert tried


def test_zeroing_a_file_gives_its_room_back(disk: Path) -> None:
    before = disk.stat().st_blocks
    with open_file_writer(str(disk)) as writer:
        writer.zero(Extent(4096, MIB))
        writer.flush()
    assert disk.stat().st_blocks * 512 <= 4096 < before * 512
    assert disk.stat().st_size == MIB


def test_holes_are_known(tmp_path: Path) -> None:
    path = tmp_path / "sparse.img"
    with path.open("wb") as file:
        file.truncate(MIB)
        file.seek(256 * 1024)
        file.write(b"x" * 4096)
    with open_file_reader(str(path)) as reader:
        known = list(reader.known_extents(Extent(100, MIB)))
    middle = Extent(256 * 1024, 260 * 1024)
    assert known == [
        KnownExtent(Extent(100, middle.start), ExtentKind.HOLE),
        KnownExtent(middle, ExtentKind.DATA),
        KnownExtent(Extent(middle.end, MIB), ExtentKind.HOLE),
    ]


def test_more_holes_than_are_looked_for_at_once_are_all_known(tmp_path: Path) -> None:
    path, step, count = tmp_path / "sparse.img", 64 * 1024, 2 * file_module._RANGES_AT_ONCE + 1
    with path.open("wb") as file:
        file.truncate(2 * count * step)
        for number in range(count):
            file.seek(2 * number * step)
            file.write(b"x" * step)
    kinds = (ExtentKind.DATA, ExtentKind.HOLE)
    with open_file_reader(str(path)) as reader:
        known = list(reader.known_extents(Extent(0, reader.size)))
    assert known == [
        KnownExtent(Extent(number * step, (number + 1) * step), kinds[number % 2]) for number in range(2 * count)
    ]


def test_opening_refuses(tmp_path: Path, disk: Path) -> None:
    with pytest.raises(UsageError, match="there is no"):
        open_file_reader(str(tmp_path / "nothing"))
    with pytest.raises(UsageError, match="neither a disk nor a disk file"):
        open_file_reader(str(tmp_path))
    with pytest.raises(UsageError, match="neither"):
        open_file_writer("/dev/null")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UsageError, match="neither"):
        open_file_reader(str(pipe))
    with open_file_reader(str(disk)) as reader:
        assert not hasattr(reader, "write_at")
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(reader.descriptor, b"x", 0)


@pytest.mark.root
def test_opening_a_device_that_may_not_be_opened(tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with loop(disk, "--read-only") as device, open_file_reader(device) as reader:
        assert reader.read_at(0, 512) == contents(MIB)[:512]
        with open_file_writer(device) as writer:  # Linux opens it, and says no at the first write
            with pytest.raises(TargetError, match="write-protected"):
                writer.write_at(0, bytes(512))
            with pytest.raises(TargetError, match="write-protected"):
                writer.zero(Extent(0, 512))
    node = tmp_path / "gone"
    os.mknod(node, 0o60600, os.makedev(8, 250))
    with pytest.raises(DeviceError, match="cannot be opened"):
        open_file_reader(str(node))

    def denied(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", denied)
        with pytest.raises(MachineRefusal, match="may not read") as caught:
            open_file_reader(str(disk))
    assert "sudo" in caught.value.hint


@pytest.mark.root
def test_exclusive_devices_are_held(disk: Path) -> None:
    with loop(disk) as device:
        with open_file_writer(device, exclusive=True), pytest.raises(TargetError, match="is in use"):
            open_file_writer(device, exclusive=True)
        open_file_writer(device, exclusive=True).close()


def test_closing_twice_is_once(disk: Path) -> None:
    writer = open_file_writer(str(disk))
    extra = os.dup(writer.descriptor)
    writer.close_with(extra)
    writer.close()
    writer.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(extra)
    with pytest.raises(DeviceError):
        writer.read_at(0, 1)


def test_aligned_buffers_start_on_a_page() -> None:
    for size in (0, 1, 4096, 5000):
        buffer = aligned_buffer(size)
        assert (len(buffer), bytes(buffer)) == (size, bytes(size))


def test_whole_sectors_into_an_aligned_buffer_take_one_read(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = syscalls.read_some

    def counted(descriptor: int, view: memoryview, offset: int) -> int:
        calls.append((offset, len(view)))
        return real(descriptor, view, offset)

    monkeypatch.setattr(syscalls, "read_some", counted)
    with open_file_reader(str(disk), direct=True) as reader:
        reader.read_into(4096, aligned_buffer(65536))
        assert calls == [(4096, 65536)]


def test_device_cannot_reread_partitions_of_a_file(disk: Path) -> None:
    with open_file_writer(str(disk)) as writer:
        assert isinstance(writer, FileWriter)
        assert writer.reread_partitions() is False


def test_planned_faults_fire_and_are_counted() -> None:
    plan = [PlannedFault(extent=Extent(10, 20), times=2), PlannedFault(extent=Extent(100, 101))]
    with FaultyDisk(MemoryDisk(bytes(200)), plan) as faulty:
        for _ in range(2):
            with pytest.raises(ReadFault) as caught:
                faulty.read_at(0, 11)
            assert caught.value.extent == Extent(0, 11)
        assert faulty.read_at(0, 11) == bytes(11)
        for _ in range(3):
            with pytest.raises(ReadFault):
                faulty.read_into(100, bytearray(1))
        faulty.read_at(20, 80)
        assert (faulty.bytes_read, faulty.reads, faulty.faults_fired) == (91, 2, 5)


def test_planned_fault_that_never_fires_fails_the_test() -> None:
    plan = [PlannedFault(extent=Extent(10, 20))]
    with (
        pytest.raises(AssertionError, match="fired 0 times, not 1"),
        FaultyDisk(MemoryDisk(bytes(200)), plan) as faulty,
    ):
        faulty.read_at(0, 10)
