"""What starts a computer, with bytes changed at random: menus, stores, programs, core images, whole chains."""

import random

import pytest

from stillframe.block import MemoryDisk
from stillframe.systems.architecture import parse_elf_machine, parse_pe_machine
from stillframe.systems.boot_chain import follow_boot
from stillframe.systems.boot_code import name_disk_code, name_volume_code, read_grub_core
from stillframe.systems.boot_ini import parse_boot_ini
from stillframe.systems.boot_store import read_boot_store
from stillframe.systems.chain_records import BootDisk
from stillframe.systems.menus import parse_entry_file, parse_grub_menu, parse_syslinux
from stillframe.systems.programs import is_systemd_boot, parse_sections, read_grub_program, read_unified
from stillframe.testing.boot_disks import NTLDR_SECTOR, WINDOWS_CODE, boot_ini, full_store, xp_files, xp_starts
from stillframe.testing.system_files import MIB, FilesInMemory, boot_part
from stillframe.testing.windows_backup import mbr_device

MENU = (
    b"set prefix=($dev)/grub\nsearch --fs-uuid --set=dev u2\nconfigfile $prefix/grub.cfg\n"
    b"menuentry 'a b' {\n search -u u2\n"
    b" linux /vmlinuz root=UUID=u3 ${x} ro\n initrd ($root)/a /b\n}\nmenuentry 'w' {\n chainloader +1\n}\nblscfg\n"
    b"LABEL a\nKERNEL /vmlinuz\nAPPEND initrd=/i root=UUID=u3\ntitle a\nlinux /vmlinuz\noptions root=UUID=u3\n"
)
INI = boot_ini(r"multi(0)disk(0)rdisk(0)partition(1)\WINDOWS", r"signature(1234)disk(0)rdisk(0)partition(2)\X")
READS_MAX = 5000


def fuzz_boot_ini(data: bytes) -> None:
    """Any bytes give words that fit on one line, and places within bounds."""
    ini = parse_boot_ini(data)
    for entry in ini.entries:
        assert all(word.isprintable() or not word for word in (entry.title, entry.text))
    assert all(place.partition < 1000 and place.disk < 1000 for place in ini.places)


def fuzz_menus(data: bytes) -> None:
    """Any text gives a menu of bounded size whose words fit on one line."""
    text = data.decode(errors="replace")
    entries = [*parse_grub_menu(text, folder="/grub").entries, *parse_syslinux(text).entries]
    found = parse_entry_file(text)
    for entry in (*entries, *([found] if found else [])):
        words = (entry.title, entry.volume, entry.kernel, entry.options, entry.program, *entry.initrds)
        assert all(word.isprintable() and len(word) <= 4096 for word in words)


def fuzz_programs(data: bytes) -> None:
    """Any bytes give an answer within a bounded number of small reads."""
    reads = 0

    def read(offset: int, size: int) -> bytes:
        nonlocal reads
        reads += 1
        assert size <= 1 << 20
        assert reads < READS_MAX * 2
        return data[offset : offset + size]

    assert len(parse_sections(read)) <= 96
    read_unified(read)
    read_grub_program(read)
    is_systemd_boot(read)
    parse_pe_machine(data[:4096])
    parse_elf_machine(data[:4096])


def fuzz_boot_code(data: bytes) -> None:
    """Any first MiB of a disk gives an answer; the core image that it names may be anywhere."""
    sector = data[:512].ljust(512, b"\0")
    name_disk_code(sector)
    name_volume_code(data[:8192])
    read_grub_core(MemoryDisk(data.ljust(MIB, b"\0")[:MIB]), sector)


