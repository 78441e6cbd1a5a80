"""A Windows that was put elsewhere: what other programs read in it after its repair, and that nothing else changed.

No real Windows was started. Registry files are read by hivexget and loaded for writing by hivexsh, boot sectors by
``file``, FAT by mtools, NTFS by ntfs-3g, exFAT by fsck.exfat.
"""

import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from stillframe.block import MemoryDisk, OverlayReader
from stillframe.disk import Layout, read_layout
from stillframe.extents import Extent, ExtentSet
from stillframe.host.apart import call_apart
from stillframe.systems.hive import Hive
from stillframe.systems.hive_repair import rewrite_with_logs
from stillframe.systems.registry_moves import move_mounted_devices
from stillframe.systems.windows_moves import MovedPartition, Moves, PartitionPlace, Rewriting, build_moves
from stillframe.systems.windows_repair import Repair, plan_windows_repair
from stillframe.testing.disk_builder import write_gpt
from stillframe.testing.hive_builder import build_hive
from stillframe.testing.hive_log_builder import entry, new_log, numbered
from stillframe.testing.tools import run_tool
from stillframe.testing.volumes_windows import (
    hash_tree,
    make_fat,
    make_ntfs,
    mounted_ntfs,
    open_table,
    place_of,
    restart_page,
)
from stillframe.testing.windows_backup import BOOTMGR, LOADER, RECOVERY_LOADER, gpt_device
from stillframe.testing.windows_moved import (
    BOOT_INI,
    FOREIGN,
    FOREIGN_DISK,
    FOREIGN_PARTITION,
    GPT,
    MBR,
    MIB,
    MadeDisk,
    Place,
    boot_store,
    build_disk,
    cut_volumes,
    make_volumes,
    ramdisk_of,
)

NEW_GPT, NEW_MBR = "22222222-BBBB-4BBB-8BBB-000000000001", "0BADCAFE"
OPTIONS = RECOVERY_LOADER.replace("a1-", "af-")
NAMES = {"gpt": ("esp", "EFI/Microsoft/Boot/BCD"), "mbr": ("reserved", "Boot/BCD")}


def further(disk: MadeDisk, by: int, *, size: int = 0, disk_id: str = "") -> MadeDisk:
    """Every partition ``by`` bytes further on; with new names too when the disk has a new one."""
    places = [
        replace(place, start=place.start + by, guid=place.guid.replace("1111", "2222") if disk_id else place.guid)
        for place in disk.places
    ]
    return disk.moved(disk_id=disk_id, places=places, size=size, container=disk.container and disk.container + by)


CASES: dict[str, tuple[MadeDisk, MadeDisk]] = {
    "MBR, moved": (MBR, further(MBR, 3 * MIB, size=40 * MIB)),
    "MBR, new identity": (MBR, further(MBR, 0, disk_id=NEW_MBR)),
    "MBR, moved, new identity": (MBR, further(MBR, 5 * MIB, size=40 * MIB, disk_id=NEW_MBR)),
    "GPT, moved": (GPT, further(GPT, 4 * MIB, size=68 * MIB)),
    "GPT, new identity": (GPT, further(GPT, 0, disk_id=NEW_GPT)),
    "GPT, moved, new identity": (GPT, further(GPT, 2 * MIB, size=68 * MIB, disk_id=NEW_GPT)),
}


@pytest.fixture(scope="module", name="volumes")
def made_volumes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    return {disk.scheme: make_volumes(disk, tmp_path_factory.mktemp(disk.scheme)) for disk in (GPT, MBR)}


@dataclass(frozen=True, kw_only=True)
class Repaired:
    """A disk after its volumes came to it, and after its repair."""

    before: bytearray
    after: bytearray
    layout: Layout
    moves: Moves
    repair: Repair


def layout_of(disk: MadeDisk, volumes: Mapping[str, bytes]) -> Layout:
    """Of a disk as sfdisk makes it; each only once."""
    if disk not in LAYOUTS:
        LAYOUTS[disk] = read_layout(MemoryDisk(build_disk(disk, volumes)))
    return LAYOUTS[disk]


LAYOUTS: dict[MadeDisk, Layout] = {}


