"""Every reader and writer of blocks obeys the one contract."""

import contextlib
import itertools
import os
import random
import subprocess
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from stillframe.block import (
    AssembledReader,
    BlockReader,
    BlockWriter,
    CachedReader,
    ExtentKind,
    GuardedReader,
    JoinedReader,
    JoinedWriter,
    MemoryDisk,
    MirroredWriter,
    OverlayReader,
    Piece,
    ReadFault,
    StripedReader,
    StripedWriter,
    WindowReader,
)
from stillframe.block.copy_on_write import BLOCK_SIZE, CopyOnWrite, open_scratch
from stillframe.block.file import FileWriter, open_file_reader, open_file_writer
from stillframe.block.formats import open_disk_file
from stillframe.block.kept_overlay import open_overlay
from stillframe.block.overlay_format import Subject
from stillframe.block.window import WindowWriter
from stillframe.disk.luks import PlaintextReader, PlaintextWriter, Segment
from stillframe.extents import Extent, ExtentSet
from stillframe.host.windows.reader import open_handle_reader
from stillframe.jobs.exposing import expose
from stillframe.store import MemoryStore
from stillframe.testing.block_contract import READER_CHECKS, WRITER_CHECKS, contents
from stillframe.testing.disk_files import (
    BAT_PLACE,
    DATA_STATE,
    Below,
    LogChange,
    VhdxPlan,
    build_log,
    build_vhd,
    build_vhdx,
)
from stillframe.testing.faulty_disk import FaultyDisk, PlannedFault
from stillframe.testing.job_runs import backup, make_repository
from stillframe.testing.loops import attach_loop, detach_loop
from stillframe.testing.windows_device import MemoryDevice

SIZE = 96 * 1024


@contextlib.contextmanager
def loop_device(file: Path, *, sector_size: int) -> Iterator[str]:
    device = attach_loop(file, "--sector-size", str(sector_size))
    try:
        yield device
    finally:
        detach_loop(device)


def patterned_file(folder: Path, content: bytes) -> Path:
    path = folder / "disk.img"
    path.write_bytes(content)
    return path


@contextlib.contextmanager
def memory(_: Path, content: bytes) -> Iterator[BlockWriter]:
    yield MemoryDisk(content)


@contextlib.contextmanager
def memory_4096(_: Path, content: bytes) -> Iterator[BlockWriter]:
    yield MemoryDisk(content, sector_size=4096)


@contextlib.contextmanager
def window(_: Path, content: bytes) -> Iterator[BlockWriter]:
    outside = MemoryDisk(b"\xcc" * 1000 + content + b"\xcc" * 77)
    yield WindowWriter(outside, Extent(1000, 1000 + len(content)))
    assert outside.read_at(0, 1000) == b"\xcc" * 1000
    assert outside.read_at(outside.size - 77, 77) == b"\xcc" * 77


@contextlib.contextmanager
def file(folder: Path, content: bytes) -> Iterator[BlockWriter]:
    with open_file_writer(str(patterned_file(folder, content))) as writer:
        yield writer


@contextlib.contextmanager
def file_direct(folder: Path, content: bytes) -> Iterator[BlockWriter]:
    with open_file_writer(str(patterned_file(folder, content)), direct=True) as writer:
        assert writer._opened.direct
        yield writer


@contextlib.contextmanager
def loop_512(folder: Path, content: bytes) -> Iterator[BlockWriter]:
    with loop_device(patterned_file(folder, content), sector_size=512) as device, open_file_writer(device) as writer:
        assert (writer._opened.direct, writer.sector_size) == (True, 512)
        yield writer


@contextlib.contextmanager
def loop_4096(folder: Path, content: bytes) -> Iterator[BlockWriter]:
    with loop_device(patterned_file(folder, content), sector_size=4096) as device, open_file_writer(device) as writer:
        assert (writer._opened.direct, writer.sector_size) == (True, 4096)
        yield writer


