"""What was asked of ``restore``, in the records of its job; and its plan in words.

Answers: "which options did this command line mean, and how is the plan told?" Pure, but for the questions of
``--edit``.
"""

import argparse
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final, TypeVar

from stillframe.cli.arguments.words import size, start
from stillframe.cli.disk_picture import fit_picture
from stillframe.cli.screen import Screen
from stillframe.cli.words import plan_lines
from stillframe.disk.converting import StartsBy
from stillframe.errors import StillframeError, UsageError
from stillframe.host.target import TargetIdentity
from stillframe.jobs.conversions.conversion import ConvertWish
from stillframe.jobs.listing import ListedImage
from stillframe.jobs.restoring.adapting_wishes import read_hardware
from stillframe.jobs.restoring.plan import RestoreOptions, RestorePlan
from stillframe.units import format_size

_T = TypeVar("_T")
EDIT_QUESTION: Final = (
    "Change anything? Enter: no. 3=200GB, 3=keep, 3=max: its size. 3@100GB, 3@keep: where it begins. 3=out, 3=in: "
    "leave it out, or not. why: the reasons. > "
)


def fit_options(options: argparse.Namespace) -> RestoreOptions:
    """What a person asked for of the partitions of a clone.

    Raises:
        UsageError: Something was said twice.
    """
    wishes = once("--resize", options.resize)
    return RestoreOptions(
        delta=options.delta, wipe=options.wipe, new_identity=options.new_identity,
        fit=options.fit or bool(wishes), wishes=wishes, moves=once("--move", options.move),
        leave_out=frozenset(options.leave_out), adapt=options.adapt,
        convert=_convert_wish(options.convert, is_experimental=options.experimental),
        hardware=read_hardware(options.target, options.controller, options.drivers, adapt=options.adapt),
    )  # fmt: skip


def restore_options(options: argparse.Namespace) -> RestoreOptions:
    """What a person asked for.

    Raises:
        UsageError: Something was said twice, or ``--partition`` in two ways.
    """
    chosen = options.partition
    added = tuple(number for number, onto in chosen if onto == "new")
    others = [pair for pair in chosen if pair[1] != "new"]
    if len(others) > 1 or (others and added):
        raise UsageError(
            "only new partitions can be several: '--partition N' and '--partition N:M' stand alone",
            hint="Restore them one by one, or each as '--partition N:new'.",
        )
    if len(set(added)) < len(added):
        raise UsageError("'--partition' names one partition twice", hint="Name each once.")
    partition, onto = others[0] if others else (None, None)
    wishes = once("--resize", options.resize)
    return RestoreOptions(
        partition=partition, onto=onto, delta=options.delta, wipe=options.wipe, new_identity=options.new_identity,
        salvage=options.salvage, fit=options.fit or (bool(wishes) and not added and partition is None), wishes=wishes,
        moves=once("--move", options.move), leave_out=frozenset(options.leave_out), added=added,
        adapt=options.adapt, convert=_convert_wish(options.convert, is_experimental=options.experimental),
        hardware=read_hardware(options.target or "", options.controller, options.drivers, adapt=options.adapt),
    )  # fmt: skip


def _convert_wish(words: tuple[StartsBy, int | None] | None, *, is_experimental: bool) -> ConvertWish | None:
    if words is None and is_experimental:
        raise UsageError("'--experimental' is about '--convert'", hint="Leave it out, or write '--convert uefi'.")
    return words and ConvertWish(starts_by=words[0], esp_size=words[1], is_experimental=is_experimental)


def once(option: str, pairs: Iterable[tuple[int, _T]]) -> dict[int, _T]:
    """What an option says for each number.

    Raises:
        UsageError: It says two things for one of them.
    """
    found = dict[int, _T]()
    for number, value in pairs:
        if number in found and found[number] != value:
            raise UsageError(f"'{option}' is given twice for number {number}", hint="Give it once.")
        found[number] = value
    return found


