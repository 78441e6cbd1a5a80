"""Restore this computer: from which image, onto which disk, and the word that is typed.

Answers: "what comes next until the computer is back?" Nothing is written before the word.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from stillframe.errors import Cancelled, DamagedError, StillframeError
from stillframe.host.places import disks_under
from stillframe.rescue.choosing import Judged, disk_words, judge_targets, sentence
from stillframe.rescue.flows.finding import find_repository
from stillframe.rescue.flows.words import disk_option, image_option, restored_lines, told, verdict, when
from stillframe.rescue.pages.pages import Choose, Option, Outcome, Step, TypeWord, Work
from stillframe.rescue.places.found import FoundRepository
from stillframe.rescue.verbs.calls import Doing
from stillframe.rescue.verbs.records import ImageSeen, StoredDiskSeen, VerifySaid
from stillframe.rescue.world import RestorePlanned, RestoreWish, Unlocked, World, apply_restore, plan_restore
from stillframe.units import format_size

_STOP: Final = "The disk is not complete then, and does not start. The backup is not touched."
_OLDER: Final = "older"
_ROOM: Final = 1.02
"""A target larger than that: what is left would be a partition's worth, so one is asked what to do with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """What comes back: a disk of an image; ``several`` when the image has more."""

    unlocked: Unlocked
    image: ImageSeen
    disk: StoredDiskSeen
    several: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    """What was chosen so far."""

    source: _Source
    target: Judged
    options: tuple[str, ...] = ()

    @property
    def wish(self) -> RestoreWish:
        """As it is asked for."""
        disk = self.source.disk.number if self.source.several else None
        return RestoreWish(image=self.source.image, disk=disk, target=self.target.disk.path, options=self.options)


def restore(world: World) -> Step:
    """From the backups to the verdict; brings what is to happen then."""
    unlocked: Unlocked = yield from find_repository(world)
    while True:
        image = yield from choose_image(unlocked.images, "Which state do you want back?")
        if image is None:
            return "menu"
        disk, several = yield from choose_disk_of(world, unlocked, image)
        if disk is None:
            continue
        then = yield from _onto_a_disk(world, _Source(unlocked=unlocked, image=image, disk=disk, several=several))
        if then != _OLDER:
            return then


def _onto_a_disk(world: World, source: _Source) -> Step:
    """Choose disks until one is written; brings what is to happen then."""
    while True:
        target = yield from choose_target(world, source.unlocked.opened.repository, source.disk)
        if target is None:
            return "menu"
        chosen = _Chosen(source=source, target=target)
        chosen = replace(chosen, options=(yield from _choose_options(chosen)))
        then = yield from _plan_and_apply(world, chosen)
        if then:
            return then


def choose_image(images: Sequence[ImageSeen], title: str) -> Step:
    """Choose a machine, where there are several, and an image of it; ``None`` when there is none."""
    if not images:
        yield told(StillframeError("there is no image in it", hint="Choose other backups."))
        return None
    machines = dict.fromkeys(image.machine for image in images)
    machine = next(iter(machines))
    if len(machines) > 1:
        machine = yield Choose(
            title="Which computer?",
            lines=("These backups hold several computers.",),
            options=tuple(Option(key=name, words=name, detail=_newest(images, name)) for name in machines),
        )
    mine = [image for image in images if image.machine == machine]
    chosen = yield Choose(
        title=title,
        lines=(f"Images of {machine}, the newest first. Nothing is changed yet.",),
        options=tuple(image_option(image) for image in mine),
    )
    return next(image for image in mine if image.id == chosen)


def _newest(images: Sequence[ImageSeen], machine: str) -> str:
    mine = [image for image in images if image.machine == machine]
    return f"{len(mine)} image{'' if len(mine) == 1 else 's'}, newest {when(mine[0].created)}"


