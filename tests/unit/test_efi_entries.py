"""Entries of a firmware, as ``efibootmgr`` of several versions has printed them, and loaders on a volume."""

import os
import platform
from dataclasses import replace
from pathlib import Path

import pytest

from stillframe.errors import MachineRefusal
from stillframe.events import Event, Notice
from stillframe.extents import Extent
from stillframe.host import efi_entries
from stillframe.host.blocks import KernelPaths
from stillframe.host.disks import describe
from stillframe.host.efi_entries import EfiPlace, parse_entries, processor
from stillframe.host.target import identify_target
from stillframe.jobs.starts import efi_start
from stillframe.jobs.starts.linux_parts import ESP_TYPES
from stillframe.systems.efi_loaders import find_loaders

SAMPLES = Path(__file__).parent / "samples"
GUID = "88B98094-C959-7C46-8C3F-ACC951D55266"


class Listing:
    """A volume that has files with these paths, and nothing in them."""

    def __init__(self, *paths: str) -> None:
        self.paths = paths

    def list_names(self, path: str) -> tuple[str, ...]:
        top = f"{path.rstrip('/')}/".lower()
        inner = [one[len(top) :] for one in self.paths if one.lower().startswith(top)]
        return tuple(dict.fromkeys(one.partition("/")[0] for one in inner))

    def read_file(self, path: str, offset: int, size: int) -> bytes | None:
        return b""[offset:size] if path in self.paths else None


def test_version_17_says_file() -> None:
    found = parse_entries((SAMPLES / "efibootmgr-17.txt").read_text(), sector_size=512)
    guid, extent = "25AAB7CC-A7F8-4E33-A73D-A4C6D790FADF", Extent(2 << 20, 42 << 20)
    assert found == (
        EfiPlace(partition=2, signature=guid, extent=extent, loader=r"\EFI\Microsoft\Boot\bootmgfw.efi"),
        EfiPlace(partition=2, signature=guid, extent=extent, loader=r"\EFI\debian\shimx64.efi"),
    )


def test_what_comes_after_a_loader_is_not_part_of_it() -> None:
    """Data of Windows, as hex digits or as text; a path alone; an MBR; none of those that are switched off."""
    found = parse_entries((SAMPLES / "efibootmgr-others.txt").read_text(), sector_size=512)
    place = Extent(0x800 * 512, (0x800 + 0x4B000) * 512)
    assert found == (
        EfiPlace(partition=1, signature=GUID, extent=place, loader=r"\EFI\MICROSOFT\BOOT\BOOTMGFW.EFI"),
        EfiPlace(partition=1, signature=GUID, extent=place, loader=r"\EFI\MICROSOFT\BOOT\BOOTMGFW.EFI"),
        EfiPlace(
            partition=3, signature="0012AB3F", extent=Extent(8 << 20, 72 << 20), loader=r"\EFI\debian\grubx64.efi"
        ),
    )


def test_letters_of_any_case_are_the_same_place() -> None:
    one = EfiPlace(partition=1, signature=GUID, extent=Extent(0, 4096), loader=r"\EFI\debian\shimx64.efi")
    two = EfiPlace(partition=1, signature=GUID, extent=Extent(0, 4096), loader=r"\EFI\DEBIAN\SHIMX64.EFI")
    other = EfiPlace(partition=1, signature=GUID, extent=Extent(512, 4608), loader=r"\EFI\debian\shimx64.efi")
    assert one.key == two.key != other.key


@pytest.mark.parametrize(("size", "wanted"), [("64", "x64"), ("32", "ia32")])
def test_which_programs_the_firmware_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str, wanted: str
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    kernel = KernelPaths(sys=str(tmp_path))
    assert processor(kernel) is None
    os.makedirs(tmp_path / "firmware/efi/efivars")
    (tmp_path / "firmware/efi/fw_platform_size").write_text(f"{size}\n")
    assert processor(kernel) == wanted


