"""Ids in texts, programs, and archives: replaced whole, and found wherever they are."""

import lzma
import random
import struct
import subprocess
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe.block.memory import MemoryDisk
from stillframe.errors import DiskFormatError
from stillframe.systems.grub_image import read_core, replace_in_core
from stillframe.systems.initrd import holds_ids, read_early_files
from stillframe.systems.linux_ids import IdChange, IdPattern, iter_paths, unified_initrd
from stillframe.testing.tools import run_tool

OLD, NEW = "0a1b2c3d-1111-4222-8333-0123456789ab", "f00dcafe-5555-4666-8777-ba9876543210"
FAT_OLD, FAT_NEW = "12AB-34CD", "98FE-76BA"
PART_OLD, PART_NEW = "1a2b3c4d-02", "99887766-02"
IDS = IdPattern([IdChange(old=OLD, new=NEW), IdChange(old=FAT_OLD, new=FAT_NEW), IdChange(old=PART_OLD, new=PART_NEW)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"UUID={OLD} / ext4\n", f"UUID={NEW} / ext4\n"),
        (f"root=PARTUUID={OLD.upper()}", f"root=PARTUUID={NEW.upper()}"),
        (f"rd.luks.name=luks-{OLD}=x", f"rd.luks.name=luks-{NEW}=x"),
        (f"/dev/disk/by-uuid/{FAT_OLD} /boot/efi", f"/dev/disk/by-uuid/{FAT_NEW} /boot/efi"),
        (f"search --fs-uuid {FAT_OLD.lower()}", f"search --fs-uuid {FAT_NEW.lower()}"),
        (f"root=PARTUUID={PART_OLD} resume=UUID={OLD}", f"root=PARTUUID={PART_NEW} resume=UUID={NEW}"),
        (f"0{OLD}", f"0{OLD}"),
        (f"aaaaaaaa-{FAT_OLD.lower()}-0000", f"aaaaaaaa-{FAT_OLD.lower()}-0000"),
        ("1a2b3c4d-021", "1a2b3c4d-021"),
        ("1A2B3C4D is a signature", "1A2B3C4D is a signature"),
    ],
)
def test_only_whole_ids_are_replaced(text: str, expected: str) -> None:
    assert IDS.replace(text.encode()).decode() == expected


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_the_way_back_gives_the_same_bytes(before: bytes, after: bytes) -> None:
    raw = before + b" " + OLD.encode() + b" " + after
    back = IdPattern([IdChange(old=NEW, new=OLD)])
    changed = IdPattern([IdChange(old=OLD, new=NEW)]).replace(raw)
    assert len(changed) == len(raw)
    assert back.replace(changed) == raw


LVM_OLD, LVM_NEW = "k3TqZ1-aB9c-Xy00-11Aa-zzQQ-7pLm-0Kk9Jj", "Qw8eRt-yU1i-OpAs-dF2g-HjKl-zXcV-bNm345"
MD_OLD, MD_NEW = "6b1f7a90:11223344:a5b6c7d8:00ff00ee", "01234567:89abcdef:01234567:89abcdef"
LAYERS = IdPattern(
    [
        IdChange(old=one.replace(mark, ""), new=other.replace(mark, "")) if is_bare else IdChange(old=one, new=other)
        for one, other, mark in ((LVM_OLD, LVM_NEW, "-"), (MD_OLD, MD_NEW, ":"))
        for is_bare in (False, True)
    ]
)


