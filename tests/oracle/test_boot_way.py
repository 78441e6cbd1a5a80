"""In which ways a disk starts, on disks made by the tools of others."""

import os
import struct
import subprocess
from pathlib import Path

import pytest

from stillframe.block.memory import MemoryDisk
from stillframe.systems.boot_journal import count_targets
from stillframe.systems.boot_traces import compare_traces, count_logins, last_event
from stillframe.systems.boot_way import BootWays, find_boot_ways
from stillframe.testing.boot_sector import make_boot_disk
from stillframe.testing.tools import run_tool, unmount
from stillframe.testing.volumes_windows import make_fat

MIB = 1 << 20


def make_gpt(folder: Path, files: dict[str, bytes], *, bios_boot: bool, code: bool) -> MemoryDisk:
    """A GPT with a BIOS boot partition, or not, and an EFI system partition with files, made by sgdisk and mtools."""
    disk, volume = folder / "disk", folder / "volume"
    disk.write_bytes(bytes(40 * MIB))
    first = ["-n1:2048:+1M", "-t1:ef02"] if bios_boot else []
    run_tool("sgdisk", *first, "-n2:4096:+33M", "-t2:ef00", str(disk))
    make_fat(volume, size=33 * MIB, bits=16)
    for path, data in files.items():
        (folder / "file").write_bytes(data)
        parts = path.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            subprocess.run(["mmd", "-i", volume, "::/" + "/".join(parts[:depth])], check=False, capture_output=True)
        run_tool("mcopy", "-o", "-i", str(volume), str(folder / "file"), f"::/{path}")
    with disk.open("r+b") as file:
        if code:
            file.write(b"\xeb\x63")
        file.seek(2 * MIB)
        file.write(volume.read_bytes())
    return MemoryDisk(disk.read_bytes())


@pytest.mark.variants(2)
@pytest.mark.parametrize(
    ("files", "bios_boot", "code", "expected"),
    [
        ({"EFI/BOOT/BOOTX64.EFI": b"MZ"}, True, True, (True, True, ())),
        ({"EFI/BOOT/bootx64.efi": b"MZ"}, False, True, (False, True, ())),
        ({"EFI/debian/grubx64.efi": b"MZ"}, False, False, (False, False, ("efi/debian/grubx64.efi",))),
        ({"README": b"nothing"}, True, False, (False, False, ())),
        ({}, True, True, (True, False, ())),
    ],
)
def test_ways_of_a_gpt(
    tmp_path: Path, files: dict[str, bytes], bios_boot: bool, code: bool, expected: tuple[bool, bool, tuple[str, ...]]
) -> None:
    ways = find_boot_ways(make_gpt(tmp_path, files, bios_boot=bios_boot, code=code))
    assert (ways.bios, ways.uefi, ways.loaders) == expected
    assert not ways.windows


def test_a_windows_is_noticed_by_its_boot_manager(tmp_path: Path) -> None:
    files = {"EFI/BOOT/BOOTX64.EFI": b"MZ", "EFI/Microsoft/Boot/bootmgfw.efi": b"MZ"}
    ways = find_boot_ways(make_gpt(tmp_path, files, bios_boot=False, code=False))
    assert ways == BootWays(bios=False, uefi=True, loaders=("efi/microsoft/boot/bootmgfw.efi",), windows=True)


def test_a_boot_sector_is_a_way_and_a_volume_is_none(tmp_path: Path) -> None:
    assert find_boot_ways(MemoryDisk(make_boot_disk("hello"))).bios
    make_fat(tmp_path / "volume", size=8 * MIB, bits=12)
    assert not find_boot_ways(MemoryDisk((tmp_path / "volume").read_bytes())).is_bootable
    assert not find_boot_ways(MemoryDisk(bytes(MIB))).is_bootable
    assert not find_boot_ways(MemoryDisk(os.urandom(100 * 512))).is_bootable


def test_logins_are_counted_as_another_program_writes_them() -> None:
    text = "\n".join(
        f"[{kind}] [{number:05d}] [{place:<4}] [{who:<8}] [{place:<12}] [{'':<20}] [0.0.0.0        ] "
        "[2026-11-26T10:00:00,000000+00:00]"
        for kind, number, place, who in [
            (2, 0, "~", "reboot"), (6, 500, "tty1", "LOGIN"), (6, 501, "ttyS", "LOGIN"), (1, 53, "~", "runlevel")
        ]
    )  # fmt: skip
    made = subprocess.run(["utmpdump", "-r"], input=text.encode() + b"\n", capture_output=True, check=True).stdout
    assert len(made) == 4 * 384
    assert count_logins(made) == 2
    assert count_logins(b"") == 0


