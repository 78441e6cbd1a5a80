"""Where everything lies on a stick that holds a folder.

Answers: "in which clusters is which file, and what do the folders and the boot sector say?" Pure, but for the list of
the folder's files. Every file is one run of clusters, in the order of the list.

Sources: Microsoft, "FAT32 File System Specification" 1.03 (boot sector, FSInfo, directory entries, long names, the
check sum of short names); "Microsoft Extensible Firmware Initiative FAT32 ... ": clusters of 32 KiB at most.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from stillframe.errors import UsageError
from stillframe.units import MIB, align_up

SECTOR: Final = 512
RESERVED_SECTORS: Final = 32
FATS: Final = 2
PARTITION_START: Final = MIB
ROOT: Final = 2
"""Number of the first cluster, where the root folder begins."""
END_OF_CHAIN: Final = 0x0FFFFFFF
CLUSTERS_MIN: Final = 65_525 + 16
"""With fewer it would be a FAT16."""
_FILE_MAX: Final = (1 << 32) - 1
_SIZE_MAX: Final = 2 << 40
_FILES_MAX: Final = 4_000_000
_ENTRY: Final = 32
_FOLDER: Final = 0x10
_READ_ONLY: Final = 0x01
_LONG: Final = 0x0F
_DATE: Final = (2020 - 1980) << 9 | 1 << 5 | 1
"""1 January 2020: when a file was written does not matter here."""
_HINT: Final = "A repository on a real stick or share can be rehearsed by hand: start the medium in a virtual machine."


@dataclass(slots=True)
class Entry:
    """A file or folder: its name, its path here, its bytes, and, once they have a place, its first cluster."""

    name: str
    path: str
    size: int
    inside: "list[Entry] | None" = None
    cluster: int = 0
    table: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class StickLayout:
    """Where everything lies.

    Attributes:
        cluster_size: In bytes.
        cluster_count: Of all clusters.
        used: So many are in use, from the first on.
        last_clusters: The last cluster of every run, in order.
        entries: All files and folders that have clusters, in the order of these.
        label: Of the volume.
    """

    cluster_size: int
    cluster_count: int
    used: int
    last_clusters: tuple[int, ...]
    entries: tuple[Entry, ...] = field(repr=False)
    label: str

    @property
    def fat_sectors(self) -> int:
        """Sectors of one table."""
        return align_up((self.cluster_count + 2) * 4, SECTOR) // SECTOR

    @property
    def data_start(self) -> int:
        """Byte at which the first cluster begins."""
        return (RESERVED_SECTORS + FATS * self.fat_sectors) * SECTOR

    @property
    def size(self) -> int:
        """Bytes of the whole stick."""
        return self.data_start + self.cluster_count * self.cluster_size

    def offset_of(self, cluster: int) -> int:
        """Byte at which a cluster begins."""
        return self.data_start + (cluster - ROOT) * self.cluster_size


def lay_out(folder: str, *, label: str) -> StickLayout:
    """Give every file of a folder its place.

    Raises:
        UsageError: A file or the whole is larger than a FAT32 can be, or there are too many files.
        OSError: The folder cannot be listed.
    """
    root = Entry(name="", path=folder, size=0, inside=_list(folder))
    everything = list(_walk(root))
    if len(everything) > _FILES_MAX:
        raise UsageError(f"{folder} holds {len(everything)} files: too many for a rehearsal", hint=_HINT)
    bytes_total = sum(entry.size for entry in everything)
    cluster_size = 4096 if bytes_total < 8 << 30 else 32_768
    last, cluster = list[int](), ROOT
    for entry in everything:
        size = max(1, entry.size) if entry.inside is None else _table_size(entry, is_root=entry is root)
        if entry.inside is None and not entry.size:
            continue
        entry.cluster = cluster
        cluster += -(-size // cluster_size)
        last.append(cluster - 1)
    for entry in everything:
        if entry.inside is not None:
            entry.table = _build_table(entry, everything[0], label=label)
    used = cluster - ROOT
    layout = StickLayout(
        cluster_size=cluster_size, cluster_count=max(used + 16 * MIB // cluster_size, CLUSTERS_MIN), used=used,
        last_clusters=tuple(last), entries=tuple(entry for entry in everything if entry.cluster), label=label,
    )  # fmt: skip
    if layout.size > _SIZE_MAX:
        raise UsageError(
            f"{folder} holds {bytes_total} bytes: too much for a rehearsal, which can do 2 TiB", hint=_HINT
        )
    return layout


def build_boot_area(layout: StickLayout) -> bytes:
    """The sectors before the tables: boot sector, FSInfo, and their copies."""
    boot = bytearray(SECTOR)
    struct.pack_into(
        "<3s8sHBHBHHBHHHII", boot, 0, b"\xeb\x58\x90", b"MSWIN4.1", SECTOR, layout.cluster_size // SECTOR,
        RESERVED_SECTORS, FATS, 0, 0, 0xF8, 0, 63, 255, PARTITION_START // SECTOR, layout.size // SECTOR,
    )  # fmt: skip
    struct.pack_into("<IHHIHH", boot, 36, layout.fat_sectors, 0, 0, ROOT, 1, 6)
    struct.pack_into("<BBBI11s8s", boot, 64, 0x80, 0, 0x29, 0x53544B31, _padded(layout.label), b"FAT32   ")
    boot[510:512] = b"\x55\xaa"
    facts = bytearray(SECTOR)
    struct.pack_into("<I", facts, 0, 0x41615252)
    struct.pack_into("<III", facts, 484, 0x61417272, layout.cluster_count - layout.used, ROOT + layout.used)
    struct.pack_into("<I", facts, 508, 0xAA550000)
    area = bytearray(RESERVED_SECTORS * SECTOR)
    for first in (0, 6):
        area[first * SECTOR : (first + 1) * SECTOR] = boot
        area[(first + 1) * SECTOR : (first + 2) * SECTOR] = facts
    return bytes(area)


def build_table(size: int) -> bytes:
    """What is before the volume: an MBR with one partition of FAT32, as sticks are sold. ``size`` is the volume's."""
    area = bytearray(PARTITION_START)
    entry = struct.pack(
        "<B3sB3sII", 0, b"\xfe\xff\xff", 0x0C, b"\xfe\xff\xff", PARTITION_START // SECTOR, size // SECTOR
    )
    area[440:444] = b"STK1"
    area[446:462] = entry
    area[510:512] = b"\x55\xaa"
    return bytes(area)


