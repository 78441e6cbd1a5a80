"""Disk files of other programs show the disk that the programs themselves see in them."""

import os
import random
import shutil
import struct
import subprocess
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from stillframe.block import ExtentKind
from stillframe.block.file import open_file_reader
from stillframe.block.formats import DiskFile, container_name, open_disk_file
from stillframe.errors import DiskFormatError
from stillframe.extents import Extent
from stillframe.testing.disk_files import (
    BAT_PLACE,
    DATA_STATE,
    Below,
    LogChange,
    VhdxPlan,
    build_log,
    build_vhd,
    build_vhdx,
    crc32c_by_bytes,
)
from stillframe.testing.tools import unmount

MIB = 1 << 20
SIZE = 3 * MIB


def tool(*words: object) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


def make_content(seed: int = 1, size: int = SIZE) -> bytes:
    """Noise, text that packs well, and zeros."""
    choose = random.Random(seed)
    disk = bytearray(size)
    for start in range(0, size, 5 * 4096):
        disk[start : start + 4096] = choose.randbytes(4096)
    disk[MIB : MIB + 400_000] = b"the same words again and again. " * 12_500
    disk[1_600_000:2_200_000] = bytes(600_000)
    return bytes(disk[:size])


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "raw"
    path.write_bytes(make_content())
    return path


def read_whole(path: Path) -> bytes:
    """The disk in a file, after a look at whether its holes are holes."""
    with open_disk_file(str(path)) as disk:
        content = disk.read_at(0, disk.size)
        require_holes(disk, content)
        return content


def require_holes(disk: DiskFile, content: bytes) -> None:
    place = 0
    for known in disk.known_extents(Extent(0, disk.size)):
        assert known.extent.start == place
        place = known.extent.end
        if known.kind is not ExtentKind.DATA:
            assert not any(content[known.extent.start : known.extent.end])
    assert place == disk.size


def as_seen_by_qemu(path: Path, form: str) -> bytes:
    out = path.with_name("seen-by-qemu")
    tool("qemu-img", "convert", "-f", form, "-O", "raw", path, out)
    return out.read_bytes()


QCOW2 = [
    "compat=0.10", "compat=1.1", "cluster_size=512", "cluster_size=2M", "lazy_refcounts=on", "refcount_bits=1",
    "preallocation=metadata", "preallocation=falloc", "preallocation=full",
    "-c compression_type=zlib", "-c compression_type=zstd", "-c cluster_size=4k", "-c compat=0.10",
    "-c cluster_size=2M,compression_type=zstd",
]  # fmt: skip
OTHERS = [
    ("vpc", "subformat=dynamic"), ("vpc", "subformat=dynamic,force_size=on"), ("vpc", "subformat=fixed"),
    ("vpc", "subformat=fixed,force_size=on"),
    ("vhdx", "subformat=dynamic"), ("vhdx", "subformat=fixed"), ("vhdx", "block_size=1M"), ("vhdx", "block_size=256M"),
    ("vhdx", "block_state_zero=off"), ("vhdx", "log_size=4M"),
    ("vmdk", "subformat=monolithicSparse"), ("vmdk", "subformat=monolithicFlat"), ("vmdk", "zeroed_grain=on"),
    ("vmdk", "subformat=twoGbMaxExtentSparse"), ("vmdk", "subformat=twoGbMaxExtentFlat"),
    ("vmdk", "subformat=streamOptimized"), ("vmdk", "compat6=on"), ("vdi", "static=off"), ("vdi", "static=on"),
]  # fmt: skip
NAMES = {"qcow2": "QCOW2", "vpc": "VHD", "vhdx": "VHDX", "vmdk": "VMDK", "vdi": "VDI"}


@pytest.mark.parametrize("options", QCOW2)
def test_qcow2(options: str, raw: Path, tmp_path: Path) -> None:
    *packed, words = options.split()
    path = tmp_path / "a.vhd"  # the name says nothing
    tool("qemu-img", "convert", "-O", "qcow2", *packed, "-o", words, raw, path)
    assert read_whole(path) == raw.read_bytes()


