"""Folders named and filled as Clonezilla does become whole disks again: tables, files, swap areas."""

import gzip
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import zstandard

from stillframe.capture.foreign import ImportOptions, find_importable
from stillframe.errors import DiskFormatError, StillframeError, UsageError
from stillframe.testing.command_line import call, init_own
from stillframe.testing.tools import run_tool
from stillframe.testing.volumes_windows import PARTCLONE_AT_ONCE

pytestmark = pytest.mark.usefixtures("own_temporary")
MIB = 1 << 20
SWAP_UUID = "92d422f0-3a17-4e69-93f0-f8fd1091e5eb"
Packer = Callable[[bytes], bytes]
GPT_SCRIPT = """label: gpt
start=1MiB, size=20MiB, type=uefi, name="EFI"
size=24MiB, type=linux, name="root"
size=8MiB, type=swap
size=16MiB, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7
size=3MiB, type=21686148-6449-6E6F-744E-656564454649
size=4MiB, type=linux
"""
MBR_SCRIPT = """label: dos
start=1MiB, size=24MiB, type=83, bootable
start=25MiB, size=60MiB, type=f
start=27MiB, size=16MiB, type=c
start=45MiB, size=8MiB, type=82
start=55MiB, size=16MiB, type=83
"""


@dataclass
class Original:
    """A disk, its folder, and each partition as other programs say that it must come back."""

    disk: Path
    folder: Path
    letter: bytes
    parts: dict[int, tuple[int, int]]
    expected: dict[int, bytes] = field(default_factory=dict)

    def part(self, number: int, disk: Path | None = None) -> bytes:
        start, size = self.parts[number]
        with open(disk or self.disk, "rb") as file:
            file.seek(start)
            return file.read(size)


def output(*command: object, text: str = "") -> str:
    return subprocess.run(list(map(str, command)), input=text, capture_output=True, text=True, check=True).stdout


def table_of(disk: Path) -> str:
    """What sfdisk says, as of ``/dev/sda``."""
    return output("sfdisk", "-d", disk).replace(str(disk), "/dev/sda")


def write_part(original: Original, number: int, path: Path) -> None:
    with open(original.disk, "r+b") as file:
        file.seek(original.parts[number][0])
        file.write(path.read_bytes())


def new_disk(folder: Path, script: str, size: int) -> Original:
    disk = folder / "disk.raw"
    disk.touch()
    os.truncate(disk, size)
    output("sfdisk", "-q", disk, text=script)
    lines = [line.split(":")[1] for line in table_of(disk).splitlines() if line.startswith("/dev/sda")]
    names = [line.split(":")[0].strip() for line in table_of(disk).splitlines() if line.startswith("/dev/sda")]
    places = {}
    for name, line in zip(names, lines, strict=True):
        fields = dict(pair.strip().split("=", 1) for pair in line.split(",") if "=" in pair)
        places[int(name.removeprefix("/dev/sda"))] = (int(fields["start"]) * 512, int(fields["size"]) * 512)
    (folder / "2026-img").mkdir()
    return Original(disk=disk, folder=folder / "2026-img", letter=os.urandom(2 * MIB), parts=places)


def format_part(original: Original, number: int, *maker: str) -> Path:
    volume = original.folder.parent / f"volume{number}"
    volume.touch()
    os.truncate(volume, original.parts[number][1])
    run_tool(*maker, str(volume))
    return volume


def add_ext4(original: Original, number: int) -> Path:
    tree = original.folder.parent / f"tree{number}"
    tree.mkdir()
    (tree / "letter").write_bytes(original.letter)
    return format_part(original, number, "mkfs.ext4", "-q", "-F", "-d", str(tree))


@dataclass
class Saving:
    """How Clonezilla saves a volume: by which partclone, under which name, packed by what, in how many parts."""

    original: Original
    number: int
    volume: Path
    kind: str
    ending: str
    pack: Packer
    parts: int = 1


def save(saving: Saving) -> None:
    """What ``partclone -c | gzip | split`` leaves, and what partclone itself restores from that."""
    original, number, volume, kind = saving.original, saving.number, saving.volume, saving.kind
    image, log = volume.with_suffix(".image"), volume.with_suffix(".log")
    run_tool(f"partclone.{kind}", "-c", *PARTCLONE_AT_ONCE, "-L", str(log), "-s", str(volume), "-o", str(image))
    write_part(original, number, volume)
    target = volume.with_suffix(".target")
    target.touch()
    os.truncate(target, volume.stat().st_size)
    run_tool("partclone.restore", *PARTCLONE_AT_ONCE, "-C", "-W", "-L", str(log), "-s", str(image), "-O", str(target))
    original.expected[number] = target.read_bytes()
    split(original.folder / f"sda{number}.{saving.ending}", saving.pack(image.read_bytes()), saving.parts)