def fuzz_chain(data: bytes) -> None:
    """Any menu on every volume: the ways end, are bounded, and cost a bounded number of reads."""
    files = {
        "EFI/a/grubx64.efi": b"MZ", "EFI/a/grub.cfg": data, "grub/grub.cfg": data, "loader/entries/a.conf": data,
        "EFI/systemd/systemd-bootx64.efi": data, "extlinux/extlinux.conf": data, "EFI/Boot/bootx64.efi": data,
        "EFI/Microsoft/Boot/BCD": data, "EFI/Microsoft/Boot/bootmgfw.efi": b"MZ",
    }  # fmt: skip
    head = NTLDR_SECTOR.ljust(510, b"\0") + b"\x55\xaa"
    xp = {**xp_starts(data), **xp_files(), "bootmgr": b"m", "Boot/BCD": data}
    parts = [
        boot_part(1, "vfat", files), boot_part(2, files={**files, "vmlinuz": b""}),
        boot_part(3, files={"etc/os-release": b"NAME=x\n", "etc/fstab": data, "etc/crypttab": data}),
        boot_part(4, "ntfs", xp, scheme="mbr", disk=1, active=True, head=head),
    ]  # fmt: skip
    before = [part.files.reads for part in parts if isinstance(part.files, FilesInMemory)]
    sector = WINDOWS_CODE[:440].ljust(510, b"\0") + b"\x55\xaa"
    disks = [BootDisk(number=number, reader=MemoryDisk(sector.ljust(MIB, b"\0"))) for number in range(2)]
    chains = follow_boot(disks, parts)
    assert len(chains) <= 64
    assert all(len(chain.steps) <= 30 for chain in chains)
    after = [part.files.reads for part in parts if isinstance(part.files, FilesInMemory)]
    assert sum(after) - sum(before) < READS_MAX * 10


def changed(source: random.Random, whole: bytes, *, among: int = 0) -> bytes:
    found = bytearray(whole)
    for _ in range(source.randrange(1, 6)):
        found[source.randrange(among or len(found))] = source.choice((0, 1, 10, 0x7F, 0xFF, source.randrange(256)))
    return bytes(found)


def test_changed_texts() -> None:
    source = random.Random(1)
    for _ in range(1500):
        fuzz_boot_ini(changed(source, INI))
        fuzz_menus(changed(source, MENU))


def test_changed_programs_and_boot_code() -> None:
    source = random.Random(2)
    program = b"MZ".ljust(0x3C, b"\0") + (0x80).to_bytes(4, "little") + bytes(0x40) + b"PE\0\0" + bytes(2) + b"\x03\0"
    program = program.ljust(0x94, b"\0") + b"\x10\0\0\0".ljust(20, b"\0")
    for name in (b".linux", b"mods", b".cmdline"):
        program += name.ljust(8, b"\0") + b"\x40\0\0\0" + bytes(4) + b"\x40\0\0\0" + b"\0\x02\0\0" + bytes(16)
    program = program.ljust(0x200, b"\0") + b"mimg" + bytes(4) + b"\x18" + bytes(7) + b"\x40" + bytes(7)
    program += b"\x03\0\0\0\x10\0\0\0/prefix\0" + b"\x02\0\0\0\x10\0\0\0config\0\0"
    for _ in range(1500):
        fuzz_programs(changed(source, program))
    for _ in range(200):
        fuzz_boot_code(changed(source, (b"\0" * 0x5C + b"\x02" + bytes(7) + b"GRUB ").ljust(4096, b"\0"), among=1024))


@pytest.mark.parametrize("base", ["menu", "ini", "store", "random"])
def test_changed_chains(base: str) -> None:
    source = random.Random(base)
    store = full_store(mbr_device(5, MIB), {"{1}": ("a", mbr_device(0x5EADBEF0, 4 * MIB))}, legacy=mbr_device(6, MIB))
    wholes = {"menu": MENU, "ini": INI, "store": store, "random": source.randbytes(600)}
    for _ in range(40):
        fuzz_chain(changed(source, wholes[base]))


def test_a_menu_that_includes_all_others_costs_little() -> None:
    fuzz_chain(b"".join(b"configfile /grub/grub.cfg\nsource /EFI/a/grub.cfg\n" for _ in range(100)))
    fuzz_chain(
        b"".join(b"menuentry x {\n search --file /vmlinuz\n chainloader /EFI/a/grubx64.efi\n}\n" for _ in range(100))
    )


def test_a_store_of_noise_has_no_entries() -> None:
    found = read_boot_store(FilesInMemory({"BCD": b"regf" + bytes(8000)}), "/BCD")
    assert found is None or found.entries == ()
