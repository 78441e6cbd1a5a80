"""Files inside an image, against what the kernel and ntfs-3g wrote and read."""

import os
import random
import re
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stillframe.block import GuardedReader, MemoryDisk
from stillframe.errors import MachineRefusal, UsageError
from stillframe.extents import Extent, ExtentSet
from stillframe.fs.files.patterns import parse_pattern
from stillframe.jobs.browsing import Look
from stillframe.jobs.inside.replayed import STALE
from stillframe.testing.file_images import get_all, list_all, listed, partition_of, traits_of
from stillframe.testing.real_disks import mounted_kernel
from stillframe.testing.tools import run_tool
from stillframe.testing.volumes_windows import fill_tree, hash_tree, mounted_ntfs

pytestmark = pytest.mark.root

MIB = 1 << 20


def make_volume(folder: Path, *command: str, size: int = 24 * MIB) -> Path:
    image = folder / "volume"
    image.write_bytes(b"")
    os.truncate(image, size)
    run_tool(*command, str(image))
    return image


def fill_unix(root: Path) -> None:
    """What a Unix file system can hold."""
    fill_tree(root, seed=3, size=2 * MIB)
    (root / "letter").write_bytes(b"dear reader\n")
    (root / "letter").chmod(0o640)
    os.chown(root / "letter", 1234, 4321)
    os.utime(root / "letter", ns=(1_600_000_000_123_456_789, 1_500_000_000_987_654_321))
    os.link(root / "letter", root / "same letter")
    (root / "program").write_bytes(b"#!/bin/sh\n")
    (root / "program").chmod(0o4755)
    (root / "empty folder").mkdir()
    (root / "short link").symlink_to("letter")
    (root / "long link").symlink_to("x" * 200)
    (root / "outside").symlink_to("/etc/passwd")
    with (root / "sparse").open("wb") as file:
        file.seek(5_000_000)
        file.write(b"at the end")
        file.truncate(9_000_000)
    for name in (b"caf\xe9", b"line\nbreak", b"back\\xe9slash", "žluť".encode()):
        (Path(root) / os.fsdecode(name)).write_bytes(name)


@pytest.mark.parametrize(
    "make",
    ["mke2fs -q -F -t ext2", "mke2fs -q -F -t ext3 -b 1024", "mke2fs -q -F -t ext4", "mke2fs -q -F -t ext4 -I 128"],
)
def test_ext_gives_every_file_as_the_kernel_shows_it(tmp_path: Path, make: str) -> None:
    image = make_volume(tmp_path, *make.split())
    with mounted_kernel(image, tmp_path / "mount") as root:
        fill_unix(root)
    with mounted_kernel(image, tmp_path / "mount", options="ro") as root:
        expected = traits_of(root)
        tally = get_all(partition_of(image.read_bytes()), tmp_path / "out")
    assert tally.notices == []
    step = 1 if "ext4" in make and "128" not in make else 10**9  # older ones have whole seconds only
    assert rounded(traits_of(tmp_path / "out"), step) == rounded(expected, step)
    assert (tmp_path / "out" / "letter").stat().st_ino == (tmp_path / "out" / "same letter").stat().st_ino
    assert (tmp_path / "out" / "sparse").stat().st_blocks * 512 < MIB
    assert not [name for name in os.listdir(tmp_path / "out") if name.startswith(".stillframe")]


