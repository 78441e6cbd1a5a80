"""What an export is going to do.

Answers: "may this file be made there, in this format, and is there room?" Only looks. What is not in the image as it
was on the disk is an error here, unless the person asks for what can be had.
"""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from stillframe.errors import DamagedError, TargetError, UsageError
from stillframe.events import Notice
from stillframe.host.places import free_space, is_inside
from stillframe.host.run import find_program
from stillframe.jobs.exporting.names import PARTS_MAX, files_in_the_way, format_of, is_stream
from stillframe.jobs.listing import find_disk, find_partition
from stillframe.jobs.restoring.targets import refuse_repository
from stillframe.repo.records import Manifest, StoredDisk, StoredPartition, require_known_features
from stillframe.units import GIB, KIB, MIB, format_size

VHD_SIZE_MAX: Final = 2040 * GIB
"""Source: Microsoft, "Virtual Hard Disk Image Format Specification": a dynamic disk holds at most 2040 GB."""
_SECTOR_BOUND: Final = ("vhdx", "vhd", "vmdk")
"""Formats whose readers take the disk for one of 512-byte sectors, as qemu-img writes them."""
_RAW_HINT: Final = "Use '--format raw' or '--format qcow2'."


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What a person asked for.

    Attributes:
        format: One of ``FORMATS``; empty for what the name's ending means.
        split: Bytes of a part; ``None`` for one file.
        disk: The disk's number; ``None`` for the only one.
        partition: Only this partition.
        salvage: What cannot be had becomes zeros.
        overwrite: Files that are there may be replaced.
    """

    format: str = ""
    split: int | None = None
    disk: int | None = None
    partition: int | None = None
    salvage: bool = False
    overwrite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportPlan:
    """What an export is going to do.

    Attributes:
        path: The file, absolute; ``-`` is standard output.
        size: Bytes of the disk or partition, which are the bytes of a raw file.
        bytes_to_write: Bytes of it that are in use.
        parts: How many parts a split raw file has; 0 when it is not split, or only then known.
        replaced: Files that will be replaced or removed.
    """

    manifest: Manifest
    disk: StoredDisk
    partition: StoredPartition | None
    options: ExportOptions
    path: str
    format: str
    is_stream: bool
    size: int
    bytes_to_write: int
    parts: int
    replaced: tuple[str, ...]
    notices: tuple[Notice, ...]


def plan_export(manifest: Manifest, path: str, *, repository_folder: str, options: ExportOptions) -> ExportPlan:
    """Look at the image and the place for the file. Writes nothing.

    Raises:
        UsageError: The image has no such disk or partition, or the options do not go together.
        TargetError: The file exists, lies in the repository, or there is no room for it.
        DamagedError: The source could not be read when the image was made, and ``salvage`` is off.
        MissingProgram: qemu-img is needed.
    """
    require_known_features(manifest)
    disk = find_disk(manifest, options.disk)
    part = None if options.partition is None else find_partition(disk, options.partition)
    _refuse_disk(path)
    streams, name = is_stream(path), format_of(path, options.format)
    size = part.size if part else disk.size
    _check_format(name, disk, size=size, streams=streams, split=options.split)
    parts = -(-size // options.split) if options.split and name == "raw" else 0
    if parts > PARTS_MAX and options.split:
        raise UsageError(
            f"parts of {format_size(options.split)} make {parts} of them, and there may be {PARTS_MAX}",
            hint=f"At least '--split {-(-size // PARTS_MAX) // MIB + 1}M'.",
        )
    replaced = () if streams else _check_place(path, repository_folder, options)
    needed = part.bytes_used if part else sum(found.bytes_used for found in disk.partitions)
    if not streams:
        _check_room(path, needed, twice=name != "raw" and options.split is not None)
    plan = ExportPlan(
        manifest=manifest, disk=disk, partition=part, options=options, is_stream=streams, format=name, size=size,
        path=path if streams else os.path.abspath(path), bytes_to_write=needed, parts=parts, replaced=tuple(replaced),
        notices=tuple(_notices(disk, part)),
    )  # fmt: skip
    _require_readable(plan)
    return plan


def unreadable_bytes(plan: ExportPlan) -> int:
    """How many bytes of it the source could not give when the image was made."""
    chosen = plan.disk.partitions if plan.partition is None else (plan.partition,)
    ranges = [pair for part in chosen for pair in part.unreadable]
    ranges += plan.disk.unreadable if plan.partition is None else ()
    return sum(end - start for start, end in ranges)


def _check_format(name: str, disk: StoredDisk, *, size: int, streams: bool, split: int | None) -> None:
    if split is not None and (split < MIB or split % (64 * KIB)):
        raise UsageError(
            f"parts of {split} bytes are too small or not whole 64 KiB", hint="Write '--split 4000M', say."
        )
    if streams and (split or name != "raw"):
        raise UsageError("a pipe takes one raw stream", hint="Leave out '--split' and '--format', or name a file.")
    if name != "raw":
        find_program("qemu-img")
    if name == "vhd" and size > VHD_SIZE_MAX:
        raise UsageError(
            f"{format_size(size)} are more than a VHD can hold, which is 2040 GiB", hint="Use '--format vhdx'."
        )
    if name in _SECTOR_BOUND and disk.sector_size != 512:
        raise UsageError(
            f"the disk has sectors of {disk.sector_size} bytes, and a {name.upper()} made here has sectors of 512: "
            "its partition table would not be found",
            hint=f"{_RAW_HINT} Then tell the virtual machine that the disk's sectors have {disk.sector_size} bytes.",
        )


def _refuse_disk(path: str) -> None:
    """Refuse a disk: it would be taken for a pipe, and written over without a question.

    Raises:
        TargetError: It is one.
    """
    if os.path.exists(path) and stat.S_ISBLK(os.stat(path).st_mode):
        raise TargetError(
            f"{path} is a disk, and an export writes files and pipes",
            hint="'stillframe restore IMAGE TARGET' writes disks: it shows what will be lost, and asks.",
        )


def _check_place(path: str, repository_folder: str, options: ExportOptions) -> list[str]:
    """The files that will be replaced."""
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path):
        raise UsageError(f"{path} is a folder", hint="Name the file to be made in it.")
    if not os.path.isdir(folder):
        raise TargetError(f"there is no folder {folder}", hint="Make it, or name another one.")
    if repository_folder and is_inside(repository_folder, path):
        raise TargetError(
            f"{path} lies in the repository at {repository_folder}", hint="Name a file in another folder."
        )
    if options.split and re.search(r"\.\d{3}\Z", path):
        raise UsageError(
            f"{path} ends like a part", hint="Leave out the number: the parts become FILE.001, FILE.002 and so on."
        )
    found = files_in_the_way(path, is_split=options.split is not None)
    for one in found:
        refuse_repository(repository_folder, one)
    if found and not options.overwrite:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise TargetError(f"{found[0]} exists already{more}", hint="Name another file, or add '--overwrite'.")
    return found


def _check_room(path: str, needed: int, *, twice: bool) -> None:
    free, needed = free_space(os.path.dirname(os.path.abspath(path))), needed * (2 if twice else 1)
    if free < needed:
        why = ", twice because it is made in one file and then split" if twice else ""
        raise TargetError(
            f"there is no room for {path}: {format_size(needed)} are in use{why}, {format_size(free)} are free",
            hint="Name a folder on another disk, or export one partition with '--partition N'.",
        )


def _require_readable(plan: ExportPlan) -> None:
    lost = unreadable_bytes(plan)
    if lost and not plan.options.salvage:
        raise DamagedError(
            f"{format_size(lost)} could not be read from the source when image {plan.manifest.image[:8]} was made",
            hint="'--salvage' writes zeros there and lists them; an older image may have them.",
        )


def _notices(disk: StoredDisk, part: StoredPartition | None) -> Iterator[Notice]:
    chosen = disk.partitions if part is None else (part,)
    torn = [found.number for found in chosen if found.consistency == "torn"]
    if torn:
        yield Notice(
            code="image-torn", message="the source changed while this image was made: it may be unusable",
            hint="Choose another image if there is one.",
        )  # fmt: skip
    gone = [str(found.number) for found in chosen if found.is_left_out]
    if gone:
        yield Notice(
            code="partition-not-kept",
            message=f"partition {', '.join(gone)} is not in the image and is zeros in the file: it was left out as a "
            "whole",
        )
    left_out = [f"{file.path} ({format_size(file.size)})" for found in chosen for file in found.left_out]
    if left_out:
        more = f" and {len(left_out) - 6} more" if len(left_out) > 6 else ""
        yield Notice(
            code="left-out",
            message=f"zeros in the file, as the image does not hold them: {', '.join(left_out[:6])}{more}",
        )
