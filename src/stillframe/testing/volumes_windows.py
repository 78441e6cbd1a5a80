"""NTFS, FAT and exFAT volumes for tests: made, filled, mounted and mapped by the tools of others.

Answers: "where does a test get a Windows volume, and what do independent tools say of it?" Every function works on
image files only.
"""

import hashlib
import os
import random
import re
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from stillframe.block import BlockReader
from stillframe.extents import Extent, ExtentSet
from stillframe.fs.ntfs.boot import find_boot
from stillframe.fs.ntfs.mft import MasterFileTable, open_mft
from stillframe.fs.ntfs.record import AttributeType
from stillframe.testing.loops import attach_loop, detach_loop
from stillframe.testing.tools import TOOL_TIMEOUT_S, run_tool, unmount

_COPY_SIZE: Final = 4 << 20
PARTCLONE_AT_ONCE: Final = ("-q", "-f", "0")
"""Says nothing of its progress: partclone would go on waiting for two seconds until it may say more."""


def make_ntfs(image: Path, *, size: int, cluster_size: int = 4096, sector_size: int = 512, label: str = "") -> None:
    """Format a new image with mkntfs."""
    _make_sparse(image, size)
    sizes = ("-c", str(cluster_size), "-s", str(sector_size), "-p", "2048", "-H", "255", "-S", "63")
    run_tool("mkntfs", "-F", "-Q", "-q", *sizes, "-L", label, str(image))


