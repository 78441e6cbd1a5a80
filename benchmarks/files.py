#!/usr/bin/env python3
"""How long it takes to list and to get the files inside an image, as a whole process.

``files.py [COUNT] [FOLDER]`` makes an ext4 and an NTFS with so many small files (50,000) in a temporary folder below
FOLDER, backs each up, and prints the seconds that ``ls -R``, ``ls -R --json`` and ``get`` take from the start of the
program to its end; the best of three for listings. Needs root: volumes are mounted.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from stillframe.testing.real_disks import mounted_kernel
from stillframe.testing.volumes_windows import make_ntfs, mounted_ntfs, run_tool

_PER_FOLDER = 250
_SIZE = 1 << 30


def fill(root: Path, count: int) -> None:
    """Small files in folders."""
    for number in range(count):
        folder = root / f"folder {number // _PER_FOLDER:04}"
        if number % _PER_FOLDER == 0:
            folder.mkdir()
        (folder / f"file {number:06}.txt").write_bytes(b"%d\n" % number * (number % 300))


def make_volumes(folder: Path, count: int) -> dict[str, Path]:
    """One volume of each kind."""
    ext4, ntfs, place = folder / "ext4.img", folder / "ntfs.img", folder / "mount"
    ext4.touch()
    os.truncate(ext4, _SIZE)
    run_tool("mke2fs", "-q", "-F", "-t", "ext4", "-N", str(count + 10_000), str(ext4))
    with mounted_kernel(ext4, place) as root:
        fill(root, count)
    make_ntfs(ntfs, size=_SIZE)
    with mounted_ntfs(ntfs, place) as root:
        fill(root, count)
    return {"ext4": ext4, "ntfs": ntfs}


def run(repository: Path, *words: str) -> float:
    """Seconds of one call of the program."""
    environment = {**os.environ, "STILLFRAME_REPO": str(repository)}
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "stillframe", *words], env=environment, check=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return time.perf_counter() - began


def main(count: int, place: str | None) -> None:
    """Make, back up, measure."""
    with tempfile.TemporaryDirectory(prefix="stillframe-files-", dir=place) as name:
        folder = Path(name)
        for kind, image in make_volumes(folder, count).items():
            repository = folder / f"repository-{kind}"
            run(repository, "init", str(repository), "--encryption", "none")
            run(repository, "backup", str(image), "--no-verify")
            for words in (["ls", "-R", "latest:1"], ["ls", "-R", "latest:1", "--json"]):
                print(
                    f"{kind}: {' '.join(words)}, {count} files: {min(run(repository, *words) for _ in range(3)):.2f} s"
                )
            print(
                f"{kind}: get latest:1, {count} files: {run(repository, 'get', 'latest:1', str(folder / kind)):.2f} s"
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50_000, sys.argv[2] if len(sys.argv) > 2 else None)
