"""Back up this computer: what is saved, where to, and the verdict.

Answers: "what comes next until there is an image?" A proposal comes first, with its reason; everything in it can be
changed. The disks that are saved are only read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from stillframe.rescue.choosing import Room, contents_words, disk_words, judge_rooms, propose_sources
from stillframe.rescue.flows.beginning import Beginning, begin_repository
from stillframe.rescue.flows.finding import find_repository, search_page, unlock
from stillframe.rescue.flows.opening import chosen_closed, closed_options, open_closed
from stillframe.rescue.flows.words import told, verdict
from stillframe.rescue.pages.pages import Choose, Option, Outcome, Step, Work
from stillframe.rescue.places.found import Found
from stillframe.rescue.verbs.calls import Doing, Ended
from stillframe.rescue.verbs.records import BackupSaid, DiskSeen, PlanSaid
from stillframe.rescue.world import Unlocked, World
from stillframe.units import format_duration, format_rate, format_size

_STOP: Final = "There is no image then. What was stored is used when you try again."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What is here."""

    found: Found
    disks: tuple[DiskSeen, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What is saved, and where to; ``room`` is ``None`` for a repository that was found in another way."""

    sources: tuple[DiskSeen, ...]
    system_only: bool = False
    room: Room | None = None


def back_up(world: World) -> Step:
    """From the proposal to the verdict; brings what is to happen then."""

    def look(doing: Doing) -> _Seen:
        return _Seen(found=search_page(world).do(doing), disks=world.disks(doing))

    outcome: Outcome = yield Work(
        title="Looking at this computer", lines=("Every disk is looked into. Nothing is changed.",), do=look
    )
    if outcome.error is not None:
        yield told(outcome.error)
        return "menu"
    seen: _Seen = outcome.value
    sources = propose_sources(seen.disks, seen.found.repositories, medium=world.medium)
    wish = _with_room(world, seen, _Wish(sources=sources))
    while True:
        choice = yield _proposal(wish)
        if choice == "sources":
            wish = _with_room(world, seen, replace(wish, sources=(yield from _choose_sources(world, seen))))
        elif choice == "room":
            room = yield from _choose_room(world, seen, wish)
            if room is None:  # something was opened: there are other places now
                return (yield from back_up(world))
            wish = replace(wish, room=room)
        elif choice == "again":
            return (yield from back_up(world))
        else:
            wish = replace(wish, system_only=choice == "system")
            then = yield from _go(world, wish, elsewhere=choice == "elsewhere")
            if then:
                return then


def _with_room(world: World, seen: _Seen, wish: _Wish) -> _Wish:
    rooms = judge_rooms(seen.found.volumes, seen.found.repositories, wish.sources, medium=world.medium)
    best = rooms[0] if rooms and not rooms[0].refusal else None
    return replace(wish, room=best)


def _proposal(wish: _Wish) -> Choose:
    lines = [f"Save:  {disk_words(disk)}\n       {contents_words(disk)}" for disk in wish.sources]
    lines = lines or ["Save:  no disk with a system was found. Choose one below."]
    lines += [f"To:    {_room_words(wish.room)}" if wish.room else "To:    no disk with room was found. Plug one in."]
    lines += [f"       because: {wish.room.reason}"] if wish.room else []
    ready = bool(wish.sources and wish.room)
    options = (
        [Option(key="go", words="Save all of it", detail="the plan with size and time comes next")] if ready else []
    )
    left = _not_of_system(wish.sources)
    if ready and left:
        options.append(Option(key="system", words="Save only what the system needs", detail=f"without {left}"))
    options += [
        Option(key="sources", words="Choose other disks to save"),
        Option(key="room", words="Choose another place for the backup"),
        Option(
            key="elsewhere",
            words="Put it on a share in the network ...",
            refusal="" if wish.sources else "choose a disk first",
        ),
        Option(key="again", words="Look again", detail="after plugging in a disk"),
    ]
    return Choose(
        title="Back up this computer", lines=(*lines, "The disks that are saved are only read."), options=tuple(options)
    )


def _not_of_system(sources: Sequence[DiskSeen]) -> str:
    """Partitions that a system does not need, in words; empty when it needs all, or there is no system."""
    if not any(disk.systems for disk in sources):
        return ""
    parts = [part for disk in sources for part in disk.partitions if not part.in_system_backup]
    return ", ".join(
        f"partition {part.number} {part.label} ({format_size(part.size)})".replace("  ", " ") for part in parts
    )


def _room_words(room: Room) -> str:
    volume = room.volume
    return f"{volume.label or 'volume'} ({volume.device}, {volume.filesystem}, {format_size(volume.size)})"


def _choose_sources(world: World, seen: _Seen) -> Step:
    disks = [disk for disk in seen.disks if disk.path != world.medium]
    proposed = propose_sources(seen.disks, seen.found.repositories, medium=world.medium)
    options = [Option(key="", words="All disks with a system on them", detail=", ".join(one.path for one in proposed))]
    options = options if len(proposed) > 1 else []
    options += [Option(key=disk.path, words=disk_words(disk), detail=contents_words(disk)) for disk in disks]
    chosen = yield Choose(title="What is saved?", lines=("A disk that is saved is only read.",), options=tuple(options))
    return proposed if not chosen else tuple(disk for disk in disks if disk.path == chosen)


def _choose_room(world: World, seen: _Seen, wish: _Wish) -> Step:
    """A place; ``None`` when something that was closed was chosen, and perhaps opened."""
    rooms = judge_rooms(seen.found.volumes, seen.found.repositories, wish.sources, medium=world.medium)
    chosen = yield Choose(
        title="Where to?",
        lines=("The best place is first: away from the computer, with room. Files that are there stay.",),
        options=tuple(
            Option(key=room.volume.device, words=_room_words(room), detail=room.reason, refusal=room.refusal)
            for room in rooms
        )
        + tuple(closed_options(seen.found.closed)),
    )
    locked = chosen_closed(seen.found.closed, chosen)
    if locked is not None:
        yield from open_closed(world, locked)
        return None
    return next(room for room in rooms if room.volume.device == chosen)


def _go(world: World, wish: _Wish, *, elsewhere: bool) -> Step:
    """Open or make the repository, show the plan, save; brings what is to happen then, nothing to choose again."""
    room = wish.room
    unlocked: Unlocked | None
    if elsewhere or room is None:
        unlocked = yield from find_repository(world, read_write=True)
    elif room.repository is not None:
        unlocked = yield from unlock(world, room.repository, read_write=True)
    else:
        unlocked = yield from begin_repository(world, _on_volume(world, room))
    if unlocked is None:
        return ""
    opened = unlocked.opened
    words = ["backup", *(disk.path for disk in wish.sources), *(["--system"] if wish.system_only else [])]
    outcome: Outcome = yield Work(
        title="Making the plan",
        lines=("The disks are looked at. Nothing is written.",),
        do=lambda doing: opened.call([*words, "--dry-run"], PlanSaid, doing).result,
    )
    if outcome.error is not None:
        yield told(outcome.error)
        return ""
    yield _plan_page(outcome.value)
    outcome = yield Work(
        title="Saving this computer",
        lines=(f"To {opened.repository.where}",),
        stop_words=_STOP,
        do=lambda doing: opened.call(words, BackupSaid, doing),
    )
    if outcome.error is not None:
        yield told(outcome.error, title="There is no new image")
        return ""
    ended: Ended[BackupSaid] = outcome.value
    return (yield from verdict(world, "Saved", _saved_lines(ended), skipped=ended.skipped or _is_bad(ended.result)))


def _plan_page(plan: PlanSaid) -> Choose:
    free = plan.free_space
    there = "room not known" if free is None else f"{format_size(free)} free"
    lines = [
        f"To read:   {format_size(plan.bytes_to_read)}",
        f"To store:  about {format_size(plan.bytes_expected)}, {there}",
        f"Time:      about {format_duration(plan.seconds_expected)}",
    ]
    room = "" if free is None or free > plan.bytes_expected else "there may not be room enough: choose another place"
    return Choose(
        title="This is going to be saved",
        lines=(*lines, "", *plan.words),
        options=(Option(key="go", words="Start", detail=room or "the disks are only read"),),
    )


def _saved_lines(ended: Ended[BackupSaid]) -> tuple[str, ...]:
    said = ended.result
    rate = format_rate(said.bytes_read, said.seconds)
    lines = [
        f"Image {said.image[:8]} is made.",
        f"{format_size(said.bytes_read)} read in {format_duration(said.seconds)} ({rate}).",
        f"{format_size(said.bytes_added)} stored.",
    ]
    if said.read_back is None:
        lines.append("It was not read back: check it later with 'stillframe verify'.")
    elif _is_bad(said):
        lines.append("DAMAGED: what was stored could not be read back. Use another disk for backups.")
    else:
        lines.append("Good: it was read back from the disk, and every piece is right.")
    lines += [f"Note: {notice.message}. {notice.hint}".rstrip() for notice in (*ended.findings, *ended.notices)]
    return tuple(lines)


def _is_bad(said: BackupSaid) -> bool:
    return said.read_back is not None and not said.read_back.ok


def _on_volume(world: World, room: Room) -> Beginning:
    return Beginning(
        words=_room_words(room),
        open_top=lambda: world.places.open_volume(room.volume, "write"),
        describe=lambda folder: world.places.repository_in(room.volume, folder),
    )
