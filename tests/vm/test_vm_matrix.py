"""Debian systems of many layouts come back on other disks and other machines, and say so from inside."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stillframe.block.file import open_file_reader
from stillframe.capture.unlocking import VolumeKey
from stillframe.disk import Partition, read_layout
from stillframe.disk.converting import StartsBy
from stillframe.errors import TargetError
from stillframe.events import Event, Notice
from stillframe.jobs.conversions.conversion import ConvertWish
from stillframe.jobs.restore import RestoreOptions, RestoreResult, apply_restore, plan_restore
from stillframe.jobs.saving.unlocking import Unlocking
from stillframe.jobs.starts.unlocking_inside import unlock_image
from stillframe.repo.records import Manifest
from stillframe.repo.repository import Repository
from stillframe.store.local import LocalStore
from stillframe.systems.initrd import read_early_files
from stillframe.testing.boot_layouts import (
    APART,
    BTRFS,
    DRACUT,
    EXTLINUX,
    LUKS,
    LVM,
    MBR,
    MIB,
    NARROW,
    NARROW_DRACUT,
    PLAIN,
    SIZE,
    SYSTEMD_BOOT,
    XFS,
    BootLayout,
    layout_disk,
)
from stillframe.testing.boot_reports import RIGHT, Report, start_and_report
from stillframe.testing.debian_guest import make_disk
from stillframe.testing.job_runs import backup_paths, job_context, make_repository, restore
from stillframe.testing.tools import run_tool, unmount

pytestmark = [pytest.mark.root, pytest.mark.vm]
LARGER, SMALLER = 3 << 30, 1300 * MIB
DRIVERS = {
    "virtio": "virtio-pci", "ahci": "ahci", "nvme": "nvme", "virtio-scsi": "virtio-pci", "pvscsi": "vmw_pvscsi",
    "megasas": "megaraid_sas",
}  # fmt: skip
LOADERS = {"extlinux": "changed"}
"""What is installed anew when its volume is resized, because it is known by its blocks."""
NARROW_LVM = BootLayout(name="narrow-lvm", inside="lvm", any_disk=False)
NARROW_LUKS = BootLayout(name="narrow-luks", parts=("bios", "esp", "boot", "root"), inside="luks", any_disk=False)
NARROW_DRACUT_LVM = BootLayout(name="narrow-dracut-lvm", initrd="dracut", inside="lvm", any_disk=False)
EARLY_KEY = "cryptroot/keyfiles/root_crypt.key"
MBR_APART = BootLayout(name="mbr-apart", scheme="dos", parts=("boot", "swap", "root"), filesystem="xfs")
MBR_BTRFS = BootLayout(name="mbr-btrfs", scheme="dos", parts=("root",), filesystem="btrfs")
UEFI_APART = BootLayout(name="uefi-apart", parts=("esp", "boot", "root"))
DISKS = {"virtio": "vda", "nvme": "nvme0n1"}


class Saved:
    """Images of disks of each layout, made when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.repository: Repository = make_repository(LocalStore(str(folder / "repository")), chunk_size=262_144)
        self._made: dict[str, Manifest] = {}

    def image(self, layout: BootLayout) -> Manifest:
        """The image of a disk of this layout."""
        if layout.name not in self._made:
            self._made[layout.name] = backup_paths(self.repository, layout_disk(layout)).manifest
        return self._made[layout.name]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return Saved(tmp_path_factory.mktemp("matrix"))


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    """A disk that holds other bytes already, in its first and last MiB; gone afterwards."""
    path = tmp_path / "target.img"
    yield path
    path.unlink(missing_ok=True)


def used_disk(path: Path, size: int) -> Path:
    """A disk with other bytes where tables lie."""
    make_disk(path, size)
    with path.open("r+b") as file:
        for place in (0, size - MIB):
            file.seek(place)
            file.write(b"\xee" * MIB)
    return path


def partition_of(disk: Path, number: int) -> Partition:
    with open_file_reader(str(disk)) as reader:
        layout = read_layout(reader)
    return next(part for part in layout.partitions if part.number == number)


def outer_id(disk: Path, number: int) -> str:
    """The id of what lies in a partition, by util-linux: of a physical volume, or of LUKS."""
    place = partition_of(disk, number).extent
    return run_tool(
        "blkid", "-p", "-O", str(place.start), "-S", str(place.size), "-s", "UUID", "-o", "value", str(disk)
    )


