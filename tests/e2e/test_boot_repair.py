"""Boot repair from end to end: what is refused, the way back, a power cut in the middle, and the command line."""

import filecmp
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from stillframe.block.base import Buffer
from stillframe.block.file import FileWriter
from stillframe.clock import SystemClock
from stillframe.errors import (
    DamagedError,
    DeviceError,
    DiskFormatError,
    StillframeError,
    StorageError,
    TargetError,
    UnsupportedFormat,
    UsageError,
)
from stillframe.jobs import boot_repair
from stillframe.jobs.boot_repair import apply_boot_repair, require_repairable, write_order
from stillframe.jobs.mending.undo_file import check_undo_file
from stillframe.jobs.mending.undo_format import HEAD, MAGIC
from stillframe.testing.command_line import call
from stillframe.testing.job_runs import job_context
from stillframe.testing.linux_disks import LinuxDisk, devices, make_linux_disk, mounted_linux
from stillframe.testing.loops import loop_device
from stillframe.testing.mended_disks import Heard, plan_of, prepared, repaired, undo_of, undone
from stillframe.testing.tools import run_tool, unmount

pytestmark = pytest.mark.root
DEAD = "11111111-2222-4333-8444-555555555555"
SECTOR = 512


@pytest.fixture(scope="module", name="source")
def made_source(tmp_path_factory: pytest.TempPathFactory) -> LinuxDisk:
    """A Linux whose EFI system partition was emptied, and whose fstab names a swap that is nowhere."""
    disk = make_linux_disk(tmp_path_factory.mktemp("source") / "disk")
    with mounted_linux(disk) as root:
        fstab = root / "etc/fstab"
        lines = fstab.read_text().splitlines()
        fstab.write_text("\n".join([*lines[:3], f"UUID={DEAD} none swap sw 0 0"]) + "\n")
        kernel = next((root / "boot").glob("vmlinuz-*")).name
        uuid = next(line for line in lines if "/boot " in line).split()[0].rpartition("/")[2]
        part = lines[0].split()[0]
        (root / "boot/grub/grub.cfg").write_text(
            f"menuentry 'Little' {{\nsearch --no-floppy --fs-uuid --set=root {uuid}\nlinux /{kernel} root={part}\n}}\n"
        )
    with devices(disk.path) as device:
        run_tool("mdeltree", "-i", f"{device}p1", "::/EFI")
    return disk


@pytest.fixture(name="disk")
def copied_disk(source: LinuxDisk, tmp_path: Path) -> Path:
    shutil.copyfile(source.path, tmp_path / "disk")
    return tmp_path / "disk"


def refused(disk: Path) -> StillframeError:
    """The refusal; the disk is as it was."""
    before = disk.read_bytes() if disk.is_file() else b""
    with pytest.raises(StillframeError) as refusal:
        plan_of(disk)
    assert (disk.read_bytes() if disk.is_file() else b"") == before
    assert refusal.value.hint
    return refusal.value


def test_planning_writes_nothing_and_applying_writes_only_what_the_plan_says(disk: Path, source: LinuxDisk) -> None:
    plan = plan_of(disk)
    assert filecmp.cmp(disk, source.path, shallow=False)
    assert plan.is_needed
    with prepared(disk) as found:
        result = apply_boot_repair(found, str(undo_of(disk)), clock=SystemClock(), context=job_context())
        extents = found.plan.differences
    old, new = source.path.read_bytes(), disk.read_bytes()
    differing = [at for at in range(0, len(old), SECTOR) if old[at : at + SECTOR] != new[at : at + SECTOR]]
    assert differing == [at for one in extents for at in range(one.start, one.end, SECTOR)]
    assert result.bytes_written == extents.size
    assert undo_of(disk).stat().st_mode & 0o777 == 0o600


def test_the_first_sector_is_written_last(disk: Path) -> None:
    with prepared(disk) as found:
        order = write_order(found.plan.differences, found.plan.layout)
    outside = found.plan.layout.outside
    flags = [bool(len(outside.clipped(piece))) for piece in order]
    assert flags == sorted(flags)


