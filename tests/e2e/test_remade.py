"""Volumes that no tool resizes: made anew at another size, with every file, judged by other tools."""

import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stillframe.block.file import open_file_reader
from stillframe.capture import Selection
from stillframe.disk import Wish, read_layout
from stillframe.errors import MachineRefusal, TargetError
from stillframe.fs.files.patterns import parse_pattern
from stillframe.jobs.backup import BackupOptions
from stillframe.jobs.restore import RestoreOptions, plan_restore
from stillframe.repo.records import Manifest
from stillframe.repo.repository import Repository
from stillframe.store import LocalStore
from stillframe.testing.job_runs import backup_paths, make_repository, restore
from stillframe.testing.loops import attach_loop, detach_loop
from stillframe.testing.real_disks import copy_into, extract, mounted_kernel, used_file
from stillframe.testing.tools import run_tool, unmount

pytestmark = pytest.mark.root
MIB = 1 << 20
FIT = RestoreOptions(partition=1, fit=True)
XFS_FACTS = r"""
cd "$1"
find . -print0 | LC_ALL=C sort -z | xargs -0 stat --printf '%n|%F|%a|%u:%g|%h|%t,%T|%.9Y|%N\n'
find . ! -type d -print0 | LC_ALL=C sort -z | xargs -0 stat --printf '%n|%s\n'
find . -print0 | LC_ALL=C sort -z | xargs -0 getfattr -h -d -m - -e hex
find . \( -type f -o -type d \) -print0 | LC_ALL=C sort -z | xargs -0 lsattr -d -p
find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
"""
"""Everything that belongs to files, by stat, getfattr, lsattr and sha256sum; the size of a folder is the kernel's."""


def new_file(path: Path, size: int) -> Path:
    path.touch()
    os.truncate(path, size)
    return path


def xfs_facts(root: Path) -> str:
    done = subprocess.run(["bash", "-c", XFS_FACTS, "facts", str(root)], capture_output=True, check=True)
    return done.stdout.decode(errors="surrogateescape")


def fill_xfs(root: Path) -> None:
    """Every kind of file, with all that may belong to one."""
    folder = root / "folder"
    folder.mkdir()
    (folder / "random").write_bytes(os.urandom(3_000_001))
    os.link(folder / "random", root / "second name")
    os.symlink("folder/random", root / "link")
    os.symlink("/nowhere/" + "x" * 900, root / "long link")
    os.lchown(root / "link", 12, 13)
    with (root / "sparse").open("wb") as file:
        file.truncate(200 * MIB)
        file.seek(100_000_000)
        file.write(b"in the middle")
    os.mknod(root / "block", 0o060644, os.makedev(7, 99))
    os.mknod(root / "character", 0o020600, os.makedev(1, 3))
    os.mkfifo(root / "pipe")
    os.mknod(root / "socket", 0o140755)
    (root / "set user").write_bytes(b"#!/bin/true")
    os.chown(root / "set user", 1000, 1001)
    os.chmod(root / "set user", 0o6711)  # noqa: S103 that is the point
    os.setxattr(root / "set user", "security.capability", bytes.fromhex("0100000200200000" + "00" * 12))
    os.setxattr(folder, "user.large", os.urandom(40_000))
    os.setxattr(folder / "random", "trusted.two", b"value")
    os.setxattr(root / "link", "trusted.on a link", b"zz", follow_symlinks=False)
    run_tool("setfacl", "-m", "u:1234:rw,g:99:r", str(folder / "random"))
    run_tool("setfacl", "-d", "-m", "u:55:rwx", str(folder))
    (root / "project").mkdir()
    run_tool("xfs_io", "-c", "chproj 4242", "-c", "chattr +P", str(root / "project"))
    (root / "project" / "inherits").write_bytes(b"p")
    (root / "many").mkdir()
    for number in range(500):
        (root / "many" / f"file {number} {'n' * (number % 200)}").write_bytes(b"x" * number)
    (root / os.fsdecode(b"no \xff\xfe text")).write_bytes(b"")
    (root / "locked").mkdir()
    (root / "locked" / "in").write_bytes(b"in")
    os.utime(root / "link", ns=(111111111222222222, 333333333444444444), follow_symlinks=False)
    os.utime(folder / "random", ns=(1111111112123456789, 1234567890987654321))
    os.utime(root / "pipe", ns=(0, 10413792000_000000001))  # the year 2300
    os.utime(folder, ns=(5, 6))
    run_tool("chattr", "+i", str(root / "locked"), str(root / "many" / "file 7 nnnnnnn"))
    run_tool("chattr", "+ad", str(root / "many" / "file 8 nnnnnnnn"))
    os.utime(root, ns=(1, 2))


