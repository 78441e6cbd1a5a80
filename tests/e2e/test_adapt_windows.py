"""A Windows that is restored for another computer: what other programs read in it, and that nothing else changed.

No real Windows was started. Registry files are read by hivexml, NTFS by ntfs-3g, FAT by mtools and The Sleuth Kit.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from stillframe.block import MemoryDisk
from stillframe.errors import UsageError
from stillframe.events import Notice, RecordedEvents
from stillframe.host.esp_files import FatVolume, list_names, read_file
from stillframe.host.pci import parse_controller
from stillframe.jobs.restore import RestoreOptions, RestorePlan, RestoreResult, apply_restore, plan_restore
from stillframe.jobs.restoring.adapting_wishes import read_hardware
from stillframe.jobs.starts.windows_adapting import WindowsHardware
from stillframe.store import LocalStore
from stillframe.testing.hive_builder import build_hive
from stillframe.testing.hive_dump import dump_hive
from stillframe.testing.hive_log_builder import entry, new_log, numbered
from stillframe.testing.job_runs import backup_paths, job_context, make_repository
from stillframe.testing.tools import run_tool
from stillframe.testing.volumes_windows import hash_tree, mounted_ntfs, open_table, place_of, restart_page
from stillframe.testing.windows_adaptable import (
    INF,
    MIB,
    AdaptableDisk,
    build_program,
    build_windows,
    make_driver_folder,
    software_tree,
    system_tree,
)

pytestmark = pytest.mark.root
SYSTEM = {"xp": "WINDOWS/system32/config/SYSTEM", "7": "Windows/system32/config/SYSTEM"}
SYSTEM["10"] = SYSTEM["7"]
VIRTIO = parse_controller("1af4:1042:0100")


class Adapted:
    """A disk that was saved, and what came out of its restore with ``--adapt``."""

    def __init__(self, disk: AdaptableDisk, folder: Path, kind: str, options: RestoreOptions) -> None:
        self.disk, self.folder, self.kind = disk, folder, kind
        self.target = folder / "target"
        self.events = RecordedEvents()
        repository = make_repository(LocalStore(str(folder / "repository")))
        manifest = backup_paths(repository, disk.path).manifest
        self.plan: RestorePlan = plan_restore(
            repository, manifest, 1, str(self.target), repository_folder="", options=options
        )  # fmt: skip
        self.result: RestoreResult = apply_restore(repository, self.plan, job_context(events=self.events))

    @property
    def notices(self) -> list[Notice]:
        return [event for event in self.events.events if isinstance(event, Notice)]

    def files(self, disk: Path) -> dict[str, str]:
        """Every file of Windows' volume by its hash; its registry is put aside as ``NAME.SYSTEM``."""
        volume = self.disk.cut(disk, self.folder / f"{disk.name}.volume")
        with mounted_ntfs(volume, self.folder / "mounted", "ro") as place:
            (self.folder / f"{disk.name}.SYSTEM").write_bytes((place / SYSTEM[self.kind]).read_bytes())
            for path in (place / "Windows" / "Drivers").rglob("*.sys") if (place / "Windows").exists() else ():
                assert path.is_file()
            return hash_tree(place)

    def changed_files(self) -> set[str]:
        """The names of files that are new, gone or other."""
        before, after = self.files(self.disk.path), self.files(self.target)
        return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}

    def registry_changes(self) -> dict[str, str | None]:
        """Keys and values that are new or other, ``None`` for those that are gone."""
        before, after = (
            dict(dump_hive(self.folder / f"{name}.SYSTEM")) for name in (self.disk.path.name, self.target.name)
        )
        return {name: after.get(name) for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def adapt(
    folder: Path,
    kind: str,
    *,
    hardware: WindowsHardware | None = None,
    disk: AdaptableDisk | None = None,
    **more: object,
) -> Adapted:
    made = disk or build_windows(folder / "disk", kind, **more)  # type: ignore[arg-type]
    options = RestoreOptions(adapt=True, hardware=hardware or WindowsHardware())
    return Adapted(made, folder, kind, options)


def known(*controllers: str) -> WindowsHardware:
    return WindowsHardware(controllers=tuple(parse_controller(one) for one in controllers))


def started(*names: str, sets: tuple[int, ...] = (1, 2)) -> Mapping[str, str | None]:
    """A service that starts now and did not, whose override is gone."""
    found: dict[str, str | None] = {}
    for number in sets:
        for name in names:
            path = rf"\ControlSet{number:03}\Services\{name}"
            found |= {rf"{path}\StartOverride": None, rf"{path}\StartOverride:0": None}
    return found


def test_windows_10_starts_the_drivers_that_it_has(tmp_path: Path) -> None:
    done = adapt(tmp_path, "10", hardware=known("8086:2922:0106", "144d:a808:0108", "1000:0054"))
    assert done.changed_files() == {SYSTEM["10"]}
    assert done.registry_changes() == {
        **started("stornvme", "LSI_SAS"),
        r"\ControlSet001\Services\LSI_SAS:Start": "int32:0",
        r"\ControlSet002\Services\LSI_SAS:Start": "int32:0",
    }
    assert "partition 2: disk drivers that Windows has start with it now: stornvme, LSI_SAS" in done.result.changes
    assert not [notice for notice in done.notices if notice.code.startswith("windows")]
    assert any("8086:2922 (SATA), 144d:a808 (NVMe), 1000:0054" in step for step in done.plan.steps)
    assert "adapt-not-proven" in [notice.code for notice in done.plan.notices]


def test_the_rest_of_the_disk_is_as_it_would_be_without(tmp_path: Path) -> None:
    done = adapt(tmp_path, "10", fallback=True)
    before, after = done.disk.path.read_bytes(), done.target.read_bytes()
    start, end = done.disk.start, done.disk.start + done.disk.size
    assert after[:start] == before[:start]
    assert after[end:] == before[end:]
    assert "controllers-not-known" in [notice.code for notice in done.notices]


def test_the_esp_gets_its_fallback_file_once(tmp_path: Path) -> None:
    done = adapt(tmp_path, "10")
    esp = FatVolume(path=str(done.target), offset=MIB)
    loader = read_file(esp, "/EFI/Microsoft/Boot/bootmgfw.efi")
    assert loader == build_program("amd64", size=70_000)
    assert read_file(esp, "/EFI/Boot/bootx64.efi") == loader
    assert list_names(esp, "/EFI/Boot") == ("bootx64.efi",)
    volume = tmp_path / "esp"
    volume.write_bytes(done.target.read_bytes()[MIB : 37 * MIB])
    run_tool("fsck.fat", "-n", str(volume))
    assert any("fallback boot file was made" in change for change in done.result.changes)


def test_windows_7_knows_ahci_when_it_starts(tmp_path: Path) -> None:
    done = adapt(tmp_path, "7", hardware=known("8086:2922:0106", "144d:a808:0108"))
    hdc = "string:{4D36E96A-E325-11CE-BFC1-08002BE10318}"
    critical = r"\ControlSet001\Control\CriticalDeviceDatabase"
    expected: dict[str, str | None] = {
        rf"\ControlSet001\Services\{name}:Start": "int32:0" for name in ("msahci", "iaStorV", "pciide")
    }
    for device, service in {"PCI#CC_0106": "msahci", "PCI#CC_010601": "msahci", "PCI#CC_0101": "pciide"}.items():
        path = rf"{critical}\{device}"
        expected |= {path: "", f"{path}:Service": f"string:{service}", f"{path}:ClassGUID": hdc}
    assert done.changed_files() == {SYSTEM["7"]}
    assert done.registry_changes() == expected
    missing = [notice for notice in done.notices if notice.code == "windows-no-driver"]
    assert [("144d:a808 (NVMe)" in notice.message, "--drivers" in notice.hint) for notice in missing] == [(True, True)]


def test_windows_xp_gets_its_ide_drivers_and_the_controllers_that_they_are_for(tmp_path: Path) -> None:
    done = adapt(tmp_path, "xp", architecture="x86", hardware=known("8086:7111:0101"))
    hdc = "string:{4D36E96A-E325-11CE-BFC1-08002BE10318}"
    critical, pciide = r"\ControlSet001\Control\CriticalDeviceDatabase", r"\ControlSet001\Services\pciide"
    expected: dict[str, str | None] = {
        r"\ControlSet001\Services\IntelIde:Start": "int32:0", pciide: "", f"{pciide}:Type": "int32:1",
        f"{pciide}:Start": "int32:0", f"{pciide}:ErrorControl": "int32:1",
        f"{pciide}:ImagePath": r"expand:system32\drivers\pciide.sys", f"{pciide}:Group": "string:System Bus Extender",
        rf"{critical}\PCI#CC_0101:Service": "string:pciide",
    }  # fmt: skip
    names = {"Primary_IDE_Channel": "atapi", "Secondary_IDE_Channel": "atapi", "*PNP0600": "atapi"}
    names |= {f"PCI#VEN_8086&DEV_{device}": "intelide" for device in (7010, 7111, 7199)}
    for device, service in names.items():
        path = rf"{critical}\{device}"
        expected |= {path: "", f"{path}:Service": f"string:{service}", f"{path}:ClassGUID": hdc}
    assert done.changed_files() == {SYSTEM["xp"]}
    assert done.registry_changes() == expected


def with_driver(folder: Path, **more: str | bool) -> WindowsHardware:
    return read_hardware(
        "disk.raw", ["1af4:1042:0100"], os.path.relpath(make_driver_folder(folder / "drivers", **more)), adapt=True  # type: ignore[arg-type]
    )  # fmt: skip


NEW_SERVICE = {
    "": "", ":Type": "int32:1", ":Start": "int32:0", ":ErrorControl": "int32:1",
    ":ImagePath": r"expand:system32\drivers\fast.sys", ":Group": "string:SCSI miniport",
    r"\Parameters": "", r"\Parameters\PnpInterface": "", r"\Parameters\PnpInterface:5": "int32:1",
    r"\Parameters:BusType": "int32:10",
}  # fmt: skip


def test_windows_10_gets_a_driver_from_a_folder(tmp_path: Path) -> None:
    done = adapt(tmp_path, "10", hardware=with_driver(tmp_path))
    package = "Windows/Drivers/Stillframe/fast"
    assert done.changed_files() == {
        SYSTEM["10"], "Windows/system32/drivers/fast.sys", f"{package}/Fast.INF", f"{package}/FAST.sys",
        f"{package}/fast.cat",
    }  # fmt: skip
    driver = build_program("amd64", size=8192)
    with mounted_ntfs(done.folder / "target.volume", tmp_path / "look", "ro") as place:
        assert (place / "Windows/system32/drivers/fast.sys").read_bytes() == driver
    changes = done.registry_changes()
    for number in (1, 2):
        for name, value in NEW_SERVICE.items():
            assert changes.pop(rf"\ControlSet{number:03}\Services\fast{name}") == value
    label, database = "fast.inf_amd64_0000000000000000", r"\DriverDatabase"
    guid = bytes.fromhex("7be9364d25e3ce11bfc108002be10318")
    device = "VEN_1AF4&DEV_1042&REV_01"
    for name, value in {
        r"\DriverInfFiles\fast.inf": "", r"\DriverInfFiles\fast.inf:(default)": f"string-list:{label}",
        r"\DriverInfFiles\fast.inf:Active": f"string:{label}",
        r"\DriverInfFiles\fast.inf:Configurations": "string-list:fast_conf",
        rf"\DeviceIds\PCI\{device}": "", rf"\DeviceIds\PCI\{device}:fast.inf": "binary:01ff0000",
        rf"\DriverPackages\{label}": "",
        rf"\DriverPackages\{label}:Version": "binary:" + (bytes.fromhex("00ff090000000000") + guid + bytes(24)).hex(),
        rf"\DriverPackages\{label}\Configurations": "", rf"\DriverPackages\{label}\Configurations\fast_conf": "",
        rf"\DriverPackages\{label}\Configurations\fast_conf:ConfigFlags": "int32:0",
        rf"\DriverPackages\{label}\Configurations\fast_conf:Service": "string:fast",
        rf"\DriverPackages\{label}\Descriptors": "", rf"\DriverPackages\{label}\Descriptors\PCI": "",
        rf"\DriverPackages\{label}\Descriptors\PCI\{device}": "",
        rf"\DriverPackages\{label}\Descriptors\PCI\{device}:Configuration": "string:fast_conf",
    }.items():  # fmt: skip
        assert changes.pop(database + name) == value
    assert {name.split("\\")[3] for name in changes} == {"stornvme", "LSI_SAS", "LSI_SAS:Start"}
    assert any("fast.sys for 1af4:1042 (SCSI)" in change for change in done.result.changes)
    assert [notice.hint for notice in done.notices if "pnputil" in notice.hint]
    assert any("with a driver from fast.inf" in step for step in done.plan.steps)


def test_windows_7_gets_a_driver_from_a_folder(tmp_path: Path) -> None:
    inf = INF.replace("PCI\\VEN_1AF4&DEV_1042&REV_01, ", "PCI\\VEN_1AF4&DEV_1042, ")
    done = adapt(tmp_path, "7", hardware=with_driver(tmp_path, inf=inf, encoding="latin-1"))
    assert "Windows/system32/drivers/fast.sys" in done.changed_files()
    changes = done.registry_changes()
    for name, value in NEW_SERVICE.items():
        assert changes[rf"\ControlSet001\Services\fast{name}"] == value
    device = r"\ControlSet001\Control\CriticalDeviceDatabase\PCI#VEN_1AF4&DEV_1042"
    assert changes[f"{device}:Service"] == "string:fast"
    assert changes[f"{device}:ClassGUID"] == "string:{4D36E97B-E325-11CE-BFC1-08002BE10318}"
    assert not [name for name in changes if "DriverDatabase" in name]


@pytest.mark.variants(1)
@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"architecture": "arm64"}, "FAST.sys is for arm64, and this Windows is amd64"),
        ({"signed": False}, "carries no signature"),
        ({"inf": INF.replace("NTamd64", "NTarm64")}, "has no driver for 1af4:1042 (SCSI) and amd64"),
        ({"inf": INF.replace(".Services]", ".Elsewhere]")}, "section [Fast_Install] has no services"),
    ],
)
def test_a_driver_that_does_not_fit_is_not_used(tmp_path: Path, more: dict[str, str | bool], words: str) -> None:
    done = adapt(tmp_path, "10", hardware=with_driver(tmp_path, **more))
    assert done.changed_files() == {SYSTEM["10"]}
    said = [notice.message for notice in done.notices]
    assert any(words.lower() in message.lower() for message in said), said
    assert any("no driver for the disk controller 1af4:1042" in message for message in said)


