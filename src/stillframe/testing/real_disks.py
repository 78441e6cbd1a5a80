"""Whole disks with real file systems, made and filled by the tools of others, and what must come back of them.

Answers: "where does a test get the disk of a computer?" and "what do other tools see on this one?" Needs root: volumes
are mounted and loop devices made.
"""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from stillframe.extents import Extent, ExtentSet
from stillframe.testing import volumes_windows
from stillframe.testing.disks_partitioned import make_disk
from stillframe.testing.tools import run_tool, unmount
from stillframe.testing.volumes_windows import fill_tree, hash_tree

MIB: Final = 1 << 20
PAGING: Final = b"what was in memory "
LEFT_OUT: Final = frozenset({"pagefile.sys", "hiberfil.sys", "swapfile"})
"""Files in the root of volumes made here whose contents a backup leaves out."""

Hashes = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RealVolume:
    """A volume on a disk: its number in the table, its name in ``blkid``, and its files."""

    number: int
    kind: str
    extent: Extent
    files: Hashes


@dataclass(frozen=True, slots=True, kw_only=True)
class RealDisk:
    """A disk in a file."""

    path: Path
    sector_size: int
    volumes: tuple[RealVolume, ...]

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.path.stat().st_size


def used_file(path: Path, size: int) -> Path:
    """A target that was used: nothing may be taken for zeros."""
    with path.open("wb") as file:
        for _ in range(0, size, MIB):
            file.write(b"\xff" * MIB)
        file.truncate(size)
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pattern:
    """A disk that was made, in a file without a name, and what is on it."""

    file: BinaryIO
    volumes: tuple[RealVolume, ...]


_PATTERNS: Final[dict[tuple[str, int, int], _Pattern]] = {}


def build_disk(folder: Path, *, sector_size: int = 512, seed: int = 1, label: str = "gpt") -> RealDisk:
    """A disk with EFI system, ext4, NTFS, exFAT, swap and unknown partitions, all filled, about 180 MiB.

    Partitions do not lie at multiples of a MiB. It is made once in a process, and copied from then on, ids included.
    """
    path = folder / f"disk-{label}-{sector_size}-{seed}"
    pattern = _PATTERNS.get((label, sector_size, seed))
    if pattern is None:
        volumes = _make_volumes(path, sector_size=sector_size, seed=seed, label=label)
        file = path.open("rb")
        path.unlink()
        pattern = _PATTERNS[label, sector_size, seed] = _Pattern(file=file, volumes=volumes)
    pattern.file.seek(0)
    with path.open("wb") as copy:
        shutil.copyfileobj(pattern.file, copy, 4 * MIB)
    return RealDisk(path=path, sector_size=sector_size, volumes=pattern.volumes)


def _make_volumes(disk: Path, *, sector_size: int, seed: int, label: str) -> tuple[RealVolume, ...]:
    folder = disk.parent
    makers: list[tuple[str, int, Callable[[Path, int], Hashes]]] = [
        ("vfat", 24 * MIB, lambda path, size: _make_fat(path, size, sector_size, seed)),
        ("ext4", 48 * MIB + 8192, lambda path, size: make_ext4(path, size, seed=seed)),
        ("ntfs", 40 * MIB + 4096, lambda path, size: make_ntfs(path, size, sector_size=sector_size, seed=seed)),
        ("exfat", 16 * MIB, lambda path, size: _make_exfat(path, size, seed)),
        ("swap", 4 * MIB, lambda path, size: _make_swap(path, size, seed)),
        ("", 2 * MIB + 12288, lambda path, size: _make_unknown(path, size, seed)),
    ]
    start, extents = MIB + 20480, []
    for _, size, _make in makers:
        extents.append(Extent(start, start + size))
        start += size + 69632
    volumes = []
    disk.write_bytes(_make_table(extents, start + 2 * MIB, sector_size, label))
    for number, ((kind, size, make), extent) in enumerate(zip(makers, extents, strict=True), 1):
        image = folder / f"{disk.name}.volume"
        files = make(image, size)
        copy_into(image, disk, extent.start)
        image.unlink()
        # The fourth entry of an MBR is the extended partition: what follows has numbers from 5 on.
        shown = number if label == "gpt" or number < 4 else number + 1
        volumes.append(RealVolume(number=shown, kind=kind, extent=extent, files=files))
    return tuple(volumes)


def _make_table(extents: Sequence[Extent], size: int, sector_size: int, label: str) -> bytes:
    """The table alone. For ``dos`` all but the first three are logical."""
    lines = [
        f"label: {label}",
        f"label-id: {'0x1234abcd' if label == 'dos' else '9A5B2C1D-0000-4000-8000-000000000001'}",
    ]
    for number, extent in enumerate(extents):
        if label == "dos" and number == 3:
            first = (extent.start - 32768) // sector_size
            lines.append(f"start={first}, size={(extents[-1].end - extent.start + 32768) // sector_size}, type=5")
        kind = "" if label == "gpt" else ", type=83"
        lines.append(f"start={extent.start // sector_size}, size={extent.size // sector_size}{kind}")
    return make_disk(size, sfdisk="\n".join(lines) + "\n", sector_size=sector_size)


def copy_into(source: Path, target: Path, offset: int) -> None:
    """Write a whole file into another one at an offset; its holes become zeros."""
    with source.open("rb") as reading, target.open("r+b") as writing:
        writing.seek(offset)
        while piece := reading.read(4 * MIB):
            writing.write(piece)


