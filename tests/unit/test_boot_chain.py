"""Ways from the firmware to a system, followed through volumes in memory."""

from collections.abc import Mapping, Sequence

import pytest

from stillframe.block import MemoryDisk
from stillframe.cli.boot_words import boot_fields, boot_lines, chain_words
from stillframe.jobs.inside.system_reading import BootWaysFound
from stillframe.systems.boot_chain import follow_boot
from stillframe.systems.chain_records import BootChain, BootDisk, BootPart
from stillframe.testing.boot_disks import (
    BOOTMGR_SECTOR,
    NTLDR_SECTOR,
    WINDOWS_CODE,
    boot_ini,
    full_store,
    xp_files,
    xp_starts,
)
from stillframe.testing.system_disks import windows_files
from stillframe.testing.system_files import DISK_GUID, MIB, SIGNATURE, boot_part, guid_of
from stillframe.testing.windows_backup import gpt_device, mbr_device

RELEASE = b'PRETTY_NAME="Little Linux 3"\n'
KERNEL = {"vmlinuz": b"k", "initrd.img": b"i"}
SYSTEM = {"etc/os-release": RELEASE, "etc/fstab": b"UUID=u3 / ext4 defaults 0 1\n"}
LOADER = {"Windows/system32/winload.efi": b"MZ", "Windows/system32/winload.exe": b"MZ"}
SECTOR = WINDOWS_CODE[:440].ljust(510, b"\0") + b"\x55\xaa"
FIRST, SECOND = ("{11111111-0000-0000-0000-000000000001}", "{11111111-0000-0000-0000-000000000002}")


def menu(root: str, volume: str = "UUID=u2", *, title: str = "Little", kernel: str = "/vmlinuz") -> bytes:
    kind, _, name = volume.partition("=")
    search = {"UUID": "--fs-uuid", "LABEL": "--label"}[kind]
    return (
        f"menuentry '{title}' {{\n search --no-floppy {search} --set=root {name}\n"
        f" linux {kernel} root={root} ro\n initrd /initrd.img\n}}\n"
    ).encode()


def esp(files: Mapping[str, bytes], number: int = 1) -> BootPart:
    return boot_part(number, "vfat", files, type_name="EFI system")


def follow(*parts: BootPart, sector: bytes = b"", disks: int = 1) -> tuple[BootChain, ...]:
    readers = [BootDisk(number=number, reader=MemoryDisk(sector.ljust(MIB, b"\0"))) for number in range(disks)]
    return follow_boot(readers, parts)


def told(*parts: BootPart, sector: bytes = b"", disks: int = 1) -> list[str]:
    return [chain_words(chain, many=disks > 1) for chain in follow(*parts, sector=sector, disks=disks)]


def grub(cfg: bytes) -> BootPart:
    return esp({"EFI/little/shimx64.efi": b"MZ", "EFI/little/grubx64.efi": b"MZ", "EFI/little/grub.cfg": cfg})


def test_a_linux_by_shim_and_grub() -> None:
    (chain,) = follow(grub(menu("UUID=u3")), boot_part(2, files=KERNEL), boot_part(3, files=SYSTEM))
    assert chain_words(chain, many=False) == "Starts by UEFI: GRUB (1) -> Little Linux 3 (3)"
    assert [(step.kind, step.partition, step.path) for step in chain.steps] == [
        ("code", 1, "/EFI/little/shimx64.efi"), ("loader", 1, "/EFI/little/grubx64.efi"),
        ("menu", 1, "/EFI/little/grub.cfg"), ("kernel", 2, "/vmlinuz"), ("system", 3, "/"), ("tables", 3, "/etc/fstab"),
    ]  # fmt: skip
    assert (chain.fault, chain.limit) == ("", "")


