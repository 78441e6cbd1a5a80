"""Laws of the repair of a moved Windows: what is damaged or hostile never leads outside, and the way back is exact."""

import random
from pathlib import Path

import pytest

from stillframe.block import MemoryDisk, WindowReader
from stillframe.block.edits import Edit, order_edits
from stillframe.disk import read_layout
from stillframe.errors import StillframeError
from stillframe.extents import Extent
from stillframe.fs.boot_moved import move_boot_sectors
from stillframe.fs.ntfs.places import locate_contents
from stillframe.systems.hive import Hive
from stillframe.systems.registry_moves import move_boot_store, move_mounted_devices
from stillframe.systems.text_moves import move_boot_ini, move_reagent
from stillframe.systems.windows_moves import MovedPartition, Moves, PartitionPlace, Rewriting, build_moves
from stillframe.systems.windows_repair import plan_windows_repair
from stillframe.testing.disk_builder import write_mbr
from stillframe.testing.volumes_windows import make_exfat, make_fat, mounted_ntfs
from stillframe.testing.windows_backup import MadeVolume, make_volume
from stillframe.testing.windows_moved import (
    BOOT_INI,
    GPT,
    MBR,
    MIB,
    MadeDisk,
    boot_store,
    system_hive,
    with_exfat_place,
)

MOVES = {
    disk.scheme: Moves(
        scheme="gpt" if disk.scheme == "gpt" else "mbr",
        old_disk=disk.disk_id,
        new_disk="22222222-BBBB-4BBB-8BBB-000000000001" if disk.scheme == "gpt" else "0BADCAFE",
        partitions=tuple(
            MovedPartition(
                old=PartitionPlace(start=place.start, guid=place.guid, arc_number=place.number),
                new=PartitionPlace(
                    start=place.start * 3, guid=place.guid.replace("1111", "2222"), arc_number=9 - place.number
                ),
            )
            for place in disk.places
        ),
    )
    for disk in (GPT, MBR)
}


def check_edits(found: Rewriting, data: bytes) -> None:
    for edit in order_edits(found.edits, what="it"):
        assert data[edit.offset : edit.extent.end] == edit.old


def fuzz_hive_moves(data: bytes) -> None:
    """Any bytes give edits inside of them, or an error of ours, within a bounded number of reads."""
    reads = 0

    def read(offset: int, size: int) -> bytes:
        nonlocal reads
        reads += 1
        assert reads < 1_000_000
        return data[offset : offset + size]

    for moves in MOVES.values():
        for move in (move_boot_store, move_mounted_devices):
            try:
                hive = Hive.open(read)
                if hive is not None:
                    check_edits(move(hive, moves), data)
            except StillframeError:
                pass


def fuzz_text_moves(data: bytes) -> None:
    """Any text gives edits inside of it that keep its size."""
    for moves in MOVES.values():
        check_edits(move_reagent(data, moves), data)
        check_edits(move_boot_ini(data, moves), data)


def fuzz_boot_moves(data: bytes) -> None:
    """Any volume gives edits inside of it."""
    for filesystem in ("ntfs", "vfat", "exfat"):
        found = move_boot_sectors(MemoryDisk(bytearray(data)), filesystem, old_start=2048 * 512, new_start=4096 * 512)
        check_edits(Rewriting(edits=found.edits), data)


def changed(whole: bytes, source: random.Random, *, start: int = 0, end: int = 0) -> bytes:
    raw = bytearray(whole)
    for _ in range(source.randrange(1, 5)):
        raw[source.randrange(start, end or len(raw))] = source.choice((0, 1, 0x7F, 0x80, 0xFF, source.randrange(256)))
    return bytes(raw)


def with_sum(hive: bytes) -> bytes:
    """A hive whose base block is right again, so that what was changed behind it is looked at."""
    base, total = hive[:508], 0
    for at in range(0, 508, 4):
        total ^= int.from_bytes(base[at : at + 4], "little")
    return base + {0xFFFFFFFF: 0xFFFFFFFE, 0: 1}.get(total, total).to_bytes(4, "little") + hive[512:]


@pytest.mark.parametrize("disk", [GPT, MBR], ids=["gpt", "mbr"])
def test_rubbish_in_hives_leads_nowhere(disk: MadeDisk) -> None:
    source = random.Random(disk.scheme)
    loader = "esp" if disk is GPT else "reserved"
    for whole in (boot_store(disk, loader), system_hive(disk)):
        for _ in range(150):
            fuzz_hive_moves(with_sum(changed(whole, source, start=source.choice((0, 4096)), end=8000)))


