"""Which partitions a system needs, judged from evidence in memory."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from stillframe.disk.layout import Partition, Scheme
from stillframe.errors import StillframeError
from stillframe.extents import Extent
from stillframe.fs.base import Volume
from stillframe.systems.boot_files import parse_menu, read_boot_files
from stillframe.systems.evidence import PartEvidence, read_file_evidence
from stillframe.systems.fstab import parse_crypttab, parse_lines
from stillframe.systems.needed import Verdict, is_system_folder, judge_parts
from stillframe.testing.windows_backup import boot_store, gpt_device, mbr_device

MIB = 1 << 20
DISK = "5A1B0C2D-1111-4222-8333-0A0B0C0D0E0F"
GUIDS = [f"D0C1B2A{number}-9999-4999-9999-665544332211" for number in range(8)]
RELEASE = b'PRETTY_NAME="Little Linux 3"\n'
KERNEL = {"vmlinuz-6.1.0": b"", "grub/grub.cfg": b"linux /vmlinuz-6.1.0 root=/dev/mapper/vg-root ro\n"}


class Files:
    """Files in memory."""

    def __init__(self, files: Mapping[str, bytes], *, broken: bool = False) -> None:
        self._files = {f"/{path}": contents for path, contents in files.items()}
        self._broken = broken

    def list_names(self, path: str) -> tuple[str, ...]:
        if self._broken:
            raise StillframeError("nothing can be read")
        below = path.rstrip("/") + "/"
        return tuple(dict.fromkeys(one[len(below) :].split("/")[0] for one in self._files if one.startswith(below)))

    def read_file(self, path: str, offset: int, size: int) -> bytes | None:
        raw = self._files.get(path)
        return None if raw is None else raw[offset : offset + size]


def part(
    number: int, filesystem: str = "ext4", files: Mapping[str, bytes] | None = None, *, kind: str = "Linux",
    disk: int = 0, scheme: Scheme = "gpt", active: bool = False, code: bool = False,
) -> PartEvidence:  # fmt: skip
    """A partition whose UUID is ``u`` and its number; without ``files`` they cannot be read."""
    evidence = None if files is None else read_file_evidence(Files(files), may_be_windows=filesystem == "ntfs")
    return PartEvidence(
        disk=disk, has_boot_code=code, disk_id=DISK if scheme == "gpt" else "5EADBEEF", scheme=scheme, files=evidence,
        partition=Partition(
            number=number, extent=Extent(number * MIB, (number + 1) * MIB), type="", type_name=kind, name="",
            guid=GUIDS[number] if scheme == "gpt" else "", attributes=0x80 if active else 0, index=number - 1,
            logical=False,
        ),
        volume=Volume(filesystem=filesystem, uuid=f"u{number}"), names=frozenset({f"UUID=u{number}"}),
    )  # fmt: skip


def told(*parts: PartEvidence) -> list[str]:
    """The verdicts as a person reads them."""
    return [f"{'yes' if one.taken else 'no'}: {one.reason}" for one in judge_parts(parts).verdicts]


def esp(number: int = 1, **files: bytes) -> PartEvidence:
    return part(number, "vfat", {"EFI/little/shim.efi": b"MZ", **files}, kind="EFI system")


def root(number: int, fstab: str = "", crypttab: str = "") -> PartEvidence:
    files = {"etc/os-release": RELEASE, "etc/fstab": f"UUID=u{number} / ext4\n{fstab}".encode()}
    return part(number, "ext4", files | ({"etc/crypttab": crypttab.encode()} if crypttab else {}))


def test_the_tables_of_a_linux_are_followed() -> None:
    fstab = "UUID=u3 /boot ext4\n/dev/sda4 /var/log ext4\nLABEL=x /srv ext4 nofail\nUUID=U5 /home ext4 defaults\n"
    verdicts = told(esp(), root(2, fstab), part(3, files={}), part(4, files={}), part(5, files={}), part(6, files={}))
    assert verdicts == [
        "yes: EFI system partition with the loader of little",
        "yes: Little Linux 3 begins here",
        "yes: /boot of Little Linux 3 by its fstab",
        "yes: /var/log of Little Linux 3 by its fstab",
        "no: data: /home of Little Linux 3 by its fstab, though a start waits for it (no 'nofail')",
        "no: data: nothing that starts lies here",
    ]


def test_an_encrypted_volume_is_what_lies_on_it() -> None:
    crypttab = "secret UUID=u3 none luks\nmine UUID=u4 none luks\nswap UUID=u5 /dev/urandom swap\n# x UUID=u6 none\n"
    fstab = "/dev/mapper/secret /var ext4\n/dev/mapper/mine /home ext4 nofail\n"
    closed = [part(number, "crypto_LUKS") for number in (3, 4, 5, 6)]
    assert [one.partition(":")[0] for one in told(root(2, fstab, crypttab), *closed)] == [
        "yes", "yes", "no", "yes", "yes"
    ]  # fmt: skip


@pytest.mark.parametrize("inside", ["LVM2_member", "crypto_LUKS", "linux_raid_member", "btrfs", "xfs", "ext4"])
def test_where_the_root_cannot_be_read_everything_that_may_hold_it_is_taken(inside: str) -> None:
    boot, data = part(2, files=KERNEL), part(4, "ntfs", {"Photos/a.jpg": b""})
    hidden = part(3, inside, {} if inside == "ext4" else None)
    home = replace(hidden, partition=replace(hidden.partition, number=5, type_name="Linux home"))
    verdicts = judge_parts([esp(), boot, hidden, data, home]).verdicts
    assert [one.taken for one in verdicts] == [True, True, True, False, False]
    assert "whose fstab cannot be read" in verdicts[2].reason


def test_a_second_linux_whose_boot_is_named_by_nobody_is_seen() -> None:
    known = root(2, "UUID=u3 /boot ext4\n")
    assert told(known, part(3, files=KERNEL), part(4, files={}))[2].startswith("no:")
    assert told(known, part(3, files=KERNEL), part(4, files={}), part(5, files=KERNEL))[2].startswith("yes:")


def test_what_a_boot_menu_names_is_taken() -> None:
    menu = b"search --no-floppy --fs-uuid --set=root 0123-ABCD\nlinux /k root=UUID=u3 resume=UUID=u4\n# root=UUID=u5\n"
    assert parse_menu(menu.decode()) == {"UUID=0123-ABCD", "UUID=u3", "UUID=u4"}
    start = part(1, "vfat", {"EFI/other/a.efi": b"MZ", "EFI/other/grub.cfg": menu}, kind="EFI system")
    verdicts = told(root(2), start, part(3, "btrfs"), part(4, "swap"), part(5, files={}))
    assert verdicts[2:] == [
        "yes: named by the boot menu on partition 1",
        "yes: named by the boot menu on partition 1: only its header is kept",
        "no: data: nothing that starts lies here",
    ]


def test_a_volume_that_cannot_be_read_may_hold_a_system() -> None:
    data = root(2, "UUID=u4 /srv xfs nofail\n")
    assert told(data, part(3, "btrfs"), part(4, "xfs"), part(5, "exfat"))[1:] == [
        "yes: its files cannot be read here, and no fstab says that it is data: a system may be in it",
        "no: data: /srv of Little Linux 3 by its fstab",
        "no: data: nothing that starts lies here",
    ]
    assert told(part(1, "btrfs", scheme="mbr"))[0].startswith("no:")
    assert told(part(1, "btrfs", scheme="mbr", code=True))[0].startswith("yes:")


def test_a_folder_of_the_system_in_a_logical_volume_takes_what_may_hold_it() -> None:
    fstab = "/dev/mapper/vg-var /var ext4\n"
    assert told(root(2, fstab), part(3, "LVM2_member"))[1] == (
        "yes: it may hold a folder that Little Linux 3 needs, by its fstab"
    )
    judged = judge_parts([root(2, fstab)])
    assert judged.missing == ("Little Linux 3 has /var on /dev/mapper/vg-var, which is on none of these disks",)


def test_windows_on_a_second_disk_is_found_by_the_configuration_on_the_first() -> None:
    store = boot_store(gpt_device(DISK, GUIDS[1]), gpt_device(DISK, GUIDS[5]), recovery=gpt_device(DISK, GUIDS[6]))
    files = {"EFI/Microsoft/Boot/BCD": store, "EFI/Microsoft/Boot/bootmgfw.efi": b"MZ"}
    first = part(1, "vfat", files, kind="EFI system")
    second = [part(5, "BitLocker", disk=1), part(6, "ntfs", {}, disk=1), part(7, "ntfs", {}, disk=1)]
    reserved = part(2, "", kind="Microsoft reserved", disk=1)
    named = "named by the boot configuration (BCD) of partition 1"
    assert told(first, *second, reserved) == [
        "yes: EFI system partition with the loader of Windows",
        f"yes: a Windows, encrypted by BitLocker, {named}",
        f"yes: recovery environment, {named}",
        "no: data: nothing that starts lies here",
        "yes: Microsoft reserved partition, by its type",
    ]
    alone = judge_parts([first])
    assert "names a Windows that is on none of these disks" in alone.missing[0]
    # Without a readable configuration every closed volume may be the Windows.
    bare = part(1, "vfat", {"EFI/Microsoft/Boot/bootmgfw.efi": b"MZ"}, kind="EFI system")
    assert told(bare, *second)[1].startswith("yes: its files cannot be read")


def test_a_bios_starts_the_active_partition() -> None:
    store = boot_store(mbr_device(0x5EADBEEF, MIB), mbr_device(0x5EADBEEF, 2 * MIB))
    first = part(1, "ntfs", {"bootmgr": b"x", "Boot/BCD": store}, scheme="mbr", active=True)
    assert told(first, part(2, "ntfs", {}, scheme="mbr"), part(3, "ntfs", {}, scheme="mbr")) == [
        "yes: boot manager of Windows (bootmgr), on the active partition",
        "yes: a Windows, named by the boot configuration (BCD) of partition 1",
        "no: data: nothing that starts lies here",
    ]
    old = part(1, "ntfs", {"ntldr": b"x", "boot.ini": b"[boot loader]"}, scheme="mbr")
    assert told(old) == ["yes: loader of Windows (ntldr)"]
    linux = replace(root(2), scheme="mbr")
    assert (
        told(linux, part(3, "vfat", {}, scheme="mbr", active=True))[1] == "yes: the active partition: a BIOS starts it"
    )


def test_of_a_running_system_only_its_disks_are_taken() -> None:
    here = replace(part(2, "LVM2_member"), mounted=("/", "/home"))
    swap, stick = replace(part(3, "swap"), is_swapped_to=True), replace(part(4, files={}), mounted=("/media/stick",))
    other = replace(root(5), disk=1)
    assert told(esp(), here, swap, stick, other) == [
        "yes: EFI system partition with the loader of little",
        "yes: the running system has it at /",
        "yes: the running system swaps to it: only its header is kept",
        "no: data, mounted at /media/stick",
        "no: not of the running system: Little Linux 3 begins here",
    ]


def test_types_count_only_beside_a_system() -> None:
    reserved, bios = part(1, "", kind="Microsoft reserved"), part(2, "", kind="BIOS boot")
    assert set(told(reserved, bios, part(3, "swap"), part(4, files={}))) == {
        "no: nothing that starts was found on this disk"
    }
    assert [one.taken for one in judge_parts([reserved, bios, part(3, "swap"), root(4)]).verdicts] == [True] * 4


def test_what_should_be_readable_and_is_not_is_taken() -> None:
    assert told(part(1, "ntfs"), part(2, "exfat")) == [
        "yes: its files could not be looked at, so a system may need it", "no: data: nothing that starts lies here"
    ]  # fmt: skip
    assert judge_parts([]).verdicts == ()
    assert Verdict(taken=True, reason="x") != Verdict(taken=False, reason="x")


@pytest.mark.parametrize(
    ("where", "is_system"),
    [("/", True), ("/boot/efi", True), ("/usr/local", True), ("/etc", True), ("/etc/hosts", False), ("/home", False),
     ("/varnish", False), ("/mnt/usr", False)],
)  # fmt: skip
def test_folders_of_a_system(where: str, is_system: bool) -> None:
    assert is_system_folder(where) is is_system


def test_a_volume_that_cannot_be_listed_starts_nothing() -> None:
    assert not read_boot_files(Files({"EFI/x/a.efi": b""}, broken=True)).starts_linux
    unified = read_boot_files(
        Files({"efi/Linux/debian.efi": b"MZ", "loader/entries/a.conf": b"options root=PARTUUID=p1"})
    )
    assert unified.is_unified
    assert unified.named == {"PARTUUID=p1"}


def test_tables_are_read_as_their_pages_say() -> None:
    lines = parse_lines("# c\nUUID=a /x\\040y ext4 ro,nofail 0 0\n/dev/disk/by-partuuid/p none swap sw\nshort\n")
    assert [(one.what, one.where, one.waits) for one in lines] == [
        ("UUID=a", "/x\\040y", False),
        ("PARTUUID=p", "", True),
    ]
    assert parse_crypttab("#a b\nname uuid=U none\n") == (("name", "UUID=U"),)