def split(base: Path, packed: bytes, parts: int) -> None:
    step = -(-len(packed) // parts)
    for number in range(parts):
        base.with_name(f"{base.name}.a{'abcdef'[number]}").write_bytes(packed[number * step : (number + 1) * step])


def save_swap(original: Original, number: int) -> None:
    volume = format_part(original, number, "mkswap", "-q", "-U", SWAP_UUID, "-L", "SWAP-sda")
    write_part(original, number, volume)
    original.expected[number] = volume.read_bytes()
    (original.folder / f"swappt-sda{number}.info").write_text(f'UUID="{SWAP_UUID}"\nLABEL="SWAP-sda"\n')


def save_table(original: Original, kind: str, saved: str) -> None:
    """The files of ``task_savedisk`` and ``save_part_table_mbr_dm_info`` in Clonezilla's own ``ocs-functions``."""
    folder, disk = original.folder, original.disk
    sectors = disk.stat().st_size // 512
    (folder / "disk").write_text("sda\n")
    (folder / "parts").write_text(saved + "\n")
    (folder / "sda-pt.sf").write_text(table_of(disk))
    (folder / "sda-pt.parted").write_text(
        f"Model:  (file)\nDisk /dev/sda: {sectors}s\nSector size (logical/physical): 512B/512B\n"
        f"Partition Table: {kind}\nDisk Flags: \n\nNumber  Start   End     Size    File system  Name  Flags\n"
    )

    def dd(name: str, *words: str, source: Path = disk) -> None:
        output("dd", f"if={source}", f"of={folder / name}", "bs=512", "status=none", *words)

    dd("sda-mbr", "count=1")
    if kind == "gpt":
        dd("sda-gpt-1st", "count=34")
        dd("sda-gpt-2nd", f"skip={sectors - 33 + 1}", "count=33")
    else:
        dd("sda-hidden-data-after-mbr", "skip=1", "count=2047")
        dd("sda2-ebr", "count=1", f"skip={original.parts[2][0] // 512}")


def gpt_disk(folder: Path) -> tuple[Original, list[Saving]]:
    original = new_disk(folder, GPT_SCRIPT, 80 * MIB)
    (folder / "letter").write_bytes(original.letter)
    fat = format_part(original, 1, "mkfs.fat", "-F", "16")
    run_tool("mcopy", "-i", str(fat), str(folder / "letter"), "::letter")
    ntfs = format_part(original, 4, "mkfs.ntfs", "-q", "-F", "-f")
    run_tool("ntfscp", "-f", str(ntfs), str(folder / "letter"), "letter")
    save_swap(original, 3)
    boot = os.urandom(3 * MIB)
    (folder / "boot").write_bytes(boot)
    write_part(original, 5, folder / "boot")
    split(original.folder / "sda5.dd-img", gzip.compress(boot), 2)
    original.expected.update({5: boot, 6: bytes(4 * MIB)})
    save_table(original, "gpt", "sda1 sda2 sda4 sda5")
    return original, [
        Saving(original, 1, fat, "fat", "vfat-ptcl-img.zst", zstandard.compress),
        Saving(original, 2, add_ext4(original, 2), "ext4", "ext4-ptcl-img.gz", gzip.compress, parts=3),
        Saving(original, 4, ntfs, "ntfs", "ntfs-ptcl-img.uncomp", bytes),
    ]


def mbr_disk(folder: Path) -> tuple[Original, list[Saving]]:
    original = new_disk(folder, MBR_SCRIPT, 96 * MIB)
    with open(original.disk, "r+b") as file:
        file.write(os.urandom(440))  # boot code
        file.seek(512)
        file.write(os.urandom(100_000))  # what GRUB hides behind it
    save_swap(original, 6)
    save_table(original, "msdos", "sda1 sda5 sda7")
    fat = format_part(original, 5, "mkfs.fat", "-F", "16")
    return original, [
        Saving(original, 1, add_ext4(original, 1), "ext4", "ext4-ptcl-img.zst", zstandard.compress, parts=2),
        Saving(original, 5, fat, "fat", "vfat-ptcl-img.gz", gzip.compress),
        Saving(original, 7, add_ext4(original, 7), "ext4", "ext4-ptcl-img.uncomp", bytes),
    ]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Original, Original]:
    """A GPT and an MBR disk; partclone sleeps for seconds, so all volumes are saved at once."""
    gpt, first = gpt_disk(tmp_path_factory.mktemp("gpt"))
    mbr, second = mbr_disk(tmp_path_factory.mktemp("mbr"))
    with ThreadPoolExecutor(len(first) + len(second)) as pool:
        list(pool.map(save, [*first, *second]))
    return gpt, mbr


