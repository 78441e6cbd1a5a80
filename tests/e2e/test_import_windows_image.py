"""Folders laid out as Windows' own backup become whole disks: tables, volumes, files; and what is guessed is said."""

import hashlib
import json
import os
import random
import shutil
import subprocess
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from stillframe.capture.foreign import Importable, ImportOptions, find_importable
from stillframe.errors import DiskFormatError, SourceInUse, StillframeError, UsageError
from stillframe.testing.command_line import call, init_own
from stillframe.testing.disk_files import DATA_STATE, Below, build_vhd, held_by_qemu
from stillframe.testing.tools import run_tool
from stillframe.testing.volumes_windows import hash_tree, mounted_ntfs
from stillframe.testing.windows_backup import (
    MIB,
    MadeVolume,
    boot_store,
    gpt_device,
    make_volume,
    mbr_device,
    mounted_gpt,
    mounted_mbr,
    specs,
    system_hive,
    write_backup,
)

DISK = "5A1B0C2D-1111-4222-8333-0A0B0C0D0E0F"
ESP, WINDOWS, RECOVERY = (f"a0b1c2d{n}-0000-4000-8000-112233445566" for n in (1, 2, 3))
ESP_PART, WINDOWS_PART, RECOVERY_PART = (f"D0C1B2A{n}-9999-4999-9999-665544332211" for n in (1, 2, 3))
SYSTEM, OLD_WINDOWS, DATA = (f"9b9cfbc{n}-36a0-11e9-a80b-806e6f6e6963" for n in (3, 4, 5))
SIGNATURE, OTHER_SIGNATURE = 0x5EADBEEF, 0x0BADCAFE
HIVE = "Windows/System32/config/SYSTEM"
GPT_TYPES = {
    "esp": "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
    "msr": "E3C9E316-0B5C-4DB8-817D-F92DF00215AE",
    "basic": "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7",
    "recovery": "DE94BBA4-06D1-4D40-A16A-BFD50179D6AC",
}
DATE = "Backup 2026-05-04 031500"


@dataclass
class Case:
    """A folder, and the volumes that must come back where they were."""

    folder: Path
    volumes: list[MadeVolume]

    @property
    def backup(self) -> Path:
        return self.folder / "PC-ANNA" / DATE


def letters() -> dict[str, bytes]:
    source = random.Random(7)
    return {f"Users/Anna/letter {n}.txt": source.randbytes(n * 3000) for n in range(1, 5)}


def finish(folder: Path, volumes: list[MadeVolume], ending: str, padding: int = 0) -> Case:
    """The other files that lie in such a folder."""
    computer = folder / "WindowsImageBackup" / "PC-ANNA"
    for name in ("Catalog", "SPPMetadataCache"):
        (computer / name).mkdir(parents=True)
    (computer / "MediaId").write_bytes(bytes(16))
    (computer / "SPPMetadataCache" / "{0c2d9e0f-97c3-4a3f-90a5-64e7e4b14a0e}").write_bytes(b"x")
    write_backup(computer / DATE, volumes, ending=ending, padding=padding)
    return Case(folder.joinpath("WindowsImageBackup"), volumes)