def choose_disk_of(world: World, unlocked: Unlocked, image: ImageSeen) -> Step:
    """The disk of the image, and whether there are several."""
    outcome: Outcome = yield Work(
        title="Reading the image",
        lines=(f"Image {image.id[:8]} of {when(image.created)}",),
        do=lambda doing: world.show(unlocked.opened, image, doing).disks,
    )
    if outcome.error is not None:
        yield told(outcome.error)
        return None, False
    disks: tuple[StoredDiskSeen, ...] = outcome.value
    if len(disks) == 1:
        return disks[0], False
    number = yield Choose(
        title="Which disk of it?",
        lines=(f"The image holds {len(disks)} disks. They are restored one after the other.",),
        options=tuple(
            Option(
                key=str(disk.number),
                words=f"Disk {disk.number}: {disk.model or 'disk'}, {format_size(disk.size)}",
                detail=", ".join(dict.fromkeys(part.system for part in disk.partitions if part.system)),
            )
            for disk in disks
        ),
    )
    return next(disk for disk in disks if str(disk.number) == number), True


def choose_target(world: World, repository: FoundRepository | None, source: StoredDiskSeen) -> Step:
    """The disk that is overwritten; a ``Judged``, or ``None``."""
    disks = yield from look_at_disks(world, repository)
    if disks is None:
        return None
    chosen = yield Choose(
        title="Onto which disk?",
        lines=(
            f"The disk of the image had {format_size(source.size)}.",
            "EVERYTHING on the disk you choose is going to be lost. Nothing is written yet.",
        ),
        options=tuple(disk_option(one) for one in disks),
    )
    return next(one for one in disks if one.disk.path == chosen)


def look_at_disks(world: World, repository: FoundRepository | None) -> Step:
    """Look, with a page meanwhile; all disks, each a ``Judged``, or ``None`` when that failed and was told."""
    outcome: Outcome = yield Work(
        title="Looking at the disks",
        lines=("Nothing is changed.",),
        do=lambda doing: _judged_disks(world, repository, doing),
    )
    if outcome.error is not None:
        yield told(outcome.error)
        return None
    return outcome.value


def _judged_disks(world: World, repository: FoundRepository | None, doing: Doing) -> tuple[Judged, ...]:
    """All disks, and why each cannot be overwritten. Without a repository nothing needs to stay open meanwhile."""
    if repository is None:
        world.places.close_all()
    holding = {*disks_under(repository.folder)} if repository is not None else set[str]()
    if repository is not None and repository.volume is not None:
        holding |= repository.volume.rests_on
    return judge_targets(
        world.disks(doing), repository_disks=holding, medium=world.medium, is_installed=world.is_installed
    )


def _choose_options(chosen: _Chosen) -> Step:
    """What else matters: another computer, and the rest of a larger disk."""
    target, options = chosen.target.disk, list[str]()
    same = yield Choose(
        title="Is this the same computer?",
        lines=("A system is made ready for another computer when it goes into one.",),
        options=(
            Option(key="same", words="Yes, the same computer", detail="perhaps with a new disk"),
            Option(key="other", words="No, another computer", detail="drivers and names are adapted (--adapt)"),
        ),
    )
    options += ["--adapt"] if same == "other" else []
    options += yield from ask_to_fill(target.size, chosen.source.disk.size, "the image's had")
    return tuple(options)


def ask_to_fill(size: int, before: int, words: str) -> Step:
    """What is done with the rest of a disk that is larger than another one was; brings options."""
    if size <= before * _ROOM:
        return []
    fit = yield Choose(
        title="The disk is larger",
        lines=(f"The disk has {format_size(size)}, {words} {format_size(before)}.",),
        options=(
            Option(key="keep", words="Keep the sizes as they were", detail="the rest stays free"),
            Option(key="fit", words="Use the whole disk", detail="partitions are made larger (--fit)"),
        ),
    )
    return ["--fit"] if fit == "fit" else []


