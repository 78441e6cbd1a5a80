"""A small Linux, made by script, whose disk is to start in another way: judged by mtools, file, sgdisk and debugfs."""

import struct
from pathlib import Path

import pytest

from stillframe.block.file import open_file_reader
from stillframe.disk import read_layout
from stillframe.disk.converting import StartsBy
from stillframe.errors import MachineRefusal, StillframeError, TargetError, UsageError
from stillframe.extents import Extent
from stillframe.jobs.conversions.conversion import ConvertWish
from stillframe.jobs.restore import RestoreOptions, plan_restore
from stillframe.jobs.restoring.plan import RestorePlan
from stillframe.repo.records import Manifest
from stillframe.repo.repository import Repository
from stillframe.store import LocalStore
from stillframe.testing.command_line import call
from stillframe.testing.job_runs import backup_paths, clone_fitted, make_repository, restore
from stillframe.testing.real_disks import hash_file, used_file
from stillframe.testing.tools import run_tool

pytestmark = pytest.mark.root
MIB = 1 << 20
UUID = "11111111-2222-4333-8444-555555555555"
RELEASE = 'ID=debian\nNAME="Debian GNU/Linux"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n'
SCRIPTS = {
    "mbr": "label: dos\nlabel-id: 0x0a1b2c3d\nstart=2048, size=40M, type=83, bootable\n"
    "start=88064, size=10M, type=5\nstart=90112, size=8M, type=82\n",
    "gpt": "label: gpt\nstart=2048, size=34M, type=uefi\nsize=40M, type=linux, name=system\n",
}
ROOT = {"mbr": 1, "gpt": 2}
MENU = f"""set root='hd0,{{kind}}{{number}}'
search --no-floppy --fs-uuid --set=root --hint-bios=hd0,{{kind}}{{number}} {UUID}
linux /boot/vmlinuz-6.1 root=PARTUUID={{partuuid}} ro
"""


def kernel(*, bits: int = 64) -> bytes:
    """The beginning of a kernel: Linux Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header"."""
    head = bytearray(4096)
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x206, 0x020F)
    struct.pack_into("<H", head, 0x236, 1 if bits == 64 else 0)
    return bytes(head)


def make_linux(disk: Path, scheme: str, *, files: dict[str, bytes] | None = None, without: tuple[str, ...] = ()) -> str:
    """A disk with a root of some files; how its root partition is called by PARTUUID."""
    with disk.open("wb") as file:
        file.truncate(104 * MIB)
    script = disk.with_suffix(".script")
    script.write_text(SCRIPTS[scheme])
    run_tool("sh", "-c", f"sfdisk -q {disk} < {script}")
    if scheme == "mbr":
        partuuid = "0a1b2c3d-01"
    else:
        partuuid = run_tool("sfdisk", "--part-uuid", str(disk), str(ROOT[scheme])).strip().lower()
    tree = disk.with_suffix(".tree")
    menu = MENU.format(kind="msdos" if scheme == "mbr" else "gpt", number=ROOT[scheme], partuuid=partuuid)
    contents = {
        "etc/os-release": RELEASE.encode(),
        "etc/fstab": f"PARTUUID={partuuid} / ext4 defaults 0 1\n# PARTUUID in a comment\n".encode(),
        "etc/default/grub": f'GRUB_CMDLINE_LINUX="resume=PARTUUID={partuuid}"\n'.encode(),
        "boot/grub/grub.cfg": menu.encode(),
        "boot/vmlinuz-6.1": kernel(),
        "home/letter": b"dear reader\n" * 1000,
    } | (files or {})
    for name, data in contents.items():
        if name not in without:
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes(data)
    volume = disk.with_suffix(".volume")
    with volume.open("wb") as file:
        file.truncate(40 * MIB)
    run_tool("mke2fs", "-q", "-t", "ext4", "-U", UUID, "-d", str(tree), str(volume))
    with open_file_reader(str(disk)) as reader:
        places = {part.number: part.extent for part in read_layout(reader).partitions}
    put(volume, disk, places[ROOT[scheme]])
    if scheme == "gpt":
        esp = disk.with_suffix(".esp")
        with esp.open("wb") as file:
            file.truncate(34 * MIB)
        run_tool("mkfs.fat", "-F32", str(esp))
        put(esp, disk, places[1])
    return partuuid


def put(volume: Path, disk: Path, place: Extent) -> None:
    with disk.open("r+b") as file:
        file.seek(place.start)
        file.write(volume.read_bytes())


def take(disk: Path, number: int, to: Path) -> Path:
    """A partition of a disk, as a file."""
    with open_file_reader(str(disk)) as reader:
        place = next(part.extent for part in read_layout(reader).partitions if part.number == number)
    with disk.open("rb") as file:
        file.seek(place.start)
        to.write_bytes(file.read(place.size))
    return to


def read(volume: Path, path: str) -> str:
    """A file of an ext4, as debugfs reads it."""
    return run_tool("debugfs", "-R", f"cat {path}", str(volume)).partition("\ndebugfs")[0]