@pytest.fixture
def gpt_saved(saved: tuple[Original, Original]) -> Original:
    return saved[0]


@pytest.fixture
def mbr_saved(saved: tuple[Original, Original]) -> Original:
    return saved[1]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return init_own(tmp_path, monkeypatch)


def import_and_restore(original: Original, target: Path) -> str:
    done = call("import", original.folder, "--json")
    assert done.exit_code == 0, done.output
    assert not list(Path(tempfile.gettempdir()).iterdir())
    restored = call("restore", done.result["image"], target)
    assert restored.exit_code == 0, restored.output + restored.errors
    return done.output


def require_equal(original: Original, disk: Path, *, ext4: tuple[int, ...]) -> None:
    assert disk.stat().st_size == original.disk.stat().st_size
    assert table_of(disk) == table_of(original.disk)
    for number, expected in original.expected.items():
        assert original.part(number, disk) == expected, number
    for number in ext4:
        volume = disk.with_suffix(f".{number}")
        volume.write_bytes(original.part(number, disk))
        run_tool("e2fsck", "-fn", str(volume))
        run_tool("debugfs", "-R", f"dump /letter {volume}.letter", str(volume))
        found = Path(f"{volume}.letter").read_bytes()
        assert hashlib.sha256(found).digest() == hashlib.sha256(original.letter).digest()


def test_a_gpt_disk_comes_back_whole(gpt_saved: Original, repository: Path) -> None:
    back = repository.with_name("back.raw")
    told = import_and_restore(gpt_saved, back)
    require_equal(gpt_saved, back, ext4=(2,))
    assert "No problems found" in output("sgdisk", "-v", back)
    assert "saved nothing of sda6:" in told
    assert back.read_bytes()[-33 * 512 :] == gpt_saved.disk.read_bytes()[-33 * 512 :]
    ntfs = back.with_suffix(".ntfs")
    ntfs.write_bytes(gpt_saved.part(4, back))
    found = subprocess.run(["ntfscat", "-f", str(ntfs), "letter"], capture_output=True, check=True).stdout
    assert found == gpt_saved.letter


def test_an_mbr_disk_with_logical_partitions_comes_back_whole(mbr_saved: Original, repository: Path) -> None:
    back = repository.with_name("back.raw")
    told = import_and_restore(mbr_saved, back)
    require_equal(mbr_saved, back, ext4=(1, 7))
    assert back.read_bytes()[:MIB] == mbr_saved.disk.read_bytes()[:MIB]
    assert "made anew from its list of partitions" in told
    assert SWAP_UUID in output("blkid", "-p", "-O", mbr_saved.parts[6][0], "-S", mbr_saved.parts[6][1], back)


@pytest.fixture
def copy(gpt_saved: Original, tmp_path: Path) -> Path:
    return Path(shutil.copytree(gpt_saved.folder, tmp_path / "copy"))


def refusal(folder: Path, kind: type[StillframeError] = DiskFormatError) -> str:
    with pytest.raises(kind) as caught:
        find_importable(str(folder), ImportOptions())
    assert not list(Path(tempfile.gettempdir()).iterdir())
    return f"{caught.value.message}|{caught.value.hint}"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sda2.ext4-ptcl-img.gz.ab", "gz.ab is missing"),
        ("sda2.ext4-ptcl-img.gz.aa", "gz.aa is missing"),
        ("sda2.ext4-ptcl-img.gz.ac", "cannot be expanded|Is every part there"),
        ("sda5.dd-img.ab", "cannot be expanded|Is every part there"),
        ("sda1.vfat-ptcl-img.zst.aa", "the image of sda1 is missing|Copy it; or take sda1 out"),
        ("sda-gpt-1st", "the partition table of sda is missing|sda-gpt-1st"),
        ("sda-gpt-1st sda-mbr", "the partition table of sda is missing|Copy all files"),
    ],
)
def test_a_missing_file_is_named(copy: Path, name: str, words: str) -> None:
    for one in name.split():
        (copy / one).unlink()
    found = refusal(copy)
    assert all(word in found for word in words.split("|"))