def rounded(traits: dict[bytes, tuple[Any, ...]], step_ns: int) -> dict[bytes, tuple[Any, ...]]:
    return {name: (*one[:-2], one[-2] // step_ns, one[-1]) for name, one in traits.items()}


def test_ext_is_listed_as_the_kernel_lists_it(tmp_path: Path) -> None:
    image = make_volume(tmp_path, "mke2fs", "-q", "-F", "-t", "ext4")
    with mounted_kernel(image, tmp_path / "mount") as root:
        fill_unix(root)
        os.mkfifo(root / "pipe")
        expected = traits_of_listing(root)
    files = listed(partition_of(image.read_bytes()))
    assert {path: (one.size, one.modified_ns, one.mode, one.uid, one.gid, one.links) for path, one in files.items()
            if one.kind != "folder"} == expected  # fmt: skip
    assert files["/outside"].target == "/etc/passwd"
    assert (files["/pipe"].kind, files["/empty folder"].kind, files["/short link"].kind) == ("pipe", "folder", "link")
    assert "/caf\\xe9" in files
    assert "/back\\x5cxe9slash" in files


def traits_of_listing(root: Path) -> dict[str, tuple[object, ...]]:
    """What ``find`` says of everything but folders."""
    form = "%P\\t%s\\t%T@\\t%m\\t%U\\t%G\\t%n\\0"
    found: dict[str, tuple[object, ...]] = {}
    for line in run_tool("find", str(root), "-mindepth", "1", "!", "-type", "d", "-printf", form).split("\0")[:-1]:
        name, size, when, mode, *rest = line.split("\t")
        seconds, _, part = when.partition(".")
        modified = int(seconds) * 10**9 + int(part[:9].ljust(9, "0"))
        # run_tool gives what is no UTF-8 as U+FFFD
        key = {"caf\ufffd": "caf\\xe9", "back\\xe9slash": "back\\x5cxe9slash"}.get(name, name)
        found[f"/{key}"] = (int(size), modified, int(mode, 8), *map(int, rest))
    return found


def make_hfs_plus(folder: Path, source: Path) -> bytes:
    """The HFS+ volume in a hybrid of libisofs: nothing else here writes one."""
    whole = folder / "hybrid.iso"
    run_tool(
        "xorriso",
        "-as",
        "mkisofs",
        "-quiet",
        "-input-charset",
        "UTF-8",
        "-hfsplus",
        "-V",
        "MAC",
        "-o",
        str(whole),
        str(source),
    )
    raw = whole.read_bytes()
    start = next(at for at in range(0, len(raw), 512) if raw[at + 1024 : at + 1028] == b"H+\0\4")
    block_size, blocks = struct.unpack_from(">II", raw, start + 1024 + 40)
    return raw[start : start + block_size * blocks]


def test_hfs_plus_gives_files_and_links_and_says_when_it_was_not_closed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    fill_tree(source, seed=5, size=2 * MIB)
    (source / "Übung ž.txt").write_text("composed")
    (source / "link").symlink_to("Übung ž.txt")
    (source / "program").write_bytes(b"#!/bin/sh\n")
    (source / "program").chmod(0o755)
    for place in [source, *source.rglob("*")]:
        os.utime(place, (1_600_000_000, 1_600_000_000), follow_symlinks=False)
    raw = make_hfs_plus(tmp_path, source)
    tally = get_all(partition_of(raw), tmp_path / "out")
    assert tally.notices == []
    assert traits_of(tmp_path / "out") == traits_of(source)
    unclean = bytearray(raw)
    unclean[1024 + 6] &= 0xFE  # kHFSVolumeUnmountedBit
    assert STALE in {getattr(one, "code", "") for one in list_all(partition_of(bytes(unclean)))}
    with pytest.raises(MachineRefusal, match="files of hfs are not read"):
        list_all(partition_of(bytes(1024) + b"BD" + bytes(510) + raw[1536:]))


def reparse(tag: int, body: bytes) -> bytes:
    return struct.pack("<IHH", tag, len(body), 0) + body


def link_body(target: str, *, flags: bytes) -> bytes:
    """[MS-FSCC] 2.1.2.4 and 2.1.2.5: the name that is followed, then the one that is shown."""
    real, shown = f"\\??\\{target}".encode("utf-16-le"), target.encode("utf-16-le")
    return struct.pack("<HHHH", 0, len(real), len(real), len(shown)) + flags + real + shown


def fill_windows(root: Path) -> None:
    fill_tree(root, seed=5, size=2 * MIB)
    (root / "letter").write_bytes(b"x" * 5000)
    (root / "letter:stream").write_bytes(b"hidden " * 3000)
    (root / "letter:Zone.Identifier").write_bytes(b"[ZoneTransfer]\r\nZoneId=3\r\n")
    (root / "packed").mkdir()
    os.setxattr(root / "packed", "system.ntfs_attrib_be", struct.pack(">I", 0x800))
    generator = random.Random(7)
    words = [generator.randbytes(6) for _ in range(40)]
    (root / "packed" / "text").write_bytes(b"".join(generator.choices(words, k=150_000)))
    (root / "packed" / "noise").write_bytes(generator.randbytes(300_001))
    with (root / "sparse").open("wb") as file:
        file.seek(4_000_000)
        file.write(b"here")
        file.truncate(6_000_000)
    (root / "junction").mkdir()
    os.setxattr(root / "junction", "system.ntfs_reparse_data", reparse(0xA0000003, link_body("C:\\Users", flags=b"")))
    (root / "symlink").write_bytes(b"")
    os.setxattr(root / "symlink", "system.ntfs_reparse_data", reparse(0xA000000C, link_body("a\\b", flags=b"\1\0\0\0")))


def make_windows(folder: Path) -> tuple[bytes, dict[str, str]]:
    image = make_volume(folder, "mkntfs", "-F", "-Q", "-q", "-p", "0", "-H", "255", "-S", "63", "-s", "512")
    with mounted_ntfs(image, folder / "mount", "compression", "streams_interface=windows") as root:
        fill_windows(root)
    with mounted_ntfs(image, folder / "mount", "ro", "streams_interface=windows") as root:
        hashes = {name: one for name, one in hash_tree(root).items() if name not in ("junction", "symlink")}
        for stream in ("letter:stream", "letter:Zone.Identifier"):
            (folder / "one").mkdir(exist_ok=True)
            (folder / "one" / "file").write_bytes((root / stream).read_bytes())
            hashes[stream] = hash_tree(folder / "one")["file"]
    return image.read_bytes(), hashes


def test_ntfs_gives_streams_compressed_and_sparse_files_and_links(tmp_path: Path) -> None:
    contents, expected = make_windows(tmp_path)
    tally = get_all(partition_of(contents), tmp_path / "out")
    assert tally.notices == []
    out = tmp_path / "out"
    assert os.readlink(out / "junction") == "C:/Users"
    assert os.readlink(out / "symlink") == "a/b"
    (out / "junction").unlink()
    (out / "symlink").unlink()
    assert hash_tree(out) == expected
    assert (out / "sparse").stat().st_blocks * 512 < MIB
    files = listed(partition_of(contents))
    assert set(files["/letter"].streams) == {"stream", "Zone.Identifier"}
    assert (files["/junction"].kind, files["/junction"].target) == ("link", "C:/Users")


def test_names_on_ntfs_are_found_whatever_their_case(tmp_path: Path) -> None:
    contents, _ = make_windows(tmp_path)
    assert get_all(partition_of(contents), tmp_path / "out", "PACKED/Text").files == 1
    assert (tmp_path / "out" / "text").is_file()


def test_what_only_windows_can_read_is_refused_by_name(tmp_path: Path) -> None:
    image = make_volume(tmp_path, "mkntfs", "-F", "-Q", "-q", "-p", "0", "-H", "255", "-S", "63", "-s", "512")
    with mounted_ntfs(image, tmp_path / "mount", "streams_interface=windows") as root:
        for name in ("good", "encrypted"):
            (root / name).write_bytes(b"0123456789" * 1000)
        (root / "compact:WofCompressedData").write_bytes(b"packed")
        for name, tag in (("compact2", 0x80000017), ("cloud", 0x9000601A), ("strange", 0x80001234)):
            (root / name).write_bytes(b"")
            os.setxattr(root / name, "system.ntfs_reparse_data", reparse(tag, bytes(16)))
    raw = bytearray(image.read_bytes())
    record = find_record(raw, "encrypted")
    attribute = find_attribute(raw, record, 0x80)
    raw[attribute + 13] |= 0x40  # ATTR_IS_ENCRYPTED 0x4000, ntfs-3g layout.h
    tally = get_all(partition_of(bytes(raw)), tmp_path / "out")
    words = {re.split(" was", one.message)[0]: one.message for one in tally.notices}
    assert set(words) == {"/encrypted", "/compact", "/compact2", "/cloud", "/strange"}
    assert "EFS" in words["/encrypted"]
    assert "CompactOS" in words["/compact"]
    assert "CompactOS" in words["/compact2"]
    assert "cloud" in words["/cloud"]
    assert "0x80001234" in words["/strange"]
    assert os.listdir(tmp_path / "out") == ["good"]


def find_record(raw: bytearray, name: str) -> int:
    """The record of the file table that holds a file of this name."""
    place = -1
    while (place := raw.find(b"FILE", place + 1)) >= 0:
        if name.encode("utf-16-le") in raw[place : place + 1024] and find_attribute(raw, place, 0x80):
            return place
    raise AssertionError(name)


def find_attribute(raw: bytearray, record: int, kind: int) -> int:
    place = record + int.from_bytes(raw[record + 20 : record + 22], "little")
    while place < record + 1000:
        number, size = struct.unpack_from("<II", raw, place)
        if number == kind:
            return place
        if number == 0xFFFFFFFF or not size:
            break
        place += size
    return 0


def test_a_file_over_bytes_that_are_not_there_is_named_and_not_written(tmp_path: Path) -> None:
    image = make_volume(tmp_path, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096")
    with mounted_kernel(image, tmp_path / "mount") as root:
        (root / "before").write_bytes(b"1" * 9000)
        (root / "lost").write_bytes(os.urandom(300_000))
        (root / "zafter").write_bytes(b"2" * 9000)
    block = int(re.findall(r"\d+", run_tool("debugfs", "-R", "blocks /lost", str(image)).split("debugfs ")[0])[-1])
    disk = MemoryDisk(image.read_bytes())
    gone = ExtentSet.of(Extent(block * 4096, block * 4096 + 1))
    guarded = GuardedReader(disk, gone, words="could not be read when the image was made")
    tally = get_all(partition_of(guarded), tmp_path / "out")
    assert [one.code for one in tally.notices] == ["file-not-got"]
    assert tally.notices[0].message.startswith("/lost was not written: byte")
    assert sorted(os.listdir(tmp_path / "out")) == ["before", "lost+found", "zafter"]


@pytest.mark.parametrize("size", [4096, 40_000])
def test_only_the_file_that_was_left_out_is_refused_and_not_its_neighbours(tmp_path: Path, size: int) -> None:
    """The library reads 64 KiB around what it is asked for."""
    image = make_volume(tmp_path, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096")
    names = [f"file{number:02}" for number in range(40)]
    with mounted_kernel(image, tmp_path / "mount") as root:
        for name in names:
            (root / name).write_bytes(os.urandom(size))
        os.sync()
        hashes = hash_tree(root)
    for lost in (names[7], names[23]):
        said = run_tool("debugfs", "-R", f"blocks /{lost}", str(image)).split("debugfs ")[0]
        blocks = [int(number) for number in re.findall(r"\d+", said)]
        part = partition_of(image.read_bytes(), left_out=[(one * 4096, (one + 1) * 4096) for one in blocks[:1]])
        out = tmp_path / lost
        tally = get_all(part, out)
        assert [one.code for one in tally.notices] == ["file-not-got"]
        assert "was left out of the image" in tally.notices[0].message
        assert hash_tree(out) == {name: digest for name, digest in hashes.items() if name != lost}


def test_what_is_there_already_is_kept_unless_it_may_be_replaced(tmp_path: Path) -> None:
    image = make_volume(tmp_path, "mke2fs", "-q", "-F", "-t", "ext4")
    with mounted_kernel(image, tmp_path / "mount") as root:
        (root / "letter").write_bytes(b"new")
        (root / "other").write_bytes(b"other")
    part, out = partition_of(image.read_bytes()), tmp_path / "out"
    out.mkdir()
    (out / "letter").write_bytes(b"mine")
    tally = get_all(part, out)
    assert [one.code for one in tally.notices] == ["file-kept"]
    assert ((out / "letter").read_bytes(), (out / "other").read_bytes()) == (b"mine", b"other")
    assert get_all(part, out, overwrite=True).notices == []
    assert (out / "letter").read_bytes() == b"new"


def hostile(folder: Path) -> bytes:
    """An ext4 whose root folder says what no kernel would write."""
    image = make_volume(
        folder, "mke2fs", "-q", "-F", "-t", "ext4", "-O", "^metadata_csum,^dir_index,^has_journal", "-b", "1024"
    )
    outside = folder / "outside"
    outside.mkdir()
    with mounted_kernel(image, folder / "mount") as root:
        (root / "AAAAAAAAAA").write_bytes(b"escaped")
        (root / "BBBB").write_bytes(b"dots")
        (root / "trap").symlink_to(outside)
        (root / "CCCC").mkdir()
        (root / "CCCC" / "planted").write_bytes(b"planted")
        (root / "above" / "loop").mkdir(parents=True)
        above = (root / "above").stat().st_ino
        (root / "good").write_bytes(b"good")
    raw = bytearray(image.read_bytes())
    for old, new in ((b"AAAAAAAAAA", b"../escaped"), (b"BBBB", b"a/b\0"), (b"CCCC", b"trap")):
        assert raw.count(old) == 1
        raw[raw.index(old) : raw.index(old) + len(old)] = new
    # struct ext4_dir_entry_2: the inode stands 8 bytes before the name
    place = raw.index(b"\x04\x02loop") + 2
    raw[place - 8 : place - 4] = above.to_bytes(4, "little")
    return bytes(raw)


def test_a_hostile_volume_writes_nothing_outside_the_destination(tmp_path: Path) -> None:
    part, out = partition_of(hostile(tmp_path)), tmp_path / "in" / "out"
    out.parent.mkdir()
    tally = get_all(part, out)
    assert os.listdir(tmp_path / "outside") == []
    assert os.listdir(tmp_path / "in") == ["out"]
    assert not (tmp_path / "escaped").exists()
    assert (out / "good").read_bytes() == b"good"
    assert os.readlink(out / "trap") == str(tmp_path / "outside")
    words = "\n".join(one.message for one in tally.notices)
    assert "/..\\x2fescaped was not written: its name would lead out of the destination" in words
    assert "/above/loop was not written: the same folder" in words
    assert "/trap was not written: the destination does not take it" in words
    files = list_all(part)
    assert any("the same folder is in another place too" in getattr(one, "message", "") for one in files)


def test_an_own_link_in_the_destination_is_not_followed(tmp_path: Path) -> None:
    image = make_volume(tmp_path, "mke2fs", "-q", "-F", "-t", "ext4")
    with mounted_kernel(image, tmp_path / "mount") as root:
        (root / "folder").mkdir()
        (root / "folder" / "file").write_bytes(b"x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "folder").symlink_to(tmp_path / "elsewhere")
    tally = get_all(partition_of(image.read_bytes()), tmp_path / "out", overwrite=True)
    assert os.listdir(tmp_path / "elsewhere") == []
    assert [one.code for one in tally.notices] == ["file-not-got"]


@pytest.mark.parametrize(("make", "options"), [("mkfs.xfs -q", "ro,norecovery"), ("mkfs.btrfs -q", "ro")])
def test_what_only_the_kernel_reads_comes_through_a_mount(tmp_path: Path, make: str, options: str) -> None:
    image = make_volume(tmp_path, *make.split(), size=320 * MIB)
    with mounted_kernel(image, tmp_path / "mount") as root:
        fill_unix(root)
        os.setxattr(root / "letter", "user.colour", b"blue")
    from stillframe.block.file import open_file_reader

    traits = {}
    with mounted_kernel(image, tmp_path / "mount", options=options) as root:
        traits = traits_of(root)
    if "btrfs" in make:  # or the kernel takes the copy for the device that it has seen
        run_tool("btrfs", "device", "scan", "--forget", accept=(0, 1))
    with open_file_reader(str(image)) as reader:
        part = partition_of(reader)
        filesystem = "btrfs" if "btrfs" in make else "xfs"
        part = replace(part, stored=replace(part.stored, filesystem=filesystem))
        tally = get_all(part, tmp_path / "out")
        assert tally.notices == []
        assert traits_of(tmp_path / "out") == traits
        files = listed(part)
        assert files["/letter"].links == 2
    assert os.getxattr(tmp_path / "out" / "letter", "user.colour") == b"blue"
    assert (tmp_path / "out" / "sparse").stat().st_blocks * 512 < MIB


def test_files_are_found_by_patterns_sizes_and_dates(tmp_path: Path) -> None:
    image = make_volume(tmp_path, "mke2fs", "-q", "-F", "-t", "ext4")
    with mounted_kernel(image, tmp_path / "mount") as root:
        fill_unix(root)
        (root / "a" / "deep").mkdir(parents=True)
        (root / "a" / "deep" / "letter").write_bytes(b"y" * 100)
    part = partition_of(image.read_bytes())
    assert set(listed(part, Look(pattern=parse_pattern("letter")))) == {"/letter", "/a/deep/letter"}
    assert set(listed(part, Look(pattern=parse_pattern("/let*")))) == {"/letter"}
    assert set(listed(part, Look(pattern=parse_pattern("letter"), larger=50))) == {"/a/deep/letter"}
    since = 1_550_000_000 * 10**9
    assert set(listed(part, Look(pattern=parse_pattern("letter"), newer_ns=since))) == {"/a/deep/letter"}
    assert set(listed(part, Look(pattern=parse_pattern("*ee*"), kind="folder"))) == {"/a/deep"}


def test_paths_that_are_not_there_say_so(tmp_path: Path) -> None:
    image = make_volume(tmp_path, "mke2fs", "-q", "-F", "-t", "ext4")
    with mounted_kernel(image, tmp_path / "mount") as root:
        (root / "file").write_bytes(b"x")
        (root / "link").symlink_to("file")
    part = partition_of(image.read_bytes())
    with pytest.raises(UsageError, match="there is no 'nothing' in /"):
        list_all(part, Look(names=(b"nothing",)))
    with pytest.raises(UsageError, match="/file is no folder"):
        list_all(part, Look(names=(b"file", b"x")))
    with pytest.raises(UsageError, match="/link is a link to file"):
        list_all(part, Look(names=(b"link", b"x")))
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError):
        get_all(part, tmp_path / "out", "file", "nothing")
    assert not (tmp_path / "out").exists()


def test_a_volume_that_was_in_use_and_cannot_be_replayed_says_that_files_may_be_old(tmp_path: Path) -> None:
    image = make_volume(tmp_path, "mke2fs", "-q", "-F", "-t", "ext2")
    with mounted_kernel(image, tmp_path / "mount") as root:
        (root / "file").write_bytes(b"x")
        os.sync()
        contents = image.read_bytes()
    found = list_all(partition_of(contents))
    assert next(getattr(one, "code", "") for one in found) == STALE


def test_an_ntfs_that_is_marked_dirty_is_read_and_said_to_be_old(tmp_path: Path) -> None:
    image = make_volume(tmp_path, "mkntfs", "-q", "-F")
    with mounted_ntfs(image, tmp_path / "mount") as root:
        (root / "letter").write_bytes(b"dear reader")
    run_tool("ntfsfix", str(image))  # it marks the volume, so that Windows looks at it
    part = partition_of(image.read_bytes())
    assert next(getattr(one, "code", "") for one in list_all(part)) == STALE
    assert [one.code for one in get_all(part, tmp_path / "out").notices] == [STALE]
    assert (tmp_path / "out" / "letter").read_bytes() == b"dear reader"
