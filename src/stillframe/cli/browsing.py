"""The verbs for files inside an image: ``ls``, ``find``, ``get``."""

import shlex
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import groupby

from stillframe.cli.browsing_words import (
    SHORT,
    entry_fields,
    entry_line,
    partition_fields,
    partition_lines,
)
from stillframe.cli.call import Call, running
from stillframe.cli.results import notice_fields
from stillframe.cli.words import notice_lines
from stillframe.errors import DamagedError, DeviceError, DiskFormatError, MachineRefusal, UsageError
from stillframe.events import JobFinished, JobStarted, Notice
from stillframe.fs.files import parse_pattern
from stillframe.fs.files.source import FILE, FOLDER
from stillframe.host.destination import open_destination
from stillframe.host.machine import machine
from stillframe.jobs.browsing import ListedFile, Look, iter_files
from stillframe.jobs.context import JobContext
from stillframe.jobs.exposing import ExposedDisk, ExposedImage, ExposedPartition, expose
from stillframe.jobs.getting import Tally, get_files
from stillframe.jobs.image_paths import ImagePath, parse_file_path, parse_image_path
from stillframe.jobs.inside.volumes import look_inside, volumes_of
from stillframe.jobs.listing import find_image
from stillframe.repo.repository import Repository
from stillframe.units import format_count, format_size

_WITHOUT_FILES = frozenset({"", "swap"})
_SOMETHING_SKIPPED = 3


def ls(call: Call) -> int:
    """List partitions, or files."""
    place = parse_image_path(call.options.place)
    image = _open(call.open_repository(), place)
    disk = image.disk(call.options.disk)
    if place.partition is None:
        return _show_partitions(call, image, disk)
    look = Look(names=place.names, recursive=call.options.recursive)
    with running(call.screen) as context:
        return _show(call, "ls", [(_part(image, disk, place), look)], context)


def _show_partitions(call: Call, image: ExposedImage, disk: ExposedDisk) -> int:
    insides = look_inside(image)
    rows = [(part.stored, insides.below(disk.stored.number, part.stored.number)) for part in disk.partitions]
    fields = {
        "partitions": [partition_fields(disk.stored, part, inner) for part, inner in rows],
        "entries": [],
        "notices": notice_fields(insides.notices),
    }
    word = call.options.place.removesuffix(":")
    call.screen.finish("ls", fields, [*partition_lines(rows, word), *notice_lines(insides.notices)])
    return 0


def find(call: Call) -> int:
    """Find files by name."""
    options, place = call.options, parse_image_path(call.options.place)
    if place.names:
        raise UsageError(f"{options.place}: a path does not belong here", hint="Write it into the pattern: '/etc/*'.")
    look = Look(
        pattern=parse_pattern(options.pattern), kind={"f": FILE, "d": FOLDER}.get(options.type, ""),
        larger=options.larger, newer_ns=_parse_date(options.newer) if options.newer else None,
    )  # fmt: skip
    image = _open(call.open_repository(), place)
    disk = image.disk(options.disk)
    parts, notices = volumes_of(image, disk, place.partition)
    if place.volume is not None:
        parts, notices = [_part(image, disk, place)], []
    with running(call.screen) as context:
        looks = [(part, look) for part in parts]
        return _show(call, "find", looks, context, word=place.image, notices=notices)


def get(call: Call) -> int:
    """Bring files out of an image."""
    options = call.options
    places = [parse_file_path(text) for text in options.places]
    repository = call.open_repository()
    groups = [
        (_part(image, image.disk(options.disk), chosen[0]), [place.names for place in chosen])
        for _, found in groupby(sorted(places, key=_key), key=_key)
        for chosen in [list(found)]
        for image in [_open(repository, chosen[0])]
    ]
    with running(call.screen) as context:
        if options.dry_run:
            return _plan_get(call, groups, context)
        return _get(call, groups, context)


def _key(place: ImagePath) -> tuple[str, int, bool, str]:
    return place.image, place.partition or 0, place.volume is not None, place.volume or ""


def _part(image: ExposedImage, disk: ExposedDisk, place: ImagePath) -> ExposedPartition:
    """The partition that a path names, or the volume inside of it."""
    part = disk.partition(place.partition or 0)
    if place.volume is None:
        return part
    return look_inside(image).find(disk.stored.number, part.stored.number, place.volume)


