"""How a computer starts, followed on disks that were made by the tools of others.

Expected values are what those tools were given, and what other readers say: ``hivexget`` of stores, ``objcopy`` of
programs, ``sfdisk`` of tables.
"""

import subprocess
from pathlib import Path

import pytest

from stillframe.block.file import open_file_reader
from stillframe.systems.boot_code import name_disk_code, read_grub_core
from stillframe.systems.linux_ids import unified_initrd
from stillframe.systems.programs import is_systemd_boot, parse_sections, read_grub_program, read_unified
from stillframe.testing.boot_disks import (
    NTLDR_SECTOR,
    WINDOWS_CODE,
    boot_ini,
    full_store,
    grub_program,
    install_grub,
    program_with,
    write_code,
    xp_files,
    xp_mbr,
    xp_starts,
)
from stillframe.testing.command_line import call, init_own
from stillframe.testing.disks_partitioned import see_table
from stillframe.testing.system_disks import (
    BOOT,
    DEBIAN,
    GPT_DISK,
    MIB,
    ROOT,
    SIGNATURE,
    TYPES,
    Part,
    build_system_disk,
    debian_gpt,
    windows_files,
    windows_gpt,
)
from stillframe.testing.tools import run_tool
from stillframe.testing.windows_backup import BOOTMGR, gpt_device

MENU = (
    f"search --no-floppy --fs-uuid --set=root {ROOT}\nmenuentry 'Debian' {{\n"
    f" linux /boot/vmlinuz-6.1.0-18-amd64 root=UUID={ROOT} ro quiet\n initrd /boot/initrd.img\n}}\n"
).encode()


def debian_root(menu: bytes = MENU) -> Part:
    return Part(size=16 * MIB, type=TYPES["linux"], kind="ext4", uuid=ROOT, files={
        "etc/os-release": DEBIAN, "etc/fstab": f"UUID={ROOT} / ext4 errors=remount-ro 0 1\n".encode(),
        "etc/hostname": b"made\n", "boot/grub/grub.cfg": menu, "boot/vmlinuz-6.1.0-18-amd64": b"k",
        "boot/initrd.img": b"i", "usr/bin/dash": Path("/usr/bin/dash").read_bytes(),
    })  # fmt: skip


def short(path: Path) -> list[str]:
    """The lines of ``disks`` that tell how a computer starts."""
    outcome = call("disks", path)
    assert outcome.exit_code == 0, outcome.errors
    return [line for line in outcome.output.splitlines() if line.startswith("Starts")]


@pytest.mark.parametrize("kind", ["ntfs", "vfat"])
def test_xp_is_taken_with_its_reasons_and_its_way_is_told(tmp_path: Path, kind: str) -> None:
    disk = tmp_path / "xp.img"
    (start, *_) = build_system_disk(disk, "dos", hex(SIGNATURE), xp_mbr(kind))
    write_code(disk, WINDOWS_CODE)
    write_code(disk, NTLDR_SECTOR, at=start)
    seen = call("disks", disk, "--json").result
    parts = seen["disks"][0]["partitions"]
    assert [(one["in_system_backup"], one["reason"]) for one in parts] == [
        (True, "Microsoft Windows XP Service Pack 3"), (False, "data: nothing that starts lies here")
    ]  # fmt: skip
    installed = parts[0]["installed"]
    assert (installed["version"], installed["build"], installed["architecture"], installed["host"]) == (
        "Service Pack 3", "2600", "x86", "OLD-PC"
    )  # fmt: skip
    (chain,) = seen["boot"]["chains"]
    assert (chain["firmware"], chain["system"], chain["fault"], chain["limit"]) == (
        "bios", "Microsoft Windows XP Service Pack 3", None, None
    )  # fmt: skip
    assert [step["path"] for step in chain["steps"]] == [None, None, "/ntldr", "/boot.ini", "/WINDOWS"]


def test_a_logical_partition_is_counted_as_windows_does(tmp_path: Path) -> None:
    """The Windows is partition 5 for Linux and the third for boot.ini: the extended one between them is not counted."""
    disk = tmp_path / "xp.img"
    script = "label: dos\nstart=2048,size=65536,type=7,bootable\nstart=67584,size=2048,type=83\n"
    script += "start=69632,size=90112,type=5\nstart=71680,size=81920,type=7\n"
    with disk.open("wb") as file:
        file.truncate(90 * MIB)
    run_tool("sh", "-c", f"printf '{script}' | sfdisk -q '{disk}'")
    whole = tmp_path / "volumes.img"
    files = xp_starts(boot_ini(r"multi(0)disk(0)rdisk(0)partition(3)\WINDOWS"))
    starts = build_system_disk(whole, "dos", "0x1", [
        Part(size=32 * MIB, type="7", kind="ntfs", files=files),
        Part(size=40 * MIB, type="7", kind="ntfs", files=xp_files()),
    ])  # fmt: skip
    for source, target, size in ((starts[0], MIB, 32), (starts[1], 71680 * 512, 40)):
        run_tool("dd", f"if={whole}", f"of={disk}", "bs=1M", f"skip={source // MIB}", f"seek={target // MIB}",
                 f"count={size}", "conv=notrunc,sparse", "status=none")  # fmt: skip
    write_code(disk, WINDOWS_CODE)
    write_code(disk, NTLDR_SECTOR, at=MIB)
    assert [one.number for one in see_table(disk).partitions] == [1, 2, 5]
    assert short(disk) == [
        "Starts by BIOS: loader of Windows NT to 2003 (1) -> Microsoft Windows XP Service Pack 3 (5)"
    ]  # fmt: skip


