"""Small partitioned disks for tests, made and judged by sfdisk and sgdisk.

Answers: "what does a disk with this table look like?" and "what does another tool see on it?" Disks are bytes in
memory; a tool sees them as a file, or as a loop device when sectors of 4096 bytes are asked for (that needs root).
"""

import json
import os
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stillframe.block import MemoryDisk
from stillframe.disk import Patch
from stillframe.extents import Extent
from stillframe.testing.loops import attach_loop, detach_loop

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenPartition:
    """A partition as ``sfdisk --json`` shows it, in the spelling of ``stillframe.disk.Partition``."""

    number: int
    extent: Extent
    type: str
    name: str
    guid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenTable:
    """A partition table as ``sfdisk --json`` shows it; containers of logical partitions are left out."""

    label: str
    disk_id: str
    sector_size: int
    partitions: tuple[SeenPartition, ...]


def run_tool(*command: str, text: str = "", allowed: Sequence[int] = (0,)) -> str:
    """Run a tool in the C locale; its output. A tool that is missing or fails is a failure of the test."""
    done = subprocess.run(  # noqa: S603 - oracle tools are started by name
        command, input=text, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C.UTF-8"}
    )
    if done.returncode not in allowed:
        raise AssertionError(f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


@contextmanager
def shown_to_tools(contents: bytes | None, *, size: int = 0, sector_size: int = 512) -> Iterator[Path]:
    """A path under which tools see a disk: a sparse file of ``size``, or ``contents``; a loop device for 4096.

    Changes made by the tools are in the file ``<folder>/disk`` and are gone afterwards unless read before.
    """
    with tempfile.TemporaryDirectory(prefix="stillframe-disk-") as folder:
        path = Path(folder) / "disk"
        path.write_bytes(contents or b"")
        os.truncate(path, size or len(contents or b""))
        if sector_size == 512:
            yield path
            return
        device = attach_loop(path, "--sector-size", str(sector_size))
        try:
            yield Path(device)
        finally:
            detach_loop(device)


def make_disk(
    size: int, *, sfdisk: str = "", sgdisk: Sequence[str] = (), sector_size: int = 512, start: bytes = b""
) -> bytes:
    """The bytes of a disk after an sfdisk script and then a call of sgdisk, which takes a second when it writes.

    Args:
        size: Bytes.
        sfdisk: A script as sfdisk reads it; none when empty.
        sgdisk: Arguments of the call; none when empty.
        sector_size: 512, or 4096 through a loop device.
        start: What the disk holds before the tools work.
    """
    with shown_to_tools(start, size=size, sector_size=sector_size) as path:
        if sfdisk:
            quiet = ("--quiet", "--no-reread", "--no-tell-kernel", "--wipe", "never")
            run_tool("sfdisk", *quiet, str(path), text=sfdisk)
        if sgdisk:
            run_tool("sgdisk", *sgdisk, str(path))
        return path.read_bytes()


def see_table(path: Path) -> SeenTable:
    """What sfdisk sees on a disk."""
    table = json.loads(_json_of(run_tool("sfdisk", "--json", str(path))))["partitiontable"]
    sector_size = int(table["sectorsize"])
    is_gpt = table["label"] == "gpt"
    partitions = []
    for row in table.get("partitions", []):
        start, count = int(row["start"]), int(row["size"])
        kind = row["type"].upper() if is_gpt else row["type"].upper().zfill(2)
        if not is_gpt and kind in ("05", "0F", "85"):
            continue
        partitions.append(
            SeenPartition(
                number=int(row["node"].removeprefix(str(path)).removeprefix("p")),
                extent=Extent(start * sector_size, (start + count) * sector_size),
                type=kind,
                name=row.get("name", ""),
                guid=row.get("uuid", "").upper(),
            )
        )
    return SeenTable(
        label=table["label"],
        disk_id=table["id"].upper().removeprefix("0X"),
        sector_size=sector_size,
        partitions=tuple(sorted(partitions, key=lambda partition: partition.number)),
    )


def patched(contents: bytes, patches: Sequence[Patch], *, size: int) -> bytes:
    """A target of ``size`` bytes after a restore: as much of the source as it holds, then the patches."""
    target = MemoryDisk(contents[:size].ljust(size, b"\0"))
    for patch in patches:
        target.write_at(patch.offset, patch.data)
    return bytes(target.contents)


def with_header_field(contents: bytes, layout: str, offset: int, value: int, *, header_at: int = 512) -> bytes:
    """A disk with one field of a GPT header changed and the header's checksum made right again.

    Args:
        contents: The disk.
        layout: How ``struct`` packs the field, such as ``<Q``.
        offset: Of the field in the header: UEFI Specification 2.10, table 5.5.
        value: What to put there.
        header_at: Byte offset of the header.
    """
    disk = bytearray(contents)
    struct.pack_into(layout, disk, header_at + offset, value)
    (header_size,) = struct.unpack_from("<I", disk, header_at + 12)
    struct.pack_into("<I", disk, header_at + 16, 0)
    crc = zlib.crc32(disk[header_at : header_at + min(header_size, 4096)])
    struct.pack_into("<I", disk, header_at + 16, crc)
    return bytes(disk)


def with_entries(contents: bytes, entries: bytes, *, header_at: int = 512, entries_at: int = 1024) -> bytes:
    """A disk with another entry array in one copy of its GPT, and both checksums made right."""
    disk = contents[:entries_at] + entries + contents[entries_at + len(entries) :]
    return with_header_field(disk, "<I", 88, zlib.crc32(entries), header_at=header_at)


def _json_of(output: str) -> str:
    """The JSON in what sfdisk says: warnings may come before or after."""
    return output[output.index("{") : output.rindex("}") + 1]
