"""An image as a file of other programs: whole, split, through a pipe, damaged; qemu-img and coreutils judge it."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stillframe.block import MemoryDisk
from stillframe.errors import Cancelled, DamagedError, TargetError, UsageError
from stillframe.events import BytesMoved, Event
from stillframe.extents import Extent
from stillframe.jobs.exporting import ExportOptions, ExportPlan, ExportResult, apply_export, plan_export
from stillframe.jobs.pipeline import CancelToken
from stillframe.repo.records import Manifest
from stillframe.repo.repository import Repository
from stillframe.store import MemoryStore
from stillframe.testing.command_line import call
from stillframe.testing.disk_builder import fill_with_noise, write_gpt
from stillframe.testing.job_runs import backup, job_context, make_repository, restore

MIB = 1 << 20
DISK_SIZE = 40 * MIB + 1536
PARTS = [Extent(1 * MIB, 9 * MIB), Extent(9 * MIB + 4608, 30 * MIB + 512)]


def tool(*command: object, cwd: Path | None = None) -> bytes:
    done = subprocess.run([str(word) for word in command], capture_output=True, check=False, cwd=cwd)
    assert done.returncode == 0, f"{command}: {done.stdout!r}{done.stderr!r}"
    return done.stdout


@pytest.fixture(scope="module")
def saved() -> tuple[Repository, Manifest, bytes]:
    """An image of a GPT disk of an odd size, half of it zeros, and the disk."""
    disk, repository = MemoryDisk(bytes(DISK_SIZE)), make_repository(MemoryStore())
    write_gpt(disk, PARTS)
    for extent in (Extent(1 * MIB, 5 * MIB), Extent(10 * MIB, 14 * MIB + 700), Extent(29 * MIB, 30 * MIB + 100)):
        fill_with_noise(disk, extent, seed=extent.start)
    return repository, backup(repository, disk).manifest, bytes(disk.contents)


@pytest.fixture
def raw(saved: tuple[Repository, Manifest, bytes], tmp_path: Path) -> Iterator[Path]:
    """The disk as a restore brings it back."""
    target = tmp_path / "restored"
    restore(saved[0], saved[1], target)
    yield target
    target.unlink()


def planned(saved: tuple[Repository, Manifest, bytes], path: object, **options: object) -> ExportPlan:
    wanted = replace(ExportOptions(), **options)  # type: ignore[arg-type]
    return plan_export(saved[1], str(path), repository_folder="", options=wanted)


def exported(saved: tuple[Repository, Manifest, bytes], path: object, **options: object) -> ExportResult:
    return apply_export(saved[0], planned(saved, path, **options), job_context())


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_raw_file_is_the_disk_and_its_holes_are_holes(
    saved: tuple[Repository, Manifest, bytes], tmp_path: Path
) -> None:
    result = exported(saved, tmp_path / "disk.img")
    assert (tmp_path / "disk.img").read_bytes() == saved[2]
    assert (tmp_path / "disk.img").stat().st_blocks * 512 < 16 * MIB
    assert result.bytes_written < 16 * MIB
    assert left_in(tmp_path) == ["disk.img"]


@pytest.mark.parametrize(
    ("name", "image_format"), [("qcow2", "qcow2"), ("vhdx", "vhdx"), ("vhd", "vpc"), ("vmdk", "vmdk")]
)
def test_a_file_of_a_virtual_machine_holds_the_same_disk(
    saved: tuple[Repository, Manifest, bytes], raw: Path, tmp_path: Path, name: str, image_format: str
) -> None:
    file = tmp_path / f"disk.{name}"
    exported(saved, file)
    tool("qemu-img", "compare", "-f", "raw", "-F", image_format, raw, file)
    found = json.loads(tool("qemu-img", "info", "-f", image_format, "--output=json", file))
    assert found["virtual-size"] == DISK_SIZE
    assert file.stat().st_size < 30 * MIB


def test_a_partition_alone(saved: tuple[Repository, Manifest, bytes], tmp_path: Path) -> None:
    exported(saved, tmp_path / "part.raw", partition=2)
    assert (tmp_path / "part.raw").read_bytes() == saved[2][PARTS[1].start : PARTS[1].end]


def test_parts_join_to_the_disk_and_their_checksums_hold(
    saved: tuple[Repository, Manifest, bytes], tmp_path: Path
) -> None:
    result = exported(saved, tmp_path / "it's.raw", split=8 * MIB)
    assert [Path(file.path).name for file in result.files] == [f"it's.raw.00{number}" for number in range(1, 7)]
    tool("sha256sum", "-c", "--strict", "it's.raw.sha256", cwd=tmp_path)
    line = next(row for row in (tmp_path / "it's.raw.sha256").read_text().splitlines() if "cat " in row)
    tool("sh", "-c", line.partition(":")[2], cwd=tmp_path)
    assert (tmp_path / "it's.raw").read_bytes() == saved[2]
    assert sum((tmp_path / f"it's.raw.00{number}").stat().st_blocks for number in range(1, 7)) * 512 < 16 * MIB


def test_parts_of_a_qcow2_join_to_it(saved: tuple[Repository, Manifest, bytes], raw: Path, tmp_path: Path) -> None:
    result = exported(saved, tmp_path / "disk.qcow2", split=2 * MIB)
    assert len(result.files) > 3
    joined = b"".join(Path(file.path).read_bytes() for file in result.files)
    (tmp_path / "joined").write_bytes(joined)
    tool("qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, tmp_path / "joined")


def test_a_pipe_gets_every_byte(saved: tuple[Repository, Manifest, bytes], tmp_path: Path) -> None:
    pipe, copy = tmp_path / "pipe", tmp_path / "copy"
    os.mkfifo(pipe)
    with copy.open("wb") as file, subprocess.Popen(["cat", str(pipe)], stdout=file) as reader:
        result = exported(saved, pipe)
        assert reader.wait() == 0
    assert copy.read_bytes() == saved[2]
    assert result.sha256 == tool("sha256sum", copy).decode().split()[0]
    assert pipe.is_fifo()


def test_a_reader_that_goes_away_is_an_error(saved: tuple[Repository, Manifest, bytes], tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with (
        subprocess.Popen(["head", "-c", "100", str(pipe)], stdout=subprocess.DEVNULL),
        pytest.raises(TargetError, match="went away before the end"),
    ):
        exported(saved, pipe)


def test_what_exists_is_never_overwritten_unasked(saved: tuple[Repository, Manifest, bytes], tmp_path: Path) -> None:
    file = tmp_path / "disk.raw"
    file.write_bytes(b"mine")
    with pytest.raises(TargetError, match="exists already"):
        exported(saved, file)
    assert file.read_bytes() == b"mine"
    exported(saved, file, overwrite=True)
    assert file.read_bytes() == saved[2]
    old = tmp_path / "other.007"
    old.write_bytes(b"mine")
    with pytest.raises(TargetError, match=r"other\.007 exists already"):
        exported(saved, tmp_path / "other", split=8 * MIB)
    exported(saved, tmp_path / "other", split=8 * MIB, overwrite=True)
    assert not old.exists()  # 'cat other.???' would have taken it in


def test_a_file_that_appears_meanwhile_is_kept(saved: tuple[Repository, Manifest, bytes], tmp_path: Path) -> None:
    plan = planned(saved, tmp_path / "disk.raw")
    (tmp_path / "disk.raw").write_bytes(b"mine")
    with pytest.raises(TargetError, match="came into being"):
        apply_export(saved[0], plan, job_context())
    assert (tmp_path / "disk.raw").read_bytes() == b"mine"
    assert left_in(tmp_path) == ["disk.raw"]


class _StopAtFirst:
    """Presses Ctrl-C at the first bytes."""

    def __init__(self, cancel: CancelToken) -> None:
        self.cancel = cancel

    def emit(self, event: Event) -> None:
        if isinstance(event, BytesMoved):
            self.cancel.cancel()


@pytest.mark.parametrize("options", [{}, {"format": "qcow2"}, {"split": 8 * MIB}])
def test_after_a_stop_nothing_is_left(
    saved: tuple[Repository, Manifest, bytes], tmp_path: Path, options: dict[str, object]
) -> None:
    cancel = CancelToken()
    if options.get("format"):
        cancel.cancel()
    plan = planned(saved, tmp_path / "disk", **options)
    with pytest.raises(Cancelled):
        apply_export(saved[0], plan, job_context(events=_StopAtFirst(cancel), cancel=cancel))
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"partition": 9}, "no partition 9"),
        ({"disk": 3}, "no disk 3"),
        ({"split": 1000}, "too small"),
        ({"split": 1 << 16}, "too small"),
    ],
)
def test_what_makes_no_sense_is_refused(
    saved: tuple[Repository, Manifest, bytes], tmp_path: Path, options: dict[str, object], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        planned(saved, tmp_path / "disk", **options)


def test_more_parts_than_there_are_numbers_names_the_size_that_does(
    saved: tuple[Repository, Manifest, bytes], tmp_path: Path
) -> None:
    repository, manifest, _ = saved
    large = replace(manifest, disks=(replace(manifest.disks[0], size=2000 * MIB),))
    with pytest.raises(UsageError) as caught:
        planned((repository, large, b""), tmp_path / "disk", split=MIB)
    assert caught.value.hint == "At least '--split 3M'."


def test_a_vhd_beyond_its_limit_and_sectors_of_4096_are_refused(
    saved: tuple[Repository, Manifest, bytes], tmp_path: Path
) -> None:
    repository, manifest, _ = saved
    large = replace(manifest, disks=(replace(manifest.disks[0], size=3 << 40),))
    with pytest.raises(UsageError, match="2040 GiB") as caught:
        planned((repository, large, b""), tmp_path / "disk.vhd")
    assert "vhdx" in caught.value.hint
    sectors = replace(manifest, disks=(replace(manifest.disks[0], sector_size=4096),))
    with pytest.raises(UsageError, match="sectors of 4096"):
        planned((repository, sectors, b""), tmp_path / "disk.vhdx")


def test_the_repository_is_no_place_for_it(saved: tuple[Repository, Manifest, bytes], tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="lies in the repository"):
        plan_export(saved[1], str(tmp_path / "disk"), repository_folder=str(tmp_path), options=ExportOptions())


def test_no_room_is_told_before(
    saved: tuple[Repository, Manifest, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stillframe.jobs.exporting.planning.free_space", lambda _path: MIB)
    with pytest.raises(TargetError, match=r"no room .* 1\.05 MB are free"):
        planned(saved, tmp_path / "disk")


def test_without_qemu_img_it_says_what_to_install(
    saved: tuple[Repository, Manifest, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stillframe.host.run._SYSTEM_FOLDERS", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Exception, match="qemu-img is needed") as caught:
        planned(saved, tmp_path / "disk.vhdx")
    assert "qemu-utils" in caught.value.hint  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["raw", "qcow2"])
def test_a_file_system_without_large_files_names_the_next_step(
    saved: tuple[Repository, Manifest, bytes], tmp_path: Path, name: str
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    plan = planned(saved, tmp_path / f"disk.{name}")
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 * MIB, before[1]))
    try:
        with pytest.raises(TargetError) as caught:
            apply_export(saved[0], plan, job_context())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "--split 4000M" in caught.value.hint
    assert left_in(tmp_path) == []


def test_unreadable_ranges_are_refused_unless_salvaged(
    saved: tuple[Repository, Manifest, bytes], tmp_path: Path
) -> None:
    repository, manifest, contents = saved
    disk = manifest.disks[0]
    first = replace(disk.partitions[0], unreadable=((6 * MIB, 6 * MIB + 4096),))
    spoiled = (repository, replace(manifest, disks=(replace(disk, partitions=(first, disk.partitions[1])),)), contents)
    with pytest.raises(DamagedError, match="could not be read from the source") as caught:
        exported(spoiled, tmp_path / "disk")
    assert "--salvage" in caught.value.hint
    for name in ("disk.raw", "disk.qcow2"):
        lost = exported(spoiled, tmp_path / name, salvage=True).lost
        assert [(part.partition_number, list(part.lost)) for part in lost] == [(1, [Extent(6 * MIB, 6 * MIB + 4096)])]
    assert (tmp_path / "disk.raw").read_bytes() == contents


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, bytes]:
    """A repository in a folder with an image of a disk of noise, and the disk."""
    for name in ("CACHE", "STATE"):
        monkeypatch.setenv(f"STILLFRAME_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.delenv("STILLFRAME_PASSWORD", raising=False)
    monkeypatch.setenv("STILLFRAME_REPO", str(tmp_path / "repo"))
    disk = MemoryDisk(bytes(16 * MIB))
    write_gpt(disk, [Extent(1 * MIB, 9 * MIB)])
    fill_with_noise(disk, Extent(1 * MIB, 9 * MIB), seed=3)
    (tmp_path / "source.raw").write_bytes(disk.contents)
    assert call("init", tmp_path / "repo", "--encryption", "none").exit_code == 0
    assert call("backup", tmp_path / "source.raw").exit_code == 0
    return tmp_path, bytes(disk.contents)


@pytest.mark.parametrize("options", [("x.raw",), ("x.qcow2",), ("x", "--split", "1M")])
def test_of_a_damaged_image_only_what_can_be_had_and_only_when_asked(
    in_folder: tuple[Path, bytes], options: tuple[str, ...]
) -> None:
    folder, contents = in_folder
    pack = max(
        (path for path in (folder / "repo" / "packs").rglob("*") if path.is_file()), key=lambda p: p.stat().st_size
    )
    raw = bytearray(pack.read_bytes())
    raw[len(raw) // 2] ^= 1
    pack.write_bytes(raw)
    out = folder / "out"
    out.mkdir()
    words = ["export", "latest", out / options[0], *options[1:]]
    refused = call(*words)
    assert refused.exit_code == 14, refused.errors
    assert "--salvage" in refused.errors
    assert left_in(out) == []
    done = call(*words, "--salvage", "--json")
    assert done.exit_code == 3, done.output
    ((start, end),) = done.result["lost"][0]["ranges"]
    expected = bytearray(contents)
    expected[MIB + start : MIB + end] = bytes(end - start)
    assert 0 < end - start <= 256 << 10
    if options[0] == "x.qcow2":
        tool("qemu-img", "convert", "-O", "raw", out / "x.qcow2", out / "x.raw")
        (out / "x.qcow2").unlink()
    written = b"".join((out / name).read_bytes() for name in left_in(out) if not name.endswith(".sha256"))
    assert written == expected


def test_standard_output_is_the_disk_and_nothing_else(in_folder: tuple[Path, bytes]) -> None:
    program = [sys.executable, "-m", "stillframe", "export", "latest", "-"]
    done = subprocess.run(program, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == in_folder[1]
    assert b"SHA-256" in done.stderr


def test_the_command_line_refuses_and_says_what_to_do(in_folder: tuple[Path, bytes]) -> None:
    folder, _ = in_folder
    assert call("export", "latest", "-", "--json").result["code"] == "usage"
    assert call("export", "latest", folder / "repo" / "disk.raw").exit_code == 22
    assert call("export", "latest", folder / "none" / "disk.raw").exit_code == 22
    assert call("export", "latest", folder / "disk.xyz", "--format", "xyz").exit_code == 2
    planned_only = call("export", "latest", folder / "disk.vmdk", "--dry-run", "--json")
    assert planned_only.result["format"] == "vmdk"
    assert not (folder / "disk.vmdk").exists()


def test_a_wrong_key_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLFRAME_PASSWORD", "secret")
    assert call("init", tmp_path / "repo").exit_code == 0
    monkeypatch.setenv("STILLFRAME_PASSWORD", "wrong")
    assert call("export", "latest", tmp_path / "disk.raw", "--repo", tmp_path / "repo").exit_code == 12