@pytest.mark.parametrize(("place", "scheme"), [("partition", "gpt"), ("gap", "dos")])
def test_the_core_image_of_a_real_grub_is_read(tmp_path: Path, place: str, scheme: str) -> None:
    """What ``grub-mkimage`` was told comes out of what it packed."""
    disk = tmp_path / "grub.img"
    if place == "partition":
        build_system_disk(disk, scheme, GPT_DISK, [Part(size=MIB, type=TYPES["bios"]), debian_root()])
        at, prefix, config = MIB, "(,gpt2)/boot/grub", ""
    else:
        root = debian_root()
        build_system_disk(disk, scheme, hex(SIGNATURE), [Part(size=root.size, type="83", kind="ext4", uuid=ROOT,
                                                              files=root.files, active=True)])  # fmt: skip
        at, prefix = 512, "/boot/grub"
        config = f"search.fs_uuid {ROOT} root hd0,msdos1\nset prefix=($root)'/boot/grub'\n"
    install_grub(disk, at=at, prefix=prefix, config=config)
    with open_file_reader(str(disk)) as reader:
        sector = reader.read_at(0, 512)
        assert name_disk_code(sector) == "grub"
        start, parts = read_grub_core(reader, sector)
    assert parts is not None
    assert (start, parts.prefix, parts.config) == (at, prefix, config)
    number = 2 if place == "partition" else 1
    where = "1" if place == "partition" else "gap"
    assert short(disk) == [f"Starts by BIOS: GRUB ({where}) -> Debian GNU/Linux 12 (bookworm) ({number})"]
    installed = call("disks", disk, "--json").result["disks"][0]["partitions"][number - 1]["installed"]
    assert (installed["host"], installed["architecture"]) == ("made", "x86-64")


def test_a_grub_whose_volume_is_gone(tmp_path: Path) -> None:
    disk = tmp_path / "grub.img"
    build_system_disk(disk, "gpt", GPT_DISK, [Part(size=MIB, type=TYPES["bios"]), debian_root()])
    gone = "99999999-3333-4444-8555-666677778888"
    install_grub(disk, at=MIB, prefix="(,gpt2)/boot/grub", config=f"search.fs_uuid {gone} root\nset prefix=($root)/x\n")
    (line,) = short(disk)
    assert line.endswith(f"BROKEN: GRUB searches UUID={gone} /x, no volume on these disks has it")


def test_programs_are_read_as_objcopy_reads_them(tmp_path: Path) -> None:
    sections = {
        ".linux": b"MZ kernel", ".osrel": DEBIAN, ".cmdline": f"root=UUID={ROOT} ro\n".encode(), ".uname": b"6.1.0-18",
        ".initrd": b"070701" + bytes(range(1, 256)),
    }  # fmt: skip
    raw = program_with(tmp_path, sections)
    path, piece = tmp_path / "unified.efi", tmp_path / "piece"
    path.write_bytes(raw)
    found = {one.name: raw[one.at : one.at + one.size] for one in parse_sections(lambda at, n: raw[at : at + n])}
    listed = subprocess.run(["objdump", "-h", path], capture_output=True, text=True, check=True).stdout
    names = [line.split()[1] for line in listed.splitlines() if line.split()[:1] and line.split()[0].isdigit()]
    assert list(found) == names
    for name, wanted in sections.items():
        run_tool("objcopy", "--dump-section", f"{name}={piece}", str(path), str(tmp_path / "unused"))
        assert found[name].rstrip(b"\0") == piece.read_bytes().rstrip(b"\0") == wanted
    assert unified_initrd(raw).rstrip(b"\0") == sections[".initrd"]
    unified = read_unified(lambda at, n: raw[at : at + n])
    assert unified is not None
    assert (unified.options, unified.version) == (f"root=UUID={ROOT} ro", "6.1.0-18")


def test_what_was_built_into_a_grub_for_uefi(tmp_path: Path) -> None:
    config = f"search.fs_uuid {ROOT} root\nset prefix=($root)/boot/grub\n"
    raw = grub_program(tmp_path, prefix="/EFI/debian", config=config)
    parts = read_grub_program(lambda at, n: raw[at : at + n])
    assert parts is not None
    assert (parts.prefix, parts.config) == ("/EFI/debian", config)
    alone = tmp_path / "alone.efi"
    inner = tmp_path / "inner.cfg"
    inner.write_text("menuentry 'inside' {\n linux /k root=/dev/sda1\n}\n")
    run_tool("grub-mkstandalone", "-O", "x86_64-efi", "-o", str(alone), "--locales=", "--fonts=", "--themes=",
             "--install-modules=part_gpt", "--modules=part_gpt", f"boot/grub/grub.cfg={inner}")  # fmt: skip
    raw = alone.read_bytes()
    parts = read_grub_program(lambda at, n: raw[at : at + n])
    assert parts is not None
    assert parts.menu == inner.read_text()


