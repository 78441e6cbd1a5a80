"""Repair how this computer starts: which disk, what is broken, where the way back is kept, and the word.

Answers: "what comes next until the computer starts again?" Nothing is written before the word.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from stillframe.rescue.choosing import Judged, disk_words
from stillframe.rescue.flows.finding import search_page
from stillframe.rescue.flows.restoring import look_at_disks
from stillframe.rescue.flows.words import disk_option, told, verdict
from stillframe.rescue.pages.pages import Choose, Option, Outcome, Step, Tell, TypeWord, Work
from stillframe.rescue.places.for_undo import MEMORY, memory_folder, undo_name, why_not_there
from stillframe.rescue.places.found import FoundVolume
from stillframe.rescue.verbs.calls import Doing, Ended
from stillframe.rescue.verbs.records import DiskSeen, RepairPlanSaid, RepairSaid
from stillframe.rescue.world import World
from stillframe.units import format_size

_STOP: Final = "What was written by then is put back."
_NEXT: Final = (
    "It still does not start, as far as its bytes say. Make a backup of this disk before anything else,",
    "then start the medium of its own system, or bring back a backup ('Restore this computer').",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """A repair, as it will be asked for."""

    disk: DiskSeen
    options: tuple[str, ...]
    plan: RepairPlanSaid

    @property
    def words(self) -> list[str]:
        return ["boot-repair", self.disk.path, *self.options]


def repair(world: World) -> Step:
    """From the disks to the verdict; brings what is to happen then."""
    disks = yield from look_at_disks(world, None)
    if disks is None:
        return "menu"
    while True:
        disk = yield from _choose_disk(disks)
        options = yield from _choose_options()
        then = yield from _plan_and_apply(world, disk, options)
        if then:
            return then


def _choose_disk(disks: Sequence[Judged]) -> Step:
    chosen = yield Choose(
        title="Which disk does not start?",
        lines=("The disk with the system. Its files stay; only what keeps it from starting is changed.",),
        options=tuple(disk_option(one) for one in disks),
    )
    return next(one.disk for one in disks if one.disk.path == chosen)


def _choose_options() -> Step:
    same = yield Choose(
        title="Is the disk in the computer that it was in?",
        lines=("In another one, or at another controller, a system may lack a driver for it.",),
        options=(
            Option(key="same", words="Yes, nothing was changed", detail="its drivers stay as they are"),
            Option(key="other", words="No, or its controller is another one", detail="drivers too (--adapt)"),
        ),
    )
    return ("--adapt",) if same == "other" else ()


def _plan_and_apply(world: World, disk: DiskSeen, options: tuple[str, ...]) -> Step:
    """The plan, the place of the way back, the word, the work; brings what is to happen then."""
    command = ["boot-repair", disk.path, *options, "--dry-run"]
    outcome: Outcome = yield Work(
        title="Looking for what is broken",
        lines=("It is repaired on a copy first. Nothing is written to the disk.",),
        do=lambda doing: world.run(command, RepairPlanSaid, doing).result,
    )
    if outcome.error is not None:
        yield told(outcome.error, title="Not this disk")
        return ""
    wish = _Wish(disk=disk, options=options, plan=outcome.value)
    if not wish.plan.bytes_to_write and not wish.plan.steps:
        words = "Nothing could be repaired" if wish.plan.may_not_start else "Nothing is broken, as far as one can see"
        yield Tell(title=words, lines=wish.plan.words, next_words="go back")
        return ""
    place = yield from _choose_place(world, wish)
    if place is None:
        return ""
    yield TypeWord(
        title="This is going to be written", word="repair", picture=wish.plan.words,
        lines=(f"Disk: {disk_words(disk)}", f"What was there is kept: {_place_words(place)}"),
    )  # fmt: skip
    return (yield from _apply(world, wish, place))


def _choose_place(world: World, wish: _Wish) -> Step:
    """A volume, ``memory``, or ``None`` when nothing could be looked at."""
    if not wish.plan.bytes_to_write:
        return MEMORY  # only the firmware is told of something
    outcome: Outcome = yield Work(title="Looking for a place", lines=("Nothing is changed.",), do=search_page(world).do)
    if outcome.error is not None:
        yield told(outcome.error)
        return None
    volumes: tuple[FoundVolume, ...] = outcome.value.volumes
    ordered = sorted(volumes, key=lambda one: (not one.external, one.device))
    options = [_volume_option(one, wish) for one in ordered]
    options.append(
        Option(
            key=MEMORY, words="Nowhere: only in the memory of this rescue system",
            detail="there is NO way back once this computer is switched off or restarted",
        )
    )  # fmt: skip
    chosen = yield Choose(
        title="Where is what was there kept?",
        lines=(
            "The old contents of all that is written go into one file: with it the repair can be taken back.",
            "Best onto a USB stick. Nothing else there is changed.",
        ),
        options=tuple(options),
    )
    return next((one for one in volumes if one.device == chosen), MEMORY)


def _volume_option(volume: FoundVolume, wish: _Wish) -> Option:
    return Option(
        key=volume.device,
        words=f"{volume.label or 'volume'} ({volume.device}, {volume.filesystem}, {format_size(volume.size)})",
        detail=f"{'external, ' if volume.external else ''}{format_size(volume.free or 0)} free",
        refusal=why_not_there(volume, wish.disk.path, wish.plan.bytes_to_write),
    )


def _place_words(place: FoundVolume | str) -> str:
    if isinstance(place, str):
        return "in memory only, until this computer is switched off"
    return f"in a file on {place.label or place.device} ({place.device})"


def _apply(world: World, wish: _Wish, place: FoundVolume | str) -> Step:
    def work(doing: Doing) -> Ended[RepairSaid]:
        world.places.close_all()  # volumes of the disk itself may have been looked into
        folder = memory_folder() if isinstance(place, str) else world.places.open_volume(place, "write")
        file = os.path.join(folder, undo_name(wish.disk.path))
        return world.run([*wish.words, "--yes", "--keep-undo", file], RepairSaid, doing)

    outcome: Outcome = yield Work(
        title="Repairing", lines=(disk_words(wish.disk),), do=work, stop_words=_STOP
    )  # fmt: skip
    if outcome.error is not None:
        yield told(outcome.error, title="It was not repaired")
        return ""
    ended: Ended[RepairSaid] = outcome.value
    return (yield from verdict(world, "Repaired", tuple(_lines(ended, place)), skipped=ended.skipped))


def _lines(ended: Ended[RepairSaid], place: FoundVolume | str) -> list[str]:
    said = ended.result
    lines = [f"{format_size(said.bytes_written)} written and read back."]
    lines += [f"Changed: {change}" for change in said.changes]
    lines += [f"Note: {one.message}. {one.hint}".rstrip() for one in (*said.notices, *ended.notices)]
    lines += _NEXT if said.may_not_start else ("Next: restart, and see whether it starts.",)
    if said.undo_file:
        lines += ["", f"The way back, {_place_words(place)}, in a shell:"]
        lines += [f"stillframe boot-repair {said.disk} --undo {os.path.basename(said.undo_file)}"]
    return lines