def _list(folder: str) -> list[Entry]:
    found = list[Entry]()
    with os.scandir(folder) as listing:
        for one in sorted(listing, key=lambda entry: entry.name):
            if one.is_dir(follow_symlinks=False):
                found.append(Entry(name=one.name, path=one.path, size=0, inside=_list(one.path)))
            elif one.is_file(follow_symlinks=False):
                size = one.stat(follow_symlinks=False).st_size
                if size > _FILE_MAX:
                    raise UsageError(f"{one.path} is larger than 4 GiB: no file of FAT32 can be", hint=_HINT)
                found.append(Entry(name=one.name, path=one.path, size=size))
    return found


def _walk(entry: Entry) -> Iterator[Entry]:
    yield entry
    for inner in entry.inside or ():
        yield from _walk(inner)


def _table_size(entry: Entry, *, is_root: bool) -> int:
    own = 1 if is_root else 2  # the label; "." and ".."
    return _ENTRY * (own + sum(1 + len(_pieces(inner.name)) for inner in entry.inside or ()) + 1)


def _build_table(folder: Entry, root: Entry, *, label: str) -> bytes:
    rows = list[bytes]()
    if folder is root:
        rows.append(struct.pack("<11sB20x", _padded(label), 0x08))
    else:
        above = _above(root, folder)
        rows.append(_short(b".".ljust(11), folder.cluster, 0, _FOLDER))
        rows.append(_short(b"..".ljust(11), 0 if above is root else above.cluster, 0, _FOLDER))
    for number, inner in enumerate(folder.inside or ()):
        short = f"{number:08X}   ".encode()
        pieces = _pieces(inner.name)
        check = _check(short)
        for place in range(len(pieces), 0, -1):
            order = place | (0x40 if place == len(pieces) else 0)
            raw = pieces[place - 1]
            rows.append(struct.pack("<B10sBBB12sH4s", order, raw[:10], _LONG, 0, check, raw[10:22], 0, raw[22:26]))
        kind = _READ_ONLY if inner.inside is None else _FOLDER
        rows.append(_short(short, inner.cluster, inner.size, kind))
    return b"".join(rows)


def _above(root: Entry, folder: Entry) -> Entry:
    """The folder that holds a folder, by its path."""
    here = root
    for word in os.path.relpath(folder.path, root.path).split(os.sep)[:-1]:
        here = next(one for one in here.inside or () if one.name == word)
    return here


def _short(name: bytes, cluster: int, size: int, kind: int) -> bytes:
    high, low = cluster >> 16, cluster & 0xFFFF
    return struct.pack("<11sBBBHHHHHHHI", name, kind, 0, 0, 0, _DATE, _DATE, high, 0, _DATE, low, size)


def _pieces(name: str) -> list[bytes]:
    """A long name in pieces of 13 characters: ended by a zero, filled with ones."""
    raw = name.encode("utf-16-le")
    if len(raw) % 26:
        raw += b"\0\0"
        raw += b"\xff" * (-len(raw) % 26)
    return [raw[at : at + 26] for at in range(0, len(raw), 26)]


def _check(short: bytes) -> int:
    total = 0
    for byte in short:
        total = ((total & 1) << 7) + (total >> 1) + byte & 0xFF
    return total


def _padded(label: str) -> bytes:
    return label.upper().encode("ascii", "replace")[:11].ljust(11)
