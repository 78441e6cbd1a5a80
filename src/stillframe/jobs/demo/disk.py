"""The disk of the demo: partitioned, formatted, filled, and changed as a day of work changes it.

Answers: "what is on the disk that is saved?" Tools that are not ours make everything on it. Its files are copies of
files of this machine's ``/usr``, chosen in a way that gives the same choice every time.
"""

import os
import random
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from stillframe.errors import MachineRefusal
from stillframe.extents import Extent
from stillframe.jobs.demo.tools import attached, call, mounted
from stillframe.units import MIB

SIZE: Final = 1200 * MIB
PAGING_FILES: Final = {"pagefile.sys": 64 * MIB, "hiberfil.sys": 48 * MIB}

_SAMPLE_FOLDERS: Final = ("/usr/lib", "/usr/share", "/usr/bin")
_SAMPLE_FILE_MAX: Final = 8 * MIB
_SAMPLE_FILE_MIN: Final = 8192
_FAT_FILE_MIN: Final = 64 << 10
_SEEN_MAX: Final = 200_000
_PIECE: Final = b"Stillframe demo, a line of a person's file.\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A partition of the demo's disk.

    Attributes:
        number: From 1.
        words: What it is for; also its name and its label.
        filesystem: Empty where nothing is formatted.
        type_guid: Type in the partition table.
        start: Byte on the disk.
        size: Bytes.
        share: Bytes of files copied onto it.
        has_paging: Whether it holds ``PAGING_FILES``.
    """

    number: int
    words: str
    filesystem: str
    type_guid: str
    start: int
    size: int
    share: int = 0
    has_paging: bool = False

    @property
    def extent(self) -> Extent:
        """Where it lies on the disk."""
        return Extent(self.start, self.start + self.size)


# Type GUIDs: UEFI Specification 2.10, table 5.7; Microsoft, "PARTITION_INFORMATION_GPT structure"; UAPI Group,
# "Discoverable Partitions Specification" (Linux filesystem data is sfdisk's default).
PARTS: Final = (
    Part(number=1, words="boot files (EFI)", filesystem="vfat", type_guid="C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
         start=1 * MIB, size=100 * MIB, share=12 * MIB),
    Part(number=2, words="reserved by Windows", filesystem="", type_guid="E3C9E316-0B5C-4DB8-817D-F92DF00215AE",
         start=101 * MIB, size=16 * MIB),
    Part(number=3, words="Windows", filesystem="ntfs", type_guid="EBD0A0A2-B9E5-4433-87C0-68B6B72699C7",
         start=117 * MIB, size=600 * MIB, share=250 * MIB, has_paging=True),
    Part(number=4, words="Windows recovery", filesystem="ntfs", type_guid="DE94BBA4-06D1-4D40-A16A-BFD50179D6AC",
         start=717 * MIB, size=80 * MIB, share=20 * MIB),
    Part(number=5, words="Linux", filesystem="ext4", type_guid="0FC63DAF-8483-4772-8E79-3D69D8477DE4",
         start=797 * MIB, size=300 * MIB, share=90 * MIB),
)  # fmt: skip


def make_disk(path: str) -> int:
    """Make the disk file and fill it.

    Returns:
        The number of files on it.
    """
    with open(path, "xb") as file:
        file.truncate(SIZE)
    sector = 512
    script = "label: gpt\n" + "".join(
        f'start={part.start // sector}, size={part.size // sector}, type={part.type_guid}, name="{part.words}"\n'
        for part in PARTS
    )
    call("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", path, given=script.encode())
    sample = _sample()
    count = 0
    for part in PARTS:
        if part.filesystem:
            # Each volume begins elsewhere in the sample, so that on a small system all get files, and else few twice.
            first = len(sample) * part.number // len(PARTS)
            count += _make_volume(path, part, iter(sample[first:] + sample[:first]))
    return count


def change_disk(path: str) -> str:
    """Change the disk as a day of work does: files edited, grown, added, deleted.

    Returns:
        What was done, in words.
    """
    words = []
    for part in (PARTS[2], PARTS[4]):
        with (
            attached(path, part.extent, read_only=False) as device,
            mounted(device, part.filesystem, read_only=False) as folder,
        ):
            words.append(f"{part.words}: {_change_files(folder)}")
    return "; ".join(words)


def _make_volume(path: str, part: Part, sample: Iterator[str]) -> int:
    with attached(path, part.extent, read_only=False) as device:
        if part.filesystem == "vfat":
            call("mkfs.fat", "-I", "-F", "32", "-n", "ESP", device)
            return _fill_fat(device, sample, part.share)
        if part.filesystem == "ntfs":
            call("mkfs.ntfs", "--force", "--quick", "--quiet", "--label", part.words, device)
        else:
            call("mkfs.ext4", "-q", "-F", "-L", part.words, device)
        with mounted(device, part.filesystem, read_only=False) as folder:
            if part.has_paging:
                _write_paging_files(folder)
            return _fill(folder, sample, part.share) + _write_documents(folder)


def _sample() -> list[str]:
    """Files of this machine in an order that looks random and is always the same."""
    found: list[str] = []
    for top in _SAMPLE_FOLDERS:
        for folder, folders, names in os.walk(top):
            folders.sort()
            found += (os.path.join(folder, name) for name in sorted(names))
            if len(found) > _SEEN_MAX:
                break
    found.sort(key=lambda path: (zlib.crc32(os.fsencode(path)), path))
    return found


def _choose(sample: Iterator[str], share: int, *, smallest: int) -> Iterator[str]:
    """Plain files of the sample until they hold ``share`` bytes."""
    chosen = 0
    for path in sample:
        size = os.path.getsize(path) if os.path.isfile(path) and not os.path.islink(path) else 0
        if smallest <= size <= _SAMPLE_FILE_MAX:
            yield path
            chosen += size
        if chosen >= share:
            return
    if not chosen:
        raise MachineRefusal("there are no files in /usr to fill the demo's disk with", hint="Is this a container?")


def _fill(folder: str, sample: Iterator[str], share: int) -> int:
    """Copy files under their own names; the number of files copied."""
    count = 0
    for path in _choose(sample, share, smallest=_SAMPLE_FILE_MIN):
        target = os.path.join(folder, path.lstrip("/"))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copyfile(path, target)
        count += 1
    return count


def _fill_fat(device: str, sample: Iterator[str], share: int) -> int:
    """Copy files into numbered names with mtools: not every kernel can mount FAT."""
    call("mmd", "-i", device, "::/EFI", "::/EFI/BOOT")
    count = 0
    for path in _choose(sample, share, smallest=_FAT_FILE_MIN):
        call("mcopy", "-i", device, path, f"::/EFI/BOOT/boot file {count:03d}.efi")
        count += 1
    return count


def _write_paging_files(folder: str) -> None:
    """Contents that must not reach the image; no header, so that no system counts as hibernated."""
    source = random.Random(1)  # noqa: S311 - repeatable contents, not a secret
    for name, size in PAGING_FILES.items():
        with open(os.path.join(folder, name), "wb") as file:
            file.write(bytes(4096))
            file.write(source.randbytes(MIB - 4096))
            file.writelines(source.randbytes(MIB) for _ in range(size // MIB - 1))


def _write_documents(folder: str) -> int:
    place = os.path.join(folder, "Users", "Anna", "Documents")
    os.makedirs(place)
    for number in range(40):
        with open(os.path.join(place, f"letter {number:02d}.txt"), "wb") as file:
            file.write(b"%d " % number + _PIECE * (50 * (number + 1)))
    return 40


def _change_files(folder: str) -> str:
    """Edit twenty files, grow ten, delete ten, add eight; in places spread over the volume."""
    files = sorted(
        os.path.join(where, name)
        for where, _, names in os.walk(os.path.join(folder, "usr"))
        for name in names
    )  # fmt: skip
    source = random.Random(2)  # noqa: S311 - repeatable contents, not a secret
    chosen = source.sample(files, k=min(40, len(files)))
    for path in chosen[:20]:
        with open(path, "r+b") as file:
            file.seek(source.randrange(max(1, os.path.getsize(path) - 1000)))
            file.write(_PIECE)
    for path in chosen[20:30]:
        with open(path, "ab") as file:
            file.write(source.randbytes(100_000))
    for path in chosen[30:]:
        os.unlink(path)
    place = os.path.join(folder, "Users", "Anna", "Pictures")
    os.makedirs(place)
    for number in range(8):
        with open(os.path.join(place, f"photo {number}.jpg"), "wb") as file:
            file.write(source.randbytes(MIB))
    return f"{len(chosen[:20])} files edited, {len(chosen[20:30])} grown, {len(chosen[30:])} deleted, 8 added"