BROKEN = [
    (menu("UUID=u3", "UUID=gone"), "'Little' searches UUID=gone, no volume on these disks has it"),
    (menu("UUID=gone"), "root=UUID=gone: no volume on these disks has it"),
    (menu("UUID=u3", kernel="/old"), "there is no /old on this volume"),
    (menu("UUID=u2"), "it is named as the root, and there is no Linux on it"),
    (b"search.fs_uuid gone root\nset prefix=($root)/grub\nconfigfile $prefix/grub.cfg\n",
     "/EFI/little/grub.cfg searches UUID=gone, no volume on these disks has it"),
    (b"search.fs_uuid u2 root\nset prefix=($root)/grub\nconfigfile $prefix/grub.cfg\n",
     "there is no /grub/grub.cfg on this volume"),
    (b"configfile /EFI/little/grub.cfg\n", "/EFI/little/grub.cfg leads back to itself"),
]  # fmt: skip


@pytest.mark.parametrize(("cfg", "fault"), BROKEN)
def test_a_broken_link_says_what_is_missing(cfg: bytes, fault: str) -> None:
    (chain,) = follow(grub(cfg), boot_part(2, files=KERNEL), boot_part(3, files=SYSTEM))
    assert chain.fault == fault
    assert chain_words(chain, many=False).endswith(f"BROKEN: {fault}")


@pytest.mark.parametrize(
    ("filesystem", "words"),
    [("btrfs", "Btrfs is not read here"), ("xfs", "XFS is not read here"), ("crypto_LUKS", "it is encrypted by LUKS")],
)
def test_what_is_not_read_is_no_fault(filesystem: str, words: str) -> None:
    (chain,) = follow(grub(menu("UUID=u3")), boot_part(2, files=KERNEL), boot_part(3, filesystem))
    assert (chain.fault, chain.limit) == ("", f"cannot be followed further: {words}")
    assert chain_words(chain, many=False) == f"Starts by UEFI: GRUB (1) -> cannot be followed further: {words}"


def test_a_kernel_on_a_volume_that_is_not_read_is_not_missing() -> None:
    (chain,) = follow(grub(menu("UUID=u3")), boot_part(2, "btrfs"), boot_part(3, files=SYSTEM))
    assert (chain.fault, chain.limit) == ("", "cannot be looked for: Btrfs is not read here")
    assert chain.system is not None


def test_a_kernel_in_a_subvolume_that_is_mounted() -> None:
    """A Btrfs is read where it is mounted, and its files are there without the name of the subvolume."""
    parts = boot_part(2, "btrfs", {"boot/vmlinuz": b"", "initrd.img": b""}), boot_part(3, files=SYSTEM)
    (chain,) = follow(grub(menu("UUID=u3", kernel="/@/boot/vmlinuz")), *parts)
    assert (chain.fault, chain.limit) == ("", "")


@pytest.mark.parametrize(
    ("options", "ending"),
    [("cryptdevice=UUID=u3:root root=/dev/mapper/root", "it is encrypted by LUKS"),
     ("rd.luks.uuid=luks-u3 root=/dev/mapper/luks-u3", "it is encrypted by LUKS"),
     ("rd.luks.name=u3=root root=/dev/mapper/root", "it is encrypted by LUKS"),
     ("root=/dev/mapper/vg-root", "root=/dev/mapper/vg-root may be in partition 3 (crypto_LUKS)"),
     ("root=ZFS=tank/root", "the kernel is told root=ZFS=tank/root, which is not followed"),
     ("quiet", "no root= names its root")],
)  # fmt: skip
def test_a_root_below_another_layer_is_named(options: str, ending: str) -> None:
    entry = f"title Little\nlinux /vmlinuz\ninitrd /initrd.img\noptions {options}\n".encode()
    start = esp({"EFI/systemd/systemd-bootx64.efi": b"MZ", "loader/entries/little.conf": entry, **KERNEL})
    (chain,) = follow(start, boot_part(3, "crypto_LUKS"))
    assert chain.fault == ""
    assert chain.limit.endswith(ending)


