r"""This computer's firmware is told of the loaders on a disk that was just written.

Answers: "will this computer find what it is to start?" Only under UEFI, and only for a whole disk of this computer: any
other finds the loader where all firmware looks, ``\EFI\BOOT``. It comes last, when the disk is whole and given back:
what goes wrong here is said, with the line to type, and the restore has succeeded all the same.
"""

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from stillframe.block import WindowReader
from stillframe.block.file import open_file_reader
from stillframe.disk import Layout, read_layout
from stillframe.disk.layout import Partition
from stillframe.errors import StillframeError
from stillframe.events import EventSink, Notice
from stillframe.fs.files.lookup import open_lookup
from stillframe.fs.registry import identify
from stillframe.host.apart import call_apart
from stillframe.host.disks import describe
from stillframe.host.efi_entries import EfiPlace, create_entry, creation_line, processor, read_places
from stillframe.host.target import TargetIdentity
from stillframe.jobs.starts.linux_parts import ESP_TYPES
from stillframe.systems.efi_loaders import EfiLoader, Processor, find_loaders

FIRMWARE_NOT_TOLD: Final = "firmware-not-told"
"""The code of the notice."""
_STEP: Final = "tell this computer's firmware of the loaders on it, if it does not know them: "
_FIRST: Final = "it tries them first from then on"
_BESIDE: Final = "they are in its boot menu then, and what it starts by itself stays as it is"
_TIMEOUT_S: Final = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundLoader:
    """A loader on the disk, as an entry would name it."""

    place: EfiPlace
    label: str


def told_steps(target: TargetIdentity | None, types: Iterable[str], *, is_copy: bool) -> Iterator[str]:
    """That the firmware will be told, for a plan; nothing where it will not. ``types`` are those of the partitions."""
    if any(kind in ESP_TYPES for kind in types) and target is not None and _is_disk_here(target):
        yield _STEP + (_BESIDE if is_copy else _FIRST)


def tell_firmware(target: TargetIdentity | None, events: EventSink, *, is_copy: bool) -> tuple[str, ...]:
    """Add an entry for each loader that the firmware does not know; what was done, in words. Call it with one thread.

    Args:
        target: A disk that was written as a whole, and is not held any more; nothing is done for anything else.
        events: Is told what did not work, as a notice.
        is_copy: It has an identity of its own, beside what it was made from: what starts by itself stays as it is.
    """
    programs = processor()
    if target is None or programs is None:
        return ()
    found, known = list[FoundLoader](), set[object]()
    try:
        if _is_disk_here(target):
            sector_size, found = _look(target.path, programs)
        if found:
            known = {place.key for place in read_places(sector_size=sector_size)}
    except StillframeError as error:
        events.emit(_not_told(target.path, found[::-1], error, first=not is_copy))
        return ()
    # Each new one is tried before all others: the last that is told of is the first.
    unknown = [one for one in reversed(found) if one.place.key not in known]
    told = _tell(target.path, unknown, events, first=not is_copy)
    words = ", then ".join(f"{one.label!r} ({one.place.loader} of partition {one.place.partition})" for one in told)
    if not told:
        return ()
    if is_copy:
        return (f"this computer's firmware has in its boot menu, and starts only when chosen there: {words}",)
    return (f"this computer's firmware starts before all others, from now on: {words}",)


def _is_disk_here(target: TargetIdentity) -> bool:
    """Whether this computer started by UEFI, and a target is a drive of it: its firmware knows no others."""
    return target.kind == "disk" and processor() is not None and describe(target.path).is_hardware


def _tell(disk: str, loaders: Sequence[FoundLoader], events: EventSink, *, first: bool) -> tuple[FoundLoader, ...]:
    """Add entries; those that are there then, in the order in which they are tried."""
    told = tuple[FoundLoader, ...]()
    for number, one in enumerate(loaders):
        try:
            create_entry(disk, one.place, one.label, first=first)
        except StillframeError as error:
            events.emit(_not_told(disk, loaders[number:], error, first=first))
            break
        told = (one, *told)
    return told


def _not_told(disk: str, loaders: Sequence[FoundLoader], error: StillframeError, *, first: bool) -> Notice:
    """That, why, and the lines to type: the loader that is to be tried first comes last."""
    what = ", ".join(repr(one.label) for one in loaders) or "what is to start"
    commands = (creation_line(disk, one.place, one.label, first=first) for one in loaders)
    lines = "; ".join(f"sudo {shlex.join(command)}" for command in commands)
    return Notice(
        code=FIRMWARE_NOT_TOLD,
        message=f"this computer's firmware was not told of {what} on {disk}: {error.message}. Another way to start it "
        "is its own boot menu",
        hint=f"{error.hint}{'' if error.hint.endswith('.') else '.'} Then: {lines}" if lines else error.hint,
    )


def _look(path: str, programs: Processor) -> tuple[int, list[FoundLoader]]:
    """Bytes of a sector, and the loaders on the disk."""
    with open_file_reader(path) as reader:
        layout = read_layout(reader)
        found = []
        for part in layout.partitions:
            if part.type in ESP_TYPES:
                loaders = call_apart(
                    partial(_loaders, WindowReader(reader, part.extent), programs),
                    what=f"looking for loaders on partition {part.number}", timeout_s=_TIMEOUT_S,
                )  # fmt: skip
                found += [FoundLoader(place=_place(layout, part, one), label=one.label) for one in loaders]
    return layout.sector_size, found


def _loaders(window: WindowReader, programs: Processor) -> tuple[EfiLoader, ...]:
    files = open_lookup(window, identify(window).volume)
    return find_loaders(files, programs) if files is not None else ()


def _place(layout: Layout, part: Partition, loader: EfiLoader) -> EfiPlace:
    signature = part.guid if layout.scheme == "gpt" else layout.disk_id
    return EfiPlace(partition=part.number, signature=signature.upper(), extent=part.extent, loader=loader.path)