@pytest.mark.parametrize(
    "options",
    [
        "-m bigtime=1,rmapbt=1,reflink=1",
        pytest.param("-m reflink=0,bigtime=0,inobtcount=0,finobt=0 -i size=1024,sparse=0", marks=pytest.mark.slow),
        pytest.param("-b size=1024 -n size=8192 -i nrext64=1", marks=pytest.mark.slow),
    ],
)
def test_an_xfs_becomes_smaller_with_all_that_belongs_to_its_files(tmp_path: Path, options: str) -> None:
    volume = new_file(tmp_path / "volume", 700 * MIB)
    run_tool("mkfs.xfs", "-q", "-L", "a label", *options.split(), str(volume))
    with mounted_kernel(volume, tmp_path / "mount") as root:
        fill_xfs(root)
        before = xfs_facts(root)
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    manifest = backup_paths(repository, volume).manifest
    target = used_file(tmp_path / "target", 400 * MIB)
    plan = plan_restore(repository, manifest, 1, str(target), repository_folder="", options=FIT)
    assert any("made anew and its files copied: 419 MB" in step for step in plan.steps)
    assert any("numbers of inodes" in notice.message for notice in plan.notices if notice.code == "made-anew")
    restore(repository, manifest, target, options=FIT)
    run_tool("xfs_repair", "-n", str(target))
    with mounted_kernel(target, tmp_path / "mount") as root:
        assert xfs_facts(root) == before
        assert os.stat(root / "sparse").st_blocks < 1000
        facts = os.statvfs(root)
        assert 300 * MIB < facts.f_blocks * facts.f_frsize <= 400 * MIB
    about = [
        run_tool("xfs_db", "-r", "-c", "version", "-c", "label", "-c", "uuid", str(path)) for path in (volume, target)
    ]
    assert about[0] == about[1]
    sizes = [
        run_tool("xfs_db", "-r", "-c", "sb 0", "-c", "p blocksize sectsize inodesize dirblklog", str(path))
        for path in (volume, target)
    ]
    assert sizes[0] == sizes[1]


@pytest.mark.slow
def test_reflinked_files_take_their_own_room(tmp_path: Path) -> None:
    """200 MB of contents that two files share are 400 MB in the new volume: counted before anything is done."""
    volume = new_file(tmp_path / "volume", 600 * MIB)
    run_tool("mkfs.xfs", "-q", str(volume))
    with mounted_kernel(volume, tmp_path / "mount") as root:
        (root / "one").write_bytes(os.urandom(200 * MIB))
        run_tool("cp", "--reflink=always", str(root / "one"), str(root / "two"))
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    manifest = backup_paths(repository, volume).manifest
    target = used_file(tmp_path / "target", 400 * MIB)
    with pytest.raises(TargetError, match=r"partition 1 needs [56]\d\d MB"):
        restore(repository, manifest, target, options=FIT)
    assert target.read_bytes() == b"\xff" * (400 * MIB)


def test_a_file_that_was_left_out_comes_back_empty_with_its_size(tmp_path: Path) -> None:
    volume = new_file(tmp_path / "volume", 64 * MIB)
    run_tool("mkfs.fat", "-F", "16", str(volume))
    contents = {"kept": os.urandom(500_000), "secret": b"secret " * 100_000}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
        utf8("mcopy", "-i", str(volume), str(tmp_path / name), f"::/{name}")
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    options = BackupOptions(selection=Selection(exclude=(parse_pattern("/secret"),)))
    manifest = backup_paths(repository, volume, options=options).manifest
    assert [file.path for file in manifest.disks[0].partitions[0].left_out] == ["/secret"]
    target = used_file(tmp_path / "target", 40 * MIB)
    restore(repository, manifest, target, options=FIT)
    assert read_fat(target, "kept") == contents["kept"]
    assert read_fat(target, "secret") == bytes(700_000)
    assert b"secret secret" not in target.read_bytes()