def test_a_mounted_disk_is_refused(disk: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    with devices(disk) as device:
        run_tool("mount", f"{device}p4", str(place))
        try:
            error = refused(Path(device))
        finally:
            unmount(place)
    assert isinstance(error, TargetError)
    assert error.exit_code == 22
    assert str(place) in error.message
    assert "umount" in error.hint


def test_the_disk_of_the_running_system_is_sent_to_the_medium(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Use:
        device, kind, where = "/dev/sda1", "mounted", "/"

    monkeypatch.setattr(boot_repair, "users_of", lambda _path: (Use(),))
    with pytest.raises(TargetError) as refusal:
        require_repairable(str(disk))
    assert "the system that is running" in refusal.value.message
    assert "rescue medium" in refusal.value.hint


def test_a_partition_is_refused_by_the_name_of_its_disk(disk: Path) -> None:
    with devices(disk) as device:
        error = refused(Path(f"{device}p4"))
        assert device in error.hint
    assert "partition" in error.message


def test_an_array_member_is_refused(disk: Path) -> None:
    with devices(disk) as device, loop_device(Path(device)):
        error = refused(Path(device))
    assert "in use" in error.message


def test_a_disk_without_a_table(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_bytes(bytes(1 << 20))
    outcome = call("boot-repair", empty, "--dry-run")
    assert outcome.exit_code == 22
    assert "no partition table" in outcome.errors


def test_a_disk_that_was_changed_since_the_plan_is_refused(disk: Path) -> None:
    with prepared(disk) as found:
        first = next(iter(found.plan.differences))
        with disk.open("r+b") as file:
            file.seek(first.start)
            file.write(b"changed since")
        before = disk.read_bytes()
        with pytest.raises(TargetError) as refusal:
            apply_boot_repair(found, str(undo_of(disk)), clock=SystemClock(), context=job_context())
    assert "Nothing was written" in refusal.value.message
    assert disk.read_bytes() == before
    assert not undo_of(disk).exists()


def test_a_disk_of_another_size_or_in_use_since_the_plan_is_refused(disk: Path, tmp_path: Path) -> None:
    with prepared(disk) as found, loop_device(disk), pytest.raises(TargetError) as refusal:
        apply_boot_repair(found, str(undo_of(disk)), clock=SystemClock(), context=job_context())
    assert "in use" in refusal.value.message
    assert not undo_of(disk).exists()
    assert tmp_path.exists()


@pytest.mark.slow
def test_where_the_undo_file_may_not_be(disk: Path, tmp_path: Path) -> None:
    before = disk.read_bytes()
    taken = tmp_path / "taken"
    taken.touch()
    for path, kind in ((taken, UsageError), (tmp_path / "no/folder/here", UsageError)):
        with prepared(disk) as found, pytest.raises(kind):
            apply_boot_repair(found, str(path), clock=SystemClock(), context=job_context())
    assert disk.read_bytes() == before
    assert call("boot-repair", disk, "--yes", "--keep-undo", taken).exit_code == 2


def test_an_undo_file_on_the_disk_that_is_repaired_is_refused(tmp_path: Path) -> None:
    """The disk is a file in a file system on a loop device: what lies beside it lies on that device."""
    outer, place = tmp_path / "outer", tmp_path / "place"
    outer.touch()
    os.truncate(outer, 32 << 20)
    run_tool("mke2fs", "-q", "-t", "ext4", str(outer))
    place.mkdir()
    with loop_device(outer) as device:
        run_tool("mount", str(device), str(place))
        try:
            with pytest.raises(TargetError) as refusal:
                check_undo_file(str(place / "undo"), str(device))
        finally:
            unmount(place)
    assert "must not lie on the disk it changes" in refusal.value.message
    assert "--keep-undo" in refusal.value.hint


def test_no_room_for_the_undo_file(disk: Path, tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    run_tool("mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place))
    before = disk.read_bytes()
    try:
        with prepared(disk) as found, pytest.raises(StorageError) as refusal:
            apply_boot_repair(found, str(place / "undo"), clock=SystemClock(), context=job_context())
        assert list(place.iterdir()) == []
    finally:
        unmount(place)
    assert refusal.value.exit_code == 30
    assert disk.read_bytes() == before


class Cut:
    """Lets so many writes through, tears the next one, and fails; all later ones fail too while it is dead."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path, after: int, *, stays_dead: bool) -> None:
        self.left, self.is_dead, self.fired = after, False, False
        write = FileWriter.write_at

        def write_at(writer: FileWriter, offset: int, data: bytes | Buffer) -> None:
            if writer.path == str(path):
                if self.is_dead:
                    raise DeviceError("the disk is gone", hint="Plug it in.")
                self.left -= 1
                if self.left < 0 and not self.fired:
                    self.fired, self.is_dead = True, stays_dead
                    view = memoryview(data).cast("B")
                    write(writer, offset, view[: len(view) // 2 // SECTOR * SECTOR])
                    raise DeviceError("the power is gone", hint="Plug it in.")
            write(writer, offset, data)

        monkeypatch.setattr(FileWriter, "write_at", write_at)


@pytest.mark.variants(1)
@pytest.mark.parametrize("after", [0, 1, 7, 30])
def test_a_power_cut_in_the_middle_is_taken_back(
    disk: Path, source: LinuxDisk, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard()
    with prepared(disk) as found, monkeypatch.context() as patched:
        cut = Cut(patched, disk, after, stays_dead=True)
        with pytest.raises(DeviceError):
            apply_boot_repair(found, str(undo_of(disk)), clock=SystemClock(), context=job_context(events=heard))
        assert cut.fired
    assert [one.code for one in heard.notices] == ["repair-not-undone"]
    assert f"--undo {undo_of(disk)}" in heard.notices[0].hint
    if after:
        assert not filecmp.cmp(disk, source.path, shallow=False)
    undone(disk)
    assert filecmp.cmp(disk, source.path, shallow=False)


def test_a_disk_that_fails_once_is_put_back_at_once(
    disk: Path, source: LinuxDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard()
    with prepared(disk) as found, monkeypatch.context() as patched:
        cut = Cut(patched, disk, 5, stays_dead=False)
        with pytest.raises(DeviceError):
            apply_boot_repair(found, str(undo_of(disk)), clock=SystemClock(), context=job_context(events=heard))
        assert cut.fired
    assert [one.code for one in heard.notices] == ["repair-undone"]
    assert filecmp.cmp(disk, source.path, shallow=False)


@pytest.mark.slow
def test_a_disk_that_was_used_since_is_not_put_back(disk: Path, source: LinuxDisk) -> None:
    repaired(disk)
    with mounted_linux(LinuxDisk(path=disk, kind="ext4", numbers=source.numbers)) as root:
        (root / "home/new letter").write_text("written since")
    before = disk.read_bytes()
    with pytest.raises(TargetError) as refusal:
        undone(disk)
    assert "Nothing was put back" in refusal.value.message
    assert refusal.value.hint
    assert disk.read_bytes() == before


def test_an_undo_file_of_another_disk_is_refused(disk: Path, tmp_path: Path) -> None:
    repaired(disk)
    other = tmp_path / "other"
    other.write_bytes(bytes(1 << 20))
    shutil.copyfile(undo_of(disk), undo_of(other))
    with pytest.raises(TargetError) as refusal:
        undone(other)
    assert str(disk) in refusal.value.message


def damages(whole: bytes) -> Iterator[tuple[str, bytes, type[StillframeError]]]:
    yield "cut short", whole[:-1000], DamagedError
    yield "empty", b"", DamagedError
    yield "another file", b"a letter of a person".ljust(5000), DamagedError
    for at in (HEAD.size + 20, len(whole) // 2, len(whole) - 1):
        yield f"byte {at}", whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], DamagedError
    yield "newer", MAGIC + b"\x02" + whole[9:], UnsupportedFormat


def test_a_damaged_undo_file_is_refused(disk: Path) -> None:
    repaired(disk)
    whole, before = undo_of(disk).read_bytes(), disk.read_bytes()
    for name, contents, kind in damages(whole):
        undo_of(disk).write_bytes(contents)
        with pytest.raises(kind) as refusal:
            undone(disk)
        assert str(undo_of(disk)) in refusal.value.message, name
        assert refusal.value.hint
    assert disk.read_bytes() == before


def test_by_the_command_line(disk: Path, source: LinuxDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = call("boot-repair", disk, "--dry-run")
    assert shown.exit_code == 0
    assert "by UEFI: nothing is there that starts a system" in shown.output
    assert "GRUB was installed for UEFI" in shown.output
    assert filecmp.cmp(disk, source.path, shallow=False)
    said = call("boot-repair", disk, "--dry-run", "--json").result
    assert said["dry_run"]
    assert said["bytes_to_write"] == sum(one["bytes"] for one in said["places"]) > 0
    assert [one["starts"] for one in said["systems"]] == [False]
    refusal = call("boot-repair", disk)
    assert refusal.exit_code == 2, "nobody can type the word"
    stopped = call("boot-repair", disk, typed=["no"])
    assert stopped.exit_code == 130
    assert filecmp.cmp(disk, source.path, shallow=False)
    done = call("boot-repair", disk, typed=["repair"])
    assert done.exit_code == 0, done.errors
    (undo,) = tmp_path.glob("*.undo")
    assert f"boot-repair {disk} --undo {undo}" in done.output
    again = call("boot-repair", disk, "--yes", "--json").result
    assert again["bytes_to_write"] == 0
    back = call("boot-repair", disk, "--undo", undo, "--yes", "--json")
    assert json.loads(back.output.splitlines()[-1])["undone"] == str(undo)
    assert filecmp.cmp(disk, source.path, shallow=False)
    assert "nothing to put back" in call("boot-repair", disk, "--undo", undo).output
    assert call("boot-repair", disk, "--undo", undo, "--adapt").exit_code == 2


def test_what_still_does_not_start_ends_with_code_3(disk: Path) -> None:
    with devices(disk) as device:
        Path(f"{device}p1").write_bytes(b"letters".ljust(36 << 20, b"\0"))
    outcome = call("boot-repair", disk, "--yes", "--keep-undo", undo_of(disk))
    assert outcome.exit_code == 3
    assert "Still does not start: Little Linux 1" in outcome.output
    assert "Next step" in outcome.output


def test_a_table_that_cannot_be_read(disk: Path) -> None:
    with disk.open("r+b") as file:
        file.seek(446 + 4)
        file.write(b"\xee")
        file.seek(512)
        file.write(b"EFI PART".ljust(512, b"\xff"))
        file.seek(-512, os.SEEK_END)
        file.write(bytes(512))
    assert isinstance(refused(disk), DiskFormatError)
