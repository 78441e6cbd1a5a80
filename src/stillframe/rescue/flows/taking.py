"""Take files out of an image, onto a USB stick or another disk.

Answers: "what comes next until the files are there?" Only what is chosen is written, into a new folder.
"""

import os
import time
from collections.abc import Sequence
from typing import Final

from stillframe.rescue.flows.finding import find_repository, search_page
from stillframe.rescue.flows.restoring import choose_disk_of, choose_image
from stillframe.rescue.flows.words import told, verdict
from stillframe.rescue.pages.pages import Choose, Option, Outcome, Step, Work
from stillframe.rescue.places.found import FoundVolume
from stillframe.rescue.verbs.calls import Doing
from stillframe.rescue.verbs.records import EntrySeen, FilesSaid, GetSaid, StoredPartitionSeen
from stillframe.rescue.world import Unlocked, World
from stillframe.units import format_size

_SHOWN_MAX: Final = 2000
_FOLDER_KINDS: Final = ("folder", "directory")


def take_files(world: World) -> Step:
    """From the backups to the files; brings what is to happen then."""
    unlocked: Unlocked = yield from find_repository(world)
    while True:
        image = yield from choose_image(unlocked.images, "Files of which day?")
        if image is None:
            return "menu"
        disk, several = yield from choose_disk_of(world, unlocked, image)
        if disk is None:
            continue
        which = ["--disk", str(disk.number)] if several else []
        place = yield from _choose_partition(unlocked, image.id, which)
        if place is None:
            continue
        path = yield from _browse(unlocked, place, which)
        if path is None:
            continue
        volume = yield from _choose_volume(world, unlocked)
        if volume is None:
            continue
        then = yield from _take(world, unlocked, path, volume, which)
        if then:
            return then


def _choose_partition(unlocked: Unlocked, image: str, which: Sequence[str]) -> Step:
    """``IMAGE:N`` or ``IMAGE:N@VOLUME``; ``None`` when that cannot be."""
    outcome: Outcome = yield Work(
        title="Reading the image", do=lambda doing: unlocked.opened.call(["ls", image, *which], FilesSaid, doing).result
    )
    if outcome.error is not None:
        yield told(outcome.error)
        return None
    parts: tuple[StoredPartitionSeen, ...] = outcome.value.partitions
    options = [option for part in parts for option in _partition_options(image, part)]
    return (
        yield Choose(title="Which partition?", lines=("The largest is often the right one.",), options=tuple(options))
    )


def _partition_options(image: str, part: StoredPartitionSeen) -> list[Option]:
    name = f"{image}:{part.number}"
    if part.volumes:
        return [
            Option(
                key=f"{name}@{one.name}",
                words=f"{one.name}: {one.label or one.filesystem or 'volume'}, {format_size(one.size)}",
                refusal=one.refused,
            )
            for one in part.volumes
        ]
    refusal = "it is not in this image" if not part.in_image else "" if part.filesystem else "no files are known in it"
    words = f"Partition {part.number}: {part.label or part.filesystem or 'unknown'}, {format_size(part.size)}"
    return [Option(key=name, words=words, refusal=refusal)]


def _browse(unlocked: Unlocked, place: str, which: Sequence[str]) -> Step:
    """A file or folder to take; ``None`` when it cannot be read."""
    folder = ""
    while True:
        where = f"{place}{folder or '/'}"
        outcome: Outcome = yield _listing(unlocked, where, which, folder)
        if outcome.error is not None:
            yield told(outcome.error)
            return None
        entries: tuple[EntrySeen, ...] = outcome.value.entries
        chosen = yield _folder_page(folder, entries)
        if chosen == ".":
            return where
        if chosen == "..":
            folder = os.path.dirname(folder).rstrip("/")
            continue
        entry = next(one for one in entries if one.path == chosen)
        if entry.type not in _FOLDER_KINDS:
            return f"{place}{entry.path}"
        folder = entry.path.rstrip("/")