def restore_with_key(saved: Saved, layout: BootLayout, target: Path, options: RestoreOptions) -> RestoreResult:
    """Restore a disk whose encrypted root may be opened: by the key that its initrd has."""
    manifest, keys = saved.image(layout), tuple[VolumeKey, ...]()
    used_disk(target, SIZE)
    plan = plan_restore(saved.repository, manifest, 1, str(target), repository_folder="", options=options)
    if layout.inside == "luks":
        key = target.with_suffix(".key")
        key.write_bytes(early_key(layout, target.with_suffix(".boot")))
        keys = unlock_image(saved.repository, plan, Unlocking(files=(str(key),)))
    notices: list[Event] = []

    class Heard:
        def emit(self, event: Event) -> None:
            if isinstance(event, Notice):
                notices.append(event)

    result = apply_restore(saved.repository, plan, replace(job_context(events=Heard()), keys=keys))
    print(*result.changes, *notices, sep="\n")  # noqa: T201 - pytest -s shows it
    return result


def be_patient(target: Path) -> None:
    """Let dracut wait longer for a root in LVM: by emulation, 30 seconds may go by before udev has looked at disks."""
    raw = target.read_bytes()
    assert raw.count(b"rd.timeout=30") == 1, "in its boot menu"
    target.write_bytes(raw.replace(b"rd.timeout=30", b"rd.timeout=99"))


def early_key(layout: BootLayout, boot: Path) -> bytes:
    """The key that opens a root, from the initrd in ``/boot``."""
    place = partition_of(layout_disk(layout), layout.number("boot")).extent
    with layout_disk(layout).open("rb") as file:
        file.seek(place.start)
        boot.write_bytes(file.read(place.size))
    names = run_tool("debugfs", "-R", "ls /", str(boot)).split()
    (name,) = [word for word in names if word.startswith("initrd.img")]
    initrd = boot.with_suffix(".initrd")
    run_tool("debugfs", "-R", f"dump /{name} {initrd}", str(boot))
    found = read_early_files(initrd.read_bytes(), (EARLY_KEY,))
    assert found is not None
    return found.contents[EARLY_KEY]


def part_id(disk: Path, number: int) -> str:
    """The PARTUUID of a partition, by util-linux."""
    table = json.loads(run_tool("sfdisk", "--json", str(disk)))["partitiontable"]
    if table["label"] == "gpt":
        return str(table["partitions"][number - 1]["uuid"]).lower()
    return f"{int(table['id'], 16):08x}-{number:02x}"


def start(target: Path, layout: BootLayout, firmware: str, *, bus: str = "virtio", starts: str = "same") -> Report:
    """Start a restored disk. What its system says must agree with what is on the disk."""
    report = start_and_report(target.parent, target, firmware=firmware, bus=bus)
    print(report)  # noqa: T201 - pytest -s shows it
    assert report.code == RIGHT, report.log
    assert (report.firmware, report.filesystem, report.driver) == (firmware, layout.filesystem, DRIVERS[bus])
    assert report.disk == DISKS.get(bus, "sda")
    assert report.disk_bytes == target.stat().st_size
    assert report.files > 1000
    assert report.starts == starts
    return report


def root_ids(image: Manifest) -> set[str]:
    """The ids of all file systems in an image."""
    return {part.uuid for disk in image.disks for part in disk.partitions if part.uuid}


def check_place(report: Report, target: Path, number: int) -> None:
    """The system's partition is where the table that we read says."""
    place = partition_of(target, number).extent
    assert (report.start, report.size) == (place.start, place.size)


def both(*layouts: BootLayout) -> list[tuple[BootLayout, str]]:
    return [(layout, firmware) for layout in layouts for firmware in layout.firmwares]


def named(value: object) -> str | None:
    return value.name if isinstance(value, BootLayout) else None