def extract(disk: Path, extent: Extent, target: Path) -> Path:
    """A partition as a file of its own."""
    with disk.open("rb") as reading, target.open("wb") as writing:
        reading.seek(extent.start)
        left = extent.size
        while left:
            piece = reading.read(min(4 * MIB, left))
            if not piece:
                raise AssertionError(f"{disk} ends before {extent}")
            writing.write(piece)
            left -= len(piece)
    return target


def make_ext4(image: Path, size: int, *, seed: int, options: Sequence[str] = ()) -> Hashes:
    """A filled ext4 with a swap file."""
    image.unlink(missing_ok=True)
    image.touch()
    os.truncate(image, size)
    run_tool("mke2fs", "-q", "-F", "-t", "ext4", *options, "-L", "linux", str(image))
    with mounted_kernel(image, image.with_suffix(".mount")) as root:
        fill_tree(root, seed=seed, size=size // 8)
        (root / "swapfile").write_bytes(PAGING * 30_000)
        run_tool("mkswap", str(root / "swapfile"))
        with (root / "swapfile").open("r+b") as file:
            file.seek(4096)
            file.write(PAGING * 20_000)
        return hash_tree(root)


def make_ntfs(image: Path, size: int, *, sector_size: int = 512, seed: int = 1) -> Hashes:
    """A filled NTFS with paging and hibernation files; nothing is hibernated in it."""
    volumes_windows.make_ntfs(image, size=size, sector_size=sector_size, label="windows")
    with volumes_windows.mounted_ntfs(image, image.with_suffix(".mount")) as root:
        fill_tree(root, seed=seed, size=size // 8)
        (root / "pagefile.sys").write_bytes(PAGING * 100_000)
        (root / "hiberfil.sys").write_bytes(bytes(4096) + PAGING * 50_000)
        return hash_tree(root)


def _make_fat(image: Path, size: int, sector_size: int, seed: int) -> Hashes:
    volumes_windows.make_fat(image, size=size, bits=16, sector_size=sector_size, cluster_size=max(2048, sector_size))
    tree = image.with_suffix(".tree")
    tree.mkdir()
    fill_tree(tree, seed=seed, size=size // 8)
    next(tree.glob("last*")).rename(tree / "last.bin")  # mtools spells other letters by the locale
    for child in sorted(tree.iterdir()):
        run_tool("mcopy", "-s", "-Q", "-i", str(image), str(child), "::")
    hashes = hash_tree(tree)
    run_tool("rm", "-r", str(tree))
    return hashes


def _make_exfat(image: Path, size: int, seed: int) -> Hashes:
    volumes_windows.make_exfat(image, size=size)
    with volumes_windows.mounted_exfat(image, image.with_suffix(".mount")) as root:
        fill_tree(root, seed=seed, size=size // 8)
        return hash_tree(root)


def _make_swap(image: Path, size: int, seed: int) -> Hashes:
    image.write_bytes((PAGING * (size // len(PAGING) + 1))[:size])
    run_tool("mkswap", "-L", f"swap{seed}", str(image))
    return {}


def _make_unknown(image: Path, size: int, seed: int) -> Hashes:
    image.write_bytes(hashlib.shake_256(str(seed).encode()).digest(size))
    return {}


@contextmanager
def mounted_kernel(image: Path, place: Path, *, options: str = "rw") -> Iterator[Path]:
    """Mount a volume in a file by the kernel's own driver."""
    place.mkdir(exist_ok=True)
    run_tool("mount", "-o", f"loop,{options}", str(image), str(place))
    try:
        yield place
    finally:
        unmount(place)


def read_files(kind: str, volume: Path) -> Hashes:
    """Every file of a volume, read by a driver that is not ours."""
    place = volume.with_suffix(".mount")
    if kind == "ntfs":
        with volumes_windows.mounted_ntfs(volume, place, "ro") as root:
            return hash_tree(root)
    if kind == "exfat":
        with volumes_windows.mounted_exfat(volume, place) as root:
            return hash_tree(root)
    if kind == "vfat":
        place.mkdir()
        run_tool("mcopy", "-s", "-Q", "-n", "-i", str(volume), "::*", str(place))
        hashes = hash_tree(place)
        run_tool("rm", "-r", str(place))
        return hashes
    with mounted_kernel(volume, place, options="ro") as root:
        return hash_tree(root)


def check_volume(kind: str, volume: Path) -> None:
    """Have a volume judged by its own checker; an ``AssertionError`` when it finds anything."""
    checkers = {
        "ext4": ("e2fsck", "-fn"),
        "vfat": ("fsck.fat", "-n"),
        "exfat": ("fsck.exfat", "-n"),
        "ntfs": ("ntfsfix", "-n"),
        "xfs": ("xfs_repair", "-n"),
        "btrfs": ("btrfs", "check"),
    }
    if kind in checkers:
        run_tool(*checkers[kind], str(volume))


def used_by_partclone(kind: str, volume: Path) -> ExtentSet:
    """What partclone would copy of a volume; everything for one it does not know."""
    name = {"ext4": "extfs", "vfat": "fat", "ntfs": "ntfs", "exfat": "exfat"}.get(kind)
    if name is None:
        return ExtentSet.of(Extent(0, volume.stat().st_size))
    return volumes_windows.map_with_partclone(name, volume)


def hash_file(path: Path) -> str:
    """SHA-256 of a whole file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def see_valid_table(path: Path) -> bool:
    """Whether sfdisk takes the disk for a partitioned one."""
    done = subprocess.run(["sfdisk", "--json", str(path)], capture_output=True, check=False)  # noqa: S603, S607
    return done.returncode == 0