def edit(plan: Callable[[RestoreOptions], RestorePlan], options: RestoreOptions, screen: Screen) -> RestoreOptions:
    """Let a person change wishes until he is content; the plan is made again for each.

    Raises:
        UsageError: There is nobody to ask.
    """
    if options.partition is not None:
        raise UsageError("'--edit' is about the partitions of a whole disk", hint="Leave '--partition N' out.")
    current, wanted = None, options
    while True:
        try:
            current, options = plan(wanted), wanted
        except StillframeError as error:
            refusal = error
            screen.warn(f"Not possible: {error.message}", *([f"  {error.hint}"] if error.hint else []))
        else:
            screen.say(*_edited_lines(current))
        typed = screen.ask(EDIT_QUESTION)
        while typed == "why" and current is not None:
            screen.say(*reason_lines(current))
            typed = screen.ask(EDIT_QUESTION)
        if not typed and current is None:
            raise refusal
        if not typed:
            return options
        wanted = _try_change(options if current is not None else wanted, typed, screen)


def _edited_lines(plan: RestorePlan) -> list[str]:
    steps = [f"  {number}. {step}" for number, step in enumerate(plan.steps, 1)]
    return ["What will be done:", *steps, *fit_picture(plan), ""]


def _try_change(options: RestoreOptions, typed: str, screen: Screen) -> RestoreOptions:
    """The options after a change; as they were when it is none, and then that is said."""
    try:
        return changed(options, typed)
    except UsageError as error:
        screen.warn(f"Not possible: {error.message}", f"  {error.hint}")
        return options


def changed(options: RestoreOptions, typed: str) -> RestoreOptions:
    """The options after what was typed at the question of ``--edit``.

    Raises:
        UsageError: It is not such a change.
    """
    for word in typed.split():
        options = _changed(options, word)
    return options


def _changed(options: RestoreOptions, word: str) -> RestoreOptions:
    mark = "@" if "@" in word else "="
    first, _, second = word.partition(mark)
    if not (first.isascii() and first.isdecimal()) or not second:
        raise UsageError(f"{word!r} is no change", hint="Write 3=200GB, 3=keep, 3=max, 3=out, 3=in or 3@100GB.")
    number = int(first[:9])
    wishes = {key: wish for key, wish in options.wishes.items() if key != number}
    moves = {key: place for key, place in options.moves.items() if key != number}
    try:
        if second in ("out", "in"):
            gone = options.leave_out - {number} | ({number} if second == "out" else frozenset())
            return replace(options, wishes=wishes, moves=moves, leave_out=gone)
        if mark == "@":
            return replace(options, moves=options.moves | {number: start(f"{number}={second}")[1]})  # type: ignore[operator]
        wish: Any = second if second in ("keep", "max") else size(second)
    except argparse.ArgumentTypeError as error:
        raise UsageError(str(error), hint="Write 3=200GB, or 3@100GB.") from error
    return replace(options, wishes={**wishes, number: wish}, fit=options.fit or not options.added)


def restore_lines(plan: RestorePlan, listed: ListedImage, *, explain: bool = False) -> list[str]:
    """A plan in words."""
    manifest = plan.manifest
    title = (
        f"Restore image {manifest.image[:8]} of {manifest.machine.name}, {manifest.created} ({listed.verdict}), "
        f"disk {plan.source_disk.number}, {format_size(plan.source_disk.size)}, to"
    )
    return planned_lines(title, plan, explain=explain)


def planned_lines(title: str, plan: RestorePlan, *, explain: bool) -> list[str]:
    """A plan in words, under a title that says what it is about."""
    identity = target_lines(plan.target, plan.target_path, plan.target_size)
    lines = plan_lines(title, identity, steps=plan.steps, lost=plan.lost, notices=plan.notices)
    if plan.placements:
        lines += fit_picture(plan)
    return [*lines, "", *reason_lines(plan)] if explain else lines


def reason_lines(plan: RestorePlan) -> list[str]:
    """Why the plan is so: a paragraph for each partition, then the disk."""
    lines, last = ["Why:"], object()
    for reason in plan.reasons:
        name = "the disk" if reason.partition is None else f"partition {reason.partition}"
        if name != last:
            lines.append(f"  {name}")
        last = name
        lines.append(f"    {reason.text}")
    return lines


def target_lines(target: TargetIdentity | None, path: str, size_there: int) -> list[str]:
    """What a target is, for a person who must recognise it."""
    if target is None:
        return [f"{path}, a new file of {format_size(size_there)}"]
    named = [("model", target.model), ("serial number", target.serial)]
    known = [f"{name} {value}" for name, value in named if value]
    return [", ".join([f"{target.path} ({target.kind})", format_size(target.size), *known])]
