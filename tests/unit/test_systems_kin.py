"""Systems and their kin: what each calls itself, and for which processor it is."""

import struct
import subprocess
from pathlib import Path

import pytest

from stillframe.systems import find_windows, join_linux, read_traces
from stillframe.systems.architecture import parse_elf_machine, parse_pe_machine
from stillframe.testing.boot_disks import xp_files
from stillframe.testing.hive_builder import build_hive
from stillframe.testing.system_files import FilesInMemory

ELF = Path("/usr/bin/dash").read_bytes()[:4096]


def test_xp_says_its_version_where_later_ones_do_not() -> None:
    system = find_windows(FilesInMemory(xp_files(), ignores_case=True))
    assert system is not None
    assert (system.name, system.version, system.build) == (
        "Microsoft Windows XP Service Pack 3", "Service Pack 3", "2600"
    )  # fmt: skip
    assert (system.host, system.architecture) == ("OLD-PC", "x86")


def test_windows_2000_is_in_another_folder() -> None:
    system = find_windows(FilesInMemory(xp_files("WINNT", name="Microsoft Windows 2000"), ignores_case=True))
    assert system is not None
    assert system.name == "Microsoft Windows 2000 Service Pack 3"


def test_a_windows_without_a_service_pack_says_the_version_of_its_kernel() -> None:
    version = {"ProductName": "Windows Vista (TM) Home", "CurrentBuildNumber": "6000", "CurrentVersion": "6.0"}
    pe = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x80) + bytes(0x40) + b"PE\0\0" + struct.pack("<H", 0x8664)
    system = find_windows(FilesInMemory({
        "Windows/System32/config/SOFTWARE": build_hive({"Microsoft": {"Windows NT": {"CurrentVersion": version}}}),
        "Windows/System32/config/SYSTEM": build_hive({"Select": {"Current": 1}}),
        "Windows/System32/ntoskrnl.exe": pe,
    }))  # fmt: skip
    assert system is not None
    assert (system.name, system.version, system.build) == ("Windows Vista (TM) Home", "6.0", "6000")
    assert system.architecture == "x86-64", "of its kernel, as the registry does not say it"


def test_a_processor_by_the_head_of_a_program_is_what_file_says() -> None:
    words = subprocess.run(["file", "-b", "/usr/bin/dash"], capture_output=True, text=True, check=True).stdout
    assert "x86-64" in words
    assert parse_elf_machine(ELF) == "x86-64"


@pytest.mark.parametrize(
    ("machine", "bits", "order", "name"),
    [(3, 1, 1, "x86"), (183, 2, 1, "arm64"), (40, 1, 1, "arm"), (243, 2, 1, "riscv64"), (21, 2, 1, "ppc64le"),
     (21, 2, 2, "ppc64"), (22, 2, 2, "s390x"), (9999, 2, 1, "")],
)  # fmt: skip
def test_processors_by_their_published_numbers(machine: int, bits: int, order: int, name: str) -> None:
    head = b"\x7fELF" + bytes((bits, order)) + bytes(12) + machine.to_bytes(2, "little" if order == 1 else "big")
    assert parse_elf_machine(head) == name


@pytest.mark.parametrize("head", [b"", b"MZ", b"\x7fELF", b"MZ".ljust(0x3C, b"\0") + b"\xff\xff\xff\xff", b"#!/bin/sh"])
def test_other_heads_are_of_no_processor(head: bytes) -> None:
    assert parse_elf_machine(head) == parse_pe_machine(head) == ""


# The first lines of files as the distributions ship them.
KIN = {
    "Ubuntu 22.04.3 LTS": {"usr/lib/os-release": b'PRETTY_NAME="Ubuntu 22.04.3 LTS"\nVERSION_ID="22.04"\n'},
    "Linux Mint 21.2": {"usr/lib/os-release": b'NAME="Linux Mint"\nPRETTY_NAME="Linux Mint 21.2"\n'},
    "Fedora Linux 39 (Server Edition)": {
        "usr/lib/os-release": b'PRETTY_NAME="Fedora Linux 39 (Server Edition)"\nVERSION_ID=39\nVARIANT_ID=server\n'
    },
    "Rocky Linux 9.3 (Blue Onyx)": {"etc/os-release": b'PRETTY_NAME="Rocky Linux 9.3 (Blue Onyx)"\n'},
    "openSUSE Leap 15.5": {"usr/lib/os-release": b'PRETTY_NAME="openSUSE Leap 15.5"\nVERSION_ID="15.5"\n'},
    "Arch Linux": {"usr/lib/os-release": b'NAME="Arch Linux"\nPRETTY_NAME="Arch Linux"\nID=arch\n'},
    "Alpine Linux v3.19": {"etc/os-release": b'NAME="Alpine Linux"\nPRETTY_NAME="Alpine Linux v3.19"\n'},
    "NixOS": {"etc/NIXOS": b"", "etc/fstab": b"/dev/disk/by-uuid/a / ext4\n"},
    "CentOS release 6.10 (Final)": {"etc/redhat-release": b"CentOS release 6.10 (Final)\n"},
    "Debian GNU/Linux 6.0.10": {"etc/debian_version": b"6.0.10\n"},
}


@pytest.mark.parametrize("name", KIN)
def test_kin_are_called_by_their_names(name: str) -> None:
    system = join_linux(read_traces(FilesInMemory({**KIN[name], "usr/bin/bash": ELF})), ())
    assert system is not None
    assert (system.name, system.architecture) == (name, "x86-64")


def test_names_of_computers_where_older_systems_keep_them() -> None:
    files = {"etc/redhat-release": b"CentOS 6\n", "etc/sysconfig/network": b'NETWORKING=yes\nHOSTNAME="old.example"\n'}
    traces = read_traces(FilesInMemory({**files, "var/lib/dbus/machine-id": b"0123456789abcdef0123456789abcdef\n"}))
    assert (traces.hostname, traces.machine_id) == ("old.example", "0123456789abcdef0123456789abcdef")
    assert read_traces(FilesInMemory({"etc/HOSTNAME": b"suse\n"})).hostname == "suse"