def test_a_root_that_nobody_names_is_found_by_its_type() -> None:
    entry = b"title Little\nlinux /vmlinuz\ninitrd /initrd.img\n"
    start = esp({"EFI/systemd/systemd-bootx64.efi": b"MZ", "loader/entries/little.conf": entry, **KERNEL})
    root = boot_part(3, files=SYSTEM, kind="4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709")
    assert told(start, root) == ["Starts by UEFI: systemd-boot (1) -> Little Linux 3 (3)"]


def test_systemd_boot_without_entries() -> None:
    (chain,) = follow(esp({"EFI/systemd/systemd-bootx64.efi": b"MZ"}))
    assert chain.fault == "it has no entry and no unified kernel to start"


def test_a_root_in_a_logical_volume() -> None:
    root = boot_part(3, files={**SYSTEM, "etc/fstab": b"/dev/mapper/vg-root / ext4\n/dev/vg/swap none swap\n"},
                     inner="vg/root")  # fmt: skip
    parts = boot_part(3, "LVM2_member", opened=True), root, boot_part(3, "swap", {}, inner="vg/swap")
    (chain,) = follow(grub(menu("/dev/mapper/vg-root")), boot_part(2, files=KERNEL), *parts)
    assert chain_words(chain, many=False) == "Starts by UEFI: GRUB (1) -> Little Linux 3 (3, vg/root)"
    assert chain.steps[-1].leads == "/ (vg/root), swap (vg/swap)"


def test_the_tables_of_a_linux_say_what_they_miss() -> None:
    fstab = b"UUID=u3 / ext4\nUUID=u2 /boot ext4\nUUID=gone /var ext4\nUUID=usb /mnt ext4 nofail\nUUID=s none swap\n"
    root = boot_part(3, files={**SYSTEM, "etc/fstab": fstab, "etc/crypttab": b"data UUID=u4 none luks\n"})
    (chain,) = follow(grub(menu("UUID=u3")), boot_part(2, files=KERNEL), root)
    assert chain.fault == "/etc/fstab has /var on UUID=gone, no volume on these disks has it"
    tables = chain.steps[-2]
    assert tables.leads == "/ (3), /boot (2)"
    assert tables.limit == "/mnt is on UUID=usb, which is not seen here; swap is on UUID=s, which is not seen here"
    assert chain.steps[-1].limit == "'data' is on UUID=u4, which is not seen here"


def test_fedora_by_entries_beside_its_menu() -> None:
    cfg = b"search --no-floppy --fs-uuid --set=root u2\nset boot=root\nblscfg\n"
    entry = b"title Fedora\nlinux /vmlinuz\ninitrd /initrd.img\noptions $kernelopts\n"
    start = {**KERNEL, "grub2/grub.cfg": cfg, "grub2/grubenv": b"# GRUB\nkernelopts=root=UUID=u3 ro\n",
             "loader/entries/a-6.5.conf": entry}  # fmt: skip
    small = b"search --no-floppy --fs-uuid --set=dev u2\nset prefix=($dev)/grub2\nconfigfile $prefix/grub.cfg\n"
    assert told(grub(small), boot_part(2, files=start), boot_part(3, files=SYSTEM)) == [
        "Starts by UEFI: GRUB (1) -> Little Linux 3 (3)"
    ]  # fmt: skip


def test_two_linuxes_and_a_windows_by_one_menu() -> None:
    store = full_store(gpt_device(DISK_GUID, guid_of(1)), {FIRST: ("Windows 11", gpt_device(DISK_GUID, guid_of(4)))})
    windows = (
        b"menuentry 'Windows' {\n search --fs-uuid --set=root u1\n chainloader /efi/Microsoft/Boot/bootmgfw.efi\n}\n"
    )
    cfg = menu("UUID=u3") + menu("UUID=u5", title="Other") + windows
    manager = {"EFI/Microsoft/Boot/bootmgfw.efi": b"MZ", "EFI/Microsoft/Boot/BCD": store}
    start = esp({"EFI/little/grubx64.efi": b"MZ", "EFI/little/grub.cfg": cfg, **manager})
    other = boot_part(5, files={"etc/os-release": b'PRETTY_NAME="Other 1"\n'})
    parts = boot_part(2, files=KERNEL), boot_part(3, files=SYSTEM), other
    assert told(start, *parts, boot_part(4, "ntfs", {**windows_files(), **LOADER})) == [
        "Starts by UEFI: GRUB (1) -> Little Linux 3 (3)",
        "Starts by UEFI, another entry: GRUB (1) -> Other 1 (5)",
        "Starts by UEFI, another entry: GRUB (1) -> Windows Boot Manager (1) -> Windows 11 Pro (4)",
        "Starts by UEFI: Windows Boot Manager (1) -> Windows 11 Pro (4)",
    ]