def utf8(*command: str) -> str:
    """What a tool says that must know how names are written here."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    return subprocess.run(command, capture_output=True, check=True, text=True, env=environment).stdout


def read_fat(image: Path, name: str) -> bytes:
    return subprocess.run(["mtype", "-i", str(image), f"::/{name}"], capture_output=True, check=True).stdout


def make_fat(folder: Path, bits: int, size: int, *options: str) -> tuple[Path, Path]:
    """A FAT with gaps and a file in fragments, and a folder with the same files."""
    volume, files = new_file(folder / "volume", size), folder / "files"
    run_tool("mkfs.fat", "-F", str(bits), "-n", "MY LABEL", "-i", "1234abcd", *options, str(volume))
    inner = files / "a folder with a long name" / "inner"
    inner.mkdir(parents=True)
    (files / "EFI" / "Boot").mkdir(parents=True)
    (files / "EFI" / "Boot" / "bootx64.efi").write_bytes(os.urandom(100_000))
    (inner / "y.txt").write_bytes(b"why")
    for number in range(120):
        (inner / f"file number {number} é.dat").write_bytes(os.urandom(number * 97))
        os.utime(inner / f"file number {number} é.dat", (1_000_000_000 + 2 * number, 1_000_000_000 + 2 * number))
    (files / "empty").touch()
    (files / "big").write_bytes(os.urandom(1_000_001))
    utf8("mcopy", "-s", "-m", "-Q", "-i", str(volume), *map(str, sorted(files.iterdir())), "::/")
    for number in range(0, 120, 2):
        name = f"file number {number} é.dat"
        utf8("mdel", "-i", str(volume), f"::/a folder with a long name/inner/{name}")
        (inner / name).unlink()
    (files / "fragments").write_bytes(os.urandom(1_500_000))
    utf8("mcopy", "-m", "-i", str(volume), str(files / "fragments"), "::/fragments")
    utf8("mattrib", "-i", str(volume), "+r", "+h", "+s", "::/big")
    utf8("mattrib", "-i", str(volume), "-a", "+h", "::/a folder with a long name/inner")
    return volume, files


def judge_fat(volume: Path, target: Path, files: Path, folder: Path) -> None:
    """The same names, times, attributes and contents, in a volume without errors."""
    assert "differ" not in run_tool("fsck.fat", "-n", "-v", str(target))
    copy = folder / "copy"
    copy.mkdir()
    utf8("mcopy", "-s", "-n", "-Q", "-i", str(target), "::/*", str(copy))
    utf8("diff", "-r", str(files), str(copy))
    listed = [utf8("mdir", "-/", "-a", "-i", str(path), "::") for path in (volume, target)]
    assert listed[0].split("bytes free")[0].rpartition("\n")[0] == listed[1].split("bytes free")[0].rpartition("\n")[0]
    attributes = [utf8("mattrib", "-/", "-i", str(path), "::") for path in (volume, target)]
    assert attributes[0] == attributes[1]
    known = [run_tool("blkid", "-p", "-o", "export", str(path)).splitlines() for path in (volume, target)]
    for word in ("LABEL=MY\\ LABEL", "UUID=1234-ABCD", "TYPE=vfat"):
        assert all(word in lines for lines in known)
    assert [line for line in known[0] if line.startswith("VERSION=")] == [
        line for line in known[1] if line.startswith("VERSION=")
    ]


@pytest.mark.variants(2)
@pytest.mark.parametrize(
    ("bits", "size", "room"),
    [
        (12, 15, 24),
        (12, 28, 25),
        (16, 64, 40),
        (16, 40, 80),
        (32, 80, 60),
        pytest.param(32, 64, 600, marks=pytest.mark.slow),
    ],
)
def test_a_fat_at_another_size(tmp_path: Path, bits: int, size: int, room: int) -> None:
    volume, files = make_fat(tmp_path, bits, size * MIB)
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    manifest = backup_paths(repository, volume).manifest
    target = used_file(tmp_path / "target", room * MIB)
    restore(repository, manifest, target, options=FIT)
    judge_fat(volume, target, files, tmp_path)
    assert abs(fat_size(target) - room * MIB) < MIB
    assert target.read_bytes().count(b"\xff" * 8192) == 0  # nothing of what was there, behind its files or between
    old, new = volume.read_bytes()[:512], target.read_bytes()[:512]
    assert old[0x5A if bits == 32 else 0x3E : 0x1FE] == new[0x5A if bits == 32 else 0x3E : 0x1FE]  # boot code


def fat_size(image: Path) -> int:
    """Bytes of a FAT by its own numbers. Source: Microsoft's specification, BPB_TotSec16 and BPB_TotSec32."""
    sector = image.read_bytes()[:64]
    size, short, long = (struct.unpack_from(form, sector, at)[0] for form, at in (("<H", 11), ("<H", 19), ("<I", 32)))
    return int(size * (short or long))


