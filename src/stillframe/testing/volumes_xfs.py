"""XFS volumes made, looked at and taken apart by xfsprogs, for tests of our own reader.

Answers: "what do other tools say of this XFS?" Nothing here asks that reader, so that agreement means something.
"""

import re
from pathlib import Path
from typing import Final

from stillframe.extents import Extent, ExtentSet
from stillframe.testing.tools import run_tool

_SMALL: Final = ("TEST_DIR=/", "TEST_DEV=none", "QA_CHECK_FS=1")
"""With these mkfs.xfs makes volumes below 300 MB, as its own tests need them. Source: xfsprogs mkfs/xfs_mkfs.c."""


def make_xfs(image: Path, *options: str, size: int) -> None:
    """Format a new sparse image with mkfs.xfs."""
    with image.open("wb") as file:
        file.truncate(size)
    run_tool("env", *_SMALL, "mkfs.xfs", "-q", "-f", *options, str(image))


def ask_xfs_db(image: Path, *commands: str, write: bool = False) -> str:
    """What xfs_db prints; it changes the image only with ``write``."""
    words = [word for command in commands for word in ("-c", command)]
    return run_tool("xfs_db", "-x" if write else "-r", *words, str(image))


def read_fields(image: Path, place: str, *names: str) -> dict[str, int]:
    """Numbers of a header, by name."""
    printed = ask_xfs_db(image, place, f"print {' '.join(names)}")
    return {name: int(number) for name, number in re.findall(r"^(\w+) = (\d+)$", printed, re.MULTILINE)}


def map_free_with_xfs_db(image: Path) -> ExtentSet:
    """The bytes that xfs_db finds in the trees of free space; the free list, which it dumps too, is taken out."""
    geometry = read_fields(image, "sb 0", "blocksize", "agblocks", "agcount")
    size, per_group = geometry["blocksize"], geometry["agblocks"]
    lines = re.findall(r"^\s*(\d+)\s+(\d+)\s+(\d+)$", ask_xfs_db(image, "freesp -d"), re.MULTILINE)
    rows = [tuple(map(int, line)) for line in lines]
    listed = {(group, block) for group in range(geometry["agcount"]) for block in _free_list(image, group)}
    starts = [(group * per_group + block, count) for group, block, count in rows if (group, block) not in listed]
    return ExtentSet.from_extents(Extent(start * size, (start + count) * size) for start, count in starts)


def _free_list(image: Path, group: int) -> list[int]:
    ring = read_fields(image, f"agf {group}", "flfirst", "fllast", "flcount")
    if not ring["flcount"]:
        return []
    printed = ask_xfs_db(image, f"agfl {group}", "print bno")
    entries = dict(re.findall(r"(\d+):(\d+|null)", printed))
    places = [(ring["flfirst"] + step) % len(entries) for step in range(ring["flcount"])]
    return [int(entries[str(place)]) for place in places]


def read_log_end(image: Path) -> tuple[int, bool]:
    """Where xfs_logprint sees the end of the log, in sectors of 512 bytes, and whether it calls the log clean."""
    printed = run_tool("xfs_logprint", "-t", str(image), accept=(0, 1))
    found = re.search(r"head: (\d+) state: <(CLEAN|DIRTY)>", printed)
    if found is None:
        raise AssertionError(f"xfs_logprint: {printed[:500]}")
    return int(found[1]), found[2] == "CLEAN"


def list_files(image: Path) -> dict[str, int]:
    """The inode of every file and folder, by its path, as xfs_db finds them."""
    printed = ask_xfs_db(image, "blockget -n", "ncheck")
    return {
        name.removesuffix("/."): int(inode) for inode, name in re.findall(r"^\s+(\d+) (.+)$", printed, re.MULTILINE)
    }
