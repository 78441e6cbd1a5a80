"""Whole systems that are proven to boot, or not to: Debian by BIOS and by UEFI, whole and broken in four ways."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from stillframe.errors import DamagedError
from stillframe.events import Notice, RecordedEvents
from stillframe.host.qemu import Firmware
from stillframe.jobs import running
from stillframe.jobs.listing import look_at_image
from stillframe.jobs.pipeline import CancelToken
from stillframe.jobs.proving import ProveResult, prove_image
from stillframe.jobs.running import run_image
from stillframe.jobs.virtual import MachineOptions
from stillframe.store.local import LocalStore
from stillframe.testing.boot_sector import make_boot_disk
from stillframe.testing.debian_disk import BIOS_BOOT, ROOT_START, make_debian_disk, root_of, use_signed_loader
from stillframe.testing.job_runs import backup_paths, job_context, make_repository

pytestmark = [pytest.mark.root, pytest.mark.vm]
LIMIT_S = 600


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """A Debian that uses the serial line, or only the screen; made once."""
    folder = tmp_path_factory.mktemp("debian")

    def get(serial: bool) -> Path:
        path = folder / f"serial-{serial}.img"
        return path if path.exists() else make_debian_disk(path, serial=serial)

    return get


def prove(disk: Path, firmware: Firmware | None = None) -> ProveResult:
    """Back a disk up, start the image, and see that the outcome was kept with it."""
    repository = make_repository(LocalStore(str(disk.parent / f"{disk.name}.repo")), chunk_size=262_144)
    manifest = backup_paths(repository, disk).manifest
    options = MachineOptions(firmware=firmware, memory_mib=1024, cpus=2)
    result = prove_image(repository, manifest, options=options, limit_s=LIMIT_S, context=job_context())
    (kept,) = (proof for proof in look_at_image(repository, manifest).proofs if proof.kind == "booted")
    assert (kept.outcome, kept.screenshot) == (result.outcome, bool(result.picture))
    return result


def broken(debian: Path, folder: Path) -> Path:
    """A copy to break something in."""
    copy = folder / "disk.img"
    subprocess.run(["cp", "--sparse=always", debian, copy], check=True)
    return copy


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
@pytest.mark.parametrize("serial", [True, False])
def test_a_debian_boots(debian: Callable[[bool], Path], tmp_path: Path, serial: bool, firmware: Firmware) -> None:
    result = prove(broken(debian(serial), tmp_path), firmware)
    assert result.outcome == "booted", result.reason


def test_the_way_that_the_disk_is_made_for_is_found(debian: Callable[[bool], Path], tmp_path: Path) -> None:
    result = prove(broken(debian(True), tmp_path))
    assert (result.outcome, result.firmware) == ("booted", "uefi")


def test_secure_boot_starts_what_is_signed_and_nothing_else(debian: Callable[[bool], Path], tmp_path: Path) -> None:
    disk = broken(debian(True), tmp_path)
    assert prove(disk, "secure-boot").outcome == "failed"  # the loader is of our own making
    shutil.rmtree(disk.parent / f"{disk.name}.repo")
    use_signed_loader(disk)
    result = prove(disk, "secure-boot")
    assert (result.outcome, result.firmware) == ("booted", "secure-boot"), result.reason


def silence(disk: Path, prompt: str) -> None:
    """Have a Debian say nothing on its screen, from the boot menu on.

    Args:
        disk: Of one that only uses the screen.
        prompt: What its terminal starts; empty starts nothing there.
    """
    with root_of(disk) as root:
        menu = root / "boot/grub/grub.cfg"
        quiet = " quiet loglevel=0 systemd.show_status=0 vt.global_cursor_default=0"
        menu.write_text(menu.read_text().replace(" console=tty0", quiet))
        unit = root / "etc/systemd/system/getty@tty1.service"
        if not prompt:
            unit.symlink_to("/dev/null")
            return
        unit.with_name("getty@tty1.service.d").mkdir()
        (unit.with_name("getty@tty1.service.d") / "own.conf").write_text(
            f"[Service]\nExecStart=\nExecStart=-{prompt}\n"
        )


def test_a_system_that_shows_nothing_is_known_by_its_own_notes(debian: Callable[[bool], Path], tmp_path: Path) -> None:
    disk = broken(debian(False), tmp_path)
    silence(disk, "/sbin/agetty --noissue --login-pause --noclear tty1 linux")
    result = prove(disk, "uefi")
    assert result.outcome == "booted", result.reason
    assert "/var/log/wtmp" in result.reason


def test_a_system_without_a_prompt_is_known_by_its_journal(debian: Callable[[bool], Path], tmp_path: Path) -> None:
    disk = broken(debian(False), tmp_path)
    silence(disk, "")
    result = prove(disk, "bios")
    assert result.outcome == "booted", result.reason
    assert "journal" in result.reason


def test_a_system_that_shows_and_notes_nothing_is_known_by_its_power_button(
    debian: Callable[[bool], Path], tmp_path: Path
) -> None:
    disk = broken(debian(False), tmp_path)
    silence(disk, "")
    with root_of(disk) as root:
        shutil.rmtree(root / "var/log/journal")
    result = prove(disk, "bios")
    assert result.outcome == "booted", result.reason
    assert "power button" in result.reason


def test_without_the_core_of_grub(debian: Callable[[bool], Path], tmp_path: Path) -> None:
    disk = broken(debian(True), tmp_path)
    with disk.open("r+b") as file:
        file.seek(BIOS_BOOT.start)
        file.write(bytes(BIOS_BOOT.size))
    result = prove(disk, "bios")
    assert result.outcome == "failed"
    assert "boot code" in result.reason or "restarts" in result.reason


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_without_a_kernel(debian: Callable[[bool], Path], tmp_path: Path, firmware: Firmware) -> None:
    disk = broken(debian(False), tmp_path)
    with root_of(disk) as root:
        for kernel in (root / "boot").glob("vmlinuz-*"):
            kernel.unlink()
    result = prove(disk, firmware)
    assert result.outcome == "failed"
    assert "GRUB" in result.reason


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_without_the_superblock_of_the_root(debian: Callable[[bool], Path], tmp_path: Path, firmware: Firmware) -> None:
    disk = broken(debian(True), tmp_path)
    with disk.open("r+b") as file:
        file.seek(ROOT_START + 1024)
        file.write(bytes(1024))
    result = prove(disk, firmware)
    assert result.outcome == "failed"
    assert "GRUB" in result.reason


def test_without_its_init(debian: Callable[[bool], Path], tmp_path: Path) -> None:
    disk = broken(debian(True), tmp_path)
    with root_of(disk) as root:
        (root / "usr/sbin/init").unlink()
        (root / "usr/bin/sh").unlink()
        (root / "usr/lib/systemd/systemd").unlink()
    result = prove(disk, "bios")
    assert result.outcome == "failed"


def test_boot_code_that_says_that_there_is_no_system(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(make_boot_disk("\nMissing operating system"))
    result = prove(disk)
    assert result.outcome == "failed"
    assert "no system" in result.reason


def test_a_machine_is_run_until_it_switches_itself_off(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(make_boot_disk("\nGood bye", switches_off=True))
    repository = make_repository(LocalStore(str(tmp_path / "repo")))
    manifest = backup_paths(repository, disk).manifest
    for keep in ("", str(tmp_path / "kept"), str(tmp_path / "kept")):
        events = RecordedEvents()
        options = MachineOptions(memory_mib=64, cpus=1, display="vnc")
        result = run_image(repository, manifest, options=options, keep=keep, context=job_context(events=events))
        assert (result.image, result.kept) == (manifest.image, keep)
        (told,) = (event.message for event in events.events if isinstance(event, Notice))
        assert re.search(r"BIOS.*127\.0\.0\.1:59\d\d", told)
    assert (tmp_path / "kept").exists()


def test_a_person_who_stops_it_has_the_power_button_pressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(make_boot_disk("\nI do not know of a power button"))
    repository = make_repository(LocalStore(str(tmp_path / "repo")))
    manifest = backup_paths(repository, disk).manifest
    monkeypatch.setattr(running, "_POWER_OFF_S", 2.0)
    events, cancel = RecordedEvents(), CancelToken()
    cancel.cancel()
    context = job_context(events=events, cancel=cancel)
    run_image(repository, manifest, options=MachineOptions(memory_mib=64, cpus=1), keep="", context=context)
    codes = [event.code for event in events.events if isinstance(event, Notice)]
    assert codes == ["machine-started", "machine-power-button", "machine-ended"]


def test_a_machine_that_meets_damage_proves_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(make_boot_disk("\nsector login: "))
    repository = make_repository(LocalStore(str(tmp_path / "repo")), chunk_size=65_536)
    manifest = backup_paths(repository, disk).manifest
    for pack in (tmp_path / "repo" / "packs").rglob("*"):
        if pack.is_file():
            raw = bytearray(pack.read_bytes())
            raw[90:110] = bytes(20)
            pack.write_bytes(raw)
    with pytest.raises(DamagedError):
        prove_image(repository, manifest, options=MachineOptions(firmware="bios"), limit_s=60, context=job_context())
