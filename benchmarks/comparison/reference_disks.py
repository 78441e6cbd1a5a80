"""Disks to measure on, made on this machine: one as of a Linux, one as of a Windows, and both a day later.

Usage: python -m benchmarks.comparison.reference_disks FOLDER        (root)

    linux         2 GiB: GPT, ext4, swap; about 1 GB in use
    windows-like  3 GiB: GPT, a reserved partition, NTFS; about 1.3 GB in use

Contents: files of this machine's ``/usr``, chosen by a hash of their names, noise (pictures, films), databases, logs,
and stale bytes of deleted files in free space. The day: a hundredth of the data, chosen by seed. What is in the cache
is made again when the recipe changes. Other machines have other files in ``/usr``: compare within one run only.
"""

import contextlib
import hashlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.comparison.extents import Part, describe, loop_device, output

_MIB: Final = 1 << 20
_PAGE: Final = 4096
_SMALL: Final = range(512, 200_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A disk. Sizes in MiB; ``parts`` are what sgdisk is told."""

    name: str
    size: int
    parts: tuple[str, ...]
    system: int
    make: tuple[str, ...]
    mount: tuple[str, ...]
    files: int
    noise: int
    database: int
    stale: int


RECIPES: Final = (
    Recipe(
        name="linux", size=2048, parts=("-n1:2048:+1792M", "-t1:8300", "-n2:0:0", "-t2:8200"), system=1,
        make=("mkfs.ext4", "-q", "-F", "-L", "root", "-E", "lazy_itable_init=0,nodiscard"),
        mount=("mount", "-o", "noatime"),
        files=800, noise=150, database=48, stale=120,
    ),
    Recipe(
        name="windows-like", size=3072, parts=("-n1:2048:+16M", "-t1:0c01", "-n2:0:0", "-t2:0700"), system=2,
        make=("mkntfs", "-F", "-Q", "-L", "Windows"), mount=("ntfs-3g", "-o", "big_writes,noatime"),
        files=850, noise=330, database=64, stale=200,
    ),
)  # fmt: skip


def cached_disks(folder: str) -> list[tuple[str, str, str]]:
    """Name, disk, and the disk a day later, of each recipe; made when they are not there."""
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    place = Path(folder) / recipe
    for old in Path(folder).glob("*"):
        if old != place and old.is_dir():
            shutil.rmtree(old)
    place.mkdir(parents=True, exist_ok=True)
    found = []
    for one in RECIPES:
        day1, day2 = place / f"{one.name}.raw", place / f"{one.name}.day2.raw"
        if not day2.exists():
            print(f"making {one.name} ({one.size} MiB) in {place}", flush=True)
            _make(one, str(day1))
            unfinished = f"{day2}.part"
            subprocess.run(["cp", "--sparse=always", day1, unfinished], check=True)
            change(unfinished, one)
            os.rename(unfinished, day2)
        found.append((one.name, str(day1), str(day2)))
    return found


def _make(recipe: Recipe, path: str) -> None:
    Path(path).unlink(missing_ok=True)
    with open(path, "wb") as file:
        file.truncate(recipe.size * _MIB)
    output("sgdisk", "-o", *recipe.parts, path)
    with loop_device(path, _system_part(recipe, path), read_only=False) as device:
        output(*recipe.make, device)
    with mounted(recipe, path) as top:
        _fill(recipe, top, random.Random(recipe.name))


def change(path: str, recipe: Recipe, seed: int = 7) -> None:
    """Let a day pass on the system volume of a disk."""
    with mounted(recipe, path) as top:
        _day(top, random.Random(seed))


@contextlib.contextmanager
def mounted(recipe: Recipe, path: str) -> Iterator[str]:
    """The system volume of a disk as a folder."""
    with loop_device(path, _system_part(recipe, path), read_only=False) as device, tempfile.TemporaryDirectory() as top:
        output(*recipe.mount, device, top)
        try:
            yield top
        finally:
            _unmount(top)


def _unmount(top: str) -> None:
    os.sync()
    for _ in range(20):
        if subprocess.run(["umount", top], check=False, capture_output=True).returncode == 0:
            return
        time.sleep(0.5)
    raise RuntimeError(f"{top} stays mounted")


def _system_part(recipe: Recipe, path: str) -> Part:
    return next(part for part in describe(path).parts if part.number == recipe.system)


def _fill(recipe: Recipe, top: str, rng: random.Random) -> None:
    stale = Path(top) / "stale"
    stale.mkdir()
    for number in range(recipe.stale // 8):  # between files that stay, so that free space holds old bytes
        _write_noise(stale / str(number), 8 * _MIB, rng)
    os.sync()
    _copy_files(Path(top) / "system", recipe.files * _MIB)
    home = Path(top) / "home"
    home.mkdir()
    for number in range(recipe.noise // 6):
        _write_noise(home / f"film{number:03d}.mp4", 6 * _MIB, rng)
    for number in range(recipe.database // 16):
        _write_noise(home / f"base{number}.db", 16 * _MIB, rng, page=_text_page)
    for number in range(12):
        with open(home / f"service{number}.log", "w", encoding="ascii") as file:
            file.writelines(_log_lines(rng, 5000))
    shutil.rmtree(stale)


def _copy_files(top: Path, limit: int) -> None:
    """Files of /usr, in the order of a hash of their names, until there are enough bytes."""
    names = (Path(folder) / name for folder, _, names in os.walk("/usr") for name in names)
    ordered = sorted(names, key=lambda path: hashlib.sha256(os.fsencode(path)).digest())
    copied = 0
    for path in ordered:
        if copied >= limit:
            return
        with contextlib.suppress(OSError):
            if path.is_symlink() or not path.is_file() or path.stat().st_size > 64 * _MIB:
                continue
            target = top / path.relative_to("/usr")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            copied += path.stat().st_size


def _day(top: str, rng: random.Random) -> None:
    """A hundredth of the data: files written anew, replaced and deleted, pages of databases, logs, new files."""
    found = sorted(path for path in Path(top).rglob("*") if path.is_file() and not path.is_symlink())
    small = [path for path in found if path.stat().st_size in _SMALL and path.suffix not in (".log", ".db")]
    picked = rng.sample(small, min(160, len(small)))
    for path in picked[:100]:
        size = path.stat().st_size
        with open(path, "r+b") as file:
            file.write((rng.randbytes(size // 4).hex().encode() + rng.randbytes(size))[:size])
    for path in picked[100:120]:
        new = path.with_name(f"{path.name}.new")
        new.write_bytes(rng.randbytes(path.stat().st_size // 2).hex().encode())
        os.replace(new, path)
    for path in picked[120:]:
        path.unlink()
    for path in (path for path in found if path.suffix == ".log"):
        with open(path, "a", encoding="ascii") as file:
            file.writelines(_log_lines(rng, rng.randrange(50, 3000)))
    for path in (path for path in found if path.suffix == ".db"):
        with open(path, "r+b") as file:
            for _ in range(50):
                file.seek(rng.randrange(path.stat().st_size // _PAGE) * _PAGE)
                file.write(_text_page(rng))
    new = Path(top) / "home" / "new"
    new.mkdir()
    for number in range(5):
        _write_noise(new / f"picture{number}.jpg", 2 * _MIB, rng)


def _write_noise(
    path: Path, size: int, rng: random.Random, page: Callable[[random.Random], bytes] | None = None
) -> None:
    with open(path, "wb") as file:
        if page is None:
            file.writelines(rng.randbytes(_MIB) for _ in range(size // _MIB))
        else:
            file.writelines(page(rng) for _ in range(size // _PAGE))


def _text_page(rng: random.Random) -> bytes:
    """A page as of a database: a third of it carries anything new."""
    return rng.randbytes(1500).hex().encode().ljust(_PAGE, b"\0")


def _log_lines(rng: random.Random, count: int) -> Iterator[str]:
    for number in range(count):
        yield f"day {number % 24:02d}:{number % 60:02d} host service: request {rng.getrandbits(64):016x} ok\n"


if __name__ == "__main__":
    for row in cached_disks(sys.argv[1]):
        print(*row)