def test_a_fat_that_must_not_be_made_anew_says_why(tmp_path: Path) -> None:
    volume, _ = make_fat(tmp_path, 16, 64 * MIB)
    raw = bytearray(volume.read_bytes())
    listed = run_tool("mshowfat", "-i", str(volume), "::/big")
    first = int(listed.split("<")[1].split(">")[0].split("-")[0])
    reserved, table = struct.unpack_from("<H", raw, 14)[0] * 512, struct.unpack_from("<H", raw, 22)[0] * 512
    for copy in range(2):
        struct.pack_into("<H", raw, reserved + copy * table + 2 * (first + 3), 0xFFFF)  # the file's chain ends here
    volume.write_bytes(raw)
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    manifest = backup_paths(repository, volume).manifest
    target = used_file(tmp_path / "target", 40 * MIB)
    with pytest.raises(TargetError, match="FAT file /big: its chain has 4 clusters"):
        restore(repository, manifest, target, options=FIT)
    assert target.read_bytes() == b"\xff" * (40 * MIB)


@contextmanager
def mounted_exfat(image: Path, place: Path, *options: str) -> Iterator[Path]:
    """By exfat-fuse, on a loop device: this kernel has no exFAT."""
    place.mkdir(exist_ok=True)
    loop = attach_loop(image)
    try:
        run_tool("mount.exfat-fuse", *options, loop, str(place))
        try:
            yield place
        finally:
            unmount(place)
    finally:
        detach_loop(loop)


def exfat_facts(root: Path) -> list[str]:
    """Names, times, attributes as modes, and contents; the size of a folder is counted in clusters."""
    script = (
        'cd "$1"; find . -printf "%p %T@ %m\\n"; find . -type f -printf "%p %s\\n"; find . -type f -exec sha256sum {} +'
    )
    done = subprocess.run(["bash", "-c", script, "facts", str(root)], capture_output=True, check=True)
    return sorted(done.stdout.decode().splitlines())


def make_exfat(folder: Path, size: int, *options: str) -> tuple[Path, list[str]]:
    volume = new_file(folder / "volume", size)
    run_tool("mkfs.exfat", "-L", "EX LABEL", *options, str(volume))
    with mounted_exfat(volume, folder / "mount") as root:
        (root / "many").mkdir()
        for number in range(200):
            (root / "many" / f"a rather long name of a file, number {number} é").write_bytes(os.urandom(number * 31))
        for number in range(0, 200, 2):
            (root / "many" / f"a rather long name of a file, number {number} é").unlink()
        with (root / "one").open("ab") as one, (root / "two").open("ab") as two:
            for _ in range(40):
                for file in (one, two):
                    file.write(os.urandom(50_001))
                    file.flush()
        (root / "empty folder").mkdir()
        (root / "empty").touch()
        os.utime(root / "one", (1_234_567_890, 1_234_567_892))
    with mounted_exfat(volume, folder / "mount", "-o", "ro") as root:
        return volume, exfat_facts(root)


@pytest.mark.parametrize(
    ("size", "room", "options"),
    [(100, 40, ("-c", "4K")), (60, 100, ("-c", "32K")), pytest.param(200, 60, ("-c", "128K"), marks=pytest.mark.slow)],
)
def test_an_exfat_at_another_size(tmp_path: Path, size: int, room: int, options: tuple[str, ...]) -> None:
    volume, facts = make_exfat(tmp_path, size * MIB, *options)
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    manifest = backup_paths(repository, volume).manifest
    target = used_file(tmp_path / "target", room * MIB)
    restore(repository, manifest, target, options=FIT)
    assert "clean. directories 3, files 103" in run_tool("fsck.exfat", "-n", str(target))
    with mounted_exfat(target, tmp_path / "mount", "-o", "ro") as root:
        assert exfat_facts(root) == facts
    known = [
        run_tool("blkid", "-p", "-o", "value", "-s", "UUID", "-s", "LABEL", str(path)) for path in (volume, target)
    ]
    assert known[0] == known[1]
    assert "EX LABEL" in known[0]
    assert int.from_bytes(target.read_bytes()[0x48:0x50], "little") * 512 == room * MIB