@pytest.mark.parametrize(
    ("before", "id_place", "after"),
    [
        ("set root='lvmid/", LVM_OLD, "/Yy1122-3344-5566-7788-99aa-bbcc-ddeeff'"),
        ("/dev/disk/by-id/lvm-pv-uuid-", LVM_OLD, " x"),
        ("/dev/disk/by-id/dm-uuid-LVM-", LVM_OLD.replace("-", ""), "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
        ("ARRAY /dev/md0 metadata=1.2 UUID=", MD_OLD, " name=host:0"),
        ("(mduuid/", MD_OLD.replace(":", ""), ")/grub"),
    ],
)
def test_ids_of_layers_are_replaced_where_they_stand(before: str, id_place: str, after: str) -> None:
    new = {LVM_OLD: LVM_NEW, MD_OLD: MD_NEW}
    new |= {
        one.replace("-", "").replace(":", ""): other.replace("-", "").replace(":", "") for one, other in new.items()
    }
    assert LAYERS.replace(f"{before}{id_place}{after}".encode()).decode() == f"{before}{new[id_place]}{after}"


@pytest.mark.parametrize("packer", ["gzip", "xz", "zstd", "bzip2", "lzma", "cat"])
def test_an_archive_has_the_files_that_cpio_lists(tmp_path: Path, packer: str) -> None:
    early = pack(tmp_path, "microcode", "x" * 1001)
    (tmp_path / "sub").mkdir()
    names = ("sub/large", "sub/crypttab", "last")
    for name, size in zip(names, (2_500_001, 100, 3), strict=True):
        (tmp_path / name).write_text("z" * size)
    command = ["cpio", "--quiet", "-o", "-H", "newc"]
    late = subprocess.run(
        command, input="\n".join(names).encode(), cwd=tmp_path, capture_output=True, check=True
    ).stdout
    packed = subprocess.run(
        [packer, *(() if packer == "cat" else ("-c",))], input=late, capture_output=True, check=True
    )
    found = read_early_files(early + bytes(512) + packed.stdout, ("sub/crypttab", "not/there"))
    assert found is not None
    assert found.names - {"TRAILER!!!"} == {"microcode", *names}
    assert found.contents == {"sub/crypttab": b"z" * 100}
    assert read_early_files(early + b"\x02!L\x18" + b"lz4") is None, "what cannot be read is not known"
    if packer != "cat":
        assert read_early_files(early + packed.stdout[: len(packed.stdout) // 2]) is None


def test_ids_that_change_places_do_not_meet() -> None:
    ids = IdPattern([IdChange(old=OLD, new=NEW), IdChange(old=NEW, new=OLD)])
    assert ids.replace(f"{OLD} {NEW}".encode()) == f"{NEW} {OLD}".encode()


def pack(folder: Path, name: str, contents: str) -> bytes:
    """An archive by cpio's own hand."""
    (folder / name).write_text(contents)
    command = ["cpio", "--quiet", "-o", "-H", "newc"]
    return subprocess.run(command, input=name.encode(), cwd=folder, capture_output=True, check=True).stdout


@pytest.mark.parametrize("packer", ["gzip", "xz", "zstd", "bzip2", "lzma"])
def test_an_id_is_found_in_whatever_packs_it(tmp_path: Path, packer: str) -> None:
    early = pack(tmp_path, "microcode", "x" * 1001)
    for contents, expected in ((f"RESUME=UUID={OLD}\n", True), (f"RESUME=UUID={NEW}\n", False)):
        late = pack(tmp_path, "conf", "y" * 1_500_000 + contents)
        packed = subprocess.run([packer, "-c"], input=late, capture_output=True, check=True).stdout
        assert holds_ids(early + packed, IDS) is expected
        assert holds_ids(early + late, IDS) is expected
    assert holds_ids(early + b"\x02!L\x18" + b"lz4", IDS) is None, "what cannot be read is not known"
    assert holds_ids(early + packed[: len(packed) // 2], IDS) is not True
    assert holds_ids(b"", IDS) is False


def core_disk(folder: Path, text: str) -> bytearray:
    """A disk with a GRUB by grub-mkimage, behind an MBR."""
    early, image = folder / "early", folder / "image"
    early.write_text(text)
    run_tool(
        "grub-mkimage", "-O", "i386-pc", "-o", str(image), "-p", "/boot/grub", "-c", str(early), "biosdisk", "ext2"
    )
    boot, code = bytearray(image.read_bytes()), Path("/usr/lib/grub/i386-pc/boot.img").read_bytes()
    struct.pack_into("<Q", boot, 500, 2)
    disk = bytearray(1 << 20)
    disk[:440] = code[:440]
    struct.pack_into("<Q", disk, 0x5C, 1)
    disk[512 : 512 + len(boot)] = boot
    return disk


def unpacked(disk: bytes) -> bytes:
    """What xz makes of the packed kernel, found by its size."""
    size, whole = struct.unpack_from("<II", disk, 1024 + 8)
    header = b"\x5d" + struct.pack("<IQ", 1 << 24, whole)  # lc 3, lp 0, pb 2: .lzma, with its size
    for at in range(1024 + 0x400, 1024 + 0x1800, 16):
        command = ["xz", "-dc", "--format=lzma"]
        done = subprocess.run(command, input=header + disk[at : at + size], capture_output=True, check=False)
        if len(done.stdout) == whole and b"mimg" in done.stdout:
            return done.stdout
    raise AssertionError("not found")


@pytest.mark.parametrize(
    ("text", "ids", "old", "new"),
    [
        (f"search.fs_uuid {OLD} root\n", IDS, OLD, NEW),
        (f"set root=lvmid/{LVM_OLD}/Yy1122-3344-5566-7788-99aa-bbcc-ddeeff\n", LAYERS, LVM_OLD, LVM_NEW),
    ],
)
def test_grub_for_a_bios_names_another_volume_and_nothing_else(
    tmp_path: Path, text: str, ids: IdPattern, old: str, new: str
) -> None:
    disk = core_disk(tmp_path, text)
    core = read_core(MemoryDisk(bytes(disk)))
    assert core is not None
    edit = replace_in_core(core, ids)
    assert edit is not None
    before = unpacked(bytes(disk))
    disk[edit.offset : edit.offset + len(edit.new)] = edit.new
    assert unpacked(bytes(disk)) == before.replace(old.encode(), new.encode()) != before
    again = read_core(MemoryDisk(bytes(disk)))
    assert again is not None
    assert replace_in_core(again, ids) is None


def test_what_is_not_grub_is_none_and_a_broken_one_an_error(tmp_path: Path) -> None:
    disk = core_disk(tmp_path, f"search.fs_uuid {OLD} root\n")
    assert read_core(MemoryDisk(bytes(1 << 20))) is None
    for place, value in ((0x5C, 1 << 40), (1024 + 8, 1 << 31), (512 + 500, 1 << 50), (1024 + 12, 5)):
        broken = bytearray(disk)
        struct.pack_into("<Q", broken, place, value)
        with pytest.raises(DiskFormatError, match="core image of GRUB"):
            read_core(MemoryDisk(bytes(broken)))


def fuzz_grub_core(data: bytes) -> None:
    """Any bytes give an answer or an error of ours."""
    try:
        core = read_core(MemoryDisk(data))
        if core is not None:
            replace_in_core(core, IDS)
    except DiskFormatError:
        pass


def fuzz_initrd(data: bytes) -> None:
    """Any bytes give yes, no, or not known."""
    assert holds_ids(data, IDS) in (True, False, None)
    assert len(unified_initrd(data)) <= len(data)
    read_early_files(data, ("cryptroot/crypttab",))


def test_changed_bytes_end_in_an_answer_or_an_error_of_ours(tmp_path: Path) -> None:
    source, disk = random.Random(5), bytes(core_disk(tmp_path, "set x=y\n"))
    archive = pack(tmp_path, "conf", "contents") + lzma.compress(pack(tmp_path, "late", str(uuid.UUID(int=7))))
    for _ in range(200):
        for whole, ask, reach in ((disk, fuzz_grub_core, 2200), (archive, fuzz_initrd, len(archive))):
            changed = bytearray(whole)
            for _ in range(source.randrange(1, 5)):
                changed[source.randrange(reach)] = source.choice((0, 1, 0x7F, 0x80, 0xFF, source.randrange(256)))
            ask(bytes(changed))


class Names:
    """Folders, by path."""

    def __init__(self, folders: dict[str, tuple[str, ...]]) -> None:
        self._folders = folders

    def list_names(self, path: str) -> tuple[str, ...]:
        return self._folders.get(path, ())


def test_paths_are_found_by_pattern() -> None:
    files = Names({"/": ("EFI", "loader"), "/EFI": ("Debian", "BOOT"), "/EFI/Debian": ("GRUB.CFG", "shimx64.efi")})
    assert list(iter_paths(files, ("/EFI/*/*.cfg", "/efi/*/*.efi"), any_case=True)) == [
        "/EFI/Debian/GRUB.CFG", "/EFI/Debian/shimx64.efi",
    ]  # fmt: skip
    assert list(iter_paths(files, ("/EFI/*/*.cfg",))) == []