def windows_esp(systems: Mapping[str, tuple[str, bytes]], default: str = "") -> BootPart:
    store = full_store(gpt_device(DISK_GUID, guid_of(1)), systems, default=default)
    return esp({"EFI/Microsoft/Boot/BCD": store, "EFI/Microsoft/Boot/bootmgfw.efi": b"MZ"})


def test_the_default_of_a_store_comes_first_and_what_it_misses_is_said() -> None:
    here, gone = gpt_device(DISK_GUID, guid_of(3)), gpt_device(DISK_GUID, guid_of(9))
    start = windows_esp({FIRST: ("Windows 10", here), SECOND: ("Old", gone)}, default=SECOND)
    fault = f"its entry 'Old' names partition GUID {guid_of(9)}, which is on none of these disks"
    assert told(start, boot_part(3, "ntfs", {**windows_files(), **LOADER})) == [
        f"Starts by UEFI: Windows Boot Manager (1) -> BROKEN: {fault}",
        "Starts by UEFI, another entry: Windows Boot Manager (1) -> Windows 11 Pro (3)",
    ]
    (chain,) = follow(windows_esp({FIRST: ("Ten", here)}), boot_part(3, "ntfs", windows_files()))
    assert chain.fault == "its entry 'Ten' starts /Windows/system32/winload.efi, which is not there"
    (chain,) = follow(windows_esp({FIRST: ("Ten", here)}), boot_part(3, "BitLocker"))
    assert chain.limit == "cannot be followed further: it is encrypted by BitLocker"
    (chain,) = follow(windows_esp({FIRST: ("Ten", here)}, default=SECOND), boot_part(3, "ntfs", windows_files()))
    assert chain.fault == f"its default entry {SECOND} is not in it"


def test_a_store_that_is_no_registry_or_gone() -> None:
    (chain,) = follow(esp({"EFI/Microsoft/Boot/bootmgfw.efi": b"MZ"}))
    assert chain.fault == "/EFI/Microsoft/Boot/BCD is not there"
    (chain,) = follow(esp({"EFI/Microsoft/Boot/bootmgfw.efi": b"MZ", "EFI/Microsoft/Boot/BCD": b"x" * 5000}))
    assert chain.fault == "/EFI/Microsoft/Boot/BCD is no registry file"


def test_the_fallback_path_is_a_copy_of_a_loader() -> None:
    files = {"EFI/Boot/bootx64.efi": b"MZ1", "EFI/Microsoft/Boot/bootmgfw.efi": b"MZ1"}
    store = full_store(gpt_device(DISK_GUID, guid_of(1)), {FIRST: ("Ten", gpt_device(DISK_GUID, guid_of(3)))})
    windows = boot_part(3, "ntfs", {**windows_files(), **LOADER})
    assert told(esp({**files, "EFI/Microsoft/Boot/BCD": store}), windows)[1] == (
        "Starts by UEFI, fallback path: Windows Boot Manager (1) -> Windows 11 Pro (3)"
    )
    (alone,) = follow(esp({"EFI/Boot/bootx64.efi": b"MZ2"}))
    assert alone.limit == "cannot be followed further: what this program starts is not known here"