def repair(old: MadeDisk, new: MadeDisk, volumes: Mapping[str, bytes]) -> Repaired:
    target = MemoryDisk(build_disk(new, volumes))
    before, layout = target.contents, read_layout(target)
    assert layout.disk_id == new.disk_id
    numbers = {place.volume: place.number for place in new.places}
    kept = {place.number: numbers[place.volume] for place in old.places if place.volume in numbers}
    moves = build_moves(layout_of(old, volumes), layout, kept)
    found = plan_windows_repair(target, layout, moves)
    return Repaired(before=before, after=applied(before, found), layout=layout, moves=moves, repair=found)


def applied(disk: bytearray, found: Repair) -> bytearray:
    written = bytearray(disk)
    for patch in found.patches:
        written[patch.offset : patch.extent.end] = patch.data
    return written


def differing(one: bytes | bytearray, other: bytes | bytearray) -> list[int]:
    return [int(place) for place in np.flatnonzero(np.frombuffer(one, np.uint8) != np.frombuffer(other, np.uint8))]


def check_patches(found: Repaired) -> None:
    """Whole sectors, in order, apart, each inside of one partition; no other byte differs."""
    end = 0
    for patch in found.repair.patches:
        assert patch.offset > end or not end
        end = patch.extent.end
        assert patch.offset % 512 == 0
        assert len(patch.data) % 512 == 0
        assert any(one.extent.start <= patch.offset < end <= one.extent.end for one in found.layout.partitions)
    inside = ExtentSet.from_extents(patch.extent for patch in found.repair.patches)
    for place in differing(found.before, found.after):
        assert inside.contains(Extent(place, place + 1))


def files_of(disk: MadeDisk, name: str, volume: bytes, folder: Path) -> dict[str, bytes]:
    """Every file of a volume, read by ntfs-3g or mtools."""
    image, place = folder / f"{name}.img", folder / f"{name}.files"
    image.write_bytes(volume)
    if name == "esp":
        place.mkdir()
        run_tool("mcopy", "-s", "-n", "-i", str(image), "::/", str(place))
    elif name == "data" and disk.scheme == "gpt":
        assert "clean" in run_tool("fsck.exfat", "-n", str(image))
        return {}
    else:
        place.mkdir()
        with mounted_ntfs(image, place, "ro"):
            return {path: (place / path).read_bytes() for path in hash_tree(place)}
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def first_files(disk: MadeDisk, name: str, volume: bytes, folder: Path) -> dict[str, bytes]:
    """Every file of a volume as it was made; read only once."""
    key = (disk.scheme, name)
    if key not in FILES:
        FILES[key] = files_of(disk, name, volume, folder)
    return FILES[key]


FILES: dict[tuple[str, str], dict[str, bytes]] = {}


def hivexget(file: Path, key: str, value: str) -> bytes:
    return subprocess.run(["hivexget", str(file), key, value], capture_output=True, check=True).stdout


def check_store(new: MadeDisk, contents: bytes, loader: str, folder: Path) -> None:
    """What a BCD says of every device, by hivexget; hivexsh opens it for writing."""
    file = folder / "BCD"
    file.write_bytes(contents)
    expected = {
        (BOOTMGR, "11000001"): new.device(loader), (LOADER, "11000001"): new.device("windows"),
        (LOADER, "21000001"): new.device("windows"), (RECOVERY_LOADER, "21000001"): ramdisk_of(new),
        (OPTIONS, "31000003"): new.device("winre"), (FOREIGN, "21000001"): gpt_device(FOREIGN_DISK, FOREIGN_PARTITION),
    }  # fmt: skip
    for (name, element), device in expected.items():
        assert hivexget(file, rf"\Objects\{name}\Elements\{element}", "Element") == device
    assert BOOTMGR in subprocess.run(
        ["hivexsh", "-w", str(file)], input="cd Objects\nls\nquit\n", capture_output=True, text=True, check=True
    ).stdout  # fmt: skip