def make_fat(image: Path, *, size: int, bits: int, cluster_size: int = 0, sector_size: int = 512) -> None:
    """Format a new image with mkfs.fat; a cluster size of 0 is the tool's choice."""
    _make_sparse(image, size)
    chosen = ("-s", str(cluster_size // sector_size)) if cluster_size else ()
    run_tool("mkfs.fat", "-F", str(bits), "-S", str(sector_size), *chosen, "-n", "FATLABEL", str(image))


def make_exfat(image: Path, *, size: int, cluster_size: int = 4096) -> None:
    """Format a new image with mkfs.exfat."""
    _make_sparse(image, size)
    # Unless told, mkfs.exfat aligns its structures to 1 MiB and finds small volumes too small for that.
    aligned = ("-b", str(64 << 10)) if size < 8 << 20 else ()
    run_tool("mkfs.exfat", "-c", str(cluster_size), *aligned, "-L", "EXLABEL", str(image))


def _make_sparse(image: Path, size: int) -> None:
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(size)


@contextmanager
def mounted_ntfs(image: Path, place: Path, *options: str) -> Iterator[Path]:
    """Mount an image with ntfs-3g; afterwards its process has ended, so all is written."""
    with _mounted(("ntfs-3g", "-o", ",".join(("no_detach", *options)), str(image), str(place)), place):
        yield place


@contextmanager
def mounted_exfat(image: Path, place: Path) -> Iterator[Path]:
    """Mount an image with exfat-fuse, which wants a device; afterwards its process has ended, so all is written."""
    loop = attach_loop(image)
    try:
        with _mounted(("mount.exfat-fuse", "-d", loop, str(place)), place):
            yield place
    finally:
        detach_loop(loop)


@contextmanager
def _mounted(command: Sequence[str], place: Path) -> Iterator[None]:
    place.mkdir(exist_ok=True)
    silent = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=silent, stdout=silent, stderr=silent)  # noqa: S603 a fixed tool of a test
    try:
        deadline = time.monotonic() + 20
        while not os.path.ismount(place):
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{command}: not mounted, exit code {process.poll()}")
            time.sleep(0.01)
        try:
            yield
        finally:
            unmount(place)
            process.wait(timeout=TOOL_TIMEOUT_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def fill_tree(root: Path, *, seed: int, size: int, piece: int = 200_000) -> None:
    """Write folders and files of about ``size`` bytes in all, deleting every third meanwhile, so that holes open."""
    source = random.Random(seed)  # noqa: S311 a repeatable test, not a secret
    written, number = 0, 0
    while written < size:
        folder = root / f"folder {number % 7}"
        folder.mkdir(exist_ok=True)
        length = source.choice((0, 5, 600, 700, 4096, source.randrange(1, piece)))
        (folder / f"file {number:05d}.bin").write_bytes(source.randbytes(length))
        if number % 3 == 2:
            victim = number - source.randrange(3)
            (root / f"folder {victim % 7}" / f"file {victim:05d}.bin").unlink()
        written += length + 512
        number += 1
    (root / "last ü.bin").write_bytes(source.randbytes(size // 10))


def hash_tree(root: Path) -> dict[str, str]:
    """The contents of every file, by its path."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def keep_only(source: Path, kept: ExtentSet, target: Path) -> None:
    """Copy only these bytes; all others of the target are 0xFF."""
    size = source.stat().st_size
    with source.open("rb") as original, target.open("wb") as copy:
        for extent in kept.complement(Extent(0, size)):
            copy.seek(extent.start)
            for offset in range(0, extent.size, _COPY_SIZE):
                copy.write(b"\xff" * min(_COPY_SIZE, extent.size - offset))
        for extent in kept:
            original.seek(extent.start)
            copy.seek(extent.start)
            for offset in range(0, extent.size, _COPY_SIZE):
                copy.write(original.read(min(_COPY_SIZE, extent.size - offset)))


def map_with_partclone(kind: str, image: Path) -> ExtentSet:
    """What ``partclone.<kind> -D`` has in use."""
    log = image.with_suffix(".domain")
    run_tool(f"partclone.{kind}", "-D", "-s", str(image), "-O", str(log), "-L", str(image.with_suffix(".log")))
    lines = re.findall(r"^0x([0-9A-F]+)\s+0x([0-9A-F]+)\s+\+$", log.read_text(), re.MULTILINE)
    starts = [(int(start, 16), int(size, 16)) for start, size in lines]
    return ExtentSet.from_extents(Extent(start, start + size) for start, size in starts)


def map_fat_with_sleuthkit(image: Path, *, sector_size: int) -> ExtentSet:
    """What ``blkls`` calls allocated; partclone misreads 12-bit tables."""
    listing = run_tool("blkls", "-f", "fat", "-l", "-a", "-e", str(image))
    sectors = [int(line) for line in re.findall(r"^(\d+)\|a$", listing, re.MULTILINE)]
    return ExtentSet.from_extents(Extent(n * sector_size, (n + 1) * sector_size) for n in sectors)


def name_with_blkid(image: Path) -> dict[str, str]:
    """What ``blkid`` calls the volume."""
    lines = run_tool("blkid", "-p", "-o", "export", str(image)).splitlines()
    return dict(line.replace("\\", "").split("=", 1) for line in lines if "=" in line)


def open_table(reader: BlockReader) -> MasterFileTable:
    """The master file table of an NTFS volume that is known to be good."""
    boot = find_boot(reader)
    if boot is None:
        raise AssertionError("no NTFS volume")
    return open_mft(reader, boot)


def place_of(reader: BlockReader, record_index: int) -> Extent:
    """Where the unnamed data of a file of an NTFS volume begins: its first run."""
    table = open_table(reader)
    stream = table.open_stream(reader, table.read_record(reader, record_index), AttributeType.DATA)
    if stream is None or not len(stream.disk_starts):
        raise AssertionError(f"file {record_index} has no run")
    start = int(stream.disk_starts[0])
    return Extent(start, start + int(stream.run_sizes[0]))


def restart_page(
    *,
    in_use: int = 0,
    flags: int = 2,
    version: tuple[int, int] = (1, 1),
    log_size: int = 2 << 20,
    magic: bytes = b"RSTR",
) -> bytes:
    """A restart page of ``$LogFile`` as Windows XP and later write it (ntfs-3g include/ntfs-3g/logfile.h)."""
    page = bytearray(4096)
    array_offset, area_offset, client_offset = 0x1E, 0x30, 0x40
    struct.pack_into("<4sHHQII", page, 0, magic, array_offset, 9, 0, 4096, 4096)
    struct.pack_into("<Hhh", page, 24, area_offset, version[1], version[0])
    bits = 67 - log_size.bit_length()
    area = struct.pack(
        "<QHHHHIHHqIHHI", 1000, 1, 0xFFFF, in_use, flags, bits, 0xE0, client_offset, log_size, 0, 48, 64, 7
    )
    page[area_offset : area_offset + len(area)] = area
    client = struct.pack("<QQHHH6xI", 1000, 1000, 0xFFFF, 0xFFFF, 0, 8) + "NTFS".encode("utf-16-le")
    start = area_offset + client_offset
    page[start : start + len(client)] = client
    page[array_offset : array_offset + 2] = b"\x05\x00"
    for sector in range(8):
        end = (sector + 1) * 512
        place = array_offset + 2 * (sector + 1)
        page[place : place + 2] = page[end - 2 : end]
        page[end - 2 : end] = b"\x05\x00"
    return bytes(page)


def patched_copy(image: Path, target: Path, change: Callable[[bytearray], None]) -> Path:
    """A copy of an image with a change made to it."""
    contents = bytearray(image.read_bytes())
    change(contents)
    target.write_bytes(contents)
    return target