@pytest.mark.parametrize(
    ("layout", "firmware"),
    [*both(PLAIN, MBR, LVM, LUKS, SYSTEMD_BOOT, EXTLINUX), (APART, "uefi"), (XFS, "bios"), (BTRFS, "uefi"),
     (DRACUT, "bios")],
    ids=named,
)  # fmt: skip
def test_a_system_comes_back_at_its_size(saved: Saved, target: Path, layout: BootLayout, firmware: str) -> None:
    restore(saved.repository, saved.image(layout), used_disk(target, SIZE))
    report = start(target, layout, firmware)
    number = layout.number("root")
    check_place(report, target, number)
    assert partition_of(target, number).extent == partition_of(layout_disk(layout), number).extent
    assert report.part_id == part_id(layout_disk(layout), number)


@pytest.mark.parametrize(
    ("layout", "firmware"),
    [*both(PLAIN, MBR, SYSTEMD_BOOT, EXTLINUX), (APART, "bios"), (XFS, "uefi"), (BTRFS, "bios"), (DRACUT, "uefi")],
    ids=named,
)  # fmt: skip
def test_a_system_fills_a_larger_disk(saved: Saved, target: Path, layout: BootLayout, firmware: str) -> None:
    restore(saved.repository, saved.image(layout), used_disk(target, LARGER), options=RestoreOptions(fit=True))
    report = start(target, layout, firmware, starts=LOADERS.get(layout.loader, "same"))
    check_place(report, target, layout.number("root"))
    assert report.start + report.size > LARGER - 2 * MIB
    assert report.bytes > 0.9 * report.size


@pytest.mark.parametrize(("layout", "firmware"), [(LVM, "uefi"), (LUKS, "bios")], ids=named)
def test_what_cannot_grow_stays_as_it_was(saved: Saved, target: Path, layout: BootLayout, firmware: str) -> None:
    restore(saved.repository, saved.image(layout), used_disk(target, LARGER), options=RestoreOptions(fit=True))
    report = start(target, layout, firmware)
    check_place(report, target, layout.number("root"))
    assert report.size == partition_of(layout_disk(layout), layout.number("root")).extent.size


@pytest.mark.parametrize(
    ("layout", "firmware"),
    [*both(PLAIN, MBR, SYSTEMD_BOOT, EXTLINUX, XFS), (APART, "bios"), (BTRFS, "uefi"), (DRACUT, "bios")],
    ids=named,
)  # fmt: skip
def test_a_system_fits_on_a_smaller_disk(saved: Saved, target: Path, layout: BootLayout, firmware: str) -> None:
    restore(saved.repository, saved.image(layout), used_disk(target, SMALLER), options=RestoreOptions(fit=True))
    report = start(target, layout, firmware, starts=LOADERS.get(layout.loader, "same"))
    check_place(report, target, layout.number("root"))
    assert report.start + report.size <= SMALLER
    assert report.bytes <= report.size


@pytest.mark.parametrize(("layout", "reason"), [(LVM, "kept at its size"), (LUKS, "kept at its size")], ids=named)
def test_what_cannot_shrink_is_refused_before_anything_is_written(
    saved: Saved, target: Path, layout: BootLayout, reason: str
) -> None:
    image = saved.image(layout)
    used_disk(target, SMALLER)
    before = target.read_bytes()
    with pytest.raises(TargetError, match=reason):
        restore(saved.repository, image, target, options=RestoreOptions(fit=True))
    assert target.read_bytes() == before


@pytest.mark.parametrize(("layout", "firmware"), both(PLAIN, MBR), ids=named)
def test_a_system_that_is_moved(saved: Saved, target: Path, layout: BootLayout, firmware: str) -> None:
    number, place = layout.number("root"), 700 * MIB
    options = RestoreOptions(fit=True, moves={number: place})
    restore(saved.repository, saved.image(layout), used_disk(target, LARGER), options=options)
    report = start(target, layout, firmware)
    check_place(report, target, number)
    assert report.start == place


@pytest.mark.parametrize(("layout", "firmware"), both(APART), ids=named)
def test_a_system_that_begins_elsewhere(saved: Saved, target: Path, layout: BootLayout, firmware: str) -> None:
    boot = 300 * MIB
    options = RestoreOptions(fit=True, wishes={layout.number("boot"): boot})
    restore(saved.repository, saved.image(layout), used_disk(target, SIZE + 512 * MIB), options=options)
    report = start(target, layout, firmware)
    check_place(report, target, layout.number("root"))
    moved = report.start - partition_of(layout_disk(layout), layout.number("root")).extent.start
    assert moved == boot - layout.size_mib("boot") * MIB
    assert partition_of(target, layout.number("boot")).extent.size == boot


