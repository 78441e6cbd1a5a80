"""Files of an image as lines for people and fields for programs."""

import stat
import time
from collections.abc import Sequence
from typing import Any, Final

from stillframe.cli.words import table
from stillframe.fs.files.source import FILE, FOLDER, LINK
from stillframe.jobs.browsing import NOT_READ, ListedFile
from stillframe.jobs.getting import ATTRIBUTE, KEPT, NOT_GOT
from stillframe.jobs.inside.replayed import STALE
from stillframe.jobs.inside.volumes import InnerVolume
from stillframe.repo.records import StoredDisk, StoredPartition
from stillframe.units import format_size

SHORT: Final = frozenset({STALE, NOT_READ, NOT_GOT, KEPT, ATTRIBUTE, "partition-not-searched"})
"""Notices after which a verb ends with exit code 3."""
_LETTERS: Final = {FILE: stat.S_IFREG, FOLDER: stat.S_IFDIR, LINK: stat.S_IFLNK, "pipe": stat.S_IFIFO,
                   "socket": stat.S_IFSOCK, "device": stat.S_IFCHR}  # fmt: skip
_SECOND: Final = 1_000_000_000


Row = tuple[StoredPartition, Sequence[InnerVolume]]
"""A partition, and the volumes that are listed below it."""


def partition_lines(parts: Sequence[Row], word: str) -> list[str]:
    """The partitions of a disk and the volumes inside of them, and how each is named."""
    rows, unread = list[tuple[str, str, str, str]](), list[str]()
    for part, volumes in parts:
        name = f"{word}:{part.number}"
        size = f"{format_size(part.size)}{', not in this image' if part.is_left_out else ''}"
        rows.append((name, part.filesystem or "-", part.label or part.name or "-", size))
        for one in volumes:
            stored = one.part.stored if one.part else None
            words = (stored.filesystem or "-", stored.label or "-") if stored else ("not read", "-")
            rows.append((f"{name}@{one.name}", *words, format_size(one.size)))
            unread += [] if stored else [f"{name}@{one.name}: {one.refusal}."]
    if not rows:
        return ["No partition."]
    return [*table(("PARTITION", "FILE SYSTEM", "LABEL", "SIZE"), rows, right=(3,)), *unread]


def partition_fields(disk: StoredDisk, part: StoredPartition, volumes: Sequence[InnerVolume] = ()) -> dict[str, Any]:
    """A partition as programs read it."""
    return {
        "disk": disk.number, "number": part.number, "filesystem": part.filesystem, "label": part.label,
        "uuid": part.uuid, "size": part.size, "bytes_used": part.bytes_used, "in_image": not part.is_left_out,
        "volumes": [_volume_fields(one) for one in volumes],
    }  # fmt: skip


def _volume_fields(volume: InnerVolume) -> dict[str, Any]:
    stored = volume.part.stored if volume.part else None
    return {
        "name": volume.name, "filesystem": stored.filesystem if stored else "", "label": stored.label if stored else "",
        "uuid": stored.uuid if stored else "", "size": volume.size, "refused": volume.refusal,
    }  # fmt: skip


def entry_line(entry: ListedFile) -> str:
    """A file as people read it."""
    letters = stat.filemode(_LETTERS.get(entry.kind, 0) | (entry.mode or 0))
    shown = letters if entry.mode is not None else letters[0]
    owner = f" {entry.uid}:{entry.gid}" if entry.mode is not None else ""
    ending = f" -> {entry.target}" if entry.target else ""
    ending += "".join(f" [:{name}]" for name in entry.streams)
    ending += f" (not readable: {entry.refusal})" if entry.refusal else ""
    when = _clock(entry.modified_ns, "%Y-%m-%d %H:%M:%S", time.localtime)
    return f"{shown}{owner} {format_size(entry.size):>9} {when} {entry.path}{ending}"


def entry_fields(entry: ListedFile, number: int, volume: str | None = None) -> dict[str, Any]:
    """A file as programs read it."""
    fields: dict[str, Any] = {
        "path": entry.path, "partition": number, "type": entry.kind, "size": entry.size,
        "modified": modified(entry.modified_ns), "mode": None if entry.mode is None else f"{entry.mode:04o}",
        "uid": entry.uid, "gid": entry.gid, "links": entry.links,
    }  # fmt: skip
    if volume is not None:
        fields["volume"] = volume
    if entry.target:
        fields["target"] = entry.target
    if entry.streams:
        fields["streams"] = list(entry.streams)
    if entry.refusal:
        fields["refused"] = entry.refusal
    return fields


def modified(time_ns: int) -> str:
    """A time as RFC 3339 in UTC, to the nanosecond; empty for one that no calendar has."""
    text = _clock(time_ns, "%Y-%m-%dT%H:%M:%S", time.gmtime)
    return f"{text}.{time_ns % _SECOND:09d}Z" if text else ""


def _clock(time_ns: int, form: str, convert: Any) -> str:
    try:
        return time.strftime(form, convert(time_ns // _SECOND))
    except (ValueError, OverflowError, OSError):
        return ""