def test_rubbish_in_texts_leads_nowhere() -> None:
    source = random.Random(7)
    texts = (GPT.winre("winre"), MBR.winre("winre"), BOOT_INI)
    for _ in range(150):
        for text in texts:
            fuzz_text_moves(changed(text, source))
    for length in (1, 60_000):
        for piece in (b"a", b"<", b'<a id="', b" ", b'"', b"multi(0)", b'<a id="1" offset="2" guid="{"'):
            fuzz_text_moves((piece * length)[:60_000])


def test_rubbish_in_boot_sectors_leads_nowhere(tmp_path: Path) -> None:
    source = random.Random(8)
    make_fat(tmp_path / "fat", size=36 * MIB, bits=32)
    make_exfat(tmp_path / "exfat", size=MIB)
    make_volume(MadeVolume(guid="", image=tmp_path / "ntfs", start=2048 * 512, size=2 * MIB))
    fat = bytearray((tmp_path / "fat").read_bytes()[: 1 << 16])
    for copy in (0, 6 * 512):
        fat[copy + 0x1C : copy + 0x20] = (2048).to_bytes(4, "little")
    exfat = with_exfat_place((tmp_path / "exfat").read_bytes(), 2048 * 512)[: 1 << 16]
    for filesystem, volume in (("vfat", bytes(fat)), ("exfat", exfat), ("ntfs", (tmp_path / "ntfs").read_bytes())):
        whole = move_boot_sectors(MemoryDisk(volume), filesystem, old_start=2048 * 512, new_start=4096 * 512)
        assert len(whole.edits) == (4 if filesystem == "exfat" else 2)
        for _ in range(40):
            fuzz_boot_moves(changed(volume, source, end=120))


@pytest.fixture(scope="module", name="windows")
def made_windows(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small volume with a hive, and texts inside of their records."""
    image = tmp_path_factory.mktemp("windows") / "image"
    files = {
        "Windows/System32/config/SYSTEM": system_hive(MBR), "Boot/BCD": boot_store(MBR, "reserved"),
        "boot.ini": BOOT_INI, "Windows/System32/Recovery/ReAgent.xml": MBR.winre("winre"),
    }  # fmt: skip
    make_volume(MadeVolume(guid="", image=image, start=8 * MIB, size=3 * MIB, files=files))
    with mounted_ntfs(image, image.with_suffix(".place"), "ro") as place:
        assert (place / "boot.ini").read_bytes() == BOOT_INI
    return image.read_bytes()


def test_rubbish_in_the_master_file_table_leads_nowhere(windows: bytes) -> None:
    source, start = random.Random(9), windows.index(b"FILE")
    for _ in range(80):
        raw = changed(windows, source, start=start, end=start + (80 << 10))
        for number in range(64, 74):
            try:
                found = locate_contents(MemoryDisk(raw), number)
            except StillframeError:
                continue
            position = 0
            for piece in found.pieces:
                assert piece.offset == position
                assert 0 <= piece.start <= piece.start + piece.size <= len(raw)
                position += piece.size


def build(contents: bytes, start: int, signature: int) -> MemoryDisk:
    disk = MemoryDisk(bytearray(16 * MIB))
    write_mbr(disk, [Extent(MIB, 2 * MIB), Extent(start, start + len(contents))])
    disk.write_at(0x1B8, signature.to_bytes(4, "little"))
    disk.write_at(start, contents)
    return disk


def test_patches_stay_inside_and_the_way_back_is_exact(windows: bytes) -> None:
    source = random.Random(10)
    first = build(windows, 8 * MIB, int(MBR.disk_id, 16))
    for _ in range(10):
        # As many digits as before: otherwise spaces of ReAgent.xml may come back elsewhere.
        start = source.randrange(2 * MIB, 9_990_000) // 512 * 512
        second = build(windows, start, source.choice((int(MBR.disk_id, 16), 0x8BADCAFE)))
        moves = build_moves(read_layout(first), read_layout(second), {1: 1, 2: 2})
        found = plan_windows_repair(second, read_layout(second), moves)
        end = start
        for patch in found.patches:
            assert end <= patch.offset
            end = patch.extent.end
            second.write_at(patch.offset, patch.data)
        assert end <= start + len(windows)
        moved = WindowReader(second, Extent(start, start + len(windows))).read_at(0, len(windows))
        assert (moved == windows) == moves.is_nothing
        back = build(moved, 8 * MIB, int(MBR.disk_id, 16))
        for patch in plan_windows_repair(back, read_layout(back), moves.inverse).patches:
            back.write_at(patch.offset, patch.data)
        assert bytes(back.contents) == bytes(first.contents)


def test_an_edit_keeps_its_bytes_when_it_is_moved() -> None:
    edit = Edit(offset=5, old=b"abc", new=b"xyz")
    assert edit.shifted(7) == Edit(offset=12, old=b"abc", new=b"xyz")
    assert edit.shifted(7).extent == Extent(12, 15)