def test_systemd_boot_with_an_entry_and_a_unified_kernel(tmp_path: Path) -> None:
    menu = program_with(tmp_path, {".sdmagic": b"#### LoaderInfo: systemd-boot 252.39-1~deb12u2 ####\0"})
    assert is_systemd_boot(lambda at, n: menu[at : at + n])
    unified = program_with(tmp_path, {
        ".linux": b"MZ kernel", ".osrel": DEBIAN, ".cmdline": f"root=UUID={ROOT} ro".encode(), ".uname": b"6.1.0"
    })  # fmt: skip
    entry = f"title By hand\nlinux /vmlinuz\ninitrd /initrd\noptions root=UUID={BOOT}\n".encode()
    start = Part(size=36 * MIB, type=TYPES["esp"], kind="vfat", files={
        "EFI/systemd/systemd-bootx64.efi": menu, "EFI/Linux/debian.efi": unified, "loader/entries/hand.conf": entry,
        "vmlinuz": b"k",
    })  # fmt: skip
    disk = tmp_path / "disk.img"
    build_system_disk(disk, "gpt", GPT_DISK, [start, debian_root()])
    system = "Debian GNU/Linux 12 (bookworm)"
    assert short(disk) == [
        "Starts by UEFI: systemd-boot (1) -> BROKEN: there is no /initrd on this volume",
        f"Starts by UEFI: systemd-boot (1) -> unified kernel '{system}' (1) -> {system} (2)",
    ]


def test_a_store_is_read_as_hivex_reads_it(tmp_path: Path) -> None:
    """Titles, order and default of a store; a Windows on a partition that is gone is named."""
    parts = windows_gpt(data={"a": b"b"})
    gone = "D0C1B2A9-9999-4999-9999-665544332211"
    first, second = "{b5f2f1a0-0000-4000-8000-0123456789ab}", "{b5f2f1a1-0000-4000-8000-0123456789ab}"
    manager, eleven, ten = (gpt_device(GPT_DISK, guid) for guid in (parts[0].guid, parts[2].guid, gone))
    store = full_store(manager, {first: ("Windows 11", eleven), second: ("Windows 10", ten)}, default=second)
    hive = tmp_path / "BCD"
    hive.write_bytes(store)
    key = rf"Objects\{BOOTMGR}\Elements\23000003"
    assert subprocess.run(["hivexget", hive, key, "Element"], capture_output=True, text=True, check=True).stdout == (
        f"{second}\n"
    )  # fmt: skip
    files = {"EFI/Microsoft/Boot/BCD": store, "EFI/Microsoft/Boot/bootmgfw.efi": b"MZ", "EFI/Boot/bootx64.efi": b"MZ"}
    loader = {"Windows/System32/winload.efi": b"MZ"}
    parts[0] = Part(size=36 * MIB, type=TYPES["esp"], kind="vfat", guid=parts[0].guid, files=files)
    parts[2] = Part(size=24 * MIB, type=TYPES["basic"], kind="ntfs", guid=parts[2].guid,
                    files={**windows_files(), **loader})  # fmt: skip
    disk = tmp_path / "disk.img"
    build_system_disk(disk, "gpt", GPT_DISK, parts)
    way = "Windows Boot Manager (1)"
    fault = f"BROKEN: its entry 'Windows 10' names partition GUID {gone}, which is on none of these disks"
    assert short(disk) == [
        f"Starts by UEFI: {way} -> {fault}", f"Starts by UEFI, another entry: {way} -> Windows 11 Pro (3)",
        f"Starts by UEFI, fallback path: {way} -> {fault}",
        f"Starts by UEFI, fallback path, another entry: {way} -> Windows 11 Pro (3)",
    ]  # fmt: skip


@pytest.mark.root
def test_an_image_is_followed_as_its_disk_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "debian.img"
    build_system_disk(disk, "gpt", GPT_DISK, debian_gpt(data={"a": b"b"}))
    init_own(tmp_path, monkeypatch)
    assert call("backup", disk).exit_code == 0
    here = call("disks", disk, "--boot", "--json").result["boot"]
    there = call("show", "latest", "--boot", "--json").result["boot"]
    for chain in (*here["chains"], *there["chains"]):
        for step in chain["steps"]:
            step.pop("disk")
    assert here == there
    assert len(here["chains"]) == 2
    assert call("show", "latest", "--json").result["boot"] is None
    lines = call("show", "latest", "--boot").output.splitlines()
    assert "Starts by UEFI: GRUB (1) -> Debian GNU/Linux 12 (bookworm) (3)" in lines
    assert "  6. /etc/fstab, partition 3 -> / (3), /boot (2), swap (4), /home (5)" in lines
