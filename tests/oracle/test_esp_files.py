"""Files of a FAT volume on a disk: what is written is read by The Sleuth Kit, and the volume stays in order."""

from pathlib import Path

import pytest

from stillframe.errors import MachineRefusal
from stillframe.host.esp_files import FatVolume, list_names, read_file, remove_file, write_file
from stillframe.testing.tools import run_tool
from stillframe.testing.volumes_windows import make_fat

MIB = 1 << 20
OFFSET = 3 * MIB


@pytest.fixture
def volume(tmp_path: Path) -> FatVolume:
    """A FAT32 volume inside of a disk, with other bytes around it."""
    alone = tmp_path / "alone"
    make_fat(alone, size=36 * MIB, bits=32)
    disk = tmp_path / "disk"
    disk.write_bytes(b"\xa5" * OFFSET + alone.read_bytes() + b"\x5a" * MIB)
    return FatVolume(path=str(disk), offset=OFFSET)


def cut(volume: FatVolume) -> Path:
    """The volume in a file of its own, checked; what is around it must be as it was."""
    disk = Path(volume.path).read_bytes()
    assert disk[:OFFSET] == b"\xa5" * OFFSET
    assert disk[-MIB:] == b"\x5a" * MIB
    alone = Path(volume.path).with_name("cut")
    alone.write_bytes(disk[OFFSET:-MIB])
    run_tool("fsck.fat", "-n", str(alone))
    return alone


def sleuth(volume: Path, path: str) -> bytes:
    listing = run_tool("fls", "-r", "-p", "-F", str(volume))
    index = next(line.split()[1].rstrip(":") for line in listing.splitlines() if line.split("\t")[1] == path)
    target = volume.with_name("read")
    run_tool("sh", "-c", f"icat '{volume}' {index} > '{target}'")
    return target.read_bytes()


def test_files_and_folders_are_made(volume: FatVolume) -> None:
    loader = bytes(range(256)) * 5000
    write_file(volume, "/EFI/Microsoft/Boot/bootmgfw.efi", loader)
    write_file(volume, "/EFI/Boot/bootx64.efi", loader[:5])
    write_file(volume, "/efi/BOOT/empty.file.with.a.long.name", b"")
    assert sleuth(cut(volume), "EFI/Microsoft/Boot/bootmgfw.efi") == loader
    assert sleuth(cut(volume), "EFI/Boot/bootx64.efi") == loader[:5]
    assert read_file(volume, "/efi/microsoft/BOOT/bootmgfw.EFI") == loader
    assert read_file(volume, "/EFI/Boot/empty.file.with.a.long.name") == b""
    assert list_names(volume, "/") == ("EFI",)
    assert sorted(list_names(volume, "/efi") or ()) == ["Boot", "Microsoft"]


def test_a_file_is_replaced_and_removed(volume: FatVolume) -> None:
    write_file(volume, "/EFI/Boot/bootx64.efi", b"long" * 5000)
    write_file(volume, "/EFI/BOOT/BOOTX64.EFI", b"short")
    assert sleuth(cut(volume), "EFI/Boot/BOOTX64.EFI") == b"short"
    remove_file(volume, "/EFI/Boot/bootx64.efi")
    remove_file(volume, "/EFI/Boot/bootx64.efi")
    assert list_names(volume, "/EFI/Boot") == ()
    cut(volume)


def test_what_is_not_there_is_none(volume: FatVolume) -> None:
    assert list_names(volume, "/EFI") is None
    assert read_file(volume, "/EFI/Boot/bootx64.efi") is None
    write_file(volume, "/EFI", b"a file")
    assert list_names(volume, "/EFI") is None


def test_a_full_volume_is_said(volume: FatVolume) -> None:
    with pytest.raises(MachineRefusal):
        write_file(volume, "/much", bytes(40 * MIB))


def test_what_is_no_fat_is_refused(tmp_path: Path) -> None:
    (tmp_path / "none").write_bytes(bytes(MIB))
    with pytest.raises(MachineRefusal, match="mdir"):
        list_names(FatVolume(path=str(tmp_path / "none")), "/")


def test_a_pattern_is_no_path(volume: FatVolume) -> None:
    with pytest.raises(ValueError, match="single file"):
        read_file(volume, "/EFI/*/bootx64.efi")