def saved(
    folder: Path, scheme: str, *, files: dict[str, bytes] | None = None, without: tuple[str, ...] = ()
) -> tuple[Repository, Manifest, str]:
    disk = folder / "source"
    partuuid = make_linux(disk, scheme, files=files, without=without)
    repository = make_repository(LocalStore(str(folder / "repository")))
    return repository, backup_paths(repository, disk).manifest, partuuid


def wish(starts_by: StartsBy, *, wipe: bool = False) -> RestoreOptions:
    esp_size = 64 * MIB if starts_by == "uefi" else None
    return RestoreOptions(convert=ConvertWish(starts_by=starts_by, esp_size=esp_size), wipe=wipe)


def plan(repository: Repository, manifest: Manifest, target: Path, options: RestoreOptions) -> RestorePlan:
    return plan_restore(repository, manifest, 1, str(target), repository_folder="", options=options)


@pytest.mark.variants(1)
@pytest.mark.parametrize("verb", ["restore", "clone"])
def test_an_mbr_linux_gets_an_efi_system_partition_and_a_gpt(tmp_path: Path, verb: str) -> None:
    repository, manifest, old = saved(tmp_path, "mbr")
    target = used_file(tmp_path / "target", 128 * MIB)
    options = wish("uefi", wipe=True)
    assert "make partition 6, new: EFI system partition, 67.1 MB" in plan(repository, manifest, target, options).steps
    if verb == "clone":
        before = hash_file(tmp_path / "source")
        result = clone_fitted(tmp_path / "source", target, options)
        assert hash_file(tmp_path / "source") == before
    else:
        result = restore(repository, manifest, target, options=options)
    assert "partition 6 is a new EFI system partition" in result.changes
    assert "No problems found" in run_tool("sgdisk", "-v", str(target))
    assert target.read_bytes()[:446] == bytes(446)
    new = run_tool("sfdisk", "--part-uuid", str(target), "1").strip().lower()
    root = take(target, 1, tmp_path / "root")
    run_tool("e2fsck", "-fn", str(root))
    esp = take(target, 6, tmp_path / "esp")
    run_tool("fsck.fat", "-n", str(esp))
    esp_id = run_tool("blkid", "-o", "value", "-s", "UUID", str(esp)).strip()
    assert read(root, "/etc/fstab").startswith(f"PARTUUID={new} / ext4 defaults 0 1\n# PARTUUID in a comment\n")
    assert f"UUID={esp_id} /boot/efi vfat umask=0077,nofail 0 1" in read(root, "/etc/fstab")
    assert f'"resume=PARTUUID={new}"' in read(root, "/etc/default/grub")
    menu = read(root, "/boot/grub/grub.cfg")
    assert (menu.count("hd0,gpt1"), menu.count("msdos"), old in menu) == (2, 0, False)
    assert f"root=PARTUUID={new} ro" in menu
    assert read(root, "/home/letter").count("dear reader") == 1000
    listed = run_tool("mdir", "-/", "-b", "-i", str(esp), "::").splitlines()
    assert "::/EFI/BOOT/BOOTX64.EFI" in listed
    assert "::/EFI/debian/grubx64.efi" in listed
    run_tool("mcopy", "-i", str(esp), "::/EFI/BOOT/BOOTX64.EFI", str(tmp_path / "loader"))
    assert "PE32+ executable (EFI application) x86-64" in run_tool("file", "-b", str(tmp_path / "loader"))
    assert UUID in (tmp_path / "loader").read_bytes().decode("latin-1")


def test_a_signed_loader_of_the_system_is_used(tmp_path: Path) -> None:
    programs = {
        "usr/lib/shim/shimx64.efi.signed": b"MZ shim" * 900,
        "usr/lib/shim/mmx64.efi.signed": b"MZ keys" * 900,
        "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed": b"MZ\0\0\0/EFI/debian\0\0 grub" * 900,
    }
    repository, manifest, _ = saved(tmp_path, "mbr", files=programs)
    target = tmp_path / "target"
    assert any("its own signed GRUB" in step for step in plan(repository, manifest, target, wish("uefi")).steps)
    result = restore(repository, manifest, target, options=wish("uefi"))
    assert any("partition 1 was made smaller" in change for change in result.changes), "room for the new partition"
    root = take(target, 1, tmp_path / "root")
    run_tool("e2fsck", "-fn", str(root))
    assert read(root, "/home/letter").count("dear reader") == 1000
    esp = take(target, 6, tmp_path / "esp")
    shim, keys, grub = programs.values()
    for path, expected in (
        ("EFI/BOOT/BOOTX64.EFI", shim), ("EFI/BOOT/grubx64.efi", grub), ("EFI/BOOT/mmx64.efi", keys),
        ("EFI/debian/shimx64.efi", shim), ("EFI/debian/grubx64.efi", grub), ("EFI/debian/mmx64.efi", keys),
    ):  # fmt: skip
        copy = tmp_path / "copy"
        run_tool("mcopy", "-n", "-o", "-i", str(esp), f"::/{path}", str(copy))
        assert copy.read_bytes() == expected, path
    text = run_tool("mtype", "-i", str(esp), "::/EFI/debian/grub.cfg")
    assert f"--fs-uuid --set=root {UUID}\nset prefix=($root)/boot/grub\n" in text


