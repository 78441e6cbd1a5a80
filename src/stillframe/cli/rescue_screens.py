"""What a person sees on the rescue medium, and what it does for nobody: ``rescue start``, ``ui``."""

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from stillframe.cli.call import REPOSITORY_VARIABLE, Call
from stillframe.cli.progress import json_line
from stillframe.errors import MachineRefusal, StillframeError, UsageError
from stillframe.host.linux import lock_whole
from stillframe.host.places import disks_under
from stillframe.host.power import PowerState, change_power
from stillframe.rescue.answering.answers import AfterAnswer, Answers, RepositoryAnswer
from stillframe.rescue.answering.finding import (
    LABEL,
    PATIENCE_S,
    AnswerPlaces,
    FoundAnswers,
    find_answers,
    serial_lines,
)
from stillframe.rescue.answering.unattended import Verdict, carry_out
from stillframe.rescue.choosing import sentence
from stillframe.rescue.places.opened import Places
from stillframe.rescue.world import World

_RUN: Final = "/run/stillframe"
_MEDIUM: Final = "/run/live/medium"
_COMMAND_LINE: Final = "/proc/cmdline"
_POWER: Final[dict[str, PowerState]] = {"poweroff": "shutdown", "restart": "restart", "switch-off": "shutdown"}
_ELSEWHERE: Final = ("Answers were left for this computer. They are carried out on another screen of it.",)


def start(call: Call) -> int:
    """What the medium runs."""
    # Answers that are named on the medium are those of a medium: the network is brought up, its own disk is no target.
    with _world(call, is_installed=bool(call.options.answers) and not os.path.isdir(_MEDIUM)) as world:
        if call.options.answers:
            return _answered(call, world)
        notes = _unattended(call, world)
        return 0 if notes is None else _screens(call, world, notes)


def ui(call: Call) -> int:
    """The screens on an installed system."""
    where = call.options.repo or call.environment.get(REPOSITORY_VARIABLE, "")
    with _world(call, is_installed=True) as world:
        if where:
            address = where if "://" in where else os.path.abspath(os.path.expanduser(where))
            world.settings = Answers(repository=RepositoryAnswer(where=address))
        return _screens(call, world, ())


@contextlib.contextmanager
def _world(call: Call, *, is_installed: bool) -> Iterator[World]:
    also = tuple(os.path.abspath(path) for path in call.options.also)
    loops = tuple(path for path in also if path.startswith("/dev/"))
    medium = "" if is_installed or not os.path.isdir(_MEDIUM) else min(disks_under(_MEDIUM), default="")
    with Places(loops=loops) as places:
        yield World(
            places=places, also=also, is_installed=is_installed, medium=medium, passphrases=_passphrases(call)
        )  # fmt: skip


def _passphrases(call: Call) -> tuple[str, ...]:
    """What may open encrypted disks, of the files that were named."""
    if not call.options.unlock_file:
        return ()
    from stillframe.jobs.saving.unlocking import read_secrets  # noqa: PLC0415 - it takes long to load

    found = (secret for path in call.options.unlock_file for secret in read_secrets(path))
    return tuple(secret.decode("utf-8", "surrogateescape") for secret in found)


def _answered(call: Call, world: World) -> int:
    """Carry out a file of answers that was named."""
    path = os.path.abspath(call.options.answers)
    found = find_answers(_places_of_one(path))
    if found is None or not found.answers.verb:
        what = f"there is no {path}" if found is None else f"{path} asks for nothing"
        raise UsageError(what, hint="Name a file with a section [restore], [backup] or [clone].")
    world.settings = found.answers
    verdict = carry_out(world, found.answers, call.screen.say)
    if found.answers.after.report:
        _report(call, found.answers.after, verdict)
    call.screen.finish("rescue start", {"verdict": verdict.fields}, [_verdict_line(verdict)])
    _change(call, found.answers.after, verdict)
    return verdict.exit_code


def _places_of_one(path: str) -> AnswerPlaces:
    return AnswerPlaces(command_line=os.devnull, firmware="", medium=path, settings="")