def _listing(unlocked: Unlocked, where: str, which: Sequence[str], folder: str) -> Work:
    return Work(
        title="Reading the folder",
        lines=(folder or "/",),
        do=lambda doing: unlocked.opened.call(["ls", where, *which], FilesSaid, doing).result,
    )


def _folder_page(folder: str, entries: Sequence[EntrySeen]) -> Choose:
    ordered = sorted(entries, key=lambda one: (one.type not in _FOLDER_KINDS, one.path.lower()))
    options = [Option(key=".", words=f"* Take this folder: {folder or 'everything here'}")]
    options += [Option(key="..", words="[..]  the folder above")] if folder else []
    options += [Option(key=one.path, words=_entry_words(one)) for one in ordered[:_SHOWN_MAX]]
    lines = [f"In {folder or '/'}. Enter opens a folder, or takes a file."]
    lines += [f"Only the first {_SHOWN_MAX} of {len(ordered)} are shown."] if len(ordered) > _SHOWN_MAX else []
    return Choose(title="Which files?", lines=tuple(lines), options=tuple(options))


def _entry_words(entry: EntrySeen) -> str:
    name = os.path.basename(entry.path.rstrip("/"))
    if entry.type in _FOLDER_KINDS:
        return f"[{name}]"
    return f"{name}  ({format_size(entry.size)}, {entry.modified[:10]})"


def _choose_volume(world: World, unlocked: Unlocked) -> Step:
    """Where the files go."""
    kept = unlocked.opened.repository.volume

    def look(doing: Doing) -> tuple[FoundVolume, ...]:
        found = search_page(world).do(doing)
        if kept is not None:
            world.reopen(unlocked.opened.repository, read_write=False)
        volumes: tuple[FoundVolume, ...] = found.volumes
        return volumes

    outcome: Outcome = yield Work(title="Looking for a place", lines=("Nothing is changed.",), do=look)
    if outcome.error is not None:
        yield told(outcome.error)
        return None
    volumes: tuple[FoundVolume, ...] = outcome.value
    ordered = sorted(volumes, key=lambda one: (not one.external, one.device))
    chosen = yield Choose(
        title="Onto which disk or stick?",
        lines=("The files go into a new folder. Nothing that is there is changed.",),
        options=tuple(
            Option(
                key=one.device,
                words=f"{one.label or 'volume'} ({one.device}, {one.filesystem}, {format_size(one.size)})",
                detail=f"{'external, ' if one.external else ''}{format_size(one.free or 0)} free",
                refusal=_no_room(one, kept),
            )
            for one in ordered
        ),
    )
    return next(one for one in volumes if one.device == chosen)


def _no_room(volume: FoundVolume, kept: FoundVolume | None) -> str:
    if kept is not None and volume.device == kept.device:
        return "the backups are on it"
    return volume.refusal or ("" if volume.writable else "nothing can be written there")


def _take(world: World, unlocked: Unlocked, path: str, volume: FoundVolume, which: Sequence[str]) -> Step:
    def take(doing: Doing) -> tuple[str, GetSaid, bool, list[str]]:
        top = world.places.open_volume(volume, "write")
        folder = os.path.join(top, time.strftime("files from backup %Y-%m-%d %H.%M.%S"))
        ended = unlocked.opened.call(["get", path, folder, *which], GetSaid, doing)
        notes = [f"Note: {notice.message}" for notice in (*ended.findings, *ended.notices)]
        return os.path.basename(folder), ended.result, ended.skipped, notes

    outcome: Outcome = yield Work(
        title="Taking the files out",
        lines=(path.partition(":")[2], f"Onto {volume.label or volume.device}"),
        do=take,
        stop_words="What was copied stays.",
    )
    if outcome.error is not None:
        yield told(outcome.error)
        return ""
    folder, said, skipped, notes = outcome.value
    lines = (
        f"{said.files} files, {format_size(said.bytes)}, are in the folder",
        f"'{folder}' of {volume.label or volume.device}.",
        *notes,
    )
    return (yield from verdict(world, "The files are there", lines, skipped=skipped))