def test_what_is_wished_wrongly_is_refused_at_once(tmp_path: Path) -> None:
    drivers = make_driver_folder(tmp_path / "drivers")
    (tmp_path / "empty").mkdir()
    for controllers, folder, words in (
        (["8086:2922"], str(drivers), "no driver in .* is for a disk controller of the target"),
        ([], str(drivers), "not known which disk controllers"),
        (["8086:2922"], str(tmp_path / "empty"), "no .inf file"),
        (["8086:2922"], str(tmp_path / "nowhere"), "is no folder"),
        (["intel"], "", "'intel' is no controller"),
    ):
        with pytest.raises(UsageError, match=words):
            read_hardware("disk.raw", controllers, folder, adapt=True)
    with pytest.raises(UsageError, match="go with '--adapt'"):
        read_hardware("disk.raw", ["8086:2922"], "", adapt=False)


def test_a_registry_that_was_not_closed_is_changed_with_what_waits_in_its_logs(tmp_path: Path) -> None:
    """As most are since Windows 8.1. What waits is one driver more; its own entries are not applied once again."""
    tree = system_tree("10")
    old = build_hive({"Select": {"Current": 1}} | {"DriverDatabase": tree["DriverDatabase"]})
    grown = numbered(build_hive(tree), 60, 60)
    middle = grown[:4096] + old[4096:].ljust(len(grown) - 4096, b"\0")
    pages = [(at - 4096, grown[at : at + 4096]) for at in range(4096, len(grown), 4096)]
    logs = (
        new_log(grown, [entry(middle, grown, 58, pages=pages[:2]), entry(middle, grown, 59, pages=pages)], 58),
        new_log(old, [entry(old, old, 57, pages=[(0, old[4096:8192])])], 57),
    )  # fmt: skip
    extra = {f"Windows/system32/config/SYSTEM.LOG{number}": log for number, log in enumerate(logs, 1)}
    disk = build_windows(tmp_path / "disk", "10", system=numbered(old, 58, 57), extra=extra, fallback=True)
    done = adapt(tmp_path, "10", hardware=known("144d:a808:0108", "1000:0054"), disk=disk)
    assert done.changed_files() == {SYSTEM["10"]}
    plain = tmp_path / "plain"
    plain.mkdir()
    closed = adapt(plain, "10", hardware=known("144d:a808:0108", "1000:0054"))
    assert closed.changed_files() == {SYSTEM["10"]}
    expected, found = (dict(dump_hive(one.folder / "target.SYSTEM")) for one in (closed, done))
    assert found == expected
    head = (done.folder / "target.SYSTEM").read_bytes()[4:12]
    assert head[:4] == head[4:] == (61).to_bytes(4, "little")
    assert "partition 2: what waited in the logs of its registry was written to it (3 entries)" in done.result.changes