def check_system(old: MadeDisk, new: MadeDisk, contents: bytes, folder: Path) -> None:
    file = folder / "SYSTEM"
    file.write_bytes(contents)
    for letter, volume in (("C", "windows"), ("E", "data")):
        assert hivexget(file, r"\MountedDevices", rf"\DosDevices\{letter}:") == new.mounted(volume)
    assert hivexget(file, r"\MountedDevices", r"\DosDevices\D:") == "\\??\\SCSI#CdRom".encode("utf-16-le")
    stale = hivexget(file, r"\MountedDevices", r"\DosDevices\Z:")
    assert stale == b"\x04\x03\x02\x01" + old.find("windows").start.to_bytes(8, "little")


def check_hidden(new: MadeDisk, found: Mapping[str, bytes], folder: Path) -> None:
    """Both boot sectors of every volume, by ``file``; exFAT's by its own checker."""
    for name, volume in found.items():
        place = new.find(name)
        if place.volume == "data" and new.scheme == "gpt":
            continue
        copy = 6 * 512 if place.volume == "esp" else len(volume) - 512
        for at in (0, copy):
            sector = folder / "sector"
            sector.write_bytes(volume[at : at + 512].ljust(4096, b"\0"))
            assert f"hidden sectors {place.start // 512}," in run_tool("file", str(sector)) + ","


@pytest.mark.variants(2)
@pytest.mark.parametrize("case", CASES)
def test_other_programs_read_the_new_places(case: str, volumes: dict[str, dict[str, bytes]], tmp_path: Path) -> None:
    old, new = CASES[case]
    found = repair(old, new, volumes[old.scheme])
    check_patches(found)
    is_moved = old.places[0].start != new.places[0].start
    loader, store = NAMES[old.scheme]
    ids = {"windows": {"Windows/System32/Recovery/ReAgent.xml"}, "winre": {"Recovery/WindowsRE/ReAgent.xml"}}
    if old.scheme == "mbr" or not is_moved or old.disk_id != new.disk_id:
        ids["windows"].add("Windows/System32/config/SYSTEM")
        ids[loader] = {store}
    if old.scheme == "mbr" and old.disk_id != new.disk_id:
        ids[loader].add("boot.ini")
    for name, volume in cut_volumes(new, found.after, volumes[old.scheme]).items():
        folder = tmp_path / name
        folder.mkdir()
        before = first_files(old, name, volumes[old.scheme][name], tmp_path)
        after = files_of(old, name, volume, folder)
        assert list(before) == list(after)
        changed = {path for path in before if before[path] != after[path]}
        assert changed == ids.get(name, set())
        if name == loader:
            check_store(new, after[store], loader, folder)
        if name == "windows":
            check_system(old, new, after["Windows/System32/config/SYSTEM"], folder)
            assert after["Windows/System32/Recovery/ReAgent.xml"].split() == new.winre("winre").split()
        if "boot.ini" in changed:
            assert after["boot.ini"] == BOOT_INI.replace(b"8b467c12", new.disk_id.lower().encode())
    check_hidden(new, cut_volumes(new, found.after, volumes[old.scheme]), tmp_path)


@pytest.mark.parametrize("case", ["MBR, moved, new identity", "GPT, moved, new identity"])
def test_the_way_back_gives_the_first_disk_again(case: str, volumes: dict[str, dict[str, bytes]]) -> None:
    old, new = CASES[case]
    found = repair(old, new, volumes[old.scheme])
    back = MemoryDisk(build_disk(old, cut_volumes(new, found.after, volumes[old.scheme])))
    undone = plan_windows_repair(back, read_layout(back), found.moves.inverse)
    first = build_disk(old, volumes[old.scheme])
    assert back.contents != first
    assert applied(back.contents, undone) == first


@pytest.mark.parametrize("disk", [GPT, MBR], ids=["gpt", "mbr"])
def test_nothing_changes_on_a_larger_disk_with_the_same_places(
    disk: MadeDisk, volumes: dict[str, dict[str, bytes]]
) -> None:
    found = repair(disk, disk.moved(size=disk.size + 32 * MIB), volumes[disk.scheme])
    assert found.moves.is_nothing
    assert not found.repair.patches
    assert not found.repair.done
    assert [notice.code for notice in found.repair.not_done] == ["efi-fallback-missing"] * (disk is GPT)