def journal(texts: dict[bytes, int], *, compact: bool = False, kind: int = 1, gap: int = 0) -> bytes:
    """Data objects as systemd's JOURNAL_FILE_FORMAT.md draws them, behind a header."""
    raw = bytearray(b"LPKSHHRH" + struct.pack("<II", 0, 16 if compact else 0) + bytes(240) + bytes(gap))
    for text, count in texts.items():
        extra = bytes(8) if compact else b""
        size = 64 + len(extra) + len(text)
        raw += struct.pack("<BB6xQ6Q", kind, 0, size, 1, 2, 3, 4, 5, count) + extra + text
        raw += bytes(-len(raw) % 8)
    return bytes(raw)


REACHED = b"MESSAGE=Reached target multi-user.target - Multi-User System."


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("gap", [0, (1 << 20) - 256, (1 << 20) - 256 - 64, (1 << 20) - 256 - 80, (1 << 20) - 256 - 96])
def test_boot_targets_are_counted_in_a_journal(compact: bool, gap: int) -> None:
    texts = {
        REACHED: 3, b"MESSAGE=Reached target Graphical Interface.": 2, b"MESSAGE=Reached target basic.target.": 9,
        b"MESSAGE=Reached target emergency.target - Emergency Mode.": 9, b"_" + REACHED: 9,
    }  # fmt: skip
    raw = journal(texts, compact=compact, gap=gap)
    assert count_targets(lambda offset, size: raw[offset : offset + size], len(raw)) == 5
    for other in (b"X" + raw[1:], journal(texts, compact=compact, kind=3), raw[:40], b""):
        assert count_targets(lambda offset, size, other=other: other[offset : offset + size], len(other)) == 0  # type: ignore[misc]


def test_a_target_that_was_reached_since_is_a_trace(tmp_path: Path) -> None:
    disk, tree = tmp_path / "disk", tmp_path / "tree"
    folder = tree / "var/log/journal" / ("1" * 32)
    folder.mkdir(parents=True)

    def made(name: str, *counts: int) -> MemoryDisk:
        for path in folder.iterdir():
            path.unlink()
        for number, count in enumerate(counts):
            (folder / ("system.journal" if not number else f"system@{number}.journal")).write_bytes(
                journal({REACHED: count}) + bytes(len(name))
            )
        disk.write_bytes(bytes(16 * MIB))
        run_tool("mke2fs", "-q", "-F", "-t", "ext4", "-d", str(tree), str(disk))
        return MemoryDisk(disk.read_bytes())

    before = made("before", 4)
    assert compare_traces(before, made("again", 4)).booted == ()
    assert compare_traces(before, made("rotated", 0, 4)).booted == ()
    assert compare_traces(before, made("emptied")).booted == ()
    assert "boot target" in compare_traces(before, made("later", 5)).booted[0]
    assert "boot target" in compare_traces(before, made("later and rotated", 1, 4)).booted[0]


def test_events_of_windows_are_numbered() -> None:
    # libevtx, "Windows XML Event Log (EVTX)", 4.2: signature, size, number, FILETIME.
    records = b"".join(b"**\0\0" + (64).to_bytes(4, "little") + n.to_bytes(8, "little") + bytes(48) for n in (7, 9, 8))
    assert last_event(b"ElfFile\0" + bytes(4088) + records) == 9
    assert last_event(bytes(4096)) == 0


def test_a_mount_leaves_a_trace_and_nothing_leaves_none(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(16 * MIB))
    run_tool("mke2fs", "-q", "-F", "-t", "ext4", str(disk))
    before = MemoryDisk(disk.read_bytes())
    assert compare_traces(before, before).other == ()
    place = tmp_path / "place"
    place.mkdir()
    run_tool("mount", "-o", "loop", str(disk), str(place))
    unmount(place)
    assert "mounted" in compare_traces(before, MemoryDisk(disk.read_bytes())).other[0]
