"""Power cuts under a mounted ext4 that is being written, for tests of what must have survived.

Answers: "what does a volume hold after this work, and which files were promised to be in it?" Needs root.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

assert sys.platform != "win32"  # mounts are those of Linux

Promised = dict[str, str]
"""What was fsynced: path below the mount point, and SHA-256 of the contents."""
Work = Callable[[Path, Promised], None]


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """A tool that must succeed."""
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)  # noqa: S603 a test's tool


@contextmanager
def mounted(image: Path, place: Path, *, options: str = "rw") -> Iterator[Path]:
    """A volume in a file, mounted by the kernel."""
    place.mkdir(exist_ok=True)
    run("mount", "-o", f"loop,{options}", image, place)
    try:
        yield place
    finally:
        run("umount", place)


def keep(root: Path, promised: Promised, name: str, contents: bytes) -> None:
    """Write a file and promise it: the file and its folder are fsynced."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(contents)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)
    promised[name] = hashlib.sha256(contents).hexdigest()


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def plain_files(root: Path, promised: Promised) -> None:
    """Files of many sizes."""
    for number in range(40):
        keep(root, promised, f"file{number}", os.urandom(3000 * number + 1))


def renamed_over(root: Path, promised: Promised) -> None:
    """A file that is replaced again and again."""
    keep(root, promised, "settings", b"old" * 9000)
    for number in range(25):
        keep(root, promised, "settings.new", os.urandom(20000 + number))
        (root / "settings.new").rename(root / "settings")
        sync_folder(root)
        promised["settings"] = promised.pop("settings.new")


def deleted_and_reused(root: Path, promised: Promised) -> None:
    """Folders' blocks are freed, revoked and written again as data."""
    for turn in range(6):
        folder = root / f"turn{turn}"
        for number in range(120):
            (folder / f"deep{number % 7}").mkdir(parents=True, exist_ok=True)
            (folder / f"deep{number % 7}" / f"{'n' * 90}{number}").write_bytes(os.urandom(2000))
        sync_folder(folder)
        os.sync()
        shutil.rmtree(folder)
        keep(root, promised, f"kept{turn}", os.urandom(900_000))


def many_names(root: Path, promised: Promised) -> None:
    """A folder that grows and shrinks."""
    for number in range(1500):
        (root / f"{'long' * 20}{number}").touch()
    for number in range(0, 1500, 3):
        (root / f"{'long' * 20}{number}").unlink()
    keep(root, promised, "last", os.urandom(300_000))


def wrapped_log(root: Path, promised: Promised) -> None:
    """More transactions than a log of 1,024 blocks holds."""
    for number in range(330):
        keep(root, promised, f"folder{number % 40}/file{number % 110}", os.urandom(500 + 31 * number))


def fragmented(root: Path, promised: Promised) -> None:
    """A file in many pieces, then cut."""
    for number in range(200):
        (root / f"filler{number}").write_bytes(bytes(8192))
    os.sync()
    for number in range(0, 200, 2):
        (root / f"filler{number}").unlink()
    sync_folder(root)
    keep(root, promised, "scattered", os.urandom(1_500_000))
    with (root / "scattered").open("r+b") as file:
        file.truncate(700_000)
        os.fsync(file.fileno())
    promised["scattered"] = hashlib.sha256((root / "scattered").read_bytes()).hexdigest()


SCENES: Final[dict[str, tuple[str, str, Work]]] = {
    "ext4": ("-t ext4", "", plain_files),
    "ext4-1k": ("-t ext4 -b 1024", "", plain_files),
    "ext4-rename": ("-t ext4 -b 4096", "", renamed_over),
    "ext4-revoke": ("-t ext4 -b 1024 -J size=4", "", deleted_and_reused),
    "ext4-many-names": ("-t ext4 -b 1024 -N 4096", "", many_names),
    "ext4-no-checksums": ("-t ext4 -b 4096 -O ^metadata_csum", "", plain_files),
    "ext4-no-checksums-revoke": ("-t ext4 -b 1024 -O ^metadata_csum,^64bit -J size=4", "", deleted_and_reused),
    "ext4-old-checksums": ("-t ext4 -b 1024 -O ^metadata_csum", "journal_checksum", fragmented),
    "ext4-async-commit": ("-t ext4 -b 1024", "journal_async_commit,data=writeback", plain_files),
    "ext4-wrap": ("-t ext4 -b 1024 -J size=1", "", wrapped_log),
    "ext4-wrap-4k": ("-t ext4 -b 4096 -J size=4", "", wrapped_log),
    "ext4-data-journal": ("-t ext4 -b 1024 -J size=4", "data=journal", wrapped_log),
    "ext4-data-journal-revoke": ("-t ext4 -b 4096 -J size=8", "data=journal", deleted_and_reused),
    "ext4-uninit": ("-t ext4 -b 1024 -g 1024 -O ^metadata_csum,uninit_bg", "", fragmented),
    "ext4-flat-groups": ("-t ext4 -b 1024 -g 2048 -O ^flex_bg", "", fragmented),
    "ext4-meta-bg": ("-t ext4 -b 1024 -g 512 -O meta_bg,^resize_inode", "", fragmented),
    # Every fsync of a folder is a whole transaction, so the fast commits before it are no longer needed.
    "ext4-fast-commit-left-over": ("-t ext4 -O fast_commit", "", plain_files),
    "ext4-bigalloc": ("-t ext4 -b 4096 -O bigalloc -C 16384", "", deleted_and_reused),
    "ext3": ("-t ext3 -b 4096", "", fragmented),
    "ext3-1k": ("-t ext3 -b 1024 -J size=1", "", wrapped_log),
}


def power_cut(folder: Path, *, make: str, mount_options: str, work: Work) -> tuple[bytes, Promised]:
    """The bytes of a volume as a power cut leaves them, and what must be in it."""
    image, promised = folder / "live", Promised()
    run("truncate", "-s", "64M", image)
    run("mke2fs", "-q", "-F", *make.split(), image)
    options = ",".join(filter(None, ("rw", "commit=900", mount_options)))
    with mounted(image, folder / "mount", options=options) as root:
        work(root, promised)
        return image.read_bytes(), promised


def hashes(root: Path, names: Promised) -> Promised:
    """SHA-256 of some files."""
    return {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in names}
