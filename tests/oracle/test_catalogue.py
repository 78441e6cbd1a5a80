"""The page of contents of an image, compared with what a mount of the source shows."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from stillframe.block import MemoryDisk
from stillframe.errors import DamagedError
from stillframe.extents import Extent
from stillframe.fs.files.counting import count_files
from stillframe.host.apart import call_apart
from stillframe.jobs.inside import catalogue
from stillframe.jobs.inside.catalogue import make_catalogue
from stillframe.repo.reading import ChunkReader
from stillframe.repo.records import StoredNotice, StoredPartition
from stillframe.store import MemoryStore
from stillframe.testing import volumes_windows as volumes
from stillframe.testing.disk_builder import write_gpt
from stillframe.testing.hive_builder import Tree, build_hive
from stillframe.testing.job_runs import backup, backup_paths, make_repository
from stillframe.testing.real_disks import make_ext4, make_ntfs, mounted_kernel
from stillframe.testing.tools import run_tool

pytestmark = pytest.mark.root
MIB = 1 << 20
CURRENT: Tree = {
    "ProductName": "Windows 10 Pro", "DisplayVersion": "23H2", "CurrentBuild": "22631", "UBR": 3007,
    "EditionID": "Professional",
}  # fmt: skip
CONFIG = "Windows/System32/config"


def saved(image: Path) -> StoredPartition:
    return backup_paths(make_repository(MemoryStore()), image).manifest.disks[0].partitions[0]


def counted(root: Path, left_out: frozenset[str] = frozenset({"lost+found"})) -> tuple[int, int, int]:
    """Files, folders and bytes as a mount shows them; each file once."""
    files: dict[int, int] = {}
    folders = 0
    for folder, names, found in os.walk(root):
        folders += len([name for name in names if name not in left_out])
        for name in found:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                status = os.stat(path)
                files[status.st_ino] = status.st_size
    return len(files), folders, sum(files.values())


def numbers(part: StoredPartition) -> tuple[int, int, int]:
    assert part.catalogue is not None
    assert part.catalogue.complete
    return part.catalogue.files, part.catalogue.folders, part.catalogue.bytes


def test_ext4_is_counted_and_its_linux_named(tmp_path: Path) -> None:
    image = tmp_path / "ext4"
    make_ext4(image, 96 * MIB, seed=1)
    with mounted_kernel(image, tmp_path / "mount") as root:
        (root / "usr/lib").mkdir(parents=True)
        (root / "usr/lib/os-release").write_text('PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n')
        (root / "etc").mkdir()
        (root / "etc/os-release").symlink_to("../usr/lib/os-release")
        (root / "etc/hostname").write_text("anna-laptop\n")
        (root / "boot").mkdir()
        (root / "boot/vmlinuz-6.1.0-18-amd64").write_bytes(bytes(5))
        os.link(root / "boot/vmlinuz-6.1.0-18-amd64", root / "boot/again")
        seen = counted(root)
    part = saved(image)
    # lost+found belongs to the file system: it is the inode 11, the first that is not reserved
    assert numbers(part) == (seen[0], seen[1] + 1, seen[2])
    assert part.system == "Debian GNU/Linux 12 (bookworm)"
    assert part.installed is not None
    assert (part.installed.host, part.installed.kernels) == ("anna-laptop", ("6.1.0-18-amd64",))


def test_a_volume_whose_journal_waits_is_read_as_its_next_mount_shows_it(tmp_path: Path) -> None:
    image, copy = tmp_path / "ext4", tmp_path / "copy"
    make_ext4(image, 96 * MIB, seed=1)
    with mounted_kernel(image, tmp_path / "mount") as root:
        (root / "etc").mkdir()
        (root / "etc/os-release").write_text("PRETTY_NAME=Quick\n")
        for number in range(50):
            (root / f"new {number}").write_bytes(bytes(number))
        os.sync()
        copy.write_bytes(image.read_bytes())
    part = saved(copy)
    with mounted_kernel(copy, tmp_path / "mount") as root:
        seen = counted(root)
    assert numbers(part) == (seen[0], seen[1] + 1, seen[2])
    assert part.system == "Quick"


def test_windows_is_named_by_its_registry(tmp_path: Path) -> None:
    image = tmp_path / "ntfs"
    make_ntfs(image, 96 * MIB)
    with volumes.mounted_ntfs(image, tmp_path / "mount") as root:
        (root / CONFIG).mkdir(parents=True)
        (root / CONFIG / "SOFTWARE").write_bytes(build_hive({"Microsoft": {"Windows NT": {"CurrentVersion": CURRENT}}}))
        (root / CONFIG / "SYSTEM").write_bytes(
            build_hive({
                "Select": {"Current": 2},
                "ControlSet001": {"Control": {"ComputerName": {"ComputerName": {"ComputerName": "WRONG"}}}},
                "ControlSet002": {"Control": {"ComputerName": {"ComputerName": {"ComputerName": "ANNA-PC"}}}},
            }, dirty=True)
        )  # fmt: skip
        seen = counted(root)
    part = saved(image)
    assert numbers(part) == seen
    assert part.system == "Windows 11 Pro 23H2"
    assert part.installed is not None
    assert (part.installed.build, part.installed.host) == ("22631.3007", "ANNA-PC")
    assert any(notice.code == "registry-not-read" and "wait in its log" in notice.message for notice in part.notices)


def test_a_broken_registry_is_a_notice_and_still_a_windows(tmp_path: Path) -> None:
    image = tmp_path / "ntfs"
    volumes.make_ntfs(image, size=32 * MIB)
    with volumes.mounted_ntfs(image, tmp_path / "mount") as root:
        (root / CONFIG).mkdir(parents=True)
        (root / CONFIG / "SOFTWARE").write_bytes(build_hive({"Microsoft": {}})[:4096] + bytes(4096))
        (root / CONFIG / "SYSTEM").write_bytes(b"not a hive" * 1000)
    part = saved(image)
    assert part.system == "Windows"
    assert {notice.code for notice in part.notices} == {"registry-not-read"}
    assert len(part.notices) == 2


def test_no_byte_counts_in_two_folders(tmp_path: Path) -> None:
    image, tree = tmp_path / "ext4", tmp_path / "tree"
    sizes = {"a/b/c/d/one": 400_000, "a/b/two": 90_000, "a/three": 80_000, "e/four": 300_000, "five": 130_000}
    for name, size in sizes.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(bytes([1]) * size)
    run_tool("mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(image), "16M")
    part = saved(image)
    assert part.catalogue is not None
    assert {folder.path: folder.size for folder in part.catalogue.largest} == {
        "/a/b/c": 400_000, "/e": 300_000, "/": 130_000, "/a/b": 90_000, "/a": 80_000,
    }  # fmt: skip


def test_a_volume_that_is_not_read_in_time_has_a_notice_and_the_image_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "ext4"
    run_tool("mke2fs", "-q", "-t", "ext4", str(image), "16M")

    def hang(*_: object) -> None:
        time.sleep(60)

    monkeypatch.setattr(catalogue, "count_files", hang)
    monkeypatch.setattr(catalogue, "CATALOGUE_TIMEOUT_S", 1.0)
    part = saved(image)
    assert part.catalogue is None
    assert [notice.message for notice in part.notices if notice.code == "no-catalogue"] == [
        "counting the files of disk 1, partition 1 did not end within 1 seconds"
    ]


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("nothing is asked of a volume that is as it was")


def test_an_image_of_what_is_as_it_was_has_the_page_of_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, repository = tmp_path / "ext4", make_repository(MemoryStore())
    make_ext4(image, 96 * MIB, seed=1)
    with mounted_kernel(image, tmp_path / "mount") as root:
        (root / "etc").mkdir()
        (root / "etc/os-release").write_text('PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n')
    first = backup_paths(repository, image).manifest
    assert first.disks[0].partitions[0].system == "Debian GNU/Linux 12 (bookworm)"
    with monkeypatch.context() as patch:
        patch.setattr(catalogue, "call_apart", refuse)
        patch.setattr(catalogue, "expose_from", refuse)
        second = backup_paths(repository, image).manifest
    assert second.baseline == first.image
    assert second.disks[0].partitions == first.disks[0].partitions


@pytest.mark.parametrize("other", ["a remark", "another label", "another program", "one volume more"])
def test_a_page_is_made_anew_where_anything_is_another(other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = MemoryDisk(bytes(4 * MIB))
    write_gpt(disk, [Extent(MIB, 2 * MIB)])
    manifest = backup(make_repository(MemoryStore()), disk).manifest
    part = manifest.disks[0].partitions[0]
    anew = replace(manifest, comment="made anew")
    monkeypatch.setattr(catalogue, "expose_from", lambda *_: (_ for _ in ()).throw(DamagedError("asked")))
    parts = {
        "a remark": (replace(part, notices=(StoredNotice(code="a", message="b", hint=""),)),),
        "another label": (replace(part, label="other"),),
        "one volume more": (part, replace(part, number=2)),
    }.get(other, (part,))
    earlier = replace(manifest, disks=(replace(manifest.disks[0], partitions=parts),))
    earlier = replace(earlier, program="0.0.1") if other == "another program" else earlier
    chunks = cast("ChunkReader", None)
    assert make_catalogue(chunks, anew, manifest) == anew
    asked = make_catalogue(chunks, anew, earlier)
    assert [one.message for one in asked.notices] == ["no page of contents was made: asked"]


def test_a_volume_that_did_not_change_beside_one_that_did_is_not_counted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, volume, repository = tmp_path / "disk", tmp_path / "ext4", make_repository(MemoryStore())
    disk, places = MemoryDisk(bytes(64 * MIB)), [Extent(MIB, 17 * MIB), Extent(20 * MIB, 36 * MIB)]
    write_gpt(disk, places)
    volume.touch()
    os.truncate(volume, 16 * MIB)
    run_tool("mke2fs", "-q", "-t", "ext4", str(volume))
    for place in places:
        disk.write_at(place.start, volume.read_bytes())
    image.write_bytes(disk.contents)
    first = backup_paths(repository, image).manifest.disks[0].partitions
    with mounted_kernel(volume, tmp_path / "mount") as root:
        (root / "new").write_bytes(bytes(5))
    disk.write_at(places[1].start, volume.read_bytes())
    image.write_bytes(disk.contents)
    asked: list[str] = []

    def asking(question: Callable[[], object], *, what: str, timeout_s: float) -> object:
        asked.append(what)
        return call_apart(question, what=what, timeout_s=timeout_s)

    monkeypatch.setattr(catalogue, "call_apart", asking)
    second = backup_paths(repository, image).manifest.disks[0].partitions
    assert [what for what in asked if "counting" in what] == ["counting the files of disk 1, partition 2"]
    assert second[0].catalogue == first[0].catalogue
    assert numbers(second[1])[0] == numbers(first[1])[0] + 1


def test_what_did_not_change_is_not_counted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, repository = tmp_path / "ext4", make_repository(MemoryStore())
    make_ext4(image, 96 * MIB, seed=1)
    first = backup_paths(repository, image).manifest.disks[0].partitions[0]
    calls = []
    count = count_files

    def counting(*arguments: object) -> object:
        calls.append(arguments)
        return count(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(catalogue, "count_files", counting)
    monkeypatch.setattr(catalogue, "call_apart", lambda question, **_: question())
    assert backup_paths(repository, image).manifest.disks[0].partitions[0].catalogue == first.catalogue
    assert not calls
    with mounted_kernel(image, tmp_path / "mount") as root:
        (root / "new").write_bytes(bytes(5))
    changed = backup_paths(repository, image).manifest.disks[0].partitions[0]
    assert numbers(changed)[0] == numbers(first)[0] + 1
    assert calls
