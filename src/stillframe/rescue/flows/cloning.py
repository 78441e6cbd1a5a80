"""Copy one disk to another, without a backup in between.

Answers: "what comes next until the copy is there?" Nothing is written before the word.
"""

from dataclasses import replace
from typing import Final

from stillframe.rescue.choosing import Judged, contents_words, disk_words, sentence
from stillframe.rescue.flows.restoring import ask_to_fill, look_at_disks
from stillframe.rescue.flows.words import disk_option, restored_lines, told, verdict
from stillframe.rescue.pages.pages import Choose, Option, Outcome, Step, TypeWord, Work
from stillframe.rescue.verbs.records import DiskSeen, PlanSaid, RestoreSaid
from stillframe.rescue.world import World

_SMALLER: Final = ("The new disk is smaller: what is in use may fit, and partitions are made smaller (--fit).",)
_STOP: Final = "The copy is not complete then, and does not start. The disk that is copied is not touched."


def clone(world: World) -> Step:
    """From the disks to the verdict; brings what is to happen then."""
    disks = yield from look_at_disks(world, None)
    if disks is None:
        return "menu"
    while True:
        source = yield from _choose_source(disks)
        target = yield from _choose_target(disks, source)
        then = yield from _copy(world, source, target)
        if then:
            return then


def _choose_source(disks: tuple[Judged, ...]) -> Step:
    chosen = yield Choose(
        title="Which disk is copied?",
        lines=("The OLD disk. It is only read.",),
        options=tuple(
            Option(key=one.disk.path, words=disk_words(one.disk), detail=contents_words(one.disk)) for one in disks
        ),
    )
    return next(one.disk for one in disks if one.disk.path == chosen)


def _choose_target(disks: tuple[Judged, ...], source: DiskSeen) -> Step:
    judged = [replace(one, refusal=one.refusal or _refusal(one.disk, source)) for one in disks]
    chosen = yield Choose(
        title="Onto which disk?",
        lines=("The NEW disk. EVERYTHING on it is going to be lost. Nothing is written yet.",),
        options=tuple(disk_option(one) for one in judged),
    )
    return next(one.disk for one in disks if one.disk.path == chosen)


def _refusal(disk: DiskSeen, source: DiskSeen) -> str:
    return "it is the disk that is copied" if disk.path == source.path else ""


def _copy(world: World, source: DiskSeen, target: DiskSeen) -> Step:
    words = ["clone", source.path, target.path]
    if target.size < source.size:
        words.append("--fit")
    else:
        words += yield from ask_to_fill(target.size, source.size, "the one that is copied has")
    outcome: Outcome = yield Work(
        title="Making the plan",
        lines=("The disks are looked at. Nothing is written.", *(_SMALLER if target.size < source.size else ())),
        do=lambda doing: world.run([*words, "--dry-run"], PlanSaid, doing).result,
    )
    if outcome.error is not None:
        yield told(outcome.error, title="Not onto this disk")
        return ""
    yield TypeWord(
        title="This is going to be done",
        word="clone",
        picture=outcome.value.words,
        lines=(f"From: {disk_words(source)}", f"Onto: {disk_words(target)}"),
    )
    return (yield from _apply(world, words))


def _apply(world: World, words: list[str]) -> Step:
    """Copy; brings what is to happen then, nothing when other disks are to be chosen."""
    outcome: Outcome = yield Work(
        title="Copying the disk",
        lines=(f"{words[1]} to {words[2]}",),
        stop_words=_STOP,
        do=lambda doing: world.run([*words, "--yes"], RestoreSaid, doing),
    )
    if outcome.error is None:
        return (yield from verdict(world, "Copied", restored_lines(outcome.value), skipped=outcome.value.skipped))
    way = yield Choose(
        title="The copy is not complete",
        lines=(*sentence(outcome.error), "The disk that is copied is not touched."),
        options=(
            Option(
                key="delta", words="Go on where it stopped", detail="what is right on the new disk is not written again"
            ),
            Option(key="other", words="Choose other disks"),
            Option(key="menu", words="Back to the menu"),
        ),
    )
    if way == "delta":
        return (yield from _apply(world, words if "--delta" in words else [*words, "--delta"]))
    return "menu" if way == "menu" else ""
