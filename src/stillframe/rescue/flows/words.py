"""Sentences and rows that several flows show.

Answers: "how is an image, a disk, an error shown on a page?" Pure.
"""

from datetime import datetime
from typing import Final

from stillframe.errors import StillframeError
from stillframe.rescue.choosing import Judged, contents_words, disk_words, sentence
from stillframe.rescue.pages.pages import Choose, Option, Step, Tell
from stillframe.rescue.verbs.calls import Ended
from stillframe.rescue.verbs.records import ImageSeen, RestoreSaid
from stillframe.rescue.world import World
from stillframe.units import format_duration, format_rate, format_size

_RUNGS: Final = {
    "rehearsed": "proven: the medium brought it back in a trial",
    "booted": "proven: it started in a trial",
    "sampled": "good: files were compared",
    "checked": "good: checked",
    "read-back": "good: read back whole",
    "quick": "its structure was checked",
    "unproven": "not proven",
}
_BAD: Final = {"damaged": "DAMAGED", "torn": "copied while in use: may be unusable"}


def when(text: str) -> str:
    """A stored time as the clock on this wall shows it."""
    try:
        return datetime.fromisoformat(text.removesuffix("Z") + "+00:00").astimezone().strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError):
        return text


def proof_words(image: ImageSeen) -> str:
    """How far an image is proven, and whether there is a picture of its start."""
    words = _BAD.get(image.proof) or _RUNGS.get(image.rung, image.rung or "not proven")
    if image.boots is False:
        words = "DID NOT START in a trial"
    return f"{words}{', screenshot kept' if image.has_screenshot else ''}"


def image_option(image: ImageSeen) -> Option:
    """An image in a list."""
    name = f" '{image.name}'" if image.name else ""
    return Option(
        key=image.id,
        words=f"{when(image.created)}{name}, {format_size(image.bytes_used)}",
        detail=f"{proof_words(image)}; {image.id[:8]}",
    )


def disk_option(judged: Judged) -> Option:
    """A disk in a list."""
    return Option(
        key=judged.disk.path, words=disk_words(judged.disk), detail=contents_words(judged.disk), refusal=judged.refusal
    )


def told(error: StillframeError, *, title: str = "That did not work") -> Tell:
    """An error on a page of its own."""
    return Tell(title=title, lines=sentence(error), next_words="go back and choose something else")


def restored_lines(ended: Ended[RestoreSaid]) -> tuple[str, ...]:
    """What a restore or a clone did."""
    said = ended.result
    rate = format_rate(said.bytes_written, said.seconds)
    lines = [f"{format_size(said.bytes_written)} written to {said.target} in {format_duration(said.seconds)} ({rate})."]
    if said.may_not_start:
        lines.append("It could not be made ready to start. Look at the notes below.")
    lines += [f"LOST: {format_size(one.bytes)} of partition {one.partition}: zeros are there now." for one in said.lost]
    lines += [f"Changed: {change}" for change in said.changes]
    lines += [f"Note: {notice.message}. {notice.hint}".rstrip() for notice in (*ended.findings, *ended.notices)]
    return tuple(lines)


def verdict(world: World, title: str, lines: tuple[str, ...], *, skipped: bool) -> Step:
    """The last page of a job; brings ``restart``, ``switch-off``, ``leave`` or ``menu``."""
    ways = [Option(key="menu", words="Back to the menu")]
    if world.is_installed:
        ways.append(Option(key="leave", words="Leave"))
    else:
        lines = (*lines, "", "Take the rescue medium out when the computer restarts.")
        ways = [
            Option(key="restart", words="Restart this computer"),
            Option(key="switch-off", words="Switch it off"),
            *ways,
        ]
    words = f"{title}, but not all of it: read this" if skipped else title
    return (yield Choose(title=words, is_final=True, lines=lines, options=tuple(ways)))