def _unattended(call: Call, world: World) -> tuple[str, ...] | None:
    """Carry out what was left; what a person should read then, ``None`` when there is nothing more to do here."""
    os.makedirs(_RUN, mode=0o700, exist_ok=True)
    stamp, lock = f"{_RUN}/answers-done", f"{_RUN}/answers.lock"
    try:
        # On each screen: what they only settle counts for all of them.
        found = _find(call, world, is_again=os.path.exists(stamp))
    except StillframeError as error:
        verdict = Verdict(verb="", ok=False, exit_code=error.exit_code, message=error.message, hint=error.hint)
        with _lock(lock) as is_ours:
            if is_ours and not os.path.exists(stamp):
                _touch(stamp)
                _report(call, AfterAnswer(), verdict)
        return ("Answers were left for this computer, and were not carried out:", *sentence(error), "")
    if found is None:
        return ()
    world.settings = found.answers
    if not found.answers.verb:
        return ()
    with _lock(lock) as is_ours:
        if not is_ours:
            return _ELSEWHERE
        if os.path.exists(stamp):
            return ()
        _touch(stamp)
        call.screen.say(f"Answers: {found.where}")
        for notice in found.notices:
            call.screen.warn(notice.message, notice.hint)
        verdict = _with_notices(carry_out(world, found.answers, call.screen.say), found)
        world.places.close_all()  # the screens come next, for days maybe: nothing unlocked and no share stays open
    _report(call, found.answers.after, verdict)
    if _change(call, found.answers.after, verdict):
        return None
    said = "Done as the answers say:" if verdict.ok else "What the answers say was not done:"
    return (
        said,
        f"{verdict.message[:1].upper()}{verdict.message[1:]}.",
        *((verdict.hint,) if verdict.hint else ()),
        "",
    )


def _with_notices(verdict: Verdict, found: FoundAnswers) -> Verdict:
    """Who reads the verdict is not at the screen on which something was said of the answers."""
    if not found.notices:
        return verdict
    return replace(verdict, facts={**verdict.facts, "notices": [notice.message for notice in found.notices]})


@contextlib.contextmanager
def _lock(path: str) -> Iterator[bool]:
    """Whether this process alone does it: the medium shows screens on the console and on the serial line."""
    _touch(path)
    descriptor = lock_whole(path, patience_s=0.0)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _find(call: Call, world: World, *, is_again: bool) -> FoundAnswers | None:
    places = AnswerPlaces(
        labelled=lambda: world.places.labelled(LABEL), bring_network=world.bring_network, say=call.screen.say,
        patience_s=0.0 if is_again else PATIENCE_S,
    )  # fmt: skip
    try:
        return find_answers(places)
    finally:
        world.places.close_all()


def _report(call: Call, after: AfterAnswer, verdict: Verdict) -> None:
    """The verdict, as a line of JSON, where somebody reads it."""
    line = json_line(verdict.fields)
    try:
        with open(_COMMAND_LINE, encoding="utf-8", errors="replace") as file:
            lines = (after.report,) if after.report else serial_lines(file.read())
    except OSError:
        lines = ()
    for path in lines:
        try:
            with open(os.path.join("/dev", path), "a", encoding="utf-8") as file:
                file.write(f"\r\n{line}\r\n")
        except OSError as error:
            call.screen.warn(f"The verdict could not be written to {path}: {error.strerror}")
    if not lines:
        call.screen.say(line)


def _change(call: Call, after: AfterAnswer, verdict: Verdict) -> bool:
    """Switch off or restart, as the answers say; whether that was done."""
    wanted = after.then if verdict.ok else after.on_failure
    if wanted not in _POWER:
        return False
    try:
        change_power(_POWER[wanted])
    except StillframeError as error:
        call.screen.warn(*sentence(error))
        return False
    return True


def _screens(call: Call, world: World, notes: tuple[str, ...]) -> int:
    """Show the screens until the person leaves."""
    if call.screen.is_json or not call.screen.has_person or not sys.stdout.isatty():
        raise UsageError(
            "the screens need a terminal, and this is none",
            hint="Run it on a terminal, without '--json'; 'stillframe --help' lists the commands that need none.",
        )
    try:
        from stillframe.rescue.screens.app import RescueApp  # noqa: PLC0415 - it takes long to load, and may be missing
    except ModuleNotFoundError as error:
        raise MachineRefusal(
            f"the screens need the Python package {error.name}, which is not installed",
            hint="'pip install textual' brings it; all that the screens do can be done by commands too.",
        ) from error
    from stillframe.rescue.flows.menu import menu  # noqa: PLC0415
    from stillframe.rescue.pages.talk import Talk  # noqa: PLC0415

    left_for = RescueApp(Talk(lambda: menu(world, notes))).run()
    if left_for in _POWER:
        world.places.close_all()
        change_power(_POWER[str(left_for)])
    return 0


def _verdict_line(verdict: Verdict) -> str:
    words = "Done" if verdict.ok else "NOT DONE"
    return f"{words}: {verdict.message}{f'. {verdict.hint}' if verdict.hint else ''}"


def _touch(path: str) -> None:
    with contextlib.suppress(OSError), open(path, "w", encoding="utf-8"):
        pass
