"""What the words of a starting computer prove; samples were recorded, or stand in the programs' sources."""

import pytest

from stillframe.systems.boot_evidence import (
    clean_console,
    is_stuck_in_boot_code,
    read_memory,
    read_text_screen,
    read_words,
)

BOOTED = [
    "Debian GNU/Linux 12 debian ttyS0\n\ndebian login: ",
    "Debian GNU/Linux 12 debian tty1\n\ndebian login: [   21.516347] kvm: Nested Virtualization enabled",
    "[  OK  ] Reached target Multi-User System.\n",
    "[  OK  ] Reached target graphical.target - Graphical Interface.",
    "error: no such device: 1234.\ndebian login: ",  # it found another way
]
FAILED = [
    ("[    2.1] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)", "gave up"),
    ("ALERT!  UUID=0b1f does not exist.  Dropping to a shell!\n(initramfs) ", "did not find its root file system"),
    ('You are in emergency mode. After logging in, type "journalctl -xb"', "emergency mode"),
    ("Give root password for maintenance\n(or press Control-D to continue): ", "maintenance"),
    ("error: no such partition.\nEntering rescue mode...\ngrub rescue> ", "did not find its files"),
    ("error: no such device: 5f2f2bd2-1b65.", "did not find a disk"),
    ("error: file `/boot/vmlinuz-6.1.0-50-cloud-amd64' not found.\nPress any key", "did not find a file"),
    ("No bootable device.", "firmware found nothing"),
    ("BdsDxe: No bootable option or device was found.", "firmware found nothing"),
    ('BdsDxe: failed to load Boot0001 "UEFI QEMU DISK" from PciRoot(0x0): Access Denied', "Secure Boot"),
    ("A disk read error occurred\nPress Ctrl+Alt+Del to restart", "could not read the disk"),
    ("BOOTMGR is missing", "boot manager is not there"),
    ("Missing operating system", "no system"),
    ("This is not a bootable disk.  Please insert a bootable floppy", "cannot be started"),
]  # fmt: skip
NOTHING = [
    "", "[    1.0] systemd[1]: Detected virtualization qemu.", "Booting from Hard Disk...",
    "Failed to open directory: login incorrect", "usage: login: see the manual",
]  # fmt: skip


@pytest.mark.parametrize("text", BOOTED)
def test_words_that_prove_a_start(text: str) -> None:
    sighting = read_words(text)
    assert sighting is not None
    assert sighting.outcome == "booted"


@pytest.mark.parametrize(("text", "meaning"), FAILED)
def test_words_that_prove_a_failure(text: str, meaning: str) -> None:
    sighting = read_words(text)
    assert sighting is not None
    assert sighting.outcome == "failed"
    assert meaning in sighting.words


@pytest.mark.parametrize("text", NOTHING)
def test_words_that_prove_nothing(text: str) -> None:
    assert read_words(text) is None


def test_of_several_failures_the_last_counts() -> None:
    sighting = read_words("error: no such device: 12.\nerror: file `/boot/vmlinuz' not found.\n")
    assert sighting is not None
    assert "vmlinuz" in sighting.line


def test_a_shell_of_grub_is_explained_by_the_error_before_it() -> None:
    shell = "GNU GRUB  version 2.06\n   Minimal BASH-like line editing is supported.\ngrub> "
    for text, line in ((shell, "Minimal BASH-like"), (f"error: no such device: 5f2f.\n{shell}", "no such device")):
        sighting = read_words(text)
        assert sighting is not None
        assert line in sighting.line


def test_a_console_loses_what_moves_the_cursor() -> None:
    raw = b"\x1b[2J\x1b[01;01HBdsDxe: \x1b[0m\x1b[37m\x1b[40mloading\r\nBoot\x1b[?25h0001"
    assert clean_console(raw) == "BdsDxe: loading\nBoot0001"


def test_a_text_screen_is_read_from_its_memory() -> None:
    lines = ["debian login: ", "", "_"]
    cells = b"".join(bytes((ord(letter), 7)) for line in lines for letter in line.ljust(80))
    assert read_text_screen(cells + bytes(160)) == "debian login:\n_"
    found = read_words(read_text_screen(cells))
    assert found is not None
    assert found.outcome == "booted"


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("debian login: ", "booted"), ("Kernel panic - not syncing: Attempted to kill init!", "failed"),
        ("(initramfs) ", "failed"), ("You are in emergency mode. After", "failed"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("shift", [0, 1])
def test_a_console_is_found_in_memory(text: str, outcome: str, shift: int) -> None:
    cells = b"".join(bytes((ord(letter), 7)) for letter in " " * 60 + text + " " * 100)
    sighting = read_memory(b"\xff" * (4096 + shift) + cells + b"\x01" * 999)
    assert sighting is not None
    assert sighting.outcome == outcome


def test_programs_in_memory_are_no_console() -> None:
    assert read_memory(b"%s login: \0Kernel panic - not syncing: %s\n\0(initramfs) \0") is None


def test_boot_code_that_does_not_go_on() -> None:
    assert is_stuck_in_boot_code("SeaBIOS (version 1.16.2)\nBooting from Hard Disk...\n  ")
    assert is_stuck_in_boot_code("Booting from Hard Disk...\nGRUB loading.")
    assert not is_stuck_in_boot_code("Booting from Hard Disk...\nLinux version 6.1")