@contextlib.contextmanager
def reader_of_file(folder: Path, content: bytes) -> Iterator[BlockReader]:
    path = patterned_file(folder, content)
    with open_file_reader(str(path)) as reader:
        yield reader
    assert path.read_bytes() == content


@contextlib.contextmanager
def reader_of_loop(folder: Path, content: bytes) -> Iterator[BlockReader]:
    path = patterned_file(folder, content)
    with loop_device(path, sector_size=512) as device, open_file_reader(device) as reader:
        yield reader
    assert path.read_bytes() == content


@contextlib.contextmanager
def window_reader(_: Path, content: bytes) -> Iterator[BlockReader]:
    yield WindowReader(MemoryDisk(b"\xcc" * 513 + content + b"\xcc"), Extent(513, 513 + len(content)))


@contextlib.contextmanager
def overlay(_: Path, content: bytes) -> Iterator[BlockReader]:
    under = bytearray(content)
    blocks = {}
    for number in (0, 1, 5, 17, len(content) // 1024 - 1):
        under[number * 1024 : (number + 1) * 1024] = b"\xcc" * 1024
        blocks[number] = content[number * 1024 : (number + 1) * 1024]
    yield OverlayReader(MemoryDisk(under), block_size=1024, blocks=blocks)


@contextlib.contextmanager
def assembled(_: Path, content: bytes) -> Iterator[BlockReader]:
    under, places = bytearray(content), [(40_000, 45_000), (0, 512), (45_000, 45_001), (513, 4096), (90_000, SIZE)]
    pieces = [Piece(start=start, reader=MemoryDisk(content[start:end])) for start, end in places]
    for start, end in places:
        under[start:end] = b"\xcc" * (end - start)
    yield AssembledReader(MemoryDisk(under), pieces)


@contextlib.contextmanager
def joined(_: Path, content: bytes) -> Iterator[BlockReader]:
    ends = [0, 1, 4096, 40_001, 40_002, SIZE]
    yield JoinedReader([MemoryDisk(content[start:end]) for start, end in itertools.pairwise(ends)])


@contextlib.contextmanager
def striped(_: Path, content: bytes) -> Iterator[BlockReader]:
    stripes = [content[start : start + 4096] for start in range(0, SIZE, 4096)]
    yield StripedReader([MemoryDisk(b"".join(stripes[number::3])) for number in range(3)], stripe_size=4096)


@contextlib.contextmanager
def joined_writer(_: Path, content: bytes) -> Iterator[BlockWriter]:
    ends = [0, 1, 4096, 40_001, 40_002, SIZE]
    yield JoinedWriter([MemoryDisk(content[start:end]) for start, end in itertools.pairwise(ends)])


@contextlib.contextmanager
def striped_writer(_: Path, content: bytes) -> Iterator[BlockWriter]:
    stripes = [content[start : start + 4096] for start in range(0, SIZE, 4096)]
    yield StripedWriter([MemoryDisk(b"".join(stripes[number::3])) for number in range(3)], stripe_size=4096)


@contextlib.contextmanager
def mirrored_writer(_: Path, content: bytes) -> Iterator[BlockWriter]:
    mirrors = [MemoryDisk(content), MemoryDisk(content)]
    yield MirroredWriter(mirrors)
    assert mirrors[0].read_at(0, SIZE) == mirrors[1].read_at(0, SIZE)


@contextlib.contextmanager
def plaintext_writer(_: Path, content: bytes, sector_size: int = 512) -> Iterator[BlockWriter]:
    key, first = bytes(range(64)), (1 << 32) - 100
    volume = MemoryDisk(b"\xcc" * 1024 + encrypted_xts(content, key, sector_size, first) + b"\xcc" * 512)
    segment = Segment(
        extent=Extent(1024, 1024 + SIZE), cipher="aes-xts-plain64", sector_size=sector_size, first_iv=first
    )
    writer = PlaintextWriter(volume, segment, key)
    yield writer
    sealed = encrypted_xts(writer.read_at(0, SIZE), key, sector_size, first)
    assert volume.read_at(0, volume.size) == b"\xcc" * 1024 + sealed + b"\xcc" * 512, "OpenSSL encrypts it so"


def plaintext_writer_4096(folder: Path, content: bytes) -> contextlib.AbstractContextManager[BlockWriter]:
    return plaintext_writer(folder, content, 4096)


def encrypted_xts(content: bytes, key: bytes, sector_size: int, first: int) -> bytes:
    """By OpenSSL's own XTS, a sector at a time."""
    sectors = []
    for at in range(0, len(content), sector_size):
        tweak = (first + at // 512).to_bytes(16, "little")
        worker = Cipher(algorithms.AES(key), modes.XTS(tweak)).encryptor()
        sectors.append(worker.update(content[at : at + sector_size]) + worker.finalize())
    return b"".join(sectors)


@contextlib.contextmanager
def plaintext(_: Path, content: bytes, sector_size: int = 512) -> Iterator[BlockReader]:
    key, first = bytes(range(64)), (1 << 32) - 100
    volume = MemoryDisk(b"\xcc" * 1024 + encrypted_xts(content, key, sector_size, first) + b"\xcc" * 512)
    segment = Segment(
        extent=Extent(1024, 1024 + SIZE), cipher="aes-xts-plain64", sector_size=sector_size, first_iv=first
    )
    yield PlaintextReader(volume, segment, key)


def plaintext_4096(folder: Path, content: bytes) -> contextlib.AbstractContextManager[BlockReader]:
    return plaintext(folder, content, 4096)


@contextlib.contextmanager
def cached(_: Path, content: bytes) -> Iterator[BlockReader]:
    yield CachedReader(MemoryDisk(content), page_size=4096, pages_max=3)


@contextlib.contextmanager
def copy_on_write(folder: Path, content: bytes) -> Iterator[BlockWriter]:
    below = MemoryDisk(content)
    with open_scratch(str(folder), len(content)) as changes:
        yield CopyOnWrite(below, changes)
    assert below.contents == content


@contextlib.contextmanager
def kept_overlay(folder: Path, content: bytes) -> Iterator[BlockWriter]:
    below = MemoryDisk(content)
    with open_overlay(str(folder / "kept"), below, Subject(image=bytes(16), disk=1, partition=0, size=SIZE)) as disk:
        yield disk
    assert below.contents == content


@contextlib.contextmanager
def image_map(_: Path, content: bytes) -> Iterator[BlockReader]:
    repository = make_repository(MemoryStore(), chunk_size=65_536)
    yield expose(repository, backup(repository, MemoryDisk(content)).manifest).disk(None).reader


@contextlib.contextmanager
def guarded(_: Path, content: bytes) -> Iterator[BlockReader]:
    yield GuardedReader(MemoryDisk(content), ExtentSet.empty(), words="is nowhere")


@contextlib.contextmanager
def faulty_disk(_: Path, content: bytes) -> Iterator[BlockReader]:
    with FaultyDisk(MemoryDisk(content)) as disk:
        yield disk


@contextlib.contextmanager
def windows_handle(_: Path, content: bytes) -> Iterator[BlockReader]:
    device = MemoryDevice(content, sector_size=4096)
    with open_handle_reader(device, r"\\.\PhysicalDrive0", sector_size=4096) as reader:
        yield reader
    assert device.open_handles == 0


@contextlib.contextmanager
def disk_file(folder: Path, content: bytes, form: str, *options: str) -> Iterator[BlockReader]:
    """The disk in a file of a format, written by QEMU."""
    path, made = patterned_file(folder, content), folder / "made"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", form, *options, path, made], check=True)
    before = made.read_bytes()
    with open_disk_file(str(made)) as disk:
        assert not disk.is_raw
        yield disk
    assert made.read_bytes() == before


def qcow2(folder: Path, content: bytes) -> contextlib.AbstractContextManager[BlockReader]:
    return disk_file(folder, content, "qcow2", "-o", "cluster_size=512")


def qcow2_packed(folder: Path, content: bytes) -> contextlib.AbstractContextManager[BlockReader]:
    return disk_file(folder, content, "qcow2", "-c", "-o", "cluster_size=4k")


def vhd(folder: Path, content: bytes) -> contextlib.AbstractContextManager[BlockReader]:
    return disk_file(folder, content, "vpc", "-o", "force_size=on")


def vhd_fixed(folder: Path, content: bytes) -> contextlib.AbstractContextManager[BlockReader]:
    return disk_file(folder, content, "vpc", "-o", "subformat=fixed,force_size=on")


def vhdx(folder: Path, content: bytes) -> contextlib.AbstractContextManager[BlockReader]:
    return disk_file(folder, content, "vhdx", "-o", "block_size=1M")


def vmdk(folder: Path, content: bytes) -> contextlib.AbstractContextManager[BlockReader]:
    return disk_file(folder, content, "vmdk")


def vmdk_stream(folder: Path, content: bytes) -> contextlib.AbstractContextManager[BlockReader]:
    return disk_file(folder, content, "vmdk", "-o", "subformat=streamOptimized")


def vmdk_flat(folder: Path, content: bytes) -> contextlib.AbstractContextManager[BlockReader]:
    return disk_file(folder, content, "vmdk", "-o", "subformat=monolithicFlat")


def vdi(folder: Path, content: bytes) -> contextlib.AbstractContextManager[BlockReader]:
    return disk_file(folder, content, "vdi")


@contextlib.contextmanager
def vhd_child(folder: Path, content: bytes) -> Iterator[BlockReader]:
    """Every other run of three sectors is in the file below; the rest of that is noise."""
    here = [number // 3 % 2 == 0 for number in range(len(content) // 512)]
    under = bytearray(b"\xcc" * len(content))
    for number, is_here in enumerate(here):
        if not is_here:
            under[number * 512 : number * 512 + 512] = content[number * 512 : number * 512 + 512]
    (folder / "base.vhd").write_bytes(build_vhd(bytes(under), block_size=32768))
    below = Below(state=DATA_STATE.hex, name="base.vhd")
    made = build_vhd(content, here=here, below=below, block_size=32768, own=uuid.UUID(int=3))
    (folder / "child.vhd").write_bytes(made)
    with open_disk_file(str(folder / "child.vhd")) as disk:
        yield disk


@contextlib.contextmanager
def vhdx_replayed(folder: Path, content: bytes) -> Iterator[BlockReader]:
    """The second block of 4096 bytes, and the table of blocks, are in the log only."""
    whole = bytearray(build_vhdx(VhdxPlan(content=content)))
    table, place = bytes(whole[BAT_PLACE : BAT_PLACE + 4096]), 4 << 20
    changes = [
        LogChange(place=BAT_PLACE, data=table), LogChange(place=place + 4096, data=content[4096:8192])
    ]  # fmt: skip
    whole = bytearray(build_vhdx(VhdxPlan(content=content, log=build_log([changes], file_size=len(whole)))))
    whole[BAT_PLACE : BAT_PLACE + 4096] = bytes(4096)
    whole[place + 4096 : place + 8192] = bytes(4096)
    (folder / "disk.vhdx").write_bytes(whole)
    with open_disk_file(str(folder / "disk.vhdx")) as disk:
        yield disk


Writers = Callable[[Path, bytes], contextlib.AbstractContextManager[BlockWriter]]
Readers = Callable[[Path, bytes], contextlib.AbstractContextManager[BlockReader]]
WRITERS: list[Writers] = [
    memory,
    memory_4096,
    window,
    file,
    file_direct,
    loop_512,
    loop_4096,
    copy_on_write,
    kept_overlay,
    joined_writer,
    striped_writer,
    mirrored_writer,
    plaintext_writer,
    plaintext_writer_4096,
]
READERS: list[Readers] = [
    *WRITERS, reader_of_file, reader_of_loop, window_reader, overlay, assembled, joined, striped, cached, guarded,
    faulty_disk, image_map, windows_handle, qcow2, qcow2_packed, vhd, vhd_fixed, vhdx, vmdk, vmdk_stream, vmdk_flat,
    vdi, vhd_child, vhdx_replayed, plaintext, plaintext_4096,
]  # fmt: skip
ROOT = {loop_512, loop_4096, reader_of_loop}


def marked(makers: Sequence[Readers | Writers]) -> list[object]:
    return [pytest.param(make, marks=[pytest.mark.root] if make in ROOT else [], id=make.__name__) for make in makers]


@pytest.mark.parametrize("check", READER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("make", marked(READERS))
def test_reader_obeys(make: Readers, check: Callable[[BlockReader, bytes], None], tmp_path: Path) -> None:
    content = contents(SIZE)
    with make(tmp_path, content) as reader:
        check(reader, content)


@pytest.mark.parametrize("check", WRITER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("make", marked(WRITERS))
def test_writer_obeys(make: Writers, check: Callable[[BlockWriter, bytearray], None], tmp_path: Path) -> None:
    content = contents(SIZE)
    with make(tmp_path, content) as writer:
        check(writer, bytearray(content))


@pytest.mark.parametrize("make", marked([file, file_direct, loop_512, loop_4096]))
def test_flushed_bytes_are_in_the_file(make: Writers, tmp_path: Path) -> None:
    model = bytearray(contents(SIZE))
    with make(tmp_path, bytes(model)) as writer:
        choose = random.Random(5)
        for _ in range(30):
            start = choose.randrange(SIZE)
            new = choose.randbytes(choose.randrange(SIZE - start))
            writer.write_at(start, new)
            model[start : start + len(new)] = new
        writer.zero(Extent(5000, 70_001))
        model[5000:70_001] = bytes(65_001)
        writer.flush()
        assert isinstance(writer, FileWriter)
    assert (tmp_path / "disk.img").read_bytes() == model


def test_file_with_holes_obeys(tmp_path: Path) -> None:
    content = bytearray(contents(SIZE))
    content[8192:40960] = bytes(32768)
    path = patterned_file(tmp_path, bytes(content))
    with open_file_writer(str(path)) as writer:
        writer.zero(Extent(8192, 40960))
    with open_file_reader(str(path)) as reader:
        for check in READER_CHECKS:
            check(reader, bytes(content))


def test_faults_of_a_piece_name_the_bytes_of_the_whole() -> None:
    bad = FaultyDisk(MemoryDisk(bytes(4096)), [PlannedFault(extent=Extent(512, 1024))])
    whole = AssembledReader(MemoryDisk(bytes(SIZE)), [Piece(start=8192, reader=bad)])
    with pytest.raises(ReadFault) as caught:
        whole.read_at(8000, 2000)
    assert caught.value.extent == Extent(8192, 10_000)
    assert whole.read_at(0, 8704) == bytes(8704)


def test_faults_of_joined_and_striped_readers_name_the_bytes_of_the_whole() -> None:
    good, bad = MemoryDisk(bytes(8192)), FaultyDisk(MemoryDisk(bytes(8192)), [PlannedFault(extent=Extent(4608, 5120))])
    striped = StripedReader([good, bad, good], stripe_size=4096)
    whole = JoinedReader([good, striped])
    with pytest.raises(ReadFault) as caught:
        whole.read_at(8192, striped.size)
    assert caught.value.extent == Extent(8192 + 4 * 4096, 8192 + 5 * 4096)
    assert whole.read_at(0, 8192 + 4 * 4096 + 512) == bytes(8192 + 4 * 4096 + 512)


def test_what_the_parts_know_is_told_of_what_is_joined(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    path.touch()
    os.truncate(path, 65536)
    with open_file_reader(str(path)) as sparse:
        striped = StripedReader([sparse, MemoryDisk(bytes(65536))], stripe_size=32768)
        known = list(JoinedReader([sparse, sparse, striped]).known_extents(Extent(4096, 3 * 65536 + 7)))
    kinds = [(one.kind, one.extent.start, one.extent.end) for one in known]
    start = 2 * 65536
    assert kinds == [
        (ExtentKind.HOLE, 4096, start + 32768), (ExtentKind.DATA, start + 32768, start + 65536),
        (ExtentKind.HOLE, start + 65536, start + 65543),
    ]  # fmt: skip


@pytest.mark.parametrize("sizes", [(), (0,), (4096, 0)])
def test_nothing_cannot_be_joined(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="nothing to join"):
        JoinedReader([MemoryDisk(bytes(size)) for size in sizes])


@pytest.mark.parametrize(("sizes", "stripe_size"), [((4096, 8192), 4096), ((4096, 4096), 4095), ((4096,), 0)])
def test_stripes_that_do_not_fit_are_a_bug_of_the_caller(sizes: tuple[int, ...], stripe_size: int) -> None:
    with pytest.raises(ValueError, match="stripes"):
        StripedReader([MemoryDisk(bytes(size)) for size in sizes], stripe_size=stripe_size)


@pytest.mark.parametrize("starts", [(0, 4095), (SIZE - 4095,), (4096, 4096)])
def test_pieces_that_do_not_fit_are_a_bug_of_the_caller(starts: tuple[int, ...]) -> None:
    pieces = [Piece(start=start, reader=MemoryDisk(bytes(4096))) for start in starts]
    with pytest.raises(ValueError, match="does not fit"):
        AssembledReader(MemoryDisk(bytes(SIZE)), pieces)


def test_what_a_piece_knows_is_told_of_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    path.touch()
    os.truncate(path, 65536)
    with open_file_reader(str(path)) as sparse:
        whole = AssembledReader(MemoryDisk(bytes(SIZE)), [Piece(start=4096, reader=sparse)])
        known = list(whole.known_extents(Extent(0, SIZE)))
    kinds = [(one.kind, one.extent.start, one.extent.end) for one in known]
    assert kinds == [
        (ExtentKind.DATA, 0, 4096), (ExtentKind.HOLE, 4096, 69_632), (ExtentKind.DATA, 69_632, SIZE)
    ]  # fmt: skip


def test_what_is_forbidden_is_a_fault_and_the_rest_can_be_read() -> None:
    content = contents(SIZE)
    reader = GuardedReader(
        MemoryDisk(content), ExtentSet.of(Extent(1000, 1010), Extent(5000, 6000)), words="was left out", hint="Look."
    )
    assert reader.read_at(1010, 3990) == content[1010:5000]
    for offset, length in ((0, 1001), (1009, 1), (5500, 10), (0, SIZE)):
        with pytest.raises(ReadFault, match="was left out") as caught:
            reader.read_at(offset, length)
        assert offset <= caught.value.extent.start < offset + length


def test_what_is_forbidden_is_never_called_a_hole(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    path.touch()
    os.truncate(path, 5 * 65536)
    with open_file_reader(str(path)) as sparse:
        reader = GuardedReader(sparse, ExtentSet.of(Extent(4096, 8192), Extent(65536, 65537)), words="is lost")
        known = [(one.kind, one.extent.start, one.extent.end) for one in reader.known_extents(Extent(4097, 100_000))]
    hole, data = ExtentKind.HOLE, ExtentKind.DATA
    assert known == [(data, 4097, 8192), (hole, 8192, 65536), (data, 65536, 65537), (hole, 65537, 100_000)]


def test_changes_are_whole_blocks_and_the_rest_shows_through(tmp_path: Path) -> None:
    size = 5 * BLOCK_SIZE + 77
    below = MemoryDisk(contents(size))
    with open_scratch(str(tmp_path), size) as changes:
        disk = CopyOnWrite(below, changes)
        disk.write_at(BLOCK_SIZE + 5, b"x")
        disk.zero(Extent(size - 7, size))
        assert disk.changed == ExtentSet.of(Extent(BLOCK_SIZE, 2 * BLOCK_SIZE), Extent(5 * BLOCK_SIZE, 6 * BLOCK_SIZE))
        expected = bytearray(below.contents)
        expected[BLOCK_SIZE + 5] = ord("x")
        expected[-7:] = bytes(7)
        assert disk.read_at(0, size) == expected
    assert not list(tmp_path.iterdir())