@pytest.mark.variants(1)
@pytest.mark.parametrize(("starts_by", "first", "label"), [("bios", 40, "gpt"), ("bios-mbr", 1, "dos")])
def test_a_uefi_linux_gets_grub_for_a_bios(tmp_path: Path, starts_by: StartsBy, first: int, label: str) -> None:
    repository, manifest, old = saved(tmp_path, "gpt")
    target = tmp_path / "target"
    restore(repository, manifest, target, options=wish(starts_by))
    table = run_tool("sfdisk", "-d", str(target))
    assert f"label: {label}\n" in table
    root = take(target, 2, tmp_path / "root")
    run_tool("e2fsck", "-fn", str(root))
    core = tmp_path / "core"
    run_tool("debugfs", "-R", f"dump /boot/grub/i386-pc/core.img {core}", str(root))
    made, disk = core.read_bytes(), target.read_bytes()
    assert len(made) > 30_000
    start = first * 512
    assert disk[start : start + 500] == made[:500]
    assert struct.unpack_from("<Q", disk, start + 500) == (first + 1,)
    assert disk[start + 508 : start + len(made)] == made[508:], "the rest of what grub-mkimage made"
    assert struct.unpack_from("<Q", disk, 0x5C) == (first,)
    assert disk[510:512] == b"\x55\xaa"
    assert UUID in run_tool("debugfs", "-R", "cat /boot/grub/i386-pc/load.cfg", str(root))
    new = table.partition("label-id: 0x")[2][:8] + "-02" if label == "dos" else old
    assert read(root, "/etc/fstab").startswith(f"PARTUUID={new} /")
    assert f"hd0,{'msdos' if label == 'dos' else 'gpt'}2" in read(root, "/boot/grub/grub.cfg")


@pytest.mark.variants(3)
@pytest.mark.parametrize(
    ("files", "without", "starts_by", "words"),
    [
        ({"boot/vmlinuz-6.1": kernel(bits=32)}, (), "uefi", "only kernels for 32-bit processors"),
        ({}, ("boot/vmlinuz-6.1",), "uefi", "no kernel for a PC"),
        ({}, ("boot/grub/grub.cfg",), "uefi", "no boot menu of GRUB"),
        ({}, ("etc/os-release",), "uefi", "no Linux was found"),
        ({"boot/grub/grub.cfg": b"insmod blscfg\nblscfg\n"}, (), "uefi", "the command 'blscfg'"),
        (
            {"etc/fstab": b"UUID=1 / ext4 ro 0 1\nUUID=7 /boot ext4 ro 0 1\n"},
            (),
            "uefi",
            "/boot of Debian .* is UUID=7",
        ),
        ({}, (), "bios-mbr", "has an MBR already"),
    ],
)
def test_what_could_not_start_is_refused_with_the_reason(
    tmp_path: Path, files: dict[str, bytes], without: tuple[str, ...], starts_by: StartsBy, words: str
) -> None:
    repository, manifest, _ = saved(tmp_path, "mbr", files=files, without=without)
    target = used_file(tmp_path / "target", 128 * MIB)
    with pytest.raises(StillframeError, match=words) as raised:
        restore(repository, manifest, target, options=wish(starts_by))
    assert isinstance(raised.value, MachineRefusal | TargetError)
    assert raised.value.hint
    assert target.read_bytes() == b"\xff" * (128 * MIB), "nothing was written"


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CACHE", "STATE"):
        monkeypatch.setenv(f"STILLFRAME_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.setenv("STILLFRAME_REPO", str(tmp_path / "repo"))
    make_linux(tmp_path / "disk.img", "gpt")
    call("init", tmp_path / "repo", "--encryption", "none")
    assert call("backup", tmp_path / "disk.img").exit_code == 0
    shown = call("restore", "latest", tmp_path / "out.img", "--convert", "bios", "--dry-run")
    assert "make partition 3, new: BIOS boot partition, 1.03 MB" in shown.output
    fields = call("restore", "latest", tmp_path / "out.img", "--convert", "bios", "--dry-run", "--json").result
    assert fields["new_partitions"] == [{"partition": 3, "start": 20480, "size": 1028096, "type": "BIOS boot"}]
    assert call("restore", "latest", tmp_path / "out.img", "--convert", "uefi").exit_code == 22
    assert call("restore", "latest", tmp_path / "out.img", "--convert", "bios=3G").exit_code == 2
    refused = call("restore", "latest", tmp_path / "out.img", "--convert", "bios", "--partition", "2")
    assert refused.exit_code == UsageError.exit_code
    assert not (tmp_path / "out.img").exists()