def test_loaders_in_folders_of_their_own() -> None:
    files = Listing(
        "/EFI/BOOT/BOOTX64.EFI", "/EFI/BOOT/grubx64.efi", "/EFI/Microsoft/Boot/BootMgFw.efi", "/EFI/debian/grubx64.efi",
        "/EFI/debian/SHIMX64.EFI",
        "/EFI/systemd/systemd-bootx64.efi", "/EFI/arm/grubaa64.efi", "/EFI/tools/memtest.efi",
    )  # fmt: skip
    assert [(one.label, one.path) for one in find_loaders(files, "x64")] == [
        ("debian", r"\EFI\debian\SHIMX64.EFI"),
        ("Linux Boot Manager", r"\EFI\systemd\systemd-bootx64.efi"),
        ("Windows Boot Manager", r"\EFI\Microsoft\Boot\BootMgFw.efi"),
    ]
    assert find_loaders(Listing("/vmlinuz"), "x64") == ()


class Heard:
    """What a job says."""

    def __init__(self) -> None:
        self.notices = list[Notice]()

    def emit(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.notices.append(event)


def test_a_firmware_that_is_full_is_a_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first entry is taken, the second is not: what was done is said, and the line for the rest."""
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(4096))
    target = replace(identify_target(str(disk)), kind="disk")
    facts = replace(describe(str(disk)), is_hardware=True)
    places = [EfiPlace(partition=1, signature=GUID, extent=Extent(0, 512), loader=rf"\EFI\{n}\x.efi") for n in "abc"]
    found = [efi_start.FoundLoader(place=place, label=place.loader[5]) for place in places]
    made = list[str]()

    def create(_disk: str, _place: EfiPlace, label: str, *, first: bool) -> None:
        assert first
        if label == "a":
            raise MachineRefusal("efibootmgr failed with exit code 5", hint="Look.")
        made.append(label)

    monkeypatch.setattr(efi_start, "processor", lambda: "x64")
    monkeypatch.setattr(efi_start, "describe", lambda _: facts)
    monkeypatch.setattr(efi_start, "_look", lambda *_: (512, found))
    monkeypatch.setattr(efi_start, "read_places", lambda **_: (places[2],))
    monkeypatch.setattr(efi_start, "create_entry", create)
    heard = Heard()
    (words,) = efi_start.tell_firmware(target, heard, is_copy=False)
    assert made == ["b"]
    assert r"'b' (\EFI\b\x.efi of partition 1)" in words
    (notice,) = heard.notices
    assert notice.code == "firmware-not-told"
    assert "'a'" in notice.message
    assert notice.hint.startswith("Look. Then: sudo efibootmgr --create --disk")
    assert notice.hint.count("--create") == 1


def test_a_disk_file_has_no_firmware_to_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(4096))
    monkeypatch.setattr(efi_start, "processor", lambda: "x64")
    heard = Heard()
    assert efi_start.tell_firmware(identify_target(str(disk)), heard, is_copy=False) == ()
    assert efi_start.tell_firmware(None, heard, is_copy=False) == ()
    assert heard.notices == []


@pytest.mark.parametrize("kind", ["copy", "made up"])
def test_what_starts_by_itself_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A copy beside its original is only in the menu; of RAID and network disks the firmware is not told at all."""
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(4096))
    target = replace(identify_target(str(disk)), kind="disk")
    facts = replace(describe(str(disk)), is_hardware=kind == "copy")
    place = EfiPlace(partition=1, signature=GUID, extent=Extent(0, 512), loader=r"\EFI\a\x.efi")
    lines = list[list[str]]()
    monkeypatch.setattr(efi_start, "processor", lambda: "x64")
    monkeypatch.setattr(efi_start, "describe", lambda _: facts)
    monkeypatch.setattr(efi_start, "_look", lambda *_: (512, [efi_start.FoundLoader(place=place, label="a")]))
    monkeypatch.setattr(efi_start, "read_places", lambda **_: ())

    def run(line: list[str], **_: object) -> Done:
        lines.append(line)
        return Done()

    monkeypatch.setattr(efi_entries, "run", run)
    told = efi_start.tell_firmware(target, Heard(), is_copy=True)
    steps = list(efi_start.told_steps(target, ESP_TYPES, is_copy=True))
    if kind == "made up":
        assert (told, steps, lines) == ((), [], [])
        return
    assert lines[0][:2] == ["efibootmgr", "--create-only"]
    assert "only when chosen there" in told[0]
    assert "stays as it is" in steps[0]


class Done:
    """A program that succeeded."""

    def require_success(self, *, hint: str) -> None:
        """It did, so nobody needs a hint."""
        assert hint