def test_shim_at_the_fallback_path_goes_by_the_lists_of_others() -> None:
    files = {
        "EFI/BOOT/BOOTX64.EFI": b"MZs", "EFI/BOOT/fbx64.efi": b"MZf", "EFI/little/shimx64.efi": b"MZs",
        "EFI/little/grubx64.efi": b"MZg", "EFI/little/BOOTX64.CSV": b"", "EFI/little/grub.cfg": menu("UUID=u3"),
    }  # fmt: skip
    found = told(esp(files), boot_part(2, files=KERNEL), boot_part(3, files=SYSTEM))
    way = "GRUB (1) -> Little Linux 3 (3)"
    assert found == [f"Starts by UEFI: {way}", f"Starts by UEFI, fallback path: {way}"]


def bios(number: int, files: Mapping[str, bytes], head: bytes = b"", filesystem: str = "ntfs") -> BootPart:
    return boot_part(number, filesystem, files, scheme="mbr", active=True,
                     head=head.ljust(510, b"\0") + b"\x55\xaa")  # fmt: skip


def test_xp_on_the_second_partition() -> None:
    start = bios(1, xp_starts(boot_ini(r"multi(0)disk(0)rdisk(0)partition(2)\WINDOWS")), NTLDR_SECTOR)
    windows = boot_part(2, "ntfs", xp_files(), scheme="mbr")
    (chain,) = follow(start, windows, sector=SECTOR)
    assert chain_words(chain, many=False) == (
        "Starts by BIOS: loader of Windows NT to 2003 (1) -> Microsoft Windows XP Service Pack 3 (2)"
    )
    assert [step.what for step in chain.steps][:2] == ["boot code of Windows", "boot sector, boot code of Windows"]


@pytest.mark.parametrize(
    ("files", "fault"),
    [({"NTDETECT.COM": None}, "NTDETECT.COM missing"),
     ({"boot.ini": None}, "there is no boot.ini: the loader then takes the folder Windows of the first partition"),
     ({"boot.ini": boot_ini(r"multi(0)disk(0)rdisk(0)partition(7)\WINDOWS")},
      r"boot.ini names multi(0)disk(0)rdisk(0)partition(7)\WINDOWS, which is on none of these disks"),
     ({"boot.ini": boot_ini(r"multi(0)disk(0)rdisk(0)partition(1)\WINNT")},
      r"boot.ini names multi(0)disk(0)rdisk(0)partition(1)\WINNT, and there is no Windows"),
     ({"boot.ini": b"[boot loader]\r\n"}, "it names no Windows")],
)  # fmt: skip
def test_a_broken_xp(files: Mapping[str, bytes | None], fault: str) -> None:
    whole = {**xp_starts(boot_ini(r"multi(0)disk(0)rdisk(0)partition(1)\WINDOWS")), **xp_files(), **files}
    (chain,) = follow(
        bios(1, {name: raw for name, raw in whole.items() if raw is not None}, NTLDR_SECTOR), sector=SECTOR
    )
    assert chain.fault == fault


def test_vista_beside_xp() -> None:
    signature = int(SIGNATURE, 16)
    store = full_store(mbr_device(signature, MIB), {FIRST: ("Windows 7", mbr_device(signature, 2 * MIB))},
                       legacy=mbr_device(signature, MIB), loader=r"\Windows\system32\winload.exe")  # fmt: skip
    ini = boot_ini(r"multi(0)disk(0)rdisk(0)partition(1)\WINDOWS")
    start = bios(1, {"bootmgr": b"m", "Boot/BCD": store, **xp_starts(ini), **xp_files()}, BOOTMGR_SECTOR)
    seven = boot_part(2, "ntfs", {**windows_files("Windows 7 Home", "7601"), **LOADER}, scheme="mbr")
    xp = "loader of Windows NT to 2003 (1) -> Microsoft Windows XP Service Pack 3 (1)"
    assert told(start, seven, sector=SECTOR) == [
        "Starts by BIOS: Windows Boot Manager (1) -> Windows 7 Home (2)",
        f"Starts by BIOS, another entry: Windows Boot Manager (1) -> {xp}",
    ]