@pytest.fixture(scope="module")
def gpt_case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A disk that starts by UEFI, as Windows 10 sets it up; saved in VHDX files."""
    folder = tmp_path_factory.mktemp("gpt")
    names = {ESP: ESP_PART, WINDOWS: WINDOWS_PART, RECOVERY: RECOVERY_PART}
    devices = {f"\\??\\Volume{{{guid}}}": mounted_gpt(part) for guid, part in names.items()}
    store = boot_store(
        gpt_device(DISK, ESP_PART), gpt_device(DISK, WINDOWS_PART), recovery=gpt_device(DISK, RECOVERY_PART)
    )
    volumes = [
        MadeVolume(
            guid=ESP, image=folder / "esp", start=MIB, size=36 * MIB, filesystem="vfat",
            files={"EFI/Microsoft/Boot/BCD": store, "EFI/Microsoft/Boot/bootmgfw.efi": b"MZ"},
        ),
        MadeVolume(
            guid=WINDOWS, image=folder / "windows", start=(1 + 36 + 16) * MIB, size=24 * MIB, letter="C:",
            files={HIVE: system_hive(devices), **letters()},
        ),
        MadeVolume(
            guid=RECOVERY, image=folder / "recovery", start=(1 + 36 + 16 + 24) * MIB, size=8 * MIB,
            files={"Recovery/WindowsRE/Winre.wim": b"MSWIM"},
        ),
    ]  # fmt: skip
    return finish(folder, [make_volume(one) for one in volumes], "vhdx")


@pytest.fixture(scope="module")
def mbr_case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A disk that starts by BIOS, as Windows 7 sets it up; saved in VHD files whose partitions are larger."""
    folder = tmp_path_factory.mktemp("mbr")
    starts = {SYSTEM: MIB, OLD_WINDOWS: 13 * MIB}
    devices = {f"\\??\\Volume{{{guid}}}": mounted_mbr(SIGNATURE, start) for guid, start in starts.items()}
    store = boot_store(mbr_device(SIGNATURE, MIB), mbr_device(SIGNATURE, 13 * MIB))
    volumes = [
        MadeVolume(
            guid=SYSTEM, image=folder / "system", start=0, size=8 * MIB,
            files={"bootmgr": b"code", "Boot/BCD": store},
        ),
        MadeVolume(
            guid=OLD_WINDOWS, image=folder / "windows", start=0, size=24 * MIB, letter="C:",
            files={HIVE: system_hive(devices), **letters()},
        ),
    ]  # fmt: skip
    return finish(folder, [make_volume(one) for one in volumes], "vhd", padding=MIB // 2)


@pytest.fixture(scope="module")
def silent(tmp_path_factory: pytest.TempPathFactory) -> MadeVolume:
    """A Windows that says nothing of any place."""
    image = tmp_path_factory.mktemp("silent") / "windows"
    return make_volume(MadeVolume(WINDOWS, image, 0, 8 * MIB, letter="C:", files={HIVE: system_hive({})}))


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return init_own(tmp_path, monkeypatch)


def linked(case: Case, target: Path) -> Case:
    """The same folder at another place; no file in it may be written to, only replaced."""
    shutil.copytree(case.folder, target / "WindowsImageBackup", copy_function=os.link)
    return Case(target / "WindowsImageBackup", case.volumes)


@pytest.fixture
def gpt_copy(gpt_case: Case, tmp_path: Path) -> Case:
    return linked(gpt_case, tmp_path / "copy")


@pytest.fixture
def mbr_copy(mbr_case: Case, tmp_path: Path) -> Case:
    return linked(mbr_case, tmp_path / "copy")


def replace_file(path: Path, contents: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(contents)


def opened(path: Path) -> Importable:
    return find_importable(str(path), ImportOptions())


def told(found: Importable) -> str:
    """Every notice of what was found, in lines."""
    notices = [*found.notices, *(notice for source in found.sources for notice in source.notices)]
    return "\n".join(f"{notice.code}: {notice.message} | {notice.hint}" for notice in notices)


def table(disk: Path) -> dict[str, Any]:
    return dict(json.loads(run_tool("sfdisk", "-J", str(disk)))["partitiontable"])


def placed(disk: Path, volume: MadeVolume, start: int) -> bool:
    """Whether the bytes of a volume are those of the disk there, by ``cmp``."""
    done = subprocess.run(["cmp", "-i", f"0:{start}", "-n", str(volume.size), volume.image, disk], check=False)
    return done.returncode == 0


def written(found: Importable, number: int, target: Path) -> Path:
    """A disk that was found as a raw file, holes left out."""
    reader = found.sources[number].reader
    with target.open("wb") as file:
        file.truncate(reader.size)
        for start in range(0, reader.size, MIB):
            piece = reader.read_at(start, min(MIB, reader.size - start))
            if piece.strip(b"\0"):
                file.seek(start)
                file.write(piece)
    return target


def restored(folder: Path, target: Path, *options: str) -> str:
    done = call("import", folder, "--json", *options)
    assert done.exit_code == 0, done.output + done.errors
    back = call("restore", done.result["image"], target)
    assert back.exit_code == 0, back.output + back.errors
    return done.output


def same_files(disk: Path, volume: MadeVolume, start: int, tmp_path: Path) -> None:
    """The files of a restored NTFS are those of the volume as it was made, by ntfs-3g."""
    cut = tmp_path / "cut.ntfs"
    run_tool("dd", f"if={disk}", f"of={cut}", "bs=64K", f"skip={start >> 16}", f"count={volume.size >> 16}",
             "conv=sparse", "status=none")  # fmt: skip
    run_tool("ntfsfix", "-n", str(cut))
    with mounted_ntfs(cut, tmp_path / "mounted", "ro") as place:
        found = hash_tree(place)
    for path, contents in volume.files.items():
        assert found[path] == hashlib.sha256(contents).hexdigest(), path


@pytest.mark.usefixtures("repository")
def test_a_gpt_disk_comes_back_with_its_ids(gpt_case: Case, tmp_path: Path) -> None:
    back = tmp_path / "back.raw"
    output = restored(gpt_case.folder.parent, back, "--all-sectors")
    assert "No problems found" in run_tool("sgdisk", "-v", str(back))
    found = table(back)
    assert (found["label"], found["id"]) == ("gpt", DISK)
    parts = [(one["start"] * 512, one["size"] * 512, one["type"]) for one in found["partitions"]]
    esp, windows, recovery = gpt_case.volumes
    assert parts == [
        (esp.start, esp.size, GPT_TYPES["esp"]), (37 * MIB, 16 * MIB, GPT_TYPES["msr"]),
        (windows.start, windows.size, GPT_TYPES["basic"]), (recovery.start, recovery.size, GPT_TYPES["recovery"]),
    ]  # fmt: skip
    uuids = [one["uuid"] for one in found["partitions"]]
    assert [uuids[0], *uuids[2:]] == [ESP_PART, WINDOWS_PART, RECOVERY_PART]
    assert found["partitions"][3]["attrs"] == "RequiredPartition GUID:63"
    assert all(placed(back, one, one.start) for one in gpt_case.volumes)
    assert "layout guessed" in output
    assert "where the boot sector says" in output
    assert run_tool("sfdisk", "--verify", str(back)).count("No errors detected") == 1


@pytest.mark.usefixtures("repository")
def test_an_mbr_disk_comes_back_with_its_signature(mbr_case: Case, tmp_path: Path) -> None:
    back = tmp_path / "back.raw"
    output = restored(mbr_case.folder, back)
    found = table(back)
    assert (found["label"], found["id"]) == ("dos", "0x5eadbeef")
    parts = [(one["start"] * 512, one["size"] * 512, one["type"]) for one in found["partitions"]]
    system, windows = mbr_case.volumes
    assert parts == [(MIB, system.size, "7"), (13 * MIB, windows.size, "7")]
    assert [one.get("bootable") for one in found["partitions"]] == [True, None]
    assert run_tool("sfdisk", "--verify", str(back)).count("No errors detected") == 1
    same_files(back, windows, 13 * MIB, tmp_path)
    assert "bootrec /fixmbr" in output
    with back.open("rb") as file:
        assert not any(file.read(440))


@pytest.mark.usefixtures("repository")
def test_used_maps_go_by_the_volumes_in_the_files(gpt_case: Case, tmp_path: Path) -> None:
    back = tmp_path / "back.raw"
    restored(gpt_case.backup, back)
    same_files(back, gpt_case.volumes[1], gpt_case.volumes[1].start, tmp_path)
    again = call("import", gpt_case.backup, "--json")
    assert again.result["kind"] == "incremental"
    assert call("verify", again.result["image"]).exit_code == 0


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_any_folder_on_the_way_may_be_named(gpt_case: Case, depth: int) -> None:
    path = [gpt_case.backup, gpt_case.backup.parent, gpt_case.folder, gpt_case.folder.parent][depth]
    with opened(path) as found:
        assert found.format_name == "WindowsImageBackup"
        assert found.path == str(gpt_case.backup if depth == 0 else gpt_case.backup.parent)
        assert (found.machine_name, found.made) == ("PC-ANNA", datetime(2026, 5, 4, 3, 15, tzinfo=UTC))
        assert found.notices == ()
        assert len(found.sources) == 1
        assert found.sources[0].stayed_still()


def test_without_any_record_the_usual_order_is_guessed(silent: MadeVolume, tmp_path: Path) -> None:
    esp = MadeVolume(ESP, tmp_path / "esp", 0, 36 * MIB, filesystem="vfat",
                     files={"EFI/Microsoft/Boot/bootmgfw.efi": b"MZ"})  # fmt: skip
    case = finish(tmp_path, [silent, make_volume(esp)], "vhd")
    with opened(case.folder) as found:
        disk = written(found, 0, tmp_path / "disk.raw")
        said = told(found)
    for words in ("a GPT, as a volume holds boot files", "lay in the usual order", "GUID was made anew", "reserved"):
        assert words in said
    assert "No problems found" in run_tool("sgdisk", "-v", str(disk))
    parts = [(one["start"] * 512, one["type"]) for one in table(disk)["partitions"]]
    assert parts == [(MIB, GPT_TYPES["esp"]), (37 * MIB, GPT_TYPES["msr"]), (53 * MIB, GPT_TYPES["basic"])]
    assert placed(disk, esp, MIB)
    assert placed(disk, silent, 53 * MIB)
    with opened(case.folder) as found:  # what is made anew is the same each time
        assert written(found, 0, tmp_path / "again.raw").read_bytes() == disk.read_bytes()


def test_boot_configuration_data_alone_tells_places(mbr_case: Case, silent: MadeVolume, tmp_path: Path) -> None:
    folder = write_backup(tmp_path / DATE, [silent, mbr_case.volumes[0]], ending="vhdx")
    with opened(folder) as found:
        disk = written(found, 0, tmp_path / "disk.raw")
        assert "usual order" not in told(found)
    assert table(disk)["id"] == "0x5eadbeef"
    assert placed(disk, mbr_case.volumes[0], MIB)
    assert placed(disk, silent, 13 * MIB)


def test_boot_configuration_data_alone_tells_ids(gpt_case: Case, silent: MadeVolume, tmp_path: Path) -> None:
    esp, _, recovery = gpt_case.volumes
    named = MadeVolume(ESP_PART.lower(), esp.image, esp.start, esp.size)
    folder = write_backup(tmp_path / DATE, [silent, named, recovery], ending="vhdx")
    with opened(folder) as found:
        disk = written(found, 0, tmp_path / "disk.raw")
    seen = table(disk)
    assert seen["id"] == DISK
    uuids = {one["start"] * 512: one["uuid"] for one in seen["partitions"]}
    assert (uuids[esp.start], uuids[recovery.start]) == (ESP_PART, RECOVERY_PART)
    assert WINDOWS_PART in uuids.values()


def test_bytes_behind_a_file_system_are_cut_only_where_they_are_zeros(silent: MadeVolume, tmp_path: Path) -> None:
    longer = tmp_path / "longer"
    longer.write_bytes(silent.image.read_bytes() + bytes(MIB - 1) + b"x")
    whole = MadeVolume(WINDOWS, longer, 0, silent.size + MIB)
    folder = write_backup(tmp_path / DATE, [whole], ending="vhd")
    with opened(folder) as found:
        disk = written(found, 0, tmp_path / "disk.raw")
    assert placed(disk, whole, MIB)
    assert table(disk)["partitions"][0]["size"] * 512 == silent.size + MIB


def test_the_place_in_the_file_is_not_that_on_the_disk(silent: MadeVolume, tmp_path: Path) -> None:
    moved = replace(silent, image=tmp_path / "moved")
    raw = bytearray(silent.image.read_bytes())
    raw[0x1C:0x20] = (128).to_bytes(4, "little")
    moved.image.write_bytes(raw)
    folder = write_backup(tmp_path / DATE, [moved], ending="vhdx")
    with opened(folder) as found:
        assert "C: lay in the usual order" in told(found)
        assert placed(written(found, 0, tmp_path / "disk.raw"), moved, MIB)


def test_two_records_of_one_place(silent: MadeVolume, mbr_case: Case, tmp_path: Path) -> None:
    twin = mbr_guid(SIGNATURE, 14 * MIB)
    folder = write_backup(tmp_path / DATE, [*mbr_case.volumes, replace(silent, guid=twin, letter="E:")], ending="vhd")
    with opened(folder) as found:
        disk = written(found, 0, tmp_path / "disk.raw")
        assert f"is said to be at byte {14 * MIB}, which is taken" in told(found)
    assert placed(disk, mbr_case.volumes[1], 13 * MIB)
    assert len(table(disk)["partitions"]) == 3


def mbr_guid(signature: int, start: int) -> str:
    """The name of a volume on an MBR disk, since Windows 10."""
    place = start.to_bytes(8, "little").hex()
    return f"{signature:08x}-0000-0000-{place[:4]}-{place[4:]}"


def test_volumes_of_two_disks_come_as_two(mbr_case: Case, tmp_path: Path) -> None:
    start = 3 * MIB
    data = make_volume(MadeVolume(mbr_guid(OTHER_SIGNATURE, start), tmp_path / "data", 0, 8 * MIB, letter="D:"))
    unknown = make_volume(MadeVolume(DATA, tmp_path / "unknown", 0, 4 * MIB))
    folder = write_backup(tmp_path / DATE, [data, *mbr_case.volumes, unknown], ending="vhd")
    with opened(folder) as found:
        assert [source.facts.path for source in found.sources] == [f"{folder}/disk1", f"{folder}/disk2"]
        assert "which disk 9b9cfbc5" in told(found)
        first, second = (written(found, number, tmp_path / f"disk{number}") for number in (0, 1))
        assert found.machine_name == ""
    assert [table(disk)["id"] for disk in (first, second)] == ["0x5eadbeef", "0x0badcafe"]
    assert placed(second, data, start)
    assert placed(first, unknown, 9 * MIB)  # the gap between the two whose places are known
    assert [one["start"] for one in table(first)["partitions"]] == [2048, 9 * 2048, 13 * 2048]


def test_five_volumes_of_an_mbr_disk_need_logical_partitions(mbr_case: Case, tmp_path: Path) -> None:
    one = make_volume(MadeVolume(DATA, tmp_path / "data", 0, 2 * MIB))
    more = [MadeVolume(f"{DATA[:-1]}{number}", one.image, 0, one.size) for number in range(4)]
    folder = write_backup(tmp_path / DATE, [*mbr_case.volumes, *more], ending="vhd")
    with opened(folder) as found:
        disk = written(found, 0, tmp_path / "disk.raw")
    parts = table(disk)["partitions"]
    assert [part["type"] for part in parts].count("f") == 1
    assert [part["type"] for part in parts].count("7") == 6
    assert run_tool("sfdisk", "--verify", str(disk)).count("No errors detected") == 1
    starts = [part["start"] * 512 for part in parts if part["size"] * 512 == one.size]
    assert len(starts) == 4
    assert all(placed(disk, one, start) for start in starts)


def test_the_newest_whole_backup_is_taken(gpt_copy: Case) -> None:
    computer = gpt_copy.backup.parent
    newer = computer / "Backup 2026-06-01 000000"
    shutil.copytree(gpt_copy.backup, newer, copy_function=os.link)
    (computer / "SPPMetadataCache" / "{11111111-97c3-4a3f-90a5-64e7e4b14a0e}").write_bytes(b"x")
    with opened(gpt_copy.folder) as found:
        assert found.made == datetime(2026, 6, 1, tzinfo=UTC)
        assert f"older: {DATE} | To import one, name it: {gpt_copy.backup}" in told(found)
        assert "Windows kept 2 versions" in told(found)
    (newer / f"{WINDOWS}.vhdx").unlink()
    with opened(gpt_copy.folder) as found:
        assert found.made == datetime(2026, 5, 4, 3, 15, tzinfo=UTC)
        assert "newer, and files of it are missing: Backup 2026-06-01 000000" in told(found)


def test_names_in_capitals_and_other_encodings(gpt_copy: Case) -> None:
    backup = gpt_copy.backup
    for path in list(backup.iterdir()):
        path.rename(backup / path.name.upper())
    for raw in (
        b"\xff\xfe" + specs(gpt_copy.volumes).encode("utf-16-le"), specs(gpt_copy.volumes).encode(),
        b"\xef\xbb\xbf<?xml version='1.0' encoding='utf-16'?>" + specs(gpt_copy.volumes).encode(),
    ):  # fmt: skip
        replace_file(backup / "BACKUPSPECS.XML", raw)
        capitals = gpt_copy.folder.rename(gpt_copy.folder.with_name("WINDOWSIMAGEBACKUP"))
        with opened(capitals.parent) as found:
            assert "does not list" not in told(found)
            assert found.sources[0].facts.model == "disk of C:"
        capitals.rename(gpt_copy.folder)


def test_the_volume_of_uefi_may_have_a_name_of_its_own(gpt_copy: Case) -> None:
    (gpt_copy.backup / f"{ESP}.vhdx").rename(gpt_copy.backup / "Esp.vhdx")
    with opened(gpt_copy.folder) as found:
        assert found.sources[0].reader.size == 86 * MIB
        assert found.notices == ()


def test_what_is_not_listed_is_taken_and_said(gpt_copy: Case) -> None:
    replace_file(gpt_copy.backup / "BackupSpecs.xml", specs(gpt_copy.volumes[:2]).encode("utf-16-le"))
    with opened(gpt_copy.folder) as found:
        assert f"does not list it: {RECOVERY}.vhdx" in told(found)
    (gpt_copy.backup / "BackupSpecs.xml").unlink()
    with opened(gpt_copy.folder) as found:
        assert "BackupSpecs.xml is missing" in told(found)
        assert found.sources[0].reader.size == 86 * MIB


def refusal(path: Path, kind: type[StillframeError] = DiskFormatError) -> str:
    with pytest.raises(kind) as caught:
        opened(path)
    return f"{caught.value.message}|{caught.value.hint}"


def test_a_missing_volume_is_named(gpt_copy: Case) -> None:
    (gpt_copy.backup / f"{WINDOWS}.vhdx").unlink()
    found = refusal(gpt_copy.folder)
    assert f"missing: {WINDOWS}.vhdx or .vhd (C:)|Copy them" in found
    assert f"{RECOVERY}.vhdx" in found


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><BackupSpecs>&b;</BackupSpecs>'
OUTSIDE = '<!DOCTYPE x SYSTEM "file:///etc/passwd"><BackupSpecs/>'


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (BOMB.encode("utf-16-le"), "declares a document type"),
        (OUTSIDE.encode(), "declares a document type"),
        (b"<BackupSpecs><Volume Name='..\\..\\x' /></BackupSpecs>", "it names a volume '..\\\\..\\\\x'"),
        (b"<BackupSpecs>", "no element found"),
        (b"<Other/>", "its first element is 'Other'"),
        (b"", "no element found"),
        (b"\xff\xfe\x00", "truncated data"),
        (b"<BackupSpecs>" + b" " * (4 << 20) + b"</BackupSpecs>", "larger than"),
        (b"<BackupSpecs>" + "".join(
            f"<Volume Name='\\\\?\\Volume{{{n:08x}{ESP[8:]}}}\\'/>" for n in range(200)
        ).encode() + b"</BackupSpecs>", "more than 128 volumes"),
    ],
)  # fmt: skip
def test_a_list_that_windows_does_not_write_is_refused(gpt_copy: Case, raw: bytes, words: str) -> None:
    replace_file(gpt_copy.backup / "BackupSpecs.xml", raw)
    found = refusal(gpt_copy.folder)
    assert words in found
    assert "|Copy it again; or take it out" in found


