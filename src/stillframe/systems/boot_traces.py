"""What a system that was started has written on its disk.

Answers: "did it come up, by what it noted itself?" The disk as it was before is compared with the disk afterwards, so
no clock has to be right: a note counts when it was not there before.

Sources: utmp(5) and glibc bits/utmp.h, 64-bit (records of 384 bytes, LOGIN_PROCESS 6); Linux fs/ext4/ext4.h
(s_mtime at 0x2C, s_mnt_count at 0x34 of the superblock); libevtx, "Windows XML Event Log (EVTX)", section 4.2 (event
records begin with 2A 2A 00 00, their number is at 8).
"""

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from stillframe.block import BlockReader
from stillframe.block.window import WindowReader
from stillframe.disk.layout import read_layout
from stillframe.errors import StillframeError
from stillframe.extents import Extent
from stillframe.fs.ext import EXT_NAMES, replay_volume
from stillframe.fs.ext.superblock import SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE
from stillframe.fs.files.sleuthkit import SleuthVolume, open_volume, read_facts
from stillframe.fs.files.support import is_read_rightly
from stillframe.fs.registry import identify
from stillframe.systems.boot_journal import count_targets
from stillframe.systems.boot_way import find_path

_FILE_MAX: Final = 32 << 20
_RECORD_SIZE: Final = 384
_LOGIN_PROCESS: Final = 6
_LOGINS: Final = ("var/log/wtmp", "log/wtmp")
_JOURNALS: Final = ("var/log/journal", "log/journal")
_EVENTS: Final = "windows/system32/winevt/logs/system.evtx"
_EVENT: Final = re.compile(rb"\*\*\0\0(.{4})(.{8})", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """What was written.

    Attributes:
        booted: Notes that only a system writes that has come up, in words.
        other: Notes of something that began, in words.
    """

    booted: tuple[str, ...] = ()
    other: tuple[str, ...] = ()


def compare_traces(before: BlockReader, after: BlockReader) -> Traces:
    """What a system noted on a disk between two states of it. What cannot be read proves nothing."""
    booted, other = list[str](), list[str]()
    try:
        layout = read_layout(after)
    except StillframeError:
        return Traces()
    places = [(f"partition {partition.number}", partition.extent) for partition in layout.partitions]
    for place, extent in places or [("the disk", Extent(0, after.size))]:
        if extent.end > before.size:
            continue
        old, new = WindowReader(before, extent), WindowReader(after, extent)
        try:
            booted += (f"{words} on {place}" for words in _notes(old, new))
            other += (f"{words}: {place}" for words in _mounts(old, new))
        except StillframeError:
            continue
    return Traces(booted=tuple(booted), other=tuple(other))


def count_logins(wtmp: bytes) -> int:
    """Login prompts that a ``wtmp`` notes."""
    count = len(wtmp) // _RECORD_SIZE
    return sum(struct.unpack_from("<h", wtmp, at * _RECORD_SIZE)[0] == _LOGIN_PROCESS for at in range(count))


def last_event(log: bytes) -> int:
    """The highest number of an event in a Windows event log; 0 for none."""
    numbers = (
        int.from_bytes(found[2], "little")
        for found in _EVENT.finditer(log)
        if 24 <= int.from_bytes(found[1], "little") <= 0x10000
    )
    return max(numbers, default=0)


def _mounts(old: BlockReader, new: BlockReader) -> Iterator[str]:
    if identify(new).volume.filesystem in EXT_NAMES:
        was, now = (one.read_at(SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE) for one in (old, new))
        if was[0x2C:0x30] != now[0x2C:0x30] or was[0x34:0x36] != now[0x34:0x36]:
            yield "a file system was mounted for writing"


def _notes(old: BlockReader, new: BlockReader) -> Iterator[str]:
    filesystem = identify(new).volume.filesystem
    if filesystem.startswith("ext"):
        for path in _LOGINS:
            was, now = _read(old, path), _read(new, path)
            if now is not None and count_logins(now) > count_logins(was or b""):
                yield f"/{path} notes a login prompt"
        for path in _JOURNALS:
            journals = _journals(old, path), _journals(new, path)
            if _count_targets(journals[1], without=journals[0]) > _count_targets(journals[0], without=journals[1]):
                yield f"the journal in /{path} notes that the system reached its boot target"
    elif filesystem == "ntfs":
        was, now = _read(old, _EVENTS), _read(new, _EVENTS)
        if now is not None and last_event(now) > last_event(was or b""):
            yield "Windows wrote new events into its event log"


def _read(reader: BlockReader, path: str) -> bytes | None:
    """A file's first 32 MiB; ``None`` when it is not there."""
    sleuth = _open(reader)
    entry = None if sleuth is None else find_path(sleuth, path)
    return None if sleuth is None or entry is None or not entry.is_file else sleuth.read_start(entry, _FILE_MAX)


def _open(reader: BlockReader) -> SleuthVolume | None:
    """The volume as it is after its journal was replayed; ``None`` where its files are not read."""
    volume = identify(reader).volume
    if volume.filesystem in EXT_NAMES:
        replayed = replay_volume(reader)
        reader = reader if replayed is None else replayed.view
    return open_volume(reader, volume) if is_read_rightly(reader, volume) else None


_Journals = dict[tuple[str, int, int], Callable[[int, int], bytes]]
"""What reads a journal, by its name, its size and its time."""


def _journals(reader: BlockReader, path: str) -> _Journals:
    """The journals below a folder, each in that of its machine."""
    volume = _open(reader)
    top = None if volume is None else find_path(volume, path)
    found: _Journals = {}
    if volume is None or top is None:
        return found
    for folder in volume.iter_folder(top.number, _ignore):
        for entry in volume.iter_folder(folder.number, _ignore) if folder.is_folder else ():
            if entry.is_file and entry.name.endswith(".journal") and entry.fault is None:
                found[entry.name, entry.size, read_facts(entry).changed_ns] = partial(volume.read_bytes, entry)
    return found


def _count_targets(journals: _Journals, *, without: _Journals) -> int:
    """Boot targets in journals that are not in another state of the disk too."""
    return sum(count_targets(read, mark[1]) for mark, read in journals.items() if mark not in without)


def _ignore(_: StillframeError) -> None:
    """What cannot be read notes nothing."""