def test_a_name_that_is_damaged_in_the_image_is_no_new_file(tmp_path: Path) -> None:
    """Checksums of exFAT's entries: what they call wrong is refused by name, and the target stays as it is."""
    volume, _ = make_exfat(tmp_path, 100 * MIB, "-c", "4K")
    raw = bytearray(volume.read_bytes())
    name = "empty folder".encode("utf-16-le")
    raw[raw.index(name)] ^= 1
    volume.write_bytes(raw)
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    manifest = backup_paths(repository, volume).manifest
    target = used_file(tmp_path / "target", 60 * MIB)
    with pytest.raises(TargetError, match="dmpty folder: the checksum of its entries is wrong"):
        restore(repository, manifest, target, options=FIT)
    assert target.read_bytes() == b"\xff" * (60 * MIB)


def test_a_copy_that_is_not_the_same_never_reaches_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in what makes a FAT anew is found by the reader that did not make it."""
    from stillframe.fs.remade import Moved

    volume, _ = make_fat(tmp_path, 16, 64 * MIB)
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    manifest = backup_paths(repository, volume).manifest
    target = used_file(tmp_path / "target", 40 * MIB)
    whole = Moved.of
    monkeypatch.setattr(Moved, "of", staticmethod(lambda places, end: whole(list(places)[1:], end=end)))
    with pytest.raises(MachineRefusal, match=r"partition 1 was not made anew: .* came out different"):
        restore(repository, manifest, target, options=FIT)
    assert target.read_bytes() == b"\xff" * (40 * MIB)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Repository, Manifest]:
    """A GPT disk: an EFI system partition, one of data, both FAT with the number of hidden sectors right; its files."""
    folder = tmp_path_factory.mktemp("disk")
    disk = new_file(folder / "disk", 130 * MIB)
    run_tool("sgdisk", "-n", "1:2048:+40M", "-t", "1:ef00", "-n", "2:0:+80M", "-t", "2:0700", str(disk))
    for number, start, size, bits in ((1, 2048, 40, 16), (2, 2048 + 40 * 2048, 80, 32)):
        (folder / str(number)).mkdir()
        options = ("-s", "1") if bits == 32 else ()
        volume, files = make_fat(folder / str(number), bits, size * MIB, "-h", str(start), *options)
        copy_into(volume, disk, start * 512)
    repository = make_repository(LocalStore(str(folder / "repository")))
    return disk, files, repository, backup_paths(repository, disk).manifest


@pytest.mark.parametrize(
    ("size", "wishes"),
    [(100, {}), pytest.param(180, {}, marks=pytest.mark.slow), (170, {1: 60 * MIB, 2: "keep"})],
)
def test_a_disk_with_partitions_that_are_made_anew(
    saved: tuple[Path, Path, Repository, Manifest], tmp_path: Path, size: int, wishes: dict[int, Wish]
) -> None:
    """The system partition stays as it is unless it is named; what moves knows its place."""
    disk, _, repository, manifest = saved
    target = used_file(tmp_path / "target", size * MIB)
    options = RestoreOptions(fit=True, wishes=wishes)
    plan = plan_restore(repository, manifest, 1, str(target), repository_folder="", options=options)
    assert plan.made_anew == ((1,) if wishes else (2,))
    restore(repository, manifest, target, options=options)
    assert "No problems found" in run_tool("sgdisk", "-v", str(target))
    with open_file_reader(str(disk)) as old, open_file_reader(str(target)) as new:
        before, after = read_layout(old).partitions, read_layout(new).partitions
    assert (before[0].extent == after[0].extent) == (not wishes)
    assert (before[1].extent.size == after[1].extent.size) == bool(wishes)
    for one, other in zip(before, after, strict=True):
        was, now = (extract(image, part.extent, tmp_path / name) for image, part, name in
                    ((disk, one, "was"), (target, other, "now")))  # fmt: skip
        folder = tmp_path / str(one.number)
        folder.mkdir()
        run_tool("fsck.fat", "-n", str(now))
        for image, name in ((was, "was"), (now, "now")):
            (folder / name).mkdir()
            utf8("mcopy", "-s", "-n", "-Q", "-m", "-i", str(image), "::/*", str(folder / name))
        utf8("diff", "-r", str(folder / "was"), str(folder / "now"))
        assert int.from_bytes(now.read_bytes()[0x1C:0x20], "little") * 512 == other.extent.start
        assert (fat_size(now) == other.extent.size) or other.extent.size - fat_size(now) < MIB