def test_files_that_are_not_those_of_a_volume(gpt_copy: Case, tmp_path: Path) -> None:
    file = gpt_copy.backup / f"{RECOVERY}.vhdx"
    whole = file.read_bytes()
    replace_file(file, whole[: len(whole) // 2])
    assert str(file) in refusal(gpt_copy.folder)
    replace_file(file, bytes(MIB))
    assert "is no VHD or VHDX file" in refusal(gpt_copy.folder)
    raw = tmp_path / "two.raw"
    raw.touch()
    os.truncate(raw, 4 * MIB)
    for script, words in (("label: dos\nsize=2048\nsize=2048\n", "2 partitions"), ("", "no partition table")):
        if script:
            subprocess.run(["sfdisk", "-q", raw], input=script, text=True, check=True)
        else:
            replace_file(raw, bytes(4 * MIB))
        file.unlink()
        run_tool("qemu-img", "convert", "-O", "vhdx", str(raw), str(file))
        assert f"{file} has {words}" in refusal(gpt_copy.folder)


def test_a_vhd_that_was_cut_off(mbr_copy: Case, tmp_path: Path) -> None:
    file = mbr_copy.backup / f"{OLD_WINDOWS}.vhd"
    whole = file.read_bytes()
    replace_file(file, whole[:-512])  # its last sector is a copy of its first
    with opened(mbr_copy.folder) as found:
        assert placed(written(found, 0, tmp_path / "disk.raw"), mbr_copy.volumes[1], 13 * MIB)
    for length in (len(whole) // 2, 4096, 0):
        replace_file(file, whole[:length])
        assert str(file) in refusal(mbr_copy.folder)


def raw_of(file: Path, target: Path) -> bytes:
    """The disk in a file, by qemu-img, with zeros behind it up to a whole block."""
    run_tool("qemu-img", "convert", "-O", "raw", str(file), str(target))
    content = target.read_bytes()
    return content.ljust(-(-len(content) // 65536) * 65536, b"\0")


def test_files_never_lead_out_of_the_folder(gpt_copy: Case, tmp_path: Path) -> None:
    file, elsewhere = gpt_copy.backup / f"{WINDOWS}.vhdx", tmp_path / "elsewhere.vhdx"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    assert f"leads to {elsewhere}, out of the folder" in refusal(gpt_copy.folder)


def test_a_differencing_file_rests_on_one_in_the_folder_only(mbr_copy: Case, tmp_path: Path) -> None:
    file = mbr_copy.backup / f"{OLD_WINDOWS}.vhd"
    base = mbr_copy.backup / f"{DATA}.vhd"
    content = raw_of(file, tmp_path / "content.raw")
    base.write_bytes(build_vhd(content))
    changed = [False] * (len(content) // 512)
    replace_file(file, build_vhd(content, here=changed, below=Below(state=DATA_STATE.hex, name=base.name)))
    with opened(mbr_copy.folder) as found:
        disk = written(found, 0, tmp_path / "disk.raw")
        assert str(base) in found.sources[0].paths
    assert len(table(disk)["partitions"]) == 2
    assert placed(disk, mbr_copy.volumes[1], 13 * MIB)
    outside = mbr_copy.backup.parent / base.name
    base.rename(outside)
    replace_file(file, build_vhd(content, here=changed, below=Below(state=DATA_STATE.hex, name=f"..\\{base.name}")))
    assert f"leads to {outside}, out of the folder" in refusal(mbr_copy.folder)


def test_a_backup_in_use_is_refused(gpt_copy: Case) -> None:
    file = gpt_copy.backup / f"{WINDOWS}.vhdx"
    replace_file(file, file.read_bytes())
    with held_by_qemu(file, "vhdx"):
        assert f"{gpt_copy.backup} is in use" in refusal(gpt_copy.folder, SourceInUse)
        with find_importable(str(gpt_copy.folder), ImportOptions(allow_torn=True)) as found:
            assert found.sources[0].consistency == "torn"
            assert not found.sources[0].stayed_still()
    with opened(gpt_copy.folder) as found:
        assert found.sources[0].stayed_still()
        os.utime(gpt_copy.backup / f"{ESP}.vhdx")
        assert not found.sources[0].stayed_still()


def test_several_computers_and_empty_folders(gpt_copy: Case) -> None:
    shutil.copytree(gpt_copy.folder / "PC-ANNA", gpt_copy.folder / "PC-BEN", copy_function=os.link)
    found = refusal(gpt_copy.folder, UsageError)
    assert "backups of 2 computers: PC-ANNA, PC-BEN|Name one of them" in found
    with opened(gpt_copy.folder / "PC-BEN") as one:
        assert one.machine_name == "PC-BEN"
    shutil.rmtree(gpt_copy.folder)
    gpt_copy.folder.mkdir()
    assert "holds no backup" in refusal(gpt_copy.folder)
    assert "neither that of a Clonezilla image nor a WindowsImageBackup" in refusal(
        gpt_copy.folder.parent / "..", UsageError
    )