def test_an_overlay_is_repaired_like_a_disk(volumes: dict[str, dict[str, bytes]]) -> None:
    found = repair(*CASES["MBR, new identity"], volumes["mbr"])
    blocks = {
        (patch.offset + at) // 512: patch.data[at : at + 512]
        for patch in found.repair.patches
        for at in range(0, len(patch.data), 512)
    }
    overlay = OverlayReader(MemoryDisk(bytearray(found.before)), block_size=512, blocks=blocks)
    assert overlay.read_at(0, overlay.size) == bytes(found.after)
    assert not plan_windows_repair(overlay, found.layout, found.moves).patches


def test_numbers_of_boot_ini_follow_the_order_of_the_table(
    volumes: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    """The recovery partition is left out, and Windows is the third one in the table of the new disk."""
    all_volumes = volumes["mbr"]
    places = [
        MBR.find("reserved"),
        replace(MBR.find("data"), number=2),
        replace(MBR.find("windows"), number=3),
    ]
    new = replace(MBR, places=tuple(places), container=0)
    kept = {name: all_volumes[name] for name in ("reserved", "data", "windows")}
    found = repair(MBR, new, all_volumes)
    files = files_of(new, "reserved", cut_volumes(new, found.after, kept)["reserved"], tmp_path)
    expected = BOOT_INI.replace(b"rdisk(0)partition(2)", b"rdisk(0)partition(3)")
    # The line by signature names the recovery partition, which was left out.
    assert files["boot.ini"] == expected
    said = [notice.message for notice in found.repair.not_done if notice.code == "partition-not-followed"]
    assert "partition 1, /boot.ini: partition(3) is not on the new disk" in said
    assert "partition 1, /Boot/BCD: devices name partitions that were not taken over (2); they stay as they are" in said


Change = Callable[[Path, Path], None]


def leave_open(image: Path, _place: Path) -> None:
    """As after a power cut: a log that is in use (layout of the restart page: ntfs-3g logfile.h)."""
    reader = MemoryDisk(image.read_bytes())
    page = restart_page(flags=0)
    start = place_of(reader, 2).start
    contents = bytearray(image.read_bytes())
    contents[start : start + 4096] = page
    contents[start + 4096 : start + 8192] = page
    image.write_bytes(contents)


def mark_dirty(image: Path, _place: Path) -> None:
    contents = image.read_bytes()
    reader = MemoryDisk(contents)
    table = open_table(reader)
    at = int(table.stream.disk_starts[0]) + 3 * table.boot.record_size
    record = bytearray(contents[at : at + table.boot.record_size])
    flags = record.index(b"\x70\0\0\0", 56) + 24 + 10  # $VOLUME_INFORMATION, resident, its flags
    record[flags] |= 1
    image.write_bytes(contents[:at] + record + contents[at + len(record) :])


@pytest.mark.parametrize(
    ("change", "words"),
    [(leave_open, "it was not closed"), (mark_dirty, "marked as dirty")],
)
def test_a_volume_that_was_not_closed_is_not_touched(
    change: Change, words: str, volumes: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    image = tmp_path / "windows"
    image.write_bytes(volumes["gpt"]["windows"])
    change(image, tmp_path / "place")
    old, new = CASES["GPT, moved, new identity"]
    found = repair(old, new, volumes["gpt"] | {"windows": image.read_bytes()})
    refused = [notice for notice in found.repair.not_done if notice.code == "windows-not-closed"]
    assert len(refused) == 1
    assert words in refused[0].message
    assert "shutdown /s" in refused[0].hint
    place = new.find("windows")
    assert not [patch for patch in found.repair.patches if place.start <= patch.offset < place.start + 8 * MIB]
    assert any("partition 1, /EFI/Microsoft/Boot/BCD" in sentence for sentence in found.repair.done)


@pytest.mark.parametrize("is_dirty", [False, True])
def test_nothing_is_changed_on_a_disk_with_a_hibernated_windows(
    is_dirty: bool, volumes: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    image, place = tmp_path / "windows", tmp_path / "place"
    image.write_bytes(volumes["mbr"]["windows"])
    with mounted_ntfs(image, place):
        (place / "hiberfil.sys").write_bytes(b"HIBR".ljust(8192, b"\0"))
    if is_dirty:
        mark_dirty(image, place)
    found = repair(*CASES["MBR, moved"], volumes["mbr"] | {"windows": image.read_bytes()})
    assert not found.repair.patches
    (notice,) = found.repair.not_done
    assert notice.message.startswith("partition 2: Windows is hibernated in it")
    assert "shutdown /s" in notice.hint


def test_a_windows_that_is_hibernated_on_fat_is_seen(tmp_path: Path) -> None:
    image, start = tmp_path / "fat", MIB
    make_fat(image, size=8 * MIB, bits=16, cluster_size=512)
    (tmp_path / "hiberfil.sys").write_bytes(b"hibr".ljust(8192, b"\0"))
    run_tool("mcopy", "-i", str(image), str(tmp_path / "hiberfil.sys"), "::")
    disk = replace(
        MBR, places=(Place(number=1, volume="xp", start=start, type="c", is_active=True),), container=0, size=16 * MIB
    )
    found = repair(disk, disk.moved(disk_id=NEW_MBR), {"xp": image.read_bytes()})
    assert [notice.code for notice in found.repair.not_done] == ["windows-hibernated"]


def test_a_store_in_many_pieces_is_written_in_all_of_them(tmp_path: Path) -> None:
    """Clusters of 512 bytes, every second of which another file has."""
    image = tmp_path / "esp"
    disk = replace(GPT, places=(*GPT.places[:1], *GPT.places[1:3]), size=60 * MIB)
    make_fat(image, size=8 * MIB, bits=16, cluster_size=512)
    names = [f"f{number:02}" for number in range(64)]
    for name in names:
        (tmp_path / name).write_bytes(name.encode() * 100)
    run_tool("mcopy", "-i", str(image), *(str(tmp_path / name) for name in names), "::")
    run_tool("mdel", "-i", str(image), *(f"::{name}" for name in names[::2]))
    (tmp_path / "BCD").write_bytes(boot_store(disk, "esp"))
    run_tool("mmd", "-i", str(image), "::/Boot")
    run_tool("mcopy", "-i", str(image), str(tmp_path / "BCD"), "::/Boot/BCD")
    filler = {"windows": bytes(8 * MIB), "winre": bytes(6 * MIB)}
    new = further(disk, 0, disk_id=NEW_GPT)
    found = repair(disk, new, {"esp": image.read_bytes()} | filler)
    check_patches(found)
    assert len(found.repair.patches) > 3
    (tmp_path / "new").mkdir()
    esp = cut_volumes(new, found.after, {"esp": image.read_bytes()})["esp"]
    after = files_of(new, "esp", esp, tmp_path / "new")
    check_store(new, after.pop("Boot/BCD"), "esp", tmp_path / "new")
    assert after == {name: name.encode() * 100 for name in names[1::2]}


@pytest.mark.parametrize("has_fallback", [False, True])
def test_a_missing_fallback_boot_file_is_told(has_fallback: bool, tmp_path: Path) -> None:
    image, loader = tmp_path / "esp", tmp_path / "loader"
    make_fat(image, size=8 * MIB, bits=16, cluster_size=512)
    loader.write_bytes(b"MZ")
    run_tool("mmd", "-i", str(image), "::/EFI", "::/EFI/Boot", "::/EFI/Microsoft", "::/EFI/Microsoft/Boot")
    for path in ["EFI/Microsoft/Boot/bootmgfw.efi", *(["EFI/Boot/BOOTX64.EFI"] if has_fallback else [])]:
        run_tool("mcopy", "-i", str(image), str(loader), f"::/{path}")
    disk = replace(GPT, places=GPT.places[:1], size=16 * MIB)
    found = repair(disk, disk, {"esp": image.read_bytes()})
    assert [notice.code for notice in found.repair.not_done] == ["efi-fallback-missing"] * (not has_fallback)


def test_an_encrypted_windows_is_told(volumes: dict[str, dict[str, bytes]]) -> None:
    """As the first sector of BitLocker since Windows 7 is recognised (util-linux, bitlocker.c)."""
    locked = bytearray(volumes["gpt"]["windows"])
    locked[:512] = b"\xeb\x58\x90-FVE-FS-".ljust(0xA0, b"\0") + bytes.fromhex("3bd66749292ed84a8399f6a339e3d001").ljust(
        0x160, b"\0"
    )
    locked[510:512] = b"\x55\xaa"
    old, new = CASES["GPT, moved, new identity"]
    found = repair(old, new, volumes["gpt"] | {"windows": bytes(locked)})
    assert any("partition 2: it is encrypted by BitLocker" in notice.message for notice in found.repair.not_done)
    assert not any("partition 2" in sentence for sentence in found.repair.done)


def test_a_plan_comes_out_of_a_process_of_its_own(volumes: dict[str, dict[str, bytes]]) -> None:
    """The Sleuth Kit is C code: whoever reads a hostile disk lets it do so elsewhere."""
    found = repair(*CASES["MBR, new identity"], volumes["mbr"])
    disk = MemoryDisk(found.before)
    apart = call_apart(lambda: plan_windows_repair(disk, found.layout, found.moves), what="planning")
    assert apart == found.repair


def test_sectors_of_4096_bytes_are_counted_as_such(tmp_path: Path) -> None:
    image, old, new = tmp_path / "image", 2048 * 4096, 3000 * 4096
    make_ntfs(image, size=8 * MIB, sector_size=4096)
    disk = MemoryDisk(bytes(32 * MIB), sector_size=4096)
    write_gpt(disk, [Extent(new, new + 8 * MIB)])
    disk.write_at(new, image.read_bytes())
    layout = read_layout(disk)
    place = PartitionPlace(start=new, guid=layout.partitions[0].guid)
    moves = Moves(
        scheme="gpt", old_disk=layout.disk_id, new_disk=layout.disk_id,
        partitions=(MovedPartition(old=replace(place, start=old), new=place),),
    )  # fmt: skip
    first, last = plan_windows_repair(disk, layout, moves).patches
    assert (first.offset, len(first.data)) == (new, 4096)
    assert (last.offset, len(last.data)) == (new + 8 * MIB - 4096, 4096)
    for patch in (first, last):
        (tmp_path / "sector").write_bytes(patch.data)
        assert "hidden sectors 3000," in run_tool("file", str(tmp_path / "sector"))


def test_hives_that_were_not_closed_are_refused_by_name(volumes: dict[str, dict[str, bytes]], tmp_path: Path) -> None:
    image = tmp_path / "windows"
    image.write_bytes(volumes["mbr"]["windows"])
    with mounted_ntfs(image, tmp_path / "place"):
        hive = tmp_path / "place/Windows/System32/config/SYSTEM"
        contents = bytearray(hive.read_bytes())
        contents[4:8] = b"\x08\0\0\0"
        hive.write_bytes(contents)
    found = repair(*CASES["MBR, moved"], volumes["mbr"] | {"windows": image.read_bytes()})
    notice = next(one for one in found.repair.not_done if one.code == "registry-not-closed")
    assert notice.message.startswith("partition 2, /Windows/System32/config/SYSTEM: it was not closed")
    assert "shutdown /s" in notice.hint
    assert not any("SYSTEM" in sentence for sentence in found.repair.done)


@pytest.mark.parametrize("grows", [False, True])
def test_hives_that_were_not_closed_are_repaired_with_their_logs(
    grows: bool, volumes: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    """What names partitions is only in the log. A file that would grow is left as it is."""
    image = tmp_path / "windows"
    image.write_bytes(volumes["mbr"]["windows"])
    with mounted_ntfs(image, tmp_path / "place"):
        hive = tmp_path / "place/Windows/System32/config/SYSTEM"
        last = numbered(hive.read_bytes(), 9, 9)
        first = build_hive({"Select": {"Current": 7}})
        assert len(first) == len(last)
        if grows:
            more = b"hbin" + len(last[4096:]).to_bytes(4, "little") + (4096).to_bytes(4, "little") + bytes(20)
            last = last[:40] + len(last).to_bytes(4, "little") + last[44:] + more + (4064).to_bytes(4, "little")
            last = numbered(last.ljust(len(first) + 4096, b"\0"), 9, 9)
        hive.write_bytes(numbered(first, 9, 8))
        hive.with_name("SYSTEM.LOG2").write_bytes(new_log(first, [entry(first, last, 8)], 8))
    old, new = CASES["MBR, moved"]
    found = repair(old, new, volumes["mbr"] | {"windows": image.read_bytes()})
    check_patches(found)
    name = "partition 2, /Windows/System32/config/SYSTEM"
    refused = [notice.message for notice in found.repair.not_done if notice.code == "registry-not-closed"]
    if grows:
        message = "it was not closed, and it is not changed: it grows with what waits in its logs"
        assert refused == [f"{name}: {message}"]
        return
    assert not refused
    assert f"{name}: what waited in its logs was written to it (1 entries)" in found.repair.done
    files = files_of(new, "windows", cut_volumes(new, found.after, volumes["mbr"])["windows"], tmp_path)
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    before = files_of(old, "windows", image.read_bytes(), earlier)
    system = next(path for path in files if path.endswith("config/SYSTEM"))
    check_system(old, new, files[system], tmp_path)
    assert files[system][4:8] == files[system][8:12] == (9).to_bytes(4, "little")
    log = system + ".LOG2"
    assert files[log] == before[log]


def test_a_boot_store_that_was_not_closed_is_repaired_on_fat(
    volumes: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    """With a log that is empty beside the one that is used."""
    old, new = CASES["GPT, new identity"]
    image, store = tmp_path / "esp", NAMES["gpt"][1]
    image.write_bytes(volumes["gpt"]["esp"])
    run_tool("mcopy", "-i", str(image), f"::/{store}", str(tmp_path / "flushed"))
    flushed = (tmp_path / "flushed").read_bytes()
    before = build_hive({"Objects": {"x": b"\x77" * (len(flushed) - 4096 - 2000)}})
    assert len(before) == len(flushed)
    log = new_log(before, [entry(before, flushed, 31)], 31)
    for name, contents in ((store, numbered(before, 32, 31)), (f"{store}.LOG1", b""), (f"{store}.LOG2", log)):
        (tmp_path / "file").write_bytes(contents)
        run_tool("mcopy", "-o", "-i", str(image), str(tmp_path / "file"), f"::/{name}")
    changed = volumes["gpt"] | {"esp": image.read_bytes()}
    found = repair(old, new, changed)
    check_patches(found)
    folder = tmp_path / "after"
    folder.mkdir()
    after = files_of(old, "esp", cut_volumes(new, found.after, changed)["esp"], folder)
    check_store(new, after[store], "esp", tmp_path)
    assert after[store][4:12] == (32).to_bytes(4, "little") * 2
    assert after[f"{store}.LOG2"] == log


def test_a_hive_of_which_nothing_must_change_keeps_its_logs() -> None:
    states = [build_hive({"a": {"x": number}}) for number in (1, 2)]
    seen = list[bytes]()

    def move(hive: bytes) -> Rewriting:
        seen.append(hive)
        return Rewriting()

    log = new_log(states[0], [entry(states[0], states[1], 5)], 5)
    assert rewrite_with_logs(numbered(states[0], 6, 5), (log, b""), move) == Rewriting()
    assert seen[0][4096:] == states[1][4096:]


def test_a_hive_that_another_program_wrote_is_repaired(tmp_path: Path) -> None:
    """By hivexsh, in bins of its own, behind the one that was there."""
    file = tmp_path / "SYSTEM"
    file.write_bytes(build_hive({"Select": {"Current": 1}}))
    letters = "CEFGHIJKLM"
    words = [rf"\DosDevices\{letter}:" for letter in letters]
    values = [MBR.mounted("windows").hex(",")] * len(words)
    lines = [line for word, value in zip(words, values, strict=True) for line in (word, f"hex:3:{value}")]
    script = "\n".join(["add MountedDevices", "cd MountedDevices", f"setval {len(words)}", *lines, "commit", "quit"])
    subprocess.run(["hivexsh", "-w", str(file)], input=script + "\n", text=True, check=True, capture_output=True)
    new, contents = further(MBR, MIB, size=40 * MIB, disk_id=NEW_MBR), bytearray(file.read_bytes())
    partitions = tuple(
        MovedPartition(old=PartitionPlace(start=one.start), new=PartitionPlace(start=other.start))
        for one, other in zip(MBR.places, new.places, strict=True)
    )
    hive = Hive.open(lambda offset, size: bytes(contents[offset : offset + size]))
    assert hive is not None
    moves = Moves(scheme="mbr", old_disk=MBR.disk_id, new_disk=NEW_MBR, partitions=partitions)
    found = move_mounted_devices(hive, moves)
    assert len(found.edits) == len(words)
    for edit in found.edits:
        contents[edit.offset : edit.extent.end] = edit.new
    file.write_bytes(contents)
    for word in words:
        assert hivexget(file, r"\MountedDevices", word) == new.mounted("windows")
    assert hivexget(file, r"\Select", "Current").strip() == b"1"


def test_a_compressed_hive_is_refused_by_name(volumes: dict[str, dict[str, bytes]], tmp_path: Path) -> None:
    image, place = tmp_path / "windows", tmp_path / "place"
    image.write_bytes(volumes["mbr"]["windows"])
    with mounted_ntfs(image, place, "compression"):
        path = "Windows/System32/config/SYSTEM"
        contents = (place / path).read_bytes()
        (place / path).unlink()
        folder = place / "Windows/System32/config"
        os.setxattr(folder, "system.ntfs_attrib", b"\x10\x08\0\0")  # ntfs-3g: FILE_ATTRIBUTE_COMPRESSED
        (place / path).write_bytes(contents.ljust(65536, b"\0"))
    found = repair(*CASES["MBR, moved"], volumes["mbr"] | {"windows": image.read_bytes()})
    refused = [one.message for one in found.repair.not_done if "compressed" in one.message]
    assert refused == [
        "partition 2, /Windows/System32/config/SYSTEM: it is not changed: it is compressed, encrypted or sparse"
    ]


@pytest.mark.parametrize(("padding", "in_one_piece"), [(60, 4), (72, 3), (75, 3), (78, 3)])
def test_a_small_file_inside_of_its_record_keeps_the_records_protection(
    padding: int, in_one_piece: int, tmp_path: Path
) -> None:
    """A signature of the text stands beside, or partly on, the two bytes of the record that are kept elsewhere."""
    image, place = tmp_path / "reserved", tmp_path / "place"
    make_ntfs(image, size=4 * MIB)
    text = b"; " + b"x" * padding + b"\r\n" + b"signature(8b467c12)disk(0)rdisk(0)partition(1)\\W\r\n" * 4
    with mounted_ntfs(image, place):
        (place / "boot.ini").write_bytes(text)
    disk = replace(MBR, places=(replace(MBR.places[0], volume="reserved"),), container=0, size=8 * MIB)
    found = repair(disk, disk.moved(disk_id=NEW_MBR), {"reserved": image.read_bytes()})
    check_patches(found)
    (patch,) = found.repair.patches
    start = disk.places[0].start
    image.write_bytes(found.after[start : start + 4 * MIB])
    with mounted_ntfs(image, place, "ro"):
        assert (place / "boot.ini").read_bytes() == text.replace(b"8b467c12", NEW_MBR.lower().encode())
    assert "Resident flags:" in run_tool("ntfsinfo", "-F", "boot.ini", str(image)).split("$DATA")[1]
    assert bytes(found.after).count(NEW_MBR.lower().encode()) == in_one_piece
    assert len(patch.data) == 1024


def test_bytes_are_named_only_inside_of_their_window(volumes: dict[str, dict[str, bytes]]) -> None:
    """A partition of the target that was not taken over is not looked into."""
    old, new = CASES["MBR, moved, new identity"]
    found = repair(old, new, volumes["mbr"])
    only = Moves(
        scheme="mbr", old_disk=old.disk_id, new_disk=new.disk_id,
        partitions=tuple(one for one in found.moves.partitions if one.new.start == new.find("reserved").start),
    )  # fmt: skip
    part = plan_windows_repair(MemoryDisk(bytearray(found.before)), found.layout, only)
    reserved = new.find("reserved")
    assert part.patches
    assert all(reserved.start <= one.offset and one.extent.end <= reserved.start + 6 * MIB for one in part.patches)
    assert any(one.code == "partition-not-followed" for one in part.not_done)