def test_partitions_go_into_another_layout(saved: Saved, target: Path) -> None:
    """Only those that the system needs, onto a disk that has partitions of its own."""
    used_disk(target, LARGER)
    with target.open("r+b") as file:
        file.write(bytes(MIB))
    script = target.with_suffix(".sfdisk")
    script.write_text("label: gpt\nsize=256MiB, type=L\nsize=64MiB, type=U\nsize=1400MiB, type=L\ntype=L\n")
    run_tool("sh", "-c", f"sfdisk --quiet --wipe always {target} < {script}")
    with target.open("r+b") as file:
        file.seek(2 * MIB)
        file.write(b"mine" * 1024)
    for source, onto in (("esp", 2), ("root", 3)):
        options = RestoreOptions(partition=PLAIN.number(source), onto=onto, fit=True)
        restore(saved.repository, saved.image(PLAIN), target, options=options)
    report = start(target, PLAIN, "uefi")
    check_place(report, target, 3)
    assert report.start == (1 + 256 + 64) * MIB
    with target.open("rb") as file:
        file.seek(2 * MIB)
        assert file.read(4096) == b"mine" * 1024


@pytest.mark.parametrize(
    ("layout", "firmware"),
    [*both(PLAIN, MBR, SYSTEMD_BOOT, EXTLINUX), (APART, "uefi"), (XFS, "uefi"), (BTRFS, "bios"), (DRACUT, "bios")],
    ids=named,
)  # fmt: skip
def test_a_system_with_a_new_identity(saved: Saved, target: Path, layout: BootLayout, firmware: str) -> None:
    options = RestoreOptions(new_identity=True)
    result = restore(saved.repository, saved.image(layout), used_disk(target, SIZE), options=options)
    assert not result.may_not_start
    report = start(target, layout, firmware, starts="changed")
    number = layout.number("root")
    assert report.part_id == part_id(target, number) != part_id(layout_disk(layout), number)
    assert report.root_id not in root_ids(saved.image(layout))


@pytest.mark.parametrize(
    ("layout", "firmware"), [(LVM, "uefi"), (LVM, "bios"), (LUKS, "bios"), (LUKS, "uefi")], ids=named
)
def test_what_lies_in_lvm_or_luks_gets_a_new_identity(
    saved: Saved, target: Path, layout: BootLayout, firmware: str
) -> None:
    options = RestoreOptions(new_identity=True)
    result = restore_with_key(saved, layout, target, options)
    assert not result.may_not_start
    report = start(target, layout, firmware, starts="changed")
    number = layout.number("root")
    assert report.part_id == part_id(target, number) != part_id(layout_disk(layout), number)
    assert report.root_id not in root_ids(saved.image(layout))
    one, other = (outer_id(disk, number) for disk in (layout_disk(layout), target))
    assert one != other


def test_what_is_not_opened_keeps_its_ids(saved: Saved, target: Path) -> None:
    """Without its key the table gets new ids, file systems do not, and it starts."""
    options = RestoreOptions(new_identity=True)
    restore(saved.repository, saved.image(LUKS), used_disk(target, SIZE), options=options)
    report = start(target, LUKS, "bios")
    number = LUKS.number("root")
    assert report.part_id == part_id(target, number) != part_id(layout_disk(LUKS), number)
    assert outer_id(target, number) == outer_id(layout_disk(LUKS), number)


@pytest.mark.parametrize(
    ("layout", "firmware", "bus"),
    [
        (NARROW_LVM, "bios", "ahci"),
        (NARROW_LVM, "uefi", "nvme"),
        (NARROW_LUKS, "bios", "ahci"),
        (NARROW_DRACUT_LVM, "uefi", "ahci"),
    ],
    ids=named,
)
def test_an_initrd_of_a_root_in_lvm_or_luks_is_adapted(
    saved: Saved, target: Path, layout: BootLayout, firmware: str, bus: str
) -> None:
    result = restore_with_key(saved, layout, target, RestoreOptions(adapt=True))
    assert not result.may_not_start
    if layout.initrd == "dracut":
        be_patient(target)
    start(target, layout, firmware, bus=bus, starts="changed")