@pytest.mark.slow
def test_without_what_can_be_had_elsewhere_it_is_the_same(gpt_saved: Original, copy: Path) -> None:
    for name in ("sda-gpt-2nd", "sda-pt.parted", "disk"):
        (copy / name).unlink()
    with find_importable(str(copy), ImportOptions()) as found:
        reader = found.sources[0].reader
        assert reader.size == gpt_saved.disk.stat().st_size
        assert reader.read_at(reader.size - 33 * 512, 33 * 512) == gpt_saved.disk.read_bytes()[-33 * 512 :]


def test_an_image_in_one_file(copy: Path) -> None:
    raw = (copy / "sda1.vfat-ptcl-img.zst.aa").read_bytes()
    (copy / "sda1.vfat-ptcl-img.zst.aa").unlink()
    (copy / "sda1.vfat-ptcl-img.zst").write_bytes(raw)
    with find_importable(str(copy), ImportOptions()) as found:
        assert found.format_name == "Clonezilla"


def test_one_wrong_byte_of_an_image_or_of_the_table(copy: Path) -> None:
    image = copy / "sda4.ntfs-ptcl-img.uncomp.aa"
    raw = bytearray(image.read_bytes())
    raw[-5000] ^= 1
    image.write_bytes(raw)
    assert "used blocks up to block" in refusal(copy)
    table = copy / "sda-gpt-1st"
    whole = table.read_bytes()
    table.write_bytes(whole[:1030] + b"\xff" + whole[1031:])
    assert "sda-gpt-1st is damaged" in refusal(copy)
    table.write_bytes(whole)
    listed = (copy / "sda-pt.sf").read_text()
    (copy / "sda-pt.sf").write_text(listed.replace("start=        2048", "start=        4096"))
    assert "name other partitions" in refusal(copy)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ecryptfs.info", "encrypted (ecryptfs)|mount -t ecryptfs"),
        ("lvm_vg0.conf", "LVM (vg0)|sda1.vfat-ptcl-img.zst.aa, "),
        ("luks-dev.list", "LUKS|sda2.ext4-ptcl-img.gz.aa"),
        ("mdadm.conf", "RAID|sda4.ntfs-ptcl-img.uncomp.aa"),
    ],
)
def test_what_is_not_put_together_is_said(copy: Path, name: str, words: str) -> None:
    (copy / name).write_text("ARRAY /dev/md0\n")
    found = refusal(copy, UsageError)
    assert all(word in found for word in words.split("|"))
    assert "gz.ab" not in found


def test_images_of_ntfsclone_are_refused(copy: Path) -> None:
    (copy / "sda4.ntfs-ptcl-img.uncomp.aa").rename(copy / "sda4.ntfs-img.aa")
    assert "ntfsclone --restore-image" in refusal(copy, UsageError)


def test_backup_says_which_verb_takes_a_folder(gpt_saved: Original, repository: Path) -> None:
    refused = call("backup", gpt_saved.folder, "--repo", repository)
    assert refused.exit_code == 2
    assert "'stillframe import' takes the folder of a Clonezilla image" in refused.errors


def test_two_disks_in_one_folder_and_parts_with_three_letters(copy: Path, gpt_saved: Original) -> None:
    for path in list(copy.iterdir()):
        if "sda" in path.name:
            text = path.read_bytes()
            text = text.replace(b"/dev/sda", b"/dev/nvme0n1p") if path.name == "sda-pt.sf" else text
            name = path.name.replace("sda-", "nvme0n1-").replace("sda", "nvme0n1p")
            (copy / (name.replace(".gz.a", ".gz.aa"))).write_bytes(text)
    (copy / "disk").write_text("sda nvme0n1\n")
    (copy / "parts").write_text("sda1 nvme0n1p1 nvme0n1p2 nvme0n1p4 nvme0n1p5\n")
    assert (copy / "nvme0n1p2.ext4-ptcl-img.gz.aac").exists()
    with find_importable(str(copy), ImportOptions()) as found:
        assert [Path(source.facts.path).name for source in found.sources] == ["sda", "nvme0n1"]
        for source in found.sources:
            for number, expected in gpt_saved.expected.items():
                assert source.reader.read_at(gpt_saved.parts[number][0], len(expected)) == expected
