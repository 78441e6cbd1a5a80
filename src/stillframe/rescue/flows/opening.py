"""Open what is closed, to look for backups inside: LVM, RAID, an encrypted volume with its passphrase.

Answers: "what is asked until it is open?" What lies in it alone is opened too, layer by layer. It is opened read-only.
"""

from collections.abc import Iterable
from typing import Final

from stillframe.errors import StillframeError, WrongKey
from stillframe.host.stacked_places import ClosedVolume
from stillframe.rescue.flows.words import told
from stillframe.rescue.pages.pages import Ask, Option, Outcome, Step, Tell, Work
from stillframe.rescue.places.found import Found
from stillframe.rescue.places.stacks import locked_detail, locked_words
from stillframe.rescue.world import World

_KEY: Final = "closed:"
TRIES: Final = 3
_WRONG: Final = (
    "That does not open it. Capital and small letters differ.",
    "Is the keyboard the usual one? Try once more.",
)
_NOT: Final = (
    "What was typed did not open it, three times. Nothing is lost by that.",
    "It is the passphrase of the disk that is asked for, not that of the backups on it.",
)
_BITLOCKER: Final = "Its password, or the recovery key: 48 digits in groups of six, with the hyphens."


def closed_options(closed: Iterable[ClosedVolume]) -> list[Option]:
    """What is closed, as choices."""
    return [
        Option(key=f"{_KEY}{one.id}", words=locked_words(one), detail=locked_detail(one), refusal=one.refusal)
        for one in closed
    ]


def chosen_closed(closed: Iterable[ClosedVolume], key: str) -> ClosedVolume | None:
    """The one that was chosen; ``None`` when something else was."""
    return next((one for one in closed if key == f"{_KEY}{one.id}"), None)


def open_closed(world: World, closed: ClosedVolume) -> Step:
    """Open it, and what lies in it alone; brings whether it is open."""
    found = yield from _open(world, closed)
    while found is not None and len(found.closed) == 1 and not found.volumes and not found.closed[0].refusal:
        inner = yield from _open(world, found.closed[0])
        if inner is None:
            return True
        found = inner
    return found is not None


def _open(world: World, closed: ClosedVolume) -> Step:
    """Open one layer; brings what is inside, ``None`` when it did not open."""
    outcome: Outcome = yield _page(world, closed, world.volume_secrets if closed.is_locked else ("",))
    if outcome.error is None and outcome.value is not None:
        return outcome.value
    if outcome.error is not None and not isinstance(outcome.error, WrongKey):
        yield told(outcome.error)
        return None
    lines: tuple[str, ...] = (locked_words(closed), "What you type is not shown. Nothing is changed.")
    lines += (_BITLOCKER,) if closed.kind == "bitlocker" else ()
    asked = 0
    while asked < TRIES:
        secret = yield Ask(title="Unlock the disk", lines=lines, question="Passphrase:", is_secret=True)
        if not secret:
            lines = ("Nothing was typed.", f"Type what opens {locked_words(closed)}, then press Enter.")
            continue
        outcome = yield _page(world, closed, (secret,))
        if outcome.error is None:
            return outcome.value
        if not isinstance(outcome.error, WrongKey):
            yield told(outcome.error)
            return None
        asked += 1
        lines = _WRONG
    yield Tell(title="It does not open", lines=_NOT, next_words="go back and choose something else")
    return None


def _page(world: World, closed: ClosedVolume, secrets: tuple[str, ...]) -> Work:
    """Tries each; its value is ``None`` where there was nothing to try."""

    def work(_doing: object) -> Found | None:
        refusal: StillframeError | None = None
        for secret in secrets:
            try:
                return world.places.open_closed(closed, secret)
            except WrongKey as error:
                refusal = error
        if refusal is not None:
            raise refusal
        return None

    return Work(title="Opening the disk", lines=(locked_words(closed), "Nothing is changed on it."), do=work)