@pytest.mark.parametrize(
    ("layout", "firmware", "bus"),
    [(NARROW, "bios", "ahci"), (NARROW, "uefi", "nvme"), (NARROW_DRACUT, "bios", "pvscsi"),
     (NARROW_DRACUT, "uefi", "ahci")],
    ids=named,
)  # fmt: skip
def test_an_initrd_for_one_computer_is_adapted(
    saved: Saved, target: Path, layout: BootLayout, firmware: str, bus: str
) -> None:
    result = restore(saved.repository, saved.image(layout), used_disk(target, SIZE), options=RestoreOptions(adapt=True))
    assert not result.may_not_start
    start(target, layout, firmware, bus=bus, starts="changed")


@pytest.mark.parametrize(
    ("layout", "firmware", "bus"), [(NARROW, "bios", "ahci"), (NARROW_DRACUT, "uefi", "nvme")], ids=named
)
def test_an_initrd_for_one_computer_does_not_start_another(
    saved: Saved, target: Path, layout: BootLayout, firmware: str, bus: str
) -> None:
    """Which is what the test before this one needs, so that it proves something."""
    restore(saved.repository, saved.image(layout), used_disk(target, SIZE))
    with pytest.raises(AssertionError, match="did not report"):
        start(target, layout, firmware, bus=bus)


@pytest.mark.parametrize(("layout", "bus"), [(MBR, "nvme"), (MBR_APART, "virtio"), (MBR_BTRFS, "ahci")], ids=named)
def test_a_system_of_a_bios_and_an_mbr_starts_by_uefi(saved: Saved, target: Path, layout: BootLayout, bus: str) -> None:
    options = RestoreOptions(convert=ConvertWish(starts_by="uefi"))
    restore(saved.repository, saved.image(layout), used_disk(target, LARGER), options=options)
    assert "No problems found" in run_tool("sgdisk", "-v", str(target))
    report = start(target, layout, "uefi", bus=bus, starts="changed")
    check_place(report, target, layout.number("root"))


@pytest.mark.parametrize("how", ["bios", "bios-mbr"])
def test_a_system_of_uefi_starts_by_a_bios(saved: Saved, target: Path, how: StartsBy) -> None:
    options = RestoreOptions(convert=ConvertWish(starts_by=how))
    restore(saved.repository, saved.image(UEFI_APART), used_disk(target, LARGER), options=options)
    start(target, UEFI_APART, "bios")  # what it starts from is not changed: names by UUID hold


@pytest.mark.parametrize("bus", ["ahci", "nvme", "virtio-scsi", "pvscsi"])
@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_another_disk_controller(saved: Saved, target: Path, firmware: str, bus: str) -> None:
    restore(saved.repository, saved.image(PLAIN), used_disk(target, SIZE))
    start(target, PLAIN, firmware, bus=bus)


@pytest.mark.parametrize(
    ("layout", "firmware", "bus"),
    [(DRACUT, "bios", "ahci"), (DRACUT, "uefi", "nvme"), (MBR, "bios", "megasas"), (SYSTEMD_BOOT, "uefi", "ahci"),
     (LVM, "bios", "ahci"), (LUKS, "uefi", "nvme"), (EXTLINUX, "bios", "ahci")],
    ids=named,
)  # fmt: skip
def test_another_controller_and_another_size(
    saved: Saved, target: Path, layout: BootLayout, firmware: str, bus: str
) -> None:
    restore(saved.repository, saved.image(layout), used_disk(target, LARGER), options=RestoreOptions(fit=True))
    start(target, layout, firmware, bus=bus)


def test_a_system_that_lacks_a_file_does_not_pass(saved: Saved, target: Path) -> None:
    """The judge itself can say no."""
    restore(saved.repository, saved.image(PLAIN), used_disk(target, SIZE))
    place = partition_of(target, PLAIN.number("root")).extent
    mounted = target.with_suffix(".mounted")
    mounted.mkdir()
    options = f"loop,offset={place.start},sizelimit={place.size}"
    run_tool("mount", "-o", options, str(target), str(mounted))
    try:
        os.truncate(mounted / "root/kept/7/file", 100)
    finally:
        unmount(mounted)
    report = start_and_report(target.parent, target, firmware="bios")
    assert report.code == 2 * 1 + 1
    assert "WRONG files differ" in report.log