def _plan_and_apply(world: World, chosen: _Chosen) -> Step:
    """The plan, the word, the work; brings what is to happen then, nothing when something else is to be chosen."""
    opened, is_smaller = chosen.source.unlocked.opened, chosen.target.disk.size < chosen.source.disk.size
    outcome: Outcome = yield Work(
        title="Making the plan",
        lines=("The disk is looked at. Nothing is written.",),
        do=lambda doing: plan_restore(opened, chosen.wish, doing, is_smaller=is_smaller),
    )
    if outcome.error is not None:
        yield told(outcome.error, title="Not onto this disk")
        return ""
    planned: RestorePlanned = outcome.value
    if planned.was_too_small:
        yield Choose(
            title="The disk is smaller",
            lines=(
                f"{planned.was_too_small[:1].upper()}{planned.was_too_small[1:]}.",
                "But what is in use fits: partitions can be made smaller (--fit).",
            ),
            options=(Option(key="fit", words="Make it fit", detail="the plan is shown next"),),
        )
    yield TypeWord(
        title="This is going to be done",
        word="restore",
        picture=planned.plan.words,
        lines=(f"Onto: {disk_words(chosen.target.disk)}",),
    )
    return (yield from _apply(world, chosen, planned.wish))


def _apply(world: World, chosen: _Chosen, wish: RestoreWish) -> Step:
    opened = chosen.source.unlocked.opened
    outcome: Outcome = yield Work(
        title="Restoring",
        lines=(f"{when(wish.image.created)} of {wish.image.machine}, onto {wish.target}",),
        do=lambda doing: apply_restore(opened, wish, doing),
        stop_words=_STOP,
    )
    if outcome.error is None:
        return (yield from verdict(world, "Restored", restored_lines(outcome.value), skipped=outcome.value.skipped))
    if isinstance(outcome.error, DamagedError):
        return (yield from _damaged(world, chosen, wish, outcome.error))
    lines = [*sentence(outcome.error)]
    if not isinstance(outcome.error, Cancelled):
        lines += ["The disk is not complete: it does not start like this. The backup is not harmed."]
    options = [
        Option(
            key="delta", words="Go on where it stopped", detail="what is right on the disk already is not written again"
        ),
        Option(key="other", words="Choose something else"),
        Option(key="menu", words="Back to the menu"),
    ]
    chosen_way = yield Choose(title="It was not finished", lines=tuple(lines), options=tuple(options))
    if chosen_way == "delta":
        options_now = tuple(word for word in wish.options if word != "--delta")
        return (yield from _apply(world, chosen, replace(wish, options=(*options_now, "--delta"))))
    return "menu" if chosen_way == "menu" else ""


def _damaged(world: World, chosen: _Chosen, wish: RestoreWish, error: StillframeError) -> Step:
    """The image cannot be read whole: which partitions, and what can be done."""
    outcome: Outcome = yield Work(
        title="Looking for the damage",
        lines=("Every piece of the image is read. This takes a while.",),
        do=lambda doing: chosen.source.unlocked.opened.call(["verify", wish.image.id], VerifySaid, doing).result,
    )
    found = outcome.value.findings if outcome.error is None else ()
    older = [
        image
        for image in chosen.source.unlocked.images
        if image.machine == wish.image.machine and image.created < wish.image.created
    ]
    listed = [f"Damaged: {finding.message}" for finding in found[:6]]
    listed += [f"... and {len(found) - 6} more places"] if len(found) > 6 else []
    lines = (
        *sentence(error)[:1],
        *listed,
        "What was written is not complete. The other images are not touched by this.",
    )
    offered = (
        [Option(key=_OLDER, words="Choose an older image", detail=f"newest: {when(older[0].created)}")] if older else []
    )
    offered += [
        Option(
            key="salvage",
            words="Save what can be had of this one",
            detail="what is lost is named, zeros are in its place",
        ),
        Option(key="menu", words="Back to the menu"),
    ]
    way = yield Choose(title="The image is damaged", lines=lines, options=tuple(offered))
    if way == "salvage":
        return (yield from _apply(world, chosen, replace(wish, options=(*wish.options, "--salvage"))))
    return str(way)