def _get(call: Call, groups: Iterable[tuple[ExposedPartition, list[tuple[bytes, ...]]]], context: JobContext) -> int:
    began, total, folder = time.monotonic(), Tally(), call.options.destination
    context.events.emit(JobStarted(verb="get", what=f"{' '.join(call.options.places)} to {folder}"))
    with open_destination(folder, overwrite=call.options.overwrite) as destination:
        for part, names in groups:
            tally = get_files(part, names, destination, events=context.events, cancel=context.cancel)
            total.files, total.folders, total.links = (
                total.files + tally.files, total.folders + tally.folders, total.links + tally.links,
            )  # fmt: skip
            total.bytes_written += tally.bytes_written
            total.notices += tally.notices
    seconds = time.monotonic() - began
    context.events.emit(JobFinished(verb="get", seconds=seconds))
    skipped = sum(notice.code in SHORT for notice in total.notices)
    fields = {
        "files": total.files, "folders": total.folders, "links": total.links, "bytes_written": total.bytes_written,
        "skipped": skipped, "seconds": round(seconds, 3), "notices": notice_fields(total.notices),
    }  # fmt: skip
    words = [f"{_counted(total.files, total.folders, total.links)}, {format_size(total.bytes_written)}, in {folder}."]
    if skipped:
        words.append(f"Not everything is as it should be: {format_count(skipped, 'note')} above.")
    call.screen.finish("get", fields, words)
    return _SOMETHING_SKIPPED if skipped else 0


def _plan_get(
    call: Call, groups: Iterable[tuple[ExposedPartition, list[tuple[bytes, ...]]]], context: JobContext
) -> int:
    """What ``get`` would bring, with nothing written."""
    entries: list[ListedFile] = []
    for part, places in groups:
        for names in places:
            look = Look(names=names, recursive=True)
            for bundle in iter_files(part, look, cancel=context.cancel):
                entries += [one for one in bundle if isinstance(one, ListedFile)]
                for notice in (one for one in bundle if isinstance(one, Notice)):
                    context.events.emit(notice)
    files = [one for one in entries if one.kind == FILE]
    size = sum(one.size for one in files)
    folders = sum(one.kind == FOLDER for one in entries)
    links = sum(one.kind == "link" for one in entries)
    fields = {"plan": {"files": len(files), "folders": folders, "links": links, "bytes": size}}
    lines = [f"Would write {_counted(len(files), folders, links)}, {format_size(size)}, to {call.options.destination}."]
    call.screen.finish("get", fields, lines)
    return 0


def _counted(files: int, folders: int, links: int) -> str:
    return f"{format_count(files, 'file')}, {format_count(folders, 'folder')}, {format_count(links, 'link')}"


def _show(
    call: Call, verb: str, looks: Sequence[tuple[ExposedPartition, Look]], context: JobContext, *, word: str = "",
    notices: Sequence[Notice] = (),
) -> int:  # fmt: skip
    """List what is found, as it comes; a program gets all of it in the result."""
    screen, entries, notices = call.screen, list[dict[str, object]](), list(notices)
    for notice in notices:
        screen.emit(notice)
    for part, look in looks:
        for bundle in _search(part, look, context, is_alone=verb == "ls" or len(looks) == 1):
            told = [one for one in bundle if isinstance(one, Notice)]
            files = [one for one in bundle if isinstance(one, ListedFile)]
            notices += told
            for notice in told:
                screen.emit(notice)
            if screen.is_json:
                entries += [entry_fields(one, part.stored.number, part.volume) for one in files]
            elif word:
                screen.say(*(shlex.quote(f"{word}:{part.word}{one.path}") for one in files))
            else:
                screen.say(*(entry_line(one) for one in files))
    screen.finish(verb, {"entries": entries, "notices": notice_fields(notices)}, ())
    return _SOMETHING_SKIPPED if any(notice.code in SHORT for notice in notices) else 0


def _search(
    part: ExposedPartition, look: Look, context: JobContext, *, is_alone: bool
) -> Iterable[list[ListedFile | Notice]]:
    """As ``iter_files``; among several partitions one that cannot be read is only named."""
    try:
        yield from iter_files(part, look, cancel=context.cancel)
    except (MachineRefusal, DiskFormatError, DeviceError, DamagedError) as error:
        if is_alone:
            raise
        has_none = part.stored.filesystem in _WITHOUT_FILES
        code = "partition-without-files" if has_none else "partition-not-searched"
        yield [Notice(code=code, message=f"Not searched: {error.message}", hint="" if has_none else error.hint)]


def _open(repository: Repository, place: ImagePath) -> ExposedImage:
    return expose(repository, find_image(repository, place.image, machine_id=machine().id))


def _parse_date(text: str) -> int:
    """Nanoseconds since 1970 of a date in this machine's time zone."""
    try:
        return int(datetime.fromisoformat(text).astimezone().timestamp() * 1_000_000_000)
    except (ValueError, OverflowError):
        raise UsageError(f"{text!r} is no date", hint="Write it as 2026-05-31 or 2026-05-31T18:00.") from None