def test_first_sectors_that_start_nothing() -> None:
    windows = {"bootmgr": b"m"}
    assert follow(bios(1, windows, BOOTMGR_SECTOR))[0].fault == "the first sector of the disk has no boot code"
    passive = boot_part(1, "ntfs", windows, scheme="mbr")
    assert follow(passive, sector=SECTOR)[0].fault == "no partition is active"
    assert follow(passive) == ()
    unbootable = bios(1, windows, b"\xeb\x58\x90mkfs.fat".ljust(100, b"\0") + b"This is not a bootable disk.")
    assert follow(unbootable, sector=SECTOR)[0].fault == "its boot sector starts nothing: it has no boot code"


def test_extlinux_on_the_active_partition() -> None:
    conf = b"DEFAULT a\nLABEL a\n LINUX /vmlinuz\n INITRD /initrd.img\n APPEND root=UUID=u3\n"
    start = bios(1, {"extlinux/extlinux.conf": conf, **KERNEL}, b"\xeb\x58\x90EXTLINUX", "ext4")
    code = b"\x33\xc0\xfa\x8e\xd8\x8e\xd0\xbc\x00\x7c".ljust(510, b"\x90") + b"\x55\xaa"
    assert told(start, boot_part(3, files=SYSTEM, scheme="mbr"), sector=code) == [
        "Starts by BIOS: extlinux (1) -> Little Linux 3 (3)"
    ]  # fmt: skip


def test_grub_without_a_core_image() -> None:
    boot = (b"\xeb\x63\x90".ljust(0x5C, b"\0") + (2048).to_bytes(8, "little")).ljust(0x180, b"\0") + b"GRUB \0"
    (chain,) = follow(boot_part(2, files=SYSTEM), sector=boot.ljust(510, b"\0") + b"\x55\xaa")
    assert chain.fault == "there is no core image of GRUB where its boot code looks for one"


def test_a_windows_on_another_disk() -> None:
    start = windows_esp({FIRST: ("Ten", gpt_device(DISK_GUID, guid_of(3, disk=1)))})
    windows = boot_part(3, "ntfs", {**windows_files(), **LOADER}, disk=1)
    assert told(start, windows, disks=2) == [
        "Starts by UEFI: Windows Boot Manager (disk 1, 1) -> Windows 11 Pro (disk 2, 3)"
    ]


def test_menus_that_lead_in_circles_end() -> None:
    """Each includes the others several times: all ways together are bounded."""
    folders = [f"m{number}" for number in range(8)]
    cfg = "".join(f"configfile /{folder}/grub.cfg\n" for folder in folders).encode()
    files = {f"{folder}/grub.cfg": cfg for folder in folders}
    start = esp({"EFI/x/grubx64.efi": b"MZ", "EFI/x/grub.cfg": cfg, **files})
    chains = follow(start)
    assert 0 < len(chains) <= 64
    assert all(len(chain.steps) <= 26 for chain in chains)


def test_all_steps_in_words_and_fields() -> None:
    chains = follow(grub(menu("UUID=gone")), boot_part(2, files=KERNEL))
    found = BootWaysFound(chains=chains)
    lines: Sequence[str] = boot_lines(found, ["/dev/sda"], in_full=True)
    assert lines[1:] == [
        "  1. shim, partition 1 /EFI/little/shimx64.efi -> /EFI/little/grubx64.efi",
        "  2. GRUB, partition 1 /EFI/little/grubx64.efi -> /EFI/little/grub.cfg",
        "  3. GRUB's menu, partition 1 /EFI/little/grub.cfg -> 'Little'",
        "  4. kernel of 'Little', partition 2 /vmlinuz -> /initrd.img root=UUID=gone",
        "  5. the root, partition 2",
        "     BROKEN: root=UUID=gone: no volume on these disks has it",
    ]
    fields = boot_fields(found, ["/dev/sda"])["chains"][0]
    assert (fields["firmware"], fields["system"], fields["fault"]) == ("uefi", None, chains[0].fault)
    assert fields["steps"][3]["disk"] == "/dev/sda"
    assert boot_lines(BootWaysFound(chains=()), [], in_full=True) == [
        "No way was found in which a computer starts from here."
    ]