@pytest.mark.parametrize(("form", "options"), OTHERS)
def test_other_formats(form: str, options: str, raw: Path, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    tool("qemu-img", "convert", "-f", "raw", "-O", form, "-o", options, raw, path)
    found = read_whole(path)
    assert found[:SIZE] == raw.read_bytes()
    assert found == as_seen_by_qemu(path, form)
    with open_disk_file(str(path)) as disk:
        assert disk.format_name == NAMES[form]
    with open_file_reader(str(path)) as file:
        assert container_name(file) == NAMES[form]


def test_disks_that_are_no_whole_clusters(tmp_path: Path) -> None:
    for size in (512, 65_536 + 512, 2_000_384):
        raw = tmp_path / "odd"
        raw.write_bytes(random.Random(size).randbytes(size))
        for form in ("qcow2", "vmdk", "vdi", "vhdx"):
            path = tmp_path / f"odd.{form}"
            tool("qemu-img", "convert", "-f", "raw", "-O", form, raw, path)
            assert read_whole(path) == as_seen_by_qemu(path, form)


def test_large_disks_of_many_tables(tmp_path: Path) -> None:
    """Written to at places that lie tables apart."""
    for form, options in (("qcow2", "cluster_size=512"), ("vhdx", "block_size=1M"), ("vmdk", ""), ("vpc", "")):
        path = tmp_path / f"large.{form}"
        tool("qemu-img", "create", "-q", "-f", form, *(["-o", options] if options else []), path, "20G")
        places = [0, 5 * MIB + 512, 3 << 30, (4 << 30) - 4096, (20 << 30) - 65_536]
        words = [f"write -P {number + 1} {place} 64k" for number, place in enumerate(places)]
        tool("qemu-io", "-f", form, *(part for word in words for part in ("-c", word)), path)
        with open_disk_file(str(path)) as disk:
            for number, place in enumerate(places):
                assert disk.read_at(place, 65_536) == bytes([number + 1]) * 65_536
                assert disk.read_at(place + 65_536, 512) == bytes(512) if place < 4 << 30 else True
            data = sum(
                known.extent.size for known in disk.known_extents(Extent(0, disk.size)) if known.kind is ExtentKind.DATA
            )
            assert data < 64 * MIB


def test_split_vmdk_of_several_parts(tmp_path: Path) -> None:
    for kind in ("Sparse", "Flat"):
        path = tmp_path / f"split{kind}.vmdk"
        tool("qemu-img", "create", "-q", "-f", "vmdk", "-o", f"subformat=twoGbMaxExtent{kind}", path, "5G")
        across = (2 << 30) - 4096
        tool("qemu-io", "-f", "vmdk", "-c", f"write -P 7 {across} 8k", "-c", "write -P 9 4G 4k", path)
        with open_disk_file(str(path)) as disk:
            assert disk.size == 5 << 30
            assert len(disk.paths) == 4
            assert disk.read_at(across, 8192) == b"\7" * 8192
            assert disk.read_at(4 << 30, 8192) == b"\t" * 4096 + bytes(4096)


@pytest.mark.parametrize("under", ["raw", "qcow2", "vmdk", "vpc"])
def test_backing_files(under: str, raw: Path, tmp_path: Path) -> None:
    """A chain of three: the lowest of another format and shorter, found by a relative path."""
    (tmp_path / "below").mkdir()
    tool("qemu-img", "convert", "-f", "raw", "-O", under, raw, tmp_path / "below" / "base")
    tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", "below/base", "-F", under, tmp_path / "middle", "5M")
    tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", "middle", "-F", "qcow2", tmp_path / "top", "6M")
    tool("qemu-io", "-f", "qcow2", "-c", "write -P 3 100k 70000", "-c", "write -z 1M 200k", tmp_path / "middle")
    tool("qemu-io", "-f", "qcow2", "-c", "write -P 4 120k 512", "-c", "write -P 5 5500k 4k", tmp_path / "top")
    assert read_whole(tmp_path / "top") == as_seen_by_qemu(tmp_path / "top", "qcow2")
    with open_disk_file(str(tmp_path / "top")) as disk:
        assert [os.path.basename(path) for path in disk.paths] == ["top", "middle", "base"]


def test_a_raw_backing_file_is_raw_whatever_it_looks_like(tmp_path: Path) -> None:
    """A guest may write the header of another format into its own disk."""
    tool("qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "inner", "1M")
    tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", tmp_path / "inner", "-F", "raw", tmp_path / "top")
    with open_disk_file(str(tmp_path / "top")) as disk:
        assert disk.read_at(0, 4) == b"QFI\xfb"


def test_snapshots_and_bitmaps_inside_are_passed_over(raw: Path, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    tool("qemu-img", "convert", "-O", "qcow2", raw, path)
    tool("qemu-img", "snapshot", "-c", "before", path)
    tool("qemu-img", "bitmap", "--add", path, "changed")
    tool("qemu-io", "-f", "qcow2", "-c", "write -P 3 200k 300k", "-c", "discard 2M 128k", path)
    assert read_whole(path) == as_seen_by_qemu(path, "qcow2")


@pytest.mark.parametrize("options", ["data_file={}", "data_file={},data_file_raw=on"])
def test_external_data_files(options: str, raw: Path, tmp_path: Path) -> None:
    path, data = tmp_path / "disk", tmp_path / "disk.data"
    tool("qemu-img", "convert", "-O", "qcow2", "-o", options.format(data), raw, path)
    assert read_whole(path) == raw.read_bytes()
    data.unlink()
    with pytest.raises(DiskFormatError, match="keeps its data in"):
        open_disk_file(str(path))


def test_a_vmdk_that_rests_on_another(raw: Path, tmp_path: Path) -> None:
    tool("qemu-img", "convert", "-O", "vmdk", raw, tmp_path / "base.vmdk")
    tool("qemu-img", "create", "-q", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk", tmp_path / "top.vmdk")
    tool("qemu-io", "-f", "vmdk", "-c", "write -P 3 100k 70k", tmp_path / "top.vmdk")
    assert read_whole(tmp_path / "top.vmdk") == as_seen_by_qemu(tmp_path / "top.vmdk", "vmdk")
    tool("qemu-io", "-f", "vmdk", "-c", "write -P 9 0 64k", tmp_path / "base.vmdk")  # changes what the top rests on
    with pytest.raises(DiskFormatError, match="in the state"):
        open_disk_file(str(tmp_path / "top.vmdk"))


def parts_here(sectors: int, seed: int) -> list[bool]:
    """Which sectors are here: in each eight of them the last few. libvhdi cannot do runs that begin and end in one."""
    choose = random.Random(seed)
    return [at >= first for first in (choose.randrange(9) for _ in range(sectors // 8)) for at in range(8)]


def mixed(here: list[bool], top: bytes, base: bytes, sector: int = 512) -> bytes:
    return b"".join((top if is_here else base)[n * sector : (n + 1) * sector] for n, is_here in enumerate(here))


def as_seen_by_libvhdi(path: Path, number: int) -> bytes:
    """By FUSE: ``vhdi1`` is the lowest of a chain."""
    place = path.with_name("mounted")
    place.mkdir(exist_ok=True)
    tool("vhdimount", path, place)
    try:
        return (place / f"vhdi{number}").read_bytes()
    finally:
        unmount(place)


@pytest.mark.root
def test_differencing_vhd(tmp_path: Path) -> None:
    base, top = make_content(1, MIB), make_content(2, MIB)
    here = parts_here(MIB // 512, 4)
    for block in range(0, MIB // 512, 3 * 128):
        here[block : block + 128] = [False] * 128
    (tmp_path / "base.vhd").write_bytes(build_vhd(base))
    child = tmp_path / "child.avhd"
    child.write_bytes(
        build_vhd(top, here=here, below=Below(state=DATA_STATE.hex, name=".\\base.vhd"), own=uuid.UUID(int=7))
    )
    assert read_whole(child) == mixed(here, top, base)
    assert as_seen_by_libvhdi(child, 2) == mixed(here, top, base)


@pytest.mark.root
def test_differencing_vhdx(tmp_path: Path) -> None:
    base, top = make_content(1), make_content(2)
    here = parts_here(MIB // 512, 4)
    (tmp_path / "base.vhdx").write_bytes(build_vhdx(VhdxPlan(content=base)))
    child = tmp_path / "child.avhdx"
    below = Below(state=f"{{{DATA_STATE}}}", name=".\\base.vhdx")
    child.write_bytes(build_vhdx(VhdxPlan(content=top, here={0: here, 1: 0}, below=below, own=uuid.UUID(int=7))))
    expected = mixed(here, top, base) + base[MIB : 2 * MIB] + top[2 * MIB :]
    assert read_whole(child) == expected
    assert as_seen_by_libvhdi(child, 2) == expected


def test_any_sector_may_be_here_or_below(tmp_path: Path) -> None:
    """By the laws of both specifications: libvhdi reads only some patterns of bits."""
    base, top = make_content(1), make_content(2)
    choose = random.Random(9)
    for sector in (512, 4096):
        here = [choose.random() < 0.5 for _ in range(MIB // sector)]
        states: dict[int, int | Sequence[bool]] = {0: here, 1: 2, 2: 3}
        (tmp_path / "base.vhdx").write_bytes(build_vhdx(VhdxPlan(content=base, sector_size=sector)))
        child = tmp_path / f"child{sector}"
        below = Below(state=str(DATA_STATE), name=".\\base.vhdx")
        plan = VhdxPlan(content=top, here=states, below=below, own=uuid.UUID(int=7), sector_size=sector)
        child.write_bytes(build_vhdx(plan))
        assert read_whole(child) == mixed(here, top, base, sector) + bytes(2 * MIB)
        with open_disk_file(str(child)) as disk:
            assert disk.sector_size == sector
    here = [choose.random() < 0.5 for _ in range(SIZE // 512)]
    (tmp_path / "base.vhd").write_bytes(build_vhd(base))
    below = Below(state=DATA_STATE.hex, name="..\\nowhere\\base.vhd")
    (tmp_path / "child.vhd").write_bytes(build_vhd(top, here=here, below=below, own=uuid.UUID(int=7)))
    assert read_whole(tmp_path / "child.vhd") == mixed(here, top, base)


def test_sectors_of_a_dynamic_vhd_that_were_never_written_are_zeros(tmp_path: Path) -> None:
    content, here = make_content(), [number % 3 > 0 for number in range(SIZE // 512)]
    (tmp_path / "disk").write_bytes(build_vhd(content, here=here))
    assert read_whole(tmp_path / "disk") == mixed(here, content, bytes(SIZE))


def test_large_sectors_as_qemu_sees_them(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(build_vhdx(VhdxPlan(content=make_content(), sector_size=512, block_size=2 * MIB, here={1: 0})))
    assert read_whole(path) == as_seen_by_qemu(path, "vhdx")
    assert read_whole(path)[: 2 * MIB] == make_content()[: 2 * MIB]


def write_with_log(path: Path, *, start: int = 0) -> None:
    """A file whose table lacks all blocks and whose log has them, in two entries; the first is overwritten."""
    whole = build_vhdx(VhdxPlan(content=make_content()))
    table = whole[BAT_PLACE : BAT_PLACE + 4096]
    wrong = struct.pack("<Q", 6 | 5 * MIB).ljust(4096, b"\xff")
    entries = [
        [LogChange(place=BAT_PLACE, data=wrong), LogChange(place=5 * MIB, zeros=64 * 1024)],
        [LogChange(place=BAT_PLACE, data=table)],
    ]
    log = build_log(entries, file_size=len(whole), start=start)
    raw = bytearray(build_vhdx(VhdxPlan(content=make_content(), log=log)))
    raw[BAT_PLACE : BAT_PLACE + 4096] = bytes(4096)
    path.write_bytes(raw)


def content_after_log() -> bytes:
    expected = bytearray(make_content())
    expected[MIB : MIB + 64 * 1024] = bytes(64 * 1024)
    return bytes(expected)


@pytest.mark.parametrize("start", [0, 8192, MIB - 12288])  # the last: an entry goes round the end of the log
def test_a_log_is_replayed_in_memory(start: int, tmp_path: Path) -> None:
    path, copy = tmp_path / "disk.vhdx", tmp_path / "copy.vhdx"
    write_with_log(path, start=start)
    before = path.read_bytes()
    assert read_whole(path) == content_after_log()
    assert path.read_bytes() == before
    shutil.copy(path, copy)
    tool("qemu-img", "check", "-q", "-r", "all", "-f", "vhdx", copy)
    assert as_seen_by_qemu(copy, "vhdx") == content_after_log()


def test_a_log_whose_entries_go_round_is_replayed_from_its_tail(tmp_path: Path) -> None:
    """[MS-VHDX] 2.3.2: QEMU 7.2 takes the last entry alone for the whole sequence here."""
    write_with_log(tmp_path / "disk.vhdx", start=MIB - 8192)
    assert read_whole(tmp_path / "disk.vhdx") == content_after_log()


@pytest.mark.parametrize("place", [MIB + 100, MIB + 4096, MIB + 8192 + 200, MIB + 8192 + 4100])
def test_a_log_that_is_torn_is_not_replayed_in_part(place: int, tmp_path: Path) -> None:
    """A damaged last entry was never finished; a damaged first one makes the whole unusable."""
    path = tmp_path / "disk.vhdx"
    write_with_log(path)
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DiskFormatError, match="log"):
        read_whole(path)


def test_either_copy_will_do(raw: Path, tmp_path: Path) -> None:
    """The footer of a VHD, headers and regions of a VHDX: one may be damaged, both not."""
    places = {"vpc": [(-512, 0)], "vhdx": [(65_536, 131_072), (196_608, 262_144)]}
    for form, pairs in places.items():
        path = tmp_path / f"disk.{form}"
        tool("qemu-img", "convert", "-f", "raw", "-O", form, raw, path)
        whole = path.read_bytes()
        for pair in pairs:
            for damaged in ((pair[0],), (pair[1],), pair):
                broken = bytearray(whole)
                for place in damaged:
                    broken[place + 40 : place + 60] = b"\xee" * 20
                path.write_bytes(broken)
                if len(damaged) == 1 and damaged[0] != 131_072 and damaged[0] != 65_536:
                    assert read_whole(path)[:SIZE] == raw.read_bytes()
                elif len(damaged) == 2:
                    with pytest.raises(DiskFormatError, match="checksum"):
                        read_whole(path)


Breaker = Callable[[bytearray], None]


def at(place: int, new: bytes) -> Breaker:
    def change(raw: bytearray) -> None:
        raw[place : place + len(new)] = new

    return change


BROKEN: list[tuple[str, str, Breaker, str]] = [
    ("qcow2", "", at(4, struct.pack(">I", 1)), "QCOW version 1"),
    ("qcow2", "", at(20, struct.pack(">I", 60)), "size of a cluster"),
    ("qcow2", "", at(32, struct.pack(">I", 2)), "encrypted"),
    ("qcow2", "", at(36, struct.pack(">I", 0)), "first table"),
    ("qcow2", "", at(24, struct.pack(">Q", 1 << 61)), "size of the disk"),
    ("qcow2", "", at(40, struct.pack(">Q", 1 << 40)), "first table"),
    ("qcow2", "", at(72, struct.pack(">Q", 2)), "marked this file as corrupt"),
    ("qcow2", "", at(72, struct.pack(">Q", 1 << 40)), "needs the features"),
    ("qcow2", "", at(72, struct.pack(">Q", 8)), "compression type"),
    ("qcow2", "extended_l2=on", at(0, b""), "extended_l2"),
    ("vhdx", "", at(196_608, b"xxxx"), ""),
    ("vdi", "", at(0x178, struct.pack("<I", 3)), "size of a block"),
    ("vdi", "", at(0x4C, struct.pack("<I", 4)), "snapshot"),
    ("vmdk", "", at(4, struct.pack("<I", 9)), "version 9"),
    ("vmdk", "", at(73, b"\n \n\n"), "line ends"),
    ("vmdk", "", at(20, struct.pack("<Q", 1 << 60)), "size of a table"),
    ("vmdk", "", at(56, struct.pack("<Q", 1 << 40)), "directory"),
]


@pytest.mark.parametrize(("form", "options", "breaker", "words"), BROKEN)
def test_what_is_wrong_is_named(form: str, options: str, breaker: Breaker, words: str, raw: Path) -> None:
    path = raw.with_name("disk")
    tool("qemu-img", "convert", "-f", "raw", "-O", form, *(["-o", options] if options else []), raw, path)
    broken = bytearray(path.read_bytes())
    breaker(broken)
    path.write_bytes(broken)
    if not words:  # the second copy is whole
        assert read_whole(path) == raw.read_bytes()
        return
    with pytest.raises(DiskFormatError, match=words) as caught:
        read_whole(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("form", "options"),
    [("qcow2", ""), ("qcow2", "-c"), ("vpc", ""), ("vhdx", ""), ("vmdk", ""), ("vdi", ""),
     ("vmdk", "-o subformat=streamOptimized")],
)  # fmt: skip
@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.5])
def test_truncated_files_are_refused(form: str, options: str, share: float, raw: Path, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    tool("qemu-img", "convert", "-f", "raw", "-O", form, *options.split(), raw, path)
    size = path.stat().st_size
    os.truncate(path, int(size * share) // 512 * 512)
    with pytest.raises(DiskFormatError) as caught:
        read_whole(path)
    assert str(path) in caught.value.message


def test_chains_that_are_loops_or_too_long_are_refused(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    tool("qemu-img", "create", "-q", "-f", "qcow2", one, "1M")
    tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", one, "-F", "qcow2", two)
    tool("qemu-img", "rebase", "-u", "-b", two, "-F", "qcow2", one)
    with pytest.raises(DiskFormatError, match="loop"):
        open_disk_file(str(two))
    two.unlink()
    with pytest.raises(DiskFormatError, match="there is no file"):
        open_disk_file(str(one))
    tool("qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "0", "1M")
    for number in range(1, 66):
        words = ("-b", str(number - 1), "-F", "qcow2")
        tool("qemu-img", "create", "-q", "-u", "-f", "qcow2", *words, tmp_path / str(number), "1M")
    assert len(read_whole(tmp_path / "63")) == MIB
    with pytest.raises(DiskFormatError, match="more than 64"):
        open_disk_file(str(tmp_path / "65"))


def test_a_qcow2_file_that_was_not_closed_is_read(raw: Path, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    tool("qemu-img", "convert", "-O", "qcow2", "-o", "lazy_refcounts=on", raw, path)
    dirty = bytearray(path.read_bytes())
    dirty[72:80] = struct.pack(">Q", 1)
    path.write_bytes(dirty)
    assert read_whole(path) == raw.read_bytes()


def test_a_part_of_a_split_disk_leads_to_its_description(raw: Path, tmp_path: Path) -> None:
    tool("qemu-img", "convert", "-O", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", raw, tmp_path / "disk.vmdk")
    with pytest.raises(DiskFormatError, match="one part of a disk in several files"):
        open_disk_file(str(tmp_path / "disk-s001.vmdk"))
    (tmp_path / "disk-s001.vmdk").unlink()
    with pytest.raises(DiskFormatError, match=r"disk-s001\.vmdk with the data is not there"):
        open_disk_file(str(tmp_path / "disk.vmdk"))


@pytest.mark.parametrize("form", ["qed", "parallels"])
def test_formats_that_are_not_read_are_not_taken_for_raw_disks(form: str, tmp_path: Path) -> None:
    tool("qemu-img", "create", "-q", "-f", form, tmp_path / "disk", "1M")
    with pytest.raises(DiskFormatError, match="does not read"):
        open_disk_file(str(tmp_path / "disk"))


def test_the_builders_checksum_is_the_standard_one() -> None:
    assert crc32c_by_bytes(b"123456789") == 0xE306_9283  # RFC 3720 and every catalogue of check values
