"""Watching a medium that restores, until it has done so or has failed.

Answers: "did the restore end well, when did it begin to write, and when was it done?" The medium says its verdict as
one line of JSON on the serial line; that it writes to the empty disk is asked of the machine itself.
"""

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from stillframe.errors import MachineRefusal
from stillframe.events import PhaseStarted
from stillframe.jobs.context import JobContext
from stillframe.jobs.watching import Look, Onlooker, Watch

QUIET_S: Final = 600.0
"""When nothing moves for so long, it is given up: deriving a key from a passphrase moves nothing for a while, too."""
_LOOK_S: Final = 1.0
_POWER_OFF_S: Final = 180.0
_VERDICT: Final = re.compile(r'\{"type": ?"verdict"')
_WORDS_MAX: Final = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """What became of a restore.

    Attributes:
        failure: Why it did not end well; empty when it did.
        medium_s: From switching on until it wrote to the disk.
        restore_s: From then until it was done.
        picture: The last screenshot, a PNG.
    """

    failure: str
    medium_s: float
    restore_s: float
    picture: bytes


@dataclass(slots=True)
class _Seen:
    """What was noted on the way; times since the machine was switched on."""

    wrote_at: float | None = None
    done_at: float | None = None
    verdict: dict[str, Any] | None = None


def watch_return(eye: Onlooker, written: Callable[[], int], *, limit_s: float, context: JobContext) -> Returned:
    """Look until it has switched itself off, has failed, or its time is over.

    Args:
        eye: Looks at the machine.
        written: Bytes that it has written to the empty disk so far.
        limit_s: Longest time.
        context: Told when it begins to write; its cancel token is asked once a second.

    Raises:
        Cancelled: The person stopped it.
        MachineRefusal: The machine does not answer any more.
    """
    seen, watch = _Seen(), Watch()
    failure = _watch(eye, watch, seen, written, limit_s=limit_s, context=context)
    last = watch.last
    at = seen.wrote_at if seen.wrote_at is not None else eye.seconds
    done = seen.done_at if seen.done_at is not None else eye.seconds
    return Returned(
        failure=failure, medium_s=at, restore_s=max(0.0, done - at) if seen.wrote_at is not None else 0.0,
        picture=b"" if last is None else last.picture.build_png(),
    )  # fmt: skip


def parse_verdict(text: str) -> dict[str, Any] | None:
    """The last verdict in what came on a serial line; ``None`` when there is none that is whole."""
    for found in reversed(list(_VERDICT.finditer(text))):
        try:
            verdict, _ = json.JSONDecoder().raw_decode(text, found.start())
        except ValueError:
            continue
        if isinstance(verdict, dict) and isinstance(verdict.get("exit_code"), int):
            return verdict
    return None


def _watch(
    eye: Onlooker, watch: Watch, seen: _Seen, written: Callable[[], int], *, limit_s: float, context: JobContext
) -> str:
    """Why it failed; empty when it did not."""
    until = limit_s
    while eye.seconds < until:
        context.cancel.check()
        look = eye.look()
        sighting = watch.take(look)
        _note(look, seen, written, context)
        if seen.verdict is not None and seen.done_at is None:
            seen.done_at = look.seconds
            until = look.seconds + _POWER_OFF_S
        if look.has_ended:
            return _ended_words(seen)
        if seen.verdict is None and sighting is not None and sighting.outcome == "failed":
            return f"the medium did not start: {sighting.words}"
        if seen.verdict is None and watch.still_s >= QUIET_S:
            return f"nothing moved for {QUIET_S:.0f} s, {_so_far(seen)}"
        time.sleep(_LOOK_S)
    if seen.verdict is not None:
        return _ended_words(seen)  # it said so, and does not switch itself off: that is no part of the way back
    return f"it was not done after {limit_s:.0f} s, {_so_far(seen)}"


def _note(look: Look, seen: _Seen, written: Callable[[], int], context: JobContext) -> None:
    if seen.verdict is None:
        seen.verdict = parse_verdict(look.serial)
    if seen.wrote_at is None and not look.has_ended:
        try:
            wrote = written()
        except MachineRefusal:
            return  # it has just switched itself off: the next look sees it
        if wrote:
            seen.wrote_at = look.seconds
            context.events.emit(PhaseStarted(name="restoring"))


def _ended_words(seen: _Seen) -> str:
    verdict = seen.verdict
    if verdict is None:
        return f"it switched itself off without a verdict, {_so_far(seen)}"
    if verdict["exit_code"] == 0:
        return "" if seen.wrote_at is not None else "it says that it restored, and wrote nothing to the empty disk"
    message, hint = (" ".join(str(verdict.get(name, "")).split()) for name in ("message", "hint"))
    return f"the restore failed (exit code {verdict['exit_code']}): {message}. {hint}".strip()[:_WORDS_MAX]


def _so_far(seen: _Seen) -> str:
    return "before anything was written" if seen.wrote_at is None else "in the middle of the restore"