def edit_ntfs(disk: AdaptableDisk, change: bytes, record: int) -> None:
    """Write over the beginning of a file of Windows' volume."""
    contents = bytearray(disk.path.read_bytes())
    volume = MemoryDisk(bytes(contents[disk.start : disk.start + disk.size]))
    at = disk.start + place_of(volume, record).start
    contents[at : at + len(change)] = change
    disk.path.write_bytes(contents)


def mark_dirty(disk: AdaptableDisk) -> None:
    contents = bytearray(disk.path.read_bytes())
    table = open_table(MemoryDisk(bytes(contents[disk.start : disk.start + disk.size])))
    at = disk.start + int(table.stream.disk_starts[0]) + 3 * table.boot.record_size
    flags = contents.index(b"\x70\0\0\0", at + 56) + 24 + 10  # $VOLUME_INFORMATION, resident, its flags
    contents[flags] |= 1
    disk.path.write_bytes(contents)


def leave_open(disk: AdaptableDisk) -> None:
    edit_ntfs(disk, restart_page(flags=0) * 2, 2)


@pytest.mark.variants(3)
@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("dirty", "its volume was not closed"),
        ("open", "its volume was not closed"),
        ("hibernated", "hibernated"),
        ("dirty registry", "it was not closed, and there is no log of it"),
        ("no registry", "its registry is not there, or is none"),
        ("unknown", "Windows 4.0, which is not known here"),
        ("no control set", "no control set"),
        ("processor", "for which processors"),
    ],
)
def test_a_windows_that_must_not_be_changed_is_left_and_that_is_said(tmp_path: Path, case: str, words: str) -> None:
    tree, extra, system = system_tree("10"), dict[str, bytes](), build_hive(system_tree("10"))
    if case == "dirty registry":
        system = build_hive(tree, dirty=True)
    if case == "no registry":
        system = b"regf" + bytes(3000)
    if case == "no control set":
        system = build_hive({**tree, "Select": {"Current": 7}})
    if case == "unknown":
        old = software_tree("xp") | {"Microsoft": {"Windows NT": {"CurrentVersion": {"CurrentVersion": "4.0"}}}}  # type: ignore[operator]
        extra["Windows/system32/config/SOFTWARE"] = build_hive(old)
    if case == "processor":
        extra["Windows/system32/cmd.exe"] = b"no program"
    if case == "hibernated":
        extra["hiberfil.sys"] = b"HIBR" + bytes(8192)
    disk = build_windows(tmp_path / "disk", "10", system=system, extra=extra, fallback=True)
    {"dirty": mark_dirty, "open": leave_open}.get(case, lambda _: None)(disk)
    done = adapt(tmp_path, "10", disk=disk)
    said = [notice for notice in done.notices if notice.code == "windows-not-adapted"]
    assert len(said) == 1
    assert words in said[0].message
    assert said[0].hint
    before, after = disk.path.read_bytes(), done.target.read_bytes()
    if case in ("dirty", "open", "hibernated"):
        assert after[disk.start : disk.start + disk.size] == before[disk.start : disk.start + disk.size]
    else:
        assert done.changed_files() == set()


def test_a_link_on_the_way_leads_nowhere(tmp_path: Path) -> None:
    """What a volume says of other places is not followed: a link in the place of the drivers' folder."""
    outside = tmp_path / "outside"
    outside.mkdir()
    disk = build_windows(tmp_path / "disk", "10")
    volume = disk.cut(disk.path, tmp_path / "volume")
    with mounted_ntfs(volume, tmp_path / "mounted") as place:
        drivers = place / "Windows" / "system32" / "drivers"
        for path in drivers.iterdir():
            path.unlink()
        drivers.rmdir()
        os.symlink(outside, drivers)
    contents = bytearray(disk.path.read_bytes())
    contents[disk.start : disk.start + disk.size] = volume.read_bytes()
    disk.path.write_bytes(contents)
    done = adapt(tmp_path, "10", disk=disk, hardware=with_driver(tmp_path))
    assert list(outside.iterdir()) == []
    assert any("is a link or a folder" in notice.message for notice in done.notices)
    assert done.changed_files() == set(), "half of it is not taken over"
